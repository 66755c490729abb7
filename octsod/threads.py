"""How many threads the CPU kernels use, locks that survive a fork, and work that Ctrl-C must not tear apart.

Quick to import: it loads no kernels.
"""

import concurrent.futures.thread  # noqa: F401 (as is logging, for the locks that they take before a fork: see below)
import contextlib
import functools
import importlib
import logging  # noqa: F401
import math
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from numbers import Integral
from typing import Any

from .checks import shortened
from .containers import cpu_quota
from .errors import OctsodError

MOST_THREADS = 1024


@functools.cache
def available_cpus() -> int:
    """How many processors this process may use, by its affinity and by the quotas of its containers; at least 1."""
    count = getattr(os, "process_cpu_count", os.cpu_count)() or 1  # Python 3.13's honours PYTHON_CPU_COUNT
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    # Rounded up: with 2.5 processors, three threads do the work of 2.5, but two only that of two.
    return max(math.ceil(min(count, cpu_quota())), 1)


def default_threads() -> int:
    """The number of threads by the environment and the machine: see `get_num_threads`."""
    wanted = os.environ.get("OCTSOD_THREADS", "").strip()
    if wanted:
        if not wanted.isdecimal() or not 1 <= int(wanted[:9]) <= MOST_THREADS:
            was = wanted if len(wanted) < 40 else f"{wanted[:40]}..."
            raise OctsodError(f"OCTSOD_THREADS (={was!r}) must be a number of threads from 1 to {MOST_THREADS}.")
        return int(wanted)
    # OpenMP's variable is not ours to judge. It may be a list, with a number for each level of nested loops.
    wanted = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    count = int(wanted) if wanted.isdecimal() and len(wanted) < 10 else 0
    return min(count or available_cpus(), MOST_THREADS)


_threads: int | None = None


def get_num_threads() -> int:
    """The number of threads that kernels use: by default OCTSOD_THREADS, else OMP_NUM_THREADS, else as many as there
    are processors that this process may use. Raises OctsodError if OCTSOD_THREADS is no number from 1 to 1024."""
    global _threads
    if _threads is None:
        _threads = default_threads()
    return _threads


def set_num_threads(count: int) -> None:
    """Use `count` threads, 1 to 1024, from now on. Results do not depend on the number."""
    if isinstance(count, bool) or not isinstance(count, Integral) or not 1 <= count <= MOST_THREADS:
        was = shortened(repr(count))
        raise ValueError(f"set_num_threads: `count` (={was}) must be an integer from 1 to {MOST_THREADS}.")
    global _threads
    _threads = int(count)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Within it, Ctrl-C waits until the end.

    For what an exception between any two instructions could leave half done for ever: locks and tables of the compiler,
    modules that cannot be imported twice.
    """
    before = signal.getsignal(signal.SIGINT)
    if not callable(before) or threading.current_thread() is not threading.main_thread():
        yield  # signals do nothing here
        return
    waiting: list[Any] = []
    signal.signal(signal.SIGINT, lambda *arguments: waiting.append(arguments))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        for arguments in waiting:
            before(*arguments)


_locks: weakref.WeakSet[Any] = weakref.WeakSet()


def new_lock() -> Any:
    """A lock that is free in a child process, whoever held it when the process was forked: its holder is not there.

    The only way that octsod makes locks. It is re-entrant: a signal handler, or garbage collection, may call what its
    own thread is in the midst of.
    """
    return freed_in_child(threading.RLock())


def freed_in_child(lock: Any) -> Any:
    """The lock; it is freed in a child process like those of `new_lock`. For locks in objects of other libraries."""
    _locks.add(lock)
    return lock


_held: list[Any] = []
_taken = threading.local()  # locks: those of them that this thread has taken for its fork


def held_over_forks(lock: Any) -> None:
    """Let each fork wait until no other thread holds `lock`, which is re-entrant: the child needs what it protects to
    be whole."""
    _held.append(lock)


# What the library imports only when it is needed, in whatever thread that is.
_IMPORTED_LATE = {"octsod", "numpy", "numba", "llvmlite", "PIL", "safetensors"}


def _unfinished_imports():
    """The names of what threads are importing. Python has no public way to ask for it."""
    locks = getattr(getattr(importlib, "_bootstrap", None), "_module_locks", ())
    return [name for name in list(locks) if name.partition(".")[0] in _IMPORTED_LATE]


def _before_fork():
    """Let other threads finish what they are importing, and what locks protect: in the child, nobody would."""
    _taken.locks = []
    with uninterrupted():
        for _ in range(10):  # what this very thread is importing stays unfinished
            _after_fork()
            # Without the locks, which an import may need. While we wait for those, another import may begin.
            for name in _unfinished_imports():
                importlib._bootstrap._lock_unlock_module(name)  # type: ignore[attr-defined]
            for lock in list(_held):
                lock.acquire()
                _taken.locks.append(lock)
            if not _unfinished_imports():
                break


def _after_fork():
    while _taken.locks:
        _taken.locks.pop().release()


def _after_fork_in_child():
    for lock in _locks:
        lock._at_fork_reinit()  # what Python's own locks do in `threading` and `logging`
    _after_fork()


if hasattr(os, "register_at_fork"):
    # Whoever registers functions while `_before_fork` waits has only those called that follow the fork, and complains.
    # So Python's own modules that do so have been imported above.
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork_in_child)
