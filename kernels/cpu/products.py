"""The two products that every dense convolution is made of, over channels-by-pixels scratch in the cache.

A convolution's taps are shifts of the source: entry k of `table` is where the k-th (channel, tap) row begins, relative
to the pixel asked for. One table of offsets thus describes 1x1, 3x3, dilated, strided and multi-scale convolutions.
"""

from .compile import inlined, kernel
from .simd import (
    CORRELATE_COLUMNS,
    CORRELATE_ROWS,
    MULTIPLY_ROWS,
    MULTIPLY_VECTORS,
    correlate_tile,
    lanes,
    multiply_tile,
    multiply_tile_narrow,
)

_w1, _w2, _w3, _w4, _w5, _w6 = multiply_tile[1:]
_n1, _n2, _n3, _n4, _n5, _n6 = multiply_tile_narrow[1:]
_c1, _c2, _c3, _c4, _c5 = (correlate_tile[min(r, CORRELATE_ROWS)] for r in range(1, 6))


@inlined
def _wide(r, out, o, ldo, weight, w, ldw, x, q, table, t, depth):
    if r == 6:
        _w6(out, o, ldo, weight, w, ldw, x, q, table, t, depth)
    elif r == 5:
        _w5(out, o, ldo, weight, w, ldw, x, q, table, t, depth)
    elif r == 4:
        _w4(out, o, ldo, weight, w, ldw, x, q, table, t, depth)
    elif r == 3:
        _w3(out, o, ldo, weight, w, ldw, x, q, table, t, depth)
    elif r == 2:
        _w2(out, o, ldo, weight, w, ldw, x, q, table, t, depth)
    else:
        _w1(out, o, ldo, weight, w, ldw, x, q, table, t, depth)


@inlined
def _narrow(r, out, o, ldo, weight, w, ldw, x, q, table, t, depth):
    if r == 6:
        _n6(out, o, ldo, weight, w, ldw, x, q, table, t, depth)
    elif r == 5:
        _n5(out, o, ldo, weight, w, ldw, x, q, table, t, depth)
    elif r == 4:
        _n4(out, o, ldo, weight, w, ldw, x, q, table, t, depth)
    elif r == 3:
        _n3(out, o, ldo, weight, w, ldw, x, q, table, t, depth)
    elif r == 2:
        _n2(out, o, ldo, weight, w, ldw, x, q, table, t, depth)
    else:
        _n1(out, o, ldo, weight, w, ldw, x, q, table, t, depth)


@kernel
def multiply(out, o, ldo, rows, weight, w, ldw, x, q, table, t, depth, count, spare):
    """`out[o + r*ldo + i] = sum_k weight[w + k*ldw + r] * x[q + table[t + k] + i]` for r < rows, i < count.

    Writes exactly `count` pixels of each row. Reads up to one vector beyond the last pixel of x. `spare` is where in x
    a tile of MULTIPLY_ROWS vectors may be put aside. Rows are shared out evenly (10 = 5 + 5, not 6 + 4), since a tile
    of few rows waits for the latency of its own sums.
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
        for b in range(blocks):
            m = (rows - r + blocks - b - 1) // (blocks - b)
            at = o + r * ldo + i
            if wide:
                _wide(m, out, at, ldo, weight, w + r, ldw, x, q + i, table, t, depth)
            elif count >= lane:
                _narrow(m, out, at, ldo, weight, w + r, ldw, x, q + i, table, t, depth)
            else:
                _narrow(m, x, spare, lane, weight, w + r, ldw, x, q + i, table, t, depth)
                for a in range(m):
                    for e in range(count):
                        out[at + a * ldo + e] = x[spare + a * lane + e]
            r += m
        i += step if wide else lane


@inlined
def _block(r, out, o, ldo, d, p, ldd, x, q, table, t, count, fresh):
    if r == 5:
        _c5(out, o, ldo, d, p, ldd, x, q, table, t, count, fresh)
    elif r == 4:
        _c4(out, o, ldo, d, p, ldd, x, q, table, t, count, fresh)
    elif r == 3:
        _c3(out, o, ldo, d, p, ldd, x, q, table, t, count, fresh)
    elif r == 2:
        _c2(out, o, ldo, d, p, ldd, x, q, table, t, count, fresh)
    else:
        _c1(out, o, ldo, d, p, ldd, x, q, table, t, count, fresh)


@kernel
def correlate(out, o, ldo, rows, d, p, ldd, x, q, table, t, depth, count, fresh):
    """`out[o + r*ldo + k] += sum_i d[p + r*ldd + i] * x[q + table[t + k] + i]` for i < count: a weight gradient, and
    `=` if it is `fresh`.

    The rows of d must be zero from `count` up to a whole vector, where x must be finite. `depth` is a multiple of
    CORRELATE_COLUMNS: the caller pads the table with offsets whose results it throws away.
    """
    lane = lanes(x)
    chunk = 64 * lane
    whole = (count + lane - 1) // lane * lane
    blocks = (rows + CORRELATE_ROWS - 1) // CORRELATE_ROWS
    for i in range(0, whole, chunk):
        n = min(chunk, whole - i)
        begins = fresh and i == 0
        r = 0
        for b in range(blocks):
            m = (rows - r + blocks - b - 1) // (blocks - b)
            for k in range(0, depth, CORRELATE_COLUMNS):
                _block(m, out, o + r * ldo + k, ldo, d, p + r * ldd + i, ldd, x, q + i, table, t + k, n, begins)
            r += m
