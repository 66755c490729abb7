"""Adam."""

from collections.abc import Iterable, Sequence
from typing import Any

from ..autograd import Tensor
from ..backend import kernels
from ..checks import require
from ..ops.cost import Cost, Shape, elements
from .buffers import FlatBuffer
from .optimizer import Optimizer


class Adam(Optimizer):
    """Adam with coupled L2: `weight_decay * parameter` is added to the gradient.

    params_or_groups: parameters, or dicts with `params` and any of `lr`, `betas`, `eps`, `weight_decay`. A parameter
    without a gradient is left alone.
    """

    def __init__(
        self, params_or_groups: Iterable[Tensor] | Iterable[dict[str, Any]], lr: float,
        betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0,
    ):  # fmt: skip
        super().__init__(
            params_or_groups, {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        )
        for group in self.groups:
            require(group["lr"] >= 0, "Adam", "lr", f"is {group['lr']}", "a number that is not negative")
            require(all(0 <= b < 1 for b in group["betas"]), "Adam", "betas", f"is {group['betas']}", "two in [0, 1)")
        self._moments = [(buffer.like(), buffer.like()) for buffer in self.buffers]
        self._settings: tuple[Any, Any] = None, None

    @property
    def moments(self) -> dict[int, Sequence[Any]]:
        """Parameter -> its first and second moment, arrays of its shape: by the parameter's id."""
        return {
            id(p): pair
            for buffer, flats in zip(self.buffers, self._moments, strict=True)
            for p, *pair in zip(buffer.parameters, *map(buffer.views, flats), strict=True)
        }

    def update(self, number: int, buffer: FlatBuffer, ranges: Any) -> None:
        settings = [[g["lr"], *g["betas"], g["eps"], g["weight_decay"]] for g in self.groups]
        if settings != self._settings[0]:
            self._settings = settings, self.device.put(settings, dtype="float64")
        kernels.adam(buffer.data, buffer.grad, *self._moments[number], ranges, self._settings[1], self.state)

    @staticmethod
    def cost(parameter: Shape, itemsize: int = 4) -> Cost:
        """Of one step of one parameter, from its shape: parameter, gradient and moments read, all but the gradient
        written; a division or square root counts as one operation."""
        return Cost(16 * elements(parameter), 7 * itemsize * elements(parameter))
