"""What a kernel's source may use: CUDA's language as the simulator has it, in all modes, against NumPy."""

import numpy as np
import pytest

SOURCE = r"""
namespace ours {
template <class T> struct Accumulator { T sum; int count; };
template <class T> __device__ __forceinline__ T square(T x) { return x * x; }
template <int N, class T> __device__ T across(T x) {  // through shared memory of its own
  __shared__ T s[N];
  s[threadIdx.x] = x;
  __syncthreads();
  return s[N - 1 - threadIdx.x];
}
}  // namespace ours

#define BOTH(T, SUFFIX)                                                                                     \
  extern "C" __global__ void __launch_bounds__(16 * 2) squares_##SUFFIX(T* y, const T* __restrict__ x) {    \
    y[threadIdx.x] = ours::square(ours::across<32>(__ldg(x + threadIdx.x)));                                \
  }
BOTH(float, f32)
BOTH(double, f64)

template <class T, int N> __global__ void scale(T* x, T by) { x[threadIdx.x] *= by * N; }

__constant__ float weights[4] = {1, 2, 3, 4};
__device__ int calls = 10;
struct Shape { int rows, columns; float scale; };

extern "C" {
__global__ void places(int* y, Shape shape) {
  const int x = blockIdx.x * blockDim.x + threadIdx.x, r = blockIdx.y * blockDim.y + threadIdx.y;
  const dim3 size = blockDim;
  if (x < shape.columns && r < shape.rows)
    y[r * shape.columns + x] = gridDim.y * 100 + size.y * 10 + warpSize + threadIdx.z;
}

__global__ void constants(float* y, int n) { y[threadIdx.x] = weights[threadIdx.x % n]; }
__global__ void counts(int* y) { y[0] = calls; calls += 1; }

__global__ void vectors(float2* y, const float4* x, int2* z, const uchar4* bytes) {
  const float4 v = x[threadIdx.x];
  float2 sum = make_float2(v.x + v.y, v.z);
  sum.y += v.w;
  y[threadIdx.x] = sum;
  union { float4 v; float f[4]; } both;
  both.v = v;
  uchar4 b = bytes[threadIdx.x];
  z[threadIdx.x] = make_int2((int)both.f[3], b.x + b.y + b.z + b.w);
}

__global__ void dynamic(float* y, int n) {
  extern __shared__ __align__(16) unsigned char raw[];
  float* first = (float*)raw;
  double* second = (double*)(raw + 256);
  first[threadIdx.x] = threadIdx.x;
  second[threadIdx.x] = n;
  __syncthreads();
  y[threadIdx.x] = first[31 - threadIdx.x] + second[0];
}

__global__ void shuffles(int* y) {
  const int lane = threadIdx.x;
  y[lane] = __shfl_down_sync(0xffffffffu, lane, 4);
  y[32 + lane] = __shfl_up_sync(0xffffffffu, lane, 4, 8);
  y[64 + lane] = __shfl_xor_sync(0xffffffffu, lane, 3);
  y[96 + lane] = __shfl_sync(0xffffffffu, lane, 9, 16);
  y[128 + lane] = (int)__shfl_down_sync(0xffffffffu, 1e10 * lane, 1) == 0;
  y[160 + lane] = lane < 16 ? __shfl_sync(0x0000ffffu, lane, 5) : __shfl_sync(0xffff0000u, lane, 20);
}

__global__ void votes(unsigned* y) {
  const int lane = threadIdx.x;
  y[0] = __ballot_sync(0xffffffffu, lane & 1);
  __syncwarp();
  y[1] = __any_sync(0xffffffffu, lane == 7) + 2 * __all_sync(0xffffffffu, lane < 31) + 4 * __all_sync(0xffffffffu, 1);
  __syncwarp();
  y[2] = __activemask();
  __syncwarp();
  y[3] = __popc(y[0]);
}

__global__ void counted(int* y) {
  const int n = __syncthreads_count(threadIdx.x % 3 == 0);
  const int all = __syncthreads_and(threadIdx.x < 64), any = __syncthreads_or(threadIdx.x == 63);
  const int none = __syncthreads_or(threadIdx.x == 64);
  y[threadIdx.x] = n * 1000 + all * 100 + any * 10 + none;
}

__global__ void atomics(int* y, unsigned* u, float* f, unsigned long long* big) {
  atomicAdd(y, 1);
  atomicSub(y + 1, 2);
  atomicMax(y + 2, (int)threadIdx.x);
  atomicMin(y + 3, -(int)threadIdx.x);
  atomicOr(y + 4, 1 << threadIdx.x % 4);
  atomicAnd(y + 5, ~(1 << threadIdx.x % 4));
  atomicXor(y + 6, 1);
  atomicInc(u, 9);
  atomicDec(u + 1, 9);
  atomicAdd(f, 0.5f);
  atomicAdd(big, 1ull << 33);
  if (atomicCAS(y + 7, 0, 5) == 0) atomicExch(y + 8, 77);
}

__global__ void mathematics(float* y, double* d, const float* x) {
  const float v = x[threadIdx.x];
  float s, c;
  sincosf(v, &s, &c);
  float* out = y + threadIdx.x * 16;
  out[0] = expf(v), out[1] = __expf(-v), out[2] = rsqrtf(v), out[3] = fmaf(v, v, 1.f);
  out[4] = fminf(v, 1.f) + fmaxf(v, 1.f), out[5] = max(v, 2.f) - min(v, 2), out[6] = s + c, out[7] = exp(v);
  out[8] = __int_as_float(__float_as_int(v) + 1), out[9] = tanhf(v) + powf(v, 2.f), out[10] = fabsf(-v);
  out[11] = isnan(v - INFINITY + INFINITY) ? 1 : 0, out[12] = __float2int_rn(v), out[13] = floor(v) + ceilf(v);
  out[14] = min(3u, 5u) + max(-1, 2), out[15] = __fdividef(1.f, v) + __frcp_rn(v);
  d[threadIdx.x] = exp((double)v) + fma(2.0, 3.0, (double)v) + rsqrt(4.0) + sqrt(16.0);
}

__global__ void conversions(int* y, unsigned* u, long long* l, unsigned long long* ul, const double* x) {
  const int i = threadIdx.x;
  const float v = x[i];
  y[5 * i] = __double2int_rz(x[i]), y[5 * i + 1] = __double2int_rn(x[i]), y[5 * i + 2] = __float2int_rz(v);
  y[5 * i + 3] = __float2int_rd(v), y[5 * i + 4] = __float2int_ru(v);
  u[2 * i] = __float2uint_rz(v), u[2 * i + 1] = __float2uint_rn(v);
  l[i] = __double2ll_rz(x[i]), ul[i] = __double2ull_rz(x[i]);
}

__global__ void early(float* y, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= n) return;
  float v = i, w[5];
#pragma unroll
  for (int k = 0; k < 5; ++k) w[k] = v * k;
#ifndef CUSIM
  asm volatile("no such instruction");
#endif
  y[i] = w[n % 5];
}
}
"""
i32 = np.int32
NUMBERS = np.arange(32)


