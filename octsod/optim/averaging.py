"""A moving average of a model's weights and running statistics."""

import copy
from collections.abc import Mapping
from typing import Any

from ..backend import Host, common_device, host
from ..checks import require, require_share
from ..nn import Module


class MovingAverage:
    """The exponential moving average of a model in training (Polyak averaging with a memory of 1/(1 - decay) steps).

    Update n, counted from 0, moves each array of the average towards the model's, by the share
    1 - min(decay, (1 + n)/(10 + n)) of their difference, so the weights of the first steps are soon forgotten.

    model: where the averaged arrays come from, all parameters and buffers (what is not a floating-point number is
    copied). average: a frozen copy of it with arrays of its own, in eval mode, on the same device. updates: the number
    of updates made.
    """

    def __init__(self, model: Module, decay: float = 0.999):
        self.decay = require_share(decay, "MovingAverage", "decay")
        self.replace(model)

    def replace(self, model: Module) -> None:
        """Start anew from another model, such as a pruned one."""
        self.model, self.average, self.updates = model, copy.deepcopy(model).freeze(), 0
        self._holders = _holders(model)
        pairs = zip(self._holders, _holders(self.average), strict=True)
        self._averaged, self._copied = [], []  # type: ignore[var-annotated]
        for source, target in pairs:
            (self._averaged if getattr(*source).dtype.kind == "f" else self._copied).append((source, target))

    def seek(self, updates: int) -> None:
        """Count on from `updates`, as after steps that came to nothing, since training had halted."""
        self.updates = updates

    def update(self, state: Any = None) -> None:
        """Take in the model after a step; does not wait for the device.

        state: the optimiser's; if training has halted, the average stays as it is. On a device that is not a host,
        `updates` counts on nevertheless, until `seek`.
        """
        same = list(map(_key, _holders(self.model))) == list(map(_key, self._holders))
        require(same, "MovingAverage", "model", "has other parameters than at first", "the same ones, or `replace`")
        sources, targets = ([getattr(*pair[side]) for pair in self._averaged] for side in (0, 1))
        same = [a.shape for a in sources] == [a.shape for a in targets]
        require(same, "MovingAverage", "model", "has arrays of other shapes than at first", "the same ones")
        device = common_device("MovingAverage", [*sources[:1], *targets[:1]])
        if state is None:
            state = device.zeros((2,), "int64")
        if isinstance(device, Host) and device.get(state)[1]:
            return
        share = (1 + self.updates) / (10 + self.updates)
        device.kernels.average(sources, targets, 1 - min(self.decay, share), state)
        for source, target in self._copied:
            device.kernels.copy(getattr(*source), getattr(*target))
        self.updates += 1

    def state_dict(self) -> dict[str, Any]:
        """Name -> NumPy array of all that `load_state_dict` needs to continue bit for bit: the average's own by the
        model's names, and `updates`. On a host the arrays are no copies; elsewhere this waits for the device."""
        return {**self.average.state_dict(), "updates": host().full((), self.updates, "int64")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where the average of `state` was. Raises ValueError, and changes nothing, unless names and shapes
        fit."""
        require("updates" in state, "load_state_dict", "state", "lacks updates", "the state of a `MovingAverage`")
        self.average.load_state_dict({name: array for name, array in state.items() if name != "updates"})
        self.updates = int(state["updates"])


def _key(holder):
    owner, attribute = holder
    return id(owner), attribute


def _holders(module):
    """(object, attribute) of each array of a module. Arrays are looked up anew for each update: a module's may be
    replaced, as by `to`."""
    buffers = [(m, name) for m in module.modules() for name in m.buffers]
    return [*((parameter, "data") for parameter in module.parameters()), *buffers]
