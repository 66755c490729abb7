// Batches of pictures for training, made from bytes. `shares` blocks share the pixels of an image.

// The colours of a pixel, in [0, 1].
struct Colour {
    real red, green, blue;

    __device__ real grey() const { return real(0.299) * red + real(0.587) * green + real(0.114) * blue; }
};

// The two pixels along an axis of n that pixel i of m lies between, and the share of the second. Beyond the border, the
// axis goes back on itself. Positions are whole multiples of 1/(2m) of a pixel.
struct Between {
    int first, second;
    real share;
};

__device__ inline Between between(int i, int n, int m, bool reversed) {
    int64 unit = 2 * int64(m), last = unit * (n - 1), at = (2 * int64(i) + 1) * n - m;
    at = at < 0 ? -at : at;
    at = at > last ? max(2 * last - at, int64(0)) : at;
    int first = int(quotient(at, unit)), second = min(first + 1, n - 1);
    real share = real(at - first * unit) / real(unit);
    if (reversed) first = n - 1 - first, second = n - 1 - second;
    return {first, second, share};
}

// Four neighbouring pixels of a picture or a mask, of which one is made.
struct Neighbours {
    int64 upper_left, upper_right, lower_left, lower_right;
    real down, over;

    __device__ real operator()(const unsigned char* pixels, int channels, int channel) const {
        real a = pixels[upper_left * channels + channel], b = pixels[upper_right * channels + channel];
        real c = pixels[lower_left * channels + channel], d = pixels[lower_right * channels + channel];
        a += down * (c - a);
        b += down * (d - b);
        return (a + over * (b - a)) / 255;
    }

    __device__ Colour colour(const unsigned char* picture) const {
        return {(*this)(picture, 3, 0), (*this)(picture, 3, 1), (*this)(picture, 3, 2)};
    }
};

// What a row of the table says of an image.
struct Sample {
    const unsigned char *picture, *mask;
    int width, top, left, rows, columns;
    bool upside_down, mirrored;

    __device__ Sample(const double* row, const unsigned char* kept, int64 kept_bytes, const unsigned char* fresh) {
        int64 start = int64(row[0]);
        picture = start < kept_bytes ? kept + start : fresh + (start - kept_bytes);
        width = int(row[2]);
        mask = picture + 3 * int64(row[1]) * width;
        top = int(row[3]), left = int(row[4]), rows = int(row[5]), columns = int(row[6]);
        upside_down = row[7] != 0, mirrored = row[8] != 0;
    }

    // What pixel p of (height, width) is made of.
    __device__ Neighbours at(int64 p, int out_height, int out_width) const {
        int row = int(quotient(p, out_width));
        Between down = between(row, rows, out_height, upside_down);
        Between over = between(int(p - int64(row) * out_width), columns, out_width, mirrored);
        int64 upper = (top + int64(down.first)) * width + left, lower = (top + int64(down.second)) * width + left;
        return {
            upper + over.first, upper + over.second, lower + over.first, lower + over.second, down.share, over.share,
        };
    }
};

// greys (images, shares) = the sum of the greys of each block's pixels.
extern "C" __global__ void sum_greys(
    int shares, int height, int width, int columns, int64 kept_bytes, const unsigned char* kept,
    const unsigned char* fresh, const double* table, double* greys
) {
    __shared__ double partial[8];
    int image = blockIdx.x / shares, share = blockIdx.x % shares;
    Sample sample(table + int64(image) * columns, kept, kept_bytes, fresh);
    double sum = 0;
    for (int64 p = int64(share) * 256 + threadIdx.x; p < int64(height) * width; p += int64(shares) * 256)
        sum += sample.at(p, height, width).colour(sample.picture).grey();
    double total = block_sum(sum, partial);
    if (threadIdx.x == 0) greys[blockIdx.x] = total;
}

// greys: null if colours stay as they are.
extern "C" __global__ void prepare_pictures(
    int shares, int height, int width, int columns, int64 kept_bytes, const unsigned char* kept,
    const unsigned char* fresh, const double* table, const double* greys, real mean_red, real mean_green,
    real mean_blue, real red_deviation, real green_deviation, real blue_deviation, real* x, real* y
) {
    __shared__ double partial[8];
    __shared__ real mean_grey;
    int image = blockIdx.x / shares, share = blockIdx.x % shares;
    const double* row = table + int64(image) * columns;
    Sample sample(row, kept, kept_bytes, fresh);
    int64 pixels = int64(height) * width;
    real gain = 1, saturation = 1, offset = 0;  // a colour becomes gain*(saturation*v + (1 - saturation)*grey) + offset
    if (greys) {
        double sum = 0;
        for (int i = threadIdx.x; i < shares; i += 256) sum += greys[int64(image) * shares + i];
        sum = block_sum(sum, partial);
        if (threadIdx.x == 0) mean_grey = sum / pixels;
        __syncthreads();
        gain = row[9] * row[10], saturation = row[11], offset = (1 - row[10]) * row[9] * mean_grey;
    }
    for (int64 p = int64(share) * 256 + threadIdx.x; p < pixels; p += int64(shares) * 256) {
        Neighbours around = sample.at(p, height, width);
        Colour colour = around.colour(sample.picture);
        if (greys) {
            real grey = colour.grey();
            auto recoloured = [&](real v) {
                v = gain * (saturation * v + (1 - saturation) * grey) + offset;
                return min(max(v, real(0)), real(1));
            };
            colour = {recoloured(colour.red), recoloured(colour.green), recoloured(colour.blue)};
        }
        real* out = x + 3 * image * pixels + p;
        out[0] = (colour.red - mean_red) / red_deviation;
        out[pixels] = (colour.green - mean_green) / green_deviation;
        out[2 * pixels] = (colour.blue - mean_blue) / blue_deviation;
        if (y) y[image * pixels + p] = around(sample.mask, 1, 0);
    }
}
