"""Threads that read and resize pictures while the network runs."""

import collections
import concurrent.futures
import contextvars
import os
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

_pools: "weakref.WeakSet[Workers]" = weakref.WeakSet()


class Workers(concurrent.futures.ThreadPoolExecutor):
    """A pool of `count` threads whose tasks run in the context that the pool was created in, backend included.

    In a forked child, which has none of the threads, whoever waits for a task of the pool or gives it one gets a
    RuntimeError instead of waiting for ever.
    """

    def __init__(self, count: int, name: str = "octsod-data"):
        super().__init__(count, name)
        self._context = contextvars.copy_context()
        self._futures: weakref.WeakSet[concurrent.futures.Future] = weakref.WeakSet()
        self._lost = False
        _pools.add(self)

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> concurrent.futures.Future:
        if self._lost:
            raise _lost()
        # Only one thread at a time can enter a context, so each task gets a copy.
        future = super().submit(self._context.copy().run, function, *arguments, **options)
        self._futures.add(future)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        if not self._lost:
            super().shutdown(wait, cancel_futures=cancel_futures)

    def _lose(self):
        self._lost = True
        for future in self._futures:
            future.__init__()  # type: ignore[misc]  # a thread that is not there may have held its lock
            future.set_exception(_lost())


def _lost():
    return RuntimeError(
        "the threads that read pictures did not survive the fork of this process; begin the epoch anew in the child."
    )


def _lose_threads():
    for pool in _pools:
        pool._lose()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lose_threads)


def delayed(items: Iterable[T], count: int) -> Iterator[T]:
    """The items, each yielded once `count` more have been fetched, so that the work these start runs meanwhile."""
    waiting: collections.deque[T] = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
