"""GPUs as devices: arrays are CuPy's, kernels those of kernels/cuda."""

import contextlib
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from . import gpu, watching
from .arrays import numbers
from .device import Device, register

NAME = re.compile(r"cuda(?::([0-9]{1,3}))?")


class CudaDevice(Device):
    """A GPU. index: its number, as CUDA counts. Its name is "cuda:0" and so on; "cuda" stands for the first."""

    steps_ahead = 20
    captures = True

    def __init__(self, index: int):
        gpu.require(index)
        self.index = index
        super().__init__(f"cuda:{index}", "cuda")

    def _here(self) -> contextlib.AbstractContextManager[Any]:
        """Within it, this is CuPy's current device."""
        return _on(self.index)

    def launchable(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """As `Device.launchable`: on this GPU, whichever is CuPy's current device."""
        launch = super().launchable(name, function)
        if gpu.cupy().cuda.runtime.getDevice() == self.index:
            return launch

        def there(*arguments: Any) -> None:
            with _other(self.index):
                launch(*arguments)

        return there

    @property
    def title(self) -> str:
        return gpu.name(self.index)

    def memory(self) -> int:
        return gpu.memory(self.index)[0]

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> Any:
        with self._here():
            return gpu.empty(tuple(shape), dtype)

    def put(self, values: Any, out: Any = None, dtype: DTypeLike | None = None) -> Any:
        """As `Device.put`: through pinned memory, without waiting; the array may be changed at once."""
        gpu.require_eager("numbers are brought to the device")
        array = numbers(values, "The array")
        if out is None:
            array = array if dtype is None else array.astype(dtype, copy=False)
        else:
            if array.shape != out.shape:
                raise ValueError(f"The array has shape {array.shape}; expected {out.shape}, that of `out`.")
            if not np.can_cast(array.dtype, out.dtype, "same_kind"):
                raise TypeError(f"The array has dtype {array.dtype}; expected {out.dtype}, that of `out`.")
            array = array.astype(out.dtype, copy=False)
        with self._here():
            moved = gpu.put(array)
            if out is None:
                return moved
            if array.size:
                out.data.copy_from_device_async(moved.data, moved.nbytes)
            return out

    def get(self, array: Any) -> np.ndarray:
        gpu.require_eager("numbers are read on the host")
        with self._here(), watching.waiting(self):
            return array.get()

    def adopt(self, value: Any, what: str) -> Any:
        array = super().adopt(value, what)
        if array.flags.c_contiguous:
            return array
        with self._here():
            return gpu.cupy().ascontiguousarray(array)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        with self._here():
            replay = gpu.capture(work)

        def run():
            with self._here():
                replay()

        return run


@contextlib.contextmanager
def _other(index):
    with gpu.cupy().cuda.Device(index):
        yield


_SAME = contextlib.nullcontext()


def _on(index):
    """Within it, CuPy's current device is that of this number."""
    return _SAME if gpu.cupy().cuda.runtime.getDevice() == index else _other(index)


_devices: dict[int, CudaDevice] = {}


def find(name: str) -> CudaDevice | None:
    """The GPU of this name; None if that is no name of a GPU. Raises DeviceError, which says why, if it cannot be
    used."""
    found = NAME.fullmatch(name)
    return _of(int(found[1] or 0)) if found else None


def _of(index):
    if index not in _devices:
        device = CudaDevice(index)
        register(device, gpu.cupy().ndarray, lambda array: _of(array.data.device_id))
        _devices[index] = device
    return _devices[index]


def in_use() -> bool:
    """Whether this process computes on a GPU, so far as octsod knows."""
    return bool(_devices)


def available() -> bool:
    """Whether there is a GPU to use."""
    try:
        return find("cuda") is not None
    except gpu.DeviceError:
        return False
