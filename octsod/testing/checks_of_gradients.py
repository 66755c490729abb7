"""Checks of an op's gradients: finite differences, orders of convergence, adjoints of linear ops."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..autograd import Tensor
from .cases import EITHER_SIGN, signed
from .checks_of_values import ODD, SIZES, moderate, rescaled
from .error_bounds import unit
from .evaluation import evaluate, forward, leaves_of, values
from .example import Example
from .finite_differences import inner, random_sum_bound
from .gradient_check import gradcheck
from .reports import Failed, Kink, Skipped, place, require_close

STEPS = tuple(2.0**-k for k in range(5, 18))
ORDER = 1.5  # at least: that of a central difference quotient is 2
STRAIGHT = 2.0**-10  # of an error: what is left where it falls with the step
CLEAR = 10  # times the rounding: an error that is less says nothing
MOST_ZEROS = 4  # inputs in which a number is made 0
GLANCE = 2.0**-17  # the step of a single difference quotient
FEW_UNITS = 2.0**-50  # of a number: what it loses to rounding
SCALES = {"float64": 64, "float32": 16}  # of cotangents, as powers of two: products with them are exact
ZERO_STEPS = (2.0**-10, 2.0**-14)
MOST_LINEAR = 6  # inputs that are tried
FARTHER = 16  # times the input: that is how far linear ops are looked at, and how much larger errors may be there


def gradients(example: Example) -> str:
    """backward gives the derivatives that finite differences do."""
    if not example.differentiable():
        raise Skipped("no input has a gradient")
    if not any(v is not None for v in example.given):
        raise Skipped("no output has a gradient")
    found, kink = "", None
    try:
        found = _compared(example)
    except Kink as outcome:  # which hides no fault elsewhere
        kink = outcome
    _in_cotangents(example)
    for index in example.differentiable()[:MOST_ZEROS]:
        _at_zero(example, index)
    _rescaled(example)
    if kink is not None:
        raise kink
    return found


def _compared(example):
    """What gradcheck says of the example."""
    case = example.case
    leaves = leaves_of(case, example.arrays)
    tensors = [i for i, leaf in enumerate(case.leaves()) if not leaf.array]

    def fn(*given: Tensor) -> Any:
        fresh = leaves_of(case, example.arrays, [False] * len(leaves))
        for index, tensor in zip(tensors, given, strict=True):
            fresh[index] = tensor
        return tuple(y for y in forward(example.subject, case, fresh) if y is not None and y.dtype.kind == "f")

    return _gradcheck(fn, [leaves[i] for i in tensors])


def _in_cotangents(example):
    """backward is linear in the cotangents: in large, small and zero ones, too."""
    generator = np.random.default_rng((example.case.seed, 0xC0))
    chosen = [None if v is None else generator.random(v.shape) < 0.5 for v in example.given]

    def gradients(change):
        given = [None if v is None else np.asarray(change(v, m)) for v, m in zip(example.given, chosen, strict=True)]
        found = evaluate(example.subject, example.case, arrays=example.arrays, given=given).gradients
        pairs = zip(found, example.run.gradients, strict=True)
        return [np.zeros_like(wanted) if g is None else g for g, wanted in pairs if wanted is not None]

    scale = 2.0 ** SCALES[example.precision]
    some, rest = gradients(lambda v, m: v * m), gradients(lambda v, m: v * ~m)
    large, small = gradients(lambda v, m: v * scale), gradients(lambda v, m: v / scale)
    outputs = [np.zeros(y.shape) for y in example.run.outputs if y is not None]
    named = example.run.results[len(outputs) :]
    for how, found in {
        "as the sum of two, with some cotangents made 0 in each": [a + b for a, b in zip(some, rest, strict=True)],
        f"with cotangents {scale:.3g} times as large, divided by that": [g / scale for g in large],
        f"with cotangents {1 / scale:.3g} times as large, divided by that": [g * scale for g in small],
    }.items():
        errors = outputs + [np.abs(g - wanted) for g, (_, wanted) in zip(found, named, strict=True)]
        limits = example.error_bounds.explaining(errors, example.precision)[len(outputs) :]
        for g, (name, wanted), limit in zip(found, named, limits, strict=True):
            require_close(name, g.astype(wanted.dtype), wanted, 4 * limit, (how, "by itself"))


def _rescaled(example):
    """Large and small numbers may have branches of their own. They are looked at closely if a single quotient is
    odd."""
    usual = [y for y, v in zip(example.run.outputs, example.given, strict=True) if v is not None]
    for what, arrays in itertools.chain(*(rescaled(example, example.precision, most) for most in SIZES)):
        other = Example(example.subject, example.case, arrays)
        try:
            if not all(moderate(r).all() for _, r in other.run.results) or not Along(other).is_odd(usual):
                continue
        except Exception:  # it is not made for them
            continue
        try:
            _compared(other)
        except Failed as failure:
            raise Failed(f"where {what}: {failure}") from failure
        except (Kink, Skipped):
            continue


def _at_zero(example, index):
    """Where the function has a derivative at 0, backward gives it: what is divided by an input is not a number there.
    Numbers of cases are never 0, or seldom."""
    x, generator = example.arrays[index], np.random.default_rng((example.case.seed, 0x0, index))
    if not x.size or example.case.leaves()[index].kind not in EITHER_SIGN or not np.any(x):
        return
    at = np.unravel_index(int(generator.integers(x.size)), x.shape)
    size = float(np.abs(x).mean())

    def arrays(t):
        changed = example.case.arrays()
        changed[index] = changed[index].copy()
        changed[index][at] = t
        return changed

    def outputs(t):
        with np.errstate(all="ignore"):
            return [y for y in values(example.subject, example.case, arrays(t)) if y.dtype.kind == "f"]

    given = [v for v in example.given if v is not None]
    try:
        triples = [[outputs(t * h * size) for t in (-1, 0, 1)] for h in ZERO_STEPS]
    except Exception:  # 0 is no number for it
        return
    shapes = [v.shape for v in given]
    if any([y.shape for y in ys] != shapes or not all(np.isfinite(y).all() for y in ys) for t in triples for ys in t):
        return
    quotients, gaps = [], []
    for h, (down, start, up) in zip(ZERO_STEPS, triples, strict=True):
        changes = [(v * (b - a), v * (b - 2 * y + a)) for v, a, y, b in zip(given, down, start, up, strict=True)]
        quotients.append(sum(float(first.sum()) for first, _ in changes) / (2 * h * size))
        gaps.append(sum(float(np.abs(second).sum()) for _, second in changes) / (h * size))
    terms = sum(float((np.abs(v) * amount).sum()) for v, amount in zip(given, example.output_amounts(), strict=True))
    rounding, apart = 2.0**-32 * terms / size, abs(quotients[0] - quotients[1])
    if gaps[1] > gaps[0] / 8 + rounding or apart > gaps[0] / 8 + rounding:
        return  # there is no derivative, or the steps are too large to tell
    try:
        with np.errstate(all="ignore"):
            gradient = evaluate(example.subject, example.case, arrays=arrays(0)).gradients[index]
    except Exception:  # such as of a matrix that is singular then
        return
    analytic, numeric = 0.0 if gradient is None else float(gradient[at]), quotients[1]
    if not abs(analytic - numeric) <= 8 * apart + gaps[1] + rounding:
        raise Failed(
            f"input {index} at {place(at)}, if it is 0: backward gives {analytic:.10g} (analytic), finite differences "
            f"{numeric:.10g} (numeric)."
        )


def _gradcheck(fn: Callable[..., Any], inputs: list[Tensor]) -> str:
    """What `octsod.gradcheck` says, as a check does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what it warns of is its verdict, too
            found = gradcheck(fn, *inputs)
    except AssertionError as failure:
        said, *_ = str(failure).removeprefix("gradcheck: ").splitlines()  # the report has a reproduction of its own
        raise Failed(said) from failure
    if found.verdict == "KINK":
        raise Kink(str(found).removeprefix("KINK: "))
    if found.verdict == "INCONCLUSIVE":
        raise Skipped(str(found))
    return str(found).removeprefix("PASS: ")


