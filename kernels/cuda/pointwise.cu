// The octave convolution 1x1 over up to three scales in one launch: a block has a tile of pixels of all scales, and no
// intermediate leaves it.
//
// Maps pass through shared memory some channels at a time, the coarser scales' first. What is added up meanwhile is in
// shared memory, too, or for the finest scale in each warp's registers.

// stats (parts, 4, count) in shared memory: the moments of what a warp has of group `own` of a scale's `count` channels
// in a part of a tile, and of how many pixels.
template <int GROUP, int PIXELS>
__device__ inline void note_moments(
    const real (&total)[GROUP][PIXELS], const bool (&valid)[PIXELS], int part, int own, int count, real* stats) {
    int first = -1, lane = 0;
#pragma unroll
    for (int i = PIXELS - 1; i >= 0; --i) {
        unsigned lanes = __ballot_sync(0xffffffffu, valid[i]);
        if (lanes) first = i, lane = __ffs(lanes) - 1;
    }
#pragma unroll
    for (int g = 0; g < GROUP; ++g) {
        int channel = own * GROUP + g;
        real origin = 0, sum = 0, squares = 0, size = 0;
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            if (i == first) origin = __shfl_sync(0xffffffffu, total[g][i], lane);
        }
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) {
            real about = valid[i] ? total[g][i] - origin : real(0);
            sum += about, squares += about * about, size += valid[i];
        }
        sum = warp_sum(sum), squares = warp_sum(squares), size = warp_sum(size);
        if (threadIdx.x == 0 && channel < count) {
            real* to = stats + part * 4 * count + channel;
            to[0] = origin, to[count] = sum, to[2 * count] = squares, to[3 * count] = size;
        }
    }
}

// moments (4, count) of a tile, from those of its parts; the first part has pixels.
__device__ inline void write_moments(const real* stats, int parts, int count, real* moments) {
    for (int c = thread_number(); c < count; c += thread_count()) {
        double origin = stats[c], sum = 0, squares = 0, size = 0;
        for (int k = 0; k < parts; ++k) {
            const real* own = stats + k * 4 * count + c;
            double shift = own[0] - origin, total = own[count], pixels = own[3 * count];
            sum += total + pixels * shift, size += pixels;
            squares += own[2 * count] + shift * (2 * total + pixels * shift);
        }
        moments[c] = real(origin), moments[count + c] = real(sum);
        moments[2 * count + c] = real(squares), moments[3 * count + c] = real(size);
    }
}

// total += pixels p[i] of tile `t` of the scale's maps that are upsampled by 2^times: rows of `coarse` pixels, from
// `up`.
template <int GROUP, int PIXELS>
__device__ inline void add_upsampled(
    real (&total)[GROUP][PIXELS], const int (&p)[PIXELS], const Tile& t, const Tile& coarse, int times,
    const real* up) {
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
        Between v = between(t.top + p[i] / t.width, 1 << times, coarse.map_height);
        Between h = between(t.left + p[i] % t.width, 1 << times, coarse.map_width);
        int above = coarse.at(v.first - coarse.top, -coarse.left);
        int below = coarse.at(v.second - coarse.top, -coarse.left);
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
            const real* plane = up + g * coarse.size;
            real left = (1 - v.share) * plane[above + h.first] + v.share * plane[below + h.first];
            real right = (1 - v.share) * plane[above + h.second] + v.share * plane[below + h.second];
            total[g][i] += (1 - h.share) * left + h.share * right;
        }
    }
}

