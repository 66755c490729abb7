"""What machine this is, and what it does per second at most: the roofs under which kernels run."""

import concurrent.futures
import pathlib
import platform
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 0.25  # seconds per measurement


def processor() -> str:
    """The processor's name, such as "AMD EPYC 9B14"; its family where the system does not tell."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def copy_rate(size: int = 1 << 26) -> float:
    """Bytes per second, read and written, of copying `size` bytes with all of octsod's threads, each its share.

    The default is more than a core's caches hold. What a processor reads of a line before it overwrites it is not
    counted: where the C library's copy does not avoid that, the memory bus moves up to half as much again.
    """
    import numpy as np

    from ..threads import get_num_threads

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


def shortest(function: Callable[[], Any]) -> float:
    """Seconds of the fastest call of `function` within `PATIENCE`: whatever else runs on the machine only adds time."""
    best, end = float("inf"), time.perf_counter() + PATIENCE
    while True:
        start = time.perf_counter()
        function()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= end:
            return best
