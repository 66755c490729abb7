"""CSNet (Cheng et al., "A Highly Efficient Model to Study the Semantics of Salient Object Detection") in plain PyTorch.

The peer of octsod in benchmarks and parity tests: ordinary modules in the way a PyTorch user writes them. Runs in
float32 and float64, contiguous and channels_last.

A feature is a list of branches, high resolution first: branch ``i`` is ``(N, C_i, H / 2**i, W / 2**i)``. A branch with
zero channels is ``None`` in these lists and is skipped everywhere. State-dict names are those of the published
checkpoints, which load directly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Feature = list[Tensor | None]

WEIGHT_SCALE = 100.0
"""Factor on the weight of depthwise and dilated convolutions. Batch normalisation cancels it in the output, but it
multiplies the gradient, hence changes what Adam and weight decay do."""

DILATIONS = (1, 2, 4, 8, 16)


def _channel_slices(channels: Sequence[int]) -> list[slice]:
    """Where each branch lies in the concatenation of all of them."""
    bounds = [0, *accumulate(channels)]
    return [slice(start, stop) for start, stop in pairwise(bounds)]


class GOctConv(nn.Module):
    """Generalised octave convolution: every input branch reaches every output branch, resampled to its size.

    ``(N, in_channels[i], H / 2**i, W / 2**i) -> (N, out_channels[j], H' / 2**j, W' / 2**j)`` with ``H' = H / stride``.
    One weight ``(sum(out_channels), sum(in_channels), k, k)`` serves all pairs of branches, each pair its block. To a
    coarser branch the input is max-pooled before the convolution, to a finer one the result is upsampled bilinearly.
    Stride 2 average-pools the inputs; the convolutions themselves have stride 1. No bias.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: Sequence[int], kernel_size: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        if stride not in (1, 2):
            raise ValueError(f"`stride` (={stride}) must be 1 or 2.")
        if sum(in_channels) == 0:
            raise ValueError(f"`in_channels` (={list(in_channels)}) must not all be zero.")
        self.in_channels, self.out_channels = list(in_channels), list(out_channels)
        self.kernel_size, self.stride = kernel_size, stride
        self.weight = nn.Parameter(torch.empty(sum(out_channels), sum(in_channels), kernel_size, kernel_size))
        # Branches are counted by the length of the lists, empty ones included: pruning must not change the scale.
        self.weight_scale = WEIGHT_SCALE if len(in_channels) == len(out_channels) == 1 else 1.0
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = (sum(self.in_channels) * self.kernel_size**2) ** -0.5
        nn.init.uniform_(self.weight, -bound, bound)

    def extra_repr(self) -> str:
        return f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, stride={self.stride}"

    def forward(self, inputs: Feature) -> Feature:
        weight = self.weight if self.weight_scale == 1.0 else self.weight_scale * self.weight
        outputs: Feature = [None] * len(self.out_channels)
        for i, (x, in_slice) in enumerate(zip(inputs, _channel_slices(self.in_channels), strict=True)):
            if x is None:
                continue
            if self.stride == 2:
                x = F.avg_pool2d(x, 2)
            for j, out_slice in enumerate(_channel_slices(self.out_channels)):
                if self.out_channels[j] == 0:
                    continue
                resized = F.max_pool2d(x, 2 ** (j - i)) if i < j else x
                y = F.conv2d(resized, weight[out_slice, in_slice], padding=self.kernel_size // 2)
                if i > j:
                    y = F.interpolate(y, scale_factor=2 ** (i - j), mode="bilinear", align_corners=False)
                outputs[j] = y if outputs[j] is None else outputs[j] + y
        return outputs


class ScaledConv2d(nn.Conv2d):
    """``nn.Conv2d`` that computes with ``WEIGHT_SCALE * weight``; the stored weight is the unscaled one."""

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, WEIGHT_SCALE * self.weight, self.bias)


class _BranchNormAct(nn.Module):
    """Batch normalisation and per-channel PReLU for every branch that has channels; a base class."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        # `None` keeps the place of an empty branch, so that names go by branch.
        self.bns = nn.ModuleList([nn.BatchNorm2d(c) if c else None for c in channels])
        self.prelus = nn.ModuleList([nn.PReLU(c) if c else None for c in channels])

    def norm_act(self, feature: Feature) -> Feature:
        return [
            None if x is None else prelu(bn(x)) for x, bn, prelu in zip(feature, self.bns, self.prelus, strict=True)
        ]


class ConvBNPReLU(_BranchNormAct):
    """GOctConv, then BN and PReLU per branch; shapes as in :class:`GOctConv`."""

    def __init__(
        self, in_channels: Sequence[int], out_channels: Sequence[int], kernel_size: int = 1, stride: int = 1
    ) -> None:
        super().__init__(out_channels)
        self.conv = GOctConv(in_channels, out_channels, kernel_size, stride)

    def forward(self, inputs: Feature) -> Feature:
        return self.norm_act(self.conv(inputs))


class SimplifiedOctConv(_BranchNormAct):
    """Depthwise 3x3 convolution, BN and PReLU within each branch, no exchange between branches; shapes are kept."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__(channels)
        self.convs = nn.ModuleList(
            [ScaledConv2d(c, c, 3, padding=1, groups=c, bias=False) if c else None for c in channels]
        )

    def forward(self, inputs: Feature) -> Feature:
        return self.norm_act([None if x is None else conv(x) for x, conv in zip(inputs, self.convs, strict=True)])


