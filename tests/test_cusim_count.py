"""What a launch asks of memory, counted by the simulator; occupancy and predicted time."""

import dataclasses

import numpy as np
import pytest

from octsod.testing.cusim import Traffic, compiler, nvrtc
from octsod.testing.cusim.occupancy import GPUS, occupancy, predict

SOURCE = """
extern "C" __global__ void copy(float* y, const float* x, int stride, int offset) {
  y[threadIdx.x] = x[(blockIdx.x * blockDim.x + threadIdx.x) * stride + offset];  // 3
}
extern "C" __global__ void copy4(float4* y, const float4* x) {
  y[threadIdx.x] = x[threadIdx.x];
}
extern "C" __global__ void banks(float* y, int pitch) {
  __shared__ float tile[33 * 32];
  extern __shared__ float unused[];
  for (int i = 0; i < 33; ++i) tile[i * 32 + threadIdx.x] = i;  // 11
  __syncthreads();
  y[threadIdx.x] = tile[threadIdx.x * pitch];  // 13
}
extern "C" __global__ void branch(float* y, const float* x) {
  if (threadIdx.x % 32 < 8) y[threadIdx.x] = x[threadIdx.x];  // 16
  if (threadIdx.x >= 32) return;
  y[64 + threadIdx.x] = x[64 + threadIdx.x];  // 18
}
extern "C" __global__ void halo(float* y, float* z, const float* x, int n) {
  const bool inside = threadIdx.x > 2 && threadIdx.x < n;
  y[threadIdx.x] = inside ? x[threadIdx.x] : 0;  // 22
  z[threadIdx.x] = inside ? x[threadIdx.x + 32] : 0;  // 23
}
extern "C" __global__ void sums(float* y, const float* x, int n) {
  float v = 0;
  for (int i = threadIdx.x; i < n; i += 64) v += x[i];  // 27
  for (int d = 16; d; d >>= 1) v += __shfl_xor_sync(0xffffffff, v, d);
  if (threadIdx.x % 32 == 0) atomicAdd(y, v);  // 29
}
extern "C" __global__ void rounds(float* y, const float* x) {
  float v = 0;
  for (int i = 0; i < 8; ++i) {
    v = __shfl_xor_sync(0xffffffff, v, 1) + x[32 * i + threadIdx.x];  // 34
    if (i & 1) v += __shfl_down_sync(threadIdx.x & 8 ? 0xff00ff00 : 0x00ff00ff, v, 8);
  }
  y[threadIdx.x] = v;
}
extern "C" __global__ void polynomial(float* y, const float* x, int n) {
  float v = 0;
  for (int i = 0; i < n; ++i) v = v * x[threadIdx.x] + 1.f;
  y[threadIdx.x] = threadIdx.x < 5 ? sqrtf(v) : expf(v);
}
extern "C" __global__ void fused(double* y, const double* x, int n) {
  for (int i = 0; i < n; ++i) y[threadIdx.x] = fma(x[i], x[i], y[threadIdx.x]);
}
"""
i32 = np.int32


@pytest.fixture
def count(cuda_module):
    """Launches a kernel; what it did."""
    module = cuda_module(SOURCE, mode="count")

    def count(name, block, *arguments, grid=1, shared_mem=0):
        module.get_function(name)((grid,), (block,), arguments, shared_mem=shared_mem)
        return module.counts[-1]

    return count


def zeros(count=128):
    return np.zeros(count, np.float32)


