"""Threads that read and resize pictures while the network runs."""

import collections
import concurrent.futures
import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")


class Workers(concurrent.futures.ThreadPoolExecutor):
    """A pool of `count` threads whose tasks run in the context that the pool was created in, backend included."""

    def __init__(self, count: int, name: str = "octsod-data"):
        super().__init__(count, name)
        self._context = contextvars.copy_context()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> concurrent.futures.Future:
        # Only one thread at a time can enter a context, so each task gets a copy.
        return super().submit(self._context.copy().run, function, *arguments, **options)


def delayed(items: Iterable[T], count: int) -> Iterator[T]:
    """The items, each yielded once `count` more have been fetched, so that the work these start runs meanwhile."""
    waiting: collections.deque[T] = collections.deque()
    for item in items:
        waiting.append(item)
        if len(waiting) > count:
            yield waiting.popleft()
    while waiting:
        yield waiting.popleft()
