"""A stand-in for CuPy on machines without a GPU: its arrays, memory pools, streams, graphs and kernels, as far as
octsod uses them, with the simulator in the place of the GPU. `installed()` puts it in CuPy's place.

It is stricter than a GPU where that shows mistakes: memory that is given back is filled with NaN at once, and a
captured kernel keeps addresses, not arrays, so that whatever it uses must be kept alive by somebody else.
"""

import contextlib
import importlib
import sys
import threading
import types
import weakref

import numpy as np

from octsod.testing import cusim

_state = threading.local()


def _current(name, default):
    return getattr(_state, name, default)


class CUDARuntimeError(RuntimeError):
    pass


class OutOfMemoryError(MemoryError):
    pass


class Machine:
    """What there is: GPUs, the driver's and CuPy's versions of CUDA, bytes of memory, NVRTC."""

    name = "Pretend GPU"

    def __init__(self, gpus=2, driver=12080, needed=12040, memory=1 << 30, capability="90", nvrtc=True):
        self.gpus, self.driver, self.needed, self.memory = gpus, driver, needed, memory
        self.capability, self.nvrtc, self.used = capability, nvrtc, 0


class MemoryPointer:
    """Where bytes of a block lie, which is kept from its pool as long as its lease lives."""

    def __init__(self, block, lease, device_id):
        self.block, self.lease, self.device_id, self.ptr = block, lease, device_id, block.ctypes.data

    def __add__(self, offset):
        return MemoryPointer(self.block[offset:], self.lease, self.device_id)

    def copy_from_device_async(self, source, nbytes, stream=None):
        assert nbytes <= min(self.block.size, source.block.size)
        target, origin = self.block[:nbytes], source.block[:nbytes]
        _do(lambda: np.copyto(target, origin))


def _do(work):
    """Do something that a stream does in its turn: now, or whenever the graph that is being captured is launched."""

    def done():
        work()
        cupy.done += 1

    stream = _current("stream", None)
    if stream is not None and stream.nodes is not None:
        stream.nodes.append(done)
    else:
        done()


class _Flags:
    def __init__(self, values):
        self.c_contiguous = values.flags.c_contiguous


class ndarray:  # noqa: N801 (CuPy's name)
    def __init__(self, shape, dtype, memptr):
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        assert size <= memptr.block.size and memptr.ptr % np.dtype(dtype).itemsize == 0
        self._set(memptr.block[:size].view(dtype).reshape(shape), memptr.lease, memptr.device_id)

    def _set(self, values, lease, device_id):
        self._values, self._lease, self._device_id = values, lease, device_id
        self.shape, self.dtype, self.ndim, self.size = values.shape, values.dtype, values.ndim, values.size
        self.nbytes, self.flags = values.nbytes, _Flags(values)

    def _view(self, values):
        out = object.__new__(ndarray)
        out._set(values, self._lease, self._device_id)
        return out

    @property
    def data(self):
        return MemoryPointer(self._values.reshape(-1).view(np.uint8), self._lease, self._device_id)

    def reshape(self, *shape):
        return self._view(self._values.reshape(*shape))

    def __getitem__(self, index):
        return self._view(np.asarray(self._values[index]))

    def get(self):
        assert not _capturing(), "a copy to the host during capture"
        return self._values.copy()

    def __deepcopy__(self, memo):
        with Device(self._device_id):
            out = empty(self.shape, self.dtype)
        out._values[...] = self._values
        return out

    def _refuse(self, *_):
        raise TypeError("Implicit conversion to a NumPy array is not allowed.")

    __array__ = __len__ = __bool__ = __float__ = __int__ = __iter__ = _refuse
    __array_ufunc__ = None


class _Lease:
    """A block of memory that returns to its pool with its last array."""

    def __init__(self, pool, block):
        self._give_back = weakref.finalize(self, pool.give_back, block)


