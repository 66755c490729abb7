// Depthwise convolutions with 3x3 kernels, stride 1 and padding 1, which keep a map's size.
//
// A block has a strip of a plane: some rows over the whole width, or all of them. So what it loads lies in one piece,
// and only rows above and below are loaded twice. They lie in shared memory as they do in the map, normalised; what is
// beyond the left and right border is known by its column. A thread goes down `run` rows of a column with a window of
// nine values in registers. Sums over a strip are added up over strips and images later, in a fixed order.
//
// A launch treats two maps, such as the branches of a layer: those with suffix 0 have the first blocks, or row 0 of the
// grid. The code is there twice, so that what belongs to a map stays where parameters are, and takes no registers.

#define THREADS 224  // of a block at most: rows of 224, 112 and 56 pixels are then cut without a rest
#define LOADS 8      // of a thread that are under way at a time, forward
#define PAIRS 5      // and backward, of two maps each, or of as many rows

extern __shared__ real tile[];

// A block's strip: rows first, ..., first + own - 1 of a plane.
struct Place {
    int64 plane;
    int image, channel, strip, first, own;
    int low, high, size;  // elements of the tile; those from low to high lie in the map, the others are zero
};

__device__ inline Place place_of(int block, int channels, Strips strips) {
    Place at;
    at.plane = block / strips.count();
    at.strip = block % strips.count();
    at.image = at.plane / channels;
    at.channel = at.plane % channels;
    at.first = at.strip * strips.rows;
    at.own = strips.own(at.strip);
    at.size = (at.own + 2) * strips.width;
    at.low = at.first > 0 ? 0 : strips.width;
    at.high = at.first + at.own < strips.height ? at.size : at.size - strips.width;
    return at;
}

// The 3x3 values around a pixel; its column decides whether there is anything to the left and to the right.
struct Window {
    real v[9];

    // One row down; `row` is the new one's middle.
    __device__ void down(const real* row, bool left, bool right) {
#pragma unroll
        for (int k = 0; k < 6; ++k) v[k] = v[k + 3];
        v[6] = left ? row[-1] : real(0);
        v[7] = row[0];
        v[8] = right ? row[1] : real(0);
    }

    __device__ real product(const real (&weight)[9]) const {
        real sum = 0;
#pragma unroll
        for (int k = 0; k < 9; ++k) sum += weight[k] * v[k];
        return sum;
    }
};

// --- Batch norm between the layers of a chain: whoever reads a layer's raw map finishes its statistics first. --------

// Of the layer that made the map: moments of its parts, or null outside of training; its parameters; its running mean
// and variance, in whichever type; what to store; and the activation's sums of the map that it read, by parts, with the
// array (N, C) for them by images, or null.
#define NORM_PARAMETERS(K)                                                                                        \
    const double *norm_moments##K, double momentum##K, double eps##K, const real *norm_weight##K,                 \
        const real *norm_bias##K, const real *norm_slope##K, float *mean32##K, double *mean64##K,                 \
        float *variance32##K, double *variance64##K, double *statistics##K, real *norm_coefficients##K,           \
        const double *part_sums##K, double *image_sums##K
#define NORM_ARGUMENTS(K)                                                                                         \
    norm_moments##K, momentum##K, eps##K, norm_weight##K, norm_bias##K, norm_slope##K, mean32##K, mean64##K,      \
        variance32##K, variance64##K, statistics##K, norm_coefficients##K, part_sums##K, image_sums##K

// How a channel of the map is read, by a warp; `keep`: store everything.
__device__ inline Reading finish_layer(
    int images, int channels, Strips strips, int c, bool keep, NORM_PARAMETERS()
) {
    int lane = threadIdx.x % 32, parts = images * strips.count();
    double count = double(images) * strips.height * strips.width, mean, squares, variance;
    if (norm_moments) {
        batch_moments(norm_moments, {parts, 3, channels, true}, strips, c, count, &mean, &squares);
        variance = squares / count;
    } else {
        mean = either(mean32, mean64, c);
        variance = either(variance32, variance64, c);
    }
    Reading read = batch_norm_reading(mean, variance, eps, norm_weight[c], norm_bias[c], norm_slope[c]);
    if (keep && lane == 0) {
        statistics[c] = mean;
        statistics[channels + c] = variance;
        store_reading(norm_coefficients, channels, c, read);
        if (norm_moments) {
            move_towards(mean32, mean64, c, momentum, mean);
            move_towards(variance32, variance64, c, momentum, squares / max(count - 1, 1.0));
        }
    }
    if (keep && image_sums) {
        Sums layout = {parts, 1, channels, true};
        for (int image = lane; image < images; image += 32) {
            double sum = 0;
            for (int s = 0; s < strips.count(); ++s) sum += part_sums[layout.at(image * strips.count() + s, 0, c)];
            image_sums[image * channels + c] = sum;
        }
    }
    return read;
}

