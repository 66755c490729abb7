"""The steps that only inference uses. There, maps are stored activated: batch norm and PReLU finish each convolution.

Sums have the same order as in the kernels of training, so that the logits are those of the model in eval mode.

Rows of a map end in at least one zero, the right border of one row and the left border of the next.
"""

from .bodies import activation_of, argument, prelu
from .compile import inlined, kernel
from .depthwise import nine
from .regions import from_element, from_row
from .simd import lanes
from .tiles import MULTIPLY_ROWS, MULTIPLY_VECTORS, finish_tile, finish_tile_half, finish_tile_narrow
from .vector import deinterleave, fma, load, spread, store


@kernel
def product(y, rows, weights, x, table, count):
    """`y[r, i] = finish(sum_k weight[k, r] * x[table[k] + i])` for r < rows, i < count: see `Weights` and `Table`.

    The rows of y are the channels of a region. finish(v) is prelu(v*scale + shift), or v if `weights.ends` is so
    negative that ends + rows is negative too. Writes exactly `count` pixels of each row; reads up to MULTIPLY_VECTORS
    vectors beyond the last pixel of x. The order of a pixel's sum does not depend on its place in a tile.
    """
    lane = lanes(x.array)
    blocks = (rows + MULTIPLY_ROWS - 1) // MULTIPLY_ROWS
    i = 0
    while i < count:
        left = count - i
        vectors = MULTIPLY_VECTORS
        if left <= MULTIPLY_VECTORS // 2 * lane:
            vectors = MULTIPLY_VECTORS // 2 if left > lane else 1
        source = from_element(x, i)
        r = 0
        for k in range(blocks):
            m = (rows - r + blocks - k - 1) // (blocks - k)
            target, own = from_element(y, r * y.stride + i), from_row(weights, r)
            if vectors == MULTIPLY_VECTORS:
                finish_tile(m, target, own, source, table, left)
            elif vectors > 1:
                finish_tile_half(m, target, own, source, table, left)
            else:
                finish_tile_narrow(m, target, own, source, table, left)
            r += m
        i += vectors * lane


@kernel
def product_by_rows(y, weights, x, table, extent):
    """The same for each row of an extent, whose channels are the product's rows."""
    for r in range(extent.rows):
        product(
            from_element(y, r * y.pitch), extent.channels, weights, from_element(x, r * x.pitch), table, extent.cols
        )


@inlined
def _filter_column(x, a, taps, f, y, at, rows, left):
    """A column of vectors of a depthwise 3x3 convolution, finished. `a` is one row and one pixel before the first pixel
    of x. Each row is read once: what it adds to three rows of y is kept in registers."""
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = taps
    source = x.array
    lane = lanes(source)
    e, f0, g = load(source, a, lane), load(source, a + 1, lane), load(source, a + 2, lane)
    lower = fma(w2, g, fma(w1, f0, w0 * e))
    a += x.pitch
    e, f0, g = load(source, a, lane), load(source, a + 1, lane), load(source, a + 2, lane)
    upper = fma(w5, g, fma(w4, f0, fma(w3, e, lower)))
    lower = fma(w2, g, fma(w1, f0, w0 * e))
    for _ in range(rows):
        a += x.pitch
        e, f0, g = load(source, a, lane), load(source, a + 1, lane), load(source, a + 2, lane)
        v = fma(w8, g, fma(w7, f0, fma(w6, e, upper)))
        upper = fma(w5, g, fma(w4, f0, fma(w3, e, lower)))
        lower = fma(w2, g, fma(w1, f0, w0 * e))
        store(y.array, at, prelu(argument(v, f), f), left)
        at += y.pitch


@kernel
def depthwise(x, y, weights, extent):
    """`y = finish(depthwise 3x3 of x)`, with zeros after each row.

    weights: the kernels (channels, 9) begin at `start`, the scales, shifts and slopes (3, channels) at `ends`.
    """
    channels, rows, cols = extent
    lane, zero = lanes(x.array), spread(x.array, 0)
    whole = cols - cols % lane
    for c in range(channels):
        taps = nine(x.array, weights.array, weights.start + 9 * c)
        f = activation_of(x.array, weights.array, weights.ends + c, channels)
        a, at = x.start + c * x.stride - x.pitch - 1, y.start + c * y.stride
        for i in range(0, whole, lane):
            _filter_column(x, a + i, taps, f, y, at + i, rows, lane)
        if whole < cols:
            _filter_column(x, a + whole, taps, f, y, at + whole, rows, cols - whole)
        for r in range(rows):
            end = r * y.pitch + cols
            for i in range(0, y.pitch - cols, lane):
                store(y.array, at + end + i, zero, y.pitch - cols - i)


@kernel
def average(x, y, extent):
    """`y = mean of 2x2 pixels of x`; the extent is y's."""
    channels, rows, cols = extent
    lane = lanes(x.array)
    quarter = spread(x.array, 0.25)
    for c in range(channels):
        for r in range(rows):
            a = x.start + c * x.stride + 2 * r * x.pitch
            under = a + x.pitch
            b = y.start + c * y.stride + r * y.pitch
            for i in range(0, cols, lane):
                n = 2 * (cols - i)
                u0, u1 = deinterleave(load(x.array, a + 2 * i, n), load(x.array, a + 2 * i + lane, n - lane))
                u2, u3 = deinterleave(load(x.array, under + 2 * i, n), load(x.array, under + 2 * i + lane, n - lane))
                store(y.array, b + i, ((u0 + u1) + (u2 + u3)) * quarter, cols - i)
