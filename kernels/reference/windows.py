"""Sliding windows: what convolutions and poolings have in common."""

import numpy as np


def pad(a, padding, value=0):
    """a (N, C, H, W) with `padding` rows and columns of `value` on every side."""
    return np.pad(a, ((0, 0), (0, 0), (padding, padding), (padding, padding)), constant_values=value)


def crop(a, padding):
    """`pad` undone."""
    return a[:, :, padding : a.shape[2] - padding, padding : a.shape[3] - padding]


def windows(kernel_size, out_size, stride, dilation=1):
    """For each element (ty, tx) of the kernel, row by row: where in a padded map all output pixels see it.

    Yields index tuples; `padded[index]` has the shape (N, C, *out_size).
    """
    (kh, kw), (height, width) = kernel_size, out_size
    for ty in range(kh):
        for tx in range(kw):
            top, left = ty * dilation, tx * dilation
            rows = slice(top, top + (height - 1) * stride + 1, stride)
            cols = slice(left, left + (width - 1) * stride + 1, stride)
            yield ..., rows, cols
