// Arithmetic, element by element; a thread per element. `out` may be one of the inputs.

#define BINARY(NAME, RESULT)                                                                            \
    extern "C" __global__ void NAME(int64 count, const real* a, const real* b, real* out) {             \
        for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {                                   \
            real x = a[i], y = b[i];                                                                    \
            out[i] = RESULT;                                                                            \
        }                                                                                               \
    }

#define UNARY(NAME, RESULT)                                                                             \
    extern "C" __global__ void NAME(int64 count, const real* a, real* out) {                            \
        for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {                                   \
            real x = a[i];                                                                              \
            out[i] = RESULT;                                                                            \
        }                                                                                               \
    }

BINARY(add, x + y)
BINARY(subtract, x - y)
BINARY(multiply, x * y)
BINARY(divide, x / y)
BINARY(relu_backward, y <= 0 ? real(0) : x)
BINARY(sigmoid_backward, x * logistic(y) * logistic(-y))

UNARY(exp_, exp(x))
UNARY(log_, log(fabs(x) < (SINGLE ? real(1.17549435e-38) : real(2.2250738585072014e-308)) ? real(0) : x))
UNARY(sqrt_, sqrt(x))
UNARY(relu, x <= 0 ? real(0) : x)
UNARY(sigmoid, logistic(x))

extern "C" __global__ void power(int64 count, const real* a, const real* exponent, real* out) {
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) out[i] = pow(a[i], *exponent);
}

// SplitMix64's bijection of 64 bits.
__device__ inline uint64 mixed(uint64 z) {
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ z >> 27) * 0x94D049BB133111EBull;
    return z ^ z >> 31;
}

extern "C" __global__ void dropout(int64 count, const real* x, uint64 key, uint64 limit, real kept, real* out) {
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        uint64 drawn = mixed(key + uint64(i + 1) * 0x9E3779B97F4A7C15ull) >> 11;
        out[i] = drawn < limit ? real(0) : x[i] / kept;
    }
}
