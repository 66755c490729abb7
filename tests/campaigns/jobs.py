"""Work that takes a second or two and can be ended at any moment: commands, and what is left of them on the disk."""

import dataclasses
import hashlib
import io
import json
import os
import pathlib
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

import octsod

from . import formats
from .samples import draw_pictures

ROOT = pathlib.Path(octsod.__file__).parents[1]
HOOK = pathlib.Path(__file__).parent / "hook"
TIMING = ("img_s", "data_wait_ms")  # what differs between the logs of equal runs
SMALL = ("--size", 32, "--width", 0.2, "-b", 4, "--threads", 1)
LEFT_OVER = ".octsod-*.part"

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib


class FaultError(Exception):
    """What a trial should not have left or done."""


@dataclasses.dataclass
class Ended:
    """A process that has ended, with what it printed."""

    code: int
    output: str
    errors: str

    def require(self, *codes: int) -> "Ended":
        """FaultError unless it ended with one of these codes and without a traceback."""
        if "Traceback (most recent call last)" in self.errors:
            raise FaultError(f"a traceback: {self.errors.strip().splitlines()[-1][:300]}")
        if self.code not in codes:
            last = (self.errors.strip().splitlines() or ["nothing"])[-1]
            raise FaultError(f"exit code {self.code}, not {' or '.join(map(str, codes))}: {last[:300]}")
        return self


class Process:
    """A command of octsod's, or a script, in a process of its own, which is ended if it takes more than `patience`."""

    def __init__(self, arguments, patience: float, hook: dict | None = None, script: bool = False, **options: Any):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **options.pop("environment", {})}
        if hook is not None:
            environment.update(PYTHONPATH=f"{HOOK}{os.pathsep}{ROOT}", OCTSOD_CAMPAIGN=json.dumps(hook))
        command = [sys.executable, *([] if script else ["-m", "octsod"]), *map(str, arguments)]
        self.process = subprocess.Popen(
            command, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, **options,
        )  # fmt: skip
        self.hung = False
        self._watch = threading.Timer(patience, self._end)
        self._watch.start()

    def _end(self):
        self.hung = True
        self.process.kill()

    def wait(self) -> Ended:
        """Raises FaultError if it hangs."""
        output, errors = self.process.communicate()
        self._watch.cancel()
        if self.hung:
            raise FaultError(f"hangs; its last words: {(errors.strip().splitlines() or ['none'])[-1][:200]}")
        return Ended(self.process.returncode, output, errors)


def whole(path: pathlib.Path) -> Any:
    """What a file holds, in a form in which equal results are equal. FaultError if it is not whole."""
    data = path.read_bytes()
    try:
        match path.suffix:
            case ".safetensors":
                metadata, arrays = formats.parse(data)
                if "run" in metadata:  # a checkpoint: where its log ends depends on how the times are spelled
                    facts = json.loads(metadata["run"])
                    facts.pop("logged", None)
                    metadata = {**metadata, "run": facts, "crc32": None}
                return metadata, {n: (d, s, hashlib.sha256(raw).hexdigest()) for n, (d, s, raw) in arrays.items()}
            case ".png":
                pixels = np.asarray(Image.open(io.BytesIO(data)))
                return pixels.shape, hashlib.sha256(pixels.tobytes()).hexdigest()
            case ".jsonl":
                lines = [json.loads(line) for line in data.splitlines(keepends=True) if line.endswith(b"\n")]
                return [{name: value for name, value in line.items() if name not in TIMING} for line in lines]
            case ".json":
                found = json.loads(data)
                return found if path.name == "results.json" else None
            case ".toml":
                return tomllib.loads(data.decode())
    except Exception as error:  # whatever damage makes of it
        detail = f"{type(error).__name__}: {error}"[:200]
        raise FaultError(f"{path.name} is not whole ({len(data)} bytes): {detail}") from error
    return None


