// What the dense and octave convolutions share.

#define SIDE 5  // inputs that are side by side in parts of a weight's gradient, see finish

#if SINGLE
typedef float2 pair;
#else
typedef double2 pair;
#endif

// Sums over the lanes of a warp of 2*HALF values each: afterwards, v[0] of lane k is the sum of all lanes' v[k].
template <int HALF, typename T>
__device__ inline void transposed_sums(T (&v)[32]) {
    bool upper = threadIdx.x & HALF;
#pragma unroll
    for (int k = 0; k < HALF; ++k) {
        T sent = upper ? v[k] : v[k + HALF], kept = upper ? v[k + HALF] : v[k];
        v[k] = kept + __shfl_xor_sync(0xffffffffu, sent, HALF);
    }
    if constexpr (HALF > 1) transposed_sums<HALF / 2>(v);
}

// Where pixel `to` of an upsampled axis lies between those of an axis of `size` pixels: first, its neighbour, and the
// neighbour's share. Without a share, the neighbour is the first one: zero times NaN would be NaN.
struct Between {
    int first, second;
    real share;
};
__device__ inline Between between(int to, int factor, int size) {
    real at = (to + real(0.5)) / factor - real(0.5);
    at = at < 0 ? real(0) : at > size - 1 ? real(size - 1) : at;
    int first = int(at);
    real share = at - first;
    return {first, share > 0 ? first + 1 : first, share};
}

// The share of a coarse pixel `at`, of an axis of `size`, in a fine pixel: number `step` of those 2*factor about it.
__device__ inline real returned(int step, int factor, int at, int size) {
    if (step < factor ? at == 0 : at == size - 1) return 1;  // beyond the border, there is no other
    return ((step < factor ? step : 2 * factor - 1 - step) + real(0.5)) / factor;
}

// Whether a comes before b among the values that max-pooling chooses from: NaN wins.
__device__ inline bool larger(real a, real b) { return a > b || (isnan(a) && !isnan(b)); }
