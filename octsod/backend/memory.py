"""A pool of buffers: `empty()` hands out memory that earlier arrays gave back.

A fresh buffer of 100 MB costs 50 to 100 ms of page faults, a reused one nothing. Memory returns to the pool when the
last array or view on it dies, by reference count alone, so buffers are reused even during a backward pass.
"""

import collections
import contextlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..threads import new_lock
from . import watching

ALIGNMENT = 64  # bytes: a cache line, and the widest vector
SMALLEST = 1 << 14  # below this, NumPy's own allocator is as good
SLACK = 1.5  # blocks may take up this much more than was alive at once; without slack, sizes evict each other in turn


class Pool:
    """Free blocks by size. In total, blocks never take up more than SLACK times what was alive at once."""

    def __init__(self):
        self._lock = new_lock()  # garbage collection may release a block while it is held
        self._free = collections.OrderedDict()  # bytes -> blocks; the sizes unused for the longest time come first
        self.live = 0  # bytes handed out
        self.free = 0  # bytes waiting for reuse
        self.peak = 0  # the largest `live` so far

    def take(self, size: int) -> np.ndarray:
        block = self._found(size)
        if block is None:
            raw = np.empty(size + ALIGNMENT, np.uint8)
            block = raw[-raw.ctypes.data % ALIGNMENT :][:size]
        profiler = watching.profiler
        if profiler is not None:
            profiler.taken(id(block), size)
        return block

    def _found(self, size):
        """A free block of that size, which is counted as handed out; None if there is none."""
        with self._lock:
            blocks = self._free.get(size)
            self.live += size
            self.peak = max(self.peak, self.live)
            if blocks:
                self.free -= size
                self._free.move_to_end(size)
                return blocks.pop()
            while self.free and self.live + self.free > SLACK * self.peak:
                self._drop_oldest()
        return None

    def give_back(self, block: np.ndarray, watching: Any = watching) -> None:  # an argument: see `_Lease.__del__`
        profiler = watching.profiler
        if profiler is not None:
            profiler.returned(id(block), block.size)
        with self._lock:
            self.live -= block.size
            self.free += block.size
            self._free.setdefault(block.size, []).append(block)

    def _drop_oldest(self):
        size, blocks = next(iter(self._free.items()))
        if blocks:
            blocks.pop()
            self.free -= size
        if not blocks:
            del self._free[size]

    def clear(self) -> None:
        """Return all free blocks to the operating system."""
        with self._lock:
            self._free.clear()
            self.free = 0


pool = Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.clear)  # another thread may have been in the midst of a change


class _Lease:
    """Owns a block while arrays on it live: they keep it as their `base`."""

    __slots__ = ("__array_interface__", "block")

    def __init__(self, block, shape, dtype):
        self.block = block
        self.__array_interface__ = {
            "data": (block.ctypes.data, False),
            "shape": shape,
            "typestr": dtype.str,
            "version": 3,
        }

    def __del__(self, pool=pool):  # at process exit, arrays may outlive this module's names
        pool.give_back(self.block)


_maker: Callable[[tuple[int, ...], np.dtype], np.ndarray] | None = None


@contextlib.contextmanager
def made_by(maker: Callable[[tuple[int, ...], np.dtype], np.ndarray]) -> Iterator[None]:
    """Within `with made_by(f):`, `empty` returns `f(shape, dtype)`, in all threads: such as an array amid guards."""
    global _maker
    before, _maker = _maker, maker
    try:
        yield
    finally:
        _maker = before


def empty(shape: int | Sequence[int], dtype: DTypeLike) -> np.ndarray:
    """An uninitialised C-contiguous array, aligned to 64 bytes, from the pool."""
    dtype = np.dtype(dtype)
    shape = (shape,) if isinstance(shape, int) else tuple(shape)
    if _maker is not None:
        return _maker(shape, dtype)
    size = math.prod(shape) * dtype.itemsize
    if size < SMALLEST:
        return np.empty(shape, dtype)
    # Sizes are rounded up to an eighth of their magnitude, so that nearby sizes share blocks.
    grain = max(1 << (size.bit_length() - 4), ALIGNMENT)
    return np.asarray(_Lease(pool.take(-(-size // grain) * grain), shape, dtype))


def zeros(shape: int | Sequence[int], dtype: DTypeLike) -> np.ndarray:
    """Like `empty`, filled with zeros."""
    array = empty(shape, dtype)
    array.fill(0)
    return array
