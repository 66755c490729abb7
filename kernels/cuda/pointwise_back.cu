// Gradients of the octave convolution 1x1 over up to three scales in one launch: a block has a tile of pixels of all
// scales, and no intermediate leaves it.
//
// Gradients of the finest output pass through shared memory `chunk` channels at a time, while each warp keeps what it
// adds up of the finest input's gradient in registers; all else is there as a whole.

// to (count, pixels of a tile coarser by 2^TIMES) = the adjoint of upsampling, of channels d in shared memory; zero
// outside the map. Lanes are columns of d, which they add up first, and then pixels of a row of `to`.
template <int TIMES>
__device__ inline void lower_tile(const real* d, const Tile& fine, int count, const Tile& coarse, real* to) {
    constexpr int FACTOR = 1 << TIMES, WINDOW = 2 * FACTOR, PIXELS = (32 - WINDOW) / FACTOR + 1;
    int steps = (coarse.width + PIXELS - 1) / PIXELS, lane = threadIdx.x;
    for (int item = threadIdx.y; item < count * coarse.height * steps; item += blockDim.y) {
        int c = item / (coarse.height * steps), y = item / steps % coarse.height, left = item % steps * PIXELS;
        int column = left * FACTOR - FACTOR / 2 + lane, x = left + lane;
        const real* top = d + c * fine.size + fine.at(y * FACTOR - FACTOR / 2, column);
        real own = 0, total = 0;
        if (column < fine.width + FACTOR / 2) {
#pragma unroll
            for (int k = 0; k < WINDOW; ++k) {
                own += returned(k, FACTOR, coarse.top + y, coarse.map_height) * top[k * fine.pitch];
            }
        }
#pragma unroll
        for (int k = 0; k < WINDOW; ++k) {
            real other = __shfl_sync(0xffffffffu, own, lane * FACTOR + k & 31);
            total += returned(k, FACTOR, coarse.left + x, coarse.map_width) * other;
        }
        bool inside = coarse.top + y < coarse.map_height && coarse.left + x < coarse.map_width;
        real* own_place = to + c * coarse.pixels() + y * coarse.width + x;
        if (lane < PIXELS && x < coarse.width) *own_place = inside ? total : real(0);
    }
}

// winners (count, pixels of a tile coarser by 2^TIMES): which pixel of its window max-pooling has chosen, of channels
// in shared memory.
template <int TIMES>
__device__ inline void find_winners(
    const real* x, const Tile& fine, const real* by, int count, unsigned char* winners) {
    int width = fine.width >> TIMES, pixels = fine.pixels() >> 2 * TIMES;
    for (int i = thread_number(); i < count * pixels; i += thread_count()) {
        int c = i / pixels, p = i % pixels, at = fine.at(p / width << TIMES, p % width << TIMES);
        winners[i] = winner_of<TIMES, true>(x + c * fine.size + at, fine.pitch, reading_of(by, count, c)).number;
    }
}

// to (count, pixels of the coarser tile) = what max-pooling has chosen.
template <int TIMES>
__device__ inline void read_winners(
    const real* x, const Tile& fine, const real* by, int count, const unsigned char* winners, real* to) {
    int width = fine.width >> TIMES, pixels = fine.pixels() >> 2 * TIMES;
    for (int i = thread_number(); i < count * pixels; i += thread_count()) {
        int c = i / pixels, p = i % pixels, k = winners[i];
        int y = (p / width << TIMES) + (k >> TIMES), left = (p % width << TIMES) + (k & (1 << TIMES) - 1);
        to[i] = reading_of(by, count, c)(x[c * fine.size + fine.at(y, left)]);
    }
}

// total += gradients of max-pooled maps, coarser by 2^TIMES, of channels `first` and following of `count`, where
// max-pooling has chosen a pixel.
template <int TIMES, int GROUP, int PIXELS>
__device__ inline void add_unpooled(
    real (&total)[GROUP][PIXELS], const int (&p)[PIXELS], const Tile& t, int first, int count, const real* pooled,
    const unsigned char* winners) {
    int pixels = t.pixels() >> 2 * TIMES;
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
        int y = p[i] / t.width, x = p[i] % t.width, mask = (1 << TIMES) - 1, number = (y & mask) << TIMES | (x & mask);
        int at = first * pixels + (y >> TIMES) * (t.width >> TIMES) + (x >> TIMES);
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
            if (first + g >= count) break;
            if (winners[at + g * pixels] == number) total[g][i] += pooled[at + g * pixels];
        }
    }
}

