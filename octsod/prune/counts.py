"""Parameters and multiply-accumulates of a CSNet, by the authors' count (csnet.md, section 2)."""

import dataclasses
import itertools
from typing import TYPE_CHECKING

from ..checks import require

if TYPE_CHECKING:
    from ..models import CSNet


@dataclasses.dataclass(frozen=True)
class Complexity:
    """parameters: learned numbers. macs: multiply-accumulates for one image, by the authors' count."""

    parameters: int
    macs: int


def complexity(model: "CSNet", size: tuple[int, int] = (224, 224)) -> Complexity:
    """Parameters and MACs of a CSNet for one image of `size` (height, width).

    MACs: convolutions (+1 per output element with a bias), 4 per element of a batch norm, 3 of a PReLU; inside every
    gOctConv with more than one branch on a side, 5 per input element averaged for stride 2, 9 per element upsampled,
    and k*k per element max-pooled, with k the convolution's kernel size. The last upsampling is not counted.

    Raises ValueError unless height and width are positive multiples of `model.configuration.multiple`.
    """
    height, width = size
    multiple = model.configuration.multiple
    require(
        all(n > 0 and n % multiple == 0 for n in size), "complexity", "size", f"is {height}x{width}",
        f"positive multiples of {multiple}",
    )  # fmt: skip
    macs = 0
    for stage, blocks in enumerate(model.extractor.stages):
        for number, block in enumerate(blocks):
            if stage >= 2 and number == 0:
                height, width = height // 2, width // 2
            macs += _octave(block.mix, height, width)
            for layer in block.depthwise:
                macs += sum((9 + 7) * n * (height >> i) * (width >> i) for i, n in enumerate(layer.channels))
    height, width = size[0] // 2, size[1] // 2
    fusion = model.fusion
    macs += _octave(fusion.fuse, height, width)
    for i, (ins, outs) in enumerate(zip(fusion.dilated.in_channels, fusion.dilated.channels, strict=True)):
        macs += (9 * ins + 7) * sum(outs) * (height >> i) * (width >> i)
    macs += _octave(fusion.merge, height, width)
    macs += (model.classifier.weight.shape[1] + 1) * height * width
    return Complexity(sum(p.size for p in model.parameters()), macs)


def _counted(channels):
    """Channels per branch as the authors' counter sees them.

    It takes a branch's bounds as int(total * running sum of shares): truncated, where the network itself rounds. With
    the error of the running sum that moves a channel to the next branch here and there (53 channels of width 2's fusion
    become 52), and their published numbers contain it.
    """
    total, share, bounds = sum(channels), 0.0, [0]
    for n in channels:
        share += n / total
        bounds.append(int(total * share))
    return [b - a for a, b in itertools.pairwise(bounds)]


def _octave(layer, height, width):
    """MACs of a gOctConv with its norms; height x width is the size of output branch 0."""
    k2 = layer.kernel_size**2
    macs = 0
    ins_of, outs_of = layer.in_channels, layer.out_channels
    if not layer.single:
        ins_of, outs_of = _counted(ins_of), _counted(outs_of)
    for i, ins in enumerate(ins_of):
        if layer.stride == 2 and not layer.single:
            macs += 5 * ins * (2 * height >> i) * (2 * width >> i)
        for j, outs in enumerate(outs_of):
            pixels = (height >> max(i, j)) * (width >> max(i, j))
            macs += k2 * ins * outs * pixels
            if i < j:  # counted even where output j has no channels
                macs += k2 * ins * pixels
            if i > j and ins:
                macs += 9 * outs * (height >> j) * (width >> j)
    return macs + sum(7 * n * (height >> j) * (width >> j) for j, n in enumerate(layer.out_channels))
