"""Named groups of what kernels and programs pass around together; in kernels they cost nothing.

A program knows a `Region`'s array by its number; kernels hold the array itself.
"""

from typing import Any, NamedTuple

from .compile import spliced


class Region(NamedTuple):
    """A map inside a flat array: pixel (c, y, x) is at `start + c*stride + y*pitch + x`.

    A feature map in memory and scratch with zero borders are both regions, so one step serves both.
    """

    array: Any
    start: int
    stride: int
    pitch: int

    def at(self, row=0, col=0, channel=0):
        """The same map seen from another pixel. For the host."""
        return self._replace(start=self.start + channel * self.stride + row * self.pitch + col)

    def every(self, rows):
        """Every `rows`-th row. For the host."""
        return self._replace(pitch=self.pitch * rows)


NOWHERE = Region(0, 0, 0, 0)  # for a step that has no such region
UNFINISHED = -(1 << 32)  # in the place of `Weights.ends`: neither batch norm nor PReLU


class Extent(NamedTuple):
    """How much of a map a step works on."""

    channels: int
    rows: int
    cols: int


class Part(NamedTuple):
    """Which channels a step works on: those from `first` on, of a map that has `all` channels."""

    first: int
    all: int


class Weights(NamedTuple):
    """The weights of a product: that of row r and depth k is at `start + k*pitch + r` of `array`.

    ends: the position in the array of the scales, shifts and slopes (3, pitch) with which batch norm and PReLU finish
    the sums; or `UNFINISHED`.
    """

    array: Any
    start: int
    pitch: int
    ends: int


class Table(NamedTuple):
    """The offsets of a product: entry k, of `depth`, is at `start + k` of `array`."""

    array: Any
    start: int
    depth: int


@spliced
def from_element(region, elements):
    """The region that begins `elements` later."""
    return Region(region.array, region.start + elements, region.stride, region.pitch)


@spliced
def from_row(weights, r):
    """The weights of a product's rows from r on."""
    return Weights(weights.array, weights.start + r, weights.pitch, weights.ends + r)


@spliced
def from_entry(table, k):
    """The table from entry k on."""
    return Table(table.array, table.start + k, table.depth - k)
