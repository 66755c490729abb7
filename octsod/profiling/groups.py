"""Rows of a profile put together by kernel, op or layer: their rates, and how near they come to the machine's roofs."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..checks import require
from .results import Profile, Roofs, Row

PYTHON = "Python"
MEMORY, CACHES, ARITHMETIC, LAUNCHES, OVERHEAD = "memory", "caches", "arithmetic", "launches", "overhead"
OWN_CODE = "its own code"

UNEVEN = 1.5, 0.005  # time over the median over the rounds, and their difference, of the whole, from which it is said
BINDS = 0.25  # of a kernel's time: only a roof for which it would need that much binds it


@dataclasses.dataclass(frozen=True)
class Group:
    """Rows that have something in common: those of a kernel and its shapes, of an op, or of a layer.

    calls: per round. seconds: for each round. time: of a typical round, a mean (see `typical`), so that groups add up.
    share: of the whole. each, each_iqr: seconds per call, median over the rounds and the third quartile less the first;
    None without calls. slowest: seconds of the slowest round that counts in `time`, if a few slow ones make that much
    longer than the median, as where a call was interrupted; else None.

    What follows is of those rows alone whose cost is known and can be, and None if there are none: flops and bytes of a
    round; flop_rate and byte_rate per second; roof_share, the least time that the machine needs for them over the time
    that they took; gain, the seconds of a round that there would be to gain. If the costs of all rows are wrong,
    roof_share is above 1; then flops and bytes are as claimed, and there are no rates.

    bound: what binds most of the time: "memory", "caches" if the bytes fit in them, "arithmetic", "launches"; "its own
    code" if no roof would take a quarter of it; "overhead" of steps that do nothing which the op needs, "" if nobody
    knows; outside of kernels, "Python", or what else is done there, such as waiting for a device. nearest: the roof
    that is nearest for most of what its own code holds up, "" if there is none. times: seconds of a round by what binds
    them. outside: how many of them are outside of kernels. wrong: names of kernels that would have been faster than the
    machine can be, with the share of the roof that they would have reached. roofless: devices without measured roofs.
    """

    name: str
    devices: Sequence[str]
    calls: float
    seconds: Sequence[float]
    time: float
    share: float
    each: float | None
    each_iqr: float | None
    slowest: float | None
    flops: int | None
    bytes: int | None
    flop_rate: float | None
    byte_rate: float | None
    roof_share: float | None
    gain: float | None
    bound: str
    nearest: str
    times: dict[str, float]
    outside: float
    wrong: dict[str, float]
    roofless: Sequence[str]

    @property
    def intensity(self) -> float | None:
        """Floating-point operations per byte."""
        return self.flops / self.bytes if self.bytes and self.flops is not None else None


def kernel_name(row: Row) -> str:
    """A kernel with its shapes, or what is done outside of kernels, see `use_name`; an op with a cost that is computed
    there has a name of its own."""
    if not row.kernel:
        return use_name(row) if row.flops is None else f"{use_name(row)} of {_op_name(row)}"
    return f"{row.kernel} {row.title}".rstrip()


def _op_name(row):
    return f"{row.op} ({row.phase})" if row.op and row.phase else row.op or f"({row.phase or 'no op'})"


def _layer_name(row):
    return row.layer or f"({row.phase or 'no layer'})"


def use_name(row: Row) -> str:
    """What is done outside of kernels: Python, unless a title says something else."""
    return row.title or PYTHON


def _row_name(row):
    own, name = [row.layer, row.op, row.phase], kernel_name(row) if row.kernel else use_name(row)
    return f"{name}: {', '.join(filter(None, own))}" if any(own) else name


NAMES: dict[str, Callable[[Row], str]] = {
    "kernel": kernel_name,
    "op": _op_name,
    "layer": _layer_name,
    "row": _row_name,
}
"""What rows may be put together by -> the name of a row's group, but for `BESIDE`."""

BESIDE = " (beside)"  # after names of rows whose time is not part of the rounds'

SORTS: dict[str, Callable[[Group], float | str | None]] = {
    "time": lambda group: group.time,
    "share": lambda group: group.share,
    "calls": lambda group: group.calls,
    "each": lambda group: group.each,
    "flops": lambda group: group.flops,
    "bytes": lambda group: group.bytes,
    "intensity": lambda group: group.intensity,
    "gflops": lambda group: group.flop_rate,
    "gbs": lambda group: group.byte_rate,
    "roof": lambda group: group.roof_share,
    "gain": lambda group: group.gain,
    "name": lambda group: group.name,
}
"""What groups may be sorted by: the largest first, names from A to Z, and what has no such number last."""


