// Gradients of the octave convolution 1x1 over up to three scales in one launch: a block has a tile of pixels of all
// scales, and no intermediate leaves it.
//
// Gradients of the finest output pass through shared memory `chunk` channels at a time, while each warp keeps what it
// adds up of the finest input's gradient in registers; all else is there as a whole.

// d (count, t.size) = channels `first` and following of the tile of a DeferredGradient; zero outside the map.
__device__ inline void read_gradient(
    real* d, const Tile& t, const real* g, const real* raw, const real* by, int channels, int first, int count) {
    constexpr int AHEAD = 4;  // rows of which a warp loads pixels before it stores any
    int rows = t.height + 2 * t.halo, left = t.left - t.halo;
    for (int i = threadIdx.y; i < count * rows; i += AHEAD * blockDim.y) {
        for (int x = (left & ~7) + int(threadIdx.x); x < left + t.pitch; x += 32) {
            if (x < left) continue;
            real v[AHEAD], u[AHEAD] = {};
#pragma unroll
            for (int k = 0; k < AHEAD; ++k) {
                int row = i + k * blockDim.y, y = t.top - t.halo + row % rows;
                bool inside = row < count * rows && y >= 0 && y < t.map_height && x >= 0 && x < t.map_width;
                int64 at = (int64(first + row / rows) * t.map_height + y) * t.map_width + x;
                v[k] = inside ? g[at] : real(0);
                if (by) u[k] = inside ? raw[at] : real(0);
            }
#pragma unroll
            for (int k = 0; k < AHEAD; ++k) {
                int row = i + k * blockDim.y, y = t.top - t.halo + row % rows;
                if (row >= count * rows) break;
                bool inside = y >= 0 && y < t.map_height && x >= 0 && x < t.map_width;
                if (by) v[k] = differentiated(v[k], u[k], by, channels, first + row / rows);
                d[row / rows * t.size + row % rows * t.pitch + x - left] = inside ? v[k] : real(0);
            }
        }
    }
}

// to (count, pixels of a tile coarser by 2^times) = the adjoint of upsampling, of channels d in shared
// memory; zero outside the map.
__device__ inline void lower_tile(
    const real* d, const Tile& fine, int count, int times, const Tile& coarse, real* to) {
    int factor = 1 << times, half = factor / 2, pixels = coarse.pixels();
    for (int i = thread_number(); i < count * pixels; i += thread_count()) {
        int y = i % pixels / coarse.width, x = i % pixels % coarse.width;
        const real* corner = d + i / pixels * fine.size + fine.at(y * factor - half, x * factor - half);
        real total = 0;
        for (int k = 0; k < 2 * factor; ++k) {
            real row = 0;
            for (int l = 0; l < 2 * factor; ++l) {
                row += returned(l, factor, coarse.left + x, coarse.map_width) * corner[k * fine.pitch + l];
            }
            total += returned(k, factor, coarse.top + y, coarse.map_height) * row;
        }
        to[i] = coarse.top + y < coarse.map_height && coarse.left + x < coarse.map_width ? total : real(0);
    }
}

// total += gradients of max-pooled maps, coarser by 2^times, of channels `first` and following of `count`, where the
// activation of x is the first of the largest.
template <int GROUP, int PIXELS>
__device__ inline void add_unpooled(
    real (&total)[GROUP][PIXELS], const int (&p)[PIXELS], const Tile& t, const real* x, const real* by, int first,
    int count, int times, const real* pooled) {
    int window = 1 << times, pixels = t.pixels() >> 2 * times;
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
        int y = p[i] / t.width, left = p[i] % t.width, rank = (y & window - 1) * window + (left & window - 1);
        const real* corner = x + t.at(y >> times << times, left >> times << times);
        int at = (y >> times) * (t.width >> times) + (left >> times);
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
            if (first + g >= count) break;
            const real* own = corner + (first + g) * t.size;
            real mine = activated(own[(rank >> times) * t.pitch + (rank & window - 1)], by, count, first + g);
            bool wins = true;
#pragma unroll 1
            for (int k = 0; k < window * window; ++k) {
                real other = activated(own[(k >> times) * t.pitch + (k & window - 1)], by, count, first + g);
                if (k != rank) wins = wins && (k < rank ? larger(mine, other) : !larger(other, mine));
            }
            if (wins) total[g][i] += pooled[(first + g) * pixels + at];
        }
    }
}

