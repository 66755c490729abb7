"""Batch norm and PReLU, deferred: they compute coefficients per channel, and whoever reads the map applies them.

The public `batch_norm` and `prelu` materialise the result. CSNet never does.
"""

from ..autograd import Op
from ..backend import empty, full, kernels, zeros
from ..backend.deferred import Deferred, DeferredGradient
from ..checks import require, require_channels, require_dtype, require_float, require_given, require_map, require_number
from .cost import Cost, Shape, elements


class BatchNormPReLU(Op):
    """`prelu((x - mean)/sqrt(variance + eps)*weight + bias, slope)` per channel, as a deferred map.

    x (N, C, H, W); weight, bias, slope (C,), slope None for no PReLU. In training, mean and (biased) variance are the
    batch's, and running_mean and running_var (C,), arrays or None, take in the share `momentum` of the mean and the
    unbiased variance, in place; otherwise they are used. activation_sums: an `ActivationSums` for the first reader to
    fill, or None.
    """

    deferred = True

    @staticmethod
    def forward(
        ctx, x, weight, bias, slope, running_mean=None, running_var=None, training=True, momentum=0.1, eps=1e-5,
        activation_sums=None,
    ):  # fmt: skip
        op = "batch_norm"
        require_map(x, op)
        require_given(weight, op, "weight")
        require_given(bias, op, "bias")
        x = Deferred.of(x)
        x = x if x.is_raw else Deferred(x.value())
        images, channels, height, width = x.shape
        for name, value in (("weight", weight), ("bias", bias), ("slope", slope)):
            if value is not None:
                require_channels(value, channels, op, name)
                require_dtype(value, x, op, name)
        for name, value in (("running_mean", running_mean), ("running_var", running_var)):
            require(value is not None or training, op, name, "is None", "running statistics outside of training")
            if value is not None:
                require_channels(value, channels, op, name)
                require_float(value, op, name)
        momentum, eps = require_number(momentum, op, "momentum"), require_number(eps, op, "eps", 0)
        ctx.has_slope = slope is not None
        if slope is None:
            slope = full((channels,), 1, x.dtype)
        ctx.count, ctx.training, ctx.eps = images * height * width, training, eps
        if training:
            require(ctx.count > 0, op, "x", f"has shape {x.shape}", "at least one value per channel in training")
            moments = x.moments
            if moments is None:
                moments = empty((images, 3, channels), "float64")
                kernels.channel_moments(x.raw, moments)
            mean, variance = zeros((channels,), "float64"), zeros((channels,), "float64")
            unused = zeros((channels,), "float64")
            kernels.batch_statistics(
                moments, height * width, momentum, mean, variance,
                unused if running_mean is None else running_mean, unused if running_var is None else running_var,
            )  # fmt: skip
        else:
            # Copies: the running ones may change before backward, which needs those that were used.
            mean, variance = empty((channels,), "float64"), empty((channels,), "float64")
            kernels.copy(running_mean, mean)
            kernels.copy(running_var, variance)
        coefficients = empty((4, channels), x.dtype)
        kernels.batch_norm_coefficients(mean, variance, eps, weight, bias, slope, coefficients)
        out = Deferred(x.raw, coefficients, activation_sums=activation_sums)
        ctx.save_for_backward(out, mean, variance, weight, bias, slope)
        return out

    @staticmethod
    def backward(ctx, grad):
        out, mean, variance, weight, bias, slope = ctx.saved
        sums = grad.gradient_sums
        if sums is None:
            sums = empty((out.shape[0], 3, out.shape[1]), "float64")
            kernels.gradient_sums(grad.array, out, sums)
        coefficients = empty((6, out.shape[1]), out.dtype)
        needed = (ctx.array(1), ctx.array(2), ctx.array(3) if ctx.has_slope else None)
        grads = [empty(weight.shape, weight.dtype) if g is None else g for g in needed]
        kernels.batch_norm_backward(
            sums, ctx.count, ctx.training, mean, variance, ctx.eps, weight, bias, slope, coefficients, *grads
        )
        grad_x = DeferredGradient(grad.array, out.raw, coefficients, grad.spent) if ctx.needs[0] else None
        return grad_x, *needed

    @staticmethod
    def cost(x: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """The work per channel alone: whoever reads the map applies the result."""
        return Cost((20 if backward else 5) * x[1], 8 * (6 if backward else 3) * x[0] * x[1])


class PReLU(Op):
    """`x if x > 0 else slope*x` per channel, as a deferred map. x (N, C, H, W), slope (C,)."""

    deferred = True

    @staticmethod
    def forward(ctx, x, slope):
        require_map(x, "prelu")
        x = Deferred.of(x)
        require_channels(slope, x.shape[1], "prelu", "slope")
        require_dtype(slope, x, "prelu", "slope")
        coefficients = empty((4, x.shape[1]), x.dtype)
        kernels.prelu_coefficients(slope, coefficients)
        out = Deferred(x.value(), coefficients)
        ctx.save_for_backward(out, slope)
        return out

    @staticmethod
    def backward(ctx, grad):
        out, slope = ctx.saved
        sums = grad.gradient_sums
        if sums is None:
            sums = empty((out.shape[0], 3, out.shape[1]), "float64")
            kernels.gradient_sums(grad.array, out, sums)
        coefficients, grad_slope = empty((6, out.shape[1]), out.dtype), ctx.array(1)
        kernels.prelu_backward(sums, slope, coefficients, grad_slope)
        return DeferredGradient(grad.array, out.raw, coefficients), grad_slope

    @staticmethod
    def cost(x: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """The work per channel alone."""
        return Cost(x[1], itemsize * 4 * x[1])


class Materialize(Op):
    """A deferred map as an array."""

    deferred = True

    @staticmethod
    def forward(ctx, x):
        return Deferred.of(x).value()

    @staticmethod
    def backward(ctx, grad):
        return grad.value() if isinstance(grad, DeferredGradient) else grad

    @staticmethod
    def cost(x: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """Read, apply scale, shift and slope, write; backward nothing."""
        return Cost(0, 0) if backward else Cost(4 * elements(x), itemsize * 2 * elements(x))
