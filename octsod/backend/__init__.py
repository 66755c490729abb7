"""Where arrays live and what computes on them: devices, memory, maps whose normalisation is deferred."""

from .device import kernels, launch_with, use_backend

__all__ = ["kernels", "launch_with", "use_backend"]