// A block for each channel.
#define LAYER_PARAMETERS(K) int images##K, int channels##K, int height##K, int width##K, int rows##K, NORM_PARAMETERS(K)

extern "C" __global__ void depthwise3_norm(LAYER_PARAMETERS(0), LAYER_PARAMETERS(1)) {
    int c = blockIdx.x;
    if (blockIdx.y == 0) {
        if (c < channels0) finish_layer(images0, channels0, {height0, width0, rows0}, c, true, NORM_ARGUMENTS(0));
    } else {
        if (c < channels1) finish_layer(images1, channels1, {height1, width1, rows1}, c, true, NORM_ARGUMENTS(1));
    }
}

// --- 3x3, forward ----------------------------------------------------------------------------------------------------

// activation_sums: (N, C) if a plane is one strip, else by parts. moments: by parts (see Sums; `ours`). Each may be
// null. The map is read with `coefficients`, or with those of the layer before, if norm_weight is not null.
#define FORWARD_PARAMETERS(K)                                                                                     \
    int images##K, int channels##K, int height##K, int width##K, int rows##K, int run##K, const real *x##K,       \
        const real *coefficients##K, const real *weight##K, real weight_scale##K, real *out##K,                   \
        double *activation_sums##K, double *moments##K, int ours##K, NORM_PARAMETERS(K)
#define FORWARD_ARGUMENTS(K)                                                                                      \
    images##K, channels##K, height##K, width##K, rows##K, run##K, x##K, coefficients##K, weight##K,               \
        weight_scale##K, out##K, activation_sums##K, moments##K, ours##K, NORM_ARGUMENTS(K)

__device__ __forceinline__ void forward_strip(int block, FORWARD_PARAMETERS()) {
    __shared__ double partial[THREADS / 32][3];
    __shared__ Reading reading;
    __shared__ real weights[9];
    Strips strips = {height, width, rows};
    Place at = place_of(block, channels, strips);
    if (threadIdx.x < 32) {
        bool keep = at.image == 0 && at.strip == 0;
        Reading found = norm_weight ? finish_layer(images, channels, strips, at.channel, keep, NORM_ARGUMENTS())
                                    : reading_of(coefficients, channels, at.channel);
        if (threadIdx.x == 0) reading = found;
        if (threadIdx.x < 9) weights[threadIdx.x] = weight[at.channel * 9 + threadIdx.x] * weight_scale;
    }
    __syncthreads();
    Reading read = reading;

    real sums[3] = {};
    int64 start = (at.plane * height + at.first) * width;
    x += start - width, out += start;
    for (int i = threadIdx.x; i < at.size; i += LOADS * blockDim.x) {
        real raw[LOADS];
#pragma unroll
        for (int k = 0; k < LOADS; ++k) {
            int j = i + k * blockDim.x;
            raw[k] = j >= at.low && j < at.high ? x[j] : real(0);
        }
#pragma unroll
        for (int k = 0; k < LOADS; ++k) {
            int j = i + k * blockDim.x;
            if (j >= at.size) break;
            real a = j >= at.low && j < at.high ? read(raw[k]) : real(0);
            tile[j] = a;
            if (j >= width && j < (at.own + 1) * width) sums[0] += a;
        }
    }
    __syncthreads();

    real w[9];
#pragma unroll
    for (int k = 0; k < 9; ++k) w[k] = weights[k];
    // The moments are about the value in the middle, which each thread works out.
    Window window;
    const real* middle = tile + at.own / 2 * width + width / 2;
    for (int k = 0; k < 3; ++k) window.down(middle + k * width, width / 2 > 0, width / 2 + 1 < width);
    real reference = window.product(w);

    int units = (at.own + run - 1) / run * width;
    for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
        int column = unit % width, row = unit / width * run, end = min(row + run, at.own);
        bool left = column > 0, right = column + 1 < width;
        const real* next = tile + row * width + column;
        window.down(next, left, right);
        window.down(next += width, left, right);
#pragma unroll 3
        for (; row < end; ++row) {
            window.down(next += width, left, right);
            real y = window.product(w), about = y - reference;
            out[row * width + column] = y;
            sums[1] += about;
            sums[2] += about * about;
        }
    }

    double total = block_sums(sums, partial);
    int parts = images * strips.count(), part = at.image * strips.count() + at.strip, k = threadIdx.x;
    if (k == 0 && activation_sums)
        activation_sums[Sums{parts, 1, channels, strips.count() > 1}.at(part, 0, at.channel)] = total;
    if (k < 3 && moments) moments[Sums{parts, 3, channels, bool(ours)}.at(part, k, at.channel)] = k ? total : reference;
}

