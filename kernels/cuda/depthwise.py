"""Depthwise convolutions and chains of them: launches of depthwise.cu, and of depthwise_any.cu for kernels that are
not 3x3 or have another stride, padding or dilation than 1.

The fast kernels treat a plane in strips of its rows; a plane that is not large is one strip. What a strip needs of its
neighbours is read twice. Sums are made by strip; a second, small launch adds them up, or, in a chain, the launch of the
next layer does it before it does anything else. A launch of a chain treats a layer of two maps.
"""

import dataclasses

import numpy as np

from octsod.backend.arrays import overlap
from octsod.backend.deferred import Deferred, DeferredGradient, GradientTarget

from .driver import driver
from .launch import WARP, source
from .normalization import (
    batch_norm,
    batch_norm_backward,
    channel_moments,
    either,
    gradient_sums,
    launch_activate,
)

SOURCE, ANY = source("depthwise", "reading", "maps"), source("depthwise_any", "reading", "maps")
THREADS = 224  # of a block at most, here and in the sources
SHARED = 46 << 10  # bytes for a strip, beside what the kernels take for themselves, of the 48 KiB that all GPUs have
WHOLE = 4096  # pixels of the largest plane that is not cut
ROWS = 28  # of a strip, at most
MAPS = 2  # that a launch treats: where there is one, it is there twice, and nobody looks at the second
NO_NORM = (None, 0.0, 0.0, None, None, None, None, None, None, None, None, None, None, None)
NO_NORM_BACKWARD = (None, 0, 0, 0, 0.0, None, None, None, None, None, None, None, None, None)


