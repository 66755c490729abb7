"""The octave convolution (gOctConv): launches of octave.cu, and convolutions that are convolution.cu's.

On each scale, all inputs that get there are stacked as one map: finer ones max-pooled, then the scale's own. Likewise
all gradients of outputs: finer ones by the adjoint of upsampling, then the scale's own. So a scale takes two products,
whose weights are blocks of the weight: its own input with the outputs of all scales down to it, and its own output with
the inputs of all finer ones.
"""

import itertools

import numpy as np

from octsod.backend.deferred import Deferred, GradientTarget

from .convolution import (
    SAME,
    Block,
    Planes,
    convolve,
    convolve_back,
    convolve_weights,
)
from .driver import driver
from .launch import source
from .parts import finish, read_sums
from .pointwise import mix, mix_back

SOURCE = source("octave", "reading", "dense")
RUN = 256  # pixels, or squares of pixels, of a block
JOBS = 4  # maps that one launch resamples
LAUNCHED = 3  # upsampled maps that one launch adds up
POOLED = 2  # pooled parts of a gradient that one launch adds up


def octave_conv2d(inputs, weight, outputs, stride, moments=None):
    pointwise = weight.shape[2] == 1 and stride == 1
    if pointwise and mix(inputs, weight, None, outputs, moments or [None] * len(outputs)):
        return
    scales, noted, raised = _Scales(inputs, outputs, weight, stride, forward=True), [], {}
    own = {i: scales.read(i, own=True) for i, x in enumerate(inputs) if x is not None and scales.rows[i]}
    seen = {j: scales.read(j) for j, out in enumerate(outputs) if out is not None}
    scales.launch()
    for i, x in own.items():
        raised[i] = scales.empty(scales.rows[i], i)
        convolve(x, [scales.block(weight, 0, i, scales.rows[i])], None, raised[i], 1, SAME, [1])
    for j, out in enumerate(outputs):
        if out is None:
            continue
        sums = None if moments is None else moments[j]
        ups = [(channels(raised[i], scales.rows[j], out.shape[1]), 2 ** (i - j)) for i in raised if i > j]
        block = scales.block(weight, scales.rows[j], 0, out.shape[1])
        noted.append(convolve(seen[j], [block], None, out, 1, SAME, [1], None if ups else sums))
        for k in range(0, len(ups), LAUNCHED):
            noted.append(_raise(ups[k : k + LAUNCHED], out, sums if k + LAUNCHED >= len(ups) else None))
    for i, x in enumerate(inputs):
        if x is not None and scales.images and i not in scales.summed:
            read_sums(x, x.raw)
    finish(scales.summed.values(), noted)


def octave_conv2d_backward(grads, inputs, weight, stride, grad_inputs, grad_weight):
    pointwise = weight.shape[2] == 1 and stride == 1
    if pointwise and mix_back(grads, inputs, weight, grad_inputs, grad_weight):
        return
    scales = _Scales(inputs, grads, weight, stride)
    # Targets are written last: so it does not matter whether gradients lie there.
    deltas = [None if grad is None else Planes.of(grad) for grad in grads]
    own, pooled, sums, jobs, stacked, alone, finer = {}, {}, [], [], {}, {}, {}
    for level in range(len(scales.sizes)):
        d, x = (side[level] if level < len(side) else None for side in (deltas, inputs))
        if x is not None and scales.rows[level + 1]:
            stacked[level] = scales.lowered(deltas, level)
            if grad_weight is not None:
                alone[level] = scales.read(level, own=True)
        if d is not None and scales.columns[level] and grad_weight is not None:
            finer[level] = channels(scales.stack(level), 0, scales.columns[level])
    scales.launch()
    for level in range(len(scales.sizes)):
        d, x = (side[level] if level < len(side) else None for side in (deltas, inputs))
        if level in stacked:
            block = scales.block(weight, 0, level, scales.rows[level + 1])
            if grad_inputs[level] is not None:
                own[level] = scales.empty(x.shape[1], level)
                _back(stacked[level], block, own[level])
            if grad_weight is not None:
                target = scales.block(grad_weight, 0, level, block.outs)
                jobs += convolve_weights(stacked[level], alone[level], [target], [block], 1, SAME, [1])
        if d is not None and scales.columns[level]:
            block = scales.block(weight, scales.rows[level], 0, d.shape[1])
            if any(target is not None for target in grad_inputs[:level]):
                pooled[level] = scales.empty(scales.columns[level], level)
                _back(d, block, pooled[level])
            if grad_weight is not None:
                target = scales.block(grad_weight, scales.rows[level], 0, block.outs)
                jobs += convolve_weights(d, finer[level], [target], [block], 1, SAME, [1])
    spread = []
    for i, target in enumerate(grad_inputs):
        if target is not None:
            parts = [
                (channels(a, scales.columns[i], inputs[i].shape[1]), 2 ** (level - i))
                for level, a in pooled.items() if level > i
            ]  # fmt: skip
            spread.append((inputs[i], own.get(i), parts, target))
    sums += _spread(spread, scales.halved)
    finish(sums, weights=jobs)


