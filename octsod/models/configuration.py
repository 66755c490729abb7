"""The shape of a CSNet: how many channels each layer has at each scale."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Sequence

from ..checks import require

DILATIONS = 5
BLOCKS = (1, 3, 4, 6, 4)  # per stage
MULTIPLES = (1, 1, 2, 4, 4)  # of the base width
FUSED = (2, 3, 4)  # the stages whose last outputs are fused
MOST_BLOCKS, MOST_BRANCHES = 100, 8  # per stage and per block: far more than useful; bounds what a file may ask for


def split_channels(total: int, split: Iterable[float]) -> tuple[int, ...]:
    """`total` channels divided according to `split`: bounds are round(total * cumulative share)."""
    bounds = [0, *(round(total * share) for share in itertools.accumulate(split))]
    bounds[-1] = total
    return tuple(b - a for a, b in itertools.pairwise(bounds))


@dataclasses.dataclass(frozen=True)
class Configuration:
    """Channels per branch (finest first; zero for a missing one) of every layer of a CSNet.

    stages: per stage, per block, the output channels of its ILBlock; the last block of stages 2 to 4 has one branch.
    fuse: outputs of the first fusion convolution, one per fused stage. dilated: per scale, the channels of the
    dilations 1, 2, 4, 8, 16. merge: outputs of the second fusion convolution.
    """

    stages: tuple[tuple[tuple[int, ...], ...], ...]
    fuse: tuple[int, ...]
    dilated: tuple[tuple[int, ...], ...]
    merge: int

    def __post_init__(self):
        op = "Configuration"
        freeze = lambda v: tuple(freeze(i) for i in v) if isinstance(v, (list, tuple)) else v  # noqa: E731
        for name in ("stages", "fuse", "dilated"):
            object.__setattr__(self, name, freeze(getattr(self, name)))
        require(len(self.stages) == len(BLOCKS), op, "stages", f"has {len(self.stages)} entries", f"{len(BLOCKS)}")
        counts = [n for stage in self.stages for block in stage for n in block]
        counts += [*self.fuse, *(n for scale in self.dilated for n in scale), self.merge]
        for n in counts:
            require(type(n) is int and 0 <= n < 1 << 16, op, "channels", f"contain {n!r}", "counts from 0 to 65535")
        for s, stage in enumerate(self.stages):
            count = len(stage)
            require(0 < count <= MOST_BLOCKS, op, f"stages[{s}]", f"has {count} blocks", f"1 to {MOST_BLOCKS}")
            for b, block in enumerate(stage):
                name, count = f"stages[{s}][{b}]", len(block)
                require(count <= MOST_BRANCHES, op, name, f"has {count} branches", f"at most {MOST_BRANCHES}")
                require(sum(block) > 0, op, name, f"is {block}", "at least one channel")
        for s in FUSED:
            last = self.stages[s][-1]
            require(len(last) == 1, op, f"stages[{s}][-1]", f"has {len(last)} branches", "one: the stage's last merge")
        require(len(self.fuse) == len(FUSED), op, "fuse", f"is {self.fuse}", "one count per fused stage")
        require(sum(self.fuse) > 0 and self.merge > 0, op, "fuse", f"is {self.fuse}, {self.merge}", "some channels")
        require(
            len(self.dilated) == len(FUSED) and all(len(d) == DILATIONS for d in self.dilated), op, "dilated",
            f"is {self.dilated}", f"{DILATIONS} counts per fused stage",
        )  # fmt: skip
        for i, outs in zip(self.fuse, self.dilated, strict=True):
            require(i > 0 or not sum(outs), op, "dilated", f"is {outs} on a scale without inputs", "zeros there")
        require(any(sum(d) for d in self.dilated), op, "dilated", "has no channels", "at least one")

    @classmethod
    def standard(cls, width: float = 1.0, split: Iterable[float] = (0.5, 0.5)) -> "Configuration":
        """The paper's CSNet-x`width` with its channels split over the scales by `split` (csnet.md, section 2)."""
        op = "csnet"
        require(isinstance(width, (int, float)) and width > 0, op, "width", f"is {width!r}", "a positive number")
        split = tuple(float(s) for s in split)
        require(
            0 < len(split) <= 3 and all(s >= 0 for s in split) and sum(split) > 0, op, "split", f"is {split}",
            "one to three shares that are not negative",
        )  # fmt: skip
        split = tuple(s / sum(split) for s in split)
        base = round(20 * width)
        require(base >= 4, op, "width", f"is {width!r}", "at least 0.2")
        stages = []
        for stage, (blocks, multiple) in enumerate(zip(BLOCKS, MULTIPLES, strict=True)):
            channels = [split_channels(multiple * base, split)] * blocks
            if stage in FUSED:
                channels[-1] = (multiple * base,)
            stages.append(tuple(channels))
        fuse = tuple(MULTIPLES[s] * base // 3 for s in FUSED)
        dilated = tuple((*(c // DILATIONS,) * (DILATIONS - 1), c - (DILATIONS - 1) * (c // DILATIONS)) for c in fuse)
        return cls(tuple(stages), fuse, dilated, sum(fuse))

    def inputs(self) -> list[tuple[tuple[int, ...], ...]]:
        """Per stage, per block, the input channels of its ILBlock."""
        before: tuple[int, ...] = (3,)
        inputs = []
        for stage in self.stages:
            inputs.append((before, *stage[:-1]))
            before = stage[-1]
        return inputs

    def require_at_most(self, count: int) -> None:
        """Raise ValueError if the convolutions of this network have more than `count` weights.

        Call this before building a network that a file describes, with the count of the numbers in it: otherwise,
        a small file could claim all memory.
        """
        layers: list[tuple[Sequence[int], Sequence[int]]] = []
        for inputs, outputs in zip(self.inputs(), self.stages, strict=True):
            layers += zip(inputs, outputs, strict=True)
        layers.append(([self.stages[s][-1][0] for s in FUSED], self.fuse))
        layers.append(([sum(scale) for scale in self.dilated], [self.merge]))
        weights = sum(sum(ins) * sum(outs) for ins, outs in layers)
        weights += sum(9 * i * sum(scale) for i, scale in zip(self.fuse, self.dilated, strict=True))
        require(weights <= count, "Configuration", "channels", f"make {weights} weights or more", f"at most {count}")

    @property
    def multiple(self) -> int:
        """An input's height and width must be multiples of this: 16, or more if a stage has over two branches."""
        strides = (1, 1, 2, 4, 8)
        return max(16, *(s << len(block) - 1 for s, stage in zip(strides, self.stages, strict=True) for block in stage))

    def to_json(self) -> str:
        return json.dumps(dataclasses.asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Configuration":
        """Raises ValueError on anything that is not a configuration."""
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError("not a configuration: its text is no JSON") from error
        if not isinstance(values, dict):
            raise ValueError("not a configuration: its text is no JSON object")
        try:
            return cls(**values)
        except (TypeError, RecursionError) as error:
            raise ValueError(f"not a configuration: {error}") from error
