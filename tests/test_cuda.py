"""The CUDA kernels, without a GPU: on the simulator, against the contract."""

import dataclasses
import gc
import importlib
import os
import pathlib
import subprocess
import sys

import opaque
import pytest
from networks import lived_in

from octsod.inference import freeze
from octsod.models import Configuration
from octsod.testing import cusim

TESTS = pathlib.Path(__file__).parent
# Tests that take a minute on the simulator; their ops are parts of others, too.
LONG = ("test_ops_convolution.py::test_octave_conv2d", "test_ops_normalization.py::test_depthwise_chain")


# --- on the simulator -------------------------------------------------------------------------------------------------


@pytest.mark.skipif(bool(cusim.unavailable()), reason=cusim.unavailable() or "-")
@pytest.mark.skipif("OCTSOD_TEST_KERNELS" in os.environ, reason="runs the tests of other files on another backend")
@pytest.mark.parametrize("files", [
    ("test_kernels_arrays.py", "test_kernels_classification.py", "test_kernels_elementwise.py",
     "test_kernels_numerics.py", "test_kernels_optimization.py"),
    ("test_kernels_normalization.py", "test_kernels_resampling.py", "test_kernels_network.py",
     "test_kernels_pictures.py"),
    ("test_kernels_convolution.py",),
], ids=["arrays", "maps", "convolutions"])  # fmt: skip
def test_the_contract_on_the_simulator(files):
    """Each kernel on a few problems: nothing that the simulator's mode `check` finds, and the reference's results."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(TESTS / name) for name in files)]
    environment = {**os.environ, "OCTSOD_TEST_KERNELS": "cuda", "OCTSOD_TEST_EXAMPLES": "2"}
    done = subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]


@pytest.mark.skipif(bool(cusim.unavailable()), reason=cusim.unavailable() or "-")
@pytest.mark.skipif("OCTSOD_TEST_BACKEND" in os.environ, reason="runs the tests of other files on another backend")
@pytest.mark.parametrize(("mode", "tests"), [
    ("check", ("test_ops_convolution.py", "test_ops_deferred.py::test_octave_norm_octave[2-1]",
               "test_ops_normalization.py", "test_ops_resampling.py", "test_ops_shapes.py")),
    ("check", ("test_device_steps.py",)),
    ("plain", ("test_golden.py::test_ten_steps_of_the_recipe_with_dynamic_decay",
               "test_golden.py::test_released_models",
               "test_golden.py::test_trained_networks_give_the_references_logits")),
], ids=["ops", "training steps", "golden"])  # fmt: skip
def test_on_the_simulated_device(mode, tests):
    """Ops and their gradients, small training steps, and the authors' numbers, by the CUDA kernels."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(TESTS / name) for name in tests)]
    for name in LONG:
        command += ["--deselect", f"{TESTS.name}/{name}"]  # as pytest names them, from the root
    environment = {
        **os.environ, "OCTSOD_TEST_BACKEND": "simulated", "OCTSOD_TEST_EXAMPLES": "1",
        "OCTSOD_CUSIM_MODE": mode,
    }  # fmt: skip
    done = subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]


# --- what is kept on the device ---------------------------------------------------------------------------------------


def test_a_network_is_on_its_device_once_and_as_long_as_it_lives():
    network = importlib.import_module("octsod.kernels.cuda.network")
    kept = len(network._networks)
    frozen = freeze(lived_in(Configuration.standard(0.2), 1, "float32"))
    there = dataclasses.replace(frozen, device=opaque.device)
    steps, gets = network._steps(there), opaque.device.gets
    assert network._steps(there) is steps and len(network._networks) == kept + 1
    (weight,) = steps[0].weights
    assert isinstance(weight, opaque.OpaqueArray) and weight.shape == frozen.layers[0].weights[0].shape
    assert all(isinstance(c, opaque.OpaqueArray) for step in steps for c in step.coefficients if c is not None)
    assert opaque.device.gets == gets
    del there
    gc.collect()
    assert len(network._networks) == kept
