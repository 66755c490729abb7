"""What a gradient check has found, and the error that says so."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd.tensor import Tensor

PRINTED = 40  # numbers of inputs that an error prints for a reproduction


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a gradient has been compared, and the numbers there.

    input: number of the input. index: the entry, or None along a random direction, whose number is `direction`. output:
    the number of the output whose gradient it is, or None if there is only one. analytic: what backward gives. numeric:
    what finite differences give. truncation, rounding: how far `numeric` can be off by them; own: how far `analytic`
    can be off by its own rounding. step: that of the differences. All are per unit of the entry or direction. name:
    what the input is called.
    """

    input: int
    index: tuple[int, ...] | None
    direction: int | None
    output: int | None
    analytic: float
    numeric: float
    truncation: float
    rounding: float
    own: float
    step: float
    name: str

    @property
    def error(self) -> float:
        return abs(self.analytic - self.numeric)

    @property
    def bound(self) -> float:
        return self.truncation + self.rounding + self.own

    def __str__(self) -> str:
        where = f"at {self.index}" if self.index is not None else f"along random direction {self.direction}"
        which = "" if self.output is None else f" of output {self.output}"
        return (
            f"{self.name} {where}: backward gives {self.analytic:.10g} (analytic), finite differences "
            f"{self.numeric:.10g} (numeric){which}; they differ by {self.error:.3g}, and can by {self.bound:.3g} "
            f"(truncation {self.truncation:.2g}, rounding {self.rounding:.2g}, backward's own {self.own:.2g}; "
            f"step {self.step:.3g})"
        )


@dataclasses.dataclass(frozen=True)
class GradientReport:
    """What `gradcheck` has found.

    verdict: "PASS", "KINK", "INCONCLUSIVE" or "FAIL", see `gradcheck`. entries, directions: how many were compared.
    error: the largest error relative to the gradient. of_bound: the largest error relative to its bound; at most 1
    where nothing is wrong. sharpness: the largest bound relative to the gradient, so any error above has been seen
    ("the gradient" is that entry's, or a hundredth of the input's root mean square if that is more; with differences of
    float32, the root mean square itself). kinks, inconclusive: (input, index) of those entries, with None for a
    direction. orders: per input, the order with which central differences converge to backward's gradient, 2 or more if
    it is right, or None where they are too good to measure it. evaluations: how often fn was called. worst: the place
    with the largest error, relative to its bound. failed: how many of the entries and directions are wrong. precision:
    what `check_precision` found, for float32.
    single: why differences are those of float32, or None if they are those of float64. unchecked: the numbers of
    float32 arrays beside inputs in float64: nothing was found out about their gradients. names: what each input is
    called; those of a module's parameters follow the others.
    """

    verdict: str
    entries: int = 0
    directions: int = 0
    error: float = 0.0
    of_bound: float = 0.0
    sharpness: float = 0.0
    kinks: tuple[tuple[int, tuple[int, ...] | None], ...] = ()
    inconclusive: tuple[tuple[int, tuple[int, ...] | None], ...] = ()
    orders: dict[int, float | None] = dataclasses.field(default_factory=dict)
    evaluations: int = 0
    worst: Place | None = None
    failed: int = 0
    precision: Any = None
    single: str | None = None
    unchecked: tuple[int, ...] = ()
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        parts = [
            f"{self.verdict}: {self.entries} entries and {self.directions} directions, largest error {self.error:.2g} "
            f"of the gradient and {self.of_bound:.2g} of its bound; an error above {self.sharpness:.2g} would be seen"
        ]
        parts += [f"{len(self.kinks)} at kinks, such as {self._named(self.kinks[0])}"] if self.kinks else []
        if self.inconclusive:
            parts.append(f"{len(self.inconclusive)} inconclusive, such as {self._named(self.inconclusive[0])}")
        parts += [f"float32: {self.precision}"] if self.precision is not None else []
        parts += [f"differences are those of float32, since float64 raises {self.single}"] if self.single else []
        parts += [f"input {number}, float32 beside float64, is not checked" for number in self.unchecked]
        return "; ".join(parts)

    def _named(self, place):
        number, index = place
        return f"{self.names[number]} " + ("along a random direction" if index is None else f"at {index}")


class GradientError(AssertionError):
    """A gradient is wrong, or an op does what it must not. report: a GradientReport (FAIL)."""

    def __init__(self, message: str, report: GradientReport | None = None):
        super().__init__(message)
        self.report = GradientReport("FAIL") if report is None else report


class InconclusiveWarning(UserWarning):
    """A gradient check could not have seen an error of 1 %."""


def reproduction(call: str, fn: Callable[..., Any], inputs: Sequence[Any]) -> str:
    """Lines that repeat a check, where the inputs are small; else a line that says what they were."""
    name = _full_name(fn)
    arrays = [x.numpy() if isinstance(x, Tensor) else x for x in inputs]
    numbers = sum(a.size for a in arrays if isinstance(a, np.ndarray))
    if numbers > PRINTED:
        shapes = ", ".join(f"{a.dtype} {a.shape}" if isinstance(a, np.ndarray) else repr(a) for a in arrays)
        return f"fn is {name}; inputs: {shapes}"
    return f"To reproduce, with fn = {name}:\n    {call}(fn, {', '.join(map(_code, inputs))})"


def _full_name(fn):
    """A function's module and name; of a class method, such as `Function.apply`, those of the class."""
    owner = getattr(fn, "__self__", None)
    if isinstance(owner, type):
        return f"{owner.__module__}.{owner.__qualname__}.{fn.__name__}"
    return f"{getattr(fn, '__module__', '?')}.{getattr(fn, '__qualname__', type(fn).__name__)}"


def _code(value):
    """A value as code that makes it."""
    if isinstance(value, Tensor):
        return f"octsod.Tensor({_code(value.numpy())}{', requires_grad=True' if value.requires_grad else ''})"
    if not isinstance(value, np.ndarray):
        return repr(value)
    if not value.size:
        return f"np.zeros({value.shape}, np.{value.dtype})"
    dtype = "" if value.dtype == np.float64 else f", np.{value.dtype}"
    return f"np.array({value.tolist()}{dtype})".replace("nan", "np.nan").replace("inf", "np.inf")


def relative(error: float, scale: float) -> float:
    """error / scale, where nothing is nothing."""
    return 0.0 if error == 0 else error / scale if scale > 0 else math.inf
