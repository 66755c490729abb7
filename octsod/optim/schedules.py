"""Learning-rate schedules."""

import bisect
import math
from collections.abc import Iterable

from ..checks import require
from .optimizer import Optimizer


class _Schedule:
    """Sets the learning rate of each of an optimiser's groups to its initial one times `factor(step)`."""

    def __init__(self, optimizer: Optimizer):
        self.optimizer = optimizer
        self.initial = [group["lr"] for group in optimizer.groups]
        self.seek(0)

    def factor(self, count: int) -> float:
        raise TypeError(f"{type(self).__name__} needs a method `factor`.")

    def seek(self, count: int) -> None:
        """Go to epoch `count` (or step: the unit is the caller's), counted from 0."""
        self.count = count
        for group, lr in zip(self.optimizer.groups, self.initial, strict=True):
            group["lr"] = lr * self.factor(count)

    def step(self) -> None:
        """Go on to the next epoch."""
        self.seek(self.count + 1)


class MultiStepLR(_Schedule):
    """The learning rate times `gamma` from each of `milestones` on."""

    def __init__(self, optimizer: Optimizer, milestones: Iterable[int], gamma: float = 0.1):
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def factor(self, count: int) -> float:
        return self.gamma ** bisect.bisect_right(self.milestones, count)


class CosineLR(_Schedule):
    """A linear warm-up over `warmup`, then half a cosine down to `floor` (a factor) at `total`."""

    def __init__(self, optimizer: Optimizer, total: int, warmup: int = 0, floor: float = 0.0):
        require(0 <= warmup < total, "CosineLR", "warmup", f"is {warmup}", f"less than `total` (={total})")
        self.total, self.warmup, self.floor = total, warmup, floor
        super().__init__(optimizer)

    def factor(self, count: int) -> float:
        if count < self.warmup:
            return (count + 1) / self.warmup
        progress = min((count - self.warmup) / (self.total - self.warmup), 1.0)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))
