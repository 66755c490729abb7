"""The loop of a run: steps, validations, checkpoints, a log."""

import collections
import contextlib
import os
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

from ..checks import require, require_integer, require_number
from ..data.datasets import names_of
from .runs import CHECKPOINT, Run, read_checkpoint
from .settings import SETTINGS
from .tasks import Stopped, Validated
from .trainer import DivergenceError, Trainer, require_names

SAVE_MINUTES = SETTINGS["save_minutes"].default


def train(
    trainer: Trainer, loader: Any, run: Any, held_out: Any = None, save_every: int = 100,
    on_line: Callable[[dict], None] | None = None, stop: Callable[[], bool] = lambda: False,
    save_minutes: float = SAVE_MINUTES, validate_minutes: float | None = None,
) -> bool:  # fmt: skip
    """Make the remaining steps up to `trainer.total`; returns whether all are done, which `stop()` can prevent.

    loader: a `data.Loader`; a trainer that has made n steps gets its batch n next. run: a `runs.Run`. It logs a line
    per step (step and epoch, both from 1; loss; the terms of task and hooks; lr; img_s, samples per second, waiting
    included; data_wait_ms; in the first step with pictures of another size, resized, its sides before and now;
    at the end of an epoch and of the run also what hooks add), per validation, and what hooks log. It writes a
    checkpoint every `save_every` steps, once `save_minutes` have passed since the last one, after each validation and
    at the end.
    held_out: a data set to validate on, by the trainer's task: after each epoch or, if `validate_minutes` is given,
    once that many minutes of training have passed since the last time, interruptions left out, wherever in an epoch
    that is; and at the end. If `stop()` cuts a validation short, it is made up for when the run is resumed. on_line:
    called with each line of the log.

    Raises DivergenceError, which says what is intact, if a number is not finite; FileError if a sample cannot be read
    or the run folder cannot be written. Whatever ends it, an error or Ctrl-C, but divergence, it first writes a
    checkpoint of the steps that are done.
    """
    try:
        return _train(trainer, loader, run, held_out, save_every, on_line, stop, save_minutes, validate_minutes)
    except DivergenceError as error:
        kept = run.kept and f"; {run.kept}"
        raise DivergenceError(f"{str(error).rstrip('.')}{kept}.") from error
    except BaseException:  # Ctrl-C among them
        run.rescue(trainer)
        raise


def fit(
    trainer: Trainer, loader: Any, folder: str | os.PathLike[str], held_out: Any = None,
    settings: Mapping[str, Any] | None = None, save_every: int = 100, on_line: Callable[[dict], None] | None = None,
    stop: Callable[[], bool] = lambda: False, save_minutes: float = SAVE_MINUTES,
    validate_minutes: float | None = None,
) -> bool:  # fmt: skip
    """`train` in a run folder: a new one, or one that holds an unfinished run of such a trainer, which goes on.

    settings: whatever describes the run, numbers and strings by name; they are kept in its config.toml, and a run that
    was started with others is refused with a FileError, as is one whose optimiser was given other settings. For the
    rest, see `train`.
    """
    samples = names_of(loader.dataset), [] if held_out is None else names_of(held_out)
    settings = {name: list(v) if isinstance(v, tuple) else v for name, v in (settings or {}).items() if v is not None}
    if (pathlib.Path(folder) / CHECKPOINT).exists():
        checkpoint = read_checkpoint(folder)
        Run(folder, settings, checkpoint).require_same(samples)
        checkpoint.restore(trainer)
        run = Run.resume(folder, settings, samples, checkpoint)
    else:
        run = Run.create(folder, settings, samples)
    with run:
        return train(trainer, loader, run, held_out, save_every, on_line, stop, save_minutes, validate_minutes)


