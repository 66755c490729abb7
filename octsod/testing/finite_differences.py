"""Finite differences that know how far they can be off.

A function y(t) of one number, with an array of values, has the derivative <v, y'(0)> for weights v. Central differences

    D(h) = <v, y(h) - y(-h)> / (2*h)  =  <v, y'(0)> + h**2/6 * <v, y'''(0)> + ...

at h and h/2 give a value of fourth order, R = (4*D(h/2) - D(h)) / 3, and two bounds from the values at hand:

- truncation: |D(h) - D(h/2)| / 3 is the error of D(h/2), to leading order; that of R is far smaller;
- rounding: if each value y_j is off by at most e_j, then R is off by at most 3/h * sum(|v_j|*e_j). The signs of v are
  random and drawn without regard to y, so by Hoeffding's inequality the sum is also at most
  CONFIDENCE * sqrt(sum((v_j*e_j)**2)), but for a chance of 2*exp(-CONFIDENCE**2/2) = 5e-11. The smaller one counts.

e_j is half a unit in the last place of the largest y_j met, and the noise that y_j is seen to have (`noise`). The best
step balances the two: truncation grows with h**2, rounding with 1/h. Sums are float64's, whatever the values are.

At a kink one-sided derivatives differ. The fourth difference of the five values, over h, tends to their difference; for
a smooth y it vanishes with h**3, and rounding explains at most 16*e_j/h of it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

CONFIDENCE = 7.0
LARGEST_STEP = 2.0**-4  # noise has been measured at 0 alone
ATTEMPTS = 12
GROSS = 0.1  # relative to the gradient: a disagreement above is looked at again
REFINEMENTS = 2  # of a difference that agrees, but could be sharper
SHARP = 1e-9  # relative to the gradient: a bound below needs no refinement
SEEN = 2.0  # a jump is one if it is so much larger than rounding explains
ROUGH = 1e-6  # relative to the gradient: a jump of the derivative below is no kink
FEW = 16  # values whose noise is looked at more often, since chance may have its way
NOISE_STEPS = 1.0, -1.618034  # no multiples: rounding may happen to be regular along one
FARTHER_STEPS = 2.0**4, 2.0**8, 2.0**12, 2.0**16  # where rounding takes all of a change
COARSEST = 2.0**10  # that numbers are expected to be by which others are rounded; beyond, a grain is made on purpose

Array = Any


@dataclasses.dataclass(frozen=True)
class Precision:
    """What depends on the dtype that a function is computed in: with more digits, steps may differ more.

    unit: half the distance from 1 to the next number. repeats: relative to a gradient, what backward passes may differ
    by that should be equal: far more than rounding, far less than what has to be found. noise_step: at such a distance
    smooth functions look straight, but for rounding. first_step: relative to the size of what is moved; adapted from
    there. shrink: how much smaller the next step is where a kink or a pole is met; doubt: where a quotient disagrees,
    for another one; close: where a gross disagreement is looked at again. kink_step: a jump that is the same at this
    step and the one before is at the very place. least: of a typical gradient, what any entry's counts as at least.
    """

    unit: float
    repeats: float
    noise_step: float
    first_step: float
    shrink: float
    doubt: float
    close: float
    kink_step: float
    least: float


PRECISIONS = {
    "float64": Precision(2.0**-53, 2.0**-30, 2.0**-20, 2.0**-8, 16.0, 4.0, 2.0**-16, 2.0**-18, 0.01),
    "float32": Precision(2.0**-24, 2.0**-13, 2.0**-10, 2.0**-5, 4.0, 2.0, 2.0**-6, 2.0**-11, 1.0),
}
UNIT = PRECISIONS["float64"].unit


def random_sum_bound(magnitudes: Array) -> float:
    """A bound of |sum of s_i*m_i| for random signs s_i (see above); 0 for none."""
    largest = float(magnitudes.max(initial=0.0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    relative = magnitudes / largest
    return largest * min(float(relative.sum()), CONFIDENCE * math.sqrt(inner(relative, relative)))


def inner(a: Array, b: Array) -> float:
    """The sum of products. Not by BLAS: on a busy machine its threads wait for each other longer than this takes."""
    return float((a * b).sum())


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference quotient at `step`, with its bounds; arrays hold a number per output.

    coarse, fine: D(h), D(h/2). jump: half the sum of all jumps of the derivative that rounding does not explain; blur:
    how much of it rounding would.
    """

    step: float
    value: Array
    truncation: Array
    rounding: Array
    coarse: Array
    fine: Array
    jump: Array
    blur: Array

    @property
    def bound(self) -> Array:
        return self.truncation + self.rounding

    def agrees(self, other: "Difference") -> bool:
        return bool((np.abs(self.value - other.value) <= self.bound + other.bound).all())

    def balanced(self, scale: Array) -> float:
        """The step at which truncation and rounding should be as small as they can, for the output that needs it most;
        scale: what bounds are relative to."""
        output = int(np.argmax(self.bound / np.where(scale > 0, scale, 1)))
        truncation, rounding = self.truncation[output], self.rounding[output]
        ratio = (rounding / (2 * truncation)) ** (1 / 3) if truncation > 0 else math.inf
        return min(self.step * max(ratio, 2.0**-24), LARGEST_STEP)


