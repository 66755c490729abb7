"""The models: CSNet, its configuration, and weight files."""

from .configuration import Configuration, Layer
from .files import load, register, save
from .network import CSNet, csnet

__all__ = ["CSNet", "Configuration", "Layer", "csnet", "load", "register", "save"]
