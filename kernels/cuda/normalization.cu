// Batch norm, PReLU and deferred maps by themselves; convolutions read and write maps through the same formulas.

#define CHUNK 32  // elements that a thread adds up in the maps' own type; then it goes on in double

// --- Maps: a block per plane, of `pixels`. ---------------------------------------------------------------------------

// out = the map that is read; sums (N, C) of its planes, if not null. `out` may be null, if the sums alone are wanted.
extern "C" __global__ void __launch_bounds__(1024)
activate(const real* x, const real* coefficients, int channels, int pixels, real* out, double* sums) {
    __shared__ double partial[32];
    int64 start = int64(blockIdx.x) * pixels;
    Reading read = reading_of(coefficients, channels, blockIdx.x % channels);
    double total = 0;
    for (int i = threadIdx.x; i < pixels;) {
        real part = 0;
        for (int k = 0; k < CHUNK && i < pixels; ++k, i += blockDim.x) {
            real a = coefficients ? read(x[start + i]) : x[start + i];
            if (out) out[start + i] = a;
            part += a;
        }
        total += part;
    }
    if (!sums) return;
    total = block_sum(total, partial);
    if (threadIdx.x == 0) sums[blockIdx.x] = total;
}

extern "C" __global__ void __launch_bounds__(1024)
differentiate(const real* g, const real* raw, const real* coefficients, int channels, int pixels, real* out) {
    int64 start = int64(blockIdx.x) * pixels;
    if (!coefficients) {
        for (int i = threadIdx.x; i < pixels; i += blockDim.x) out[start + i] = g[start + i];
        return;
    }
    RawGradient gradient = raw_gradient_of(coefficients, channels, blockIdx.x % channels);
    for (int i = threadIdx.x; i < pixels; i += blockDim.x) out[start + i] = gradient(g[start + i], raw[start + i]);
}

extern "C" __global__ void __launch_bounds__(1024)
channel_moments(const real* x, int channels, int pixels, double* moments) {
    __shared__ double partial[32][2];
    int64 start = int64(blockIdx.x) * pixels;
    real reference = x[start + pixels / 2];
    double sums[2] = {};
    for (int i = threadIdx.x; i < pixels;) {
        real sum = 0, squares = 0;
        for (int k = 0; k < CHUNK && i < pixels; ++k, i += blockDim.x) {
            real about = x[start + i] - reference;
            sum += about;
            squares += about * about;
        }
        sums[0] += sum;
        sums[1] += squares;
    }
    double total = block_sums(sums, partial);
    double* to = moments + int64(blockIdx.x / channels) * 3 * channels + blockIdx.x % channels;
    if (threadIdx.x == 0) to[0] = reference;
    if (threadIdx.x < 2) to[(threadIdx.x + 1) * channels] = total;
}

extern "C" __global__ void __launch_bounds__(1024)
gradient_sums(const real* g, const real* raw, const real* coefficients, int channels, int pixels, double* sums) {
    __shared__ double partial[32][3];
    int64 start = int64(blockIdx.x) * pixels;
    Reading read = reading_of(coefficients, channels, blockIdx.x % channels);
    double totals[3] = {};
    for (int i = threadIdx.x; i < pixels;) {
        real parts[3] = {};
        for (int k = 0; k < CHUNK && i < pixels; ++k, i += blockDim.x)
            add_gradient_sums(parts, g[start + i], raw[start + i], read);
        for (int k = 0; k < 3; ++k) totals[k] += parts[k];
    }
    double total = block_sums(totals, partial);
    double* to = sums + int64(blockIdx.x / channels) * 3 * channels + blockIdx.x % channels;
    if (threadIdx.x < 3) to[threadIdx.x * channels] = total;
}

// --- Channels: a warp for each. --------------------------------------------------------------------------------------

extern "C" __global__ void batch_statistics(
    const double* moments, int images, int channels, int pixels, double momentum, double* mean, double* variance,
    float* running_mean32, double* running_mean64, float* running_var32, double* running_var64
) {
    int c = blockIdx.x;
    double count = double(images) * pixels, middle, squares;
    batch_moments(moments, {images, 3, channels, false}, {1, pixels, 1}, c, count, &middle, &squares);
    if (threadIdx.x > 0) return;
    mean[c] = middle;
    variance[c] = squares / count;
    move_towards(running_mean32, running_mean64, c, momentum, middle);
    move_towards(running_var32, running_var64, c, momentum, squares / max(count - 1, 1.0));
}

extern "C" __global__ void batch_norm_coefficients(
    const double* mean, const double* variance, double eps, const real* weight, const real* bias, const real* slope,
    int channels, real* out
) {
    int c = FIRST_ELEMENT;
    if (c < channels)
        store_reading(out, channels, c, batch_norm_reading(mean[c], variance[c], eps, weight[c], bias[c], slope[c]));
}

__device__ inline void store_raw_gradient(real* coefficients, int channels, int channel, RawGradient by) {
    real* at = coefficients + channel;
    at[0] = by.scale, at[channels] = by.shift, at[2 * channels] = by.slope;
    at[3 * channels] = by.k0, at[4 * channels] = by.k1, at[5 * channels] = by.k2;
}

extern "C" __global__ void batch_norm_backward(
    const double* sums, int images, int channels, double count, int training, const double* mean,
    const double* variance, double eps, const real* weight, const real* bias, const real* slope, real* out,
    real* grad_weight, real* grad_bias, real* grad_slope
) {
    int c = blockIdx.x;
    double totals[3];
    sums_of_parts(sums, {images, 3, channels, false}, 0, c, totals);
    if (threadIdx.x > 0) return;
    grad_weight[c] = totals[1] / sqrt(variance[c] + eps);
    grad_bias[c] = totals[0];
    grad_slope[c] = totals[2];
    RawGradient by = batch_norm_gradient(
        totals[0], totals[1], count, training, mean[c], variance[c], eps, weight[c], bias[c], slope[c]
    );
    store_raw_gradient(out, channels, c, by);
}

extern "C" __global__ void prelu_coefficients(const real* slope, int channels, real* out) {
    int c = FIRST_ELEMENT;
    if (c < channels) store_reading(out, channels, c, {1, 0, slope[c], 0});
}

// grad_slope may be null.
extern "C" __global__ void prelu_backward(
    const double* sums, const real* slope, int images, int channels, real* out, real* grad_slope
) {
    int c = blockIdx.x;
    double total[1];
    sums_of_parts(sums, {images, 3, channels, false}, 2, c, total);
    if (threadIdx.x > 0) return;
    store_raw_gradient(out, channels, c, {1, 0, slope[c], 1, 0, 0});
    if (grad_slope) grad_slope[c] = total[0];
}
