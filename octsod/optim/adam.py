"""Adam, and AdamW."""

from collections.abc import Iterable
from typing import Any

from ..autograd import Tensor
from ..backend import kernels
from ..checks import require, require_number, require_share, shortened
from ..ops.cost import Cost, Shape, elements
from .buffers import FlatBuffer
from .optimizer import Optimizer


class Adam(Optimizer):
    """Adam (Kingma and Ba, 2015) with coupled L2: `weight_decay * parameter` is added to the gradient.

    With gradient g, in step t from 1: m = beta1*m + (1 - beta1)*g, v = beta2*v + (1 - beta2)*g**2, and
    p -= lr * m/(1 - beta1**t) / (sqrt(v/(1 - beta2**t)) + eps).

    params_or_groups: parameters, or dicts with `params` and any of `lr`, `betas`, `eps`, `weight_decay`. A parameter
    without a gradient is left alone. max_norm: that of all gradients together, see `Optimizer`.
    """

    slots = ("first", "second")
    decoupled = False

    def __init__(
        self, params_or_groups: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
        max_norm: float | None = None,
    ):  # fmt: skip
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params_or_groups, defaults, max_norm)

    def check(self, group: dict[str, Any]) -> None:
        op = type(self).__name__
        for name in ("lr", "eps", "weight_decay"):
            require_number(group[name], op, name, 0)
        two = isinstance(group["betas"], (tuple, list)) and len(group["betas"]) == 2
        require(two, op, "betas", f"is {shortened(group['betas'])}", "two numbers in [0, 1)")
        group["betas"] = tuple(require_share(beta, op, "betas") for beta in group["betas"])

    def numbers(self, group: dict[str, Any]) -> list[float]:
        return [group["lr"], *group["betas"], group["eps"], group["weight_decay"], float(self.decoupled)]

    def constants(self) -> tuple[Any, ...] | None:
        return (self.max_norm,)

    def update(self, number: int, buffer: FlatBuffer, ranges: Any) -> None:
        first, second = (self.slot(name, number) for name in self.slots)
        kernels.adam(buffer.data, buffer.grad, first, second, ranges, self.settings, self.state)

    @staticmethod
    def cost(parameter: Shape, itemsize: int = 4) -> Cost:
        """Of one step of one parameter, from its shape: parameter, gradient and moments read, all but the gradient
        written; a division or square root counts as one operation."""
        return Cost(16 * elements(parameter), 7 * itemsize * elements(parameter))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019): before Adam's step, p -= lr * weight_decay * p.
    The gradient stays as it is, so the decay is not divided by the root of v."""

    decoupled = True

    def __init__(
        self, params_or_groups: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.01,
        max_norm: float | None = None,
    ):  # fmt: skip
        super().__init__(params_or_groups, lr, betas, eps, weight_decay, max_norm)
