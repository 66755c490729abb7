"""The models."""

from .configuration import Configuration
from .csnet import CSNet, csnet

__all__ = ["CSNet", "Configuration", "csnet"]
