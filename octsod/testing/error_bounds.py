"""How far rounding may take results from each other: bounds from the values at hand.

A result f(x) in a precision of unit roundoff u is off by u times what its terms amount to, and their number. Both are
known without knowing f: moving each input by a share t of itself, up or down at random, moves f by t*sqrt(sum of the
squares of its terms), about; and it has no more terms of its own per element than there are numbers in. Errors of n
roundings of either sign grow with sqrt(n). So the bound is

    SAFETY * u * sqrt(n + CALLS) * (|f(x + t*x) - f(x)|/t, the largest of several directions, + |f(x)|)

CALLS stands for the few roundings within exponentials and the like. The same holds for gradients, as functions of
inputs and cotangents. But no direction shows terms that cancel whatever the inputs are, as in the gradient of a weight
before batch norm. So a gradient counts as at least the part CANCELLED of |v*f(x)|/|x|, the size that terms of a product
have.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from .cases import Case
from .evaluation import Run, Subject, cotangents, evaluate

SAFETY, CALLS = 8, 16
SHARE = 1e-6  # t: far above rounding in float64, small against the curvature of f
DIRECTIONS = 4
CANCELLED = 0.3
LOCAL = 0.1  # a result counts at least as so large a part of the largest one of its array: directions may cancel


def moved(case: Case, arrays: Sequence[np.ndarray], generator: np.random.Generator) -> list[np.ndarray]:
    """The arrays, each float moved by SHARE of itself up or down."""
    found = []
    for leaf, array in zip(case.leaves(), arrays, strict=True):
        if array.dtype.kind == "f":  # ties must stay ties: all of their array moves by one share
            shape = () if leaf.kind == "ties" else array.shape
            array = (array * (1 + SHARE * generator.choice((-1.0, 1.0), shape))).astype(array.dtype)
        found.append(np.asarray(array))
    return found


def amounts(subject: Subject, case: Case, run: Run, arrays: Sequence[np.ndarray]) -> list[Any]:
    """For each of the run's results, what its terms amount to, per element: float64, of the shape of the result."""
    generator = np.random.default_rng((case.seed, 0xB0))
    given = cotangents(case, run.outputs)
    found = [np.abs(array).astype(np.float64) for _, array in run.results]
    largest = [np.zeros(array.shape) for array in found]
    for _ in range(DIRECTIONS):
        tilted = [
            None
            if v is None
            else np.asarray((v * (1 + SHARE * generator.choice((-1.0, 1.0), v.shape))).astype(v.dtype))
            for v in given
        ]
        other = evaluate(subject, case, "float64", moved(case, arrays, generator), tilted)
        for most, (_, a), (_, b) in zip(largest, other.results, run.results, strict=True):
            with np.errstate(all="ignore"):
                np.fmax(most, np.abs(a.astype(np.float64) - b) / SHARE, out=most)
    totals = [a + b for a, b in zip(found, largest, strict=True)]
    least = [0.0 for y in run.outputs if y is not None]
    least += [_uncancelled(run, given, x) for g, x in zip(run.gradients, arrays, strict=True) if g is not None]
    return [
        t + LOCAL * float(np.max(t, initial=0, where=np.isfinite(t))) + at_least
        for t, at_least in zip(totals, least, strict=True)
    ]


def _uncancelled(run, given, x):
    """What the terms of the gradient of x amount to at least."""
    pairs = [(v, y) for v, y in zip(given, run.outputs, strict=True) if v is not None]
    with np.errstate(all="ignore"):
        size = np.sqrt(sum(np.square(v * np.where(np.isfinite(y), y, 0), dtype=np.float64).sum() for v, y in pairs))
        scale = np.sqrt(np.square(x, dtype=np.float64).mean()) if x.size else 1.0
    return CANCELLED * float(size / scale) if scale > 0 and np.isfinite(size) else 0.0


def bounds(amount: Sequence[Any], case: Case, dtype: str) -> list[np.ndarray]:
    """The bounds that follow for results in `dtype`."""
    count = sum(array.size for array in case.arrays())
    unit = float(np.finfo(dtype).eps) / 2
    return [SAFETY * unit * np.sqrt(count + CALLS) * a + float(np.finfo(dtype).tiny) for a in amount]


class Example:
    """An op on a case, with what several checks need: its run in float64, and bounds."""

    def __init__(self, subject: Subject, case: Case):
        self.subject, self.case = subject, case

    @functools.cached_property
    def arrays(self) -> list[np.ndarray]:
        """The case's numbers."""
        return self.case.arrays()

    @functools.cached_property
    def run(self) -> Run:
        """Forward and backward in float64."""
        return evaluate(self.subject, self.case)

    @functools.cached_property
    def amounts(self) -> list[Any]:
        """What the terms of the run's results amount to."""
        return amounts(self.subject, self.case, self.run, self.arrays)

    @property
    def output_amounts(self) -> list[Any]:
        """Those of the outputs that are floats."""
        count = sum(y is not None for y in self.run.outputs)
        pairs = list(zip(self.run.results, self.amounts, strict=True))[:count]
        return [amount for (_, y), amount in pairs if y.dtype.kind == "f"]

    @property
    def given(self) -> list[Any]:
        """The cotangents of the run."""
        return cotangents(self.case, self.run.outputs)

    @property
    def precision(self) -> str:
        """The dtype in which the run computes: float64, unless the case names another."""
        named = {leaf.dtype for leaf in self.case.leaves() if leaf.dtype in ("float32", "float64")}
        return "float32" if named == {"float32"} else "float64"

    def bounds(self, dtype: str | None = None) -> list[np.ndarray]:
        """How far results in `dtype` may be from the exact ones."""
        return bounds(self.amounts, self.case, dtype or self.precision)

    def differentiable(self) -> list[int]:
        """The numbers of the leaves that have gradients."""
        return [i for i, leaf in enumerate(self.case.leaves()) if leaf.differentiable]
