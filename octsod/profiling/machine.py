"""What machine this is, in words."""

import datetime
import os
import pathlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

from ..errors import FileError
from ..files import read_text

PACKAGES = ("numpy", "numba")
CPUS = pathlib.Path("/sys/devices/system/cpu")
LARGE = 1 << 28  # bytes: more than caches hold where the system does not tell
_MOST = 1 << 12  # bytes of a file that the system has for a fact


def processor() -> str:
    """The processor's name, such as "AMD EPYC 9B14"; its family where the system does not tell."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


class CacheLevel(NamedTuple):
    """Caches of a level: bytes of one, how many processors share it, and bytes of all that this process may use."""

    bytes: int
    sharers: int
    total: int


def cache_levels() -> list[CacheLevel]:
    """The caches for data of those processors that this process may use, the smallest first; none where the system
    does not tell."""
    levels: dict[int, dict[str, tuple[int, int]]] = {}
    try:
        for cpu in os.sched_getaffinity(0):
            for index in (CPUS / f"cpu{cpu}" / "cache").glob("index*"):
                kind, level, size, shared = (
                    read_text(index / name, _MOST).strip() for name in ("type", "level", "size", "shared_cpu_list")
                )
                if kind != "Instruction":
                    number = int(size.rstrip("KM")) << (20 if size.endswith("M") else 10)
                    levels.setdefault(int(level), {})[shared] = number, _count(shared)
    except (AttributeError, FileError, OSError, ValueError):  # not Linux, or another notation
        return []
    found = [(level, [*caches.values()]) for level, caches in sorted(levels.items())]
    return [CacheLevel(*own[0], sum(size for size, _ in own)) for _, own in found]


def _count(numbers):
    """How many there are in a list such as 0-3,8."""
    ends = [part.partition("-") for part in numbers.split(",")]
    return sum(int(last or first) - int(first) + 1 for first, _, last in ends)


def cache_bytes() -> int:
    """How much the last-level caches hold together; `LARGE` where the system does not tell."""
    levels = cache_levels()
    return levels[-1].total if levels else LARGE


def machine() -> str:
    """The processor and its cores, and how many of them this process may use, if they are fewer."""
    from ..threads import available_cpus

    granted = "" if available_cpus() == os.cpu_count() else f", {available_cpus()} of them granted"
    return f"{processor()}, {os.cpu_count()} cores{granted}"


def installed(package: str) -> str | None:
    """A package's version, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def facts(devices: Any = ()) -> dict[str, Any]:
    """date, machine and versions, as rows of `bench` have them; devices: title of each GPU, by its name."""
    from .. import __version__

    versions: dict[str, str | None] = {"python": platform.python_version(), "octsod": __version__}
    versions |= {name: installed(name) for name in PACKAGES}
    gpus = {device.name: device.title for device in devices}
    return {
        "date": datetime.date.today().isoformat(), "machine": machine(), "versions": versions,
        **({"gpus": gpus} if gpus else {}),
    }  # fmt: skip
