"""The whole network in one call: executes a plan (plan.py) over maps that stay in the cache.

Threads divide a picture's rows among themselves and meet at a barrier after each block; with at least as many pictures
as threads, each takes whole pictures instead. A pixel's arithmetic does not depend on where bands or shares end, so
results are the same for any number of threads.
"""

import weakref
from typing import Any, NamedTuple

import numpy as np

from octsod.backend.memory import empty
from octsod.threads import available_cpus, new_lock

from . import parallel
from .compile import kernel, spliced
from .drafts import IMAGES, LOGITS, MEMORY, SCRATCH
from .interpreter import Arrays, Meeting, take
from .plan import make_plan

PLACES = 4  # arrays that a plan knows by number
MOST_PLANS = 8  # kept per network, each of 1 to 2 MB


class Stack(NamedTuple):
    """Equal arrays end to end: a flat array, and the number of elements in each."""

    array: Any
    size: int


class Threads(NamedTuple):
    """Places and rounds have a part per thread, see `Arrays` and `Meeting`; all threads share the counter."""

    places: Any
    rounds: Any
    counter: Any


@kernel
def _address(stack, number):
    return stack.array.ctypes.data + number * stack.size * stack.array.itemsize


@spliced
def pictures(slot, start, stop, program, bounds, batch, memory, scratch, images, logits, arrays, threads, clock):
    """Take pictures start..stop through the network, each in this thread's memory. If there is more than one program,
    execute programs start..stop instead, for all pictures, in memory that the threads share.

    arrays: its places are replaced by this thread's part of `threads`, filled in here. clock: see `take`.
    """
    together = bounds.size - 1
    places = threads.places[PLACES * slot : PLACES * (slot + 1)]
    own = Arrays(places, arrays.parameters, arrays.table, arrays.like)
    meeting = Meeting(threads.counter, together, threads.rounds[slot : slot + 1])
    alone = together == 1
    places[MEMORY] = _address(memory, slot if alone else 0)
    for task in range(start, stop):
        which = 0 if alone else task
        places[SCRATCH] = _address(scratch, slot if alone else task)
        for n in range(task if alone else 0, task + 1 if alone else batch):
            places[IMAGES] = _address(images, n)
            places[LOGITS] = _address(logits, n)
            take(program, bounds[which], bounds[which + 1], own, None, meeting, clock)


@kernel
def _pictures(slot, start, stop, program, bounds, batch, memory, scratch, images, logits, arrays, threads):
    pictures(slot, start, stop, program, bounds, batch, memory, scratch, images, logits, arrays, threads, None)


_plans = weakref.WeakKeyDictionary()  # network -> its plans, those used last at the end; no plan refers to its network
_lock = new_lock()


def _plan(frozen, *key):
    """The plan of a network for a height, width and number of threads."""
    with _lock:
        plans = _plans.setdefault(frozen, {})
        plans[key] = plans.pop(key, None) or make_plan(frozen, *key)
        if len(plans) > MOST_PLANS:
            del plans[next(iter(plans))]
        return plans[key]


def csnet(frozen, x, out):
    """out (N, 1, H, W) = the logits of the network `octsod.inference.Frozen` for normalised pictures x (N, 3, H, W)."""
    batch, _, height, width = x.shape
    run(_pictures, _plan(frozen, height, width, sharing(batch)), x, out)


def sharing(batch):
    """How many threads share a picture; 1 if there are enough pictures that each thread takes whole ones."""
    threads = min(parallel.most_threads(), available_cpus())  # those without a processor would keep the rest waiting
    return threads if batch < threads else 1


def run(function, plan, x, out, *more):
    """Execute a plan that was made for pictures like x. function: the kernel, as `_pictures`; more: its last arguments.
    """
    batch, together = len(x), len(plan.bounds) - 1
    counter = np.zeros(1, np.int64)
    slots = parallel.parts(batch) if together == 1 else together
    memory = empty((slots if together == 1 else 1, plan.memory_size), x.dtype)
    scratch = empty((slots, plan.scratch_size), x.dtype)
    parallel.run(
        function, batch if together == 1 else together, plan.program, plan.bounds, batch,
        Stack(memory.reshape(-1), plan.memory_size), Stack(scratch.reshape(-1), plan.scratch_size),
        Stack(parallel.flat(x), x[0].size), Stack(parallel.flat_out(out), out[0].size),
        Arrays(None, plan.parameters, plan.table, parallel.flat(x)),
        Threads(np.zeros(PLACES * slots, np.int64), np.zeros(slots, np.int64), counter), *more, slots=slots,
        barrier=counter if together > 1 else None,
    )  # fmt: skip
