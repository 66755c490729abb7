"""The authors' training recipe (csnet.md, section 5), and a trainer that follows it step by step."""

import collections
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from .. import functional as f
from .. import prune  # complexity is the function
from ..autograd.tensor import Tensor
from ..backend import now
from ..checks import require, require_integer
from ..errors import OctsodError
from ..models import CSNet
from ..optim.adam import Adam
from ..optim.decay import DynamicWeightDecay, parameter_groups
from ..optim.schedules import CosineLR, MultiStepLR
from .diagnosis import first_nonfinite
from .settings import DECAYS, SCHEDULES, SETTINGS

LOSS, PENALTY, GRADIENT = 1, 2, 3  # what the kernel `record_step` found to be non-finite
WARMUP = 500  # most steps of the cosine's warm-up; a twentieth of a shorter run


class DivergenceError(OctsodError):
    """A loss, gradient or parameter has become infinite or not a number."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is minimised, and how; the defaults are the paper's.

    schedule: "milestones" divides lr by 10 after two thirds and again after five sixths of the run (the paper's epochs
    200 and 250 of 300), "cosine" warms up linearly, then lets lr fall to zero along half a cosine, "constant" keeps it.
    weight_decay: ordinary L2, on all but the scales of the ILBlocks' norms. decay: that of these scales, "dynamic"
    (csnet.md, section 3), "standard", ordinary L2 as for all others, or "none". decay_strength: its factor; None stands
    for that in `DECAYS`. metric and branch_factor: those of `optim.DynamicWeightDecay`, for dynamic decay.

    finetuning: this many steps before the end of the run, the network is pruned by `threshold` of gamma (paper,
    algorithm 1) and trained further with standard decay; 0 for never.
    """

    lr: float = SETTINGS["lr"].default
    schedule: str = SETTINGS["schedule"].default
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = SETTINGS["weight_decay"].default
    decay: str = SETTINGS["decay"].default
    decay_strength: float | None = None
    metric: str | Callable[[np.ndarray, int], np.ndarray] = "average_pooling"
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

    def scale_decay(self, model: CSNet) -> DynamicWeightDecay:
        """What decays the scales of the ILBlocks' norms; without decay, it still gives the penalty of dynamic decay."""
        strength = DECAYS[self.decay] if self.decay_strength is None else self.decay_strength
        if self.decay == "standard":
            return DynamicWeightDecay(model, strength, "constant")
        return DynamicWeightDecay(model, strength, self.metric, self.branch_factor)


