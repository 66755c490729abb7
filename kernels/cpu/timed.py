"""The whole network in one call, and how long each step took: the same program and steps as network.py's, compiled once
more with a clock."""

import dataclasses
import time
from typing import Any, NamedTuple

import numpy as np

from . import network, parallel
from .clock import EVENT, MARKS, Clock, begin, read
from .compile import kernel
from .network import pictures


class Clocks(NamedTuple):
    """The clocks of all threads, end to end: see `Clock`.

    stamps: one set per thread; or one for all, if they share a picture, since each step is taken by one of them then.
    takers: which thread took each program.
    """

    stamps: Any
    marks: Any
    events: Any
    takers: Any


@kernel
def _timed(slot, start, stop, program, bounds, batch, memory, scratch, images, logits, arrays, threads, clocks):
    """Like `network._pictures`."""
    size, ring = 2 * program.shape[0], clocks.events.size * MARKS // clocks.marks.size
    alone = bounds.size == 2
    first = slot * size if alone else 0
    clock = Clock(
        clocks.stamps[first : first + size], clocks.marks[slot * MARKS : (slot + 1) * MARKS],
        clocks.events[slot * ring : (slot + 1) * ring],
    )  # fmt: skip
    if not alone:
        for task in range(start, stop):
            clocks.takers[task] = slot
    begin(clock)
    pictures(slot, start, stop, program, bounds, batch, memory, scratch, images, logits, arrays, threads, clock)


@dataclasses.dataclass(frozen=True)
class Times:
    """What the clocks have noted in a call; all but `nanoseconds` in the clock's units.

    stamps: (threads or 1, steps, 2). marks: (threads, MARKS). takers: the thread that took each program, if threads
    shared the pictures. events: (threads, count, EVENT). ticks, nanoseconds: clock and `time.perf_counter_ns` at the
    start and the end of the call.
    """

    stamps: np.ndarray
    marks: np.ndarray
    takers: np.ndarray
    events: np.ndarray
    ticks: tuple[int, int]
    nanoseconds: tuple[int, int]


def csnet(plan, x, out, events=0):
    """Like `network.csnet`, with a plan for `network.sharing` threads. Returns `Times`.

    events: how many of each thread's latest steps are noted one by one, a power of two or 0.
    """
    together = len(plan.bounds) - 1
    slots, steps = parallel.parts(len(x)) if together == 1 else together, len(plan.program)
    stamps = np.zeros((slots if together == 1 else 1, steps, 2), np.int64)
    marks, takers = np.zeros((slots, MARKS), np.int64), np.zeros(together, np.int64)
    noted = np.zeros((slots, events, EVENT), np.int64)
    clocks = Clocks(stamps.reshape(-1), marks.reshape(-1), noted.reshape(-1), takers)
    before = read(), time.perf_counter_ns()
    network.run(_timed, plan, x, out, clocks)
    after = read(), time.perf_counter_ns()
    return Times(stamps, marks, takers, noted, *zip(before, after, strict=True))
