// Depthwise convolutions of any kernel size, stride, padding and dilation.

#define THREADS 224

#define SHAPE_PARAMETERS                                                                                          \
    int channels, int height, int width, int out_height, int out_width, int kernel_height, int kernel_width,      \
        int stride, int padding, int dilation

// A thread per element of the output.
extern "C" __global__ void depthwise_any(
    int64 count, SHAPE_PARAMETERS, const real* x, const real* coefficients, const real* weight, real weight_scale,
    real* out
) {
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        int64 plane = i / out_width / out_height;
        int c = plane % channels, column = i % out_width, row = i / out_width % out_height;
        Reading read = reading_of(coefficients, channels, c);
        real sum = 0;
        for (int k = 0; k < kernel_height * kernel_width; ++k) {
            int r = row * stride - padding + k / kernel_width * dilation;
            int s = column * stride - padding + k % kernel_width * dilation;
            real a = 0;
            if (r >= 0 && r < height && s >= 0 && s < width) a = read(x[(plane * height + r) * width + s]);
            sum += weight[int64(c) * kernel_height * kernel_width + k] * weight_scale * a;
        }
        out[i] = sum;
    }
}

// A thread per element of the input. raw, coefficients: null where the gradient is g itself.
extern "C" __global__ void depthwise_any_input_gradient(
    int64 count, SHAPE_PARAMETERS, const real* g, const real* raw, const real* coefficients, const real* weight,
    real weight_scale, real* grad_x, int accumulate
) {
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        int64 plane = i / width / height;
        int c = plane % channels, column = i % width, row = i / width % height;
        real sum = 0;
        for (int k = 0; k < kernel_height * kernel_width; ++k) {
            int r = row + padding - k / kernel_width * dilation, s = column + padding - k % kernel_width * dilation;
            if (r < 0 || s < 0 || r % stride || s % stride) continue;
            if (r / stride >= out_height || s / stride >= out_width) continue;
            int64 from = (plane * out_height + r / stride) * out_width + s / stride;
            real d = raw ? raw_gradient_of(coefficients, channels, c)(g[from], raw[from]) : g[from];
            sum += weight[int64(c) * kernel_height * kernel_width + k] * weight_scale * d;
        }
        grad_x[i] = accumulate ? grad_x[i] + sum : sum;
    }
}

// A block per weight of a channel.
extern "C" __global__ void __launch_bounds__(THREADS) depthwise_any_weight_gradient(
    int images, SHAPE_PARAMETERS, const real* g, const real* raw, const real* coefficients, const real* x,
    const real* x_coefficients, real weight_scale, real* grad_weight
) {
    __shared__ double partial[THREADS / 32];
    int taps = kernel_height * kernel_width, c = blockIdx.x / taps, k = blockIdx.x % taps;
    Reading read = reading_of(x_coefficients, channels, c);
    RawGradient gradient = {};
    if (raw) gradient = raw_gradient_of(coefficients, channels, c);
    double sum = 0;
    for (int image = 0; image < images; ++image) {
        int64 plane = int64(image) * channels + c;
        for (int i = threadIdx.x; i < out_height * out_width; i += blockDim.x) {
            int r = i / out_width * stride - padding + k / kernel_width * dilation;
            int s = i % out_width * stride - padding + k % kernel_width * dilation;
            int64 from = plane * out_height * out_width + i;
            real d = raw ? gradient(g[from], raw[from]) : g[from], a = 0;
            if (r >= 0 && r < height && s >= 0 && s < width) a = read(x[(plane * height + r) * width + s]);
            sum += d * a;
        }
    }
    sum = block_sum(sum, partial);
    if (threadIdx.x == 0) grad_weight[blockIdx.x] = sum * weight_scale;
}
