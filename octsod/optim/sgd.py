"""Gradient descent with momentum."""

from collections.abc import Iterable
from typing import Any

from ..autograd import Tensor
from ..backend import kernels
from ..checks import require, require_number
from .buffers import FlatBuffer
from .optimizer import Optimizer


class SGD(Optimizer):
    """Stochastic gradient descent with momentum (Sutskever et al., 2013), by PyTorch's formula.

    With gradient g: g' = g + weight_decay*p, v = momentum*v + (1 - dampening)*g', p -= lr*v, or, if `nesterov`,
    p -= lr*(g' + momentum*v). In the optimiser's first step v = g'.

    params_or_groups: parameters, or dicts with `params` and any of the settings. A parameter without a gradient is left
    alone. nesterov: needs momentum, and no dampening. max_norm: that of all gradients together, see `Optimizer`.
    """

    slots = ("velocity",)

    def __init__(
        self, params_or_groups: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float, momentum: float = 0.0,
        nesterov: bool = False, weight_decay: float = 0.0, dampening: float = 0.0, max_norm: float | None = None,
    ):  # fmt: skip
        defaults = {
            "lr": lr, "momentum": momentum, "nesterov": nesterov, "weight_decay": weight_decay, "dampening": dampening,
        }  # fmt: skip
        super().__init__(params_or_groups, defaults, max_norm)

    def check(self, group: dict[str, Any]) -> None:
        for name in ("lr", "momentum", "weight_decay"):
            require_number(group[name], "SGD", name, 0)
        share = require_number(group["dampening"], "SGD", "dampening", 0) <= 1
        require(share, "SGD", "dampening", f"is {group['dampening']}", "a number from 0 to 1")
        possible = not group["nesterov"] or (group["momentum"] > 0 and group["dampening"] == 0)
        without = f"is True with momentum {group['momentum']} and dampening {group['dampening']}"
        require(possible, "SGD", "nesterov", without, "momentum, and no dampening")

    def numbers(self, group: dict[str, Any]) -> list[float]:
        return [
            group["lr"], group["momentum"], group["dampening"], float(bool(group["nesterov"])), group["weight_decay"],
        ]  # fmt: skip

    def constants(self) -> tuple[Any, ...] | None:
        return (self.max_norm,)

    def update(self, number: int, buffer: FlatBuffer, ranges: Any) -> None:
        velocity = self.slot("velocity", number)
        kernels.sgd(buffer.data, buffer.grad, velocity, ranges, self.settings, self.state)
