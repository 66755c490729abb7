"""Octave convolutions 1x1 in one launch: launches of pointwise.cu."""

import dataclasses
import functools
import itertools
import math

import numpy as np

from .driver import driver
from .launch import source
from .parts import USUAL, WeightSum, apart, finish, launch_sharing

SOURCE = source("pointwise", "reading", "dense", "tiles")
BACK = source("pointwise_back", "reading", "dense", "tiles")
SCALES = 3
GROUPS = 10, 5  # channels that a thread has
PART, COARSE = 128, 64  # pixels of a tile that a warp has, on the finest scale and on the others
SIDE = 5  # inputs that are side by side in parts of a weight's gradient
LEAST_WARPS, MOST_WARPS = 8, 16  # of a block; half as many where doubles take twice the registers
CHUNKS = 10, 20, 5, 40  # channels of the finest scale that are in shared memory at a time, at most
SECTOR = 8  # pixels that memory moves at once, of float32
HEIGHTS = 32, 28, 24, 20, 16, 12, 8, 6, 4, 3, 2, 1  # of tiles
# And widths, besides those that divide maps evenly. Sectors at both sides of a tile are read twice if it has a border;
# if it ends in the middle of one, that is the only one.
WIDEST, WIDTHS = 128, (96, 64, 60, 56, 52, 48, 40, 36, 32, 28, 24)
FEWEST = 4  # tiles that a column of them has, or as many as there can be: blocks for all multiprocessors
ALONE, BRIEF = 1.05, 1.02  # how much longer a block takes that is alone there, or reads five channels at a time


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a launch divides the maps: the channels of a thread, tiles of the finest scale and their borders, channels
    that pass through shared memory at a time (forward, of each scale; backward, of the finest output), warps, where
    there is what, and how much that is together, in elements.

    moved: (scale, channels, border) of maps that are read or written. weights: how many elements of weights, and of
    parts of their gradients, a block moves. alone: whether there is room for no other block on a multiprocessor."""

    group: int
    tile: tuple[int, int]
    halos: tuple[int, ...]
    chunks: list[int]
    warps: int
    places: dict
    elements: int
    moved: list
    weights: int
    alone: bool


def mix(inputs, weight, bias, outputs, moments):
    """outputs = those of `octave_conv2d` of inputs, plus bias, if there is one, for one output; all of one kernel, 1x1.
    False if that takes more shared memory than there is, or has more scales."""
    inputs, outputs, moments, height, width = _scales(inputs, outputs, moments)
    if len(inputs) > SCALES:
        return False
    ins, outs = (tuple(0 if a is None else a.shape[1] for a in side) for side in (inputs, outputs))
    plan = _plan(_forward, ins, outs, (height, width), np.dtype(weight.dtype), driver().shared_memory())
    if plan is None:
        return False
    images = next(a.shape[0] for a in outputs if a is not None)
    tiles = -(-height // plan.tile[0]) * -(-width // plan.tile[1])
    noted = [None if a is None else driver().empty((images, tiles, 4, a.shape[2]), weight.dtype) for a in moments]
    sums = [None if x is None or not images else x.claim_activation_sums() for x in inputs]
    parts = [None if a is None else driver().empty((images, tiles, 1, a.shape[1]), weight.dtype) for a in sums]
    launch_sharing(
        SOURCE, f"mix_{plan.group}", weight.dtype, images * tiles, (32, plan.warps), plan.elements, height,
        width, *plan.tile, *plan.halos, *plan.chunks, *ins, *outs, *(x and x.raw for x in inputs),
        *(x and x.coefficients for x in inputs), weight, bias, *outputs,
        *noted, *parts, *plan.places.values(),
    )  # fmt: skip
    finish(zip(parts, sums, strict=True), zip(noted, moments, strict=True))
    return True


def mix_back(grads, inputs, weight, targets, grad_weight, grad_bias=None):
    """The gradients of `mix`: as of `octave_conv2d`, and of the bias. False as there."""
    grads, inputs, targets, height, width = _scales(grads, inputs, targets)
    if len(inputs) > SCALES:
        return False
    ins, outs = (tuple(0 if a is None else a.shape[1] for a in side) for side in (inputs, grads))
    plan = _plan(_backward, ins, outs, (height, width), np.dtype(weight.dtype), driver().shared_memory())
    if plan is None:
        return False
    if any(plan.halos):  # a block reads pixels of g where others write
        written = [target for target in targets if target is not None]
        grads = [grad and apart(grad, written) for grad in grads]
    images = next(a.shape[0] for a in inputs if a is not None)
    tiles = -(-height // plan.tile[0]) * -(-width // plan.tile[1])
    sums = [target and target.gradient_sums for target in targets]
    parts = [None if a is None else driver().empty((images, tiles, *a.shape[1:]), weight.dtype) for a in sums]
    partial, (rows, columns) = None, weight.shape[:2]
    if grad_weight is not None or grad_bias is not None:
        inputs_of = [n + (s == 0 and grad_bias is not None) for s, n in enumerate(ins)]
        groups = [-(-n // SIDE) * SIDE for n in inputs_of]
        partial = driver().empty((images * tiles, rows * sum(groups)), weight.dtype)
    launch_sharing(
        BACK, f"mix_back_{plan.group}", weight.dtype, images * tiles, (32, plan.warps), plan.elements,
        height, width, *plan.tile, *plan.halos, *plan.chunks, *ins, *outs, *(x and x.raw for x in inputs),
        *(x and x.coefficients for x in inputs), *(d and d.g for d in grads), *(d and d.raw for d in grads),
        *(d and d.coefficients for d in grads), weight,
        *(target and target.array for target in targets), *(bool(target and target.accumulate) for target in targets),
        *parts, partial, grad_bias is not None, *plan.places.values(),
    )  # fmt: skip
    jobs = []
    for s, n in enumerate(ins):
        if grad_weight is not None and n:
            out = grad_weight.reshape(-1)[sum(ins[:s]) :]
            jobs.append(WeightSum(partial, rows * sum(groups[:s]), rows, rows, n, 1, SIDE, out, columns))
    if grad_bias is not None:
        first = ins[0] // SIDE * rows * SIDE + ins[0] % SIDE
        jobs.append(WeightSum(partial, first, rows, rows, 1, 1, SIDE, grad_bias, 1))
    finish(zip(parts, sums, strict=True), weights=jobs)
    return True


def _scales(inputs, outputs, *others):
    """Three of each, the finest scale first that anything has; and the height and width of its maps."""
    sides = [list(inputs), list(outputs), *(list(a) for a in others)]
    count = max(len(side) for side in sides)
    sides = [side + [None] * (max(count, SCALES) - len(side)) for side in sides]
    while sides[0][0] is None and sides[1][0] is None:
        sides = [[*side[1:], None] for side in sides]
    while len(sides[0]) > SCALES and sides[0][-1] is None and sides[1][-1] is None:
        sides = [side[:-1] for side in sides]
    scale, some = next((s, a) for side in sides[:2] for s, a in enumerate(side) if a is not None)
    return *sides, some.shape[2] << scale, some.shape[3] << scale


@functools.lru_cache(1024)
def _plan(layout, ins, outs, size, dtype, shared):
    """The plan whose tiles move the fewest sectors, of those that `shared` bytes of shared memory are enough for.

    Sectors weigh as much more as threads have more to do in vain."""
    height, width = size
    step = 1 << max(s for side in (ins, outs) for s, n in enumerate(side) if n)
    most = -(-width // WIDEST)
    widths = [-(-width // (most * step << k)) * step for k in range(5)] + [n for n in WIDTHS if n < width]
    heights = [n for n in HEIGHTS if n == step or (n % step == 0 and height / n > FEWEST - 1)] or [step]
    groups = GROUPS if dtype == np.float32 else GROUPS[1:]
    written = list(enumerate(ins if layout is _backward else outs))
    work = {group: 1 + sum(_slots(n, group) / 4**s for s, n in written) for group in groups}
    best, least = None, float("inf")
    for group, wide, tall, chunk in itertools.product(groups, dict.fromkeys(widths), heights, CHUNKS):
        plan = layout(group, ins, outs, width, tall, wide, chunk, dtype)
        if plan.elements * dtype.itemsize > shared or plan.warps > MOST_WARPS * 4 // dtype.itemsize:
            continue
        cost = -(-height // tall) * -(-width // wide) * plan.weights / SECTOR
        for s, count, halo in plan.moved:
            if not count:
                continue
            rows = _touched(height >> s, tall >> s, halo, 1)
            cost += count * rows * _touched(width >> s, wide >> s, halo, SECTOR)
        cost *= (ALONE if plan.alone else 1) * (BRIEF if chunk == min(CHUNKS) else 1)
        cost *= work[group] / min(work.values())
        if cost < least:
            best, least = plan, cost
    return best


@functools.lru_cache(4096)
def _touched(size, part, halo, sector):
    """How many sectors of an axis, of so many pixels each, its parts and their borders touch in all."""
    starts = range(0, size, part)
    return sum(-(-min(start + part + halo, size) // sector) - max(start - halo, 0) // sector for start in starts)


def _forward(group, ins, outs, map_width, height, width, most, dtype):
    groups, pixels = [-(-n // group) for n in outs], [height * width >> 2 * s for s in range(SCALES)]
    halo = int(any(ins[s] and any(outs[:s]) for s in range(1, SCALES)))
    bordered = [((height >> s) + 2 * halo) * ((width >> s) + 2 * halo) for s in range(SCALES)]
    parts = _parts(height, width, map_width)
    chunks = [min(most << 2 * s, n) for s, n in enumerate(ins)]
    stats = max(4 * k * n for k, n in zip(parts, outs, strict=True))
    sizes = {"by": 5 * sum(ins), "stats": stats}
    for s in range(1, SCALES):
        sizes[f"y{s}"] = sum(groups[: s + 1]) * group * bordered[s] if ins[s] else 0
    pooled = [sum(ins[:s]) * pixels[s] if outs[s] else 0 for s in range(SCALES)]
    under_way = [n * bordered[s] for s, n in enumerate(chunks)]
    under_way[0] = chunks[0] * pixels[0] + pooled[1]
    sizes |= {"v2": pooled[2], "x": max(under_way)}
    weights = [(ins[0], groups[0])]
    weights += [(chunks[s], sum(groups[: s + 1])) for s in range(1, SCALES)]
    weights += [(sum(ins[:s]), groups[s]) for s in range(1, SCALES)]
    moved = [(s, ins[s], halo if s else 0) for s in range(SCALES)] + [(s, outs[s], 0) for s in range(SCALES)]
    warps, limit = parts[0] * groups[0], MOST_WARPS * 4 // dtype.itemsize
    if chunks[0] == ins[0]:  # then they may come again
        warps = -(-warps // max(-(-warps // limit), 1))
    moved_weights = sum(ins) * sum(outs)
    return _planned(group, (height, width), (halo,), chunks, warps, weights, sizes, moved, moved_weights, dtype)


def _backward(group, ins, outs, map_width, height, width, most, dtype):
    groups, pixels = [-(-n // group) for n in ins], [height * width >> 2 * s for s in range(SCALES)]
    halos = 2 * (outs[0] and ins[2] > 0) or int(outs[0] and ins[1] > 0), int(outs[1] and ins[2] > 0), 0
    bordered = [((height >> s) + 2 * h) * ((width >> s) + 2 * h) for s, h in enumerate(halos)]
    parts = _parts(height, width, map_width)
    chunk = min(most, outs[0])
    weights = [(outs[0], groups[0])]
    weights += [(outs[s], sum(groups[:s])) for s in range(1, SCALES)]
    weights += [(sum(outs[: s + 1]), groups[s]) for s in range(1, SCALES)]
    sizes = {
        "by": 4 * sum(ins) + 6 * sum(outs), "stats": max(3 * k * n for k, n in zip(parts, ins, strict=True)),
        "f": outs[0] * -(-(ins[0] + 1) // SIDE) * SIDE, "x0": ins[0] * pixels[0],
    }  # fmt: skip
    whole = sum(outs) * (-(-(ins[0] + 1) // SIDE) + sum(-(-n // SIDE) for n in ins[1:])) * SIDE
    sizes["d0"] = max(chunk * bordered[0], whole - sizes["x0"])
    for s in range(1, SCALES):
        sizes[f"x{s}"], sizes[f"d{s}"] = ins[s] * pixels[s], outs[s] * bordered[s]
        sizes[f"e{s}"] = sum(outs[:s]) * pixels[s] if ins[s] else 0
        sizes[f"q{s}"] = sum(groups[:s]) * group * pixels[s] if outs[s] else 0
    for s in range(1, SCALES):
        sizes[f"w{s}"] = -(-sum(ins[:s]) * pixels[s] // dtype.itemsize) if outs[s] else 0
    moved = [(s, 2 * ins[s], 0) for s in range(SCALES)] + [(s, 2 * outs[s], halos[s]) for s in range(SCALES)]
    moved_weights = sum(ins) * sum(outs) + 2 * whole
    return _planned(
        group, (height, width), halos[:2], [chunk], parts[0] * groups[0], weights, sizes, moved, moved_weights, dtype
    )


def _parts(height, width, map_width):
    """Of each scale, how many warps a tile's pixels take: in lines as in tiles.cu."""
    parts = []
    for s in range(SCALES):
        own, whole = width >> s, map_width >> s
        late = SECTOR - math.gcd(own, SECTOR)
        line = -(-(own + late) // SECTOR) * SECTOR if own < whole and whole % SECTOR == 0 else own
        parts.append(-(-(height >> s) * line // (COARSE if s else PART)))
    return parts


def _planned(group, tile, halos, chunks, warps, weights, sizes, moved, moved_weights, dtype):
    """A plan in which arrays of these sizes lie one after the other in shared memory, behind weights: the largest of
    so many channels times so many groups. warps: that the finest scale takes."""
    pair = -(-group // 2)
    end, places = max(count * (groups * pair | 1) * 2 for count, groups in weights), {}
    for name, size in sizes.items():
        places[name] = end
        end += -(-size // 2) * 2
    alone = end * dtype.itemsize > USUAL
    warps = max(warps, MOST_WARPS * 4 // dtype.itemsize if alone else LEAST_WARPS)
    return Plan(group, tile, halos, chunks, warps, places, end, moved, moved_weights, alone)


def _slots(count, group):
    """How long so many channels take: ten of a thread take less time each, but more may be left over."""
    return -(-count // group) * group * (1.2 if group == GROUPS[1] else 1)
