"""What checks of an op have found: a verdict per check, and the report of them all."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import numpy as np

from .cases import Case

PASS, FAIL, KINK, SKIP = "PASS", "FAIL", "KINK", "SKIP"
_RANK = {SKIP: 0, PASS: 1, KINK: 2, FAIL: 3}  # of several cases, the highest is a check's verdict


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a check says of one case, or of all cases together.

    check: its name. verdict: "PASS", "FAIL", "KINK" (the function has no derivative there: neither passed nor failed)
    or "SKIP", with the reason as message. case: where it was found. cases: on how many it was run. before: a case that
    has to be checked before that one, since the fault is in what is left of it.
    """

    check: str
    verdict: str
    message: str = ""
    case: Case | None = None
    cases: int = 1
    before: Case | None = None

    @property
    def rank(self) -> int:
        """SKIP, PASS, KINK, FAIL in this order."""
        return _RANK[self.verdict]


@dataclasses.dataclass(frozen=True)
class Report:
    """The verdicts of `check_op`, in the order of the checks, which goes from cause to consequence. `str` makes a table
    of them, with what failed below it.

    op: what was checked, as it is written in a reproduction. arguments: those of `check_op` that a reproduction needs.
    examples: the number of cases. module: where `op` can be imported from, "" if nowhere. guessed: whether nobody has
    said what the op takes, so that arrays of one shape were tried.
    """

    op: str
    verdicts: tuple[Verdict, ...]
    examples: int
    arguments: str = ""
    module: str = ""
    guessed: bool = False

    @property
    def verdict(self) -> str:
        """FAIL if a check failed, else KINK if one met a kink, else PASS; SKIP if none could be run."""
        return max(self.verdicts, key=lambda v: v.rank).verdict if self.verdicts else SKIP

    @property
    def failures(self) -> tuple[Verdict, ...]:
        """The verdicts that are FAIL."""
        return tuple(v for v in self.verdicts if v.verdict == FAIL)

    @property
    def first(self) -> str | None:
        """The check to read first, since it may be why the others fail: the first that does; None if none does. But a
        race first, which `guards` may take for a read from elsewhere; what is surely astray ends all other checks."""
        names = [v.check for v in self.failures]
        return "races" if "races" in names else names[0] if names else None

    def __getitem__(self, check: str) -> Verdict:
        for found in self.verdicts:
            if found.check == check:
                return found
        raise KeyError(f"{check!r} is none of the checks: {', '.join(v.check for v in self.verdicts)}.")

    def __iter__(self):
        return iter(self.verdicts)

    def reproduction(self, found: Verdict) -> str:
        """A line of Python that finds it again."""
        cases = repr(found.case) if found.before is None else f"[{found.before!r}, {found.case!r}]"
        return f"check_op({self.op}, {cases}{self.arguments})"

    @property
    def imports(self) -> str:
        """A line of Python that imports what a reproduction needs."""
        own = f"; from {self.module} import {self.op.partition('.')[0]}" if self.module else ""
        return f"from octsod.testing import Case, Input, check_op{own}"

    def __str__(self):
        width = max((len(v.check) for v in self.verdicts), default=0)
        lines = [f"{self.op}: {self.verdict} ({self.examples} {'case' if self.examples == 1 else 'cases'})"]
        if self.guessed:
            lines.append("  given arrays of one shape, a guess; the op's attribute `cases` says what it takes")
        for found in self.verdicts:
            note = "" if found.verdict in (FAIL, KINK) else found.message
            lines.append(f"  {found.verdict}  {found.check:<{width}}  {note}".rstrip())
        if len(self.failures) > 1:
            lines += ["", f"Read `{self.first}` first: it may be why the others fail."]
        for found in (*self.failures, *(v for v in self.verdicts if v.verdict == KINK)):
            lines += ["", f"{found.verdict} {found.check}: {found.message}"]
            lines += [f"  reproduce: {self.reproduction(found)}"] if found.case is not None else []
        if any(v.verdict in (FAIL, KINK) and v.case is not None for v in self.verdicts):
            lines += ["", f"with: {self.imports}"]
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """The same as an object for JSON. first: the check to read first, None if none failed."""
        rows = [
            {
                "check": v.check, "verdict": v.verdict, "message": v.message, "cases": v.cases,
                "reproduce": self.reproduction(v) if v.case is not None and v.verdict in (FAIL, KINK) else None,
            }
            for v in self.verdicts
        ]  # fmt: skip
        facts = {"op": self.op, "verdict": self.verdict, "examples": self.examples, "guessed": self.guessed}
        return {**facts, "first": self.first, "checks": rows}


