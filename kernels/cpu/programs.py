"""Dense convolutions as programs: steps over one image's maps, with every intermediate result in the cache.

A layer is bound by memory, so what counts is how often a feature map crosses the bus. A program takes one image (or a
band of its rows) through all of a layer: activate the inputs into zero-bordered scratch, pool, multiply, upsample, add
up, write, and sum what batch norm needs, all while the rows are in the cache. The host composes programs from the few
steps of steps.py, scales.py and products.py, so conv2d, dilated and octave convolutions, forward and backward, are one
compiled kernel. Images are divided among threads. Every sum over images is kept per image and added up in a fixed
order, so results do not depend on the number of threads.
"""

import itertools
from typing import Any, NamedTuple

import numpy as np

from octsod.backend.memory import empty

from . import parallel
from .compile import kernel
from .interpreter import Arrays, Training, take
from .operations import CORRELATE, FIELDS, FILL, MULTIPLY, encoded
from .regions import NOWHERE, Region
from .simd import VECTOR_BYTES
from .tiles import CORRELATE_COLUMNS, MULTIPLY_ROWS
from .vector import fence

PAST = 16 << 20  # bytes: from this size of a batch's largest map on, results are written past the caches
SCRATCH = 0  # array number 0 is the calling thread's scratch; the others are the tensors of the call


class Addresses(NamedTuple):
    """Where a call's numbered arrays are.

    firsts: the address of each. strides: its bytes per image; for scratch, per thread. here: a part per thread, for the
    addresses of the image that it is processing.
    """

    firsts: Any
    strides: Any
    here: Any


@kernel
def _run(slot, start, stop, program, preamble, ready, addresses, arrays, training):
    """Execute `program` for images start..stop; its first `preamble` steps only where `ready[slot]` is not yet set.

    arrays: its places are replaced by this thread's part of `addresses.here`, filled in here.
    """
    count = addresses.firsts.size
    places = addresses.here[slot * count : (slot + 1) * count]
    own = Arrays(places, arrays.parameters, arrays.table, arrays.like)
    first = preamble if ready[slot] else 0
    ready[slot] = True
    for n in range(start, stop):
        for t in range(count):
            places[t] = addresses.firsts[t] + (slot if t == SCRATCH else n) * addresses.strides[t]
        take(program, first, program.shape[0], own, training, None, None)
        first = preamble
    fence()


