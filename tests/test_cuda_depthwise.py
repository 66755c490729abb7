"""Depthwise convolutions on the simulator: what drawn convolutions seldom are, and planes that are cut into strips."""

import dataclasses
import importlib

import kernel_contract
import numpy as np
import pytest
import simulated
import test_kernels_convolution as contract
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_contract import both_dtypes, verify

from octsod.backend.deferred import Deferred, DeferredGradient, GradientTarget
from octsod.testing import strategies

depthwise = importlib.import_module("octsod.kernels.cuda.depthwise")
pytestmark = pytest.mark.usefixtures("poisoned_scratch")


@pytest.fixture(autouse=True, scope="module", params=[(4096, 28, 46 << 10), (0, 3, 46 << 10), (0, 3, 600)])
def strips(request):
    """Planes are cut into strips, as far as they are large; all of them; and wide ones are left to other kernels."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in zip(("WHOLE", "ROWS", "SHARED"), request.param, strict=True):
            patch.setattr(depthwise, name, value)
        patch.setattr(kernel_contract, "BACKENDS", [simulated.kernels])
        yield


def usual(case):
    """A convolution that keeps the size."""
    return dataclasses.replace(case, kernel_size=(3, 3), stride=1, padding=1, dilation=1)


CASES = strategies.convolutions(depthwise=True).map(usual)
few = settings(max_examples=8)

# The contract's own, with fewer examples than there.
some, chains = settings(max_examples=20), given(case=strategies.depthwise_chains())
test_depthwise_chain = both_dtypes(some(chains(contract.test_depthwise_chain.hypothesis.inner_test)))
test_depthwise_chain_backward = both_dtypes(some(chains(contract.test_depthwise_chain_backward.hypothesis.inner_test)))


@both_dtypes
@few
@given(case=CASES)
def test_forward(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred(
            "x", case.shape, case.x if case.shape[0] * case.shape[1] else strategies.Reading(True, False)
        )
        weight = arena.normal(case.outs, 1, 3, 3)
        out = arena.output("out", case.out_shape)
        moments = arena.moments("moments", case.out_shape) if case.moments else None
        kernels.depthwise_conv2d(x, weight, out, *case.settings, moments)

    verify(dtype, case.seed, launch)


@both_dtypes
@few
@given(case=CASES, spent=st.booleans())
def test_backward(dtype, case, spent):
    """Where the gradient of the output is spent, that of the input is written over it."""

    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        weight = arena.normal(case.outs, 1, 3, 3)
        grad = arena.gradient(case.out_shape, case.grad_deferred)
        grad_x = arena.slot("grad_x", case.shape, case.grad_x)
        if spent and grad_x is not None:
            array = arena.output("over g", case.shape, values=grad.g)
            raw = array if grad.coefficients is None else grad.raw
            grad = DeferredGradient(array, raw, grad.coefficients, spent=True)
            arena.outputs.pop("grad_x")
            grad_x = GradientTarget(array, False, grad_x.gradient_sums)
        grad_weight = arena.output("grad_weight", weight.shape) if case.grad_weight else None
        kernels.depthwise_conv2d_backward(grad, x, weight, *case.settings, grad_x, grad_weight)

    verify(dtype, case.seed, launch)


@pytest.mark.parametrize("shape", [(2, 2, 9, 9), (2, 1, 75, 64)])
def test_small_variance_beside_a_large_mean(shape):
    """Moments of a map whose border is like the rest of it."""
    rng = np.random.default_rng(2)
    small = (0.01 * rng.standard_normal(shape)).astype(np.float32)
    channels = shape[1]
    x = Deferred(small, np.repeat(np.float32([[1], [1e4], [1], [0]]), channels, axis=1))
    weight = np.zeros((channels, 1, 3, 3), np.float32)
    weight[:, :, 1, 1] = 1
    out, moments = np.empty_like(small), np.empty((shape[0], 3, channels))
    simulated.kernels.depthwise_conv2d(x, weight, out, 1, 1, 1, moments)
    exact, pixels = out.astype(np.float64), shape[2] * shape[3]
    mean = moments[:, 0] + moments[:, 1] / pixels
    np.testing.assert_allclose(mean, exact.mean(axis=(2, 3)), rtol=1e-9)
    np.testing.assert_allclose(
        moments[:, 2] / pixels - (moments[:, 1] / pixels) ** 2, exact.var(axis=(2, 3)), rtol=1e-3
    )