@pytest.mark.parametrize("stride, offset, sectors, least, unique", [
    (1, 0, 4, 4, 128), (1, 1, 5, 4, 128), (2, 0, 8, 4, 128), (8, 0, 32, 4, 128), (0, 3, 1, 1, 4),
])  # fmt: skip
def test_sectors(count, stride, offset, sectors, least, unique):
    found = count("copy", 32, zeros(), zeros(300), i32(stride), i32(offset))
    assert (found.read.sectors, found.read.least, found.read.unique) == (sectors, least, unique)
    assert (found.write.sectors, found.write.least, found.write.unique) == (4, 4, 128)
    assert found.unique_bytes == unique + 128 and found.sector_bytes == 32 * (sectors + 4)
    read, write = found.sites
    assert (read.line, read.access, read.memory, read.warps, read.lanes) == (3, "read", "argument 1 (`x`)", 1, 32)
    assert (write.line, write.access, write.memory, write.bytes) == (3, "write", "argument 0 (`y`)", 128)
    assert "line 3: read of argument 1 (`x`): 1 by a warp" in str(found) and "copy (1, 1, 1) x (32, 1, 1)" in str(found)


def test_blocks_read_what_others_read(count):
    found = count("copy", 32, zeros(), zeros(), i32(0), i32(0), grid=4)
    assert (found.read.sectors, found.read.unique, found.write.sectors, found.write.unique) == (4, 4, 16, 128)


def test_views_lie_as_far_from_a_boundary_as_in_their_array(count):
    x = zeros(300)
    assert count("copy", 32, zeros(), x[8:], i32(1), i32(0)).read.sectors == 4
    assert count("copy", 32, zeros(), x[9:], i32(1), i32(0)).read.sectors == 5


def test_vectors_are_one_access(count):
    found = count("copy4", 32, zeros(), zeros())
    assert [(site.warps, site.moved, site.bytes) for site in found.sites] == [(1, 16, 512), (1, 16, 512)]


@pytest.mark.parametrize("pitch, conflicts", [(32, 31), (33, 0), (2, 1), (0, 0)])
def test_bank_conflicts(count, pitch, conflicts):
    found = count("banks", 32, zeros(), i32(pitch), shared_mem=512)
    assert found.bank_conflicts == conflicts and found.wavefronts == 34 + conflicts
    assert found.shared_memory == 33 * 32 * 4 + 512
    assert [site.memory for site in found.sites if site.shared] == ["the shared `tile`"] * 2


def test_divergence(count):
    found = count("branch", 64, zeros(), zeros())
    assert {(site.line, site.access, site.partial) for site in found.divergent} == {(16, "read", 2), (16, "write", 2)}
    assert {(site.line, site.warps, site.partial) for site in found.sites if site.line == 18} == {(18, 1, 0)}


def test_both_sides_of_a_condition_store_together(count):
    found = count("halo", 32, zeros(), zeros(), zeros(), i32(30))
    writes = [(site.line, site.warps, site.lanes, site.partial) for site in found.sites if site.access == "write"]
    assert writes == [(22, 1, 32, 0), (23, 1, 32, 0)]


def test_loops_and_atomics(count):
    x = np.ones(10_000, np.float32)
    y = zeros()
    found = count("sums", 64, y, x, i32(10_000))
    assert y[0] == 10_000 and found.read.unique == 40_004 and found.write.unique == 4
    loop = next(site for site in found.sites if site.line == 27)
    # 156 whole rounds of both warps, and half of one for the first warp alone.
    assert (loop.warps, loop.lanes, loop.moved, loop.least, loop.partial) == (313, 10_000, 1250, 1250, 1)
    atomic = next(site for site in found.sites if site.access == "atomic")
    assert (atomic.line, atomic.warps, atomic.moved, atomic.partial) == (29, 2, 2, 2)


@pytest.mark.parametrize("schedule", ["forward", "reverse", "random"])
def test_lanes_stay_together_after_shuffles(cuda_module, schedule):
    module = cuda_module(SOURCE, mode="count", schedules=(schedule,))
    module.get_function("rounds")((1,), (32,), (zeros(), zeros(256)))
    reads, writes = module.counts[-1].sites
    assert (reads.line, reads.warps, reads.lanes, reads.partial) == (34, 8, 256, 0)
    assert (writes.warps, writes.lanes, writes.partial) == (1, 32, 0)


