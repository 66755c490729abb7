"""Parameters and multiply-accumulates of a CSNet, by the authors' count (csnet.md, section 2)."""

import dataclasses
import itertools
from typing import TYPE_CHECKING, Any

from ..checks import require, require_integer, shortened

if TYPE_CHECKING:
    from ..models import Configuration, CSNet, Layer


@dataclasses.dataclass(frozen=True)
class Complexity:
    """parameters: learned numbers. macs: multiply-accumulates for one image, by the authors' count."""

    parameters: int
    macs: int


def complexity(model: "CSNet | Configuration", size: tuple[int, int] | None = None) -> Complexity:
    """Parameters and MACs of a CSNet, or of one of some configuration, for one image of `size` (height, width).

    size: by default 224x224, or the next larger square that the network accepts. What exists in training only is left
    out.

    MACs: convolutions (+1 per output element with a bias), 4 per element of a batch norm, 3 of a PReLU; inside every
    gOctConv with more than one branch on a side, 5 per input element averaged for stride 2, 9 per element upsampled,
    and k*k per element max-pooled, with k the convolution's kernel size. Of a classifier of pictures, 1 per element
    that is averaged. The last upsampling is not counted.

    Raises ValueError unless height and width are positive multiples of the configuration's `multiple`.
    """
    configuration: Any = getattr(model, "configuration", model)
    multiple = configuration.multiple
    sides: Any = (configuration.usual_size,) * 2 if size is None else size
    two = isinstance(sides, (tuple, list)) and len(sides) == 2
    require(two, "complexity", "size", f"is {shortened(repr(sides))}", "(height, width)")
    height, width = (require_integer(side, "complexity", "size", 1) for side in sides)
    require(
        height % multiple == width % multiple == 0, "complexity", "size", f"is {height}x{width}",
        f"positive multiples of {multiple}",
    )  # fmt: skip
    layers = [layer for layer in configuration.layers() if not layer.training_only]
    parameters = sum(map(parameter_count, layers))
    return Complexity(parameters, sum(_macs(layer, height >> layer.scale, width >> layer.scale) for layer in layers))


def parameter_count(layer: "Layer") -> int:
    """The learned numbers of a layer: weights, and per channel three of batch norm and PReLU, or a bias."""
    per_channel = 3 if layer.normed else 1
    return layer.weights + per_channel * sum(layer.outputs)


def _macs(layer, height, width):
    """MACs of a layer whose first output branch has height x width pixels."""
    if layer.kind == "octave":
        return _octave(layer, height, width)
    if layer.kind == "linear":
        (ins,), (outs,) = layer.inputs, layer.outputs
        return ins * height * width + (ins + 1) * outs
    macs = 0
    for branch, (ins, outs) in enumerate(zip(layer.inputs, layer.outputs, strict=True)):
        taps = layer.kernel_size**2 * (1 if layer.kind == "depthwise" else ins)
        macs += (taps + (7 if layer.normed else 1)) * outs * (height >> branch) * (width >> branch)
    return macs


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
    ins_of, outs_of = layer.inputs, layer.outputs
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
    return macs + sum(7 * n * (height >> j) * (width >> j) for j, n in enumerate(layer.outputs))
