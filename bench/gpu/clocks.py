"""Times on a GPU: of single launches, by events, with nothing of theirs left in its second-level cache."""

import math

import numpy as np

from .recorded import Array

FLUSHED = 1 << 30  # bytes that are read before each sample: that takes longer than the host takes to launch a kernel
BLOCKS = 2048  # that read them
_ALIGNMENT = 512

# Reading leaves nothing behind that has to be written back, as setting memory would.
_READ = r"""
extern "C" __global__ void read_all(const float4* from, long long count, float* to) {
  float sum = 0;
  const long long step = (long long)gridDim.x * blockDim.x;
  for (long long i = (long long)blockIdx.x * blockDim.x + threadIdx.x; i < count; i += step)
    sum += from[i].x + from[i].y + from[i].z + from[i].w;
  if (sum == 1) *to = sum;
}
"""


class CupyClock:
    """Of CuPy's current device, on its current stream."""

    def __init__(self, cupy):
        self._cuda = cupy.cuda
        self._memory = cupy.zeros(FLUSHED // 4, np.float32)
        self._read = cupy.RawModule(code=_READ, backend="nvrtc").get_function("read_all")

    def seconds(self, function, samples):
        """The seconds that each of `samples` calls keeps the GPU busy, after one that is not timed."""
        function()
        events = [(self._cuda.Event(), self._cuda.Event()) for _ in range(samples)]
        for start, stop in events:
            self._read((BLOCKS,), (256,), (self._memory, np.int64(FLUSHED // 16), self._memory))
            start.record()
            function()
            stop.record()
        events[-1][1].synchronize()
        return [self._cuda.get_elapsed_time(*pair) / 1e3 for pair in events]


class TorchClock:
    """Of PyTorch's current stream; see `CupyClock`."""

    def __init__(self, torch):
        self._cuda = torch.cuda
        self._memory = torch.zeros(FLUSHED // 4, device="cuda")

    def seconds(self, function, samples):
        function()
        events = [[self._cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(samples)]
        for start, stop in events:
            self._memory.sum()
            start.record()
            function()
            stop.record()
        self._cuda.synchronize()
        return [start.elapsed_time(stop) / 1e3 for start, stop in events]


class Noise:
    """Memory on CuPy's current device, full of numbers, that launches are given in the place of their arrays."""

    def __init__(self, cupy, size):
        self._cupy = cupy
        block = np.random.default_rng(0).standard_normal(1 << 20).astype(np.float32)
        whole = -(-(size + (1 << 20)) // block.nbytes) * block.nbytes
        self._memory = cupy.empty(whole, np.uint8)
        first = cupy.asarray(block)
        for at in range(0, whole, block.nbytes):
            (self._memory.data + at).copy_from_device_async(first.data, block.nbytes)

    def arguments(self, launch):
        """Arguments for a `recorded.Launch`, whose arrays share memory as those of the launch do, and have its contents
        where they are known. What it writes to is as it was left by others."""
        pointers, at = [], 0
        for (start, stop), contents in zip(launch.places, launch.contents, strict=True):
            if contents is None:
                pointers.append(self._memory.data + (at + start))
                at += -(-stop // _ALIGNMENT) * _ALIGNMENT
            else:
                pointers.append(self._holding(start, contents))
        if at > self._memory.nbytes:
            raise ValueError(f"{launch.kernel} needs {at} bytes of noise; there are {self._memory.nbytes}.")
        return tuple(self._array(a, pointers) if isinstance(a, Array) else a for a in launch.arguments)

    def _holding(self, start, contents):
        """Where bytes lie in memory of their own, from byte `start` of it."""
        pointer = self._cupy.empty(start + contents.nbytes, np.uint8).data + start
        if contents.size:
            pointer.copy_from_device_async(self._cupy.asarray(contents).data, contents.nbytes)
        return pointer

    def _array(self, array, pointers):
        if not math.prod(array.shape):
            return self._cupy.empty(array.shape, array.dtype)
        return self._cupy.ndarray(array.shape, array.dtype, pointers[array.buffer] + array.start)
