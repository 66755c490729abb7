"""Problems for kernels: what an op never sees, such as deferred maps, wanted sums, and gradients to add to.

Cases are valid by construction: a kernel has to get right whatever can be drawn here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import strategies as st

from .geometry import (
    BATCHES,
    CHANNELS,
    LARGE_SHAPES,
    MOSTLY,
    SEEDS,
    SHAPES,
    SIDES,
    Branches,
    Convolution,
    Shape,
    Windows,
    branch_lists,
    convolution_parameters,
    windows,
)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How a map is read: as it is or with coefficients, and whether the sums of its activation are wanted."""

    deferred: bool
    sums: bool


@dataclasses.dataclass(frozen=True)
class Target:
    """How the gradient of a map is written: added or not, and whether its gradient sums are wanted."""

    accumulate: bool
    sums: bool


READINGS = st.builds(Reading, deferred=st.booleans(), sums=st.booleans())
TARGETS = st.builds(Target, accumulate=st.booleans(), sums=st.booleans()) | st.none()


@dataclasses.dataclass(frozen=True)
class ConvolutionCase(Convolution):
    """A convolution, forward and backward."""

    bias: bool
    moments: bool
    x: Reading
    grad_deferred: bool
    grad_x: Target | None
    grad_weight: bool
    grad_bias: bool
    seed: int


