// The octave convolution, step by step: resampling around convolutions that are convolution.cu's.

// Bilinear upsampling: pixel (y, x) of a plane that is `factor` times as high and wide as `map`.
__device__ inline real upsampled(const real* map, int height, int width, int y, int x, int factor) {
    Between v = between(y, factor, height), h = between(x, factor, width);
    const real *above = map + int64(v.first) * width, *below = map + int64(v.second) * width;
    real left = (1 - v.share) * above[h.first] + v.share * below[h.first];
    real right = (1 - v.share) * above[h.second] + v.share * below[h.second];
    return (1 - h.share) * left + h.share * right;
}

#define JOBS 4  // maps that one launch resamples
#define OF_JOBS(T, NAME) T NAME##0, T NAME##1, T NAME##2, T NAME##3
#define OF_JOB(NAME) (job == 0 ? NAME##0 : job == 1 ? NAME##1 : job == 2 ? NAME##2 : NAME##3)

__device__ inline bool aligned(const real* map, int bytes) { return (unsigned long long)map % bytes == 0; }

// COUNT values side by side, by large loads if they are `together`: at a multiple of their size.
template <int COUNT>
__device__ inline void load_row(const real* at, bool together, real (&v)[COUNT]) {
#if SINGLE
    if (COUNT == 4 && together) {
        float4 four = *(const float4*)at;
        v[0] = four.x, v[1 % COUNT] = four.y, v[2 % COUNT] = four.z, v[3 % COUNT] = four.w;
        return;
    }
#endif
#pragma unroll
    for (int k = 0; k < COUNT; k += 2) {
        if (COUNT > 1 && together) {
            pair two = *(const pair*)(at + k);
            v[k] = two.x, v[(k + 1) % COUNT] = two.y;
        } else {
            v[k] = at[k];
            if (k + 1 < COUNT) v[k + 1] = at[k + 1];
        }
    }
}

template <int COUNT>
__device__ inline void store_row(real* at, bool together, const real (&v)[COUNT]) {
#if SINGLE
    if (COUNT == 4 && together) {
        *(float4*)at = float4{v[0], v[1 % COUNT], v[2 % COUNT], v[3 % COUNT]};
        return;
    }
#endif
#pragma unroll
    for (int k = 0; k < COUNT; k += 2) {
        if (COUNT > 1 && together) {
            *(pair*)(at + k) = pair{v[k], v[(k + 1) % COUNT]};
        } else {
            at[k] = v[k];
            if (k + 1 < COUNT) at[k + 1] = v[k + 1];
        }
    }
}

// SIDES times SIDES activated pixels of a map, or, HALVED, averages of 2x2 of them, from pixel (y, x) of these on. raw:
// what the map has there.
template <bool HALVED, int SIDES>
struct Square {
    static constexpr int WIDE = (HALVED ? 2 : 1) * SIDES;
    real raw[WIDE][WIDE], value[SIDES][SIDES];

    __device__ Square(const real* map, int width, bool together, int y, int x, Reading read) {
        const real* corner = map + int64(y) * (HALVED ? 2 : 1) * width + x * (HALVED ? 2 : 1);
#pragma unroll
        for (int k = 0; k < WIDE; ++k) load_row(corner + int64(k) * width, together, raw[k]);
#pragma unroll
        for (int k = 0; k < SIDES * SIDES; ++k) {
            int i = k / SIDES, j = k % SIDES;
            value[i][j] = read(raw[HALVED ? 2 * i : i][HALVED ? 2 * j : j]);
            if (HALVED) {
                value[i][j] += read(raw[2 * i % WIDE][(2 * j + 1) % WIDE]);
                value[i][j] += read(raw[(2 * i + 1) % WIDE][2 * j % WIDE]);
                value[i][j] += read(raw[(2 * i + 1) % WIDE][(2 * j + 1) % WIDE]);
                value[i][j] /= 4;
            }
        }
    }
};