class Along:
    """t -> <v, f(x + t*u)> of all inputs that have gradients, output by output."""

    def __init__(self, example: Example):
        self.example, self.given = example, [v for v in example.given if v is not None]
        generator = np.random.default_rng((example.case.seed, 0xD1))
        self.directions: list[Any] = [None] * len(example.arrays)
        for index in example.differentiable():
            x = example.arrays[index]
            size = np.where(x == 0, 0.25, np.abs(x))  # steps are shares of the numbers: they stay in their domain
            self.directions[index] = size * signed(generator, x.shape) / 2

    def __call__(self, t: float) -> np.ndarray:
        arrays = [
            a if u is None else (a + t * u).astype(a.dtype)
            for a, u in zip(self.example.arrays, self.directions, strict=True)
        ]
        with np.errstate(all="ignore"):
            outputs = [y for y in values(self.example.subject, self.example.case, arrays) if y.dtype.kind == "f"]
            return np.concatenate([(v * y).reshape(-1) for v, y in zip(self.given, outputs, strict=True)] or [[]])

    def analytic(self) -> float:
        """backward's derivative at 0."""
        pairs = zip(self.example.run.gradients, self.directions, strict=True)
        return float(sum(inner(g, u) for g, u in pairs if g is not None and u is not None))

    def is_odd(self, usual: Sequence[Any] = ()) -> bool:
        """Whether a difference quotient differs from backward's derivative by more than rounding or a kink is likely
        to explain. usual: the outputs for usual numbers; small ones may be what numbers of that size leave over."""
        up, start, down = (self(t) for t in (GLANCE, 0.0, -GLANCE))
        quotient = float((up - down).sum()) / (2 * GLANCE)
        jump = float(np.abs(up - 2 * start + down).sum()) / GLANCE
        pairs = zip(self.example.run.gradients, self.directions, strict=True)
        size = sum(np.abs(g * u).sum() for g, u in pairs if g is not None and u is not None) + np.abs(start).sum()
        lost = FEW_UNITS / GLANCE * sum(float(np.abs(v * y).sum()) for v, y in zip(self.given, usual, strict=False))
        return bool(np.isfinite(quotient)) and not abs(quotient - self.analytic()) <= ODD * float(size) + jump + lost


