"""What each kernel of the contract costs, and the shapes that a reader wants to know of it, from its arguments.

Bytes are compulsory traffic: inputs, outputs and saved maps once each, see `octsod.ops.Cost`. What depends on numbers,
such as whether gradients have to be clipped, counts with the least that it may be.
"""

import functools
import math
import operator
from collections.abc import Callable

import numpy as np

from .. import ops, optim
from ..backend import kernels
from ..ops import Cost

Described = tuple[str, Cost | None]


def _bytes(*arrays):
    """Of all arrays, None for a missing one; of one that is given twice, once."""
    return sum({id(a): math.prod(a.shape) * a.dtype.itemsize for a in arrays if a is not None}.values())


def _cost(flops, *arrays):
    return Cost(int(flops), _bytes(*arrays))


def _shape(array):
    """Without the first axis, which is the batch, unless it is the only one."""
    return "x".join(map(str, array.shape[1:] or array.shape or (1,)))


def _maps(*values):
    """Channels and height of maps: 10@224+10@112."""
    return "+".join(f"{v.shape[1]}@{v.shape[2]}" for v in values if v is not None)


# Convolutions --------------------------------------------------------------------------------------------------------


def _convolution(inputs, weight, outputs, *notes):
    kernel_size = "x".join(map(str, weight.shape[2:]))
    return ", ".join([f"{_maps(*inputs)} -> {_maps(*outputs)}", kernel_size, *filter(None, notes)])


def _without(cost, forward, x, weight, grad_x, grad_weight):
    """A backward's cost less that of the gradients which are not wanted: each is as much arithmetic as the forward, and
    is written and needs the other operand read."""
    if grad_x is None:
        cost = Cost(cost.flops - forward.flops, cost.bytes - _bytes(x) - _bytes(weight))
    if grad_weight is None:
        cost = Cost(cost.flops - forward.flops, cost.bytes - _bytes(weight) - _bytes(x))
    return Cost(max(cost.flops, 0), max(cost.bytes, 0))


def _target(*targets):
    """For a backward kernel: where the inputs' gradients go, if not into arrays of their own."""
    if not any(targets):
        return "weight only"
    return "added" if any(target is not None and target.accumulate for target in targets) else ""


