"""A device whose arrays are NumPy's and whose kernels are those for CUDA, run by the simulator."""

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ..backend import Host, use_backend, watching
from . import cusim


class _Module(cusim.RawModule):
    """A module whose compiling a profiler sees."""

    def compile(self) -> None:
        with watching.compiling():
            super().compile()


class Simulator:
    """A driver of CUDA kernels (see kernels/cuda/driver.py): the simulator in one of its modes, "check" or "plain"."""

    def __init__(self, mode: str = "check"):
        self.mode = mode

    def module(self, code: str, options: Sequence[str]) -> Any:
        return _Module(code=code, options=options, mode=self.mode)

    def prepare(self, modules: Any) -> None:
        """Nothing: compiling takes long, and few of them are needed."""

    def empty(self, shape: Sequence[int], dtype: Any) -> np.ndarray:
        return cusim.empty(shape, dtype)

    def shared_memory(self) -> int:
        return cusim.module.DYNAMIC_LIMIT


DEVICE = Host("simulated", "cuda")


@contextlib.contextmanager
def simulated(mode: str = "check") -> Iterator[Host]:
    """Within `with simulated() as device:`, the kernels for CUDA, octsod's and those of any `Namespace`, compute on
    NumPy arrays on this computer's processor, in all threads; `device` is the default one.

    mode: "check" also finds races, accesses out of bounds and other mistakes, and raises `cusim.KernelError`; "plain"
    is faster. Raises RuntimeError, with the reason, where there is no simulator: it needs g++.
    """
    if reason := cusim.unavailable():
        raise RuntimeError(f"simulated: {reason}")
    if mode not in ("check", "plain"):
        raise ValueError(f"simulated: `mode` (={mode!r}) must be check or plain.")
    drivers = importlib.import_module("octsod.kernels.cuda.driver")
    before = drivers.driver()
    drivers.use_driver(Simulator(mode))
    try:
        with use_backend(DEVICE):
            yield DEVICE
    finally:
        drivers.use_driver(before)
