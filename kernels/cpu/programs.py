"""Dense convolutions as programs: steps over one image's maps, with every intermediate result in the cache.

A layer is bound by memory, so what counts is how often a feature map crosses the bus. A program takes one image (or a
band of its rows) through all of a layer: activate the inputs into zero-bordered scratch, pool, multiply, upsample, add
up, write, and sum what batch norm needs, all while the rows are in the cache. The host composes programs from the few
steps of steps.py and scales.py, so conv2d, dilated and octave convolutions, forward and backward, are one compiled
kernel. Images are shared out over threads; every sum over images is kept per image and added up in a fixed order, so
results do not depend on the number of threads.
"""

import itertools

import numpy as np

from octsod.backend.memory import empty

from . import parallel, scales, steps
from .compile import kernel
from .products import correlate, multiply
from .simd import CORRELATE_COLUMNS, MULTIPLY_ROWS, VECTOR_BYTES, array_at
from .vector import fence

FIELDS = 22
(
    ACTIVATE,
    ACTIVATE_AVERAGE,
    DIFFERENTIATE,
    FILL,
    TRANSFER,
    WRITE,
    WRITE_GRADIENT,
    WRITE_GRADIENT_OF_AVERAGE,
    GRADIENT_SUMS,
    MAX_POOL,
    MAX_POOL_BACKWARD,
    UPSAMPLE_ADD,
    UPSAMPLE_BACKWARD,
    MULTIPLY,
    CORRELATE,
) = range(15)
PAST = 16 << 20  # bytes of a batch's largest map from which on results are written past the caches
SCRATCH = 0  # array number 0 is the calling thread's scratch; the others are the tensors of the call

_activate, _activate_average, _differentiate = steps.activate, steps.activate_average, steps.differentiate
_fill, _transfer, _write, _gradient_sums_of = steps.fill, steps.transfer, steps.write, steps.gradient_sums_of
_write_gradient, _write_gradient_of_average = steps.write_gradient, steps.write_gradient_of_average
_max_pool, _max_pool_backward = scales.max_pool, scales.max_pool_backward
_upsample_add, _upsample_backward = scales.upsample_add, scales.upsample_backward


@kernel
def _run(slot, start, stop, program, preamble, ready, addresses, strides, weight, table, spare, past, like, like64):
    """Execute `program` for images start..stop; its first `preamble` steps only where `ready[slot]` is not yet set.

    A step is (operation, channels, rows, cols, region x, region y, region z, coefficients, sums, a, b, c, d) with a
    region as (array, start, channel stride, row pitch). `addresses` and `strides` (elements per image; for scratch
    per thread) describe the arrays. past: write results past the caches. `like` and `like64` only carry the dtypes.
    """
    first = preamble if ready[slot] else 0
    ready[slot] = True
    for n in range(start, stop):
        for k in range(first, program.shape[0]):
            operation = program[k, 0]
            channels = program[k, 1]
            rows = program[k, 2]
            cols = program[k, 3]
            xa = program[k, 4]
            xo = program[k, 5]
            xl = program[k, 6]
            xp = program[k, 7]
            ya = program[k, 8]
            yo = program[k, 9]
            yl = program[k, 10]
            yp = program[k, 11]
            za = program[k, 12]
            zo = program[k, 13]
            zl = program[k, 14]
            zp = program[k, 15]
            a = program[k, 18]
            b = program[k, 19]
            c = program[k, 20]
            d = program[k, 21]
            x = array_at(like, addresses[xa] + (n if xa else slot) * strides[xa] * like.itemsize)
            y = array_at(like, addresses[ya] + (n if ya else slot) * strides[ya] * like.itemsize)
            z = array_at(like, addresses[za] + (n if za else slot) * strides[za] * like.itemsize)
            coef = array_at(like, addresses[program[k, 16]])
            sums = array_at(like64, addresses[program[k, 17]] + n * strides[program[k, 17]] * like64.itemsize)
            if operation == ACTIVATE:
                _activate(x, xo, xl, xp, a, coef, y, yo, yl, yp, channels, rows, cols, sums)
            elif operation == ACTIVATE_AVERAGE:
                _activate_average(x, xo, xl, xp, coef, y, yo, yl, yp, channels, rows, cols, sums)
            elif operation == DIFFERENTIATE:
                _differentiate(x, xo, xl, xp, z, zo, zl, zp, coef, y, yo, yl, yp, channels, rows, cols, c, d)
            elif operation == FILL:
                _fill(y, yo, yl, yp, channels, rows, cols, like.dtype.type(a))
            elif operation == TRANSFER:
                _transfer(x, xo, xl, xp, y, yo, yl, yp, a, channels, rows, cols, b)
            elif operation == WRITE:
                _write(x, xo, xl, xp, y, yo, yl, yp, channels, rows, cols, a, b, sums, c, d, past)
            elif operation == WRITE_GRADIENT:
                _write_gradient(
                    x, xo, xl, xp, z, zo, zl, zp, coef, y, yo, yl, yp, channels, rows, cols, a, b, sums, c, d
                )  # fmt: skip
            elif operation == WRITE_GRADIENT_OF_AVERAGE:
                _write_gradient_of_average(
                    x, xo, xl, xp, z, zo, zl, zp, coef, y, yo, yl, yp, channels, rows, cols, a, b, sums, c, d
                )  # fmt: skip
            elif operation == GRADIENT_SUMS:
                _gradient_sums_of(x, xo, xl, xp, z, zo, zl, zp, coef, channels, rows, cols, sums)
            elif operation == MAX_POOL:
                _max_pool(x, xo, xl, xp, a, y, yo, yl, yp, channels, rows, cols)
            elif operation == MAX_POOL_BACKWARD:
                _max_pool_backward(x, xo, xl, xp, a, z, zo, zl, zp, y, yo, yl, yp, channels, rows, cols)
            elif operation == UPSAMPLE_ADD:
                _upsample_add(x, xo, xl, xp, b, cols, a, y, yo, yl, yp, c, channels, rows, weight, -1)
            elif operation == UPSAMPLE_BACKWARD:
                _upsample_backward(x, xo, xl, xp, b, cols, a, y, yo, yl, yp, c, channels, rows)
            elif operation == MULTIPLY:
                multiply(y, yo, yl, channels, weight, a, b, x, xo, table, c, d, cols, spare)
            else:
                correlate(y, yo, yl, channels, z, zo, zl, x, xo, table, c, d, cols, a)
        first = preamble
    fence()