def _schedule(optimizer, name, total):
    """The learning rate of each of `total` steps; a run without an end keeps the rate it starts with."""
    if total is None or name == "constant":
        return MultiStepLR(optimizer, ())
    if name == "milestones":
        return MultiStepLR(optimizer, (math.ceil(total * 2 / 3), math.ceil(total * 5 / 6)))
    return CosineLR(optimizer, total, warmup=min(total // 20, WARMUP))


class Step(NamedTuple):
    """A step's results. number: from 1. loss: before it. penalty: of the scales' decay, unscaled. lr: used in it."""

    number: int
    loss: float
    penalty: float
    lr: float


class _Ring:
    """The latest steps' results, kept on the device until they are read, with the batches they were made on."""

    def __init__(self, device):
        self.device = device
        self.rows = device.zeros((device.steps_ahead, 3), "float64")
        self.waiting = collections.deque()  # (number, lr, x, y) of steps whose results have not been read
        self.read = collections.deque(maxlen=device.steps_ahead)  # `Step`s that have not been collected

    @property
    def full(self):
        return len(self.waiting) >= self.rows.shape[0]

    def fetch(self):
        """(number, lr, x, y, loss, penalty, code) of each waiting step. Waits for the device."""
        rows = now(self.device).get(self.rows) if self.waiting else ()
        while self.waiting:
            number, *rest = self.waiting.popleft()
            loss, penalty, code = rows[(number - 1) % len(rows)].tolist()
            yield number, *rest, loss, penalty, int(code)


class Trainer:
    """A model in training, with all that the next step depends on except the data: optimiser, schedule, decay.

    total: how many steps the run will have, over which the learning rate falls; None keeps it. steps: how many were
    made. pruned_after: the number of steps after which `prune` is due, or None.

    A step does not wait for the model's device. Loss and penalty stay there until `device.steps_ahead` steps are under
    way, or `sync` is called. A step with a number that is not finite changes nothing, and neither do later steps.
    """

    def __init__(self, model: CSNet, recipe: Recipe | None = None, total: int | None = None):
        self.recipe = recipe or Recipe()
        self.total: Any = None if total is None else require_integer(total, "Trainer", "total", 1)
        finetuning = self.recipe.finetuning
        fits = finetuning < (self.total or 1)
        require(fits, "Trainer", "total", f"is {self.total}, {finetuning} of them of finetuning", "more steps")
        self.pruned_after = self.total - finetuning if finetuning else None  # type: ignore[operator]
        self.steps = 0
        self._take(model)

    def _take(self, model):
        r, self.model = self.recipe, model
        self.optimizer = Adam(parameter_groups(model, r.weight_decay), r.lr, r.betas)
        self.schedule = _schedule(self.optimizer, r.schedule, self.total)
        ordinary = dataclasses.replace(r, decay="standard", decay_strength=None)
        self._decays = r.scale_decay(model), ordinary.scale_decay(model)
        self._ring = _Ring(model.device)
        self._keepers = [(module, name) for module in model.modules() for name in module.buffers]
        self._saved = model.device.zeros((sum(math.prod(a.shape) for a in self._statistics),), "float64")

    @property
    def _statistics(self):
        """The arrays that a forward pass changes: running means and variances."""
        return [getattr(module, name) for module, name in self._keepers]

    @property
    def decay(self) -> DynamicWeightDecay:
        """What decays the scales in the next step."""
        return self._decays[self.pruned_after is not None and self.steps >= self.pruned_after]

    def prune(self) -> prune.Plan:
        """Remove the channels below the recipe's threshold, also from the optimiser's moments; returns the plan."""
        self.sync()
        read = self.collect()
        plan = prune.plan(self.model, threshold=self.recipe.threshold)
        pruned, before = prune.apply(self.model, plan), self.state_dict()
        self._take(pruned)
        state = {"steps": before["steps"], **{f"model.{name}": a for name, a in pruned.state_dict().items()}}
        for name, _ in pruned.named_parameters():
            state.update({f"{m}.{name}": plan.slice(name, before[f"{m}.{name}"]) for m in ("first", "second")})
        self.load_state_dict(state)
        self._ring.read.extend(read)
        return plan

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.groups[0]["lr"]

    def step(self, x: Any, y: Any) -> tuple[float, float] | None:
        """One step on x (N, 3, H, W), normalised pictures, and y (N, 1, H, W), masks in [0, 1], in the model's dtype.

        Returns the mean binary cross-entropy before the step and the unscaled penalty of the scales' decay, or None if
        they have not been read: on a host they always are, elsewhere every `device.steps_ahead` steps. `collect`
        returns those of all steps. Raises DivergenceError, with the model as it was before, if one of them or a
        gradient is not finite in a step that is read; x and y must not be changed until then.
        """
        device, optimizer = self.model.device, self.optimizer
        if not device.shares_memory_with(self._ring.device):
            was = f"is on {device.name}"
            require(False, "step", "model", was, f"{self._ring.device.name}, where its trainer was made")
        self.model.train()
        optimizer.zero_grad()
        statistics = self._statistics
        device.kernels.gather(statistics, self._saved)
        loss = self._loss(x, y)
        loss.backward()
        penalty = self.decay.apply()
        gradients = [(flat, ranges) for flat, ranges in optimizer.gradients() if ranges is not None]
        device.kernels.record_step(loss.data, penalty.data, gradients, self._ring.rows, optimizer.state)
        device.kernels.restore_if_halted(statistics, self._saved, optimizer.state)
        self._ring.waiting.append((self.steps + 1, self.lr, x, y))
        try:
            optimizer.step()
            self.schedule.step()
            self.steps += 1
        except BaseException:  # such as Ctrl-C: the step counts if the optimiser has made it, but its results are lost
            self._ring.waiting.pop()
            self.steps = optimizer.steps
            self.schedule.seek(self.steps)
            raise
        if not self._ring.full:
            return None
        self.sync()
        return self._ring.read[-1][1:3]

    def sync(self) -> None:
        """Read the results of all steps under way. Waits for the device; raises as `step` does."""
        for number, lr, x, y, loss, penalty, code in self._ring.fetch():
            if code:
                self._ring.waiting.clear()  # later steps have changed nothing
                try:
                    raise self._divergence(number, code, loss, penalty, x, y)
                finally:
                    self._seek(number - 1)
            self._ring.read.append(Step(number, loss, penalty, lr))

    def collect(self) -> list[Step]:
        """The results of the steps that have been read since the last call: up to `device.steps_ahead` of them."""
        steps = list(self._ring.read)
        self._ring.read.clear()
        return steps

    def _loss(self, x, y):
        x, y = (Tensor.on(self.model.device, array) for array in (x, y))
        return f.binary_cross_entropy_with_logits(self.model(x), y)

    def _seek(self, steps):
        """Set the count of steps to `steps`, and continue from there."""
        self.steps = steps
        self.optimizer.seek(steps)
        self.schedule.seek(steps)

    def _divergence(self, number, code, loss, penalty, x, y):
        """The error that says where the first non-finite number came from: the step is repeated on its batch, as far
        as its gradients. The model stays as it was."""
        model, device = self.model, self.model.device
        statistics, saved = self._statistics, device.zeros(self._saved.shape, "float64")
        device.kernels.gather(statistics, saved)
        self.optimizer.zero_grad()
        try:
            if code == GRADIENT:
                self._loss(x, y).backward()
                self.decay.apply()
                # Backward goes from the last layer to the first, so of the names affected, the last one was first.
                named = [(name, p.grad) for name, p in model.named_parameters() if p.grad is not None]
                bad = [name for name, grad in named if not np.isfinite(device.get(grad)).all()]
                whose = f"the first gradient that is not finite is that of `{bad[-1]}`"
                what, first = whose if bad else "a gradient is not finite", ""
            else:
                what = f"the loss is {loss}" if code == LOSS else f"the penalty on the scales is {penalty}"
                where = first_nonfinite(model, lambda: self._loss(x, y))
                first = f"; the first number that is not finite is in {where}" if where else ""
        finally:
            device.kernels.restore_if_halted(statistics, saved, self.optimizer.state)
            self.optimizer.zero_grad()
        return DivergenceError(f"training stopped in step {number}: {what}{first}.")

    def state_dict(self) -> dict[str, np.ndarray]:
        """name -> NumPy array of all that `load_state_dict` needs to continue bit for bit; on a host, not a copy.

        `steps`; per entry NAME of the model's, `model.NAME`; per parameter, Adam's moments `first.NAME`, `second.NAME`.
        Waits for the steps under way, and raises as `step` does if one of them was not finite.
        """
        self.sync()
        get, moments = self.model.device.get, self.optimizer.moments
        state = {"steps": np.array(self.steps)}
        state.update({f"model.{name}": array for name, array in self.model.state_dict().items()})
        for name, p in self.model.named_parameters():
            state[f"first.{name}"], state[f"second.{name}"] = map(get, moments[id(p)])
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue where the trainer of `state` was; raises ValueError, and changes nothing, if that does not fit."""
        self._ring.waiting.clear()  # their results are discarded
        own = self.state_dict()
        odd = sorted(own.keys() ^ state.keys())
        require(not odd, "load_state_dict", "state", f"has or lacks {', '.join(odd[:3])}", "the trainer's own names")
        for name, array in state.items():
            fits = array.shape == own[name].shape and array.dtype == own[name].dtype
            was = f"is {array.dtype} {array.shape}"
            require(fits, "load_state_dict", name, was, f"{own[name].dtype} {own[name].shape}")
        prefix = "model."
        self.model.load_state_dict({n[len(prefix) :]: a for n, a in state.items() if n.startswith(prefix)})
        put, moments = self.model.device.put, self.optimizer.moments
        for name, p in self.model.named_parameters():
            for kind, moment in zip(("first", "second"), moments[id(p)], strict=True):
                put(state[f"{kind}.{name}"], moment)
        self._seek(int(state["steps"]))
        self._ring.read.clear()

    def require_finite(self) -> None:
        """Raise DivergenceError, which names the culprit, if anything to be saved is not finite."""
        for name, array in self.state_dict().items():
            if not np.isfinite(array).all():
                raise DivergenceError(f"training stopped after step {self.steps}: `{name}` is not finite everywhere.")
