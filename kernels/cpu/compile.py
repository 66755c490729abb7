"""How a Python function becomes a kernel: Numba's options, and a cache on disk (cache.py)."""

import numba

from octsod.errors import OctsodError

from .cache import KernelCache

if numba.config.DISABLE_JIT:
    raise OctsodError("NUMBA_DISABLE_JIT is set, but octsod cannot compute without compiling its kernels; unset it.")


def kernel(function, **more):
    """Compile `function` with Numba on first call: serial, without the GIL, cached on disk, plain IEEE arithmetic."""
    # No fast math: it would let the compiler choose the order of sums and where to fuse a multiply-add, and it chooses
    # differently for a function compiled now and the same one from the cache. Sums and fused operations are spelled out
    # (vector.py), so results are the same in every run.
    # No reference counts (`_nrt`): callers keep all arrays alive and no kernel makes one. For a row of 28 pixels, two
    # atomic operations per array and call would cost more than the arithmetic.
    options = {"nogil": True, "boundscheck": False, "error_model": "numpy", "_nrt": False, **more}
    compiled = numba.njit(**options)(function)
    compiled._cache = KernelCache(compiled)
    return compiled


def inlined(function):
    """Like `kernel`, for the body of a loop: it becomes part of each kernel that calls it and sees its constants."""
    return kernel(function, forceinline=True)


def spliced(function):
    """Make `function` part of its callers before they are compiled; it is never compiled by itself."""
    return kernel(function, inline="always")


def is_compiled(compiled) -> bool:
    """Whether the cache holds a kernel, for any types of its arguments."""
    return compiled._cache.is_filled()
