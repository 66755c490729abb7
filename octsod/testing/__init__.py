"""Checks of gradients and of precision, and strategies that draw problems for ops and kernels."""

from .gradient_check import gradcheck
from .gradient_report import GradientError, GradientReport, InconclusiveWarning
from .precision_check import PrecisionError, PrecisionReport, check_precision

__all__ = [
    "GradientError",
    "GradientReport",
    "InconclusiveWarning",
    "PrecisionError",
    "PrecisionReport",
    "check_precision",
    "gradcheck",
]
