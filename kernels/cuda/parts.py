"""What goes before and after other kernels' work: launches of parts.cu."""

import numpy as np

from .driver import driver
from .launch import Source
from .normalization import differentiate, launch_activate

SOURCE = Source("parts")
WARPS = 8  # of a block
JOBS = 6  # sums and moments of one launch, and gradients of weights


def finish(sums=(), moments=(), weights=(None, ()), weight_scale=1.0):
    """Sums and moments from their parts, pairs of arrays (images, runs, rows, channels), with four rows for moments,
    and targets (images, rows, channels); rows may be left out of a target. Nothing happens where a target is None.

    weights: an array partial (count, size), and of each gradient that is made of it, at most JOBS, (first, rows,
    columns, pitch, out, row): out[r*row + c] = weight_scale times the sum over `count` of element first + r*pitch + c.
    """
    jobs = [(partial, target, partial.shape[2]) for partial, target in sums if target is not None]
    jobs += [(partial, target, 0) for partial, target in moments if target is not None]
    partial, gradients = weights
    while jobs or gradients:
        some, jobs = jobs[:JOBS], jobs[JOBS:]
        missing = [(None, None, 0)] * (JOBS - len(some))
        parts, targets, rows = zip(*some, *missing, strict=True)
        images, runs, _, channels = zip(*((0, 0, 0, 0) if p is None else p.shape for p in parts), strict=True)
        counts = [n * max(k, 1) * c for n, k, c in zip(images, rows, channels, strict=True)]
        count, size = partial.shape if gradients else (0, 0)
        unused = [(0, 0, 1, 1, None, 1)] * (JOBS - len(gradients))
        first, heights, columns, pitch, out, row = zip(*gradients, *unused, strict=True)
        elements = [height * width for height, width in zip(heights, columns, strict=True)]
        SOURCE.launch(
            "finish", (partial if gradients else parts[0]).dtype,
            (-(-max(*counts, *elements) // 32), len(some) + len(gradients)), (32, 8), len(some),
            *map(np.int64, counts), *rows, *channels, *runs, *parts, *targets, count, np.int64(size),
            float(weight_scale), partial, *map(np.int64, elements), *map(np.int64, first), *columns, *pitch, *row, *out,
        )  # fmt: skip
        partial, gradients = None, ()


def read_sums(x, out):
    """The sums of an activation that is read, if they are wanted."""
    sums = x.claim_activation_sums() if out.size else None
    if sums is not None:
        launch_activate(x, None, sums)


def formed(grad, targets):
    """A gradient as an array: its own, unless that is yet to be computed, or belongs to a target as well."""
    if grad.coefficients is None and all(grad.g is not target.array for target in targets):
        return grad.g
    out = driver().empty(grad.shape, grad.dtype)
    differentiate(grad, out)
    return out
