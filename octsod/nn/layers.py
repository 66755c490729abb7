"""Layers: batch norm with PReLU, and the dense convolution."""

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
from .module import Module, Parameter


def uniform_weight(shape: Sequence[int], dtype: DTypeLike) -> Parameter:
    """A weight (O, I, kh, kw) drawn from U(-1/sqrt(fan_in), 1/sqrt(fan_in)), with fan_in = I*kh*kw."""
    bound = 1 / math.sqrt(max(math.prod(shape[1:]), 1))
    return Parameter(random.generator.uniform(-bound, bound, shape).astype(dtype))


# The factor on depthwise and dilated weights (csnet.md, section 1). Batch norm cancels it in the output, but it
# multiplies those layers' gradients and so sets their step size against weight decay: it is part of a trained model.
WEIGHT_SCALE = 100.0


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

    def forward(self, x: Tensor) -> Tensor:
        self.watch(x)
        return ops.BatchNormPReLU.apply(
            x, self.weight, self.bias, self.slope, running_mean=self.running_mean, running_var=self.running_var,
            training=self.training, momentum=self.momentum, eps=self.eps, activation_sums=self.activation,
        )  # fmt: skip


def norms(channels: Sequence[int], dtype: DTypeLike) -> list[NormAct | None]:
    """A `NormAct` per branch, None for one without channels."""
    return [NormAct(n, dtype) if n else None for n in channels]


class Conv2d(Module):
    """Dense convolution with bias, as `functional.conv2d`."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int = 1, stride: int = 1, padding: int = 0,
        dilation: int = 1, dtype: DTypeLike = "float32",
    ):  # fmt: skip
        self.weight = uniform_weight((out_channels, in_channels, kernel_size, kernel_size), dtype)
        bound = 1 / math.sqrt(max(in_channels * kernel_size**2, 1))
        self.bias = Parameter(random.generator.uniform(-bound, bound, out_channels).astype(dtype))
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def forward(self, x: Tensor) -> Tensor:
        return f.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)
