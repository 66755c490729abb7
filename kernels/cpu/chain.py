"""A chain of depthwise layers with batch norm and PReLU, forward and backward, one channel of the batch at a time.

A channel's planes of all images go through one layer; then its statistics are complete and the next layer follows. The
planes written last are still in the cache, so every other layer takes the images in reverse.
"""

from typing import Any, NamedTuple

import numpy as np

from octsod.backend.memory import empty

from . import depthwise, parallel
from .compile import kernel, spliced
from .normalization import batch_norm_backward_of, batch_norm_coefficients_of, batch_statistics_of, coefficients_of
from .parallel import flat, flat_out
from .regions import Extent, Region
from .steps import gradient_sums_of_channel

_planes, _planes_backward, _Planes = depthwise.forward_planes, depthwise.backward_planes, depthwise.Planes
_Source, _Results, _Gradient, _Gradients = (
    depthwise.Source, depthwise.Results, depthwise.Gradient, depthwise.Gradients,
)  # fmt: skip


class Layers(NamedTuple):
    """Weights, maps and statistics of L layers.

    weight (L, C*size*size), norm (L, 3, C), raw (L, N*C*H*W), coefficients (L, 4*C), statistics (L, 2, C).
    """

    weight: Any
    norm: Any
    raw: Any
    coefficients: Any
    statistics: Any


class Size(NamedTuple):
    """The size of maps and kernels."""

    channels: int
    height: int
    width: int
    kernel: int


class Training(NamedTuple):
    """Where batch norm takes its statistics from: the batch if `training`, else the running averages."""

    training: bool
    momentum: float
    eps: float


