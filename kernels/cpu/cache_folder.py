"""Where compiled kernels are kept, and whether that place may be trusted: what is read from there is executed."""

import contextlib
import functools
import hashlib
import os
import pathlib
import platform
import stat
import struct
import sys
import tempfile

import llvmlite
import numba
import numpy
from llvmlite.binding import llvm_version_info
from numba.core.registry import cpu_target

from octsod.places import cache_root

# Numba's settings that leave code as it is; all others count, such as NUMBA_OPT.
HARMLESS = ("CACHE_", "COLOR_", "CUDA_", "DISABLE_PERFORMANCE_", "GDB_", "NUMBA_", "THREADING_", "_")
SUFFIX = ".kernel"


@functools.cache
def cache_folder() -> tuple[pathlib.Path | None, str]:
    """The folder of the kernels for this machine, which need not exist yet, and what is wrong with the folder that the
    user wants, or "". If that one cannot be trusted, or is empty and cannot be written to, ours is a private one among
    the temporary files, or None."""
    root, name, problem = cache_root(), f"kernels-{host()}", ""
    chosen = os.environ.get("OCTSOD_CACHE_DIR")
    if root is not None:
        for folder in (root, root / name):
            reason = mistrust(folder)
            if reason:
                problem = f"{folder}: is not used for compiled kernels, since {reason}"
                break
        else:
            if _serves(root / name):
                return root / name, ""
            problem = f"{root}: is not writable" if chosen else ""  # a container's user may have a home in name only
    elif chosen:
        problem = f"OCTSOD_CACHE_DIR={chosen}: is not used, since it leads nowhere"
    root = _private_root()
    if root is None:
        return None, problem or "there is no folder for compiled kernels, not even a temporary one"
    return root / name, problem and f"{problem}; {root} is used instead"


def _serves(folder):
    """Whether a folder, which may have to be made, is of use: someone has filled it, or this user can."""
    try:
        if next(folder.glob(f"*{SUFFIX}"), None):
            return True
        with contextlib.suppress(FileNotFoundError):
            folder.lstat()  # its name may be impossible
    except OSError:
        return False
    nearest = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)


def _private_root():
    """A folder that only this user can see, or None."""
    if not hasattr(os, "geteuid"):
        return None
    try:
        temporary = tempfile.gettempdir()
        meant = {os.environ.get(variable, "/tmp") for variable in ("TMPDIR", "TEMP", "TMP")} | {"/var/tmp", "/usr/tmp"}
        if os.path.samefile(temporary, os.curdir) and temporary not in map(os.path.abspath, meant):
            return None  # Python's last resort, the working directory; there it would surprise
        root = pathlib.Path(temporary, f"octsod-cache-{os.geteuid()}")
        root.mkdir(mode=0o700, exist_ok=True)
        facts = root.lstat()
    except OSError:
        return None
    private = stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.geteuid() and not facts.st_mode & 0o077
    return root if private else None


def mistrust(path: pathlib.Path) -> str:
    """Why someone else might have put code into this folder, or "". What does not exist, we shall make ourselves."""
    try:
        facts = path.stat()
    except OSError:  # to be read or made later, and to fail there
        return ""
    return mistrust_of(facts)


def mistrust_of(facts: os.stat_result) -> str:
    """Why others than this user and root might have written to a file or folder, or ""."""
    if not hasattr(os, "geteuid"):  # Windows, where a user's cache folder is the user's own
        return ""
    if facts.st_uid not in (os.geteuid(), 0):
        return "it belongs to another user"
    if facts.st_mode & stat.S_IWOTH:
        return "everyone may write to it (`chmod go-w` mends that)"
    if facts.st_mode & stat.S_IWGRP and not _is_own_group(facts.st_gid):
        return "its group may write to it (`chmod g-w` mends that)"
    return ""


@functools.cache
def _is_own_group(number):
    """Whether a group is this user's alone: many systems give each user a group of the same name, and let files be
    writable for it."""
    import grp
    import pwd

    try:
        user, group = pwd.getpwuid(os.geteuid()), grp.getgrgid(number)
    except KeyError:
        return False
    return user.pw_gid == number and group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


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
