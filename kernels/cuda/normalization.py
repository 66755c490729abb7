"""Batch norm and PReLU: launches of normalization.cu."""

import numpy as np

from .launch import THREADS, WARP, Source

SOURCE = Source("normalization", "maps")
MOST_THREADS = 1024


def activate(x, out):
    launch_activate(x, out, x.claim_activation_sums())


def launch_activate(x, out, sums):
    """out = the deferred map x, and sums (N, C) = those of its planes; either may be None."""
    _launch_on_planes("activate", x.raw, x.raw, x.coefficients, *_plane(x.raw), out, sums)


def differentiate(grad, out):
    _launch_on_planes("differentiate", out, grad.g, grad.raw, grad.coefficients, *_plane(out), out)


def channel_moments(x, moments):
    _launch_on_planes("channel_moments", x, x, *_plane(x), moments)


def gradient_sums(g, x, sums):
    _launch_on_planes("gradient_sums", g, g, x.raw, x.coefficients, *_plane(g), sums)


def batch_statistics(moments, pixels, momentum, mean, variance, running_mean, running_var):
    SOURCE.launch(
        "batch_statistics", running_mean.dtype, mean.size, WARP, moments, moments.shape[0], mean.size, pixels,
        np.float64(momentum), mean, variance, *either(running_mean), *either(running_var),
    )  # fmt: skip


def batch_norm_coefficients(mean, variance, eps, weight, bias, slope, out):
    SOURCE.launch(
        "batch_norm_coefficients", out.dtype, -(-mean.size // THREADS), THREADS, mean, variance, np.float64(eps),
        weight, bias, slope, mean.size, out,
    )  # fmt: skip


def batch_norm_backward(
    sums, count, training, mean, variance, eps, weight, bias, slope, out, grad_weight, grad_bias, grad_slope
):
    SOURCE.launch(
        "batch_norm_backward", out.dtype, mean.size, WARP, sums, sums.shape[0], mean.size, np.float64(count), training,
        mean, variance, np.float64(eps), weight, bias, slope, out, grad_weight, grad_bias, grad_slope,
    )  # fmt: skip


def prelu_coefficients(slope, out):
    SOURCE.launch("prelu_coefficients", out.dtype, -(-slope.size // THREADS), THREADS, slope, slope.size, out)


def prelu_backward(sums, slope, out, grad_slope):
    SOURCE.launch(
        "prelu_backward", out.dtype, slope.size, WARP, sums, slope, sums.shape[0], slope.size, out, grad_slope
    )


def either(array):
    """(array, None) of a float32 array, else (None, array): for kernels that take arrays of either type."""
    return (array, None) if array.dtype == np.float32 else (None, array)


def _plane(x):
    """Channels of a map, and pixels of its planes."""
    return x.shape[1], x.shape[2] * x.shape[3]


def _launch_on_planes(name, x, *arguments):
    """A kernel with a block for each plane of the map x; blocks are larger where planes are."""
    pixels = x.shape[2] * x.shape[3]
    threads = min(-(-pixels // WARP) * WARP, MOST_THREADS)
    SOURCE.launch(name, x.dtype, x.shape[0] * x.shape[1], threads, *arguments)
