"""What optimisers have in common: groups of parameters with settings, in flat buffers, and what is kept per element."""

import copy
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from ..autograd import Tensor
from ..backend import Device, Host, on, watching
from ..backend.arrays import numbers
from ..checks import described, require, require_number
from .buffers import FlatBuffer

Self = TypeVar("Self", bound="Optimizer")


class Optimizer:
    """Base of optimisers.

    params_or_groups: parameters, or dicts with `params` and any of the settings in `defaults`; a dtype and device may
    have several groups, and all their parameters are put side by side in a `FlatBuffer`. groups: the groups, whose
    settings may be changed at any time. max_norm: if not None, all gradients are scaled down before an update, where
    the 2-norm of all of them together is more than this; may be changed, too. state: (2,) int64 on the parameters'
    device: the number of steps made, and whether training has halted (see the kernel `record_step`), after which
    nothing moves.

    A subclass names in `slots` what it keeps per element, and has a method `update`. On a host it may use NumPy:

        class Momentum(Optimizer):
            slots = ("velocity",)

            def __init__(self, params_or_groups, lr, max_norm=None):
                super().__init__(params_or_groups, {"lr": lr}, max_norm)

            def update(self, number, buffer, ranges):
                velocity = self.slot("velocity", number)
                for start, stop, row in ranges.tolist():
                    part = slice(start, stop)
                    velocity[part] = 0.9 * velocity[part] + buffer.grad[part]
                    buffer.data[part] -= self.groups[row]["lr"] * velocity[part]

    On other devices, `update` calls a kernel, with `self.settings`, the numbers that `numbers` has given of each group,
    and `self.state`.
    """

    slots: tuple[str, ...] = ()

    def __init__(
        self, params_or_groups: Iterable[Tensor] | Iterable[dict[str, Any]], defaults: dict[str, Any],
        max_norm: float | None = None,
    ):  # fmt: skip
        self.defaults = defaults
        self.max_norm = None if max_norm is None else require_number(max_norm, type(self).__name__, "max_norm", 0, True)
        self._take(params_or_groups)

    def rebuilt(self: Self, params_or_groups: Iterable[Tensor] | Iterable[dict[str, Any]]) -> Self:
        """An optimiser of this class with these defaults and this `max_norm` for other parameters, which has made no
        step; this one stays as it is."""
        twin = copy.copy(self)
        twin._take(params_or_groups)
        return twin

    def _take(self, params_or_groups: Iterable[Any]) -> None:
        """Set up everything that depends on the parameters."""
        op, defaults = type(self).__name__, self.defaults
        require(not isinstance(params_or_groups, dict), op, "params_or_groups", "is a dict", "a list of dicts")
        entries = list(params_or_groups)
        require(len(entries) > 0, op, "params_or_groups", "is empty", "at least one parameter")
        groups = entries if isinstance(entries[0], dict) else [{"params": entries}]
        for group in groups:
            named = isinstance(group, dict) and "params" in group
            require(named, op, "params_or_groups", "has a group without `params`", "dicts with `params`")
        self.groups = [{**defaults, **group, "params": list(group["params"])} for group in groups]
        seen: set[int] = set()
        for group in self.groups:
            unknown = group.keys() - defaults.keys() - {"params"}
            require(not unknown, op, "params_or_groups", f"has {', '.join(sorted(unknown))}", ", ".join(defaults))
            require(len(group["params"]) > 0, op, "params_or_groups", "has an empty group", "at least one parameter")
            for p in group["params"]:
                leaf = isinstance(p, Tensor) and p.node is None
                expected = "leaf tensors that require gradients"
                require(leaf, op, "params_or_groups", f"has a {type(p).__name__}", expected)
                still = f"has a {type(p).__name__} {p.shape} that requires no gradient, as in a frozen module"
                require(p.requires_grad, op, "params_or_groups", still, f"{expected}; leave the others out")
                require(id(p) not in seen, op, "params_or_groups", "names a parameter twice", "each once")
                seen.add(id(p))
            self.check(group)
        kinds: dict[Any, list[Any]] = {}
        for row, group in enumerate(self.groups):
            for p in group["params"]:
                kinds.setdefault((p.device, p.dtype), []).append((p, row))
        devices = {device.name for device, _ in kinds}
        require(len(devices) < 2, op, "params_or_groups", f"are on {', '.join(sorted(devices))}", "one device")
        self.buffers = [FlatBuffer(p for p, _ in members) for members in kinds.values()]
        self._rows = [[row for _, row in members] for members in kinds.values()]
        self._places = {p: (n, k) for n, buffer in enumerate(self.buffers) for k, p in enumerate(buffer.parameters)}
        self._slots = [{name: buffer.like() for name in self.slots} for buffer in self.buffers]
        self.state = self.device.zeros((2,), "int64")
        self._ranges: list[tuple[Any, Any]] = [(None, None)] * len(self.buffers)
        self._rows_there: list[list[float]] | None = None
        self.settings: Any = None

    def check(self, group: dict[str, Any]) -> None:
        """Raise ValueError if the settings of a group make no sense; called for each when they are given."""

    @property
    def device(self) -> Device:
        """Where the parameters are."""
        return self.buffers[0].device

    @property
    def steps(self) -> int:
        """The number of steps made. Waits for the device."""
        return int(self.device.get(self.state)[0])

    def seek(self, steps: int) -> None:
        """Go to step number `steps`, from where training can go on."""
        self.device.put([steps, 0], self.state)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for group in self.groups:
            for p in group["params"]:
                p.zero_grad()

    def gradients(self) -> list[tuple[Any, Any]]:
        """Per buffer, the flat gradients and the `ranges` (see `update`) of those that there are, or None."""
        for buffer in self.buffers:
            buffer.reclaim()
        return [(buffer.grad, self._ranges_of(number)) for number, buffer in enumerate(self.buffers)]

    def numbers(self, group: dict[str, Any]) -> list[float]:
        """The settings of a group that `update` has a kernel read; as many for each group."""
        return []

    def prepare(self) -> None:
        """Bring the groups' `numbers` to the device, if they have changed, to `settings`: (groups, numbers) float64."""
        rows = [self.numbers(group) for group in self.groups]
        if rows != self._rows_there:
            fits = self.settings is not None and self.settings.shape == (len(rows), len(rows[0]))
            self.settings = self.device.put(rows, self.settings if fits else None, "float64")
            self._rows_there = rows

    def constants(self) -> tuple[Any, ...] | None:
        """What `step` depends on besides arrays: while this stays the same, a step that was captured on a device may
        be replayed there. None, the default of your own optimisers: never."""
        return None

    def step(self) -> None:
        """Update every parameter that has a gradient. Does not wait for the device."""
        device = self.device
        with watching.span(type(self).__name__, "step"), on(device):
            self.prepare()
            gradients = self.gradients()
            if isinstance(device, Host) and device.get(self.state)[1]:
                return  # so an `update` in NumPy need not know of it
            if self.max_norm is not None:
                given = [(flat, ranges) for flat, ranges in gradients if ranges is not None]
                device.kernels.clip_gradients(given, self.max_norm)
            for number, (_, ranges) in enumerate(gradients):
                if ranges is not None:
                    self.update(number, self.buffers[number], ranges)
            device.kernels.count_step(self.state)

    def update(self, number: int, buffer: FlatBuffer, ranges: Any) -> None:
        """Update elements of `buffer.data`, of buffer `number`, by `buffer.grad` and the slots; ranges (K, 3) int64 on
        the device: start, stop, number of the group. Not called on a host if training has halted."""
        raise TypeError(f"{type(self).__name__} needs a method `update`.")

    def slot(self, name: str, number: int) -> Any:
        """The flat array of slot `name` for buffer `number`, which is laid out like that: zeros at first."""
        return self._slots[number][name]

    def state_of(self, parameter: Tensor) -> dict[str, Any]:
        """Slot -> what is kept of a parameter, an array of its shape; empty if this optimiser does not have it."""
        if parameter not in self._places:
            return {}
        number, k = self._places[parameter]
        start, stop = self.buffers[number].bounds[k]
        return {name: flat[start:stop].reshape(parameter.shape) for name, flat in self._slots[number].items()}

    def _state(self):
        """Name -> array of all that `state_dict` holds, on the device."""
        parameters = [p for group in self.groups for p in group["params"]]
        kept = {f"{slot}.{i}": a for i, p in enumerate(parameters) for slot, a in self.state_of(p).items()}
        return {"steps": self.state[:1].reshape(()), **kept}

    def state_dict(self) -> dict[str, Any]:
        """Name -> NumPy array of what a later `load_state_dict` needs: `steps`, and `SLOT.I` per slot and parameter,
        counted over all groups; on a host, not a copy. Waits for the device."""
        return {name: self.device.get(array) for name, array in self._state().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the optimiser of `state` was. Raises ValueError, or TypeError for what is no array of numbers,
        and changes nothing, unless names, shapes and dtypes fit."""
        own = self._state()
        odd = sorted(own.keys() ^ state.keys())
        require(not odd, "load_state_dict", "state", f"has or lacks {', '.join(odd[:3])}", "this optimiser's own names")
        for name, array in own.items():
            value = state[name]
            fits = getattr(value, "shape", None) == array.shape and value.dtype == array.dtype
            require(fits, "load_state_dict", name, described(value), f"{array.dtype} {array.shape}")
            numbers(value, f"load_state_dict: `{name}`")
        self.seek(int(state["steps"]))
        for name in own.keys() - {"steps"}:
            self.device.put(state[name], own[name])

    def _ranges_of(self, number):
        """Where the parameters are that have gradients, neighbours of one group joined, on the device; or None."""
        buffer, rows = self.buffers[number], self._rows[number]
        present = [p.grad is not None for p in buffer.parameters]
        known, ranges = self._ranges[number]
        if present != known:
            joined = []
            for (start, stop), row, there in zip(buffer.bounds, rows, present, strict=True):
                if there and joined and joined[-1][2] == row and joined[-1][3]:
                    joined[-1][1] = stop
                elif there:
                    joined.append([start, stop, row, True])
                elif joined:
                    joined[-1][3] = False
            ranges = self.device.put([r[:3] for r in joined], dtype="int64") if joined else None
            self._ranges[number] = present, ranges
        return ranges