def _train(trainer, loader, run, held_out, save_every, on_line, stop, save_minutes, validate_minutes):
    require(trainer.total is not None, "train", "trainer", "has no `total`", "the number of steps to make")
    require_integer(save_every, "train", "save_every", 1)
    require_number(save_minutes, "train", "save_minutes", 0, above=True)
    if validate_minutes is not None:
        require_number(validate_minutes, "train", "validate_minutes", 0, above=True)
    pace = _Pace(save_every, save_minutes, None if held_out is None else validate_minutes, run.since)
    run.on_line = on_line or (lambda line: None)
    trainer.resize(loader.side(max(trainer.steps - 1, 0)))
    run.mend(trainer)
    run.checkpoint(trainer)
    while not stop():
        epoch, position = divmod(trainer.steps, len(loader))
        finished = trainer.steps >= trainer.total
        run.epoch = epoch + 1
        due = trainer.steps > run.validated and (finished or pace.validation_due(position))
        if held_out is not None and (due or (finished and run.lacks_plots)):
            trainer.require_finite()
            try:
                found = _validated(trainer, held_out, stop)
            except Stopped:
                break
            if due:
                pace.validated()
                run.since = 0.0
                run.record(trainer, 1 + (trainer.steps - 1) // len(loader), found)
            else:
                run.draw(trainer, found)
        if finished:
            break
        if position == 0:
            run.whole = False
            for hook in trainer.hooks:
                hook.before_epoch(trainer, run)
            run.whole = True
        # Always closed, so that the loader's threads do not outlive a training that stops in the middle of an epoch.
        with contextlib.closing(_steps(trainer, loader, epoch, position, pace, stop)) as lines:
            for line in lines:
                run.log(line)
                if line["step"] == pace.checkpoint:
                    run.since = pace.seconds
                    run.checkpoint(trainer)
                    pace.saved()
    if held_out is None and trainer.steps >= trainer.total:
        run.validated = trainer.steps  # there is nothing to validate on
    run.since = pace.seconds
    run.checkpoint(trainer)
    return trainer.steps >= trainer.total and run.validated == trainer.steps


class _Pace:
    """When checkpoints and validations are due, by steps and by the clock.

    since: seconds of training since the last validation. checkpoint: the step after which one is written, if it is the
    present one.
    """

    def __init__(self, save_every, save_minutes, validate_minutes, since):
        self.save_every, self.save_minutes, self.validate_minutes = save_every, save_minutes, validate_minutes
        self.checkpoint, self._saved = 0, time.monotonic()
        self._validated = self._saved - since

    @property
    def seconds(self):
        """Seconds of training since the last validation."""
        return time.monotonic() - self._validated

    def begin(self, step):
        """Step `step` begins; returns whether a checkpoint is due after it."""
        late = time.monotonic() - self._saved >= 60 * self.save_minutes
        if late or step % self.save_every == 0:
            self.checkpoint = step
        return self.checkpoint == step

    def saved(self):
        self._saved = time.monotonic()

    def validation_due(self, position):
        """Whether to validate now, before batch `position` of an epoch."""
        return position == 0 if self.validate_minutes is None else self.seconds >= 60 * self.validate_minutes

    def validated(self):
        self._validated = time.monotonic()


def _validated(trainer, held_out, stop):
    """What validation found of the trainer's network, by the name "", and of those of its hooks."""
    found = {}
    for name, network in trainer.networks().items():
        found[name] = trainer.task.validate(network, held_out, trainer.size, stop)
        if not isinstance(found[name], Validated):
            was = f"a {type(found[name]).__name__}"
            raise TypeError(f"{type(trainer.task).__name__}: `validate` returns {was}; expected a `Validated`.")
    return found


def _steps(trainer, loader, epoch, position, pace, stop):
    """Make the steps of an epoch from batch `position` on, as far as the run goes or until a validation is due within
    it; yield the log line of each.

    The results of steps are read whenever the trainer has them, when a checkpoint is due, and at the end.
    """
    under_way, first = _UnderWay(trainer, epoch + 1), trainer.steps
    with contextlib.closing(loader.epoch(epoch, position)) as batches:
        while trainer.steps < trainer.total and not stop():
            if first < trainer.steps < first - position + len(loader) and pace.validation_due(position + 1):
                break
            under_way.begin()
            try:
                batch = next(batches, None)
            except Exception:  # of a sample
                trainer.sync()
                yield from under_way.lines(trainer.collect())
                raise
            if batch is None:
                break
            sides = [trainer.size, loader.side(trainer.steps)]
            under_way.arrived(batch[0].shape[0], {} if sides[0] == sides[1] else {"resized": sides})
            trainer.resize(sides[1])
            last = trainer.steps + 1 == trainer.total or (trainer.steps + 1) % len(loader) == 0
            due = pace.begin(trainer.steps + 1) or last
            try:
                trainer.step(*batch)
                if due:
                    trainer.sync()
            except Exception as error:
                if not isinstance(error, DivergenceError):
                    trainer.sync()
                yield from under_way.lines(trainer.collect())  # of the steps completed before it
                raise
            lines = under_way.lines(trainer.collect())
            if last:
                for hook in trainer.hooks:
                    entries = hook.after_epoch(trainer) or {}
                    require_names(entries, lines[-1], "entry")
                    lines[-1].update(entries)
            yield from lines
        trainer.sync()
        yield from under_way.lines(trainer.collect())


class _UnderWay:
    """The log lines of steps whose results have not been read yet."""

    def __init__(self, trainer, epoch):
        self.trainer, self.epoch = trainer, epoch
        self._waiting = collections.deque()  # per step: samples, milliseconds of waiting for data, what else to log
        self._start = self._asked = 0.0

    def begin(self):
        """A batch is requested."""
        self._asked = time.perf_counter()
        if not self._waiting:
            self._start = self._asked

    def arrived(self, samples, notes):
        """The batch has arrived. notes: what else the line of its step has."""
        self._waiting.append((samples, round(1000 * (time.perf_counter() - self._asked), 2), notes))

    def lines(self, results):
        """A line for each of the steps that have been read; the elapsed time is divided among them."""
        seconds, lines = time.perf_counter() - self._start, []
        rate = sum(self._waiting[k][0] for k in range(len(results))) / seconds
        for step in results:
            _, wait, notes = self._waiting.popleft()
            lines.append({
                "step": step.number, "epoch": self.epoch, "loss": step.loss, **step.terms, "lr": step.lr,
                "img_s": float(f"{rate:.4g}"), "data_wait_ms": wait, **notes,
            })  # fmt: skip
        return lines
