"""Dense convolutions, one or several dilated ones side by side: launches of convolution.cu."""

import dataclasses
import functools
import itertools
from typing import Any

import numpy as np

from .driver import driver
from .launch import WARP, source
from .parts import USUAL, WARPS, WeightSum, apart, finish, launch_sharing, read_sums
from .pointwise import mix, mix_back

SOURCE = source("convolution", "reading", "dense", "tiles")
PARTS = 5  # convolutions side by side in one launch
RUN = 128  # pixels of a warp, of a map that is written
FEW = 64  # warps for an image: if there are less, they have fewer channels
HELD = 46 << 10  # bytes of shared memory at a time, of a map and of weights,
STAGED = 2048  # which are as many at most
SIDE, TALL = 5, 10  # that many inputs by outputs has a warp for the gradient of a weight
WIDEST = 128  # pixels of a tile's row
FEWEST = 7  # blocks per image, if there can be as many
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
    `Deferred` is; or, if `g` is not None, as the `DeferredGradient` of these channels of g."""

    raw: Any
    shape: tuple[int, int, int, int]
    stride: int
    coefficients: Any = None
    g: Any = None

    @staticmethod
    def of(x):
        """Of an array, a `Deferred`, or a `DeferredGradient`."""
        _, channels, height, width = x.shape
        stride = channels * height * width
        if hasattr(x, "coefficients"):
            return Planes(x.raw, x.shape, stride, x.coefficients, getattr(x, "g", None))
        return Planes(x, x.shape, stride)

    @property
    def gradient(self):
        """The arguments for a kernel that reads a gradient."""
        return (self.raw, None, None) if self.g is None else (self.g, self.raw, self.coefficients)


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
    d = Planes.of(apart(grad, [] if grad_x is None else [grad_x]))
    blocks, jobs, sums = [Block.of(weight) for weight in weights], [], []
    if grad_bias is not None or any(target is not None for target in grad_weights):
        targets = [None if weight is None else Block.of(weight) for weight in grad_weights]
        jobs = convolve_weights(d, Planes.of(x), targets, blocks, *settings, grad_bias)
    if grad_x is not None:
        sums = [convolve_back(d, blocks, x, grad_x, *settings, weight_scale)]
    finish(sums, weights=jobs, weight_scale=weight_scale)


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
        size, across = shares(outs, runs)
        held, shared = _held(out, (kh, kw), stride, dilations[k : k + PARTS], channels, size, across)
        SOURCE.launch(
            f"convolve_{size}", out.dtype, (images * -(-runs // (WARPS // across)), groups(outs, size * across)),
            (32, WARPS), channels, height, width, np.int64(x.stride), x.raw, None, x.coefficients, first,
            some[0].row, kh * kw, kh, kw, stride, padding, *five([block.array for block in some], None),
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
    held = min(held, STAGED // (kh * kw * (size * across | 1)), channels) if stride == 1 else 0
    return held, held * tile


def convolve_back(d, blocks, x, target, stride, padding, dilations, weight_scale=1.0):
    """The gradient of the input x, a `Deferred`, from the planes d of the output's gradient. What `finish` takes for
    its gradient sums, if they are wanted."""
    images, channels, height, width = x.shape
    _, all_outs, out_height, out_width = d.shape
    runs, sums = -(-height * width // RUN), target.gradient_sums
    kh, kw = blocks[0].kernel_size
    size, across = shares([channels], runs)
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
            out_height, out_width, np.int64(d.stride), *d.gradient, first, kh * kw, some[0].row, kh, kw, stride,
            padding, *five([block.array for block in some], None), *five(dilations[k : k + PARTS], 1), *five(outs, 0),
            None, height, width, channels, np.int64(channels * height * width), target.array,
            target.accumulate or k > 0, x.raw, x.coefficients, partial, across, held, float(weight_scale),
            shared_mem=shared,
        )  # fmt: skip
        first += sum(outs)
    return partial, sums


def convolve_weights(d, x, targets, blocks, stride, padding, dilations, grad_bias=None):
    """What `finish` takes for the gradients of weights shaped like blocks, `targets`, and of the bias; None for each
    that is not wanted. From the planes d of the output's gradient and the planes x of the input."""
    images, channels, height, width = x.shape
    (kh, kw), (out_height, out_width), jobs, first = blocks[0].kernel_size, d.shape[2:], [], 0
    for k in range(0, len(blocks), PARTS):
        outs, dilated = [block.outs for block in blocks[k : k + PARTS]], dilations[k : k + PARTS]
        rows, reach = sum(outs), [(n - 1) * max(dilated) for n in (kh, kw)]
        margins = [n // 2 * max(dilated) if padding < 0 else padding for n in (kh, kw)]
        some, (tall, wide), (down, along), elements = _weight_tiles(
            channels, rows, kh * kw, stride, *reach, height, width, out_height, out_width, d.raw.dtype.itemsize,
            driver().shared_memory(),
        )  # fmt: skip
        tiles, groups = -(-out_height // tall) * -(-out_width // wide), -(-channels // SIDE)
        size = (kh * kw * groups * SIDE + 1) * rows
        work, parts = some // SIDE * kh * kw, max(-(-channels // some), 1)
        warps = WARPS if work > WARPS * 3 // 2 else -(-work // -(-work // WARPS))  # few idle ones
        partial = driver().empty((images * tiles, size), d.raw.dtype)
        launch_sharing(
            SOURCE, "weight_gradient", d.raw.dtype, (images * tiles, parts),
            (32, warps), elements, channels, height, width, np.int64(x.stride), x.raw,
            x.coefficients, some, kh, kw, stride, padding, *five(dilated, 1), *five(outs, 0), first, rows, out_height,
            out_width, np.int64(d.stride), *d.gradient, d.shape[1], tall, wide, down, along, *margins,
            grad_bias is not None, np.int64(size), partial,
        )  # fmt: skip
        before = 0
        for n, target in zip(outs, targets[k : k + PARTS], strict=True):
            if target is not None:
                jobs.append(
                    WeightSum(partial, before * SIDE, n, rows, channels, kh * kw, SIDE, target.array, target.row)
                )
            before += n
        if grad_bias is not None:
            jobs.append(WeightSum(partial, size - rows, rows, rows, 1, 1, 1, grad_bias, 1))
        first += rows
    return jobs


@functools.lru_cache(256)
def _weight_tiles(
    channels, outs, taps, stride, reach_y, reach_x, height, width, out_height, out_width, itemsize, most
):
    """How a launch for the gradient of a weight divides its work: inputs of a block, its tile of the output, how many
    rows and columns it sees of the map (0 if that does not fit), and elements of shared memory. What is chosen loads
    and stores least per pixel."""
    best, least = None, np.inf
    for limit in (min(USUAL, most), most):
        for some, wide, tall in itertools.product(
            (2 * SIDE, SIDE), _parts_of(out_width, WIDEST), _parts_of(out_height, out_height)
        ):
            some, pixels = min(some, max(-(-channels // SIDE), 1) * SIDE), tall * wide
            down, along = min((tall - 1) * stride + reach_y + 1, height), min((wide - 1) * stride + reach_x + 1, width)
            elements = min(some, channels) * down * along + min(TALL, outs) * pixels
            if elements * itemsize > limit:
                continue
            parts = max(-(-channels // some), 1)
            blocks = -(-out_height // tall) * -(-out_width // wide) * parts
            loads = channels * down * along + parts * outs * 2 * pixels + 2 * outs * channels * taps
            cost = loads / pixels * max(FEWEST / blocks, 1) * (-(-pixels // WARP) * WARP / pixels)
            if cost < least:
                best, least = (some, (tall, wide), (down, along), elements), cost
        if best is not None:
            return best
    wide = min(out_width, WARP)
    return SIDE, (1, wide), (0, 0), min(TALL, outs) * wide


def _parts_of(size, most):
    """How long the parts may be that an axis is divided into: whole sectors, if there are several."""
    counts = (-(-size // most) * 2**k for k in range(size.bit_length()))
    return sorted({size if count == 1 else -(-size // (8 * count)) * 8 for count in counts if count <= size})


def five(values, missing):
    """The values of a launch's parts."""
    return [*values, *[missing] * (PARTS - len(values))]


def groups(outs, size):
    """How many groups of `size` channels there are, where no group has channels of two parts."""
    return sum(-(-n // size) for n in outs)


def shares(outs, runs):
    """How many channels a thread has, and how many warps divide the channels of a run of pixels: as little as possible
    is left over, as many channels as possible share what is read."""
    sizes = (10, 5, 2) if runs * sum(outs) >= 10 * FEW else (5, 2)
    choices = [(size, across) for size in sizes for across in (4, 2, 1)]
    return min(choices, key=lambda choice: (groups(outs, choice[0] * choice[1]) * choice[0] * choice[1]))