@pytest.fixture(params=["plain", "check", "count"])
def launch(request, cuda_module):
    module = cuda_module(SOURCE, mode=request.param, name_expressions=("scale<float, 3>", "scale<double, 2>"))

    def launch(name, grid, block, *arguments, shared_mem=0):
        module.get_function(name)(grid, block, arguments, shared_mem=shared_mem)
        return arguments[0]

    return launch


@pytest.mark.parametrize("name, dtype", [("squares_f32", np.float32), ("squares_f64", np.float64)])
def test_templates_macros_and_shared_arrays_of_functions(launch, name, dtype):
    x = NUMBERS.astype(dtype)
    np.testing.assert_array_equal(launch(name, (1,), (32,), np.zeros(32, dtype), x), x[::-1] ** 2)


def test_kernels_that_are_templates(launch):
    single, double = np.ones(8, np.float32), np.ones(8)
    assert (launch("scale<float, 3>", (1,), (8,), single, np.float32(2)) == 6).all()
    assert (launch("scale<double, 2>", (1,), (8,), double, np.float64(2)) == 4).all()


def test_indices_and_structures(launch):
    shape = np.array((5, 7, 0.5), [("rows", "i4"), ("columns", "i4"), ("scale", "f4")])[()]
    y = launch("places", (2, 3), (4, 2), np.zeros(35, np.int32), shape)
    assert (y == 300 + 20 + 32).all()


def test_constants_and_variables(launch):
    y = launch("constants", (1,), (8,), np.zeros(8, np.float32), i32(4))
    np.testing.assert_array_equal(y, [1, 2, 3, 4] * 2)
    first = launch("counts", (1,), (1,), np.zeros(1, np.int32))[0]
    assert launch("counts", (1,), (1,), np.zeros(1, np.int32))[0] == first + 1  # kept from launch to launch


