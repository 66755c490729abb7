"""Runs of tests in a copy of the tree, with a bug in it or without."""

import contextlib
import dataclasses
import hashlib
import json
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time

from .mutants_detectors import Stage, is_related, sources
from .mutants_text import Mutant

COPIED = ("octsod", "kernels", "tests", "bench", "docs", "pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE")
MOST_MEMORY = 4 << 30  # bytes
COMPILING = 240  # seconds that compiling what a bug has changed may take
DOES_NOT_COMPILE = ("The kernels do not compile", "numba.core.errors.", "Failed in nopython mode", "SyntaxError")
IDLE = 600  # seconds in which a process that is alive computes a little, however busy the machine is
BROKEN = {signal.SIGXCPU: "timeout", signal.SIGKILL: "timeout"}


@dataclasses.dataclass
class Outcome:
    """What a run of tests came to. kind: passed, failed, crash, timeout, memory, or broken: the source does not compile
    or cannot be imported. test: the first that failed, or the one that ran when the process died."""

    kind: str
    test: str = ""
    message: str = ""
    seconds: float = 0.0


class Stopped(Exception):  # noqa: N818 (it is no error)
    """A run of tests was given up."""


class Tree:
    """A copy of the checkout in a folder, and the caches of compiled kernels for its tests.

    warm: the cache for runs without a bug, which several trees may share. stopped: set by another thread, it ends a run
    with Stopped."""

    def __init__(self, folder: pathlib.Path, root: pathlib.Path, warm: pathlib.Path | None = None):
        self.tree, self.box = folder / "tree", folder / "box"
        self.warm, self._changed = warm or folder / "cache", folder / "changed"
        self._cache, self._compiled_for = self.warm, ""
        self.stopped = threading.Event()
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(self.tree, ignore_errors=True)
        for name in COPIED:
            source, target = root / name, self.tree / name
            if source.is_dir():
                shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info", "runs"))
            elif source.exists():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
        tests = sorted(path.name for path in (self.tree / "tests").glob("*.py"))
        self._helpers = [name for name in tests if not name.startswith("test_")]
        self.tests_version = self._hash("tests", [name for name in tests if is_related(name)])
        self._sources = self._hash("", sources(self.tree))

    def version(self, stage: Stage) -> str:
        """A hash of what decides how long a run without a bug takes, and what fails there."""
        files = sorted({test.partition("::")[0] for test in stage.tests})
        return f"{self._sources}-{self._hash('tests', [*self._helpers, *files])}"

    def _hash(self, folder, names):
        paths = [self.tree / folder / name for name in names]
        data = [path.read_bytes() if path.exists() else b"" for path in paths]
        return hashlib.sha256(b"".join(data)).hexdigest()[:16]

    @contextlib.contextmanager
    def with_bug(self, mutant: Mutant):
        """The tree has the bug meanwhile."""
        path = self.tree / mutant.file
        source = path.read_text(encoding="utf-8")
        self.warm.mkdir(mode=0o755, parents=True, exist_ok=True)
        if self._compiled_for != mutant.key:  # else what an earlier run has compiled is of use
            shutil.rmtree(self._changed, ignore_errors=True)
            shutil.copytree(self.warm, self._changed, copy_function=_link)  # what is compiled gets files of its own
            self._compiled_for = mutant.key
        try:
            self._cache = self._changed
            path.write_text(mutant.apply(source), encoding="utf-8")
            self._forget(path)
            yield
        finally:
            self._cache = self.warm
            path.write_text(source, encoding="utf-8")
            self._forget(path)

    def _forget(self, path):
        """Remove compiled code of a module: its time stamp may be that of another text."""
        for compiled in path.parent.glob(f"__pycache__/{path.stem}.*"):
            compiled.unlink()

    def run(self, stage: Stage, limit: float, first: bool = True, skipped: tuple = ()) -> Outcome:
        """Run tests until one fails, or all (not `first`). limit: seconds of computing beside those that compiling may
        take. skipped: tests to leave out."""
        shutil.rmtree(self.box, ignore_errors=True)
        (self.box / "tmp").mkdir(parents=True)
        notes = self.box / "notes"
        notes.touch()
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("OCTSOD_", "PYTEST_"))},
            "CI": "true", "PYTHONHASHSEED": "0", "PYTHONPATH": f"{self.tree}{os.pathsep}{self.tree / 'tests'}",
            "OCTSOD_CACHE_DIR": str(self._cache), "OCTSOD_MUTANT_NOTES": str(notes), "TMPDIR": str(self.box / "tmp"),
            # What nobody has written shows: as numbers near the largest that there are.
            "MALLOC_PERTURB_": "128", **dict(stage.environment),
        }  # fmt: skip
        command = [sys.executable, "-m", "pytest", "-q", "-p", "campaigns.mutants_watch", "-p", "no:cacheprovider",
                   "-p", "no:xdist", "--tb=short", f"--basetemp={self.box / 'tmp' / 'pytest'}"]  # fmt: skip
        command += [f"tests/{test}" for test in stage.tests if (self.tree / "tests" / test.partition("::")[0]).exists()]
        command += [] if not first else ["-x"]
        command += [part for test in skipped for part in ("--deselect", test)]
        cpu = int(limit + COMPILING)
        with open(self.box / "output", "wb") as output:
            process = subprocess.Popen(
                command, cwd=self.tree, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
            resource.prlimit(process.pid, resource.RLIMIT_CPU, (cpu, cpu + 5))
            try:
                ended = self._watched(process)
            finally:  # and whatever it has started
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
        outcome = self._judged(process.returncode, ended, notes)
        outcome.seconds = round(usage.ru_utime + usage.ru_stime, 1)
        return outcome

    def _watched(self, process):
        """Wait for a process. How it must be ended, if it must: one that computes too long is ended by its limit."""
        computed, moved = 0.0, time.monotonic()
        while True:
            # It is not reaped yet: what it has computed is told then.
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                return ""
            if self.stopped.wait(0.5):
                raise Stopped
            with contextlib.suppress(OSError, ValueError, IndexError):
                pages = int(pathlib.Path(f"/proc/{process.pid}/statm").read_text().split()[1])
                if pages * os.sysconf("SC_PAGE_SIZE") > MOST_MEMORY:
                    return "memory"
            if time.monotonic() > moved + IDLE:
                before, computed, moved = computed, _computed(process.pid), time.monotonic()
                if computed < before + 0.5:
                    return "timeout"

    def _judged(self, code, ended, notes):
        facts = [json.loads(line) for line in notes.read_text().splitlines()]
        begun = next((f["begun"] for f in reversed(facts) if "begun" in f), "")
        for fact in facts:
            message = fact.get("message", "")
            if "broken" in fact or any(words in message for words in DOES_NOT_COMPILE):
                return Outcome("broken", fact.get("broken") or fact.get("failed", ""), message)
            if "failed" in fact:
                return Outcome("failed", fact["failed"], message)
        if ended:
            return Outcome(ended, begun)
        if code == 0:
            return Outcome("passed")
        if code < 0:
            kind = BROKEN.get(signal.Signals(-code), "crash")
            return Outcome(kind, begun, f"ended by {signal.Signals(-code).name}")
        if any("ended" in fact for fact in facts) and code == 5:  # no tests: all of them skip where there is no g++
            return Outcome("passed")
        output = (self.box / "output").read_text(errors="replace")[-600:]
        return Outcome("broken" if not begun else "crash", begun, output)

    def failing(self, stage: Stage, limit: float) -> tuple[list[str], float]:
        """The tests that fail without any bug, and how long all of them take; what they compile is kept."""
        outcome = self.run(stage, limit, first=False)
        facts = [json.loads(line) for line in (self.box / "notes").read_text().splitlines()]
        if outcome.kind not in ("passed", "failed"):
            raise RuntimeError(f"{stage.name}: {outcome.kind} without any bug: {outcome.test} {outcome.message}")
        return sorted({fact["failed"] for fact in facts if "failed" in fact}), outcome.seconds


def _computed(session):
    """Seconds that the processes of a session have computed."""
    total = 0
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == session:
                total += int(fields[11]) + int(fields[12])
    return total / os.sysconf("SC_CLK_TCK")


def _link(source, target):
    """A second name of a file, or a copy on another disk; nothing, if another tree has just removed it."""
    with contextlib.suppress(FileNotFoundError):
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:
            shutil.copy2(source, target)