// One job of octave_pool, for pixel (y, x) of `pooled`, or of `own` where SIDES is 1; what it has read of own's pixels.
template <bool HALVED, int SIDES>
__device__ inline real pool(
    const real* map, int width, Reading read, int y, int x, int window, real* own, real* pooled) {
    int own_width = width / (HALVED ? 2 : 1);
    constexpr int WIDE = Square<HALVED, SIDES>::WIDE, BYTES = WIDE * sizeof(real) < 16 ? WIDE * sizeof(real) : 16;
    bool together = aligned(map, BYTES) && width % WIDE == 0;
    bool whole = own && aligned(own, SIDES * sizeof(real)) && own_width % SIDES == 0;
    real best = 0, sum = 0;
    for (int k = 0; k < window * window; k += SIDES * SIDES) {
        int down = y * window + k / SIDES / window * SIDES, right = x * window + k / SIDES % window;
        Square<HALVED, SIDES> square(map, width, together, down, right, read);
#pragma unroll
        for (int i = 0; i < SIDES; ++i) {
            if (own) store_row(own + int64(down + i) * own_width + right, whole, square.value[i]);
#pragma unroll
            for (int j = 0; j < SIDES; ++j) {
                if (k + i + j == 0 || larger(square.value[i][j], best)) best = square.value[i][j];
                sum += square.value[i][j];
            }
        }
    }
    if (pooled) pooled[int64(y) * (own_width / window) + x] = best;
    return sum;
}

// Each row of the grid reads a map, averages it 2x2 if `halved`, and writes that to `own`, max-pooled by `window` to
// `pooled`, where they are not null. window is 1, if it is not pooled, or even. Blocks are of 256 pixels of a plane of
// pooled, or of own. sums (images, blocks, channels): what the activated map adds up to there, if not null.
extern "C" __global__ void __launch_bounds__(256) octave_pool(
    int images, int halved, OF_JOBS(int, channels), OF_JOBS(int, height), OF_JOBS(int, width), OF_JOBS(int64, stride),
    OF_JOBS(const real*, map), OF_JOBS(const real*, coefficients), OF_JOBS(int, window), OF_JOBS(int64, own_stride),
    OF_JOBS(real*, own), OF_JOBS(int64, pooled_stride), OF_JOBS(real*, pooled), OF_JOBS(real*, sums)) {
    __shared__ real slices[8];
    int job = blockIdx.y, channels = OF_JOB(channels), window = OF_JOB(window), times = halved ? 2 : 1;
    int height = OF_JOB(height), width = OF_JOB(width), wide = width / times / window;
    int64 pixels = int64(height / times / window) * wide, blocks = (pixels + 255) / 256, plane = blockIdx.x / blocks;
    if (plane >= int64(images) * channels) return;
    int64 n = plane / channels, p = blockIdx.x % blocks * 256 + threadIdx.x;
    int c = int(plane % channels), y = int(p / wide), x = int(p % wide);
    const real* map = OF_JOB(map) + n * OF_JOB(stride) + int64(c) * height * width;
    real *own = OF_JOB(own), *pooled = OF_JOB(pooled), *sums = OF_JOB(sums), sum = 0;
    if (own) own += n * OF_JOB(own_stride) + c * pixels * window * window;
    if (pooled) pooled += n * OF_JOB(pooled_stride) + c * pixels;
    if (p < pixels) {
        Reading read = reading_of(OF_JOB(coefficients), channels, c);
        sum = halved ? window == 1 ? pool<true, 1>(map, width, read, y, x, window, own, pooled)
                                   : pool<true, 2>(map, width, read, y, x, window, own, pooled)
            : window == 1 ? pool<false, 1>(map, width, read, y, x, window, own, pooled)
                          : pool<false, 2>(map, width, read, y, x, window, own, pooled);
    }
    if (!sums) return;
    sum = block_sum(sum, slices);
    if (threadIdx.x == 0) sums[(n * blocks + blockIdx.x % blocks) * channels + c] = halved ? 4 * sum : sum;
}

