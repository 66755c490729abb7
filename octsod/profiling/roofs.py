"""What a machine does per second at most: the roofs under which kernels run, measured."""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend import Device, get_device, memory
from ..backend.cuda import CudaDevice
from ..threads import available_cpus, get_num_threads, set_num_threads
from .groups import grouped
from .machine import LARGE, CacheLevel, cache_bytes, cache_levels
from .results import Cache, Profile, Roofs

PATIENCE = 0.25  # seconds per measurement
AGAIN = 3  # times that roofs are measured once more, if a kernel passes them
COPIED = 1 << 26, 1 << 28  # bytes: at least, and at most
WITHIN = 1e-4, 1e-3  # seconds: what threads do within them counts, in registers or caches, and beyond the caches
CHUNK, BURSTS = 1 << 18, 64  # bytes that a thread moves at once beyond the caches; of a launch
UNKNOWN = CacheLevel(1 << 15, 1, LARGE)  # where the system does not tell of caches, a roof that nothing passes


def under_roofs(profile: Profile, devices: Sequence[Device | str]) -> Profile:
    """The profile with the roofs of these devices, measured now.

    A kernel that passes them tells either that its cost is wrong, or that the machine has been disturbed while it was
    measured. So they are measured once more then, a few times, and the most counts.
    """
    roofs = [measure(device) for device in devices]
    for _ in range(AGAIN):
        profile = dataclasses.replace(profile, roofs=tuple(roofs))
        if not any(group.wrong for group in grouped(profile)):
            break
        roofs = [most_of(roof, measure(device)) for roof, device in zip(roofs, devices, strict=True)]
    return dataclasses.replace(profile, roofs=tuple(roofs))


def most_of(a: Roofs, b: Roofs) -> Roofs:
    """The roofs of a device that was measured twice."""
    most = {name: max(getattr(a, name), getattr(b, name)) for name in ("bandwidth", "arithmetic", "fastest")}
    caches = [Cache(c.bytes, max(c.bandwidth, d.bandwidth)) for c, d in zip(a.caches, b.caches, strict=True)]
    return dataclasses.replace(a, **most, launch=min(a.launch, b.launch), caches=tuple(caches))


def measure(device: str | Device = "cpu", threads: int | None = None) -> Roofs:
    """The roofs of a device, now; takes less than three seconds. threads: of a processor's, by default octsod's number.
    What is copied is more than its caches hold. Raises as `get_device` does."""
    found = get_device(device)
    if isinstance(found, CudaDevice):
        from .gpu_roofs import measure_gpu

        return measure_gpu(found)
    before = get_num_threads()
    set_num_threads(threads or before)
    try:
        size = min(max(COPIED[0], 4 * cache_bytes()), COPIED[1])
        bandwidth, fastest = move_rates(size)
        return Roofs(
            found.name, threads or before, bandwidth, multiply_add_rate(), launch_time(), fastest, tuple(cache_rates())
        )
    finally:
        set_num_threads(before)


def copy_rate(size: int = COPIED[0]) -> float:
    """Bytes per second, read and written, of copying `size` bytes with all of octsod's threads, each its share.

    The default is more than a core's caches hold. What is written goes past the caches, so that the memory bus moves
    nothing else.
    """
    return move_rates(size)[0]


def move_rates(size: int) -> tuple[float, float]:
    """Bytes per second of copying `size` bytes, and of the fastest of copying, reading alone and writing alone; by all
    threads or by one, whatever is faster."""
    from ..kernels.cpu import peak

    threads, x, y = get_num_threads(), _floats(size), _floats(size)
    rates = dict.fromkeys((peak.STREAM, peak.READ, peak.FILL), 0.0)
    try:
        for count in {1, threads}:
            set_num_threads(count)
            for kind in rates:
                work = functools.partial(peak.move, kind, (x, y, y), CHUNK, BURSTS)
                rates[kind] = max(rates[kind], _most_per_second(work, PATIENCE / 4, WITHIN[1]))
    finally:
        set_num_threads(threads)
    return rates[peak.STREAM], max(rates.values())