class ILBlock(nn.Module):
    """In-layer multi-scale block: one gOctConv mixes channels and scales, two depthwise 3x3 layers look around.

    ``(N, in_channels[i], H / 2**i, W / 2**i) -> (N, out_channels[j], H' / 2**j, W' / 2**j)`` with ``H' = H / stride``.
    """

    def __init__(
        self, in_channels: Sequence[int], out_channels: Sequence[int], kernel_size: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        self.conv1x1 = ConvBNPReLU(in_channels, out_channels, kernel_size, stride)  # 3x3 in the first of a stage
        self.conv3x3_1 = SimplifiedOctConv(out_channels)
        self.conv3x3_2 = SimplifiedOctConv(out_channels)

    def forward(self, inputs: Feature) -> Feature:
        return self.conv3x3_2(self.conv3x3_1(self.conv1x1(inputs)))


class DilatedBranch(nn.Module):
    """Parallel dilated 3x3 convolutions, concatenated, then one BN and one PReLU.

    ``(N, in_channels, H, W) -> (N, sum(channels_per_dilation), H, W)``; a dilation with zero channels is left out.
    """

    def __init__(self, in_channels: int, channels_per_dilation: Sequence[int]) -> None:
        super().__init__()
        self.msconv = nn.ModuleList(
            [
                ScaledConv2d(in_channels, c, 3, padding=d, dilation=d, bias=False) if c else None
                for c, d in zip(channels_per_dilation, DILATIONS, strict=True)
            ]
        )
        self.bn = nn.BatchNorm2d(sum(channels_per_dilation))
        self.prelu = nn.PReLU(sum(channels_per_dilation))

    def forward(self, x: Tensor) -> Tensor:
        return self.prelu(self.bn(torch.cat([conv(x) for conv in self.msconv if conv is not None], dim=1)))


class DilatedBlock(nn.Module):
    """A :class:`DilatedBranch` per scale: ``(N, in_channels[i], H_i, W_i) -> (N, sum(dilated[i]), H_i, W_i)``."""

    def __init__(self, in_channels: Sequence[int], dilated: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                DilatedBranch(c, per_dilation) if c and sum(per_dilation) else None
                for c, per_dilation in zip(in_channels, dilated, strict=True)
            ]
        )

    def forward(self, inputs: Feature) -> Feature:
        return [None if conv is None else conv(x) for x, conv in zip(inputs, self.convs, strict=True)]


class CrossStageFusion(nn.Module):
    """Mix the last outputs of stages 2 to 4 across their scales, look around at several dilations, mix to the finest.

    ``[(N, in_channels[i], H / 2**i, W / 2**i)] -> (N, merge, H, W)``.
    """

    def __init__(
        self, in_channels: Sequence[int], fuse: Sequence[int], dilated: Sequence[Sequence[int]], merge: int
    ) -> None:
        super().__init__()
        self.fuse = ConvBNPReLU(in_channels, fuse)
        self.ms = DilatedBlock(fuse, dilated)
        self.fuse1x1 = ConvBNPReLU([sum(per_dilation) for per_dilation in dilated], [merge])

    def forward(self, inputs: Feature) -> Tensor:
        (merged,) = self.fuse1x1(self.ms(self.fuse(inputs)))
        return merged


@dataclass(frozen=True)
class Layers:
    """Output channels of every layer; the input channels follow.

    stages:  per stage, per ILBlock, per branch. The last block of stages 2 to 4 has a single branch.
    fuse:    per scale, of the first fusion convolution.
    dilated: per scale, per dilation (1, 2, 4, 8, 16).
    merge:   of the second fusion convolution.
    """

    stages: list[list[list[int]]]
    fuse: list[int]
    dilated: list[list[int]]
    merge: int