extern "C" __global__ void __launch_bounds__(THREADS, SINGLE ? 4 : 2) depthwise3(
    int blocks, FORWARD_PARAMETERS(0), FORWARD_PARAMETERS(1)
) {
    if (blockIdx.x < blocks) forward_strip(blockIdx.x, FORWARD_ARGUMENTS(0));
    else forward_strip(blockIdx.x - blocks, FORWARD_ARGUMENTS(1));
}

// From sums of parts to those of images: a block per channel. Each pair of arrays may be null.
extern "C" __global__ void depthwise3_sums(
    int images, int channels, int height, int width, int rows, const double* part_sums, double* activation_sums,
    const double* part_moments, double* moments
) {
    Strips strips = {height, width, rows};
    int count = strips.count(), c = blockIdx.x;
    Sums single = {images * count, 1, channels, true}, triple = {images * count, 3, channels, true};
    for (int image = threadIdx.x; image < images; image += blockDim.x) {
        int first = image * count;
        if (activation_sums) {
            double sum = 0;
            for (int s = 0; s < count; ++s) sum += part_sums[single.at(first + s, 0, c)];
            activation_sums[image * channels + c] = sum;
        }
        if (moments) {
            // About the first strip's reference value.
            double reference = part_moments[triple.at(first, 0, c)], sum = 0, squares = 0;
            for (int s = 0; s < count; ++s) {
                double about = part_moments[triple.at(first + s, 0, c)] - reference;
                double total = part_moments[triple.at(first + s, 1, c)], pixels = strips.pixels(s);
                sum += total + pixels * about;
                squares += part_moments[triple.at(first + s, 2, c)] + about * (2 * total + pixels * about);
            }
            double* to = moments + image * 3 * channels + c;
            to[0] = reference, to[channels] = sum, to[2 * channels] = squares;
        }
    }
}

// --- 3x3, backward ---------------------------------------------------------------------------------------------------

// Where the gradient is written over g, rows next to a strip may be gone before its block has read them. So they are
// copied first: `edges` (N*C, strips, 2, W) are the rows above and below each strip. There is a thread per element.
extern "C" __global__ void depthwise3_edges(int64 count, const real* g, int height, int width, int rows, real* edges) {
    Strips strips = {height, width, rows};
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        int column = i % width, below = i / width % 2, strip = i / (2 * width) % strips.count();
        int64 plane = i / (2 * width) / strips.count();
        int row = below ? (strip + 1) * rows : strip * rows - 1;
        if (row >= 0 && row < height) edges[i] = g[(plane * height + row) * width + column];
    }
}

// The norm's backward between the layers of a chain: gradient sums of the activation, by parts; what they are worked
// out with; where to store the gradients of the norm's parameters; and weight sums of the layer that was treated
// before this one, which are finished in passing.
#define NORM_BACKWARD_PARAMETERS(K)                                                                               \
    const double *norm_sums##K, int norm_parts##K, int norm_ours##K, int training##K, double eps##K,              \
        const double *statistics##K, const real *norm_weight##K, const real *norm_bias##K,                        \
        const real *norm_slope##K, real *grad_norm_weight##K, real *grad_norm_bias##K, real *grad_norm_slope##K,  \
        const double *later_sums##K, real *later_grad_weight##K
#define NORM_BACKWARD_ARGUMENTS(K)                                                                                \
    norm_sums##K, norm_parts##K, norm_ours##K, training##K, eps##K, statistics##K, norm_weight##K, norm_bias##K,  \
        norm_slope##K, grad_norm_weight##K, grad_norm_bias##K, grad_norm_slope##K, later_sums##K,                 \
        later_grad_weight##K

// By a warp: the gradient of a channel of weights from its sums over all parts.
__device__ inline void finish_weight(
    const double* weight_sums, int parts, int channels, int c, int k, real scale, real* to
) {
    double sum[1];
    sums_of_parts(weight_sums, {parts, 9, channels, true}, k, c, sum);
    if (threadIdx.x % 32 == 0) to[c * 9 + k] = sum[0] * scale;
}

