"""Arrays amid guards: what an op writes to memory that is not its own, or reads before anybody wrote it.

Within `watched(...)`, what `octsod.backend.empty` hands out, and `numpy.empty` and its like where the op's own modules
call them, lies between two guards and is full of a pattern. A stray write hits a guard, and nothing that lives.
"""

from __future__ import annotations

import contextlib
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backend import memory

# Bytes of which no number is made by chance. NaN shows wherever it is computed with; where comparisons and maxima hide
# a NaN, JUNK and LOW differ, very large numbers of either sign. What is added to any of these is lost in it: that shows
# in SMALL, numbers near 0.
NAN, JUNK, LOW, SMALL = 0xFF, 0x7F, 0xFE, 0x3F
STRAY = "writes outside of "  # how the report of a stray write begins
LEAST_GUARD = 4096  # bytes on either side, or as many as the array has, if that is more
_MAKERS = ("empty", "empty_like")
_FILLED = {"zeros": 0, "zeros_like": 0, "ones": 1, "ones_like": 1}


class Guarded:
    """An array inside a larger buffer. what: whose it is, for messages."""

    def __init__(self, what: str, shape: tuple[int, ...], dtype: Any, fill: int, guard: int):
        dtype = np.dtype(dtype)
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        margin = -(-max(LEAST_GUARD, size) // memory.ALIGNMENT) * memory.ALIGNMENT
        raw = np.full(2 * margin + size + memory.ALIGNMENT, guard, np.uint8)
        self._start = margin + -(raw.ctypes.data + margin) % memory.ALIGNMENT
        self._buffer, self._size, self._guard, self.what = raw, size, guard, what
        raw[self._start : self._start + size] = fill
        # Not as a slice: NumPy lets all slices without elements begin where the buffer does, amid no guards.
        self.array: np.ndarray = np.ndarray(shape, dtype, raw, self._start)
        self.about = f"{what} ({dtype} {tuple(shape)})"

    def fault(self) -> str:
        """What was written outside of the array, as a sentence, or ""."""
        before = np.flatnonzero(self._buffer[: self._start] != self._guard)
        after = np.flatnonzero(self._buffer[self._start + self._size :] != self._guard)
        if before.size:
            count, where = before.size, f"the nearest {self._start - int(before[-1])} before its first byte"
        elif after.size:
            count, where = after.size, f"the nearest {int(after[0]) + 1} behind its last byte"
        else:
            return ""
        return f"{STRAY}{self.about}: {count} bytes, {where}."


class Watch:
    """The arrays that were handed out. phase: what runs meanwhile, for messages."""

    def __init__(self, fill: int, guard: int):
        self._fill, self._guard = fill, guard
        self._handed: list[Guarded] = []
        self.phase = "forward"

    def make(self, shape: Any, dtype: Any, what: str = "an array from `empty`") -> np.ndarray:
        """An array amid guards, which the op asks for. what: how, for messages."""
        return self._guarded(shape, dtype, f"{what} in {self.phase}")

    def copy(self, array: np.ndarray, what: str) -> np.ndarray:
        """A contiguous copy of an array amid guards."""
        out = self._guarded(array.shape, array.dtype, what)
        out[...] = array
        return out

    def _guarded(self, shape, dtype, what):
        guarded = Guarded(what, tuple(shape), dtype, self._fill, self._guard)
        self._handed.append(guarded)
        return guarded.array

    def faults(self) -> list[str]:
        """What was written outside of them, a sentence each."""
        return [fault for guarded in self._handed if (fault := guarded.fault())]


@contextlib.contextmanager
def watched(watch: Watch, modules: list[dict[str, Any]]) -> Iterator[Watch]:
    """Within it, `watch` makes the arrays of `octsod.backend.empty`, and of `numpy.empty`, `zeros` and the like where
    code with these globals calls them."""
    with memory.made_by(watch.make), contextlib.ExitStack() as stack:
        numpys = _Numpy(watch)
        for names in modules:
            for name, value in list(names.items()):
                if value is np:
                    stack.callback(names.__setitem__, name, value)
                    names[name] = numpys
                elif (own := numpys.in_place_of(value)) is not None:
                    stack.callback(names.__setitem__, name, value)
                    names[name] = own
        yield watch


class _Numpy(types.ModuleType):
    """NumPy, but for the functions that make arrays of a given shape."""

    def __init__(self, watch: Watch):
        super().__init__("numpy")
        for name in (*_MAKERS, *_FILLED):
            setattr(self, name, _Maker(name, watch.make))

    def __getattr__(self, name):
        return getattr(np, name)

    def in_place_of(self, function):
        """Ours, for one of NumPy's functions; None for anything else."""
        name = getattr(function, "__name__", None)
        known = name in (*_MAKERS, *_FILLED) and function is getattr(np, name)
        return vars(self)[name] if known else None


class _Maker:
    """A function of NumPy's that makes arrays, amid guards. It equals NumPy's own: a kernel that calls it can be
    compiled meanwhile, since Numba looks up functions in a dict, whose keys are functions or weak references to them.
    """

    __slots__ = ("_make", "_original")  # none for weak references: Numba would look up one to this

    def __init__(self, name: str, make: Callable[..., np.ndarray]):
        self._original, self._make = getattr(np, name), make

    def __eq__(self, other: object) -> bool:
        return self._original == (other() if isinstance(other, weakref.ref) else other)

    def __hash__(self) -> int:
        return hash(self._original)

    def __call__(self, *arguments: Any, **keywords: Any) -> np.ndarray:
        like = self._original(*arguments, **keywords)  # the right shape, dtype and layout, or an error
        if type(like) is not np.ndarray or not like.flags.c_contiguous or like.dtype.kind not in "fiub":
            return like
        name = self._original.__name__
        array = self._make(like.shape, like.dtype, f"an array from `numpy.{name}`")
        if name in _FILLED:
            array.fill(_FILLED[name])
        return array