// out += up to three maps, upsampled, and its moments per run of 256 pixels, a block's: partial (images, runs, 4,
// channels), if not null. The maps' planes are those of out, coarser by factors; image strides are given.
extern "C" __global__ void __launch_bounds__(256) octave_raise(
    int channels, int height, int width, int runs, const real* up0, const real* up1, const real* up2, int factor0,
    int factor1, int factor2, int64 stride0, int64 stride1, int64 stride2, real* out, real* partial) {
    __shared__ real slices[2][8], origin;
    int64 plane = blockIdx.x / runs, n = plane / channels, pixels = int64(height) * width;
    int run = blockIdx.x % runs, c = int(plane % channels);
    int64 p = int64(run) * 256 + threadIdx.x;
    int y = int(p / width), x = int(p % width);
    real value = 0;
    if (p < pixels) {
        value = out[plane * pixels + p];
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            const real* up = k == 0 ? up0 : k == 1 ? up1 : up2;
            int factor = k == 0 ? factor0 : k == 1 ? factor1 : factor2;
            int64 stride = k == 0 ? stride0 : k == 1 ? stride1 : stride2;
            if (!up) continue;
            int high = height / factor, wide = width / factor;
            value += upsampled(up + n * stride + int64(c) * high * wide, high, wide, y, x, factor);
        }
        out[plane * pixels + p] = value;
    }
    if (!partial) return;
    if (threadIdx.x == 0) origin = value;
    __syncthreads();
    real about = p < pixels ? value - origin : real(0);
    real sum = block_sum(about, slices[0]), squares = block_sum(about * about, slices[1]);
    if (threadIdx.x == 0) {
        partial += (n * runs + run) * 4 * channels + c;
        partial[0] = origin, partial[channels] = sum, partial[2 * channels] = squares;
        partial[3 * channels] = real(pixels - p < 256 ? pixels - p : 256);
    }
}

// Each row of the grid: out = the adjoint of upsampling by `factor`, which may be 1, of the planes of a gradient, all
// to planes of one size. Blocks of 256 pixels of a plane.
extern "C" __global__ void __launch_bounds__(256, 1) octave_lower(
    int images, int height, int width, int64 out_stride, OF_JOBS(int, channels), OF_JOBS(int, factor),
    OF_JOBS(int64, stride), OF_JOBS(const real*, grad), OF_JOBS(const real*, raw), OF_JOBS(const real*, coefficients),
    OF_JOBS(real*, out)) {
    int job = blockIdx.y, channels = OF_JOB(channels), factor = OF_JOB(factor), half = factor / 2;
    int64 pixels = int64(height) * width, blocks = (pixels + 255) / 256, plane = blockIdx.x / blocks;
    int64 p = blockIdx.x % blocks * 256 + threadIdx.x, n = plane / max(channels, 1);
    if (n >= images) return;
    int c = int(plane % channels), y = int(p / width), x = int(p % width);
    int fine_height = height * factor, fine_width = width * factor;
    Gradient from = {OF_JOB(grad), OF_JOB(raw), OF_JOB(coefficients), channels};
    RawGradient reader = from.reader(c);
    int64 start = n * OF_JOB(stride) + int64(c) * fine_height * fine_width;
    bool pairs = aligned(from.g + start, 2 * sizeof(real)) && aligned(from.raw + start, 2 * sizeof(real));
    real total = 0;
    if (factor == 1 && p < pixels) total = Gradient::read(reader, from.load(start + p));
    for (int i = 0; i < 2 * factor && factor > 1; ++i) {
        int row = y * factor - half + i;
        bool inside = p < pixels && row >= 0 && row < fine_height;
        int64 line = start + int64(row) * fine_width;
        real sum = 0;
        if (factor == 2) {  // a pair of columns; those beside it are the neighbouring lanes', or of a row's ends
            int lane = threadIdx.x % 32;
            real v[4] = {};
            if (inside) {
                real g[2], about[2] = {};
                load_row(from.g + line + 2 * x, pairs, g);
                if (from.by) load_row(from.raw + line + 2 * x, pairs, about);
                v[1] = Gradient::read(reader, {g[0], about[0]}), v[2] = Gradient::read(reader, {g[1], about[1]});
            }
            v[0] = __shfl_up_sync(0xffffffffu, v[2], 1), v[3] = __shfl_down_sync(0xffffffffu, v[1], 1);
            if (x == 0 || !inside) v[0] = 0;
            else if (lane == 0) v[0] = Gradient::read(reader, from.load(line + 2 * x - 1));
            if (x == width - 1 || !inside) v[3] = 0;
            else if (lane == 31) v[3] = Gradient::read(reader, from.load(line + 2 * x + 2));
#pragma unroll
            for (int j = 0; j < 4; ++j) sum += returned(j, 2, x, width) * v[j];
        } else {
            for (int j = 0; inside && j < 2 * factor; ++j) {
                int column = x * factor - half + j;
                if (column < 0 || column >= fine_width) continue;
                sum += returned(j, factor, x, width) * Gradient::read(reader, from.load(line + column));
            }
        }
        total += returned(i, factor, y, height) * sum;
    }
    if (p < pixels) OF_JOB(out)[n * out_stride + c * pixels + p] = total;
}