// g (and raw, with coefficients) as in DeferredGradient; raw is null where the gradient is g itself. edges: see above,
// or null. x, x_coefficients: the map that was read, or null if neither of the two sums is wanted. grad_x is written,
// or added to, if not null; next_edges: its edges, if it is the g of the next launch, which is written over. Of sums
// by parts (see Sums): weight_sums for the nine weights, and gradient_sums; each may be null.
#define BACKWARD_PARAMETERS(K)                                                                                    \
    int images##K, int channels##K, int height##K, int width##K, int rows##K, int run##K, const real *g##K,       \
        const real *raw##K, const real *coefficients##K, const real *edges##K, const real *x##K,                  \
        const real *x_coefficients##K, const real *weight##K, real weight_scale##K, real *grad_x##K,              \
        int accumulate##K, real *next_edges##K, double *weight_sums##K, double *gradient_sums##K, int ours##K,    \
        NORM_BACKWARD_PARAMETERS(K)
#define BACKWARD_ARGUMENTS(K)                                                                                     \
    images##K, channels##K, height##K, width##K, rows##K, run##K, g##K, raw##K, coefficients##K, edges##K, x##K,  \
        x_coefficients##K, weight##K, weight_scale##K, grad_x##K, accumulate##K, next_edges##K, weight_sums##K,   \
        gradient_sums##K, ours##K, NORM_BACKWARD_ARGUMENTS(K)

__device__ __forceinline__ void backward_strip(int block, BACKWARD_PARAMETERS()) {
    __shared__ double partial[THREADS / 32][12];
    __shared__ RawGradient gradient;
    __shared__ Reading reading;
    __shared__ real weights[9];
    __shared__ Place kept;  // for later: registers are scarce
    Strips strips = {height, width, rows};
    Place at = place_of(block, channels, strips);
    int c = at.channel, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    bool keep = at.image == 0 && at.strip == 0;
    if (warp == 0) {
        RawGradient found = {};
        if (norm_weight) {
            double totals[3], count = double(images) * height * width;
            sums_of_parts(norm_sums, {norm_parts, 3, channels, bool(norm_ours)}, 0, c, totals);
            double mean = statistics[c], variance = statistics[channels + c];
            found = batch_norm_gradient(
                totals[0], totals[1], count, training, mean, variance, eps, norm_weight[c], norm_bias[c], norm_slope[c]
            );
            if (lane == 0 && keep) {
                grad_norm_weight[c] = totals[1] / sqrt(variance + eps);
                grad_norm_bias[c] = totals[0];
                grad_norm_slope[c] = totals[2];
            }
        } else if (coefficients) {
            found = raw_gradient_of(coefficients, channels, c);
        }
        Reading how = reading_of(x_coefficients, channels, c);
        if (lane == 0) gradient = found, reading = how, kept = at;
        // The output at (row, column) read the map around it with weights k = 0, ..., 8. So a pixel of the map was read
        // by the outputs around it with weights 8, ..., 0.
        if (lane < 9) weights[8 - lane] = weight[c * 9 + lane] * weight_scale;
    }
    if (keep && later_sums)
        for (int k = warp; k < 9; k += blockDim.x / 32)
            finish_weight(later_sums, images * strips.count(), channels, c, k, weight_scale, later_grad_weight);
    __syncthreads();

    int64 start = (at.plane * height + at.first) * width;
    g += start - width, raw += raw ? start - width : 0, x += x ? start : 0, grad_x += grad_x ? start : 0;
    RawGradient differentiate = gradient;
    const real* beside = edges + (at.plane * strips.count() + at.strip) * 2 * width;
    for (int i = threadIdx.x; i < at.size; i += PAIRS * blockDim.x) {
        real gs[PAIRS], raws[PAIRS];
#pragma unroll
        for (int k = 0; k < PAIRS; ++k) {
            int j = i + k * blockDim.x;
            bool inside = j >= at.low && j < at.high, above = j < width, below = j >= (at.own + 1) * width;
            gs[k] = !inside ? real(0) : edges && (above || below) ? beside[above ? j : j - at.own * width] : g[j];
            raws[k] = inside && raw ? raw[j] : real(0);
        }
#pragma unroll
        for (int k = 0; k < PAIRS; ++k) {
            int j = i + k * blockDim.x;
            if (j >= at.size) break;
            tile[j] = raw && j >= at.low && j < at.high ? differentiate(gs[k], raws[k]) : gs[k];
        }
    }
    __syncthreads();

    Reading read = reading;
    real w[9], sums[12] = {};
#pragma unroll
    for (int k = 0; k < 9; ++k) w[k] = weights[k];
    Window window;
    int units = (kept.own + run - 1) / run * width;
    for (int unit = threadIdx.x; unit < units; unit += blockDim.x) {
        int column = unit % width, row = unit / width * run, end = min(row + run, kept.own);
        bool left = column > 0, right = column + 1 < width;
        const real* next = tile + row * width + column;
        window.down(next, left, right);
        window.down(next += width, left, right);
        while (row < end) {
            real raws[PAIRS];
#pragma unroll
            for (int k = 0; k < PAIRS; ++k)
                raws[k] = x && row + k < end ? x[(row + k) * width + column] : real(0);
#pragma unroll
            for (int k = 0; k < PAIRS; ++k, ++row) {
                if (row >= end) break;
                window.down(next += width, left, right);
                real a = read(raws[k]), value = window.product(w);
#pragma unroll
                for (int m = 0; m < 9; ++m) sums[m] += a * window.v[8 - m];
                if (!grad_x) continue;
                int i = row * width + column;
                if (accumulate) value += grad_x[i];
                grad_x[i] = value;
                add_gradient_sums(sums + 9, value, raws[k], read);
                if (next_edges && (row == 0 || row + 1 == kept.own)) {
                    // The first row is the one below the strip above, the last one that above the strip below.
                    int64 edge = (kept.plane * strips.count() + kept.strip) * 2 * width + column;
                    if (row == 0 && kept.strip > 0) next_edges[edge - width] = value;
                    if (row + 1 == kept.own && kept.strip + 1 < strips.count()) next_edges[edge + 2 * width] = value;
                }
            }
        }
    }

    double total = block_sums(sums, partial);
    int part = kept.image * strips.count() + kept.strip, k = threadIdx.x;
    if (k < 9 && weight_sums)
        weight_sums[Sums{images * strips.count(), 9, channels, true}.at(part, k, kept.channel)] = total;
    if (k >= 9 && k < 12 && gradient_sums)
        gradient_sums[Sums{images * strips.count(), 3, channels, bool(ours)}.at(part, k - 9, kept.channel)] = total;
}

