"""Dynamic weight decay, and the groups of parameters that it makes."""

from collections.abc import Callable
from typing import Any

from ..autograd import Tensor
from ..backend import on
from ..checks import require, require_number
from ..nn import Module, NormAct


def _branches(model):
    """Norm -> number of its branch, for all norms that the modules of a model declare by `decayed_norms`."""
    return {norm: branch for module in model.modules() for norm, branch in module.decayed_norms()}


def decayed_norms(model: Module) -> list[NormAct]:
    """The norms of a model whose scales dynamic weight decay acts on: those that its modules declare, see
    `Module.decayed_norms`; CSNet's are those of its ILBlocks."""
    return list(_branches(model))


def parameter_groups(model: Module, weight_decay: float) -> list[dict[str, Any]]:
    """Groups for an optimiser: ordinary `weight_decay` for all parameters but the scales under dynamic decay.
    Parameters that require no gradient, as in frozen modules, are left out."""
    gammas = [norm.weight for norm in decayed_norms(model) if norm.weight.requires_grad]
    exempt = {id(p) for p in gammas}
    others = [p for p in model.parameters() if p.requires_grad and id(p) not in exempt]
    groups = [{"params": others, "weight_decay": weight_decay}, {"params": gammas, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


METRICS = ("average_pooling", "constant")


class DynamicWeightDecay:
    """Dynamic weight decay (paper, section 3.2, equations 3 and 4; csnet.md, section 3).

    Per channel c with scale gamma_c, the penalty is 1/2 * sum_c M_c * gamma_c**2, with the metric M_c held constant.

    metric: "average_pooling", the paper's: per channel, the mean over the batch of |mean over pixels of the activation|
    (equation 4); "constant", which makes this the standard decay: 1 for every channel; or a function that is given, for
    each norm, the sums over pixels of its activations after PReLU, a NumPy array (N, C) float64, and the number of
    pixels, and returns M (C,): it costs waiting for the device once a step. branch_factor: the metric of branch k is
    multiplied by branch_factor**k, finest first; 1/4 weighs branches by what a channel costs there.
    """

    def __init__(
        self, model: Module, strength: float, metric: str | Callable[..., Any] = "average_pooling",
        branch_factor: float = 1.0,
    ):  # fmt: skip
        op = "DynamicWeightDecay"
        known = callable(metric) or metric in METRICS
        require(known, op, "metric", f"is {metric!r}", f"a function or one of {', '.join(METRICS)}")
        branches = _branches(model)
        self.norms, self.strength, self.metric = list(branches), strength, metric
        declared = "a module whose method `decayed_norms` returns [(norm, number of its branch), ...], as an ILBlock's"
        require(len(self.norms) > 0, op, "model", "has no norms whose scales may decay", declared)
        for name, value in (("strength", strength), ("branch_factor", branch_factor)):
            require_number(value, op, name, 0)
        self.factors = [branch_factor**branch for branch in branches.values()]

    def apply(self) -> Tensor:
        """After backward: add `strength * M * gamma` to the gradients of the scales; returns the unscaled penalty.
        Scales that require no gradient are left alone."""
        learned = [(n, f) for n, f in zip(self.norms, self.factors, strict=True) if n.weight.requires_grad]
        missing = any(norm.activation is None or norm.activation.values is None for norm, _ in learned)
        require(not missing, "DynamicWeightDecay", "model", "has not run", "a training pass before `apply`")
        sums = [norm.activation.values for norm, _ in learned]
        pixels = [norm.activation.pixels for norm, _ in learned]
        scales, factors = [norm.weight for norm, _ in learned], [factor for _, factor in learned]
        device = self.norms[0].weight.device
        with on(device):
            for scale in scales:
                if scale.grad is None:
                    scale.grad = device.zeros(scale.shape, scale.dtype)
            metric = self._called(device, sums, pixels) if callable(self.metric) else self.metric
            penalty = device.empty((), "float64")
            values, gradients = [s.data for s in scales], [s.grad for s in scales]
            device.kernels.decay_scales(metric, sums, pixels, values, factors, self.strength, gradients, penalty)
        return Tensor._of(penalty)

    def _called(self, device, sums, pixels):
        """What the user's function makes of each norm's sums, which come to the host all at once."""
        together = device.empty((sum(s.shape[0] * s.shape[1] for s in sums),), "float64")
        device.kernels.gather(sums, together)
        together, start, metrics = device.get(together), 0, []
        for array, count in zip(sums, pixels, strict=True):
            size = array.shape[0] * array.shape[1]
            values = self.metric(together[start : start + size].reshape(array.shape), count)
            shape = tuple(getattr(values, "shape", ()))
            require(
                shape == (array.shape[1],), "DynamicWeightDecay", "metric", f"returns shape {shape}",
                f"({array.shape[1]},)",
            )  # fmt: skip
            metrics.append(device.put(values, dtype="float64"))
            start += size
        return metrics
