"""Fuzzing what a run leaves: its log, its checkpoint, its whole folder."""

import contextlib
import dataclasses
import functools
import importlib.util
import json
import pathlib
import tempfile
import zlib
from typing import Any

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

import numpy as np

import octsod
from octsod import runs
from octsod.errors import FileError, OctsodError
from octsod.models import Configuration
from octsod.training.charts import training_curves
from octsod.training.logs import read_log
from octsod.training.settings import SettingsError
from octsod.training.tasks import Saliency

from . import formats, mutations
from .kinds import PICTURE, SIDE, Kind, called, sane, use
from .samples import draw_pictures, files_in

KINDS_OF_RUNS: dict[str, dict] = {"plain": {}, "channels": {"learn_channels": 1, "average": 0.9}}


def settings(home: pathlib.Path, more: dict) -> dict:
    """Those of a run that starts from a network with one block per stage: time goes into files, not into layers."""
    start = home / "start.safetensors"
    if not start.exists():
        octsod.manual_seed(0)
        standard = Configuration.standard(0.2)
        few = dataclasses.replace(standard, stages=tuple(blocks[-1:] for blocks in standard.stages))
        octsod.save(octsod.CSNet(few), start)
    return octsod.training.resolve({
        "data": home / "set", "init": start, "batch_size": 2, "size": SIDE, "epochs": 3, "threads": 1, **more,
    })  # fmt: skip


@functools.cache
def _interrupted(home: pathlib.Path) -> dict[str, dict[str, bytes]]:
    """The files of runs that were interrupted after seven of nine steps."""
    draw_pictures(home / "set")
    found = {}
    for name, more in KINDS_OF_RUNS.items():
        with tempfile.TemporaryDirectory() as root:
            lines: list[dict] = []
            octsod.training.conduct(
                settings(home, more), pathlib.Path(root, "run"), on_line=lines.append,
                stop=lambda lines=lines: sum("loss" in line for line in lines) >= 7,
            )  # fmt: skip
            found[name] = files_in(pathlib.Path(root))
    return found


class _Run(Kind):
    """Parts of a run folder that was interrupted; its pictures stay whole, and where they are."""

    def samples(self):
        for name, files in _interrupted(self.home).items():
            yield name, {path: data for path, data in files.items() if self.wanted(path.removeprefix("run/"))}

    def wanted(self, path: str) -> bool:
        return True


class Logs(_Run):
    name = "logs"
    every = 4

    def wanted(self, path):
        return path in ("log.jsonl", "weights/last.safetensors")

    def mutations(self, file, valid):
        if not file.endswith("log.jsonl"):
            return []
        return [*[mutations.lines] * 5, *[json_line] * 10, *mutations.TEXT, *mutations.BYTES]

    def check(self, folder, thorough):
        refused = None
        try:
            lines = read_log(folder / "run")
            if thorough:
                training_curves(lines, Saliency().titles)
        except OctsodError as error:
            refused = error
        octsod.history.read_history(folder / "run").summary()
        if refused:
            raise refused
        few = zlib.crc32((folder / "run" / "log.jsonl").read_bytes()) % 250 == 0  # figures take a second
        if thorough and few and importlib.util.find_spec("matplotlib"):
            called("plot", folder / "run", "-o", folder / "plots")


def json_line(data: bytes, rng: Any) -> bytes:
    """A line of a log with another value in it."""
    parts = data.splitlines(keepends=True) or [b"{}\n"]
    at = rng.randrange(len(parts))
    try:
        parts[at] = json.dumps(mutations.tree(json.loads(parts[at]), rng)).encode() + b"\n"
    except (ValueError, RecursionError):
        return mutations.lines(data, rng)
    return b"".join(parts)


class Checkpoints(_Run):
    name = "checkpoints"

    def wanted(self, path):
        return path == "state/checkpoint.safetensors"

    def mutations(self, file, valid):
        return [*formats.SAFETENSORS, mutations.splice([files[file] for files in valid.values()])]

    def prepare(self, valid):
        """Trainers as the runs had them."""
        self.trainers = []
        for more in KINDS_OF_RUNS.values():
            with (
                tempfile.TemporaryDirectory() as root,
                octsod.training.Session(settings(self.home, more), pathlib.Path(root, "run")) as session,
            ):
                self.trainers.append(session.trainer)

    def check(self, folder, thorough):
        checkpoint = runs.read_checkpoint(folder / "run")
        checkpoint.finished()
        use(checkpoint.model())
        plain, averaged = self.trainers
        trainer = averaged if any(name.startswith("average.") for name in checkpoint.state) else plain
        checkpoint.restore(trainer)
        if thorough:
            x = octsod.images.prepare(PICTURE, SIDE)[None]
            trainer.step(x, np.zeros((1, 1, SIDE, SIDE), np.float32))


class Runs(_Run):
    """Whole folders, of which anything may be damaged or missing, and which then are resumed."""

    name = "runs"
    every = 50

    def mutations(self, file, valid):
        if file.endswith(".safetensors"):
            return formats.SAFETENSORS
        if file.endswith("log.jsonl"):
            return [*[mutations.lines] * 3, json_line, *mutations.BYTES]
        if file.endswith(".json"):
            return [json_line, whole_json, whole_json, *mutations.TEXT, *mutations.BYTES]
        return [*mutations.TEXT, *mutations.BYTES]

    def prepare(self, valid):
        self.data = octsod.training.open_data(settings(self.home, {}))

    def check(self, folder, thorough):
        run = folder / "run"
        with contextlib.suppress(FileError):
            read_log(run)
        if thorough:
            with contextlib.suppress(FileError):
                runs.newest_unfinished(folder)
            called("train", "--resume", run, "-q")
            sane(runs.read_checkpoint(run).finished(), "is not finished after it was resumed")
            octsod.load(run / "weights" / "last.safetensors")
            read_log(run)
        else:
            found = tomllib.loads(called("train", "--print-config", "--resume", run))
            try:
                with octsod.training.Session(found, run, self.data, runs.read_checkpoint(run)):
                    pass
            except SettingsError as error:  # as `train` says it
                raise OctsodError(f"{run / 'config.toml'}: {error}") from error


def whole_json(data: bytes, rng: Any) -> bytes:
    try:
        return json.dumps(mutations.tree(json.loads(data), rng)).encode()
    except (ValueError, RecursionError):
        return mutations.tokens(data, rng)