// What a warp has of the gradient of group `own` of a scale's `count` inputs goes to the map `out`; the gradient sums
// of a part of the tile, whose input is x, go to stats (parts, 3, count), if they are wanted.
template <int GROUP, int PIXELS>
__device__ inline void write_gradient(
    real (&total)[GROUP][PIXELS], const int (&p)[PIXELS], const bool (&valid)[PIXELS], const Tile& t, int part, int own,
    int count, int n, real* out, int accumulate, const real* x, const real* by, real* stats) {
    int64 places[PIXELS];
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) places[i] = place(t, p[i]);
    real* to = out + (int64(n) * count + own * GROUP) * t.map_height * t.map_width;
#pragma unroll
    for (int g = 0; g < GROUP; ++g) {
        if (own * GROUP + g >= count) break;
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            if (accumulate && valid[i]) total[g][i] += to[places[i]];
            if (valid[i]) to[places[i]] = total[g][i];
        }
        to += int64(t.map_height) * t.map_width;
    }
#pragma unroll
    for (int g = 0; stats && g < GROUP; ++g) {
        int channel = own * GROUP + g;
        if (channel >= count) break;
        Reading read = reading_of(by, count, channel);
        real sums[3] = {};
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            if (valid[i]) add_gradient_sums(sums, total[g][i], x[channel * t.size + p[i]], read);
        }
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            real sum = warp_sum(sums[k]);
            if (threadIdx.x == 0) stats[(part * 3 + k) * count + channel] = sum;
        }
    }
}

// to (groups of SIDE inputs, rows, SIDE) = a block's weight gradient: `first` has the first rows of the first groups,
// and `others` all else, where it is in the whole. Lanes begin where sectors of memory do.
__device__ inline void write_weights(
    const real* first, int first_rows, int first_groups, const real* others, int rows, int groups, real* to) {
    int size = groups * rows * SIDE, aligned = -int(int64(blockIdx.x) * size & SECTOR - 1);
    to += int64(blockIdx.x) * size;
    for (int i = aligned + thread_number(); i < size; i += thread_count()) {
        int group = i / (rows * SIDE), at = i % (rows * SIDE);
        bool early = group < first_groups && at < first_rows * SIDE;
        if (i >= 0) to[i] = early ? first[group * first_rows * SIDE + at] : others[i];
    }
}

__device__ inline void write_sums(const real* stats, int parts, int count, real* sums) {
    for (int i = thread_number(); i < 3 * count; i += thread_count()) {
        real sum = 0;
        for (int k = 0; k < parts; ++k) sum += stats[k * 3 * count + i];
        sums[i] = sum;
    }
}

// The sides of a product for the gradient of a weight: channels in shared memory of the pixels of a tile that has a
// border, and of one that has none. The latter's are activated by its coefficients, if it has any.
struct Bordered {
    const real* from;
    int count;
    Tile t;
};
struct Inputs {
    const real *from, *by;
    int count;
};

