"""Run folders: a training's settings, its log, its checkpoints, and how to resume from one.

    config.toml   the settings, all resolved; can serve as --config of another run
    env.json      versions and machine, and those of each resumption
    data.json     the names of the pictures to train on and of those held out
    log.jsonl     a line per step and per validation
    weights/      last.safetensors, and best.safetensors of the best validation, as the task ranks them, at the latest
                  size of pictures; with a moving average, also last-average and best-average; if the run learns
                  channels, also wide.safetensors from before pruning, and best is from after it; if the run is part of
                  a sweep, also pruned.safetensors, the network that was scored
    state/        checkpoint.safetensors: weights, state of optimiser and hooks, position in the run
    plots/        curves.png; of the latest validation, the task's pictures, such as predictions.png; what `octsod plot`
                  draws

The checkpoint is one file, so that what belongs together is written together or not at all; weights/last is derived
from it. weights/best is written before the checkpoint that mentions it: if the run is killed in between, it validates
again when it is resumed.
"""

import contextlib
import datetime
import json
import math
import os
import pathlib
import platform
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..data.images import write_png
from ..errors import FileError
from ..files import write_atomically
from ..models.files import build, describe, save
from ..nn import Module
from .charts import training_curves
from .tasks import Validated
from .trainer import Trainer, require_names

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Folder = str | os.PathLike[str]
Pictures = tuple[Sequence[str], Sequence[str]]  # names to train on, names held out

CHECKPOINT = pathlib.Path("state", "checkpoint.safetensors")
LOG = "log.jsonl"

# What may differ when a run is resumed: its length, and settings that do not affect results.
FREE = ("epochs", "steps", "threads")


class Checkpoint(NamedTuple):
    """What a run's checkpoint holds.

    path: its file. state: `Trainer.state_dict()`. facts: what `models.files.describe` says about the network. settings:
    the run's. total: how many steps the run is to have. validated: the step of the last validation, or 0. best: the log
    line of the best validation of each network, by name: "" is the trainer's. logged: bytes of the log before it.
    """

    path: pathlib.Path
    state: dict[str, np.ndarray]
    facts: dict[str, str]
    settings: dict[str, Any]
    total: int
    validated: int
    best: dict[str, dict[str, Any]]
    logged: int

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
        """Bring a trainer of that network to where the run was. Raises FileError if its network is another one."""
        own = _facts(trainer)
        for name in ("architecture", "configuration", "optimizer"):
            if self.facts[name] != own[name]:
                other = f"its {name} is {self.facts[name]}, not {own[name]}"
                raise FileError(f"{self.path}: does not fit the run: {other}.")
        try:
            trainer.load_state_dict(self.state)
        except ValueError as error:
            raise FileError(f"{self.path}: does not fit the run: {error}") from error


def read_checkpoint(folder: Folder) -> Checkpoint:
    """The checkpoint in a run folder. Raises FileError, which names the file, if it is missing or damaged."""
    import safetensors

    folder = pathlib.Path(folder)
    path = folder / CHECKPOINT
    if not folder.is_dir():
        raise FileError(f"{folder}: no such run folder.")
    if not path.is_file():
        raise FileError(f"{folder}: holds no checkpoint to go on from ({CHECKPOINT.as_posix()}).")
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        facts = metadata.get("run", "")
        if metadata.get("crc32") != _checksum(state, facts):
            raise ValueError("its contents do not match their checksum")
        facts = json.loads(facts)
        return Checkpoint(path, state, **facts)
    except OSError as error:
        raise FileError(f"{path}: {error.strerror or error}.") from error
    except (safetensors.SafetensorError, ValueError, TypeError, KeyError) as error:
        raise FileError(f"{path}: is damaged, or no checkpoint of octsod's: {error}.") from error


