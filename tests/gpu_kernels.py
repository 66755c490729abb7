"""The CUDA kernels on a GPU, for tests of the contract, whose arrays are NumPy's: what a kernel is given is brought to
the device together with what surrounds it, and all of that is brought back."""

import dataclasses
import importlib
import weakref

import numpy as np

from octsod.backend import get_device
from octsod.backend.deferred import ActivationGradient, Deferred, DeferredGradient, GradientTarget
from octsod.inference import Frozen

_cuda = importlib.import_module("octsod.kernels.cuda")


class _Visit:
    """The arrays of a call, there and back."""

    def __init__(self, device):
        self.device, self._buffers = device, {}  # (address, bytes) -> (the host's buffer, the device's)
        self._parts = {}  # id -> (the host's array, the device's): what was one array is one there

    def there(self, array):
        """The device's copy of an array."""
        if id(array) not in self._parts:
            self._parts[id(array)] = array, self._part(array)
        return self._parts[id(array)][1]

    def _part(self, array):
        """The part of the device's copy of an array's buffer that is that array."""
        whole = array if array.base is None else array.base
        whole = whole if isinstance(whole, np.ndarray) and whole.flags.c_contiguous else array
        address = whole.ctypes.data
        if (address, whole.nbytes) not in self._buffers:
            self._buffers[address, whole.nbytes] = whole, self.device.put(whole.reshape(-1))
        flat = self._buffers[address, whole.nbytes][1]
        start = (array.ctypes.data - address) // array.itemsize
        return flat[start : start + array.size].reshape(array.shape)

    def back(self):
        for host, there in self._buffers.values():
            if host.flags.writeable:
                host[...] = self.device.get(there).reshape(host.shape)

    def opened(self, value):
        """An argument with arrays of the device."""
        if isinstance(value, np.ndarray):
            return self.there(value)
        if isinstance(value, Frozen):
            if value not in _networks:
                _networks[value] = dataclasses.replace(value, device=self.device)
            return _networks[value]
        if isinstance(value, Deferred):
            return _Visiting(value, self)
        if isinstance(value, (DeferredGradient, GradientTarget, ActivationGradient)):
            return type(value)(*(self.opened(getattr(value, name)) for name in _FIELDS[type(value)]))
        if isinstance(value, (list, tuple)):
            return [self.opened(item) for item in value]
        return value


_networks = weakref.WeakKeyDictionary()  # network -> the same, on the device
_FIELDS = {  # in the order of their constructors
    DeferredGradient: ("g", "raw", "coefficients", "spent"),
    GradientTarget: ("array", "accumulate", "gradient_sums"),
    ActivationGradient: ("array", "gradient_sums", "spent"),
}


class _Visiting(Deferred):
    """A map on the device; what it claims is claimed from the host's."""

    __slots__ = ("source", "visit")

    def __init__(self, source, visit):
        super().__init__(visit.opened(source.raw), visit.opened(source.coefficients), visit.opened(source.moments))
        self.source, self.visit = source, visit

    def claim_activation_sums(self):
        claimed = self.source.claim_activation_sums()
        return None if claimed is None else self.visit.there(claimed)


class GpuKernels:
    """`octsod.kernels.cuda` for NumPy arrays, on a GPU."""

    def __init__(self, name="cuda"):
        self._name = name

    def __getattr__(self, name):
        function = getattr(_cuda, name)

        def kernel(*arguments, **keywords):
            visit = _Visit(get_device(self._name))
            arguments = [visit.opened(value) for value in arguments]
            function(*arguments, **{key: visit.opened(value) for key, value in keywords.items()})
            visit.back()

        return kernel


kernels = GpuKernels()