// What a warp has of the gradient of group `own` of a scale's `count` inputs goes to the map `out`; the gradient sums
// of a part of the tile, whose input is x, go to stats (parts, 3, count), if they are wanted.
template <int GROUP, int PIXELS>
__device__ inline void write_gradient(
    real (&total)[GROUP][PIXELS], const int (&p)[PIXELS], const bool (&valid)[PIXELS], const Tile& t, int part, int own,
    int count, int64 n, real* out, int accumulate, const real* x, const real* by, real* stats) {
#pragma unroll
    for (int g = 0; g < GROUP; ++g) {
        int channel = own * GROUP + g;
        if (channel >= count) break;
        int64 plane = (n * count + channel) * t.map_height * t.map_width;
        real sums[3] = {};
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            if (!valid[i]) continue;
            int64 at = plane + place(t, p[i]);
            if (accumulate) total[g][i] += out[at];
            out[at] = total[g][i];
            if (stats) {
                real raw = x[channel * t.size + p[i]];
                add_gradient_sums(sums[0], sums[1], sums[2], total[g][i], raw, by, count, channel);
            }
        }
        if (!stats) continue;
#pragma unroll
        for (int k = 0; k < 3; ++k) {
            real sum = warp_sum(sums[k]);
            if (threadIdx.x == 0) stats[(part * 3 + k) * count + channel] = sum;
        }
    }
}

__device__ inline void write_sums(const real* stats, int parts, int count, real* sums) {
    for (int i = thread_number(); i < 3 * count; i += thread_count()) {
        real sum = 0;
        for (int k = 0; k < parts; ++k) sum += stats[k * 3 * count + i];
        sums[i] = sum;
    }
}

// A side of a product for the gradient of a weight: channels of a tile in shared memory.
struct Side {
    const real* from;
    int count, pitch, origin, step;  // how many channels; from row to row, to the first pixel, from channel to channel
    const real* by;                  // coefficients of what is activated first, or null
};

// grad[i*row + j] = the sum over a tile of channel i of a times channel j of b; where `ones`, b has one more, of ones.
// Warps take SIDE times SIDE of them; `job` counts warps' jobs, and is where the last product has left it.
__device__ inline void multiply_weights(
    const Tile& t, const Side& a, const Side& b, bool ones, real* grad, int row, int& job) {
    int across = (b.count + ones + SIDE - 1) / SIDE, jobs = (a.count + SIDE - 1) / SIDE * across;
    for (; job < jobs; job += blockDim.y) {
        int first = job / across * SIDE, second = job % across * SIDE;
        real total[32] = {}, scale[SIDE], shift[SIDE], slope[SIDE];
#pragma unroll
        for (int k = 0; k < SIDE; ++k) {
            bool there = b.by && second + k < b.count;
            const real* by = b.by + second + k;
            scale[k] = there ? by[0] : real(1), shift[k] = there ? by[b.count] : real(0);
            slope[k] = there ? by[2 * b.count] : real(1);
        }
#pragma unroll 1
        for (int p = threadIdx.x; p < t.pixels(); p += 32) {
            int y = p / t.width, x = p % t.width;
            real v[SIDE], w[SIDE];
#pragma unroll
            for (int k = 0; k < SIDE; ++k) {
                // Past the last channel, the last one again: nobody looks at that.
                v[k] = a.from[min(first + k, a.count - 1) * a.step + a.origin + y * a.pitch + x];
                w[k] = second + k < b.count ? b.from[(second + k) * b.step + b.origin + y * b.pitch + x] : real(ones);
                w[k] = prelu(w[k] * scale[k] + shift[k], slope[k]);
            }
#pragma unroll
            for (int k = 0; k < SIDE * SIDE; ++k) total[k] += v[k / SIDE] * w[k % SIDE];
        }
        transposed_sums<16>(total);
        int i = first + threadIdx.x / SIDE, j = second + threadIdx.x % SIDE;
        if (threadIdx.x < SIDE * SIDE && i < a.count && j < b.count + ones) grad[int64(i) * row + j] = total[0];
    }
    job -= jobs;
}

