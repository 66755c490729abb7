"""Octave convolutions 1x1 in one launch: launches of pointwise.cu."""

import dataclasses

import numpy as np

from octsod.backend.deferred import DeferredGradient

from .driver import driver
from .launch import Source
from .parts import finish, formed

SOURCE, BACK = Source("pointwise", "dense", "tiles"), Source("pointwise_back", "dense", "tiles")
SCALES = 3
GROUPS = 10, 5  # channels that a thread has
PART = 128  # pixels of a tile that a warp has
LEAST_WARPS, MOST_WARPS = 8, 16  # of a block; half as many where doubles take twice the registers
CHUNK = 10  # channels of the finest scale that are in shared memory at a time
WIDEST = 64  # pixels of a tile's row
HEIGHTS = 16, 8, 4, 2, 1  # of tiles: the larger, the less is read twice
FEWEST = 7  # tiles that a column of them has, or as many as there can be: blocks for all multiprocessors
USUAL = 110 << 10  # bytes of shared memory of a block: two of them are on a large GPU's multiprocessor
LARGE = 8  # rows of a tile: with less, too much is read twice, and one block to a multiprocessor is better


@dataclasses.dataclass(frozen=True)
class Plan:
    """How a launch divides the maps: tiles of the finest scale, the channels of a thread, warps, channels of the finest
    scale that are in shared memory at a time, where there is what, and how much that is together, in elements."""

    group: int
    tile: tuple[int, int]
    halos: tuple[int, ...]
    chunk: int
    warps: int
    places: dict
    elements: int


