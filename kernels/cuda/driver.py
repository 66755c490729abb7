"""What compiles and runs CUDA code: CuPy on a GPU, or a simulator on the processor.

Kernels ask `driver()` and see no difference. Arrays are the driver's: CuPy's, or NumPy's.
"""

import concurrent.futures
import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from octsod.backend import gpu, watching
from octsod.threads import new_lock


class Driver(Protocol):
    """module: compiles source to an object whose `get_function(name)` is called as CuPy's
    `function(grid, block, args, shared_mem=0)`. prepare: all modules that may be needed from now on, as (name, code,
    options), to compile them ahead. empty: an uninitialised array for a kernel's own use; its memory may be used again
    once all launches that were made before it died have run. shared_memory: how many bytes of it a block may have at
    most."""

    def module(self, code: str, options: Sequence[str]) -> Any: ...

    def prepare(self, modules: Sequence[tuple[str, str, Sequence[str]]]) -> None: ...

    def empty(self, shape: Sequence[int], dtype: Any) -> Any: ...

    def shared_memory(self) -> int: ...


NOTHING = np.uint64(0)  # the null pointer, as an argument
CUPYS_OWN = "--device-as-default-execution-space"  # an option that CuPy adds to any


class _Function:
    """A kernel of CuPy's that takes None for no array, and as much shared memory as there is."""

    def __init__(self, kernel: Any):
        self._kernel, self._allowed = kernel, set()

    def __call__(self, grid: Any, block: Any, args: Sequence[Any], shared_mem: int = 0) -> None:
        if shared_mem:  # the usual 48 KB are for what the kernel declares, too
            self._allow()
        self._kernel(grid, block, tuple(NOTHING if a is None else a for a in args), shared_mem=shared_mem)

    def _allow(self):
        device = gpu.cupy().cuda.runtime.getDevice()
        if device not in self._allowed:
            self._kernel.max_dynamic_shared_size_bytes = _most_shared() - self._kernel.shared_size_bytes
            self._allowed.add(device)


class _Module:
    """A module of CuPy's, whose functions are `_Function`s."""

    def __init__(self, raw: Any):
        self._raw = raw

    def get_function(self, name: str) -> _Function:
        return _Function(self._raw.get_function(name))


def _most_shared():
    return gpu.cupy().cuda.Device().attributes["MaxSharedMemoryPerBlockOptin"]


class CupyDriver:
    """The current device of CuPy, and its current stream."""

    def __init__(self):
        self._modules: dict[tuple[str, tuple[str, ...]], Any] = {}
        self._prepared: set[Any] = set()
        self._lock = new_lock()

    def _raw(self, code, options):
        key = code, tuple(option for option in options if option != CUPYS_OWN)
        if key not in self._modules:
            self._modules[key] = gpu.cupy().RawModule(code=code, options=key[1], backend="nvrtc")
        return self._modules[key]

    def module(self, code: str, options: Sequence[str]) -> Any:
        return _Module(self._raw(code, options))

    def prepare(self, modules: Sequence[tuple[str, str, Sequence[str]]]) -> None:
        """Compile modules side by side, or load them from CuPy's cache on disk, whose keys cover code and options."""
        device = gpu.cupy().cuda.runtime.getDevice()
        with self._lock:
            todo = [(name, self._raw(code, options)) for name, code, options in modules
                    if (device, code, tuple(options)) not in self._prepared]  # fmt: skip
            if todo:
                with watching.compiling():
                    self._compile(device, todo)
                self._prepared.update((device, code, tuple(options)) for _, code, options in modules)

    def _compile(self, device, todo):
        def compiled(name, raw):
            with gpu.cupy().cuda.Device(device):  # each thread has its own
                raw.compile()
            return name

        with concurrent.futures.ThreadPoolExecutor(min(len(todo), os.cpu_count() or 1)) as pool:
            running = [pool.submit(compiled, name, raw) for name, raw in todo]
            for done, future in enumerate(concurrent.futures.as_completed(running), 1):
                name = future.result()
                for watch in gpu.compiling:
                    watch(name, done, len(todo))

    def empty(self, shape: Sequence[int], dtype: Any) -> Any:
        return gpu.empty(tuple(shape), dtype)

    def shared_memory(self) -> int:
        return _most_shared()


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
