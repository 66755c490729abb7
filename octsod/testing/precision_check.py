"""Checks of single precision: what float32 gives against float64 of the same function."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.mode import observe
from ..autograd.tensor import Tensor
from .error_bounds import ErrorBounds
from .gradient_report import relative, reproduction
from .passes import Passes

Array = Any


@dataclasses.dataclass(frozen=True)
class PrecisionReport:
    """What `check_precision` has found.

    verdict: "PASS" or "FAIL". of_bound: the largest difference between float32 and float64 relative to its bound.
    error, sharpness: the largest difference and the largest bound, relative to the root mean square of the output or
    gradient. worst: where the difference is largest, relative to its bound, as "output 0" or "gradient of input 1" and
    an index. single, double, bound: the two numbers there, and how far apart they can be.
    """

    verdict: str
    of_bound: float
    error: float
    sharpness: float
    worst: tuple[str, tuple[int, ...]] | None
    single: float
    double: float
    bound: float

    def __str__(self) -> str:
        return (
            f"{self.verdict}: float32 differs from float64 by at most {self.error:.2g}, and by {self.of_bound:.2g} of "
            "what rounding explains"
        )


class PrecisionError(AssertionError):
    """A function is less precise in float32 than rounding explains. report: a PrecisionReport (FAIL)."""

    def __init__(self, message: str, report: PrecisionReport):
        super().__init__(message)
        self.report = report


def check_precision(fn: Callable[..., Any], *inputs: Any) -> PrecisionReport:
    """Check what `fn` and its backward give in float32 by what they give in float64, for the same numbers.

    fn: as for `gradcheck`, and such that its outputs have the dtype of its inputs. inputs: arrays and leaf tensors of
    floats are rounded to float32, and fn runs on tensors of either dtype. Gradients are compared for arrays, and for
    tensors that require one. Anything else is passed on as it is.

    There is no tolerance: how far float32 can be off is derived from the values at hand (error_bounds.py). The bound is
    large where the function itself, and not its implementation, makes errors larger, since numbers that go in have been
    rounded, too. What an implementation loses besides, where large terms leave a small result over, is seen in float64,
    as noise; it is granted as far as it is small beside other results.

    So a variance that is the mean of squares less the square of the mean is caught, if inputs have a mean well above
    their deviation, and so is other code for float32, if it does something else. Give inputs that need care.

    Raises PrecisionError (an AssertionError, with the report), which names the worst element, and what `gradcheck`
    raises for functions that change what they are given, or return numbers that are not finite.
    """
    rounded = [_rounded(x) for x in inputs]
    single, double = (_Precision(fn, rounded, dtype) for dtype in (np.float32, np.float64))
    values, cotangents, gradients = single.passes.first()
    low = [np.float64(a) for a in (*values, *gradients.values())]
    names = [f"output {k}" for k in range(len(values))] + [f"gradient of input {number}" for number in gradients]
    cotangents = [np.float64(v) for v in cotangents]
    count: list[None] = []
    with observe(lambda *_: count.append(None)):
        values = double.passes.forward()
    high = [*values, *double.passes.gradients(cotangents).values()]
    numbers = sum(a.size for a in (*double.starts, *cotangents))
    found = ErrorBounds(
        lambda change: double.results(cotangents, change), high, cotangents,
        [t.numpy() for t in double.passes.checked.values()], numbers, len(count),
    )  # fmt: skip
    bounds = found.explaining([np.abs(a - b) for a, b in zip(low, high, strict=True)], np.float32)
    return _judged(fn, inputs, names, low, high, bounds)


def _rounded(x):
    """The numbers of an input that is an array or a tensor of floats, rounded to float32."""
    values = x.numpy() if isinstance(x, Tensor) else x
    if isinstance(x, Tensor) and x.node is not None:
        raise ValueError(f"check_precision: an input is the result of `{x.node.name}`; expected leaf tensors.")
    floats = isinstance(values, np.ndarray) and values.dtype in (np.float32, np.float64)
    return _Floats(values.astype(np.float32), not isinstance(x, Tensor) or x.requires_grad) if floats else x


@dataclasses.dataclass(frozen=True)
class _Floats:
    values: Array
    checked: bool


class _Precision:
    """The function in one dtype."""

    def __init__(self, fn, rounded, dtype):
        inputs = [Tensor(x.values.astype(dtype), x.checked) if isinstance(x, _Floats) else x for x in rounded]
        floats = {k: (t, x) for k, (t, x) in enumerate(zip(inputs, rounded, strict=True)) if isinstance(x, _Floats)}
        self.floats = [t for t, _ in floats.values()]
        checked = {k: t for k, (t, x) in floats.items() if x.checked}
        if not checked:
            raise ValueError("check_precision: expected an array of floats, or a tensor that requires a gradient.")
        self.passes = Passes("check_precision", fn, inputs, checked, dtype)
        self.starts = [t.numpy().copy() for t in self.floats]

    def results(self, cotangents, change):
        """Outputs and gradients, where numbers that go in are multiplied by `change` of their shape."""
        for t, start in zip(self.floats, self.starts, strict=True):
            t.data = np.asarray(start * change(start.shape))
        try:
            moved = [v * change(v.shape) for v in cotangents]
            values = [y.copy() for y in self.passes.forward()]
            return [*values, *self.passes.gradients(moved).values()]
        finally:
            for t, start in zip(self.floats, self.starts, strict=True):
                t.data = start


def _judged(fn, inputs, names, low, high, bounds):
    worst, of_bound, error, sharpness, numbers = None, 0.0, 0.0, 0.0, (0.0, 0.0, 0.0)
    for name, a, b, c in zip(names, low, high, bounds, strict=True):
        if not a.size:
            continue
        apart = np.abs(a - b)
        size = math.sqrt(float(np.mean(np.square(b))))
        error, sharpness = max(error, relative(apart.max(), size)), max(sharpness, relative(c.max(), size))
        ratios = np.divide(apart, c, out=np.where(apart > 0, np.inf, 0.0), where=c > 0)
        index = np.unravel_index(int(ratios.argmax()), a.shape)
        if worst is None or ratios[index] > of_bound:
            worst, of_bound = (name, tuple(int(i) for i in index)), float(ratios[index])
            numbers = float(a[index]), float(b[index]), float(c[index])
    report = PrecisionReport("FAIL" if of_bound > 1 else "PASS", of_bound, error, sharpness, worst, *numbers)
    if worst is not None and of_bound > 1:
        name, index = worst
        raise PrecisionError(
            f"check_precision: {name} at {index}: float32 gives {report.single:.9g}, float64 {report.double:.9g}; they "
            f"differ by {abs(report.single - report.double):.3g}, and can by {report.bound:.3g} through rounding.\n"
            f"{reproduction('octsod.testing.check_precision', fn, inputs)}",
            report,
        )
    return report
