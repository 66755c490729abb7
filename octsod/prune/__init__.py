"""Which channels count: pruning, complexity, and how scales are distributed."""

from .channels import CRITERIA, THRESHOLD, Change, Plan, apply, change, plan
from .counts import Complexity, complexity

__all__ = ["CRITERIA", "THRESHOLD", "Change", "Complexity", "Plan", "apply", "change", "complexity", "plan"]
