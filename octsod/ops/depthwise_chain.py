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


class DepthwiseChain(Op):
    """x (N, C, H, W) -> the same shape, a deferred map: L times a depthwise convolution, batch norm and PReLU.

    parameters: weight (C, 1, k, k) with one odd k for all layers, padded to keep the size, then norm weight, norm bias
    and slope (C,) of each layer in turn. running: (mean, variance) arrays (C,) of each layer; training, momentum, eps:
    as in `BatchNormPReLU`. weight_scale: a factor on all convolution weights. activation_sums: an `ActivationSums` or
    None per layer; those of all but the last layer are filled here.
    """

    deferred = True

    @staticmethod
    def forward(
        ctx, x, *parameters, running, training=True, momentum=0.1, eps=1e-5, weight_scale=1.0, activation_sums=None
    ):
        op = "depthwise_chain"
        require_map(x, op)
        x = Deferred.of(x)
        layers = [parameters[k : k + 4] for k in range(0, len(parameters), 4)]
        depth, (images, channels, height, width) = len(layers), x.shape
        require(depth > 0 and len(parameters) == 4 * depth, op, "parameters", f"are {len(parameters)}", "4 per layer")
        require(len(running) == depth, op, "running", f"has {len(running)} entries", f"{depth}, one per layer")
        size = layers[0][0].shape[2] if layers[0][0].ndim == 4 else 0
        for (weight, *norm), statistics in zip(layers, running, strict=True):
            require_given(weight, op, "weight")
            require(
                weight.shape == (channels, 1, size, size) and size % 2 == 1, op, "weight", f"has shape {weight.shape}",
                f"({channels}, 1, k, k) with one odd k for all layers",
            )  # fmt: skip
            require_dtype(weight, x, op, "weight")
            for name, value in zip(("norm weight", "norm bias", "slope"), norm, strict=True):
                require_channels(value, channels, op, name)
                require_dtype(value, x, op, name)
            for name, value in zip(("running mean", "running variance"), statistics, strict=True):
                require_channels(value, channels, op, name)
                require_float(value, op, name)
        require(
            images * height * width > 0 or not training, op, "x", f"has shape {x.shape}",
            "at least one value per channel in training",
        )  # fmt: skip
        momentum, eps = require_number(momentum, op, "momentum"), require_number(eps, op, "eps", 0)
        training, weight_scale = bool(training), require_number(weight_scale, op, "weight_scale")
        raw = empty((depth, *x.shape), x.dtype)
        coefficients = empty((depth, 4, channels), x.dtype)
        statistics = empty((depth, 2, channels), "float64")
        holders = [x.activation_sums, *(activation_sums or [None] * depth)]
        claimed = [None if holder is None else holder.claim(images, channels) for holder in holders[:-1]]
        kernels.depthwise_chain(
            x, layers, running, raw, coefficients, statistics, claimed, training, momentum, eps, weight_scale
        )
        out = Deferred(raw[depth - 1], coefficients[depth - 1], activation_sums=holders[-1])
        ctx.settings = training, eps, weight_scale
        ctx.save_for_backward(x, layers, raw, coefficients, statistics)
        return out

    @staticmethod
    def backward(ctx, grad):
        x, layers, raw, coefficients, statistics = ctx.saved
        # A layer writes what it hands to the one before it over the gradient that it has read, if that is spent.
        grad_x = ctx.target(0, DeferredGradient(grad.array, raw[len(layers) - 1], None, grad.spent))
        if grad.spent:
            between = grad.array
        elif grad_x is not None and not grad_x.accumulate:
            between = grad_x.array
        else:
            between = empty(x.shape, x.dtype)
        flat = [parameter for layer in layers for parameter in layer]
        grads = [ctx.array(1 + i) for i in range(len(flat))]
        written = [empty(p.shape, p.dtype) if g is None else g for p, g in zip(flat, grads, strict=True)]
        grad_layers = [written[k : k + 4] for k in range(0, len(written), 4)]
        kernels.depthwise_chain_backward(
            grad, x, layers, raw, coefficients, statistics, *ctx.settings, between, grad_x, grad_layers
        )
        return grad_x, *grads

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
        norm = BatchNormPReLU.cost(x, itemsize, backward)
        maps = elements(x) * (layers + (3 if backward else 1))
        stored = itemsize * (maps + layers * elements(weight)) if cached else layers * layer.bytes
        return Cost(layers * (layer.flops + norm.flops), stored + layers * norm.bytes)
