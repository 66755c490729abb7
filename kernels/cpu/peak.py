"""The most that a processor can compute: what kernels' speeds are to be compared with."""

import numpy as np

from . import parallel
from .compile import kernel
from .simd import MULTIPLY_ROWS, MULTIPLY_VECTORS, VECTOR_BYTES, multiply_tile

_tile = multiply_tile[MULTIPLY_ROWS]
_DEPTH = 64  # steps of a tile: all it reads stays in the first-level cache


@kernel
def _multiply_add(slot, start, stop, rounds, out, weight, x, table, row, size):
    for task in range(start, stop):
        for _ in range(rounds):
            _tile(out, task * size, row, weight, 0, 1, x, 0, table, 0, table.size)


def multiply_add(rounds=10_000) -> int:
    """Keep every thread busy for `rounds` rounds with a float32 register tile; returns how many fused multiply-adds
    that were."""
    tasks = parallel.get_num_threads()
    row = MULTIPLY_VECTORS * VECTOR_BYTES // 4
    out = np.empty(tasks * MULTIPLY_ROWS * row, np.float32)
    weight, x = np.ones(_DEPTH + MULTIPLY_ROWS, np.float32), np.ones(_DEPTH + row, np.float32)
    parallel.run(
        _multiply_add, tasks, rounds, out, weight, x, np.arange(_DEPTH), row, MULTIPLY_ROWS * row
    )
    return tasks * rounds * _DEPTH * MULTIPLY_ROWS * row
