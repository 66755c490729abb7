// What goes after other kernels' work: sums in parts, added up in a fixed order in double precision.

// out[r*row + k] = the sum over `count` partial arrays, `size` elements apart, of element first + r*pitch + k.
// Blocks are (32, 8): elements, and slices of the sum.
extern "C" __global__ void __launch_bounds__(256) add_partials(
    int64 elements, int64 first, int columns, int pitch, int row, int count, int64 size, const real* partial,
    real* out) {
    __shared__ double slices[8][32];
    int64 i = int64(blockIdx.x) * 32 + threadIdx.x;
    double sum = 0;
    if (i < elements) {
        int64 at = first + i / columns * pitch + i % columns;
        for (int k = threadIdx.y; k < count; k += 8) sum += partial[k * size + at];
    }
    slices[threadIdx.y][threadIdx.x] = sum;
    __syncthreads();
    if (threadIdx.y || i >= elements) return;
    for (int k = 1; k < 8; ++k) sum += slices[k][threadIdx.x];
    out[i / columns * row + i % columns] = real(sum);
}

#define JOBS 6
#define OF_JOBS(T, NAME) T NAME##0, T NAME##1, T NAME##2, T NAME##3, T NAME##4, T NAME##5
#define OF_JOB(NAME)                                                                                \
    (job == 0 ? NAME##0 : job == 1 ? NAME##1 : job == 2 ? NAME##2 : job == 3 ? NAME##3 : job == 4 ? NAME##4 : NAME##5)

// Up to JOBS targets (images, rows, channels), each from parts (images, runs, rows, channels) of it: the sums over the
// runs. Or, where rows is 0, moments (images, 3, channels) from those of runs of pixels, (images, runs, 4, channels),
// whose last row says how many pixels they are of. A run's sums are about its own reference value; they come to be
// about that of the first run, which has pixels. Blocks are (32, 8): elements, and slices of the runs; blockIdx.y is
// the job.
extern "C" __global__ void __launch_bounds__(256) finish(
    OF_JOBS(int64, count), OF_JOBS(int, rows), OF_JOBS(int, channels), OF_JOBS(int, runs),
    OF_JOBS(const real*, partial), OF_JOBS(double*, target)) {
    __shared__ double slices[2][8][32];
    int job = blockIdx.y, rows = OF_JOB(rows), channels = OF_JOB(channels), runs = OF_JOB(runs);
    int64 i = int64(blockIdx.x) * 32 + threadIdx.x, size = int64(rows ? rows : 1) * channels;
    bool inside = i < OF_JOB(count);
    int64 image = inside ? i / size : 0, step = rows ? size : 4 * size;
    const real* partial = OF_JOB(partial) + image * runs * step + i % (size ? size : 1);
    double sum = 0, squares = 0, origin = inside && !rows ? partial[0] : real(0);
    for (int k = threadIdx.y; inside && k < runs; k += 8) {
        const real* own = partial + k * step;
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
