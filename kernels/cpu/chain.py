"""A chain of depthwise layers with batch norm and PReLU, forward and backward, one channel of the batch at a time.

A channel's planes of all images go through one layer, then its statistics are complete, then the next layer finds the
planes written last still in the cache: so every other layer takes the images in reverse.
"""

import numpy as np

from octsod.backend.memory import empty

from . import depthwise, parallel
from .compile import kernel
from .normalization import batch_norm_backward_of, batch_norm_coefficients_of, batch_statistics_of, coefficients_of
from .parallel import flat
from .steps import gradient_sums_of_channel

_planes, _planes_backward = depthwise.forward, depthwise.backward


@kernel
def _forward(
    slot, start, stop, x, coef, weight, norm, averages, raw, coefficients, statistics, sums, moments, training,
    momentum, eps, channels, height, width, size, origin, depth, pitch, scratch, scratch_size,
):  # fmt: skip
    """Channels start..stop. x, raw[l]: flat maps; coef, coefficients[l] (4*C); weight[l] (C*size*size); sums[l] (N*C);
    norm (L, 3, C), averages, statistics (L, 2, C), moments (N, 3, C)."""
    images = moments.shape[0]
    for c in range(start, stop):
        for layer in range(weight.shape[0]):
            for k in range(images):
                plane = (images - 1 - k if layer & 1 else k) * channels + c
                following = (-channels if layer & 1 else channels) if k < images - 1 else 0
                source, by = (raw[layer - 1], coefficients[layer - 1]) if layer else (x, coef)
                _planes(
                    slot, plane, plane + 1, source, by, weight[layer], raw[layer], moments.reshape(-1), sums[layer],
                    training, channels, height, width, height, width, size, size, 1, size // 2, 1, origin,
                    depth, pitch, scratch, scratch_size, following,
                )  # fmt: skip
            mean, variance = statistics[layer, 0], statistics[layer, 1]
            if training:
                batch_statistics_of(
                    c, moments, height * width, momentum, mean, variance, averages[layer, 0], averages[layer, 1]
                )
            else:
                mean[c] = averages[layer, 0, c]
                variance[c] = averages[layer, 1, c]
            batch_norm_coefficients_of(
                c, mean, variance, eps, norm[layer, 0], norm[layer, 1], norm[layer, 2], coefficients[layer]
            )