def csnet_layers(width: float = 1.0, split: Sequence[float] = (0.5, 0.5)) -> Layers:
    """The hand-designed CSNet-x`width`; `split` gives each branch's share of a layer's channels."""
    base = round(20 * width)
    shares = [0.0, *accumulate(share / sum(split) for share in split)]

    def branches(channels: int) -> list[int]:
        bounds = [round(channels * share) for share in shares]
        return [stop - start for start, stop in pairwise(bounds)]

    stages = [[branches(base)], [branches(base)] * 3]
    stages += [[branches(m * base)] * (blocks - 1) + [[m * base]] for m, blocks in ((2, 4), (4, 6), (4, 4))]
    fuse = [m * base // 3 for m in (2, 4, 4)]
    dilated = [[c // 5] * 4 + [c - 4 * (c // 5)] for c in fuse]
    return Layers(stages, fuse, dilated, sum(fuse))


class CSNet(nn.Module):
    """``(N, 3, H, W)`` normalised image ``-> (N, 1, H, W)`` logits; H and W are multiples of 16.

    Either the hand-designed network of a width and a split, or any learned one by its `layers`.
    """

    def __init__(
        self, width: float = 1.0, split: Sequence[float] = (0.5, 0.5), *, layers: Layers | None = None
    ) -> None:
        super().__init__()
        self.layers = layers = layers or csnet_layers(width, split)
        channels = [3]
        stage_outputs = []
        for s, blocks in enumerate(layers.stages):
            stage = nn.Sequential()
            for b, out_channels in enumerate(blocks):
                # The first block of a stage is 3x3 and halves the size, except that stage 0 keeps the image's size
                # and stage 1 goes on from it.
                kernel_size, stride = (3, 2) if b == 0 and s >= 2 else (3, 1) if s == 0 else (1, 1)
                stage.append(ILBlock(channels, out_channels, kernel_size, stride))
                channels = out_channels
            self.add_module(f"stage{s}", stage)
            stage_outputs.append(channels)
        self.oct_fuse = CrossStageFusion([c[0] for c in stage_outputs[2:]], layers.fuse, layers.dilated, layers.merge)
        self.cls_layer = nn.Conv2d(layers.merge, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        feature = self.stage1(self.stage0([x]))
        scales = []
        for stage in (self.stage2, self.stage3, self.stage4):
            feature = stage(feature)
            scales.append(feature[0])
        logits = self.cls_layer(self.oct_fuse(scales))
        return F.interpolate(logits, size=x.shape[2:], mode="bilinear", align_corners=False)


class DynamicDecay:
    """Dynamic weight decay: decay every BN scale of the ILBlocks in proportion to how strong its channel's output is.

    Watches the model's forward passes; after one in training mode :meth:`penalty` is

        1/2 * sum_c M_c * gamma_c**2,    M_c = mean over the batch of |mean over h, w of the channel after PReLU|

    with `M` a constant, so that `gamma_c` gets the gradient ``M_c * gamma_c``, to be scaled by the caller (3 in the
    paper). :meth:`parameter_groups` keeps these gammas out of the ordinary weight decay. :meth:`remove` stops watching.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._layers = [
            layer
            for block in model.modules()
            if isinstance(block, ILBlock)
            for layer in (block.conv1x1, block.conv3x3_1, block.conv3x3_2)
        ]
        self._strength: dict[nn.Module, list[Tensor | None]] = {}
        self._handles = [layer.register_forward_hook(self._measure) for layer in self._layers]

    @torch.no_grad()
    def _measure(self, layer: nn.Module, _inputs: tuple, outputs: Feature) -> None:
        if layer.training:  # (N, C, H, W) -> (C,)
            self._strength[layer] = [None if y is None else y.mean((2, 3)).abs().mean(0) for y in outputs]

    def gammas(self) -> list[nn.Parameter]:
        """The BN scales under dynamic decay."""
        return [bn.weight for layer in self._layers for bn in layer.bns if bn is not None]

    def parameter_groups(self, weight_decay: float) -> list[dict]:
        """For a PyTorch optimiser: the dynamically decayed gammas without weight decay, all others with it."""
        gammas = self.gammas()
        decayed = {id(gamma) for gamma in gammas}
        others = [p for p in self._model.parameters() if id(p) not in decayed]
        return [{"params": others, "weight_decay": weight_decay}, {"params": gammas, "weight_decay": 0.0}]

    def penalty(self) -> Tensor:
        """The unscaled penalty of the last forward pass in training mode, a scalar."""
        if len(self._strength) != len(self._layers):
            raise RuntimeError("DynamicDecay.penalty() needs a forward pass of the model in training mode first.")
        strengths = [m for layer in self._layers for m in self._strength[layer] if m is not None]
        return 0.5 * torch.cat(strengths).dot(torch.cat(self.gammas()).square())

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()