class _Scales:
    """The maps of a call on each scale. rows[j], columns[i]: where in the weight those of output j and input i begin.
    summed: of inputs whose activation sums were noted while they were read, parts and target."""

    def __init__(self, inputs, outputs, weight, stride, forward=False):
        self.inputs, self.halved, self.forward, self.summed = inputs, stride == 2, forward, {}
        count = max(len(inputs), len(outputs))
        self.rows, self.columns, self.sizes = [0], [0], []
        for level in range(count):
            x, out = (side[level] if level < len(side) else None for side in (inputs, outputs))
            self.columns.append(self.columns[-1] + (0 if x is None else x.shape[1]))
            self.rows.append(self.rows[-1] + (0 if out is None else out.shape[1]))
            size = out.shape[2:] if out is not None else x and (x.shape[2] // stride, x.shape[3] // stride)
            self.sizes.append(size)
        self.images = next(x.shape[0] for x in inputs if x is not None)
        self.dtype, self.taps, self.total = weight.dtype, weight.shape[2] * weight.shape[3], weight.shape[1]
        self._stacks = {}

    def empty(self, count, level):
        return driver().empty((self.images, count, *self.sizes[level]), self.dtype)

    def block(self, weight, row, level, outs):
        """The block of the weight from a row and the columns of the input `level` on."""
        row_size = self.total * self.taps
        start = row * row_size + self.columns[level] * self.taps
        return Block(weight.reshape(-1)[start:], outs, weight.shape[2:], row_size)

    def stack(self, level):
        """All inputs that get to a scale, those of finer scales first; there after `launch`."""
        if level not in self._stacks:
            self._stacks[level] = self.empty(self.columns[level + 1], level)
        return self._stacks[level]

    def launch(self):
        """Make the stacks. An input is read once for its own scale and the next one, and once for each one further."""
        jobs = []
        for i, x in enumerate(self.inputs):
            levels = [level for level in self._stacks if level >= i] if x is not None else []
            if i in levels:
                claimed = x.claim_activation_sums() if self.forward and self.images else None
                both = i + 1 in levels
                jobs.append((x, i, 2 if both else 1, self._part(i, i), self._part(i + 1, i) if both else None, claimed))
                levels = [level for level in levels if level > i + both]
            jobs += [(x, i, 2 ** (level - i), None, self._part(level, i), None) for level in levels]
        for k in range(0, len(jobs), JOBS):
            self._pool(jobs[k : k + JOBS])

    def _pool(self, jobs):
        rows, most, images = [], 0, self.images
        for x, i, window, own, pooled, claimed in jobs:
            size, count = [n // (1 + self.halved) // window for n in x.shape[2:]], x.shape[1]
            blocks = -(-size[0] * size[1] // RUN)
            sums = None if claimed is None else driver().empty((images, blocks, 1, count), x.dtype)
            if sums is not None:
                self.summed[i] = sums, claimed
            most = max(most, images * count * blocks)
            rows.append((
                *x.shape[1:], np.int64(x.shape[1] * x.shape[2] * x.shape[3]), x.raw, x.coefficients, window,
                np.int64(own.stride if own else 0), own and own.raw, np.int64(pooled.stride if pooled else 0),
                pooled and pooled.raw, sums,
            ))  # fmt: skip
        columns = zip(*rows, *rows[-1:] * (JOBS - len(rows)), strict=True)  # nobody looks at the last one's repetitions
        SOURCE.launch(
            "octave_pool", self.dtype, (most, len(rows)), RUN, images, self.halved, *itertools.chain(*columns)
        )

    def _part(self, level, i):
        return channels(self._stacks[level], self.columns[i], self.inputs[i].shape[1])

    def read(self, level, own=False):
        """What is read on a scale: `own` or all inputs that get there."""
        alone = own or not self.columns[level]
        if alone and not self.halved and level < len(self.inputs) and self.inputs[level] is not None:
            return Planes.of(self.inputs[level])
        stack = self.stack(level)
        return self._part(level, level) if own else Planes.of(stack)

    def lowered(self, deltas, level):
        """All gradients of outputs that get to a scale, those of finer scales first."""
        d = deltas[level] if level < len(deltas) else None
        if not self.rows[level]:
            return d
        stack = self.empty(self.rows[level + 1], level)
        rows = [
            (delta.shape[1], 2 ** (level - j), np.int64(delta.stride), *delta.gradient,
             channels(stack, self.rows[j], delta.shape[1]).raw)
            for j, delta in enumerate(deltas[: level + 1]) if delta is not None
        ]  # fmt: skip
        pixels = self.sizes[level][0] * self.sizes[level][1]
        for k in range(0, len(rows), JOBS):
            some = rows[k : k + JOBS]
            columns = zip(*some, *some[-1:] * (JOBS - len(some)), strict=True)
            SOURCE.launch(
                "octave_lower", self.dtype,
                (self.images * max(row[0] for row in some) * -(-pixels // RUN), len(some)), RUN, self.images,
                *self.sizes[level], np.int64(self.rows[level + 1] * pixels), *itertools.chain(*columns),
            )  # fmt: skip
        return Planes.of(stack)


def channels(array, first, count):
    """Some channels of a map."""
    images, total, height, width = array.shape
    pixels = height * width
    return Planes(array.reshape(-1)[first * pixels :], (images, count, height, width), total * pixels)


def _back(d, block, out):
    convolve_back(d, [block], Deferred(out), GradientTarget(out), 1, SAME, [1])


def _runs(planes):
    return -(-planes.shape[2] * planes.shape[3] // RUN)


def _three(parts):
    """The arguments for maps that are resampled: arrays, factors and strides."""
    parts = [*parts, *[(None, 1)] * (LAUNCHED - len(parts))]
    return (
        *[part and part.raw for part, _ in parts], *[factor for _, factor in parts],
        *[np.int64(part.stride if part else 0) for part, _ in parts],
    )  # fmt: skip


def _raise(ups, out, moments):
    images, count, height, width = out.shape
    runs = _runs(out)
    partial = None if moments is None else driver().empty((images, runs, 4, count), out.dtype)
    SOURCE.launch(
        "octave_raise", out.dtype, images * count * runs, RUN, count, height, width, runs, *_three(ups), out, partial
    )
    return partial, moments


def _spread(jobs, halved):
    """Gradients of inputs from their parts, (input, own, [(pooled, window)], target) each; more than two pooled parts
    take several launches. What `finish` takes for gradient sums."""
    noted = []
    while jobs:
        rows, most = [], 0
        for x, own, parts, target in jobs[:JOBS]:
            images, count, height, width = x.shape
            height, width = (height // 2, width // 2) if halved else (height, width)
            sides, last = 2 if parts else 1, len(parts) <= POOLED
            blocks = -(-height * width // (sides * sides * RUN))
            sums = target.gradient_sums if last else None
            partial = None if sums is None else driver().empty((images, blocks, 3, count), x.dtype)
            noted.append((partial, sums))
            some = [*parts[:POOLED], *[(None, 1)] * (POOLED - len(parts))]
            most = max(most, images * count * blocks)
            rows.append((
                count, height, width, sides, x.raw, x.coefficients, own, *[part and part.raw for part, _ in some],
                *[window for _, window in some], *[np.int64(part.stride if part else 0) for part, _ in some],
                target.accumulate, target.array, partial,
            ))  # fmt: skip
        columns = zip(*rows, *rows[-1:] * (JOBS - len(rows)), strict=True)
        SOURCE.launch(
            "octave_spread", rows[0][4].dtype, (most, len(rows)), RUN, jobs[0][0].shape[0], halved,
            *itertools.chain(*columns),
        )  # fmt: skip
        rest = [
            (x, None, parts[POOLED:], GradientTarget(target.array, True, target.gradient_sums))
            for x, _, parts, target in jobs[:JOBS] if len(parts) > POOLED
        ]  # fmt: skip
        jobs = rest + jobs[JOBS:]
    return noted
