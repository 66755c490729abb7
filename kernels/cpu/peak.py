"""The most that a processor can compute, and the least that a launch takes, as measures for the speed of kernels."""

import numpy as np

from . import parallel
from .compile import kernel
from .regions import UNFINISHED, Region, Table, Weights
from .simd import VECTOR_BYTES
from .tiles import MULTIPLY_ROWS, MULTIPLY_VECTORS, multiply_tile

_DEPTH = 64  # steps of a tile: everything it reads stays in the level-1 cache


@kernel
def _multiply_add(slot, start, stop, rounds, out, weights, x, table):
    """out: a `Region` that has `MULTIPLY_ROWS` channels per task."""
    for task in range(start, stop):
        target = Region(out.array, task * MULTIPLY_ROWS * out.stride, out.stride, out.pitch)
        for _ in range(rounds):
            multiply_tile(MULTIPLY_ROWS, target, weights, x, table)


@kernel
def _nothing(slot, start, stop):
    pass


def nothing():
    """Launch a kernel that has nothing to do, with a task for every thread."""
    parallel.run(_nothing, parallel.get_num_threads())


def multiply_add(rounds=10_000) -> int:
    """Keep every thread busy for `rounds` rounds with a float32 register tile; returns the number of fused
    multiply-adds."""
    tasks = parallel.get_num_threads()
    row = MULTIPLY_VECTORS * VECTOR_BYTES // 4
    out = np.empty(tasks * MULTIPLY_ROWS * row, np.float32)
    weight, x = np.ones(_DEPTH + MULTIPLY_ROWS, np.float32), np.ones(_DEPTH + row, np.float32)
    parallel.run(
        _multiply_add, tasks, rounds, Region(out, 0, row, row), Weights(weight, 0, 1, UNFINISHED), Region(x, 0, 0, 0),
        Table(np.arange(_DEPTH), 0, _DEPTH),
    )  # fmt: skip
    return tasks * rounds * _DEPTH * MULTIPLY_ROWS * row