def test_arithmetic(count):
    assert count("polynomial", 32, zeros(), zeros(), i32(7), grid=1).flops == 32 * 7 * 2 + 5
    assert count("copy", 32, zeros(), zeros(), i32(1), i32(0)).flops == 0
    if compiler._has_fma():
        assert count("fused", 32, np.zeros(32), np.zeros(9), i32(9)).flops == 32 * 9 * 2


def test_lanes_wait_for_each_other_in_long_loops(count):
    """More accesses than are kept: a lane lets the others catch up, and all of them still count together."""
    n = 64 * 20_000
    found = count("sums", 64, zeros(), np.ones(n, np.float32), i32(n))
    loop = next(site for site in found.sites if site.line == 27)
    assert (loop.warps, loop.moved, loop.partial) == (40_000, 160_000, 0)


# From NVIDIA's occupancy calculator.
@pytest.mark.parametrize("gpu, threads, registers, shared, blocks, share, limit", [
    ("A100", 256, 32, 0, 8, 1.0, "warps"), ("A100", 256, 34, 1360, 6, 0.75, "registers"),
    ("A100", 256, 32, 48 << 10, 3, 0.375, "shared memory"), ("A100", 32, 16, 0, 32, 0.5, "blocks"),
    ("T4", 256, 32, 0, 4, 1.0, "warps"), ("T4", 128, 255, 0, 2, 0.25, "registers"),
    ("H100", 1024, 64, 0, 1, 0.5, "registers"), ("H100", 1024, 128, 0, 0, 0.0, "registers"),
])  # fmt: skip
def test_occupancy(gpu, threads, registers, shared, blocks, share, limit):
    held = occupancy(GPUS[gpu], threads, registers, shared)
    assert (held.blocks, held.share, held.limit) == (blocks, share, limit)


def test_prediction(count):
    gpu = GPUS["A100"]
    small = count("copy", 32, zeros(), zeros(), i32(1), i32(0))
    assert predict(small, gpu, 16).bound == "launch" and predict(small, gpu, 16).seconds > gpu.launch
    # 2,000 blocks of 256 threads fill the GPU.
    large = dataclasses.replace(small, grid=(2000, 1, 1), block=(256, 1, 1))
    busy = predict(dataclasses.replace(large, flops=10**9), gpu, 16)
    assert busy.bound == "arithmetic" and busy.seconds == pytest.approx(gpu.launch + 1e9 / gpu.flops)
    assert busy.occupancy.share == 1
    moving = predict(dataclasses.replace(large, read=Traffic(40_000_000, 40_000_000, 10**9)), gpu, 16)
    assert moving.bound == "memory"
    assert moving.seconds == pytest.approx(gpu.launch + (10**9 + large.write.unique) / gpu.memory)
    # A single block has 8 of the 1,728 warps that it takes to keep the memory busy.
    alone = predict(dataclasses.replace(large, grid=(1, 1, 1), flops=10**9), gpu, 16)
    assert alone.seconds - gpu.launch == pytest.approx(1e9 / gpu.flops * 1728 / 8)


@pytest.mark.skipif(bool(nvrtc.unavailable()), reason=nvrtc.unavailable() or "-")
def test_what_the_real_compiler_says():
    source = SOURCE + "template <class T> __global__ void fill(T* x) { x[threadIdx.x] = 1; }"
    needs = nvrtc.resources(source, "sm_80", name_expressions=("fill<double>",))
    names = {"copy", "copy4", "banks", "branch", "halo", "sums", "rounds", "polynomial", "fused", "fill<double>"}
    assert set(needs) == names
    assert needs["banks"].shared == 33 * 32 * 4 and needs["copy"].registers > 4 and needs["copy"].spills == 0
    with pytest.raises(nvrtc.KernelError, match="do not compile for sm_80"):
        nvrtc.resources("__global__ void f() { wrong }", "sm_80")
