"""What ends a training step: decay of the scales, a note of what came of it, updates, averages: launches of
optimization.cu."""

import math

import numpy as np

from .driver import driver
from .launch import THREADS, TYPES, by_many, source

SOURCE = source("optimization", "many")
METRICS = {"average_pooling": 0, "constant": 1}
GIVEN = 2
MOST_ROWS = 65535  # of a grid


def decay_scales(metric, sums, pixels, scales, factors, strength, gradients, penalty):
    kind, rows = METRICS[metric] if isinstance(metric, str) else GIVEN, []
    for i, (scale, factor) in enumerate(zip(scales, factors, strict=True)):
        values, images = sums[i], sums[i].shape[0]
        if kind == GIVEN:
            values, images = metric[i], 1
        elif metric == "average_pooling":
            factor = factor / (images * pixels[i]) if images else math.nan
        shape = np.int64(images << 32 | scale.shape[0])
        rows.append((values, scale, gradients[i], shape, np.float64(factor)))
    dtype = scales[0].dtype if rows else np.float64
    penalties = driver().empty((len(rows),), np.float64)
    for first, count, values in by_many(rows):
        part = penalties[first : first + count]
        SOURCE.launch("decay_scales", dtype, (1, count), THREADS, *values, kind, np.float64(strength), part)
    SOURCE.launch("add_penalties", dtype, 1, THREADS, len(rows), penalties, penalty)


def record_step(terms, gradients, ring, state):
    found = _parts("find_nonfinite", gradients, np.int32)
    rows, width = ring.shape
    for first, count, values in by_many([(term, np.int64(TYPES[term.dtype])) for term in terms]):
        last = first + count == len(terms)
        SOURCE.launch(
            "record", np.float64, 1, THREADS, *values, first, count, width, last, np.int64(rows), found.size, found,
            ring, state,
        )  # fmt: skip


def restore_if_halted(arrays, saved, state):
    rows, sizes, start = [], [], 0
    for array in arrays:
        rows.append((array, np.int64(start), np.int64(array.size * 16 + TYPES[array.dtype])))
        sizes.append(array.size)
        start += array.size
    SOURCE.over_arrays("restore_if_halted", np.float64, rows, sizes, saved, TYPES[saved.dtype], state)


def clip_gradients(gradients, max_norm):
    partials = _parts("sum_squares", gradients, np.float64)
    for flat, ranges in gradients:
        SOURCE.launch(
            "clip", flat.dtype, _grid(flat, ranges), THREADS, ranges.shape[0], ranges, flat, partials.size, partials,
            np.float64(max_norm),
        )  # fmt: skip


def adam(parameter, gradient, first, second, ranges, settings, state):
    SOURCE.launch(
        "adam", parameter.dtype, _grid(parameter, ranges), THREADS, ranges.shape[0], ranges, settings, state,
        parameter, gradient, first, second,
    )  # fmt: skip


def sgd(parameter, gradient, velocity, ranges, settings, state):
    SOURCE.launch(
        "sgd", parameter.dtype, _grid(parameter, ranges), THREADS, ranges.shape[0], ranges, settings, state,
        parameter, gradient, velocity,
    )  # fmt: skip


def count_step(state):
    SOURCE.launch("count_step", np.float64, 1, 1, state)


def average(sources, targets, weight, state):
    rows = []
    for one, target in zip(sources, targets, strict=True):
        wide = (one.dtype == np.float64) + 2 * (target.dtype == np.float64)
        rows.append((one, target, np.int64(target.size * 4 + wide)))
    sizes = [target.size for target in targets]
    SOURCE.over_arrays("average", np.float64, rows, sizes, np.float64(weight), state)


def _grid(flat, ranges):
    """A row for each range, with a thread for every two elements, were all ranges alike: how long each is, only the
    device knows."""
    count = ranges.shape[0]
    return max(1, -(-flat.size // (2 * THREADS * max(count, 1)))), min(count, MOST_ROWS)


def _parts(name, gradients, dtype):
    """What a kernel finds in gradients, see `record_step` of the contract: a number for each of its blocks."""
    grids = [_grid(flat, ranges) for flat, ranges in gradients]
    results, start = driver().empty((sum(across * down for across, down in grids),), dtype), 0
    for (flat, ranges), (across, down) in zip(gradients, grids, strict=True):
        part = results[start : start + across * down]
        SOURCE.launch(name, flat.dtype, (across, down), THREADS, ranges.shape[0], ranges, flat, part)
        start += across * down
    return results
