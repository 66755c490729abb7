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

// Several maps at a time; row y of the grid treats map y.
#define MAPS(T, NAME) T NAME##0, T NAME##1, T NAME##2, T NAME##3
#define OF_MAP(NAME) (map == 0 ? NAME##0 : map == 1 ? NAME##1 : map == 2 ? NAME##2 : NAME##3)

// moments: null for a map that is normalised by the running statistics. Of these, one of two is null, as their type is;
// or both, if nobody keeps them.
extern "C" __global__ void batch_norm(
    MAPS(const double*, moments), MAPS(int, images), MAPS(int, channels), MAPS(int, pixels), MAPS(double, momentum),
    MAPS(double, eps), MAPS(const real*, weight), MAPS(const real*, bias), MAPS(const real*, slope),
    MAPS(float*, mean32_), MAPS(double*, mean64_), MAPS(float*, variance32_), MAPS(double*, variance64_),
    MAPS(double*, statistics), MAPS(real*, coefficients)
) {
    int map = blockIdx.y, c = blockIdx.x, channels = OF_MAP(channels);
    if (c >= channels) return;
    const double* moments = OF_MAP(moments);
    float *mean32 = OF_MAP(mean32_), *variance32 = OF_MAP(variance32_);
    double *mean64 = OF_MAP(mean64_), *variance64 = OF_MAP(variance64_), mean, squares = 0, count = 1;
    if (moments) {
        int images = OF_MAP(images), pixels = OF_MAP(pixels);
        count = double(images) * pixels;
        batch_moments(moments, {images, 3, channels, false}, {1, pixels, 1}, c, count, &mean, &squares);
    }
    if (threadIdx.x > 0) return;
    double variance = squares / count;
    if (!moments) {
        mean = either(mean32, mean64, c);
        variance = either(variance32, variance64, c);
    } else {
        double momentum = OF_MAP(momentum);
        if (mean32 || mean64) move_towards(mean32, mean64, c, momentum, mean);
        if (variance32 || variance64)
            move_towards(variance32, variance64, c, momentum, squares / max(count - 1, 1.0));
    }
    double* statistics = OF_MAP(statistics);
    statistics[c] = mean;
    statistics[channels + c] = variance;
    Reading read =
        batch_norm_reading(mean, variance, OF_MAP(eps), OF_MAP(weight)[c], OF_MAP(bias)[c], OF_MAP(slope)[c]);
    store_reading(OF_MAP(coefficients), channels, c, read);
}

__device__ inline void store_raw_gradient(real* coefficients, int channels, int channel, RawGradient by) {
    real* at = coefficients + channel;
    at[0] = by.scale, at[channels] = by.shift, at[2 * channels] = by.slope;
    at[3 * channels] = by.k0, at[4 * channels] = by.k1, at[5 * channels] = by.k2;
}

extern "C" __global__ void batch_norm_backward(
    MAPS(const double*, sums), MAPS(int, images), MAPS(int, channels), MAPS(double, count), MAPS(int, training),
    MAPS(double, eps), MAPS(const real*, weight), MAPS(const real*, bias), MAPS(const real*, slope),
    MAPS(const double*, statistics), MAPS(real*, coefficients), MAPS(real*, grad_weight), MAPS(real*, grad_bias),
    MAPS(real*, grad_slope)
) {
    int map = blockIdx.y, c = blockIdx.x, channels = OF_MAP(channels);
    if (c >= channels) return;
    double totals[3];
    sums_of_parts(OF_MAP(sums), {OF_MAP(images), 3, channels, false}, 0, c, totals);
    if (threadIdx.x > 0) return;
    const double* statistics = OF_MAP(statistics);
    double mean = statistics[c], variance = statistics[channels + c], eps = OF_MAP(eps);
    OF_MAP(grad_weight)[c] = totals[1] / sqrt(variance + eps);
    OF_MAP(grad_bias)[c] = totals[0];
    OF_MAP(grad_slope)[c] = totals[2];
    RawGradient by = batch_norm_gradient(
        totals[0], totals[1], OF_MAP(count), OF_MAP(training), mean, variance, eps, OF_MAP(weight)[c],
        OF_MAP(bias)[c], OF_MAP(slope)[c]
    );
    store_raw_gradient(OF_MAP(coefficients), channels, c, by);
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
