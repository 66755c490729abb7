"""Prediction: a network frozen for inference, and what it makes of pictures."""

from .frozen import Frozen, freeze, logits, snapshots

__all__ = ["Frozen", "freeze", "logits", "snapshots"]
