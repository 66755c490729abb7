// Octave convolutions 1x1: tiles of pixels of up to three scales, and products of them in shared memory.
//
// Channels are taken in groups of GROUP, whose weights lie together in shared memory, padded for loads of pairs. A warp
// multiplies one group for 32*TAKE pixels of the finest scale at a time, and for 32*COARSE of the others.

#define SCALES 3
#define OF_SCALES(T, NAME) T NAME##0, T NAME##1, T NAME##2
#define AT(SCALE, NAME) ((SCALE) == 0 ? NAME##0 : (SCALE) == 1 ? NAME##1 : NAME##2)
#define ALL(NAME) NAME##0, NAME##1, NAME##2
#define PADDED(GROUP) ((GROUP + 1) / 2 * 2)
#define TAKE 4    // pixels of a thread, on the finest scale
#define COARSE 2  // and on the others
#define SECTOR 8  // pixels that memory moves at once, of float32

extern __shared__ __align__(16) real shared[];

// Where a block is on a scale: its pixels, and in shared memory, `halo` more on each side. Lanes that have a pixel each
// take its rows in lines of `line`, so that these begin where sectors of memory do: `lead` pixels before a row.
struct Tile {
    int top, left, height, width, halo, pitch, size, map_height, map_width, line, lead;

    __device__ int pixels() const { return height * width; }
    // How many warps take its pixels, of which a lane takes so many.
    __device__ int warps(int of_lane) const { return (height * line + 32 * of_lane - 1) / (32 * of_lane); }
    // Where in shared memory pixel (y, x) of the tile is, or its pixel number p.
    __device__ int at(int y, int x) const { return (y + halo) * pitch + x + halo; }
    __device__ int at(int p) const { return at(p / width, p % width); }
};

__device__ inline Tile tile_of(int scale, int index, int tile_height, int tile_width, int halo, int height, int width) {
    int across = (width + tile_width - 1) / tile_width;
    Tile t;
    t.height = tile_height >> scale, t.width = tile_width >> scale, t.halo = halo;
    t.top = index / across * t.height, t.left = index % across * t.width;
    t.pitch = t.width + 2 * halo, t.size = t.pitch * (t.height + 2 * halo);
    t.map_height = height >> scale, t.map_width = width >> scale;
    // Rows begin up to `late` pixels behind a sector's start, all of a tile at the same place.
    int step = t.width | SECTOR, late = SECTOR - (step & -step);
    bool apart = t.width < t.map_width && t.map_width % SECTOR == 0;
    t.line = apart ? (t.width + late + SECTOR - 1) / SECTOR * SECTOR : t.width, t.lead = apart ? t.left % SECTOR : 0;
    return t;
}

__device__ inline int thread_number() { return threadIdx.y * 32 + threadIdx.x; }
__device__ inline int thread_count() { return blockDim.y * 32; }

// to = the four rows of a map's coefficients; of a map that has none, those that change nothing.
__device__ inline void read_coefficients(real* to, const real* coefficients, int channels) {
    for (int i = thread_number(); i < 4 * channels; i += thread_count()) {
        to[i] = coefficients ? coefficients[i] : i / channels % 2 ? real(0) : real(1);
    }
}