// grad, in shared memory, = the sums over a tile of channel i of a times channel j of b; where `ones`, b has one more,
// of ones. It is (groups of SIDE channels of b, rows, SIDE), and begins with the row that a does, and with a group.
// Warps take a group and TIMES*SIDE rows; `job` counts warps' jobs, and is where the last product has left it.
template <int TIMES>
__device__ inline void multiply_weights(
    const Bordered& a, const Inputs& b, bool ones, real* grad, int rows, int& job) {
    constexpr int TALL = TIMES * SIDE;
    int across = (b.count + ones + SIDE - 1) / SIDE, jobs = (a.count + TALL - 1) / TALL * across;
    for (; job < jobs; job += blockDim.y) {
        int first = job / across * TALL, second = job % across * SIDE, pixels = a.t.pixels();
        int last = a.count - 1 - first;
        real total[TIMES][32] = {}, scale[SIDE], shift[SIDE], slope[SIDE];
#pragma unroll
        for (int k = 0; k < SIDE; ++k) {
            Reading read = reading_of(second + k < b.count ? b.by : nullptr, b.count, second + k);
            scale[k] = read.scale, shift[k] = read.shift, slope[k] = read.slope;
        }
#pragma unroll 1
        for (int p = threadIdx.x; p < pixels; p += 32) {
            // Numbers of places: pointers would take registers that there are not.
            int from = first * a.t.size + a.t.at(p), other = second * pixels + p;
            real w[SIDE];
#pragma unroll
            for (int k = 0; k < SIDE; ++k) {
                w[k] = second + k < b.count ? b.from[other] : real(ones);
                w[k] = prelu(w[k] * scale[k] + shift[k], slope[k]);
                other += pixels;
            }
#pragma unroll
            for (int n = 0; n < TIMES; ++n) {
                if (first + n * SIDE >= a.count) break;
#pragma unroll
                for (int k = 0; k < SIDE; ++k) {
                    real v = a.from[from];
                    // Past the last channel, the last one again: nobody looks at that.
                    if (n * SIDE + k < last) from += a.t.size;
#pragma unroll
                    for (int l = 0; l < SIDE; ++l) total[n][k * SIDE + l] += v * w[l];
                }
            }
        }
        int to = (second / SIDE * rows + first) * SIDE + threadIdx.x;
#pragma unroll
        for (int n = 0; n < TIMES; ++n) {
            transposed_sums<16>(total[n]);
            bool there = threadIdx.x < SIDE * SIDE && first + n * SIDE + threadIdx.x / SIDE < a.count;
            if (there) grad[to + n * SIDE * SIDE] = total[n][0];
        }
    }
    job -= jobs;
}

