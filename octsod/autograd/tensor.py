"""The tensor: an array, or a map whose normalisation is deferred, with its place in the graph.

A `Tensor` is state. What can be done with one is put on it by the modules above: `backward` by graph.py, arithmetic by
ops/operators.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Real
from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend import Device, default_device, device_of, get_device, is_array, on
from ..backend.arrays import FLOATS, numbers, require_numbers
from ..backend.deferred import Deferred
from ..checks import described, require


class Tensor:
    """An array of numbers that ops can differentiate through.

    array: a NumPy array, or anything that `numpy.asarray` takes, which goes to the default device, or an array of a
    device, which stays there. The dtype is kept: float32 or float64, integers or bools, all in native byte order. Ops
    compute with the first two, which alone can have gradients; the others are labels, masks and the like, to be held,
    moved, cut and joined. On a host the tensor shares the memory of a NumPy array that is C-contiguous, aligned and
    writable, and copies any other. Raises TypeError on other dtypes, masked arrays, and what is no array at all.

    data: the array, or a `Deferred` map made by an op. grad: the gradient as an array of the same shape and dtype, or
    None; `backward()` adds to it. Both can be set to arrays that fit, of which a copy is kept.
    """

    __slots__ = ("__weakref__", "_computed", "_data", "_grad", "_home", "_lent", "index", "node", "requires_grad")
    __array_ufunc__ = None  # `array * tensor` is the tensor's business

    requires_grad: bool
    node: Any
    index: int

    if TYPE_CHECKING:  # what graph.py and ops/operators.py put on this class

        def backward(self, gradient: Any = None, retain_graph: bool = False) -> None: ...
        def __add__(self, other: Any) -> Tensor: ...
        def __radd__(self, other: Any) -> Tensor: ...
        def __sub__(self, other: Any) -> Tensor: ...
        def __rsub__(self, other: Any) -> Tensor: ...
        def __mul__(self, other: Any) -> Tensor: ...
        def __rmul__(self, other: Any) -> Tensor: ...
        def __truediv__(self, other: Any) -> Tensor: ...
        def __rtruediv__(self, other: Any) -> Tensor: ...
        def __neg__(self) -> Tensor: ...
        def __pow__(self, exponent: float) -> Tensor: ...
        def __matmul__(self, other: Any) -> Tensor: ...
        def __rmatmul__(self, other: Any) -> Tensor: ...
        def __getitem__(self, index: Any) -> Tensor: ...
        def __iter__(self) -> Iterator[Tensor]: ...
        def exp(self) -> Tensor: ...
        def log(self) -> Tensor: ...
        def sqrt(self) -> Tensor: ...
        def max(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor: ...
        def sum(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor: ...
        def mean(self, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor: ...
        def reshape(self, *shape: Any) -> Tensor: ...
        def transpose(self, *axes: Any) -> Tensor: ...
        @property
        def T(self) -> Tensor: ...  # noqa: N802 (the field's name)
        def to(self, device: str | Device) -> Tensor: ...

    def __init__(self, array: Any, requires_grad: bool = False):
        if isinstance(array, Tensor):
            raise TypeError("Tensor: `array` is a Tensor already; use `.numpy()` to take its values.")
        array = _numbers(array)
        if requires_grad and array.dtype not in FLOATS:
            raise TypeError(
                f"Tensor: `requires_grad` needs an array of float32 or float64, not {array.dtype}."
            )
        if isinstance(array, np.ndarray):
            array = default_device().put(array)
        self._set(array, requires_grad)

    def _set(self, data, requires_grad=False):
        self._data, self.requires_grad = data, requires_grad
        self._grad = self._home = self._computed = self.node = None
        self._lent = False  # whether a backward has `_home`, where gradients are to be, to write to
        self.index = 0

    @classmethod
    def _of(cls, data: Any) -> Tensor:
        """A tensor of what an op returned."""
        tensor = cls.__new__(cls)
        tensor._set(data)
        return tensor

    @classmethod
    def on(cls, device, array) -> Tensor:
        """An array as a constant on `device`, a `Device`; one that is on another device is refused."""
        array = _numbers(array)
        return cls._of(device.put(array) if isinstance(array, np.ndarray) else device.adopt(array, "The array"))

    @property
    def data(self) -> Any:
        """The array, or a `Deferred` map."""
        return self._data

    @data.setter
    def data(self, array: Any) -> None:
        self._data = self._fitting(array, "data", None if self._home is None else self._data)

    @property
    def grad(self) -> Any:
        """The gradient as an array, or None."""
        return self._grad

    @grad.setter
    def grad(self, array: Any) -> None:
        self._grad = None if array is None else self._fitting(array, "grad", self._home)

    @property
    def grad_in_place(self) -> bool:
        """Whether the gradient lies where an optimiser wants it, or there is no such place."""
        return self._home is None or self._grad is self._home

    def _fitting(self, array, name, out):
        """A copy of `array` on this tensor's device, in `out` if that is given; raises if it does not fit."""
        if isinstance(array, Tensor):
            array = array.array()
        array = _numbers(array, f"Tensor: `{name}`")
        if tuple(array.shape) != tuple(self.shape):
            raise ValueError(f"Tensor: `{name}` has shape {tuple(array.shape)}; expected {tuple(self.shape)}.")
        if array.dtype != self.dtype:
            raise TypeError(f"Tensor: `{name}` has dtype {array.dtype}; expected {self.dtype}.")
        if array is out:
            return array
        device = self.device
        with on(device):
            if out is None:
                out = device.empty(tuple(self.shape), self.dtype)
            if isinstance(array, np.ndarray):
                return device.put(array, out)
            if device_of(array) is not device:
                raise ValueError(f"Tensor: `{name}` is on {device_of(array).name}; expected {device.name}.")
            device.kernels.copy(array, out)
            return out

    def place(self, data: Any, grad: Any) -> None:
        """Live in `data` from now on, and let gradients be written to `grad`: arrays of this shape and dtype, such as
        views of the buffers of all parameters. Values and gradient are taken along. Raises ValueError for arrays that
        cannot be that."""
        device = self.device
        for name, array in (("data", data), ("grad", grad)):
            fits = is_array(array) and array.shape == self.shape and array.dtype == self.dtype
            require(
                fits and device_of(array) is device and device.adopt(array, "The array") is array, "place", name,
                described(array), f"{self.dtype} {self.shape} on {device.name}, contiguous and writable",
            )  # fmt: skip
        with on(device):
            device.kernels.copy(self._data, data)
            if self._grad is not None:
                device.kernels.copy(self._grad, grad)
                self._grad = grad
        self._data, self._home = data, grad

    def constant(self, value: Any) -> Tensor:
        """What takes part in arithmetic with this tensor: a tensor as it is; an array on this tensor's device; a number
        there, too, in this tensor's dtype if that can hold it."""
        if isinstance(value, Tensor):
            return value
        if isinstance(value, (int, float, Real)) and self.dtype.kind == "f":
            return Tensor._of(self.device.full((), float(value), self.dtype))
        array = _numbers(value)
        if isinstance(array, np.ndarray):
            dtype = self.dtype if array.ndim == 0 and self.dtype.kind == "f" else array.dtype
            array = self.device.put(array.astype(dtype, copy=False))
        return Tensor._of(array)

    @property
    def device(self) -> Device:
        """Where the array is."""
        return device_of(self._data.raw if isinstance(self._data, Deferred) else self._data)

    @property
    def shape(self) -> tuple[int, ...]:
        return self._data.shape

    @property
    def dtype(self) -> np.dtype:
        return self._data.dtype

    @property
    def ndim(self) -> int:
        return len(self._data.shape)

    @property
    def size(self) -> int:
        count = 1
        for n in self._data.shape:
            count *= n
        return count

    def array(self) -> Any:
        """The values as an array of the tensor's device. A deferred map is computed, once."""
        if isinstance(self._data, Deferred):
            if self._data.is_raw:
                return self._data.raw
            if self._computed is None:
                self._computed = self._data.value()
            return self._computed
        return self._data

    def numpy(self) -> np.ndarray:
        """The values as a NumPy array: on a host the tensor's own, elsewhere a copy. Waits for the device."""
        return self.device.get(self.array())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def item(self) -> Any:
        """The only element as a Python number. Waits for the device."""
        return self.numpy().item()

    def __float__(self) -> float:
        return float(self.item())

    def detach(self) -> Tensor:
        """The same values, cut off from the graph."""
        return Tensor._of(self._data)

    def __getstate__(self):
        """For copies and pickles, which have no place in the buffers of an optimiser."""
        own = {name: getattr(self, name) for name in Tensor.__slots__ if name != "__weakref__"}
        return {**own, "_home": None, "_lent": False, "_computed": None}

    def __setstate__(self, state):
        for name, value in state.items():
            setattr(self, name, value)

    def zero_grad(self) -> None:
        """Forget the gradient."""
        self._grad = None

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len() of a tensor without dimensions.")
        return self.shape[0]

    def __repr__(self) -> str:
        extra = f", op={self.node.name}" if self.node else ", requires_grad=True" if self.requires_grad else ""
        if self.device is not get_device("cpu"):
            extra += f", device={self.device.name}"
        return f"Tensor({np.array2string(self.numpy(), threshold=20, precision=4)}, dtype={self.dtype}{extra})"


def _numbers(value, what="Tensor: `array`"):
    """Anything array-like as an array of numbers; one of a device stays where it is."""
    if isinstance(value, np.ndarray) or not is_array(value):
        return numbers(value, what)
    require_numbers(value.dtype, what)
    return value
