"""Mutants: bugs that are seeded in every op and every kernel, each of which a test must catch.

Each bug is an edit of one place in the sources (mutants_python.py, mutants_cuda.py), tried in a copy of the tree
(mutants_runs.py): first with the tests that cover the file (mutants_detectors.py), then, after all others have had
their turn, with all that may catch it. What has been found out is kept in the output folder by the text of the function
and the edit, so that the same command goes on where it was stopped, and results hold as long as the function does.
"""

import concurrent.futures
import contextlib
import fcntl
import json
import pathlib
import threading
import time
from collections import Counter

from .mutants_detectors import Stage, detectors, further, sources
from .mutants_draw import Equivalents, draw
from .mutants_runs import Outcome, Tree
from .mutants_text import OPERATORS, Mutant, mutants_in
from .tables import seconds_as_text, table

ROOT = pathlib.Path(__file__).parents[2]
CAUGHT = ("failed", "crash", "timeout", "memory")


def contract() -> list[str]:
    """The names of the kernels that every backend has."""
    from octsod.backend.contract import Contract

    return [name for name, value in vars(Contract).items() if callable(value) and not name.startswith("_")]


def all_mutants(root: pathlib.Path) -> list[Mutant]:
    """All bugs that can be seeded in a tree, but for those in places that do not count."""
    listed = Equivalents()
    return [mutant for file in sources(root) for mutant in mutants_in(root, file) if listed.drawable(mutant)]