// Shared memory begins with weights; from places that are given on it holds coefficients, of inputs and of gradients;
// stats; of scale 0, the input x and `chunk` channels of the output's gradient, with a border of halo0; for scales s >
// 0: x; d, the output's gradient, scale 1 with a border of halo1; e, what has come down of finer outputs' gradients; q,
// the gradients of finer inputs that were max-pooled (groups*GROUP, pixels), and later on these inputs; and w, which
// pixel was chosen, a byte for each; and f, the weight gradient of the finest inputs and outputs. The others' takes the
// place of x and the gradient of scale 0.
//
// sums: gradient sums (images*tiles, 3, channels), or null. grad_weight: per tile, (groups of SIDE inputs, outs, SIDE),
// or null; each scale's inputs begin with a group, and the finest ones are one more if `ones`, for the sum of a finest
// output's gradient. A target of an input is null where it is not wanted.
template <int GROUP>
__device__ inline void mix_back(
    int height, int width, int tile_height, int tile_width, int halo0, int halo1, int chunk, OF_SCALES(int, ins),
    OF_SCALES(int, outs), OF_SCALES(const real*, map), OF_SCALES(const real*, by), OF_SCALES(const real*, g),
    OF_SCALES(const real*, raw), OF_SCALES(const real*, coefficients), const real* weight, OF_SCALES(real*, target),
    OF_SCALES(int, accumulate), OF_SCALES(real*, sums), real* grad_weight, int ones, int by_at, int stats_at, int f_at,
    int x_at0, int d_at0, int x_at1, int d_at1, int e_at1, int q_at1, int x_at2, int d_at2, int e_at2, int q_at2,
    int w_at1, int w_at2) {
    constexpr int PAD = PADDED(GROUP);
    Groups<GROUP> columns(ins0, ins1, ins2);
    Groups<1> rows(outs0, outs1, outs2);
    int tiles = ((height + tile_height - 1) / tile_height) * ((width + tile_width - 1) / tile_width);
    int index = blockIdx.x % tiles;
    int n = blockIdx.x / tiles;
    real *weights = shared, *read_by = shared + by_at, *stats = shared + stats_at,
         *read_of_raw = shared + by_at + 4 * columns.all, *d0 = shared + d_at0;
    unsigned char *winners1 = (unsigned char*)(shared + w_at1), *winners2 = (unsigned char*)(shared + w_at2);
    const int halo2 = 0, e_at0 = 0, q_at0 = 0;
    Groups<SIDE> sides(ins0 + ones, ins1, ins2);

    for (int s = 0; s < SCALES; ++s) {
        read_coefficients(read_by + 4 * AT(s, columns.first), AT(s, by), AT(s, ins));
        for (int i = thread_number(); AT(s, coefficients) && i < 6 * AT(s, outs); i += thread_count()) {
            read_of_raw[6 * AT(s, rows.first) + i] = AT(s, coefficients)[i];
        }
    }
    __syncthreads();
    for (int s = 0; s < SCALES; ++s) {
        Tile t = tile_of(s, index, tile_height, tile_width, 0, height, width);
        int count = AT(s, ins);
        int64 plane = int64(n) * t.map_height * t.map_width;
        if (count) read_tile(shared + AT(s, x_at), t, Map{AT(s, map) + plane * count, nullptr, count}, 0, count);
        count = AT(s, outs);
        if (!s || !count) continue;
        t = tile_of(s, index, tile_height, tile_width, AT(s, halo), height, width);
        const real* c = AT(s, coefficients) ? read_of_raw + 6 * AT(s, rows.first) : nullptr;
        Gradient from = {AT(s, g) + plane * count, AT(s, raw) + plane * count, c, count};
        read_tile(shared + AT(s, d_at), t, from, 0, count);
    }
    Tile t0 = tile_of(0, index, tile_height, tile_width, 0, height, width);
    Tile t1 = tile_of(1, index, tile_height, tile_width, halo1, height, width);
    Tile t2 = tile_of(2, index, tile_height, tile_width, 0, height, width);
    Tile inner1 = tile_of(1, index, tile_height, tile_width, 0, height, width);
    __syncthreads();
    if (outs1) find_winners<1>(shared + x_at0, t0, read_by, ins0, winners1);
    if (outs2) {
        find_winners<2>(shared + x_at0, t0, read_by, ins0, winners2);
        unsigned char* winners = winners2 + ins0 * t2.pixels();
        find_winners<1>(shared + x_at1, inner1, read_by + 4 * columns.first1, ins1, winners);
    }
    for (int s = 1; s < SCALES; ++s) {  // gradients of finer inputs, max-pooled
        int count = AT(s, outs), finer = AT(s, columns.group);
        bool wanted = target0 || (s == 2 && target1);
        if (!count || !finer || !wanted) continue;
        Tile t = tile_of(s, index, tile_height, tile_width, AT(s, halo), height, width);
        __syncthreads();
        read_weights<GROUP, true>(weights, weight, columns.all, columns, 0, finer, AT(s, rows.first), count);
        __syncthreads();
        int pitch = weight_pitch<GROUP>(finer), parts = (t.pixels() + 32 * COARSE - 1) / (32 * COARSE);
        for (int item = threadIdx.y; item < finer * parts; item += blockDim.y) {
            int group = item % finer, p[COARSE], at[COARSE], number = item / finer * 32 * COARSE + threadIdx.x;
#pragma unroll
            for (int i = 0; i < COARSE; ++i) {
                p[i] = number + 32 * i < t.pixels() ? number + 32 * i : 0;
                at[i] = t.at(p[i]);
            }
            real total[GROUP][COARSE] = {};
            multiply(total, shared + AT(s, d_at), at, t.size, count, weights + group * PAD, pitch);
            real* q = shared + AT(s, q_at) + group * GROUP * t.pixels();
#pragma unroll
            for (int k = 0; k < GROUP; ++k) {
#pragma unroll
                for (int i = 0; i < COARSE; ++i) {
                    if (number + 32 * i < t.pixels()) q[k * t.pixels() + p[i]] = total[k][i];
                }
            }
        }
    }

    // The finest scale: a warp has one group of one part of the tile.
    Tile border = tile_of(0, index, tile_height, tile_width, halo0, height, width);
    int parts = t0.warps(TAKE), group = threadIdx.y / parts, part = threadIdx.y % parts;
    int groups = columns.groups(0), pitch = weight_pitch<GROUP>(groups), p[TAKE];
    bool busy = target0 && group < groups, valid[TAKE];
    real total[GROUP][TAKE] = {};
    __syncthreads();
    if (target0) read_weights<GROUP, true>(weights, weight, columns.all, columns, 0, groups, 0, outs0);
    for (int o = 0; o < outs0; o += chunk) {
        int count = o + chunk < outs0 ? chunk : outs0 - o;
        __syncthreads();
        int64 image = int64(n) * outs0 * height * width;
        Gradient from = {g0 + image, raw0 + image, coefficients0 ? read_of_raw : nullptr, outs0};
        read_tile(d0, border, from, o, count);
        __syncthreads();
        if (busy) {  // its pixels are found anew each time: registers are scarce meanwhile
            int at[TAKE];
            own_pixels(t0, part, p, valid);
#pragma unroll
            for (int i = 0; i < TAKE; ++i) at[i] = border.at(p[i]);
            multiply(total, d0, at, border.size, count, weights + o * pitch + group * PAD, pitch);
        }
        if (ins1) lower_tile<1>(d0, border, count, t1, shared + e_at1 + o * t1.pixels());
        if (ins2) lower_tile<2>(d0, border, count, t2, shared + e_at2 + o * t2.pixels());
        int job = threadIdx.y;
        Inputs x = {shared + x_at0, read_by, ins0};
        if (grad_weight) multiply_weights<1>({d0, count, border}, x, ones, shared + f_at + o * SIDE, outs0, job);
    }
    if (outs1 && ins2) lower_tile<1>(shared + d_at1, t1, outs1, t2, shared + e_at2 + outs0 * t2.pixels());
    if (busy) {
        const real* x = shared + x_at0;
        own_pixels(t0, part, p, valid);
        if (outs1) add_unpooled<1>(total, p, t0, group * GROUP, ins0, shared + q_at1, winners1);
        if (outs2) add_unpooled<2>(total, p, t0, group * GROUP, ins0, shared + q_at2, winners2);
        real* noted = sums0 ? stats : nullptr;
        write_gradient(total, p, valid, t0, part, group, ins0, n, target0, accumulate0, x, read_by, noted);
    }
    if (sums0) {
        __syncthreads();
        write_sums(stats, parts, ins0, sums0 + int64(blockIdx.x) * 3 * ins0);
    }

    for (int s = 1; s < SCALES; ++s) {
        int count = AT(s, ins), finer = AT(s, rows.first), groups = columns.groups(s);
        if (!count || !AT(s, target)) continue;
        Tile t = tile_of(s, index, tile_height, tile_width, 0, height, width);
        Tile border = tile_of(s, index, tile_height, tile_width, AT(s, halo), height, width);
        int parts = t.warps(COARSE), pitch = weight_pitch<GROUP>(groups);
        real* noted = AT(s, sums);
        const real *x = shared + AT(s, x_at), *c = read_by + 4 * AT(s, columns.first);
        __syncthreads();
        read_weights<GROUP, true>(
            weights, weight, columns.all, columns, AT(s, columns.group), groups, 0, finer + AT(s, outs));
        __syncthreads();
        for (int item = threadIdx.y; item < groups * parts; item += blockDim.y) {
            int group = item % groups, p[COARSE], at[COARSE];
            bool valid[COARSE];
            own_pixels(t, item / groups, p, valid);
            const real* w = weights + group * PAD;
            real total[GROUP][COARSE] = {};
            multiply(total, shared + AT(s, e_at), p, t.pixels(), finer, w, pitch);
#pragma unroll
            for (int i = 0; i < COARSE; ++i) at[i] = border.at(p[i]);
            multiply(total, shared + AT(s, d_at), at, border.size, AT(s, outs), w + finer * pitch, pitch);
            if (s == 1 && outs2) {
                const real* q = shared + q_at2 + columns.group1 * GROUP * t2.pixels();
                add_unpooled<1>(total, p, t, group * GROUP, count, q, winners2 + ins0 * t2.pixels());
            }
            write_gradient(total, p, valid, t, item / groups, group, count, n, AT(s, target), AT(s, accumulate), x,
                           c, noted ? stats : nullptr);
        }
        if (noted) {
            __syncthreads();
            write_sums(stats, parts, count, noted + int64(blockIdx.x) * 3 * count);
        }
    }

    if (!grad_weight) return;
    __syncthreads();
    if (outs1) read_winners<1>(shared + x_at0, t0, read_by, ins0, winners1, shared + q_at1);
    if (outs2) {
        read_winners<2>(shared + x_at0, t0, read_by, ins0, winners2, shared + q_at2);
        int before = ins0 * t2.pixels();
        const real* c = read_by + 4 * columns.first1;
        read_winners<1>(shared + x_at1, inner1, c, ins1, winners2 + before, shared + q_at2 + before);
    }
    __syncthreads();
    int job = threadIdx.y;
    for (int s = 1; s < SCALES; ++s) {
        Tile t = tile_of(s, index, tile_height, tile_width, 0, height, width);
        Tile border = tile_of(s, index, tile_height, tile_width, AT(s, halo), height, width);
        int first = AT(s, rows.first), column = AT(s, columns.first);
        real* own = shared + x_at0 + AT(s, sides.group) * rows.all * SIDE;
        Inputs x = {shared + AT(s, x_at), read_by + 4 * column, AT(s, ins)};
        Bordered e = {shared + AT(s, e_at), first, t}, d = {shared + AT(s, d_at), AT(s, outs), border};
        multiply_weights<2>(e, x, false, own, rows.all, job);
        multiply_weights<2>(d, x, false, own + first * SIDE, rows.all, job);
        for (int k = 0; k < s; ++k) {
            int before = AT(k, columns.first), count = AT(s, outs) ? AT(k, ins) : 0;
            Inputs pooled = {shared + AT(s, q_at) + before * t.pixels(), nullptr, count};
            real* grad = shared + x_at0 + (AT(k, sides.group) * rows.all + first) * SIDE;
            multiply_weights<2>(d, pooled, false, grad, rows.all, job);
        }
    }
    __syncthreads();
    write_weights(shared + f_at, outs0, sides.groups(0), shared + x_at0, rows.all, sides.group2 + sides.groups(2),
                  grad_weight);
}

