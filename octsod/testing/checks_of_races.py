"""The check of loops over `numba.prange`: which iterations touch what others write.

The results of a race depend on when threads happen to run: an update that is lost once in a million is not seen by
repetition. So kernels with `parallel=True` are run in Python here, one iteration after another, with arrays that note
who reads and who writes each element. Two iterations that share one, and at least one of which changes it, are a race,
in whatever order they have come this time.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import numpy as np

from .evaluation import crash, evaluate
from .example import Example
from .reports import Failed, Skipped, place

MOST = 30_000  # elements that are noted of a case: Python is slow
WORKERS = 4  # threads that the kernels are told of
SEVERAL = -1  # in the place of one iteration that reads an element
MAKERS = ("empty", "zeros", "ones", "full")
UPDATES = ("__iadd__", "__isub__", "__imul__", "__itruediv__")  # of which Numba makes reductions


class _Enough(BaseException):
    """As much as is wanted has been noted."""


class _Race(BaseException):
    """Two iterations touch one element; an op's own `except` does not catch it."""


class _ByWorker(BaseException):
    """A kernel asks on which thread it is: iterations of one thread have an order."""


class _Log:
    """Who reads and writes what in the loop that is running. loops: how many there were."""

    def __init__(self, by_worker: bool):
        self.by_worker, self.loops, self.count = by_worker, 0, 0
        self.iteration: int | None = None  # None outside of loops
        self.kernels: list[Any] = []  # that are being run in Python
        self._writers: dict[int, int] = {}
        self._readers: dict[int, int] = {}

    def loop(self, *bounds: int) -> Iterator[int]:
        """In the place of `prange`: the outermost one of a parallel kernel is followed."""
        if self.iteration is not None or not (self.kernels and _parallel(self.kernels[-1])):
            yield from range(*bounds)
            return
        self._writers, self._readers = {}, {}
        self.loops += 1
        try:
            for k, index in enumerate(range(*bounds)):
                self.iteration = k % WORKERS if self.by_worker else k
                yield index
        finally:
            self.iteration = None

    def worker(self) -> int:
        """In the place of `numba.get_thread_id`."""
        if self.iteration is None:
            return 0
        if not self.by_worker:
            raise _ByWorker
        return self.iteration

    def note(self, array: np.ndarray, index: Any, writes: bool) -> None:
        """Elements of an array are read or written."""
        mine = self.iteration
        if mine is None or not _shared(array):
            return
        for address in np.atleast_1d(_addresses(array)[index]).reshape(-1).tolist():
            self.count += 1
            writer, reader = self._writers.get(address, mine), self._readers.get(address, mine)
            if writer != mine or (writes and reader != mine):
                self._tell(array, address, "writes" if writes else "reads", "writes" if writer != mine else "reads")
            if writes:
                self._writers[address] = mine
            else:
                self._readers[address] = mine if reader == mine else SEVERAL
        if self.count > MOST:
            raise _Enough

    def _tell(self, array, address, now, before):
        frame: Any = sys._getframe()
        while frame.f_code is not self.kernels[-1].py_func.__code__ and frame.f_back:
            frame = frame.f_back
        at = place(np.argwhere(_addresses(array) == address)[0])
        raise _Race(
            f"a race: an iteration of the loop over `prange` {now} what another {before}: the element at {at} of an "
            f"array of shape {array.shape} in `{frame.f_code.co_name}` ({frame.f_code.co_filename}:{frame.f_lineno})."
        )


def _parallel(kernel):
    return kernel.targetoptions.get("parallel")


def _addresses(array):
    """Where each element lies in memory."""
    found = np.full(array.shape, array.__array_interface__["data"][0], np.int64)
    for axis, (length, step) in enumerate(zip(array.shape, array.strides, strict=True)):
        found += (np.arange(length) * step).reshape(-1, *(1,) * (array.ndim - 1 - axis))
    return found


