"""Fuzzing: 10^5 damaged inputs of each kind, and what the library must never do with one.

A worker judges inputs; this process starts it, notes what it prints, and starts the next one if it is ended by a
signal. What has been done is kept in the output folder, so that the same command goes on where it was stopped.
"""

import json
import os
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import time

from .inputs import KINDS, Source, keep
from .tables import seconds_as_text, table
from .worker import MARK, kernel_cache

FAULTS = ("crash", "hang", "memory", "file outside", "code", "traceback", "wrong result", "message")
EXAMPLES = 3  # inputs that are saved of each fault
MOST_DEATHS = 200  # of workers of one kind; each costs seconds
PER_WORKER = 25_000  # inputs, so that what leaks in one shows against a fresh one


class Campaign:
    """Fuzzing in an output folder. state: what has been done, as it is kept in fuzz.json."""

    def __init__(self, folder: pathlib.Path, seed: int, hang: float = 5.0):
        self.folder, self.hang = folder.resolve(), hang
        self.home = self.folder / "samples"
        self.path = self.folder / "fuzz.json"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.state = {"seed": seed, "kinds": {}}
        if self.path.exists():
            self.state = json.loads(self.path.read_text())
            if self.state["seed"] != seed:
                raise SystemExit(f"{self.path}: was begun with --seed {self.state['seed']}; name another folder.")

    def run(self, kinds: list[str], count: int, minutes: float | None) -> None:
        """Judge inputs until there were `count` of each kind, or the minutes, shared out evenly, are over."""
        for kind in kinds:
            Source(kind, self.home)  # samples are made before the clock runs
        end = None if minutes is None else time.monotonic() + 60 * minutes
        for left, kind in zip(range(len(kinds), 0, -1), kinds, strict=True):
            now = time.monotonic()
            self._kind(kind, count, None if end is None else now + max(end - now, 0) / left)

    def _kind(self, kind, count, end):
        counts = dict.fromkeys(("next", "valid", "accepted", "refused", "seconds", "deaths", "growth"), 0)
        done = self.state["kinds"].setdefault(kind, {**counts, "faults": {}})
        while done["next"] < count and done["deaths"] < MOST_DEATHS and (end is None or time.monotonic() < end):
            before = _children()
            self._worker(kind, done, min(count, done["next"] + PER_WORKER), end)
            done["seconds"] += _children() - before
            self.path.write_text(json.dumps(self.state, indent=1))

    def _worker(self, kind, done, last, end):
        """Run one worker until it has done its part, or dies."""
        until = time.time() + (end - time.monotonic() if end else 1e9)
        with tempfile.TemporaryDirectory(prefix="octsod-fuzz-") as root:
            mark, box = pathlib.Path(root, "mark"), pathlib.Path(root, "box")
            mark.write_bytes(bytes(MARK.size))
            arguments = [kind, self.state["seed"], done["next"], last, self.home, box, mark, self.hang, until]
            cache = box / "cache" if Source(kind, self.home).kind.own_cache else kernel_cache()
            environment = {"OCTSOD_CACHE_DIR": str(cache), "XDG_CACHE_HOME": str(pathlib.Path(root, "home"))}
            process = subprocess.Popen(
                [sys.executable, str(pathlib.Path(__file__).parent), "worker", *map(str, arguments)],
                stdout=subprocess.PIPE, stderr=open(pathlib.Path(root, "stderr"), "w"), text=True,  # noqa: SIM115
                env={**os.environ, **environment},
            )  # fmt: skip
            begun = None
            for line in process.stdout:
                facts = json.loads(line)
                if "fault" in facts:
                    self._note(kind, done, facts["fault"], facts["input"], facts["thorough"])
                    continue
                begun = begun or facts["rss"]
                done["valid"] = facts.get("valid", done["valid"])
                done.update(next=facts["next"], growth=max(done["growth"], facts["rss"] - begun))
            code = process.wait()
            number, accepted, refused = MARK.unpack(mark.read_bytes())
            done["accepted"], done["refused"] = done["accepted"] + accepted, done["refused"] + refused
            if code == 0:
                return
            errors = pathlib.Path(root, "stderr").read_text(errors="replace")
            if code > 0 or begun is None:
                raise RuntimeError(f"the worker of {kind} failed:\n{errors[-3000:]}")
            fatal = pathlib.Path(root, "fatal.txt").read_text(errors="replace")
            places = [line.strip() for line in fatal.splitlines() if '"' in line and "/tests/" not in line]
            place = next((place for place in places if "/octsod/" in place or "/kernels/" in place), "?")
            fault = "hang" if -code in (signal.SIGALRM, signal.SIGPROF) else "crash"
            source = Source(kind, self.home)
            verdict = {"outcome": fault, "where": f"signal {-code}, {place}", "detail": fatal[:1500]}
            self._note(kind, done, verdict, source.input(self.state["seed"], number), number % source.kind.every == 0)
            done["next"], done["deaths"] = number + 1, done["deaths"] + 1

    def _note(self, kind, done, fault, given, thorough):
        """Count a fault; save the first inputs that show it."""
        found = done["faults"].setdefault(f"{fault['outcome']}: {fault['where']}", {**fault, "count": 0, "saved": []})
        found["count"] += 1
        if len(found["saved"]) < EXAMPLES:
            source = Source(kind, self.home)
            given = type(source.input(0, 0))(*given)
            place = self.folder / "faults" / f"{kind}-{given.number}"
            keep(place, source.files(given), {"kind": kind, "thorough": thorough, "fault": fault, "input": given})
            found["saved"].append(str(place))

    def report(self) -> str:
        """Markdown: a row per kind, and what was found."""
        rows, lines = [], []
        for kind, done in self.state["kinds"].items():
            counts = [sum(f["count"] for f in done["faults"].values() if f["outcome"] == fault) for fault in FAULTS]
            total = done["accepted"] + done["refused"] + sum(counts)
            growth = f"{done['growth'] / 2**20:+.0f} MB"
            seconds = seconds_as_text(done["seconds"])
            rows.append([kind, total, done["accepted"], done["refused"], *counts, growth, seconds])
            for name, fault in sorted(done["faults"].items(), key=lambda item: -item[1]["count"]):
                detail = " ".join(fault["detail"].split())[:160].replace("`", "'")
                lines.append(f"- {kind}, {fault['count']}x **{name}**: `{detail}`")
                lines.append(f"  `python tests/campaigns fuzz --input {fault['saved'][0]} --out {self.folder}`")
        head = ["kind", "inputs", "accepted", "refused", *FAULTS, "growth", "CPU time"]
        title = f"Fuzzing, seed {self.state['seed']}"
        return "\n".join([f"## {title}\n", table(head, rows), *(["", *lines] if lines else [])]) + "\n"

    @property
    def faults(self) -> int:
        return sum(len(done["faults"]) for done in self.state["kinds"].values())


def _children():
    """Seconds that ended child processes have computed."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


ALL = list(KINDS)
