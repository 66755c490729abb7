"""The one place where kernels are called from: `kernels.NAME(...)` runs NAME of the backend in use.

A backend is a module; its functions are the table. All have the same names and signatures, so any op, and the whole
model, can be run on the plain-NumPy reference instead, to hunt a bug.
"""

import contextlib
import functools
import importlib

BACKENDS = ("cpu", "reference")


class KernelTable:
    """Looks a kernel up in the backend in use, importing the backend on first use."""

    def __init__(self, name):
        self.__dict__.update(name=name, module=None, launcher=None)

    def __getattr__(self, kernel):
        if self.module is None:
            self.__dict__["module"] = importlib.import_module(f"octsod.kernels.{self.name}")
        function = getattr(self.module, kernel)
        return function if self.launcher is None else functools.partial(self.launcher, kernel, function)

    def use(self, name):
        """Use backend `name` from now on."""
        if name not in BACKENDS:
            raise ValueError(f"use_backend: `name` (={name!r}) must be one of {', '.join(BACKENDS)}.")
        self.__dict__.update(name=name, module=None)


kernels = KernelTable("cpu")


@contextlib.contextmanager
def use_backend(name):
    """Within `with use_backend("reference"):`, ops run on that backend."""
    before = kernels.name
    kernels.use(name)
    try:
        yield
    finally:
        kernels.use(before)


@contextlib.contextmanager
def launch_with(launcher):
    """Within `with launch_with(f):`, a kernel is run by calling `f(name, function, *arguments)`, which is to call
    `function(*arguments)`: to count, time or check what ops launch."""
    before, kernels.__dict__["launcher"] = kernels.launcher, launcher
    try:
        yield
    finally:
        kernels.__dict__["launcher"] = before
