"""Products of matrices."""

import numpy as np


def matmul(a, b, out, transpose_a=False, transpose_b=False):
    a, b = (np.asarray(m, np.float64) for m in (a, b))
    a = a.swapaxes(1, 2) if transpose_a else a
    b = b.swapaxes(1, 2) if transpose_b else b
    with np.errstate(all="ignore"):
        out[...] = a @ b