def depthwise_chain(
    x, layers, running, raw, coefficients, statistics, activation_sums, training, momentum, eps, weight_scale
):
    """The convolution outputs `raw` (L, N, C, H, W) of L layers and their coefficients (L, 4, C): see the contract."""
    depth, images, channels, height, width = raw.shape
    weight, norm = _packed(layers, weight_scale)
    averages = np.array(running, np.float64)
    size = layers[0][0].shape[2]
    origin, rows, pitch, scratch = depthwise.layout(raw.itemsize, width, width, (size, size), 1, size // 2, 1)
    slots = parallel.parts(channels)
    sums = empty((depth, images * channels), "float64")
    parallel.run(
        _forward, channels, flat(x.raw), coefficients_of(x).reshape(-1), weight, norm, averages,
        raw.reshape(depth, -1), coefficients.reshape(depth, -1), statistics, sums,
        np.empty((images, 3, channels)), training, momentum, eps, channels, height, width, size, origin, rows, pitch,
        empty(slots * scratch, raw.dtype), scratch, slots=slots,
    )  # fmt: skip
    if training:
        averages[np.abs(averages) < np.finfo(raw.dtype).tiny] = 0  # as kernels would: see parallel.run
        for arrays, values in zip(running, averages, strict=True):
            for array, value in zip(arrays, values, strict=True):
                array[...] = value
    for target, values in zip(activation_sums, sums, strict=True):
        if target is not None:
            target[...] = values.reshape(target.shape)


def _packed(layers, weight_scale):
    """All layers' scaled weights (L, C*k*k) and norms (L, 3, C)."""
    weights = np.stack([weight.reshape(-1) for weight, *_ in layers])
    return weights * weights.dtype.type(weight_scale), np.stack([norm for _, *norm in layers])


@kernel
def _backward(
    slot, start, stop, g, given, x, coef, weight, norm, raw, coefficients, statistics, between, gx, gx_sums,
    want_sums, add, grad_weight, grad_norm, sums, partials, dcoef, training, eps, channels, height, width, size, origin,
    depth, pitch, scratch, scratch_size,
):  # fmt: skip
    """Channels start..stop. given: whether `sums` (N, 3, C) holds the gradient sums of the last layer's activation.
    partials (N, C*size*size), dcoef (6*C): per channel, used again from layer to layer."""
    images = sums.shape[0]
    pixels = height * width
    taps = size * size
    layers = weight.shape[0]
    for c in range(start, stop):
        turn = 0
        if not given:
            last = layers - 1
            for n in range(images):
                at = (n * channels + c) * pixels
                gradient_sums_of_channel(
                    g, at, width, raw[last], at, width, coefficients[last], c, channels, height, width,
                    sums[n].reshape(-1),
                )  # fmt: skip
            turn = 1
        for layer in range(layers - 1, -1, -1):
            batch_norm_backward_of(
                c, sums, images * pixels, training, statistics[layer, 0], statistics[layer, 1], eps, norm[layer, 0],
                norm[layer, 1], norm[layer, 2], dcoef, grad_norm[layer, 0], grad_norm[layer, 1], grad_norm[layer, 2],
            )  # fmt: skip
            upstream = between if layer < layers - 1 else g
            source, by = (raw[layer - 1], coefficients[layer - 1]) if layer else (x, coef)
            target = between if layer else gx
            for k in range(images):
                plane = (images - 1 - k if turn & 1 else k) * channels + c
                following = (-channels if turn & 1 else channels) if k < images - 1 else 0
                _planes_backward(
                    slot, plane, plane + 1, upstream, raw[layer], dcoef, source, by, weight[layer], target,
                    partials.reshape(-1), sums.reshape(-1) if layer else gx_sums, want_sums or layer > 0,
                    add and layer == 0, channels, height, width, height, width, size, size, 1, size // 2, 1, origin,
                    depth, pitch, scratch, scratch_size, following,
                )  # fmt: skip
            turn += 1
            for k in range(c * taps, (c + 1) * taps):
                total = 0.0
                for n in range(images):
                    total += partials[n, k]
                grad_weight[layer, k] = total


def depthwise_chain_backward(
    grad, x, layers, raw, coefficients, statistics, training, eps, weight_scale, between, grad_x, grad_layers
):
    """Gradients of depthwise_chain with respect to x and to what `layers` holds: see the contract."""
    depth, images, channels, height, width = raw.shape
    weight, norm = _packed(layers, weight_scale)
    grad_weight, grad_norm = np.empty_like(weight), np.empty_like(norm)
    size = layers[0][0].shape[2]
    origin, rows, pitch, scratch = depthwise.layout(raw.itemsize, width, width, (size, size), 1, size // 2, 1)
    slots = parallel.parts(channels)
    given = grad.gradient_sums is not None
    # Sums of the gradients between layers land in an array of our own: the caller's stays as it is.
    sums = grad.gradient_sums.copy() if given else np.zeros((images, 3, channels))
    target = empty(x.shape, x.dtype) if grad_x is None else grad_x.array
    gx_sums = None if grad_x is None else grad_x.gradient_sums
    parallel.run(
        _backward, channels, flat(grad.array), given, flat(x.raw), coefficients_of(x).reshape(-1),
        weight, norm, raw.reshape(depth, -1), coefficients.reshape(depth, -1), statistics,
        between.reshape(-1), target.reshape(-1), np.empty(0) if gx_sums is None else gx_sums.reshape(-1),
        gx_sums is not None, grad_x is not None and grad_x.accumulate, grad_weight, grad_norm,
        sums, np.empty((images, channels * size * size), raw.dtype), np.empty(6 * channels, raw.dtype), training, eps,
        channels, height, width, size, origin, rows, pitch, empty(slots * scratch, raw.dtype), scratch, slots=slots,
    )  # fmt: skip
    grad_weight *= weight.dtype.type(weight_scale)
    for (target, *targets), w, n in zip(grad_layers, grad_weight, grad_norm, strict=True):
        target[...] = w.reshape(target.shape)
        for part, values in zip(targets, n, strict=True):
            part[...] = values
