"""The two products that every dense convolution is made of, over channels-by-pixels scratch in the cache.

A convolution's taps are shifts of the source: entry k of `table` is where the k-th (channel, tap) row begins, relative
to the output pixel. So a table of offsets can describe 1x1, 3x3, dilated, strided and multi-scale convolutions.
"""

from .compile import kernel
from .regions import Region, from_element, from_entry, from_row
from .simd import lanes
from .tiles import (
    CORRELATE_COLUMNS,
    CORRELATE_ROWS,
    MULTIPLY_ROWS,
    MULTIPLY_VECTORS,
    correlate_tile,
    multiply_tile,
    multiply_tile_narrow,
)


@kernel
def multiply(out, rows, weights, x, table, count, spare):
    """`out[r, i] = sum_k weight[k, r] * x[table[k] + i]` for r < rows, i < count: see `Weights` and `Table`.

    The rows of out are the channels of a region. Writes exactly `count` pixels of each row. Reads up to one vector
    beyond the last pixel of x. `spare` is where in x's array a tile of MULTIPLY_ROWS vectors may be put aside. Rows are
    divided evenly (10 = 5 + 5, not 6 + 4), since a tile of few rows waits for the latency of its own sums.
    """
    lane = lanes(x.array)
    step = MULTIPLY_VECTORS * lane
    blocks = (rows + MULTIPLY_ROWS - 1) // MULTIPLY_ROWS
    aside = Region(x.array, spare, lane, lane)
    i = 0
    while i < count:
        # The rest at the end is computed as a whole tile, which repeats some pixels before it: the numbers are the
        # same, and a whole tile is faster than its parts.
        wide = count >= step
        i = min(i, max(count - (step if wide else lane), 0))
        source = from_element(x, i)
        r = 0
        for b in range(blocks):
            m = (rows - r + blocks - b - 1) // (blocks - b)
            target, own = from_element(out, r * out.stride + i), from_row(weights, r)
            if wide:
                multiply_tile(m, target, own, source, table)
            elif count >= lane:
                multiply_tile_narrow(m, target, own, source, table)
            else:
                multiply_tile_narrow(m, aside, own, source, table)
                for a in range(m):
                    for e in range(count):
                        out.array[target.start + a * out.stride + e] = x.array[spare + a * lane + e]
            r += m
        i += step if wide else lane


@kernel
def correlate(out, rows, d, x, table, count, fresh):
    """`out[r, k] += sum_i d[r, i] * x[table[k] + i]` for r < rows, i < count: a weight gradient. If it is `fresh`, `=`
    instead of `+=`.

    The rows of out and d are the channels of regions. From `count` up to a whole vector, the rows of d must be zero and
    x must be finite. The table's depth is a multiple of CORRELATE_COLUMNS: the caller pads it with offsets whose
    results it throws away.
    """
    lane = lanes(x.array)
    chunk = 64 * lane
    whole = (count + lane - 1) // lane * lane
    blocks = (rows + CORRELATE_ROWS - 1) // CORRELATE_ROWS
    for i in range(0, whole, chunk):
        n = min(chunk, whole - i)
        begins = fresh and i == 0
        source = from_element(x, i)
        r = 0
        for b in range(blocks):
            m = (rows - r + blocks - b - 1) // (blocks - b)
            left, to = from_element(d, r * d.stride + i), from_element(out, r * out.stride)
            for k in range(0, table.depth, CORRELATE_COLUMNS):
                correlate_tile(m, from_element(to, k), left, source, from_entry(table, k), n, begins)
            r += m
