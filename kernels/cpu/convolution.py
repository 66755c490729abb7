"""Launches the convolution kernels: from maps and weights to programs, scratch and threads.

x is a `Deferred` map, grad a `DeferredGradient`; grad_x is a `GradientTarget` or None, grad_weight and grad_bias are
arrays to write or None. Where `moments` (N, 3, O) is given, the output's channel moments are written there.
"""

import numpy as np

from octsod.backend.memory import empty

from . import dense, depthwise, octave, parallel
from .normalization import coefficients_of, gradient_sums
from .parallel import flat, flat_out


def conv2d(x, weight, bias, out, stride, padding, dilation, moments=None):
    """out (N, O, H', W') = x * weight (O, C, kh, kw) + bias (O,)."""
    shape = _shape(x, weight, ((0, weight.shape[0], dilation, padding),), stride, bias is not None)
    _dense_forward(shape, x, weight, bias, out, moments)


def conv2d_backward(grad, x, weight, stride, padding, dilation, grad_x, grad_weight, grad_bias=None):
    """Gradients of conv2d with respect to x, weight and bias."""
    shape = _shape(x, weight, ((0, weight.shape[0], dilation, padding),), stride, grad_bias is not None)
    _dense_backward(shape, grad, x, weight, grad_x, grad_weight, grad_bias)


def dilated_conv2d(x, weights, dilations, out, moments=None, weight_scale=1.0):
    """Parallel dilated convolutions, their outputs concatenated: each by weights[i] (O_i, C, k, k), dilated by
    dilations[i] and padded to keep the size."""
    weight, groups = _joined(weights, dilations, weight_scale)
    _dense_forward(_shape(x, weight, groups, 1, False), x, weight, None, out, moments)


def dilated_conv2d_backward(grad, x, weights, dilations, grad_x, grad_weights, weight_scale=1.0):
    """Gradients of dilated_conv2d with respect to x and to each of the weights; None for those that are not wanted."""
    weight, groups = _joined(weights, dilations, weight_scale)
    wanted = any(g is not None for g in grad_weights)
    grad_weight = empty(weight.shape, weight.dtype) if wanted else None
    _dense_backward(_shape(x, weight, groups, 1, False), grad, x, weight, grad_x, grad_weight, None)
    first = 0
    for part, target in zip(weights, grad_weights, strict=True):
        if target is not None:
            target[...] = grad_weight[first : first + len(part)] * weight.dtype.type(weight_scale)
        first += len(part)


