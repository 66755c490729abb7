"""The CUDA kernels on the simulator: as a backend of kernels, and as the device "simulated", whose arrays are NumPy's.

OCTSOD_TEST_BACKEND=simulated runs a test on this device; OCTSOD_TEST_KERNELS=cuda checks its kernels against the
contract. OCTSOD_CUSIM_MODE is the simulator's mode: check, or plain, which is faster and finds no mistakes.
"""

import importlib
import os

import pytest

from octsod.backend import Host, register
from octsod.backend.device import Kernels
from octsod.testing import cusim

if reason := cusim.unavailable():
    pytest.skip(reason, allow_module_level=True)

kernels = importlib.import_module("octsod.kernels.cuda")
_driver = importlib.import_module("octsod.kernels.cuda.driver")


class Simulator:
    """A driver of octsod's kernels."""

    def __init__(self, mode):
        self.mode = mode

    def module(self, code, options):
        return cusim.RawModule(code=code, options=options, mode=self.mode)

    def prepare(self, modules):
        """Nothing: compiling takes long, and few of them are needed."""

    def empty(self, shape, dtype):
        return cusim.empty(shape, dtype)

    def shared_memory(self):
        return 227 << 10


class SimulatedDevice(Host):
    """Arrays are NumPy's, kernels those of CUDA."""

    def __init__(self):
        super().__init__("simulated")
        self.kernels = Kernels("cuda")


simulator = Simulator(os.environ.get("OCTSOD_CUSIM_MODE", "check"))
_driver.use_driver(simulator)
device = SimulatedDevice()
register(device, SimulatedDevice)  # no array is of this type: NumPy's belong to whichever host computes