class CheckFailure(AssertionError):  # noqa: N818 (a failed check is no error of the program)
    """Checks of an op failed. report: all verdicts."""

    def __init__(self, report: Report):
        super().__init__(str(report))
        self.report = report


class Outcome(Exception):  # noqa: N818 (it need not be an error)
    """What ends a check before its end."""


class Failed(Outcome):
    """Raised by a check that fails; the message says what is wrong, and where. before: see `Verdict`."""

    def __init__(self, message: str, before: Case | None = None):
        super().__init__(message)
        self.before = before


class Skipped(Outcome):
    """Raised by a check that does not apply; the message says why, without a full stop."""


class Kink(Outcome):
    """Raised by a check that met a point where the function has no derivative."""


def explained(error: ModuleNotFoundError, what: str) -> ModuleNotFoundError:
    """The error of an import that `what` needs; where a package for tests is missing, one that says how to get it."""
    if error.name not in ("hypothesis", "pytest"):
        return error
    return ModuleNotFoundError(
        f'{what} needs {error.name}; `pip install "octsod[test]"` installs it.', name=error.name
    )  # fmt: skip


def joined(check: str, found: Iterable[Verdict]) -> Verdict:
    """The verdict on all cases together, the worst: of failures, that of the smallest case, else of the largest."""
    found = list(found)
    worst = [v for v in found if v.rank == max(v.rank for v in found)]
    told = worst[0].verdict in (FAIL, KINK)
    chosen = (min if told else max)(worst, key=lambda v: (0, 0, "") if v.case is None else v.case.size)
    run = sum(v.verdict != SKIP for v in found)
    return dataclasses.replace(chosen, check=check, cases=run, case=chosen.case if told else None)


def require_close(
    what: str, got: np.ndarray, expected: np.ndarray, bound: Any, names: tuple[str, str] = ("got", "expected")
) -> float:  # fmt: skip
    """Raise Failed, naming the worst element, unless `got` is `expected` up to `bound`, a number or an array. Equal
    infinities and NaN in the same places are no errors; a bound that is NaN allows none. Returns the largest error as a
    share of the bound."""
    require_shape(what, got, expected, names)
    if not got.size:
        return 0.0
    with np.errstate(all="ignore"):
        same = (got == expected) | (np.isnan(got) & np.isnan(expected))
        error = np.where(same, 0.0, np.abs(got.astype(np.float64) - expected.astype(np.float64)))
        known = np.isfinite(error) & ~np.isnan(bound)
        share = np.where(same, 0.0, np.where(known, error / np.maximum(bound, 1e-300), np.inf))
    worst = np.unravel_index(np.argmax(share), share.shape)
    if share[worst] > 1:
        limit = float(np.broadcast_to(bound, share.shape)[worst])
        raise Failed(
            f"{what} at {place(worst)}: {names[0]} {number(got[worst])}, {names[1]} {number(expected[worst])}; "
            f"the error {error[worst]:.3g} exceeds its bound {limit:.3g} "
            f"({int((share > 1).sum())} of {share.size} elements)."
        )
    return float(share[worst])


def require_same(
    what: str, got: np.ndarray, expected: np.ndarray, names: tuple[str, str] = ("got", "expected")
) -> None:  # fmt: skip
    """Raise Failed, naming the worst element, unless the arrays are equal bit for bit."""
    require_shape(what, got, expected, names)
    if np.ascontiguousarray(got).tobytes() == np.ascontiguousarray(expected).tobytes():
        return
    bits = f"u{got.dtype.itemsize}"
    differ = np.ascontiguousarray(got).reshape(-1).view(bits) != np.ascontiguousarray(expected).reshape(-1).view(bits)
    with np.errstate(all="ignore"):
        error = np.abs(got.astype(np.float64) - expected.astype(np.float64)).reshape(-1)
    error = np.where(differ, np.where(np.isfinite(error), error, np.inf), -1)
    worst = np.unravel_index(int(np.argmax(error)), got.shape)
    raise Failed(
        f"{what} at {place(worst)}: {names[0]} {number(got[worst])}, {names[1]} {number(expected[worst])} "
        f"({int(differ.sum())} of {got.size} elements differ)."
    )


def require_shape(what: str, got: np.ndarray, expected: np.ndarray, names: tuple[str, str]) -> None:
    """Raise Failed unless shape and dtype are the same."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        raise Failed(f"{what}: {names[0]} {got.dtype} {got.shape}, {names[1]} {expected.dtype} {expected.shape}.")


def place(index: Iterable[Any]) -> str:
    """An index as a tuple of plain integers."""
    return str(tuple(int(i) for i in index))


def number(value: Any) -> str:
    """A number with as many digits as its dtype has."""
    return repr(value.item()) if hasattr(value, "item") else repr(value)
