"""The authors' training recipe (csnet.md, section 5), and a trainer that makes steps."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from .. import functional as f
from .. import prune  # complexity is the function
from ..autograd.tensor import Tensor
from ..checks import require, require_integer
from ..errors import OctsodError
from ..optim.adam import Adam
from ..optim.decay import DynamicWeightDecay, average_pooling, constant, parameter_groups
from ..optim.schedules import CosineLR, MultiStepLR
from .diagnosis import first_nonfinite

SCHEDULES = ("milestones", "cosine", "constant")


WEIGHT_DECAY = 5e-3


DECAYS = {"dynamic": 3.0, "standard": WEIGHT_DECAY, "none": 0.0}  # of the scales, each with its usual strength


WARMUP = 500  # steps of the cosine's warm-up at most; a twentieth of a shorter run


class DivergenceError(OctsodError):
    """A loss, gradient or parameter has become infinite or not a number."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is minimised and how; the defaults are the paper's.

    schedule: "milestones" divides lr by 10 after two thirds and again after five sixths of the run (the paper's epochs
    200 and 250 of 300), "cosine" warms up linearly, then lets lr fall to nothing along half a cosine, "constant" keeps
    it. weight_decay: ordinary L2, on all but the scales of the ILBlocks' norms. decay: what those get, "dynamic"
    (csnet.md, section 3), "standard", ordinary L2 as all others, or "none". decay_strength: its factor; None stands for
    that in `DECAYS`. metric and branch_factor: those of `optim.DynamicWeightDecay`, for dynamic decay.

    finetuning: so many steps before its end, the network is pruned by `threshold` of gamma (paper, algorithm 1) and
    goes on with standard decay; 0 for never.
    """

    lr: float = 1e-4
    schedule: str = "milestones"
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = WEIGHT_DECAY
    decay: str = "dynamic"
    decay_strength: float | None = None
    metric: Callable[[np.ndarray, int], np.ndarray] = average_pooling
    branch_factor: float = 1.0
    finetuning: int = 0
    threshold: float = prune.THRESHOLD

    def __post_init__(self):
        for name, known in (("schedule", SCHEDULES), ("decay", DECAYS)):
            value = getattr(self, name)
            require(value in known, "Recipe", name, f"is {value!r}", " or ".join(known))
        idle = self.decay == "none" and self.decay_strength
        require(not idle, "Recipe", "decay_strength", f"is {self.decay_strength} of no decay", "none")
        require_integer(self.finetuning, "Recipe", "finetuning", 0)

    def scale_decay(self, model):
        """What decays the scales of the ILBlocks' norms; without decay, it still tells the penalty of dynamic decay."""
        strength = DECAYS[self.decay] if self.decay_strength is None else self.decay_strength
        if self.decay == "standard":
            return DynamicWeightDecay(model, strength, constant)
        return DynamicWeightDecay(model, strength, self.metric, self.branch_factor)