class Weighted:
    """What differences of functions with the same outputs have in common: the value at 0, `values` (n,), weights v,
    noise e, the outputs' slices and the precision in which values are computed."""

    def __init__(
        self, values: Array, weights: Array, noise: Array, slices: Sequence[slice],
        precision: Precision = PRECISIONS["float64"],
    ):  # fmt: skip
        self.values, self.weights, self.noise, self.slices = values, weights, noise, slices
        self.precision = precision

    def sums(self, terms: Array) -> Array:
        return np.array([terms[part].sum() for part in self.slices])

    def norms(self, terms: Array) -> Array:
        return np.array([norm(terms[part]) for part in self.slices])

    def random_sums(self, magnitudes: Array) -> Array:
        return np.array([random_sum_bound(magnitudes[part]) for part in self.slices])


class Line:
    """A function y of one number with the outputs of `weighted`.

    certain: a step that misses nothing of what y does near 0, as larger ones might. place: how far the number is off by
    being added to what is moved, relative to it.
    """

    def __init__(self, weighted: Weighted, y: Callable[[float], Array], certain: float, place: float):
        self.weighted, self._y, self.certain, self.place = weighted, y, certain, place
        self._touched = np.zeros(weighted.values.size, bool)  # where y has been seen to depend on the number
        self.said = np.zeros(len(weighted.slices), bool)  # which outputs backward says depend on it

    def difference(self, step: float) -> Difference | None:
        """The difference quotient at 0; None if a value is not finite."""
        up, down, half_up, half_down = (self._y(t) for t in (step, -step, step / 2, -step / 2))
        if not all(np.isfinite(a).all() for a in (up, down, half_up, half_down)):
            return None
        v, y0 = self.weighted.weights, self.weighted.values
        sums, random_sums = self.weighted.sums, self.weighted.random_sums
        self._touched |= (up != y0) | (down != y0) | (half_up != y0) | (half_down != y0)
        coarse, fine = v * (up - down) / (2 * step), v * (half_up - half_down) / step
        apart = coarse - fine
        last_place = self.weighted.precision.unit * np.maximum(np.maximum(np.abs(up), np.abs(down)), np.abs(y0))
        touched = self._noisy()
        noise = np.abs(v) * (last_place + np.where(touched, self.weighted.noise, 0)) + self.place * np.abs(fine)
        jumps = np.abs(v * (4 * ((half_up - y0) + (half_down - y0)) - ((up - y0) + (down - y0)))) / step
        explained = jumps <= SEEN * 16 / step * noise
        adding = UNIT * (4 + math.log2(max(y0.size, 1))) * sums(np.abs(fine))
        return Difference(
            step=step,
            value=sums(fine - apart / 3),
            truncation=np.maximum(np.abs(sums(apart)), self.weighted.norms(apart)) / 3,
            rounding=random_sums(3 / step * noise) + random_sums(np.where(explained, jumps / 2, 0)) + adding,
            coarse=sums(coarse),
            fine=sums(fine),
            jump=sums(np.where(explained, 0, jumps)) / 2,
            blur=sums(np.where(touched, 16 / step * noise, 0)) / 2,
        )

    def _noisy(self):
        """What may have noise: values that depend on the number, and all of an output that is said to, but does not
        change. Rounding may have taken all of the change then, as that of 1 + t for a small t."""
        touched = self._touched.copy()
        for part, said in zip(self.weighted.slices, self.said, strict=True):
            touched[part] |= said and not touched[part].any()
        return touched


