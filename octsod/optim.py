"""Optimisers, learning-rate schedules, and dynamic weight decay."""

import bisect
import math

import numpy as np

from . import nn
from .backend import kernels
from .checks import require
from .ops.cost import Cost, elements


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


class _Schedule:
    """Sets the learning rate of each of an optimiser's groups to its initial one times `factor(step)`."""

    def __init__(self, optimizer):
        self.optimizer = optimizer
        self.initial = [group["lr"] for group in optimizer.groups]
        self.seek(0)

    def factor(self, count):
        raise TypeError(f"{type(self).__name__} needs a method `factor`.")

    def seek(self, count):
        """Go to epoch `count` (or step: the unit is the caller's), counted from 0."""
        self.count = count
        for group, lr in zip(self.optimizer.groups, self.initial, strict=True):
            group["lr"] = lr * self.factor(count)

    def step(self):
        """Go on to the next epoch."""
        self.seek(self.count + 1)


class MultiStepLR(_Schedule):
    """The learning rate times `gamma` from each of `milestones` on."""

    def __init__(self, optimizer, milestones, gamma=0.1):
        self.milestones, self.gamma = sorted(milestones), gamma
        super().__init__(optimizer)

    def factor(self, count):
        return self.gamma ** bisect.bisect_right(self.milestones, count)


class CosineLR(_Schedule):
    """A linear warm-up over `warmup`, then half a cosine down to `floor` (a factor) at `total`."""

    def __init__(self, optimizer, total, warmup=0, floor=0.0):
        require(0 <= warmup < total, "CosineLR", "warmup", f"is {warmup}", f"less than `total` (={total})")
        self.total, self.warmup, self.floor = total, warmup, floor
        super().__init__(optimizer)

    def factor(self, count):
        if count < self.warmup:
            return (count + 1) / self.warmup
        progress = min((count - self.warmup) / (self.total - self.warmup), 1.0)
        return self.floor + (1 - self.floor) * 0.5 * (1 + math.cos(math.pi * progress))


def decayed_norms(model):
    """The norms of a model whose scales dynamic weight decay acts on: those of its ILBlocks."""
    return [norm for module in model.modules() if isinstance(module, nn.ILBlock) for norm in module.norms()]


def parameter_groups(model, weight_decay):
    """Groups for an optimiser: ordinary `weight_decay` for all parameters but the scales under dynamic decay."""
    gammas = [norm.weight for norm in decayed_norms(model)]
    exempt = {id(p) for p in gammas}
    others = [p for p in model.parameters() if id(p) not in exempt]
    groups = [{"params": others, "weight_decay": weight_decay}, {"params": gammas, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def average_pooling(sums, pixels):
    """The paper's metric: per channel, the mean over the batch of |mean over pixels of the activation| (equation 4)."""
    return np.abs(sums / pixels).mean(axis=0)


def constant(sums, pixels):
    """The metric that makes dynamic weight decay the standard one: 1 for every channel."""
    return np.ones(sums.shape[1])


class DynamicWeightDecay:
    """Dynamic weight decay (paper, section 3.2, equations 3 and 4; csnet.md, section 3).

    Per channel c with scale gamma_c, the penalty is 1/2 * sum_c M_c * gamma_c**2, with the metric M_c held constant.

    metric: a function that is given, for each norm, the sums over pixels of its activations after PReLU, (N, C)
    float64, and the number of pixels, and returns M (C,). branch_factor: that of branch k is multiplied by
    branch_factor**k, finest first; 1/4 weighs branches by what a channel costs there.
    """

    def __init__(self, model, strength, metric=average_pooling, branch_factor=1.0):
        op = "DynamicWeightDecay"
        self.norms, self.strength, self.metric = decayed_norms(model), strength, metric
        require(len(self.norms) > 0, op, "model", "has no ILBlock", "a CSNet")
        for name, value in (("strength", strength), ("branch_factor", branch_factor)):
            require(0 <= value < math.inf, op, name, f"is {value}", "a number that is not negative")
        layers = [layer for m in model.modules() if isinstance(m, nn.ILBlock) for layer in (m.mix, *m.depthwise)]
        branches = {id(norm): branch for layer in layers for branch, norm in enumerate(layer.norms)}
        self.factors = [branch_factor ** branches[id(norm)] for norm in self.norms]

    def apply(self):
        """After backward: add `strength * M * gamma` to the gradients of the scales; returns the unscaled penalty."""
        penalty = 0.0
        for norm, factor in zip(self.norms, self.factors, strict=True):
            sums = None if norm.activation is None else norm.activation.values
            require(sums is not None, "DynamicWeightDecay", "model", "has not run", "a training pass before `apply`")
            gamma = norm.weight.data
            metric = np.asarray(self.metric(sums, norm.activation.pixels))
            fits = metric.shape == gamma.shape
            require(fits, "DynamicWeightDecay", "metric", f"returns shape {metric.shape}", f"{gamma.shape}")
            metric = factor * metric
            penalty += 0.5 * float((metric * gamma.astype(np.float64) ** 2).sum())
            share = (self.strength * metric * gamma).astype(gamma.dtype)
            if norm.weight.grad is None:
                norm.weight.grad = share
            else:
                kernels.add(norm.weight.grad, share, norm.weight.grad)
        return penalty