class MemoryPool:
    def __init__(self):
        self._free = {}

    def malloc(self, size):
        machine = cupy.machine
        blocks = self._free.get(size)
        if blocks:
            block = blocks.pop()
        else:
            if machine.used + size > machine.memory:
                raise OutOfMemoryError(f"Out of memory allocating {size} bytes")
            machine.used += size
            block = np.empty(size + 256, np.uint8)
            block = block[-block.ctypes.data % 256 :][:size]
        block.fill(0xFF)  # NaN
        for hook in list(_hooks()):
            hook.malloc_postprocess(
                device_id=Device().id, size=size, mem_size=size, mem_ptr=block.ctypes.data, pmem_id=0
            )
        return _Lease(self, block), block

    def give_back(self, block):
        for hook in list(_hooks()):
            hook.free_preprocess(device_id=0, mem_size=block.size, mem_ptr=block.ctypes.data, pmem_id=0)
        if not _capturing():
            block.fill(0xFF)
        self._free.setdefault(block.size, []).append(block)

    def free_bytes(self):
        return sum(size * len(blocks) for size, blocks in self._free.items())

    def free_all_blocks(self):
        cupy.machine.used -= self.free_bytes()
        self._free.clear()


def _hooks():
    if not hasattr(_state, "hooks"):
        _state.hooks = []
    return _state.hooks


class MemoryHook:
    """Told, in the thread that has entered it, of memory that pools hand out and take back."""

    def __enter__(self):
        _hooks().append(self)
        return self

    def __exit__(self, *_):
        _hooks().remove(self)


_pool = MemoryPool()


