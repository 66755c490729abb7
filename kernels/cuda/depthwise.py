"""Depthwise convolutions and chains of them: launches of depthwise.cu, and of depthwise_any.cu for kernels that are
not 3x3 or have another stride, padding or dilation than 1.

The fast kernels treat a plane in strips of its rows; a plane that is not large is one strip. What a strip needs of its
neighbours is read twice. Sums are made by strip; a second, small launch adds them up, or, in a chain, the launch of the
next layer does it before it does anything else.
"""

import dataclasses

import numpy as np

from octsod.backend.arrays import overlap
from octsod.backend.deferred import Deferred, DeferredGradient, GradientTarget

from .driver import driver
from .launch import WARP, Source
from .normalization import (
    batch_norm_backward,
    batch_norm_coefficients,
    batch_statistics,
    channel_moments,
    either,
    gradient_sums,
    launch_activate,
)

SOURCE, ANY = Source("depthwise", "maps"), Source("depthwise_any", "maps")
THREADS = 224  # of a block at most, here and in the sources
SHARED = 46 << 10  # bytes for a strip, beside what the kernels take for themselves, of the 48 KiB that all GPUs have
WHOLE = 4096  # pixels of the largest plane that is not cut
ROWS = 28  # of a strip, at most
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

    def launch(self, name, x, *arguments):
        """A kernel with a block for each strip of the map x."""
        blocks = self.shape[0] * self.shape[1] * self.count
        arguments = *self.shape, self.rows, self.run, *arguments
        SOURCE.launch(name, x.dtype, blocks, self.threads, *arguments, shared_mem=self.shared)


def depthwise_conv2d(x, weight, out, stride, padding, dilation, moments=None):
    strips = _strips(x.raw, weight, stride, padding, dilation)
    if strips is None:
        sums = x.claim_activation_sums() if out.size else None
        _any(x, weight, 1.0, out, stride, padding, dilation, sums, moments)
        return
    sums = x.claim_activation_sums()
    if strips.count == 1:
        strips.launch("depthwise3", out, x.raw, x.coefficients, weight, 1.0, out, sums, moments, 0, *_doubles(NO_NORM))
        return
    part_sums = None if sums is None else strips.sums(1)
    part_moments = None if moments is None else strips.sums(3)
    strips.launch(
        "depthwise3", out, x.raw, x.coefficients, weight, 1.0, out, part_sums, part_moments, 1, *_doubles(NO_NORM)
    )
    if sums is not None or moments is not None:
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
    _backward(
        strips, grad, _edges(strips, grad.g, grad_x), x, weight, 1.0, grad_x, None, weight_sums, part_sums,
        strips.count > 1, _doubles(NO_NORM_BACKWARD),
    )  # fmt: skip
    _finish_backward(strips, x.dtype, weight_sums, 1.0, grad_weight, part_sums, sums)


