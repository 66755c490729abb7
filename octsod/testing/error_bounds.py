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
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .finite_differences import CONFIDENCE, norm

RUNS = 3  # with all numbers moved
MORE_RUNS = 12  # where a bound is exceeded
COUNTING = 2.0**-10  # by how much numbers are moved to see what depends on them
FARTHEST = 2.0**-7  # that numbers are moved by to find kinks

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

    results(share, part): outputs and gradients where each number that goes in, or this part of them, is moved by this
    share of itself, at random; in float64, or in float32 where there is nothing better. exact: the same, unmoved.
    cotangents: of the outputs, None for what has none. inputs: those that the gradients are of. numbers: how many go
    in. ops: d/2. places: l; 0 if constants are exact.
    """

    def __init__(
        self, results: Callable[[float, float], Sequence[Array]], exact: Sequence[Array], cotangents: Sequence[Any],
        inputs: Sequence[Array], numbers: int, ops: int, places: int = 0,
    ):  # fmt: skip
        self._results, self._exact = results, [np.asarray(r) for r in exact]
        share = math.sqrt(max((unit(r.dtype) for r in self._exact if r.dtype.kind == "f"), default=2.0**-53))
        depth = 2 * max(ops, 1)
        self._roots = [np.sqrt(n * depth) for n in self._count(numbers)]
        moved = self._farthest([np.zeros(r.shape) for r in self._exact], share, RUNS)
        moved, sizes = [m / share for m in moved], [np.abs(r.astype(np.float64)) for r in self._exact]
        self.amounts = [m + size for m, size in zip(moved, sizes, strict=True)]
        first = len(cotangents)
        least = vanishing(self.amounts[:first], cotangents, inputs)
        for k, g in enumerate(least, first):
            self.amounts[k] = moved[k] + np.where(g > CONFIDENCE * self.amounts[k], g, sizes[k])
        self._constants = [
            places * float(np.abs(r).max(initial=0, where=np.isfinite(r))) for r in self._exact
        ]  # fmt: skip

    def _farthest(self, found, share, runs):
        """`found`, or how far results get from where they were if that is more; NaN is passed over."""
        with np.errstate(all="ignore"):
            for _ in range(runs):
                pairs = zip(found, self._results(share, 1.0), self._exact, strict=True)
                found = [np.fmax(most, np.abs(moved.astype(np.float64) - r)) for most, moved, r in pairs]
        return found

    def _count(self, numbers):
        """n: a result that depends on n numbers moves until fewer than one in n of them does."""
        counts, moving = [np.ones(r.shape) for r in self._exact], [np.full(r.shape, True) for r in self._exact]
        for k in range(math.ceil(math.log2(max(numbers, 2))) + 1):
            results = self._results(COUNTING, 2.0**-k)
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

    def explaining(self, errors: Sequence[Array], dtype: Any) -> list[Array]:
        """As `bounds`, which are widened if an error exceeds them: near a kink, rounding may choose the other side. It
        does so within the errors that numbers have by then, if these are made on purpose."""
        found = self.bounds(dtype)
        if any((e > b).any() for e, b in zip(errors, found, strict=True)):
            reach = max(float(k.max(initial=unit(dtype))) for k in self.factors(dtype))
            found = self._farthest(found, min(reach, FARTHEST), MORE_RUNS)
        return found


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
