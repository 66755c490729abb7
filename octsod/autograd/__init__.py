"""Reverse-mode automatic differentiation: tensors, the graph that ops record, and the way back through it."""

from .graph import Context, Function, Op, backward, backward_all
from .mode import is_grad_enabled, no_grad, observe
from .tensor import Tensor

__all__ = ["Context", "Function", "Op", "Tensor", "backward", "backward_all", "is_grad_enabled", "no_grad", "observe"]
