"""Launches of kernels: which of them are equal, their titles and costs, and copies of their arguments."""

import copy
import functools
import operator

import numpy as np

from octsod import ops, optim
from octsod.backend import kernels, memory
from octsod.backend.deferred import ActivationGradient, ActivationSums, Deferred, DeferredGradient, GradientTarget


def signature(value):
    """The parts of a launch's arguments that its time depends on: shapes and settings. Equal for equal work."""
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.str
    if isinstance(value, Deferred):
        sums = value.activation_sums
        return "map", signature(value.raw), sums is not None and sums.values is None
    if isinstance(value, DeferredGradient):
        return "gradient", signature(value.g), value.g is value.raw
    if isinstance(value, GradientTarget):
        return "target", signature(value.array), value.accumulate, value.gradient_sums is not None
    if isinstance(value, ActivationGradient):
        return "of activation", signature(value.array), value.gradient_sums is not None
    if isinstance(value, (list, tuple)):
        return tuple(signature(item) for item in value)
    return float if isinstance(value, float) else value


def arrays_of(value, path=""):
    """(path, array) of every array in a launch's arguments; an array may appear more than once."""
    if isinstance(value, np.ndarray):
        yield path, value
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from arrays_of(item, f"{path}[{i}]")
    elif isinstance(value, (ActivationGradient, ActivationSums, Deferred, DeferredGradient, GradientTarget)):
        for name in value.__slots__:
            yield from arrays_of(getattr(value, name), f"{path}.{name}")


def private(arguments):
    """A copy of a launch's arguments. Its arrays are placed as in a step: in the pool, aligned. What was one array is
    one array again, since kernels may overwrite what they have read."""
    memo = {}
    for _, array in arrays_of(arguments):
        if id(array) not in memo:
            memo[id(array)] = memory.empty(array.shape, array.dtype)
            memo[id(array)][...] = array
    return copy.deepcopy(arguments, memo)


def described(name, arguments):
    """(title, cost) of a launch. The title gives the shapes that a reader wants to know, but not the batch. The cost is
    that of the kernel's op, or None if the kernel is only part of an op."""
    if name in _DESCRIPTIONS:
        details, cost = _DESCRIPTIONS[name](*arguments)
    else:
        details, cost = "".join(_shape(array) for _, array in arrays_of(arguments[:1])), None
    return f"{name} {details}".strip(), cost


def _shape(array):
    return "x".join(map(str, array.shape[1:] or array.shape))


def _maps(*values):
    """Channels and height of maps: 10@224+10@112."""
    return "+".join(f"{v.shape[1]}@{v.shape[2]}" for v in values if v is not None)


def _convolution(inputs, weight, outputs, *notes):
    kernel_size = "x".join(map(str, weight.shape[2:]))
    return ", ".join([f"{_maps(*inputs)} -> {_maps(*outputs)}", kernel_size, *filter(None, notes)])


def _target(*targets):
    """For a backward kernel: where the inputs' gradients go, if not into arrays of their own."""
    if not any(targets):
        return "weight only"
    return "added" if any(target is not None and target.accumulate for target in targets) else ""


def _octave(inputs, weight, outputs, stride, targets=None):
    details = _convolution(inputs, weight, outputs, "stride 2" if stride == 2 else "", targets and _target(*targets))
    cost = ops.OctaveConv2d.cost(
        weight.shape, *(None if x is None else x.shape for x in inputs),
        out_channels=[0 if y is None else y.shape[1] for y in outputs], stride=stride, itemsize=weight.itemsize,
        backward=targets is not None, grad_inputs=targets is None or any(targets),
    )  # fmt: skip
    return details, cost


def _octave_conv2d(inputs, weight, outputs, stride, *_):
    return _octave(inputs, weight, outputs, stride)


def _octave_conv2d_backward(grads, inputs, weight, stride, grad_inputs, _):
    return _octave(inputs, weight, grads, stride, grad_inputs)


def _chain(inputs, layers, *notes, backward=False):
    weights, cached = [own[0][0] for own in layers], "depthwise_chain" in kernels.CACHED
    costs = [
        ops.DepthwiseChain.cost(x.shape, weight.shape, len(own), weight.itemsize, backward, cached)
        for x, own, weight in zip(inputs, layers, weights, strict=True)
    ]
    size = "x".join(map(str, weights[0].shape[2:]))
    details = [_maps(*inputs), f"{len(layers[0])} layers", size, *filter(None, notes)]
    return ", ".join(details), functools.reduce(operator.add, costs)


