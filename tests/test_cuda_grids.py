"""Kernels on the simulator whose grids have fewer threads than arrays have elements, or fewer rows than there are
ranges: each goes on with further ones, as a GPU's do where there are very many."""

import importlib

import kernel_contract
import numpy as np
import pytest
import simulated
from kernel_contract import both_dtypes, verify
from test_kernels_optimization import ADAM, SGD

MODULES = [importlib.import_module(f"octsod.kernels.cuda.{name}") for name in ("arrays", "launch")]
OPTIMIZATION = importlib.import_module("octsod.kernels.cuda.optimization")
pytestmark = pytest.mark.usefixtures("poisoned_scratch")


@pytest.fixture(autouse=True, scope="module")
def few_blocks():
    with pytest.MonkeyPatch.context() as patch:
        for module in MODULES:
            patch.setattr(module, "MOST_BLOCKS", 2)
        patch.setattr(OPTIMIZATION, "MOST_ROWS", 2)
        patch.setattr(kernel_contract, "BACKENDS", [simulated.kernels])
        yield


@both_dtypes
def test_arrays_as_a_whole(dtype):
    def launch(kernels, arena):
        x, row = arena.normal(2, 70, 45), arena.normal(45)
        kernels.fill(arena.output("filled", x.shape), 2.5)
        kernels.copy(row, arena.output("copied", x.shape))
        kernels.gather([x, row], arena.output("gathered", (x.size + row.size,)))
        kernels.transpose(x, (0, 2, 1), arena.output("turned", (2, 45, 70)))
        kernels.transpose(x, (1, 0, 2), arena.output("taken", (70, 2, 45)))
        kernels.concatenate([x, x], arena.output("concatenated", (2, 140, 45)))
        starts, steps = (0, 69, 1), (1, -2, 1)
        kernels.strided_slice(x, starts, steps, arena.output("slice", (2, 35, 44)))
        grad, grad_x = arena.normal(2, 35, 44), arena.output("grad_x", x.shape)
        kernels.strided_slice_backward(grad, starts, steps, grad_x)

    verify(dtype, 0, launch)


@both_dtypes
def test_element_by_element(dtype):
    def launch(kernels, arena):
        a, b = arena.normal(2, 7, 95), arena.normal(2, 7, 95)
        for name in ("add", "subtract", "multiply", "relu_backward", "sigmoid_backward"):
            getattr(kernels, name)(a, b, arena.output(name, a.shape))
        for name in ("exp", "relu", "sigmoid"):
            getattr(kernels, name)(a, arena.output(name, a.shape))
        kernels.dropout(a, 0.4, 7, arena.output("dropout", a.shape))
        kernels.upsample_bilinear(a[None], arena.output("upsampled", (1, 2, 14, 190)))
        kernels.upsample_bilinear_backward(b[None], arena.output("grad_a", (1, 2, 3, 40)))

    verify(dtype, 0, launch)


@both_dtypes
def test_ranges_of_parameters(dtype):
    """Here a block has several ranges, each with settings of its own."""
    ranges = np.array([[0, 600, 0], [600, 700, 1], [710, 1500, 2], [1500, 1600, 0], [1600, 2500, 1]])

    def launch(kernels, arena):
        grad = arena.normal(2500)
        for name, settings in (("adam", ADAM), ("sgd", SGD)):
            arrays = [
                arena.output(f"{name} {k}", None, values=arena.rng.uniform(0.1, 1, 2500))
                for k in range(3 if name == "adam" else 2)
            ]
            getattr(kernels, name)(arrays[0], grad, *arrays[1:], ranges, settings, np.array([3, 0]))
        clipped = arena.output("clipped", None, values=arena.rng.standard_normal(2500))
        kernels.clip_gradients([(clipped, ranges)], 1.0)

    verify(dtype, 0, launch)
