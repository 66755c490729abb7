"""Batch norm and PReLU around the convolutions: channel statistics, coefficients, and the maps they stand for.

octsod/backend/contract.py says what the kernels do. A task is an image, or a channel where there are no maps.
"""

import functools
import math

import numpy as np

from octsod.backend.deferred import DeferredGradient

from ..reference.normalization import IDENTITY, IDENTITY_GRADIENT, prelu_backward, prelu_coefficients
from . import parallel
from .compile import kernel
from .parallel import flat, flat_out, readable
from .regions import Extent, Part, Region
from .steps import activate as _activate
from .steps import differentiate as _differentiate
from .steps import gradient_sums_of, moments_of

__all__ = ["prelu_backward", "prelu_coefficients"]  # per-channel work, and as fast in plain NumPy


@functools.lru_cache(maxsize=256)
def _repeated(channels, dtype, gradient):
    return np.repeat(IDENTITY_GRADIENT if gradient else IDENTITY, channels, axis=1).astype(dtype)


def coefficients_of(x):
    """The coefficients of a `Deferred` map or `DeferredGradient`; if it has none, some that change nothing."""
    if x.coefficients is not None:
        return x.coefficients
    return _repeated(x.shape[1], x.dtype, isinstance(x, DeferredGradient))


@kernel
def _activate_planes(slot, start, stop, x, coef, channels, pixels, out, activation_sums):
    for n in range(start, stop):
        at = n * channels * pixels
        _activate(
            Region(x, at, pixels, pixels), 1, coef, Region(out, at, pixels, pixels), Extent(channels, 1, pixels),
            activation_sums[n],
        )  # fmt: skip


def activate(x, out):
    images, channels = x.shape[:2]
    pixels = math.prod(x.shape[2:])
    if out.size:
        sums = x.claim_activation_sums()
        sums = np.empty((images, channels)) if sums is None else sums
        sums[...] = 0
        parallel.run(
            _activate_planes, images, flat(x.raw), coefficients_of(x).reshape(-1), channels, pixels, flat_out(out),
            sums,
        )


@kernel
def _differentiate_planes(slot, start, stop, g, z, coef, channels, pixels, out):
    for n in range(start, stop):
        at = n * channels * pixels
        _differentiate(
            Region(g, at, pixels, pixels), Region(z, at, pixels, pixels), coef, Region(out, at, pixels, pixels),
            Extent(channels, 1, pixels), Part(0, channels),
        )  # fmt: skip


def differentiate(grad, out):
    images, channels = grad.shape[:2]
    if out.size:
        parallel.run(
            _differentiate_planes, images, flat(grad.g), flat(grad.raw), coefficients_of(grad).reshape(-1), channels,
            math.prod(grad.shape[2:]), flat_out(out),
        )  # fmt: skip


@kernel
def _moments_planes(slot, start, stop, x, channels, height, width, moments):
    pixels = height * width
    for n in range(start, stop):
        moments_of(Region(x, n * channels * pixels, pixels, width), Extent(channels, height, width), True, moments[n])


def channel_moments(x, moments):
    images, channels, height, width = x.shape
    moments[...] = 0
    if x.size:
        parallel.run(
            _moments_planes, images, flat(x), channels, height, width, flat_out(moments).reshape(images, 3 * channels)
        )


@kernel
def _sums_planes(slot, start, stop, g, z, coef, channels, height, width, sums):
    pixels = height * width
    for n in range(start, stop):
        at = n * channels * pixels
        gradient_sums_of(
            Region(g, at, pixels, width), Region(z, at, pixels, width), coef, Extent(channels, height, width), sums[n]
        )


def gradient_sums(g, x, sums):
    images, channels, height, width = x.shape
    sums[...] = 0
    if g.size:
        parallel.run(
            _sums_planes, images, flat(g), flat(x.raw), coefficients_of(x).reshape(-1), channels, height, width,
            flat_out(sums).reshape(images, 3 * channels),
        )  # fmt: skip


