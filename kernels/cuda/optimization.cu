// What ends a training step: decay of the scales, a note of what came of it, the optimiser's update, averages.
//
// state[0] is the number of steps made, state[1] whether training has halted. Kernels read both when they run, so
// nobody waits for them. Updates are computed in double, since there is little of them: settings such as 1 - beta2 need
// it, and what takes time is memory.

#define THREADS 256

// --- Dynamic weight decay. -------------------------------------------------------------------------------------------

#define AVERAGE_POOLING 0
#define CONSTANT 1  // else the metric is given

// Of each norm: its activation sums (images, channels), or its metric (channels,); the factor of the metric, and, in
// `shape`, images << 32 | channels.
#define NORM(K) const double *sums##K, const real *scale##K, real *gradient##K, int64 shape##K, double factor##K,
#define CHOOSE_NORM(K) \
    case K: sums = sums##K, scale = scale##K, gradient = gradient##K, shape = shape##K, factor = factor##K; break;

// gradient += strength * metric * scale of each norm, a block to each; penalties[y] = the sum of metric * scale**2.
extern "C" __global__ void decay_scales(EACH(NORM) int metric, double strength, double* penalties) {
    __shared__ double shared[THREADS / 32];
    const double* sums = nullptr;
    const real* scale = nullptr;
    real* gradient = nullptr;
    int64 shape = 0;
    double factor = 0;
    switch (blockIdx.y) { EACH(CHOOSE_NORM) }
    int images = shape >> 32, channels = shape & 0xffffffff;
    double penalty = 0;
    for (int c = threadIdx.x; c < channels; c += THREADS) {
        double value = metric == CONSTANT ? 1 : 0;
        if (metric != CONSTANT)
            for (int n = 0; n < images; ++n) {
                double sum = sums[int64(n) * channels + c];
                value += metric == AVERAGE_POOLING ? fabs(sum) : sum;
            }
        value *= factor;
        double s = scale[c];
        gradient[c] += real(strength * value * s);
        penalty += value * s * s;
    }
    penalty = block_sum(penalty, shared);
    if (threadIdx.x == 0) penalties[blockIdx.y] = penalty;
}

// penalty = half the sum of those of all norms.
extern "C" __global__ void add_penalties(int count, const double* penalties, double* penalty) {
    __shared__ double shared[THREADS / 32];
    double total = 0;
    for (int i = threadIdx.x; i < count; i += THREADS) total += penalties[i];
    total = block_sum(total, shared);
    if (threadIdx.x == 0) *penalty = total / 2;
}

// --- What a step came to. --------------------------------------------------------------------------------------------

// Over the elements i of the parts of a flat array that `ranges` (count, 3) tells of: start, stop, and a row of
// settings. Row y of the grid treats range y, and the one as many later as there are rows.
#define RANGES(R) for (int R = blockIdx.y; R < count; R += gridDim.y)
#define IN_RANGE(R, I) \
    for (int64 I = ranges[3 * R] + FIRST_ELEMENT, stop = ranges[3 * R + 1]; I < stop; I += NEXT_ELEMENT)
#define BLOCK (blockIdx.y * gridDim.x + blockIdx.x)

// found[block] = whether any gradient that the block has looked at is not finite.
extern "C" __global__ void find_nonfinite(int count, const int64* ranges, const real* gradient, int* found) {
    bool bad = false;
    RANGES(r) IN_RANGE(r, i) bad |= !isfinite(gradient[i]);
    bad = __syncthreads_or(bad);
    if (threadIdx.x == 0) found[BLOCK] = bad;
}

#define TERM(K) const void *term##K, int64 type##K,
#define NOTE(K) case K: value = load(term##K, 0, type##K).real; break;

// Some of a step's terms go to the ring's row, from `first` on; with the last of them, the code, too. One block.
extern "C" __global__ void record(
    EACH(TERM) int first, int count, int width, int last, int64 rows, int blocks, const int* found, double* ring,
    int64* state
) {
    if (state[1]) return;
    int thread = threadIdx.x;
    double* row = ring + state[0] % rows * width;
    if (thread < count) {
        double value = 0;
        switch (thread) { EACH(NOTE) }
        row[first + thread] = value;
    }
    bool bad = false;
    for (int i = thread; i < blocks; i += THREADS) bad |= found[i] != 0;
    bad = __syncthreads_or(bad);  // and the row is written
    if (last && thread == 0) {
        int code = bad ? width : 0;
        for (int i = width - 2; i >= 0; --i)
            if (!isfinite(row[i])) code = i + 1;
        row[width - 1] = code;
        if (code) state[1] = 1;
    }
}

// Each x, of so many elements and that type (size * 16 + type), = saved from `start` on, if training has halted.
#define RESTORED(K) void *x##K, int64 start##K, int64 size##K,
#define CHOOSE_RESTORED(K) case K: x = x##K, start = start##K, size = size##K; break;

