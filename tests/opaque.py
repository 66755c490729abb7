"""A device for tests whose arrays are not NumPy's: no `__array__`, no buffer, no arithmetic of their own.

Its kernels are the reference's. Whatever reaches for an array's numbers on the way, by a NumPy call or by waiting,
raises; `get` is the one door, and it counts. So what runs here runs on any device.
"""

import importlib

import numpy as np

from octsod.backend import Device, register
from octsod.backend.deferred import ActivationGradient, Deferred, DeferredGradient, GradientTarget

reference = importlib.import_module("octsod.kernels.reference")


def _refuse(what):
    def method(self, *args, **keywords):
        raise AssertionError(f"an array of the device was {what} on the host")

    return method


class OpaqueArray:
    """What backend/contract.py says an array of a device has, and nothing else."""

    __slots__ = ("__values", "__weakref__", "device")

    def __init__(self, values, device):
        self.__values, self.device = values, device

    @property
    def shape(self):
        return self.__values.shape

    @property
    def dtype(self):
        return self.__values.dtype

    @property
    def ndim(self):
        return self.__values.ndim

    @property
    def size(self):
        return self.__values.size

    def reshape(self, *shape):
        return OpaqueArray(_view(self.__values, self.__values.reshape(*shape)), self.device)

    def __getitem__(self, index):
        return OpaqueArray(_view(self.__values, self.__values[index]), self.device)

    __array__ = _refuse("read")
    __array_ufunc__ = None
    __array_function__ = _refuse("given to NumPy")
    __iter__ = _refuse("walked through")
    __len__ = _refuse("measured")
    __bool__ = __float__ = __int__ = __index__ = _refuse("asked for its value")
    __setitem__ = _refuse("written")
    for _name in ("add", "radd", "iadd", "sub", "mul", "rmul", "imul", "truediv", "pow", "neg", "eq", "lt", "gt"):
        locals()[f"__{_name}__"] = _refuse("computed with")
    del _name
    __hash__ = object.__hash__


def _view(array, part):
    assert array.size == 0 or np.shares_memory(array, part) or part.size == 0, "expected a view"
    return np.asarray(part)


def _values(array):
    return array._OpaqueArray__values


def _opened(value):
    """The same argument for a reference kernel: arrays as NumPy's."""
    if isinstance(value, OpaqueArray):
        return _values(value)
    assert not isinstance(value, np.ndarray) or value.ndim == 0, "a kernel was given an array of the host"
    if isinstance(value, Deferred):
        return _Opened(value)
    if isinstance(value, DeferredGradient):
        coefficients = None if value.coefficients is None else _values(value.coefficients)
        return DeferredGradient(_values(value.g), _values(value.raw), coefficients, value.spent)
    if isinstance(value, GradientTarget):
        sums = None if value.gradient_sums is None else _values(value.gradient_sums)
        return GradientTarget(_values(value.array), value.accumulate, sums)
    if isinstance(value, ActivationGradient):
        sums = None if value.gradient_sums is None else _values(value.gradient_sums)
        return ActivationGradient(_values(value.array), sums, value.spent)
    if isinstance(value, (list, tuple)):
        return [_opened(item) for item in value]
    return value


class _Opened(Deferred):
    """A map for a reference kernel; what it claims is claimed from the map of the device."""

    __slots__ = ("source",)

    def __init__(self, source):
        coefficients = None if source.coefficients is None else _values(source.coefficients)
        super().__init__(_values(source.raw), coefficients)
        self.source = source

    def claim_activation_sums(self):
        claimed = self.source.claim_activation_sums()
        return None if claimed is None else _values(claimed)


class OpaqueDevice(Device):
    """gets: how often anybody has waited for the device."""

    steps_ahead = 4

    def __init__(self, name):
        super().__init__(name, "reference")
        self.gets = 0

    def launchable(self, name, function):
        def kernel(*arguments, **keywords):
            keywords = {key: _opened(value) for key, value in keywords.items()}
            return function(*(_opened(value) for value in arguments), **keywords)

        return super().launchable(name, kernel)

    def empty(self, shape, dtype):
        values = np.empty(shape, dtype)
        values.fill(np.nan if values.dtype.kind == "f" else 77)  # so nobody takes it for zeros
        return OpaqueArray(values, self)

    def put(self, values, out=None, dtype=None):
        assert not isinstance(values, OpaqueArray)
        if out is not None:
            _values(out)[...] = values
            return out
        return OpaqueArray(np.array(values, dtype, order="C"), self)

    def get(self, array):
        self.gets += 1
        return _values(array).copy()


device, other = OpaqueDevice("opaque"), OpaqueDevice("opaque:1")
for each in (device, other):
    register(each, OpaqueArray, lambda array: array.device)
