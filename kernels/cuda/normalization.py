"""Batch norm and PReLU: launches of normalization.cu."""

import itertools

import numpy as np

from .launch import THREADS, WARP, source

SOURCE = source("normalization", "reading", "maps")
MOST_THREADS = 1024
MAPS = 4  # whose channels one launch treats


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


def batch_norm(moments, pixels, momentum, eps, parameters, running, statistics, coefficients):
    rows = []
    for i, out in enumerate(coefficients):
        images, averages = 0 if moments[i] is None else moments[i].shape[0], map(either, running[i])
        sizes, settings = (images, out.shape[1], pixels[i]), map(np.float64, (momentum[i], eps[i]))
        rows.append((moments[i], *sizes, *settings, *parameters[i], *itertools.chain(*averages), statistics[i], out))
    _over_maps("batch_norm", coefficients, rows)


def batch_norm_backward(sums, counts, training, eps, parameters, statistics, coefficients, gradients):
    rows = []
    for i, out in enumerate(coefficients):
        settings = np.float64(counts[i]), training[i], np.float64(eps[i])
        rows.append((
            sums[i], sums[i].shape[0], out.shape[1], *settings, *parameters[i], statistics[i], out, *gradients[i],
        ))  # fmt: skip
    _over_maps("batch_norm_backward", coefficients, rows)


def _over_maps(name, coefficients, rows):
    """A kernel that has a warp for each channel of each map; rows: what it takes of each."""
    for k in range(0, len(rows), MAPS):
        some, channels = rows[k : k + MAPS], [out.shape[1] for out in coefficients[k : k + MAPS]]
        columns = zip(*some, *some[-1:] * (MAPS - len(some)), strict=True)  # nobody looks at the last one's repetitions
        arguments = itertools.chain(*columns)
        SOURCE.launch(name, coefficients[k].dtype, (max(channels), len(some)), WARP, *arguments)


def prelu_coefficients(slope, out):
    SOURCE.launch("prelu_coefficients", out.dtype, -(-slope.size // THREADS), THREADS, slope, slope.size, out)


def prelu_backward(sums, slope, out, grad_slope):
    SOURCE.launch(
        "prelu_backward", out.dtype, slope.size, WARP, sums, slope, sums.shape[0], slope.size, out, grad_slope
    )


def either(array):
    """(array, None) of a float32 array, else (None, array): for kernels that take arrays of either type, or none."""
    return (array, None) if array is not None and array.dtype == np.float32 else (None, array)


def _plane(x):
    """Channels of a map, and pixels of its planes."""
    return x.shape[1], x.shape[2] * x.shape[3]


def _launch_on_planes(name, x, *arguments):
    """A kernel with a block for each plane of the map x; blocks are larger where planes are."""
    pixels = x.shape[2] * x.shape[3]
    threads = min(-(-pixels // WARP) * WARP, MOST_THREADS)
    SOURCE.launch(name, x.dtype, x.shape[0] * x.shape[1], threads, *arguments)
