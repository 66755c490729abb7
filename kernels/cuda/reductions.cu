// Sums and maxima along an axis, log-softmax, and the losses.
//
// Along the middle axis of an array (outer, count, inner) there is a line for each (outer, inner). A block of 256
// threads treats a few lines that lie beside each other: `across` of them along the inner axis, `along` threads to each
// line, all else along the outer axis; `across` and `along` are powers of two. Thread k of a line treats elements k,
// k + along, k + 2*along, ... of it, so neighbours in a warp read neighbours in memory.

#define THREADS 256

struct Line {
    int64 outer, inner;  // its indices
    bool there;          // a block may have more lines than are left
    int first;           // the element that this thread begins with
};

__device__ inline Line line_of(int64 outer, int64 inner, int across, int along) {
    int thread = threadIdx.x, deep = THREADS / (across * along);
    int64 wide = (inner + across - 1) / across;
    int64 o = blockIdx.x / wide * deep + thread / (across * along);
    int64 i = blockIdx.x % wide * across + thread % across;
    return {o, i, o < outer && i < inner, thread / across % along};
}

// Over this thread's elements K of its line; where they lie, and where the line's result does.
#define ALONG(K) for (int64 K = line.first; K < (line.there ? count : 0); K += along)
#define AT(K) ((line.outer * count + (K)) * inner + line.inner)
#define RESULT (line.outer * inner + line.inner)
#define WRITES_RESULT (line.there && line.first == 0)

// What `join` makes of the values of a line's threads, in all of them, always in the same order.
template <typename T, typename Join>
__device__ inline T joined(T value, T* shared, int across, int along, Join join) {
    int thread = threadIdx.x, k = thread / across % along;
    shared[thread] = value;
    __syncthreads();
    for (int half = along / 2; half > 0; half /= 2) {
        if (k < half) shared[thread] = join(shared[thread], shared[thread + half * across]);
        __syncthreads();
    }
    T result = shared[thread - k * across];
    __syncthreads();
    return result;
}

__device__ inline double line_sum(double value, double* shared, int across, int along) {
    return joined(value, shared, across, along, [](double a, double b) { return a + b; });
}

// --- Sums. -----------------------------------------------------------------------------------------------------------

// Row y of the grid adds up its share of every line: out (outer, rows of the grid, inner).
template <typename In, typename Out>
__device__ inline void sum_lines(int64 outer, int64 count, int64 inner, int across, int along, const In* x, Out* out) {
    __shared__ double shared[THREADS];
    Line line = line_of(outer, inner, across, along);
    int64 rounds = (count + along - 1) / along, share = (rounds + gridDim.y - 1) / gridDim.y * along;
    int64 start = blockIdx.y * share;
    int64 stop = start + share < count ? start + share : count;
    double total = 0;
    if (line.there)
        for (int64 k = start + line.first; k < stop; k += along) total += x[AT(k)];
    total = line_sum(total, shared, across, along);
    if (WRITES_RESULT) out[(line.outer * gridDim.y + blockIdx.y) * inner + line.inner] = total;
}

#define SUMS(NAME, IN, OUT)                                                                 \
    extern "C" __global__ void NAME(                                                        \
        int64 outer, int64 count, int64 inner, int across, int along, const IN* x, OUT* out \
    ) {                                                                                     \
        sum_lines(outer, count, inner, across, along, x, out);                              \
    }

SUMS(sum_middle, real, real)
SUMS(sum_parts, real, double)
SUMS(add_parts, double, real)

// out = the sum of partial sums over a number: by one block.
extern "C" __global__ void mean(int64 count, const double* partials, double divisor, real* out) {
    __shared__ double shared[THREADS / 32];
    double total = 0;
    for (int64 i = threadIdx.x; i < count; i += THREADS) total += partials[i];
    total = block_sum(total, shared);
    if (threadIdx.x == 0) *out = total / divisor;
}

// --- Maxima. ---------------------------------------------------------------------------------------------------------

struct Winner {
    real value;
    int64 place;
};

