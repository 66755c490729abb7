"""Compiled kernels on disk, one file for each kernel and signature.

A cache saves time and must never cost a result: whatever is wrong with it, kernels are compiled, with one warning. An
entry is read whole and its checksum verified before anything in it is believed. That guards against damage; against
malice, nothing is read that others than this user and root could have written (octsod/places.py).
"""

import contextlib
import hashlib
import os
import pathlib
import pickle
import re
import secrets
import stat
import tempfile
import time
import warnings

from numba.core.caching import _Cache
from numba.core.compiler import CompileResult
from numba.core.serialize import dumps

from octsod.places import make_cache_root, mistrust_of

from .cache_folder import SUFFIX, cache_folder
from .fingerprints import fingerprint, fingerprint_of_types

MAGIC = b"octsod kernel 1\n"
PART = ".part"
MOST = 1 << 28  # bytes of an entry; the largest has a hundredth of that
VERSIONS = 4  # how many versions of a kernel are kept, such as those of several branches
ABANDONED = 3600  # seconds after which a file that someone was writing is given up

_problem = _loss = None


def first_problem() -> str | None:
    """What is wrong with the cache, so far as it was noticed."""
    return _problem


def first_loss() -> str | None:
    """Why a kernel that this process compiled could not be kept, if there is one."""
    return _loss


def _warn(problem):
    """Say what is wrong, once per process: a hundred entries may have the same fault."""
    global _problem
    if _problem is None:
        _problem = problem
        warnings.warn(
            f"octsod: {problem}. Kernels that are missing are compiled, which takes up to a minute; OCTSOD_CACHE_DIR "
            "can name another folder.",
            RuntimeWarning,
            stacklevel=3,
        )


class KernelCache(_Cache):
    """What Numba asks for a kernel's machine code before it compiles it, and gives the result to."""

    def __init__(self, kernel):
        self._kernel = kernel
        self._enabled = True

    @property
    def cache_path(self):
        return str(cache_folder()[0])

    def enable(self):
        self._enabled = True

    def disable(self):
        self._enabled = False

    def flush(self):
        for path in self._kept():
            with contextlib.suppress(OSError):
                path.unlink()

    def is_filled(self) -> bool:
        """Whether there is an entry of this version of the kernel, for any signature."""
        return bool(self._kept())

    def load_overload(self, sig, target_context):
        target_context.refresh()  # with what the entry refers to
        path, key = self._entry(sig)
        if path is None:
            return None
        try:
            payload = _read(path, key)
            return None if payload is None else CompileResult._rebuild(target_context, *pickle.loads(payload))
        except MemoryError:
            raise
        except Exception as error:  # whatever a payload may cause that is not what Numba expects
            _warn(f"{path}: cannot be used ({_reason(error)})")
            return None

    def save_overload(self, sig, data):
        path, key = self._entry(sig)
        if path is None or data.lifted or data.library.has_dynamic_globals:  # addresses of this process are in the code
            return
        try:
            payload = dumps(data._reduce())
            _make(path.parent)
            _write(path, MAGIC + _checksum(key, payload) + payload)
            _tidy(path.parent, path.name.rpartition("-")[0])
        except MemoryError:
            raise
        except Exception as error:
            global _loss
            _loss = _loss or f"{path.parent}: is not writable ({_reason(error)})"
            _warn(_loss)

    def _entry(self, sig):
        """The path of an entry, which any older one is overwritten at, and all that it stands for, as bytes. None for
        both if no entry may be read or written."""
        folder, problem = cache_folder()
        if problem:
            _warn(problem)
        if folder is None or not self._enabled:
            return None, None
        try:
            types = fingerprint_of_types(sig)
            path = folder / f"{self._name()}-{types[:8]}-{self._version()}{SUFFIX}"
        except MemoryError:
            raise
        except Exception:  # nothing is kept of a kernel if it cannot be said what it depends on
            return None, None
        return path, f"{folder.name} {path.name} {types}".encode()

    def _kept(self):
        folder, _ = cache_folder()
        try:
            return [*folder.glob(f"{self._name()}-*-{self._version()}{SUFFIX}")] if folder else []
        except OSError:
            return []

    def _name(self):
        function = self._kernel.py_func
        name = f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}"
        return re.sub(r"[^\w.]", "_", name)

    def _version(self):
        return fingerprint(self._kernel)[:32]


def _reason(error):
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


class _DamageError(Exception):
    """This is no entry, or not the one that was written."""


def _checksum(key, payload):
    return hashlib.sha256(len(key).to_bytes(4, "big") + key + payload).digest()


def _read(path, key):
    """An entry's payload, or None if there is no entry. Raises OSError and _DamageError."""
    # A named pipe must not keep us waiting; what a link leads to is not ours.
    flags = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY", "O_CLOEXEC"))
    try:
        handle = os.open(path, os.O_RDONLY | flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        facts = os.fstat(handle)
        if not stat.S_ISREG(facts.st_mode):
            raise _DamageError("it is not a regular file")
        if reason := mistrust_of(facts):
            raise _DamageError(reason)
        with os.fdopen(handle, "rb", closefd=False) as file:
            data = file.read(MOST)
    finally:
        os.close(handle)
    start = len(MAGIC) + hashlib.sha256().digest_size
    payload = data[start:]
    if not data.startswith(MAGIC) or data[len(MAGIC) : start] != _checksum(key, payload):
        raise _DamageError("it is damaged")
    return payload


def _make(folder):
    """Make a folder for entries."""
    make_cache_root(folder.parent)
    folder.mkdir(mode=0o755, exist_ok=True)


def _write(path, data):
    """Write an entry under a temporary name and rename it: whoever reads it sees all of it or nothing. It need not
    reach the disk at once; what a power cut leaves behind, the checksum recognises."""
    part = path.parent / f".{secrets.token_hex(8)}{PART}"
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o644)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        try:
            os.replace(part, path)
        except IsADirectoryError:
            path.rmdir()
            os.replace(part, path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink()
        raise


def _tidy(folder, start):
    """Delete old versions of the kernel and signature that `start` names, and what killed processes left behind."""
    with contextlib.suppress(OSError):  # someone else may be doing the same
        versions = sorted((path.stat().st_mtime, path) for path in folder.glob(f"{start}-*{SUFFIX}"))
        parts = [(path.stat().st_mtime, path) for path in folder.glob(f".*{PART}")]
        abandoned = [(written, path) for written, path in parts if written < time.time() - ABANDONED]
        for _, path in versions[:-VERSIONS] + abandoned:
            path.unlink()


def is_writable(folder: pathlib.Path) -> bool:
    """Whether kernels can be kept in this folder, which is made for that."""
    try:
        _make(folder)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False
