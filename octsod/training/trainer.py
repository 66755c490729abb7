"""A trainer: a network in training, and all that its next step depends on except the data."""

import collections
import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .. import random
from ..autograd.tensor import Tensor
from ..backend import now, watching
from ..checks import require, require_integer
from ..errors import OctsodError
from ..nn import Module
from ..optim.optimizer import Optimizer
from .diagnosis import first_nonfinite
from .hooks import Hook
from .replay import Replays, constants_of
from .tasks import Task, split_loss, tensors


class DivergenceError(OctsodError):
    """A loss, gradient or parameter has become infinite or not a number."""


# What a log line has anyway: no term, score or network may be called so.
RESERVED = ("step", "epoch", "size", "lr", "img_s", "data_wait_ms", "best", "resized")


def require_names(names: Iterable[str], taken: Iterable[str], what: str) -> None:
    """Raise ValueError if one of the names is taken, or reserved for the log's own entries."""
    clash = sorted(set(names) & {*taken, *RESERVED})
    require(not clash, "training", what, f"is called {', '.join(clash)}", "a name that the log does not have yet")


class Step(NamedTuple):
    """A step's results. number: from 1. loss: before it. terms: name -> number of what else is logged, such as the
    penalty of a decay. lr: used in it."""

    number: int
    loss: float
    terms: dict[str, float]
    lr: float


class _Ring:
    """The latest steps' results, kept on the device until they are read, with the batches they were made on."""

    def __init__(self, device):
        self.device = device
        self.names = self.rows = None  # of the terms that are noted, and where: known after the first step
        self.waiting = collections.deque()  # (number, lr, batch) of steps whose results have not been read
        self.read = collections.deque(maxlen=device.steps_ahead)  # `Step`s that have not been collected

    def prepare(self, names):
        """Make room for terms of these names."""
        if self.names is None:
            self.names = names
            self.rows = self.device.zeros((self.device.steps_ahead, len(names) + 1), "float64")
        was = f"are {', '.join(names)}"
        require(names == self.names, "step", "terms", was, f"{', '.join(self.names)}, as in the step before")

    @property
    def full(self):
        return len(self.waiting) >= self.rows.shape[0]

    def fetch(self):
        """(number, lr, batch, values, code) of each waiting step. Waits for the device."""
        rows = now(self.device).get(self.rows) if self.waiting else ()
        while self.waiting:
            number, lr, batch = self.waiting.popleft()
            *values, code = rows[(number - 1) % len(rows)].tolist()
            yield number, lr, batch, values, int(code)


