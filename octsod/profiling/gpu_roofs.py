"""What a GPU does per second at most, measured."""

import importlib
import time
from typing import Any

import numpy as np

from ..backend import gpu
from ..backend.cuda import CudaDevice
from .results import Cache, Roofs

COPIED = 1 << 28  # bytes: more than its second-level cache holds
LAUNCHES = 200
SAMPLES = 5
THREADS = 256  # of a block
CHAINS = 8  # independent multiply-adds that each thread has under way
LONG_ENOUGH = 5e-3  # seconds of arithmetic
ROUNDS = 20  # times that what lies in the second-level cache is moved in a launch

# A thread's chains do not depend on each other, so that several are under way; the compiler cannot leave them out.
# __ldcg passes the first-level caches, which hold nothing from one launch to the next.
_SOURCE = r"""
extern "C" __global__ void nothing() {}

extern "C" __global__ void multiply_add(float factor, long long rounds, float* out) {
  float sum[8];
  for (int i = 0; i < 8; i++) sum[i] = threadIdx.x + i;
  for (long long k = 0; k < rounds; k++) {
    for (int i = 0; i < 8; i++) sum[i] = fmaf(sum[i], factor, 1.0f);
  }
  float total = 0;
  for (int i = 0; i < 8; i++) total += sum[i];
  if (total == -1.0f) *out = total;
}

extern "C" __global__ void move(const float4* x, float4* y, long long count, int rounds, int copied) {
  long long first = (long long)blockIdx.x * blockDim.x + threadIdx.x, step = (long long)gridDim.x * blockDim.x;
  float total = 0;
  for (int k = 0; k < rounds; k++) {
    for (long long i = first; i < count; i += step) {
      float4 value = __ldcg(x + i);
      if (copied) y[i] = value;
      total += value.x + value.y + value.z + value.w;
    }
  }
  if (total == -1.0f) y[first] = make_float4(total, total, total, total);
}
"""


def measure_gpu(device: CudaDevice) -> Roofs:
    """The roofs of a GPU: copies within its memory and its second-level cache, multiply-adds in float32, a launch that
    follows another. threads is 1: that of the host."""
    with gpu.device(device.index):
        cuda = importlib.import_module("octsod.kernels.cuda.launch")
        module = importlib.import_module("octsod.kernels.cuda.driver").driver().module(_SOURCE, cuda.OPTIONS)
        nothing, multiply_add, move = (module.get_function(name) for name in ("nothing", "multiply_add", "move"))
        source, target = (gpu.empty((COPIED // 4,), "float32") for _ in range(2))
        device.kernels.fill(source, 1)
        bandwidth = 2 * COPIED / _shortest(lambda: target.data.copy_from_device_async(source.data, COPIED))
        read = _moved(move, device, source, target, COPIED, 1, False)
        written = COPIED / _shortest(lambda: device.kernels.fill(target, 1))
        held = gpu.cache_bytes(device.index)
        size = min(held // 4, COPIED)  # of each array
        within = max(_moved(move, device, source, target, size, ROUNDS, copied) for copied in (True, False))
        return Roofs(
            device.name, 1, bandwidth, _arithmetic(multiply_add, device), _launch(nothing, device),
            max(bandwidth, read, written), (Cache(held, max(within, bandwidth)),),
        )  # fmt: skip


def _moved(move: Any, device: CudaDevice, source: Any, target: Any, size: int, rounds: int, copied: bool) -> float:
    """Bytes per second of reading `size` bytes so many times, and of writing them to `target`, too, if `copied`."""
    blocks, count = 8 * gpu.multiprocessors(device.index), size // 16
    arguments = source, target, np.int64(count), np.int32(rounds), np.int32(copied)
    return 16 * count * rounds * (1 + copied) / _shortest(lambda: move((blocks,), (THREADS,), arguments))


def _arithmetic(multiply_add: Any, device: CudaDevice) -> float:
    """Operations per second: as many rounds as take some time."""
    out, blocks = device.empty((1,), "float32"), 8 * gpu.multiprocessors(device.index)
    rounds = 64
    while True:
        seconds = _shortest(
            lambda rounds=rounds: multiply_add((blocks,), (THREADS,), (np.float32(0.5), np.int64(rounds), out))
        )
        rate = 2 * CHAINS * rounds * THREADS * blocks / seconds
        if seconds >= LONG_ENOUGH or rounds >= 1 << 20:
            return rate
        rounds *= 8


def _launch(nothing: Any, device: CudaDevice) -> float:
    """Seconds from one launch to the next, when there is nothing to do: what the host takes, or the device."""
    best = float("inf")
    for _ in range(SAMPLES):
        done, start = gpu.event(), time.perf_counter()
        for _ in range(LAUNCHES):
            nothing((1,), (32,), ())
        done.record()
        done.synchronize()
        best = min(best, (time.perf_counter() - start) / LAUNCHES)
    return best


def _shortest(work: Any) -> float:
    """Seconds that `work` keeps the GPU busy, the least of a few times."""
    work()
    best = float("inf")
    for _ in range(SAMPLES):
        start, stop = gpu.event(), gpu.event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        best = min(best, gpu.seconds_between(start, stop))
    return best