@dataclasses.dataclass(frozen=True)
class Strips:
    """How maps (N, C, H, W) are cut. A thread has columns of `run` rows."""

    shape: tuple[int, ...]
    rows: int
    run: int
    threads: int
    shared: int

    @classmethod
    def of(cls, x):
        """For a map; None if it is empty, or so wide that three of its rows are too many for shared memory."""
        images, channels, height, width = x.shape
        most = SHARED // x.dtype.itemsize // width - 2
        if most < 1 or images * channels == 0:
            return None
        rows = min(height if height * width <= WHOLE else ROWS, most)
        rows = -(-height // -(-height // rows))
        # Whole warps along a row; where rows are short, neighbouring threads have neighbouring pixels.
        run = -(-rows // max(THREADS // width, 1)) if width >= WARP else 1
        columns = -(-rows // run) * width
        threads = -(-columns // -(-columns // THREADS))
        return cls(x.shape, rows, run, -(-threads // WARP) * WARP, (rows + 2) * width * x.dtype.itemsize)

    @property
    def count(self):
        """Strips to a plane."""
        return -(-self.shape[2] // self.rows)

    @property
    def parts(self):
        """Strips of one channel, in all images."""
        return self.shape[0] * self.count

    def sums(self, kinds):
        """Memory for sums of all parts."""
        return driver().empty((self.shape[1], kinds, self.parts), np.float64)

    def edges(self, dtype):
        """Memory for the rows above and below each strip."""
        return driver().empty((*self.shape[:2], self.count, 2, self.shape[3]), dtype)


def _launch_strips(name, dtype, jobs):
    """A kernel with a block for each strip of each map. jobs: strips of a map, and what the kernel takes besides."""
    for k in range(0, len(jobs), MAPS):
        strips, _ = zip(*jobs[k : k + MAPS], strict=True)
        blocks = [s.shape[0] * s.shape[1] * s.count for s in strips]
        rows = [(*s.shape, s.rows, s.run, *arguments) for s, arguments in jobs[k : k + MAPS]]
        SOURCE.launch(
            name, dtype, sum(blocks), max(s.threads for s in strips), blocks[0], *rows[0], *rows[-1],
            shared_mem=max(s.shared for s in strips),
        )  # fmt: skip


def _launch_channels(name, dtype, threads, jobs):
    """A kernel with a block for each channel of each map. jobs: channels of a map, and what the kernel takes."""
    for k in range(0, len(jobs), MAPS):
        channels, rows = zip(*jobs[k : k + MAPS], strict=True)
        SOURCE.launch(name, dtype, (max(channels), len(rows)), threads, *rows[0], *rows[-1])


def depthwise_conv2d(x, weight, out, stride, padding, dilation, moments=None):
    strips = _strips(x.raw, weight, stride, padding, dilation)
    if strips is None:
        sums = x.claim_activation_sums() if out.size else None
        _any(x, weight, 1.0, out, stride, padding, dilation, sums, moments)
        return
    sums = x.claim_activation_sums()
    parted = strips.count > 1
    part_sums = strips.sums(1) if parted and sums is not None else sums
    part_moments = strips.sums(3) if parted and moments is not None else moments
    arguments = x.raw, x.coefficients, weight, 1.0, out, part_sums, part_moments, int(parted), *_doubles(NO_NORM)
    _launch_strips("depthwise3", out.dtype, [(strips, arguments)])
    if parted and (sums is not None or moments is not None):
        SOURCE.launch(
            "depthwise3_sums", out.dtype, x.shape[1], 2 * WARP, *x.shape, strips.rows, part_sums, sums, part_moments,
            moments,
        )  # fmt: skip


def depthwise_conv2d_backward(grad, x, weight, stride, padding, dilation, grad_x, grad_weight):
    strips = _strips(x.raw, weight, stride, padding, dilation)
    if strips is None:
        _any_backward(grad, x, weight, 1.0, stride, padding, dilation, grad_x, grad_weight)
        return
    weight_sums = None if grad_weight is None else strips.sums(9)
    sums = part_sums = None if grad_x is None else grad_x.gradient_sums
    if sums is not None and strips.count > 1:
        part_sums = strips.sums(3)
    arguments = _backward_arguments(
        grad, _edges(strips, grad.g, grad_x), x, weight, 1.0, grad_x, None, weight_sums, part_sums, strips.count > 1,
        _doubles(NO_NORM_BACKWARD),
    )  # fmt: skip
    _launch_strips("depthwise3_backward", x.dtype, [(strips, arguments)])
    _finish_backward(x.dtype, [(strips, weight_sums, 1.0, grad_weight, part_sums, sums)])


def depthwise_chain(
    inputs, layers, running, raw, coefficients, statistics, activation_sums, training, momentum, eps, weight_scale
):
    fast = []
    for chain in zip(inputs, layers, running, raw, coefficients, statistics, activation_sums, strict=True):
        strips = _strips(chain[0].raw, chain[1][0][0], 1, 1, 1)
        if strips is None:
            _any_chain(*chain, training, momentum, eps, weight_scale)
        else:
            fast.append((strips, *chain))
    norms = [_doubles(NO_NORM)] * len(fast)  # of the layers before
    for layer in range(len(layers[0])):
        jobs = []
        for k, (strips, x, own, averages, maps, by, used, wanted) in enumerate(fast):
            (weight, *parameters), (mean, variance), sums = own[layer], averages[layer], wanted[layer]
            source = (maps[layer - 1], None) if layer else (x.raw, x.coefficients)
            moments = strips.sums(3) if training else None
            part_sums = strips.sums(1) if sums is not None and strips.count > 1 else sums
            jobs.append((strips, (*source, weight, weight_scale, maps[layer], part_sums, moments, 1, *norms[k])))
            settings = np.float64(momentum), np.float64(eps), *parameters, *either(mean), *either(variance)
            later = (None, None) if part_sums is sums else (part_sums, sums)
            norms[k] = moments, *settings, used[layer], by[layer], *later
        _launch_strips("depthwise3", inputs[0].dtype, jobs)
    jobs = [(s.shape[1], (*s.shape, s.rows, *norm)) for (s, *_), norm in zip(fast, norms, strict=True)]
    _launch_channels("depthwise3_norm", inputs[0].dtype, WARP, jobs)


def _any_chain(
    x, layers, running, raw, coefficients, statistics, activation_sums, training, momentum, eps, weight_scale
):
    """One map through layers of any kernel size."""
    images, channels, height, width = x.shape
    for layer, ((weight, *parameters), averages) in enumerate(zip(layers, running, strict=True)):
        moments = driver().empty((images, 3, channels), np.float64) if training else None
        _any(x, weight, weight_scale, raw[layer], 1, weight.shape[2] // 2, 1, activation_sums[layer], moments)
        batch_norm(
            [moments], [height * width], [momentum], [eps], [parameters], [averages], [statistics[layer]],
            [coefficients[layer]],
        )  # fmt: skip
        x = Deferred(raw[layer], coefficients[layer])


def depthwise_chain_backward(
    grads, inputs, layers, raw, coefficients, statistics, training, eps, weight_scale, between, grad_inputs,
    grad_layers,
):  # fmt: skip
    given, chains, dtype = (grads, inputs, layers, raw, coefficients, statistics), [], inputs[0].dtype
    for chain in zip(*given, between, grad_inputs, grad_layers, strict=True):
        grad, x, own, maps, by, *_ = chain
        sums = grad.gradient_sums
        if sums is None:
            sums = driver().empty((x.shape[0], 3, x.shape[1]), np.float64)
            gradient_sums(grad.array, Deferred(maps[len(own) - 1], by[len(own) - 1]), sums)
        strips = _strips(x.raw, own[0][0], 1, 1, 1)
        if strips is None:
            _any_chain_backward(sums, *chain, training, eps, weight_scale)
        else:
            chains.append(_Backward(strips, sums, *chain))
    for layer in range(len(layers[0]) - 1, -1, -1):
        jobs = [(chain.strips, chain.arguments(layer, training, eps, weight_scale)) for chain in chains]
        _launch_strips("depthwise3_backward", dtype, jobs)
    _finish_backward(dtype, [(chain.strips, *chain.rest(weight_scale)) for chain in chains])


class _Backward:
    """The backward of a chain of layers on one map, layer by layer from the last one."""

    def __init__(
        self, strips, sums, grad, x, layers, raw, coefficients, statistics, between, grad_x, grad_layers
    ):
        self.strips, self.x, self.layers, self.raw, self.coefficients = strips, x, layers, raw, coefficients
        self.statistics, self.between, self.grad_layers = statistics, between, grad_layers
        self.targets = [grad_x] + [GradientTarget(between)] * (len(layers) - 1)  # of each layer
        self.g, self.edges = grad.array, _edges(strips, grad.array, self.targets[-1])
        # The gradient sums of the layer's activation, and how they are laid out.
        self.sums, self.parts, self.ours = sums, x.shape[0], False
        self.later = None, None  # weight sums of the layer that was treated before, and the array for the gradient

    def arguments(self, layer, training, eps, weight_scale):
        """Of depthwise3_backward for the next layer."""
        strips, raw = self.strips, self.raw
        (weight, *norm), (grad_weight, *grad_norm) = self.layers[layer], self.grad_layers[layer]
        before = Deferred(raw[layer - 1], self.coefficients[layer - 1]) if layer else self.x
        norm = (
            self.sums, self.parts, int(self.ours), training, np.float64(eps), self.statistics[layer], *norm, *grad_norm,
            *self.later,
        )  # fmt: skip
        target, next_edges, image_sums = self.targets[layer], None, None
        if layer:
            self.sums, self.parts, self.ours = strips.sums(3), strips.parts, True
            next_edges = _edges(strips, self.between, self.targets[layer - 1], filled=False)
        else:
            image_sums = None if target is None else target.gradient_sums
            self.ours = image_sums is not None and strips.count > 1
            self.sums = strips.sums(3) if self.ours else image_sums
        self.later, gradient = (strips.sums(9), grad_weight), DeferredGradient(self.g, raw[layer])
        arguments = _backward_arguments(
            gradient, self.edges, before, weight, weight_scale, target, next_edges, self.later[0], self.sums, self.ours,
            norm,
        )  # fmt: skip
        self.g, self.edges = self.between, next_edges
        return arguments

    def rest(self, weight_scale):
        """What is left to be added up after the first layer, see `_finish_backward`."""
        (weight_sums, grad_weight), target = self.later, self.targets[0]
        return weight_sums, weight_scale, grad_weight, self.sums, None if target is None else target.gradient_sums


def _any_chain_backward(
    sums, grad, x, layers, raw, coefficients, statistics, between, grad_x, grad_layers, training, eps, weight_scale
):
    """The gradients of one map and its layers of any kernel size."""
    images, channels, height, width = x.shape
    g = grad.array
    for layer in range(len(layers) - 1, -1, -1):
        (weight, *norm), (grad_weight, *grad_norm) = layers[layer], grad_layers[layer]
        before = Deferred(raw[layer - 1], coefficients[layer - 1]) if layer else x
        by, count = driver().empty((6, channels), raw.dtype), images * height * width
        batch_norm_backward([sums], [count], [training], [eps], [norm], [statistics[layer]], [by], [grad_norm])
        target = grad_x
        if layer:
            sums = driver().empty((images, 3, channels), np.float64)
            target = GradientTarget(between, gradient_sums=sums)
        gradient = DeferredGradient(g, raw[layer], by)
        _any_backward(gradient, before, weight, weight_scale, 1, weight.shape[2] // 2, 1, target, grad_weight)
        g = between


def _doubles(arguments):
    """Python's floats as NumPy's float64: parameters that are double whatever the maps are."""
    return tuple(np.float64(a) if isinstance(a, float) else a for a in arguments)


def _strips(x, weight, stride, padding, dilation):
    """How the fast kernels cut the map x; None if they are not for such a convolution."""
    fast = weight.shape[2:] == (3, 3) and (stride, padding, dilation) == (1, 1, 1)
    return Strips.of(x) if fast else None


def _edges(strips, g, target, filled=True):
    """Memory for the edges of g, if g is to be written over strip by strip, else None; filled with them or not."""
    if target is None or strips.count == 1 or not overlap(g, target.array):
        return None
    edges = strips.edges(g.dtype)
    if filled:
        SOURCE.each("depthwise3_edges", g.dtype, edges.size, g, *g.shape[2:], strips.rows, edges)
    return edges


def _backward_arguments(grad, edges, x, weight, weight_scale, target, next_edges, weight_sums, sums, ours, norm):
    """Of depthwise3_backward. norm: what it is given of the norm's backward."""
    array, accumulate = (None, 0) if target is None else (target.array, target.accumulate)
    deferred = grad.coefficients is not None or norm[0] is not None
    reads = weight_sums is not None or sums is not None
    return (
        grad.g, grad.raw if deferred else None, grad.coefficients, edges, x.raw if reads else None, x.coefficients,
        weight, weight_scale, array, accumulate, next_edges, weight_sums, sums, int(ours), *norm,
    )  # fmt: skip


def _finish_backward(dtype, jobs):
    """The gradients of weights, and gradient sums of images if those are not there yet. jobs: strips, weight_sums,
    weight_scale, grad_weight, part_sums and sums of each map."""
    rows = []
    for strips, weight_sums, weight_scale, grad_weight, part_sums, sums in jobs:
        if part_sums is sums:
            part_sums = sums = None
        if grad_weight is not None or sums is not None:
            row = *strips.shape[:2], strips.count, weight_sums, weight_scale, grad_weight, part_sums, sums
            rows.append((strips.shape[1], row))
    _launch_channels("depthwise3_backward_sums", dtype, 9 * WARP, rows)


def _any(x, weight, weight_scale, out, stride, padding, dilation, sums, moments):
    """Forward, with any kernel."""
    shape = *x.shape[1:], *out.shape[2:], *weight.shape[2:], stride, padding, dilation
    ANY.each("depthwise_any", out.dtype, out.size, *shape, x.raw, x.coefficients, weight, weight_scale, out)
    if sums is not None:
        launch_activate(x, None, sums)
    if moments is not None:
        channel_moments(out, moments)


def _any_backward(grad, x, weight, weight_scale, stride, padding, dilation, grad_x, grad_weight):
    """Backward, with any kernel."""
    g, raw = grad.g, None if grad.coefficients is None else grad.raw
    shape = *x.shape[1:], *grad.shape[2:], *weight.shape[2:], stride, padding, dilation
    if grad_weight is not None:
        ANY.launch(
            "depthwise_any_weight_gradient", g.dtype, weight.size, THREADS, x.shape[0], *shape, g, raw,
            grad.coefficients, x.raw, x.coefficients, weight_scale, grad_weight,
        )  # fmt: skip
    if grad_x is None:
        return
    if overlap(g, grad_x.array):  # an element is needed more than once
        g = driver().empty(g.shape, g.dtype)
        launch_activate(Deferred(grad.g), g, None)
    ANY.each(
        "depthwise_any_input_gradient", g.dtype, grad_x.array.size, *shape, g, raw, grad.coefficients, weight,
        weight_scale, grad_x.array, grad_x.accumulate,
    )  # fmt: skip
    if grad_x.gradient_sums is not None:
        gradient_sums(grad_x.array, x, grad_x.gradient_sums)