def convergence(example: Example) -> str:
    """The error of the central difference quotient falls with the square of the step, down to rounding."""
    if example.precision != "float64" or not example.differentiable() or not any(v is not None for v in example.given):
        raise Skipped("there is no gradient in float64")
    along = Along(example)
    bounds = example.bounds()
    try:
        return _converged(along, _sum_bound(along.given, example.of_outputs(bounds)))
    except Failed:  # what a small result has lost to rounding takes long to find out, and is seldom needed
        wider = [b + lost for b, lost in zip(bounds, example.error_bounds.granted(example.precision), strict=True)]
        return _converged(along, _sum_bound(along.given, example.of_outputs(wider)))


def _converged(along: Along, off: float) -> str:
    """What is said of the order, if <v, f> is off by so much."""
    start, analytic = along(0.0), along.analytic()
    kept: list[tuple[float, float, float, float]] = []
    for h in STEPS:
        up, down = along(h), along(-h)
        quotient = float((up - down).sum()) / (2 * h)
        if not np.isfinite(quotient):
            continue
        error, noise = abs(quotient - analytic), off * (1 + 1 / h)
        if error <= CLEAR * noise:
            order = _order(kept)
            return "exact to rounding" if order is None else f"order {order:.1f}"
        kept.append((h, error, quotient, float(np.abs(up - 2 * start + down).sum()) / h))
    if not kept:
        raise Skipped("the function is finite at no step")
    order = _order(kept)
    if order is not None and order >= ORDER:
        return f"order {order:.1f}"
    h, error, quotient, jump = kept[-1]
    if len(kept) > 3 and jump > kept[-4][3] / 2 and error <= jump:
        raise Kink(
            f"one-sided difference quotients along a random direction differ by {jump:.3g}, however small the step."
        )
    if _straight(kept, analytic):
        return f"order {order:.1f}, since the derivative has a kink"
    raise Failed(
        f"along a random direction: analytic {analytic:.10g}, numeric {quotient:.10g} (step {h:.1g}); the error "
        f"{error:.3g} of the difference quotient falls with order {0.0 if order is None else order:.1f} of the step, "
        "expected 2."
    )