def noise(
    y: Callable[[float], Array], values: Array, slices: Sequence[slice], precision: Precision = PRECISIONS["float64"]
) -> Array:
    """How much each value of y, near y(0) = `values`, is off by rounding, as seen in fourth differences.

    Between points this close, a smooth function's fourth differences are far below rounding, so what is left is noise.
    The points are on one side of 0 and then on the other: a kink at 0 goes unnoticed. What chance has made too small is
    mended by the median of its output: relative to the values or, if these are what large numbers have left over, as
    it is. slices: the outputs.

    Values that large numbers have left over may be too coarse to move that little, as 1 - cos(t) is for a small t. Of
    those, points farther off tell the grain.
    """
    own = precision.unit * np.abs(values)
    seen = np.zeros(values.size)
    still = values != 0

    def points(step):
        return np.array([y(step * precision.noise_step * k) for k in range(1, 9 if values.size < FEW else 6)])

    with np.errstate(all="ignore"):
        for step in NOISE_STEPS:
            found = points(step)
            fourth = np.abs(np.diff(found, n=4, axis=0)).max(axis=0) / 4
            seen = np.maximum(seen, np.nan_to_num(fourth, nan=0.0, posinf=0.0))
            still &= (found == values).all(axis=0)
        for step in FARTHER_STEPS:
            if not still.any():
                break
            found = points(step)
            moved = still & (found != values).any(axis=0)
            grain = _grain(np.array([values, *found]))
            rounded = moved & (grain > 16 * own) & (grain <= COARSEST * 2 * precision.unit)
            seen = np.where(rounded, np.maximum(seen, grain), seen)
            still &= ~moved
        for part in slices:
            known = own[part] > 0
            ratio = float(np.median(seen[part][known] / own[part][known])) if known.any() else 0.0
            common = ratio * own[part] if ratio < 16 else np.maximum(ratio * own[part], np.median(seen[part]))
            seen[part] = np.maximum(seen[part], common)
    return 2 * seen


def _grain(numbers: Array) -> Array:
    """The largest power of two of which all numbers of a column are multiples; 0 of what is not finite."""
    fractions, exponents = np.frexp(np.where(np.isfinite(numbers), numbers, 0.0))
    whole = (fractions * 2.0**53).astype(np.int64)
    grains = np.where(whole == 0, np.inf, np.ldexp((whole & -whole).astype(np.float64), exponents - 53))
    return np.where(np.isfinite(numbers).all(axis=0), grains.min(axis=0), 0.0)


def norm(terms: Array) -> float:
    """The Euclidean norm, of numbers of any size."""
    largest = float(np.abs(terms).max(initial=0.0))
    if largest == 0 or not math.isfinite(largest):
        return largest
    relative = terms / largest
    return largest * math.sqrt(inner(relative, relative))


@dataclasses.dataclass(frozen=True)
class Comparison:
    """What comparing a derivative with differences has come to; arrays hold a number per output.

    verdict: PASS, FAIL, KINK or INCONCLUSIVE. truncation, rounding: bounds of `numeric`; own: that of `analytic`.
    scale: the size of the gradient, which error and sharpness are relative to. jump: half that of the derivative at 0,
    as far as rounding does not explain it. next_step: where a similar comparison
    should begin. order: see `convergence_order`.
    """

    verdict: str
    step: float
    next_step: float
    analytic: Array
    numeric: Array
    truncation: Array
    rounding: Array
    own: Array
    scale: Array
    jump: Array
    order: float | None

    @property
    def bound(self) -> Array:
        return self.truncation + self.rounding + self.own

    @property
    def error(self) -> Array:
        return np.abs(self.analytic - self.numeric)

    @property
    def worst(self) -> int:
        """The output with the largest error, relative to its bound."""
        return int(np.argmax(self.error / np.maximum(self.bound, np.finfo(float).tiny)))

    @property
    def sharpness(self) -> float:
        return _largest_ratio(self.bound, self.scale)

    @property
    def relative_error(self) -> float:
        return _largest_ratio(self.error, self.scale)


def _largest_ratio(parts, wholes):
    ratios = np.divide(parts, wholes, out=np.where(parts > 0, np.inf, 0.0), where=wholes > 0)
    return float(ratios.max(initial=0.0))


