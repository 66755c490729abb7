"""A run's checkpoint: one file with all that a training needs to go on, bit for bit."""

import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from ..checks import shortened
from ..errors import FileError
from ..files import parse_json
from ..models.files import build, describe
from ..tensor_files import checksum, pack, read_arrays
from .logs import finite
from .trainer import Trainer

CHECKPOINT = pathlib.Path("state", "checkpoint.safetensors")
FORMAT = "octsod-checkpoint-2"
MOST = 1 << 53  # steps of a run, or bytes of a log: what a float counts exactly


class Checkpoint(NamedTuple):
    """What a run's checkpoint holds.

    path: its file. state: `Trainer.state_dict()`. facts: what `models.files.describe` says about the network, and the
    names of optimiser and schedule. settings: the run's. total: how many steps the run is to have. validated: the step
    of the last validation, or 0. since: seconds of training since then. best: the log line of the best validation of
    each network, by name: "" is the trainer's. logged: bytes of the log before it. plots: names of the pictures in
    plots/. given, current: of each of the optimiser's groups, the settings at first and now.
    """

    path: pathlib.Path
    state: dict[str, np.ndarray]
    facts: dict[str, str]
    settings: dict[str, Any]
    total: int
    validated: int
    since: float
    best: dict[str, dict[str, Any]]
    logged: int
    plots: list[str]
    given: list[dict[str, Any]]
    current: list[dict[str, Any]]

    @property
    def steps(self) -> int:
        return int(self.state["steps"])

    def finished(self, total: int | None = None) -> bool:
        """Whether a run of `total` steps (by default, as many as it was to have) has nothing left to do."""
        return (total or self.total) <= self.steps == self.validated

    def model(self) -> Any:
        """The network as it was. Raises FileError if its architecture is not known (see `models.register`)."""
        prefix = "model."
        state = {name[len(prefix) :]: array for name, array in self.state.items() if name.startswith(prefix)}
        try:
            return build(self.facts, state)
        except ValueError as error:
            raise FileError(f"{self.path}: {error}") from error

    def restore(self, trainer: Trainer) -> None:
        """Bring a trainer of that network to where the run was. Raises FileError if the trainer is another one: of
        another network, optimiser or schedule, or with other settings of the optimiser's groups."""
        own = _facts(trainer)
        for name in ("architecture", "configuration", "optimizer", "schedule"):
            if self.facts.get(name) != own[name]:
                other = f"its {name} is {shortened(self.facts.get(name))}, not {shortened(own[name])}"
                raise FileError(f"{self.path}: does not fit the run: {other}.")
        given, _ = trainer.group_settings()
        for before, now in zip(self.given, finite(given), strict=False):
            if changed := changes(before, now):
                raise FileError(f"{self.path}: does not fit the run: its optimiser was given {changed}.")
        try:
            trainer.load_state_dict(self.state)
            trainer.set_groups(self.current)
        except (ValueError, TypeError) as error:
            raise FileError(f"{self.path}: does not fit the run: {error}") from error


def changes(before: Mapping[str, Any], after: Mapping[str, Any], free: tuple[str, ...] = ()) -> str:
    """How settings differ, except those in `free`, in words; empty if they do not."""
    return "; ".join(
        f"{name} = {shortened(repr(before.get(name)))}, not {shortened(repr(after.get(name)))}"
        for name in sorted(before.keys() | after.keys())
        if name not in free and before.get(name) != after.get(name)
    )


def pack_checkpoint(trainer: Trainer, **facts: Any) -> bytes:
    """The contents of a checkpoint's file. facts: the fields of `Checkpoint` that the trainer does not know."""
    state = trainer.state_dict()
    given, current = trainer.group_settings()
    every = {"facts": _facts(trainer), "total": trainer.total, "given": given, "current": current, **facts}
    text = json.dumps(finite(every), sort_keys=True, allow_nan=False)
    return pack(state, {"format": FORMAT, "run": text, "crc32": checksum(state, text)})


def read_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """The checkpoint in a run folder. Raises FileError, which names the file, if it is missing or damaged."""
    folder = pathlib.Path(folder)
    path = folder / CHECKPOINT
    if not folder.is_dir():
        raise FileError(f"{folder}: no such run folder.")
    if not path.exists():
        raise FileError(f"{folder}: holds no checkpoint to go on from ({CHECKPOINT.as_posix()}).")
    metadata, state = read_arrays(path, "checkpoint of octsod's")
    text, kind = metadata.get("run"), metadata.get("format")
    if kind != FORMAT:
        other = f"of another version of octsod ({shortened(kind, 50)}, not {FORMAT})" if text else "none of a training"
        raise FileError(f"{path}: is {other}.")
    try:
        if metadata.get("crc32") != checksum(state, text or ""):
            raise ValueError("its contents do not match their checksum")
        return _checked(Checkpoint(path, state, **parse_json(text or "")))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise FileError(f"{path}: is damaged, or no checkpoint of octsod's: {shortened(error)}.") from error


def _checked(found):
    """The checkpoint, if all it holds is of its kind; else raises ValueError."""
    steps = found.state.get("steps")
    if steps is None or steps.shape != () or steps.dtype != np.int64 or not 0 <= steps < MOST:
        raise ValueError("its `steps` are no count of steps")
    for name, least, most in (("total", 1, MOST), ("logged", 0, MOST), ("validated", 0, found.steps)):
        value = getattr(found, name)
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"its `{name}` is {shortened(repr(value), 50)}")
    if not isinstance(found.since, (int, float)) or not 0 <= found.since < MOST:
        raise ValueError(f"its `since` is {shortened(repr(found.since), 50)}")
    dicts = {name: [getattr(found, name)] for name in ("facts", "settings", "best")}
    dicts |= {"best": [found.best, *found.best.values()], "given": found.given, "current": found.current}
    for name, values in dicts.items():
        if not isinstance(values, list) or not all(isinstance(value, dict) for value in values):
            raise ValueError(f"its `{name}` are not what they should be")
    for entry in found.best.values():
        step, size = entry.get("step"), entry.get("size")
        counts = type(step) is int and 0 <= step <= found.steps and (size is None or type(size) is int)
        if not counts or not all(value is None or isinstance(value, (int, float)) for value in entry.values()):
            raise ValueError("its `best` are no scores")
    names = [*found.facts.values(), *found.plots] if isinstance(found.plots, list) else [None]
    if not all(isinstance(name, str) for name in names):
        raise ValueError("its names are no text")
    return found


def _facts(trainer):
    """What a checkpoint says about a trainer's network, optimiser and schedule beside their arrays."""
    schedule = "none" if trainer.schedule is None else type(trainer.schedule).__name__
    return {**describe(trainer.model), "optimizer": type(trainer.optimizer).__name__, "schedule": schedule}
