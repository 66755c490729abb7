// What goes after other kernels' work: sums in parts, added up in a fixed order in double precision.

#define JOBS 6
#define OF_JOBS(T, NAME) T NAME##0, T NAME##1, T NAME##2, T NAME##3, T NAME##4, T NAME##5
#define OF_JOB(NAME)                                                                                \
    (job == 0 ? NAME##0 : job == 1 ? NAME##1 : job == 2 ? NAME##2 : job == 3 ? NAME##3 : job == 4 ? NAME##4 : NAME##5)

// The gradient of a weight, out[r*row + c*taps + tap] = scale times the sum over `count` partial arrays, `size`
// elements apart. They have its inputs c in groups of `side`: (taps, groups, all rows, side), from the element `first`
// on; where a group is not full, nobody has written. Blocks are (32, 8): elements, and slices of the sum.
__device__ inline void add_partials(
    double (*slices)[32], int count, int64 size, real scale, const real* partial, int64 first, int rows, int all_rows,
    int columns, int taps, int side, int row, real* out) {
    int64 i = int64(blockIdx.x) * 32 + threadIdx.x, group = i / side / rows;
    int r = i / side % rows, groups = (columns + side - 1) / side, c = group % groups * side + i % side;
    bool inside = c < columns && group < int64(taps) * groups;
    int64 at = first + (group * all_rows + r) * side + i % side;
    double sum = 0;
    for (int k = threadIdx.y; inside && k < count; k += 8) sum += partial[k * size + at];
    slices[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || !inside) return;
    for (int k = 1; k < 8; ++k) sum += slices[k][threadIdx.x];
    out[int64(r) * row + int64(c) * taps + group / groups] = real(sum * scale);
}

// The first `sums` rows of the grid have a target (images, rows, channels) each, from parts (images, runs, rows,
// channels) of it: the sums over the runs. Or, where rows is 0, moments (images, 3, channels) from those of runs of
// pixels, (images, runs, 4, channels), whose last row says how many pixels they are of. A run's sums are about its own
// reference value; they come to be about that of the first run, which has pixels. Blocks are (32, 8): elements, and
// slices of the runs. The other rows of the grid have a gradient of a weight each.
extern "C" __global__ void __launch_bounds__(256) finish(
    int sums, OF_JOBS(int64, count), OF_JOBS(int, rows), OF_JOBS(int, channels), OF_JOBS(int, runs),
    OF_JOBS(const real*, partial), OF_JOBS(double*, target), real scale, OF_JOBS(const real*, part),
    OF_JOBS(int, many), OF_JOBS(int64, size), OF_JOBS(int64, first), OF_JOBS(int, height), OF_JOBS(int, tall),
    OF_JOBS(int, columns), OF_JOBS(int, taps), OF_JOBS(int, side), OF_JOBS(int, row), OF_JOBS(real*, out)) {
    __shared__ double slices[2][8][32];
    int job = blockIdx.y;
    if (job >= sums) {
        job -= sums;
        add_partials(
            slices[0], OF_JOB(many), OF_JOB(size), scale, OF_JOB(part), OF_JOB(first), OF_JOB(height), OF_JOB(tall),
            OF_JOB(columns), OF_JOB(taps), OF_JOB(side), OF_JOB(row), OF_JOB(out));
        return;
    }
    int rows = OF_JOB(rows), channels = OF_JOB(channels), runs = OF_JOB(runs);
    int64 i = int64(blockIdx.x) * 32 + threadIdx.x, size = int64(rows ? rows : 1) * channels;
    bool inside = i < OF_JOB(count);
    int64 image = inside ? i / size : 0, step = rows ? size : 4 * size;
    const real* from = OF_JOB(partial) + image * runs * step + i % (size ? size : 1);
    double sum = 0, squares = 0, origin = inside && !rows ? from[0] : real(0);
    for (int k = threadIdx.y; inside && k < runs; k += 8) {
        const real* own = from + k * step;
        if (rows) {
            sum += own[0];
        } else {
            double shift = own[0] - origin, total = own[channels], pixels = own[3 * channels];
            sum += total + pixels * shift;
            squares += own[2 * channels] + shift * (2 * total + pixels * shift);
        }
    }
    slices[0][threadIdx.y][threadIdx.x] = sum, slices[1][threadIdx.y][threadIdx.x] = squares;
    __syncthreads();
    if (threadIdx.y || !inside) return;
    for (int k = 1; k < 8; ++k) sum += slices[0][k][threadIdx.x], squares += slices[1][k][threadIdx.x];
    double* to = OF_JOB(target);
    if (rows) {
        to[i] = sum;
    } else {
        to += image * 3 * channels + i % size;
        to[0] = origin, to[channels] = sum, to[2 * channels] = squares;
    }
}
