"""Fuzzing the cache of compiled kernels: whatever is in its folder, a kernel gives the right result."""

import os
import pathlib
import subprocess
import sys
import tempfile

import numba

from octsod.errors import FileError

from . import mutations
from .kinds import Kind, sane
from .samples import files_in

TESTS = pathlib.Path(__file__).parents[1]
SIGNATURE = (numba.int64,)


def _tiny(x):
    return x + 1


def tiny():
    """A small kernel as a new process would have it: with nothing loaded."""
    from octsod.kernels.cpu.compile import kernel

    return kernel(_tiny)


def fill():
    """Compile the kernel, into the cache that OCTSOD_CACHE_DIR names."""
    assert tiny()(41) == 42


class Cache(Kind):
    """The folder of the cache. Accepted means that Numba was given code from it, which then runs."""

    name = "cache"
    every = 300  # compiling takes a while
    own_cache = True
    # What loading machine code causes.
    allowed = frozenset({"pickle.find_class", "exec", "compile", "ctypes.dlopen", "ctypes.cdata"})

    def samples(self):
        with tempfile.TemporaryDirectory() as root:
            code = "from campaigns.cache_kind import fill; fill()"
            path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
            environment = {**os.environ, "PYTHONPATH": path, "OCTSOD_CACHE_DIR": os.path.join(root, "cache")}
            subprocess.run([sys.executable, "-c", code], env=environment, check=True)
            yield "tiny", files_in(pathlib.Path(root))

    def mutations(self, file, valid):
        return [*mutations.BYTES, mutations.splice([data for files in valid.values() for data in files.values()])]

    def check(self, folder, thorough):
        function = tiny()
        if not thorough and function._cache.load_overload(SIGNATURE, function.targetctx) is None:
            raise FileError(f"{folder}: holds no entry that can be used.")
        sane(function(41) == 42, f"a kernel from the cache says that 41 + 1 is {function(41)}")