extern "C" __global__ void __launch_bounds__(THREADS, SINGLE ? 3 : 2) depthwise3_backward(
    int blocks, BACKWARD_PARAMETERS(0), BACKWARD_PARAMETERS(1)
) {
    if (blockIdx.x < blocks) backward_strip(blockIdx.x, BACKWARD_ARGUMENTS(0));
    else backward_strip(blockIdx.x - blocks, BACKWARD_ARGUMENTS(1));
}

// From sums of parts to gradients of weights, and to gradient sums of images: a block of nine warps per channel. Each
// pair of arrays may be null.
#define SUMS_PARAMETERS(K)                                                                                        \
    int images##K, int channels##K, int strips##K, const double *weight_sums##K, real weight_scale##K,            \
        real *grad_weight##K, const double *part_sums##K, double *gradient_sums##K
#define SUMS_ARGUMENTS(K)                                                                                         \
    images##K, channels##K, strips##K, weight_sums##K, weight_scale##K, grad_weight##K, part_sums##K,             \
        gradient_sums##K

__device__ inline void backward_sums(int c, SUMS_PARAMETERS()) {
    int parts = images * strips;
    if (c >= channels) return;
    if (grad_weight) finish_weight(weight_sums, parts, channels, c, threadIdx.x / 32, weight_scale, grad_weight);
    if (!gradient_sums) return;
    Sums layout = {parts, 3, channels, true};
    for (int i = threadIdx.x; i < images * 3; i += blockDim.x) {
        double sum = 0;
        for (int s = 0; s < strips; ++s) sum += part_sums[layout.at(i / 3 * strips + s, i % 3, c)];
        gradient_sums[i * channels + c] = sum;
    }
}

extern "C" __global__ void depthwise3_backward_sums(SUMS_PARAMETERS(0), SUMS_PARAMETERS(1)) {
    if (blockIdx.y == 0) backward_sums(blockIdx.x, SUMS_ARGUMENTS(0));
    else backward_sums(blockIdx.x, SUMS_ARGUMENTS(1));
}
