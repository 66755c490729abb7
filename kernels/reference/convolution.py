"""Convolutions: dense, depthwise, parallel dilated, and octave; chains of depthwise layers."""

import dataclasses

import numpy as np

from octsod.backend.deferred import Deferred, DeferredGradient, GradientTarget

from .normalization import (
    activation,
    batch_norm,
    batch_norm_backward,
    channel_moments,
    gradient,
    gradient_sums,
    read,
    write_gradient,
)
from .resampling import pool_average, pool_max, resize, unpool_average, unpool_max, unresize
from .windows import crop, pad, windows


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Cross-correlation of float64 maps with zero padding, and its two adjoints: one small product per kernel element.

    The subscripts are of n images, o output and c input channels, h rows and w columns.
    """

    stride: int = 1
    padding: int = 0
    dilation: int = 1
    product = "oc,nchw->nohw"
    input_product = "oc,nohw->nchw"
    weight_product = "nohw,nchw->oc"

    def _taps(self, kernel_size, out_size):
        kw = kernel_size[1]
        for number, window in enumerate(windows(kernel_size, out_size, self.stride, self.dilation)):
            yield (..., number // kw, number % kw), window

    def forward(self, a, weight, out_size):
        """a (N, C, H, W), weight (O, C, kh, kw) -> (N, O, *out_size)."""
        padded, y = pad(a, self.padding), np.zeros((a.shape[0], weight.shape[0], *out_size))
        for tap, window in self._taps(weight.shape[2:], out_size):
            y += np.einsum(self.product, weight[tap], padded[window], optimize=True)
        return y

    def input_gradient(self, d, weight, shape):
        """d (N, O, H', W'), the gradient of the output, -> that of the input, (N, C, H, W) = shape."""
        padded = pad(np.zeros(shape), self.padding)
        for tap, window in self._taps(weight.shape[2:], d.shape[2:]):
            padded[window] += np.einsum(self.input_product, weight[tap], d, optimize=True)
        return crop(padded, self.padding)

    def weight_gradient(self, d, a, shape):
        """The same -> that of the weight, (O, C, kh, kw) = shape."""
        padded, grad = pad(a, self.padding), np.zeros(shape)
        for tap, window in self._taps(shape[2:], d.shape[2:]):
            grad[tap] = np.einsum(self.weight_product, d, padded[window], optimize=True)
        return grad


class DepthwiseConvolution(Convolution):
    """Each channel with a kernel of its own; weight (C, 1, kh, kw), whose axis of length 1 is called z."""

    product = "cz,nchw->nchw"
    input_product = "cz,nchw->nchw"

    def weight_gradient(self, d, a, shape):
        padded, grad = pad(a, self.padding), np.zeros(shape)
        for tap, window in self._taps(shape[2:], d.shape[2:]):
            grad[tap] = (d * padded[window]).sum(axis=(0, 2, 3))[:, None]
        return grad


def _write(out, y, moments):
    """Round y into out; the moments are those of what was written."""
    out[...] = y
    if moments is not None:
        channel_moments(out, moments)


def conv2d(x, weight, bias, out, stride, padding, dilation, moments=None):
    y = Convolution(stride, padding, dilation).forward(read(x), weight, out.shape[2:])
    _write(out, y if bias is None else y + bias[:, None, None], moments)


def conv2d_backward(grad, x, weight, stride, padding, dilation, grad_x, grad_weight, grad_bias=None):
    _backward(Convolution(stride, padding, dilation), grad, x, weight, grad_x, grad_weight)
    if grad_bias is not None:
        grad_bias[...] = gradient(grad).sum(axis=(0, 2, 3))


def depthwise_conv2d(x, weight, out, stride, padding, dilation, moments=None):
    y = DepthwiseConvolution(stride, padding, dilation).forward(read(x), weight, out.shape[2:])
    _write(out, y, moments)


def depthwise_conv2d_backward(grad, x, weight, stride, padding, dilation, grad_x, grad_weight):
    _backward(DepthwiseConvolution(stride, padding, dilation), grad, x, weight, grad_x, grad_weight)


def depthwise_chain(
    inputs, layers, running, raw, coefficients, statistics, activation_sums, training, momentum, eps, weight_scale
):
    """Layer by layer, with the kernels of single layers."""
    for branch in zip(inputs, layers, running, raw, coefficients, statistics, activation_sums, strict=True):
        _chain(*branch, training, momentum, eps, weight_scale)


def _chain(
    x, layers, running, raw, coefficients, statistics, activation_sums, training, momentum, eps, weight_scale
):
    images, channels, height, width = x.shape
    for layer, ((weight, *norm), averages) in enumerate(zip(layers, running, strict=True)):
        if activation_sums[layer] is not None:
            activation_sums[layer][...] = activation(x).sum(axis=(2, 3))
        moments = np.zeros((images, 3, channels))
        scaled = weight * weight.dtype.type(weight_scale)
        depthwise_conv2d(x, scaled, raw[layer], 1, weight.shape[2] // 2, 1, moments)
        batch_norm(
            [moments if training else None], [height * width], [momentum], [eps], [norm], [averages],
            [statistics[layer]], [coefficients[layer]],
        )  # fmt: skip
        x = Deferred(raw[layer], coefficients[layer])


def depthwise_chain_backward(
    grads, inputs, layers, raw, coefficients, statistics, training, eps, weight_scale, between, grad_inputs,
    grad_layers,
):  # fmt: skip
    """Layer by layer, from the last one, with the kernels of single layers."""
    chains = zip(grads, inputs, layers, raw, coefficients, statistics, between, grad_inputs, grad_layers, strict=True)
    for chain in chains:
        _chain_backward(*chain, training, eps, weight_scale)


def _chain_backward(
    grad, x, layers, raw, coefficients, statistics, between, grad_x, grad_layers, training, eps, weight_scale
):
    images, channels, height, width = x.shape
    outputs = [Deferred(*pair) for pair in zip(raw, coefficients, strict=True)]
    g, sums = grad.array, grad.gradient_sums
    for layer in reversed(range(len(raw))):
        if sums is None:
            sums = np.zeros((images, 3, channels))
            gradient_sums(g, outputs[layer], sums)
        (weight, *norm), (grad_weight, *grad_norm) = layers[layer], grad_layers[layer]
        by = np.zeros((6, channels), raw.dtype)
        batch_norm_backward(
            [sums], [images * height * width], [training], [eps], [norm], [statistics[layer]], [by], [grad_norm]
        )
        before, target = (outputs[layer - 1], GradientTarget(between)) if layer else (x, grad_x)
        factor = weight.dtype.type(weight_scale)
        depthwise_conv2d_backward(
            DeferredGradient(g, raw[layer], by), before, weight * factor, 1, weight.shape[2] // 2, 1, target,
            grad_weight,
        )  # fmt: skip
        grad_weight *= factor
        g, sums = between, None


def _backward(convolution, grad, x, weight, grad_x, grad_weight):
    d = gradient(grad)
    if grad_weight is not None:
        grad_weight[...] = convolution.weight_gradient(d, activation(x), weight.shape)
    if grad_x is not None:
        write_gradient(grad_x, x, convolution.input_gradient(d, weight, x.shape))


def _same_size(weight, dilation=1):
    """The convolution with a square, odd kernel that keeps a map's size."""
    return Convolution(padding=dilation * (weight.shape[2] // 2), dilation=dilation)


def dilated_conv2d(x, weights, dilations, out, moments=None, weight_scale=1.0):
    a, weights = read(x), _scaled(weights, weight_scale)
    parts = [_same_size(w, d).forward(a, w, out.shape[2:]) for w, d in zip(weights, dilations, strict=True)]
    _write(out, np.concatenate(parts, axis=1), moments)


def _scaled(weights, scale):
    return [weight * weight.dtype.type(scale) for weight in weights]


def dilated_conv2d_backward(grad, x, weights, dilations, grad_x, grad_weights, weight_scale=1.0):
    d, a, weights = gradient(grad), activation(x), _scaled(weights, weight_scale)
    total, first = np.zeros(x.shape), 0
    for weight, dilation, target in zip(weights, dilations, grad_weights, strict=True):
        part, convolution = d[:, first : first + len(weight)], _same_size(weight, dilation)
        first += len(weight)
        if target is not None:
            target[...] = convolution.weight_gradient(part, a, weight.shape) * weight_scale
        if grad_x is not None:
            total += convolution.input_gradient(part, weight, x.shape)
    if grad_x is not None:
        write_gradient(grad_x, x, total)


def _slices(branches):
    """The channels of each branch (None for a missing one, which has none) in their concatenation."""
    slices, first = [], 0
    for branch in branches:
        end = first + (0 if branch is None else branch.shape[1])
        slices.append(slice(first, end))
        first = end
    return slices


def _paths(inputs, outputs, weight):
    """(i, j, block of the weight) for every input and output branch that are both there."""
    for j, rows in enumerate(_slices(outputs)):
        for i, columns in enumerate(_slices(inputs)):
            if inputs[i] is not None and outputs[j] is not None:
                yield i, j, (rows, columns)


def _halved(size, times):
    return size[0] >> times, size[1] >> times


def octave_conv2d(inputs, weight, outputs, stride, moments=None):
    maps = [None if x is None else read(x) for x in inputs]
    if stride == 2:
        maps = [None if a is None else pool_average(a, _halved(a.shape[2:], 1), 2, 2, 0) for a in maps]
    totals = [None if out is None else np.zeros(out.shape) for out in outputs]
    convolution = _same_size(weight)
    for i, j, block in _paths(inputs, outputs, weight):
        a, size = maps[i], totals[j].shape[2:]
        if i < j:
            a, _ = pool_max(a, size, 2 ** (j - i), 2 ** (j - i), 0)
        y = convolution.forward(a, weight[block], a.shape[2:])
        totals[j] += resize(y, size) if i > j else y
    for j, out in enumerate(outputs):
        if out is not None:
            _write(out, totals[j], None if moments is None else moments[j])


def octave_conv2d_backward(grads, inputs, weight, stride, grad_inputs, grad_weight):
    maps = [None if x is None else activation(x) for x in inputs]
    if stride == 2:
        maps = [None if a is None else pool_average(a, _halved(a.shape[2:], 1), 2, 2, 0) for a in maps]
    deltas = [None if grad is None else gradient(grad) for grad in grads]
    totals = [None if a is None else np.zeros(a.shape) for a in maps]
    convolution = _same_size(weight)
    if grad_weight is not None:
        grad_weight[...] = 0
    for i, j, block in _paths(inputs, grads, weight):
        a, d, size = maps[i], deltas[j], maps[i].shape[2:]
        if i < j:
            window = 2 ** (j - i)
            a, winner = pool_max(a, d.shape[2:], window, window, 0)
        elif i > j:
            d = unresize(d, size)
        if grad_weight is not None:
            grad_weight[block] = convolution.weight_gradient(d, a, weight[block].shape)
        g = convolution.input_gradient(d, weight[block], a.shape)
        totals[i] += unpool_max(g, winner, size, window, window, 0) if i < j else g
    for x, target, g in zip(inputs, grad_inputs, totals, strict=True):
        if target is not None:
            write_gradient(target, x, unpool_average(g, x.shape[2:], 2, 2, 0) if stride == 2 else g)
