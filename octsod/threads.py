"""How many threads the CPU kernels use, and locks that survive a fork. Quick to import: it loads no kernels."""

import os
import threading
import weakref
from typing import Any


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


_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def new_lock(reentrant: bool = False) -> Any:
    """A lock that is free in a child process, whoever held it when the process was forked: its holder is not there.

    The only way that octsod makes locks.
    """
    lock = threading.RLock() if reentrant else threading.Lock()
    _locks.add(lock)
    return lock


def _free_locks():
    for lock in _locks:
        lock._at_fork_reinit()  # what Python's own locks do in `threading` and `logging`


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free_locks)
