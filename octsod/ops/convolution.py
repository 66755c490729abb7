"""Convolutions over one scale: dense, depthwise, parallel dilated. Maps are NCHW, weights OIHW."""

from collections.abc import Sequence

from ..autograd import Op
from ..backend import empty, kernels
from ..backend.contract import Array
from ..backend.deferred import Deferred, DeferredGradient
from ..checks import (
    require,
    require_channels,
    require_dtype,
    require_given,
    require_integer,
    require_map,
    require_number,
)
from .cost import Cost, Shape, elements


def output_size(
    op: str, x_shape: Shape, kernel_size: Sequence[int], stride: int, padding: int, dilation: int
) -> tuple[int, ...]:
    """(H', W') of a convolution. Raises ValueError, naming `op`, if no pixel is left."""
    size = []
    for n, k in zip(x_shape[2:], kernel_size, strict=True):
        reach = dilation * (k - 1) + 1
        require(
            n + 2 * padding >= reach and n > 0, op, "x",
            f"has size {x_shape[2]}x{x_shape[3]} (padding {padding})",
            f"at least {reach} pixels for a kernel of {k} with dilation {dilation}",
        )  # fmt: skip
        size.append((n + 2 * padding - reach) // stride + 1)
    return tuple(size)


def result(out: Array, moments: Array | None) -> Array | Deferred:
    """A raw map with its moments, if there are any; else the plain array."""
    return out if moments is None else Deferred(out, moments=moments)


def moments_for(out_shape: Shape, wanted: bool) -> Array | None:
    """An array for the moments of an output, or None."""
    return empty((out_shape[0], 3, out_shape[1]), "float64") if wanted else None


def _settings(op, stride, padding, dilation):
    return (
        require_integer(stride, op, "stride", 1),
        require_integer(padding, op, "padding", 0),
        require_integer(dilation, op, "dilation", 1),
    )


class Conv2d(Op):
    """x (N, C, H, W), weight (O, C, kh, kw), bias (O,) or None -> (N, O, H', W')."""

    deferred = True

    @staticmethod
    def forward(ctx, x, weight, bias, stride=1, padding=0, dilation=1, moments=False):
        require_map(x, "conv2d")
        require_given(weight, "conv2d", "weight")
        x = Deferred.of(x)
        require(weight.ndim == 4, "conv2d", "weight", f"has shape {weight.shape}", "four dimensions (O, C, kh, kw)")
        require_dtype(weight, x, "conv2d", "weight")
        require(
            weight.shape[1] == x.shape[1], "conv2d", "weight", f"has {weight.shape[1]} input channels",
            f"{x.shape[1]}, the channels of `x`",
        )  # fmt: skip
        require(min(weight.shape[2:]) > 0, "conv2d", "weight", f"has shape {weight.shape}", "a kernel of at least 1x1")
        if bias is not None:
            require_channels(bias, weight.shape[0], "conv2d", "bias", "weight")
            require_dtype(bias, x, "conv2d", "bias")
        ctx.settings = settings = _settings("conv2d", stride, padding, dilation)
        size = output_size("conv2d", x.shape, weight.shape[2:], *settings)
        out = empty((x.shape[0], weight.shape[0], *size), x.dtype)
        sums = moments_for(out.shape, moments)
        kernels.conv2d(x, weight, bias, out, *settings, sums)
        ctx.save_for_backward(x, weight)
        return result(out, sums)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved
        grad = DeferredGradient.of(grad)
        grad_x = ctx.target(0, grad)
        grad_weight, grad_bias = ctx.array(1), ctx.array(2)
        kernels.conv2d_backward(grad, x, weight, *ctx.settings, grad_x, grad_weight, grad_bias)
        return grad_x, grad_weight, grad_bias

    @staticmethod
    def cost(
        x: Shape, weight: Shape, bias: Shape | None = None, stride: int = 1, padding: int = 0, dilation: int = 1,
        itemsize: int = 4, backward: bool = False,
    ) -> Cost:  # fmt: skip
        """From the shapes of x, weight and bias."""
        out = (x[0], weight[0], *output_size("conv2d", x, weight[2:], stride, padding, dilation))
        return _cost(x, weight, bias, out, elements(weight[1:]), itemsize, backward)


class DepthwiseConv2d(Op):
    """x (N, C, H, W), weight (C, 1, kh, kw) -> (N, C, H', W'), each channel with a kernel of its own."""

    deferred = True

    @staticmethod
    def forward(ctx, x, weight, stride=1, padding=0, dilation=1, moments=False):
        op = "depthwise_conv2d"
        require_map(x, op)
        require_given(weight, op, "weight")
        x = Deferred.of(x)
        require(
            weight.ndim == 4 and weight.shape[:2] == (x.shape[1], 1) and min(weight.shape[2:]) > 0, op, "weight",
            f"has shape {weight.shape}", f"({x.shape[1]}, 1, kh, kw), a kernel per channel of `x`",
        )  # fmt: skip
        require_dtype(weight, x, op, "weight")
        ctx.settings = settings = _settings(op, stride, padding, dilation)
        out = empty((*x.shape[:2], *output_size(op, x.shape, weight.shape[2:], *settings)), x.dtype)
        sums = moments_for(out.shape, moments)
        kernels.depthwise_conv2d(x, weight, out, *settings, sums)
        ctx.save_for_backward(x, weight)
        return result(out, sums)

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved
        grad = DeferredGradient.of(grad)
        grad_x = ctx.target(0, grad)
        grad_weight = ctx.array(1)
        kernels.depthwise_conv2d_backward(grad, x, weight, *ctx.settings, grad_x, grad_weight)
        return grad_x, grad_weight

    @staticmethod
    def cost(
        x: Shape, weight: Shape, stride: int = 1, padding: int = 0, dilation: int = 1, itemsize: int = 4,
        backward: bool = False,
    ) -> Cost:  # fmt: skip
        """From the shapes of x and weight."""
        out = (*x[:2], *output_size("depthwise_conv2d", x, weight[2:], stride, padding, dilation))
        return _cost(x, weight, None, out, elements(weight[2:]), itemsize, backward)


class DilatedConv2d(Op):
    """x (N, C, H, W), one weight (O_i, C, k, k) per dilation -> (N, sum O_i, H, W), concatenated in that order.

    Kernels are square and odd; each is padded to keep the size. A weight may have no output channels. weight_scale: a
    factor on all weights. (The parallel dilated convolutions of section 3.1's multi-scale block: csnet.md, section 2,
    item 2.)
    """

    deferred = True

    @staticmethod
    def forward(ctx, x, *weights, dilations, weight_scale=1.0, moments=False):
        op = "dilated_conv2d"
        require_map(x, op)
        x = Deferred.of(x)
        require(
            len(weights) == len(dilations) > 0, op, "dilations", f"has {len(dilations)} entries",
            f"{max(len(weights), 1)}, one per weight",
        )  # fmt: skip
        for weight in weights:
            require_given(weight, op, "weight")
            require(
                weight.ndim == 4 and weight.shape[1] == x.shape[1] and weight.shape[2] == weight.shape[3]
                and weight.shape[2] % 2 == 1 and weight.shape[2] == weights[0].shape[2],
                op, "weight", f"has shape {weight.shape}", f"(O, {x.shape[1]}, k, k) with one odd k for all dilations",
            )  # fmt: skip
            require_dtype(weight, x, op, "weight")
        dilations = [require_integer(d, op, "dilations", 1) for d in dilations]
        ctx.dilations, ctx.weight_scale = dilations, require_number(weight_scale, op, "weight_scale")
        channels = sum(weight.shape[0] for weight in weights)
        out = empty((x.shape[0], channels, *x.shape[2:]), x.dtype)
        sums = moments_for(out.shape, moments)
        kernels.dilated_conv2d(x, weights, dilations, out, sums, ctx.weight_scale)
        ctx.save_for_backward(x, weights)
        return result(out, sums)

    @staticmethod
    def backward(ctx, grad):
        x, weights = ctx.saved
        grad = DeferredGradient.of(grad)
        grad_x = ctx.target(0, grad)
        grad_weights = [ctx.array(1 + i) for i in range(len(weights))]
        kernels.dilated_conv2d_backward(
            grad, x, weights, ctx.dilations, grad_x, grad_weights, ctx.weight_scale
        )
        return grad_x, *grad_weights

    @staticmethod
    def cost(x: Shape, *weights: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """From the shapes of x and the weights."""
        joined = (sum(w[0] for w in weights), *weights[0][1:])
        return _cost(x, joined, None, (x[0], joined[0], *x[2:]), elements(joined[1:]), itemsize, backward)


def _cost(x, weight, bias, out, depth, itemsize, backward):
    """Forward: a product of `depth` per output, x read, out written. Backward: two such products; the output's
    gradient and raw map and x are read, x's gradient is written."""
    flops = 2 * elements(out) * depth
    if backward:
        return Cost(2 * flops, itemsize * elements(out, out, x, x, weight, weight, bias))
    return Cost(flops + elements(bias and out), itemsize * elements(x, weight, bias, out))