def _straight(kept, analytic):
    """Whether the last three quotients lie on a line that leads to backward's derivative at a step of 0. From a wrong
    one, it would miss by as much as that is wrong."""
    if len(kept) < 3:
        return False
    (first, _, a, _), (second, _, b, _), (third, _, c, _) = kept[-3:]
    ends = [q + (q - p) * g / (f - g) for f, p, g, q in ((first, a, second, b), (second, b, third, c))]
    return abs(ends[1] - analytic) <= abs(ends[1] - ends[0]) + abs(c - analytic) * STRAIGHT


def _order(kept):
    """The order with which the last errors fall; None if there are too few."""
    if len(kept) < 2:
        return None
    (h, error, *_), (smaller, less, *_) = kept[-2:]
    return float(np.log(error / less) / np.log(h / smaller))


def adjoint(example: Example) -> str:
    """Where the op is linear in an input, <J'v, u> = <v, Ju> to rounding."""
    declared = example.subject.linear
    found: list[str] = []
    for index in example.differentiable():
        if not example.arrays[index].size or (declared is not None and index not in declared):
            continue
        if declared is None and len(found) == MOST_LINEAR:
            break
        image = _linear_image(example, index)
        if image is None and declared is not None:
            raise Failed(f"it is declared linear in input {index}, but f(x + u) - f(x) is not linear in u.")
        if image is not None:
            _require_adjoint(example, index, *image)
            found.append(str(index))
    if not found:
        raise Skipped("it is linear in no input")
    how = "as declared" if declared is not None else "found by evaluation"
    return f"linear in {'input' if len(found) == 1 else 'inputs'} {', '.join(found)} ({how})"


def _linear_image(example, index):
    """(u, Ju) of an input in which the op is linear; None if it is not."""
    x = example.arrays[index]
    generator = np.random.default_rng((example.case.seed, 0xAD, index))
    u, w = (4 * signed(generator, x.shape).astype(x.dtype) for _ in range(2))

    def f(change):
        arrays = example.case.arrays()
        arrays[index] = x + change
        with np.errstate(all="ignore"):
            return [y for y in values(example.subject, example.case, arrays) if y.dtype.kind == "f"]

    start, a, b, both, scaled = f(0 * x), f(u), f(w), f(u + w), f(-x.dtype.type(1.7) * u)
    found = example.error_bounds
    factors, amounts = (example.of_outputs(n) for n in (found.factors(x.dtype), found.amounts))
    for y0, ya, yb, yab, ys, factor, amount in zip(start, a, b, both, scaled, factors, amounts, strict=True):
        size = factor * FARTHER * (np.abs(ya) + np.abs(yb) + np.abs(y0) + amount) + np.finfo(x.dtype).tiny
        first, second = (ya - y0) + (yb - y0) - (yab - y0), (ys - y0) + x.dtype.type(1.7) * (ya - y0)
        if not (np.all(np.abs(first) <= size) and np.all(np.abs(second) <= size)):
            return None
    return u, [ya - y0 for ya, y0 in zip(a, start, strict=True)]


def _require_adjoint(example, index, u, image):
    given = [v for v in example.given if v is not None]
    gradient = example.run.gradients[index]
    gradient = np.zeros(u.shape) if gradient is None else gradient
    analytic = inner(gradient.astype(np.float64), u)
    exact = float(sum(inner(v.astype(np.float64), y) for v, y in zip(given, image, strict=True)))
    own = dict(zip((name for name, _ in example.run.results), example.bounds(), strict=True))
    outputs = example.of_outputs(example.bounds())
    bound = _sum_bound([u], [own.get(f"the gradient of input {index}", np.zeros(u.shape))])
    bound += _sum_bound(given, [FARTHER * b + unit(u.dtype) * np.abs(y) for y, b in zip(image, outputs, strict=True)])
    added = np.abs(gradient * u).sum() + sum(np.abs(v * y).sum() for v, y in zip(given, image, strict=True))
    bound += unit(np.float64) * sum(v.size for v in (u, *given)) * float(added)
    require_close(
        f"<J'v, u> for input {index}", np.asarray(analytic), np.asarray(exact), bound, ("analytic", "<v, Ju>")
    )


def _sum_bound(weights, errors):
    """How far sum(w*e) can be off, if the signs of w are random and each e is as large as it can be."""
    return random_sum_bound(np.concatenate([np.abs(w * e).reshape(-1) for w, e in zip(weights, errors, strict=True)]))
