"""What machine this is, in words."""

import datetime
import os
import pathlib
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PACKAGES = ("numpy", "numba")
CACHES = pathlib.Path("/sys/devices/system/cpu/cpu0/cache")


def processor() -> str:
    """The processor's name, such as "AMD EPYC 9B14"; its family where the system does not tell."""
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:  # not Linux
        pass
    return platform.processor() or platform.machine()


def largest_cache() -> int:
    """Bytes of the processor's largest cache; 0 where the system does not tell."""
    largest = 0
    try:
        for path in CACHES.glob("index*/size"):
            text = path.read_text().strip()
            largest = max(largest, int(text.rstrip("KM")) << (20 if text.endswith("M") else 10))
    except (OSError, ValueError):  # not Linux, or another notation
        pass
    return largest


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