@kernel
def batch_statistics_of(c, moments, pixels, momentum, mean, variance, running_mean, running_var):
    images = moments.shape[0]
    count = images * pixels
    total = 0.0
    for n in range(images):
        total += moments[n, 0, c] * pixels + moments[n, 1, c]
    centre = total / count
    # Chan's formula: each image's squares about its own mean, plus the distance of that mean from the overall one.
    squares = 0.0
    for n in range(images):
        about = moments[n, 1, c] / pixels
        own = moments[n, 0, c] + about
        squares += moments[n, 2, c] - about * moments[n, 1, c] + pixels * (own - centre) * (own - centre)
    mean[c] = centre
    variance[c] = squares / count
    if running_mean.size:
        running_mean[c] += momentum * (centre - running_mean[c])
    if running_var.size:
        running_var[c] += momentum * (squares / max(count - 1, 1) - running_var[c])


@kernel
def batch_norm_coefficients_of(c, mean, variance, eps, weight, bias, slope, out):
    channels = mean.size
    out[c] = weight[c] / math.sqrt(variance[c] + eps)
    # From the scale as stored, so that its rounding does not move the whole channel: the mean maps to the bias.
    out[channels + c] = bias[c] - mean[c] * out[c]
    out[2 * channels + c] = slope[c]
    out[3 * channels + c] = mean[c]


@kernel
def _batch_norm(
    slot, start, stop, training, moments, pixels, momentum, eps, weight, bias, slope, running_mean, running_var, mean,
    variance, out,
):  # fmt: skip
    for c in range(start, stop):
        if training:
            batch_statistics_of(c, moments, pixels, momentum, mean, variance, running_mean, running_var)
        else:
            mean[c] = running_mean[c]
            variance[c] = running_var[c]
        batch_norm_coefficients_of(c, mean, variance, eps, weight, bias, slope, out)


_NO_MOMENTS = np.empty((0, 3, 0))


def batch_norm(moments, pixels, momentum, eps, parameters, running, statistics, coefficients):
    for i, (used, out) in enumerate(zip(statistics, coefficients, strict=True)):
        averages = [np.empty(0, out.dtype) if a is None else flat_out(a) for a in running[i]]
        mean, variance = flat_out(used).reshape(used.shape)
        parallel.run(
            _batch_norm, mean.size, moments[i] is not None, _NO_MOMENTS if moments[i] is None else readable(moments[i]),
            pixels[i], momentum[i], eps[i], *map(flat, parameters[i]), *averages, mean, variance, flat_out(out),
            slots=1,
        )  # fmt: skip


@kernel
def batch_norm_backward_of(
    c, sums, count, training, mean, variance, eps, weight, bias, slope, out, grad_weight, grad_bias, grad_slope
):
    channels = mean.size
    s0 = 0.0
    s1 = 0.0
    s2 = 0.0
    for n in range(sums.shape[0]):
        s0 += sums[n, 0, c]
        s1 += sums[n, 1, c]
        s2 += sums[n, 2, c]
    deviation = 1 / math.sqrt(variance[c] + eps)
    scale = weight[c] * deviation
    grad_bias[c] = s0
    grad_weight[c] = s1 * deviation
    grad_slope[c] = s2
    out[c] = scale
    out[channels + c] = bias[c] - mean[c] * out[c]
    out[2 * channels + c] = slope[c]
    out[3 * channels + c] = scale
    k1 = 0.0
    k2 = 0.0
    if training:
        k1 = -scale * deviation * deviation * s1 / count
        k2 = -scale * s0 / count - k1 * mean[c]
    out[4 * channels + c] = k1
    out[5 * channels + c] = k2


@kernel
def _batch_norm_backward(
    slot, start, stop, sums, count, training, mean, variance, eps, weight, bias, slope, out, grad_weight, grad_bias,
    grad_slope,
):  # fmt: skip
    for c in range(start, stop):
        batch_norm_backward_of(
            c, sums, count, training, mean, variance, eps, weight, bias, slope, out, grad_weight, grad_bias, grad_slope
        )


def batch_norm_backward(sums, counts, training, eps, parameters, statistics, coefficients, gradients):
    for i, (used, out) in enumerate(zip(statistics, coefficients, strict=True)):
        parallel.run(
            _batch_norm_backward, out.shape[1], readable(sums[i]), counts[i], training[i], *readable(used), eps[i],
            *map(flat, parameters[i]), flat_out(out), *map(flat_out, gradients[i]), slots=1,
        )  # fmt: skip
