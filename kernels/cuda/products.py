"""Products of matrices: launches of products.cu."""

import numpy as np

from .launch import source

SOURCE = source("products")
SIDE = 64  # of a block's tile


def matmul(a, b, out, transpose_a=False, transpose_b=False):
    batch, rows, columns = out.shape
    sizes = map(np.int64, (rows, a.shape[1 if transpose_a else 2], columns))
    blocks = batch * -(-rows // SIDE) * -(-columns // SIDE)
    SOURCE.launch("matmul", out.dtype, blocks, 256, *sizes, a, bool(transpose_a), b, bool(transpose_b), out)
