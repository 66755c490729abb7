"""A glance at many cases, for faults that few of them show: an odd size, a stride and a kernel size that go together.

All checks of a case evaluate an op some thousand times. A glance takes about ten evaluations, and only says whether
something is odd: what is wrong, and whether it is, is for the checks to say. So its bounds need not be narrow.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import numpy as np

from ..backend import get_device
from .cases import flat
from .checks_of_devices import computed_unwritten, gpu
from .checks_of_gradients import Along
from .checks_of_memory import watched_run
from .checks_of_results import apart, reached
from .evaluation import Run, computed_on
from .example import Example
from .reports import Skipped
from .watched_memory import NAN

GRADIENTS = {"gradients", "convergence", "adjoint"}


def is_odd(example: Example, checks: Collection[str]) -> bool:
    """Whether one of these checks is likely to fail, as far as a glance shows. Raises what the op raises."""
    run, faults = watched_run(example.subject, example.case, NAN, NAN)  # first of all, since it may write astray
    return (
        bool(faults)
        or apart(example.run.results, run.results)
        or (not GRADIENTS.isdisjoint(checks) and _is_steep(example))
        or ("reference" in checks and _unlike_function(example))
        or ("reference" in checks and _unlike(example, computed_on(get_device("reference"))))
        or ("cuda" in checks and _unlike(example, _on_gpu()))
    )


def _is_steep(example):
    """Whether a difference quotient differs from what backward says."""
    if example.precision != "float64" or not example.differentiable() or all(v is None for v in example.given):
        return False
    return Along(example).is_odd()


def _unlike_function(example):
    """Whether the NumPy function that is the reference gives something else."""
    if example.subject.reference is None:
        return False
    positional, keywords = example.case.arguments(example.case.arrays())
    expected = [None if y is None else np.asarray(y) for y in flat(example.subject.reference(*positional, **keywords))]
    return apart(Run(example.run.outputs, []).results, Run(expected, []).results)


def _unlike(example, where):
    """Whether the kernels of another device give something else."""
    if not example.run.launched:
        return False
    try:
        with where:
            other, _ = reached(example)
    except Skipped:
        return False
    return other is not None and apart(example.run.results, other.results)


@contextlib.contextmanager
def _on_gpu() -> Iterator[None]:
    with gpu() as device, computed_unwritten(device):
        yield