def compare(line: Line, analytic: Array, own: Array, scale: Array, first: float) -> Comparison:
    """Compare a derivative, `analytic`, which is off by `own` by its own rounding, with difference quotients.

    scale: the size of gradients, per output. A quotient at the step `first` that agrees within a sharp bound passes.
    Steps are refined while a bound is not sharp, and shrink where the derivative jumps or the quotient disagrees. A
    disagreement counts once two quotients confirm each other, with steps of at most `line.certain`, neither of which
    allows for `analytic`. What a jump of the derivative at 0 explains, any number between the one-sided derivatives, is
    a kink.
    """
    agreed: Difference | None = None  # the sharpest that allows for `analytic`
    last: Difference | None = None  # the last one, if it does not
    step, order, refinements, ceiling, verdict = first, None, 0, math.inf, "INCONCLUSIVE"
    line.said = analytic != 0
    precision = line.weighted.precision
    jump = growth = np.zeros(len(analytic))  # that of the last one, and how much larger it was than the one before
    for _ in range(ATTEMPTS):
        now = line.difference(step)
        if now is None:
            if agreed is not None:
                break
            last, jump, ceiling, step = None, 0 * jump, step, min(step / precision.shrink, line.certain)
            continue
        order = convergence_order(now, analytic) if order is None else order
        size, bound, error = np.maximum(scale, np.abs(now.value)), now.bound + own, np.abs(now.value - analytic)
        now_jump = np.where(now.jump > np.maximum(ROUGH * size, now.bound), now.jump, 0)
        rough = bool(now_jump.any())
        # Steps may be too small to see the jump, if there is one: that of a smooth function fades away first.
        unseen = (jump > now.jump) & ((growth > 0.3) | (growth == 0)) & (now.blur > jump / 4)
        hidden = not rough and bool(unseen.any()) and bool((error <= bound + 1.25 * jump).all())
        if hidden:
            larger = step * 5 * float((now.blur[unseen] / jump[unseen]).max())  # where it is just large enough
            if larger < 0.75 * ceiling:
                step = larger
                continue
        if (error <= bound).all() and not rough and not hidden:
            agreed = now if agreed is None else min(agreed, now, key=lambda found: _largest_ratio(found.bound, size))
            refinements, step = refinements + 1, now.balanced(size)
            settled = 0.5 < step / now.step < 2 or 4 * step > ceiling or refinements > REFINEMENTS
            if settled or (bound <= SHARP * size).all():
                break
            continue
        if agreed is not None and (rough or step > line.certain):
            break  # too large a step
        excluded = error > bound + 1.25 * now.jump
        growth = np.divide(now_jump, jump, out=np.zeros(len(jump)), where=jump > 0)
        if last is not None:
            before = np.abs(last.value - analytic) > last.bound + own + 1.25 * last.jump
            if now.agrees(last) and (excluded & before).any():
                last, verdict = min(now, last, key=lambda found: _largest_ratio(found.bound, size)), "FAIL"
                if not (error > GROSS * size).any() or not _misled(line, last, analytic):
                    break
                line.certain = step = last.step * precision.close
                verdict, last = "INCONCLUSIVE", None
                continue
            if growth.max() > 0.5 * last.step / step:  # as noise does, but no jump
                noisy = dataclasses.replace(last, rounding=last.rounding + 4 * last.jump)
                if (np.abs(noisy.value - analytic) <= noisy.bound + own).all():
                    agreed = noisy
                    break
            stays = rough and step < precision.kink_step and (np.abs(growth - 1) < 0.01)[now_jump > 0].all()
            if stays or hidden:
                last, verdict = now, "KINK"
                break
        doubted = last is None and excluded.any() and not rough
        agreed, ceiling = None, step
        verdict = "KINK" if rough and growth.max() < 0.5 * precision.shrink else "INCONCLUSIVE"
        last, jump = (now, now_jump) if step <= line.certain else (None, 0 * jump)
        step = min(step / (precision.doubt if doubted else precision.shrink), line.certain)
    found = agreed or last
    if found is None:  # no neighbour has finite values
        nothing = np.full(len(analytic), math.nan)
        return Comparison("KINK", step, first, analytic, nothing, nothing, nothing, own, scale, 0 * jump, order)
    following = found.step if agreed and ceiling == math.inf else first
    size = np.maximum(scale, np.abs(found.value))
    return Comparison(
        "PASS" if agreed else verdict, found.step, following, analytic, found.value, found.truncation, found.rounding,
        own, size, found.jump, order,
    )  # fmt: skip


def _misled(line, found, analytic):
    """Whether y varies so fast within the step of `found` that this has gone unnoticed: much closer to 0, quotients
    come near the derivative."""
    closer = line.difference(found.step * line.weighted.precision.close)
    if closer is None:
        return False
    error = np.abs(found.value - analytic)
    return bool((np.abs(closer.value - analytic) < error / 4)[error > found.bound].all())


def convergence_order(difference: Difference, derivative: Array) -> float | None:
    """The order with which central differences approach a derivative, from those at h and h/2: 2 for a right one (more
    if the third derivative is 0), 0 for a wrong one. None where truncation is too small to be told from rounding.

    derivative: per output; the one with the largest counts.
    """
    k = int(np.argmax(np.abs(derivative)))
    coarse, fine = abs(difference.coarse[k] - derivative[k]), abs(difference.fine[k] - derivative[k])
    if not fine > 32 * difference.rounding[k] or 4 * difference.jump[k] > difference.truncation[k]:
        return None
    return math.log2(coarse / fine) if coarse > 0 else 0.0
