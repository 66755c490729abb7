"""The library's random numbers: one named generator, seeded by `manual_seed`, whose state can be saved; and streams of
their own for what must not depend on what was drawn before."""

import contextlib
import contextvars
from collections.abc import Iterator

import numpy as np

from .checks import require_integer
from .errors import NotReplayableError
from .threads import freed_in_child


def _new_generator(seed: int | None = None) -> np.random.Generator:
    made = np.random.default_rng(seed)
    freed_in_child(made.bit_generator.lock)  # type: ignore[attr-defined]
    return made


generator = _new_generator()
_stream: contextvars.ContextVar[np.random.Generator | None] = contextvars.ContextVar("octsod.stream", default=None)
_undrawn: contextvars.ContextVar[bool] = contextvars.ContextVar("octsod.undrawn", default=False)


def manual_seed(seed: int) -> None:
    """Make all that the library draws from now on (initial weights) reproducible. seed: an integer of at least 0."""
    global generator
    generator = _new_generator(require_integer(seed, "manual_seed", "seed", 0))


@contextlib.contextmanager
def stream(*entropy: int) -> Iterator[None]:
    """Within `with stream(seed, step):`, `draw_seed` draws numbers that depend on these integers, at least 0, alone.

    So each step of a training draws the same masks, whether it comes first or after a pause. Applies to this thread.
    """
    token = _stream.set(np.random.default_rng(entropy))
    try:
        yield
    finally:
        _stream.reset(token)


@contextlib.contextmanager
def undrawn() -> Iterator[None]:
    """Within it, `draw_seed` raises NotReplayableError: what is captured would draw the same number each time. Applies
    to this thread."""
    token = _undrawn.set(True)
    try:
        yield
    finally:
        _undrawn.reset(token)


def draw_seed() -> int:
    """A seed for a kernel, in [0, 2**63): from the stream that is in effect, else from `generator`."""
    if _undrawn.get():
        raise NotReplayableError("a number is drawn at random")
    source = _stream.get()
    return int((generator if source is None else source).integers(1 << 63))
