"""Shapes of maps and weights, and the settings of convolutions, windows and branches that fit them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeAlias

from hypothesis import strategies as st

Shape = tuple[int, ...]
Drawn: TypeAlias = st.SearchStrategy[Any]

SEEDS = st.integers(0, 2**32 - 1)
MOSTLY = st.sampled_from([True, True, True, False])
BATCHES = st.sampled_from([1, 2, 3, 2, 0])
CHANNELS = st.sampled_from([1, 2, 3, 5, 7, 9, 4, 0])
SIDES = st.integers(1, 9) | st.integers(10, 40)  # shorter than a vector; several vectors and a rest
SHAPES = st.tuples(BATCHES, CHANNELS, SIDES, SIDES)
# More than a core's cache holds: kernels that work band by band get several bands, the last one shorter.
LARGE_SHAPES = st.tuples(st.just(2), st.integers(14, 23), st.integers(61, 90), st.integers(33, 50))

# Few numbers, for checks that evaluate an op hundreds of times: single pixels, odd sizes, several images; now and then
# more images, channels or pixels than a vector, a tile or a block of threads has, or none.
_SMALLEST_MAPS = st.tuples(
    st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3]), st.sampled_from([1, 2, 3, 5, 8, 4]),
    st.sampled_from([1, 3, 2, 7, 4]),
)  # fmt: skip
_OTHER_MAPS = st.sampled_from([
    (2, 9, 3, 2), (1, 1, 35, 34), (1, 2, 9, 18), (1, 17, 1, 3), (9, 2, 2, 3), (1, 35, 2, 1), (1, 257, 1, 1),
    (1, 1, 67, 2), (1, 1, 2, 130), (0, 2, 3, 2), (2, 0, 2, 3),
])  # fmt: skip


def _seldom(usual: Drawn, other: Drawn) -> Drawn:
    """`usual`, now and then `other`. Both are drawn: so what shrinks can change from one to the other."""
    return st.tuples(usual, st.integers(0, 7), other).map(lambda drawn: drawn[2 if drawn[1] == 7 else 0])


SMALL_MAPS = _seldom(_SMALLEST_MAPS, _OTHER_MAPS)
# Whole vectors, warps and blocks of threads, and a rest; along two axes, tiles and a rest.
_LENGTHS = [33, 257, 4099, 65, 17, 1025, 130]
_TILED = [(17, 18), (35, 34), (67, 66)]
_USUAL = 5  # the most that an axis mostly has


def shapes(least_axes: int = 0, most_axes: int = 4, least: int = 0, most: int | None = None) -> Drawn:
    """Shapes with least_axes to most_axes axes, each of length least to most. Zero is drawn seldom. Unless `most` is
    given, lengths go to 5, and now and then an axis has up to some thousand elements, or two axes have up to 67.

    >>> shapes(2, 2)  # of matrices
    """
    usual = st.integers(max(least, 1), max(_USUAL if most is None else most, least, 1))
    sides = usual | usual | usual | st.integers(least, _USUAL if most is None else most) if least == 0 else usual
    found = st.lists(sides, min_size=least_axes, max_size=most_axes).map(tuple)
    if most is not None or not most_axes:
        return found
    return _seldom(found, _long(max(least_axes, 1), most_axes, max(least, 1)))


@st.composite
def _long(draw: Callable[..., Any], least_axes: int, most_axes: int, least: int) -> Shape:
    """The other axes have few elements: checks evaluate an op hundreds of times."""
    shape = [max(draw(st.sampled_from([1, 2])), least) for _ in range(draw(st.integers(least_axes, most_axes)))]
    if len(shape) > 1 and draw(st.booleans()):
        start = draw(st.integers(0, len(shape) - 2))
        shape = [least] * start + list(draw(st.sampled_from(_TILED))) + [least] * (len(shape) - 2 - start)
    else:
        shape[draw(st.integers(0, len(shape) - 1))] = draw(st.sampled_from(_LENGTHS))
    return tuple(max(n, least) for n in shape)


@dataclasses.dataclass(frozen=True)
class Convolution:
    """A dense or (with outs = channels) depthwise convolution."""

    shape: tuple[int, int, int, int]
    outs: int
    kernel_size: tuple[int, int]
    stride: int
    padding: int
    dilation: int

    @property
    def settings(self) -> Shape:
        return self.stride, self.padding, self.dilation

    @property
    def out_shape(self) -> Shape:
        size = [
            (n + 2 * self.padding - self.dilation * (k - 1) - 1) // self.stride + 1
            for n, k in zip(self.shape[2:], self.kernel_size, strict=True)
        ]
        return (self.shape[0], self.outs, *size)


@st.composite
def convolution_parameters(
    draw: Callable[..., Any], maps: st.SearchStrategy[Any] = SMALL_MAPS, outs: st.SearchStrategy[int] | None = None,
    depthwise: bool = False,
) -> Convolution:  # fmt: skip
    """Convolutions of maps of these shapes (N, C, H, W): kernels smaller and larger than the map, dilations larger than
    it, paddings from the least possible one on."""
    shape = draw(maps)
    kernel_size = draw(st.sampled_from([(3, 3), (1, 1), (3, 2), (5, 5), (1, 4)]))
    stride = draw(st.integers(1, 3))
    dilation = draw(st.sampled_from([1, 2, 3, 5, 17]))
    lack = max(dilation * (k - 1) + 1 - n for n, k in zip(shape[2:], kernel_size, strict=True))
    padding = max(-(-lack // 2), 0) + draw(st.integers(0, 3))
    count = shape[1] if depthwise else draw(st.sampled_from([1, 2, 3]) if outs is None else outs)
    return Convolution(shape, count, kernel_size, stride, padding, dilation)


@dataclasses.dataclass(frozen=True)
class Branches:
    """Maps of an octave convolution, each half the size of the one before. A branch with zero channels is missing.
    height, width: those of an input branch 0."""

    batch: int
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    height: int
    width: int
    kernel_size: int
    stride: int

    @property
    def in_shapes(self) -> list[Shape | None]:
        return [(self.batch, n, self.height >> i, self.width >> i) if n else None for i, n in enumerate(self.ins)]

    @property
    def out_shapes(self) -> list[Shape | None]:
        height, width = self.height // self.stride, self.width // self.stride
        return [(self.batch, n, height >> j, width >> j) if n else None for j, n in enumerate(self.outs)]

    @property
    def weight_shape(self) -> Shape:
        return sum(self.outs), sum(self.ins), self.kernel_size, self.kernel_size


@st.composite
def branch_lists(
    draw: Callable[..., Any], counts: st.SearchStrategy[int] | None = None, longest: int = 12, least: int = 1,
    batches: st.SearchStrategy[int] | None = None, kernel_sizes: st.SearchStrategy[int] | None = None, most: int = 4,
) -> Branches:  # fmt: skip
    """One to `most` branches on either side, any of them missing. Few branches are drawn most often: with many, the
    sizes of maps are multiples of a vector's length, and no rest is left. counts: channels; least, longest: sides."""
    few = [(1, 1), (2, 2), (1, 2), (2, 1)]
    cross_stage = [(3, 3), (3, 1), (1, 3)]
    pairs = 3 * few + cross_stage + [(a, b) for a in range(1, 5) for b in range(1, 5)]
    n_ins, n_outs = draw(st.sampled_from([pair for pair in pairs if max(pair) <= most]))
    channels = st.sampled_from([2, 1, 3, 0]) if counts is None else counts
    ins = draw(st.lists(channels, min_size=n_ins, max_size=n_ins).filter(any))
    outs = draw(st.lists(channels, min_size=n_outs, max_size=n_outs).filter(any))
    stride = draw(st.sampled_from([1, 2]))
    # Only branches that are there bind the size: (3, 0, 0) -> (2, 0) is well defined on odd maps.
    levels = max(level for side in (ins, outs) for level, n in enumerate(side) if n)
    multiple = stride << levels
    sides = st.integers(-(-least // multiple), max(longest // multiple, 1))
    return Branches(
        draw(st.sampled_from([1, 2]) if batches is None else batches), tuple(ins), tuple(outs),
        multiple * draw(sides), multiple * draw(sides),
        draw(st.sampled_from([1, 3, 5]) if kernel_sizes is None else kernel_sizes), stride,
    )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Windows:
    """Windows over a map."""

    shape: tuple[int, int, int, int]
    kernel_size: int
    stride: int
    padding: int

    @property
    def settings(self) -> Shape:
        return self.kernel_size, self.stride, self.padding

    @property
    def out_shape(self) -> Shape:
        size = [(n + 2 * self.padding - self.kernel_size) // self.stride + 1 for n in self.shape[2:]]
        return (*self.shape[:2], *size)


@st.composite
def windows(draw: Callable[..., Any], maps: st.SearchStrategy[Any] = SMALL_MAPS) -> Windows:
    """Windows that overlap, touch or leave gaps."""
    shape = draw(maps)
    padding = draw(st.integers(0, 2))
    least = max(2 * padding, 1)
    kernel_size = draw(st.integers(least, min(max(min(shape[2:]) + 2 * padding, least), least + 4)))
    return Windows(shape, kernel_size, draw(st.integers(1, 4)), padding)
