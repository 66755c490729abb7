// Products of matrices: each block computes a tile of 64 x 64 of one product, each of 256 threads 4 x 4 elements of it.

#define SIDE 64
#define DEPTH 16          // of the slices of a and b that are in shared memory at once
#define PITCH (SIDE + 2)  // so that what a warp writes to a column of a slice lies in different banks

// What a thread fetches of each slice of a or b: elements that lie `step` apart in memory, from `at` on. They are of
// lines i, i + down, ... at places k, k + along, ... Only lines before `lines` are there.
struct Reader {
    const real* at;
    int64 step, next;  // next: from slice to slice
    int i, k, down, along, lines;
};

// Reads lines from `first` on: rows of a or columns of b, of which there are `count`, of `depth` elements each. Whether
// it is a line's elements that lie side by side or those of neighbouring lines, a warp reads what lies side by side.
__device__ inline Reader reader_of(const real* matrix, bool side_by_side, int64 first, int64 count, int64 depth) {
    Reader r;
    int n = threadIdx.x;
    r.i = side_by_side ? n / DEPTH : n % SIDE, r.k = side_by_side ? n % DEPTH : n / SIDE;
    r.down = side_by_side ? 256 / DEPTH : 0, r.along = side_by_side ? 0 : 256 / SIDE;
    int64 from_line = side_by_side ? depth : 1, from_place = side_by_side ? 1 : count;
    r.at = matrix + (first + r.i) * from_line + r.k * from_place;
    r.step = r.down * from_line + r.along * from_place, r.next = DEPTH * from_place;
    r.lines = count - first < SIDE ? count - first : SIDE;
    return r;
}

// slice[k][i] = element k of line i; zero where there is none. `depth` elements of each line are left.
__device__ inline void fetch(real slice[DEPTH][PITCH], Reader& r, int64 depth) {
#pragma unroll
    for (int n = 0; n < SIDE * DEPTH / 256; ++n) {
        int i = r.i + n * r.down, k = r.k + n * r.along;
        slice[k][i] = i < r.lines && k < depth ? r.at[n * r.step] : real(0);
    }
    r.at += r.next;
}

// out (batch, rows, columns) = a (batch, rows, depth) times b (batch, depth, columns), each of which may be stored
// transposed.
extern "C" __global__ void __launch_bounds__(256, 2) matmul(
    int64 rows, int64 depth, int64 columns, const real* a, int transpose_a, const real* b, int transpose_b, real* out
) {
    __shared__ real a_slice[DEPTH][PITCH], b_slice[DEPTH][PITCH];
    int64 across = (columns + SIDE - 1) / SIDE, down = (rows + SIDE - 1) / SIDE;
    int64 batch = blockIdx.x / (across * down);
    int64 row = blockIdx.x / across % down * SIDE, column = blockIdx.x % across * SIDE;
    Reader left = reader_of(a + batch * rows * depth, !transpose_a, row, rows, depth);
    Reader right = reader_of(b + batch * depth * columns, transpose_b, column, columns, depth);
    int x = threadIdx.x % 16, y = threadIdx.x / 16;
    real sums[4][4] = {};
#pragma unroll 1
    for (int64 rest = depth; rest > 0; rest -= DEPTH) {
        fetch(a_slice, left, rest);
        fetch(b_slice, right, rest);
        __syncthreads();
#pragma unroll 4
        for (int k = 0; k < DEPTH; ++k) {
            real u[4], v[4];
#pragma unroll
            for (int i = 0; i < 4; ++i) u[i] = a_slice[k][y + 16 * i], v[i] = b_slice[k][x + 16 * i];
#pragma unroll
            for (int i = 0; i < 4; ++i)
#pragma unroll
                for (int j = 0; j < 4; ++j) sums[i][j] += u[i] * v[j];
        }
        __syncthreads();
    }
    row += y, column += x;
    out += (batch * rows + row) * columns + column;
#pragma unroll
    for (int i = 0; i < 4; ++i)
#pragma unroll
        for (int j = 0; j < 4; ++j)
            if (row + 16 * i < rows && column + 16 * j < columns) out[16 * i * columns + 16 * j] = sums[i][j];
}
