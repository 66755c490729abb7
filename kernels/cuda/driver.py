"""What compiles and runs CUDA code: CuPy on a GPU, or a simulator on the processor.

Kernels ask `driver()` and see no difference. Arrays are the driver's: CuPy's, or NumPy's.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol


class Driver(Protocol):
    """module: compiles source to an object whose `get_function(name)` is called as CuPy's
    `function(grid, block, args, shared_mem=0)`. empty: an uninitialised array for a kernel's own use; its memory may be
    used again once all launches that were made before it died have run. shared_memory: how many bytes of it a block may
    have at most."""

    def module(self, code: str, options: Sequence[str]) -> Any: ...

    def empty(self, shape: Sequence[int], dtype: Any) -> Any: ...

    def shared_memory(self) -> int: ...


class CupyDriver:
    """The current device of CuPy, and its current stream."""

    def module(self, code: str, options: Sequence[str]) -> Any:
        import cupy

        return cupy.RawModule(code=code, options=tuple(options), backend="nvrtc")

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        import cupy

        return cupy.empty(shape, dtype)

    def shared_memory(self) -> int:
        import cupy

        return cupy.cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]


_current: Driver = CupyDriver()
_watchers: list[Callable[[], None]] = []  # what keeps compiled code of the driver


def driver() -> Driver:
    """What runs kernels now."""
    return _current


def use_driver(new: Driver) -> None:
    """Run kernels with another driver from now on, in all threads."""
    global _current
    _current = new
    for forget in _watchers:
        forget()


def when_changed(forget: Callable[[], None]) -> None:
    """Call `forget` whenever the driver changes."""
    _watchers.append(forget)
