"""Batch norm and PReLU, deferred: they compute coefficients per channel, and whoever reads the map applies them.

The public `batch_norm` and `prelu` materialise the result. CSNet never does.
"""

from ..autograd import Op
from ..backend import empty, full, kernels
from ..backend.deferred import Deferred, DeferredGradient
from ..checks import require, require_channels, require_dtype, require_float, require_given, require_map, require_number
from .cost import Cost, Shape, elements

OP = "batch_norm"


class BatchNormPReLU(Op):
    """`prelu((x - mean)/sqrt(variance + eps)*weight + bias, slope)` per channel of each of several maps, such as the
    branches of a layer, as deferred maps. One kernel works out the coefficients of all of them.

    branches: x (N, C, H, W), weight, bias and slope (C,) of each in turn, slope None for no PReLU. The settings have an
    entry for each. In training, mean and (biased) variance are the batch's, and those of `running`, (mean, variance)
    arrays (C,) or None, take in the share `momentum` of the mean and the unbiased variance, in place; otherwise they
    are used. activation_sums: an `ActivationSums` for the first reader to fill, or None.
    """

    deferred = True

    @staticmethod
    def forward(ctx, *branches, running, training, momentum, eps, activation_sums):
        inputs, parameters = branches[::4], [list(branches[k : k + 3]) for k in range(1, len(branches), 4)]
        maps = [_checked(x, *rest) for x, *rest in zip(inputs, parameters, running, training, strict=True)]
        momentum = [require_number(m, OP, "momentum") for m in momentum]
        eps = [require_number(e, OP, "eps", 0) for e in eps]
        ctx.has_slope = [slope is not None for *_, slope in parameters]
        for x, branch in zip(maps, parameters, strict=True):
            require_dtype(x, maps[0], OP, "x", "the first branch")
            if branch[2] is None:
                branch[2] = full((x.shape[1],), 1, x.dtype)
        ctx.training, ctx.eps = [bool(t) for t in training], eps
        moments = [_moments(x) if t else None for x, t in zip(maps, training, strict=True)]
        statistics = [empty((2, x.shape[1]), "float64") for x in maps]
        coefficients = [empty((4, x.shape[1]), x.dtype) for x in maps]
        pixels = [x.shape[2] * x.shape[3] for x in maps]
        kernels.batch_norm(moments, pixels, momentum, eps, parameters, running, statistics, coefficients)
        outputs = [
            Deferred(x.raw, by, activation_sums=sums)
            for x, by, sums in zip(maps, coefficients, activation_sums, strict=True)
        ]
        ctx.save_for_backward(outputs, statistics, parameters)
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *grads):
        used = [i for i, grad in enumerate(grads) if grad is not None]
        outputs, statistics, parameters = ([saved[i] for i in used] for saved in ctx.saved)
        given = [grads[i] for i in used]
        sums = [_gradient_sums(grad, out) for grad, out in zip(given, outputs, strict=True)]
        coefficients = [empty((6, out.shape[1]), out.dtype) for out in outputs]
        needed = [[ctx.array(4 * i + k) if k < 3 or ctx.has_slope[i] else None for k in (1, 2, 3)] for i in used]
        written = [
            [empty(p.shape, p.dtype) if g is None else g for p, g in zip(*pair, strict=True)]
            for pair in zip(parameters, needed, strict=True)
        ]
        counts = [out.shape[0] * out.shape[2] * out.shape[3] for out in outputs]
        training, eps = [ctx.training[i] for i in used], [ctx.eps[i] for i in used]
        kernels.batch_norm_backward(sums, counts, training, eps, parameters, statistics, coefficients, written)
        results = [None] * (4 * len(grads))
        for i, grad, out, by, own in zip(used, given, outputs, coefficients, needed, strict=True):
            grad_x = DeferredGradient(grad.array, out.raw, by, grad.spent) if ctx.needs[4 * i] else None
            results[4 * i : 4 * i + 4] = grad_x, *own
        return tuple(results)

    @staticmethod
    def cost(*maps: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """From the shapes of the maps. The work per channel alone: whoever reads a map applies the result."""
        flops = sum((20 if backward else 5) * x[1] for x in maps)
        return Cost(flops, sum(8 * (6 if backward else 3) * x[0] * x[1] for x in maps))


def _checked(x, parameters, running, training):
    """A map that fits its parameters and statistics, raw."""
    require_map(x, OP)
    require_given(parameters[0], OP, "weight")
    require_given(parameters[1], OP, "bias")
    x = Deferred.of(x)
    x = x if x.is_raw else Deferred(x.value())
    images, channels, height, width = x.shape
    for name, value in zip(("weight", "bias", "slope"), parameters, strict=True):
        if value is not None:
            require_channels(value, channels, OP, name)
            require_dtype(value, x, OP, name)
    for name, value in zip(("running_mean", "running_var"), running, strict=True):
        require(value is not None or training, OP, name, "is None", "running statistics outside of training")
        if value is not None:
            require_channels(value, channels, OP, name)
            require_float(value, OP, name)
    enough = images * height * width > 0 or not training
    require(enough, OP, "x", f"has shape {x.shape}", "at least one value per channel in training")
    return x


def _moments(x):
    """The moments of a raw map: those that the op gathered which made it, or else new ones."""
    if x.moments is not None:
        return x.moments
    moments = empty((x.shape[0], 3, x.shape[1]), "float64")
    kernels.channel_moments(x.raw, moments)
    return moments


def _gradient_sums(grad, out):
    """The gradient sums of an activation: those that its last reader gathered, or else new ones."""
    if grad.gradient_sums is not None:
        return grad.gradient_sums
    sums = empty((out.shape[0], 3, out.shape[1]), "float64")
    kernels.gradient_sums(grad.array, out, sums)
    return sums


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
        coefficients, grad_slope = empty((6, out.shape[1]), out.dtype), ctx.array(1)
        kernels.prelu_backward(_gradient_sums(grad, out), slope, coefficients, grad_slope)
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