// to (count, t.size) = channels `first` and following of the tile; zero outside the map. Lanes read along rows, from a
// multiple of 8 pixels on, which is where sectors begin. All of them load, some a neighbour's pixel: they stay
// together.
template <typename Source>
__device__ inline void read_tile(real* to, const Tile& t, const Source& from, int first, int count) {
    constexpr int ROWS = 3;  // of a channel, of which a warp has values under way before it stores any
    int rows = t.height + 2 * t.halo, left = t.left - t.halo, groups = (rows + ROWS - 1) / ROWS;
    int begin = max(left, 0), end = min(left + t.pitch, t.map_width);
    for (int i = threadIdx.y; i < count * groups; i += blockDim.y) {
        int c = i / groups, top = i % groups * ROWS, y = t.top - t.halo + top;
        auto reader = from.reader(first + c);
        int64 at = (int64(first + c) * t.map_height + y) * t.map_width;
        real* line = to + c * t.size + top * t.pitch;
        for (int start = begin & ~7; start < end; start += 32) {
            int x = start + int(threadIdx.x), near = min(max(x, begin), end - 1);
            typename Source::Value v[ROWS];
#pragma unroll
            for (int k = 0; k < ROWS; ++k) {
                if (top + k < rows && y + k >= 0 && y + k < t.map_height) v[k] = from.load(at + k * t.map_width + near);
            }
            if (x != near) continue;
#pragma unroll
            for (int k = 0; k < ROWS; ++k) {
                if (top + k >= rows) break;
                bool inside = y + k >= 0 && y + k < t.map_height;
                line[k * t.pitch + x - left] = inside ? Source::read(reader, v[k]) : real(0);
            }
        }
        for (int x = threadIdx.x; x < t.pitch - (end - begin); x += 32) {
#pragma unroll
            for (int k = 0; k < ROWS; ++k) {
                if (top + k < rows) line[k * t.pitch + (x < begin - left ? x : x + end - begin)] = 0;
            }
        }
    }
}

// sums[c] = the sum of a channel over the tile, of `count` channels; all in shared memory.
__device__ inline void sum_tile(const real* from, const Tile& t, int count, real* sums) {
    for (int c = threadIdx.y; c < count; c += blockDim.y) {
        real sum = 0;
        for (int p = threadIdx.x; p < t.pixels(); p += 32) sum += from[c * t.size + t.at(p)];
        sum = warp_sum(sum);
        if (threadIdx.x == 0) sums[c] = sum;
    }
}

// The first of the largest activations of a window of pixels of a tile, whose sides are 2^TIMES: its number, row by
// row, and its value. PAIRS: the window begins at an even place.
struct Winner {
    real value;
    int number;
};
template <int TIMES, bool PAIRS>
__device__ inline Winner winner_of(const real* corner, int pitch, Reading read) {
    Winner best = {0, -1};
#pragma unroll
    for (int k = 0; k < 1 << 2 * TIMES; k += 2) {
        const real* at = corner + (k >> TIMES) * pitch + (k & (1 << TIMES) - 1);
        pair v = PAIRS ? *(const pair*)at : pair{at[0], at[1]};
        real first = read(v.x), second = read(v.y);
        if (best.number < 0 || larger(first, best.value)) best = {first, k};
        if (larger(second, best.value)) best = {second, k + 1};
    }
    return best;
}

// to (count, pixels of a tile coarser by 2^TIMES) = channels in shared memory, max-pooled.
template <int TIMES, bool PAIRS>
__device__ inline void pool_tile(const real* from, const Tile& fine, int count, real* to) {
    int width = fine.width >> TIMES, pixels = fine.pixels() >> 2 * TIMES;
    for (int i = thread_number(); i < count * pixels; i += thread_count()) {
        int c = i / pixels, p = i % pixels, at = fine.at(p / width << TIMES, p % width << TIMES);
        to[i] = winner_of<TIMES, PAIRS>(from + c * fine.size + at, fine.pitch, {1, 0, 1, 0}).value;
    }
}

// total[g][i] += the sum over `count` channels k of weights[k*pitch + g] * x[k*step + at[i]], all in shared memory.
template <int GROUP, int PIXELS>
__device__ inline void multiply(
    real (&total)[GROUP][PIXELS], const real* x, const int (&at)[PIXELS], int step, int count, const real* weights,
    int pitch) {
#pragma unroll 2  // more would take registers that there are not
    for (int k = 0; k < count; ++k) {
        real w[PADDED(GROUP)], v[PIXELS];
#pragma unroll
        for (int i = 0; i < PADDED(GROUP); i += 2) {
            pair two = *(const pair*)(weights + k * pitch + i);
            w[i] = two.x, w[i + 1] = two.y;
        }
#pragma unroll
        for (int i = 0; i < PIXELS; ++i) v[i] = x[k * step + at[i]];
#pragma unroll
        for (int g = 0; g < GROUP; ++g) {
#pragma unroll
            for (int i = 0; i < PIXELS; ++i) total[g][i] += w[g] * v[i];
        }
    }
}

