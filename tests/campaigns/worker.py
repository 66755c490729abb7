"""The process that hands inputs to the library. What it finds, it prints, a JSON object per line; see `fuzz`."""

import contextlib
import dataclasses
import json
import mmap
import os
import pathlib
import re
import struct
import sys
import time
import traceback
import warnings
from typing import Any

import octsod
from octsod.errors import OctsodError

from .guard import Guard, watch
from .inputs import Input, Source, kept, write
from .kinds import WrongError

LONGEST = 1500  # characters of a message
PULSE = 1.0  # seconds between lines
MARK = struct.Struct("<QQQ")  # the number of the present input; how many were accepted and refused so far


@dataclasses.dataclass
class Verdict:
    """outcome: accepted, refused or a fault. where: the place that tells faults apart. detail: what it was."""

    outcome: str
    where: str = ""
    detail: str = ""


class Worker:
    """Judges inputs of a kind in a folder of its own."""

    def __init__(self, kind: str, home: pathlib.Path, box: pathlib.Path, seconds: float, warm: bool = True):
        warnings.simplefilter("ignore")
        octsod.set_num_threads(1)
        # The messages of faults that end this process; kept away from what the library writes to standard error.
        self._errors = open(box.parent / "fatal.txt", "w")  # noqa: SIM115 (as long as this process)
        watch(self._errors)
        self.source, self.box, self.seconds = Source(kind, home), box, seconds
        self.source.kind.prepare(self.source.samples)
        # What the library remembers from one process to the next may be written, too.
        folders = [box, kernel_cache(), pathlib.Path(os.environ.get("XDG_CACHE_HOME", box))]
        self.guard = Guard(folders, self.source.kind.allowed)
        # Once through all samples, so that what is made on first use is there; `warm`: thorough parts included.
        self.valid = 0  # samples that are accepted as they are
        for files in self.source.samples.values():
            write(box, dict(files))
            with contextlib.suppress(OctsodError, WrongError):
                self.source.kind.check(box, warm)
                self.valid += 1
            write(box, dict(files))
        os.chdir(box)
        self.guard.limit()

    def judge(self, files: dict[str, bytes | str], thorough: bool) -> Verdict:
        os.chdir("/")
        write(self.box, files)
        os.chdir(self.box)
        try:
            with self.guard.over(self.seconds):
                self.source.kind.check(self.box, thorough)
            verdict = Verdict("accepted")
        except (KeyboardInterrupt, GeneratorExit):
            raise
        except BaseException as error:
            verdict = self._verdict(error)
        if self.guard.seen:
            return Verdict(self.guard.seen[0][0], self.guard.seen[0][1].split("'")[0], self.guard.seen[0][1])
        if (self.box / "canary").exists():
            return Verdict("code", "canary", "a file that only a pickle can have made")
        return verdict

    def _verdict(self, error: BaseException) -> Verdict:
        text = f"{type(error).__name__}: {error}"[:600]
        if _from_memory(error):
            return Verdict("memory", _where(error), text)
        if isinstance(error, WrongError):
            return Verdict("wrong result", re.sub(r"\d+", "N", str(error)), str(error))
        if not isinstance(error, OctsodError):
            return Verdict("traceback", f"{type(error).__name__} in {_where(error)}", text)
        message = str(error)
        if len(message) > LONGEST or "\n" in message.strip():
            return Verdict("message", f"length in {_where(error)}", f"{len(message)} characters: {message[:300]}")
        names = {self.box.name, *(path.name for path in self.box.rglob("*"))}
        if not any(name in message for name in names) and "not finite" not in message:
            return Verdict("message", f"names no file in {_where(error)}", message[:300])
        return Verdict("refused")

    def smallest(self, given: Input, verdict: Verdict, thorough: bool) -> Input:
        """The input with as few of its operations as still show the same fault."""
        for operation in list(given.operations):
            less = given._replace(operations=[o for o in given.operations if o != operation])
            if less.operations and self.judge(self.source.files(less), thorough).where == verdict.where:
                given = less
        return given


def kernel_cache() -> pathlib.Path:
    """Where compiled kernels are kept."""
    home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(os.environ.get("OCTSOD_CACHE_DIR") or pathlib.Path(home, "octsod")).absolute()


def _from_memory(error):
    seen = set()
    while error is not None and id(error) not in seen:
        if isinstance(error, MemoryError):
            return True
        seen.add(id(error))
        error = error.__cause__ or error.__context__
    return False


def _where(error):
    """The innermost place in octsod's files."""
    root = str(pathlib.Path(octsod.__file__).parents[1]) + os.sep
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename.startswith(root)]
    frames = [f for f in frames if "/tests/" not in f.filename] or frames
    return f"{frames[-1].filename.removeprefix(root)}:{frames[-1].name}" if frames else "?"


def work(
    kind: str, seed: int, first: int, last: int, home: str, box: str, mark: str, seconds: float, until: float
) -> None:  # fmt: skip
    """Judge the inputs from `first` up to `last`. mark: a file that gets the numbers `MARK`, even if this process dies.

    until: `time.time()` at which to stop. Prints faults and, from time to time, {"next", "rss"}.
    """
    worker = Worker(kind, pathlib.Path(home), pathlib.Path(box), seconds, last - first > 100)
    if not worker.valid:
        sys.exit(f"{home}: no sample of {kind} is accepted as it is; samples of another version need another --out.")
    counts = {"accepted": 0, "refused": 0}
    out, sys.stdout = sys.stdout, open(os.devnull, "w")  # noqa: SIM115

    def tell(facts: dict[str, Any]):
        out.write(json.dumps(facts) + "\n")
        out.flush()

    with open(mark, "r+b") as file, mmap.mmap(file.fileno(), MARK.size) as shared:
        told = time.monotonic()
        tell({"next": first, "rss": rss(), "valid": worker.valid})
        for number in range(first, last):
            if time.monotonic() - told > PULSE:
                told = time.monotonic()
                tell({"next": number, "rss": rss()})
                if time.time() > until:
                    return
            shared[:] = MARK.pack(number, *counts.values())
            thorough = number % worker.source.kind.every == 0
            given = worker.source.input(seed, number)
            verdict = worker.judge(worker.source.files(given), thorough)
            if verdict.outcome in counts:
                counts[verdict.outcome] += 1
            else:
                given = worker.smallest(given, verdict, thorough)
                tell({"fault": dataclasses.asdict(verdict), "input": given, "thorough": thorough})
            shared[:] = MARK.pack(number, *counts.values())
        tell({"next": last, "rss": rss()})


def again(folder: pathlib.Path, home: pathlib.Path, box: pathlib.Path, seconds: float) -> None:
    """Hand a saved input to the library once more, and let everything show."""
    files, facts = kept(folder)
    worker = Worker(facts["kind"], home, box, seconds)
    write(worker.box, files)
    os.chdir(worker.box)
    with worker.guard.over(seconds):
        worker.source.kind.check(worker.box, facts["thorough"])


def rss() -> int:
    """Resident bytes of this process."""
    return int(pathlib.Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