def empty(shape, dtype=float):
    shape, dtype = ((shape,) if isinstance(shape, int) else tuple(shape)), np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    lease, block = _current("allocator", _pool.malloc)(-(-size // 512) * 512) if size else (None, np.empty(0, np.uint8))
    return ndarray(shape, dtype, MemoryPointer(block, lease, Device().id))


def zeros(shape, dtype=float):
    out = empty(shape, dtype)
    values = out._values
    _do(lambda: values.fill(0))
    return out


def asarray(values):
    assert isinstance(values, np.ndarray) and not _capturing()
    assert values.ndim, "CuPy would compile a kernel of its own"
    out = empty(values.shape, values.dtype)
    out._values[...] = values
    return out


def ascontiguousarray(array):
    out = empty(array.shape, array.dtype)
    _do(lambda: np.copyto(out._values, array._values))
    return out


class Device:
    def __init__(self, index=None):
        self.id = _current("device", 0) if index is None else index
        self.attributes = {
            "MaxSharedMemoryPerBlockOptin": 227 << 10, "MultiProcessorCount": 1, "L2CacheSize": 1 << 13,
        }  # fmt: skip
        self._before = []

    @property
    def compute_capability(self):
        return cupy.machine.capability

    def __enter__(self):
        self._before.append(_current("device", 0))
        _state.device = self.id

    def __exit__(self, *_):
        _state.device = self._before.pop()

    def synchronize(self):
        pass


class Event:
    """Time is how much has been done: a millisecond for each launch and each copy."""

    at = None  # until it is recorded

    def record(self, stream=None):
        assert not _capturing()
        self.at = cupy.done

    def synchronize(self):
        assert not _capturing()


def get_elapsed_time(start, stop):
    assert start.at is not None and stop.at is not None, "an event that was never recorded"
    return float(stop.at - start.at)


class Graph:
    def __init__(self, nodes):
        self._nodes = nodes
        cupy.graphs.append(self)
        self.launches = 0

    def launch(self, stream=None):
        assert not _capturing()
        self.launches += 1
        for node in self._nodes:
            node()


class Stream:
    def __init__(self, non_blocking=False):
        self.non_blocking, self.nodes, self._before = non_blocking, None, []

    def __enter__(self):
        self._before.append(_current("stream", None))
        _state.stream = self

    def __exit__(self, *_):
        _state.stream = self._before.pop()

    def begin_capture(self, mode=None):
        assert self.non_blocking and mode == 2, "another thread's copies would end a capture of another mode"
        self.nodes = []

    def end_capture(self):
        nodes, self.nodes = self.nodes, None
        return Graph(nodes)


def _capturing():
    stream = _current("stream", None)
    return stream is not None and stream.nodes is not None


@contextlib.contextmanager
def using_allocator(allocator):
    before = _current("allocator", _pool.malloc)
    _state.allocator = allocator
    try:
        yield
    finally:
        _state.allocator = before


class _Kernel:
    nothing: np.uint64  # what stands for no array; other numbers may be equal to it

    def __init__(self, kernel):
        self._kernel, self.shared_size_bytes, self.max_dynamic_shared_size_bytes = kernel, 0, 48 << 10

    def __call__(self, grid, block, args, *, shared_mem=0):
        assert all(type(a) is ndarray or isinstance(a, np.generic) for a in args), "CuPy takes no other arguments"
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        self._kernel.max_dynamic_shared_size_bytes = self.max_dynamic_shared_size_bytes
        devices = {a._device_id for a in args if type(a) is ndarray and a.size}
        assert devices <= {Device().id}, "a kernel was launched on another device than its arrays'"
        # Addresses: views of the memory, which do not keep it from being used again.
        args = tuple(a._values if type(a) is ndarray else None if a is self.nothing else a for a in args)
        cupy.launches += not _capturing()
        _do(lambda: self._kernel(grid, block, args, shared_mem=shared_mem))


class RawModule:
    def __init__(self, *, code, options=(), backend="nvrtc"):
        self._code, self._options, self._module = code, options, None

    def compile(self):
        cupy.compiled.append((Device().id, self._code, self._options))

    def get_function(self, name):
        if self._module is None:
            self._module = cusim.RawModule(code=self._code, options=self._options, mode="plain")
        return _Kernel(self._module.get_function(name))


def _device_count():
    machine = cupy.machine
    if not machine.driver or machine.driver < machine.needed:
        raise CUDARuntimeError("cudaErrorInsufficientDriver: CUDA driver version is insufficient")
    if not machine.gpus:
        raise CUDARuntimeError("cudaErrorNoDevice: no CUDA-capable device is detected")
    return machine.gpus


def _nvrtc_version():
    if not cupy.machine.nvrtc:
        raise RuntimeError('Failure finding "libnvrtc.so.12": No such file')
    return 12, 4


def _memory_info():
    return cupy.machine.memory - cupy.machine.used, cupy.machine.memory


def _module():
    runtime = types.SimpleNamespace(
        CUDARuntimeError=CUDARuntimeError, getDeviceCount=_device_count, getDevice=lambda: Device().id,
        driverGetVersion=lambda: cupy.machine.driver, runtimeGetVersion=lambda: cupy.machine.needed,
        getDeviceProperties=lambda index: {"name": cupy.machine.name.encode()}, memGetInfo=_memory_info,
        streamCaptureModeRelaxed=2,
    )  # fmt: skip
    cuda = types.SimpleNamespace(
        Device=Device, Stream=Stream, Event=Event, get_elapsed_time=get_elapsed_time, MemoryPool=MemoryPool,
        MemoryHook=MemoryHook,
        using_allocator=using_allocator, runtime=runtime,
        memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
        nvrtc=types.SimpleNamespace(getVersion=_nvrtc_version),
    )  # fmt: skip
    module = types.ModuleType("cupy")
    module.__dict__.update(
        ndarray=ndarray, empty=empty, zeros=zeros, asarray=asarray, ascontiguousarray=ascontiguousarray,
        RawModule=RawModule, get_default_memory_pool=lambda: _pool, cuda=cuda, __version__="14.0", machine=Machine(),
        compiled=[], graphs=[], launches=0, done=0,
    )  # fmt: skip
    return module


cupy = _module()  # machine, and what happened: `compiled`, `graphs`, `launches` from the host, all that was `done`


@contextlib.contextmanager
def installed(**machine):
    """Within it, this is CuPy, on such a `Machine`, and octsod's CUDA kernels run by it."""
    from octsod.backend import cuda, device

    driver = importlib.import_module("octsod.kernels.cuda.driver")
    _Kernel.nothing = driver.NOTHING
    before = sys.modules.get("cupy"), driver.driver(), dict(device._devices), dict(device._array_types)
    cupy.machine, cupy.compiled, cupy.graphs, cupy.launches, cupy.done = Machine(**machine), [], [], 0, 0
    _pool.free_all_blocks()
    cupy.machine.used = 0
    sys.modules["cupy"] = cupy
    driver.use_driver(driver.CupyDriver())
    known = dict(cuda._devices)
    cuda._devices.clear()
    try:
        yield cupy
    finally:
        cuda._devices.clear()
        cuda._devices.update(known)
        for own, old in ((device._devices, before[2]), (device._array_types, before[3])):
            own.clear()
            own.update(old)
        driver.use_driver(before[1])
        if before[0] is None:
            del sys.modules["cupy"]
        else:
            sys.modules["cupy"] = before[0]