def test_vectors(launch):
    x = np.arange(32, dtype=np.float32)
    z, bytes_ = np.zeros(16, np.int32), np.arange(32, dtype=np.uint8)
    y = launch("vectors", (1,), (8,), np.zeros(16, np.float32), x, z, bytes_)
    np.testing.assert_array_equal(y, x.reshape(-1, 2).sum(1))
    np.testing.assert_array_equal(z.reshape(8, 2), np.stack([x[3::4], bytes_.reshape(8, 4).sum(1)], 1))


def test_dynamic_shared_memory(launch):
    y = launch("dynamic", (1,), (32,), np.zeros(32, np.float32), i32(7), shared_mem=512)
    np.testing.assert_array_equal(y, NUMBERS[::-1] + 7)


def test_shuffles(launch):
    lane = NUMBERS
    y = launch("shuffles", (1,), (32,), np.zeros(192, np.int32)).reshape(6, 32)
    np.testing.assert_array_equal(y[0], np.where(lane < 28, lane + 4, lane))
    np.testing.assert_array_equal(y[1], np.where(lane % 8 < 4, lane, lane - 4))
    np.testing.assert_array_equal(y[2], lane ^ 3)
    np.testing.assert_array_equal(y[3], lane // 16 * 16 + 9)
    np.testing.assert_array_equal(y[5], np.where(lane < 16, 5, 20))


def test_votes(cuda_module):
    y = np.zeros(4, np.uint32)
    # Its lanes write the same values to the same places, which `check` refuses.
    module = cuda_module(SOURCE, mode="plain", name_expressions=("scale<float, 3>", "scale<double, 2>"))
    module.get_function("votes")((1,), (32,), (y,))
    assert list(y) == [0xAAAAAAAA, 1 + 4, 0xFFFFFFFF, 16]


def test_barriers_that_count(launch):
    assert (launch("counted", (1,), (64,), np.zeros(64, np.int32)) == 22 * 1000 + 100 + 10).all()


def test_atomics(launch):
    y, u, f, big = np.zeros(9, np.int32), np.zeros(2, np.uint32), np.zeros(1, np.float32), np.zeros(1, np.uint64)
    y[5] = 31
    launch("atomics", (1,), (32,), y, u, f, big)
    assert list(y) == [32, -64, 31, -31, 15, 16, 0, 5, 77] and list(u) == [2, 8] and f[0] == 16 and big[0] == 1 << 38


def test_mathematics(launch):
    x = np.array([0.25, 1.5, 2.5, 7.75], np.float32)
    d = np.zeros(4)
    y = launch("mathematics", (1,), (4,), np.zeros(64, np.float32), d, x).reshape(4, 16).T
    expected = [
        np.exp(x), np.exp(-x), x**-0.5, x * x + 1, x + 1, np.abs(x - 2), np.sin(x) + np.cos(x), np.exp(x),
        np.nextafter(x, np.float32(9)), np.tanh(x) + x**2, x, x * 0 + 1, np.rint(x), np.floor(x) + np.ceil(x),
        x * 0 + 5, 2 / x,
    ]  # fmt: skip
    np.testing.assert_allclose(y, np.stack(expected), rtol=1e-6)
    np.testing.assert_allclose(d, np.exp(x.astype(float)) + 6 + x + 0.5 + 4, rtol=1e-15)


def test_conversions_to_integers(launch):
    """What does not fit becomes the nearest number that does."""
    x = np.array([2.75, -2.75, -0.75, 2.0**31, -(2.0**31), 2.0**32, 2.0**63, -(2.0**63), 2.0**64, 1e30, -1e30])
    u, wide, wide_u = np.zeros((11, 2), np.uint32), np.zeros(11, np.int64), np.zeros(11, np.uint64)
    y = launch("conversions", (1,), (11,), np.zeros((11, 5), np.int32), u, wide, wide_u, x)

    def expected(values, dtype):
        limits = np.iinfo(dtype)
        return [min(max(int(value), limits.min), limits.max) for value in values]

    for column, rounded in enumerate((np.trunc, np.rint, np.trunc, np.floor, np.ceil)):
        assert y[:, column].tolist() == expected(rounded(x), np.int32)
    assert u.T.tolist() == [expected(rounded(x), np.uint32) for rounded in (np.trunc, np.rint)]
    assert wide.tolist() == expected(x, np.int64) and wide_u.tolist() == expected(x, np.uint64)


def test_threads_that_end_early(launch):
    np.testing.assert_array_equal(launch("early", (3,), (16,), np.zeros(41, np.float32), i32(41)), np.arange(41))
