// Pooling and bilinear resizing of planes (planes, height, width), each with its adjoint. Nobody adds to what another
// thread has written: backward, each pixel of the input gathers what is its own.

// Where element i of maps lies.
struct Pixel {
    int64 plane;
    int row, column;
};

__device__ inline Pixel pixel_of(int64 i, int height, int width) {
    int64 row = quotient(i, width), plane = quotient(row, height);
    return {plane, int(row - plane * height), int(i - row * width)};
}

// --- pooling -------------------------------------------------------------------------------------------------------

struct Windows {
    int size, stride, padding;

    // The part of a window inside of the map, along an axis of n pixels: there is always some.
    __device__ int first(int window) const { return max(int(int64(window) * stride - padding), 0); }
    __device__ int stop(int window, int n) const { return int(min(int64(window) * stride - padding + size, int64(n))); }

    // The windows that pixel p lies in, of `count` in all; perhaps none.
    __device__ int first_with(int p) const {
        int64 before = int64(p) + padding - size;  // the last place from where a window does not reach it
        return before < 0 ? 0 : int(quotient(before, stride)) + 1;
    }
    __device__ int stop_with(int p, int count) const {
        return int(min(quotient(int64(p) + padding, stride) + 1, int64(count)));
    }
};

// Whether v takes the place of the best so far: not if it is equal, since the first one wins; a NaN always does, and
// nothing takes its place.
__device__ inline bool beats(real v, real best) { return v > best || (v != v && best == best); }

// The largest element in rows [top, bottom) and columns [left, right), and where it is.
__device__ inline int64 largest(const real* x, int top, int bottom, int left, int right, int width, real* best) {
    int64 where = int64(top) * width + left;
    *best = -INFINITE;
    for (int r = top; r < bottom; ++r)
        for (int c = left; c < right; ++c) {
            int64 at = int64(r) * width + c;
            real v = x[at];
            if (beats(v, *best)) *best = v, where = at;
        }
    return where;
}

extern "C" __global__ void max_pool2d(
    int64 count, int height, int width, int out_height, int out_width, int size, int stride, int padding,
    const real* x, real* out
) {
    Windows windows = {size, stride, padding};
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        Pixel at = pixel_of(i, out_height, out_width);
        real best;
        largest(
            x + at.plane * height * width, windows.first(at.row), windows.stop(at.row, height),
            windows.first(at.column), windows.stop(at.column, width), width, &best
        );
        out[i] = best;
    }
}

extern "C" __global__ void max_pool2d_backward(
    int64 count, int height, int width, int out_height, int out_width, int size, int stride, int padding,
    const real* grad, const real* x, real* grad_x
) {
    Windows windows = {size, stride, padding};
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        Pixel at = pixel_of(i, height, width);
        int64 plane = at.plane * height * width;
        const real* g = grad + at.plane * out_height * out_width;
        real sum = 0, best;
        for (int r = windows.first_with(at.row); r < windows.stop_with(at.row, out_height); ++r)
            for (int c = windows.first_with(at.column); c < windows.stop_with(at.column, out_width); ++c) {
                int64 winner = largest(
                    x + plane, windows.first(r), windows.stop(r, height), windows.first(c), windows.stop(c, width),
                    width, &best
                );
                if (plane + winner == i) sum += g[int64(r) * out_width + c];
            }
        grad_x[i] = sum;
    }
}

// The sum of rows [top, bottom) and columns [left, right): of each row by itself, then, in double, of all rows.
__device__ inline double total(const real* x, int top, int bottom, int left, int right, int width) {
    double sum = 0;
    for (int r = top; r < bottom; ++r) {
        real row = 0;
        for (int c = left; c < right; ++c) row += x[int64(r) * width + c];
        sum += row;
    }
    return sum;
}

extern "C" __global__ void avg_pool2d(
    int64 count, int height, int width, int out_height, int out_width, int size, int stride, int padding,
    const real* x, real* out
) {
    Windows windows = {size, stride, padding};
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        Pixel at = pixel_of(i, out_height, out_width);
        double sum = total(
            x + at.plane * height * width, windows.first(at.row), windows.stop(at.row, height),
            windows.first(at.column), windows.stop(at.column, width), width
        );
        out[i] = real(sum) / (real(size) * size);
    }
}

extern "C" __global__ void avg_pool2d_backward(
    int64 count, int height, int width, int out_height, int out_width, int size, int stride, int padding,
    const real* grad, real* grad_x
) {
    Windows windows = {size, stride, padding};
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        Pixel at = pixel_of(i, height, width);
        double sum = total(
            grad + at.plane * out_height * out_width, windows.first_with(at.row), windows.stop_with(at.row, out_height),
            windows.first_with(at.column), windows.stop_with(at.column, out_width), out_width
        );
        grad_x[i] = real(sum) / (real(size) * size);
    }
}

