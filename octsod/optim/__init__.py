"""Optimisers, learning-rate schedules, averages of weights, and dynamic weight decay."""

from .adam import Adam, AdamW
from .averaging import MovingAverage
from .decay import METRICS, DynamicWeightDecay, decayed_norms, parameter_groups
from .optimizer import Optimizer
from .schedules import CosineLR, MultiStepLR, OneCycleLR
from .sgd import SGD

__all__ = [
    "METRICS",
    "SGD",
    "Adam",
    "AdamW",
    "CosineLR",
    "DynamicWeightDecay",
    "MovingAverage",
    "MultiStepLR",
    "OneCycleLR",
    "Optimizer",
    "decayed_norms",
    "parameter_groups",
]
