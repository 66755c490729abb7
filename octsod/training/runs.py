"""Run folders: a training's settings, its log, its checkpoints, and how to resume from one.

    config.toml   the settings, all resolved; can serve as --config of another run
    env.json      versions and machine, and those of each resumption
    data.json     the names of the pictures to train on, of those held out, and of those skipped because they are broken
    log.jsonl     a line per step and per validation; null stands for numbers that are not finite
    weights/      last.safetensors, and best.safetensors of the best validation, as the task ranks them, at the largest
                  size of pictures; with a moving average, also last-average and best-average; if the run learns
                  channels, also wide.safetensors from before pruning, and best is from after it; if the run is part of
                  a sweep, also pruned.safetensors, the network that was scored
    state/        checkpoint.safetensors: weights, state of optimiser and hooks, position in the run
    plots/        curves.png; of the latest validation, the task's pictures, such as predictions.png; what `octsod plot`
                  draws

The checkpoint is one file, so that what belongs together is written together or not at all. It is written last, after
the weights and plots that it mentions: if the run is killed in between, it makes them again when it is resumed, and
what the checkpoint of a finished run says is there.
"""

import contextlib
import datetime
import json
import math
import os
import pathlib
import platform
import re
import sys
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ..data.images import write_png
from ..data.listing import nfc
from ..errors import FileError
from ..files import open_file, open_log, parse_json, read_file, write_atomically
from ..models.files import save
from ..nn import Module
from ..threads import available_cpus
from .charts import training_curves
from .checkpoints import CHECKPOINT, Checkpoint, changes, pack_checkpoint, read_checkpoint
from .logs import LOG, as_line, each_line, finite
from .tasks import Validated
from .trainer import Trainer, require_names

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

Folder = str | os.PathLike[str]
Pictures = tuple[Sequence[str], Sequence[str]]  # names to train on, names held out
Skipped = Mapping[str, Sequence[str]]  # names of broken pictures, by the setting that names their folder

PARTS = ("training", "validation")  # of the pictures, in data.json
FOLDERS = ("weights", "state", "plots")
DATA, ENVIRONMENT, CONFIG = "data.json", "env.json", "config.toml"
MOST_BYTES = 1 << 28  # of data.json and env.json

# What may differ when a run is resumed: its length, where its pictures are (their names are compared), and settings
# that do not affect weights.
FREE = (
    "epochs", "steps", "threads", "data", "images", "masks", "val", "max_pixels", "save_every", "save_minutes",
    "validate_minutes",
)  # fmt: skip


def newest_unfinished(root: Folder = "runs") -> pathlib.Path | None:
    """The unfinished run folder in `root` whose checkpoint was written last; None if there is none. Warns of those
    that cannot be read, or are being trained."""
    found = []
    for path in pathlib.Path(root).glob(f"*/{CHECKPOINT.as_posix()}"):
        with contextlib.suppress(OSError):  # gone meanwhile
            found.append((path.stat().st_mtime_ns, path.parents[1]))
    for _, folder in sorted(found, reverse=True):
        try:
            if not read_checkpoint(folder).finished():
                _require_free(folder)
                read_pictures(folder)
                return folder
        except FileError as error:
            warnings.warn(f"{str(error).rstrip('.')}; this run is skipped.", stacklevel=2)
    return None


def _require_free(folder):
    """Raise FileError if another process is training a run."""
    if fcntl is None or not (folder / LOG).exists():
        return
    with open_file(folder / LOG) as log, contextlib.suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(log, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileError(f"{folder}: is being trained by another process.") from None


def startable(folder: Folder) -> bool:
    """Whether a new run may start in a folder: it does not exist, is empty, or was left by a run that was killed before
    its first checkpoint, and so holds an empty log and nothing else but what a run begins with."""
    folder = pathlib.Path(folder)
    if not folder.exists():
        return True
    if not folder.is_dir():
        return False
    ours = re.compile(r"data\.json|env\.json|config\.toml|log\.jsonl|weights/last.*\.safetensors|.*\.octsod-\w+\.part")
    found = [path for path in folder.rglob("*") if not path.is_dir() or path.name not in FOLDERS]
    known = all(ours.fullmatch(path.relative_to(folder).as_posix()) for path in found)
    log = folder / LOG
    return not found or (known and log.is_file() and log.stat().st_size == 0)


def read_pictures(folder: Folder) -> dict[str, Any]:
    """What data.json in a run folder holds: names of pictures by `PARTS`, and as "skipped" those by setting, all in
    NFC, as data sets name theirs. Raises FileError, which names the file, if it is missing or damaged."""
    path = pathlib.Path(folder) / DATA
    if not path.exists():
        raise FileError(f"{path}: is gone; without it, nobody knows which pictures the run is trained on. Put it back.")
    found = _read_json(path)
    skipped = found.setdefault("skipped", {})
    lists = [found.get(part) for part in PARTS] + (list(skipped.values()) if isinstance(skipped, dict) else [None])
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists):
        raise FileError(f"{path}: is damaged: it does not name the run's pictures.")
    found["skipped"] = {source: list(map(nfc, names)) for source, names in skipped.items()}
    return {**found, **{part: list(map(nfc, found[part])) for part in PARTS}}