class Region:
    """A map inside an array: pixel (c, y, x) lies at `start + c*stride + y*pitch + x`."""

    __slots__ = ("array", "pitch", "start", "stride")

    def __init__(self, array, start, stride, pitch):
        self.array, self.start, self.stride, self.pitch = array, start, stride, pitch

    def at(self, row=0, col=0, channel=0):
        """The same map seen from another pixel."""
        start = self.start + channel * self.stride + row * self.pitch + col
        return Region(self.array, start, self.stride, self.pitch)

    def every(self, rows):
        """Every `rows`-th row."""
        return Region(self.array, self.start, self.stride, self.pitch * rows)

    @property
    def fields(self):
        return self.array, self.start, self.stride, self.pitch


NOWHERE = Region(SCRATCH, 0, 0, 0)


class Program:
    """Builds a program: reserves scratch, numbers the call's tensors, appends steps. Knows shapes, never data."""

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
        """Scratch for `elements`, aligned, with room for vectors that begin inside and end outside of it."""
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

    def step(self, operation, channels, rows, cols, x=NOWHERE, y=NOWHERE, z=NOWHERE, coef=1, sums=1, a=0, b=0, c=0, d=0,
             once=False):
        if channels and rows and cols:
            self.swallow = max(self.swallow, channels)
            row = (operation, channels, rows, cols, *x.fields, *y.fields, *z.fields, coef, sums, a, b, c, d)
            (self.preamble_steps if once else self.steps).append(row)

    def zero(self, region, channels, size, once=True):
        self.step(FILL, channels, 1, size, y=region, once=once)

    def contiguous(self, operation, channels, rows, cols, *regions, **more):
        """A step over whole rows; rows that lie end to end in every region are taken as one."""
        if rows > 1 and all(r.pitch == cols for r in regions if r is not NOWHERE):
            rows, cols = 1, rows * cols
        keys = ("x", "y", "z")[: len(regions)]
        self.step(operation, channels, rows, cols, **dict(zip(keys, regions, strict=True)), **more)

    def blocks(self, channels):
        """(first, count) of even blocks of channels that are taken through several steps one after the other, so that
        what is between them stays in the level-1 cache."""
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
        """Adds `gradient @ source^T` over `count` pixels to the partial weight gradient `key`, (rows, padded depth), or
        begins with it."""
        if not rows or not offsets:
            return
        depth = -(-len(offsets) // CORRELATE_COLUMNS) * CORRELATE_COLUMNS
        at = self.offsets_at(offsets)
        fresh = all(name != ("partial", key) for name, _ in self.tensors)
        out = Region(self.tensor(("partial", key), rows * depth), 0, depth, 0)
        self.step(CORRELATE, rows, 1, count, source, out, gradient, a=fresh, c=at, d=depth)

    def finish(self):
        """Freeze into arrays."""
        self.preamble = len(self.preamble_steps)
        self.array = np.array(self.preamble_steps + self.steps, dtype=np.int64).reshape(-1, FIELDS)
        self.table = np.array(self.offsets or [0], dtype=np.int64)
        self.spare = self.reserve(MULTIPLY_ROWS * self.lanes)
        return self

    def execute(self, batch, tensors, weight=None, bias=None):
        """Run over `batch` images; `tensors` holds the array of each tensor by name.

        weight is (O, I, kh, kw), bias (O,). Returns the partial weight gradients, a dict of (rows, padded depth) arrays
        added up over the images.
        """
        like = empty((parallel.parts(batch), self.scratch), tensors["like"].dtype)
        nothing = np.empty(self.swallow, np.float64)
        addresses, strides, partials = [], [], {}
        for name, size in self.tensors:
            if name == "scratch":
                array, size = like, self.scratch
            elif name == "nothing":
                array = nothing
            elif isinstance(name, tuple):
                array = partials[name[1]] = empty((batch, size), like.dtype)
            else:
                array = tensors.get(name)
            # A missing branch has no array: none of the steps looks at it.
            addresses.append(0 if array is None else array.ctypes.data)
            strides.append(size)
        packed = _pack(self, weight, bias, like.dtype)
        past = batch * max(strides[1:]) * like.itemsize >= PAST
        parallel.run(
            _run, batch, self.array, self.preamble, np.zeros(like.shape[0], np.bool_), np.array(addresses),
            np.array(strides), packed, self.table, self.spare, past, like.reshape(-1),
            nothing, slots=like.shape[0],
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
