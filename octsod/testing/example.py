"""An op on a case, with what its checks need."""

from __future__ import annotations

import concurrent.futures
import contextvars
import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd.mode import observe
from ..backend import memory
from .cases import EITHER_SIGN, Case
from .error_bounds import ErrorBounds
from .evaluation import Run, Subject, cotangents, evaluate

SOLVERS = ("numpy.linalg", "scipy.linalg")  # modules
NO_SOLVERS = ("norm", "_dispatcher")  # how functions of theirs end that solve nothing


class Example:
    """An op on a case, with what several checks need: its run, and how far rounding may take that from the exact one.

    arrays, given: numbers, and cotangents of the outputs, in the place of the case's. before: another case that the op
    takes.
    """

    def __init__(
        self, subject: Subject, case: Case, arrays: Sequence[Any] | None = None, given: Sequence[Any] | None = None,
        before: Case | None = None,
    ):  # fmt: skip
        self.subject, self.case, self._arrays, self._given, self.before = subject, case, arrays, given, before

    @functools.cached_property
    def arrays(self) -> list[np.ndarray]:
        """The numbers."""
        return self.case.arrays() if self._arrays is None else list(self._arrays)

    @functools.cached_property
    def run(self) -> Run:
        """Forward and backward, in float64 unless the numbers are others."""
        return evaluate(self.subject, self.case, arrays=self.arrays, given=self._given)

    @property
    def own_cotangents(self) -> Sequence[Any] | None:
        """Cotangents in the place of the case's; None if there are none."""
        return self._given

    @property
    def given(self) -> list[Any]:
        """The cotangents of the run."""
        return cotangents(self.case, self.run.outputs) if self._given is None else list(self._given)

    @functools.cached_property
    def error_bounds(self) -> ErrorBounds:
        """Those of the run's results, in their order."""
        run, given, arrays = self.run, self.given, self.arrays
        ops: list[None] = []
        with observe(lambda *_: ops.append(None)):
            evaluate(self.subject, self.case, arrays=arrays, given=given)
        return ErrorBounds(
            self._changed, [result for _, result in run.results],
            [v for y, v in zip(run.outputs, given, strict=True) if y is not None],
            [x for x, gradient in zip(arrays, run.gradients, strict=True) if gradient is not None],
            sum(a.size for a in (*arrays, *given) if a is not None), len(ops),
            max((n for _, r in run.results for n in r.shape), default=0),
        )  # fmt: skip

    def _changed(self, change: Callable[[tuple[int, ...]], Any]) -> list[np.ndarray]:
        """The run's results where numbers are multiplied by `change` of their shape. What is not written is NaN there,
        not what memory happens to hold, which would explain any error."""
        arrays = []
        for leaf, x in zip(self.case.leaves(), self.arrays, strict=True):
            factors = change(() if leaf.kind == "ties" else x.shape)  # ties must stay ties: all of them move as one
            arrays.append(_times(x, factors if leaf.kind in EITHER_SIGN else np.abs(factors)))
        given = [None if v is None else _times(v, change(v.shape)) for v in self.given]
        with memory.made_by(_unwritten):
            return [r for _, r in evaluate(self.subject, self.case, arrays=arrays, given=given).results]

    @functools.cached_property
    def solvers(self) -> str:
        """The module of linear algebra whose solvers forward or backward calls; "" if they call none."""
        called: set[str] = set()

        def module(frame):
            return str(frame.f_globals.get("__name__")) if frame else ""

        def note(frame, event, _):
            entered = module(frame).startswith(SOLVERS) and not module(frame.f_back).startswith(SOLVERS)
            if event == "call" and entered and not frame.f_code.co_name.endswith(NO_SOLVERS):
                called.add(".".join(module(frame).split(".")[:2]))

        def run():
            sys.setprofile(note)
            evaluate(self.subject, self.case, arrays=self.arrays, given=self._given)

        # In a thread of its own: this one may have a profiler, which could not be put back.
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(contextvars.copy_context().run, run).result()
        return " and ".join(sorted(called))

    def bounds(self, dtype: str | None = None) -> list[np.ndarray]:
        """How far results in `dtype`, by default that of the run, may be from the exact ones."""
        return self.error_bounds.bounds(dtype or self.precision)

    def of_outputs(self, found: Sequence[Any]) -> list[Any]:
        """Of what there is for each result, that of the outputs that are floats."""
        count = sum(y is not None for y in self.run.outputs)
        return [a for (_, y), a in zip(self.run.results[:count], found[:count], strict=True) if y.dtype.kind == "f"]

    def output_amounts(self) -> list[Any]:
        """What the terms of the outputs that are floats amount to, per element."""
        return self.of_outputs(self.error_bounds.amounts)

    def output_scales(self) -> list[float]:
        """How large the outputs that are floats are for numbers like these."""
        return self.of_outputs(self.error_bounds.scales)

    @property
    def precision(self) -> str:
        """The dtype in which the run computes: float64, unless the case names another."""
        named = {leaf.dtype for leaf in self.case.leaves() if leaf.dtype in ("float32", "float64")}
        return "float32" if named == {"float32"} else "float64"

    def differentiable(self) -> list[int]:
        """The numbers of the leaves that have gradients."""
        return [i for i, leaf in enumerate(self.case.leaves()) if leaf.differentiable]


def _unwritten(shape, dtype):
    return np.full(shape, np.nan if np.dtype(dtype).kind == "f" else 0, dtype)


def _times(x, factors):
    return np.asarray(x * factors).astype(x.dtype) if x.dtype.kind == "f" else x