#define MIX_BACK(NAME, GROUP)                                                                                         \
    extern "C" __global__ void __launch_bounds__(SINGLE ? 512 : 256, 1) NAME(                                         \
        int height, int width, int tile_height, int tile_width, int halo0, int halo1, int chunk, OF_SCALES(int, ins), \
        OF_SCALES(int, outs), OF_SCALES(const real*, map), OF_SCALES(const real*, by), OF_SCALES(const real*, g),     \
        OF_SCALES(const real*, raw), OF_SCALES(const real*, coefficients), const real* weight,                        \
        OF_SCALES(real*, target), OF_SCALES(int, accumulate), OF_SCALES(real*, sums), real* grad_weight, int ones,    \
        int by_at, int stats_at, int f_at, int x_at0, int d_at0, int x_at1, int d_at1, int e_at1, int q_at1,          \
        int x_at2, int d_at2, int e_at2, int q_at2, int w_at1, int w_at2) {                                           \
        mix_back<GROUP>(height, width, tile_height, tile_width, halo0, halo1, chunk, ALL(ins), ALL(outs), ALL(map),   \
                        ALL(by), ALL(g), ALL(raw), ALL(coefficients), weight, ALL(target), ALL(accumulate),           \
                        ALL(sums), grad_weight, ones, by_at, stats_at, f_at, x_at0, d_at0, x_at1, d_at1, e_at1,       \
                        q_at1, x_at2, d_at2, e_at2, q_at2, w_at1, w_at2);                                             \
    }
MIX_BACK(mix_back_5, 5)
#if SINGLE  // doubles would not all find room in registers
MIX_BACK(mix_back_10, 10)
#endif
