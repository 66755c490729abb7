"""Learning-rate schedules."""

import bisect
import math
from collections.abc import Iterable

from ..checks import require, require_integer, require_number, require_share
from .optimizer import Optimizer


class _Schedule:
    """Sets the learning rate of each of an optimiser's groups to its initial one times `factor(step)`."""

    def __init__(self, optimizer: Optimizer):
        self.count = 0
        self.move_to(optimizer)

    def move_to(self, optimizer: Optimizer) -> None:
        """Go on from here with another optimiser, whose groups have their initial learning rates, such as one that
        `Optimizer.rebuilt` has made."""
        self.optimizer = optimizer
        self.initial = [group["lr"] for group in optimizer.groups]
        self.seek(self.count)

    def factor(self, count: int) -> float:
        raise TypeError(f"{type(self).__name__} needs a method `factor`.")

    def seek(self, count: int) -> None:
        """Go to epoch `count` (or step: the unit is the caller's), counted from 0."""
        self.count = count
        for group, lr in zip(self.optimizer.groups, self.initial, strict=True):
            group["lr"] = lr * self.factor(count)

    def step(self) -> None:
        """Go on to the next step (or epoch)."""
        self.seek(self.count + 1)


class MultiStepLR(_Schedule):
    """The learning rate times `gamma` from each of `milestones` on."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1):
        op = "MultiStepLR"
        self.milestones = sorted(require_integer(count, op, "milestones", 0) for count in milestones)
        self.gamma = require_number(gamma, op, "gamma", 0)
        super().__init__(optimizer)

    def factor(self, count: int) -> float:
        return self.gamma ** bisect.bisect_right(self.milestones, count)


class CosineLR(_Schedule):
    """A linear warm-up over `warmup`, then half a cosine down to `floor` (a factor) at `total`."""

    def __init__(self, optimizer: Optimizer, total: int, warmup: int = 0, floor: float = 0.0):
        op = "CosineLR"
        self.total, self.warmup = require_integer(total, op, "total", 1), require_integer(warmup, op, "warmup", 0)
        require(warmup < total, op, "warmup", f"is {warmup}", f"less than `total` (={total})")
        self.floor = require_number(floor, op, "floor", 0)
        super().__init__(optimizer)

    def factor(self, count: int) -> float:
        if count < self.warmup:
            return (count + 1) / self.warmup
        progress = min((count - self.warmup) / (self.total - self.warmup), 1.0)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))


class OneCycleLR(_Schedule):
    """Half a cosine up from `start` to 1 (factors), then half a cosine down to `end` in the last of `total` steps
    (Smith and Topin, 2019).

    warmup: the share of the run, in [0, 1), that goes up; the learning rate is the group's own in step
    round(warmup * (total - 1)), counted from 0.
    """

    def __init__(
        self, optimizer: Optimizer, total: int, warmup: float = 0.3, start: float = 1 / 25, end: float = 1e-4
    ):
        op = "OneCycleLR"
        self._last = max(require_integer(total, op, "total", 1) - 1, 1)
        warmup = require_share(warmup, op, "warmup")
        for name, value in (("start", start), ("end", end)):
            require(require_number(value, op, name, 0) <= 1, op, name, f"is {value}", "a factor in [0, 1]")
        self.start, self.end = start, end
        self.peak = min(round(warmup * self._last), self._last - 1)
        super().__init__(optimizer)

    def factor(self, count: int) -> float:
        if count < self.peak:
            return _half_cosine(self.start, 1.0, count / self.peak)
        return _half_cosine(1.0, self.end, min((count - self.peak) / (self._last - self.peak), 1.0))


def _half_cosine(first, last, progress):
    """From `first` to `last`, both of them exact, along half a cosine."""
    share = 0.5 * (1 - math.cos(math.pi * progress))
    return (1 - share) * first + share * last
