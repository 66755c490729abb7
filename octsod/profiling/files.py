"""A profile's file: JSON, checked when it is read, so that what is shown can be computed from it."""

import dataclasses
import json
import math
import os
from collections.abc import Callable
from typing import Any

from ..checks import shortened
from ..errors import FileError
from ..files import named, parse_json, read_file, write_atomically
from .results import Cache, Event, LayerMemory, Profile, Roofs, Row

FORMAT, VERSION = "octsod profile", 1
MOST = 1 << 28  # bytes of a file that is read
MOST_EVENTS = 1 << 20  # that are kept in a file, some 50 bytes each; of more, the latest


def save(profile: Profile, path: str | os.PathLike[str]) -> None:
    """Write a profile as JSON, all or nothing: what `load` reads. Of its events, the latest `MOST_EVENTS` are kept.

    Raises OSError, and ValueError if a profile holds what `load` would refuse.
    """
    profile = latest(profile, MOST_EVENTS)
    names = {name: i for i, name in enumerate(dict.fromkeys(n for e in profile.events for n in _names(e)))}
    entries = {field.name: getattr(profile, field.name) for field in dataclasses.fields(profile)}
    for name in _RECORDS:
        entries[name] = [dataclasses.asdict(record) for record in entries[name]]
    entries["names"] = list(names)
    entries["events"] = [[*(names[n] for n in _names(e)), e.start, e.end] for e in profile.events]
    try:
        text = json.dumps({"format": FORMAT, "version": VERSION, **entries}, allow_nan=False, default=_plain)
        _profile(parse_json(text))
    except (ValueError, TypeError) as error:
        raise ValueError(f"profile: cannot be saved: {error}.") from error
    write_atomically(path, text.encode())


def latest(profile: Profile, count: int) -> Profile:
    """The profile with its latest `count` events alone; `lost` counts those that it had besides."""
    gone = len(profile.events) - count
    if gone <= 0:
        return profile
    events = sorted(profile.events, key=lambda event: event.end)[gone:]
    return dataclasses.replace(profile, events=tuple(events), lost=profile.lost + gone)


def load(path: str | os.PathLike[str]) -> Profile:
    """The profile in a file that `save` wrote. Raises FileError, which names the file and what is wrong with it."""
    name, data = named(path), read_file(path, MOST)
    try:
        entries = parse_json(data)
    except ValueError as error:
        raise FileError(f"{name}: is no profile, or a damaged one: {shortened(error)}.") from error
    if not isinstance(entries, dict) or entries.get("format") != FORMAT:
        raise FileError(f"{name}: is no profile; `octsod profile --json` and `octsod.profiling.save` write one.")
    version = entries.get("version")
    if isinstance(version, int) and version > VERSION:
        raise FileError(f"{name}: is a profile of version {version}; this octsod reads {VERSION}: install a newer one.")
    try:
        return _profile(entries)
    except ValueError as error:
        raise FileError(f"{name}: is a damaged profile: {shortened(error, 300)}.") from error


def _names(event):
    return event.kind, event.name, event.thread, event.device


def _plain(value):
    """NumPy's numbers as Python's."""
    if callable(item := getattr(value, "item", None)):
        return item()
    raise TypeError(f"{type(value).__name__} is not known to JSON")


# --- what a file may hold: functions (value, where) -> value, which raise ValueError that says where ------------------


def _wrong(value, where, expected):
    was = "missing" if value is _MISSING else shortened(repr(value), 60)
    return ValueError(f"`{where}` is {was}; expected {expected}")


_MISSING = object()


def _text(value, where):
    if not isinstance(value, str):
        raise _wrong(value, where, "text")
    return value


def _flag(value, where):
    if not isinstance(value, bool):
        raise _wrong(value, where, "true or false")
    return value


def _number(least: float = -math.inf, most: float = math.inf, whole: bool = False) -> Callable[[Any, str], Any]:
    kind = "an integer" if whole else "a finite number"
    bound = "" if least == -math.inf else f" of at least {least:g}"
    bound += "" if most == math.inf else f" and at most {most:g}"

    def check(value, where):
        known = isinstance(value, int if whole else (int, float)) and not isinstance(value, bool)
        if not known or not math.isfinite(value) or not least <= value <= most:
            raise _wrong(value, where, kind + bound)
        return value if whole else float(value)

    return check


def _or_none(check):
    return lambda value, where: None if value is None else check(value, where)


