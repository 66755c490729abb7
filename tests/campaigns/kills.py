"""Kills: work that is ended at any moment and then gone on with has the results of work that was left in peace.

    kill    SIGKILL at a random time, near the end, or before one of the operations on files
    cold    SIGINT while kernels are compiled, to commands and to a script that catches it and predicts again
    full    the disk is full: under the results, or under the cache of kernels
    pairs   two processes on one folder
    damage  files of the cache of kernels are damaged

What has been done is kept in the output folder, so that the same command goes on where it was stopped.
"""

import contextlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import subprocess
import time

from . import jobs, mutations
from .jobs import FaultError, Job, Process, difference, results
from .tables import seconds_as_text, table

COUNTS = {"kill": 300, "cold": 100, "full": 50, "pairs": 20, "damage": 100}
INTERRUPTED = 130
NOTEBOOK = pathlib.Path(__file__).parent / "notebook.py"


class Campaign:
    """Kills in an output folder. state: what has been done, as it is kept in kills.json."""

    def __init__(self, folder: pathlib.Path, seed: int, patience: float = 180.0, only: str | None = None):
        self.folder, self.seed, self.patience = folder.resolve(), seed, patience
        self.home, self.path = self.folder / "home", self.folder / "kills.json"
        self.home.mkdir(parents=True, exist_ok=True)
        self.state: dict = {"seed": seed, "groups": {}, "references": {}}
        if self.path.exists():
            self.state = json.loads(self.path.read_text())
        jobs.prepare(self.home, 10 * patience)  # which may compile everything
        self.notebook = self.home / "weights.safetensors", self.home / "set" / "images" / "03.png"
        self.jobs = [job for job in jobs.jobs(self.home) if only in (None, job.name)]
        self.expected = {job.name: self._reference(job) for job in self.jobs}

    def _reference(self, job: Job) -> dict:
        """The results of a job that is left in peace; its time and its operations on files are noted."""
        out, count = self.home / job.name, self.home / "count"
        if job.name not in self.state["references"]:
            shutil.rmtree(out, ignore_errors=True)
            start = time.monotonic()
            Process(job.start(out), 10 * self.patience, {"folder": str(out), "count": str(count)}).wait().require(0)
            facts = {"seconds": time.monotonic() - start, "operations": int(count.read_text())}
            self.state["references"][job.name] = facts
        return results(out)

    def run(self, counts: dict[str, int], minutes: float | None = None) -> None:
        """Trials of each group, until so many kills were made in it, or the minutes are over."""
        end = None if minutes is None else time.monotonic() + 60 * minutes
        for group, count in counts.items():
            done = self.state["groups"].setdefault(group, {"next": 0, "ends": 0, "seconds": 0.0, "faults": []})
            while done["ends"] < count and (end is None or time.monotonic() < end):
                start, number = time.monotonic(), done["next"]
                done["ends"] += self.trial(group, number)
                done["seconds"] += time.monotonic() - start
                done["next"] = number + 1
                self.path.write_text(json.dumps(self.state, indent=1))

    def trial(self, group: str, number: int) -> int:
        """One trial; a fault is noted and its folder kept. Returns how often something was ended or refused."""
        rng = random.Random(f"{self.seed} {group} {number}")
        job = self.jobs[number % len(self.jobs)]
        root = self.folder / "trial"
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        moments: list[str] = []
        try:
            getattr(self, f"_{group}")(job, root, rng, moments)
        except FaultError as fault:
            place = self.folder / "faults" / f"{group}-{number}"
            shutil.rmtree(place, ignore_errors=True)
            place.parent.mkdir(exist_ok=True)
            shutil.move(root, place)
            self.state["groups"][group]["faults"].append(
                {"number": number, "job": job.name, "moments": moments, "fault": str(fault), "saved": str(place)}
            )
        return len(moments)

    def _require_equal(self, job, out):
        found = results(out)
        if words := difference(found, self.expected[job.name]):
            raise FaultError(f"other results than undisturbed: {words}")
        if left := [path.name for path in out.rglob(jobs.LEFT_OVER)]:
            raise FaultError(f"left over: {left[0]}")

    # --- the groups ---------------------------------------------------------------------------------------------------

    def _kill(self, job, root, rng, moments):
        out, facts = root / "out", self.state["references"][job.name]
        for _ in range(rng.choice([1, 1, 2, 3])):
            hook, kind = None, rng.choice(["operation", "operation", "time", "end"])
            if kind == "operation":
                number = rng.randint(1, facts["operations"])
                hook = {"folder": str(out), "kill": number}
                words = f"before operation {number} of {facts['operations']}"
            process = Process(job.arguments(out), self.patience, hook)
            if kind == "time":
                seconds = rng.uniform(0, facts["seconds"])
                words = f"after {seconds:.2f} s"
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.process.wait(seconds)
            elif kind == "end":
                seconds = rng.uniform(0, 0.3)
                words = f"{seconds:.3f} s after {job.last} was written last"
                self._await_end(job, out, process)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.process.wait(seconds)
            if kind != "operation":
                process.process.kill()
            ended = process.wait()
            moments.append(words)
            results(out)  # nothing is half
            if ended.code != -signal.SIGKILL:  # it was quicker, or it refused to go on
                break
        job.finish(out, self.patience)
        self._require_equal(job, out)

    def _await_end(self, job, out, process):
        """Wait until the last file is as it is in the end, or the process has ended."""
        last, expected = out / job.last, self.expected[job.name].get(job.last)
        while process.process.poll() is None:
            with contextlib.suppress(FaultError, OSError):
                if jobs.whole(last) == expected:
                    return
            time.sleep(0.002)

    def _cold(self, job, root, rng, moments):
        """An empty cache, or one that lacks a few files, and Ctrl-C at a random time; then again, undisturbed."""
        out, cache = root / "out", root / "cache"
        self._copy_cache(cache, rng.choices([1, 2, 4, 8, None], [8, 6, 4, 2, 1])[0], rng)
        environment = {"OCTSOD_CACHE_DIR": str(cache), "OMP_NUM_THREADS": "2"}
        seconds = rng.uniform(0, 4)
        if rng.random() < 0.5:
            process = Process([NOTEBOOK, *self.notebook, out], self.patience, script=True, environment=environment)
            process.process.stdout.readline()
            time.sleep(seconds)
            process.process.send_signal(signal.SIGINT)
            moments.append(f"notebook, after {seconds:.2f} s")
            process.wait().require(0)
            expected = self.home / "notebook"
            if not (expected / "map.png").exists():
                Process([NOTEBOOK, *self.notebook, expected], 10 * self.patience, script=True).wait().require(0)
            if jobs.whole(out / "map.png") != jobs.whole(expected / "map.png"):
                raise FaultError("another map than undisturbed, after an interruption in the same process")
            return
        process = Process(job.arguments(out), self.patience, environment=environment)
        for k in range(rng.choice([1, 1, 2])):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.process.wait(0.6 + seconds if k == 0 else 0.5)
            process.process.send_signal(signal.SIGINT)
            moments.append(f"after {0.6 + seconds:.2f} s" if k == 0 else "and again")
        process.wait().require(0, INTERRUPTED, -signal.SIGINT)
        results(out)
        job.finish(out, 5 * self.patience, environment=environment)
        self._require_equal(job, out)

    def _copy_cache(self, to, missing, rng):
        """A copy of a filled cache without so many of its files; None: an empty folder."""
        full = self.home / "cache"
        if not (full / "complete").exists():
            environment = {"OCTSOD_CACHE_DIR": str(full), "OMP_NUM_THREADS": "2"}
            out, patience = self.home / "fill", 20 * self.patience
            for job in self.jobs:
                shutil.rmtree(out, ignore_errors=True)
                Process(job.start(out), patience, environment=environment).wait().require(0)
            Process([NOTEBOOK, *self.notebook, out], patience, script=True, environment=environment).wait().require(0)
            (full / "complete").touch()
        if missing is None:
            to.mkdir()
            return
        shutil.copytree(full, to)
        files = sorted(path for path in to.rglob("*") if path.is_file() and path.name != "complete")
        for path in rng.sample(files, min(missing, len(files))):
            path.unlink()

    def _damage(self, job, root, rng, moments):
        """Some files of the cache are not what they were; that costs time alone."""
        out, cache = root / "out", root / "cache"
        self._copy_cache(cache, 0, rng)
        files = sorted(path for path in cache.rglob("*") if path.is_file())
        for path in rng.sample(files, min(rng.choice([1, 2, 4]), len(files))):
            change = rng.choice(mutations.BYTES)
            path.write_bytes(change(path.read_bytes(), rng))
            moments.append(f"{change.__name__} {path.name}")
        environment = {"OCTSOD_CACHE_DIR": str(cache)}
        Process(job.start(out), 5 * self.patience, environment=environment).wait().require(0)
        self._require_equal(job, out)

    def _full(self, job, root, rng, moments):
        """Too little room for the results, then enough; now and then, too little for the cache, which is no loss."""
        out, cache = root / "disk" / "out", root / "disk" / "cache"
        needed = sum(path.stat().st_size for path in (self.home / job.name).rglob("*") if path.is_file())
        below_cache = rng.random() < 0.2
        if below_cache:
            out = root / "out"
            self._copy_cache(root / "copy", rng.randint(1, 3), rng)
            needed = sum(path.stat().st_size for path in (root / "copy").rglob("*") if path.is_file()) + (1 << 20)
        with disk(root / "disk", int(needed * (1 if below_cache else rng.uniform(0.02, 1)))) as (limits, grow, words):
            options = {"preexec_fn": limits}
            if below_cache:
                shutil.copytree(root / "copy", cache)
                options["environment"] = {"OCTSOD_CACHE_DIR": str(cache)}
            else:
                out.parent.mkdir(exist_ok=True)
            moments.append(f"{words}, under the {'cache' if below_cache else 'results'}")
            ended = Process(job.start(out), self.patience, **options).wait()
            ended.require(*((0,) if below_cache else (0, 1, 2)))
            grow()
            results(out)
            job.finish(out, self.patience)
            self._require_equal(job, out)

    def _pairs(self, job, root, rng, moments):
        """Two processes start, or go on, at nearly the same time: one works, the other one too, or it says why not."""
        out, facts = root / "out", self.state["references"][job.name]
        if rng.random() < 0.5:
            number = rng.randint(1, facts["operations"])
            Process(job.start(out), self.patience, {"folder": str(out), "kill": number}).wait()
        arguments = job.arguments(out)
        processes = []
        for _ in range(2):
            processes.append(Process(arguments, self.patience))
            time.sleep(rng.choice([0, rng.uniform(0, 0.1), rng.uniform(0, facts["seconds"])]))
        moments.append("two at once")
        ended = [process.wait().require(0, 1, 2) for process in processes]
        if all(one.code for one in ended) and not job.done(out):
            raise FaultError(f"neither worked: {ended[0].errors.strip().splitlines()[-1][:200]}")
        job.finish(out, self.patience)
        self._require_equal(job, out)

    # ------------------------------------------------------------------------------------------------------------------

    def report(self) -> str:
        rows, lines = [], []
        for group, done in self.state["groups"].items():
            hangs = sum("hangs" in fault["fault"] for fault in done["faults"])
            others = len(done["faults"]) - hangs
            rows.append([group, done["next"], done["ends"], hangs, others, seconds_as_text(done["seconds"])])
            for fault in done["faults"]:
                when = ", ".join(fault["moments"])
                lines.append(f"- {group} {fault['number']}, {fault['job']} ({when}): {fault['fault']}")
                command = f"kills --group {group} --first {fault['number']} --count 1 --seed {self.seed} --out DIR"
                lines.append(f"  `python tests/campaigns {command}`; its folder: {fault['saved']}")
        head = ["group", "trials", "kills", "hangs", "other faults", "time"]
        return "\n".join([f"## Kills, seed {self.seed}\n", table(head, rows), *(["", *lines] if lines else [])]) + "\n"

    @property
    def faults(self) -> int:
        return sum(len(done["faults"]) for done in self.state["groups"].values())


@contextlib.contextmanager
def disk(place: pathlib.Path, size: int):
    """A folder with room for `size` bytes: a file system of its own where that is allowed, else no long files.

    Yields a function to call in the process, one that makes room, and words.
    """
    place.mkdir(parents=True, exist_ok=True)
    size = max(size, 16384)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if shutil.which("mount") and os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0:
        try:
            grow = ["mount", "-o", "remount,size=256m", str(place)]
            yield None, lambda: subprocess.run(grow, check=True), f"a disk of {size:,} bytes"
        finally:
            subprocess.run(["umount", "-l", str(place)], check=True)
        return
    most = max(size // 8, 512)
    limits = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # noqa: E731
    yield limits, lambda: None, f"files of {most:,} bytes at most"