def _octave(inputs, weight, outputs, stride, targets=None):
    details = _convolution(inputs, weight, outputs, "stride 2" if stride == 2 else "", targets and _target(*targets))
    cost = ops.OctaveConv2d.cost(
        weight.shape, *(None if x is None else x.shape for x in inputs),
        out_channels=[0 if y is None else y.shape[1] for y in outputs], stride=stride, itemsize=weight.dtype.itemsize,
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
        ops.DepthwiseChain.cost(x.shape, weight.shape, len(own), weight.dtype.itemsize, backward, cached)
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
    used = "dilations " + " ".join(str(d) for weight, d in zip(weights, dilations, strict=True) if weight.shape[0])
    shapes = [weight.shape for weight in weights]
    cost = ops.DilatedConv2d.cost(x.shape, *shapes, itemsize=weights[0].dtype.itemsize, backward=backward)
    return _convolution([x], weights[0], [out], used, *notes), cost


def _dilated_conv2d(x, weights, dilations, out, *_):
    return _dilated(x, weights, dilations, out)


def _dilated_conv2d_backward(grad, x, weights, dilations, grad_x, *_):
    title, cost = _dilated(x, weights, dilations, grad, _target(grad_x), backward=True)
    _, forward = _dilated(x, weights, dilations, grad)
    if grad_x is None:
        cost = Cost(cost.flops - forward.flops, cost.bytes - _bytes(x.raw, *weights))
    return title, cost


def _conv2d(x, weight, bias, out, stride, padding, dilation, *_):
    shape = None if bias is None else bias.shape
    return _convolution([x], weight, [out]), ops.Conv2d.cost(
        x.shape, weight.shape, shape, stride, padding, dilation, weight.dtype.itemsize
    )


def _conv2d_backward(grad, x, weight, stride, padding, dilation, grad_x, grad_weight, grad_bias=None):
    shape = None if grad_bias is None else grad_bias.shape
    settings = stride, padding, dilation, weight.dtype.itemsize
    whole = ops.Conv2d.cost(x.shape, weight.shape, shape, *settings, backward=True)
    forward = ops.Conv2d.cost(x.shape, weight.shape, None, *settings)
    title = _convolution([x], weight, [grad], _target(grad_x))
    return title, _without(whole, forward, x.raw, weight, grad_x, grad_weight)


def _depthwise_conv2d(x, weight, out, stride, padding, dilation, *_):
    cost = ops.DepthwiseConv2d.cost(x.shape, weight.shape, stride, padding, dilation, weight.dtype.itemsize)
    return _convolution([x], weight, [out]), cost


def _depthwise_conv2d_backward(grad, x, weight, stride, padding, dilation, grad_x, grad_weight):
    settings = stride, padding, dilation, weight.dtype.itemsize
    whole = ops.DepthwiseConv2d.cost(x.shape, weight.shape, *settings, backward=True)
    forward = ops.DepthwiseConv2d.cost(x.shape, weight.shape, *settings)
    title = _convolution([x], weight, [grad], _target(grad_x))
    return title, _without(whole, forward, x.raw, weight, grad_x, grad_weight)


def _upsample_bilinear(x, out):
    return f"{_maps(x)} -> {_maps(out)}", ops.UpsampleBilinear.cost(x.shape, out.shape, x.dtype.itemsize)


def _upsample_bilinear_backward(grad, grad_x):
    return f"{_maps(grad_x)} -> {_maps(grad)}", ops.UpsampleBilinear.cost(
        grad_x.shape, grad.shape, grad.dtype.itemsize, backward=True
    )


def _loss(logits, *_):
    return _shape(logits), ops.BinaryCrossEntropyWithLogits.cost(logits.shape, logits.dtype.itemsize)


def _loss_backward(grad, logits, *_):
    return _shape(logits), ops.BinaryCrossEntropyWithLogits.cost(logits.shape, logits.dtype.itemsize, backward=True)


def _overlap(logits, *_):
    return _shape(logits), ops.OverlapLoss.cost(logits.shape, logits.dtype.itemsize)


def _overlap_backward(grad, logits, *_):
    return _shape(logits), ops.OverlapLoss.cost(logits.shape, logits.dtype.itemsize, backward=True)


def _norm(images, coefficients, backward=False):
    channels = [by.shape[1] for by in coefficients]
    cost = ops.BatchNormPReLU.cost(*zip(images, channels, strict=True), backward=backward)
    return f"{'+'.join(map(str, channels))} channels", cost


def _batch_norm(moments, *others):
    return _norm([0 if m is None else m.shape[0] for m in moments], others[-1])


def _batch_norm_backward(sums, *others):
    return _norm([s.shape[0] for s in sums], others[-2], backward=True)


# Arrays as a whole --------------------------------------------------------------------------------------------------


def _moved(*places):
    """A kernel that moves what its arguments at `places` hold, arrays or sequences of them, and computes nothing; the
    last of them is its output."""

    def describe(*arguments):
        given = [arguments[place] for place in places]
        arrays = [array for item in given for array in (item if isinstance(item, (list, tuple)) else [item])]
        return _shape(arrays[-1]), _cost(0, *arrays)

    return describe


def _strided_slice(x, starts, steps, out):
    return _shape(out), Cost(0, 2 * _bytes(out))  # what is left out need not be read


# Element by element, sums and products -------------------------------------------------------------------------------


def _elementwise(flops, *places):
    """A kernel with so many operations per element of its last argument at `places`, its output; the others there are
    its inputs. Arrays that are read and written count twice."""

    def describe(*arguments):
        *inputs, out = (arguments[place] for place in places)
        return _shape(out), Cost(flops * math.prod(out.shape), _bytes(*inputs) + _bytes(out))

    return describe


def _power(a, exponent, out):
    return _shape(out), Cost(math.prod(out.shape), _bytes(a) + _bytes(out))


def _along_middle(x, out):
    return f"{_shape(x)} -> {_shape(out)}", _cost(math.prod(x.shape), x, out)


def _max_middle_backward(grad, x, grad_x):
    return _shape(x), _cost(math.prod(x.shape), grad, x, grad_x)


def _matmul(a, b, out, transpose_a=False, transpose_b=False):
    depth = a.shape[1] if transpose_a else a.shape[2]
    return f"{_shape(a)} by {_shape(b)}", _cost(2 * math.prod(out.shape) * depth, a, b, out)


# Losses --------------------------------------------------------------------------------------------------------------


def _log_softmax(x, out):
    return _shape(x), Cost(ops.LogSoftmax.cost(x.shape).flops, _bytes(x) + _bytes(out))


def _log_softmax_backward(grad, out, grad_x):
    flops = ops.LogSoftmax.cost(out.shape, backward=True).flops
    return _shape(out), Cost(flops, _bytes(grad, out) + _bytes(grad_x))


def _cross_entropy(logits, *_):
    return _shape(logits), ops.CrossEntropy.cost(logits.shape, logits.dtype.itemsize)


def _cross_entropy_backward(grad, logits, *_):
    return _shape(logits), ops.CrossEntropy.cost(logits.shape, logits.dtype.itemsize, backward=True)


# Normalisation -------------------------------------------------------------------------------------------------------


def _activate(x, out):
    return _maps(out), _cost(0 if x.is_raw else 4 * math.prod(out.shape), x.raw, out)


def _differentiate(grad, out):
    plain = grad.coefficients is None
    return _maps(out), _cost(0 if plain else 6 * math.prod(out.shape), grad.g, None if plain else grad.raw, out)


def _channel_moments(x, moments):
    return _maps(x), _cost(4 * math.prod(x.shape), x, moments)  # a difference, a square, two sums


def _gradient_sums(g, x, sums):
    return _maps(x), _cost(9 * math.prod(g.shape), g, x.raw, sums)  # u, e, and three sums


def _prelu_coefficients(slope, out):
    return f"{slope.shape[0]} channels", _cost(0, slope, out)


def _prelu_backward(sums, slope, out, grad_slope):
    return f"{slope.shape[0]} channels", _cost(sums.shape[0] * slope.shape[0], sums, slope, out, grad_slope)


# Pooling, pictures ---------------------------------------------------------------------------------------------------


def _pool(op):
    def describe(x, out, kernel_size, *_):
        cost = op.cost(x.shape, out.shape, kernel_size, x.dtype.itemsize)
        return f"{_maps(x)} -> {_maps(out)}, {kernel_size}x{kernel_size}", cost

    return describe


def _max_pool2d_backward(grad, x, grad_x, kernel_size, *_):
    cost = ops.MaxPool2d.cost(x.shape, grad.shape, kernel_size, x.dtype.itemsize, backward=True)
    return f"{_maps(grad_x)} -> {_maps(grad)}, {kernel_size}x{kernel_size}", cost


def _avg_pool2d_backward(grad, grad_x, kernel_size, *_):
    cost = ops.AvgPool2d.cost(grad_x.shape, grad.shape, kernel_size, grad.dtype.itemsize, backward=True)
    return f"{_maps(grad_x)} -> {_maps(grad)}, {kernel_size}x{kernel_size}", cost


def _resize_picture(picture, scale, shift, out):
    title = f"{picture.shape[2]}@{picture.shape[0]} -> {_shape(out)}"
    return title, _cost(10 * math.prod(out.shape), picture, scale, shift, out)


def _prepare_pictures(kept, fresh, table, mean, deviation, x, y):
    """As many operations per output as of `resize_picture`. Only the table knows how much of the pictures is read,
    which is on the device: nothing counts, a picture may be a single pixel."""
    outputs = math.prod(x.shape) + (0 if y is None else math.prod(y.shape))
    return _shape(x), _cost(10 * outputs, table, x, y)


def _csnet(frozen, x, out):
    """Pictures, logits and weights: a backend may keep all maps in a cache. Operations are those of the convolutions,
    norms and PReLUs, of which the authors' counts tell."""
    from ..prune import complexity

    count = complexity(frozen.configuration, tuple(x.shape[2:]))
    weights = count.parameters * x.dtype.itemsize
    return _shape(x), Cost(2 * count.macs * x.shape[0], _bytes(x, out) + weights)


# What ends a training step -------------------------------------------------------------------------------------------


def _covered(flat, ranges):
    """How many elements of a flat array the ranges name; all, where they lie on a device."""
    if isinstance(ranges, np.ndarray):
        return int((ranges[:, 1] - ranges[:, 0]).sum())
    return math.prod(flat.shape)


def _adam(parameter, gradient, first, second, ranges, *_):
    count = _covered(parameter, ranges)
    return f"{count} numbers", optim.Adam.cost((count,), parameter.dtype.itemsize)


def _sgd(parameter, gradient, velocity, ranges, *_):
    """Read and written: parameter and velocity; read: gradient."""
    count = _covered(parameter, ranges)
    return f"{count} numbers", Cost(7 * count, 5 * count * parameter.dtype.itemsize)


def _over_gradients(flops):
    """A kernel that at least reads all gradients, with so many operations for each."""

    def describe(*arguments):
        gradients = next(a for a in arguments if isinstance(a, (list, tuple)) and (not a or isinstance(a[0], tuple)))
        counts = [(_covered(*pair), pair[0].dtype.itemsize) for pair in gradients]
        numbers = sum(count for count, _ in counts)
        return f"{numbers} numbers", Cost(flops * numbers, sum(count * size for count, size in counts))

    return describe


def _record_step(terms, gradients, ring, state):
    return _over_gradients(1)(gradients)


def _restore_if_halted(arrays, saved, state):
    return f"{math.prod(saved.shape)} numbers", _cost(0, state)  # nearly always, training goes on


def _decay_scales(metric, sums, pixels, scales, factors, strength, gradients, penalty):
    channels = sum(s.shape[0] for s in scales)
    flops = sum(2 * math.prod(s.shape) for s in sums) + 5 * channels
    return f"{channels} channels", Cost(flops, _bytes(*sums, *scales) + 2 * _bytes(*gradients) + _bytes(penalty))


def _count_step(state):
    return "", _cost(1, state)


def _average(sources, targets, weight, state):
    numbers = sum(math.prod(target.shape) for target in targets)
    return f"{numbers} numbers", Cost(3 * numbers, _bytes(*sources) + 2 * _bytes(*targets))


DESCRIPTIONS: dict[str, Callable[..., Described]] = {
    "activate": _activate,
    "adam": _adam,
    "add": _elementwise(1, 0, 1, 2),
    "average": _average,
    "avg_pool2d": _pool(ops.AvgPool2d),
    "avg_pool2d_backward": _avg_pool2d_backward,
    "batch_norm": _batch_norm,
    "batch_norm_backward": _batch_norm_backward,
    "binary_cross_entropy_with_logits": _loss,
    "binary_cross_entropy_with_logits_backward": _loss_backward,
    "channel_moments": _channel_moments,
    "clip_gradients": _over_gradients(2),
    "concatenate": _moved(0, 1),
    "conv2d": _conv2d,
    "conv2d_backward": _conv2d_backward,
    "copy": _moved(0, 1),
    "count_step": _count_step,
    "cross_entropy": _cross_entropy,
    "cross_entropy_backward": _cross_entropy_backward,
    "csnet": _csnet,
    "decay_scales": _decay_scales,
    "depthwise_chain": _depthwise_chain,
    "depthwise_chain_backward": _depthwise_chain_backward,
    "depthwise_conv2d": _depthwise_conv2d,
    "depthwise_conv2d_backward": _depthwise_conv2d_backward,
    "differentiate": _differentiate,
    "dilated_conv2d": _dilated_conv2d,
    "dilated_conv2d_backward": _dilated_conv2d_backward,
    "divide": _elementwise(1, 0, 1, 2),
    "dropout": _elementwise(1, 0, 3),
    "exp": _elementwise(1, 0, 1),
    "fill": _moved(0),
    "gather": _moved(0, 1),
    "gradient_sums": _gradient_sums,
    "log": _elementwise(1, 0, 1),
    "log_softmax": _log_softmax,
    "log_softmax_backward": _log_softmax_backward,
    "matmul": _matmul,
    "max_middle": _along_middle,
    "max_middle_backward": _max_middle_backward,
    "max_pool2d": _pool(ops.MaxPool2d),
    "max_pool2d_backward": _max_pool2d_backward,
    "multiply": _elementwise(1, 0, 1, 2),
    "octave_conv2d": _octave_conv2d,
    "octave_conv2d_backward": _octave_conv2d_backward,
    "overlap_loss": _overlap,
    "overlap_loss_backward": _overlap_backward,
    "power": _power,
    "prelu_backward": _prelu_backward,
    "prelu_coefficients": _prelu_coefficients,
    "prepare_pictures": _prepare_pictures,
    "record_step": _record_step,
    "relu": _elementwise(1, 0, 1),
    "relu_backward": _elementwise(1, 0, 1, 2),
    "resize_picture": _resize_picture,
    "restore_if_halted": _restore_if_halted,
    "sgd": _sgd,
    "sigmoid": _elementwise(4, 0, 1),
    "sigmoid_backward": _elementwise(4, 0, 1, 2),
    "sqrt": _elementwise(1, 0, 1),
    "strided_slice": _strided_slice,
    "strided_slice_backward": _moved(0, 3),
    "subtract": _elementwise(1, 0, 1, 2),
    "sum_middle": _along_middle,
    "transpose": _moved(0, 2),
    "upsample_bilinear": _upsample_bilinear,
    "upsample_bilinear_backward": _upsample_bilinear_backward,
}
