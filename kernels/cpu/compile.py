"""How a Python function becomes a kernel: Numba's options, and an on-disk cache that never serves stale code."""

import functools
import hashlib
import os
import pathlib
import platform
import tempfile
import warnings

import llvmlite
import numba
import numpy


def cache_root() -> pathlib.Path:
    """The folder for compiled kernels: `OCTSOD_CACHE_DIR`, else `octsod` in the user's cache folder."""
    chosen = os.environ.get("OCTSOD_CACHE_DIR")
    if chosen:
        return pathlib.Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return pathlib.Path(base) / "octsod"


def _fingerprint() -> str:
    """A hash of everything that decides a kernel's machine code.

    Numba notices an edit of the file that holds a kernel, but not of a helper in another file. So the contents of the
    whole folder name the cache, together with the versions that compile it; an edit or an upgrade starts an empty one.
    """
    digest = hashlib.sha256()
    for file in sorted(pathlib.Path(__file__).parent.glob("*.py")):
        digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")
    versions = (numba.__version__, llvmlite.__version__, numpy.__version__, platform.python_version())
    digest.update(repr(versions).encode())
    return digest.hexdigest()[:16]


@functools.cache
def cache_folder() -> str | None:
    """The writable folder that this version's kernels are cached in, or None (with one warning) if there is none."""
    folder = cache_root() / f"kernels-{_fingerprint()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        warnings.warn(
            f"octsod: kernels are compiled anew in every process, since {folder} is not writable ({error.strerror}); "
            "OCTSOD_CACHE_DIR can name another folder.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return str(folder)


def kernel(function, **more):
    """Compile `function` with Numba on first call: serial, without the GIL, cached on disk, plain IEEE arithmetic."""
    # No fast math: it would let the compiler choose the order of sums and where to fuse a multiply-add, and it chooses
    # differently for a function compiled now and the same one from the cache. Sums and fused operations are spelled out
    # (vector.py), so results are the same in every run.
    # No reference counts (`_nrt`): callers keep all arrays alive and no kernel makes one. For a row of 28 pixels, two
    # atomic operations per array and call would cost more than the arithmetic.
    options = {"nogil": True, "boundscheck": False, "error_model": "numpy", "_nrt": False, **more}
    folder = cache_folder()
    if folder is None:
        return numba.njit(**options)(function)
    before = numba.config.CACHE_DIR  # read once, while the decorator runs: nobody else's functions are affected
    numba.config.CACHE_DIR = folder
    try:
        return numba.njit(cache=True, **options)(function)
    finally:
        numba.config.CACHE_DIR = before


def inlined(function):
    """Like `kernel`, for the body of a loop: it becomes part of each kernel that calls it and sees its constants."""
    return kernel(function, forceinline=True)


def spliced(function):
    """Make `function` part of its callers before they are compiled; it is never compiled by itself."""
    return kernel(function, inline="always")