def _depthwise_chain(inputs, layers, *_):
    return _chain(inputs, layers)


def _depthwise_chain_backward(grads, inputs, layers, *others):
    added = "with sums" if any(grad.gradient_sums is None for grad in grads) else ""
    return _chain(inputs, layers, _target(*others[-2]), added, backward=True)


def _dilated(x, weights, dilations, out, *notes, backward=False):
    used = "dilations " + " ".join(str(d) for weight, d in zip(weights, dilations, strict=True) if len(weight))
    shapes = [weight.shape for weight in weights]
    cost = ops.DilatedConv2d.cost(x.shape, *shapes, itemsize=weights[0].itemsize, backward=backward)
    return _convolution([x], weights[0], [out], used, *notes), cost


def _dilated_conv2d(x, weights, dilations, out, *_):
    return _dilated(x, weights, dilations, out)


def _dilated_conv2d_backward(grad, x, weights, dilations, grad_x, *_):
    return _dilated(x, weights, dilations, grad, _target(grad_x), backward=True)


def _conv2d(x, weight, bias, out, stride, padding, dilation, *_):
    shape = None if bias is None else bias.shape
    return _convolution([x], weight, [out]), ops.Conv2d.cost(
        x.shape, weight.shape, shape, stride, padding, dilation, weight.itemsize
    )


def _conv2d_backward(grad, x, weight, stride, padding, dilation, grad_x, grad_weight, grad_bias=None):
    shape = None if grad_bias is None else grad_bias.shape
    return _convolution([x], weight, [grad], _target(grad_x)), ops.Conv2d.cost(
        x.shape, weight.shape, shape, stride, padding, dilation, weight.itemsize, backward=True
    )


def _upsample_bilinear(x, out):
    return f"{_maps(x)} -> {_maps(out)}", ops.UpsampleBilinear.cost(x.shape, out.shape, x.itemsize)


def _upsample_bilinear_backward(grad, grad_x):
    return f"{_maps(grad_x)} -> {_maps(grad)}", ops.UpsampleBilinear.cost(
        grad_x.shape, grad.shape, grad.itemsize, backward=True
    )


def _loss(logits, *_):
    return _shape(logits), ops.BinaryCrossEntropyWithLogits.cost(logits.shape, logits.itemsize)


def _loss_backward(grad, logits, *_):
    return _shape(logits), ops.BinaryCrossEntropyWithLogits.cost(logits.shape, logits.itemsize, backward=True)


def _overlap(logits, *_):
    return _shape(logits), ops.OverlapLoss.cost(logits.shape, logits.itemsize)


def _overlap_backward(grad, logits, *_):
    return _shape(logits), ops.OverlapLoss.cost(logits.shape, logits.itemsize, backward=True)


def _multiply(a, b, out):
    return _shape(out), ops.Multiply.cost(a.shape, b.shape, out.itemsize)


def _adam(parameter, *_):
    return f"{parameter.size} numbers", optim.Adam.cost(parameter.shape, parameter.itemsize)


def _norm(images, coefficients, backward=False):
    channels = [by.shape[1] for by in coefficients]
    cost = ops.BatchNormPReLU.cost(*zip(images, channels, strict=True), backward=backward)
    return f"{'+'.join(map(str, channels))} channels", cost


def _batch_norm(moments, *others):
    return _norm([0 if m is None else m.shape[0] for m in moments], others[-1])


def _batch_norm_backward(sums, *others):
    return _norm([s.shape[0] for s in sums], others[-2], backward=True)


_DESCRIPTIONS = {
    "adam": _adam,
    "batch_norm": _batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "binary_cross_entropy_with_logits": _loss,
    "binary_cross_entropy_with_logits_backward": _loss_backward,
    "conv2d": _conv2d,
    "conv2d_backward": _conv2d_backward,
    "depthwise_chain": _depthwise_chain,
    "depthwise_chain_backward": _depthwise_chain_backward,
    "dilated_conv2d": _dilated_conv2d,
    "dilated_conv2d_backward": _dilated_conv2d_backward,
    "multiply": _multiply,
    "octave_conv2d": _octave_conv2d,
    "octave_conv2d_backward": _octave_conv2d_backward,
    "overlap_loss": _overlap,
    "overlap_loss_backward": _overlap_backward,
    "upsample_bilinear": _upsample_bilinear,
    "upsample_bilinear_backward": _upsample_bilinear_backward,
}
