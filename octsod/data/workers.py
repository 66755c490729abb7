"""Threads that read and resize pictures while the network runs."""

import concurrent.futures
import contextvars
from collections.abc import Callable
from typing import Any


class Workers(concurrent.futures.ThreadPoolExecutor):
    """A pool of `count` threads whose tasks run in the context that the pool was created in, backend included."""

    def __init__(self, count: int, name: str = "octsod-data"):
        super().__init__(count, name)
        self._context = contextvars.copy_context()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> concurrent.futures.Future:
        # Only one thread at a time can enter a context, so each task gets a copy.
        return super().submit(self._context.copy().run, function, *arguments, **options)
