"""CuPy, with this library's manners: a GPU is found or refused in one sentence, memory that runs out is named, work is
captured as a CUDA graph.

Work goes to the calling thread's current stream of CuPy, so that it keeps its order with whatever a user does there.
"""

import contextlib
import math
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from ..errors import NotReplayableError, OctsodError
from .arrays import compact

OLDEST = (7, 0)  # compute capability: kernels rely on threads of a warp that go their own ways (Volta)


class DeviceError(OctsodError):
    """A GPU cannot be used, or not for this."""


class OutOfMemoryError(DeviceError, MemoryError):
    """A GPU's memory does not suffice."""


# Whoever wants to know that kernels are being compiled: called with the name of a file, how many are done, and of how
# many. Those in CuPy's cache are among them.
compiling: list[Callable[[str, int, int], None]] = []

_thread = threading.local()


def cupy() -> Any:
    """CuPy. Raises DeviceError if it is not installed, or does not load."""
    try:
        import cupy
    except ImportError as error:
        if error.name not in (None, "cupy"):
            raise DeviceError(f"cuda: CuPy does not load: {error}.") from error
        raise DeviceError(
            "cuda: CuPy is not installed; GPUs need one of the packages cupy-cuda12x and cupy-cuda13x, the one for the "
            "driver's version of CUDA (nvidia-smi shows it)."
        ) from error
    except Exception as error:  # a broken installation has many ways to fail
        raise DeviceError(f"cuda: CuPy does not load: {type(error).__name__}: {error}.") from error
    return cupy


def count() -> int:
    """How many GPUs there are, at least one. Raises DeviceError, which says what is missing, if there is none."""
    runtime = cupy().cuda.runtime
    try:
        found = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        driver, needed = runtime.driverGetVersion(), runtime.runtimeGetVersion()
        if driver == 0:
            raise DeviceError("cuda: there is no NVIDIA driver on this machine.") from error
        if driver < needed:
            raise DeviceError(
                f"cuda: the NVIDIA driver is for CUDA {_version(driver)}, but this CuPy needs {_version(needed)}; "
                "install a newer driver, or the CuPy for this one."
            ) from error
        if "NoDevice" in str(error):
            raise DeviceError("cuda: there is no GPU, or CUDA_VISIBLE_DEVICES hides it.") from error
        raise DeviceError(f"cuda: {error}.") from error
    if not found:
        raise DeviceError("cuda: there is no GPU, or CUDA_VISIBLE_DEVICES hides it.")
    return found


def require(index: int) -> None:
    """Raise DeviceError unless there is a GPU of this number that kernels run on, and what compiles them."""
    found = count()
    if index >= found:
        there = "is one GPU, cuda:0" if found == 1 else f"are {found} GPUs, cuda:0 to cuda:{found - 1}"
        raise DeviceError(f"cuda:{index}: there {there}.")
    capability = cupy().cuda.Device(index).compute_capability  # such as "90"
    major, minor = int(capability[:-1]), int(capability[-1])
    if (major, minor) < OLDEST:
        raise DeviceError(
            f"cuda:{index}: {name(index)} has compute capability {major}.{minor}; expected {OLDEST[0]}.{OLDEST[1]} or "
            "more."
        )
    try:
        cupy().cuda.nvrtc.getVersion()
    except Exception as error:  # CuPy finds NVRTC when it is needed; what it raises differs from version to version
        raise DeviceError(
            f"cuda:{index}: CuPy does not find NVRTC, which compiles kernels: install nvidia-cuda-nvrtc-cu12 beside "
            "cupy-cuda12x, nvidia-cuda-nvrtc beside cupy-cuda13x."
        ) from error


def _version(number):
    return f"{number // 1000}.{number % 1000 // 10}"


def name(index: int) -> str:
    """What the GPU is called."""
    return cupy().cuda.runtime.getDeviceProperties(index)["name"].decode()


def memory(index: int) -> tuple[int, int]:
    """Bytes that octsod may still use on a GPU, those that CuPy keeps for reuse among them, and all that it has."""
    cp = cupy()
    with cp.cuda.Device(index):
        free, total = cp.cuda.runtime.memGetInfo()
        return free + cp.get_default_memory_pool().free_bytes(), total


