"""What optimisers have in common: groups of parameters with settings, in flat buffers."""

from collections.abc import Iterable
from typing import Any

from ..autograd import Tensor
from ..backend import Device, on
from ..checks import require
from .buffers import FlatBuffer


class Optimizer:
    """Base of optimisers.

    params_or_groups: parameters, or dicts with `params` and any of the settings in `defaults`; a dtype and device may
    have several groups, and all their parameters are put side by side in a `FlatBuffer`. groups: the groups, whose
    settings may be changed at any time. state: (2,) int64 on the parameters' device: the number of steps made, and
    whether training has halted (see the kernel `record_step`), after which nothing moves.
    """

    def __init__(
        self, params_or_groups: Iterable[Tensor] | Iterable[dict[str, Any]], defaults: dict[str, Any]
    ):
        op = type(self).__name__
        require(not isinstance(params_or_groups, dict), op, "params_or_groups", "is a dict", "a list of dicts")
        entries: list[Any] = list(params_or_groups)
        require(len(entries) > 0, op, "params_or_groups", "is empty", "at least one parameter")
        groups = entries if isinstance(entries[0], dict) else [{"params": entries}]
        for group in groups:
            named = isinstance(group, dict) and "params" in group
            require(named, op, "params_or_groups", "has a group without `params`", "dicts with `params`")
        self.groups = [{**defaults, **group, "params": list(group["params"])} for group in groups]
        seen = set()
        for group in self.groups:
            unknown = group.keys() - defaults.keys() - {"params"}
            require(not unknown, op, "params_or_groups", f"has {', '.join(sorted(unknown))}", ", ".join(defaults))
            require(len(group["params"]) > 0, op, "params_or_groups", "has an empty group", "at least one parameter")
            for p in group["params"]:
                leaf = isinstance(p, Tensor) and p.requires_grad and p.node is None
                expected = "leaf tensors that require gradients"
                require(leaf, op, "params_or_groups", f"has a {type(p).__name__}", expected)
                require(id(p) not in seen, op, "params_or_groups", "names a parameter twice", "each once")
                seen.add(id(p))
        kinds: dict[Any, list[Any]] = {}
        for row, group in enumerate(self.groups):
            for p in group["params"]:
                kinds.setdefault((p.device, p.dtype), []).append((p, row))
        devices = {device.name for device, _ in kinds}
        require(len(devices) < 2, op, "params_or_groups", f"are on {', '.join(sorted(devices))}", "one device")
        self.buffers = [FlatBuffer(p for p, _ in members) for members in kinds.values()]
        self._rows = [[row for _, row in members] for members in kinds.values()]
        self.state = self.device.zeros((2,), "int64")
        self._ranges = [(None, None)] * len(self.buffers)

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

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        with on(self.device):
            for number, (_, ranges) in enumerate(self.gradients()):
                buffer = self.buffers[number]
                if ranges is not None:
                    self.update(number, buffer, ranges)
            self.device.kernels.count_step(self.state)

    def update(self, number: int, buffer: FlatBuffer, ranges: Any) -> None:
        """Update elements of buffer `number`; ranges (K, 3) int64: start, stop, number of the group."""
        raise TypeError(f"{type(self).__name__} needs a method `update`.")

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
