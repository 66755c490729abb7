"""Optimisers, learning-rate schedules, and dynamic weight decay."""

from .adam import Adam
from .decay import DynamicWeightDecay, average_pooling, constant, decayed_norms, parameter_groups
from .schedules import CosineLR, MultiStepLR

__all__ = [
    "Adam",
    "CosineLR",
    "DynamicWeightDecay",
    "MultiStepLR",
    "average_pooling",
    "constant",
    "decayed_norms",
    "parameter_groups",
]
