"""The loop of a run: steps, validations, checkpoints, a log."""

import collections
import contextlib
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from ..checks import require, require_integer
from ..evaluation.scoring import evaluate
from ..inference.prediction import predict
from ..models import CSNet
from ..pictures.contact_sheets import contact_sheet
from ..prune import scales as distributions
from ..prune.counts import complexity
from .trainer import DivergenceError, Trainer


class _StoppedError(Exception):
    pass


class Validation:
    """Held-out pictures, a data set of `data.Sample`s: scores a model on them, and shows what it finds in some."""

    def __init__(self, dataset: Any):
        self.dataset = dataset

    def scores(self, model: CSNet, stop: Callable[[], bool] = lambda: False) -> dict[str, float] | None:
        """max_f and mae by the evaluation protocol (csnet.md, section 6); None if `stop()` became true meanwhile."""

        def check(done, name):
            if stop():
                raise _StoppedError

        try:
            result = evaluate(model, self.dataset, on_progress=check)
        except _StoppedError:
            return None
        return {"max_f": result.max_f, "mae": result.mae}

    def sheet(self, model: CSNet, columns: int = 8) -> np.ndarray:
        """A sheet (H, W, 3) uint8 of some of the pictures, their masks, and what the model finds."""
        chosen = np.unique(np.linspace(0, len(self.dataset) - 1, columns).astype(int))
        samples = [self.dataset[int(index)] for index in chosen]
        rows = zip(*((s.image, s.mask, predict(s.image, model)) for s in samples), strict=True)
        return contact_sheet(rows, ("pictures held out", "masks", "found"), cell=128)


def train(
    trainer: Trainer, loader: Any, run: Any, validation: Validation | None = None, save_every: int = 100,
    on_line: Callable[[dict], None] | None = None, stop: Callable[[], bool] = lambda: False,
) -> bool:  # fmt: skip
    """Make the remaining steps up to `trainer.total`; returns whether all are done, which `stop()` can prevent.

    loader: a `data.Loader`; a trainer that has made n steps gets its batch n next. Its size becomes the model's. run: a
    `runs.Run`. It logs a line per step (step, from 1; epoch, from 0; loss, penalty, lr; img_s, pictures per second,
    waiting included; data_wait_ms; at the end of an epoch, of the run and before pruning also the gammas and spreads of
    `distributions`), per validation, and where the network is pruned (parameters and macs, before and after). It writes
    a checkpoint every `save_every` steps, before pruning, after each validation and at the end.
    validation: a `Validation`, run after each epoch and at the end; if `stop()` cuts one short, it is made up for when
    the run is resumed. on_line: called with each line of the log.

    Raises DivergenceError if a number is not finite (the last checkpoint written is good), FileError if a picture
    cannot be read or the run folder cannot be written.
    """
    require(trainer.total is not None, "train", "trainer", "has no `total`", "the number of steps to make")
    require_integer(save_every, "train", "save_every", 1)
    note = on_line or (lambda line: None)
    trainer.model.size = loader.size
    run.checkpoint(trainer)
    while not stop():
        epoch, position = divmod(trainer.steps, len(loader))
        finished = trainer.steps >= trainer.total
        if validation and trainer.steps > run.validated and (finished or position == 0):
            trainer.require_finite()
            scores = validation.scores(trainer.model, stop)
            if scores is None:
                break
            note(run.record(trainer, {"epoch": (trainer.steps - 1) // len(loader), **scores}))
            run.plot("predictions", validation.sheet(trainer.model))
        if finished:
            break
        if trainer.steps == trainer.pruned_after:
            run.checkpoint(trainer)  # of this step, before pruning: a run that is resumed there is pruned again
            run.keep(trainer.model, "wide")
            before = complexity(trainer.model)
            trainer.prune()
            after, run.best = complexity(trainer.model), None
            line = {"step": trainer.steps, "epoch": epoch, "parameters": [before.parameters, after.parameters],
                    "macs": [before.macs, after.macs], "pruned": True}  # fmt: skip
            run.log(line)
            note(line)
        # Always closed, so that the loader's threads do not outlive a training that stops in the middle of an epoch.
        with contextlib.closing(_steps(trainer, loader, epoch, position, save_every, stop)) as lines:
            for line in lines:
                run.log(line)
                note(line)
                if line["step"] % save_every == 0:
                    run.checkpoint(trainer)
    run.checkpoint(trainer)
    return trainer.steps >= trainer.total and (validation is None or run.validated == trainer.steps)


def _steps(trainer, loader, epoch, position, save_every, stop):
    """Make the steps of an epoch from batch `position` on, as far as the run goes; yield the log line of each.

    The results of steps are read whenever the trainer has them, when a checkpoint is due, and at the end.
    """
    wide = trainer.pruned_after is not None and trainer.steps < trainer.pruned_after
    end = trainer.pruned_after if wide else trainer.total
    under_way = _UnderWay(trainer, epoch)
    with contextlib.closing(loader.epoch(epoch, position)) as batches:
        while trainer.steps < end and not stop():
            under_way.begin()
            batch = next(batches, None)
            if batch is None:
                break
            under_way.arrived(len(batch.x))
            last = trainer.steps + 1 == end or (trainer.steps + 1) % len(loader) == 0
            due = last or (trainer.steps + 1) % save_every == 0
            try:
                trainer.step(*(a.astype(trainer.model.dtype, copy=False) for a in batch))
                if due:
                    trainer.sync()
            except DivergenceError:
                yield from under_way.lines(trainer.collect())  # of the steps completed before it
                raise
            lines = under_way.lines(trainer.collect())
            if last:
                model = trainer.model
                lines[-1].update(gammas=distributions.gammas(model), spreads=distributions.spreads(model))
            yield from lines
        trainer.sync()
        yield from under_way.lines(trainer.collect())


class _UnderWay:
    """The log lines of steps whose results have not been read yet."""

    def __init__(self, trainer, epoch):
        self.trainer, self.epoch = trainer, epoch
        self._waiting = collections.deque()  # pictures and milliseconds of waiting for data, per step
        self._start = self._asked = 0.0

    def begin(self):
        """A batch is requested."""
        self._asked = time.perf_counter()
        if not self._waiting:
            self._start = self._asked

    def arrived(self, pictures):
        """The batch has arrived."""
        self._waiting.append((pictures, round(1000 * (time.perf_counter() - self._asked), 2)))

    def lines(self, results):
        """A line for each of the steps that have been read; the elapsed time is divided among them."""
        seconds, lines = time.perf_counter() - self._start, []
        rate = sum(self._waiting[k][0] for k in range(len(results))) / seconds
        for step in results:
            _, wait = self._waiting.popleft()
            lines.append({
                "step": step.number, "epoch": self.epoch, "loss": step.loss, "penalty": step.penalty, "lr": step.lr,
                "img_s": float(f"{rate:.4g}"), "data_wait_ms": wait,
            })  # fmt: skip
        return lines
