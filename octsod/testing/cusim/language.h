// The CUDA language for g++: what a kernel's source may use. It is compiled with the kernels, and with
// -fsanitize=thread in the modes that watch memory, so whatever touches memory here is watched, too.
//
// It includes nothing: NVRTC offers kernels no headers either, and a module compiles in a fraction of a second.
#pragma once

typedef __SIZE_TYPE__ size_t;
typedef __PTRDIFF_TYPE__ ptrdiff_t;

#define CUSIM_INLINE inline __attribute__((always_inline))
// Functions that g++ must not watch, since they do the runtime's work or are watched by name.
#define CUSIM_UNWATCHED __attribute__((noinline, noclone, no_sanitize("thread")))

#define __global__ __attribute__((noinline, noclone))
#define __device__
#define __host__
#define __constant__ static
#define __shared__ static __thread  // so that all of them lie in one block, in which assembly.py finds them
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))
#define printf __builtin_printf

// --- What the runtime offers; see scheduler.h. -----------------------------------------------------------------------
#pragma GCC visibility push(hidden)
extern "C" {
void cusim_fence();
void cusim_trap();
int cusim_barrier(int how, int predicate, int line);
void cusim_syncwarp(unsigned mask, int line);
unsigned cusim_vote(int kind, unsigned mask, int predicate, int line);
unsigned cusim_active();
unsigned long long cusim_shuffle(int kind, unsigned mask, unsigned long long bits, int by, int width, int line);
void cusim_atomic(void* address, unsigned long size, void* caller);
extern char cusim_dynamic[];
}

// --- Where a thread is. ----------------------------------------------------------------------------------------------
struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
  dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
};
// The runtime changes them when it switches threads. They are constant nonetheless, for whoever looks: a thread sees
// its own values only. So g++ may keep them in registers, and watches no access to them.
extern "C" const uint3 cusim_thread_index, cusim_block_index, cusim_block_size, cusim_grid_size;
#pragma GCC visibility pop
#define threadIdx cusim_thread_index
#define blockIdx cusim_block_index
#define blockDim cusim_block_size
#define gridDim cusim_grid_size
constexpr int warpSize = 32;

// --- Vector types. ---------------------------------------------------------------------------------------------------
namespace cusim {
template <int SIZE> struct Word;
template <> struct Word<2> { typedef unsigned short __attribute__((may_alias)) type; };
template <> struct Word<4> { typedef unsigned __attribute__((may_alias)) type; };
template <> struct Word<8> { typedef unsigned long long __attribute__((may_alias)) type; };
template <> struct Word<16> { typedef unsigned long long __attribute__((may_alias, vector_size(16))) type; };

// A vector travels in one access, as on a GPU. Left to itself, g++ would read only the components that are used.
template <int SIZE> CUSIM_INLINE void move(void* to, const void* from) {
  typename Word<SIZE>::type word = *(const typename Word<SIZE>::type*)from;
  if constexpr (SIZE == 16) asm("" : "+x"(word)); else asm("" : "+r"(word));
  *(typename Word<SIZE>::type*)to = word;
}
template <> CUSIM_INLINE void move<32>(void* to, const void* from) {
  move<16>(to, from);
  move<16>((char*)to + 16, (const char*)from + 16);
}
}  // namespace cusim

#define CUSIM_COPIES(V, SIZE)                                                      \
  V() = default;                                                                   \
  CUSIM_INLINE V(const V& v) { cusim::move<SIZE>(this, &v); }                      \
  CUSIM_INLINE V& operator=(const V& v) { cusim::move<SIZE>(this, &v); return *this; }
