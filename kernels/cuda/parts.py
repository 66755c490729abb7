"""What goes before and after other kernels' work: launches of parts.cu."""

from typing import Any, NamedTuple

import numpy as np

from octsod.backend.deferred import DeferredGradient

from .driver import driver
from .launch import source
from .normalization import differentiate, launch_activate

SOURCE = source("parts")
WARPS = 8  # of a block
USUAL = 113 << 10  # bytes of shared memory of a block: two of them are on a large GPU's multiprocessor
JOBS = 6  # sums and moments of one launch, and as many gradients of weights


class WeightSum(NamedTuple):
    """A gradient of a weight that is yet to be added up: out[r*row + c*taps + tap] = the sum over the first axis of
    `partial`, which has the columns c in groups of `side`, from its element `first` on: (taps, groups, all_rows, side).
    """

    partial: Any
    first: int
    rows: int
    all_rows: int
    columns: int
    taps: int
    side: int
    out: Any
    row: int


def finish(sums=(), moments=(), weights=(), weight_scale=1.0):
    """Sums and moments from their parts, pairs of arrays (images, runs, rows, channels), with four rows for moments,
    and targets (images, rows, channels); rows may be left out of a target. Nothing happens where a target is None.
    And gradients of weights, `WeightSum`s, times weight_scale."""
    jobs = [(partial, target, partial.shape[2]) for partial, target in sums if target is not None]
    jobs += [(partial, target, 0) for partial, target in moments if target is not None]
    weights = [job for job in weights if job.rows and job.columns]
    while jobs or weights:
        some, jobs = jobs[:JOBS], jobs[JOBS:]
        gradients, weights = weights[:JOBS], weights[JOBS:]
        missing = [(None, None, 0)] * (JOBS - len(some))
        parts, targets, rows = zip(*some, *missing, strict=True)
        images, runs, _, channels = zip(*((0, 0, 0, 0) if p is None else p.shape for p in parts), strict=True)
        counts = [n * max(k, 1) * c for n, k, c in zip(images, rows, channels, strict=True)]
        unused = [WeightSum(None, 0, 1, 1, 0, 1, 1, None, 1)] * (JOBS - len(gradients))
        columns = zip(*gradients, *unused, strict=True)
        partials, first, heights, tall, widths, taps, sides, out, row = columns
        many, sizes = zip(*((0, 0) if p is None else p.shape for p in partials), strict=True)
        elements = [job.taps * -(-job.columns // job.side) * job.side * job.rows for job in gradients]
        SOURCE.launch(
            "finish", next(p for p in (*parts, *partials) if p is not None).dtype,
            (-(-max(*counts, *elements) // 32), len(some) + len(gradients)), (32, 8), len(some),
            *map(np.int64, counts), *rows, *channels, *runs, *parts, *targets, float(weight_scale), *partials, *many,
            *map(np.int64, sizes), *map(np.int64, first), *heights, *tall, *widths, *taps, *sides, *row, *out,
        )  # fmt: skip


def read_sums(x, out):
    """The sums of an activation that is read, if they are wanted."""
    sums = x.claim_activation_sums() if out.size else None
    if sums is not None:
        launch_activate(x, None, sums)


def apart(grad, targets):
    """A gradient that no target is written over while it is read: itself, or an array of its own."""
    if all(grad.g is not target.array for target in targets):
        return grad
    out = driver().empty(grad.shape, grad.dtype)
    differentiate(grad, out)
    return DeferredGradient.of(out)


def launch_sharing(source, name, dtype, grid, block, elements, *arguments):
    """Run a kernel whose blocks have so many elements of shared memory."""
    shared = elements * np.dtype(dtype).itemsize
    source.function(name, dtype).max_dynamic_shared_size_bytes = max(shared, 48 << 10)
    source.launch(name, dtype, grid, block, *arguments, shared_mem=shared)
