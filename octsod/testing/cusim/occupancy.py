"""How much of a GPU a launch fills, and how long it would take at the best."""

import dataclasses

from .counts import Count

WARP = 32
REGISTERS = 65536  # of a multiprocessor, on all of these
_REGISTER_UNIT = 256  # registers that a warp gets at a time
_PARTS = 4  # of a multiprocessor; each warp belongs to one
_SATURATING = 16  # warps per multiprocessor with which loads in flight keep memory busy, at a few bytes each


@dataclasses.dataclass(frozen=True)
class GPU:
    """A GPU, from its maker's tables. Rates are per second; `l2` is what the second-level cache delivers, roughly."""

    name: str
    architecture: str
    multiprocessors: int
    warps: int  # resident in a multiprocessor, at most
    blocks: int
    shared: int  # bytes in a multiprocessor
    shared_unit: int
    shared_reserved: int  # bytes of each block that are the system's
    memory: float  # bytes
    l2: float  # bytes
    flops: float  # float32, a fused multiply-add being two
    clock: float
    launch: float = 3e-6  # seconds from one launch to the next


GPUS = {
    gpu.name: gpu
    for gpu in (
        GPU("T4", "sm_75", 40, 32, 16, 64 << 10, 256, 0, 320e9, 1.2e12, 8.1e12, 1.59e9),
        GPU("A100", "sm_80", 108, 64, 32, 164 << 10, 128, 1024, 1555e9, 4.5e12, 19.5e12, 1.41e9),
        GPU("H100", "sm_90", 132, 64, 32, 228 << 10, 128, 1024, 3350e9, 7.5e12, 66.9e12, 1.83e9),
        GPU("H200", "sm_90", 132, 64, 32, 228 << 10, 128, 1024, 4800e9, 7.5e12, 66.9e12, 1.83e9),
    )
}


@dataclasses.dataclass(frozen=True)
class Occupancy:
    """How many blocks and warps of a kernel a multiprocessor holds at a time. `share` of the warps that it could hold
    at most, and what the limit is."""

    blocks: int
    warps: int
    share: float
    limit: str


def occupancy(gpu: GPU, threads: int, registers: int, shared: int) -> Occupancy:
    """For a kernel with blocks of so many threads, registers per thread, and bytes of shared memory per block."""
    warps = -(-threads // WARP)
    per_warp = max(-(-registers * WARP // _REGISTER_UNIT) * _REGISTER_UNIT, _REGISTER_UNIT)
    bytes_ = -(-(shared + gpu.shared_reserved) // gpu.shared_unit) * gpu.shared_unit
    limits = {
        "warps": gpu.warps // warps,
        "blocks": gpu.blocks,
        "registers": REGISTERS // _PARTS // per_warp * _PARTS // warps,
        "shared memory": gpu.shared // bytes_ if bytes_ else gpu.blocks,
    }
    limit, blocks = min(limits.items(), key=lambda item: item[1])
    return Occupancy(blocks, blocks * warps, blocks * warps / gpu.warps, limit)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """The least time of a launch in seconds, launching included, and what takes it: "memory", "L2", "shared memory",
    "arithmetic" or "launch". It is a roofline: latencies, and what does not overlap, come on top."""

    seconds: float
    bound: str
    occupancy: Occupancy


def predict(count: Count, gpu: GPU, registers: int) -> Prediction:
    """What a counted launch would take. Memory moves each byte once, in and out; the second-level cache all sectors.
    A launch with few warps cannot keep a GPU busy, and gets a share of its rates."""
    threads = count.block[0] * count.block[1] * count.block[2]
    held = occupancy(gpu, threads, registers, count.shared_memory)
    blocks = min(count.grid[0] * count.grid[1] * count.grid[2], held.blocks * gpu.multiprocessors)
    busy = min(blocks * -(-threads // WARP) / (gpu.multiprocessors * min(_SATURATING, gpu.warps)), 1) or 1e-9
    times = {
        "memory": count.unique_bytes / gpu.memory,
        "L2": count.sector_bytes / gpu.l2,
        "shared memory": count.wavefronts / (gpu.clock * gpu.multiprocessors),
        "arithmetic": count.flops / gpu.flops,
    }
    bound, seconds = max(times.items(), key=lambda item: item[1])
    seconds /= busy
    return Prediction(gpu.launch + seconds, bound if seconds > gpu.launch else "launch", held)
