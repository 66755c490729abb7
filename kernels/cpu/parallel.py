"""Divides a kernel's tasks among threads.

Kernels are serial functions `(slot, start, stop, ...)` over a range of tasks, compiled without the GIL. They compile
three times faster than with Numba's own `parallel=True`, work in any Python thread, and leave the split to us.
"""

import collections
import contextlib
import functools
import os
import queue
import threading

import numpy as np
from numba.core.compiler_lock import global_compiler_lock
from numba.core.dispatcher import Dispatcher

from octsod.threads import get_num_threads, held_over_forks, new_lock, uninterrupted

from .barrier import give_up
from .compile import kernel
from .simd import control_word, flush_subnormals, restore_subnormals


@kernel
def _mode():
    return control_word()


@kernel
def _flush():
    flush_subnormals()


@kernel
def _restore(word):
    restore_subnormals(word)


_inboxes = []  # one queue per worker thread
_lock = new_lock()


def _serve(inbox):
    """A worker thread: calls what arrives. It flushes subnormal numbers all its life."""
    _flush()
    while True:
        task = inbox.get()
        with contextlib.suppress(BaseException):  # a task reports its errors itself, as far as there is memory for that
            task()
        del task  # a waiting worker must not keep buffers alive


def thread_name(slot: int) -> str:
    """The name of the thread that has this slot in launches of the calling thread."""
    return f"octsod-kernel-{slot - 1}" if slot else threading.current_thread().name


def _start_workers(count):
    """The inboxes of `count` workers, who are started if needed; a plain queue wakes them faster than a future does."""
    while len(_inboxes) < count:
        inbox = queue.SimpleQueue()
        threading.Thread(target=_serve, args=(inbox,), name=thread_name(len(_inboxes) + 1), daemon=True).start()
        _inboxes.append(inbox)
    return _inboxes[:count]


def _forget_workers():
    """Threads do not survive fork(); a child starts its own."""
    global _inboxes
    _inboxes = []


held_over_forks(global_compiler_lock)  # a child must not inherit a compiler in the midst of its work
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_workers)


_within = threading.local()  # launch: whether this thread is in the midst of one


def most_threads() -> int:
    """How many threads may share a launch. One alone in a signal handler that interrupts another launch of its thread,
    whose workers may be waiting for this thread."""
    return 1 if getattr(_within, "launch", False) else get_num_threads()


BUSY = 1 << 17  # elements of simple arithmetic that keep a thread busy for longer than it takes to wake it up


def slots_for(elements: int) -> int:
    """The most threads that a launch of simple arithmetic over so many elements is worth."""
    return max(elements // BUSY, 1)


def parts(tasks: int) -> int:
    """How many threads share `tasks` tasks: the number of slots of per-thread scratch that a kernel needs."""
    return max(1, min(most_threads(), tasks))


def _shares(tasks, count):
    """Ranges that cover `tasks`, the first ones large and the last ones small, which `count` threads take as they
    become free: cores are not equally fast, and with fixed shares all would wait for the slowest."""
    start = 0
    while start < tasks:
        stop = start + max((tasks - start) // (2 * count), 1)
        yield start, stop
        start = stop


class _Launch:
    """A kernel's tasks, shared by the calling thread, slot 0, and workers.

    It ends for all threads when it fails in one, for whatever reason: no task is begun any more, and nobody waits at
    the barrier. The caller returns only when no worker is left in it, since kernels write to the caller's arrays.
    """

    def __init__(self, function, tasks, arguments, count, barrier):
        self.function, self.arguments, self.count, self.barrier = function, arguments, count, barrier
        self.shares = collections.deque(_shares(tasks, count))
        self.finished = queue.SimpleQueue()
        self.errors = []  # in the order of their time

    def run(self):
        try:
            try:
                self._hand_out()
                self._work(0)
                for _ in range(1, self.count):
                    self.finished.get()
            except BaseException as error:
                self._settle(error)
        except BaseException as interrupt:  # before `_settle` had begun
            self._settle(interrupt)
        if self.errors:
            # Not even another's error may hide an interrupt.
            error = next((error for error in self.errors if not isinstance(error, Exception)), self.errors[0])
            try:
                raise error
            finally:
                del error
                self.errors.clear()  # their tracebacks refer to this launch

    def _hand_out(self):
        # All at once: if two callers gave their tasks to two workers in different orders, each would wait at its
        # barrier for a worker that waits at the other's.
        with _lock:
            for slot, inbox in enumerate(_start_workers(self.count - 1), 1):
                inbox.put(functools.partial(self._take_part, slot))

    def _take_part(self, slot):
        try:
            self._work(slot)
        except BaseException as error:
            self._fail(error)
        finally:
            self.finished.put(None)

    def _work(self, slot):
        shares = self.shares
        while shares:
            try:
                share = shares.popleft()
            except IndexError:  # another thread was faster
                return
            self.function(slot, *share, *self.arguments)

    def _fail(self, error):
        try:
            self.errors.append(error)
        finally:
            self.shares.clear()
            if self.barrier is not None:
                give_up(self.barrier)

    def _settle(self, error):
        """Let the launch fail and wait until each worker is done with it, however often that is interrupted."""
        try:
            self._fail(error)
            # Which workers got their tasks, and which of them have finished, may have been lost with the interrupt. But
            # they take one thing after the other, so whoever answers now is done with all before.
            answers, inboxes = queue.SimpleQueue(), _inboxes[: self.count - 1]
            for inbox in inboxes:
                inbox.put(functools.partial(answers.put, None))
            for _ in inboxes:
                answers.get()
        except BaseException as another:
            self._settle(another)


_compiled = set()  # kernels with types of arguments


def _types(arguments):
    """What tells apart the arguments that a kernel is compiled for: arrays are flat, or always of the same rank."""
    return tuple([
        a.dtype if type(a) is np.ndarray else _types(a) if isinstance(a, tuple) else type(a) for a in arguments
    ])  # fmt: skip


def _compile(function, arguments):
    """Compile a kernel for arguments like these, unless that is done.

    By the caller, before any worker is at work. An interrupt waits until then: it could come between any two of the
    compiler's instructions, and leave a lock held or a table half filled.
    """
    key = function, _types(arguments)
    if key in _compiled:
        return
    with uninterrupted():
        for each, its_arguments in ((_mode, ()), (_flush, ()), (_restore, (0,)), (function, arguments)):
            if isinstance(each, Dispatcher):
                each.compile(tuple(map(each.typeof_pyval, its_arguments)))
    _compiled.add(key)


def run(function, tasks, *arguments, slots=None, barrier=None):
    """`function(slot, start, stop, *arguments)` over ranges that cover `tasks`; `slot` numbers the threads.

    slots: the most threads. barrier: the counter of `barrier.wait`, if the kernel waits at one; each task then has a
    thread of its own. If a thread fails, all end, and the first error is raised here. An interrupt is raised, too, once
    all have ended.
    Subnormal numbers are flushed to zero meanwhile, in the caller's thread too; its mode is restored afterwards.
    """
    count = tasks if barrier is not None else min(slots or tasks, parts(tasks))
    _compile(function, (0, 0, tasks, *arguments))
    word, within = _mode(), getattr(_within, "launch", False)
    try:
        _flush()
        if count == 1:
            function(0, 0, tasks, *arguments)
        else:
            _within.launch = True
            _Launch(function, tasks, arguments, count, barrier).run()
    finally:
        _within.launch = within
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