// Pixel (y, x) of a map whose activation is averaged 2x2 first, if HALVED: what Square computes.
template <bool HALVED>
__device__ inline real averaged(const real* map, int width, int y, int x, Reading read) {
    return Square<HALVED, 1>(map, width, false, y, x, read).value[0][0];
}

// See octave_spread. A thread has SIDES times SIDES pixels.
template <bool HALVED, int SIDES>
__device__ inline void spread(
    int height, int width, const real* map, Reading read, const real* own, const real* first, const real* second,
    int first_window, int second_window, int y, int x, int accumulate, real* out, real (&sums)[3]) {
    constexpr int TIMES = HALVED ? 2 : 1, WIDE = TIMES * SIDES;
    constexpr int BYTES = WIDE * sizeof(real) < 16 ? WIDE * sizeof(real) : 16;
    int map_width = width * TIMES;
    bool together = map_width % WIDE == 0 && aligned(map, BYTES), whole = map_width % WIDE == 0 && aligned(out, BYTES);
    Square<HALVED, SIDES> square(map, map_width, together, y, x, read);
    real value[SIDES][SIDES] = {};
#pragma unroll
    for (int i = 0; i < SIDES; ++i) {
        bool pairs = width % SIDES == 0 && aligned(own, SIDES * sizeof(real));
        if (own) load_row(own + int64(y + i) * width + x, pairs, value[i]);
    }
#pragma unroll
    for (int k = 0; k < 2; ++k) {
        const real* pooled = k ? second : first;
        int window = k ? second_window : first_window;
        if (SIDES == 1 || !pooled) continue;
        // The first of the largest of the thread's own pixels, and then of the others of the window.
        int best = 0;
        real mine = square.value[0][0];
#pragma unroll
        for (int l = 1; l < SIDES * SIDES; ++l) {
            real value = square.value[l / SIDES][l % SIDES];
            if (larger(value, mine)) best = l, mine = value;
        }
        int top = y / window * window, left = x / window * window;
        int rank = (y + best / SIDES - top) * window + x + best % SIDES - left;
        bool wins = true;
        for (int l = 0; window > SIDES && l < window * window && wins; ++l) {
            int down = top + l / window, right = left + l % window;
            if (down / SIDES == y / SIDES && right / SIDES == x / SIDES) continue;
            real other = averaged<HALVED>(map, map_width, down, right, read);
            wins = l < rank ? larger(mine, other) : !larger(other, mine);
        }
        real given = wins ? pooled[int64(y / window) * (width / window) + x / window] : real(0);
#pragma unroll
        for (int m = 0; m < SIDES * SIDES; ++m) {
            if (wins && m == best) value[m / SIDES][m % SIDES] += given;
        }
    }
#pragma unroll
    for (int i = 0; i < WIDE; ++i) {
        real* to = out + int64(y * TIMES + i) * map_width + x * TIMES;
        real total[WIDE] = {};
        if (accumulate) load_row(to, whole, total);
#pragma unroll
        for (int j = 0; j < WIDE; ++j) {
            total[j] += value[i / TIMES][j / TIMES] / (TIMES * TIMES);
            add_gradient_sums(sums, total[j], square.raw[i][j], read);
        }
        store_row(to, whole, total);
    }
}

