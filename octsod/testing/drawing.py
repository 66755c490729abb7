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

SPARE = 5  # times as many are drawn as are wanted


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


def draw(strategy: Any, examples: int, seed: int) -> list[Case]:
    """So many cases, or all there are. Hypothesis likes to draw again what differs in little or in the seed alone. So
    more are drawn, and of those that differ in more, some of all sizes are taken, the smallest and the largest too."""
    unlike: dict[str, Case] = {}
    others: dict[str, Case] = {}

    def visit(case):
        key = repr(dataclasses.replace(case, seed=0))
        if unlike.setdefault(key, case) != case:
            others.setdefault(repr(case), case)

    _run(strategy, SPARE * examples, seed, [Phase.generate], visit)
    found = sorted(unlike.values(), key=lambda case: case.size)
    if len(found) <= examples:
        return found + list(others.values())[: examples - len(found)]
    return [found[k * (len(found) - 1) // max(examples - 1, 1)] for k in range(examples)]


def shrink(strategy: Any, examples: int, seed: int, fails: Callable[[Case], bool], most: int) -> None:
    """Call `fails` with smaller and smaller cases, at most `most` times, beginning with any."""
    count = 0

    def visit(case):
        nonlocal count
        count += 1
        if count <= most and fails(case):
            raise _Found

    with contextlib.suppress(_Found, HypothesisException):  # whoever gave us `fails` has seen the smallest
        _run(strategy, SPARE * examples, seed, [Phase.generate, Phase.shrink], visit)