@st.composite
def convolutions(draw: Callable[..., Any], depthwise: bool = False) -> ConvolutionCase:
    """Convolutions of maps of any size, now and then of large ones."""
    if not depthwise and draw(st.integers(0, 7)) == 7:
        parameters = Convolution(draw(LARGE_SHAPES), draw(CHANNELS), (1, 1), 1, 0, 1)
    else:
        parameters = draw(convolution_parameters(SHAPES, CHANNELS, depthwise))
    return ConvolutionCase(
        **vars(parameters), bias=draw(st.booleans()), moments=draw(st.booleans()), x=draw(READINGS),
        grad_deferred=draw(st.booleans()), grad_x=draw(TARGETS), grad_weight=draw(MOSTLY), grad_bias=draw(MOSTLY),
        seed=draw(SEEDS),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ChainCase:
    """A chain of depthwise layers on each of several maps."""

    shapes: tuple[tuple[int, int, int, int], ...]
    layers: int
    kernel_size: int
    training: bool
    deferred: bool
    sums_given: bool
    spent: bool
    grad_x: Target | None
    seed: int


def depthwise_chains() -> st.SearchStrategy[ChainCase]:
    """One to three layers, kernels larger than the map included. Mostly one map, up to three."""
    shapes = st.tuples(st.integers(1, 3), CHANNELS, SIDES, SIDES)
    several = st.tuples(shapes) | st.tuples(shapes) | st.tuples(shapes, shapes) | st.tuples(shapes, shapes, shapes)
    return st.builds(
        ChainCase, several, st.integers(1, 3), st.sampled_from([3, 3, 1, 5]), MOSTLY, st.booleans(), st.booleans(),
        st.booleans(), TARGETS, SEEDS,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DilatedCase:
    """Parallel dilated convolutions: each with its output channels and its dilation."""

    shape: tuple[int, int, int, int]
    counts: tuple[int, ...]
    dilations: tuple[int, ...]
    kernel_size: int
    moments: bool
    x: Reading
    grad_deferred: bool
    grad_x: Target | None
    grad_weights: tuple[bool, ...]
    seed: int

    @property
    def outs(self) -> int:
        return sum(self.counts)

    @property
    def weight_shapes(self) -> list[Shape]:
        return [(count, self.shape[1], self.kernel_size, self.kernel_size) for count in self.counts]


@st.composite
def dilated_convolutions(draw: Callable[..., Any]) -> DilatedCase:
    """One to five dilations of 1, 2, 3, 4, 8, 16, most of them larger than the map; groups without channels."""
    dilations = draw(st.sampled_from([(1, 2, 4, 8, 16), (1,), (2, 1), (16, 4, 1), (3, 3)]))
    counts = tuple(draw(st.sampled_from([1, 2, 3, 6, 0])) for _ in dilations)
    wanted = draw(st.sampled_from([True, True, True, False, None]))
    return DilatedCase(
        draw(SHAPES), counts, dilations, draw(st.sampled_from([3, 1, 5])), moments=draw(st.booleans()),
        x=draw(READINGS), grad_deferred=draw(st.booleans()), grad_x=draw(TARGETS),
        grad_weights=tuple(draw(st.booleans()) if wanted is None else wanted for _ in dilations), seed=draw(SEEDS),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class OctaveCase(Branches):
    """An octave convolution, forward and backward."""

    moments: bool
    xs: tuple[Reading, ...]
    grads_deferred: tuple[bool, ...]
    grad_xs: tuple[Target | None, ...]
    grad_weight: bool
    seed: int


@st.composite
def octaves(draw: Callable[..., Any]) -> OctaveCase:
    """Branches of any size, now and then of large ones."""
    large = draw(st.integers(0, 7)) == 7
    branches = draw(
        branch_lists(st.integers(8, 17), 110, 72, st.just(2), st.just(1)) if large
        else branch_lists(st.sampled_from([2, 1, 3, 5, 7, 0]), 48, 1, BATCHES)
    )  # fmt: skip
    return OctaveCase(
        **vars(branches), moments=draw(st.booleans()), xs=draw(st.tuples(*[READINGS] * len(branches.ins))),
        grads_deferred=draw(st.tuples(*[st.booleans()] * len(branches.outs))),
        grad_xs=draw(st.tuples(*[TARGETS] * len(branches.ins))), grad_weight=draw(MOSTLY), seed=draw(SEEDS),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class MapCase:
    """A map by itself."""

    shape: tuple[int, int, int, int]
    x: Reading
    seed: int


def maps() -> st.SearchStrategy[MapCase]:
    """Any map, empty ones included."""
    return st.builds(MapCase, SHAPES, READINGS, SEEDS)


@dataclasses.dataclass(frozen=True)
class PoolingCase(Windows):
    """Windows over a map of numbers."""

    seed: int


def poolings() -> st.SearchStrategy[PoolingCase]:
    """Windows over maps of any size."""
    return st.builds(lambda found, seed: PoolingCase(**vars(found), seed=seed), windows(SHAPES), SEEDS)


@dataclasses.dataclass(frozen=True)
class ResizingCase:
    """A map and the size it gets."""

    shape: tuple[int, int, int, int]
    size: tuple[int, int]
    seed: int


def resizings() -> st.SearchStrategy[ResizingCase]:
    """Up and down, by factors that are whole and that are not."""
    return st.builds(ResizingCase, SHAPES, st.tuples(SIDES, SIDES), SEEDS)


class Norm(NamedTuple):
    """A map that is normalised: how many images, channels, and pixels to a plane; in training, or by running
    statistics; and whether the running mean and the variance are kept in training, in float64 whatever the map's
    dtype."""

    images: int
    channels: int
    pixels: int
    training: bool
    kept: tuple[bool, bool]
    wide: bool


@dataclasses.dataclass(frozen=True)
class NormsCase:
    """Maps that are normalised together."""

    maps: tuple[Norm, ...]
    seed: int


def norms() -> st.SearchStrategy[NormsCase]:
    """Up to five, down to a single value to a channel."""
    one = st.builds(
        Norm, st.integers(1, 4) | st.just(40), CHANNELS, st.integers(1, 300), MOSTLY, st.tuples(MOSTLY, MOSTLY),
        st.booleans(),
    )  # fmt: skip
    return st.builds(NormsCase, st.lists(one, min_size=1, max_size=5).map(tuple), SEEDS)


@dataclasses.dataclass(frozen=True)
class VectorCase:
    """A flat array of `size` numbers."""

    size: int
    seed: int


def vectors(least: int = 0) -> st.SearchStrategy[VectorCase]:
    """Sizes around the number of elements that a thread takes at a time."""
    return st.builds(VectorCase, st.integers(least, 40) | st.sampled_from([16383, 16384, 16385, 50000]), SEEDS)


@dataclasses.dataclass(frozen=True)
class ArraysCase:
    """Several arrays, each given by its shape and by whether it is in float64 on one side of an assignment, and on the
    other."""

    arrays: tuple[tuple[Shape, bool, bool], ...]
    seed: int


def lists_of_arrays() -> st.SearchStrategy[ArraysCase]:
    """Empty ones and arrays of any number of axes included."""
    shapes = st.lists(st.integers(0, 5), max_size=4).map(tuple) | st.just((16385,))
    arrays = st.lists(st.tuples(shapes, st.booleans(), st.booleans()), min_size=1, max_size=5)
    return st.builds(ArraysCase, arrays.map(tuple), SEEDS)


@dataclasses.dataclass(frozen=True)
class SumCase:
    """An array (outer, count, inner) that is added up over its middle axis."""

    shape: tuple[int, int, int]
    seed: int


def sums() -> st.SearchStrategy[SumCase]:
    """No sums and sums of nothing included."""
    return st.builds(SumCase, st.tuples(st.integers(0, 5), st.integers(0, 300), st.integers(0, 7)), SEEDS)


@dataclasses.dataclass(frozen=True)
class MiddleCase:
    """An array (outer, count, inner) with at least one element along its middle axis."""

    shape: tuple[int, int, int]
    seed: int


def middles() -> st.SearchStrategy[MiddleCase]:
    """Empty arrays included; mostly ones whose last axis is the middle one."""
    shapes = st.tuples(st.integers(0, 7), st.integers(1, 70), st.sampled_from([1, 1, 2, 5, 0]))
    return st.builds(MiddleCase, shapes, SEEDS)


@dataclasses.dataclass(frozen=True)
class MatmulCase:
    """Pairs of matrices (batch, rows, depth) and (batch, depth, columns), either of which may be stored transposed."""

    batch: int
    rows: int
    depth: int
    columns: int
    transpose_a: bool
    transpose_b: bool
    seed: int

    @property
    def a_shape(self) -> Shape:
        return (self.batch, *((self.depth, self.rows) if self.transpose_a else (self.rows, self.depth)))

    @property
    def b_shape(self) -> Shape:
        return (self.batch, *((self.columns, self.depth) if self.transpose_b else (self.depth, self.columns)))

    @property
    def out_shape(self) -> Shape:
        return self.batch, self.rows, self.columns


def matmuls() -> st.SearchStrategy[MatmulCase]:
    """Fewer rows and columns than a register tile has, and more than a thread takes at a time; no depth at all."""
    rows, columns = st.integers(0, 20) | st.sampled_from([47, 97, 150]), SIDES | st.sampled_from([0, 1025, 1300])
    return st.builds(
        MatmulCase, st.sampled_from([1, 1, 2, 3, 0]), rows, st.integers(0, 20) | st.sampled_from([64, 131]), columns,
        st.booleans(), st.booleans(), SEEDS,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SliceCase:
    """Which elements of an array are taken: of axis i, `counts[i]` from starts[i] on, steps[i] apart."""

    shape: Shape
    starts: Shape
    steps: Shape
    counts: Shape
    seed: int


@st.composite
def slices(draw: Callable[..., Any]) -> SliceCase:
    """Forwards and backwards, all of an axis and nothing of it; arrays without axes and without elements."""
    shape, chosen = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 7, 0]), max_size=4))), []
    for length in shape:
        ends = st.integers(-length - 1, length + 1) | st.none()
        chosen.append(range(length)[draw(ends) : draw(ends) : draw(st.sampled_from([1, 1, 2, 3, -1, -2]))])
    return SliceCase(
        shape, tuple(r.start for r in chosen), tuple(r.step for r in chosen), tuple(len(r) for r in chosen),
        draw(SEEDS),
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class TransposeCase:
    """An array and the order in which its axes are wanted."""

    shape: Shape
    axes: Shape
    seed: int


@st.composite
def transposes(draw: Callable[..., Any]) -> TransposeCase:
    """Any order of up to four axes."""
    shape = tuple(draw(st.lists(st.sampled_from([1, 2, 3, 7, 0]), max_size=4)))
    return TransposeCase(shape, tuple(draw(st.permutations(range(len(shape))))), draw(SEEDS))


@dataclasses.dataclass(frozen=True)
class ConcatenationCase:
    """Arrays (outer, n, inner), one for each n of counts."""

    outer: int
    counts: Shape
    inner: int
    seed: int


def concatenations() -> st.SearchStrategy[ConcatenationCase]:
    """One to four arrays, some of them empty."""
    counts = st.lists(st.integers(0, 6), min_size=1, max_size=4).map(tuple)
    return st.builds(ConcatenationCase, st.integers(0, 3), counts, st.integers(0, 5), SEEDS)


@dataclasses.dataclass(frozen=True)
class ClassesCase:
    """A batch of logits with a label each."""

    batch: int
    classes: int
    smoothing: float
    seed: int


def classifications() -> st.SearchStrategy[ClassesCase]:
    """Down to one picture and one class; no smoothing and nothing but smoothing."""
    classes = st.sampled_from([1, 2, 10, 1000])
    return st.builds(ClassesCase, st.integers(1, 70), classes, st.sampled_from([0.0, 0.1, 1.0]), SEEDS)


@dataclasses.dataclass(frozen=True)
class DropoutCase:
    """A flat array of `size` numbers, the share of them that is dropped, and the seed of the mask."""

    size: int
    probability: float
    mask: int
    seed: int


def dropouts() -> st.SearchStrategy[DropoutCase]:
    """Up to the largest seed and nearly all that can be dropped."""
    sizes = st.integers(0, 40) | st.sampled_from([16384, 50000])
    return st.builds(DropoutCase, sizes, st.sampled_from([0.5, 0.1, 0.99, 0.0]), st.integers(0, 2**63 - 1), SEEDS)