class Campaign:
    """Mutants in an output folder. results: what became of each bug, by its key; a file keeps them, by default
    results.jsonl in the folder. jobs: how many bugs are tried at a time."""

    def __init__(
        self, folder: pathlib.Path, root: pathlib.Path = ROOT, kept: pathlib.Path | None = None, jobs: int = 1
    ):
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._paths = kept or self.folder / "results.jsonl", self.folder / "baselines.jsonl"
        self._lock = open(self.folder / "lock", "w")  # noqa: SIM115 (held until the process ends)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise SystemExit(f"{self.folder}: another campaign is at work there.") from None
        self.equivalents = Equivalents()
        self.results, self.baselines = (self._read(path) for path in self._paths)
        self.trees = [Tree(self.folder / str(job), root, self.folder / "cache") for job in range(jobs)]
        self.tree = self.trees[0]
        self._drawn: tuple = (None, [])
        self._choosing = threading.RLock()
        self._busy: set[str] = set()
        self._measuring: dict[str, threading.Lock] = {}

    def close(self) -> None:
        """Let others work in the folder."""
        self._lock.close()

    def _read(self, path):
        facts: dict[str, dict] = {}
        for line in path.read_text().splitlines() if path.exists() else ():
            with contextlib.suppress(json.JSONDecodeError):  # a line that was being written
                fact = json.loads(line)
                facts[fact["key"]] = fact
        return facts

    def _keep(self, path, fact):
        with self._choosing, path.open("a") as file:
            file.write(json.dumps(fact) + "\n")

    def _is_broken(self, mutant):
        return self.results.get(mutant.key, {}).get("kind") == "broken"

    def state(self, mutant: Mutant) -> str:
        """caught, equivalent, survived (all tests have passed), open (those that cover it have), broken, or new."""
        if self.equivalents.reason(mutant):
            return "equivalent"
        result = self.results.get(mutant.key)
        if result is None:
            return "new"
        if result["kind"] != "passed":
            return "broken" if result["kind"] == "broken" else "caught"
        if result["tests"] != self.tree.tests_version:  # which may catch it by now
            return "new"
        return "survived" if result["everywhere"] else "open"

    def run(self, count: int, seed: int, minutes: float | None, only: str | None = None, say=print) -> list[Mutant]:
        """Try bugs, until all are settled or the minutes are over. Returns those that were drawn."""
        end = None if minutes is None else time.monotonic() + 60 * minutes

        def work(tree):
            while end is None or time.monotonic() < end:
                with self._choosing:
                    states = {mutant: self.state(mutant) for mutant in self.chosen(count, seed, only)}
                    mutant = next((m for m in states if states[m] == wanted and m.key not in self._busy), None)
                    if mutant is None:
                        return
                    self._busy.add(mutant.key)
                try:
                    outcome = self.try_out(mutant, wanted == "open", tree)
                finally:
                    self._busy.discard(mutant.key)
                counts = dict(Counter(states.values()))
                say(f"{counts} {mutant.id}: {outcome.kind} {outcome.test} {outcome.seconds} s", flush=True)

        for wanted in ("new", "open"):  # others take the place of those that do not compile, even of the last
            while any(self.state(m) == wanted for m in self.chosen(count, seed, only)):
                self._at_once(work)
                if end is not None and time.monotonic() > end:
                    break
        return self.chosen(count, seed, only)

    def _at_once(self, work):
        """Do it in each tree; if one fails, or the user stops it, in none any more."""
        with concurrent.futures.ThreadPoolExecutor(len(self.trees)) as pool:
            futures = [pool.submit(work, tree) for tree in self.trees]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:
                for tree in self.trees:
                    tree.stopped.set()
                raise

    def chosen(self, count: int, seed: int, only: str | None) -> list[Mutant]:
        """What is drawn; with `only`, that of a file or a bug, whether drawn or not."""
        if only and ":" in only:
            return [find(self.tree.tree, only)]
        key = count, seed, self._broken()
        if self._drawn[0] != key:
            self._drawn = key, draw(all_mutants(self.tree.tree), contract(), count, seed, self._is_broken)
        return [mutant for mutant in self._drawn[1] if only in (None, mutant.file)]

    def _broken(self):
        """How many do not compile."""
        return sum(result["kind"] == "broken" for result in self.results.values())

    def try_out(self, mutant: Mutant, everywhere: bool, tree: Tree) -> Outcome:
        """Run the tests that cover a bug's file, or, `everywhere`, all further ones, until one fails."""
        outcome, seconds = Outcome("passed"), 0.0
        for stage in further(tree.tree, mutant.file) if everywhere else detectors(mutant.file):
            baseline = self._baseline(stage, tree)
            with tree.with_bug(mutant):
                outcome = tree.run(stage, 3 * baseline["seconds"], skipped=tuple(baseline["failing"]))
            seconds += outcome.seconds
            if outcome.kind != "passed":
                break
        outcome.seconds = round(seconds + (self.results[mutant.key]["seconds"] if everywhere else 0), 1)
        fact = {
            "key": mutant.key, "id": mutant.id, "kind": outcome.kind, "test": outcome.test,
            "message": outcome.message[:300], "seconds": outcome.seconds, "everywhere": everywhere,
            "tests": self.tree.tests_version,
        }  # fmt: skip
        self.results[mutant.key] = fact
        self._keep(self._paths[0], fact)
        return outcome

    def _baseline(self, stage: Stage, tree: Tree) -> dict:
        """What a stage does without any bug: how long it takes, and which tests fail anyway."""
        key = f"{tree.version(stage)} {stage.name}"
        with self._choosing:
            lock = self._measuring.setdefault(key, threading.Lock())
        with lock:  # who needs the same meanwhile, waits for it
            if key not in self.baselines:
                failing, seconds = tree.failing(stage, 1800)
                self.baselines[key] = {"key": key, "stage": stage.name, "failing": failing, "seconds": seconds}
                self._keep(self._paths[1], self.baselines[key])
            return self.baselines[key]

    def report(self, drawn: list[Mutant]) -> str:
        """Markdown: totals, survivors, equivalents, and a row for each bug."""
        states = {mutant.key: self.state(mutant) for mutant in drawn}
        counts = Counter(states.values())
        seconds = sum(self.results[m.key]["seconds"] for m in drawn if m.key in self.results)
        lines = [
            f"""## Mutants

{len(drawn)} bugs: {counts["caught"]} caught, {counts["equivalent"]} equivalent, {counts["survived"]} survived,
{counts["open"] + counts["new"]} not settled yet. {self._broken()} more do not compile and count for nothing.
{seconds_as_text(seconds)} of computing.
"""
        ]
        lines.append(self._totals("kind of bug", drawn, states, lambda m: m.operator, OPERATORS))
        lines.append(self._totals("file", drawn, states, lambda m: m.file, sorted({m.file for m in drawn})))
        for state, title in (("survived", "Survivors"), ("open", "Not caught by the tests that cover them")):
            found = [m for m in drawn if states[m.key] == state]
            if found:
                lines.append(f"### {title}\n\n" + "\n".join(_described(m) for m in found) + "\n")
        equivalent = [m for m in drawn if states[m.key] == "equivalent"]
        if equivalent:
            rows = [f"{_described(m)}\n  {' '.join(self.equivalents.reason(m).split())}" for m in equivalent]
            lines.append("### Equivalent\n\n" + "\n".join(rows) + "\n")
        rows = []
        for mutant in sorted(drawn, key=lambda m: (m.file, m.line, m.id)):
            if states[mutant.key] == "caught":
                result = self.results[mutant.key]
                how = "" if result["kind"] == "failed" else f" ({result['kind']})"
                test = result["test"].removeprefix("tests/")
                rows.append([f"`{mutant.id}`", f"`{mutant.scope}`", f"`{test}`{how}", f"{result['seconds']:.0f}"])
        lines.append("### Caught\n\n" + table(["bug", "in", "by", "seconds"], rows) + "\n")
        return "\n".join(lines)

    def _totals(self, title, drawn, states, group, order):
        rows = []
        for name in order:
            counts = Counter(states[m.key] for m in drawn if group(m) == name)
            kinds = Counter(self.results[m.key]["kind"] for m in drawn
                            if group(m) == name and states[m.key] == "caught")  # fmt: skip
            if counts:
                rows.append([name, sum(counts.values()), counts["caught"], *(kinds[kind] for kind in CAUGHT[1:]),
                             counts["equivalent"], counts["survived"], counts["open"] + counts["new"]])  # fmt: skip
        by = [f"by {kind}" for kind in CAUGHT[1:]]
        head = [title, "bugs", "caught", *by, "equivalent", "survived", "not settled"]
        return table(head, rows) + "\n"

    def faults(self, drawn: list[Mutant]) -> int:
        return sum(self.state(mutant) == "survived" for mutant in drawn)


def _described(mutant):
    return f"- `{mutant.id}` in `{mutant.scope}`:\n  `{mutant.before[:200]}`\n  `{mutant.after[:200]}`"


def find(root: pathlib.Path, name: str) -> Mutant:
    """A bug by its id."""
    file = name.partition(":")[0]
    if file not in sources(root):
        raise SystemExit(f"{name}: no bugs are seeded in {file}.")
    for mutant in mutants_in(root, file):
        if mutant.id == name:
            return mutant
    raise SystemExit(f"{name}: there is no such bug; an id is FILE:LINE:KIND:NUMBER, of the file as it is now.")