def _list_of(check: Callable[[Any, str], Any], least: int = 0) -> Callable[[Any, str], tuple]:
    def check_all(value, where):
        if not isinstance(value, (list, tuple)):
            raise _wrong(value, where, "a list")
        if len(value) < least:
            raise _wrong(value, where, f"a list of at least {least}")
        return tuple(check(item, f"{where}[{i}]") for i, item in enumerate(value))

    return check_all


def _record(kind: type, checks: dict[str, Callable[[Any, str], Any]]) -> Callable[[Any, str], Any]:
    def check(value, where):
        if not isinstance(value, dict):
            raise _wrong(value, where, "an object")
        for name in value:
            if name not in checks:
                raise ValueError(f"`{where}.{name}` is not known".replace("`.", "`"))
        entries = {n: check(value.get(n, _MISSING), f"{where}.{n}".lstrip(".")) for n, check in checks.items()}
        return kind(**entries)

    return check


def _machine(value, where):
    """Facts about a machine: text, numbers, and dicts and lists of them."""
    if not isinstance(value, dict):
        raise _wrong(value, where, "an object")
    waiting = [(where, value)]
    while waiting:
        place, item = waiting.pop()
        if isinstance(item, (dict, list)):
            pairs = item.items() if isinstance(item, dict) else enumerate(item)
            waiting.extend((f"{place}.{key}", inner) for key, inner in pairs)
        elif isinstance(item, float) and not math.isfinite(item):
            raise _wrong(item, place, "a finite number")
    return value


# What a clock of nanoseconds and any machine may have measured: other numbers would only fill tables and pictures.
_SECONDS, _WALL, _RATE = _number(0, 1e9), _number(1e-9, 1e9), _number(1e-3, 1e21)
_COUNT = _number(0, whole=True)

_RECORDS = {
    "roofs": _record(Roofs, {
        "device": _text, "threads": _number(1, whole=True), "bandwidth": _RATE, "arithmetic": _RATE,
        "launch": _SECONDS, "fastest": _number(0, 1e21),
        "caches": _list_of(_record(Cache, {"bytes": _COUNT, "bandwidth": _RATE})),
    }),
    "rows": _record(Row, {
        **dict.fromkeys(("kernel", "title", "op", "layer", "phase", "device", "thread"), _text),
        "calls": _number(0, 1e15), "seconds": _list_of(_SECONDS), "flops": _or_none(_COUNT), "bytes": _or_none(_COUNT),
        "beside": _flag, "inside": _flag,
    }),
    "memory": _record(LayerMemory, {"layer": _text, "bytes": _COUNT, "at_peak": _COUNT}),
}  # fmt: skip

_ENTRIES = _record(dict, {
    "subject": _text, "machine": _machine, "rounds": _list_of(_WALL, least=1), "peak_bytes": _COUNT,
    "warm": _COUNT, "captured": _list_of(_WALL), "compiled": _SECONDS, "lost": _COUNT, "names": _list_of(_text),
    "events": _list_of(_list_of(_number(whole=True))), "held": _list_of(_list_of(_number(whole=True))),
    **{name: _list_of(record) for name, record in _RECORDS.items()},
})  # fmt: skip


def _profile(entries):
    """The profile that a file's entries describe. Raises ValueError, which says what is wrong, without a full stop."""
    version = entries.get("version", _MISSING)
    if type(version) is not int or version != VERSION:
        raise _wrong(version, "version", str(VERSION))
    entries = _ENTRIES({name: value for name, value in entries.items() if name not in ("format", "version")}, "")
    rounds, names = len(entries["rounds"]), entries.pop("names")
    for i, row in enumerate(entries["rows"]):
        if len(row.seconds) != rounds:
            raise ValueError(f"`rows[{i}].seconds` has {len(row.seconds)} numbers; expected {rounds}, one per round")
    events = []
    for i, event in enumerate(entries["events"]):
        if len(event) != 6 or not all(0 <= n < len(names) for n in event[:4]) or event[4] > event[5]:
            raise ValueError(f"`events[{i}]` is {event}; expected the numbers of four names, a start and an end")
        events.append(Event(*(names[n] for n in event[:4]), *event[4:]))
    for i, change in enumerate(entries["held"]):
        if len(change) != 2 or change[1] < 0:
            raise ValueError(f"`held[{i}]` is {change}; expected a moment and a number of bytes")
    return Profile(**{**entries, "events": tuple(events)})
