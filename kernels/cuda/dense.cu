// What the dense and octave convolutions share.

// A map that is read, see Deferred: coefficients are the rows scale, shift, slope of C channels each, or null.
__device__ inline real activated(real raw, const real* coefficients, int channels, int c) {
    if (!coefficients) return raw;
    return prelu(raw * coefficients[c] + coefficients[channels + c], coefficients[2 * channels + c]);
}

// The gradient of a raw map, see DeferredGradient: six rows of coefficients, or null.
__device__ inline real differentiated(real g, real raw, const real* coefficients, int channels, int c) {
    const real* k = coefficients + c;
    bool positive = raw * k[0] + k[channels] > 0;
    return k[3 * channels] * (positive ? g : k[2 * channels] * g) + k[4 * channels] * raw + k[5 * channels];
}

// Adds to three sums what an element of an activation's gradient adds to its gradient sums: raw is the map's element,
// and coefficients are its four rows, or null.
template <typename T>
__device__ inline void add_gradient_sums(
    T& sum_e, T& sum_about, T& sum_negative, real g, real raw, const real* coefficients, int channels, int c) {
    real scale = 1, shift = 0, slope = 1, mean = 0;
    if (coefficients) {
        scale = coefficients[c], shift = coefficients[channels + c];
        slope = coefficients[2 * channels + c], mean = coefficients[3 * channels + c];
    }
    real u = raw * scale + shift;
    real e = u > 0 ? g : slope * g;
    sum_e += e;
    sum_about += T(e) * (T(raw) - T(mean));
    if (!(u > 0)) sum_negative += g * u;
}

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