def _read_json(path):
    try:
        value = parse_json(read_file(path, MOST_BYTES))
        if not isinstance(value, dict):
            raise ValueError("it is no JSON object")
        return value
    except FileError:
        raise
    except ValueError as error:
        raise FileError(f"{path}: is damaged: {error}.") from error


class Run:
    """A run folder that is being written: `with Run.create(...) as run:` or `with Run.resume(...) as run:`.

    validated, since, best and plots: as in `Checkpoint`. epoch: the one under way, from 1. whole: whether, beside the
    trainer's steps, nothing is half done, such as the record of a validation. on_line: called with each line of the
    log. All methods raise FileError, which names the folder, if it cannot be written; earlier contents then stay
    intact.
    """

    def __init__(self, folder: Folder, settings: Mapping[str, Any], checkpoint: Checkpoint | None = None):
        self.folder, self.settings = pathlib.Path(folder), settings
        self._before = checkpoint.settings if checkpoint else settings
        self.validated: int = checkpoint.validated if checkpoint else 0
        self.since: float = checkpoint.since if checkpoint else 0.0
        self.best: dict[str, dict[str, Any]] = dict(checkpoint.best) if checkpoint else {}
        self.plots: list[str] = list(checkpoint.plots) if checkpoint else []
        self.epoch, self.whole = 1, True
        self._drawn = True  # the pictures of the latest validation
        self.on_line: Callable[[dict], None] = lambda line: None
        self._logged = checkpoint.steps if checkpoint else 0  # the last step in the log
        self._saved: tuple[int, ...] | None = None  # steps, total and validated of the checkpoint on the disk
        self._log: Any = None  # a binary file

    @classmethod
    def create(
        cls, folder: Folder, settings: Mapping[str, Any], pictures: Pictures, skipped: Skipped | None = None
    ) -> "Run":
        """Start a run in a folder that is `startable`. pictures: (names to train on, names held out). skipped: names
        of those that are broken."""
        run = cls(folder, settings)
        with run._writing():
            run._make_folders()
            run._open_log(None)
            run._write_pictures(pictures, skipped or {})
            run._write_json(ENVIRONMENT, _environment(0))
            run._write_settings()
        return run

    @classmethod
    def resume(
        cls, folder: Folder, settings: Mapping[str, Any], pictures: Pictures, checkpoint: Checkpoint,
        skipped: Skipped | None = None,
    ) -> "Run":  # fmt: skip
        """Continue from `checkpoint`; the log is cut back to its step. Warns of damage to what is not needed for that.

        skipped: names of broken pictures, all that there have been. Raises FileError if the settings (other than
        `FREE`) or the pictures, except those skipped, differ from those it was made with.
        """
        run = cls(folder, settings, checkpoint)
        run.require_same(pictures, skipped)
        run._saved = (checkpoint.steps,)  # this step is safe, but everything is written anew: weights may be gone
        with run._writing():
            run._make_folders()
            run._open_log(checkpoint.logged)
            for left in run.folder.rglob(".octsod-*.part"):  # by a kill
                left.unlink(missing_ok=True)
            environment = run._read_environment()
            environment["resumed"].append(_environment(checkpoint.steps))
            run._write_json(ENVIRONMENT, environment)
            run._write_pictures(pictures, skipped or {})
            run._write_settings()
        return run

    @property
    def kept(self) -> str:
        """What is safe on the disk, in words; empty before the first checkpoint."""
        there = self._saved is not None and (self.folder / CHECKPOINT).exists()
        return f"the checkpoint of step {self._saved[0]} in {self.folder} is intact" if there and self._saved else ""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(OSError):  # there was no room on the disk for a line
            self._log.close()

    def log(self, line: Mapping[str, Any]) -> None:
        """Add a line, a dict, to log.jsonl, and hand it to `on_line`."""
        with self._writing():
            self._log.write(as_line(line))
            self._log.flush()
        if "lr" in line:
            self._logged = line["step"]
        self.on_line(dict(line))

    def lines(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl, except damaged ones."""
        return list(self._lines())

    def _lines(self):
        return each_line(self.folder, lambda error: None)

    def record(self, trainer: Trainer, epoch: int, found: Mapping[str, Validated]) -> dict[str, Any]:
        """Log a validation, and keep the weights of networks that are the best so far, by the rank of the task.

        found: what validation found of each network, by name: "" is the trainer's. The line has its scores; those of
        the others are in it under their names. A larger size of pictures is better than a smaller one, and scores that
        are no finite numbers are worse than any. Draws plots/curves.png and the task's pictures, writes a checkpoint,
        and returns the line.
        """
        line: dict[str, Any] = {"step": trainer.steps, "epoch": epoch, "size": trainer.size}
        networks, better, best = trainer.networks(), [], dict(self.best)
        for name, (values, _) in found.items():
            scores = {key: float(value) for key, value in values.items()}
            require_names(scores if name == "" else [name], line, "score")
            entry = {**line, **scores} if name == "" else {**scores, "size": line["size"], "step": line["step"]}
            line = {**line, **(scores if name == "" else {name: scores})}
            if self._better(trainer.task, entry, scores, self.best.get(name)):
                trainer.require_finite()
                better.append(name)
                best[name] = finite(entry)
                self.keep(networks[name], f"best-{name}".rstrip("-"))
        line["best"] = better
        logged, self.whole, self._drawn = self._log.tell(), False, False
        try:
            self.log(line)
        finally:  # `on_line` may fail
            if self._log.tell() > logged:
                self.best, self.validated, self.whole = best, trainer.steps, True
        self.draw(trainer, found)
        self._drawn = True
        self.checkpoint(trainer)
        return line

    @staticmethod
    def _better(task, entry, scores, best):
        """Whether a validation is better than the best so far, its log entry or None."""
        if best is None or entry["size"] != best["size"]:
            return best is None or (entry["size"] or 0) > (best["size"] or 0)
        was, now = (all(math.isfinite(_number(values.get(n, 0.0))) for n in scores) for values in (best, scores))
        return now and (not was or task.rank(scores) > task.rank(best))

    def draw(self, trainer: Trainer, found: Mapping[str, Validated]) -> None:
        """Draw curves of the log and the pictures of a validation, see `record`. Warns if that fails: a picture is no
        reason to end a training."""
        pictures = found[""].pictures
        self.plots = ["curves", *pictures]
        self._draw("curves", lambda: training_curves(self._lines(), trainer.task.titles))
        for name, picture in pictures.items():
            self._draw(name, lambda picture=picture: picture)

    def _draw(self, name, picture):
        try:
            self.plot(name, picture())
        except Exception as error:
            detail = str(error) or type(error).__name__
            warnings.warn(f"{self._plot(name)}: cannot be drawn: {detail}", stacklevel=2)

    @property
    def lacks_plots(self) -> bool:
        """Whether a picture that has been drawn is gone."""
        return not all(self._plot(name).exists() for name in self.plots)

    def _plot(self, name):
        return self.folder / "plots" / f"{name}.png"

    def plot(self, name: str, picture: np.ndarray) -> None:
        """Write a picture (H, W, 3) uint8 to plots/`name`.png."""
        with self._writing():
            self._make_folders()
        write_png(self._plot(name), picture)

    def keep(self, model: Module, name: str) -> None:
        """Write a network to weights/`name`.safetensors."""
        with self._writing():
            self._make_folders()
            save(model, self._weights(name))

    def _weights(self, name):
        return self.folder / "weights" / f"{name}.safetensors"

    def mend(self, trainer: Trainer) -> None:
        """Write the best weights anew if they are gone and the trainer's network is the best one. Else warn, and let
        the next validation be the best; if there would be none, the last one is made again."""
        for name, entry in list(self.best.items()):
            file = f"best-{name}".rstrip("-")
            if self._weights(file).exists():
                continue
            if entry["step"] == trainer.steps and name in trainer.networks():
                self.keep(trainer.networks()[name], file)
            else:
                del self.best[name]
                if trainer.total is not None and trainer.steps >= trainer.total:
                    self.validated = min(self.validated, trainer.steps - 1)
                gone = f"is gone, the network of step {entry['step']}; that of the next validation takes its place"
                warnings.warn(f"{self._weights(file)}: {gone}.", stacklevel=2)

    def checkpoint(self, trainer: Trainer) -> None:
        """Write weights/last.safetensors and state/checkpoint.safetensors, unless they already hold this very state.

        Raises DivergenceError, and writes nothing, if a number is not finite.
        """
        now = trainer.steps, trainer.total, self.validated
        if now == self._saved:
            return
        trainer.require_finite()
        for hook in trainer.hooks:
            hook.before_saving(trainer, self)
        self.keep(trainer.model, "last")
        with self._writing():
            data = pack_checkpoint(
                trainer, settings=self.settings, validated=self.validated, since=self.since, best=self.best,
                logged=self._log.tell(), plots=self.plots,
            )  # fmt: skip
            os.fsync(self._log.fileno())  # a log may be longer than its checkpoint, but never shorter
            write_atomically(self.folder / CHECKPOINT, data)
        self._saved = now

    def rescue(self, trainer: Trainer) -> None:
        """After an error, write a checkpoint if the trainer is between two steps, of which the log has the first."""
        with contextlib.suppress(Exception):
            trainer.sync()
            if self.whole and trainer.whole and trainer.steps == self._logged:
                for name in () if self._drawn else self.plots:  # of the validation before; to be made again
                    self._plot(name).unlink(missing_ok=True)
                self.checkpoint(trainer)

    def _make_folders(self):
        for part in FOLDERS:
            (self.folder / part).mkdir(parents=self._log is None, exist_ok=True)

    def _open_log(self, logged):
        """Open the log for this process alone; cut off what follows its first `logged` bytes (None: of a new run).
        Warns of damage."""
        lost = logged and not (self.folder / LOG).exists()
        self._log = open_log(self.folder / LOG)
        if fcntl is not None:
            try:
                fcntl.flock(self._log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                self._log.close()
                raise FileError(f"{self.folder}: is being trained by another process.") from None
            except OSError:  # a file system without locks
                pass
        if logged is None and (self.folder / CHECKPOINT).exists():  # another process was faster
            self._log.close()
            raise FileError(f"{self.folder}: another run has started there meanwhile.")
        size = self._log.seek(0, os.SEEK_END)
        self._log.truncate(min(logged or 0, size))
        if logged:
            self._look_through_log(lost or size < logged)
        self._log.seek(0, os.SEEK_END)

    def _look_through_log(self, short):
        faults = [f"{self.folder / LOG}: is shorter than when the run was stopped; lines are lost."] if short else []
        size = self._log.seek(0, os.SEEK_END)
        self._log.seek(max(size - 1, 0))
        if self._log.read(1) not in (b"", b"\n"):  # half a line, which is damaged: the next one must not be part of it
            self._log.write(b"\n")
            self._log.flush()
        for _ in each_line(self.folder, lambda error: faults.append(str(error))):
            pass
        for fault in faults[:3]:
            warnings.warn(f"{fault.rstrip('.')}; the training goes on without.", stacklevel=2)
        if len(faults) > 3:
            warnings.warn(f"{self.folder / LOG}: {len(faults) - 3} more lines are damaged.", stacklevel=2)

    def require_same(self, pictures: Pictures, skipped: Skipped | None = None) -> None:
        """Raise FileError unless settings (other than `FREE`) and pictures are those of the checkpoint."""
        if changed := changes(finite(self._before), finite(self.settings), FREE):
            raise FileError(f"{self.folder}: was started with {changed}; other settings need a new run.")
        before = read_pictures(self.folder)
        for names, part in zip((list(map(nfc, names)) for names in pictures), PARTS, strict=True):
            dropped = {nfc(name) for found in (skipped or {}).values() for name in found} - set(names)
            expected = [name for name in before[part] if name not in dropped]
            if names != expected:
                odd = sorted(set(names) ^ set(expected)) or ["their order"]
                raise FileError(
                    f"{self.folder}: was started with other pictures for {part} than the data holds now; they differ "
                    f"in {len(odd)}, such as {odd[0]}."
                )

    def _read_environment(self):
        """What env.json holds; a fresh start if it is gone or damaged."""
        try:
            found = _read_json(self.folder / ENVIRONMENT)
        except FileError as error:
            warnings.warn(f"{str(error).rstrip('.')}; it is made anew.", stacklevel=2)
            found = {}
        if not isinstance(found.setdefault("resumed", []), list):
            found["resumed"] = []
        return found

    def _write_settings(self):
        import tomli_w

        write_atomically(self.folder / CONFIG, tomli_w.dumps(self.settings).encode())

    def _write_pictures(self, pictures, skipped):
        names = {part: list(found) for part, found in zip(PARTS, pictures, strict=True)}
        left = {source: list(found) for source, found in skipped.items() if found}
        self._write_json(DATA, {**names, **({"skipped": left} if left else {})})

    def _write_json(self, name, value):
        write_atomically(self.folder / name, (json.dumps(finite(value), indent=1) + "\n").encode())

    @contextlib.contextmanager
    def _writing(self):
        try:
            yield
        except OSError as error:
            kept = self.kept and f"; {self.kept}"
            raise FileError(f"{self.folder}: cannot be written: {error.strerror or error}{kept}.") from error


def _number(value):
    """A score as a log has it, where None stands for a number that is not finite."""
    return math.nan if value is None else value


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
        "available_cpus": available_cpus(),
        "arguments": sys.argv[1:],
    }  # fmt: skip
