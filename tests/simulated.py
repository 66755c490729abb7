"""The CUDA kernels on the simulator: as a backend of kernels, and as the device "simulated", whose arrays are NumPy's.

OCTSOD_TEST_BACKEND=simulated runs a test on this device; OCTSOD_TEST_KERNELS=cuda checks its kernels against the
contract. OCTSOD_CUSIM_MODE is the simulator's mode: check, or plain, which is faster and finds no mistakes.
"""

import importlib
import os

import pytest

from octsod.backend import register
from octsod.testing import cusim, simulation

if reason := cusim.unavailable():
    pytest.skip(reason, allow_module_level=True)

kernels = importlib.import_module("octsod.kernels.cuda")
_driver = importlib.import_module("octsod.kernels.cuda.driver")

simulator = simulation.Simulator(os.environ.get("OCTSOD_CUSIM_MODE", "check"))
device = simulation.DEVICE
_driver.use_driver(simulator)
register(device, simulation.Simulator)  # no array is of this type: NumPy's belong to whichever host computes
