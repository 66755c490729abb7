// How the runtime and Python see a module's kernels: a table of names, parameters and how to call them.
#pragma once

namespace cusim {
struct Parameter {
  char kind;      // f: floating point, i: signed, u: unsigned, V: a structure; of a pointer, what it points to
  char pointer;   // whether it is one
  char constant;  // whether it points to constants
  unsigned size;  // bytes of the parameter, or of what it points to
  unsigned element;  // bytes of a number in it: of a float4, four
};
struct Kernel {
  const char* name;
  void (*call)(void (*function)(), void** arguments);
  void (*function)();
  const Parameter* parameters;
  int count;
  int bound;  // threads of a block at most, by __launch_bounds__; 0 if it does not say
};
}  // namespace cusim

#ifdef CUSIM  // not for the runtime, which only reads the table
namespace cusim {
template <class T, bool STRUCTURE = __is_class(T) || __is_union(T)> struct Number {
  static constexpr char kind = T(-1) < T(0) ? 'i' : 'u';
  static constexpr unsigned element = sizeof(T);
};
template <class T> struct Number<T, true> { static constexpr char kind = 'V'; static constexpr unsigned element = 1; };
template <> struct Number<void> { static constexpr char kind = 'V'; static constexpr unsigned element = 1; };
template <> struct Number<float> { static constexpr char kind = 'f'; static constexpr unsigned element = 4; };
template <> struct Number<double> { static constexpr char kind = 'f'; static constexpr unsigned element = 8; };
template <class T> struct Number<T*, false> {
  static constexpr char kind = 'u';
  static constexpr unsigned element = 8;
};
#define CUSIM_NUMBERS(T, N)                                \
  template <> struct Number<N##2> : Number<T> {};          \
  template <> struct Number<N##3> : Number<T> {};          \
  template <> struct Number<N##4> : Number<T> {};
CUSIM_EACH_VECTOR(CUSIM_NUMBERS) CUSIM_NUMBERS(unsigned, uint)

template <class T> struct Size { static constexpr unsigned value = sizeof(T); };
template <> struct Size<void> { static constexpr unsigned value = 1; };
template <class T> struct Describe {
  static constexpr Parameter parameter = {Number<T>::kind, 0, 0, sizeof(T), Number<T>::element};
};
template <class T> struct Describe<T*> {
  static constexpr Parameter parameter = {Number<T>::kind, 1, 0, Size<T>::value, Number<T>::element};
};
template <class T> struct Describe<const T*> {
  static constexpr Parameter parameter = {Number<T>::kind, 1, 1, Size<T>::value, Number<T>::element};
};
template <class T> struct Describe<T* __restrict__> : Describe<T*> {};
template <class T> struct Describe<const T* __restrict__> : Describe<const T*> {};
template <class T> struct Describe<volatile T*> : Describe<T*> {};
template <class T> struct Describe<const volatile T*> : Describe<const T*> {};

template <class T> struct Stored { typedef T type; };
template <class T> struct Stored<const T> { typedef T type; };
template <int... I> struct Indices {};
template <class... A> struct Signature {
  static constexpr Parameter parameters[] = {Describe<typename Stored<A>::type>::parameter..., Parameter()};
  template <int... I>
  static __attribute__((always_inline, no_sanitize("thread")))
  void unpack(void (*function)(), void** a, Indices<I...>) {
    ((void (*)(A...))function)(*(typename Stored<A>::type*)a[I]...);
  }
  static CUSIM_UNWATCHED void call(void (*function)(), void** a) {
    unpack(function, a, Indices<__integer_pack(sizeof...(A))...>());
  }
};
template <class... A> Kernel kernel(const char* name, void (*function)(A...), int bound) {
  return {name, Signature<A...>::call, (void (*)())function, Signature<A...>::parameters, (int)sizeof...(A), bound};
}
}  // namespace cusim
#endif
