"""Checks of ops, of their gradients and precision; strategies that draw cases for them; a simulator of CUDA kernels.

`strategies` and `parametrize_ops` need what `pip install "octsod[test]"` installs, and load on first use.
"""

from typing import TYPE_CHECKING, Any

from ..lazy import loading as _loading
from .cases import Case, Input
from .gradient_check import gradcheck
from .gradient_report import GradientError, GradientReport, InconclusiveWarning
from .operator_check import CHECKS, check_op
from .precision_check import PrecisionError, PrecisionReport, check_precision
from .reports import CheckFailure, Report, Verdict, explained

if TYPE_CHECKING:  # what loads on first use
    from . import cusim as cusim
    from . import strategies as strategies
    from .plugin import parametrize_ops as parametrize_ops

__all__ = [
    "CHECKS", "Case", "CheckFailure", "GradientError", "GradientReport", "InconclusiveWarning", "Input",
    "PrecisionError", "PrecisionReport", "Report", "Verdict", "check_op", "check_precision", "cusim", "gradcheck",
    "parametrize_ops", "strategies",
]  # fmt: skip

_load = _loading(__name__, {"parametrize_ops": "plugin"}, {"strategies": "strategies", "cusim": "cusim"})


def __getattr__(name: str) -> Any:
    try:
        return _load(name)
    except ModuleNotFoundError as error:
        raise explained(error, f"octsod.testing.{name}") from error