def mix(inputs, weight, bias, outputs, moments):
    """outputs = those of `octave_conv2d` of inputs, plus bias, if there is one, for one output; all of one kernel, 1x1.
    False if that takes more shared memory than there is, or has more scales."""
    inputs, outputs, moments, height, width = _scales(inputs, outputs, moments)
    if len(inputs) > SCALES:
        return False
    ins, outs = ([0 if a is None else a.shape[1] for a in side] for side in (inputs, outputs))
    plan = _plan(_forward, ins, outs, (height, width), weight.dtype)
    if plan is None:
        return False
    images = next(a.shape[0] for a in outputs if a is not None)
    tiles = -(-height // plan.tile[0]) * -(-width // plan.tile[1])
    noted = [None if a is None else driver().empty((images, tiles, 4, a.shape[2]), weight.dtype) for a in moments]
    sums = [None if x is None or not images else x.claim_activation_sums() for x in inputs]
    parts = [None if a is None else driver().empty((images, tiles, 1, a.shape[1]), weight.dtype) for a in sums]
    _launch(
        SOURCE, "mix", plan, weight.dtype, images * tiles, height, width, *plan.tile, *plan.halos, plan.chunk, *ins,
        *outs, *(x and x.raw for x in inputs), *(x and x.coefficients for x in inputs), weight, bias, *outputs,
        *noted, *parts,
    )  # fmt: skip
    finish(zip(parts, sums, strict=True), zip(noted, moments, strict=True))
    return True


def mix_back(grads, inputs, weight, targets, grad_weight, grad_bias=None):
    """The gradients of `mix`: as of `octave_conv2d`, and of the bias. False as there."""
    grads, inputs, targets, height, width = _scales(grads, inputs, targets)
    if len(inputs) > SCALES:
        return False
    ins, outs = ([0 if a is None else a.shape[1] for a in side] for side in (inputs, grads))
    plan = _plan(_backward, ins, outs, (height, width), weight.dtype)
    if plan is None:
        return False
    if any(plan.halos):  # a block reads pixels of g where others write
        written = [target for target in targets if target is not None]
        grads = [grad and _formed_if_written(grad, written) for grad in grads]
    images = next(a.shape[0] for a in inputs if a is not None)
    tiles = -(-height // plan.tile[0]) * -(-width // plan.tile[1])
    sums = [target and target.gradient_sums for target in targets]
    parts = [None if a is None else driver().empty((images, tiles, *a.shape[1:]), weight.dtype) for a in sums]
    partial, (rows, columns) = None, weight.shape[:2]
    if grad_weight is not None or grad_bias is not None:
        partial = driver().empty((images * tiles, rows * (columns + 1)), weight.dtype)
    _launch(
        BACK, "mix_back", plan, weight.dtype, images * tiles, height, width, *plan.tile, *plan.halos, plan.chunk, *ins,
        *outs, *(x and x.raw for x in inputs), *(x and x.coefficients for x in inputs), *(d and d.g for d in grads),
        *(d and d.raw for d in grads), *(d and d.coefficients for d in grads), weight,
        *(target and target.array for target in targets), *(bool(target and target.accumulate) for target in targets),
        *parts, partial, grad_bias is not None,
    )  # fmt: skip
    jobs = [] if grad_weight is None else [(0, rows, columns, columns + 1, grad_weight, columns)]
    jobs += [] if grad_bias is None else [(columns, rows, 1, columns + 1, grad_bias, 1)]
    finish(zip(parts, sums, strict=True), weights=(partial, jobs))
    return True


def _formed_if_written(grad, targets):
    return DeferredGradient.of(formed(grad, targets)) if any(grad.g is target.array for target in targets) else grad


def _launch(source, name, plan, dtype, blocks, *arguments):
    shared = plan.elements * np.dtype(dtype).itemsize
    name = f"{name}_{plan.group}"
    source.function(name, dtype).max_dynamic_shared_size_bytes = max(shared, 48 << 10)
    source.launch(name, dtype, blocks, (32, plan.warps), *arguments, *plan.places.values(), shared_mem=shared)


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


def _plan(layout, ins, outs, size, dtype):
    """The largest tiles for which there is room in shared memory."""
    step = 1 << max(s for side in (ins, outs) for s, n in enumerate(side) if n)
    across = -(-size[1] // WIDEST)
    width = (size[1] + across * step - 1) // (across * step) * step
    widths = [width, -(-width // (2 * step)) * step]
    heights = [height for height in HEIGHTS if height == step or step < height <= size[0] // FEWEST]
    itemsize, most = np.dtype(dtype).itemsize, driver().shared_memory()
    tiles = [(w, h) for w in widths for h in heights or [step]]
    large = [tile for tile in tiles if tile[0] == width and tile[1] >= LARGE]
    for limit, some in ((min(USUAL, most), large), (most, large), (most, tiles)):
        for tile in some:
            plan = layout(ins, outs, tile[1], tile[0], dtype)
            if plan.elements * itemsize <= limit and plan.warps <= MOST_WARPS * 4 // itemsize:
                return plan
    return None


def _forward(ins, outs, height, width, dtype):
    group = _group(outs[0], dtype)
    groups, pixels = [-(-n // group) for n in outs], [height * width >> 2 * s for s in range(SCALES)]
    halo = int(any(ins[s] and any(outs[:s]) for s in range(1, SCALES)))
    bordered = [((height >> s) + 2 * halo) * ((width >> s) + 2 * halo) for s in range(SCALES)]
    parts = [-(-pixels[0] // PART), *(-(-n // 32) for n in pixels[1:])]
    chunk = min(CHUNK, ins[0])
    stats = max(4 * k * n for k, n in zip(parts, outs, strict=True))
    sizes = {"by": 4 * sum(ins), "stats": stats, "chunk": chunk * pixels[0]}
    for s in range(1, SCALES):
        sizes[f"x{s}"] = ins[s] * bordered[s]
    for s in range(1, SCALES):
        sizes[f"y{s}"] = sum(groups[:s]) * group * bordered[s] if ins[s] else 0
    for s in range(1, SCALES):
        sizes[f"v{s}"] = sum(ins[:s]) * pixels[s] if outs[s] else 0
    phases = [chunk * groups[0]]
    phases += [ins[s] * sum(groups[:s]) for s in range(1, SCALES)]
    phases += [sum(ins[: s + 1]) * groups[s] for s in range(1, SCALES)]
    start = max(phases) * -(-group // 4) * 4
    return _planned(group, (height, width), (halo,), chunk, max(parts[0] * groups[0], LEAST_WARPS), start, sizes)


def _backward(ins, outs, height, width, dtype):
    group = _group(ins[0], dtype)
    groups, pixels = [-(-n // group) for n in ins], [height * width >> 2 * s for s in range(SCALES)]
    halos = 2 * (outs[0] and ins[2] > 0) or int(outs[0] and ins[1] > 0), int(outs[1] and ins[2] > 0), 0
    bordered = [((height >> s) + 2 * h) * ((width >> s) + 2 * h) for s, h in enumerate(halos)]
    parts = [-(-pixels[0] // PART), *(-(-n // 32) for n in pixels[1:])]
    chunk = min(CHUNK, outs[0])
    phases = [chunk * groups[0]]
    phases += [outs[s] * sum(groups[:s]) for s in range(1, SCALES)]
    phases += [sum(outs[: s + 1]) * groups[s] for s in range(1, SCALES)]
    sizes = {
        "by": 4 * sum(ins) + 6 * sum(outs), "stats": max(3 * k * n for k, n in zip(parts, ins, strict=True)),
        "x0": ins[0] * pixels[0], "d0": chunk * bordered[0],
    }  # fmt: skip
    for s in range(1, SCALES):
        sizes[f"x{s}"], sizes[f"d{s}"] = ins[s] * pixels[s], outs[s] * bordered[s]
        sizes[f"e{s}"] = sum(outs[:s]) * pixels[s] if ins[s] else 0
        sizes[f"q{s}"] = sum(groups[:s]) * group * pixels[s] if outs[s] else 0
    start = max(phases) * -(-group // 4) * 4
    return _planned(group, (height, width), halos[:2], chunk, max(parts[0] * groups[0], LEAST_WARPS), start, sizes)


def _planned(group, tile, halos, chunk, warps, start, sizes):
    """A plan in which arrays of these sizes lie one after the other in shared memory, from `start` on."""
    places = {}
    for name, size in sizes.items():
        places[name] = start
        start += size
    return Plan(group, tile, halos, chunk, warps, places, start)


def _group(count, dtype):
    """How many channels a thread has, of so many: ten take less time each, but more may be left over."""
    groups = GROUPS if np.dtype(dtype) == np.float32 else GROUPS[1:]
    return min(groups, key=lambda group: -(-count // group) * group * (1.2 if group == 5 else 1))
