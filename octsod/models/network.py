"""CSNet (paper, section 3; csnet.md, section 2): ILBlocks in five stages, cross-stage fusion, a 1x1 classifier."""

import math
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import DTypeLike

from .. import functional as f
from .. import nn
from ..autograd.tensor import Tensor
from ..checks import require
from .configuration import FUSED, Configuration


class Extractor(nn.Module):
    """The five stages; returns the last outputs (finest branch) of stages 2, 3 and 4, at 1/2, 1/4, 1/8 of the input."""

    def __init__(self, configuration: Configuration, dtype: DTypeLike):
        self.stages = []
        for s, (ins, outs) in enumerate(zip(configuration.inputs(), configuration.stages, strict=True)):
            blocks = []
            for b, (i, o) in enumerate(zip(ins, outs, strict=True)):
                first = b == 0
                kernel_size = 3 if first and s != 1 else 1
                stride = 2 if first and s >= 2 else 1
                blocks.append(nn.ILBlock(i, o, kernel_size, stride, dtype))
            self.stages.append(blocks)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps, outputs = [x], []
        for stage, blocks in enumerate(self.stages):
            for block in blocks:
                maps = block(maps)
            if stage in FUSED:
                outputs.append(maps[0])
        return outputs


class CrossStageFusion(nn.Module):
    """gOctConv over three scales, parallel dilated convolutions, gOctConv to the finest scale."""

    def __init__(self, in_channels: Sequence[int], configuration: Configuration, dtype: DTypeLike):
        c = configuration
        self.fuse = nn.OctaveLayer(in_channels, c.fuse, dtype=dtype)
        self.dilated = nn.DilatedLayer(c.fuse, c.dilated, dtype)
        self.merge = nn.OctaveLayer([sum(d) for d in c.dilated], [c.merge], dtype=dtype)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        return self.merge(self.dilated(self.fuse(maps)))[0]


class CSNet(nn.Module):
    """Salient object detection: images (N, 3, H, W), normalised, H and W multiples of 16 -> logits (N, 1, H, W).

    size: the side in pixels of the square pictures it is trained on; for a new network, the paper's 224 or the next
    multiple that it accepts. It finds objects best at this size, so `octsod.predict` and `octsod.evaluate` use it, and
    weight files keep it.
    """

    def __init__(self, configuration: Configuration, dtype: DTypeLike = "float32"):
        dtype = np.dtype(dtype)
        require(dtype in (np.float32, np.float64), "csnet", "dtype", f"is {dtype}", "float32 or float64")
        self.configuration = configuration
        self.size = math.ceil(224 / configuration.multiple) * configuration.multiple
        self.extractor = Extractor(configuration, dtype)
        self.fusion = CrossStageFusion([configuration.stages[s][-1][0] for s in FUSED], configuration, dtype)
        self.classifier = nn.Conv2d(configuration.merge, 1, dtype=dtype)

    @property
    def dtype(self) -> np.dtype:
        return self.classifier.weight.dtype

    def forward(self, x: Tensor) -> Tensor:
        require(
            x.ndim == 4 and x.shape[1] == 3, "csnet", "x", f"has shape {tuple(x.shape)}",
            "(N, 3, H, W), normalised RGB images",
        )  # fmt: skip
        require(x.dtype == self.dtype, "csnet", "x", f"has dtype {x.dtype}", f"{self.dtype}, the model's")
        multiple = self.configuration.multiple
        require(
            all(n > 0 and n % multiple == 0 for n in x.shape[2:]) and x.shape[0] > 0, "csnet", "x",
            f"has shape {tuple(x.shape)}", f"height and width that are positive multiples of {multiple}",
        )  # fmt: skip
        logits = self.classifier(self.fusion(self.extractor(x)))
        return f.upsample_bilinear(logits, x.shape[2:])


def csnet(width: float = 1.0, split: Iterable[float] = (0.5, 0.5), dtype: DTypeLike = "float32") -> CSNet:
    """A freshly initialised CSNet-x`width` whose channels are split over the scales by `split`."""
    return CSNet(Configuration.standard(width, split), dtype)
