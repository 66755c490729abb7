"""Threads that read and resize pictures beside the network."""

import concurrent.futures
import contextvars
from collections.abc import Callable
from typing import Any


class Workers(concurrent.futures.ThreadPoolExecutor):
    """A pool of `count` threads in which all is done in the context that the pool was made in, backend included."""

    def __init__(self, count: int, name: str = "octsod-data"):
        super().__init__(count, name)
        self._context = contextvars.copy_context()

    def submit(self, function: Callable[..., Any], /, *arguments: Any, **options: Any) -> concurrent.futures.Future:
        # A context is entered by one thread at a time: each task has a copy.
        return super().submit(self._context.copy().run, function, *arguments, **options)
