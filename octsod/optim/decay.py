"""Dynamic weight decay, and the groups of parameters that it makes."""

import math

import numpy as np

from .. import nn
from ..backend.device import kernels
from ..checks import require


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
