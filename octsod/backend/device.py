"""Devices: where arrays live, and the kernels that compute on them.

An op never asks where it runs. `Function.apply` looks at the op's inputs and makes their device the current one; the
functions that the op then calls, `kernels.NAME(...)`, `empty`, `zeros` and `full`, are that device's. See contract.py
for what a device's arrays and kernels promise.
"""

import contextlib
import contextvars
import functools
import importlib
import math
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from ..checks import shortened
from ..containers import available_memory
from ..errors import OctsodError
from ..threads import uninterrupted
from . import memory, watching
from .arrays import NUMBERS, compact, numbers, read_only, require_numbers

if TYPE_CHECKING:
    from .contract import Array, Contract

BACKENDS = ("cpu", "reference")


class MissingKernelError(NotImplementedError, AttributeError):
    """A backend lacks a kernel."""


class Kernels:
    """octsod's kernels on a device by name; its backend is a module that is imported on first use."""

    def __init__(self, device: "Device"):
        self._device, self._backend = device, device.backend
        self._module: Any = None

    def __getattr__(self, name: str) -> Any:
        found = self.find(name)
        return self._device.launchable(name, found) if callable(found) else found  # a fact about the backend

    def find(self, name: str) -> Any:
        """What the backend's module has under that name, past any launcher. Raises MissingKernelError."""
        if self._module is None:
            with uninterrupted(), watching.compiling():
                self._module = importlib.import_module(f"octsod.kernels.{self._backend}")
        try:
            return getattr(self._module, name)
        except AttributeError:
            raise MissingKernelError(f"The backend `{self._backend}` has no kernel `{name}`.") from None