// The larger one, the first of equal ones; a NaN is larger than any number.
__device__ inline Winner winner_of(Winner a, Winner b) {
    bool a_nan = a.value != a.value, b_nan = b.value != b.value;
    bool same = a.value == b.value || (a_nan && b_nan);
    bool first = same ? a.place < b.place : a_nan || a.value > b.value;
    return first ? a : b;
}

#define FIND_WINNER(WINNER)                                       \
    __shared__ Winner places[THREADS];                            \
    Line line = line_of(outer, inner, across, along);             \
    Winner WINNER = {real(-INFINITE), count};                     \
    ALONG(k) WINNER = winner_of(WINNER, Winner{x[AT(k)], k});     \
    WINNER = joined(WINNER, places, across, along, winner_of);

extern "C" __global__ void max_middle(
    int64 outer, int64 count, int64 inner, int across, int along, const real* x, real* out
) {
    FIND_WINNER(winner)
    if (WRITES_RESULT) out[RESULT] = winner.value;
}

extern "C" __global__ void max_middle_backward(
    int64 outer, int64 count, int64 inner, int across, int along, const real* grad, const real* x, real* grad_x
) {
    FIND_WINNER(winner)
    real g = line.there ? grad[RESULT] : real(0);
    ALONG(k) grad_x[AT(k)] = k == winner.place ? g : real(0);
}

// --- Log-softmax, and the entropy of classes. ------------------------------------------------------------------------

// Of a line: its largest element, and the logarithm of the sum of exp(x - largest). NaN makes both NaN.
struct Scale {
    real largest;
    double logarithm;
};

__device__ inline Scale scale_of(
    Line line, int64 count, int64 inner, int across, int along, const real* x, double* shared
) {
    real largest = real(-INFINITE);
    auto larger = [](real a, real b) { return b > a || b != b ? b : a; };
    ALONG(k) largest = larger(largest, x[AT(k)]);
    largest = joined(largest, (real*)shared, across, along, larger);
    double total = 0;
    ALONG(k) total += exp(x[AT(k)] - largest);
    return {largest, log(line_sum(total, shared, across, along))};
}

// out may be x: a thread writes what only it has read.
extern "C" __global__ void log_softmax(
    int64 outer, int64 count, int64 inner, int across, int along, const real* x, real* out
) {
    __shared__ double shared[THREADS];
    Line line = line_of(outer, inner, across, along);
    Scale scale = scale_of(line, count, inner, across, along, x, shared);
    // In this order: next to a huge number, the logarithm would vanish.
    ALONG(k) out[AT(k)] = (x[AT(k)] - scale.largest) - real(scale.logarithm);
}

// grad_x may be grad.
extern "C" __global__ void log_softmax_backward(
    int64 outer, int64 count, int64 inner, int across, int along, const real* grad, const real* out, real* grad_x
) {
    __shared__ double shared[THREADS];
    Line line = line_of(outer, inner, across, along);
    double sum = 0;
    ALONG(k) sum += grad[AT(k)];
    real total = line_sum(sum, shared, across, along);
    ALONG(k) grad_x[AT(k)] = grad[AT(k)] - exp(out[AT(k)]) * total;
}

#define NOT_A_NUMBER (INFINITE - INFINITE)

// losses (rows,) of logits (rows, count), where inner is 1 and outer the number of rows.
extern "C" __global__ void class_losses(
    int64 outer, int64 count, int64 inner, int across, int along, const real* x, const int64* labels, double smoothing,
    double* losses
) {
    __shared__ double shared[THREADS];
    Line line = line_of(outer, inner, across, along);
    Scale scale = scale_of(line, count, inner, across, along, x, shared);
    double all = 0;
    if (smoothing > 0) {
        ALONG(k) all += scale.logarithm - double(x[AT(k)] - scale.largest);
        all = line_sum(all, shared, across, along) * smoothing / count;
    }
    if (WRITES_RESULT) {
        int64 label = labels[line.outer];
        bool known = label >= 0 && label < count;
        if (known && smoothing < 1)
            all += (1 - smoothing) * (scale.logarithm - double(x[AT(label)] - scale.largest));
        losses[line.outer] = known ? all : NOT_A_NUMBER;
    }
}

