"""What `octsod profile` profiles: a step of a training, a prediction."""

import contextlib
import copy
import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .. import inference
from ..backend import Device, Host, get_device, use_backend, watching
from ..checks import require, require_integer
from ..errors import OctsodError
from ..models import CSNet
from ..nn import Module
from ..threads import available_cpus, get_num_threads, set_num_threads
from ..training import Classification, Recipe, Saliency, Task, Trainer
from .machine import facts
from .recording import EVENTS, profile
from .results import Profile
from .roofs import under_roofs

ROUNDS = 5
CAPTURED = 2  # replays at first, which are not timed


class ThreadsError(OctsodError, ValueError):
    """A prediction has more threads than there are processors, so that times of its steps are not those of work."""


def profile_training(
    network: Module, batch_size: int = 24, size: int | None = None, device: str | Device = "cpu", steps: int = ROUNDS,
    task: Task | None = None, threads: int | None = None, events: int = EVENTS,
) -> Profile:  # fmt: skip
    """Profile training steps of a copy of a network, by the paper's recipe, on random pictures and masks.

    batch_size, size: of the pictures (batch_size, 3, size, size); size is by default the network's own, or 224. steps:
    how many are counted, after one that is not. task: by default, `Saliency()`, or `Classification` for a CSNet with
    classes; any other that learns from pictures and masks. threads: of the processor's kernels. events: how many
    intervals are kept for a trace.

    On a GPU, steps are launched kernel by kernel; `captured` then has times of as many that are replayed, if the
    network and its task let a step be captured.
    """
    device = get_device(device)
    x, size = _pictures("profile_training", network, batch_size, size)
    steps = require_integer(steps, "profile_training", "steps", 1)
    with _threads(threads), _computing(device):
        model = copy.deepcopy(network).to(device).train()
        classes = getattr(getattr(model, "configuration", None), "classes", 0)
        if task is None:
            task = Classification(tuple(map(str, range(classes)))) if classes else Saliency()
        rng = np.random.default_rng(1)
        target = rng.integers(0, classes, len(x)) if classes else rng.integers(0, 2, (len(x), 1, size, size))
        trainer = Recipe().trainer(model, task)
        batch = [device.put(x), device.put(target if classes else target.astype(x.dtype))]
        subject = f"training step of {_title(network)}, {len(x)} x {size}x{size}, {_where(device)}"
        with profile(subject, warm=1, events=events) as found:
            for _ in range(1 + steps):
                trainer.step(*batch)
                found.step()
        return _with_captured(found.result, device, lambda: _replay(trainer, batch), steps)


def profile_prediction(
    network: CSNet, batch_size: int = 1, size: int | None = None, device: str | Device = "cpu", steps: int = ROUNDS,
    threads: int | None = None, events: int = EVENTS,
) -> Profile:  # fmt: skip
    """Profile predictions of a CSNet that finds objects, for random pictures that are prepared already.

    On a processor, where a prediction is one kernel call, its rows are those of the call's steps; on a GPU, those of
    the layers' kernels, and `captured` has times of predictions that are replayed. Arguments as of `profile_training`;
    more threads than processors are a ThreadsError, a ValueError, as steps of theirs wait while others work.
    """
    device = get_device(device)
    x, size = _pictures("profile_prediction", network, batch_size, size)
    steps = require_integer(steps, "profile_prediction", "steps", 1)
    with _threads(threads), _computing(device):
        subject = f"prediction of {_title(network)}, {len(x)} x {size}x{size}, {_where(device)}"
        model = copy.deepcopy(network).to(device).eval()
        if device.name == "cpu":
            return _prediction_on_cpu(model, x, steps, subject)
        frozen = inference.freeze(model)
        with profile(subject, warm=1, events=events) as found:
            for _ in range(1 + steps):
                with watching.span("predict", "predict"):
                    inference.logits(frozen, x)
                found.step()
        return _with_captured(found.result, device, lambda: inference.logits(frozen, x), steps)


def _prediction_on_cpu(model, x, steps, subject):
    from .predictions import prediction_rows

    if get_num_threads() > available_cpus():
        raise ThreadsError(
            f"profile_prediction: `threads` is {get_num_threads()}; expected at most {available_cpus()}, one per "
            "processor: of more, nobody can tell which are at work."
        )
    rows, walls, events, lost = prediction_rows(model, x, steps, events=True)
    found = Profile(subject, facts(), (), tuple(walls), tuple(rows), events=tuple(events), lost=lost, warm=1)
    return under_roofs(found, ["cpu"])


def _with_captured(found: Profile, device: Device, work: Callable[[], Any], steps: int) -> Profile:
    """With the times of `work` where the device replays it."""
    if not device.captures:
        return found
    seconds = []
    for number in range(CAPTURED + steps):
        start = time.perf_counter()
        captured = work() is not False
        if number >= CAPTURED:
            if not captured:
                return found
            seconds.append(time.perf_counter() - start)
    return dataclasses.replace(found, captured=tuple(seconds))


def _replay(trainer: Trainer, batch: Any) -> bool:
    """Make a step and wait for it; whether it was replayed."""
    trainer.step(*batch)
    trainer.sync()
    return trainer.replayed


def _pictures(op, network, batch_size, size):
    require(isinstance(network, Module), op, "network", f"is a {type(network).__name__}", "an octsod.nn.Module")
    batch_size = require_integer(batch_size, op, "batch_size", 1)
    size = require_integer(getattr(network, "size", 224) if size is None else size, op, "size", 1)
    dtype = next((p.dtype for p in network.parameters()), np.dtype("float32"))
    return np.random.default_rng(0).standard_normal((batch_size, 3, size, size)).astype(dtype), size


@contextlib.contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    before = get_num_threads()
    if threads is not None:
        set_num_threads(threads)
    try:
        yield
    finally:
        set_num_threads(before)


def _computing(device):
    """Within it, a host computes, if that is what the device is."""
    return use_backend(device) if isinstance(device, Host) else contextlib.nullcontext()


def _where(device):
    count = get_num_threads()
    return f"{device.name}, {count} thread{'s' * (count > 1)}" if isinstance(device, Host) else device.name


def _title(network):
    """The class, and how many parameters it has."""
    return f"{type(network).__name__} ({sum(p.size for p in network.parameters()):,} parameters)"
