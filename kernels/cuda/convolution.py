"""Dense convolutions, one or several dilated ones side by side: launches of convolution.cu."""

import dataclasses
from typing import Any

import numpy as np

from .driver import driver
from .launch import Source
from .parts import WARPS, finish, formed, read_sums
from .pointwise import mix, mix_back

SOURCE = Source("convolution", "dense")
PARTS = 5  # convolutions side by side in one launch
RUN = 128  # pixels of a warp, of a map that is written
STRETCH = 1024  # pixels that a warp adds up for the gradient of a weight
HELD = 46 << 10  # bytes of shared memory at a time, of a map and of weights,
STAGED = 2048  # which are as many at most
SIDE = 5  # that many inputs by outputs have a warp for the gradient of a weight
SAME = -1  # the padding that keeps the size


@dataclasses.dataclass(frozen=True)
class Block:
    """The weight of a convolution, (outs, channels, kh, kw): an array itself, or a block of a larger weight. `row` is
    how many elements lie between outputs."""

    array: Any
    outs: int
    kernel_size: tuple[int, int]
    row: int

    @staticmethod
    def of(weight):
        outs, channels, kh, kw = weight.shape
        return Block(weight, outs, (kh, kw), channels * kh * kw)


@dataclasses.dataclass(frozen=True)
class Planes:
    """Some channels of a map: those from the first element of `raw` on, `stride` elements between images. Read as a
    `Deferred` is."""

    raw: Any
    shape: tuple[int, int, int, int]
    stride: int
    coefficients: Any = None

    @staticmethod
    def of(x):
        """Of a `Deferred` or an array."""
        _, channels, height, width = x.shape
        if hasattr(x, "coefficients"):
            return Planes(x.raw, x.shape, channels * height * width, x.coefficients)
        return Planes(x, x.shape, channels * height * width)


def conv2d(x, weight, bias, out, stride, padding, dilation, moments=None):
    if _is_pointwise(weight, stride, padding, out) and mix([x], weight, bias, [out], [moments]):
        return
    read_sums(x, out)
    finish(moments=[convolve(Planes.of(x), [Block.of(weight)], bias, out, stride, padding, [dilation], moments)])


def conv2d_backward(grad, x, weight, stride, padding, dilation, grad_x, grad_weight, grad_bias=None):
    if _is_pointwise(weight, stride, padding, grad.g) and mix_back(
        [grad], [x], weight, [grad_x], grad_weight, grad_bias
    ):
        return
    _backward(grad, x, [weight], (stride, padding, [dilation]), grad_x, [grad_weight], grad_bias)


def _is_pointwise(weight, stride, padding, out):
    return weight.shape[2:] == (1, 1) and stride == 1 and not padding and out.size


def dilated_conv2d(x, weights, dilations, out, moments=None, weight_scale=1.0):
    read_sums(x, out)
    blocks = [Block.of(weight) for weight in weights]
    finish(moments=[convolve(Planes.of(x), blocks, None, out, 1, SAME, dilations, moments, weight_scale)])


def dilated_conv2d_backward(grad, x, weights, dilations, grad_x, grad_weights, weight_scale=1.0):
    _backward(grad, x, weights, (1, SAME, dilations), grad_x, grad_weights, None, weight_scale)


def _backward(grad, x, weights, settings, grad_x, grad_weights, grad_bias, weight_scale=1.0):
    d, blocks = Planes.of(formed(grad, [] if grad_x is None else [grad_x])), [Block.of(weight) for weight in weights]
    if grad_bias is not None or any(target is not None for target in grad_weights):
        targets = [None if weight is None else Block.of(weight) for weight in grad_weights]
        convolve_weights(d, Planes.of(x), targets, blocks, *settings, grad_bias, weight_scale)
    if grad_x is not None:
        convolve_back(d, blocks, x, grad_x, *settings, weight_scale)