def median(values: Sequence[float]) -> float:
    """The median; 0 of nothing."""
    return float(np.median(values)) if len(values) else 0.0


def iqr(values: Sequence[float]) -> float:
    """The third quartile less the first; 0 of nothing."""
    return float(np.subtract(*np.percentile(values, (75, 25)))) if len(values) else 0.0


def typical(profile: Profile, seconds: Sequence[float]) -> float:
    """Seconds of a typical round, of what took `seconds` in each: the mean over the rounds in the middle, of which a
    quarter of all was faster and a quarter slower as a whole. So parts add up to their whole, which medians don't, and
    a disturbed round counts for nothing."""
    middle = _middle(profile)
    return math.fsum(seconds[i] for i in middle) / len(middle)


def _middle(profile):
    """The numbers of the rounds that count in `typical`."""
    rounds = profile.rounds
    out = len(rounds) // 4
    return np.argsort(rounds, kind="stable")[out : len(rounds) - out]


def added(rows: Iterable[Row], rounds: int) -> tuple[float, ...]:
    """Seconds of all rows together, for each of `rounds` rounds."""
    return tuple(map(math.fsum, zip(*(row.seconds for row in rows), strict=True))) or (0.0,) * rounds


def require_whole(profile: Profile) -> None:
    """Raise ValueError unless a profile has rounds, and each row as many seconds."""
    require(len(profile.rounds) > 0, "profile", "rounds", "is empty", "the wall time of a round at least")
    for row in profile.rows:
        counts = len(row.seconds), len(profile.rounds)
        if counts[0] != counts[1]:
            raise ValueError(f"profile: `{kernel_name(row)}` has seconds of {counts[0]} rounds; expected {counts[1]}.")


def matching(rows: Iterable[Row], text: str) -> list[Row]:
    """The rows that hold `text`, in capitals or not, in a name or in their shapes. Raises ValueError for no text."""
    require(isinstance(text, str), "profile", "filter", f"is a {type(text).__name__}", "text")
    wanted = text.casefold()
    held = ((row, (kernel_name(row), row.title, row.op, row.layer, row.phase, row.device, row.thread)) for row in rows)
    return [row for row, texts in held if any(wanted in name.casefold() for name in texts)]


def grouped(profile: Profile, by: str = "kernel", sort: str = "time", filter: str = "") -> list[Group]:
    """The rows of a profile that hold the text `filter`, put together by "kernel", "op", "layer" or not at all ("row"),
    and sorted by one of `SORTS`. Raises ValueError for other names."""
    require(by in NAMES, "profile", "by", f"is {by!r}", f"one of {', '.join(NAMES)}")
    require(sort in SORTS, "profile", "sort", f"is {sort!r}", f"one of {', '.join(SORTS)}")
    require_whole(profile)
    found: dict[str, list[Row]] = {}
    for row in matching(profile.rows, filter):
        found.setdefault(group_name(row, by), []).append(row)
    return in_order([group_of(profile, name, rows) for name, rows in found.items()], sort)


def group_name(row: Row, by: str) -> str:
    """The name of the group that a row is put into."""
    return NAMES[by](row) + (BESIDE if row.beside else "")


def in_order(given: list[Group], sort: str) -> list[Group]:
    key = SORTS[sort]
    if sort == "name":
        return sorted(given, key=lambda group: group.name)
    return sorted(given, key=lambda group: -math.inf if (value := key(group)) is None else value, reverse=True)


