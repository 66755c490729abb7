"""CSNet (paper, section 3; csnet.md, section 2): blocks in five stages, cross-stage fusion, a 1x1 classifier."""

import copy
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from .. import functional as f
from .. import nn
from ..autograd.tensor import Tensor
from ..checks import require
from .configuration import Configuration, Layer


class Extractor(nn.Module):
    """The five stages; returns what the last blocks of the fused ones give, and None for a stage between them that is
    not fused. Each is half the size of the one before."""

    def __init__(self, configuration: Configuration, dtype: DTypeLike):
        layers = {layer.name: layer for layer in configuration.layers()}
        block_type = nn.VanillaBlock if configuration.variant == "vanilla" else nn.ILBlock
        self.fused = configuration.fused
        self.stages = []
        for s, stage in enumerate(configuration.stages):
            mixes = [layers[f"extractor.stages.{s}.{b}.mix"] for b in range(len(stage))]
            self.stages.append([block_type(m.inputs, m.outputs, m.kernel_size, m.stride, dtype) for m in mixes])

    def forward(self, x: Tensor) -> list[Tensor | None]:
        maps, outputs = [x], []
        for stage, blocks in enumerate(self.stages):
            for block in blocks:
                maps = block(maps)
            if stage >= self.fused[0]:
                outputs.append(maps[0] if stage in self.fused else None)
        return outputs


class CrossStageFusion(nn.Module):
    """gOctConv over the fused stages' scales, parallel dilated convolutions, gOctConv to a single scale."""

    def __init__(self, configuration: Configuration, dtype: DTypeLike):
        layers = {layer.name: layer for layer in configuration.layers()}
        fuse, dilated, merge = (layers[f"fusion.{name}"] for name in ("fuse", "dilated", "merge"))
        self.fuse = nn.OctaveLayer(fuse.inputs, fuse.outputs, dtype=dtype)
        self.dilated = nn.DilatedLayer(dilated.inputs, dilated.dilations, dtype)
        self.merge = nn.OctaveLayer(merge.inputs, merge.outputs, dtype=dtype)

    def forward(self, maps: Sequence[Tensor | None]) -> Tensor:
        return self.merge(self.dilated(self.fuse(maps)))[-1]


class CSNet(nn.Module):
    """Images (N, 3, H, W), normalised, H and W multiples of `configuration.multiple` -> logits.

    Of salient objects, (N, 1, H, W); or of classes of pictures, (N, classes), if the configuration has any. With side
    outputs, it returns a list in training: the logits, then those of each fused stage, (N, 1, H, W) all.

    size: the side in pixels of the square pictures it is trained on; for a new network, the paper's 224 or the next
    multiple that it accepts. It finds objects best at this size, so `octsod.predict` and `octsod.evaluate` use it, and
    weight files keep it. labels: the names of the classes, if they have any.
    """

    architecture = "csnet"

    def __init__(self, configuration: Configuration, dtype: DTypeLike = "float32"):
        dtype = np.dtype(dtype)
        require(dtype in (np.float32, np.float64), "csnet", "dtype", f"is {dtype}", "float32 or float64")
        c = self.configuration = configuration
        self.size = c.usual_size
        self.labels: tuple[str, ...] = ()
        *_, last = c.layers()
        self.extractor = Extractor(c, dtype)
        self.fusion = CrossStageFusion(c, dtype) if c.variant == "csnet" else None
        self.classifier = (nn.Linear if c.classes else nn.Conv2d)(last.inputs[0], last.outputs[0], dtype=dtype)
        sides = [layer for layer in c.layers() if layer.training_only]
        self.sides = [nn.Conv2d(layer.inputs[0], layer.outputs[0], dtype=dtype) for layer in sides]

    @property
    def dtype(self) -> np.dtype:
        return self.classifier.weight.dtype

    def constants(self) -> tuple[Any, ...]:
        return self.plain_settings()

    def forward(self, x: Tensor) -> Any:
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
        maps = self.extractor(x)
        features = maps[-1] if self.fusion is None else self.fusion(maps)
        if self.configuration.classes:
            return self.classifier(f.global_average_pool(features))
        logits = _resized(self.classifier(features), x)
        if not (self.sides and self.training):
            return logits
        outputs = (y for y in maps if y is not None)
        return [logits, *(_resized(side(y), x) for side, y in zip(self.sides, outputs, strict=True))]

    def parts(self) -> dict[str, list[nn.Module]]:
        """name -> modules of the parts that can be frozen: extractor, stage0 to stage4, fuse (the cross-stage fusion),
        classifier, and the names of all modules."""
        found: dict[str, list[nn.Module]] = {"extractor": [self.extractor]}
        found.update({f"stage{s}": list(blocks) for s, blocks in enumerate(self.extractor.stages)})
        if self.fusion is not None:
            found["fuse"] = [self.fusion]
        found["classifier"] = [self.classifier]
        return {**{name: [module] for name, module in self.named_modules() if name}, **found}

    def layers(self) -> Iterator[tuple[Layer, nn.Module]]:
        """Each layer's description, see `Configuration.layers`, and its module."""
        modules = dict(self.named_modules())
        return ((layer, modules[layer.name]) for layer in self.configuration.layers())

    def deployed(self) -> "CSNet":
        """The network without what exists in training only: itself, or a copy with fewer layers."""
        configuration = self.configuration.deployed()
        if configuration == self.configuration:
            return self
        model = copy.deepcopy(self)
        model.configuration, model.sides = configuration, []
        return model

    def take_over(self, other: "CSNet") -> list[str]:
        """Copy the weights and statistics of all layers that another network has with the same channels; returns the
        names of the layers left as they were, such as a new classifier."""
        theirs = {layer.name: layer for layer in other.configuration.layers()}
        state, left = self.state_dict(), []
        given = other.state_dict()
        for layer in self.configuration.layers():
            names = [name for name in state if name.startswith(f"{layer.name}.")]
            # In the same order, though a norm may belong to another branch: a classifier's fusion leads to another one.
            sources = [name for name in given if name.startswith(f"{layer.name}.")]
            if _channels(layer) == _channels(theirs.get(layer.name)):
                state.update({n: given[source] for n, source in zip(names, sources, strict=True)})
            else:
                left.append(layer.name)
        self.load_state_dict(state)
        return left


def _channels(layer):
    """What two layers must have in common for one to take over the other's weights."""
    if layer is None:
        return None
    outputs = tuple(filter(None, layer.outputs)) if layer.name == "fusion.merge" else layer.outputs
    side = layer.reads if layer.training_only else None  # their names count them, whichever stages they belong to
    return layer.kind, layer.inputs, outputs, layer.dilations, layer.kernel_size, layer.single, side


def _resized(logits, x):
    return logits if logits.shape[2:] == x.shape[2:] else f.upsample_bilinear(logits, x.shape[2:])


def csnet(
    width: float = 1.0, split: Iterable[float] = (0.5, 0.5), variant: str = "csnet", fused: Iterable[int] | None = None,
    classes: int = 0, sides: bool = False, dtype: DTypeLike = "float32",
) -> CSNet:  # fmt: skip
    """A freshly initialised CSNet-x`width` whose channels are split over the scales by `split`.

    variant: "csnet", or the paper's "extractor" or "vanilla" of table 6, both without a fusion. fused: the stages that
    merge their branches, whose outputs a CSNet fuses; by default (2, 3, 4), or (4,) for an extractor. classes: 0 to
    find salient objects; else how many classes of pictures to tell apart. sides: with side outputs of the fused stages
    in training. See `Configuration`.
    """
    return CSNet(Configuration.standard(width, split, variant, fused, classes, sides), dtype)
