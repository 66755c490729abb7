// How kernels read maps and gradients whose normalisation is deferred.

// How a map is read, see Deferred: the activation is prelu(u, slope) with u = raw*scale + shift. `mean` is what sums of
// gradients are taken about.
struct Reading {
    real scale, shift, slope, mean;

    __device__ real normalised(real raw) const { return raw * scale + shift; }
    __device__ real operator()(real raw) const { return prelu(normalised(raw), slope); }
};

// From coefficients (4, channels); null for a map that is read as it is.
__device__ inline Reading reading_of(const real* coefficients, int channels, int channel) {
    Reading read = {1, 0, 1, 0};
    if (coefficients) {
        const real* at = coefficients + channel;
        read = {at[0], at[channels], at[2 * channels], at[3 * channels]};
    }
    return read;
}

// Adds to sums what an element contributes to the gradient sums of g, the gradient of an activation.
__device__ inline void add_gradient_sums(real* sums, real g, real raw, Reading read) {
    real u = read.normalised(raw), e = u > 0 ? g : read.slope * g;
    sums[0] += e;
    sums[1] += e * (raw - read.mean);
    sums[2] += u > 0 ? real(0) : g * u;
}

// The gradient of a raw map, see DeferredGradient.
struct RawGradient {
    real scale, shift, slope, k0, k1, k2;

    __device__ real operator()(real g, real raw) const {
        real e = raw * scale + shift > 0 ? g : slope * g;
        return k0 * e + k1 * raw + k2;
    }
};

// From coefficients (6, channels).
__device__ inline RawGradient raw_gradient_of(const real* coefficients, int channels, int channel) {
    const real* at = coefficients + channel;
    return {at[0], at[channels], at[2 * channels], at[3 * channels], at[4 * channels], at[5 * channels]};
}

// What is read: channels of an image's map, activated by the coefficients `by`, if these are not null.
struct Map {
    const real *image, *by;
    int channels;

    typedef real Value;
    __device__ Value load(int64 at) const { return image[at]; }
    __device__ Reading reader(int c) const { return reading_of(by, channels, c); }
    __device__ static real read(Reading reader, Value v) { return reader(v); }
};

// Or the gradient of a raw map. Without coefficients, it is g itself.
struct Gradient {
    const real *g, *raw, *by;
    int channels;

    struct Value {
        real g, raw;
    };
    __device__ Value load(int64 at) const { return {g[at], by ? raw[at] : real(0)}; }
    __device__ RawGradient reader(int c) const {
        return by ? raw_gradient_of(by, channels, c) : RawGradient{0, 1, 1, 1, 0, 0};
    }
    __device__ static real read(RawGradient reader, Value v) { return reader(v.g, v.raw); }
};
