"""The steps that inference is made of, where maps are stored activated: batch norm and PReLU finish each convolution.

Sums have the same order as in the kernels of training, so that the logits are those of the model in eval mode.

A region is (start, channel stride, row pitch): pixel (c, y, x) lies at `start + c*stride + y*pitch + x` of an array.
Rows end in at least one zero, the right border of one row and the left border of the next.
"""

from .compile import kernel
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

    finish(v) is prelu(v*scale + shift), with scales, shifts and slopes (3, rows) from weight[b] on. Writes exactly
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


@kernel
def _filter_two_rows(x, y0, y1, y2, y3, weight, w, b, ldb, out, at, under, width):
    """Two rows of a depthwise 3x3 convolution, finished; the rows of x begin one pixel before those of `out`."""
    w0, w1, w2 = spread(x, weight[w]), spread(x, weight[w + 1]), spread(x, weight[w + 2])
    w3, w4, w5 = spread(x, weight[w + 3]), spread(x, weight[w + 4]), spread(x, weight[w + 5])
    w6, w7, w8 = spread(x, weight[w + 6]), spread(x, weight[w + 7]), spread(x, weight[w + 8])
    scale, shift = spread(x, weight[b]), spread(x, weight[b + ldb])
    slope = spread(x, weight[b + 2 * ldb])
    lane = lanes(x)
    for i in range(0, width, lane):
        e = load(x, y0 + i, lane)
        a = w0 * e
        e = load(x, y0 + i + 1, lane)
        a = fma(w1, e, a)
        e = load(x, y0 + i + 2, lane)
        a = fma(w2, e, a)
        e = load(x, y1 + i, lane)
        h = w3 * e
        d = w0 * e
        e = load(x, y1 + i + 1, lane)
        h = fma(w4, e, h)
        d = fma(w1, e, d)
        e = load(x, y1 + i + 2, lane)
        h = fma(w5, e, h)
        d = fma(w2, e, d)
        e = load(x, y2 + i, lane)
        c = w6 * e
        f = w3 * e
        e = load(x, y2 + i + 1, lane)
        c = fma(w7, e, c)
        f = fma(w4, e, f)
        e = load(x, y2 + i + 2, lane)
        c = fma(w8, e, c)
        f = fma(w5, e, f)
        v = fma((a + h) + c, scale, shift)
        store(out, at + i, where_positive(v, v, slope * v), width - i)
        e = load(x, y3 + i, lane)
        g = w6 * e
        e = load(x, y3 + i + 1, lane)
        g = fma(w7, e, g)
        e = load(x, y3 + i + 2, lane)
        g = fma(w8, e, g)
        v = fma((d + f) + g, scale, shift)
        store(out, under + i, where_positive(v, v, slope * v), width - i)


@kernel
def depthwise(x, p, lx, px, y, q, ly, py, weight, w, b, channels, rows, cols):
    """`y = finish(depthwise 3x3 of x)`, and a zero behind each row.

    weight: (channels, 9) from `w` on; scales, shifts and slopes (3, channels) from `b` on. Of an odd number of rows,
    the last but one is worked out twice; of a single one, a row before it first, in the same place.
    """
    for c in range(channels):
        for k in range(0, rows, 2):
            r = min(k, rows - 2)
            a = p + c * lx + (r - 1) * px - 1
            at = q + c * ly + max(r, 0) * py
            under = q + c * ly + (r + 1) * py
            _filter_two_rows(
                x, a, a + px, a + 2 * px, a + 3 * px, weight, w + 9 * c, b + c, channels, y, at, under, cols
            )
            y[at + cols] = 0
            y[under + cols] = 0


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