def convolve(x, blocks, bias, out, stride, padding, dilations, moments=None, weight_scale=1.0):
    """out = convolutions of planes side by side, one after the other along the channels. What `finish` takes for its
    moments, if they are wanted. weight_scale: a factor on all weights."""
    images, channels, height, width = x.shape
    _, all_outs, out_height, out_width = out.shape
    runs = -(-out_height * out_width // RUN)
    partial = None if moments is None else driver().empty((images, runs, 4, all_outs), out.dtype)
    kh, kw = blocks[0].kernel_size
    first = 0
    for k in range(0, len(blocks), PARTS):
        some = blocks[k : k + PARTS]
        outs = [block.outs for block in some]
        size, across = shares(outs)
        held, shared = _held(out, (kh, kw), stride, dilations[k : k + PARTS], channels, size, across)
        SOURCE.launch(
            f"convolve_{size}", out.dtype, (images * -(-runs // (WARPS // across)), groups(outs, size * across)),
            (32, WARPS), channels, height, width, np.int64(x.stride), x.raw, x.coefficients, first, some[0].row,
            kh * kw, kh, kw, stride, padding, *five([block.array for block in some], None),
            *five(dilations[k : k + PARTS], 1), *five(outs, 0), bias, out_height, out_width, all_outs,
            np.int64(all_outs * out_height * out_width), out, 0, None, None, partial, across, held,
            float(weight_scale), shared_mem=shared,
        )  # fmt: skip
        first += sum(outs)
    return partial, moments


def _held(out, kernel_size, stride, dilations, channels, size, across):
    """How many channels of what a block reads to write `out` lie in shared memory at a time, and how many bytes those
    are."""
    (kh, kw), (height, width) = kernel_size, out.shape[2:]
    rows = min((WARPS // across * RUN - 1) // width + 2, height)
    tile = max((rows + (kh - 1) * d) * (width + (kw - 1) * d) for d in dilations) * out.dtype.itemsize
    held = (HELD - STAGED * out.dtype.itemsize) // tile
    held = min(held, STAGED // (kh * kw * size * across), channels) if stride == 1 else 0
    return held, held * tile


def convolve_back(d, blocks, x, target, stride, padding, dilations, weight_scale=1.0):
    """The gradient of the input x, a `Deferred`, from the planes d of the output's gradient."""
    images, channels, height, width = x.shape
    _, all_outs, out_height, out_width = d.shape
    runs, sums = -(-height * width // RUN), target.gradient_sums
    kh, kw = blocks[0].kernel_size
    size, across = shares([channels])
    first = 0
    for k in range(0, len(blocks), PARTS):
        some = blocks[k : k + PARTS]
        outs = [block.outs for block in some]
        last = k + PARTS >= len(blocks)
        partial = driver().empty((images, runs, 3, channels), x.dtype) if last and sums is not None else None
        held, shared = _held(x, (kh, kw), stride, dilations[k : k + PARTS], max(outs), size, across)
        SOURCE.launch(
            f"convolve_back_{size}", x.dtype,
            (images * -(-runs // (WARPS // across)), groups([channels], size * across)), (32, WARPS), all_outs,
            out_height, out_width, np.int64(d.stride), d.raw, None, first, kh * kw, some[0].row, kh, kw, stride,
            padding, *five([block.array for block in some], None), *five(dilations[k : k + PARTS], 1), *five(outs, 0),
            None, height, width, channels, np.int64(channels * height * width), target.array,
            target.accumulate or k > 0, x.raw, x.coefficients, partial, across, held, float(weight_scale),
            shared_mem=shared,
        )  # fmt: skip
        first += sum(outs)
    finish([(partial, sums)])


def convolve_weights(d, x, targets, blocks, stride, padding, dilations, grad_bias=None, weight_scale=1.0):
    """The gradients of weights shaped like blocks, `targets`, and of the bias, from the planes d of the output's
    gradient and the planes x of the input; None for each that is not wanted."""
    images, channels, height, width = x.shape
    _, _, out_height, out_width = d.shape
    (kh, kw), pixels = blocks[0].kernel_size, out_height * out_width
    stretches, columns = -(-pixels // STRETCH), channels * kh * kw
    first = 0
    for k in range(0, len(blocks), PARTS):
        outs = [block.outs for block in blocks[k : k + PARTS]]
        rows, jobs = sum(outs), sum(-(-n // SIDE) * (-(-channels // SIDE) * kh * kw + 1) for n in outs)
        partial = driver().empty((images * stretches, rows * (columns + 1)), d.raw.dtype)
        SOURCE.launch(
            "weight_gradient", d.raw.dtype, (images * stretches, -(-jobs // WARPS)), (32, WARPS), channels, height,
            width, np.int64(x.stride), x.raw, x.coefficients, kh, kw, stride, padding,
            *five(dilations[k : k + PARTS], 1), *five(outs, 0), first, rows, out_height, out_width, np.int64(d.stride),
            d.raw, stretches, STRETCH, partial,
        )  # fmt: skip
        before, jobs = 0, []
        for n, target in zip(outs, targets[k : k + PARTS], strict=True):
            if target is not None:
                jobs.append((before * columns, n, columns, columns, target.array, target.row))
            before += n
        if grad_bias is not None:
            jobs.append((rows * columns, rows, 1, 1, grad_bias, 1))
        finish(weights=(partial, jobs), weight_scale=weight_scale)
        first += rows


def five(values, missing):
    """The values of a launch's parts."""
    return [*values, *[missing] * (PARTS - len(values))]


def groups(outs, size):
    """How many groups of `size` channels there are, where no group has channels of two parts."""
    return sum(-(-n // size) for n in outs)


def shares(outs):
    """How many channels a thread has, and how many warps divide the channels of a run of pixels: as little as possible
    is left over, as many channels as possible share what is read."""
    choices = [(size, across) for size in (8, 5, 2) for across in (4, 2, 1)]
    return min(choices, key=lambda choice: (groups(outs, choice[0] * choice[1]) * choice[0] * choice[1]))