#define CUSIM_VECTORS(T, N)                                                                                         \
  struct __align__(2 * sizeof(T)) N##2 { T x, y;                                                                    \
    CUSIM_COPIES(N##2, 2 * sizeof(T)) CUSIM_INLINE N##2(T x, T y) : x(x), y(y) {} };                                \
  struct N##3 { T x, y, z; };                                                                                       \
  struct __align__(4 * sizeof(T) < 16 ? 4 * sizeof(T) : 16) N##4 { T x, y, z, w;                                    \
    CUSIM_COPIES(N##4, 4 * sizeof(T)) CUSIM_INLINE N##4(T x, T y, T z, T w) : x(x), y(y), z(z), w(w) {} };          \
  CUSIM_INLINE N##2 make_##N##2(T x, T y) { return N##2(x, y); }                                                    \
  CUSIM_INLINE N##3 make_##N##3(T x, T y, T z) { return {x, y, z}; }                                                \
  CUSIM_INLINE N##4 make_##N##4(T x, T y, T z, T w) { return N##4(x, y, z, w); }
#define CUSIM_EACH_VECTOR(DO)                                                                                  \
  DO(signed char, char) DO(unsigned char, uchar) DO(short, short) DO(unsigned short, ushort) DO(int, int)      \
  DO(long long, longlong) DO(unsigned long long, ulonglong) DO(float, float) DO(double, double)
CUSIM_EACH_VECTOR(CUSIM_VECTORS)
struct __align__(8) uint2 {  // uint3 is above
  unsigned x, y;
  CUSIM_COPIES(uint2, 8)
  CUSIM_INLINE uint2(unsigned x, unsigned y) : x(x), y(y) {}
};
struct __align__(16) uint4 {
  unsigned x, y, z, w;
  CUSIM_COPIES(uint4, 16)
  CUSIM_INLINE uint4(unsigned x, unsigned y, unsigned z, unsigned w) : x(x), y(y), z(z), w(w) {}
};
CUSIM_INLINE uint2 make_uint2(unsigned x, unsigned y) { return uint2(x, y); }
CUSIM_INLINE uint3 make_uint3(unsigned x, unsigned y, unsigned z) { return {x, y, z}; }
CUSIM_INLINE uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return uint4(x, y, z, w); }

// --- Barriers, shuffles and votes. The line tells them apart: g++ may copy a call, but not its line. -----------------
#define __syncthreads() (void)cusim_barrier(0, 0, __LINE__)
#define __syncthreads_count(p) cusim_barrier(1, (p) != 0, __LINE__)
#define __syncthreads_and(p) cusim_barrier(2, (p) != 0, __LINE__)
#define __syncthreads_or(p) cusim_barrier(3, (p) != 0, __LINE__)
#define __syncwarp(...) cusim_syncwarp(cusim::mask_of(__VA_ARGS__), __LINE__)
#define __activemask() cusim_active()
#define __ballot_sync(mask, p) cusim_vote(0, mask, (p) != 0, __LINE__)
#define __any_sync(mask, p) (cusim_vote(1, mask, (p) != 0, __LINE__) != 0)
#define __all_sync(mask, p) (cusim_vote(2, mask, (p) == 0, __LINE__) == 0)
#define __shfl_sync(...) cusim::shuffle(__LINE__, 0, __VA_ARGS__)
#define __shfl_up_sync(...) cusim::shuffle(__LINE__, 1, __VA_ARGS__)
#define __shfl_down_sync(...) cusim::shuffle(__LINE__, 2, __VA_ARGS__)
#define __shfl_xor_sync(...) cusim::shuffle(__LINE__, 3, __VA_ARGS__)
#define __threadfence() cusim_fence()
#define __threadfence_block()
#define __threadfence_system() cusim_fence()
#define __trap() cusim_trap()
namespace cusim {
CUSIM_INLINE unsigned mask_of(unsigned mask = 0xffffffffu) { return mask; }
template <class T>
CUSIM_INLINE T shuffle(int line, int kind, unsigned mask, T value, int by, int width = 32) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8, "shuffles take values of 4 or 8 bytes");
  unsigned long long bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  bits = cusim_shuffle(kind, mask, bits, by, width, line);
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}
}  // namespace cusim

// --- Atomics. One block, and in it one thread, runs at a time, so that plain code is atomic. -------------------------
namespace cusim {
template <class T> struct Same { typedef T type; };
template <class T, class F> CUSIM_UNWATCHED T atomic(T* address, F change) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 2, "atomics take values of 2, 4 or 8 bytes");
  cusim_atomic(address, sizeof(T), __builtin_return_address(0));
  T old = *address;
  *address = change(old);
  return old;
}
}  // namespace cusim
#define CUSIM_ATOMIC(NAME, RESULT)                                                                                \
  template <class T> CUSIM_INLINE T NAME(T* address, typename cusim::Same<T>::type value) {                       \
    return cusim::atomic(address, [value](T old) -> T { return RESULT; }); }
CUSIM_ATOMIC(atomicAdd, old + value)
CUSIM_ATOMIC(atomicSub, old - value)
CUSIM_ATOMIC(atomicExch, value)
CUSIM_ATOMIC(atomicMin, old < value ? old : value)
CUSIM_ATOMIC(atomicMax, old > value ? old : value)
CUSIM_ATOMIC(atomicAnd, old & value)
CUSIM_ATOMIC(atomicOr, old | value)
CUSIM_ATOMIC(atomicXor, old ^ value)
CUSIM_ATOMIC(atomicInc, old >= value ? 0 : old + 1)
CUSIM_ATOMIC(atomicDec, old == 0 || old > value ? value : old - 1)
template <class T>
CUSIM_INLINE T atomicCAS(T* address, typename cusim::Same<T>::type expected, typename cusim::Same<T>::type value) {
  return cusim::atomic(address, [=](T old) -> T {
    return old == expected ? value : old; });
}

// --- Loads and stores with hints for caches, which change nothing here. ----------------------------------------------
#define CUSIM_LOAD(NAME) template <class T> CUSIM_INLINE T NAME(const T* p) { return *p; }
#define CUSIM_STORE(NAME) template <class T> CUSIM_INLINE void NAME(T* p, typename cusim::Same<T>::type v) { *p = v; }
CUSIM_LOAD(__ldg) CUSIM_LOAD(__ldcg) CUSIM_LOAD(__ldca) CUSIM_LOAD(__ldcs) CUSIM_LOAD(__ldlu) CUSIM_LOAD(__ldcv)
CUSIM_STORE(__stwb) CUSIM_STORE(__stcg) CUSIM_STORE(__stcs) CUSIM_STORE(__stwt)