def _schedule(optimizer, name, total):
    """The learning rate of each of `total` steps; a run without an end keeps the one that it starts with."""
    if total is None or name == "constant":
        return MultiStepLR(optimizer, ())
    if name == "milestones":
        return MultiStepLR(optimizer, (math.ceil(total * 2 / 3), math.ceil(total * 5 / 6)))
    return CosineLR(optimizer, total, warmup=min(total // 20, WARMUP))


class Trainer:
    """A model on its way, with all that the next step depends on but the data: optimiser, schedule, decay.

    total: the steps that the run is to have, over which the learning rate falls; None keeps it. steps: those made.
    pruned_after: the number of steps after which `prune` is due, or None.
    """

    def __init__(self, model, recipe=None, total=None):
        self.recipe = recipe or Recipe()
        self.total = None if total is None else require_integer(total, "Trainer", "total", 1)
        finetuning = self.recipe.finetuning
        fits = finetuning < (self.total or 1)
        require(fits, "Trainer", "total", f"is {self.total}, {finetuning} of them of finetuning", "more steps")
        self.pruned_after = self.total - finetuning if finetuning else None
        self.steps = 0
        self._take(model)

    def _take(self, model):
        r, self.model = self.recipe, model
        self.optimizer = Adam(parameter_groups(model, r.weight_decay), r.lr, r.betas)
        self.schedule = _schedule(self.optimizer, r.schedule, self.total)
        ordinary = dataclasses.replace(r, decay="standard", decay_strength=None)
        self._decays = r.scale_decay(model), ordinary.scale_decay(model)

    @property
    def decay(self):
        """What decays the scales in the next step."""
        return self._decays[self.pruned_after is not None and self.steps >= self.pruned_after]

    def prune(self):
        """Remove the channels below the recipe's threshold, moments of the optimiser likewise; returns the plan."""
        plan = prune.plan(self.model, threshold=self.recipe.threshold)
        pruned, before = prune.apply(self.model, plan), self.state_dict()
        self._take(pruned)
        state = {"steps": before["steps"], **{f"model.{name}": a for name, a in pruned.state_dict().items()}}
        for name, _ in pruned.named_parameters():
            state.update({f"{m}.{name}": plan.slice(name, before[f"{m}.{name}"]) for m in ("first", "second")})
        self.load_state_dict(state)
        return plan

    @property
    def lr(self):
        """The learning rate of the next step."""
        return self.optimizer.groups[0]["lr"]

    def step(self, x, y):
        """One step on x (N, 3, H, W), normalised pictures, and y (N, 1, H, W), masks in [0, 1], in the model's dtype.

        Returns the mean binary cross-entropy before the step and the unscaled penalty of the scales' decay. Raises
        DivergenceError, before the optimiser changes anything, if one of them or a gradient is not finite.
        """
        self.model.train()
        self.optimizer.zero_grad()
        loss = self._loss(x, y)
        value = loss.item()
        if not math.isfinite(value):
            raise self._divergence(f"the loss is {value}", x, y)
        loss.backward()
        penalty = self.decay.apply()
        if not math.isfinite(penalty):
            raise self._divergence(f"the penalty on the scales is {penalty}", x, y)
        self._require_finite_gradients()
        self.optimizer.step()
        self.schedule.step()
        self.steps += 1
        return value, penalty

    def _loss(self, x, y):
        return f.binary_cross_entropy_with_logits(self.model(Tensor(x)), Tensor(y))

    def _divergence(self, what, x, y):
        """The error that says where `what` came from, which costs one more forward pass."""
        where = first_nonfinite(self.model, lambda: self._loss(x, y))
        first = f"; the first number that is not finite is in {where}" if where else ""
        return DivergenceError(f"training stopped in step {self.steps + 1}: {what}{first}.")

    def _require_finite_gradients(self):
        gradients = [p.grad for group in self.optimizer.groups for p in group["params"] if p.grad is not None]
        # One check of all, since 400 small ones would cost three times as much.
        if np.isfinite(np.concatenate([gradient.reshape(-1) for gradient in gradients])).all():
            return
        named = [(name, p.grad) for name, p in self.model.named_parameters() if p.grad is not None]
        # Backward goes from the last layer to the first, so the last name that is hit was hit first.
        name = [name for name, gradient in named if not np.isfinite(gradient).all()][-1]
        raise DivergenceError(
            f"training stopped in step {self.steps + 1}: the first gradient that is not finite is that of `{name}`."
        )

    def state_dict(self):
        """name -> array (not a copy) of all that `load_state_dict` needs to go on bit by bit.

        `steps`; per entry NAME of the model's `model.NAME`; per parameter Adam's moments `first.NAME`, `second.NAME`.
        """
        state = {"steps": np.array(self.steps)}
        state.update({f"model.{name}": array for name, array in self.model.state_dict().items()})
        names = {id(p): name for name, p in self.model.named_parameters()}
        for group, moments in zip(self.optimizer.groups, self.optimizer.moments, strict=True):
            for p, (first, second) in zip(group["params"], moments, strict=True):
                state[f"first.{names[id(p)]}"], state[f"second.{names[id(p)]}"] = first, second
        return state

    def load_state_dict(self, state):
        """Go where the trainer was that `state` came from; raises ValueError, and changes nothing, if it cannot be."""
        own = self.state_dict()
        odd = sorted(own.keys() ^ state.keys())
        require(not odd, "load_state_dict", "state", f"has or lacks {', '.join(odd[:3])}", "the trainer's own names")
        for name, array in state.items():
            fits = array.shape == own[name].shape and array.dtype == own[name].dtype
            was = f"is {array.dtype} {array.shape}"
            require(fits, "load_state_dict", name, was, f"{own[name].dtype} {own[name].shape}")
        for name, array in state.items():
            own[name][...] = array
        self.steps = self.optimizer.steps = int(state["steps"])
        self.schedule.seek(self.steps)

    def require_finite(self):
        """Raise DivergenceError, which names the culprit, if anything to be saved is not finite."""
        for name, array in self.state_dict().items():
            if not np.isfinite(array).all():
                raise DivergenceError(f"training stopped after step {self.steps}: `{name}` is not finite everywhere.")
