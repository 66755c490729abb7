"""What happens beside a trainer's steps: decay of scales, moving average, recording, pruning, or whatever you add."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import prune  # complexity and plan are functions of it
from ..autograd.tensor import Tensor
from ..checks import require
from ..nn import Module
from ..optim.averaging import MovingAverage
from ..optim.decay import DynamicWeightDecay
from ..prune import scales

if TYPE_CHECKING:
    from .runs import Run
    from .trainer import Trainer


class Hook:
    """Base of hooks: override what you need. All of a trainer's hooks are called in order.

    name: what its state is saved by; no two hooks of a trainer share one.
    """

    name = "hook"

    def constants(self) -> tuple[Any, ...] | None:
        """What `after_backward` depends on besides arrays: while this stays the same, a step that was captured on a GPU
        may be replayed, without this method being called. None, the default: a step with this `after_backward` never
        is."""
        return None

    def after_backward(self, trainer: Trainer) -> Mapping[str, Tensor] | None:
        """Gradients are there, and may be changed; the optimiser has not moved yet. Returns terms to log, by name,
        tensors of shape (). The step does not count if one of them, or a gradient, is not finite; this may then be
        called once more, to find out where that number came from."""

    def after_step(self, trainer: Trainer) -> None:
        """The optimiser has moved, unless training has halted: `trainer.optimizer.state` says so to kernels."""

    def after_epoch(self, trainer: Trainer) -> Mapping[str, Any] | None:
        """The last step of an epoch or of the run has been made and read. Returns entries for its log line."""

    def before_epoch(self, trainer: Trainer, run: Run) -> None:
        """An epoch is about to begin; the one before it has been validated. If the run is interrupted before its next
        checkpoint, this is called once more, with everything as it was before."""

    def before_saving(self, trainer: Trainer, run: Run) -> None:
        """A checkpoint is about to be written."""

    def networks(self, trainer: Trainer) -> Mapping[str, Module]:
        """name -> network to be validated and saved beside the trainer's own: log lines have its scores under this
        name, weight files end with it."""
        return {}

    def replaced(self, trainer: Trainer) -> None:
        """The trainer has another network now, with an optimiser of its own: one with fewer channels, say."""

    def state_dict(self) -> dict[str, np.ndarray]:
        """name -> NumPy array of all that `load_state_dict` needs to go on bit for bit."""
        return {}

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Go on from the arrays of `state`, which have the names, shapes and dtypes of `state_dict()`."""


class ScaleDecay(Hook):
    """Decay of the blocks' scales, by a `DynamicWeightDecay` that `make` returns for a network; logs its penalty.

    finetuned: likewise, for use after pruning.
    """

    name = "decay"

    def __init__(
        self, model: Module, make: Callable[[Module], DynamicWeightDecay],
        finetuned: Callable[[Module], DynamicWeightDecay] | None = None,
    ):  # fmt: skip
        self._makers = make, finetuned or make
        self._finetuning = False
        self._decide(model)

    def _decide(self, model):
        self._model, self.decay = model, self._makers[self._finetuning](model)

    def constants(self):
        decay = self.decay  # a metric of a user's is computed on the host
        return None if callable(decay.metric) else (decay, decay.strength, decay.metric, tuple(decay.factors))

    def after_backward(self, trainer):
        return {"penalty": self.decay.apply()}

    def replaced(self, trainer):
        self._decide(trainer.model)

    def finetune(self) -> None:
        """Use the other decay from now on."""
        self._finetuning = True
        self._decide(self._model)

    def state_dict(self):
        return {"finetuning": np.array(self._finetuning)}

    def load_state_dict(self, state):
        self._finetuning = bool(state["finetuning"])
        self._decide(self._model)


class Averaging(Hook):
    """A moving average of the network's weights and statistics (`optim.MovingAverage`), which is validated, and saved
    as weights/last-average and weights/best-average."""

    name = "average"

    def __init__(self, model: Module, decay: float = 0.999):
        self.moving = MovingAverage(model, decay)
        self._start = 0  # how many steps came before it

    def after_step(self, trainer):
        own = self.moving.model is trainer.model
        require(own, "Averaging", "model", "is another one than the trainer's", "the same")
        self.moving.seek(trainer.steps - 1 - self._start)  # steps that halted, and so did not count, are made again
        self.moving.update(trainer.optimizer.state)

    def networks(self, trainer):
        if trainer.size is not None:
            trainer.task.resized(self.moving.average, trainer.size)
        return {self.name: self.moving.average}

    def before_saving(self, trainer, run):
        run.keep(self.networks(trainer)[self.name], f"last-{self.name}")

    def replaced(self, trainer):
        self.moving.replace(trainer.model)
        self._start = trainer.steps

    def state_dict(self):
        return {**self.moving.state_dict(), "start": np.array(self._start)}

    def load_state_dict(self, state):
        self._start = int(state["start"])
        self.moving.load_state_dict({name: array for name, array in state.items() if name != "start"})


class Recording(Hook):
    """Logs, with the last step of each epoch, how the blocks' scales are distributed (`prune.scales`)."""

    name = "recording"

    def after_epoch(self, trainer):
        return {"gammas": scales.gammas(trainer.model), "spreads": scales.spreads(trainer.model)}


class Pruning(Hook):
    """Removes the channels of a CSNet whose scales have vanished, once, before the first epoch that begins after
    `after` steps or later (paper, algorithm 1). The network with all its channels is kept as weights/wide.

    decay: the hook that decays the scales, which goes on to finetune then.
    """

    name = "pruning"

    def __init__(self, after: int, threshold: float = prune.THRESHOLD, decay: ScaleDecay | None = None):
        self.after, self.threshold, self.decay = after, threshold, decay
        self.pruned = False

    def before_epoch(self, trainer, run):
        if self.pruned or trainer.steps < self.after:
            return
        run.keep(trainer.model, "wide")
        before = prune.complexity(trainer.model)
        self.prune(trainer)
        after, run.best = prune.complexity(trainer.model), {}
        run.log({"step": trainer.steps, "epoch": run.epoch, "parameters": [before.parameters, after.parameters],
                 "macs": [before.macs, after.macs], "pruned": True})  # fmt: skip

    def prune(self, trainer: Trainer) -> prune.Plan:
        """Remove the channels now, also from the optimiser's state; returns the plan."""
        plan = prune.plan(trainer.model, threshold=self.threshold)
        trainer.replace(prune.apply(trainer.model, plan), plan.slice)
        self.pruned = True
        if self.decay is not None:
            self.decay.finetune()
        return plan

    def state_dict(self):
        return {"pruned": np.array(self.pruned)}

    def load_state_dict(self, state):
        self.pruned = bool(state["pruned"])