class Program:
    """Builds a program: reserves scratch, numbers the call's tensors, appends steps. It knows shapes, never data."""

    def __init__(self, itemsize):
        self.lanes = VECTOR_BYTES // itemsize
        self.tensors = [("scratch", 0), ("nothing", 0)]  # (name, elements per image); "nothing" swallows unwanted sums
        self.preamble_steps, self.steps = [], []
        self.offsets = []  # the table of products.py
        self.weights = []  # how to pack each block of weights: (rows, columns, taps, transposed) of (O, I, kh*kw)
        self.weight_size = 0
        self.scratch = 0
        self.swallow = 1

    def tensor(self, name, size):
        """The number of the tensor `name`, which has `size` elements per image (0: shared by all images)."""
        if (name, size) not in self.tensors:
            self.tensors.append((name, size))
        return self.tensors.index((name, size))

    def map(self, name, channels, height, width):
        """The region of a whole tensor (channels, height, width)."""
        return Region(self.tensor(name, channels * height * width), 0, height * width, width)

    def reserve(self, elements):
        """Aligned scratch for `elements`, with room for vectors that begin inside it and end outside."""
        start = self.scratch
        self.scratch += -(-elements // 64) * 64 + 64
        return start

    def buffer(self, channels, size, pitch):
        """A scratch region of `size` elements per channel."""
        stride = -(-size // self.lanes) * self.lanes + self.lanes
        return Region(SCRATCH, self.reserve(channels * stride), stride, pitch)

    def offsets_at(self, offsets):
        """Append `offsets` to the table, padded to whole tiles; returns where they begin."""
        start = len(self.offsets)
        self.offsets += offsets
        self.offsets += offsets[-1:] * (-len(offsets) % CORRELATE_COLUMNS)
        return start

    def step(
        self, operation, channels, rows, cols, x=NOWHERE, y=NOWHERE, z=NOWHERE, coef=1, sums=1, once=False, **more
    ):
        """Append a step, see `encoded`, unless there is nothing to do. once: to the steps that a thread takes only for
        its first image."""
        if channels and rows and cols:
            self.swallow = max(self.swallow, channels)
            row = encoded(operation, channels, rows, cols, x, y, z, coef, sums, **more)
            (self.preamble_steps if once else self.steps).append(row)

    def zero(self, region, channels, size, once=True):
        self.step(FILL, channels, 1, size, y=region, once=once)

    def contiguous(self, operation, channels, rows, cols, *regions, **more):
        """Append a step over whole rows; rows that are end to end in every region are taken as one."""
        if rows > 1 and all(r.pitch == cols for r in regions if r is not NOWHERE):
            rows, cols = 1, rows * cols
        keys = ("x", "y", "z")[: len(regions)]
        self.step(operation, channels, rows, cols, **dict(zip(keys, regions, strict=True)), **more)

    def blocks(self, channels):
        """(first, count) of even blocks of channels. Each block goes through several steps before the next one, so that
        what the steps pass on stays in the level-1 cache."""
        most = 2 * MULTIPLY_ROWS
        count = -(-channels // most)
        edges = [k * channels // count for k in range(count + 1)] if count else [0]
        return [(a, b - a) for a, b in itertools.pairwise(edges)]

    def multiply(self, out, rows, source, offsets, weights, count):
        """`out = weights @ source` for `count` pixels. `weights`: blocks (outs, ins, taps, transposed), see `_pack`."""
        depth = len(offsets)
        start = self.weight_size
        if rows:
            self.weights += weights
            self.weight_size += depth * rows
        at = self.offsets_at(offsets)
        self.step(MULTIPLY, rows, 1, count, source, out, a=start, b=rows, c=at, d=depth)

    def correlate(self, key, rows, gradient, source, offsets, count):
        """Add `gradient @ source^T` over `count` pixels to the partial weight gradient `key`, (rows, padded depth), or
        begin it with that."""
        if not rows or not offsets:
            return
        depth = -(-len(offsets) // CORRELATE_COLUMNS) * CORRELATE_COLUMNS
        at = self.offsets_at(offsets)
        fresh = all(name != ("partial", key) for name, _ in self.tensors)
        out = Region(self.tensor(("partial", key), rows * depth), 0, depth, 0)
        self.step(CORRELATE, rows, 1, count, source, out, gradient, a=fresh, c=at, d=depth)

    def finish(self):
        """Freeze the program into arrays. The lists that these were made from take more memory, so they are dropped."""
        self.preamble = len(self.preamble_steps)
        self.array = np.array(self.preamble_steps + self.steps, dtype=np.int64).reshape(-1, FIELDS)
        self.table = np.array(self.offsets or [0], dtype=np.int64)
        self.spare = self.reserve(MULTIPLY_ROWS * self.lanes)
        del self.preamble_steps, self.steps, self.offsets
        return self

    def execute(self, batch, tensors, weight=None, bias=None):
        """Run over `batch` images; `tensors` holds the array of each tensor by name.

        weight is (O, I, kh, kw), bias (O,). Returns the partial weight gradients, a dict of (rows, padded depth) arrays
        added up over the images.
        """
        like = empty((parallel.parts(batch), self.scratch), tensors["like"].dtype)
        nothing = np.empty(self.swallow, np.float64)
        firsts, strides, partials = [], [], {}
        for name, size in self.tensors:
            if name == "scratch":
                array, size = like, self.scratch
            elif name == "nothing":
                array = nothing
            elif isinstance(name, tuple):
                array = partials[name[1]] = empty((batch, size), like.dtype)
            else:
                array = tensors.get(name)
            # A missing branch has no array, and no step looks at it.
            # Inputs have been flattened already; outputs must be as they are written.
            firsts.append(0 if array is None else parallel.flat_out(array).ctypes.data)
            strides.append(0 if array is None else size * array.itemsize)
        slots = like.shape[0]
        past = batch * max(size for _, size in self.tensors) * like.itemsize >= PAST
        parallel.run(
            _run, batch, self.array, self.preamble, np.zeros(slots, np.bool_),
            Addresses(np.array(firsts), np.array(strides), np.empty(slots * len(firsts), np.int64)),
            Arrays(None, _pack(self, weight, bias, like.dtype), self.table, like.reshape(-1)),
            Training(nothing, self.spare, past), slots=slots,
        )  # fmt: skip
        return {key: parallel.sum_over_images(array) for key, array in partials.items()}


def _pack(program, weight, bias, dtype):
    """The weight (O, I, kh, kw) as the flat array that the program's products read."""
    packed = np.empty(max(program.weight_size, 1), dtype)
    if not program.weights:
        return packed
    outs, ins, kh, kw = weight.shape
    flat = weight.reshape(outs, ins, kh * kw)
    start = 0
    for rows, columns, taps, transposed in program.weights:
        if columns == "bias":
            block = bias[rows]
        else:
            block = flat[rows, columns]
            if len(taps) < kh * kw:
                block = block[:, :, taps]
            # forward: entry k = (tap, in channel), row = out channel; input gradient: k = (tap, out channel), row = in.
            block = block.transpose(2, 0, 1) if transposed else block.transpose(2, 1, 0)
        packed[start : start + block.size].reshape(block.shape)[...] = block
        start += block.size
    return packed
