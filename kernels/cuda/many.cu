// What kernels share that take many arrays at once, or arrays of any dtype.

// Kernels over many arrays have parameters for each of up to 100, made by EACH(DO) from a macro of the array's number;
// row y of the grid treats array y, as a rule. See `by_many` in launch.py.
#define TEN(DO, D) DO(D##0) DO(D##1) DO(D##2) DO(D##3) DO(D##4) DO(D##5) DO(D##6) DO(D##7) DO(D##8) DO(D##9)
#define EACH(DO)                                                                                        \
    TEN(DO, ) TEN(DO, 1) TEN(DO, 2) TEN(DO, 3) TEN(DO, 4) TEN(DO, 5) TEN(DO, 6) TEN(DO, 7) TEN(DO, 8) TEN(DO, 9)

// Element types of arrays of which that is only known at run time; launch.py's TYPES has the same order.
enum Type { FLOAT32, FLOAT64, INT64, INT32, INT16, INT8, UINT64, UINT32, UINT16, UINT8, BOOL };

// An element of such an array, as a floating-point number or as an integer of 64 bits, whichever it was.
struct Number {
    double real;
    int64 whole;
    int type;

    template <typename T>
    __device__ T floating() const {
        return type <= FLOAT64 ? T(real) : type == UINT64 ? T(uint64(whole)) : T(whole);
    }

    // What does not fit wraps around.
    template <typename T>
    __device__ T integer() const {
        bool large = real >= 9223372036854775808.0;  // no int64: what a plain cast makes of it is not defined
        return T(type > FLOAT64 ? whole : large ? int64(__double2ull_rz(real)) : __double2ll_rz(real));
    }
};

__device__ inline Number load(const void* x, int64 i, int type) {
    Number n = {0, 0, type};
    switch (type) {
        case FLOAT32: n.real = ((const float*)x)[i]; break;
        case FLOAT64: n.real = ((const double*)x)[i]; break;
        case INT64: case UINT64: n.whole = ((const int64*)x)[i]; break;
        case INT32: n.whole = ((const int*)x)[i]; break;
        case INT16: n.whole = ((const short*)x)[i]; break;
        case INT8: n.whole = ((const signed char*)x)[i]; break;
        case UINT32: n.whole = ((const unsigned*)x)[i]; break;
        case UINT16: n.whole = ((const unsigned short*)x)[i]; break;
        default: n.whole = ((const unsigned char*)x)[i];
    }
    return n;
}

__device__ inline void store(void* x, int64 i, int type, Number n) {
    switch (type) {
        case FLOAT32: ((float*)x)[i] = n.floating<float>(); break;
        case FLOAT64: ((double*)x)[i] = n.floating<double>(); break;
        case INT64: ((int64*)x)[i] = n.integer<int64>(); break;
        case INT32: ((int*)x)[i] = n.integer<int>(); break;
        case INT16: ((short*)x)[i] = n.integer<short>(); break;
        case INT8: ((signed char*)x)[i] = n.integer<signed char>(); break;
        case UINT64: ((uint64*)x)[i] = n.integer<uint64>(); break;
        case UINT32: ((unsigned*)x)[i] = n.integer<unsigned>(); break;
        case UINT16: ((unsigned short*)x)[i] = n.integer<unsigned short>(); break;
        case UINT8: ((unsigned char*)x)[i] = n.integer<unsigned char>(); break;
        default: ((unsigned char*)x)[i] = n.real != 0 || n.whole != 0;
    }
}
