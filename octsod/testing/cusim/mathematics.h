// CUDA's mathematical functions, from the compiler's own. Results may differ from a GPU's in the last places, and
// subnormal numbers stay as they are: nothing here flushes them to zero.
#pragma once

#define CUSIM_F1(NAME)                                                       \
  extern "C" double NAME(double);                                            \
  extern "C" float NAME##f(float);                                           \
  CUSIM_INLINE float NAME(float x) { return __builtin_##NAME##f(x); }
#define CUSIM_F2(NAME)                                                                     \
  extern "C" double NAME(double, double);                                                  \
  extern "C" float NAME##f(float, float);                                                  \
  CUSIM_INLINE float NAME(float x, float y) { return __builtin_##NAME##f(x, y); }
CUSIM_F1(sin) CUSIM_F1(cos) CUSIM_F1(tan) CUSIM_F1(asin) CUSIM_F1(acos) CUSIM_F1(atan) CUSIM_F1(sinh) CUSIM_F1(cosh)
CUSIM_F1(tanh) CUSIM_F1(asinh) CUSIM_F1(acosh) CUSIM_F1(atanh) CUSIM_F1(exp) CUSIM_F1(exp2) CUSIM_F1(expm1)
CUSIM_F1(log) CUSIM_F1(log2) CUSIM_F1(log10) CUSIM_F1(log1p) CUSIM_F1(sqrt) CUSIM_F1(cbrt) CUSIM_F1(fabs)
CUSIM_F1(floor) CUSIM_F1(ceil) CUSIM_F1(trunc) CUSIM_F1(round) CUSIM_F1(rint) CUSIM_F1(nearbyint) CUSIM_F1(erf)
CUSIM_F1(erfc) CUSIM_F1(lgamma) CUSIM_F1(tgamma)
CUSIM_F2(pow) CUSIM_F2(fmod) CUSIM_F2(fmin) CUSIM_F2(fmax) CUSIM_F2(atan2) CUSIM_F2(hypot) CUSIM_F2(copysign)
CUSIM_F2(fdim) CUSIM_F2(remainder)
extern "C" double fma(double, double, double);
extern "C" float fmaf(float, float, float);
CUSIM_INLINE float fma(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
CUSIM_INLINE float exp10f(float x) { return __builtin_exp10f(x); }
CUSIM_INLINE double exp10(double x) { return __builtin_exp10(x); }
CUSIM_INLINE float rsqrtf(float x) { return 1.f / __builtin_sqrtf(x); }
CUSIM_INLINE double rsqrt(double x) { return 1. / __builtin_sqrt(x); }
CUSIM_INLINE float rsqrt(float x) { return rsqrtf(x); }
extern "C" void sincosf(float, float*, float*);
extern "C" void sincos(double, double*, double*);
CUSIM_INLINE void __sincosf(float x, float* s, float* c) { sincosf(x, s, c); }
CUSIM_INLINE float ldexpf(float x, int e) { return __builtin_ldexpf(x, e); }
CUSIM_INLINE double ldexp(double x, int e) { return __builtin_ldexp(x, e); }

#define isnan(x) __builtin_isnan(x)
#define isinf(x) (__builtin_isinf(x) != 0)
#define isfinite(x) __builtin_isfinite(x)
#define signbit(x) (__builtin_signbit(x) != 0)
#define INFINITY __builtin_inff()
#define NAN __builtin_nanf("")

// With numbers of both signs or sizes, CUDA, too, takes the type of their sum.
namespace cusim {
template <class T> struct IsFloat { static constexpr bool value = false; };
template <> struct IsFloat<float> { static constexpr bool value = true; };
template <> struct IsFloat<double> { static constexpr bool value = true; };
}  // namespace cusim
template <class A, class B> CUSIM_INLINE auto min(A a, B b) -> decltype(a + b) {
  if constexpr (cusim::IsFloat<decltype(a + b)>::value) return fmin((decltype(a + b))a, (decltype(a + b))b);
  else return (decltype(a + b))b < (decltype(a + b))a ? b : a;
}
template <class A, class B> CUSIM_INLINE auto max(A a, B b) -> decltype(a + b) {
  if constexpr (cusim::IsFloat<decltype(a + b)>::value) return fmax((decltype(a + b))a, (decltype(a + b))b);
  else return (decltype(a + b))a < (decltype(a + b))b ? b : a;
}
extern "C" int abs(int);
CUSIM_INLINE long long abs(long long x) { return x < 0 ? -x : x; }
CUSIM_INLINE float abs(float x) { return __builtin_fabsf(x); }
CUSIM_INLINE double abs(double x) { return __builtin_fabs(x); }

// Fast and rounded variants: all are as exact as the plain ones here.
CUSIM_INLINE float __expf(float x) { return __builtin_expf(x); }
CUSIM_INLINE float __exp10f(float x) { return __builtin_exp10f(x); }
CUSIM_INLINE float __logf(float x) { return __builtin_logf(x); }
CUSIM_INLINE float __log2f(float x) { return __builtin_log2f(x); }
CUSIM_INLINE float __log10f(float x) { return __builtin_log10f(x); }
CUSIM_INLINE float __powf(float x, float y) { return __builtin_powf(x, y); }
CUSIM_INLINE float __sinf(float x) { return __builtin_sinf(x); }
CUSIM_INLINE float __cosf(float x) { return __builtin_cosf(x); }
CUSIM_INLINE float __tanf(float x) { return __builtin_tanf(x); }
CUSIM_INLINE float __saturatef(float x) { return x > 0.f ? (x < 1.f ? x : 1.f) : 0.f; }
CUSIM_INLINE float __fdividef(float x, float y) { return x / y; }
CUSIM_INLINE float __frcp_rn(float x) { return 1.f / x; }
CUSIM_INLINE float __fsqrt_rn(float x) { return __builtin_sqrtf(x); }
CUSIM_INLINE float __frsqrt_rn(float x) { return 1.f / __builtin_sqrtf(x); }
CUSIM_INLINE float __fadd_rn(float x, float y) { return x + y; }
CUSIM_INLINE float __fsub_rn(float x, float y) { return x - y; }
CUSIM_INLINE float __fmul_rn(float x, float y) { return x * y; }
CUSIM_INLINE float __fdiv_rn(float x, float y) { return x / y; }
CUSIM_INLINE float __fmaf_rn(float x, float y, float z) { return __builtin_fmaf(x, y, z); }
CUSIM_INLINE double __dadd_rn(double x, double y) { return x + y; }
CUSIM_INLINE double __dsub_rn(double x, double y) { return x - y; }
CUSIM_INLINE double __dmul_rn(double x, double y) { return x * y; }
CUSIM_INLINE double __ddiv_rn(double x, double y) { return x / y; }
CUSIM_INLINE double __dsqrt_rn(double x) { return __builtin_sqrt(x); }
CUSIM_INLINE double __drcp_rn(double x) { return 1. / x; }
CUSIM_INLINE double __fma_rn(double x, double y, double z) { return __builtin_fma(x, y, z); }

// Bits.
namespace cusim {
template <class TO, class FROM> CUSIM_INLINE TO bits(FROM from) {
  static_assert(sizeof(TO) == sizeof(FROM));
  TO to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace cusim
CUSIM_INLINE int __float_as_int(float x) { return cusim::bits<int>(x); }
CUSIM_INLINE unsigned __float_as_uint(float x) { return cusim::bits<unsigned>(x); }
CUSIM_INLINE float __int_as_float(int x) { return cusim::bits<float>(x); }
CUSIM_INLINE float __uint_as_float(unsigned x) { return cusim::bits<float>(x); }
CUSIM_INLINE long long __double_as_longlong(double x) { return cusim::bits<long long>(x); }
CUSIM_INLINE double __longlong_as_double(long long x) { return cusim::bits<double>(x); }
CUSIM_INLINE int __popc(unsigned x) { return __builtin_popcount(x); }
CUSIM_INLINE int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
CUSIM_INLINE int __clz(int x) { return x ? __builtin_clz(x) : 32; }
CUSIM_INLINE int __clzll(long long x) { return x ? __builtin_clzll(x) : 64; }
CUSIM_INLINE int __ffs(int x) { return __builtin_ffs(x); }
CUSIM_INLINE int __ffsll(long long x) { return __builtin_ffsll(x); }
CUSIM_INLINE unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
CUSIM_INLINE int __mulhi(int x, int y) { return (int)((long long)x * y >> 32); }
CUSIM_INLINE unsigned __umulhi(unsigned x, unsigned y) { return (unsigned)((unsigned long long)x * y >> 32); }
CUSIM_INLINE int __mul24(int x, int y) { return (x << 8 >> 8) * (y << 8 >> 8); }

// Conversions with a direction of rounding. As PTX has it, numbers that an integer type does not hold become the nearest
// one that it does; a plain cast of such a number has no defined result.
namespace cusim {
template <class T, class F> CUSIM_INLINE T clamped(F x) {
  constexpr bool has_sign = T(-1) < T(0);
  constexpr F half = F(1ull << (8 * sizeof(T) - 1)), end = has_sign ? half : 2 * half, start = has_sign ? -half : F(0);
  constexpr T least = has_sign ? T(1ull << (8 * sizeof(T) - 1)) : T(0);
  return x >= end ? T(~least) : x <= start ? least : T(x);
}
}  // namespace cusim
CUSIM_INLINE int __float2int_rn(float x) { return cusim::clamped<int>(__builtin_rintf(x)); }
CUSIM_INLINE int __float2int_rz(float x) { return cusim::clamped<int>(x); }
CUSIM_INLINE int __float2int_rd(float x) { return cusim::clamped<int>(__builtin_floorf(x)); }
CUSIM_INLINE int __float2int_ru(float x) { return cusim::clamped<int>(__builtin_ceilf(x)); }
CUSIM_INLINE unsigned __float2uint_rn(float x) { return cusim::clamped<unsigned>(__builtin_rintf(x)); }
CUSIM_INLINE unsigned __float2uint_rz(float x) { return cusim::clamped<unsigned>(x); }
CUSIM_INLINE int __double2int_rn(double x) { return cusim::clamped<int>(__builtin_rint(x)); }
CUSIM_INLINE int __double2int_rz(double x) { return cusim::clamped<int>(x); }
CUSIM_INLINE long long __double2ll_rz(double x) { return cusim::clamped<long long>(x); }
CUSIM_INLINE unsigned long long __double2ull_rz(double x) { return cusim::clamped<unsigned long long>(x); }
CUSIM_INLINE float __int2float_rn(int x) { return (float)x; }
CUSIM_INLINE float __uint2float_rn(unsigned x) { return (float)x; }
CUSIM_INLINE float __double2float_rn(double x) { return (float)x; }
