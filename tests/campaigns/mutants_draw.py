"""Which bugs a campaign seeds: drawn by seed, so that every op, every kernel, every file and every kind is there.

What is drawn of a function depends on the function's text alone, and on how much else there is, so that most of it
stays when the sources change.
"""

import fnmatch
import hashlib
import pathlib
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import Any

try:
    import tomllib
except ModuleNotFoundError:  # Python 3.10
    import tomli as tomllib

from .mutants_text import Mutant

PER_FILE = 2  # at least
PER_OPERATOR = 12
LISTED = pathlib.Path(__file__).parent / "equivalents.toml"


def _rank(*parts: Any) -> int:
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big")


class Equivalents:
    """Bugs that are none: equivalents.toml. `bugs` that were drawn and proved to change nothing that anybody is
    promised; `places` where none are drawn, since what is written there steers nothing but speed."""

    def __init__(self, path: pathlib.Path = LISTED):
        listed = tomllib.loads(path.read_text(encoding="utf-8"))
        self.bugs = {(b["file"], b["function"], b["before"], b["after"]): b["reason"] for b in listed.get("bug", [])}
        self.places = [(p["file"], re.compile(p.get("function", "")), re.compile(p.get("code", "")), p["reason"])
                       for p in listed.get("place", [])]  # fmt: skip

    def reason(self, mutant: Mutant) -> str | None:
        """Why a bug is none, or None if it is one."""
        return self.bugs.get((mutant.file, mutant.scope, mutant.before, mutant.after))

    def drawable(self, mutant: Mutant) -> bool:
        """Whether a bug may be drawn."""
        return not any(
            fnmatch.fnmatch(mutant.file, file) and function.search(mutant.scope) and code.search(mutant.before)
            for file, function, code, _ in self.places
        )


def draw(
    mutants: Iterable[Mutant], kernels: Iterable[str], count: int, seed: int, broken: Callable[[Mutant], bool]
) -> list[Mutant]:
    """`count` bugs, in an order that is mixed. kernels: the names that all backends have in common. broken: whether it
    is known of one that it does not compile; others take its place."""
    by_file, by_operator = defaultdict(list), defaultdict(list)
    ops, kernels_anywhere, kernels_of_backends = defaultdict(list), defaultdict(list), defaultdict(list)
    known = set(kernels)
    for mutant in sorted(mutants, key=lambda m: _rank(seed, m.key)):
        if broken(mutant):
            continue
        by_file[mutant.file].append(mutant)
        by_operator[mutant.operator].append(mutant)
        name = mutant.scope.partition(".")[0]
        if mutant.file.startswith("octsod/ops/") and name[:1].isupper():
            ops[mutant.file, name].append(mutant)
        elif name in known:
            kernels_anywhere[name].append(mutant)
            kernels_of_backends[mutant.file, name].append(mutant)
    taken: dict[str, Mutant] = {}
    per_file, per_operator, used = Counter(), Counter(), Counter()

    def take(candidates, name):
        """One more of them: of a kind that this name has had seldom, which otherwise chance decides."""
        left = [m for m in candidates if m.key not in taken] if len(taken) < count else []
        if left:
            operators = {m.operator for m in left}
            chosen = min(operators, key=lambda operator: (used[name, operator], _rank(seed, name, operator)))
            mutant = next(m for m in left if m.operator == chosen)
            taken[mutant.key] = mutant
            per_file[mutant.file] += 1
            per_operator[mutant.operator] += 1
            used[name, mutant.operator] += 1
        return bool(left)

    for unit in (ops, kernels_anywhere):
        for name, candidates in sorted(unit.items()):
            take(candidates, name)
    for file, candidates in sorted(by_file.items()):
        while per_file[file] < PER_FILE and take(candidates, file):
            pass
    for operator, candidates in sorted(by_operator.items()):
        while per_operator[operator] < PER_OPERATOR and take(candidates, operator):
            pass
    for name, candidates in sorted(kernels_of_backends.items(), key=lambda item: _rank(seed, item[0])):
        if not any(m.key in taken for m in candidates):
            take(candidates, name)
    left = dict(by_file)
    while left and len(taken) < count:  # the larger a file, the more of it, but not in proportion
        file = min(left, key=lambda file: ((per_file[file] + 1) / len(by_file[file]) ** 0.5, file))
        if not take(left[file], file):
            del left[file]
    return sorted(taken.values(), key=lambda m: _rank(seed, "order", m.key))
