"""The whole network in one call: executes a plan (plan.py) over maps that stay in the cache.

Threads share a picture's rows out and meet at a barrier after each block; with at least as many pictures as threads,
each takes whole pictures instead. A pixel's arithmetic does not depend on where bands or shares end, so results are the
same for any number of threads.
"""

import os
import weakref

import numpy as np

from octsod.backend.memory import empty

from . import inference_steps, parallel, scales, steps
from .barrier import wait
from .compile import kernel
from .plan import AVERAGE, COPY, DEPTHWISE, FILL, IMAGES, LOGITS, MEMORY, POOL, PRODUCT, SCRATCH, UPSAMPLE_ADD, Plan
from .simd import array_at

_product, _depthwise, _average = inference_steps.product, inference_steps.depthwise, inference_steps.average
_max_pool, _transfer, _upsample_add, _fill = scales.max_pool, steps.transfer, scales.upsample_add, steps.fill


@kernel
def _take(program, first, last, threads, rounds, addresses, parameters, table, counter, like):
    """Execute steps first..last of `program` on the arrays at `addresses`; returns how many barriers there have been.

    A step is (operation, channels, rows, cols, region x, region y, a, b, c, d), a region (array, start, channel
    stride, row pitch).
    """
    for k in range(first, last):
        operation = program[k, 0]
        channels = program[k, 1]
        rows = program[k, 2]
        cols = program[k, 3]
        x = array_at(like, addresses[program[k, 4]])
        xo = program[k, 5]
        xl = program[k, 6]
        xp = program[k, 7]
        y = array_at(like, addresses[program[k, 8]])
        yo = program[k, 9]
        yl = program[k, 10]
        yp = program[k, 11]
        a = program[k, 12]
        b = program[k, 13]
        c = program[k, 14]
        d = program[k, 15]
        if operation == PRODUCT:
            for r in range(rows):
                _product(y, yo + r * yp, yl, channels, parameters, a, b, x, xo + r * xp, table, c, d, cols)
        elif operation == DEPTHWISE:
            _depthwise(x, xo, xl, xp, y, yo, yl, yp, parameters, a, b, channels, rows, cols)
        elif operation == POOL:
            _max_pool(x, xo, xl, xp, a, y, yo, yl, yp, channels, rows, cols)
        elif operation == AVERAGE:
            _average(x, xo, xl, xp, y, yo, yl, yp, channels, rows, cols)
        elif operation == UPSAMPLE_ADD:
            _upsample_add(x, xo, xl, xp, b, cols, a, y, yo, yl, yp, c, channels, rows, parameters, d)
        elif operation == COPY:
            _transfer(x, xo, xl, xp, y, yo, yl, yp, 1, channels, rows, cols, False)
        elif operation == FILL:
            _fill(y, yo, yl, yp, channels, rows, cols, like.dtype.type(0))
        elif threads > 1:
            rounds += 1
            wait(counter, threads * rounds)
    return rounds


@kernel
def _pictures(
    slot, start, stop, program, bounds, batch, memory, memory_size, scratch, scratch_size, images, image_size, out,
    out_size, parameters, table, counter, places,
):  # fmt: skip
    """Pictures start..stop, each in this thread's memory; if there is more than one program, that of all pictures."""
    threads = bounds.size - 1
    addresses = places[4 * slot : 4 * slot + 4]
    addresses[MEMORY] = memory.ctypes.data + (slot * memory_size * memory.itemsize if threads == 1 else 0)
    rounds = np.int64(0)  # for a literal 0, Numba would compile all of `_take` once more
    for task in range(start, stop):
        which = 0 if threads == 1 else task
        addresses[SCRATCH] = scratch.ctypes.data + (slot if threads == 1 else task) * scratch_size * scratch.itemsize
        for n in range(task if threads == 1 else 0, task + 1 if threads == 1 else batch):
            addresses[IMAGES] = images.ctypes.data + n * image_size * images.itemsize
            addresses[LOGITS] = out.ctypes.data + n * out_size * out.itemsize
            rounds = _take(
                program, bounds[which], bounds[which + 1], threads, rounds, addresses, parameters, table, counter,
                images,
            )  # fmt: skip


_plans = weakref.WeakKeyDictionary()


def csnet(frozen, x, out):
    """out (N, 1, H, W) = the logits of the network `octsod.inference.Frozen` for normalised pictures x (N, 3, H, W)."""
    batch, _, height, width = x.shape
    threads = min(parallel.get_num_threads(), os.cpu_count() or 1)
    together = threads if batch < threads else 1
    plans = _plans.setdefault(frozen, {})
    plan = plans.get((height, width, together))
    if plan is None:
        plan = plans[height, width, together] = Plan(frozen, height, width, together)
    slots = parallel.parts(batch) if together == 1 else together
    memory = empty((slots if together == 1 else 1, plan.memory_size), x.dtype)
    scratch = empty((slots, plan.scratch_size), x.dtype)
    parallel.run(
        _pictures, batch if together == 1 else together, plan.program, plan.bounds, batch, memory.reshape(-1),
        plan.memory_size, scratch.reshape(-1), plan.scratch_size, x.reshape(-1), x[0].size, out.reshape(-1),
        out[0].size, plan.parameters, plan.table, np.zeros(1, np.int64), np.zeros(4 * slots, np.int64), slots=slots,
    )  # fmt: skip
