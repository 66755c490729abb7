"""What Linux grants this process of the machine: the quotas of its control group, such as a container's, and of those
around it, of either version. Where there are none, all that there is."""

import contextlib
import math
import os
import pathlib

from .errors import FileError

_ROOT = pathlib.Path("/")  # the folder that holds `proc` and `sys`


def cpu_quota(root: pathlib.Path = _ROOT) -> float:
    """How many processors' time is granted; infinity if there is no quota."""
    quotas = [math.inf]
    for group, version in _groups("cpu", root):
        if version == 2:
            quota, _, period = (_text(group / "cpu.max") or "").partition(" ")
            quotas.append(_ratio(quota, period))
        else:
            quotas.append(_ratio(_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")))
    return min(quotas)


def available_memory(root: pathlib.Path = _ROOT) -> float:
    """How many bytes of memory this process could have at most: the machine's, or as many as are granted; infinity if
    neither is known."""
    limits = [math.inf]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # Windows; a system that does not say
        limits.append(_ratio(os.sysconf("SC_PHYS_PAGES"), 1) * os.sysconf("SC_PAGE_SIZE"))
    for group, version in _groups("memory", root):
        limits.append(_ratio(_text(group / ("memory.max" if version == 2 else "memory.limit_in_bytes")), 1))
    return min(limits)


def _groups(controller, root):
    """(folder, version) of the control groups of this process and of all that these are in, as far as they may be seen
    from within a container."""
    for line in (_text(root / "proc/self/cgroup") or "").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:  # version 2, which systems that have both mount in a subfolder
            mounts, version = ["", "unified"], 2
        elif controller in controllers.split(","):
            mounts, version = [controllers, controller], 1
        else:
            continue
        parts = [part for part in path.split("/") if part]
        for mount in mounts:
            for count in range(len(parts) + 1):
                yield root.joinpath("sys/fs/cgroup", mount, *parts[:count]), version


def _text(path):
    from .files import read_file

    try:
        return read_file(path, 1 << 20).decode(errors="replace").strip()
    except FileError:
        return None


def _ratio(quota, period):
    """quota/period; infinity if they are not numbers ("max", or a file is missing) or not positive (-1: no limit)."""
    try:
        quota, period = int(quota), int(period)
    except (TypeError, ValueError):
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf
