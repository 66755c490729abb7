"""How far rounding may take results from the exact ones: bounds from the values at hand.

A sum of n products a_k*b_k, in any order, is off by at most gamma_n * sum(|a_k*b_k|), with gamma_n = n*u / (1 - n*u)
and u half the distance from 1 to the next number; in practice, since errors have either sign, by at most
CONFIDENCE * sqrt(n) * u times that (N. Higham, T. Mary: A new approach to probabilistic rounding error analysis, 2019).
Of any other function, such a bound is taken from the values at hand, for a result r, an output or a gradient:

    CONFIDENCE * sqrt(n*d) * u * (m + max(|r|, g))  +  u * c

- m: how far r moves if each number that goes in, inputs and cotangents, moves by a share of itself, relative to that
  share. So it is large where the function itself, and not its implementation, makes errors larger.
- n: how many numbers r depends on, counted by moving ever fewer of them.
- d: how many ops the function is made of, there and back.
- g: what the terms of a gradient amount to that vanishes whatever the inputs are, as that of a bias before batch norm
  does; then neither r nor m tells. The outputs y are known up to u*e, e = m + |y|, so <v, y> is known up to u*|v*e|
  (Euclidean norms: errors have either sign), and its derivative, over the size |x| of the input, up to u*g with
  g = |v*e| / |x|. It counts where it exceeds m + |r| more than CONFIDENCE times. Elsewhere these allow for it.
- c: constants of the function's own that depend on places, as weights of an interpolation do. Of a place up to l, u*l
  is lost. So c is l times the largest result of an array: smaller ones may have come from a difference of places.

All of these know the function alone. An implementation that is right may lose more, where a small result is what large
terms leave over: 1 + tanh(z) is known up to u, though it, and how far it moves with z, may be a millionth. What it
loses is seen in float64, as noise: fourth differences of results along a line. Rounding of standard deviation s makes
them sqrt(70)*s, and errors are below CONFIDENCE*s then, times the ratio of the units for another dtype. How much of
that is granted has a limit, or a variance that is the mean of squares less the square of the mean would be right, too:

- for outputs, the bound above of the largest number that is anywhere in the array, also if what goes in has other
  signs: 1 + tanh(z) is up to 2;
- for gradients, half of the digits: sqrt(u) times the largest r or g in the array, with outputs that large in g.
  Nothing tells how large the terms of a gradient are: with two values in a group, those of layer norm are as large as
  its scale over their distance, and cancel wherever one looks.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .finite_differences import CONFIDENCE, norm

RUNS = 3  # with all numbers moved
MORE_RUNS = 12  # where a bound is exceeded
COUNTING = 2.0**-10  # by how much numbers are moved to see what depends on them
FARTHEST = 2.0**-7  # that numbers are moved by to find kinks
LINES, POINTS = 12, 6  # along which noise is seen, and on each
FOURTH = math.sqrt(70)  # the root of the sum of squares of 1, -4, 6, -4, 1
SEED = 0xB0

Array = Any


def unit(dtype: Any) -> float:
    """u: half the distance from 1 to the next number."""
    return float(np.finfo(dtype).eps) / 2


def moves(generator: np.random.Generator, shape: tuple[int, ...], share: float, part: float) -> Array:
    """Factors near 1: each number moves by about this share up or down, or a random part of them does."""
    signs = generator.choice((-1.0, 1.0), shape) * (generator.random(shape) < part)
    return 1 + share * signs * generator.uniform(0.5, 1, shape)


class ErrorBounds:
    """The bounds of a function's results.

    results(change): outputs and gradients where each array that goes in, numbers and cotangents, has been multiplied by
    change(its shape); in float64, or in float32 where there is nothing better. exact: the same, unchanged. cotangents:
    of the outputs, None for what has none. inputs: those that the gradients are of. numbers: how many go in. ops: d/2.
    places: l; 0 if constants are exact.
    """

    def __init__(
        self, results: Callable[[Callable[[tuple[int, ...]], Array]], Sequence[Array]], exact: Sequence[Array],
        cotangents: Sequence[Any], inputs: Sequence[Array], numbers: int, ops: int, places: int = 0,
    ):  # fmt: skip
        self._results, self._exact, self._inputs = results, [np.asarray(r) for r in exact], inputs
        self._cotangents, self._generator = cotangents, np.random.default_rng(SEED)
        self._share = math.sqrt(max((unit(r.dtype) for r in self._exact if r.dtype.kind == "f"), default=2.0**-53))
        depth = 2 * max(ops, 1)
        self._roots = [np.sqrt(n * depth) for n in self._count(numbers)]
        moved = self._farthest([np.zeros(r.shape) for r in self._exact], self._share, RUNS)
        moved, sizes = [m / self._share for m in moved], [np.abs(r.astype(np.float64)) for r in self._exact]
        self.amounts = [m + size for m, size in zip(moved, sizes, strict=True)]
        first = len(cotangents)
        least = vanishing(self.amounts[:first], cotangents, inputs)
        for k, g in enumerate(least, first):
            self.amounts[k] = moved[k] + np.where(g > CONFIDENCE * self.amounts[k], g, sizes[k])
        self._constants = [places * _largest(r) for r in self._exact]

    def _moved(self, share, part=1.0, generator=None):
        """The results where numbers are moved by this share, or a part of them is."""
        generator = generator or self._generator
        return self._results(lambda shape: moves(generator, shape, share, part))

    def _farthest(self, found, share, runs):
        """`found`, or how far results get from where they were if that is more; NaN is passed over."""
        with np.errstate(all="ignore"):
            for _ in range(runs):
                pairs = zip(found, self._moved(share), self._exact, strict=True)
                found = [np.fmax(most, np.abs(moved.astype(np.float64) - r)) for most, moved, r in pairs]
        return found

    def _count(self, numbers):
        """n: a result that depends on n numbers moves until fewer than one in n of them does."""
        counts, moving = [np.ones(r.shape) for r in self._exact], [np.full(r.shape, True) for r in self._exact]
        for k in range(math.ceil(math.log2(max(numbers, 2))) + 1):
            results = self._moved(COUNTING, 2.0**-k)
            moving = [still & (a != r) for still, a, r in zip(moving, results, self._exact, strict=True)]
            counts = [np.where(still, 2.0 ** (k + 1), n) for still, n in zip(moving, counts, strict=True)]
        return counts

    def factors(self, dtype: Any) -> list[Array]:
        """By result: CONFIDENCE * sqrt(n*d) * u, for errors in this dtype."""
        return [CONFIDENCE * unit(dtype) * root for root in self._roots]

    def bounds(self, dtype: Any) -> list[Array]:
        """By result: how far it can be off, if it is computed in this dtype."""
        u, tiny = unit(dtype), float(np.finfo(dtype).tiny)  # subnormal numbers may be flushed to zero
        triples = zip(self.factors(dtype), self.amounts, self._constants, strict=True)
        return [k * a + u * c + tiny for k, a, c in triples]

    @functools.cached_property
    def scales(self) -> list[float]:
        """By output: the largest number anywhere in it, also if what goes in has other signs."""
        found = [_largest(r) for r in self._exact[: len(self._cotangents)]]
        for k in range(RUNS):
            for sign in (1.0, -1.0):  # of each number, both
                generator = np.random.default_rng((SEED, k))
                others = self._others(lambda shape, s=sign, g=generator: s * g.choice((-1.0, 1.0), shape))
                found = [max(pair) for pair in zip(found, map(_largest, others), strict=False)] or found
        return found

    def _others(self, change):
        """The results with other numbers; none if the function refuses them."""
        try:
            with np.errstate(all="ignore"):
                return self._results(change)
        except Exception:
            return []

    def _noise(self):
        """By result: the standard deviation of its rounding, over u."""
        squares = [np.zeros(r.shape) for r in self._exact]
        with np.errstate(all="ignore"):
            for line in range(LINES):
                points = [
                    self._moved(self._share * k, generator=np.random.default_rng((SEED, line)))
                    for k in range(1, POINTS + 1)
                ]
                for total, values in zip(squares, zip(*points, strict=True), strict=True):
                    fourth = np.diff(np.array(values, np.float64), n=4, axis=0)
                    total += np.nan_to_num(np.square(fourth / FOURTH).mean(axis=0), nan=0.0) / LINES
        units = [unit(r.dtype) if r.dtype.kind == "f" else 1.0 for r in self._exact]
        return [np.sqrt(total) / u for total, u in zip(squares, units, strict=True)]

    def _limits(self, dtype):
        """By result: how much of its noise is granted to an implementation."""
        first, root = len(self._cotangents), math.sqrt(unit(dtype))
        outputs = [factor * scale for factor, scale in zip(self.factors(dtype), self.scales, strict=False)]
        largest = [max(_largest(a), scale) for a, scale in zip(self.amounts, self.scales, strict=False)]
        wide = [np.full(r.shape, size) for r, size in zip(self._exact, largest, strict=False)]
        least = vanishing(wide, self._cotangents, self._inputs)
        gradients = zip(self._exact[first:], least, strict=True)
        return outputs + [np.full(r.shape, root * max(_largest(r), g)) for r, g in gradients]

    def granted(self, dtype: Any, alone: bool = True) -> list[Array]:
        """By result: what an implementation may lose of its own (see above). If it isn't `alone`, but compared with
        another one, whose noise is not known, outputs are granted all of their limit."""
        limits, outputs = self._limits(dtype), len(self._cotangents)
        own = [CONFIDENCE * unit(dtype) * s for s in self._noise()]
        found = [np.minimum(n, limit) for n, limit in zip(own, limits, strict=True)]
        return found if alone else limits[:outputs] + found[outputs:]

    def explaining(self, errors: Sequence[Array], dtype: Any, alone: bool = True) -> list[Array]:
        """As `bounds`, which are widened if an error exceeds them, for two reasons. Near a kink, rounding may choose
        the other side. It does so within the errors that numbers have by then, if these are made on purpose. And what
        an implementation loses of its own may be `granted`. errors: of the first results, or of all."""
        found = self.bounds(dtype)
        if _exceeded(errors, found):
            reach = max(float(k.max(initial=unit(dtype))) for k in self.factors(dtype))
            found = self._farthest(found, min(reach, FARTHEST), MORE_RUNS)
        if _exceeded(errors, found):
            found = [b + extra for b, extra in zip(found, self.granted(dtype, alone), strict=True)]
        return found


def _exceeded(errors, bounds):
    return any((np.isnan(b) | (e > b)).any() for e, b in zip(errors, bounds, strict=False))


def _largest(array):
    """The largest magnitude of those that are finite."""
    return float(np.abs(array).max(initial=0.0, where=np.isfinite(array)))


def vanishing(amounts: Sequence[Array], cotangents: Sequence[Any], inputs: Sequence[Array]) -> list[float]:
    """g, for the gradient of each input, from e of the outputs. An input of zeros alone is taken to be as large as the
    largest other one."""
    with np.errstate(all="ignore"):
        pairs = zip(cotangents, amounts, strict=True)
        terms = [np.asarray(v, np.float64) * e for v, e in pairs if v is not None]
    whole = math.hypot(*(norm(np.where(np.isfinite(t), t, 0)) for t in terms))
    typical = [norm(x.astype(np.float64)) / math.sqrt(max(x.size, 1)) for x in inputs]
    largest = max(typical, default=0.0) or 1.0
    return [
        whole / ((size or largest) * math.sqrt(max(x.size, 1))) for size, x in zip(typical, inputs, strict=True)
    ]  # fmt: skip
