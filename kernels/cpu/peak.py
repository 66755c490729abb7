"""The most that a processor can compute and move, and the least that a launch takes, as measures for kernels.

Threads do the same work in many short bursts and note when each begins. So whoever measures can pick the moments in
which nothing else disturbed them.
"""

import numpy as np

from . import parallel
from .clock import now
from .compile import kernel
from .regions import UNFINISHED, Region, Table, Weights
from .simd import VECTOR_BYTES, lanes
from .tiles import MULTIPLY_ROWS, MULTIPLY_VECTORS, multiply_tile
from .vector import fence, load, spread, store, stream

_DEPTH = 64  # steps of a tile: everything it reads stays in the level-1 cache
_ROUNDS = 100  # tiles of a burst
COPY, ADD, READ, STREAM, FILL = range(5)
ARRAYS = {COPY: 2, ADD: 3, READ: 1, STREAM: 2, FILL: 1}  # that are read or written
GRAIN = 4 * VECTOR_BYTES  # bytes that a round of `_move`'s loops takes of an array
_REPEATED = 1 << 18  # bytes: less than that is moved several times in a burst


@kernel
def _multiply_add(slot, start, stop, rounds, bursts, moments, out, weights, x, table):
    """out: a `Region` that has `MULTIPLY_ROWS` channels per task. moments: (tasks, bursts + 1), flat."""
    for task in range(start, stop):
        target = Region(out.array, task * MULTIPLY_ROWS * out.stride, out.stride, out.pitch)
        for burst in range(bursts):
            moments[task * (bursts + 1) + burst] = now()
            for _ in range(rounds):
                multiply_tile(MULTIPLY_ROWS, target, weights, x, table)
        moments[task * (bursts + 1) + bursts] = now()


@kernel
def _move(slot, start, stop, kind, count, chunks, rounds, bursts, moments, x, y, z):
    """Each task moves chunks of its own, of `count` floats, one per burst, `rounds` times. x, y, z: the arrays, of
    those that the kind needs."""
    step = lanes(x)
    for task in range(start, stop):
        for burst in range(bursts):
            moments[task * (bursts + 1) + burst] = now()
            first = (task * chunks + burst % chunks) * count
            for _ in range(rounds):
                if kind == COPY:
                    for i in range(first, first + count):
                        y[i] = x[i]
                elif kind == ADD:
                    for i in range(first, first + count):
                        z[i] = x[i] + y[i]
                elif kind == READ:
                    a, b, c, d = spread(x, 0.0), spread(x, 0.0), spread(x, 0.0), spread(x, 0.0)
                    for i in range(first, first + count, 4 * step):
                        a = a + load(x, i, step)
                        b = b + load(x, i + step, step)
                        c = c + load(x, i + 2 * step, step)
                        d = d + load(x, i + 3 * step, step)
                    store(z, 4 * step * task, a + b + (c + d), step)
                elif kind == STREAM:
                    for i in range(first, first + count, step):
                        stream(y, i, load(x, i, step))
                else:
                    for i in range(first, first + count):
                        y[i] = 0.0
        fence()
        moments[task * (bursts + 1) + bursts] = now()


@kernel
def _nothing(slot, start, stop):
    pass


def nothing():
    """Launch a kernel that has nothing to do: a single task, for which no other thread is woken."""
    parallel.run(_nothing, 1)


def multiply_add(bursts: int = 200) -> tuple[int, np.ndarray]:
    """Keep every thread busy with a float32 register tile. Returns how many fused multiply-adds a burst has, and when
    bursts began and the last one ended, by the clock of `clock.read`: (threads, bursts + 1)."""
    tasks = parallel.get_num_threads()
    row = MULTIPLY_VECTORS * VECTOR_BYTES // 4
    out = np.empty(tasks * MULTIPLY_ROWS * row, np.float32)
    weight, x = np.ones(_DEPTH + MULTIPLY_ROWS, np.float32), np.ones(_DEPTH + row, np.float32)
    moments = np.zeros((tasks, bursts + 1), np.int64)
    parallel.run(
        _multiply_add, tasks, _ROUNDS, bursts, moments.reshape(-1), Region(out, 0, row, row),
        Weights(weight, 0, 1, UNFINISHED), Region(x, 0, 0, 0), Table(np.arange(_DEPTH), 0, _DEPTH),
    )  # fmt: skip
    return _ROUNDS * _DEPTH * MULTIPLY_ROWS * row, moments


def move(kind: int, arrays: tuple[np.ndarray, ...], chunk: int, bursts: int) -> tuple[int, np.ndarray]:
    """Have every thread move its share of float32 arrays, chunk after chunk, again and again.

    kind: `COPY` and `ADD` are for data in caches, `STREAM` writes past them, `FILL` writes alone. arrays: three flat
    ones of the same size, aligned to vectors, of which `ARRAYS[kind]` are used; they hold `GRAIN` bytes for each thread
    at least. chunk: bytes of one, at most. Returns how many bytes a burst moves, and moments as `multiply_add` does.
    """
    tasks = parallel.get_num_threads()
    count = max(min(chunk, arrays[0].nbytes // tasks) // GRAIN, 1) * GRAIN // 4
    chunks, moved = max(arrays[0].size // (count * tasks), 1), 4 * count * ARRAYS[kind]
    rounds = max(_REPEATED // moved, 1)
    moments = np.zeros((tasks, bursts + 1), np.int64)
    parallel.run(_move, tasks, kind, count, chunks, rounds, bursts, moments.reshape(-1), *arrays)
    return moved * rounds, moments