def group_of(profile: Profile, name: str, rows: Sequence[Row]) -> Group:
    """These rows of a profile as one group."""
    roofs = {roof.device: roof for roof in reversed(profile.roofs)}
    rounds, whole = len(profile.rounds), typical(profile, profile.rounds)
    launches: dict[tuple, list[Row]] = {}
    for row in rows:  # what equal launches in several layers take is judged together: single ones are noisier
        costed = row.flops is not None and row.bytes is not None
        launches.setdefault((kernel_name(row), row.device, costed), []).append(row)
    parts = [_part(own, typical(profile, added(own, rounds)), roofs.get(own[0].device)) for own in launches.values()]
    times: dict[str, float] = {}
    nearest: dict[str, float] = {}
    for part in parts:
        times[part.bound] = times.get(part.bound, 0.0) + part.time
        if part.bound == OWN_CODE:
            nearest[part.nearest] = nearest.get(part.nearest, 0.0) + part.time
    wrong = {part.name: part.share for part in parts if part.share > 1}
    known = [part for part in parts if part.floor is not None]
    costs = known or [part for part in parts if part.share > 1]
    flops, size = sum(part.flops for part in costs), sum(part.bytes for part in costs)
    judged = math.fsum(part.time for part in known)
    floor = math.fsum(part.floor or 0.0 for part in known)
    seconds = added(rows, rounds)
    time, calls = typical(profile, seconds), math.fsum(row.calls for row in rows)
    each = [value / calls for value in seconds] if calls else []
    usual = median(seconds)
    uneven = time > UNEVEN[0] * usual and time - usual > UNEVEN[1] * whole
    return Group(
        name=name,
        devices=list(dict.fromkeys(row.device for row in rows)),
        calls=calls,
        seconds=seconds,
        time=time,
        share=time / whole,
        each=median(each) if calls else None,
        each_iqr=iqr(each) if calls else None,
        slowest=max(seconds[i] for i in _middle(profile)) if uneven else None,
        flops=flops if costs else None,
        bytes=size if costs else None,
        flop_rate=flops / judged if known else None,
        byte_rate=size / judged if known else None,
        roof_share=floor / judged if known else max(wrong.values(), default=None),
        gain=judged - floor if known else None,
        bound=max(times, key=lambda bound: times[bound], default=""),
        nearest=max(nearest, key=lambda bound: nearest[bound], default=""),
        times=times,
        outside=math.fsum(part.time for part in parts if part.outside),
        wrong=wrong,
        roofless=list(dict.fromkeys(part.device for part in parts if part.roofless)),
    )


@dataclasses.dataclass
class _Part:
    """Equal launches. time: seconds of a round. floor: the least that the machine needs for them; None if nobody knows,
    or if they would have been faster. nearest: the roof that gives it. share: of the roof that their cost alone would
    have reached."""

    name: str
    device: str
    time: float
    flops: int
    bytes: int
    bound: str = ""
    floor: float | None = None
    nearest: str = ""
    share: float = 0.0
    roofless: bool = False
    outside: bool = False


def _part(rows: Sequence[Row], time: float, roof: Roofs | None) -> _Part:
    first = rows[0]
    flops, size = sum(row.flops or 0 for row in rows), sum(row.bytes or 0 for row in rows)
    part = _Part(kernel_name(first), first.device, time, flops, size)
    costed = first.flops is not None and first.bytes is not None
    part.outside = not first.kernel
    if part.outside and not costed:
        part.bound = part.name
    elif roof is None:
        part.roofless = True
    elif time:
        calls = math.fsum(row.calls for row in rows)
        launches = math.fsum(row.calls for row in rows if row.kernel and not row.inside) * roof.launch
        floors = floors_of(roof, flops, size, calls, first.inside)
        moving = (calls or 1.0) * roof.memory_floor(size / (calls or 1.0), fastest=True)[0]
        part.share = max(moving, floors[ARITHMETIC]) / time if costed else 0.0
        # Copying is the roof. What only reads or writes may be faster, and an empty launch may be slower: no error.
        floors = {bound: seconds if bound == ARITHMETIC else min(seconds, time) for bound, seconds in floors.items()}
        launches = min(launches, time)
        floor = max(*floors.values(), launches)
        part.nearest = LAUNCHES if floor == launches else max(floors, key=lambda name: floors[name])
        if costed and part.share <= 1:
            bound = part.nearest if floor >= BINDS * time else OWN_CODE
            part.bound, part.floor = bound if floor else OVERHEAD, floor
        elif not costed and launches > time / 2:
            part.bound = LAUNCHES
    return part


def floors_of(roof: Roofs, flops: float, size: float, calls: float, beyond: bool = False) -> dict[str, float]:
    """The least seconds of arithmetic, and of moving `size` bytes in so many calls, by what binds them. beyond: whether
    only bytes are counted that caches can't hold, as in the steps of a prediction."""
    floors = {ARITHMETIC: flops / roof.arithmetic}
    if beyond:
        return {MEMORY: size / roof.bandwidth, **floors}
    calls = calls or 1.0
    seconds, within = roof.memory_floor(size / calls)
    return {CACHES if within > seconds / 2 else MEMORY: calls * seconds, **floors}