def cache_rates() -> list[Cache]:
    """What each level of caches moves per second: the most of copying, adding and reading, with all threads. A cache
    that cores share counts as if it served each of them as fast as one alone: at most."""
    from ..kernels.cpu import peak

    threads, found, held = get_num_threads(), [], 0
    for level in cache_levels() or [UNKNOWN]:
        own = max(level.bytes // (2 * min(threads, level.sharers)), peak.GRAIN)  # half of a thread's part
        rates = []
        for kind in (peak.COPY, peak.ADD, peak.READ):
            chunk = own // peak.ARRAYS[kind] // peak.GRAIN * peak.GRAIN or peak.GRAIN
            arrays = tuple(_floats(chunk * threads) for _ in range(3))
            work = functools.partial(peak.move, kind, arrays, chunk, BURSTS)
            rates.append(_most_per_second(work, PATIENCE / 8, WITHIN[0], _cores()))
        held += level.total
        found.append(Cache(held, max(rates)))
    return found


def _floats(size):
    """So many bytes or a few more, aligned, with room for every thread."""
    from ..kernels.cpu import peak

    array = memory.empty(max(size, memory.SMALLEST, get_num_threads() * peak.GRAIN) // 4, np.float32)
    array.fill(1)  # memory that was never written is not there yet
    return array


def multiply_add_rate() -> float:
    """Floating-point operations per second in float32 multiply-adds of vectors in registers, on all of octsod's
    threads; a multiply-add is two."""
    from ..kernels.cpu import peak

    return 2 * _most_per_second(peak.multiply_add, PATIENCE, WITHIN[0], _cores())


def _cores():
    """How many cores octsod's threads have at most; processors that share a level-1 cache are one core."""
    levels = cache_levels()
    return min(get_num_threads(), levels[0].total // levels[0].bytes if levels else available_cpus())


def launch_time() -> float:
    """Seconds that the least launch takes: of a kernel that has nothing to do, for which no thread is woken."""
    from ..kernels.cpu.peak import nothing

    nothing()
    return shortest(nothing, PATIENCE / 10)


def _most_per_second(
    work: Callable[[], tuple[int, np.ndarray]], patience: float, window: float, cores: int = 0
) -> float:  # fmt: skip
    """The most that threads did together within `window` seconds. work() returns how much a burst does, and when
    bursts began; it is called again and again for `patience` seconds.

    cores: if they don't hinder each other, it is so many times what one thread did at most: on a busy machine, threads
    are seldom all at work.
    """
    from ..kernels.cpu.clock import read

    most, started = 0.0, time.perf_counter()
    while True:
        before = read(), time.perf_counter_ns()
        amount, moments = work()
        after = read(), time.perf_counter_ns()
        second = 1e9 * (after[0] - before[0]) / max(after[1] - before[1], 1)  # of the clock
        found = [most_within(moments, amount, window * second)]
        if cores > 1:
            found += [cores * most_within(moments[i : i + 1], amount, window * second) for i in range(len(moments))]
        most = max(most, second * max(found))
        if time.perf_counter() - started >= patience:
            return most


def most_within(moments: np.ndarray, amount: float, window: float) -> float:
    """The most work per unit of time, of all threads together, that was done within any `window` units.

    moments: (threads, bursts + 1), when a thread's bursts began and the last one ended. amount: of work, in each. A
    window is as long as a burst at least, and as the whole at most.
    """
    longest = moments[:, -1].max() - moments[:, 0].min()
    window = min(max(window, float(np.diff(moments).min()), 1.0), max(float(longest), 1.0))
    count = amount * np.arange(moments.shape[1])
    starts = np.unique(moments)
    starts = np.append(starts[starts <= starts[-1] - window], starts[-1] - window)
    work = sum(np.interp(starts + window, own, count) - np.interp(starts, own, count) for own in moments)
    return float(np.max(work)) / window


def shortest(function: Callable[[], Any], patience: float | None = None) -> float:
    """Seconds of the fastest call of `function` within `patience` seconds, by default `PATIENCE`: whatever else runs on
    the machine only adds time."""
    best, end = float("inf"), time.perf_counter() + (PATIENCE if patience is None else patience)
    while True:
        start = time.perf_counter()
        function()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best
