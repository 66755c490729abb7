"""The steps that inference is made of, where maps are stored activated: batch norm and PReLU finish each convolution.

Sums have the same order as in the kernels of training, so that the logits are those of the model in eval mode.

A region is (start, channel stride, row pitch): pixel (c, y, x) lies at `start + c*stride + y*pitch + x` of an array.
Rows end in at least one zero, the right border of one row and the left border of the next.
"""

from .compile import inlined, kernel
from .depthwise import nine
from .simd import MULTIPLY_ROWS, MULTIPLY_VECTORS, finish_tile, finish_tile_narrow, lanes
from .vector import deinterleave, fma, load, spread, store, where_positive

_w1, _w2, _w3, _w4, _w5, _w6 = finish_tile[1:]
_n1, _n2, _n3, _n4, _n5, _n6 = finish_tile_narrow[1:]


@kernel
def _wide(r, y, o, ldo, weight, w, ldw, x, q, table, t, depth, b):
    if r == 6:
        _w6(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b)
    elif r == 5:
        _w5(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b)
    elif r == 4:
        _w4(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b)
    elif r == 3:
        _w3(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b)
    elif r == 2:
        _w2(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b)
    else:
        _w1(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b)


@kernel
def _narrow(r, y, o, ldo, weight, w, ldw, x, q, table, t, depth, b):
    if r == 6:
        _n6(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b)
    elif r == 5:
        _n5(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b)
    elif r == 4:
        _n4(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b)
    elif r == 3:
        _n3(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b)
    elif r == 2:
        _n2(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b)
    else:
        _n1(y, o, ldo, weight, w, ldw, x, q, table, t, depth, weight, b)


@kernel
def product(y, o, ldo, rows, weight, w, b, x, q, table, t, depth, count, aside):
    """`y[o + r*ldo + i] = finish(sum_k weight[w + k*rows + r] * x[q + table[t + k] + i])` for r < rows, i < count.

    finish(v) is prelu(v*scale + shift), with scales, shifts and slopes (3, rows) from weight[b] on, or v if b is so
    negative that b + rows is, too. Writes exactly
    `count` pixels of each row; reads up to one vector beyond the last pixel of x. `aside`: MULTIPLY_ROWS vectors of
    scratch. Each pixel's sum has one order, wherever it lies in a tile.
    """
    lane = lanes(x)
    step = MULTIPLY_VECTORS * lane
    blocks = (rows + MULTIPLY_ROWS - 1) // MULTIPLY_ROWS
    i = 0
    while i < count:
        # What is left at the end is worked out together with pixels before it, once more: the same numbers, and a whole
        # tile at a time is faster than its parts.
        wide = count >= step
        i = min(i, max(count - (step if wide else lane), 0))
        r = 0
        for k in range(blocks):
            m = (rows - r + blocks - k - 1) // (blocks - k)
            at = o + r * ldo + i
            if wide:
                _wide(m, y, at, ldo, weight, w + r, rows, x, q + i, table, t, depth, b + r)
            elif count >= lane:
                _narrow(m, y, at, ldo, weight, w + r, rows, x, q + i, table, t, depth, b + r)
            else:
                _narrow(m, aside, 0, lane, weight, w + r, rows, x, q + i, table, t, depth, b + r)
                for a in range(m):
                    for e in range(count):
                        y[at + a * ldo + e] = aside[a * lane + e]
            r += m
        i += step if wide else lane


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
    """`y = finish(depthwise 3x3 of x)`, and a zero behind each row.

    weight: (channels, 9) from `w` on; scales, shifts and slopes (3, channels) from `b` on.
    """
    lane = lanes(x)
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
            y[at + r * py + cols] = 0


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