class Trainer:
    """A model in training for a task.

    optimizer: of the model's parameters. schedule: of its learning rate, an object of `optim.schedules`, or None to
    keep it. total: how many steps the run will have; None for any number. hooks: `Hook`s. seed: of what the network
    draws in a step, such as dropout; a step draws the same whether or not the run was resumed before it.
    steps: how many were made. size: the side in pixels of the pictures of the latest; None before that is known.
    whole: whether these steps are all that has happened: not so after an error, or Ctrl-C, that left half a step.

    A step does not wait for the model's device. Loss and terms stay there until `device.steps_ahead` steps are under
    way, or `sync` is called. A step with a number that is not finite changes nothing, and neither do later steps.
    """

    def __init__(
        self, model: Module, task: Task, optimizer: Optimizer, schedule: Any = None, total: int | None = None,
        hooks: Iterable[Hook] = (), seed: int = 0,
    ):  # fmt: skip
        op = "Trainer"
        self.task, self.hooks, self.seed = task, list(hooks), seed
        for group in optimizer.groups:
            require("lr" in group, op, "optimizer", "has no setting `lr`", "a learning rate, which is logged")
        self.total: Any = None if total is None else require_integer(total, op, "total", 1)
        names = [hook.name for hook in self.hooks]
        taken = {"model", "steps", *optimizer.slots}
        free = len(set(names)) == len(names) and not taken & set(names)
        expected = f"different names, none of {', '.join(sorted(taken))}"
        require(free, op, "hooks", f"are called {', '.join(names)}", expected)
        self.steps, self.whole = 0, True
        self.size: int | None = None
        self._take(model, optimizer, schedule)
        self._given = self._groups(first=True)

    def _take(self, model, optimizer, schedule):
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        require(
            schedule is None or schedule.optimizer is optimizer, "Trainer", "schedule", "is another optimiser's",
            "that of `optimizer`",
        )  # fmt: skip
        self._parameters = list(model.parameters())
        own = {id(p) for p in self._parameters}
        theirs = all(id(p) in own for group in optimizer.groups for p in group["params"])
        require(theirs, "Trainer", "optimizer", "has parameters of another model", "those of `model`")
        device = model.device
        require(device.shares_memory_with(optimizer.device), "Trainer", "optimizer",
                f"is on {optimizer.device.name}", f"{device.name}, like the model")  # fmt: skip
        self._ring, self._replays = _Ring(device), Replays(device)
        self._keepers = [(module, name) for module in model.modules() for name in module.buffers]
        self._saved = device.zeros((sum(math.prod(a.shape) for a in self._statistics),), "float64")
        self._halted = device.put([0, 1], dtype="int64")  # an optimiser's state that says that training has halted

    @property
    def _statistics(self):
        """The arrays that a forward pass changes: running means and variances."""
        return [getattr(module, name) for module, name in self._keepers]

    @property
    def capturable(self) -> bool:
        """Whether network, task, optimiser and hooks say what a step depends on besides arrays, by `constants`, so that
        a device may capture a step and replay it as a whole."""
        return self._constants() is not None

    @property
    def replayed(self) -> bool:
        """Whether steps like the latest one are replayed from a captured graph."""
        return self._replays.captured

    def _constants(self):
        """All that the launches of a step depend on besides arrays; None if nobody knows."""
        parts = [(self.model, "forward"), (self.task, "loss"), (self.optimizer, "update")]
        parts += [(h, "after_backward") for h in self.hooks if type(h).after_backward is not Hook.after_backward]
        found = [constants_of(*part) for part in parts]
        return None if None in found else tuple(found)

    @property
    def lr(self) -> float:
        """The learning rate of the next step."""
        return self.optimizer.groups[0]["lr"]

    def resize(self, size: int) -> None:
        """Take note of the side in pixels of the next step's pictures."""
        if size != self.size:
            self.size = size
            self.task.resized(self.model, size)

    def hook(self, kind: type) -> Any:
        """The hook of this class; None if there is none."""
        return next((hook for hook in self.hooks if isinstance(hook, kind)), None)

    def networks(self) -> dict[str, Module]:
        """name -> network to be validated and saved: the model, called "", and those of the hooks."""
        found = {"": self.model}
        for hook in self.hooks:
            found.update(hook.networks(self))
        return found

    def replace(self, model: Module, carry: Callable[[str, np.ndarray], np.ndarray]) -> None:
        """Go on with another network, whose parameters are some of those of the present one, by name, perhaps smaller.

        carry: called with the name of a parameter of the new network and an array of the old one's shape, the
        optimiser's state; returns that of the new one. Settings of groups stay. Hooks are told.
        """
        self.sync()
        read, device = self.collect(), self.model.device
        old = {id(p): name for name, p in self.model.named_parameters()}
        new = dict(model.named_parameters())
        members = [[old[id(p)] for p in group["params"]] for group in self.optimizer.groups]
        groups = [
            {**group, "params": [new[name] for name in names if name in new]}
            for group, names in zip(self.optimizer.groups, members, strict=True)
        ]
        if self.schedule is not None:  # it starts from the rates that it was made with
            for group, lr in zip(groups, self.schedule.initial, strict=True):
                group["lr"] = lr
        states = {
            name: {slot: device.get(array) for slot, array in self.optimizer.state_of(p).items()}
            for name, p in self._learned()
        }
        self._given = [given for given, group in zip(self._given, groups, strict=True) if group["params"]]
        optimizer = self.optimizer.rebuilt([group for group in groups if group["params"]])
        for name, p in new.items():
            for slot, array in states.get(name, {}).items():
                optimizer.device.put(carry(name, array), optimizer.state_of(p)[slot])
        if self.schedule is not None:
            self.schedule.move_to(optimizer)
        self._take(model, optimizer, self.schedule)
        self._seek(self.steps)
        self._ring.read.extend(read)
        for hook in self.hooks:
            hook.replaced(self)

    def _learned(self):
        """(name, parameter) of those that the optimiser moves."""
        learned = {id(p) for group in self.optimizer.groups for p in group["params"]}
        return [(name, p) for name, p in self.model.named_parameters() if id(p) in learned]

    def step(self, *batch: Any) -> Step | None:
        """One step on a batch: what the task's `prepare` made of samples, stacked.

        Returns its results, or None if they have not been read: on a host they always are, elsewhere every
        `device.steps_ahead` steps. `collect` returns those of all steps. Raises DivergenceError, with the model as it
        was before, if the loss, a term or a gradient is not finite in a step that is read; the batch must not be
        changed until then.
        """
        device, optimizer = self.model.device, self.optimizer
        if not device.shares_memory_with(self._ring.device):
            was = f"is on {device.name}"
            require(False, "step", "model", was, f"{self._ring.device.name}, where its trainer was made")
        now = list(map(id, self.model.parameters()))
        same = now == list(map(id, self._parameters))
        require(same, "step", "model", "has other parameters than its trainer knows", "a trainer made after the change")
        self.model.train()
        optimizer.prepare()
        inputs, under_way = tensors(self.model, batch), len(self._ring.waiting)
        self.whole = False
        try:
            if device.captures:
                arrays = [*self._statistics, *(p.data for p in self._parameters)]
                self._replays.run(self._constants(), arrays, inputs, self._launch)
            else:
                self._launch(inputs)
            self._ring.waiting.append((self.steps + 1, self.lr, batch))
            if self.schedule is not None:
                self.schedule.step()
            self.steps += 1
            for hook in self.hooks:
                with watching.span(type(hook).__name__, "step"):
                    hook.after_step(self)
            self.whole = True
        except BaseException:
            if not self.whole:  # such as Ctrl-C: the step counts if the optimiser has made it; its results are lost
                while len(self._ring.waiting) > under_way:
                    self._ring.waiting.pop()
                self._seek(optimizer.steps)
            raise
        if not self._ring.full:
            return None
        self.sync()
        return self._ring.read[-1]

    def _launch(self, inputs):
        """Launch all kernels of the next step: forward, backward, a note of what came of it, the update."""
        kernels, optimizer, statistics = self.model.device.kernels, self.optimizer, self._statistics
        with watching.span("Trainer", "step"):
            optimizer.zero_grad()
            kernels.gather(statistics, self._saved)
        try:
            terms = self._backward(inputs)
            self._ring.prepare(list(terms))
        except BaseException:  # of a task or hook: as if the step had not begun
            kernels.restore_if_halted(statistics, self._saved, self._halted)
            optimizer.zero_grad()
            self.whole = True
            raise
        with watching.span("Trainer", "step"):
            gradients = [(flat, ranges) for flat, ranges in optimizer.gradients() if ranges is not None]
            values = [term.array() for term in terms.values()]
            kernels.record_step(values, gradients, self._ring.rows, optimizer.state)
            kernels.restore_if_halted(statistics, self._saved, optimizer.state)
        optimizer.step()

    def _forward(self, inputs):
        """(loss, terms) of the next step's forward pass."""
        with random.stream(self.seed, self.steps):
            loss, terms = split_loss(self.task.loss(self.model, *inputs))
        return loss, terms

    def _backward(self, inputs):
        """Forward and backward of the next step; name -> tensor of the loss and all terms."""
        loss, terms = self._forward(inputs)
        loss.backward()
        named = {"loss": loss}
        for more in (terms, *map(self._after_backward, self.hooks)):
            require_names(more, named.keys(), "term")
            for name, term in more.items():
                number = isinstance(term, Tensor) and term.size == 1
                was = f"has shape {tuple(term.shape)}" if isinstance(term, Tensor) else f"is a {type(term).__name__}"
                require(number, "step", name, was, "a tensor of one number")
            named.update(more)
        return named

    def _after_backward(self, hook):
        with watching.span(type(hook).__name__, "step"):
            return hook.after_backward(self) or {}

    def sync(self) -> None:
        """Read the results of all steps under way. Waits for the device; raises as `step` does."""
        for number, lr, batch, values, code in self._ring.fetch():
            if code:
                self._ring.waiting.clear()  # later steps have changed nothing
                self._seek(number - 1)
                raise self._divergence(number, code, values, batch)
            loss, *terms = values
            self._ring.read.append(Step(number, loss, dict(zip(self._ring.names[1:], terms, strict=True)), lr))

    def collect(self) -> list[Step]:
        """The results of the steps that have been read since the last call: up to `device.steps_ahead` of them."""
        steps = list(self._ring.read)
        self._ring.read.clear()
        return steps

    def _seek(self, steps):
        """Set the count of steps to `steps`, and continue from there."""
        self.steps = steps
        self.optimizer.seek(steps)
        if self.schedule is not None:
            self.schedule.seek(steps)

    def _divergence(self, number, code, values, batch):
        """The error that says where the first non-finite number came from: the step is repeated on its batch, as far
        as its gradients. The model stays as it was."""
        inputs = tensors(self.model, batch)
        with self._repeating():
            if code > len(values):
                self._backward(inputs)
                # Backward goes from the last layer to the first, so of the names affected, the last one was first.
                get = self.model.device.get
                named = [(name, p.grad) for name, p in self.model.named_parameters() if p.grad is not None]
                bad = [name for name, grad in named if not np.isfinite(get(grad)).all()]
                whose = f"the first gradient that is not finite is that of `{bad[-1]}`"
                what, first = whose if bad else "a gradient is not finite", ""
            else:
                what = f"the {self._ring.names[code - 1]} is {values[code - 1]}"
                where = first_nonfinite(self.model, lambda: self._forward(inputs))
                first = f"; the first number that is not finite is in {where}" if where else ""
        return DivergenceError(f"training stopped in step {number}: {what}{first}.")

    @contextlib.contextmanager
    def _repeating(self):
        """Within it, a step may be repeated as far as its gradients: statistics are restored, gradients forgotten."""
        device, statistics = self.model.device, self._statistics
        saved = device.zeros(self._saved.shape, "float64")
        device.kernels.gather(statistics, saved)
        self.optimizer.zero_grad()
        try:
            yield
        finally:
            device.kernels.restore_if_halted(statistics, saved, self._halted)
            self.optimizer.zero_grad()

    def state_dict(self) -> dict[str, np.ndarray]:
        """name -> NumPy array of all that `load_state_dict` needs to continue bit for bit; on a host, not a copy.

        `steps`; per entry NAME of the model's, `model.NAME`; per learned parameter, the optimiser's state, such as
        `first.NAME` and `second.NAME` of Adam; the hooks' as `HOOK.NAME`.
        Waits for the steps under way, and raises as `step` does if one of them was not finite.
        """
        self.sync()
        get = self.model.device.get
        state = {"steps": np.array(self.steps)}
        state.update({f"model.{name}": array for name, array in self.model.state_dict().items()})
        for name, p in self._learned():
            state.update({f"{slot}.{name}": get(a) for slot, a in self.optimizer.state_of(p).items()})
        for hook in self.hooks:
            state.update({f"{hook.name}.{name}": array for name, array in hook.state_dict().items()})
        return state

    def load_state_dict(self, state: Mapping[str, np.ndarray]) -> None:
        """Continue where the trainer of `state` was; raises ValueError, and changes nothing, if that does not fit."""
        self._ring.waiting.clear()  # their results are discarded
        own = self.state_dict()
        odd = sorted(own.keys() ^ state.keys())
        require(not odd, "load_state_dict", "state", f"has or lacks {', '.join(odd[:3])}", "the trainer's own names")
        for name, array in state.items():
            if array.shape != own[name].shape or array.dtype != own[name].dtype:
                was = f"is {array.dtype} {array.shape}"
                require(False, "load_state_dict", name, was, f"{own[name].dtype} {own[name].shape}")

        def part(prefix):
            return {n[len(prefix) + 1 :]: a for n, a in state.items() if n.startswith(f"{prefix}.")}

        self.model.load_state_dict(part("model"))
        put = self.model.device.put
        for name, p in self._learned():
            for slot, array in self.optimizer.state_of(p).items():
                put(state[f"{slot}.{name}"], array)
        for hook in self.hooks:
            hook.load_state_dict(part(hook.name))
        self._seek(int(state["steps"]))
        self._ring.read.clear()

    def group_settings(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """The settings of each of the optimiser's groups, as they were given at first and as they are now. Now, a
        learning rate that a schedule sets is not among them."""
        return self._given, self._groups()

    def _groups(self, first=False):
        """Settings of the optimiser's groups that are numbers or text. first: with the schedule's initial rates."""
        found = []
        for row, group in enumerate(self.optimizer.groups):
            settings = {"max_norm": self.optimizer.max_norm, **group}
            if self.schedule is not None:
                settings["lr"] = self.schedule.initial[row] if first else None
            plain = {name: v.item() if isinstance(v, np.generic) else v for name, v in settings.items()}
            found.append({n: v for n, v in plain.items() if isinstance(v, (bool, int, float, str, tuple))})
        return found

    def set_groups(self, current: Sequence[Mapping[str, Any]]) -> None:
        """Give the optimiser's groups the settings of `group_settings`; raises ValueError if they make no sense."""
        for group, settings in zip(self.optimizer.groups, current, strict=False):
            known = {name: tuple(v) if isinstance(v, list) else v for name, v in settings.items() if name in group}
            self.optimizer.check({**group, **known})
            group.update(known)
            self.optimizer.max_norm = settings.get("max_norm")

    def require_finite(self) -> None:
        """Raise DivergenceError, which names the culprit, if anything to be saved is not finite."""
        for name, array in self.state_dict().items():
            if not np.isfinite(array).all():
                raise DivergenceError(f"training stopped after step {self.steps}: `{name}` is not finite everywhere.")