def depthwise_chain(
    x, layers, running, raw, coefficients, statistics, activation_sums, training, momentum, eps, weight_scale
):
    strips = _strips(x.raw, layers[0][0], 1, 1, 1)
    images, channels, height, width = x.shape
    norm = _doubles(NO_NORM)  # of the layer before
    for layer, ((weight, *parameters), averages) in enumerate(zip(layers, running, strict=True)):
        sums = activation_sums[layer]
        settings = np.float64(momentum), np.float64(eps), *parameters, *either(averages[0]), *either(averages[1])
        stored = statistics[layer], coefficients[layer]
        if strips is not None:
            moments = strips.sums(3) if training else None
            part_sums = strips.sums(1) if sums is not None and strips.count > 1 else sums
            strips.launch(
                "depthwise3", raw, x.raw, None if layer else x.coefficients, weight, weight_scale, raw[layer],
                part_sums, moments, 1, *norm,
            )  # fmt: skip
            norm = moments, *settings, *stored, *((None, None) if part_sums is sums else (part_sums, sums))
            if layer == len(layers) - 1:
                SOURCE.launch("depthwise3_norm", raw.dtype, channels, WARP, *x.shape, strips.rows, *norm)
        else:
            moments = driver().empty((images, 3, channels), np.float64) if training else None
            _any(x, weight, weight_scale, raw[layer], 1, weight.shape[2] // 2, 1, sums, moments)
            if training:
                used = statistics[layer][0], statistics[layer][1]
                batch_statistics(moments, height * width, momentum, *used, *averages)
                batch_norm_coefficients(*used, eps, *parameters, coefficients[layer])
            else:
                norm = None, *settings, *stored, None, None
                SOURCE.launch("depthwise3_norm", raw.dtype, channels, WARP, *x.shape, height, *norm)
        x = Deferred(raw[layer], coefficients[layer])


def depthwise_chain_backward(
    grad, x, layers, raw, coefficients, statistics, training, eps, weight_scale, between, grad_x, grad_layers
):
    images, channels, height, width = x.shape
    last = len(layers) - 1
    strips = _strips(x.raw, layers[0][0], 1, 1, 1)
    targets = [grad_x] + [GradientTarget(between)] * last  # of each layer
    g, sums, parts, ours = grad.array, grad.gradient_sums, images, False
    if sums is None:
        sums = driver().empty((images, 3, channels), np.float64)
        gradient_sums(g, Deferred(raw[last], coefficients[last]), sums)
    edges = None if strips is None else _edges(strips, g, targets[last])
    later = None, None  # weight sums of the layer that was treated before, and the array for the gradient
    for layer in range(last, -1, -1):
        (weight, *norm), (grad_weight, *grad_norm) = layers[layer], grad_layers[layer]
        before = Deferred(raw[layer - 1], coefficients[layer - 1]) if layer else x
        if strips is None:
            by = driver().empty((6, channels), raw.dtype)
            count = images * height * width
            used = statistics[layer][0], statistics[layer][1]
            batch_norm_backward(sums, count, training, *used, eps, *norm, by, *grad_norm)
            target = targets[layer]
            if layer:
                sums = driver().empty((images, 3, channels), np.float64)
                target = GradientTarget(between, gradient_sums=sums)
            gradient = DeferredGradient(g, raw[layer], by)
            _any_backward(gradient, before, weight, weight_scale, 1, weight.shape[2] // 2, 1, target, grad_weight)
        else:
            norm = sums, parts, int(ours), training, np.float64(eps), statistics[layer], *norm, *grad_norm, *later
            weight_sums, image_sums, next_edges = strips.sums(9), None, None
            if layer:
                sums, parts, ours = strips.sums(3), strips.parts, True
                next_edges = _edges(strips, between, targets[layer - 1], filled=False)
            else:
                image_sums = None if grad_x is None else grad_x.gradient_sums
                ours = image_sums is not None and strips.count > 1
                sums = strips.sums(3) if ours else image_sums
            _backward(
                strips, DeferredGradient(g, raw[layer]), edges, before, weight, weight_scale, targets[layer],
                next_edges, weight_sums, sums, ours, norm,
            )  # fmt: skip
            later, edges = (weight_sums, grad_weight), next_edges
            if layer == 0:
                _finish_backward(strips, x.dtype, weight_sums, weight_scale, grad_weight, sums, image_sums)
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


def _backward(strips, grad, edges, x, weight, weight_scale, target, next_edges, weight_sums, sums, ours, norm):
    """Launch depthwise3_backward. norm: what it is given of the norm's backward."""
    array, accumulate = (None, 0) if target is None else (target.array, target.accumulate)
    deferred = grad.coefficients is not None or norm[0] is not None
    reads = weight_sums is not None or sums is not None
    strips.launch(
        "depthwise3_backward", grad.g, grad.g, grad.raw if deferred else None, grad.coefficients, edges,
        x.raw if reads else None, x.coefficients, weight, weight_scale, array, accumulate, next_edges, weight_sums,
        sums, int(ours), *norm,
    )  # fmt: skip


def _finish_backward(strips, dtype, weight_sums, weight_scale, grad_weight, part_sums, sums):
    """The gradient of the weight, and gradient sums of images if those are not there yet."""
    if part_sums is sums:
        part_sums = sums = None
    if grad_weight is not None or sums is not None:
        SOURCE.launch(
            "depthwise3_backward_sums", dtype, strips.shape[1], 9 * WARP, *strips.shape[:2], strips.count, weight_sums,
            weight_scale, grad_weight, part_sums, sums,
        )  # fmt: skip


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
