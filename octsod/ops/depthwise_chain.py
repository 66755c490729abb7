"""A chain of depthwise convolutions, each with batch norm and PReLU, as one op.

Depthwise layers do not mix channels, and a channel's statistics need no other channel. So a kernel can take one channel
of the whole batch through all layers while its planes are in the cache. Layer by layer, every map would cross the
memory bus once more.
"""

from ..autograd import Op
from ..backend import empty, kernels
from ..backend.deferred import Deferred, DeferredGradient
from ..checks import require, require_channels, require_dtype, require_float, require_given, require_map, require_number
from .convolution import DepthwiseConv2d
from .cost import Cost, Shape, elements
from .normalization import BatchNormPReLU

OP = "depthwise_chain"


class DepthwiseChain(Op):
    """x (N, C, H, W) -> the same shape, a deferred map: L times a depthwise convolution, batch norm and PReLU; likewise
    for each of several maps, such as the branches of a layer.

    branches: x and the parameters of each map in turn: weight (C, 1, k, k) with one odd k for all layers, padded to
    keep the size, then norm weight, norm bias and slope (C,) of each layer. running: of each map, (mean, variance)
    arrays (C,) of each layer; training, momentum, eps: as in `BatchNormPReLU`, but the same for all. weight_scale: a
    factor on all convolution weights. activation_sums: of each map, an `ActivationSums` or None per layer; those of all
    but the last layer are filled here.
    """

    deferred = True

    @staticmethod
    def forward(
        ctx, *branches, running, training=True, momentum=0.1, eps=1e-5, weight_scale=1.0, activation_sums=None
    ):
        count = len(running)
        require(count > 0, OP, "running", "is empty", "an entry for each map")
        size, rest = divmod(len(branches), count)
        fits = size > 1 and size % 4 == 1 and not rest
        require(fits, OP, "parameters", f"are {len(branches) - count} for {count} maps", "4 per layer, of each map")
        ctx.stride, inputs, layers, training = size, [], [], bool(training)
        for start, statistics in zip(range(0, len(branches), size), running, strict=True):
            x, *parameters = branches[start : start + size]
            require_map(x, OP)
            inputs.append(Deferred.of(x))
            layers.append([parameters[k : k + 4] for k in range(0, len(parameters), 4)])
            _check(inputs[-1], layers[-1], statistics, training)
            require_dtype(inputs[-1], inputs[0], OP, "x", "the first map")
        depth = len(layers[0])
        momentum, eps = require_number(momentum, OP, "momentum"), require_number(eps, OP, "eps", 0)
        weight_scale = require_number(weight_scale, OP, "weight_scale")
        raw = [empty((depth, *x.shape), x.dtype) for x in inputs]
        coefficients = [empty((depth, 4, x.shape[1]), x.dtype) for x in inputs]
        statistics = [empty((depth, 2, x.shape[1]), "float64") for x in inputs]
        holders = [
            [x.activation_sums, *own]
            for x, own in zip(inputs, activation_sums or [[None] * depth] * count, strict=True)
        ]
        claimed = [
            [None if holder is None else holder.claim(*x.shape[:2]) for holder in own[:-1]]
            for x, own in zip(inputs, holders, strict=True)
        ]
        kernels.depthwise_chain(
            inputs, layers, running, raw, coefficients, statistics, claimed, training, momentum, eps, weight_scale
        )
        ctx.settings = training, eps, weight_scale
        ctx.save_for_backward(inputs, layers, raw, coefficients, statistics)
        return tuple(
            Deferred(maps[depth - 1], by[depth - 1], activation_sums=own[-1])
            for maps, by, own in zip(raw, coefficients, holders, strict=True)
        )

    @staticmethod
    def backward(ctx, *grads):
        used = [i for i, grad in enumerate(grads) if grad is not None]
        inputs, layers, raw, coefficients, statistics = ([saved[i] for i in used] for saved in ctx.saved)
        results, targets, between, written = [None] * (ctx.stride * len(grads)), [], [], []
        given = [grads[i] for i in used]
        for i, grad, x, own, maps in zip(used, given, inputs, layers, raw, strict=True):
            start = ctx.stride * i
            # A layer writes what it hands to the one before it over the gradient that it has read, if that is spent.
            target = ctx.target(start, DeferredGradient(grad.array, maps[len(own) - 1], None, grad.spent))
            if kernels.IN_PLACE and grad.spent:
                between.append(grad.array)
            elif kernels.IN_PLACE and target is not None and not target.accumulate:
                between.append(target.array)
            else:
                between.append(empty(x.shape, x.dtype))
            targets.append(target)
            flat = [parameter for layer in own for parameter in layer]
            wanted = [ctx.array(start + 1 + k) for k in range(len(flat))]
            arrays = [empty(p.shape, p.dtype) if g is None else g for p, g in zip(flat, wanted, strict=True)]
            written.append([arrays[k : k + 4] for k in range(0, len(arrays), 4)])
            results[start : start + ctx.stride] = target, *wanted
        kernels.depthwise_chain_backward(
            given, inputs, layers, raw, coefficients, statistics, *ctx.settings, between, targets, written
        )
        return tuple(results)

    @staticmethod
    def cost(
        x: Shape, weight: Shape, layers: int, itemsize: int = 4, backward: bool = False, cached: bool = True
    ) -> Cost:
        """From the shapes of x and of one weight: the arithmetic of `layers` layers.

        cached: whether the backend keeps the maps between layers in a cache (see backend/contract.py). If so, only the
        maps that have to be kept go to memory: each layer's raw map, which backward reads; forward x; backward x, the
        gradient and that of x. If not, the cost is that of the layers one by one.
        """
        layer = DepthwiseConv2d.cost(x, weight, padding=weight[2] // 2, itemsize=itemsize, backward=backward)
        norm = BatchNormPReLU.cost(x, itemsize=itemsize, backward=backward)
        maps = elements(x) * (layers + (3 if backward else 1))
        stored = itemsize * (maps + layers * elements(weight)) if cached else layers * layer.bytes
        return Cost(layers * (layer.flops + norm.flops), stored + layers * norm.bytes)


def _check(x, layers, running, training):
    """Raises unless a map, its parameters and its statistics fit together."""
    images, channels, height, width = x.shape
    require(len(running) == len(layers), OP, "running", f"has {len(running)} entries", f"{len(layers)}, one per layer")
    size = layers[0][0].shape[2] if layers[0][0] is not None and layers[0][0].ndim == 4 else 0
    for (weight, *norm), statistics in zip(layers, running, strict=True):
        require_given(weight, OP, "weight")
        require(
            weight.shape == (channels, 1, size, size) and size % 2 == 1, OP, "weight", f"has shape {weight.shape}",
            f"({channels}, 1, k, k) with one odd k for all layers",
        )  # fmt: skip
        require_dtype(weight, x, OP, "weight")
        for name, value in zip(("norm weight", "norm bias", "slope"), norm, strict=True):
            require_channels(value, channels, OP, name)
            require_dtype(value, x, OP, name)
        for name, value in zip(("running mean", "running variance"), statistics, strict=True):
            require_channels(value, channels, OP, name)
            require_float(value, OP, name)
    require(
        images * height * width > 0 or not training, OP, "x", f"has shape {x.shape}",
        "at least one value per channel in training",
    )  # fmt: skip
