// Dense convolutions of any geometry: forward, gradient of the input, gradient of the weight.
//
// Pixels of a plane are counted row by row and lie along the lanes of a warp. Up to PARTS convolutions run side by
// side: they read one map, and each has its own dilation, weight, and channels of the output.

#define PARTS 5
#define STAGED 2048      // weights in shared memory at a time
#define TALL (2 * SIDE)  // outputs of a warp for the gradient of a weight

#define PARTS_OF(T, NAME) T NAME##0, T NAME##1, T NAME##2, T NAME##3, T NAME##4
#define CHOSEN(PART, NAME) \
    ((PART) == 0 ? NAME##0 : (PART) == 1 ? NAME##1 : (PART) == 2 ? NAME##2 : (PART) == 3 ? NAME##3 : NAME##4)

// Pixel `at` of a map's axis, for output pixel `to` and a tap that is `reach` pixels from the first one; -1 if it is in
// the padding. For the gradient of the input, the map is that of the output's gradient, and `to` an input's pixel.
template <bool TRANSPOSED>
__device__ inline int position(int to, int reach, int stride, int padding, int size) {
    int at;
    if (TRANSPOSED) {
        at = to + padding - reach;
        if (stride > 1) {
            if (at % stride) return -1;
            at /= stride;
        }
    } else {
        at = to * stride - padding + reach;
    }
    return at >= 0 && at < size ? at : -1;
}

// out = the convolution of a map, or, TRANSPOSED, the gradient of the input from a map, that of the output.
//
// Each thread adds up OUTS channels of TAKE pixels. Blocks are (32, warps): `across` warps share pixels and divide
// channels, the others are further along the plane. blockIdx.y counts groups of OUTS*across channels of out, part after
// part, unless TRANSPOSED, when all parts are added up. The output's channels begin at `first`, of all_outs. Weights
// are at [o*row + c*column + tap]. A padding of -1 keeps the size.
//
// partial: if not null, real (images, runs of 32*TAKE pixels, 4, all_outs): moments of what was written and how many
// pixels they are of; if TRANSPOSED, (images, runs, 3, all_outs), its gradient sums, about the map `of` with
// coefficients `of_coefficients`.
//
// held: how many channels of the map's rows that a block needs lie in shared memory at a time, padding and all; for a
// stride of 1 alone. With 0, each pixel is loaded for each tap. weight_scale: a factor on all weights.
template <int OUTS, bool TRANSPOSED, typename Source>
__device__ inline void convolve(
    int channels, int height, int width, int64 image_stride, const Source& source, int first, int row, int column,
    int kh, int kw, int stride, int padding,
    PARTS_OF(const real*, weight), PARTS_OF(int, dilation), PARTS_OF(int, outs), const real* bias, int out_height,
    int out_width, int all_outs, int64 out_stride, real* out, int accumulate, const real* of,
    const real* of_coefficients, real* partial, int across, int held, real weight_scale) {
    real* tile = shared;
    __shared__ real staged[STAGED];
    int64 plane = int64(height) * width, pixels = int64(out_height) * out_width;
    int along = blockDim.y / across, lane = threadIdx.x, taps = kh * kw;
    int runs = int((pixels + 32 * TAKE - 1) / (32 * TAKE)), blocks = (runs + along - 1) / along;
    int64 n = blockIdx.x / blocks;
    int run = (blockIdx.x % blocks) * along + threadIdx.y / across;
    int group = blockIdx.y, width_of_group = OUTS * across, part = 0;
    int pitch_of_weights = width_of_group | 1;  // so that those of several channels lie in different banks
    if (!TRANSPOSED) {  // find the part that the group belongs to
        while (group >= (CHOSEN(part, outs) + width_of_group - 1) / width_of_group) {
            group -= (CHOSEN(part, outs) + width_of_group - 1) / width_of_group;
            first += CHOSEN(part, outs);
            ++part;
        }
    }
    int outs = TRANSPOSED ? all_outs : CHOSEN(part, outs);
    int own = group * width_of_group + (threadIdx.y % across) * OUTS;  // this thread's first channel of the part

    int ys[TAKE], xs[TAKE];
    bool valid[TAKE];
#pragma unroll
    for (int i = 0; i < TAKE; ++i) {
        int64 p = (int64(run) * TAKE + i) * 32 + lane;
        valid[i] = run < runs && p < pixels;
        ys[i] = int(p / out_width), xs[i] = int(p % out_width);
    }
    int64 first_pixel = int64(blockIdx.x % blocks) * along * 32 * TAKE;
    int64 end_pixel = first_pixel + along * 32 * TAKE < pixels ? first_pixel + along * 32 * TAKE : pixels;
    int top = int(first_pixel / out_width), height_of_block = int((end_pixel - 1) / out_width) - top + 1;
    real total[OUTS][TAKE] = {};
    int sources = TRANSPOSED ? 0 : channels, before = TRANSPOSED ? first : 0;
    for (int p = part; p < (TRANSPOSED ? PARTS : part + 1); ++p) {
        if (TRANSPOSED) before += sources, sources = CHOSEN(p, outs);
        const real* weight = CHOSEN(p, weight);
        int dilation = CHOSEN(p, dilation), pad_y = padding, pad_x = padding, count = sources * taps;
        if (padding < 0) pad_y = kh / 2 * dilation, pad_x = kw / 2 * dilation;
        // The tile: what is read for the block's rows. Tap (0, 0) sees its corner, or if TRANSPOSED, the last tap.
        int reach_y = (kh - 1) * dilation, reach_x = (kw - 1) * dilation;
        int pitch = out_width + reach_x, size = (height_of_block + reach_y) * pitch;
        int tile_top = TRANSPOSED ? top + pad_y - reach_y : top - pad_y;
        int tile_left = TRANSPOSED ? pad_x - reach_x : -pad_x;
        int fits = held ? held * taps : STAGED / pitch_of_weights;
        for (int begin = 0; begin < count; begin += fits) {
            int end = begin + fits < count ? begin + fits : count;
            __syncthreads();
            for (int i = threadIdx.y * 32 + lane; i < (end - begin) * width_of_group; i += 32 * blockDim.y) {
                // Lanes take what lies side by side: an output's weights, or if TRANSPOSED, those of a channel.
                bool by_channel = TRANSPOSED && held;
                int run = by_channel ? width_of_group * taps : end - begin;
                int own = by_channel ? i % run / taps : i / run;
                int k = by_channel ? i / run * taps + i % taps : i % run, o = group * width_of_group + own;
                int64 at = int64(o) * row + int64((begin + k) / taps) * column + (begin + k) % taps;
                staged[k * pitch_of_weights + own] = o < outs ? weight[at] * weight_scale : real(0);
            }
            for (int i = threadIdx.y; held && i < (end - begin) / taps * (height_of_block + reach_y); i += blockDim.y) {
                int c = before + begin / taps + i / (height_of_block + reach_y);
                int line = i % (height_of_block + reach_y), y = tile_top + line;
                real* to = tile + i / (height_of_block + reach_y) * size + line * pitch;
                int64 from = n * image_stride + c * plane + int64(y) * width;
                auto reader = source.reader(c);
                for (int j = lane; j < pitch; j += 32) {
                    int x = tile_left + j;
                    bool inside = y >= 0 && y < height && x >= 0 && x < width;
                    to[j] = inside ? Source::read(reader, source.load(from + x)) : real(0);
                }
            }
            __syncthreads();
            if (run >= runs || own >= outs) continue;
            int c = begin / taps, ky = begin % taps / kw, kx = begin % kw;
            for (int k = begin; k < end; ++k) {
                real v[TAKE];
                if (held) {
                    int y = ky * dilation, x = kx * dilation;
                    if (TRANSPOSED) y = reach_y - y, x = reach_x - x;
                    const real* corner = tile + (c - begin / taps) * size + (y - top) * pitch + x;
#pragma unroll
                    for (int i = 0; i < TAKE; ++i) v[i] = valid[i] ? corner[ys[i] * pitch + xs[i]] : real(0);
                } else {
                    int64 from = n * image_stride + (before + c) * plane;
                    auto reader = source.reader(before + c);
#pragma unroll
                    for (int i = 0; i < TAKE; ++i) {
                        int y = position<TRANSPOSED>(ys[i], ky * dilation, stride, pad_y, height);
                        int x = position<TRANSPOSED>(xs[i], kx * dilation, stride, pad_x, width);
                        v[i] = 0;
                        if (valid[i] && y >= 0 && x >= 0) {
                            v[i] = Source::read(reader, source.load(from + int64(y) * width + x));
                        }
                    }
                }
                if (++kx == kw) kx = 0, ++ky;
                if (ky == kh) ky = 0, ++c;
                const real* w = staged + (k - begin) * pitch_of_weights + (threadIdx.y % across) * OUTS;
#pragma unroll
                for (int o = 0; o < OUTS; ++o) {
#pragma unroll
                    for (int i = 0; i < TAKE; ++i) total[o][i] += w[o] * v[i];
                }
            }
        }
    }
    if (run >= runs) return;
    constexpr int rows = TRANSPOSED ? 3 : 4;
#pragma unroll
    for (int o = 0; o < OUTS; ++o) {
        if (own + o >= outs) return;
        int channel = (TRANSPOSED ? 0 : first) + own + o;
        real* target = out + n * out_stride + channel * pixels;
        const real* about = of + n * out_stride + channel * pixels;
        Reading read = reading_of(partial ? of_coefficients : nullptr, all_outs, channel);
        real sums[4] = {}, added = bias ? bias[channel] : real(0), origin = 0;
#pragma unroll
        for (int i = 0; i < TAKE; ++i) {
            int64 p = (int64(run) * TAKE + i) * 32 + lane;
            real value = total[o][i] + added;
            if (accumulate && valid[i]) value += target[p];
            if (valid[i]) target[p] = value;
            if (!partial) continue;
            if (TRANSPOSED) {
                if (!valid[i]) continue;
                add_gradient_sums(sums, value, about[p], read);
            } else {
                if (i == 0) origin = __shfl_sync(0xffffffffu, value, 0);
                if (valid[i]) sums[1] += value - origin, sums[2] += (value - origin) * (value - origin), sums[3] += 1;
            }
        }
        if (partial) {
#pragma unroll
            for (int k = 0; k < rows; ++k) {
                real sum = warp_sum(sums[k]);
                if (!TRANSPOSED && k == 0) sum = origin;
                if (lane == 0) partial[((n * runs + run) * rows + k) * all_outs + channel] = sum;
            }
        }
    }
}

#define CONVOLUTION(NAME, OUTS, TRANSPOSED, ...)                                                                      \
    extern "C" __global__ void __launch_bounds__(256, SINGLE ? 2 : 1) NAME(                                            \
        int channels, int height, int width, int64 image_stride, const real* map, const real* raw,                    \
        const real* coefficients, int first, int row, int column, int kh, int kw, int stride, int padding,            \
        PARTS_OF(const real*, weight), PARTS_OF(int, dilation), PARTS_OF(int, outs), const real* bias,                \
        int out_height, int out_width, int all_outs, int64 out_stride, real* out, int accumulate, const real* of,     \
        const real* of_coefficients, real* partial, int across, int held, real weight_scale) {                        \
        convolve<OUTS, TRANSPOSED>(                                                                                   \
            channels, height, width, image_stride, __VA_ARGS__, first, row, column, kh, kw, stride, padding, weight0, \
            weight1, weight2, weight3, weight4, dilation0, dilation1, dilation2, dilation3, dilation4, outs0, outs1,  \
            outs2, outs3, outs4, bias, out_height, out_width, all_outs, out_stride, out, accumulate, of,              \
            of_coefficients, partial, across, held, weight_scale);                                                    \
    }
#define FORWARD(NAME, OUTS) CONVOLUTION(NAME, OUTS, false, Map{map, coefficients, channels})
#define BACKWARD(NAME, OUTS) CONVOLUTION(NAME, OUTS, true, Gradient{map, raw, coefficients, channels})
FORWARD(convolve_2, 2)
FORWARD(convolve_5, 5)
FORWARD(convolve_10, 10)
BACKWARD(convolve_back_2, 2)
BACKWARD(convolve_back_5, 5)
BACKWARD(convolve_back_10, 10)

// What a tile of an output's pixels adds to the gradients of weights and bias: partial (images*tiles, size), which has,
// one after the other, (taps, groups of SIDE inputs, outs of all parts, SIDE), and outs of all parts for the bias, if
// it is wanted. The gradient's channels begin at `first`.
//
// blockIdx.y counts groups of `some` inputs, a multiple of SIDE. What the tile sees of them, at most down x along
// pixels of the map, is in shared memory; or each pixel is loaded for each tap, where down is 0. TALL channels at a
// time of the gradient are there as well. A warp has TALL outputs, SIDE inputs and one tap; its lanes are pixels.
extern "C" __global__ void __launch_bounds__(256, SINGLE ? 2 : 1) weight_gradient(
    int channels, int height, int width, int64 image_stride, const real* map, const real* coefficients, int some,
    int kh, int kw, int stride, int padding, PARTS_OF(int, dilation), PARTS_OF(int, outs), int first, int rows,
    int out_height, int out_width, int64 grad_stride, const real* grad, const real* raw, const real* raw_coefficients,
    int grad_channels, int tile_height, int tile_width, int down, int along, int reach_y, int reach_x, int bias,
    int64 size, real* partial) {
    int taps = kh * kw, begin = blockIdx.y * some, inputs = min(some, channels - begin);
    int tiles = (out_height + tile_height - 1) / tile_height * ((out_width + tile_width - 1) / tile_width);
    int groups = (inputs + SIDE - 1) / SIDE, all_groups = (channels + SIDE - 1) / SIDE;
    int64 n = blockIdx.x / tiles;
    Tile t = tile_of(0, blockIdx.x % tiles, tile_height, tile_width, 0, out_height, out_width), seen = t;
    Map from = {map + n * image_stride, coefficients, channels};
    Gradient gradient = {grad + n * grad_stride, raw + n * grad_stride, raw_coefficients, grad_channels};
    // Where the tile's first pixel sees that of the most dilated part's first tap.
    seen.top = max(t.top * stride - reach_y, 0), seen.left = max(t.left * stride - reach_x, 0);
    seen.height = down, seen.width = seen.pitch = along, seen.size = down * along;
    seen.map_height = height, seen.map_width = width;
    real *x = shared, *d = shared + inputs * seen.size;
    if (down) read_tile(x, seen, from, begin, inputs);
    partial += blockIdx.x * size;
    int before = 0;
    for (int part = 0; part < PARTS; ++part) {
        int outs = CHOSEN(part, outs), dilation = CHOSEN(part, dilation);
        int pad_y = padding < 0 ? kh / 2 * dilation : padding, pad_x = padding < 0 ? kw / 2 * dilation : padding;
        for (int o = 0; o < outs; o += TALL) {
            int count = min(TALL, outs - o), row = before + o;
            __syncthreads();
            read_tile(d, t, gradient, first + row, count);
            __syncthreads();
            // The last job is the bias's, whose input is one.
            for (int job = threadIdx.y; job < groups * taps + (bias && begin == 0); job += blockDim.y) {
                int tap = job % taps, group = job / taps, c = group * SIDE;
                bool is_bias = group == groups;
                int down_by = tap / kw * dilation - pad_y, right_by = tap % kw * dilation - pad_x;
                int py = threadIdx.x / tile_width, px = threadIdx.x % tile_width;
                real total[2][32] = {};
#pragma unroll 1
                for (int p = threadIdx.x; p < t.pixels(); p += 32) {
                    int y = (t.top + py) * stride + down_by, left = (t.left + px) * stride + right_by;
                    bool inside = !is_bias && y >= 0 && y < height && left >= 0 && left < width;
                    py += 32 / tile_width, px += 32 % tile_width;
                    if (px >= tile_width) px -= tile_width, ++py;
                    real v[SIDE];
#pragma unroll
                    for (int k = 0; k < SIDE; ++k) {
                        v[k] = is_bias && k == 0 ? real(1) : real(0);
                        if (!inside || c + k >= inputs) continue;
                        if (down) {
                            v[k] = x[(c + k) * seen.size + (y - seen.top) * along + left - seen.left];
                        } else {
                            int64 at = (int64(begin + c + k) * height + y) * width + left;
                            v[k] = Map::read(from.reader(begin + c + k), from.load(at));
                        }
                    }
#pragma unroll
                    for (int half = 0; half < 2; ++half) {
#pragma unroll
                        for (int k = 0; k < SIDE; ++k) {
                            if (half * SIDE + k >= count) break;
                            real w = d[(half * SIDE + k) * t.size + p];
#pragma unroll
                            for (int l = 0; l < SIDE; ++l) total[half][k * SIDE + l] += w * v[l];
                        }
                    }
                }
#pragma unroll
                for (int half = 0; half < 2; ++half) {
                    transposed_sums<16>(total[half]);
                    int own = half * SIDE + threadIdx.x / SIDE;
                    if (threadIdx.x >= SIDE * SIDE || own >= count) continue;
                    int64 group_at = tap * all_groups + begin / SIDE + group;
                    int64 to = (group_at * rows + row) * SIDE + half * SIDE * SIDE + threadIdx.x;
                    if (!is_bias) partial[to] = total[half][0];
                    if (is_bias && threadIdx.x % SIDE == 0) partial[size - rows + row + own] = total[half][0];
                }
            }
        }
        before += outs;
    }
}
