"""Scores a network on pictures with masks."""

from .metrics import Scores, average, score
from .scoring import Evaluation, PictureScores, evaluate

__all__ = ["Evaluation", "PictureScores", "Scores", "average", "evaluate", "score"]