def empty(shape: Sequence[int], dtype: Any) -> Any:
    """An uninitialised array on CuPy's current device. Raises OutOfMemoryError."""
    with _named_memory(math.prod(shape) * np.dtype(dtype).itemsize):
        return cupy().empty(shape, dtype)


def put(array: np.ndarray) -> Any:
    """A NumPy array on CuPy's current device, by way of pinned memory: it may be changed at once."""
    array = compact(array)
    with _named_memory(array.nbytes):
        # For an array without axes, CuPy would compile a kernel of its own.
        return cupy().asarray(array.reshape(-1)).reshape(array.shape)


@contextlib.contextmanager
def _named_memory(wanted):
    """Within it, a lack of memory is an OutOfMemoryError that says how many bytes were wanted."""
    cp = cupy()
    try:
        yield
    except cp.cuda.memory.OutOfMemoryError as error:
        index = cp.cuda.runtime.getDevice()
        free, total = memory(index)
        raise OutOfMemoryError(
            f"cuda:{index}: out of memory: {wanted / 1e9:.2f} GB more are needed, and {free / 1e9:.2f} of "
            f"{total / 1e9:.1f} GB are free; smaller batches or pictures may fit."
        ) from error


def device(index: int) -> Any:
    """A context in which the GPU of this number is CuPy's current device."""
    return cupy().cuda.Device(index)


def multiprocessors(index: int) -> int:
    """How many a GPU has."""
    return cupy().cuda.Device(index).attributes["MultiProcessorCount"]


def cache_bytes(index: int) -> int:
    """Bytes of a GPU's second-level cache."""
    return cupy().cuda.Device(index).attributes["L2CacheSize"]


def event() -> Any:
    """An event, to be recorded on the current stream."""
    return cupy().cuda.Event()


def seconds_between(start: Any, stop: Any) -> float:
    """The time between two events that a device has reached."""
    return cupy().cuda.get_elapsed_time(start, stop) / 1e3


def watch_memory(taken: Callable[[int, int], None], returned: Callable[[int, int], None]) -> Any:
    """A context in which what this thread takes of CuPy's pools of memory, and gives back, is told as (address, bytes).
    """

    class Watch(cupy().cuda.MemoryHook):  # type: ignore[misc]
        name = "octsod.profile"

        def malloc_postprocess(self, **facts):
            taken(facts["mem_ptr"], facts["mem_size"])

        def free_preprocess(self, **facts):
            returned(facts["mem_ptr"], facts["mem_size"])

    return Watch()


def require_eager(what: str) -> None:
    """Raise NotReplayableError if this thread is capturing: `what` would happen only once."""
    if capturing():
        raise NotReplayableError(what)


def capturing() -> bool:
    """Whether this thread is capturing."""
    return getattr(_thread, "capturing", False)


@contextlib.contextmanager
def _capturing() -> Iterator[None]:
    _thread.capturing = True
    try:
        yield
    finally:
        _thread.capturing = False


class Replay:
    """Kernels that were captured: `replay()` launches them all again, on the current stream, as one.

    They use the arrays that they were captured with, and memory of a pool of their own, which lives as long as this.
    """

    def __init__(self, graph: Any, pool: Any):
        self._graph, self._pool = graph, pool

    def __call__(self) -> None:
        self._graph.launch()


def capture(function: Callable[[], None]) -> Replay:
    """Capture the kernels that `function` launches, none of which runs now.

    Its arrays that outlive it must not be those that it allocates, but for looking at them. It must have run once
    before, so that everything is compiled and loaded. Raises NotReplayableError if it needs the host.
    """
    cp = cupy()
    cp.get_default_memory_pool().free_all_blocks()  # what the same work took before is not needed twice
    stream, pool = cp.cuda.Stream(non_blocking=True), cp.cuda.MemoryPool()
    with cp.cuda.using_allocator(pool.malloc), stream, _capturing():
        # Relaxed: other threads may copy and allocate meanwhile, and so may finalisers in this one.
        stream.begin_capture(cp.cuda.runtime.streamCaptureModeRelaxed)
        try:
            function()
        except BaseException:
            with contextlib.suppress(Exception):  # the capture is void, whatever ended it
                stream.end_capture()
            raise
        return Replay(stream.end_capture(), pool)
