"""Optimisers, learning-rate schedules, and dynamic weight decay."""

from .adam import Adam
from .decay import METRICS, DynamicWeightDecay, decayed_norms, parameter_groups
from .optimizer import Optimizer
from .schedules import CosineLR, MultiStepLR

__all__ = [
    "METRICS",
    "Adam",
    "CosineLR",
    "DynamicWeightDecay",
    "MultiStepLR",
    "Optimizer",
    "decayed_norms",
    "parameter_groups",
]
