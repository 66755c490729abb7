"""How ops of this thread run: whether they record, what they are given, who watches."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any


class _Mode(threading.local):
    enabled = True  # whether ops record
    guarding = True  # whether users' ops get read-only views
    observer: Callable[..., None] | None = None


mode = _Mode()


def is_grad_enabled() -> bool:
    """Whether ops record what a backward pass needs, in this thread."""
    return mode.enabled


class no_grad(contextlib.ContextDecorator):  # noqa: N801 (the field's name)
    """Within `with no_grad():`, or in a function decorated with it, no op of this thread records anything."""

    def __init__(self):
        self._before = []

    def _recreate_cm(self):
        return no_grad()  # each call of a decorated function, in whatever thread, has a state of its own

    def __enter__(self) -> None:
        self._before.append(mode.enabled)
        mode.enabled = False

    def __exit__(self, *_: Any) -> None:
        mode.enabled = self._before.pop()


@contextlib.contextmanager
def observe(observer: Callable[..., None]) -> Iterator[None]:
    """Within `with observe(f):`, each op that this thread applies calls `f(function, outputs)` after its forward."""
    before, mode.observer = mode.observer, observer
    try:
        yield
    finally:
        mode.observer = before


@contextlib.contextmanager
def unguarded() -> Iterator[None]:
    """Within `with unguarded():`, ops that this thread applies get arrays that can be written, see `Function`: to find
    out what an op writes to."""
    before, mode.guarding = mode.guarding, False
    try:
        yield
    finally:
        mode.guarding = before