// Outputs of all scales from inputs of all scales. Shared memory begins with weights; from places that are given on it
// holds the inputs' coefficients and then sums, `by`; stats; for scales s > 0, what their inputs give to outputs of
// finer scales and of their own, y (groups*GROUP, pixels with a border); v2, finer inputs max-pooled to scale 2; and x,
// the inputs under way, `chunk` channels at a time, with a border on scales s > 0. Scale 0 comes last: then x is
// followed by v1, its inputs max-pooled to scale 1.
//
// moments: per tile (images*tiles, 4, channels), or null; sums: of activations, (images*tiles, channels), or null.
template <int GROUP>
__device__ inline void mix(
    int height, int width, int tile_height, int tile_width, int halo, OF_SCALES(int, chunk), OF_SCALES(int, ins),
    OF_SCALES(int, outs), OF_SCALES(const real*, map), OF_SCALES(const real*, by), const real* weight, const real* bias,
    OF_SCALES(real*, out), OF_SCALES(real*, moments), OF_SCALES(real*, sums), int by_at, int stats_at, int y_at1,
    int y_at2, int v_at2, int x_at) {
    constexpr int PAD = PADDED(GROUP);
    Groups<GROUP> rows(outs0, outs1, outs2);
    Groups<1> columns(ins0, ins1, ins2);
    int tiles = ((height + tile_height - 1) / tile_height) * ((width + tile_width - 1) / tile_width);
    int index = blockIdx.x % tiles;
    int64 n = blockIdx.x / tiles;
    real *weights = shared, *read_by = shared + by_at, *stats = shared + stats_at, *x = shared + x_at;
    real* summed = read_by + 4 * columns.all;
    const int y_at0 = 0, v_at0 = 0, v_at1 = x_at + chunk0 * tile_height * tile_width;

    for (int s = 0; s < SCALES; ++s) read_coefficients(read_by + 4 * AT(s, columns.first), AT(s, by), AT(s, ins));
    for (int s = 1; s < SCALES; ++s) {
        int channels = AT(s, ins), groups = AT(s, rows.group) + rows.groups(s), pitch = weight_pitch<GROUP>(groups);
        if (!channels) continue;
        Tile t = tile_of(s, index, tile_height, tile_width, halo, height, width);
        const real* image = AT(s, map) + n * channels * t.map_height * t.map_width;
        Map from = {image, read_by + 4 * AT(s, columns.first), channels};
        for (int c = 0; c < channels; c += AT(s, chunk)) {
            int count = min(AT(s, chunk), channels - c), first = AT(s, columns.first) + c;
            __syncthreads();
            read_tile(x, t, from, c, count);
            read_weights<GROUP, false>(weights, weight, columns.all, rows, 0, groups, first, count);
            __syncthreads();
            if (AT(s, sums)) sum_tile(x, t, count, summed + first);
            if (s == 1 && outs2) pool_tile<1, false>(x, t, count, shared + v_at2 + first * (t.pixels() / 4));
            for (int item = threadIdx.y; item < groups * ((t.size + 32 * COARSE - 1) / (32 * COARSE));
                 item += blockDim.y) {
                int group = item % groups, p = item / groups * 32 * COARSE + threadIdx.x, at[COARSE];
                real total[GROUP][COARSE] = {}, *to = shared + AT(s, y_at) + group * GROUP * t.size + p;
#pragma unroll
                for (int i = 0; i < COARSE; ++i) at[i] = p + 32 * i < t.size ? p + 32 * i : 0;
                multiply(total, x, at, t.size, count, weights + group * PAD, pitch);
#pragma unroll
                for (int g = 0; g < GROUP; ++g) {
#pragma unroll
                    for (int i = 0; i < COARSE; ++i) {
                        if (p + 32 * i >= t.size) break;
                        real before = c ? to[g * t.size + 32 * i] : real(0);
                        to[g * t.size + 32 * i] = before + total[g][i];
                    }
                }
            }
        }
    }

    // The finest scale: a warp has one group of one part of the tile. Where all channels are there at a time, there may
    // be more of these than warps.
    __shared__ Tile kept;  // registers are scarce here: what is read after a barrier need not stay in any
    if (thread_number() == 0) kept = tile_of(0, index, tile_height, tile_width, 0, height, width);
    __syncthreads();
    int parts = kept.warps(TAKE), groups = rows.groups(0);
    int pitch = weight_pitch<GROUP>(groups);
    read_weights<GROUP, false>(weights, weight, columns.all, rows, 0, groups, 0, ins0);
    for (int item = threadIdx.y; item < groups * parts || item < blockDim.y; item += blockDim.y) {
        int group = item / parts, part = item % parts, p[TAKE];
        bool busy = group < groups, valid[TAKE];
        real total[GROUP][TAKE] = {};
        for (int c = 0; c < ins0; c += chunk0) {
            int count = min(chunk0, ins0 - c);
            if (item < blockDim.y) {
                __syncthreads();
                Tile t = kept;
                read_tile(x, t, Map{map0 + n * ins0 * height * width, read_by, ins0}, c, count);
                __syncthreads();
            }
            Tile t = kept;
            if (busy) {
                own_pixels(t, part, p, valid);
                multiply(total, x, p, t.size, count, weights + c * pitch + group * PAD, pitch);
            }
            if (item >= blockDim.y) continue;
            if (sums0) sum_tile(x, t, count, summed + c);
            if (outs1) pool_tile<1, true>(x, t, count, shared + v_at1 + c * (t.pixels() / 4));
            if (outs2) pool_tile<2, true>(x, t, count, shared + v_at2 + c * (t.pixels() / 16));
        }
        if (item < blockDim.y) __syncthreads();  // their sums have kept some warps longer than others
        if (!busy) continue;
        Tile t = kept;
        own_pixels(t, part, p, valid);
        for (int s = 1; s < SCALES; ++s) {
            if (!AT(s, ins)) continue;
            Tile coarse = tile_of(s, index, tile_height, tile_width, halo, height, width);
            add_upsampled(total, p, t, coarse, s, shared + AT(s, y_at) + group * GROUP * coarse.size);
        }
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
            int channel = group * GROUP + g;
            if (channel >= outs0) break;
            real added = bias ? bias[channel] : real(0);
            real* to = out0 + (n * outs0 + channel) * t.map_height * t.map_width;
#pragma unroll
            for (int i = 0; i < TAKE; ++i) {
                total[g][i] += added;
                if (valid[i]) to[place(t, p[i])] = total[g][i];
            }
        }
        if (moments0) note_moments(total, valid, part, group, outs0, stats);
    }
    if (moments0) {
        __syncthreads();
        write_moments(stats, parts, outs0, moments0 + int64(blockIdx.x) * 4 * outs0);
    }

    for (int s = 1; s < SCALES; ++s) {
        int count = AT(s, outs), finer = AT(s, columns.first), groups = rows.groups(s);
        int pitch = weight_pitch<GROUP>(groups);
        if (!count) continue;
        Tile t = tile_of(s, index, tile_height, tile_width, halo, height, width);
        __syncthreads();
        read_weights<GROUP, false>(weights, weight, columns.all, rows, AT(s, rows.group), groups, 0, finer);
        __syncthreads();
        Tile coarse = tile_of(2, index, tile_height, tile_width, halo, height, width);
        int parts = t.warps(COARSE);
        real *to = AT(s, out) + n * count * t.map_height * t.map_width, *noted = AT(s, moments);
        for (int item = threadIdx.y; item < groups * parts; item += blockDim.y) {
            int group = item % groups, p[COARSE];
            bool valid[COARSE];
            own_pixels(t, item / groups, p, valid);
            real total[GROUP][COARSE] = {};
            multiply(total, shared + AT(s, v_at), p, t.pixels(), finer, weights + group * PAD, pitch);
            const real* y = shared + AT(s, y_at) + (AT(s, rows.group) + group) * GROUP * t.size;
#pragma unroll
            for (int g = 0; g < GROUP && AT(s, ins); ++g) {
#pragma unroll
                for (int i = 0; i < COARSE; ++i) total[g][i] += y[g * t.size + t.at(p[i])];
            }
            if (s == 1 && ins2) {
                add_upsampled(total, p, t, coarse, 1, shared + y_at2 + (rows.group1 + group) * GROUP * coarse.size);
            }
#pragma unroll
            for (int g = 0; g < GROUP; ++g) {
                int channel = group * GROUP + g;
                if (channel >= count) break;
                real* plane = to + int64(channel) * t.map_height * t.map_width;
#pragma unroll
                for (int i = 0; i < COARSE; ++i) {
                    if (valid[i]) plane[place(t, p[i])] = total[g][i];
                }
            }
            if (noted) note_moments(total, valid, item / groups, group, count, stats);
        }
        if (noted) {
            __syncthreads();
            write_moments(stats, parts, count, noted + int64(blockIdx.x) * 4 * count);
        }
    }

    __syncthreads();
    for (int s = 0; s < SCALES; ++s) {
        int count = AT(s, ins);
        real* to = AT(s, sums);
        for (int i = thread_number(); to && i < count; i += thread_count()) {
            to[int64(blockIdx.x) * count + i] = summed[AT(s, columns.first) + i];
        }
    }
}

#define MIX(NAME, GROUP)                                                                                              \
    extern "C" __global__ void __launch_bounds__(SINGLE ? 512 : 256, 1) NAME(                                        \
        int height, int width, int tile_height, int tile_width, int halo, OF_SCALES(int, chunk),                     \
        OF_SCALES(int, ins), OF_SCALES(int, outs), OF_SCALES(const real*, map), OF_SCALES(const real*, by),          \
        const real* weight, const real* bias, OF_SCALES(real*, out), OF_SCALES(real*, moments),                      \
        OF_SCALES(real*, sums), int by_at, int stats_at, int y_at1, int y_at2, int v_at2, int x_at) {                \
        mix<GROUP>(height, width, tile_height, tile_width, halo, ALL(chunk), ALL(ins), ALL(outs), ALL(map), ALL(by), \
                   weight, bias, ALL(out), ALL(moments), ALL(sums), by_at, stats_at, y_at1, y_at2, v_at2, x_at);     \
    }
MIX(mix_5, 5)
#if SINGLE  // doubles would not all find room in registers
MIX(mix_10, 10)
#endif
