"""What a launch asked of memory, from what the runtime has counted."""

import ctypes
import dataclasses

SECTOR = 32  # bytes that global memory moves at once


class _Site(ctypes.Structure):
    """count.h's."""

    _fields_ = [
        ("site", ctypes.c_int64), ("access", ctypes.c_int32), ("kind", ctypes.c_int32), ("index", ctypes.c_int32),
        ("padding", ctypes.c_int32), ("warps", ctypes.c_uint64), ("lanes", ctypes.c_uint64),
        ("partial", ctypes.c_uint64), ("bytes", ctypes.c_uint64), ("moved", ctypes.c_uint64),
        ("least", ctypes.c_uint64),
    ]  # fmt: skip


class _Region(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int32), ("index", ctypes.c_int32), ("size", ctypes.c_uint64), ("read", ctypes.c_uint64),
        ("written", ctypes.c_uint64), ("touched", ctypes.c_int32), ("padding", ctypes.c_int32),
    ]  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Site:
    """One place in the source that accesses memory. An access of a warp is what its lanes do together; `partial` are
    those that only some of the lanes took part in that had not ended. `moved` and `least` are sectors of 32 bytes in
    global memory, and rounds of all banks (wavefronts) in shared memory: how many there were, and how few would do for
    the same bytes."""

    file: str
    line: int
    access: str  # "read", "write" or "atomic"
    memory: str  # "argument 0 (`x`)", "the shared `tile`"
    shared: bool
    warps: int
    lanes: int
    partial: int
    bytes: int
    moved: int
    least: int


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What a launch reads, or writes, of global memory: sectors, how few would do for the accesses as they are, and
    different bytes."""

    sectors: int
    least: int
    unique: int


@dataclasses.dataclass(frozen=True)
class Count:
    """What one launch did. An atomic reads and writes."""

    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    read: Traffic
    write: Traffic
    wavefronts: int  # of shared memory
    least_wavefronts: int
    shared_memory: int  # bytes that a block used: the static arrays that it touched, and dynamic ones
    flops: int  # floating point operations, a fused multiply-add being two; functions such as expf are not looked into
    sites: tuple[Site, ...]

    @property
    def bank_conflicts(self) -> int:
        """Rounds of shared memory beyond those that the bytes need."""
        return self.wavefronts - self.least_wavefronts

    @property
    def divergent(self) -> tuple[Site, ...]:
        """Sites that only some lanes of a warp reached, at least once."""
        return tuple(site for site in self.sites if site.partial)

    @property
    def unique_bytes(self) -> int:
        return self.read.unique + self.write.unique

    @property
    def sector_bytes(self) -> int:
        return SECTOR * (self.read.sectors + self.write.sectors)

    def __str__(self) -> str:
        lines = [
            f"{self.kernel} {self.grid} x {self.block}: "
            f"reads {self.read.sectors} sectors (at least {self.read.least}; {self.read.unique} bytes), "
            f"writes {self.write.sectors} ({self.write.least}; {self.write.unique} bytes), "
            f"{self.bank_conflicts} bank conflicts, {self.shared_memory} bytes shared, {self.flops} flops"
        ]
        for site in self.sites:
            unit = "wavefronts" if site.shared else "sectors"
            note = f", {site.partial} by some lanes only" if site.partial else ""
            lines.append(
                f"  {site.file + ' ' if site.file else ''}line {site.line}: {site.access} of {site.memory}: "
                f"{site.warps} by a warp{note}, {site.moved} {unit} (at least {site.least})"
            )
        return "\n".join(lines)


def counted(library, blocks, kernel: str, launch, names: list[str], name_of_shared) -> Count:
    """The counts of the launch that has just ended; `blocks` are arithmetic.py's."""
    calls, count = library.calls, ctypes.c_int64()
    calls.cusim_sites.restype = ctypes.POINTER(_Site)
    calls.cusim_region_counts.restype = ctypes.POINTER(_Region)
    raw = calls.cusim_sites(ctypes.byref(count))[: count.value]
    regions = calls.cusim_region_counts(ctypes.byref(count))[: count.value]
    sites = []
    for site, (file, line) in zip(raw, library.lines([site.site for site in raw]) if raw else (), strict=True):
        memory = names[site.index] if site.kind == 1 else name_of_shared(site.kind, site.index)
        access = ("read", "write", "atomic")[site.access - 1]
        sites.append(Site(
            "" if file == "kernel.cu" else file, line, access, memory, site.kind in (2, 3), site.warps, site.lanes,
            site.partial, site.bytes, site.moved, site.least,
        ))  # fmt: skip
    sites.sort(key=lambda site: (site.file, site.line))
    outside = [site for site in sites if not site.shared]
    inside = [site for site in sites if site.shared]

    def traffic(other, unique):
        chosen = [site for site in outside if site.access != other]
        return Traffic(sum(s.moved for s in chosen), sum(s.least for s in chosen), unique)

    return Count(
        kernel, tuple(launch.grid), tuple(launch.block),
        traffic("write", sum(r.read for r in regions)), traffic("read", sum(r.written for r in regions)),
        sum(s.moved for s in inside), sum(s.least for s in inside),
        launch.dynamic + sum(r.size for r in regions if r.kind == 2 and r.touched), blocks.operations(), tuple(sites),
    )  # fmt: skip