def _shape(channels, height, width, size):
    """The shape of the depthwise convolutions. It is built inside kernels, so that the compiler knows that stride and
    dilation are 1: small planes then cost up to a third less."""
    return depthwise.Shape(channels, height, width, height, width, size, size, 1, size // 2, 1)


_shape_of = spliced(_shape)


@kernel
def _input(layers, layer, first):
    """What a layer reads: `first`, or the output of the layer before."""
    return _Source(layers.raw[layer - 1], layers.coefficients[layer - 1]) if layer else first


@spliced
def _in_turn(turn, c, images, channels):
    """The planes of channel c; in every other turn, from the last image to the first."""
    if turn & 1:
        return _Planes((images - 1) * channels + c, -channels, images, 0)
    return _Planes(c, channels, images, 0)


@kernel
def _forward(slot, start, stop, first, layers, averages, sums, moments, how, size, scratch):
    """Channels start..stop. first: the map, a `Source`; averages (L, 2, C); sums[l] (N*C): of the activation that layer
    l reads; moments (N, 3, C); how: `Training`; size: `Size`."""
    images, channels = moments.shape[0], size.channels
    shape = _shape_of(channels, size.height, size.width, size.kernel)
    norm = layers.norm
    for c in range(start, stop):
        for layer in range(layers.weight.shape[0]):
            results = _Results(layers.raw[layer], moments.reshape(-1), how.training, sums[layer])
            source = _input(layers, layer, first)
            planes = _in_turn(layer, c, images, channels)
            _planes(slot, planes, source, layers.weight[layer], results, shape, scratch)
            mean, variance = layers.statistics[layer, 0], layers.statistics[layer, 1]
            if how.training:
                batch_statistics_of(
                    c, moments, shape.height * shape.width, how.momentum, mean, variance, averages[layer, 0],
                    averages[layer, 1],
                )  # fmt: skip
            else:
                mean[c] = averages[layer, 0, c]
                variance[c] = averages[layer, 1, c]
            batch_norm_coefficients_of(
                c, mean, variance, how.eps, norm[layer, 0], norm[layer, 1], norm[layer, 2], layers.coefficients[layer]
            )


def depthwise_chain(
    inputs, layers, running, raw, coefficients, statistics, activation_sums, training, momentum, eps, weight_scale
):
    """One map after the other: see the contract."""
    for chain in zip(inputs, layers, running, raw, coefficients, statistics, activation_sums, strict=True):
        _chain(*chain, training, momentum, eps, weight_scale)


def _chain(
    x, layers, running, raw, coefficients, statistics, activation_sums, training, momentum, eps, weight_scale
):
    """The convolution outputs `raw` (L, N, C, H, W) of L layers and their coefficients (L, 4, C)."""
    depth, images, channels, height, width = raw.shape
    weight, norm = _packed(layers, weight_scale)
    averages = np.array(running, np.float64)
    size = Size(channels, height, width, layers[0][0].shape[2])
    slots = parallel.parts(channels)
    sums = empty((depth, images * channels), "float64")
    parallel.run(
        _forward, channels, depthwise.Source(flat(x.raw), coefficients_of(x).reshape(-1)),
        Layers(
            weight, norm, flat_out(raw).reshape(depth, -1), flat_out(coefficients).reshape(depth, -1), statistics
        ),
        averages, sums, np.empty((images, 3, channels)), Training(training, momentum, eps), size,
        depthwise.scratch_for(_shape(*size), raw.dtype, slots), slots=slots,
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


class Between(NamedTuple):
    """Arrays that every layer uses again and, except for the gradients, every channel too.

    gradients (N*C*H*W): of the activations between layers; gradient_sums (N, 3, C): if `given`, at first those of the
    last layer's activation; partials (N, C*size*size), dcoef (6*C).
    """

    gradients: Any
    gradient_sums: Any
    given: bool
    partials: Any
    dcoef: Any


@kernel
def _backward(
    slot, start, stop, g, first, layers, between, target, grad_weight, grad_norm, how, size, scratch
):  # fmt: skip
    """Channels start..stop. first: the map, a `Source`; target: its `Gradients`, whose partials are not touched."""
    sums, partials, dcoef = between.gradient_sums, between.partials, between.dcoef
    norm, statistics = layers.norm, layers.statistics
    images, channels = sums.shape[0], size.channels
    shape = _shape_of(channels, size.height, size.width, size.kernel)
    height, width = shape.height, shape.width
    pixels, taps = height * width, shape.kh * shape.kw
    last = layers.weight.shape[0] - 1
    for c in range(start, stop):
        turn = 0
        if not between.given:
            for n in range(images):
                at = n * channels * pixels
                gradient_sums_of_channel(
                    Region(g, at, pixels, width), Region(layers.raw[last], at, pixels, width),
                    layers.coefficients[last], c, Extent(channels, height, width), sums[n].reshape(-1),
                )  # fmt: skip
            turn = 1
        for layer in range(last, -1, -1):
            batch_norm_backward_of(
                c, sums, images * pixels, how.training, statistics[layer, 0], statistics[layer, 1], how.eps,
                norm[layer, 0], norm[layer, 1], norm[layer, 2], dcoef, grad_norm[layer, 0], grad_norm[layer, 1],
                grad_norm[layer, 2],
            )  # fmt: skip
            upstream = _Gradient(between.gradients if layer < last else g, layers.raw[layer], dcoef)
            gradients = _Gradients(
                between.gradients if layer else target.gx, target.accumulate and layer == 0, partials.reshape(-1),
                sums.reshape(-1) if layer else target.gradient_sums, target.want or layer > 0,
            )  # fmt: skip
            source = _input(layers, layer, first)
            planes = _in_turn(turn, c, images, channels)
            _planes_backward(slot, planes, upstream, source, layers.weight[layer], gradients, shape, scratch)
            turn += 1
            for k in range(c * taps, (c + 1) * taps):
                total = 0.0
                for n in range(images):
                    total += partials[n, k]
                grad_weight[layer, k] = total


def depthwise_chain_backward(
    grads, inputs, layers, raw, coefficients, statistics, training, eps, weight_scale, between, grad_inputs,
    grad_layers,
):  # fmt: skip
    """One map after the other: see the contract."""
    chains = zip(grads, inputs, layers, raw, coefficients, statistics, between, grad_inputs, grad_layers, strict=True)
    for chain in chains:
        _chain_backward(*chain, training, eps, weight_scale)


def _chain_backward(
    grad, x, layers, raw, coefficients, statistics, between, grad_x, grad_layers, training, eps, weight_scale
):
    """Gradients of `_chain` with respect to x and to what `layers` holds."""
    depth, images, channels, height, width = raw.shape
    weight, norm = _packed(layers, weight_scale)
    grad_weight, grad_norm = np.empty_like(weight), np.empty_like(norm)
    size = Size(channels, height, width, layers[0][0].shape[2])
    slots = parallel.parts(channels)
    given = grad.gradient_sums is not None
    # Sums of the gradients between layers go into an array of our own: the caller's must not change.
    sums = grad.gradient_sums.copy() if given else np.zeros((images, 3, channels))
    target = empty(x.shape, x.dtype) if grad_x is None else grad_x.array
    gx_sums = None if grad_x is None else grad_x.gradient_sums
    parallel.run(
        _backward, channels, flat(grad.array), depthwise.Source(flat(x.raw), coefficients_of(x).reshape(-1)),
        Layers(weight, norm, raw.reshape(depth, -1), coefficients.reshape(depth, -1), statistics),
        Between(
            flat_out(between), sums, given, np.empty((images, channels * size.kernel**2), raw.dtype),
            np.empty(6 * channels, raw.dtype),
        ),
        depthwise.Gradients(
            flat_out(target), grad_x is not None and grad_x.accumulate, None,
            np.empty(0) if gx_sums is None else flat_out(gx_sums), gx_sums is not None,
        ),
        grad_weight, grad_norm, Training(training, 0.0, eps), size,
        depthwise.scratch_for(_shape(*size), raw.dtype, slots), slots=slots,
    )  # fmt: skip
    grad_weight *= weight.dtype.type(weight_scale)
    for (target, *targets), w, n in zip(grad_layers, grad_weight, grad_norm, strict=True):
        target[...] = w.reshape(target.shape)
        for part, values in zip(targets, n, strict=True):
            part[...] = values
