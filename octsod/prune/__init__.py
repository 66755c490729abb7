"""Which channels count: pruning, complexity, and how scales are distributed."""

from .channels import THRESHOLD, Change, apply, change, plan
from .counts import Complexity, complexity
from .groups import prunable
from .plans import Plan
from .scores import CRITERIA

__all__ = ["CRITERIA", "THRESHOLD", "Change", "Complexity", "Plan", "apply", "change", "complexity", "plan", "prunable"]