// Channels of three scales in groups: each scale begins with a group of its own.
template <int GROUP>
struct Groups {
    int OF_SCALES(, count), OF_SCALES(, first), OF_SCALES(, group), all;

    __device__ Groups(int a, int b, int c) {
        count0 = a, count1 = b, count2 = c, first0 = 0, first1 = a, first2 = a + b, all = a + b + c;
        group0 = 0, group1 = (a + GROUP - 1) / GROUP, group2 = group1 + (b + GROUP - 1) / GROUP;
    }
    // How many groups a scale has.
    __device__ int groups(int scale) const { return (AT(scale, count) + GROUP - 1) / GROUP; }
    // The number of member g of a group among all channels, or -1.
    __device__ int channel(int index, int g) const {
        int scale = index >= group2 ? 2 : index >= group1 ? 1 : 0, own = (index - AT(scale, group)) * GROUP + g;
        return g < GROUP && own < AT(scale, count) ? AT(scale, first) + own : -1;
    }
};

// How many weights lie between those of a channel and of the next one, of so many groups: twice an odd number, so that
// the lanes of a warp that write those of 32 channels meet in few banks.
template <int GROUP>
__device__ inline int weight_pitch(int groups) {
    return (groups * PADDED(GROUP) / 2 | 1) * 2;
}

// to (count, weight_pitch) = the weights of channels `first` and following of one side with some groups of the other
// side's, zero where a group is not full. The weight has rows of `columns`; BACK: the groups are those of columns. A
// warp reads no row in two pieces that it could read at once: each piece may cost a sector more.
template <int GROUP, bool BACK>
__device__ inline void read_weights(
    real* to, const real* weight, int columns, const Groups<GROUP>& side, int first_group, int groups, int first,
    int count) {
    constexpr int PAD = PADDED(GROUP);
    int pitch = weight_pitch<GROUP>(groups), line = BACK ? groups * PAD : count;  // of what lies side by side
    int lanes = line < 32 ? 32 / max(line, 1) * line : 32;
    for (int i = threadIdx.y * lanes + threadIdx.x; i < count * groups * PAD; i += blockDim.y * lanes) {
        if (threadIdx.x >= lanes) break;
        int slot = BACK ? i % (groups * PAD) : i / count, k = BACK ? i / (groups * PAD) : i % count;
        int channel = side.channel(first_group + slot / PAD, slot % PAD);
        int64 at = BACK ? int64(first + k) * columns + channel : int64(channel) * columns + first + k;
        to[k * pitch + slot] = channel >= 0 ? weight[at] : real(0);
    }
}

// The pixels of the tile that a lane has in a part of it, number by number, and which of them are pixels of the map.
template <int PIXELS>
__device__ inline void own_pixels(const Tile& t, int part, int (&p)[PIXELS], bool (&valid)[PIXELS]) {
#pragma unroll
    for (int i = 0; i < PIXELS; ++i) {
        int number = (part * PIXELS + i) * 32 + threadIdx.x, y = number / t.line, x = number % t.line - t.lead;
        bool inside = y < t.height && x >= 0 && x < t.width;
        p[i] = inside ? y * t.width + x : 0;
        valid[i] = inside && t.top + y < t.map_height && t.left + x < t.map_width;
    }
}

// Where pixel p of the tile is in the map's plane.
__device__ inline int64 place(const Tile& t, int p) {
    return int64(t.top + p / t.width) * t.map_width + t.left + p % t.width;
}
