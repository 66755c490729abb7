"""The shape of a CSNet: its layers, and how many channels each has at each scale."""

import dataclasses
import functools
import itertools
import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from ..checks import require
from ..errors import detail
from ..files import parse_json
from ..nn import DilatedLayer

VARIANTS = {"csnet": (2, 3, 4), "extractor": (4,), "vanilla": (2, 3, 4)}  # each with the stages that are usually fused
DILATIONS = DilatedLayer.dilations
BLOCKS = (1, 3, 4, 6, 4)  # per stage
MULTIPLES = (1, 1, 2, 4, 4)  # of the base width
SCALES = (0, 0, 1, 2, 3)  # per stage: its first branch has the picture's size divided by 2**scale
MOST_BLOCKS, MOST_BRANCHES = 100, 8  # per stage and per block: far more than useful; bounds what a file may ask for
MOST_WIDTH, MOST_CHANNELS = 50, 4096  # a width of 50 makes up to 4000 channels
MOST_CLASSES = 10_000  # the table of who is taken for whom has their square
IMAGE = "image"  # what the first layer reads


class Layer(NamedTuple):
    """A layer of a network, as `Configuration.layers` lists it.

    name: of its module in the network. kind: "octave" (a gOctConv), "depthwise", "dilated", "conv" (1x1, with bias) or
    "linear" (global average pooling, then a linear layer with bias). All but the last two end with batch norm and PReLU
    per branch. inputs, outputs: channels per branch, finest first, 0 for a missing one; branch i has half the size of
    branch i - 1. kernel_size, stride: of the convolution. scale: the first output branch has the picture's size divided
    by 2**scale. reads: per input branch, the name of the layer that makes it and which of its branches it is; None for
    a missing one; the picture is branch 0 of `IMAGE`. dilations: of a dilated layer, per branch, the outputs of each of
    `DILATIONS`. training_only: whether it is left out when the network is used.
    """

    name: str
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    kernel_size: int
    stride: int
    scale: int
    reads: tuple[tuple[str, int] | None, ...]
    dilations: tuple[tuple[int, ...], ...] = ()
    training_only: bool = False

    @property
    def block(self) -> str:
        """The name of the block that it is a part of; else its own."""
        parts = self.name.split(".")
        return ".".join(parts[:4]) if parts[0] == "extractor" else self.name

    @property
    def single(self) -> bool:
        """Whether one branch leads to one, by the length of the lists: then a gOctConv is an ordinary convolution."""
        return len(self.inputs) == len(self.outputs) == 1

    @property
    def normed(self) -> bool:
        """Whether batch norm and PReLU follow."""
        return self.kind not in ("conv", "linear")

    @property
    def makes_channels(self) -> bool:
        """Whether it makes maps of what it reads; a depthwise layer passes them on, and the last ones end there."""
        return self.kind in ("octave", "dilated")

    @property
    def weights(self) -> int:
        """How many weights its convolutions have."""
        taps = self.kernel_size**2
        if self.kind == "depthwise":
            return sum(self.inputs) * taps
        if self.kind == "dilated":
            return sum(i * o for i, o in zip(self.inputs, self.outputs, strict=True)) * taps
        return sum(self.inputs) * sum(self.outputs) * taps


def block_layer(name: str) -> tuple[int, int, int] | None:
    """(stage, block, number in the block) of a layer of the extractor, by its name; None for any other layer."""
    found = re.fullmatch(r"extractor\.stages\.(\d{1,3})\.(\d{1,3})\.(?:mix|(?:depthwise|full)\.(\d))", name)
    return found and (int(found[1]), int(found[2]), 0 if found[3] is None else 1 + int(found[3]))


def split_channels(total: int, split: Iterable[float]) -> tuple[int, ...]:
    """`total` channels divided according to `split`: bounds are round(total * cumulative share)."""
    bounds = [0, *(round(total * share) for share in itertools.accumulate(split))]
    bounds[-1] = total
    return tuple(b - a for a, b in itertools.pairwise(bounds))


