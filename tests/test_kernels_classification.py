"""Kernels of maxima, log-softmax and cross-entropy against the reference."""

import numpy as np
import pytest
from hypothesis import given
from kernel_contract import both_dtypes, verify

from octsod.testing import strategies

pytestmark = pytest.mark.usefixtures("poisoned_scratch")


@both_dtypes
@given(case=strategies.middles())
def test_max_middle(dtype, case):
    outer, _, inner = case.shape

    def launch(kernels, arena):
        x, grad = arena.array(arena.steps(*case.shape)), arena.normal(outer, inner)
        kernels.max_middle(x, arena.output("out", (outer, inner)))
        kernels.max_middle_backward(grad, x, arena.output("grad_x", case.shape))

    verify(dtype, case.seed, launch)


def logits(arena, *shape):
    """Of every magnitude, the largest ones far beyond what an exponential can take."""
    return arena.array(arena.rng.standard_normal(shape) * arena.rng.choice([1, 30, 10_000], shape))


@both_dtypes
@given(case=strategies.middles())
def test_log_softmax(dtype, case):
    def launch(kernels, arena):
        x, out = logits(arena, *case.shape), arena.output("out", case.shape)
        kernels.log_softmax(x, out)
        same = arena.output("in place", None, values=x)
        kernels.log_softmax(same, same)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.middles())
def test_log_softmax_backward(dtype, case):
    def launch(kernels, arena):
        grad, out = arena.normal(*case.shape), arena.array(-arena.rng.uniform(0, 5, case.shape))
        kernels.log_softmax_backward(grad, out, arena.output("grad_x", case.shape))
        same = arena.output("in place", None, values=grad)
        kernels.log_softmax_backward(same, out, same)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.classifications())
def test_cross_entropy(dtype, case):
    def launch(kernels, arena):
        x, grad = logits(arena, case.batch, case.classes), arena.array(arena.rng.standard_normal(()))
        labels = arena.rng.integers(0, case.classes, case.batch)
        kernels.cross_entropy(x, labels, case.smoothing, arena.output("out", ()))
        grad_x = arena.output("grad_x", x.shape)
        kernels.cross_entropy_backward(grad, x, labels, case.smoothing, grad_x)

    verify(dtype, case.seed, launch)


@both_dtypes
@pytest.mark.parametrize("smoothing", [0.0, 1.0])
def test_cross_entropy_of_impossible_classes(dtype, smoothing):
    """A term whose factor is 0 is left out, though a logarithm of 0 is beside it."""

    def launch(kernels, arena):
        x = arena.array([[0.5, -np.inf, 2], [-np.inf, 1, 0]] if smoothing == 0 else [[-np.inf, 1, 0]])
        labels = np.array([2, 1] if smoothing == 0 else [0])
        kernels.cross_entropy(x, labels, smoothing, arena.output("out", ()))

    verify(dtype, 0, launch, nans=smoothing == 1)  # without any: the mean is infinite there