// Each row of the grid has the gradient of an input: `own`, if not null, and gradients of up to two maps that were
// max-pooled from it, which go to the first of the largest elements; spread over 2x2 pixels if `halved`. Added to out
// if `accumulate`. Blocks are of 256 squares of `sides` times `sides` pixels of the pooled maps' finer size, height x
// width; sides is 2 if there is a pooled map. Gradient sums per block into partial (images, blocks, 3, channels), if
// not null.
extern "C" __global__ void __launch_bounds__(256, 2) octave_spread(
    int images, int halved, OF_JOBS(int, channels), OF_JOBS(int, height), OF_JOBS(int, width), OF_JOBS(int, sides),
    OF_JOBS(const real*, map), OF_JOBS(const real*, coefficients), OF_JOBS(const real*, own),
    OF_JOBS(const real*, first), OF_JOBS(const real*, second), OF_JOBS(int, first_window), OF_JOBS(int, second_window),
    OF_JOBS(int64, first_stride), OF_JOBS(int64, second_stride), OF_JOBS(int, accumulate), OF_JOBS(real*, out),
    OF_JOBS(real*, partial)) {
    __shared__ real slices[3][8];
    int job = blockIdx.y, channels = OF_JOB(channels), height = OF_JOB(height), width = OF_JOB(width);
    int sides = OF_JOB(sides), times = halved ? 2 : 1, across = width / sides;
    int64 pixels = int64(height) * width, blocks = (pixels / (sides * sides) + 255) / 256, plane = blockIdx.x / blocks;
    if (plane >= int64(images) * channels) return;
    int64 n = plane / channels, p = blockIdx.x % blocks * 256 + threadIdx.x;
    int c = int(plane % channels), y = int(p / across) * sides, x = int(p % across) * sides;
    real sums[3] = {};
    if (y < height) {
        const real* map = OF_JOB(map) + plane * pixels * times * times;
        const real *own = OF_JOB(own), *first = OF_JOB(first), *second = OF_JOB(second);
        real* out = OF_JOB(out) + plane * pixels * times * times;
        int first_window = OF_JOB(first_window), second_window = OF_JOB(second_window);
        Reading read = reading_of(OF_JOB(coefficients), channels, c);
        if (own) own += plane * pixels;
        if (first) first += n * OF_JOB(first_stride) + c * (pixels / (first_window * first_window));
        if (second) second += n * OF_JOB(second_stride) + c * (pixels / (second_window * second_window));
#define SPREAD(HALVED, SIDES)                                                                                        \
    spread<HALVED, SIDES>(height, width, map, read, own, first, second, first_window, second_window, y, x,           \
                          OF_JOB(accumulate), out, sums)
        if (halved && sides == 2) SPREAD(true, 2);
        else if (halved) SPREAD(true, 1);
        else if (sides == 2) SPREAD(false, 2);
        else SPREAD(false, 1);
    }
    real* partial = OF_JOB(partial);
    if (!partial) return;
    partial += (n * blocks + blockIdx.x % blocks) * 3 * channels + c;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
        real sum = block_sum(sums[k], slices[k]);
        if (threadIdx.x == 0) partial[k * channels] = sum;
    }
}
