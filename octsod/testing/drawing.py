"""Cases from a hypothesis strategy: some of them, and the smallest one that fails."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable
from typing import Any
from unittest import mock

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as seeded
from hypothesis.errors import HypothesisException
from hypothesis.internal.conjecture.providers import HypothesisProvider

from .cases import Case, case_of

SPARE = 10  # times as many are drawn as are wanted
MORE = 4  # times as many are glanced at as are wanted
MOST_EMPTY = 3  # cases that are taken since an axis has no elements


class _Found(Exception):  # noqa: N818 (what is looked for)
    """A case that fails; hypothesis looks for a smaller one."""


def _no_constant(*_: Any, **__: Any) -> None:
    """Hypothesis draws some numbers and texts from the sources of modules that happen to be loaded, and no setting
    keeps it from that. Without them, the same is drawn in every process."""


def _run(strategy, examples, seed, phases, visit):
    @seeded(seed)
    @settings(
        max_examples=examples, phases=phases, deadline=None, database=None, derandomize=False, print_blob=False,
        report_multiple_bugs=False, suppress_health_check=list(HealthCheck), verbosity=Verbosity.quiet,
    )  # fmt: skip
    @given(strategy)
    def run(value):
        visit(case_of(value))

    with mock.patch.object(HypothesisProvider, "_maybe_draw_constant", _no_constant):
        run()


def _runs(strategy, examples, seed, phases, visit):
    """Many short runs of hypothesis, since one run draws again what differs in little from what it has drawn."""
    for number in range(examples):
        _run(strategy, SPARE, (seed << 16) + number, phases, visit)


def draw(strategy: Any, examples: int, seed: int) -> tuple[list[Case], list[Case]]:
    """(so many cases, or all there are; MORE times as many others, to glance at). Of more that are drawn and differ in
    more than the seed, some are taken that are longest along an axis, where a kernel goes through more than one vector,
    tile or block of threads, some that have no elements, and some of all sizes, the smallest and the largest too."""
    unlike: dict[str, Case] = {}
    alike: dict[str, Case] = {}

    def visit(case):
        key = repr(dataclasses.replace(case, seed=0))
        if unlike.setdefault(key, case) != case:
            alike.setdefault(repr(case), case)

    _runs(strategy, examples, seed, [Phase.generate], visit)
    found = sorted(unlike.values(), key=lambda case: case.size)
    if len(found) <= examples:
        return found + list(alike.values())[: examples - len(found)], []
    empty, longest = _extremes(found)
    taken = longest[: examples // 3] + empty[: min(MOST_EMPTY, examples // 3)]
    others = [case for case in found if case not in taken]
    wanted = examples - len(taken)
    taken += _spread(others, wanted)
    others = [case for case in others if case not in taken]
    return sorted(taken, key=lambda case: case.size), _spread(others, min(MORE * examples, len(others)))


def _spread(cases, count):
    """So many of the cases, the first and the last among them."""
    return [cases[k * (len(cases) - 1) // max(count - 1, 1)] for k in range(count)]


def _extremes(found):
    """(cases without elements along an axis of an input, those that are longest there), of cases in the order of their
    sizes: the first one of each."""
    empty: dict[tuple[int, int], Case] = {}
    longest: dict[tuple[int, int], tuple[int, Case]] = {}
    for case in found:
        for number, leaf in enumerate(case.leaves()):
            for axis, length in enumerate(reversed(leaf.shape)):
                if not length:
                    empty.setdefault((number, axis), case)
                elif length > longest.get((number, axis), (0, case))[0]:
                    longest[number, axis] = length, case
    return list(dict.fromkeys(empty.values())), list(dict.fromkeys(case for _, case in longest.values()))


def shrink(
    strategy: Any, examples: int, seed: int, start: Case, fails: Callable[[Case], bool], most: int
) -> None:  # fmt: skip
    """Call `fails` with cases smaller and smaller than `start`, one of those that were drawn, at most `most` times."""
    count, begun = 0, False

    def visit(case):
        nonlocal count, begun
        begun = begun or case == start
        if not begun:
            return
        count += 1
        if count <= most and fails(case):
            raise _Found

    with contextlib.suppress(_Found, HypothesisException):  # whoever gave us `fails` has seen the smallest
        _runs(strategy, examples, seed, [Phase.generate, Phase.shrink], visit)