extern "C" __global__ void restore_if_halted(
    EACH(RESTORED) const void* saved, int saved_type, const int64* state
) {
    if (!state[1]) return;
    void* x = nullptr;
    int64 start = 0, size = 0;
    switch (blockIdx.y) { EACH(CHOOSE_RESTORED) }
    int type = size & 15;
    size >>= 4;
    for (int64 i = FIRST_ELEMENT; i < size; i += NEXT_ELEMENT) store(x, i, type, load(saved, start + i, saved_type));
}

// --- Updates. --------------------------------------------------------------------------------------------------------

// partials[block] = the sum of the squares of the block's share of all gradients.
extern "C" __global__ void sum_squares(int count, const int64* ranges, const real* gradient, double* partials) {
    __shared__ double shared[THREADS / 32];
    double total = 0;
    RANGES(r) IN_RANGE(r, i) total += double(gradient[i]) * gradient[i];
    total = block_sum(total, shared);
    if (threadIdx.x == 0) partials[BLOCK] = total;
}

// Every block adds up the partial sums itself.
extern "C" __global__ void clip(
    int count, const int64* ranges, real* gradient, int blocks, const double* partials, double max_norm
) {
    __shared__ double shared[THREADS / 32];
    __shared__ double factor;
    double total = 0;
    for (int i = threadIdx.x; i < blocks; i += THREADS) total += partials[i];
    total = block_sum(total, shared);
    if (threadIdx.x == 0) factor = isfinite(total) ? max_norm / (sqrt(total) + 1e-6) : 1;
    __syncthreads();
    double scale = factor;
    if (scale < 1) RANGES(r) IN_RANGE(r, i) gradient[i] *= scale;
}

extern "C" __global__ void adam(
    int count, const int64* ranges, const double* settings, const int64* state, real* parameter, const real* gradient,
    real* first, real* second
) {
    __shared__ double corrections[2];
    if (state[1]) return;
    RANGES(r) {
        const double* row = settings + 6 * ranges[3 * r + 2];
        double rate = row[0], beta1 = row[1], beta2 = row[2], eps = row[3], decay = row[4];
        bool decoupled = row[5] != 0;
        __syncthreads();
        if (threadIdx.x < 2) corrections[threadIdx.x] = 1 - pow(row[1 + threadIdx.x], double(state[0] + 1));
        __syncthreads();
        double correction1 = corrections[0], correction2 = corrections[1];
        IN_RANGE(r, i) {
            double p = parameter[i], g = gradient[i];
            if (decoupled) p -= rate * decay * p;
            else g += decay * p;
            double m = beta1 * first[i] + (1 - beta1) * g, v = beta2 * second[i] + (1 - beta2) * g * g;
            first[i] = m;
            second[i] = v;
            parameter[i] = p - rate * (m / correction1) / (sqrt(v / correction2) + eps);
        }
    }
}

extern "C" __global__ void sgd(
    int count, const int64* ranges, const double* settings, const int64* state, real* parameter, const real* gradient,
    real* velocity
) {
    if (state[1]) return;
    RANGES(r) {
        const double* row = settings + 5 * ranges[3 * r + 2];
        double rate = row[0], momentum = row[1], dampening = row[2], decay = row[4];
        bool nesterov = row[3] != 0;
        double share = state[0] > 0 && momentum != 0 ? 1 - dampening : 1;
        IN_RANGE(r, i) {
            double p = parameter[i], g = gradient[i] + decay * p, v = momentum * velocity[i] + share * g;
            velocity[i] = v;
            parameter[i] = p - rate * (nesterov ? g + momentum * v : v);
        }
    }
}

extern "C" __global__ void count_step(int64* state) {
    if (!state[1]) ++state[0];
}

// Each target moves towards its source; `size` is the number of elements * 4, + 1 if the source is double, + 2 if the
// target is.
#define PAIR(K) const void *source##K, void *target##K, int64 size##K,
#define CHOOSE_PAIR(K) case K: source = source##K, target = target##K, size = size##K; break;

extern "C" __global__ void average(EACH(PAIR) double weight, const int64* state) {
    if (state[1]) return;
    const void* source = nullptr;
    void* target = nullptr;
    int64 size = 0;
    switch (blockIdx.y) { EACH(CHOOSE_PAIR) }
    bool wide_source = size & 1, wide_target = size & 2;
    size >>= 2;
    for (int64 i = FIRST_ELEMENT; i < size; i += NEXT_ELEMENT) {
        double s = wide_source ? ((const double*)source)[i] : ((const float*)source)[i];
        double t = wide_target ? ((const double*)target)[i] : ((const float*)target)[i];
        t += weight * (s - t);
        if (wide_target) ((double*)target)[i] = t;
        else ((float*)target)[i] = t;
    }
}