def _joined(weights, dilations, scale):
    """The concatenated weights times `scale`, and (first, end, dilation, padding) of each that is not empty."""
    ends = np.cumsum([len(weight) for weight in weights]).tolist()
    groups = tuple(
        (end - len(weight), end, d, d * (weight.shape[2] // 2))
        for weight, end, d in zip(weights, ends, dilations, strict=True)
        if len(weight)
    )
    joined = np.concatenate(weights)
    return joined * joined.dtype.type(scale), groups


def _shape(x, weight, groups, stride, bias):
    _, channels, height, width = x.shape
    return dense.Convolution(
        weight.itemsize, channels, height, width, weight.shape[0], weight.shape[2:], stride, groups, bias
    )


def _dense_forward(shape, x, weight, bias, out, moments):
    if out.size == 0:
        return
    sums = x.claim_activation_sums()
    if moments is not None:
        moments[...] = 0
    program = dense.forward(shape, moments is not None, sums is not None)
    tensors = {
        "like": out, "x": flat(x.raw), "coef": coefficients_of(x), "out": out, "moments": moments,
        "activation_sums": _zeroed(sums),
    }  # fmt: skip
    program.execute(x.shape[0], tensors, weight, bias)


def _dense_backward(shape, grad, x, weight, grad_x, grad_weight, grad_bias):
    if grad_weight is not None:
        grad_weight[...] = 0
    if grad_bias is not None:
        grad_bias[...] = 0
    if not grad.g.size:
        _nothing(grad_x, x)
        return
    program = dense.backward(
        shape, grad_x is not None, grad_weight is not None or grad_bias is not None,
        grad_x is not None and grad_x.accumulate, grad_x is not None and grad_x.gradient_sums is not None,
    )  # fmt: skip
    tensors = {
        "like": weight, "x": flat(x.raw), "coef": coefficients_of(x), "g": flat(grad.g), "z": flat(grad.raw),
        "dcoef": coefficients_of(grad),
    }  # fmt: skip
    if grad_x is not None:
        tensors.update(gx=grad_x.array, gradient_sums=_zeroed(grad_x.gradient_sums))
    partials = program.execute(x.shape[0], tensors, weight)
    taps_of = shape.geometry.taps
    for k, partial in partials.items():
        first, end = shape.groups[k][:2]
        taps = [t.number for t in taps_of[k]]
        rows = partial.reshape(end - first, -1)
        depth = shape.channels * len(taps)
        if grad_weight is not None:
            block = grad_weight[first:end].reshape(end - first, shape.channels, weight.shape[2] * weight.shape[3])
            block[:, :, taps] = rows[:, :depth].reshape(end - first, shape.channels, len(taps))
        if grad_bias is not None:
            grad_bias[first:end] = rows[:, depth]


def octave_conv2d(inputs, weight, outputs, stride, moments=None):
    """outputs (None for a missing branch) = gOctConv of inputs (None likewise); weight (sum O, sum C, k, k).

    moments: one array (N, 3, O) or None per output.
    """
    moments = moments or [None] * len(outputs)
    shape, batch = _octave_shape(inputs, weight, outputs, stride)
    if not batch or not sum(shape.outs):
        return
    sums = [x.claim_activation_sums() if x is not None else None for x in inputs]
    program = octave.forward(shape, tuple(m is not None for m in moments), tuple(s is not None for s in sums))
    tensors = {"like": weight}
    for i, x in enumerate(inputs):
        if x is not None:
            tensors.update({f"x{i}": flat(x.raw), f"coef{i}": coefficients_of(x)})
            tensors[f"activation_sums{i}"] = _zeroed(sums[i])
    for j, out in enumerate(outputs):
        tensors.update({f"out{j}": out, f"moments{j}": _zeroed(moments[j])})
    program.execute(batch, tensors, weight)


def octave_conv2d_backward(grads, inputs, weight, stride, grad_inputs, grad_weight):
    """Gradients of octave_conv2d; grads: one per output, None for a missing branch; grad_inputs: Slots or None."""
    shape, batch = _octave_shape(inputs, weight, grads, stride)
    if grad_weight is not None:
        grad_weight[...] = 0
    if not batch or not sum(shape.outs):
        for slot, x in zip(grad_inputs, inputs, strict=True):
            _nothing(slot, x)
        return
    program = octave.backward(
        shape, grad_weight is not None, tuple(s is not None for s in grad_inputs),
        tuple(s is not None and s.accumulate for s in grad_inputs),
        tuple(s is not None and s.gradient_sums is not None for s in grad_inputs),
    )  # fmt: skip
    tensors = {"like": weight}
    for i, (x, slot) in enumerate(zip(inputs, grad_inputs, strict=True)):
        if x is not None:
            tensors.update({f"x{i}": flat(x.raw), f"coef{i}": coefficients_of(x)})
        if slot is not None:
            tensors.update({f"gx{i}": slot.array, f"gradient_sums{i}": _zeroed(slot.gradient_sums)})
    for j, grad in enumerate(grads):
        if grad is not None:
            tensors.update({f"g{j}": flat(grad.g), f"z{j}": flat(grad.raw), f"dcoef{j}": coefficients_of(grad)})
    partials = program.execute(batch, tensors, weight)
    size = weight.shape[2] * weight.shape[3]
    for (kind, level), partial in partials.items():
        first = sum(shape.outs[:level])
        rows = slice(first, first + shape.out_at(level)) if kind == "same" else slice(0, first)
        before = shape.before(level)
        columns = slice(0 if kind == "same" else before, before + shape.in_at(level))
        block = grad_weight[rows, columns]
        outs, ins = block.shape[:2]
        block += partial.reshape(outs, -1)[:, : ins * size].reshape(block.shape)


def _octave_shape(inputs, weight, outputs, stride):
    """The problem's key for the program cache, and the batch size."""
    level, first = next((i, x) for i, x in enumerate(inputs) if x is not None)
    batch, _, height, width = first.shape
    ins = tuple(0 if x is None else x.shape[1] for x in inputs)
    outs = tuple(0 if y is None else y.shape[1] for y in outputs)
    scale = 2 if stride == 2 else 1
    key = octave.Octave(
        weight.itemsize, ins, outs, (height << level) // scale, (width << level) // scale, weight.shape[2], stride == 2
    )
    return key, batch


def depthwise_conv2d(x, weight, out, stride, padding, dilation, moments=None):
    """out (N, C, H', W') = each channel of x * its kernel in weight (C, 1, kh, kw)."""
    batch, channels, height, width = x.shape
    out_height, out_width = out.shape[2:]
    if out.size == 0:
        return
    shape = depthwise.Shape(
        channels, height, width, out_height, out_width, *weight.shape[2:], stride, padding, dilation
    )
    sums = x.claim_activation_sums()
    planes = batch * channels
    slots = parallel.parts(planes)
    results = depthwise.Results(
        flat_out(out), np.empty(0) if moments is None else flat_out(moments), moments is not None,
        np.empty(planes) if sums is None else flat_out(sums),
    )  # fmt: skip
    parallel.run(
        depthwise.forward, planes, depthwise.Source(flat(x.raw), coefficients_of(x).reshape(-1)), flat(weight), results,
        shape, depthwise.scratch_for(shape, out.dtype, slots), slots=slots,
    )  # fmt: skip


def depthwise_conv2d_backward(grad, x, weight, stride, padding, dilation, grad_x, grad_weight):
    """Gradients of depthwise_conv2d with respect to x and weight, both from one pass."""
    batch, channels, height, width = x.shape
    out_height, out_width = grad.shape[2:]
    kh, kw = weight.shape[2:]
    if not (x.raw.size and grad.g.size):
        _nothing(grad_x, x)
        if grad_weight is not None:
            grad_weight[...] = 0
        return
    shape = depthwise.Shape(channels, height, width, out_height, out_width, kh, kw, stride, padding, dilation)
    planes = batch * channels
    slots = parallel.parts(planes)
    target = empty(x.shape, x.dtype) if grad_x is None else grad_x.array
    partials = empty((batch, channels * kh * kw), x.dtype)
    sums = None if grad_x is None else grad_x.gradient_sums
    gradients = depthwise.Gradients(
        flat_out(target), grad_x is not None and grad_x.accumulate, partials.reshape(-1),
        np.empty(0) if sums is None else flat_out(sums), sums is not None,
    )  # fmt: skip
    parallel.run(
        depthwise.backward, planes, depthwise.Gradient(flat(grad.g), flat(grad.raw), coefficients_of(grad).reshape(-1)),
        depthwise.Source(flat(x.raw), coefficients_of(x).reshape(-1)), flat(weight), gradients, shape,
        depthwise.scratch_for(shape, x.dtype, slots), slots=slots,
    )  # fmt: skip
    if grad_weight is not None:
        grad_weight[...] = parallel.sum_over_images(partials).reshape(grad_weight.shape)


def _zeroed(array):
    if array is not None:
        array[...] = 0
    return array


def _nothing(slot, x):
    """The gradient of an input x that no output depends on."""
    if slot is not None:
        if not slot.accumulate:
            slot.array[...] = 0
        if slot.gradient_sums is not None:
            gradient_sums(slot.array, x, slot.gradient_sums)
