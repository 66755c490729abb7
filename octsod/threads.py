"""How many threads the CPU kernels use. Quick to import: it loads no kernels."""

import os


def _default_threads() -> int:
    for name in ("OCTSOD_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(name, "")
        if value.isdigit() and int(value) > 0:
            return int(value)
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_threads = _default_threads()


def get_num_threads() -> int:
    """The number of threads that kernels use."""
    return _threads


def set_num_threads(count: int) -> None:
    """Use `count` threads from now on. Results do not depend on the number."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"set_num_threads: `count` (={count!r}) must be a positive integer.")
    global _threads
    _threads = count