class Device:
    """Where arrays live, and what computes on them.

    name: as in `Tensor.to(name)`. backend: which kernels run on it ("cpu", "reference", "cuda"), its name by default.
    kernels: octsod's own of them by name. steps_ahead: how many training steps may be under way before the host reads
    their results. captures: whether it can `capture` work.
    """

    steps_ahead = 20
    captures = False
    kernels: "Contract"

    def __init__(self, name: str, backend: str | None = None):
        self.name, self.backend = name, backend or name
        self.kernels = Kernels(self)  # type: ignore[assignment]

    def launchable(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """A kernel of this device as it is to be called: by the launcher that `launch_with` has set, if any."""
        return function if _launcher is None else functools.partial(_launcher, name, function)

    def __repr__(self):
        return f"<device {self.name}>"

    def __reduce__(self):  # a copy of a device is that device
        return get_device, (self.name,)

    def __deepcopy__(self, memo):
        return self

    def shares_memory_with(self, other: "Device") -> bool:
        """Whether arrays of the other device are this one's, too, as among hosts, which differ only in kernels."""
        return self is other

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> "Array":
        """An uninitialised array."""
        raise NotImplementedError

    def zeros(self, shape: Sequence[int], dtype: DTypeLike) -> "Array":
        """An array of zeros."""
        return self.full(shape, 0, dtype)

    def full(self, shape: Sequence[int], value: float, dtype: DTypeLike) -> "Array":
        """An array whose elements are all `value`, a number."""
        out = self.empty(shape, dtype)
        self.kernels.fill(out, value)
        return out

    def put(self, values: Any, out: Any = None, dtype: DTypeLike | None = None) -> Any:
        """A NumPy array, or nested lists of numbers, on this device: C-contiguous, in `out` of that shape if given. On
        a host an array that is fit for kernels (see arrays.py) is not copied. Does not wait for the device."""
        raise NotImplementedError

    def get(self, array: Any) -> np.ndarray:
        """An array of this device as a NumPy array. The only thing that waits for the device."""
        raise NotImplementedError

    def memory(self) -> float:
        """How many bytes may be used; infinity if nobody knows."""
        return math.inf

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """What repeats the kernels that `work` launches, on the same arrays, as one launch; none of them runs now.
        Only where `captures`. Raises NotReplayableError if `work` needs the host."""
        raise NotImplementedError

    def read_only(self, array: Any) -> Any:
        """A view that cannot be written, if this device has such; else the array."""
        return array

    def adopt(self, value: Any, what: str) -> Any:
        """What a user's op returned, as an array of this device that is fit for kernels. Raises TypeError, naming
        `what`, if it is not one."""
        if not is_array(value) or device_of(value) is not self:
            was = f"on {device_of(value).name}" if is_array(value) else f"a {type(value).__name__}"
            raise TypeError(f"{what} is {was}; expected an array on {self.name}, like the inputs.")
        require_numbers(value.dtype, what)
        return value


class Host(Device):
    """The processor that Python runs on: arrays are NumPy's, from the pool of memory.py."""

    steps_ahead = 1  # a step's results are there when it returns

    def shares_memory_with(self, other):
        return isinstance(other, Host)

    def empty(self, shape: Sequence[int], dtype: DTypeLike) -> np.ndarray:
        return memory.empty(shape, dtype)

    def full(self, shape: Sequence[int], value: float, dtype: DTypeLike) -> np.ndarray:
        out = memory.empty(shape, dtype)
        out.fill(value)
        return out

    def put(self, values: Any, out: Any = None, dtype: DTypeLike | None = None) -> Any:
        array = numbers(values, "The array")
        if out is None:
            return compact(array if dtype is None else array.astype(dtype, copy=False))
        if array.shape != out.shape:  # which NumPy might broadcast
            raise ValueError(f"The array has shape {array.shape}; expected {out.shape}, that of `out`.")
        np.copyto(out, array, casting="same_kind")
        return out

    def get(self, array: Any) -> np.ndarray:
        return array

    def memory(self) -> float:
        return available_memory()

    def read_only(self, array: Any) -> np.ndarray:
        return read_only(array)

    def adopt(self, value: Any, what: str) -> np.ndarray:
        if type(value) is np.ndarray and value.flags.carray and value.dtype in NUMBERS:  # nearly always
            return value
        if is_array(value) and not isinstance(value, np.ndarray):
            return super().adopt(value, what)
        return compact(numbers(value, what))


_devices: dict[str, Device] = {name: Host(name) for name in BACKENDS}
_array_types: dict[type, Callable[[Any], Device]] = {}  # type of array -> function that returns an array's device
_default: contextvars.ContextVar[Device] = contextvars.ContextVar("octsod.device", default=_devices["cpu"])
_launcher: Callable[..., Any] | None = None


class _Scope(threading.local):
    device: Device | None = None


_scope = _Scope()


def register(device: Device, array_type: type, locate: Callable[[Any], Device] | None = None) -> None:
    """Register `device` under its name, and arrays of `array_type` as its own; `locate(array)` returns an array's
    device if several share the type."""
    _devices[device.name] = device
    _array_types[array_type] = locate or (lambda array: device)


def get_device(device: str | Device) -> Device:
    """The device of that name: "cpu", "reference", "cuda" for the first GPU, "cuda:1" for the second, and so on. A
    `Device` is returned unchanged. Raises ValueError if there is no such name, DeviceError if a GPU cannot be used."""
    if isinstance(device, Device):
        return device
    found = _devices.get(device) if isinstance(device, str) else None
    if found is None and isinstance(device, str) and device.startswith("cuda"):
        from . import cuda  # only here, since it imports this module

        found = cuda.find(device)
    if found is None:
        known = ", ".join(("cpu", "cuda", "cuda:N", *(name for name in _devices if name not in ("cpu", "cuda:0"))))
        raise ValueError(f"`device` (={shortened(repr(device))}) must be one of {known}.")
    return found


def chosen_device(name: str, worth: bool = True) -> Device:
    """As `get_device`; "auto" stands for the device that OCTSOD_DEVICE names, if it is set, else for the first GPU, if
    there is one that can be used and it is worth it, else for the CPU. Raises OctsodError, which names OCTSOD_DEVICE,
    if that is no name of a device, or of one that cannot be used."""
    if name != "auto":
        return get_device(name)
    from . import cuda  # only here, since it imports this module

    name = os.environ.get("OCTSOD_DEVICE", "").strip() or "auto"
    if name == "auto":
        return get_device("cuda" if worth and cuda.available() else "cpu")
    if name != "cpu" and not cuda.NAME.fullmatch(name):
        raise OctsodError(f"OCTSOD_DEVICE (={shortened(repr(name))}) must be cpu, cuda, cuda:N or auto.")
    try:
        return get_device(name)
    except OctsodError as error:
        raise type(error)(f"OCTSOD_DEVICE (={name!r}): {error}") from error


def default_device() -> Device:
    """The device on which new tensors are made."""
    return _default.get()


def host() -> Host:
    """The device of NumPy arrays: the default one if that is a host, else the CPU."""
    device = _default.get()
    return device if isinstance(device, Host) else _devices["cpu"]  # type: ignore[return-value]


def now(device: Device) -> Device:
    """The device to use now: for any host, the host that currently computes, since they share memory."""
    return host() if isinstance(device, Host) else device


def device_of(array: Any) -> Device:
    """Where an array is. Raises TypeError if it is not an array of any device."""
    if type(array) is np.ndarray:
        return host()
    locate = _array_types.get(type(array))
    if locate is not None:
        return locate(array)
    if isinstance(array, (np.ndarray, np.generic, int, float)):
        return host()
    raise TypeError(f"{type(array).__name__} is no array of a known device.")


def common_device(op: str, arrays: Iterable[Any]) -> Device:
    """Where all of `arrays` are (None for a missing one); the default device if there are none.

    Raises ValueError, which names `op`, if they are on different devices.
    """
    common = first = None
    for index, array in enumerate(arrays):
        if array is not None:
            device = device_of(array)
            if common is None:
                common, first = device, index
            elif device is not common:
                raise ValueError(
                    f"{op}: input {index} is on {device.name}, but input {first} on {common.name}; "
                    "move one of them with `.to(device)`."
                )
    return default_device() if common is None else common


def is_array(value: Any) -> bool:
    """Whether `value` is an array of any device."""
    return isinstance(value, np.ndarray) or type(value) in _array_types


class on:  # noqa: N801 (reads as in `with on(device):`)
    """Within `with on(device):`, `kernels`, `empty`, `zeros` and `full` of this thread are that device's."""

    __slots__ = ("_before", "_device")

    def __init__(self, device: Device):
        self._device = device

    def __enter__(self) -> Device:
        self._before, _scope.device = _scope.device, self._device
        return self._device

    def __exit__(self, *_: Any) -> None:
        _scope.device = self._before


def current() -> Device:
    """The device of the op that this thread is running, or else the default one."""
    return _scope.device or _default.get()


class _CurrentKernels:
    """`kernels.NAME(...)` runs NAME of the current device."""

    def __getattr__(self, name: str) -> Any:
        return getattr(current().kernels, name)


kernels: "Contract" = _CurrentKernels()  # type: ignore[assignment]


def empty(shape: Sequence[int], dtype: DTypeLike) -> "Array":
    """An uninitialised array on the current device."""
    return current().empty(shape, dtype)


def zeros(shape: Sequence[int], dtype: DTypeLike) -> "Array":
    """An array of zeros on the current device."""
    return current().zeros(shape, dtype)


def full(shape: Sequence[int], value: float, dtype: DTypeLike) -> "Array":
    """An array whose elements are all `value`, on the current device."""
    return current().full(shape, value, dtype)


@contextlib.contextmanager
def use_backend(device: str | Device) -> Iterator[None]:
    """Within `with use_backend("reference"):`, new tensors are made on that device, and if it is a host ("cpu",
    "reference"), its kernels compute on NumPy arrays. Applies to this thread and to what it starts for octsod."""
    token = _default.set(get_device(device))
    try:
        yield
    finally:
        _default.reset(token)


def _nested(launcher, outer):
    return lambda name, function, *arguments: launcher(name, functools.partial(outer, name, function), *arguments)


@contextlib.contextmanager
def launch_with(launcher: Callable[..., Any]) -> Iterator[None]:
    """Within `with launch_with(f):`, a kernel is run by calling `f(name, function, *arguments)`, which must call
    `function(*arguments)`: to count, time or check what ops launch, in all threads. A kernel of a `Namespace` has the
    name "NAMESPACE.KERNEL". Where one lies within another, `function` calls the outer one's `f`."""
    global _launcher
    before = _launcher
    _launcher = launcher if before is None else _nested(launcher, before)
    try:
        yield
    finally:
        _launcher = before
