"""How a CSNet is trained: optimiser, learning rate, decay, pruning, averaging; the defaults are the paper's."""

import dataclasses
import math
import types
from collections.abc import Callable
from typing import Any

import numpy as np

from .. import prune
from ..checks import require, require_integer
from ..nn import Module
from ..optim import (
    SGD,
    Adam,
    AdamW,
    CosineLR,
    DynamicWeightDecay,
    MultiStepLR,
    OneCycleLR,
    decayed_norms,
    parameter_groups,
)
from .hooks import Averaging, Pruning, Recording, ScaleDecay
from .settings import DECAYS, OPTIMIZERS, SCHEDULES, SETTINGS
from .tasks import Saliency, Task
from .trainer import Trainer

WARMUP = 500  # most steps of the cosine's warm-up; a twentieth of a shorter run


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is minimised, and how; the defaults are the paper's.

    schedule: "milestones" divides lr by 10 after two thirds and again after five sixths of the run (the paper's epochs
    200 and 250 of 300), "cosine" warms up linearly over a twentieth of the run, at most `WARMUP` steps, then lets lr
    fall to zero along half a cosine, "one-cycle" rises to lr over three tenths of the run and falls again, "constant"
    keeps it.
    optimizer: "adam" (with betas and coupled L2), "adamw" (likewise, decoupled) or "sgd" (with momentum). clip: the
    largest norm of all gradients together; None for no limit.
    weight_decay: ordinary L2, on all but the scales of the ILBlocks' norms. decay: that of these scales, "dynamic"
    (csnet.md, section 3), "standard", ordinary L2 as for all others, or "none". decay_strength: its factor; None stands
    for that in `DECAYS`. metric and branch_factor: those of `optim.DynamicWeightDecay`, for dynamic decay.

    finetuning: this many steps before the end of the run, or at the first epoch that begins later, the network is
    pruned by `threshold` of gamma (paper, algorithm 1) and trained further with standard decay; 0 for never.
    average: the decay of a moving average of the weights; None for none.
    """

    lr: float = SETTINGS["lr"].default
    schedule: str = SETTINGS["schedule"].default
    optimizer: str = SETTINGS["optimizer"].default
    betas: tuple[float, float] = (0.9, 0.99)
    momentum: float = SETTINGS["momentum"].default
    clip: float | None = None
    weight_decay: float = SETTINGS["weight_decay"].default
    decay: str = SETTINGS["decay"].default
    decay_strength: float | None = None
    metric: str | Callable[[np.ndarray, int], np.ndarray] = "average_pooling"
    branch_factor: float = 1.0
    finetuning: int = 0
    threshold: float = prune.THRESHOLD
    average: float | None = None

    def __post_init__(self):
        for name, known in (("schedule", SCHEDULES), ("decay", DECAYS), ("optimizer", OPTIMIZERS)):
            value = getattr(self, name)
            require(value in known, "Recipe", name, f"is {value!r}", " or ".join(known))
        idle = self.decay == "none" and self.decay_strength
        require(not idle, "Recipe", "decay_strength", f"is {self.decay_strength} of no decay", "none")
        require_integer(self.finetuning, "Recipe", "finetuning", 0)
        for name in ("lr", "momentum", "clip", "weight_decay", "average"):
            value = getattr(self, name)
            try:
                fits = value is None or SETTINGS[name].parse(value) is not None
            except (TypeError, ValueError):
                fits = False
            require(fits, "Recipe", name, f"is {value!r}", SETTINGS[name].expected)

    def trainer(
        self, model: Module, task: Task | None = None, total: int | None = None, seed: int = 0
    ) -> Trainer:
        """A trainer that follows this recipe for `total` steps. task: `Saliency()` if it is None."""
        fits = self.finetuning < (total or 1)
        require(fits, "Recipe", "total", f"is {total}, {self.finetuning} of them of finetuning", "more steps")
        hooks: list[Any] = []
        if any(norm.weight.requires_grad for norm in decayed_norms(model)):
            ordinary = dataclasses.replace(self, decay="standard", decay_strength=None)
            hooks += [ScaleDecay(model, self.scale_decay, ordinary.scale_decay), Recording()]
        if self.finetuning:
            able = bool(hooks) and prune.prunable(model)
            kind = "has no scales that may vanish, or cannot be pruned"
            require(able, "Recipe", "model", kind, "a CSNet with depthwise layers that are not frozen")
            hooks.append(Pruning(total - self.finetuning, self.threshold, hooks[0]))  # type: ignore[operator]
        optimizer = self.optimizer_for(model)
        if self.average is not None:
            hooks.append(Averaging(model, self.average))
        return Trainer(model, task or Saliency(), optimizer, self.schedule_for(optimizer, total), total, hooks, seed)

    def optimizer_for(self, model: Module) -> Any:
        """The optimiser of a network's parameters, those that require gradients."""
        groups = parameter_groups(model, self.weight_decay)
        if self.optimizer == "sgd":
            return SGD(groups, self.lr, momentum=self.momentum, max_norm=self.clip)
        kind = AdamW if self.optimizer == "adamw" else Adam
        return kind(groups, self.lr, self.betas, max_norm=self.clip)

    def schedule_for(self, optimizer: Any, total: int | None) -> Any:
        """The learning rate of each of `total` steps; a run without an end keeps the rate it starts with."""
        if total is None or self.schedule == "constant":
            return MultiStepLR(optimizer, ())
        if self.schedule == "milestones":
            return MultiStepLR(optimizer, (math.ceil(total * 2 / 3), math.ceil(total * 5 / 6)))
        if self.schedule == "one-cycle":
            return OneCycleLR(optimizer, total)
        return CosineLR(optimizer, total, warmup=min(total // 20, WARMUP))

    def rate(self, step: int, total: int | None) -> float:
        """The learning rate of a step, counted from 0, of `total` steps."""
        alone: Any = types.SimpleNamespace(groups=[{"lr": self.lr}])  # all that a schedule asks of an optimiser
        return self.lr * self.schedule_for(alone, total).factor(step)

    def scale_decay(self, model: Module) -> DynamicWeightDecay:
        """What decays the scales of the ILBlocks' norms; without decay, it still gives the penalty of dynamic decay."""
        strength = DECAYS[self.decay] if self.decay_strength is None else self.decay_strength
        if self.decay == "standard":
            return DynamicWeightDecay(model, strength, "constant")
        return DynamicWeightDecay(model, strength, self.metric, self.branch_factor)
