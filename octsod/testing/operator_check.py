"""`check_op`: every check of an op, on cases that are given or drawn."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from ..autograd import is_grad_enabled
from ..backend import use_backend
from ..checks import require_integer
from . import (
    checks_of_devices,
    checks_of_gradients,
    checks_of_graphs,
    checks_of_memory,
    checks_of_races,
    checks_of_results,
    checks_of_values,
)
from .cases import Case, Input, case_of
from .evaluation import Subject, crash, written
from .example import Example
from .glances import is_odd
from .reports import FAIL, KINK, PASS, SKIP, CheckFailure, Failed, Kink, Report, Skipped, Verdict, explained, joined
from .watched_memory import STRAY

# Name -> what is checked, from cause to consequence. Stray writes come before all: nothing else is run of an op that
# makes them. Faults of memory make wrong numbers, wrong outputs make wrong gradients, and both show again when an op is
# called in other ways.
CHECKS: dict[str, Callable[[Example], str]] = {
    "guards": checks_of_memory.guards,
    "unmodified": checks_of_memory.unmodified,
    "written": checks_of_memory.written,
    "runs": checks_of_results.runs,
    "races": checks_of_races.races,
    "deterministic": checks_of_results.deterministic,
    "threads": checks_of_results.threads,
    "reference": checks_of_results.reference,
    "float32": checks_of_results.float32,
    "cuda": checks_of_devices.cuda,
    "parts": checks_of_graphs.parts,
    "gradients": checks_of_gradients.gradients,
    "convergence": checks_of_gradients.convergence,
    "adjoint": checks_of_gradients.adjoint,
    "accumulation": checks_of_graphs.accumulation,
    "aliasing": checks_of_graphs.aliasing,
    "graphs": checks_of_graphs.graphs,
    "nonfinite": checks_of_values.nonfinite,
    "overflow": checks_of_values.overflow,
    "layouts": checks_of_values.layouts,
    "memory": checks_of_memory.returned,
}
EXAMPLES = 20
SHRINKS = 100  # evaluations of a failing check, at most, to find the smallest case
SLOW = ("gradients", "memory")  # of these, a fifth


def check_op(
    op: Any, cases: Any = None, *, reference: Callable[..., Any] | None = None, linear: Sequence[int] | None = None,
    checks: Iterable[str] | None = None, examples: int = EXAMPLES, seed: int = 0, cuda: bool | None = None,
    name: str | None = None,
) -> Report:  # fmt: skip
    """Check an op in every way that is known here; returns a `Report` with a verdict per check.

    op: a subclass of `octsod.autograd.Function`, or a function of tensors, such as `octsod.functional.conv2d`.
    cases: a `Case`, several of them, or a hypothesis strategy of them; by default the op's attribute `cases`, or for
    octsod's own ops those that octsod has. reference: a NumPy function of the same arguments; by default the op's
    attribute `reference`, if it has one. linear: the numbers of the inputs in which the op is linear; by default that
    is found out. checks: the names of those to run, from `CHECKS`; by default all. examples: how many cases are drawn
    from a strategy; four times as many others are glanced at, and checked if they look odd. seed: which ones. cuda:
    whether its CUDA kernels are run, too, on a GPU or the simulator; by default those of ops that are not octsod's own.
    name: what the op is called in the report.

    Raises CheckFailure, an AssertionError with the report, if a check fails. Its message has, for each, the worst
    element with what was got and what was expected, and the smallest case that was found, as a line to paste.

    >>> check_op(octsod.functional.conv2d, Case((Input((1, 2, 5, 4)), Input((3, 2, 3, 3))), {"padding": 1}))
    """
    report = collect(
        op, cases, reference=reference, linear=linear, checks=checks, examples=examples, seed=seed, cuda=cuda, name=name
    )  # fmt: skip
    if report.verdict == FAIL:
        raise CheckFailure(report)
    return report


def collect(
    op: Any, cases: Any = None, *, reference: Callable[..., Any] | None = None, linear: Sequence[int] | None = None,
    checks: Iterable[str] | None = None, examples: int = EXAMPLES, seed: int = 0, cuda: bool | None = None,
    name: str | None = None, told: Callable[[int, str], None] | None = None,
) -> Report:  # fmt: skip
    """As `check_op`, but returns the report whatever it says. told: is called with how many cases are done, and what
    comes next, before each."""
    subject = Subject(op, reference, linear, name)
    if not is_grad_enabled():
        raise RuntimeError("check_op: called within `no_grad`, where nothing has a gradient.")
    examples = require_integer(examples, "check_op", "examples", 1)
    seed = require_integer(seed, "check_op", "seed", 0)
    names = names_of(checks)
    own = str(getattr(op, "__module__", "")).startswith("octsod.")
    if "cuda" in names and checks is None and not (not own if cuda is None else cuda):
        names.remove("cuda")
    given, guessed = cases_of(subject) if cases is None else (cases, False)
    found: dict[str, list[Verdict]] = {check: [] for check in names}
    with (
        use_backend("cpu"), checks_of_results.on_threads(1), np.errstate(all="ignore"), warnings.catch_warnings()
    ):  # fmt: skip
        warnings.simplefilter("ignore", RuntimeWarning)  # of odd numbers, such as the mean of nothing
        visit = _Visit(subject, found)
        if hasattr(given, "example") and hasattr(given, "map"):  # a hypothesis strategy
            with _importing():
                from .drawing import draw, shrink
            drawn, others = draw(given, examples, seed)
            for number, case in enumerate(drawn):
                if told is not None:
                    told(number, "")
                visit(case)
            if told is not None:
                told(examples, "glancing at more cases")
            for case in others:
                visit.glance(case)
            if told is not None:
                failed = any(v.verdict == FAIL for verdicts in found.values() for v in verdicts)
                told(examples, "looking for smaller cases that fail" if failed else "")
            _shrink(subject, found, lambda *search: shrink(given, examples, seed, *search))
        else:
            given = [given] if isinstance(given, (Case, Input)) else given
            if not isinstance(given, Iterable) or isinstance(given, (str, np.ndarray)):
                raise TypeError(
                    f"check_op: `cases` is a {type(given).__name__}; expected a Case, several, or a strategy of "
                    "them."
                )
            listed = [case_of(case) for case in given]
            if not listed:
                raise ValueError("check_op: `cases` is empty; expected a Case, several, or a strategy of them.")
            for case in sorted(listed, key=lambda case: case.size):  # of several that fail, the smallest is told
                visit(case)
    verdicts = tuple(joined(check, found[check]) for check in names if found[check])
    arguments = "" if linear is None else f", linear={tuple(linear)!r}"
    arguments += "" if reference is None else f", reference={written(reference, 'reference')}"
    arguments += "" if cuda is None else f", cuda={cuda}"
    return Report(subject.name, verdicts, visit.count, arguments, _module(subject), guessed)


def _module(subject):
    """The name of the module that has the op by its name; "" if none has."""
    name = getattr(subject.op, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) and name != "__main__" else None
    found: Any = module
    for part in subject.name.split("."):
        found = getattr(found, part, None)
    return name if found is subject.op else ""


@contextlib.contextmanager
def _importing():
    """Within it, what draws cases is imported."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise explained(error, "check_op without cases of its own") from error