def _shared(array):
    """Whether the memory was there before the loop."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return getattr(array, "born", None) is None


class _Followed(np.ndarray):
    """An array that notes what is read and written. born: the iteration in which it was made, as a view or a copy."""

    log: _Log
    born: int | None = None

    def __array_finalize__(self, other: Any) -> None:
        self.born = _Followed.log.iteration

    def __getitem__(self, index: Any) -> Any:
        got = super().__getitem__(index)
        if not (isinstance(got, np.ndarray) and got.base is not None):  # a view is read when it is used
            self.log.note(self, index, writes=False)
        return got

    def __setitem__(self, index: Any, value: Any) -> None:
        _read(self.log, value)
        before = self.view(np.ndarray).copy()
        super().__setitem__(index, value)
        _wrote(self.log, self, before)

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, out: Any = (), **keywords: Any) -> Any:
        _read(self.log, inputs)
        before = [np.array(_plain(y)) for y in out]
        kept = {"out": tuple(map(_plain, out))} if out else {}
        got = getattr(ufunc, method)(*map(_plain, inputs), **kept, **keywords)
        for y, old in zip(out, before, strict=True):
            _wrote(self.log, y, old)
        return out[0] if len(out) == 1 else out or got

    def __array_function__(self, function: Any, types: Any, arguments: Any, keywords: Any) -> Any:
        _read(self.log, (*arguments, *keywords.values()))
        got = function(*map(_plain, arguments), **{name: _plain(value) for name, value in keywords.items()})
        return got.view(_Followed) if isinstance(got, np.ndarray) and self.log.iteration is None else got


def _reduced(name):
    """The operator, which is a reduction of Numba's if the array is from outside of the loop."""

    def update(self, value):
        inside = self.log.iteration
        if inside is None or self.born is not None:
            return getattr(np.ndarray, name)(self, value)
        _read(self.log, value)
        getattr(np.ndarray, name)(self.view(np.ndarray), _plain(value))
        return self

    return update


for _name in UPDATES:
    setattr(_Followed, _name, _reduced(_name))


def _plain(value):
    if isinstance(value, (tuple, list)):
        return type(value)(map(_plain, value))
    return value.view(np.ndarray) if isinstance(value, _Followed) else value


def _read(log, value):
    for item in value if isinstance(value, (tuple, list)) else (value,):
        if isinstance(item, _Followed):
            log.note(item, ..., writes=False)


def _wrote(log, array, before):
    """Note the elements that are another number than before: who writes what is there anyway disturbs nobody."""
    if isinstance(array, _Followed) and log.iteration is not None:
        now, old = (np.ascontiguousarray(a)[..., None].view(np.uint8) for a in (array.view(np.ndarray), before))
        log.note(array, (now != old).any(-1), writes=True)


@contextlib.contextmanager
def _followed(numba: Any, log: _Log) -> Iterator[None]:
    """Within it, kernels with `parallel=True` are run in Python, and so is what they call."""
    dispatcher, special, parallel = numba.core.registry.CPUDispatcher, numba.misc.special, numba.np.ufunc.parallel
    parallel._launch_threads()  # after which its functions are there
    for context in (numba.core.registry.cpu_target.typing_context, numba.core.registry.cpu_target.target_context):
        context.refresh()  # Numba looks up NumPy's functions now, not those in their places below
    compiled = dispatcher.__call__

    def call(self, *arguments, **keywords):
        if not (log.kernels or _parallel(self)):
            return compiled(self, *arguments, **keywords)
        log.kernels.append(self)
        try:
            arrays = [a.view(_Followed) if type(a) is np.ndarray else a for a in arguments]
            return self.py_func(*arrays, **keywords)
        finally:
            log.kernels.pop()

    def maker(make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make)
        def made(*arguments, **keywords):
            got = make(*arguments, **keywords)
            return got.view(_Followed) if log.kernels and log.iteration is None else got

        return made

    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.object(_Followed, "log", log, create=True))
        stack.enter_context(mock.patch.object(dispatcher, "__call__", call, create=True))
        stack.enter_context(mock.patch.object(special.prange, "__new__", lambda _, *bounds: log.loop(*bounds)))
        stack.enter_context(mock.patch.object(parallel, "_get_thread_id", log.worker))
        stack.enter_context(mock.patch.object(parallel, "_get_num_threads", lambda: WORKERS))
        for name in MAKERS:
            stack.enter_context(mock.patch.object(np, name, maker(getattr(np, name))))
        yield


def races(example: Example) -> str:
    """No iteration of a loop over `numba.prange` touches what another one writes."""
    numba: Any = sys.modules.get("numba")
    if numba is None:
        raise Skipped("it calls no kernels with loops over `prange`")
    log = _Log(by_worker=False)
    try:
        log = _run(example, numba, log)
    except _Race as race:
        raise Failed(str(race)) from None
    except Exception as error:
        raise Skipped(f"a kernel with loops over `prange` cannot be run in Python: it {crash(error)}") from None
    if not log.loops:
        raise Skipped("it calls no kernels with loops over `prange`")
    return f"{log.loops} {'loop' if log.loops == 1 else 'loops'}, {log.count} elements"


def _run(example, numba, log):
    try:
        with _followed(numba, log):
            evaluate(example.subject, example.case)
    except _ByWorker:
        return _run(example, numba, _Log(by_worker=True))
    except _Enough:
        pass
    return log
