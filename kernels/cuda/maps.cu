// Sums over maps, and the coefficients of batch norm, for the kernels that gather and use them.

// The sums of K values over the threads of a block, always in the same order: thread k gets that of values[k], in
// double. Blocks are of whole warps in one dimension, and of at least K threads; `partial` is shared memory with a row
// for each warp. All threads take part; it may be called again with the same memory after a barrier.
template <int K, typename T>
__device__ inline double block_sums(const T (&values)[K], double (*partial)[K]) {
#pragma unroll
    for (int k = 0; k < K; ++k) {
        T sum = warp_sum(values[k]);
        if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32][k] = sum;
    }
    __syncthreads();
    double total = 0;
    if (threadIdx.x < K)
        for (int warp = 0; warp < blockDim.x / 32; ++warp) total += partial[warp][threadIdx.x];
    return total;
}

// Sums over parts of maps: a part is an image, or a strip of its rows. Arrays of K sums to a channel are (parts, K,
// channels), as in the contract; those that only our own kernels see are (channels, K, parts), so that what a warp adds
// up lies side by side: `ours`.
struct Sums {
    int parts, kinds, channels;
    bool ours;

    __device__ int64 at(int part, int kind, int channel) const {
        if (ours) return (int64(channel) * kinds + kind) * parts + part;
        return (int64(part) * kinds + kind) * channels + channel;
    }
};

#define AHEAD 4  // parts that a lane has under way at a time: they come from afar, and all else waits for them

// The K values from `kind` on of the next AHEAD parts of a lane, 0 beyond the last part.
template <int K>
__device__ inline void load_parts(
    const double* values, Sums layout, int part, int kind, int channel, double (&to)[AHEAD][K]
) {
#pragma unroll
    for (int i = 0; i < AHEAD; ++i)
#pragma unroll
        for (int k = 0; k < K; ++k)
            to[i][k] = part + 32 * i < layout.parts ? values[layout.at(part + 32 * i, kind + k, channel)] : 0;
}

// Sums of K kinds over all parts, in each lane of a warp and in a fixed order.
template <int K>
__device__ inline void sums_of_parts(const double* values, Sums layout, int kind, int channel, double (&sums)[K]) {
#pragma unroll
    for (int k = 0; k < K; ++k) sums[k] = 0;
    for (int part = threadIdx.x % 32; part < layout.parts; part += 32 * AHEAD) {
        double found[AHEAD][K];
        load_parts(values, layout, part, kind, channel, found);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i)
#pragma unroll
            for (int k = 0; k < K; ++k) sums[k] += found[i][k];
    }
#pragma unroll
    for (int k = 0; k < K; ++k) sums[k] = warp_sum(sums[k]);
}

// Rows of a plane, cut into strips, and how many pixels a strip has.
struct Strips {
    int height, width, rows;

    __device__ int count() const { return (height + rows - 1) / rows; }
    __device__ int own(int strip) const { return min(rows, height - strip * rows); }
    __device__ double pixels(int part) const { return double(own(part % count())) * width; }
};

// The mean of a channel, and its variance times the number of values, from moments; in each lane of a warp.
__device__ inline void batch_moments(
    const double* moments, Sums layout, Strips strips, int channel, double count, double* mean, double* squares
) {
    // About the first part's reference value, which is near enough to the mean for numbers in double.
    double reference = layout.parts ? moments[layout.at(0, 0, channel)] : 0, sum = 0, about = 0;
    for (int part = threadIdx.x % 32; part < layout.parts; part += 32 * AHEAD) {
        double found[AHEAD][3];
        load_parts(moments, layout, part, 0, channel, found);
#pragma unroll
        for (int i = 0; i < AHEAD; ++i) {
            if (part + 32 * i >= layout.parts) break;
            double pixels = strips.pixels(part + 32 * i), off = found[i][0] - reference;
            sum += found[i][1] + pixels * off;
            about += found[i][2] + off * (2 * found[i][1] + pixels * off);
        }
    }
    sum = warp_sum(sum);
    *mean = reference + sum / count;
    double rest = warp_sum(about) - sum * sum / count;
    *squares = rest < 0 ? 0 : rest;  // by rounding; NaN passes
}

// An element of an array of either floating-point type: one of the two is null.
__device__ inline double either(const float* single, const double* wide, int i) { return single ? single[i] : wide[i]; }

__device__ inline void move_towards(float* single, double* wide, int i, double momentum, double value) {
    double moved = (1 - momentum) * either(single, wide, i) + momentum * value;
    if (single) single[i] = moved;
    else wide[i] = moved;
}

__device__ inline Reading batch_norm_reading(
    double mean, double variance, double eps, real weight, real bias, real slope
) {
    double scale = weight / sqrt(variance + eps);
    return {real(scale), real(bias - mean * scale), slope, real(mean)};
}

__device__ inline void store_reading(real* coefficients, int channels, int channel, Reading read) {
    real* at = coefficients + channel;
    at[0] = read.scale, at[channels] = read.shift, at[2 * channels] = read.slope, at[3 * channels] = read.mean;
}

// The backward of batch norm and PReLU, from the gradient sums of all images.
__device__ inline RawGradient batch_norm_gradient(
    double sum_e, double sum_e_about, double count, bool training, double mean, double variance, double eps,
    real weight, real bias, real slope
) {
    double deviation = 1 / sqrt(variance + eps), scale = weight * deviation;
    double per_x = training ? -scale * deviation * deviation * sum_e_about / count : 0;
    double constant = training ? -scale * sum_e / count - per_x * mean : 0;
    return {real(scale), real(bias - mean * scale), slope, real(scale), real(per_x), real(constant)};
}
