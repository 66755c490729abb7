"""Where compiled kernels are kept: a folder for each kind of machine and set of versions."""

import functools
import hashlib
import pathlib
import platform
import struct
import sys

import llvmlite
import numba
import numpy
from llvmlite.binding import llvm_version_info
from numba.core.registry import cpu_target

from octsod.places import trusted_folder

# Numba's settings that leave code as it is; all others count, such as NUMBA_OPT.
HARMLESS = ("CACHE_", "COLOR_", "CUDA_", "DISABLE_PERFORMANCE_", "GDB_", "NUMBA_", "THREADING_", "_")
SUFFIX = ".kernel"


@functools.cache
def cache_folder() -> tuple[pathlib.Path | None, str]:
    """The folder of the kernels for this machine, and what is wrong with the folder that the user wants, or ""; see
    `trusted_folder`."""
    return trusted_folder(f"kernels-{host()}", SUFFIX)


@functools.cache
def host() -> str:
    """A hash of all that machine code depends on besides a kernel's sources: the processor and its features as Numba
    sees them, versions, Numba's settings. Code for another processor would crash, or write beyond an array's end."""
    python = (sys.implementation.name, platform.python_version(), getattr(sys, "abiflags", ""))
    versions = (numba.__version__, llvmlite.__version__, llvm_version_info, numpy.__version__)
    machine = (sys.platform, platform.machine(), sys.byteorder, struct.calcsize("P"))
    settings = sorted(
        (name, repr(value)) for name, value in vars(numba.config).items()
        if name.isupper() and not name.startswith(HARMLESS)
    )  # fmt: skip
    target = cpu_target.target_context.codegen().magic_tuple()  # triple, processor, features
    return hashlib.sha256(repr((python, versions, machine, settings, target)).encode()).hexdigest()[:16]