extern "C" __global__ void cross_entropy_backward(
    int64 outer, int64 count, int64 inner, int across, int along, const real* grad, const real* x,
    const int64* labels, double smoothing, real* grad_x
) {
    __shared__ double shared[THREADS];
    Line line = line_of(outer, inner, across, along);
    Scale scale = scale_of(line, count, inner, across, along, x, shared);
    int64 label = line.there ? labels[line.outer] : 0;
    double factor = double(*grad) / outer, chosen = 1 - smoothing;
    if (label < 0 || label >= count) factor = NOT_A_NUMBER;
    double total = exp(scale.logarithm);
    ALONG(k) {
        double share = smoothing / count + (k == label ? chosen : 0);
        grad_x[AT(k)] = factor * (exp(x[AT(k)] - scale.largest) / total - share);
    }
}

// --- Binary cross-entropy of logits. ---------------------------------------------------------------------------------

extern "C" __global__ void binary_losses(int64 count, const real* logits, const real* target, double* partials) {
    __shared__ double shared[THREADS / 32];
    double total = 0;
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        real x = logits[i];
        total += (x > 0 ? x : real(0)) - x * target[i] + log1p(exp(-fabs(x)));
    }
    total = block_sum(total, shared);
    if (threadIdx.x == 0) partials[blockIdx.x] = total;
}

extern "C" __global__ void binary_losses_backward(
    int64 count, const real* grad, const real* logits, const real* target, real* grad_logits
) {
    real factor = double(*grad) / count;
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT)
        grad_logits[i] = (logistic(logits[i]) - target[i]) * factor;
}

// --- The overlap of two regions. -------------------------------------------------------------------------------------

// Row y of the grid adds up picture y, block x a part of it: partials (pictures, parts, 2) of p*t and of p + t.
extern "C" __global__ void overlaps(int64 pixels, const real* logits, const real* target, double* partials) {
    __shared__ double shared[2][THREADS / 32];
    double both = 0, either = 0;
    logits += blockIdx.y * pixels, target += blockIdx.y * pixels;
    for (int64 i = FIRST_ELEMENT; i < pixels; i += NEXT_ELEMENT) {
        real p = logistic(logits[i]), t = target[i];
        both += double(p) * t;
        either += double(p) + t;
    }
    both = block_sum(both, shared[0]);
    either = block_sum(either, shared[1]);
    double* to = partials + (int64(blockIdx.y) * gridDim.x + blockIdx.x) * 2;
    if (threadIdx.x == 0) to[0] = both, to[1] = either;
}

// Each picture's sums I and U, and the mean of 1 - I/U: by one block, a thread to a picture.
extern "C" __global__ void overlap_mean(
    int images, int parts, const double* partials, int dice, double* sums, real* out
) {
    __shared__ double shared[THREADS / 32];
    double total = 0;
    for (int n = threadIdx.x; n < images; n += THREADS) {
        double both = 0, either = 0;
        for (int k = 0; k < parts; ++k) {
            both += partials[(int64(n) * parts + k) * 2];
            either += partials[(int64(n) * parts + k) * 2 + 1];
        }
        double inner = (dice ? 2 * both : both) + 1, outer = (dice ? either : either - both) + 1;
        sums[2 * n] = inner, sums[2 * n + 1] = outer;
        total += 1 - inner / outer;
    }
    total = block_sum(total, shared);
    if (threadIdx.x == 0) *out = total / images;
}

extern "C" __global__ void overlaps_backward(
    int64 count, int64 pixels, int images, const real* grad, const real* logits, const real* target, int dice,
    const double* sums, real* grad_logits
) {
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) {
        int64 n = i / pixels;
        double inner = sums[2 * n], outer = sums[2 * n + 1], scale = *grad / (images * outer * outer);
        real by_target = (dice ? -2 * outer : -outer - inner) * scale, rest = inner * scale;
        real x = logits[i];
        grad_logits[i] = (by_target * target[i] + rest) * logistic(x) * logistic(-x);
    }
}
