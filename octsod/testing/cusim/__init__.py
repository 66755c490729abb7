"""Runs CUDA kernels without a GPU: unmodified `.cu` source, compiled by g++, behind CuPy's launch interface."""

from .arrays import empty, mark_written
from .compiler import unavailable
from .counts import Count, Site, Traffic
from .errors import KernelError
from .module import SCHEDULES, Function, RawModule

__all__ = [
    "SCHEDULES", "Count", "Function", "KernelError", "RawModule", "Site", "Traffic", "empty", "mark_written",
    "unavailable",
]  # fmt: skip
