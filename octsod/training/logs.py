"""A run's log: lines of JSON, one per step and per validation."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from ..errors import FileError
from ..files import open_file, parse_json

LOG = "log.jsonl"
LONGEST = 1 << 24  # bytes of a line


def finite(value: Any) -> Any:
    """`value` as JSON can express it: None stands for numbers that are not finite, wherever they are."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: finite(entry) for name, entry in value.items()}
    return [finite(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def as_line(entry: Mapping[str, Any]) -> bytes:
    """A line of a log."""
    return json.dumps(finite(entry), allow_nan=False).encode() + b"\n"


def read_log(
    folder: str | os.PathLike[str], on_damage: Callable[[FileError], None] | None = None
) -> list[dict[str, Any]]:
    """All lines of a run's log at once; see `each_line`."""
    return list(each_line(folder, on_damage))


def each_line(
    folder: str | os.PathLike[str], on_damage: Callable[[FileError], None] | None = None
) -> Iterator[dict[str, Any]]:
    """The lines of a run's log, one by one, so that a long log takes no memory; except half a line at its end, left by
    a kill or being written just now.

    on_damage: called with the FileError of each damaged line, which is left out; without it, the first is raised.
    Raises FileError, which names the folder, if the log is missing.
    """
    folder = pathlib.Path(folder)
    path = folder / LOG
    if not folder.is_dir():
        raise FileError(f"{folder}: no such run folder.")
    if not path.exists():
        raise FileError(f"{folder}: is no run folder: it has no {LOG}.")
    number = 0
    with open_file(path) as file:
        while line := file.readline(LONGEST):
            number += 1
            if not line.endswith(b"\n") and len(line) < LONGEST:
                break
            try:
                entry = parse_json(line)
                if not isinstance(entry, dict):
                    raise ValueError("not a JSON object")
            except ValueError as error:
                damaged = FileError(f"{path}: line {number} is damaged, or none of octsod's.")
                if on_damage is None:
                    raise damaged from error
                on_damage(damaged)
            else:
                yield entry
