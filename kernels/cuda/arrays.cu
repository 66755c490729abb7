// Arrays as a whole: filled, converted, cut, turned, put together. Types and widths of elements are parameters: nothing
// here depends on `real`.

__device__ inline void move(const void* x, int64 from, void* out, int64 to, int width) {
    switch (width) {
        case 1: ((unsigned char*)out)[to] = ((const unsigned char*)x)[from]; break;
        case 2: ((unsigned short*)out)[to] = ((const unsigned short*)x)[from]; break;
        case 4: ((unsigned*)out)[to] = ((const unsigned*)x)[from]; break;
        default: ((uint64*)out)[to] = ((const uint64*)x)[from];
    }
}

// out (count,) of elements of `width` bytes = the first of the bytes in `bits`.
extern "C" __global__ void fill(int64 count, int64 bits, int width, void* out) {
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) switch (width) {
        case 1: ((unsigned char*)out)[i] = bits; break;
        case 2: ((unsigned short*)out)[i] = bits; break;
        case 4: ((unsigned*)out)[i] = bits; break;
        default: ((int64*)out)[i] = bits;
    }
}

// The axes of an array: lengths n and strides s, in elements, from the last axis to the first. Where there are more of
// them, there are several launches.
#define AXES_OF(N, S) int64 N##0, int64 S##0, int64 N##1, int64 S##1, int64 N##2, int64 S##2, int64 N##3, int64 S##3, \
    int64 N##4, int64 S##4, int64 N##5, int64 S##5, int64 N##6, int64 S##6, int64 N##7, int64 S##7
#define AXES_GIVEN n0, s0, n1, s1, n2, s2, n3, s3, n4, s4, n5, s5, n6, s6, n7, s7

// Where element i, in C order, lies. Index: an unsigned type that holds i; divisions of 64 bits are slow.
template <typename Index>
__device__ __forceinline__ int64 place(Index i, int axes, AXES_OF(n, s)) {
    int64 at = 0;
#define AXIS(K)                                      \
    if (K == axes - 1) {                             \
        at += int64(i) * s##K;                       \
    } else if (K < axes - 1) {                       \
        Index above = i / Index(n##K);               \
        at += int64(i - above * Index(n##K)) * s##K; \
        i = above;                                   \
    }
    AXIS(0) AXIS(1) AXIS(2) AXIS(3) AXIS(4) AXIS(5) AXIS(6) AXIS(7)
#undef AXIS
    return at;
}

#define PLACE(i) (count >> 32 ? place(uint64(i), axes, AXES_GIVEN) : place(unsigned(i), axes, AXES_GIVEN))

// out (count,) = the elements of x that begin at `start` and lie along the axes; converted between two types where
// those differ.
extern "C" __global__ void take(
    int64 count, const void* x, int x_type, int64 start, int axes, AXES_OF(n, s), void* out, int out_type, int width
) {
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        int64 at = start + PLACE(i);
        if (x_type == out_type) move(x, at, out, i, width);
        else store(out, i, out_type, load(x, at, x_type));
    }
}

// The elements of out that begin at `start` and lie along the axes = x (count,).
extern "C" __global__ void put(
    int64 count, const void* x, int64 start, int axes, AXES_OF(n, s), void* out, int width
) {
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) move(x, i, out, start + PLACE(i), width);
}

// out (planes, columns, rows) = x (planes, rows, columns), the last two axes exchanged. A block of 256 threads turns
// tiles of 32 x 32 in shared memory, so that it reads and writes whole rows of them.
extern "C" __global__ void turn(
    int64 tiles, int tiles_down, int tiles_across, int rows, int columns, const void* x, void* out, int width
) {
    __shared__ uint64 tile[32 * 33];  // rows of 33 elements: columns, too, lie in different banks
    int across = threadIdx.x % 32, down = threadIdx.x / 32;
    for (int64 t = blockIdx.x; t < tiles; t += gridDim.x) {
        int64 plane = t / (int64(tiles_down) * tiles_across) * rows * columns;
        int row = t / tiles_across % tiles_down * 32, column = t % tiles_across * 32;
        for (int r = down; r < 32; r += 8)
            if (row + r < rows && column + across < columns)
                move(x, plane + int64(row + r) * columns + column + across, tile, r * 33 + across, width);
        __syncthreads();
        for (int c = down; c < 32; c += 8)
            if (column + c < columns && row + across < rows)
                move(tile, across * 33 + c, out, plane + int64(column + c) * rows + row + across, width);
        __syncthreads();
    }
}

// gather: each x, of so many elements and that type (size * 16 + type), goes to out from `start` on.
#define TAKEN(K) const void *x##K, int64 start##K, int64 size##K,
#define CHOOSE(K) case K: x = x##K, start = start##K, size = size##K; break;

extern "C" __global__ void gather(EACH(TAKEN) void* out, int out_type) {
    const void* x = nullptr;
    int64 start = 0, size = 0;
    switch (blockIdx.y) { EACH(CHOOSE) }
    int type = size & 15;
    size >>= 4;
    for (int64 i = FIRST_ELEMENT; i < size; i += NEXT_ELEMENT) store(out, start + i, out_type, load(x, i, type));
}

// concatenate: each x (outer, size) becomes the columns from `start` on of out (outer, whole).
extern "C" __global__ void concatenate(EACH(TAKEN) int64 outer, int64 whole, void* out, int width) {
    const void* x = nullptr;
    int64 start = 0, size = 0;
    switch (blockIdx.y) { EACH(CHOOSE) }
    for (int64 i = FIRST_ELEMENT; i < outer * size; i += NEXT_ELEMENT)
        move(x, i, out, i / size * whole + start + i % size, width);
}
