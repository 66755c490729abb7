"""Arrays as a whole: filled, copied, put side by side, cut and turned: launches of arrays.cu."""

import math

import numpy as np

from .launch import MOST_BLOCKS, THREADS, TYPES, source

SOURCE = source("arrays", "many")
ANY = np.float32  # the floating-point type that arrays.cu is compiled for: it does not matter
MOST_AXES = 8
TILE = 32


def fill(out, value):
    bits = np.array(value, out.dtype).tobytes().ljust(8, b"\0")
    SOURCE.each("fill", ANY, out.size, np.frombuffer(bits, np.int64)[0], out.dtype.itemsize, out)


def copy(x, out):
    lengths = ((1,) * out.ndim + x.shape)[x.ndim :]  # as many axes as out has
    strides = [step if n != 1 else 0 for n, step in zip(lengths, _strides(lengths), strict=True)]
    _take(x, 0, _merged(out.shape, strides), out.reshape(-1))


def gather(arrays, out):
    rows, sizes, start = [], [], 0
    for array in arrays:
        rows.append((array, np.int64(start), np.int64(array.size * 16 + TYPES[array.dtype])))
        sizes.append(array.size)
        start += array.size
    SOURCE.over_arrays("gather", ANY, rows, sizes, out, TYPES[out.dtype])


def transpose(x, axes, out):
    strides = _strides(x.shape)
    merged = _merged(out.shape, [strides[axis] for axis in axes])
    (columns, _), (rows, stride) = merged[-2:] if len(merged) > 1 else ((1, 1), merged[0])
    planes = len(merged) == 2 or (len(merged) == 3 and merged[0][1] == rows * columns)
    if out.size and planes and merged[-2][1] == 1 and stride == columns and max(rows, columns) < 1 << 30:
        down, across = -(-rows // TILE), -(-columns // TILE)
        tiles = out.size // (rows * columns) * down * across
        SOURCE.launch(
            "turn", ANY, min(tiles, MOST_BLOCKS), THREADS, np.int64(tiles), down, across, rows, columns, x, out,
            x.dtype.itemsize,
        )  # fmt: skip
    else:
        _take(x, 0, merged, out.reshape(-1))


def strided_slice(x, starts, steps, out):
    _take(x, *_part(x, starts, steps, out), out.reshape(-1))


def strided_slice_backward(grad, starts, steps, grad_x):
    fill(grad_x, 0)
    _put(grad.reshape(-1), *_part(grad_x, starts, steps, grad), grad_x)


def concatenate(arrays, out):
    outer, whole, inner = out.shape
    rows, sizes, start = [], [], 0
    for array in arrays:
        size = array.shape[1] * inner
        rows.append((array, np.int64(start), np.int64(size)))
        sizes.append(array.size)
        start += size
    if out.size:
        width = out.dtype.itemsize
        SOURCE.over_arrays("concatenate", ANY, rows, sizes, np.int64(outer), np.int64(whole * inner), out, width)


def _strides(shape):
    """Of a contiguous array, in elements."""
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def _part(whole, starts, steps, part):
    """Where a slice of an array begins, and its merged axes."""
    strides = _strides(whole.shape)
    start = sum(a * b for a, b in zip(starts, strides, strict=True))
    return start, _merged(part.shape, [a * b for a, b in zip(steps, strides, strict=True)])


def _merged(shape, strides):
    """[(length, stride), ...] of as few axes as possible, but at least one, that give the same places."""
    axes = []
    for length, stride in zip(shape, strides, strict=True):
        if axes and axes[-1][1] == length * stride:
            axes[-1] = axes[-1][0] * length, stride
        elif length != 1:
            axes.append((length, stride))
    return axes or [(1, 0)]


def _arguments(axes):
    padded = axes[::-1] + [(1, 0)] * (MOST_AXES - len(axes))
    return len(axes), *(np.int64(number) for axis in padded for number in axis)


def _take(x, start, axes, out):
    """out (n,) = the elements of x that begin at `start` and lie along merged axes."""
    if len(axes) > MOST_AXES and out.size:
        (length, stride), rest = axes[0], out.size // axes[0][0]
        for i in range(length):
            _take(x, start + i * stride, axes[1:], out[i * rest : (i + 1) * rest])
    else:
        SOURCE.each(
            "take", ANY, out.size, x, TYPES[x.dtype], np.int64(start), *_arguments(axes), out, TYPES[out.dtype],
            out.dtype.itemsize,
        )  # fmt: skip


def _put(x, start, axes, out):
    """The counterpart: those elements of out = x (n,)."""
    if len(axes) > MOST_AXES and x.size:
        (length, stride), rest = axes[0], x.size // axes[0][0]
        for i in range(length):
            _put(x[i * rest : (i + 1) * rest], start + i * stride, axes[1:], out)
    else:
        SOURCE.each("put", ANY, x.size, x, np.int64(start), *_arguments(axes), out, out.dtype.itemsize)
