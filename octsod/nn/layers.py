"""Layers: batch norm with PReLU, the dense convolution, and what classifiers are made of."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import functional as f
from .. import ops, random
from ..autograd import Tensor
from ..backend import default_device
from ..backend.deferred import ActivationSums
from ..checks import require_number, require_share
from .module import Module, Parameter


def uniform_weight(shape: Sequence[int], dtype: DTypeLike) -> Parameter:
    """A weight (O, I, ...) drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), with fan_in the product of I and what
    follows."""
    return _uniform(shape, math.prod(shape[1:]), dtype)


def _uniform(shape, fan_in, dtype):
    bound = 1 / math.sqrt(max(fan_in, 1))
    return Parameter(random.generator.uniform(-bound, bound, shape).astype(dtype))


# The factor on depthwise and dilated weights (csnet.md, section 1). Batch norm cancels it in the output, but it
# multiplies those layers' gradients and so sets their step size against weight decay: it is part of a trained model.
WEIGHT_SCALE = 100.0


class ScaledLayer(Module):
    """Base of layers whose convolutions use their weights times `weight_scale`."""

    weight_scale = WEIGHT_SCALE

    @property
    def factor(self) -> float:
        """`weight_scale`, checked: an array would be spread over the weights."""
        return require_number(self.weight_scale, type(self).__name__, "weight_scale")

    def effective_weight(self, weight: Parameter, dtype: Any = None) -> np.ndarray:
        """The weight that a convolution of this layer uses, a NumPy array; dtype: by default, the parameter's."""
        array = weight.numpy().astype(dtype or weight.dtype, copy=False)
        return array * array.dtype.type(self.factor)


class NormAct(Module):
    """Batch norm (eps 1e-5, momentum 0.1) and PReLU per channel, deferred: (N, C, H, W) -> the same shape.

    activation: the `ActivationSums` of the last training pass, for the metric of dynamic weight decay; else None.
    """

    buffers = ("running_mean", "running_var")
    momentum, eps = 0.1, 1e-5

    activation: Any

    def __init__(self, channels: int, dtype: DTypeLike = "float32"):
        self.weight = Parameter(np.ones(channels, dtype))
        self.bias = Parameter(np.zeros(channels, dtype))
        self.slope = Parameter(np.full(channels, 0.25, dtype))
        self.running_mean = default_device().zeros((channels,), dtype)
        self.running_var = default_device().full((channels,), 1, dtype)
        self.activation = None

    def watch(self, x: Tensor) -> None:
        """In training, ask for the activation sums of the map that x is about to become."""
        self.activation = ActivationSums(x.shape[2] * x.shape[3]) if self.training else None

    def affine(self) -> tuple[np.ndarray, np.ndarray]:
        """Batch norm as y = scale*x + shift in eval mode: (scale, shift), NumPy arrays (C,) float64."""
        mean, variance = (self.device.get(a).astype(np.float64) for a in (self.running_mean, self.running_var))
        scale = self.weight.numpy() / np.sqrt(variance + self.eps)
        return scale, self.bias.numpy() - mean * scale

    def forward(self, x: Tensor) -> Tensor:
        (y,) = normalized([self], [x])
        return y


def norms(channels: Sequence[int], dtype: DTypeLike) -> list[NormAct | None]:
    """A `NormAct` per branch, None for one without channels."""
    return [NormAct(n, dtype) if n else None for n in channels]


def normalized(norms: Sequence[NormAct | None], maps: Sequence[Any]) -> list[Any]:
    """The branches of a layer, each through its norm, all in one op; None for those without."""
    pairs = [(norm, x) for norm, x in zip(norms, maps, strict=True) if norm is not None]
    for norm, x in pairs:
        norm.watch(x)
    own = [norm for norm, _ in pairs]
    found = ops.BatchNormPReLU.apply(
        *(tensor for norm, x in pairs for tensor in (x, norm.weight, norm.bias, norm.slope)),
        running=[(n.running_mean, n.running_var) for n in own], training=[n.training for n in own],
        momentum=[n.momentum for n in own], eps=[n.eps for n in own], activation_sums=[n.activation for n in own],
    )  # fmt: skip
    outputs = iter(found)
    return [None if norm is None else next(outputs) for norm in norms]


class Conv2d(Module):
    """Dense convolution with bias, as `functional.conv2d`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, padding: int = 0,
        dilation: int = 1, dtype: DTypeLike = "float32",
    ):  # fmt: skip
        self.weight = uniform_weight((out_channels, in_channels, kernel_size, kernel_size), dtype)
        self.bias = _uniform(out_channels, in_channels * kernel_size**2, dtype)
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def forward(self, x: Tensor) -> Tensor:
        return f.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)


class Linear(Module):
    """x (N, in_features) -> (N, out_features), as `functional.linear`. Weight (out_features, in_features) and bias are
    drawn from U(-1/sqrt(in_features), 1/sqrt(in_features))."""

    def __init__(self, in_features: int, out_features: int, dtype: DTypeLike = "float32"):
        self.weight = uniform_weight((out_features, in_features), dtype)
        self.bias = _uniform(out_features, in_features, dtype)

    def forward(self, x: Tensor) -> Tensor:
        return f.linear(x, self.weight, self.bias)


class Dropout(Module):
    """In training, `functional.dropout` with probability p, in [0, 1); else x as it is."""

    def __init__(self, p: float = 0.5):
        self.p = require_share(p, "Dropout", "p")

    def forward(self, x: Tensor) -> Tensor:
        return f.dropout(x, self.p, self.training)


class ReLU(Module):
    """x where it is positive, else 0."""

    def forward(self, x: Tensor) -> Tensor:
        return f.relu(x)


class GlobalAveragePool(Module):
    """The mean of each plane: (N, C, H, W) -> (N, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return f.global_average_pool(x)
