"""Arrays as a whole: filled, copied, put side by side."""

import numpy as np


def fill(out, value):
    """Every element of out = value, a number."""
    out[...] = value


def copy(x, out):
    """out = x, broadcast to its shape."""
    np.copyto(out, x, casting="same_kind")


def gather(arrays, out):
    """out (n,) = the elements of all arrays, one array after the other."""
    start = 0
    for array in arrays:
        out[start : start + array.size] = array.reshape(-1)
        start += array.size
