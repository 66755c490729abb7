"""Training: a trainer that makes steps, the loop of a run, and the folder that it leaves."""

from .loop import Validation, train
from .trainer import DECAYS, SCHEDULES, WEIGHT_DECAY, DivergenceError, Recipe, Trainer

__all__ = [
    "DECAYS",
    "SCHEDULES",
    "WEIGHT_DECAY",
    "DivergenceError",
    "Recipe",
    "Trainer",
    "Validation",
    "train",
]