@dataclasses.dataclass(frozen=True)
class Configuration:
    """Which layers a CSNet has, with channels per branch (finest first; zero for a missing one).

    stages: per stage, per block, the output channels of its ILBlock; the last block of a fused stage has one branch.
    variant: "csnet"; "extractor", which has no fusion: the classifier reads stage 4; or "vanilla", an extractor whose
    depthwise layers are full OctConvs 3x3 (paper, table 6). fused: the stages whose branches their last block merges,
    among 1 to 4, the last always; a CSNet fuses these outputs.
    fuse: outputs of the first fusion convolution, per scale from that of the first fused stage to that of stage 4.
    dilated: per scale, the channels of the dilations 1, 2, 4, 8, 16. merge: outputs of the second fusion convolution.
    classes: 0 for a network that finds salient objects; else, how many classes of pictures it tells apart: the fusion
    then leads to the lowest resolution, and global average pooling and a linear layer follow (paper, section 5.1.2).
    sides: whether each fused stage has a side output, a 1x1 convolution, in training.
    """

    stages: tuple[tuple[tuple[int, ...], ...], ...]
    fuse: tuple[int, ...] = ()
    dilated: tuple[tuple[int, ...], ...] = ()
    merge: int = 0
    variant: str = "csnet"
    fused: tuple[int, ...] = VARIANTS["csnet"]
    classes: int = 0
    sides: bool = False

    def __post_init__(self):
        op = "Configuration"
        for name, depth in (("stages", 3), ("fuse", 1), ("dilated", 2), ("fused", 1)):
            object.__setattr__(self, name, _nested(op, name, getattr(self, name), depth))
        _require_variant(op, self.variant, self.fused)
        require(len(self.stages) == len(BLOCKS), op, "stages", f"has {len(self.stages)} entries", f"{len(BLOCKS)}")
        counts = [n for stage in self.stages for block in stage for n in block]
        counts += [*self.fuse, *(n for scale in self.dilated for n in scale), self.merge]
        for n in counts:
            fits = type(n) is int and 0 <= n <= MOST_CHANNELS
            require(fits, op, "channels", f"contain {n!r}", f"counts from 0 to {MOST_CHANNELS}")
        for s, stage in enumerate(self.stages):
            count = len(stage)
            require(0 < count <= MOST_BLOCKS, op, f"stages[{s}]", f"has {count} blocks", f"1 to {MOST_BLOCKS}")
            for b, block in enumerate(stage):
                name, count = f"stages[{s}][{b}]", len(block)
                require(count <= MOST_BRANCHES, op, name, f"has {count} branches", f"at most {MOST_BRANCHES}")
                require(sum(block) > 0, op, name, f"is {block}", "at least one channel")
        known = type(self.classes) is int and 0 <= self.classes <= MOST_CLASSES
        require(known, op, "classes", f"is {self.classes!r}", f"a count from 0 to {MOST_CLASSES}")
        for s in self.fused:
            last = self.stages[s][-1]
            require(len(last) == 1, op, f"stages[{s}][-1]", f"has {len(last)} branches", "one: the stage's last merge")
        require(type(self.sides) is bool, op, "sides", f"is {self.sides!r}", "true or false")
        require(not (self.sides and self.classes), op, "sides", "is true of a classifier", "false")
        if self.variant == "csnet":
            self._require_fusion(op)
        else:
            bare = not (self.fuse or self.dilated or self.merge)
            was = f"is {self.fuse}, {self.dilated}, {self.merge}"
            require(bare, op, "fuse, dilated, merge", was, f"nothing: variant {self.variant!r} has no fusion")

    def _require_fusion(self, op):
        count = len(self.fusion_inputs)
        require(len(self.fuse) == count, op, "fuse", f"is {self.fuse}", f"{count} counts, one per scale")
        require(sum(self.fuse) > 0 and self.merge > 0, op, "fuse", f"is {self.fuse}, {self.merge}", "some channels")
        require(
            len(self.dilated) == count and all(len(d) == len(DILATIONS) for d in self.dilated), op, "dilated",
            f"is {self.dilated}", f"{len(DILATIONS)} counts per scale",
        )  # fmt: skip
        for i, outs in zip(self.fuse, self.dilated, strict=True):
            require(i > 0 or not sum(outs), op, "dilated", f"is {outs} on a scale without inputs", "zeros there")
        require(any(sum(d) for d in self.dilated), op, "dilated", "has no channels", "at least one")

    @classmethod
    def standard(
        cls, width: float = 1.0, split: Iterable[float] = (0.5, 0.5), variant: str = "csnet",
        fused: Iterable[int] | None = None, classes: int = 0, sides: bool = False,
    ) -> "Configuration":  # fmt: skip
        """The paper's CSNet-x`width` with its channels split over the scales by `split` (csnet.md, section 2).

        variant, classes, sides: as of a configuration. fused: likewise; None for what is usual for the variant.
        """
        op = "csnet"
        number = isinstance(width, (int, float)) and not isinstance(width, bool) and 0 < width <= MOST_WIDTH
        require(number, op, "width", f"is {width!r}", f"a positive number up to {MOST_WIDTH}")
        try:
            shares = tuple(float(s) for s in split)
        except (TypeError, ValueError, OverflowError):
            shares = ()
        fits = 0 < len(shares) <= 3 and all(0 <= s < math.inf for s in shares) and sum(shares) > 0
        require(fits, op, "split", f"is {split!r}", "one to three shares that are not negative")
        split = shares
        split = tuple(s / sum(split) for s in split)
        base = round(20 * width)
        require(base >= 4, op, "width", f"is {width!r}", "at least 0.2")
        usual = VARIANTS.get(variant, ()) if isinstance(variant, str) else ()
        fused = usual if fused is None else tuple(fused) if isinstance(fused, Iterable) else fused
        _require_variant(op, variant, fused)
        stages = []
        for stage, (blocks, multiple) in enumerate(zip(BLOCKS, MULTIPLES, strict=True)):
            channels = [split_channels(multiple * base, split)] * blocks
            if stage in fused:
                channels[-1] = (multiple * base,)
            stages.append(tuple(channels))
        if variant != "csnet":
            return cls(tuple(stages), variant=variant, fused=fused, classes=classes, sides=sides)
        # Table 1: a third of a stage's channels, but a quarter of stage 1's.
        fuse = tuple(
            MULTIPLES[s] * base // (4 if s == 1 else 3) if s in fused else 0 for s in range(fused[0], len(BLOCKS))
        )
        parts = len(DILATIONS)
        dilated = tuple((*(c // parts,) * (parts - 1), c - (parts - 1) * (c // parts)) for c in fuse)
        return cls(tuple(stages), fuse, dilated, sum(fuse), variant, fused, classes, sides)

    @property
    def fusion_inputs(self) -> tuple[int, ...]:
        """Channels that the fusion reads, per scale from that of the first fused stage on; 0 for a stage left out."""
        return tuple(self.stages[s][-1][0] if s in self.fused else 0 for s in range(self.fused[0], len(BLOCKS)))

    def layers(self) -> Iterator[Layer]:
        """Each layer of the network once, after those that it reads."""
        reads: tuple[tuple[str, int] | None, ...] = ((IMAGE, 0),)
        inputs: tuple[int, ...] = (3,)
        outputs = {}  # of the fused stages: what reads of their last block
        for s, stage in enumerate(self.stages):
            for b, channels in enumerate(stage):
                name, first, scale = f"extractor.stages.{s}.{b}", b == 0, SCALES[s]
                kernel_size = 3 if first and s != 1 else 1
                stride = 2 if first and s and scale > SCALES[s - 1] else 1
                yield Layer(f"{name}.mix", "octave", inputs, channels, kernel_size, stride, scale, reads)
                last = f"{name}.mix"
                for k in range(2):
                    reads = _branches(last, channels)
                    if self.variant == "vanilla":
                        last, kind = f"{name}.full.{k}", "octave"
                    else:
                        last, kind = f"{name}.depthwise.{k}", "depthwise"
                    yield Layer(last, kind, channels, channels, 3, 1, scale, reads)
                reads, inputs = _branches(last, channels), channels
            if s in self.fused:
                outputs[s] = reads[0]
        if self.sides:
            for k, s in enumerate(self.fused):
                ins = self.stages[s][-1]
                yield Layer(f"sides.{k}", "conv", ins, (1,), 1, 1, SCALES[s], (outputs[s],), training_only=True)
        if self.variant == "csnet":
            finest = self.fused[0]
            scale, inputs = SCALES[finest], self.fusion_inputs
            reads = tuple(outputs.get(s) for s in range(finest, len(BLOCKS)))
            reads = tuple(read if n else None for read, n in zip(reads, inputs, strict=True))
            yield Layer("fusion.fuse", "octave", inputs, self.fuse, 1, 1, scale, reads)
            sums = tuple(map(sum, self.dilated))
            reads = _branches("fusion.fuse", self.fuse)
            yield Layer("fusion.dilated", "dilated", self.fuse, sums, 3, 1, scale, reads, self.dilated)
            # What a classifier reads has the lowest resolution.
            merged = (*(0,) * (len(sums) - 1), self.merge) if self.classes else (self.merge,)
            reads = _branches("fusion.dilated", sums)
            yield Layer("fusion.merge", "octave", sums, merged, 1, 1, scale, reads)
            inputs, read = (self.merge,), ("fusion.merge", len(merged) - 1)
            scale += len(merged) - 1
        else:
            inputs, read, scale = self.stages[-1][-1], (last, 0), SCALES[-1]
        kind, outs = ("linear", self.classes) if self.classes else ("conv", 1)
        yield Layer("classifier", kind, inputs, (outs,), 1, 1, scale, (read,))

    def with_channels(self, channels: Mapping[str, tuple]) -> "Configuration":
        """This network with other numbers of channels.

        channels: by the name of a layer that makes some, per branch; of a dilated layer, per branch and dilation. The
        other layers of a block have those of its first.
        """
        stages = tuple(
            tuple(tuple(channels[f"extractor.stages.{s}.{b}.mix"]) for b in range(len(stage)))
            for s, stage in enumerate(self.stages)
        )
        if self.variant != "csnet":
            return dataclasses.replace(self, stages=stages)
        fuse, dilated, merge = (channels[f"fusion.{name}"] for name in ("fuse", "dilated", "merge"))
        return dataclasses.replace(self, stages=stages, fuse=fuse, dilated=dilated, merge=sum(merge))

    def deployed(self) -> "Configuration":
        """This network without what exists in training only."""
        return dataclasses.replace(self, sides=False)

    def require_at_most(self, count: int) -> None:
        """Raise ValueError if the convolutions of this network have more than `count` weights.

        Call this before building a network that a file describes, with the count of the numbers in it: otherwise,
        a small file could claim all memory.
        """
        weights = sum(layer.weights for layer in self.layers())
        require(weights <= count, "Configuration", "channels", f"make {weights} weights or more", f"at most {count}")

    def largest_map(self, side: int) -> int:
        """How many numbers the largest output of a layer has, over all branches, for a square picture."""
        return round(side * side * max(self._per_pixel))

    def all_maps(self, side: int) -> int:
        """How many numbers the outputs of all layers have, for a square picture: what training keeps for backward, at
        least."""
        return round(side * side * sum(self._per_pixel))

    @functools.cached_property
    def _per_pixel(self):
        """How many numbers each layer's output has per pixel of the picture. Every prediction may ask."""
        maps = (layer for layer in self.layers() if layer.kind != "linear")
        return [sum(n / 4 ** (layer.scale + branch) for branch, n in enumerate(layer.outputs)) for layer in maps]

    @functools.cached_property
    def multiple(self) -> int:
        """An input's height and width must be multiples of this: 16, or more if a layer has over two branches."""
        coarsest = (layer.scale + max(len(layer.inputs), len(layer.outputs)) - 1 for layer in self.layers())
        return max(16, 1 << max(coarsest))

    @property
    def usual_size(self) -> int:
        """The side of the pictures that the network is for, if nothing else is said: the paper's 224, or the next
        multiple that it accepts."""
        return -(-224 // self.multiple) * self.multiple

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Configuration":
        """Raises ValueError on anything that is not a configuration."""
        try:
            values = parse_json(text)
        except ValueError as error:
            raise ValueError(f"not a configuration: {error}") from error
        return cls.from_values(values)

    @classmethod
    def from_values(cls, values: object) -> "Configuration":
        """The configuration that JSON describes by these values. Raises ValueError if it describes none."""
        if not isinstance(values, dict):
            raise ValueError("not a configuration: it is no JSON object")
        try:
            return cls(**values)
        except (TypeError, RecursionError) as error:
            raise ValueError(f"not a configuration: {detail(error)}") from error


def _nested(op, name, value, depth):
    """Lists or tuples, `depth` deep, as tuples. Raises ValueError for anything else."""
    if depth == 0:
        return value
    require(isinstance(value, (list, tuple)), op, name, f"has {value!r:.50}", f"lists of counts, {depth} deep")
    return tuple(_nested(op, name, part, depth - 1) for part in value)


def _require_variant(op, variant, fused):
    """Raise ValueError unless the variant is known and can fuse these stages."""
    require(isinstance(variant, str) and variant in VARIANTS, op, "variant", f"is {variant!r}",
            " or ".join(map(repr, VARIANTS)))  # fmt: skip
    stages = range(1, len(BLOCKS))
    fits = isinstance(fused, tuple) and all(type(s) is int and s in stages for s in fused)
    fits = fits and fused == tuple(sorted(set(fused))) and fused[-1:] == (stages[-1],)
    known = f"ascending stages from {stages[0]} to {stages[-1]}, with {stages[-1]} the last"
    require(fits, op, "fused", f"is {fused!r}", known)


def _branches(name, channels):
    """What a layer that takes all branches of another reads."""
    return tuple((name, branch) if n else None for branch, n in enumerate(channels))