// --- bilinear resizing ---------------------------------------------------------------------------------------------
//
// Positions along an axis of n pixels that becomes one of m are whole multiples of 1/(2m) of a pixel: no rounding
// decides where a pixel lies, and whether a neighbour has a share.

// The two pixels that pixel i of the output lies between, and the share of the second. Without a share, the second is
// the first: zero times NaN would be NaN.
struct Between {
    int first, second;
    real share;
};

__device__ inline Between between(int i, int n, int m) {
    int64 at = (2 * int64(i) + 1) * n - m, unit = 2 * int64(m);
    if (at <= 0) return {0, 0, 0};
    int first = int(quotient(at, unit));
    int64 rest = at - first * unit;
    if (first >= n - 1) return {n - 1, n - 1, 0};
    return {first, first + (rest > 0), real(rest) / real(unit)};
}

// A thread for `rows` pixels of a column of the output, so that two rows of the input that several of them lie between
// are read, and interpolated along the row, only once.
extern "C" __global__ void upsample_bilinear(
    int64 count, int height, int width, int out_height, int out_width, int rows, const real* x, real* out
) {
    int strips = (out_height + rows - 1) / rows;
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        Pixel at = pixel_of(i, strips, out_width);
        Between across = between(at.column, width, out_width);
        const real* plane = x + at.plane * height * width;
        auto interpolated = [&](int row) {
            const real* line = plane + int64(row) * width;
            real left = line[across.first];
            return across.share > 0 ? (1 - across.share) * left + across.share * line[across.second] : left;
        };
        int first = -1, second = -1;  // rows that `upper` and `lower` are of
        real upper = 0, lower = 0;
        int64 top = int64(at.row) * rows;
        for (int64 r = top; r < min(top + rows, int64(out_height)); ++r) {
            Between down = between(int(r), height, out_height);
            if (down.first != first) {
                upper = down.first == second ? lower : interpolated(down.first);
                first = down.first;
            }
            if (down.share > 0 && down.second != second) {
                lower = interpolated(down.second);
                second = down.second;
            }
            real value = down.share > 0 ? (1 - down.share) * upper + down.share * lower : upper;
            out[(at.plane * out_height + r) * out_width + at.column] = value;
        }
    }
}

// The pixels of the output that pixel p of the input has a share in, from `first` to before `stop`. `t` is how far the
// first one lies from it, in units of 1/(2m) of a pixel; the next ones lie 2n further each.
struct Reach {
    int first, stop, t;
};

__device__ inline Reach reach(int p, int n, int m) {
    int64 low = (2 * int64(p) - 1) * m - n, high = (2 * int64(p) + 3) * m - n;  // a pixel's distance to either side
    int first = p == 0 || low < 0 ? 0 : int(min(quotient(low, 2 * int64(n)) + 1, int64(m)));
    int stop = p == n - 1 ? m : high <= 0 ? 0 : int(min(quotient(high - 1, 2 * int64(n)) + 1, int64(m)));
    return {first, stop, int((2 * int64(first) + 1) * n - (2 * int64(p) + 1) * m)};
}

// The share of a pixel at a distance of t; what lies beyond the border belongs to the border.
__device__ inline real share_of(int t, int p, int n, real per_unit) {
    bool beyond = (p == 0 && t < 0) || (p == n - 1 && t > 0);
    return beyond ? real(1) : 1 - abs(t) * per_unit;
}

// `lanes` threads, next to each other, share the columns of grad that a pixel of grad_x has a share in, so that a warp
// reads what lies side by side; `along` such groups of a block share the rows.
extern "C" __global__ void upsample_bilinear_backward(
    int64 count, int height, int width, int out_height, int out_width, int lanes, int along, const real* grad,
    real* grad_x
) {
    __shared__ double partial[256];
    int group = 256 / along, turn = threadIdx.x / group, lane = threadIdx.x % lanes;
    int64 i = int64(blockIdx.x) * (group / lanes) + threadIdx.x % group / lanes;
    double sum = 0;
    if (i < count) {
        Pixel at = pixel_of(i, height, width);
        Reach down = reach(at.row, height, out_height), over = reach(at.column, width, out_width);
        real per_row = real(0.5) / out_height, per_column = real(0.5) / out_width;
        for (int r = down.first + turn; r < down.stop; r += along) {
            const real* line = grad + (at.plane * out_height + r) * out_width;
            real row = 0;
            for (int c = over.first + lane; c < over.stop; c += lanes)
                row += share_of(over.t + (c - over.first) * 2 * width, at.column, width, per_column) * line[c];
            sum += row * share_of(down.t + (r - down.first) * 2 * height, at.row, height, per_row);
        }
    }
    for (int distance = lanes / 2; distance > 0; distance /= 2)
        sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    partial[threadIdx.x] = sum;
    for (int half = along / 2; half > 0; half /= 2) {
        __syncthreads();
        if (turn < half) partial[threadIdx.x] += partial[threadIdx.x + half * group];
    }
    if (turn == 0 && lane == 0 && i < count) grad_x[i] = partial[threadIdx.x];
}
