"""Checks of gradients, and strategies that draw problems for ops and kernels."""

from .gradient_check import gradcheck

__all__ = ["gradcheck"]