def names_of(checks: Iterable[str] | str | None) -> list[str]:
    """The names of checks, in their order. Raises ValueError for one that there is not."""
    names = list(CHECKS if checks is None else ([checks] if isinstance(checks, str) else checks))
    for name in names:
        if name not in CHECKS:
            near = difflib.get_close_matches(str(name), CHECKS, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"check_op: `checks` has {name!r}{hint}; expected some of {', '.join(CHECKS)}.")
    return [name for name in CHECKS if name in names]


def cases_of(subject: Subject) -> tuple[Any, bool]:
    """The cases of an op: its own attribute `cases`, or octsod's, or a guess; and whether they are guessed. Raises
    ValueError if there are none."""
    own = getattr(subject.op, "cases", None)
    if own is not None:
        return own() if callable(own) and not hasattr(own, "map") else own, False
    with _importing():
        from .op_cases import guessed, known
    with np.errstate(all="ignore"):
        found = known(subject.op)
        if found is not None:
            return found, False
        found, why = guessed(subject)
    if found is None:
        raise ValueError(
            f"check_op: nothing is known of the inputs of `{subject.name}`{why and f' ({why})'}; give `cases`, or set "
            "its attribute `cases`, such as strategies.cases([strategies.tensors((2, 3)), strategies.tensors((3,))])."
        )
    return found, True


