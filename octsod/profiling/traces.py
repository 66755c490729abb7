"""A profile's events as a trace in Chrome's format, which https://ui.perfetto.dev shows."""

import gzip
import io
import itertools
import json
import os
from collections.abc import Iterable, Iterator

from ..files import write_atomically
from .files import latest
from .results import Event, Profile

LARGEST = 20_000_000  # bytes of a file
_AT_ONCE = 1 << 14  # events that are turned into text at once

_OUTER = {kind: level for level, kind in enumerate(("step", "layer", "op", "kernel", "compile"))}


def write_trace(profile: Profile, path: str | os.PathLike[str], largest: int = LARGEST) -> int:
    """Write a profile's events as a trace, all or nothing: compressed, unless the name of the file ends in .json.

    A device is a process there, and a thread of it a track; the memory in use is a counter. largest: bytes that the
    file may have; the oldest events are left out if they don't fit. Returns how many that are, with those that the
    profile has lost before; the trace tells so, too. Raises OSError.
    """
    plain = os.fspath(path).endswith(".json")
    while True:
        data = _encoded(profile, plain)
        if len(data) <= largest or not profile.events:
            write_atomically(path, data)
            return profile.lost
        profile = latest(profile, int(len(profile.events) * min(0.9 * largest / len(data), 0.9)))


def _encoded(profile, plain):
    """The bytes of a trace; the same for the same profile."""
    data = io.BytesIO()
    if plain:
        _write(profile, data)
    else:
        with gzip.GzipFile("", "wb", 6, data, mtime=0) as file:
            _write(profile, file)
    return data.getvalue()


def _write(profile, file):
    about = {"subject": profile.subject, "machine": profile.machine, "older events left out": profile.lost}
    head = json.dumps({"displayTimeUnit": "ms", "otherData": about})
    file.write(f'{head[:-1]}, "traceEvents": [\n'.encode())
    entries = _entries(profile)
    separator = ""
    while some := list(itertools.islice(entries, _AT_ONCE)):
        text = ",\n".join(json.dumps(entry, separators=(",", ":")) for entry in some)
        file.write(f"{separator}{text}".encode())
        separator = ",\n"
    file.write(b"\n]}\n")


def _entries(profile: Profile) -> Iterator[dict]:
    """The entries of a trace: names of devices and threads, then intervals, track by track, in order of their starts.

    Times are in microseconds from the first event on. No two tracks have the same number, not even on two devices.
    """
    first = min((event.start for event in profile.events), default=0)
    if profile.lost:
        name = f"{profile.lost:,} older events are left out"
        yield {"ph": "i", "s": "g", "name": name, "pid": 1, "tid": 1, "ts": 0.0}
    tracks: dict[str, dict[str, list[Event]]] = {}
    for event in profile.events:
        tracks.setdefault(event.device, {}).setdefault(event.thread, []).append(event)
    yield from _counters(profile, first, len(tracks) + 1)
    numbers = itertools.count(1)
    for process, (device, threads) in enumerate(tracks.items(), 1):
        yield _name("process", process, 0, device or "no device")
        for thread, events in threads.items():
            for nth, lane in enumerate(lanes(events), 1):
                track = next(numbers)
                yield _name("thread", process, track, (thread or "no thread") + (f" ({nth})" if nth > 1 else ""))
                yield {
                    "ph": "M", "name": "thread_sort_index", "pid": process, "tid": track, "args": {"sort_index": track}
                }  # fmt: skip
                for event in lane:
                    yield {
                        "ph": "X", "name": event.name or event.kind, "cat": event.kind, "pid": process, "tid": track,
                        "ts": (event.start - first) / 1e3, "dur": (event.end - event.start) / 1e3,
                    }  # fmt: skip


def _counters(profile, first, process):
    """The memory in use, as far back as the events go."""
    last = max((event.end for event in profile.events), default=-1)
    changes = [(moment, size) for moment, size in profile.held if first <= moment <= last]
    if changes:
        yield _name("process", process, 0, "memory")
    for moment, size in changes:
        ts = (moment - first) / 1e3
        yield {"ph": "C", "name": "in use", "pid": process, "tid": 0, "ts": ts, "args": {"bytes": size}}


def _name(kind, process, track, name):
    return {"ph": "M", "name": f"{kind}_name", "pid": process, "tid": track, "args": {"name": name}}


def lanes(events: Iterable[Event]) -> list[list[Event]]:
    """Events of a thread in order of their starts, those outside before those inside. On a track, an event lies within
    another one or beside it, so what overlaps by parts goes to a lane of its own."""
    found: list[tuple[list[Event], list[int]]] = []  # lanes, with the ends of the events that have begun
    for event in sorted(events, key=lambda event: (event.start, -event.end, _OUTER.get(event.kind, len(_OUTER)))):
        for _, ends in found:
            while ends and ends[-1] <= event.start:
                ends.pop()
        free = (lane for lane in found if not lane[1] or event.end <= lane[1][-1])
        if (lane := next(free, None)) is None:
            found.append(lane := ([], []))
        lane[0].append(event)
        lane[1].append(event.end)
    return [lane for lane, _ in found]
