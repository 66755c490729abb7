"""Kernels from outside the package, in namespaces of their own."""

import importlib
import os
import pathlib
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from .device import Device, MissingKernelError, current

Kernel = TypeVar("Kernel", bound=Callable[..., Any])

OWN = "octsod"  # the library's, see `kernels`
_namespaces: dict[str, "Namespace"] = {}


class Namespace:
    """Kernels of one's own, by name and backend.

        mine = Namespace("mine")

        @mine.kernel("cpu")
        def swish(x, out): ...

    `mine.swish(x, out)` then runs the kernel `swish` of the device that computes (see `Function`): that of its backend,
    "cpu", "reference" (plain NumPy, with which others are compared), "cuda", or that of a device made known by
    `register`. As for octsod's own kernels, see contract.py: it gets C-contiguous arrays, outputs included, writes all
    of these and nothing else, and returns nothing. Whoever counts, times or checks launches sees it as "mine.swish".

    name: an identifier. replace: whether a namespace of this name may exist already, and a kernel in it be defined
    again, as in a notebook whose cells run more than once. Raises ValueError if the name is taken otherwise.
    """

    def __init__(self, name: str, replace: bool = False):
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"Namespace: `name` (={name!r}) must be an identifier.")
        taken = _holder(name)
        if taken and not (replace and name != OWN):
            raise ValueError(f"Namespace: the name `{name}` is taken by {taken}.")
        self._name, self._replace, self._where = name, replace, _caller()
        self._kernels: dict[tuple[str, str], Callable[..., Any]] = {}
        _namespaces[name] = self

    def __repr__(self):
        return f"<namespace {self._name}: {', '.join(sorted({name for name, _ in self._kernels})) or 'no kernels'}>"

    def kernel(self, backend: str, name: str | None = None) -> Callable[[Kernel], Kernel]:
        """Decorate a function that is the kernel of a backend, by its own name or by `name`. It may be compiled, by
        `numba.njit` for instance. Raises ValueError if the backend has one of that name."""
        if not isinstance(backend, str):
            raise TypeError(f"{self._name}.kernel: `backend` (={backend!r}) must be a name, as in `kernel('cpu')`.")

        def register(function: Kernel) -> Kernel:
            own = str(name or getattr(function, "__name__", ""))
            if not own.isidentifier() or own.startswith("_") or hasattr(type(self), own):
                raise ValueError(f"{self._name}.kernel: {own!r} is no name for a kernel.")
            if not callable(function):
                raise TypeError(f"{self._name}.{own} is a {type(function).__name__}; expected a function.")
            if (own, backend) in self._kernels and not self._replace:
                raise ValueError(f"{self._name}.kernel: `{own}` has been defined for the backend `{backend}`.")
            self._kernels[own, backend] = function
            return function

        return register

    def backends(self, kernel: str) -> list[str]:
        """The backends that have a kernel of this name."""
        return [backend for name, backend in self._kernels if name == kernel]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):  # what Python asks for, as in copies
            raise AttributeError(f"Namespace has no attribute {name!r}.")
        device = current()
        return device.launchable(f"{self._name}.{name}", self.find(device, name))

    def find(self, device: Device, name: str) -> Callable[..., Any]:
        """The function that was registered for a device's backend, past any launcher. Raises MissingKernelError."""
        function = self._kernels.get((name, device.backend))
        if function is None:
            others = ", ".join(self.backends(name))
            raise MissingKernelError(
                f"The namespace `{self._name}` has no kernel `{name}` for the backend `{device.backend}`"
                + (f", but for {others}." if others else ".")
            )
        return function


def _holder(name: str) -> str:
    """Who has a namespace of this name, in words."""
    return "octsod itself" if name == OWN else _namespaces[name]._where if name in _namespaces else ""


def _caller() -> str:
    """Where a namespace is made, in words."""
    frame = sys._getframe(2)
    return f"{frame.f_globals.get('__name__', '?')} ({frame.f_code.co_filename}, line {frame.f_lineno})"


def kernel_on(device: Device, name: str) -> Callable[..., Any]:
    """The kernel of a device that launchers know by this name: octsod's own "conv2d", or "mine.swish" of the namespace
    `mine`; the function itself, past any launcher. Raises MissingKernelError if there is none."""
    space, _, kernel = name.rpartition(".")
    if not space:
        return device.kernels.find(kernel)  # type: ignore[attr-defined]
    if space not in _namespaces:
        raise MissingKernelError(f"There is no namespace `{space}`.")
    return _namespaces[space].find(device, kernel)


def cuda_source(path: str | os.PathLike[str], *before: str | os.PathLike[str]) -> Any:
    """A file of CUDA kernels from outside the package, `PATH.cu`, as something to launch them with, in a kernel of the
    backend "cuda":

        SOURCE = cuda_source(Path(__file__).parent / "swish.cu")

        @mine.kernel("cuda")
        def swish(x, out):
            SOURCE.each("swish", out.dtype, out.size, x, out)

    `each` runs a kernel with a thread per element, which is given `count` (a long long) before its other arguments;
    `launch(name, dtype, grid, block, *arguments, shared_mem=0)` runs it on any grid: see `Source` in
    kernels/cuda/launch.py. A Python integer arrives as an `int`, a float as a `real`; NumPy's keep their types.
    The file is compiled for float32 and for float64 when it is first needed. `real` stands for the type; what else it
    finds defined is in `common.cu` beside that module. It includes nothing; files that are to come before it are named
    in `before`. Kernels are declared `extern "C" __global__`.

    Raises FileNotFoundError if there is no such file.
    """
    files = [pathlib.Path(os.path.abspath(part)) for part in (*before, path)]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"cuda_source: {file}: no such file.")
    return importlib.import_module("octsod.kernels.cuda.launch").Source(*files)
