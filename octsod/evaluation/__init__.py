"""Scores a network on pictures with masks, or on pictures of classes."""

from .all_scores import AllScores, average_all, score_all
from .classification import ClassScores, evaluate_classes
from .metrics import Scores, average, score
from .scoring import Evaluation, PictureScores, evaluate

__all__ = [
    "AllScores",
    "ClassScores",
    "Evaluation",
    "PictureScores",
    "Scores",
    "average",
    "average_all",
    "evaluate",
    "evaluate_classes",
    "score",
    "score_all",
]
