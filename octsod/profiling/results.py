"""What a profile holds, and its file."""

import dataclasses
from collections.abc import Sequence

from ..checks import shortened


@dataclasses.dataclass(frozen=True)
class Cache:
    """bytes: how much a level of caches and those before it hold together. bandwidth: bytes per second of what stays
    in them, whether it is copied, added or read."""

    bytes: int
    bandwidth: float


@dataclasses.dataclass(frozen=True)
class Roofs:
    """What the machine can do at most, measured in the same run. device: name of the device. threads: at work.
    bandwidth: bytes per second copied beyond the caches. arithmetic: floating-point operations per second, in
    multiply-adds. launch: seconds that a kernel takes that has nothing to do. fastest: bytes per second beyond the
    caches at most, such as when memory is only read or only written; 0 if that is no more than `bandwidth`. caches: the
    fastest first."""

    device: str
    threads: int
    bandwidth: float
    arithmetic: float
    launch: float
    fastest: float = 0.0
    caches: Sequence[Cache] = ()

    def memory_floor(self, size: float, fastest: bool = False) -> tuple[float, float]:
        """Seconds that it takes at least to move `size` bytes, and how many of them in caches: before a launch, caches
        hold at most as much of its data as they are large. fastest: as bandwidth beyond them, take `fastest`."""
        within, before = 0.0, 0.0
        for cache in self.caches:
            if size > before:
                within += (min(size, cache.bytes) - before) / cache.bandwidth
                before = max(cache.bytes, before)
        bandwidth = max(self.fastest, self.bandwidth) if fastest else self.bandwidth
        return within + max(size - before, 0) / bandwidth, within


@dataclasses.dataclass(frozen=True)
class Row:
    """Equal launches of a kernel, or what an op does in Python besides.

    kernel: its name, such as "conv2d" or "mine.swish"; "" for time that an op, or no op, spends outside of kernels.
    title: the shapes that a reader wants to know. op, layer: what launched it, "" if nothing did; a layer is named by
    its path in the network. phase: "forward", "backward", "step" (optimiser and hooks), "predict" or "". thread: its
    name. calls: per round. seconds: of all calls together, for each round. flops, bytes: of all calls of a round
    together (see `octsod.ops.Cost`); None if nobody knows. beside: whether that time passed beside the rounds', in
    another thread or while a GPU computed, so that it is not among the seconds that add up to theirs. inside: whether
    calls are steps inside of one launch, as in a prediction on a CPU.
    """

    kernel: str
    title: str
    op: str
    layer: str
    phase: str
    device: str
    thread: str
    calls: float
    seconds: Sequence[float]
    flops: int | None = None
    bytes: int | None = None
    beside: bool = False
    inside: bool = False


@dataclasses.dataclass(frozen=True)
class LayerMemory:
    """bytes: what the layer's calls made and kept for backward, at most. at_peak: how much of it was alive when the
    whole was largest."""

    layer: str
    bytes: int
    at_peak: int


@dataclasses.dataclass(frozen=True)
class Event:
    """An interval, for traces. kind: "kernel", "op", "layer", "step" or "compile". start, end: in nanoseconds, of one
    clock for all devices."""

    kind: str
    name: str
    thread: str
    device: str
    start: int
    end: int


@dataclasses.dataclass(frozen=True, repr=False)
class Profile:
    """What `octsod.profile` found.

    subject: what was profiled, in words. machine: facts as `bench` reports them. rounds: wall time of each round
    (step, prediction, or the whole block), in seconds. The seconds of the rows that are not `beside` add up to it:
    those of the thread that was profiled; or, if kernels ran on a GPU, those of the GPU, with its idle time, and the
    host's are beside. captured: wall times of rounds that were replayed from a captured graph, on devices that capture.
    compiled: seconds of compiling, which are in no round. lost: how many events the ring buffer no longer holds; they
    are in the rows all the same. warm: how many rounds were made before those that count. held: the latest changes of
    the memory that `memory` is about: when, by the clock of the events, and how many bytes are in use from then on.
    """

    subject: str
    machine: dict
    roofs: Sequence[Roofs]
    rounds: Sequence[float]
    rows: Sequence[Row]
    memory: Sequence[LayerMemory] = ()
    peak_bytes: int = 0
    captured: Sequence[float] = ()
    compiled: float = 0.0
    events: Sequence[Event] = ()
    lost: int = 0
    held: Sequence[tuple[int, int]] = ()
    warm: int = 0

    def __repr__(self):
        rounds, rows = len(self.rounds), len(self.rows)
        return (
            f"<Profile of {shortened(repr(self.subject))}: {rounds} round{'s' * (rounds != 1)}, "
            f"{rows} row{'s' * (rows != 1)}>"
        )