// Shared memory begins with weights; from places that are given on it holds coefficients, of inputs and of gradients;
// stats; of scale 0, the input x and `chunk` channels of the output's gradient, with a border of halo0; for scales s >
// 0: x; d, the output's gradient, scale 1 with a border of halo1; e, what has come down of finer outputs' gradients;
// and q, the gradients of finer inputs that were max-pooled (groups*GROUP, pixels), and later on these inputs.
//
// sums: gradient sums (images*tiles, 3, channels), or null. grad_weight: per tile, (outs, ins + 1), or null; the last
// column is the sum of a finest output's gradient, if `ones`. A target of an input is null where it is not wanted.
template <int GROUP>
__device__ inline void mix_back(
    int height, int width, int tile_height, int tile_width, int halo0, int halo1, int chunk, OF_SCALES(int, ins),
    OF_SCALES(int, outs), OF_SCALES(const real*, map), OF_SCALES(const real*, by), OF_SCALES(const real*, g),
    OF_SCALES(const real*, raw), OF_SCALES(const real*, coefficients), const real* weight, OF_SCALES(real*, target),
    OF_SCALES(int, accumulate), OF_SCALES(real*, sums), real* grad_weight, int ones, int by_at, int stats_at, int x_at0,
    int d_at0, int x_at1, int d_at1, int e_at1, int q_at1, int x_at2, int d_at2, int e_at2, int q_at2) {
    constexpr int PAD = PADDED(GROUP);
    Groups<GROUP> columns(ins0, ins1, ins2);
    Groups<1> rows(outs0, outs1, outs2);
    int tiles = ((height + tile_height - 1) / tile_height) * ((width + tile_width - 1) / tile_width);
    int index = blockIdx.x % tiles, line = columns.all + 1;
    int64 n = blockIdx.x / tiles;
    real *weights = shared, *read_by = shared + by_at, *stats = shared + stats_at,
         *read_of_raw = shared + by_at + 4 * columns.all, *d0 = shared + d_at0;
    const int halo2 = 0, e_at0 = 0, q_at0 = 0;
    if (grad_weight) grad_weight += int64(blockIdx.x) * rows.all * line;

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
        int64 plane = n * t.map_height * t.map_width;
        if (count) read_tile(shared + AT(s, x_at), t, AT(s, map) + plane * count, nullptr, count, 0, count);
        count = AT(s, outs);
        if (!s || !count) continue;
        t = tile_of(s, index, tile_height, tile_width, AT(s, halo), height, width);
        const real *first = AT(s, g) + plane * count, *second = AT(s, raw) + plane * count;
        const real* c = AT(s, coefficients) ? read_of_raw + 6 * AT(s, rows.first) : nullptr;
        read_gradient(shared + AT(s, d_at), t, first, second, c, count, 0, count);
    }
    for (int s = 1; s < SCALES; ++s) {  // gradients of finer inputs, max-pooled
        int count = AT(s, outs), finer = AT(s, columns.group);
        bool wanted = target0 || (s == 2 && target1);
        if (!count || !finer || !wanted) continue;
        Tile t = tile_of(s, index, tile_height, tile_width, AT(s, halo), height, width);
        __syncthreads();
        read_weights<GROUP, true>(weights, weight, columns.all, columns, 0, finer, AT(s, rows.first), count);
        __syncthreads();
        for (int item = threadIdx.y; item < finer * ((t.pixels() + 31) / 32); item += blockDim.y) {
            int group = item % finer, number = item / finer * 32 + threadIdx.x, p = number < t.pixels() ? number : 0;
            int at[1] = {t.at(p)};
            real total[GROUP][1] = {};
            multiply(total, shared + AT(s, d_at), at, t.size, count, weights + group * PAD, finer * PAD);
            real* q = shared + AT(s, q_at) + group * GROUP * t.pixels() + p;
#pragma unroll
            for (int k = 0; k < GROUP; ++k) {
                if (number < t.pixels()) q[k * t.pixels()] = total[k][0];
            }
        }
    }

    // The finest scale: a warp has one group of one part of the tile.
    Tile t0 = tile_of(0, index, tile_height, tile_width, 0, height, width);
    Tile t1 = tile_of(1, index, tile_height, tile_width, halo1, height, width);
    Tile t2 = tile_of(2, index, tile_height, tile_width, 0, height, width);
    Tile border = tile_of(0, index, tile_height, tile_width, halo0, height, width);
    int parts = (t0.pixels() + 32 * TAKE - 1) / (32 * TAKE), group = threadIdx.y / parts, part = threadIdx.y % parts;
    int groups = columns.groups(0), p[TAKE];
    bool busy = target0 && group < groups, valid[TAKE];
    real total[GROUP][TAKE] = {};
    Side x0 = {shared + x_at0, ins0, t0.pitch, 0, t0.size, read_by};
    for (int o = 0; o < outs0; o += chunk) {
        int count = o + chunk < outs0 ? chunk : outs0 - o;
        __syncthreads();
        read_weights<GROUP, true>(weights, weight, columns.all, columns, 0, groups, o, count);
        int64 image = n * outs0 * height * width;
        read_gradient(d0, border, g0 + image, raw0 + image, coefficients0 ? read_of_raw : nullptr, outs0, o, count);
        __syncthreads();
        if (busy) {  // its pixels are found anew each time: registers are scarce meanwhile
            int at[TAKE];
            own_pixels(t0, part, p, valid);
#pragma unroll
            for (int i = 0; i < TAKE; ++i) at[i] = border.at(p[i]);
            multiply(total, d0, at, border.size, count, weights + group * PAD, groups * PAD);
        }
        if (ins1) lower_tile(d0, border, count, 1, t1, shared + e_at1 + o * t1.pixels());
        if (ins2) lower_tile(d0, border, count, 2, t2, shared + e_at2 + o * t2.pixels());
        Side d = {d0, count, border.pitch, border.at(0, 0), border.size, nullptr};
        int job = threadIdx.y;
        if (grad_weight) multiply_weights(t0, d, x0, ones, grad_weight + int64(o) * line, line, job);
    }
    if (outs1 && ins2) lower_tile(shared + d_at1, t1, outs1, 1, t2, shared + e_at2 + outs0 * t2.pixels());
    __syncthreads();
    if (busy) {
        const real* x = shared + x_at0;
        own_pixels(t0, part, p, valid);
        if (outs1) add_unpooled(total, p, t0, x, read_by, group * GROUP, ins0, 1, shared + q_at1);
        if (outs2) add_unpooled(total, p, t0, x, read_by, group * GROUP, ins0, 2, shared + q_at2);
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
        int parts = (t.pixels() + 31) / 32;
        real* noted = AT(s, sums);
        const real *x = shared + AT(s, x_at), *c = read_by + 4 * AT(s, columns.first);
        __syncthreads();
        read_weights<GROUP, true>(
            weights, weight, columns.all, columns, AT(s, columns.group), groups, 0, finer + AT(s, outs));
        __syncthreads();
        for (int item = threadIdx.y; item < groups * parts; item += blockDim.y) {
            int group = item % groups, p[1];
            bool valid[1];
            own_pixels(t, item / groups, p, valid);
            const real* w = weights + group * PAD;
            real total[GROUP][1] = {};
            multiply(total, shared + AT(s, e_at), p, t.pixels(), finer, w, groups * PAD);
            int at[1] = {border.at(p[0])};
            multiply(total, shared + AT(s, d_at), at, border.size, AT(s, outs), w + finer * groups * PAD, groups * PAD);
            if (s == 1 && outs2) {
                const real* q = shared + q_at2 + columns.group1 * GROUP * t2.pixels();
                add_unpooled(total, p, t, x, c, group * GROUP, count, 1, q);
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
    if (outs1) pool_tile(shared + x_at0, t0, ins0, 1, shared + q_at1, read_by);
    if (outs2) {
        pool_tile(shared + x_at0, t0, ins0, 2, shared + q_at2, read_by);
        Tile inner = tile_of(1, index, tile_height, tile_width, 0, height, width);
        const real* c = read_by + 4 * columns.first1;
        pool_tile(shared + x_at1, inner, ins1, 1, shared + q_at2 + ins0 * t2.pixels(), c);
    }
    __syncthreads();
    int job = threadIdx.y;
    for (int s = 1; s < SCALES; ++s) {
        Tile t = tile_of(s, index, tile_height, tile_width, 0, height, width);
        Tile border = tile_of(s, index, tile_height, tile_width, AT(s, halo), height, width);
        int first = AT(s, rows.first), column = AT(s, columns.first);
        Side e = {shared + AT(s, e_at), first, t.pitch, 0, t.size, nullptr};
        Side d = {shared + AT(s, d_at), AT(s, outs), border.pitch, border.at(0, 0), border.size, nullptr};
        Side x = {shared + AT(s, x_at), AT(s, ins), t.pitch, 0, t.size, read_by + 4 * column};
        Side pooled = {shared + AT(s, q_at), AT(s, outs) ? column : 0, t.pitch, 0, t.size, nullptr};
        multiply_weights(t, e, x, false, grad_weight + column, line, job);
        multiply_weights(t, d, x, false, grad_weight + int64(first) * line + column, line, job);
        multiply_weights(t, d, pooled, false, grad_weight + int64(first) * line, line, job);
    }
}

#define MIX_BACK(NAME, GROUP)                                                                                         \
    extern "C" __global__ void __launch_bounds__(SINGLE ? 512 : 256, 1) NAME(                                        \
        int height, int width, int tile_height, int tile_width, int halo0, int halo1, int chunk, OF_SCALES(int, ins), \
        OF_SCALES(int, outs), OF_SCALES(const real*, map), OF_SCALES(const real*, by), OF_SCALES(const real*, g),    \
        OF_SCALES(const real*, raw), OF_SCALES(const real*, coefficients), const real* weight,                       \
        OF_SCALES(real*, target), OF_SCALES(int, accumulate), OF_SCALES(real*, sums), real* grad_weight, int ones,   \
        int by_at, int stats_at, int x_at0, int d_at0, int x_at1, int d_at1, int e_at1, int q_at1, int x_at2,        \
        int d_at2, int e_at2, int q_at2) {                                                                           \
        mix_back<GROUP>(height, width, tile_height, tile_width, halo0, halo1, chunk, ALL(ins), ALL(outs), ALL(map),  \
                        ALL(by), ALL(g), ALL(raw), ALL(coefficients), weight, ALL(target), ALL(accumulate),          \
                        ALL(sums), grad_weight, ones, by_at, stats_at, x_at0, d_at0, x_at1, d_at1, e_at1, q_at1,     \
                        x_at2, d_at2, e_at2, q_at2);                                                                 \
    }
MIX_BACK(mix_back_5, 5)
#if SINGLE  // doubles would not all find room in registers
MIX_BACK(mix_back_10, 10)
#endif
