// What all kernels share. Comes before the text of each .cu file; REAL is float or double.

typedef REAL real;
typedef long long int64;
typedef unsigned long long uint64;

#define INFINITE (1.0 / 0.0)

// The number of a thread among all of the launch, and how many there are: loops over elements go from one to the next
// by the latter.
#define FIRST_ELEMENT (int64(blockIdx.x) * blockDim.x + threadIdx.x)
#define NEXT_ELEMENT (int64(gridDim.x) * blockDim.x)

__device__ inline int64 quotient(int64 a, int64 b) {  // of numbers from zero on; divisions of 64 bits are slow
    return (a | b) >> 32 ? a / b : int64(unsigned(a) / unsigned(b));
}

// prelu(u, slope): NaN passes.
__device__ inline real prelu(real u, real slope) { return u > 0 ? u : slope * u; }

// 1 / (1 + exp(-x)): takes the exponential of negative numbers only, so it never overflows.
__device__ inline real logistic(real x) {
    real e = exp(-fabs(x));
    return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}

// The sum of a value over the threads of a warp, in all of them; all 32 take part.
template <typename T>
__device__ inline T warp_sum(T value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance >>= 1) value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

// The sum of a value over the threads of a block, in thread 0, always in the same order. Blocks are of whole warps, at
// most 32; `partial` is shared memory for as many values as there are warps. All threads take part; it may be called
// again with the same memory after a barrier.
template <typename T>
__device__ inline T block_sum(T value, T* partial) {
    int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
    int warps = (blockDim.x * blockDim.y * blockDim.z) / 32;
    value = warp_sum(value);
    if (thread % 32 == 0) partial[thread / 32] = value;
    __syncthreads();
    T total = 0;
    if (thread < 32) total = warp_sum(thread < warps ? partial[thread] : T(0));
    return total;
}
