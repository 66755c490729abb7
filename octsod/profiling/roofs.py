"""What a machine does per second at most: the roofs under which kernels run, measured."""

import concurrent.futures
import time
from collections.abc import Callable
from typing import Any

from ..backend import Device, get_device
from ..backend.cuda import CudaDevice
from ..threads import get_num_threads, set_num_threads
from .machine import largest_cache
from .results import Roofs

PATIENCE = 0.25  # seconds per measurement
COPIED = 1 << 26, 1 << 28  # bytes: at least, and at most


def measure(device: str | Device = "cpu", threads: int | None = None) -> Roofs:
    """The roofs of a device, now; takes less than two seconds. threads: of a processor's, by default octsod's number.
    What is copied is more than its caches hold. Raises as `get_device` does."""
    found = get_device(device)
    if isinstance(found, CudaDevice):
        from .gpu_roofs import measure_gpu

        return measure_gpu(found)
    before = get_num_threads()
    set_num_threads(threads or before)
    try:
        size = min(max(COPIED[0], 4 * largest_cache()), COPIED[1])
        return Roofs(found.name, threads or before, copy_rate(size), multiply_add_rate(), launch_time())
    finally:
        set_num_threads(before)


def copy_rate(size: int = COPIED[0]) -> float:
    """Bytes per second, read and written, of copying `size` bytes with all of octsod's threads, each its share.

    The default is more than a core's caches hold. What a processor reads of a line before it overwrites it is not
    counted: where the C library's copy does not avoid that, the memory bus moves up to half as much again.
    """
    import numpy as np

    threads = get_num_threads()
    source, target = np.ones(size // 8), np.ones(size // 8)  # ones: memory that was never written is not there yet
    shares = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    with concurrent.futures.ThreadPoolExecutor(threads) as pool:
        return 2 * source.nbytes / shortest(lambda: list(pool.map(lambda share: np.copyto(*share), shares)))


def multiply_add_rate() -> float:
    """Floating-point operations per second in float32 multiply-adds of vectors in registers, on all of octsod's
    threads; a multiply-add is two."""
    from ..kernels.cpu.peak import multiply_add

    count = multiply_add()
    return 2 * count / shortest(multiply_add)


def launch_time() -> float:
    """Seconds that a kernel takes which has nothing to do, on all of octsod's threads."""
    from ..kernels.cpu.peak import nothing

    nothing()
    return shortest(nothing, PATIENCE / 10)


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
