"""Layers: batch norm with PReLU, and the dense convolution."""

import math

import numpy as np

from .. import functional as f
from .. import ops, random
from ..backend import default_device
from ..backend.deferred import ActivationSums
from .module import Module, Parameter


def uniform_weight(shape, dtype):
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)) with fan_in = shape[1]*kh*kw."""
    bound = 1 / math.sqrt(max(math.prod(shape[1:]), 1))
    return Parameter(random.generator.uniform(-bound, bound, shape).astype(dtype))


# The factor on depthwise and dilated weights (csnet.md, section 1). Batch norm cancels it in the output, but it
# multiplies those layers' gradients and so sets their step size against weight decay: it is part of a trained model.
WEIGHT_SCALE = 100.0


class NormAct(Module):
    """Batch norm (eps 1e-5, momentum 0.1) and PReLU per channel, deferred.

    activation: the `ActivationSums` of the last training pass, the metric of dynamic weight decay.
    """

    buffers = ("running_mean", "running_var")
    momentum, eps = 0.1, 1e-5

    def __init__(self, channels, dtype="float32"):
        self.weight = Parameter(np.ones(channels, dtype))
        self.bias = Parameter(np.zeros(channels, dtype))
        self.slope = Parameter(np.full(channels, 0.25, dtype))
        self.running_mean = default_device().zeros((channels,), dtype)
        self.running_var = default_device().full((channels,), 1, dtype)
        self.activation = None

    def watch(self, x):
        """Have the sums of the activation written down that the map x is about to become, in training."""
        self.activation = ActivationSums(x.shape[2] * x.shape[3]) if self.training else None

    def forward(self, x):
        self.watch(x)
        return ops.BatchNormPReLU.apply(
            x, self.weight, self.bias, self.slope, running_mean=self.running_mean, running_var=self.running_var,
            training=self.training, momentum=self.momentum, eps=self.eps, activation_sums=self.activation,
        )  # fmt: skip


def norms(channels, dtype):
    return [NormAct(n, dtype) if n else None for n in channels]


class Conv2d(Module):
    """Dense convolution with bias."""

    def __init__(self, in_channels, out_channels, kernel_size=1, stride=1, padding=0, dilation=1, dtype="float32"):
        self.weight = uniform_weight((out_channels, in_channels, kernel_size, kernel_size), dtype)
        bound = 1 / math.sqrt(max(in_channels * kernel_size**2, 1))
        self.bias = Parameter(random.generator.uniform(-bound, bound, out_channels).astype(dtype))
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def forward(self, x):
        return f.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)
