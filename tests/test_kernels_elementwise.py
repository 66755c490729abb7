"""Kernels of arithmetic, dropout, sums and the loss against the reference."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_contract import both_dtypes, verify

from octsod.testing import strategies
from octsod.testing.strategies import SumCase

pytestmark = pytest.mark.usefixtures("poisoned_scratch")


@both_dtypes
@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide"])
@given(case=strategies.vectors())
def test_arithmetic(dtype, name, case):
    def launch(kernels, arena):
        a = arena.normal(case.size)
        b = arena.array(arena.rng.uniform(0.5, 2, case.size) * arena.rng.choice([-1, 1], case.size))
        getattr(kernels, name)(a, b, arena.output("out", (case.size,)))
        total = arena.output("in place", None, values=a)
        getattr(kernels, name)(total, b, total)

    verify(dtype, case.seed, launch)


@both_dtypes
@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.0, 0.0, 1.7])
@given(case=strategies.vectors())
def test_power(dtype, exponent, case):
    def launch(kernels, arena):
        base = arena.rng.uniform(0.2, 3, case.size)
        if exponent % 1 == 0:
            base *= arena.rng.choice([-1, 1], case.size)
        kernels.power(arena.array(base), arena.array([exponent]), arena.output("out", (case.size,)))

    verify(dtype, case.seed, launch)


@both_dtypes
@pytest.mark.parametrize("name", ["exp", "log", "sqrt"])
@given(case=strategies.vectors())
def test_functions(dtype, name, case):
    def launch(kernels, arena):
        values = arena.rng.standard_normal(case.size)
        x = arena.array(values if name == "exp" else np.abs(values))
        getattr(kernels, name)(x, arena.output("out", (case.size,)))
        same = arena.output("in place", None, values=x)
        getattr(kernels, name)(same, same)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.vectors())
def test_relu(dtype, case):
    def launch(kernels, arena):
        x, grad = arena.array(arena.steps(case.size)), arena.normal(case.size)
        kernels.relu(x, arena.output("out", (case.size,)))
        kernels.relu_backward(grad, x, arena.output("grad_x", (case.size,)))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.dropouts())
def test_dropout(dtype, case):
    def launch(kernels, arena):
        x = arena.normal(case.size)
        kernels.dropout(x, case.probability, case.mask, arena.output("out", (case.size,)))
        same = arena.output("in place", None, values=x)
        kernels.dropout(same, case.probability, case.mask, same)

    verify(dtype, case.seed, launch)


def logits(arena, size):
    """Of every magnitude: where the exponential underflows, is subnormal, and is of use."""
    return arena.array(arena.rng.standard_normal(size) * arena.rng.choice([1, 30, 1000], size))


@both_dtypes
@given(case=strategies.vectors())
def test_sigmoid(dtype, case):
    def launch(kernels, arena):
        x, grad = logits(arena, case.size), arena.normal(case.size)
        kernels.sigmoid(x, arena.output("out", (case.size,)))
        kernels.sigmoid_backward(grad, x, arena.output("grad_x", (case.size,)))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.vectors(least=1))
def test_binary_cross_entropy_with_logits(dtype, case):
    def launch(kernels, arena):
        x, target = logits(arena, case.size), arena.array(arena.rng.uniform(0, 1, case.size))
        grad, out = arena.array(arena.rng.standard_normal(())), arena.output("out", ())
        kernels.binary_cross_entropy_with_logits(x, target, out)
        grad_x = arena.output("grad_x", (case.size,))
        kernels.binary_cross_entropy_with_logits_backward(grad, x, target, grad_x)

    verify(dtype, case.seed, launch)


@both_dtypes
@pytest.mark.parametrize("region", ["iou", "dice"])
@given(images=st.integers(1, 4), case=strategies.vectors())
def test_overlap_loss(dtype, region, images, case):
    def launch(kernels, arena):
        shape = images, case.size
        x, target = logits(arena, shape), arena.array(arena.rng.uniform(0, 1, shape))
        grad, out = arena.array(arena.rng.standard_normal(())), arena.output("out", ())
        sums = arena.output("sums", (images, 2), np.float64)
        kernels.overlap_loss(x, target, region, sums, out)
        given = arena.array(arena.rng.uniform(1, 9, (images, 2)), np.float64)
        kernels.overlap_loss_backward(grad, x, target, region, given, arena.output("grad_x", shape))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.sums())
@example(case=SumCase((1, 20000, 2), 0))  # few long sums
def test_sum_middle(dtype, case):
    def launch(kernels, arena):
        kernels.sum_middle(arena.normal(*case.shape), arena.output("out", (case.shape[0], case.shape[2])))

    verify(dtype, case.seed, launch)
