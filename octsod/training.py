"""The authors' training recipe (csnet.md, section 5): a trainer that makes steps, and the loop with its log."""

import dataclasses
import json
import math
import pathlib
import time

import numpy as np

from . import functional as f
from .checks import require, require_integer
from .errors import OctsodError
from .optim import Adam, DynamicWeightDecay, MultiStepLR, parameter_groups
from .tensor import Tensor
from .weights import save


class DivergenceError(OctsodError):
    """A loss or a parameter has become infinite or not a number."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What is minimised and how; the defaults are the paper's.

    lr is divided by 10 at the start of each epoch in `milestones` (epochs count from 0). weight_decay: ordinary L2, on
    all but the scales of the ILBlocks' norms; dynamic_decay: the factor of their penalty (csnet.md, section 3).
    """

    lr: float = 1e-4
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 5e-3
    dynamic_decay: float = 3.0
    milestones: tuple[int, ...] = (200, 250)


class Trainer:
    """A model on its way: the model, its optimiser, schedule and decay, and where it is.

    steps: steps made. epoch: the epoch that it is in.
    """

    def __init__(self, model, recipe=None):
        self.model, self.recipe = model, recipe or Recipe()
        r = self.recipe
        self.optimizer = Adam(parameter_groups(model, r.weight_decay), r.lr, r.betas)
        self.schedule = MultiStepLR(self.optimizer, r.milestones)
        self.decay = DynamicWeightDecay(model, r.dynamic_decay)
        self.steps = self.epoch = 0

    @property
    def lr(self):
        return self.optimizer.groups[0]["lr"]

    def step(self, x, y):
        """One step on x (N, 3, H, W), normalised pictures, and y (N, 1, H, W), masks in [0, 1], in the model's dtype.

        Returns the mean binary cross-entropy before the step and the unscaled penalty of dynamic weight decay. Raises
        DivergenceError, before the optimiser changes anything, if one of them is not finite.
        """
        self.model.train()
        self.optimizer.zero_grad()
        loss = f.binary_cross_entropy_with_logits(self.model(Tensor(x)), Tensor(y))
        value = loss.item()
        if not math.isfinite(value):
            raise DivergenceError(f"training stopped: the loss of step {self.steps + 1} is not finite ({value}).")
        loss.backward()
        penalty = self.decay.apply()
        if not math.isfinite(penalty):
            raise DivergenceError(f"training stopped: the penalty of step {self.steps + 1} is not finite ({penalty}).")
        self.optimizer.step()
        self.steps += 1
        return value, penalty

    def next_epoch(self):
        """Go on to the next epoch: the learning rate follows its schedule."""
        self.epoch += 1
        self.schedule.step()

    def save(self, path):
        """Write the weights, all or nothing. Raises DivergenceError, and writes nothing, if one is not finite."""
        for name, array in self.model.state_dict().items():
            if not np.isfinite(array).all():
                raise DivergenceError(f"training stopped: after step {self.steps}, `{name}` is not finite everywhere.")
        save(self.model, path)


def train(trainer, loader, folder, steps=None, epochs=None, save_every=100, on_step=None):
    """Train until `steps` steps or `epochs` epochs are done, whichever comes first; returns the last line of the log.

    loader: a `data.Loader`. folder: where `log.jsonl` gets a line per step, and `weights/last.safetensors` is written
    every `save_every` steps and at the end; it is made if need be. on_step: called with each line, a dict of
    step (from 1), epoch (from 0), loss, penalty, lr, img_s (pictures per second, waiting included) and data_wait_ms.

    Raises DivergenceError if a number is not finite (the weights saved last are good), FileError if a picture cannot be
    read.
    """
    require(steps is not None or epochs is not None, "train", "steps", "is None, as is `epochs`", "one of them")
    for name, value in (("steps", steps), ("epochs", epochs)):
        if value is not None:
            require_integer(value, "train", name, 1)
    require_integer(save_every, "train", "save_every", 1)
    folder = pathlib.Path(folder)
    last = folder / "weights" / "last.safetensors"
    last.parent.mkdir(parents=True, exist_ok=True)
    saved_at, line = None, None
    with open(folder / "log.jsonl", "a", encoding="utf-8", buffering=1) as log:
        for line in _lines(trainer, loader, steps, epochs):
            log.write(json.dumps(line) + "\n")
            if on_step is not None:
                on_step(line)
            if trainer.steps % save_every == 0:
                trainer.save(last)
                saved_at = trainer.steps
    if saved_at != trainer.steps:
        trainer.save(last)
    return line


def _lines(trainer, loader, steps, epochs):
    """Make the steps; yield the log's line of each."""
    dtype = trainer.model.dtype
    while epochs is None or trainer.epoch < epochs:
        batches = loader.epoch(trainer.epoch)
        try:
            while steps is None or trainer.steps < steps:
                start = time.perf_counter()
                batch = next(batches, None)
                if batch is None:
                    break
                arrived = time.perf_counter()
                x, y = (a.astype(dtype, copy=False) for a in batch)
                lr = trainer.lr
                loss, penalty = trainer.step(x, y)
                yield {
                    "step": trainer.steps,
                    "epoch": trainer.epoch,
                    "loss": loss,
                    "penalty": penalty,
                    "lr": lr,
                    "img_s": round(len(x) / (time.perf_counter() - start), 2),
                    "data_wait_ms": round(1000 * (arrived - start), 2),
                }
            else:
                return
        finally:
            batches.close()  # its threads shall not outlive a training that stops in the middle of an epoch
        trainer.next_epoch()
