"""The models: CSNet, its configuration, and weight files."""

from .configuration import Configuration
from .files import load, save
from .network import CSNet, csnet

__all__ = ["CSNet", "Configuration", "csnet", "load", "save"]
