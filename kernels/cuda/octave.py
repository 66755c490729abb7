"""The octave convolution (gOctConv): launches of octave.cu, and convolutions that are convolution.cu's.

On each scale, all inputs that get there are stacked as one map: finer ones max-pooled, then the scale's own. Likewise
all gradients of outputs: finer ones by the adjoint of upsampling, then the scale's own. So a scale takes two products,
whose weights are blocks of the weight: its own input with the outputs of all scales down to it, and its own output with
the inputs of all finer ones.
"""

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
from .launch import Source
from .parts import finish, formed, read_sums
from .pointwise import mix, mix_back

SOURCE = Source("octave", "dense")
RUN = 256  # pixels of a block
LAUNCHED = 3  # resampled maps that one launch adds up


def octave_conv2d(inputs, weight, outputs, stride, moments=None):
    pointwise = weight.shape[2] == 1 and stride == 1
    if pointwise and mix(inputs, weight, None, outputs, moments or [None] * len(outputs)):
        return
    scales, noted, raised = _Scales(inputs, outputs, weight, stride, forward=True), [], {}
    for i, x in enumerate(inputs):
        finer = scales.rows[i]
        if x is not None and finer:
            raised[i] = scales.empty(finer, i)
            convolve(scales.read(i, own=True), [scales.block(weight, 0, i, finer)], None, raised[i], 1, SAME, [1])
    for j, out in enumerate(outputs):
        if out is None:
            continue
        sums = None if moments is None else moments[j]
        ups = [(channels(raised[i], scales.rows[j], out.shape[1]), 2 ** (i - j)) for i in raised if i > j]
        block = scales.block(weight, scales.rows[j], 0, out.shape[1])
        noted.append(convolve(scales.read(j), [block], None, out, 1, SAME, [1], None if ups else sums))
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
    targets = [target for target in grad_inputs if target is not None]
    deltas = [None if grad is None else Planes.of(formed(grad, targets)) for grad in grads]
    own, pooled, sums = {}, {}, []
    for level in range(len(scales.sizes)):
        d, x = (side[level] if level < len(side) else None for side in (deltas, inputs))
        if x is not None and scales.rows[level + 1]:
            stacked = scales.lowered(deltas, level)
            block = scales.block(weight, 0, level, scales.rows[level + 1])
            if grad_inputs[level] is not None:
                own[level] = scales.empty(x.shape[1], level)
                _back(stacked, block, own[level])
            if grad_weight is not None:
                target = scales.block(grad_weight, 0, level, block.outs)
                convolve_weights(stacked, scales.read(level, own=True), [target], [block], 1, SAME, [1])
        finer = scales.columns[level]
        if d is not None and finer:
            block = scales.block(weight, scales.rows[level], 0, d.shape[1])
            if any(target is not None for target in grad_inputs[:level]):
                pooled[level] = scales.empty(finer, level)
                _back(d, block, pooled[level])
            if grad_weight is not None:
                x = channels(scales.stack(level), 0, finer)
                target = scales.block(grad_weight, scales.rows[level], 0, block.outs)
                convolve_weights(d, x, [target], [block], 1, SAME, [1])
    for i, target in enumerate(grad_inputs):
        if target is not None:
            parts = [
                (channels(a, scales.columns[i], inputs[i].shape[1]), 2 ** (level - i))
                for level, a in pooled.items() if level > i
            ]  # fmt: skip
            sums += _spread(inputs[i], own.get(i), parts, scales.halved, target)
    finish(sums)


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
        """All inputs that get to a scale, those of finer scales first."""
        if level not in self._stacks:
            self._stacks[level] = self.empty(self.columns[level + 1], level)
            for i, x in enumerate(self.inputs[: level + 1]):
                if x is None:
                    continue
                if i < level and self.halved and self.rows[i + 1]:
                    self.stack(i)  # which is needed anyway, and less to read than x
                ready = i < level and i in self._stacks
                source = self._part(i, i) if ready else Planes.of(x)
                claimed = x.claim_activation_sums() if i == level and self.forward and self.images else None
                sums = _pool(source, self.halved and not ready, 2 ** (level - i), self._part(level, i), claimed)
                if claimed is not None:
                    self.summed[i] = sums, claimed
        return self._stacks[level]

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
        for j, delta in enumerate(deltas[: level + 1]):
            if delta is not None:
                _lower(delta, 2 ** (level - j), channels(stack, self.rows[j], delta.shape[1]))
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


def _pool(x, halved, window, out, wanted):
    """Planes max-pooled; and sums of what is read, in parts, if they are wanted."""
    images, count, height, width = out.shape
    sums = None if wanted is None else driver().empty((images, _runs(out), 1, count), out.raw.dtype)
    SOURCE.launch(
        "octave_pool", x.raw.dtype, images * count * _runs(out), RUN, count, *x.shape[2:], np.int64(x.stride), x.raw,
        x.coefficients, halved, window, _runs(out), height, width, np.int64(out.stride), out.raw, sums,
    )  # fmt: skip
    return sums


def _lower(grad, factor, out):
    images, count, height, width = out.shape
    SOURCE.launch(
        "octave_lower", out.raw.dtype, images * count * _runs(out), RUN, count, height, width, factor,
        np.int64(grad.stride), grad.raw, _runs(out), np.int64(out.stride), out.raw,
    )  # fmt: skip


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


def _spread(x, own, parts, halved, target):
    images, count, height, width = x.shape
    height, width = (height // 2, width // 2) if halved else (height, width)
    runs, noted = -(-height * width // RUN), []
    for k in range(0, max(len(parts), 1), LAUNCHED):
        sums = target.gradient_sums if k + LAUNCHED >= len(parts) else None
        partial = None if sums is None else driver().empty((images, runs, 3, count), x.dtype)
        SOURCE.launch(
            "octave_spread", x.dtype, images * count * runs, RUN, count, height, width, halved, x.raw, x.coefficients,
            None if k else own, *_three(parts[k : k + LAUNCHED]), runs, target.accumulate or k > 0, target.array,
            partial,
        )  # fmt: skip
        noted.append((partial, sums))
    return noted