def results(folder: pathlib.Path) -> dict[str, Any]:
    """Path in the folder -> what the file holds, of all that are not left over from a kill. FaultError if one is not
    whole."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.match(LEFT_OVER)]
    return {path.relative_to(folder).as_posix(): whole(path) for path in files}


def difference(found: dict, expected: dict) -> str:
    """In words, how results differ; empty if they do not."""
    for name in sorted(found.keys() | expected.keys()):
        if name not in found or name not in expected:
            return f"{name} is {'missing' if name not in found else 'too much'}"
        if found[name] != expected[name]:
            detail = ""
            if isinstance(found[name], list):
                pairs = enumerate(zip(found[name], expected[name], strict=False), 1)
                lines = [number for number, (one, other) in pairs if one != other][:1]
                detail = f": {len(found[name])} lines, not {len(expected[name])}; the first that differs is {lines}"
            return f"{name} differs{detail}"
    return ""


@dataclasses.dataclass(frozen=True)
class Job:
    """start: the arguments that make `out`. resume: likewise, to go on with what is there; None if there is nothing to
    go on with, or the same command does. last: the file in `out` that is written last, or nearly so."""

    name: str
    start: Callable[[pathlib.Path], list]
    last: str
    resume: Callable[[pathlib.Path], list | None] = lambda out: None

    def arguments(self, out: pathlib.Path) -> list:
        return self.resume(out) or self.start(out)

    def finish(self, out: pathlib.Path, patience: float, **options) -> None:
        """Go on until it is done. A run that is finished already says so."""
        again = self.resume(out)
        ended = Process(again or self.start(out), patience, **options).wait()
        if ended.code == 2 and ("is finished" in ended.errors or "exists already" in ended.errors) and self.done(out):
            ended.code = 0
        ended.require(0)

    def done(self, out: pathlib.Path) -> bool:
        return (out / self.last).exists()


def jobs(home: pathlib.Path) -> list[Job]:
    """Trainings, one of which learns channels, a pruning, a sweep if it can be drawn, a folder of predictions.

    home: has their data, which is made here: pictures, and the weights of an undisturbed run (`prepare`)."""
    data, weights = home / "set", home / "weights.safetensors"

    def resume(out):
        return ["train", "--resume", out] if (out / "state" / "checkpoint.safetensors").exists() else None

    last = "weights/last.safetensors"
    train = ["train", "--data", data, *SMALL]
    learn = [*train, "--epochs", 6, "--learn-channels", 2, "--average", 0.9]
    prune = ["prune", weights, "--ratio", 0.3, "--overwrite"]
    predict = ["predict", data / "images", "--weights", weights, "--threads", 1]
    found = [
        Job("train", lambda out: [*train, "--steps", 16, "--lr", 1e-3, "-o", out], last, resume),
        Job("learn channels", lambda out: [*learn, "-o", out], last, resume),
        Job("prune", lambda out: [*prune, "-o", _folder(out) / "w.safetensors"], "w.safetensors"),
        Job("predict", lambda out: [*predict, "-o", out], "11.png"),
    ]
    try:
        import matplotlib  # noqa: F401 (what a sweep is drawn with)
    except ImportError:
        return found
    sweep = ["sweep", "--lambda-d", "1,3"]
    return [*found, Job("sweep", lambda out: [*sweep, "-o", out, "--", *train[1:], "--steps", 4], "results.json")]


def _folder(path):
    path.mkdir(parents=True, exist_ok=True)
    return path


def prepare(home: pathlib.Path, patience: float) -> None:
    """Draw the pictures, and train the network that is pruned and used."""
    if not (home / "weights.safetensors").exists():
        draw_pictures(home / "set", 12, 48)
        out = home / "first"
        train = ["train", "--data", home / "set", *SMALL, "--steps", 30, "--lr", 1e-3]
        Process([*train, "-o", out], patience).wait().require(0)
        (out / "weights" / "last.safetensors").rename(home / "weights.safetensors")