def _checksum(state, facts):
    value = zlib.crc32(facts.encode())
    for name in sorted(state):
        value = zlib.crc32(state[name].tobytes(), zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def changes(before: Mapping[str, Any], after: Mapping[str, Any], free: Sequence[str] = ()) -> str:
    """How settings differ, except those in `free`, in words; empty if they do not."""
    return "; ".join(
        f"{name} = {before.get(name)!r}, not {after.get(name)!r}"
        for name in sorted(before.keys() | after.keys())
        if name not in free and before.get(name) != after.get(name)
    )


def read_log(folder: Folder) -> list[dict[str, Any]]:
    """The lines of a run's log, except half a line at its end, left by a kill or being written just now.

    Raises FileError, which names the folder or the line, if the log is missing or damaged.
    """
    folder = pathlib.Path(folder)
    path = folder / LOG
    if not folder.is_dir():
        raise FileError(f"{folder}: no such run folder.")
    if not path.is_file():
        raise FileError(f"{folder}: is no run folder: it has no {LOG}.")
    lines = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                break
            try:
                entry = json.loads(line)
                if not isinstance(entry, dict):
                    raise ValueError("not a JSON object")
            except (ValueError, RecursionError) as error:
                raise FileError(f"{path}: line {number} is damaged, or none of octsod's.") from error
            lines.append(entry)
    return lines


def newest_unfinished(root: Folder = "runs") -> pathlib.Path | None:
    """The unfinished run folder in `root` whose checkpoint was written last; None if there is none."""
    found = [path.parents[1] for path in pathlib.Path(root).glob(f"*/{CHECKPOINT.as_posix()}")]
    found.sort(key=lambda folder: (folder / CHECKPOINT).stat().st_mtime_ns, reverse=True)
    return next((folder for folder in found if not read_checkpoint(folder).finished()), None)


class Run:
    """A run folder that is being written: `with Run.create(...) as run:` or `with Run.resume(...) as run:`.

    validated and best: as in `Checkpoint`. epoch: the one under way. on_line: called with each line of the log. All
    methods raise FileError, which names the folder, if it cannot be written; earlier contents then stay intact.
    """

    def __init__(self, folder: Folder, settings: Mapping[str, Any], checkpoint: Checkpoint | None = None):
        self.folder, self.settings = pathlib.Path(folder), settings
        self._before = checkpoint.settings if checkpoint else settings
        self.validated: int = checkpoint.validated if checkpoint else 0
        self.best: dict[str, dict[str, Any]] = dict(checkpoint.best) if checkpoint else {}
        self.epoch = 0
        self.on_line: Callable[[dict], None] = lambda line: None
        self._saved: tuple[int, ...] | None = None  # steps, total and validated of the checkpoint on the disk
        self._log: Any = None  # a binary file

    @classmethod
    def create(cls, folder: Folder, settings: Mapping[str, Any], pictures: Pictures) -> "Run":
        """Start a run in a folder that is new or empty. pictures: (names to train on, names held out)."""
        run = cls(folder, settings)
        with run._writing():
            for part in ("weights", "state", "plots"):
                (run.folder / part).mkdir(parents=True, exist_ok=True)
            run._open_log(0)
            run._write_json("data.json", dict(zip(("training", "validation"), pictures, strict=True)))
            run._write_json("env.json", _environment(0))
            run._write_settings()
        return run

    @classmethod
    def resume(
        cls, folder: Folder, settings: Mapping[str, Any], pictures: Pictures, checkpoint: Checkpoint
    ) -> "Run":
        """Continue from `checkpoint`; the log is cut back to its step.

        Raises FileError if the settings (other than `FREE`) or the pictures differ from those it was made with.
        """
        run = cls(folder, settings, checkpoint)
        run.require_same(pictures)
        run._saved = (checkpoint.steps,)  # this step is safe, but everything is written anew: weights/last may be older
        environment = run._read_json("env.json")
        with run._writing():
            run._open_log(checkpoint.logged)
            for left in run.folder.rglob(".octsod-*.part"):  # by a kill
                left.unlink()
            environment.setdefault("resumed", []).append(_environment(checkpoint.steps))
            run._write_json("env.json", environment)
            run._write_settings()
        return run

    @property
    def kept(self) -> str:
        """What is safe on the disk, in words; empty before the first checkpoint."""
        return "" if self._saved is None else f"the checkpoint of step {self._saved[0]} in {self.folder} is intact"

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):  # there was no room on the disk for a line
            self._log.close()

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line, a dict, to log.jsonl, and hand it to `on_line`."""
        with self._writing():
            self._log.write(json.dumps(line).encode() + b"\n")
            self._log.flush()
        self.on_line(dict(line))

    def lines(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl."""
        return read_log(self.folder)

    def record(self, trainer: Trainer, epoch: int, found: Mapping[str, Validated]) -> dict[str, Any]:
        """Log a validation, and keep the weights of networks that are the best so far, by the rank of the task.

        found: what validation found of each network, by name: "" is the trainer's. The line has its scores; those of
        the others are in it under their names. A larger size of pictures is better than a smaller one, and scores that
        are no finite numbers are worse than any. Writes a checkpoint, draws plots/curves.png and the task's pictures,
        and returns the line.
        """
        line: dict[str, Any] = {"step": trainer.steps, "epoch": epoch, "size": trainer.size}
        networks, better = trainer.networks(), []
        for name, (values, _) in found.items():
            scores = {key: float(value) for key, value in values.items()}
            require_names(scores if name == "" else [name], line, "score")
            entry = {**line, **scores} if name == "" else {**scores, "size": line["size"], "step": line["step"]}
            line = {**line, **(scores if name == "" else {name: scores})}
            if self._better(trainer.task, entry, scores, self.best.get(name)):
                trainer.require_finite()
                better.append(name)
                self.best[name] = entry
                self.keep(networks[name], f"best-{name}".rstrip("-"))
        line["best"] = better
        self.log(line)
        self.validated = trainer.steps
        self.checkpoint(trainer)
        self.plot("curves", training_curves(self.lines(), trainer.task.titles))
        for name, picture in found[""].pictures.items():
            self.plot(name, picture)
        return line

    @staticmethod
    def _better(task, entry, scores, best):
        """Whether a validation is better than the best so far, its log entry or None."""
        if best is None or entry["size"] != best["size"]:
            return best is None or (entry["size"] or 0) > (best["size"] or 0)
        was, now = (all(math.isfinite(values.get(name, 0.0)) for name in scores) for values in (best, scores))
        return now and (not was or task.rank(scores) > task.rank(best))

    def keep(self, model: Module, name: str) -> None:
        """Write a network to weights/`name`.safetensors."""
        with self._writing():
            save(model, self.folder / "weights" / f"{name}.safetensors")

    def plot(self, name: str, picture: np.ndarray) -> None:
        """Write a picture (H, W, 3) uint8 to plots/`name`.png."""
        write_png(self.folder / "plots" / f"{name}.png", picture)

    def checkpoint(self, trainer: Trainer) -> None:
        """Write state/checkpoint.safetensors and weights/last.safetensors, unless they already hold this very state.

        Raises DivergenceError, and writes nothing, if a number is not finite.
        """
        import safetensors.numpy

        now = trainer.steps, trainer.total, self.validated
        if now == self._saved:
            return
        trainer.require_finite()
        for hook in trainer.hooks:
            hook.before_saving(trainer, self)
        state = trainer.state_dict()
        facts = json.dumps({
            "facts": _facts(trainer), "settings": self.settings, "total": trainer.total,
            "validated": self.validated, "best": self.best, "logged": self._log.tell(),
        })  # fmt: skip
        data = safetensors.numpy.save(state, {"run": facts, "crc32": _checksum(state, facts)})
        with self._writing():
            os.fsync(self._log.fileno())  # a log may be longer than its checkpoint, but never shorter
            write_atomically(self.folder / CHECKPOINT, data)
            self._saved = now
            save(trainer.model, self.folder / "weights" / "last.safetensors")

    def _open_log(self, logged):
        """Open the log for this process alone; cut off what follows its first `logged` bytes."""
        self._log = open(self.folder / LOG, "a+b")  # noqa: SIM115 (closed by __exit__)
        if fcntl is not None:
            try:
                fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._log.close()
                raise FileError(f"{self.folder}: is being trained by another process.") from None
            except OSError:  # a file system without locks
                pass
        self._log.truncate(min(logged, self._log.seek(0, os.SEEK_END)))
        self._log.seek(0, os.SEEK_END)

    def require_same(self, pictures: Pictures) -> None:
        """Raise FileError unless settings (other than `FREE`) and pictures are those of the checkpoint."""
        self._require_same_settings(self._before)
        self._require_same_pictures(pictures)

    def _require_same_settings(self, before):
        if changed := changes(before, self.settings, FREE):
            raise FileError(f"{self.folder}: was started with {changed}; other settings need a new run.")

    def _require_same_pictures(self, pictures):
        before = self._read_json("data.json")
        for names, part in zip(pictures, ("training", "validation"), strict=True):
            if list(names) != before.get(part):
                odd = sorted(set(names) ^ set(before.get(part, ()))) or ["their order"]
                raise FileError(
                    f"{self.folder}: was started with other pictures for {part} than the data holds now; they differ "
                    f"in {len(odd)}, such as {odd[0]}."
                )

    def _write_settings(self):
        import tomli_w

        write_atomically(self.folder / "config.toml", tomli_w.dumps(self.settings).encode())

    def _write_json(self, name, value):
        write_atomically(self.folder / name, (json.dumps(value, indent=1) + "\n").encode())

    def _read_json(self, name):
        path = self.folder / name
        try:
            value = json.loads(path.read_bytes())
            if not isinstance(value, dict):
                raise ValueError("not a JSON object")
            return value
        except (OSError, ValueError) as error:
            raise FileError(f"{path}: cannot be read: {error}.") from error

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except OSError as error:
            kept = self.kept and f"; {self.kept}"
            raise FileError(f"{self.folder}: cannot be written: {error.strerror or error}{kept}.") from error


def _facts(trainer):
    """What a checkpoint says about a trainer's network and optimiser beside their arrays."""
    return {**describe(trainer.model), "optimizer": type(trainer.optimizer).__name__}


def _environment(step):
    """Versions and machine, for the part of a run that starts after `step`."""
    from importlib.metadata import PackageNotFoundError, version

    from .. import __version__

    versions = {"octsod": __version__, "python": platform.python_version()}
    for package in ("numpy", "numba", "llvmlite", "pillow", "safetensors"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    return {
        "step": step, "time": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
        "versions": versions, "platform": platform.platform(), "machine": platform.machine(), "cpus": os.cpu_count(),
        "arguments": sys.argv[1:],
    }  # fmt: skip
