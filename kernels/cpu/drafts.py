"""A plan in the making: memory for maps, parameters, tables, and each thread's steps. It knows nothing of layers."""

import dataclasses
from typing import NamedTuple

import numpy as np

from .operations import BARRIER, FIELDS, FILL, PRODUCT, encoded
from .regions import NOWHERE, Region
from .simd import VECTOR_BYTES
from .tiles import MULTIPLY_VECTORS

MEMORY, SCRATCH, IMAGES, LOGITS = range(4)  # where regions are: per picture, per thread, the call's arrays


class Map(NamedTuple):
    """A map of height x width pixels, and the region that holds it."""

    region: Region
    height: int
    width: int

    def at(self, row=0, col=0, channel=0):
        """The same map seen from another pixel."""
        return self._replace(region=self.region.at(row, col, channel))

    @property
    def stride(self):
        return self.region.stride

    @property
    def pitch(self):
        return self.region.pitch


NO_MAP = Map(NOWHERE, 0, 0)


class _Heap:
    """Hands out ranges of an array that grows as needed; what is given back is used again."""

    def __init__(self):
        self.size, self._free = 0, []

    def take(self, size):
        size = -(-size // 64) * 64
        for k, (start, room) in enumerate(self._free):
            if room >= size:
                self._free[k : k + 1] = [(start + size, room - size)] if room > size else []
                return start, size
        start, self.size = self.size, self.size + size
        return start, size

    def give_back(self, start, size):
        merged = []
        for s, n in sorted([*self._free, (start, size)]):
            if merged and sum(merged[-1]) == s:
                merged[-1] = (merged[-1][0], merged[-1][1] + n)
            else:
                merged.append((s, n))
        self._free = merged


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    """What threads execute.

    program, bounds: the steps, thread after thread, and where each thread's begin and end. table, parameters: what
    products and filters read. memory_size, scratch_size: elements per picture and per thread.
    """

    program: np.ndarray
    bounds: np.ndarray
    table: np.ndarray
    parameters: np.ndarray
    memory_size: int
    scratch_size: int


class Draft:
    """A plan for `threads` threads and maps of `dtype` in the making: what its layers have in common."""

    def __init__(self, dtype, threads):
        self.dtype, self.threads, self.itemsize = dtype, threads, dtype.itemsize
        self.lanes = VECTOR_BYTES // self.itemsize
        self._steps = [[] for _ in range(threads)]
        self._table, self._parameters, self._parameters_size = [], [], 0
        self._heap, self._places = _Heap(), {}
        self.slack = (MULTIPLY_VECTORS + 1) * self.lanes  # how far products read beyond the end of their source
        self.scratch_size = 0

    # --- memory -------------------------------------------------------------------------------------------------------

    def _map(self, channels, height, width, margin=1):
        """A map in a picture's memory with room for `margin` rows and columns of zeros around it.

        Its rows begin at whole vectors. The `margin` or more pixels after a row are also the ones before the next.
        """
        pitch, before = self._whole(width + margin), self._whole(margin)
        stride = before + (height + 2 * margin) * pitch + before
        start, size = self._heap.take(channels * stride)
        map_ = Map(Region(MEMORY, start + before + margin * pitch, stride, pitch), height, width)
        self._places[id(map_)] = map_, start, size
        return map_

    def _whole(self, size):
        """`size`, rounded up to whole vectors."""
        return -(-size // self.lanes) * self.lanes

    def _drop(self, *maps):
        """Free maps that are not read any more after the next barrier."""
        for map_ in maps:
            _, start, size = self._places.pop(id(map_))
            self._heap.give_back(start, size)

    def _zero_borders(self, map_, channels, margin=1):
        """Let the first thread zero what surrounds a map, except for what follows its rows."""
        self._step(0, FILL, channels, 1, margin * map_.pitch + margin, y=map_.at(-margin, -margin))
        self._step(0, FILL, channels, 1, margin * map_.pitch, y=map_.at(map_.height))

    def _parameter(self, *arrays):
        """Where these numbers are among the parameters."""
        start = self._parameters_size
        for array in arrays:
            self._parameters.append(np.asarray(array, np.float64).reshape(-1))
            self._parameters_size += array.size
        return start

    def _ends(self, finish):
        return self._parameter(finish.scale, finish.shift, finish.slope)

    def _offsets(self, offsets):
        start = len(self._table)
        self._table += offsets
        return start

    def _buffer(self, start, channels, rows, height, width):
        """A map in scratch for `rows` rows, from `start` on, with a vector of room before them."""
        pitch = self._whole(width + 1)
        self.scratch_size = max(self.scratch_size, start + self._buffer_size(channels, rows, width))
        return Map(Region(SCRATCH, start + self.lanes, rows * pitch + self.lanes, pitch), height, width)

    def _buffer_size(self, channels, rows, width):
        return self.lanes + channels * (rows * self._whole(width + 1) + self.lanes)

    # --- steps --------------------------------------------------------------------------------------------------------

    def _step(self, thread, operation, channels, rows, cols, x=NO_MAP, y=NO_MAP, **more):
        if channels and rows > 0 and cols > 0:
            self._steps[thread].append(encoded(operation, channels, rows, cols, x.region, y.region, **more))

    def _barrier(self):
        for steps_ in self._steps:
            steps_.append((BARRIER, *[0] * (FIELDS - 1)))

    def _shares(self, height, multiple):
        """Each thread's rows, in multiples of `multiple`."""
        units = -(-height // multiple)
        ends = [min(units * t // self.threads * multiple, height) for t in range(self.threads + 1)]
        return [(t, ends[t], ends[t + 1]) for t in range(self.threads) if ends[t] < ends[t + 1]]

    def _product(self, thread, y, x, rows, row_of_x, weights, depth):
        """`rows` rows of y from x's row `row_of_x` on; weights: (channels, weight, ends or UNFINISHED, table).

        What follows the rows is undefined afterwards.
        """
        channels, a, b, table = weights
        source = x.at(row_of_x)
        if y.pitch == x.pitch:  # rows and what is between them as one run
            runs, count = 1, (rows - 1) * x.pitch + x.width
        else:
            runs, count = rows, x.width
        self._step(thread, PRODUCT, channels, runs, count, source, y, a=a, b=b, c=table, d=depth)

    def _zeros_behind(self, thread, map_, channels, rows):
        """Zero what follows each of `rows` rows of a map."""
        self._step(thread, FILL, channels, rows, map_.pitch - map_.width, y=map_.at(0, map_.width))

    def finish(self):
        """The plan: all of this as arrays."""
        return Plan(
            np.array([step for steps in self._steps for step in steps], np.int64).reshape(-1, FIELDS),
            np.cumsum([0, *map(len, self._steps)]), np.array(self._table, np.int64),
            np.concatenate(self._parameters).astype(self.dtype), self._heap.size + self.slack,
            self.scratch_size + self.slack,
        )  # fmt: skip
