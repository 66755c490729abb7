"""Comparing the gradient of one input with finite differences: at entries, along directions, and around kinks.

Kinks are met in two ways. Where one number alone makes the derivative jump, as in PReLU at 0, `compare` sees the
one-sided derivatives, which it needs anyway to know which steps to trust. Where several numbers do so together, as in
sorting three that are alike, one-sided derivatives of one of them do not tell of all the choices there are; then
derivatives at points all around do. Those take 4 * NEIGHBOURS evaluations a place, so they are taken only of what would
fail otherwise.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from .finite_differences import CONFIDENCE, ROUGH, Line, compare, norm, random_sum_bound
from .gradient_report import Place
from .passes import random_numbers

NEIGHBOURHOODS = 2.0**-12, 2.0**-20  # relative to what entries may be moved by: see `_forgiven`
NEIGHBOURS, FEW_SLOPES = 48, 4

Array = Any


class InputCheck:
    """An input of a check, along whose entries and directions gradients are compared."""

    def __init__(self, check, number):
        self.check, self.number, self.weighted, self.unit = check, number, check.weighted, check.precision.unit
        self.start, self.size, self.nearby = check.starts[number], check.sizes[number], check.nearby[number]
        self.gradients, self.own = check.gradients[number], check.own[number]
        typical = np.array([norm(g) / math.sqrt(max(g.size, 1)) for g in self.gradients])
        self.least = check.precision.least * typical
        self.outputs = self.weighted.norms(self.weighted.weights * self.weighted.values)
        # A gradient that is zero but for rounding, such as a bias's before batch norm, is measured by the outputs.
        noise = [CONFIDENCE * own.max(initial=0.0) for own in self.own]
        least = np.maximum(noise, 16 * self.unit * self.outputs / self.size)
        self.nothing = np.array([np.abs(g).max(initial=0.0) for g in self.gradients]) <= least
        self.step = self.first_step = check.precision.first_step

    def entry(self, index):
        """Compare at an entry; returns the Comparison and the Place."""
        analytic = np.array([g[index] * self.size for g in self.gradients])
        own = np.array([own[index] * self.size for own in self.own])
        scale = np.maximum(np.abs(analytic), self.least * self.size)
        certain, off = self.first_step * self.nearby[index] / self.size, max(1.0, abs(self.start[index]) / self.size)

        def moved(t):
            array = self.start.copy()
            array[index] += t * self.size
            return array

        found, place = self._compare(moved, certain, self.unit * off, analytic, own, scale, self.size, index, None)
        return self._forgiven(found, moved, certain / self.first_step, 0.5), place

    def direction(self, u, number=None):
        """Compare along u, an array like the input; number: of the direction."""
        terms = [g * u for g in self.gradients]
        analytic = np.array([t.sum() for t in terms])
        scale = np.maximum([norm(t) for t in terms], self.least * norm(u))
        own = np.array([random_sum_bound(own * np.abs(u)) for own in self.own])
        found, place = self._compare(
            lambda t: self.start + t * u, self.first_step, self.unit, analytic, own, scale, norm(u) or 1.0, None, number
        )
        return self._forgiven(found, lambda t: self.start + t * u, 1.0, 1.0), place

    def _forgiven(self, found, moved, reach, beyond):
        """The comparison, as a KINK if `found` fails where the derivative jumps, and derivatives at points close by,
        where all inputs are moved a little, are on both sides of backward's: of three numbers that are alike, sorting
        may take any one for the middle one, though whichever is moved alone comes to be first or last.

        reach: how far `moved` may go. beyond: how far outside of the others backward's may lie, as a part of their
        range, if there are several: of the ways in which many ties can be broken, only some are tried.
        """
        jumps = found.jump > ROUGH * found.scale
        if found.verdict != "FAIL" or not jumps.any():
            return found
        (_, _, wide, _), (low, high, range_, several) = (self._around(moved, reach, near) for near in NEIGHBOURHOODS)
        slack = np.where(several, beyond, 0) * range_ + 1e-4 * found.scale
        inside = (found.analytic >= low - slack) & (found.analytic <= high + slack)
        lasting = range_ > np.maximum(wide / 2, 1e-4 * found.scale)  # that of a smooth function goes with the distance
        fine = (found.error <= found.bound) | (jumps & inside & lasting)
        return dataclasses.replace(found, verdict="KINK") if fine.all() else found

    def _around(self, moved, reach, near):
        """(lowest, highest, range) of the derivatives at points that are so near, per output, and whether there are
        more than a few of them."""
        slopes, step = [], near * 2.0**-8 * reach
        for _ in range(NEIGHBOURS):
            place = {
                n: near * random_numbers(self.check.generator, close.shape) * close
                for n, close in self.check.nearby.items()
            }
            ends = []
            for t in (step, -step):
                for n, x in self.check.checked.items():
                    x.data = place[n] + (moved(t) if n == self.number else self.check.starts[n])
                ends.append(flat(self.check.run()))
            slopes.append(self.weighted.sums(self.weighted.weights * (ends[0] - ends[1])) / (2 * step))
        for n, x in self.check.checked.items():
            x.data = self.check.starts[n]
        low, high = np.min(slopes, axis=0), np.max(slopes, axis=0)
        range_ = high - low
        steps = np.round(64 * (slopes - low) / np.where(range_ > 0, range_, 1))
        return low, high, range_, np.array([len(set(column)) > FEW_SLOPES for column in steps.T])

    def _compare(self, moved, certain, off, analytic, own, scale, unit, index, direction):
        def y(t):
            self.check.set(self.number, moved(t))
            return flat(self.check.run())

        scale = np.where(self.nothing, np.maximum(self.outputs, scale), scale)
        with np.errstate(all="ignore"):
            found = compare(Line(self.weighted, y, certain, off), analytic, own, scale, self.step)
        self.step = found.next_step
        k = found.worst
        numbers = (found.analytic, found.numeric, found.truncation, found.rounding, found.own)
        output = k if len(self.gradients) > 1 else None
        place = Place(
            self.number, index, direction, output, *(float(a[k] / unit) for a in numbers), float(found.step * unit),
            self.check.passes.names[self.number],
        )  # fmt: skip
        return found, place

    def search(self, u):
        """An entry that is wrong, where the direction u has shown that one is: by halves. None if it gets lost."""
        candidates = np.argwhere(u)
        while len(candidates) > 1:
            half = candidates[: len(candidates) // 2]
            part = np.zeros(u.shape)
            part[tuple(half.T)] = u[tuple(half.T)]
            candidates = half if self.direction(part)[0].verdict == "FAIL" else candidates[len(candidates) // 2 :]
        found, place = self.entry(tuple(int(i) for i in candidates[0]))
        return (found.relative_error, place) if found.verdict == "FAIL" else None


def flat(arrays: Sequence[Array]) -> Array:
    """All numbers of the arrays in a row, in float64."""
    return np.concatenate([a.reshape(-1) for a in arrays]).astype(np.float64)
