"""Arrays as a whole: filled, copied, put side by side, cut and turned."""

import numpy as np


def fill(out, value):
    out[...] = value


def copy(x, out):
    np.copyto(out, x, casting="same_kind")


def gather(arrays, out):
    start = 0
    for array in arrays:
        out[start : start + array.size] = array.reshape(-1)
        start += array.size


def transpose(x, axes, out):
    out[...] = x.transpose(axes)


def _index(starts, steps, shape):
    """The slices of an array that give `shape`. An end before the first element can only be written as None."""
    stops = [start + n * step for start, step, n in zip(starts, steps, shape, strict=True)]
    return tuple(slice(a, b if b >= 0 else None, c) if n else slice(0)
                 for a, b, c, n in zip(starts, stops, steps, shape, strict=True))  # fmt: skip


def strided_slice(x, starts, steps, out):
    out[...] = x[_index(starts, steps, out.shape)]


def strided_slice_backward(grad, starts, steps, grad_x):
    grad_x[...] = 0
    grad_x[_index(starts, steps, grad.shape)] = grad


def concatenate(arrays, out):
    np.concatenate(arrays, axis=1, out=out)
