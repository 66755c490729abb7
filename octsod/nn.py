"""Modules: layers with parameters, running statistics and names."""

import math

import numpy as np

from . import functional as f
from . import random
from .deferred import ActivationSums
from .tensor import Tensor


class Parameter(Tensor):
    """A tensor that is learned."""

    __slots__ = ()

    def __init__(self, array):
        super().__init__(array, requires_grad=True)


class Module:
    """Base of all layers and models.

    Attributes that are Parameters, Modules, or lists of them (None for a missing entry) are found by name; arrays named
    in `buffers` are saved with the parameters.
    """

    buffers = ()
    training = True

    def __call__(self, *inputs):
        return self.forward(*inputs)

    def forward(self, *inputs):
        raise TypeError(f"{type(self).__name__} needs a method `forward`.")

    def _children(self):
        for name, value in vars(self).items():
            for path, item in _entries(name, value):
                if isinstance(item, (Parameter, Module)):
                    yield path, item

    def named_modules(self, prefix=""):
        """(name, module) of this module and all below it."""
        yield prefix, self
        for name, child in self._children():
            if isinstance(child, Module):
                yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self):
        """This module and all below it."""
        return (module for _, module in self.named_modules())

    def named_parameters(self):
        """(name, parameter), in the order of definition."""
        for prefix, module in self.named_modules():
            for name, child in module._children():
                if isinstance(child, Parameter):
                    yield f"{prefix}.{name}" if prefix else name, child

    def parameters(self):
        """All parameters, in the order of definition."""
        return (parameter for _, parameter in self.named_parameters())

    def state_dict(self):
        """name -> array (not a copy) of every parameter and buffer."""
        state = {name: parameter.data for name, parameter in self.named_parameters()}
        for prefix, module in self.named_modules():
            for name in module.buffers:
                state[f"{prefix}.{name}" if prefix else name] = getattr(module, name)
        return state

    def load_state_dict(self, state):
        """Copy the arrays of `state` into this module; raises, and changes nothing, unless names and shapes fit."""
        own = self.state_dict()
        missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or extra:
            what = " and ".join(
                f"{label} {', '.join(names[:3])}{f' and {len(names) - 3} more' if len(names) > 3 else ''}"
                for label, names in (("lacks", missing), ("has unknown", extra)) if names
            )  # fmt: skip
            raise ValueError(f"load_state_dict: `state` {what}.")
        arrays = {name: np.asarray(value) for name, value in state.items()}
        for name, array in arrays.items():
            if array.shape != own[name].shape:
                raise ValueError(
                    f"load_state_dict: `{name}` has shape {array.shape}; expected {own[name].shape}, the model's."
                )
        for name, array in arrays.items():
            own[name][...] = array

    def train(self, mode=True):
        """Use batch statistics (or, with mode=False, running ones) from now on."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self):
        """Use running statistics from now on."""
        return self.train(False)

    def zero_grad(self):
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None


def _entries(name, value):
    if isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from _entries(f"{name}.{i}", item)
    else:
        yield name, value


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
        self.running_mean = np.zeros(channels, dtype)
        self.running_var = np.ones(channels, dtype)
        self.activation = None

    def watch(self, x):
        """Have the sums of the activation written down that the map x is about to become, in training."""
        self.activation = ActivationSums(x.shape[2] * x.shape[3]) if self.training else None

    def forward(self, x):
        self.watch(x)
        return f.batch_norm_prelu(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.slope, self.training, self.momentum,
            self.eps, self.activation,
        )  # fmt: skip


def _norms(channels, dtype):
    return [NormAct(n, dtype) if n else None for n in channels]


class OctaveLayer(Module):
    """gOctConv, then batch norm and PReLU per branch. in_channels, out_channels: one count per branch, zero allowed."""

    def __init__(self, in_channels, out_channels, kernel_size=1, stride=1, dtype="float32"):
        self.in_channels, self.out_channels = tuple(in_channels), tuple(out_channels)
        self.kernel_size, self.stride = kernel_size, stride
        self.weight = uniform_weight((sum(out_channels), sum(in_channels), kernel_size, kernel_size), dtype)
        self.norms = _norms(out_channels, dtype)

    @property
    def single(self):
        """One branch in, one out, by the length of the lists: an ordinary convolution, which has the weight scale."""
        return len(self.in_channels) == len(self.out_channels) == 1

    def forward(self, inputs):
        weight = self.weight * WEIGHT_SCALE if self.single else self.weight
        maps = f.octave_conv2d(inputs, weight, self.out_channels, self.stride, moments=self.training)
        return [x if norm is None else norm(x) for norm, x in zip(self.norms, maps, strict=True)]


class DepthwiseLayer(Module):
    """Depthwise 3x3 within each branch, then batch norm and PReLU (the paper's simplified gOctConv)."""

    def __init__(self, channels, dtype="float32"):
        self.channels = tuple(channels)
        self.weights = [uniform_weight((n, 1, 3, 3), dtype) if n else None for n in channels]
        self.norms = _norms(channels, dtype)

    def forward(self, inputs):
        return depthwise_chain(inputs, [self])


def depthwise_chain(inputs, layers):
    """Branches through several `DepthwiseLayer`s: each branch through all of them at once."""
    outputs = []
    for branch, x in enumerate(inputs):
        norms = [layer.norms[branch] for layer in layers]
        if norms[0] is not None:
            for norm in norms:
                norm.watch(x)
            x = f.depthwise_chain(
                x, [(layer.weights[branch], n.weight, n.bias, n.slope) for layer, n in zip(layers, norms, strict=True)],
                [(n.running_mean, n.running_var) for n in norms], layers[0].training, NormAct.momentum, NormAct.eps,
                WEIGHT_SCALE, [n.activation for n in norms],
            )  # fmt: skip
        outputs.append(x)
    return outputs


class ILBlock(Module):
    """The paper's in-layer multi-scale block: gOctConv, then two depthwise 3x3, each with batch norm and PReLU."""

    def __init__(self, in_channels, out_channels, kernel_size=1, stride=1, dtype="float32"):
        self.mix = OctaveLayer(in_channels, out_channels, kernel_size, stride, dtype)
        self.depthwise = [DepthwiseLayer(out_channels, dtype), DepthwiseLayer(out_channels, dtype)]

    def forward(self, inputs):
        return depthwise_chain(self.mix(inputs), self.depthwise)

    def norms(self):
        """The norms whose scales dynamic weight decay acts on."""
        return [norm for layer in (self.mix, *self.depthwise) for norm in layer.norms if norm is not None]


class DilatedLayer(Module):
    """Within each branch, parallel dilated 3x3 convolutions, concatenated, then one batch norm and PReLU.

    channels: per branch, the output channels of each dilation (zero allowed).
    """

    dilations = (1, 2, 4, 8, 16)

    def __init__(self, in_channels, channels, dtype="float32"):
        self.in_channels, self.channels = tuple(in_channels), tuple(tuple(c) for c in channels)
        self.weights = [
            [uniform_weight((n, ins, 3, 3), dtype) if n and ins else None for n in outs]
            for ins, outs in zip(in_channels, channels, strict=True)
        ]
        self.norms = _norms([sum(outs) if ins else 0 for ins, outs in zip(in_channels, channels, strict=True)], dtype)

    def forward(self, inputs):
        outputs = []
        for x, weights, norm in zip(inputs, self.weights, self.norms, strict=True):
            used = [(w * WEIGHT_SCALE, d) for w, d in zip(weights, self.dilations, strict=True) if w is not None]
            if norm is None:
                outputs.append(None)
            else:
                x = f.dilated_conv2d(x, [w for w, _ in used], [d for _, d in used], moments=self.training)
                outputs.append(norm(x))
        return outputs


class Conv2d(Module):
    """Dense convolution with bias."""

    def __init__(self, in_channels, out_channels, kernel_size=1, stride=1, padding=0, dilation=1, dtype="float32"):
        self.weight = uniform_weight((out_channels, in_channels, kernel_size, kernel_size), dtype)
        bound = 1 / math.sqrt(max(in_channels * kernel_size**2, 1))
        self.bias = Parameter(random.generator.uniform(-bound, bound, out_channels).astype(dtype))
        self.stride, self.padding, self.dilation = stride, padding, dilation

    def forward(self, x):
        return f.conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation)
