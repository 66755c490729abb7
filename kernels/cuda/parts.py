"""What goes before and after other kernels' work: launches of parts.cu."""

import numpy as np

from .driver import driver
from .launch import Source
from .normalization import differentiate, launch_activate

SOURCE = Source("parts")
WARPS = 8  # of a block
JOBS = 6  # sums and moments of one launch


def add_partials(partial, first, rows, columns, pitch, out, row):
    """out[r*row + c] = the sum over partial (count, size) of element first + r*pitch + c."""
    count, size = partial.shape
    SOURCE.launch(
        "add_partials", out.dtype, -(-rows * columns // 32), (32, 8), np.int64(rows * columns), np.int64(first),
        columns, pitch, row, count, np.int64(size), partial, out,
    )  # fmt: skip


def finish(sums=(), moments=()):
    """Sums and moments from their parts, pairs of arrays (images, runs, rows, channels), with four rows for moments,
    and targets (images, rows, channels); rows may be left out of a target. Nothing happens where a target is None."""
    jobs = [(partial, target, partial.shape[2]) for partial, target in sums if target is not None]
    jobs += [(partial, target, 0) for partial, target in moments if target is not None]
    for k in range(0, len(jobs), JOBS):
        some = jobs[k : k + JOBS]
        counts = [p.shape[0] * max(rows, 1) * p.shape[3] for p, _, rows in some]
        columns = counts, [rows for *_, rows in some], [p.shape[3] for p, *_ in some], [p.shape[1] for p, *_ in some]
        columns = [[*column, *[0] * (JOBS - len(some))] for column in columns]
        arrays = [[*(job[i] for job in some), *[None] * (JOBS - len(some))] for i in range(2)]
        SOURCE.launch(
            "finish", some[0][0].dtype, (-(-max(counts) // 32), len(some)), (32, 8), *map(np.int64, columns[0]),
            *columns[1], *columns[2], *columns[3], *arrays[0], *arrays[1],
        )  # fmt: skip


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
