"""Products of matrices (see octsod/backend/contract.py), from the register tiles of the convolutions.

A matrix product is a convolution without a neighbourhood: columns are its pixels, the depth is its channels. So
`products.multiply` computes it, with a table whose entry k says where row k of the second matrix begins.
"""

from typing import NamedTuple

import numpy as np

from octsod.backend.memory import empty

from . import parallel
from .compile import kernel
from .parallel import flat, flat_out
from .products import multiply
from .regions import UNFINISHED, Region, Table, Weights
from .simd import VECTOR_BYTES
from .tiles import MULTIPLY_ROWS

# A task has at least so many rows and columns, if there are, and less than twice as many: its part of the first matrix
# is brought into the order that tiles read it in, which pays if there are many columns.
ROWS, COLUMNS = 48, 512


class _Plan(NamedTuple):
    """Sizes of a product, and how it is divided. row_step, depth_step: between neighbours in the first matrix."""

    rows: int
    columns: int
    depth: int
    row_step: int
    depth_step: int
    row_parts: int
    column_parts: int


@kernel
def _matmul(slot, start, stop, a, b, out, table, packed, spare, plan):
    p = plan
    for task in range(start, stop):
        rest, column_part = task // p.column_parts, task % p.column_parts
        n, row_part = rest // p.row_parts, rest % p.row_parts
        # Each number is added up in one order, whatever the division, so results do not depend on it.
        top, bottom = p.rows * row_part // p.row_parts, p.rows * (row_part + 1) // p.row_parts
        left, right = p.columns * column_part // p.column_parts, p.columns * (column_part + 1) // p.column_parts
        rows = bottom - top
        first = slot * 2 * ROWS * p.depth
        for k in range(p.depth):
            at = n * p.rows * p.depth + top * p.row_step + k * p.depth_step
            for r in range(rows):
                packed[first + k * rows + r] = a[at + r * p.row_step]
        multiply(
            Region(out, (n * p.rows + top) * p.columns + left, p.columns, p.columns), rows,
            Weights(packed, first, rows, UNFINISHED), Region(b, n * p.depth * p.columns + left, 0, 0),
            Table(table, 0, p.depth), right - left, spare[slot],
        )  # fmt: skip


def matmul(a, b, out, transpose_a=False, transpose_b=False):
    count, rows, columns = out.shape
    depth = a.shape[1 if transpose_a else 2]
    steps = (1, rows) if transpose_a else (depth, 1)
    plan = _Plan(rows, columns, depth, *steps, max(rows // ROWS, 1), max(columns // COLUMNS, 1))
    tasks = count * plan.row_parts * plan.column_parts
    slots, lanes = parallel.parts(tasks), VECTOR_BYTES // out.itemsize
    spare = np.zeros(slots, np.int64)
    b = b.swapaxes(1, 2) if transpose_b else b
    if columns < lanes:
        # Tiles read a whole vector from each row, the last one included, and put aside what they compute. There is room
        # for both behind the matrices; what is read there plays no part.
        padded = empty(b.size + slots * MULTIPLY_ROWS * lanes, b.dtype)
        padded[: b.size] = b.reshape(-1)
        b, spare = padded, b.size + MULTIPLY_ROWS * lanes * np.arange(slots)
    parallel.run(
        _matmul, tasks, flat(a), flat(b), flat_out(out), columns * np.arange(depth),
        empty(slots * 2 * ROWS * depth, out.dtype), spare, plan, slots=slots,
    )  # fmt: skip
