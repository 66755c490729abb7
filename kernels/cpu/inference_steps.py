"""The steps that inference is made of, where maps are stored activated: batch norm and PReLU finish each convolution.

Sums have the same order as in the kernels of training, so that the logits are those of the model in eval mode.

A region is (start, channel stride, row pitch): pixel (c, y, x) lies at `start + c*stride + y*pitch + x` of an array.
Rows end in at least one zero, the right border of one row and the left border of the next.
"""

from .compile import inlined, kernel
from .depthwise import nine
from .simd import MULTIPLY_ROWS, MULTIPLY_VECTORS, finish_tiles, lanes
from .vector import deinterleave, fma, load, spread, store, where_positive

_f1, _f2, _f3, _f4, _f5, _f6 = finish_tiles[0][1:]
_h1, _h2, _h3, _h4, _h5, _h6 = finish_tiles[1][1:]
_n1, _n2, _n3, _n4, _n5, _n6 = finish_tiles[2][1:]


@inlined
def _full(r, y, o, ldo, weight, w, ldw, x, q, table, t, depth, b, left):
    if r == 6:
        _f6(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    elif r == 5:
        _f5(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    elif r == 4:
        _f4(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    elif r == 3:
        _f3(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    elif r == 2:
        _f2(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    else:
        _f1(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)


@inlined
def _half(r, y, o, ldo, weight, w, ldw, x, q, table, t, depth, b, left):
    if r == 6:
        _h6(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    elif r == 5:
        _h5(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    elif r == 4:
        _h4(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    elif r == 3:
        _h3(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    elif r == 2:
        _h2(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    else:
        _h1(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)


@inlined
def _narrow(r, y, o, ldo, weight, w, ldw, x, q, table, t, depth, b, left):
    if r == 6:
        _n6(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    elif r == 5:
        _n5(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    elif r == 4:
        _n4(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    elif r == 3:
        _n3(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    elif r == 2:
        _n2(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)
    else:
        _n1(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b, left)


@kernel
def product(y, o, ldo, rows, weight, w, b, x, q, table, t, depth, count):
    """`y[o + r*ldo + i] = finish(sum_k weight[w + k*rows + r] * x[q + table[t + k] + i])` for r < rows, i < count.

    finish(v) is prelu(v*scale + shift), with scales, shifts and slopes (3, rows) from weight[b] on, or v if b is so
    negative that b + rows is, too. Writes exactly `count` pixels of each row; reads up to MULTIPLY_VECTORS vectors
    beyond the last pixel of x. Each pixel's sum has one order, wherever it lies in a tile.
    """
    lane = lanes(x)
    blocks = (rows + MULTIPLY_ROWS - 1) // MULTIPLY_ROWS
    i = 0
    while i < count:
        left = count - i
        vectors = MULTIPLY_VECTORS
        if left <= MULTIPLY_VECTORS // 2 * lane:
            vectors = MULTIPLY_VECTORS // 2 if left > lane else 1
        r = 0
        for k in range(blocks):
            m = (rows - r + blocks - k - 1) // (blocks - k)
            at = o + r * ldo + i
            if vectors == MULTIPLY_VECTORS:
                _full(m, y, at, ldo, weight, w + r, rows, x, q + i, table, t, depth, b + r, left)
            elif vectors > 1:
                _half(m, y, at, ldo, weight, w + r, rows, x, q + i, table, t, depth, b + r, left)
            else:
                _narrow(m, y, at, ldo, weight, w + r, rows, x, q + i, table, t, depth, b + r, left)
            r += m
        i += vectors * lane


@inlined
def _finished(v, scale, shift, slope):
    v = fma(v, scale, shift)
    return where_positive(v, v, slope * v)


@inlined
def _filter_column(x, a, px, w, scale, shift, slope, y, at, py, rows, left):
    """A column of vectors of a depthwise 3x3 convolution, finished; `a` is where the row before the first of x lies,
    from one pixel before. A row is read once: what it adds to each of three rows of y is kept in registers."""
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = w
    lane = lanes(x)
    e, f, g = load(x, a, lane), load(x, a + 1, lane), load(x, a + 2, lane)
    lower = fma(w2, g, fma(w1, f, w0 * e))
    a += px
    e, f, g = load(x, a, lane), load(x, a + 1, lane), load(x, a + 2, lane)
    upper = fma(w5, g, fma(w4, f, fma(w3, e, lower)))
    lower = fma(w2, g, fma(w1, f, w0 * e))
    for _ in range(rows):
        a += px
        e, f, g = load(x, a, lane), load(x, a + 1, lane), load(x, a + 2, lane)
        v = fma(w8, g, fma(w7, f, fma(w6, e, upper)))
        upper = fma(w5, g, fma(w4, f, fma(w3, e, lower)))
        lower = fma(w2, g, fma(w1, f, w0 * e))
        store(y, at, _finished(v, scale, shift, slope), left)
        at += py


@kernel
def depthwise(x, p, lx, px, y, q, ly, py, weight, w, b, channels, rows, cols):
    """`y = finish(depthwise 3x3 of x)`, and zeros behind each row.

    weight: (channels, 9) from `w` on; scales, shifts and slopes (3, channels) from `b` on.
    """
    lane, zero = lanes(x), spread(x, 0)
    whole = cols - cols % lane
    for c in range(channels):
        taps = nine(x, weight, w + 9 * c)
        scale, shift = spread(x, weight[b + c]), spread(x, weight[b + channels + c])
        slope = spread(x, weight[b + 2 * channels + c])
        a, at = p + c * lx - px - 1, q + c * ly
        for i in range(0, whole, lane):
            _filter_column(x, a + i, px, taps, scale, shift, slope, y, at + i, py, rows, lane)
        if whole < cols:
            left = cols - whole
            _filter_column(x, a + whole, px, taps, scale, shift, slope, y, at + whole, py, rows, left)
        for r in range(rows):
            end = r * py + cols
            for i in range(0, py - cols, lane):
                store(y, at + end + i, zero, py - cols - i)


@kernel
def average(x, p, lx, px, y, q, ly, py, channels, rows, cols):
    """`y = mean of 2x2 pixels of x`; rows and cols count y's."""
    lane = lanes(x)
    quarter = spread(x, 0.25)
    for c in range(channels):
        for r in range(rows):
            a = p + c * lx + 2 * r * px
            b = q + c * ly + r * py
            for i in range(0, cols, lane):
                n = 2 * (cols - i)
                u0, u1 = deinterleave(load(x, a + 2 * i, n), load(x, a + 2 * i + lane, n - lane))
                u2, u3 = deinterleave(load(x, a + px + 2 * i, n), load(x, a + px + 2 * i + lane, n - lane))
                store(y, b + i, ((u0 + u1) + (u2 + u3)) * quarter, cols - i)
