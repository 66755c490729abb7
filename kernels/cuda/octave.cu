// The octave convolution, step by step: resampling around convolutions that are convolution.cu's.

// Bilinear upsampling: pixel (y, x) of a plane that is `factor` times as high and wide as `map`.
__device__ inline real upsampled(const real* map, int height, int width, int y, int x, int factor) {
    Between v = between(y, factor, height), h = between(x, factor, width);
    const real *above = map + int64(v.first) * width, *below = map + int64(v.second) * width;
    real left = (1 - v.share) * above[h.first] + v.share * below[h.first];
    real right = (1 - v.share) * above[h.second] + v.share * below[h.second];
    return (1 - h.share) * left + h.share * right;
}

// Pixel (y, x) of a map whose activation is averaged 2x2 first, if `halved`.
__device__ inline real averaged(
    const real* map, int width, int y, int x, int halved, const real* coefficients, int channels, int c) {
    if (!halved) return activated(map[int64(y) * width + x], coefficients, channels, c);
    real sum = 0;
    for (int k = 0; k < 4; ++k) {
        sum += activated(map[(2 * int64(y) + k / 2) * width + 2 * x + k % 2], coefficients, channels, c);
    }
    return sum / 4;
}

// out = a map, read, averaged 2x2 if `halved`, and max-pooled by `window`. Blocks of 256 pixels of a plane of out. sums
// (images, blocks, channels): what they add up to, if not null, of each block's pixels of the map; not with a window.
extern "C" __global__ void __launch_bounds__(256) octave_pool(
    int channels, int height, int width, int64 stride, const real* map, const real* coefficients, int halved,
    int window, int blocks, int out_height, int out_width, int64 out_stride, real* out, real* sums) {
    __shared__ real slices[8];
    int64 plane = blockIdx.x / blocks, n = plane / channels, pixels = int64(out_height) * out_width;
    int64 p = int64(blockIdx.x % blocks) * 256 + threadIdx.x;
    int c = int(plane % channels), y = int(p / out_width) * window, x = int(p % out_width) * window;
    real best = 0;
    if (p < pixels) {
        map += n * stride + int64(c) * height * width;
        best = averaged(map, width, y, x, halved, coefficients, channels, c);
        for (int k = 1; k < window * window; ++k) {
            real value = averaged(map, width, y + k / window, x + k % window, halved, coefficients, channels, c);
            if (larger(value, best)) best = value;
        }
        out[n * out_stride + c * pixels + p] = best;
    }
    if (!sums) return;
    real sum = block_sum(best, slices);
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

// out = the adjoint of upsampling by `factor`, which may be 1, of planes of grad. Blocks of 256 pixels of a plane of
// out.
extern "C" __global__ void __launch_bounds__(256) octave_lower(
    int channels, int height, int width, int factor, int64 stride, const real* grad, int blocks, int64 out_stride,
    real* out) {
    int64 plane = blockIdx.x / blocks, n = plane / channels, pixels = int64(height) * width;
    int64 p = int64(blockIdx.x % blocks) * 256 + threadIdx.x;
    int c = int(plane % channels), y = int(p / width), x = int(p % width), half = factor / 2;
    if (p >= pixels) return;
    int fine_height = height * factor, fine_width = width * factor;
    grad += n * stride + int64(c) * fine_height * fine_width;
    real total = 0;
    if (factor == 1) total = grad[p];
    for (int i = 0; i < 2 * factor && factor > 1; ++i) {
        int row = y * factor - half + i;
        if (row < 0 || row >= fine_height) continue;
        real sum = 0;
        for (int j = 0; j < 2 * factor; ++j) {
            int column = x * factor - half + j;
            if (column < 0 || column >= fine_width) continue;
            sum += returned(j, factor, x, width) * grad[int64(row) * fine_width + column];
        }
        total += returned(i, factor, y, height) * sum;
    }
    out[n * out_stride + c * pixels + p] = total;
}

// The gradient of an input: `own`, if not null, and gradients of up to three maps that were max-pooled from it, which
// go to the first of the largest elements; spread over 2x2 pixels if `halved`. Added to out if `accumulate`. A thread
// has a pixel of the pooled maps' finer size, height x width. Gradient sums per run of 256 pixels, a block's, into
// partial.
extern "C" __global__ void __launch_bounds__(256) octave_spread(
    int channels, int height, int width, int halved, const real* map, const real* coefficients, const real* own,
    const real* pooled0, const real* pooled1, const real* pooled2, int window0, int window1, int window2, int64 stride0,
    int64 stride1, int64 stride2, int runs, int accumulate, real* out, real* partial) {
    __shared__ real slices[3][8];
    int64 plane = blockIdx.x / runs, n = plane / channels, pixels = int64(height) * width;
    int run = blockIdx.x % runs, c = int(plane % channels), times = halved ? 2 : 1;
    int64 p = int64(run) * 256 + threadIdx.x;
    int y = int(p / width), x = int(p % width);
    map += plane * pixels * times * times;
    out += plane * pixels * times * times;
    real sums[3] = {};
    if (p < pixels) {
        real value = own ? own[plane * pixels + p] : real(0);
        real mine = averaged(map, width * times, y, x, halved, coefficients, channels, c);
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            const real* pooled = k == 0 ? pooled0 : k == 1 ? pooled1 : pooled2;
            int window = k == 0 ? window0 : k == 1 ? window1 : window2;
            int64 stride = k == 0 ? stride0 : k == 1 ? stride1 : stride2;
            if (!pooled) continue;
            int top = y / window * window, left = x / window * window, rank = (y - top) * window + x - left;
            bool wins = true;
            for (int l = 0; l < window * window && wins; ++l) {
                if (l == rank) continue;
                real other = averaged(
                    map, width * times, top + l / window, left + l % window, halved, coefficients, channels, c);
                wins = l < rank ? larger(mine, other) : !larger(other, mine);
            }
            int wide = width / window;
            if (wins) value += pooled[n * stride + (int64(c) * (height / window) + y / window) * wide + x / window];
        }
        for (int k = 0; k < times * times; ++k) {
            int64 at = (int64(y) * times + k / times) * width * times + x * times + k % times;
            real total = value / (times * times);
            if (accumulate) total += out[at];
            out[at] = total;
            add_gradient_sums(sums[0], sums[1], sums[2], total, map[at], coefficients, channels, c);
        }
    }
    if (!partial) return;
    partial += (n * runs + run) * 3 * channels + c;
#pragma unroll
    for (int k = 0; k < 3; ++k) {
        real sum = block_sum(sums[k], slices[k]);
        if (threadIdx.x == 0) partial[k * channels] = sum;
    }
}