def verdict(check: str, example: Example) -> Verdict:
    """What one check says of one case."""
    try:
        return Verdict(check, PASS, CHECKS[check](example), example.case)
    except Failed as failure:
        return Verdict(check, FAIL, str(failure), example.case, before=failure.before)
    except Skipped as reason:
        return Verdict(check, SKIP, str(reason), example.case)
    except Kink as kink:
        return Verdict(check, KINK, str(kink), example.case)
    except Exception as error:
        return Verdict(check, FAIL, crash(error), example.case)


def _started(example):
    """None if forward and backward go through, else the verdict that says what they raise; a ValueError for arrays
    without elements is no fault."""
    try:
        example.run  # noqa: B018 (kept for the checks)
    except Failed as failure:
        return Verdict("runs", FAIL, str(failure), example.case)
    except Exception as error:
        refused = isinstance(error, ValueError) and not all(all(leaf.shape) for leaf in example.case.leaves())
        said = f"arrays without elements are refused: it {crash(error)}" if refused else crash(error)
        return Verdict("runs", SKIP if refused else FAIL, said, example.case)
    return None


class _Visit:
    """Runs the checks on each case, and keeps what they say. A check that has failed is not run again."""

    def __init__(self, subject: Subject, found: dict[str, list[Verdict]]):
        self.subject, self.found, self.count, self._stray = subject, found, 0, False
        self._before: Case | None = None  # the last one that the op took

    def __call__(self, case: Case) -> None:
        if self._stray:  # no more of it
            return
        self.count += 1
        before = self._before if self._before and self._before.size < case.size else None
        example = Example(self.subject, case, before=before)
        guarded = verdict("guards", example)
        self._stray = guarded.message.startswith(STRAY)
        # What keeps the other checks from being run.
        broken = guarded if self._stray else _started(example)
        self._before = self._before if broken else case
        # A write to an input, which is read-only, is told by the check that is about it, too.
        told = ("runs", "unmodified") if broken and "read-only" in broken.message else ("runs",)
        if broken and not self._stray and guarded.verdict == FAIL:
            guarded = dataclasses.replace(guarded, verdict=SKIP, message=f"it {guarded.message}")
        for check, verdicts in self.found.items():
            if any(v.verdict == FAIL for v in verdicts):
                continue
            if check == "guards":
                verdicts.append(guarded)
            elif broken and broken.verdict == SKIP:
                verdicts.append(dataclasses.replace(broken, check=check))
            elif self._stray or (broken and check not in told):
                why = "guards" if self._stray else "runs"
                skipped = Verdict(check, SKIP, f"not run: see `{why}`", case)
                verdicts.append(skipped if why in self.found else dataclasses.replace(broken, check=check))
            else:
                verdicts.append(verdict(check, example))

    def glance(self, case: Case) -> None:
        """Run the checks on a case that looks odd, unless a check has failed already."""
        if any(v.verdict == FAIL for verdicts in self.found.values() for v in verdicts):
            return
        try:
            odd = is_odd(Example(self.subject, case), self.found)
        except Exception:
            odd = True
        if odd:
            self(case)


def _shrink(subject, found, search):
    """Put the smallest cases on which checks fail in the places of those that were found. What is smallest for one
    check mostly is for the others, too."""
    failing = [check for check, verdicts in found.items() if any(v.verdict == FAIL for v in verdicts)]
    smallest = None
    for check in sorted(failing, key=lambda check: check in SLOW):
        best = next(v for v in found[check] if v.verdict == FAIL)
        may_crash = check == "guards" or _started(Example(subject, best.case)) is not None

        def fails(case, check=check, may_crash=may_crash):
            nonlocal best
            example = Example(subject, case)
            now = verdict(check, example)
            if now.verdict == FAIL and not may_crash and _started(example) is not None:
                return False  # that is another fault, which `runs` is about
            if now.verdict == FAIL and now.case.size < best.case.size:
                best = now
            return now.verdict == FAIL

        if smallest is None or (smallest.size < best.case.size and not fails(smallest)):
            search(best.case, fails, SHRINKS // 5 if check in SLOW else SHRINKS)
        smallest = best.case if smallest is None else min(smallest, best.case, key=lambda case: case.size)
        found[check] = [v for v in found[check] if v.verdict != FAIL] + [best]
