"""Divides a kernel's tasks among threads.

Kernels are serial functions `(slot, start, stop, ...)` over a range of tasks, compiled without the GIL. They compile
three times faster than with Numba's own `parallel=True`, work in any Python thread, and leave the split to us.
"""

import collections
import os
import queue
import threading

import numpy as np

from octsod.threads import get_num_threads, new_lock

from .compile import kernel
from .simd import flush_subnormals, restore_subnormals


@kernel
def _flush():
    return flush_subnormals()


@kernel
def _restore(word):
    restore_subnormals(word)


_inboxes = []  # one queue per worker thread
_lock = new_lock()


def _serve(inbox):
    """A worker thread: runs what arrives and reports when it is done. It flushes subnormal numbers all its life."""
    _flush()
    while True:
        function, arguments, finished = inbox.get()
        error = None
        try:
            function(*arguments)
        except BaseException as caught:
            error = caught
        finished.put(error)
        del function, arguments, finished, error  # a waiting worker must not keep buffers alive


def _worker(number):
    """The inbox of worker `number`, which is started if needed; a plain queue wakes it faster than a future does."""
    with _lock:
        while len(_inboxes) <= number:
            inbox = queue.SimpleQueue()
            threading.Thread(target=_serve, args=(inbox,), name=f"octsod-kernel-{len(_inboxes)}", daemon=True).start()
            _inboxes.append(inbox)
        return _inboxes[number]


def _forget_workers():
    """Threads do not survive fork(); a child starts its own."""
    global _inboxes
    _inboxes = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


def parts(tasks: int) -> int:
    """How many threads share `tasks` tasks: the number of slots of per-thread scratch that a kernel needs."""
    return max(1, min(get_num_threads(), tasks))


def _shares(tasks, count):
    """Ranges that cover `tasks`, the first ones large and the last ones small, which `count` threads take as they
    become free: cores are not equally fast, and with fixed shares all would wait for the slowest."""
    start = 0
    while start < tasks:
        stop = start + max((tasks - start) // (2 * count), 1)
        yield start, stop
        start = stop


def _work(function, slot, shares, arguments):
    while shares:
        try:
            share = shares.popleft()
        except IndexError:  # another thread was faster
            return
        function(slot, *share, *arguments)


def run(function, tasks, *arguments, slots=None):
    """`function(slot, start, stop, *arguments)` over ranges that cover `tasks`; `slot` numbers the threads.

    Subnormal numbers are flushed to zero meanwhile, in the caller's thread too; its mode is restored afterwards.
    """
    count = min(slots or get_num_threads(), parts(tasks))
    word = _flush()
    try:
        if count == 1:
            function(0, 0, tasks, *arguments)
            return
        finished = queue.SimpleQueue()
        shares = collections.deque(_shares(tasks, count))
        for slot in range(1, count):
            _worker(slot - 1).put((_work, (function, slot, shares, arguments), finished))
        try:
            _work(function, 0, shares, arguments)
        finally:
            errors = [finished.get() for _ in range(1, count)]  # waits for each, whatever happens
        for error in errors:
            if error is not None:
                raise error
    finally:
        _restore(word)


class _Lent:
    """A read-only array's memory, as that of a writable one."""

    def __init__(self, array):
        self.array = array  # which stays alive
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}


def readable(array):
    """An input as kernels take it. They are compiled only for contiguous writable arrays: any other kind would mean
    compiling once more. So a read-only one passes for writable here; no kernel writes to its inputs."""
    if array.flags.carray:  # contiguous, aligned and writable
        return array
    array = np.require(array, requirements="CA")
    return array if array.flags.writeable else np.asarray(_Lent(array))


def flat(array):
    """An input flattened, see `readable`."""
    return readable(array).reshape(-1)


def flat_out(array):
    """An output flattened. Raises ValueError if that would take a copy, in which the results would be lost."""
    if not array.flags.carray:
        raise ValueError(
            f"A kernel was given an output {array.dtype} {array.shape} with strides {array.strides} and flags "
            f"{array.flags.num:#x}; expected a contiguous, aligned and writable one."
        )
    return array.reshape(-1)


@kernel
def _add_up(slot, start, stop, partials, images, size, out):
    for k in range(start, stop):
        total = 0.0
        for n in range(images):
            total += partials[n * size + k]
        out[k] = total


def sum_over_images(partials):
    """The sum of partials (N, size) over N, in that order."""
    images, size = partials.shape
    out = np.empty(size, partials.dtype)
    run(_add_up, size, partials.reshape(-1), images, size, out, slots=1)
    return out
