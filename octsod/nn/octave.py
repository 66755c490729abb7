"""Blocks of octave convolutions: what CSNet is made of.

They take and return lists of branches, maps (N, C_i, H >> i, W >> i) with None for one without channels.
"""

from collections.abc import Sequence
from typing import Any

from numpy.typing import DTypeLike

from .. import ops
from ..autograd import Tensor
from .layers import NormAct, ScaledLayer, normalized, norms, uniform_weight
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
        return normalized(self.norms, maps)


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
    maps = list(inputs)
    alike: dict[Any, list[int]] = {}  # settings -> branches, all of whose norms have them: one op takes these
    for branch in range(len(maps)):
        norms = [(norm, layer.factor) for layer in layers if (norm := layer.norms[branch]) is not None]
        settings = {(norm.training, norm.momentum, norm.eps, factor) for norm, factor in norms}
        if len(settings) == 1:
            alike.setdefault(settings.pop(), []).append(branch)
        elif norms:
            for layer in layers:
                _chain(maps, [branch], [layer])
    for branches in alike.values():
        _chain(maps, branches, layers)
    return maps


def _chain(maps, branches, layers):
    """Put in place of the maps of some branches what layers make of them, whose norms have the same settings."""
    own = [[(layer.weights[branch], layer.norms[branch]) for layer in layers] for branch in branches]
    inputs = []
    for branch, pairs in zip(branches, own, strict=True):
        inputs.append(maps[branch])
        for weight, norm in pairs:
            norm.watch(maps[branch])
            inputs += weight, norm.weight, norm.bias, norm.slope
    _, first = own[0][0]
    outputs = ops.DepthwiseChain.apply(
        *inputs, running=[[(norm.running_mean, norm.running_var) for _, norm in pairs] for pairs in own],
        training=first.training, momentum=first.momentum, eps=first.eps, weight_scale=layers[0].factor,
        activation_sums=[[norm.activation for _, norm in pairs] for pairs in own],
    )  # fmt: skip
    for branch, y in zip(branches, outputs, strict=True):
        maps[branch] = y


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
        maps: list[Tensor | None] = []
        for x, weights, norm in zip(inputs, self.weights, self.norms, strict=True):
            used = [(w, d) for w, d in zip(weights, self.dilations, strict=True) if w is not None]
            if norm is None:
                maps.append(None)
                continue
            own, dilations = zip(*used, strict=True)
            maps.append(
                ops.DilatedConv2d.apply(x, *own, dilations=dilations, weight_scale=self.factor, moments=self.training)
            )
        return normalized(self.norms, maps)
