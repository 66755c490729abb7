"""Adam."""

import numpy as np

from ..backend.device import kernels
from ..checks import require
from ..ops.cost import Cost, elements


class Adam:
    """Adam with coupled L2: `weight_decay * parameter` is added to the gradient.

    params_or_groups: parameters, or dicts with `params` and any of `lr`, `betas`, `eps`, `weight_decay`. A parameter
    without a gradient is left alone.
    """

    def __init__(self, params_or_groups, lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0):
        defaults = {"lr": lr, "betas": tuple(betas), "eps": eps, "weight_decay": weight_decay}
        entries = list(params_or_groups)
        require(len(entries) > 0, "Adam", "params_or_groups", "is empty", "at least one parameter")
        groups = entries if isinstance(entries[0], dict) else [{"params": entries}]
        self.groups = [{**defaults, **group, "params": list(group["params"])} for group in groups]
        seen = set()
        for group in self.groups:
            unknown = group.keys() - defaults.keys() - {"params"}
            require(not unknown, "Adam", "params_or_groups", f"has {', '.join(sorted(unknown))}", ", ".join(defaults))
            require(group["lr"] >= 0, "Adam", "lr", f"is {group['lr']}", "a number that is not negative")
            require(all(0 <= b < 1 for b in group["betas"]), "Adam", "betas", f"is {group['betas']}", "two in [0, 1)")
            for p in group["params"]:
                require(id(p) not in seen, "Adam", "params_or_groups", "names a parameter twice", "each once")
                seen.add(id(p))
        self.steps = 0
        self.moments = [
            [(np.zeros(p.shape, p.dtype), np.zeros(p.shape, p.dtype)) for p in group["params"]]
            for group in self.groups
        ]

    def zero_grad(self):
        """Forget all gradients."""
        for group in self.groups:
            for p in group["params"]:
                p.grad = None

    def step(self):
        """Update every parameter from its gradient."""
        self.steps += 1
        for group, moments in zip(self.groups, self.moments, strict=True):
            beta1, beta2 = group["betas"]
            for p, (first, second) in zip(group["params"], moments, strict=True):
                if p.grad is not None:
                    kernels.adam(
                        p.data, p.grad, first, second, group["lr"], beta1, beta2, group["eps"], group["weight_decay"],
                        1 - beta1**self.steps, 1 - beta2**self.steps,
                    )  # fmt: skip

    @staticmethod
    def cost(parameter, itemsize=4):
        """Of one step of one parameter, from its shape: parameter, gradient and moments read, all but the gradient
        written; a division or square root counts as one operation."""
        return Cost(16 * elements(parameter), 7 * itemsize * elements(parameter))
