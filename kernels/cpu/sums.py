"""Sums along an axis, in float64 (see octsod/backend/contract.py)."""

import functools

import numpy as np

from . import parallel
from .compile import inlined, kernel
from .parallel import flat, flat_out
from .simd import lanes
from .vector import converted, load, load_like, spread, store, total

COLUMNS, ROWS = 1 << 10, 8  # that are added up at a time: the sums stay in the nearest cache
# Where there are fewer than ENOUGH sums, long ones are cut into parts of PART elements at least, whatever the number of
# threads. A task is as many sums, or parts of one, as have PART elements together.
PART, ENOUGH = 1 << 14, 64


@inlined
def _along(x, at, count, wide):
    """The sum of `count` elements that lie side by side."""
    lane = lanes(x)
    if count < 2 * lane:  # where adding up the lanes would take longer
        result = 0.0
        for i in range(at, at + count):
            result += x[i]
        return result
    step = 4 * lane
    a = b = c = d = converted(spread(x, 0), wide)
    whole = count - count % step
    for i in range(at, at + whole, step):
        a = a + converted(load(x, i, lane), wide)
        b = b + converted(load(x, i + lane, lane), wide)
        c = c + converted(load(x, i + 2 * lane, lane), wide)
        d = d + converted(load(x, i + 3 * lane, lane), wide)
    for i in range(whole, count, lane):
        a = a + converted(load(x, at + i, count - i), wide)
    return total((a + b) + (c + d))


@inlined
def _down(x, at, count, pitch, width, wide, base):
    """`wide` from `base` on = the sums of `width` columns of `count` rows, `pitch` apart."""
    lane, zero = lanes(x), converted(spread(x, 0), wide)
    for i in range(0, width, lane):
        store(wide, base + i, zero, lane)
    for k in range(0, count, ROWS):
        first = at + k * pitch
        for i in range(0, width, lane):
            sums = load_like(wide, base + i, zero)
            for row in range(first + i, first + i + min(ROWS, count - k) * pitch, pitch):
                sums = sums + converted(load(x, row, width - i), wide)
            store(wide, base + i, sums, lane)


@kernel
def _sums(slot, start, stop, x, out, wide, places, plan):
    """wide: room for each thread's sums of a block of columns. If there are several parts, their sums go there, too,
    from `places` on, instead of to `out`."""
    count, inner, blocks, parts, length, per_task, items = plan[0], plan[1], plan[2], plan[3], plan[4], plan[5], plan[6]
    base, lane, zero = slot * COLUMNS, lanes(x), spread(x, 0)
    item, end = start * per_task, min(stop * per_task, items)
    part, rest = item % parts, item // parts
    block, n = rest % blocks, rest // blocks
    for _ in range(end - item):  # divisions for each item would take longer than a short sum
        first, left = part * length, block * COLUMNS
        rows, width = min(length, count - first), min(COLUMNS, inner - left)
        at, to = (n * count + first) * inner + left, (n * parts + part) * inner + left
        if inner == 1:
            result = _along(x, at, rows, wide)
            if parts == 1:
                out[to] = result
            else:
                wide[places + to] = result
        else:
            _down(x, at, rows, inner, width, wide, base)
            for i in range(0, width, lane):
                sums = load_like(wide, base + i, zero)
                if parts == 1:
                    store(out, to + i, converted(sums, out), width - i)
                else:
                    store(wide, places + to + i, sums, width - i)
        part += 1
        if part == parts:
            part, block = 0, block + 1
            if block == blocks:
                block, n = 0, n + 1


@functools.lru_cache(1 << 10)
def _plan(outer, count, inner):
    """How sums are divided: what `_sums` has to know, as an array, which is handed over faster than a tuple; the number
    of parts of each sum, and of tasks. An item is a part of the sums of a block of columns, a task `per_task` of those.
    """
    blocks = -(-inner // COLUMNS)
    sums, size = max(outer * blocks, 1), count * min(inner, COLUMNS)  # size: of an item, if it is all of `count`
    length = -(-count // max(min(ENOUGH // sums, size // PART, count), 1))
    parts = max(-(-count // max(length, 1)), 1)
    items, per_task = outer * blocks * parts, max(PART * parts // max(size, 1), 1)
    return np.array([count, inner, blocks, parts, length, per_task, items]), parts, -(-items // per_task)


def sum_middle(x, out):
    outer, count, inner = x.shape
    plan, parts, tasks = _plan(outer, count, inner)
    slots = min(parallel.parts(tasks), parallel.slots_for(x.size))
    places = slots * COLUMNS
    wide = np.empty(places + (outer * parts * inner if parts > 1 else 0))
    parallel.run(_sums, tasks, flat(x), flat_out(out), wide, places, plan, slots=slots)
    if parts > 1:
        with np.errstate(all="ignore"):
            out[...] = wide[places:].reshape(outer, parts, inner).sum(axis=1)
