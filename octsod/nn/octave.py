"""Blocks of octave convolutions: what CSNet is made of.

They take and return lists of branches, maps (N, C_i, H >> i, W >> i) with None for one without channels.
"""

from collections.abc import Sequence

from numpy.typing import DTypeLike

from .. import ops
from ..autograd import Tensor
from .layers import NormAct, ScaledLayer, norms, uniform_weight
from .module import Module

Branches = Sequence[Tensor | None]


class OctaveLayer(ScaledLayer):
    """gOctConv, then batch norm and PReLU per branch.

    in_channels, out_channels: a number per branch, which may be 0.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: Sequence[int], kernel_size: int = 1, stride: int = 1,
        dtype: DTypeLike = "float32",
    ):  # fmt: skip
        self.in_channels, self.out_channels = tuple(in_channels), tuple(out_channels)
        self.kernel_size, self.stride = kernel_size, stride
        self.weight = uniform_weight((sum(out_channels), sum(in_channels), kernel_size, kernel_size), dtype)
        self.norms = norms(out_channels, dtype)

        # With one branch in and one out, by the length of the lists, this is an ordinary convolution.
        self.weight_scale = self.weight_scale if len(self.in_channels) == len(self.out_channels) == 1 else 1.0

    def forward(self, inputs: Branches) -> list[Tensor | None]:
        factor = self.factor
        weight = self.weight if factor == 1 else self.weight * factor
        maps = ops.OctaveConv2d.apply(
            weight, *inputs, out_channels=self.out_channels, stride=self.stride, moments=self.training
        )
        return [x if norm is None else norm(x) for norm, x in zip(self.norms, maps, strict=True)]


class DepthwiseLayer(ScaledLayer):
    """Depthwise 3x3 within each branch, then batch norm and PReLU (the paper's simplified gOctConv)."""

    def __init__(self, channels: Sequence[int], dtype: DTypeLike = "float32"):
        self.channels = tuple(channels)
        self.weights = [uniform_weight((n, 1, 3, 3), dtype) if n else None for n in channels]
        self.norms = norms(channels, dtype)

    def forward(self, inputs: Branches) -> list[Tensor | None]:
        return depthwise_chain(inputs, [self])


def depthwise_chain(inputs: Branches, layers: Sequence[DepthwiseLayer]) -> list[Tensor | None]:
    """Branches through several `DepthwiseLayer`s, each branch through all of them at once."""
    outputs = []
    for branch, x in enumerate(inputs):
        norms = [norm for layer in layers if (norm := layer.norms[branch]) is not None]
        if norms:
            weights = [layer.weights[branch] for layer in layers]
            # One op, if the norms' settings are the same; else one after the other.
            scales = [layer.factor for layer in layers]
            settings = zip(((n.momentum, n.eps, n.training) for n in norms), scales, strict=True)
            same = len(set(settings)) == 1
            for k in range(1 if same else len(norms)):
                part = slice(k, None if same else k + 1)
                x = _chain(x, weights[part], norms[part], scales[k])
        outputs.append(x)
    return outputs


def _chain(x, weights, norms, weight_scale):
    for norm in norms:
        norm.watch(x)
    return ops.DepthwiseChain.apply(
        x, *(p for w, n in zip(weights, norms, strict=True) for p in (w, n.weight, n.bias, n.slope)),
        running=[(n.running_mean, n.running_var) for n in norms], training=norms[0].training,
        momentum=norms[0].momentum, eps=norms[0].eps, weight_scale=weight_scale,
        activation_sums=[n.activation for n in norms],
    )  # fmt: skip


class ILBlock(Module):
    """The paper's in-layer multi-scale block: gOctConv, then two depthwise 3x3, each with batch norm and PReLU."""

    def __init__(
        self, in_channels: Sequence[int], out_channels: Sequence[int], kernel_size: int = 1, stride: int = 1,
        dtype: DTypeLike = "float32",
    ):  # fmt: skip
        self.mix = OctaveLayer(in_channels, out_channels, kernel_size, stride, dtype)
        self.depthwise = [DepthwiseLayer(out_channels, dtype), DepthwiseLayer(out_channels, dtype)]

    def forward(self, inputs: Branches) -> list[Tensor | None]:
        return depthwise_chain(self.mix(inputs), self.depthwise)

    def decayed_norms(self) -> list[tuple[NormAct, int]]:
        """All of its norms, those of its layers."""
        return _norms(self.mix, *self.depthwise)


class VanillaBlock(Module):
    """A block of three OctConvs, the last two 3x3, each with batch norm and PReLU (the paper's table 6, "Vanilla")."""

    def __init__(
        self, in_channels: Sequence[int], out_channels: Sequence[int], kernel_size: int = 1, stride: int = 1,
        dtype: DTypeLike = "float32",
    ):  # fmt: skip
        self.mix = OctaveLayer(in_channels, out_channels, kernel_size, stride, dtype)
        self.full = [OctaveLayer(out_channels, out_channels, 3, 1, dtype) for _ in range(2)]

    def forward(self, inputs: Branches) -> list[Tensor | None]:
        first, second = self.full
        return second(first(self.mix(inputs)))

    def decayed_norms(self) -> list[tuple[NormAct, int]]:
        """All of its norms, those of its layers."""
        return _norms(self.mix, *self.full)


def _norms(*layers):
    """(norm, branch) of all norms of layers."""
    return [(norm, branch) for layer in layers for branch, norm in enumerate(layer.norms) if norm is not None]


class DilatedLayer(ScaledLayer):
    """Within each branch, parallel dilated 3x3 convolutions, concatenated, then one batch norm and PReLU.

    channels: per branch, the output channels of each dilation, which may be 0.
    """

    dilations = (1, 2, 4, 8, 16)

    def __init__(
        self, in_channels: Sequence[int], channels: Sequence[Sequence[int]], dtype: DTypeLike = "float32"
    ):
        self.in_channels, self.channels = tuple(in_channels), tuple(tuple(c) for c in channels)
        self.weights = [
            [uniform_weight((n, ins, 3, 3), dtype) if n and ins else None for n in outs]
            for ins, outs in zip(in_channels, channels, strict=True)
        ]
        self.norms = norms([sum(outs) if ins else 0 for ins, outs in zip(in_channels, channels, strict=True)], dtype)

    def forward(self, inputs: Branches) -> list[Tensor | None]:
        outputs: list[Tensor | None] = []
        for x, weights, norm in zip(inputs, self.weights, self.norms, strict=True):
            used = [(w * self.factor, d) for w, d in zip(weights, self.dilations, strict=True) if w is not None]
            if norm is None:
                outputs.append(None)
            else:
                scaled, dilations = zip(*used, strict=True)
                outputs.append(norm(ops.DilatedConv2d.apply(x, *scaled, dilations=dilations, moments=self.training)))
        return outputs
