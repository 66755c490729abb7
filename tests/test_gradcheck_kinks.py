"""Kinks, such as PReLU's at 0 and the ties of max-pooling: `gradcheck` tells them from faults and from rounding."""

import re
import warnings

import numpy as np
import pytest
from gradcheck_ops import Pool2x2, Rectifier, Scaled, normal

import octsod
from octsod import functional as f
from octsod.autograd import Function
from octsod.testing import InconclusiveWarning, gradcheck


@pytest.mark.parametrize("shape", [(1, 3, 3, 4), (2, 3, 9, 14)])
def test_inputs_at_the_kink_of_prelu_do_no_harm(shape):
    slope = np.array([-0.5, 0.25, 3.0])
    x = np.round(normal(*shape))
    assert (x == 0).any()
    assert gradcheck(f.prelu, x, slope).error < 1e-8
    for fault in (None, "other subgradient"):
        assert gradcheck(lambda x, s, fault=fault: Rectifier.apply(x, s, fault=fault), x, slope).error < 1e-8


@pytest.mark.parametrize("distance", [1e-2, 1e-3, 1e-4, 2e-5])
def test_inputs_near_a_kink_are_checked_with_smaller_steps(distance):
    x = distance * np.sign(normal(1, 1, 4, 5))
    slope = np.array([0.25])
    assert gradcheck(Rectifier.apply, x, slope).error < 1e-6
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x, s: Rectifier.apply(x, s, fault="sides swapped"), x, slope)


@pytest.mark.parametrize("shape", [(1, 2, 4, 6), (2, 3, 10, 12)])
def test_ties_of_max_pooling_do_no_harm(shape):
    x = np.random.default_rng(0).integers(0, 5, shape).astype(float)
    assert gradcheck(lambda x: f.max_pool2d(x, 2), x).error < 1e-8
    # Which of the tied ones wins is a choice between subgradients: either is right.
    for to in ("first", "last"):
        assert gradcheck(lambda x, to=to: Pool2x2.apply(x, to=to), x).error < 1e-8
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: Pool2x2.apply(x, to="neighbour"), x)


def test_nothing_but_kinks_is_said():
    report = gradcheck(Rectifier.apply, np.zeros((1, 1, 3, 4)), np.array([0.25]))
    assert report.verdict == "KINK"
    assert report.kinks == tuple((0, index) for index in np.ndindex(1, 1, 3, 4))
    assert "12 at kinks, such as input 0 at (0, 0, 0, 0)" in str(report)


def test_a_kink_is_neither_passed_nor_failed_but_what_no_subgradient_is_fails():
    class Abs(Function):
        @staticmethod
        def forward(ctx, x, at_zero):
            ctx.save_for_backward(np.where(x == 0, at_zero, np.sign(x)))
            return np.abs(x)

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved[0]

    x = np.array([0.5, 0.0, -0.25])
    for at_zero in (-1, -0.3, 0, 1):
        report = gradcheck(lambda x, at_zero=at_zero: Abs.apply(x, at_zero=at_zero), x)
        assert report.verdict == "KINK" and report.kinks == ((0, (1,)),)
    for at_zero in (-1.5, 1.5, 100):
        with pytest.raises(AssertionError, match=r"input 0 at \(1,\)"):
            gradcheck(lambda x, at_zero=at_zero: Abs.apply(x, at_zero=at_zero), x)


def test_a_fault_beside_kinks_is_caught():
    x = np.round(normal(2, 3, 9, 14))
    x[1, 2, 4, 5] = 0.5
    with pytest.raises(AssertionError, match=re.escape("input 0 at (1, 2, 4, 5)")):

        def fn(x):
            ones = np.ones(x.shape)
            ones[1, 2, 4, 5] = 1.001
            return Rectifier.apply(Scaled.apply(x, by=ones), octsod.Tensor(np.array([-0.5, 0.25, 3.0])))

        gradcheck(fn, x)


def test_an_infinite_slope_is_no_derivative():
    root = np.array([0.0, 0.25, 1.0])

    class Root(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return np.sqrt(np.abs(x))

        @staticmethod
        def backward(ctx, grad):
            x = ctx.saved[0]
            return grad * np.divide(np.sign(x), 2 * np.sqrt(np.abs(x)), out=np.zeros(x.shape), where=x != 0)

    report = gradcheck(Root.apply, root)
    assert report.verdict == "KINK" and report.kinks == ((0, (0,)),)


@pytest.mark.parametrize("large", [1e3, 1e6, 1e9])
def test_rounding_is_no_kink(large):
    report = gradcheck(lambda x: (x + large) + (-large), normal(3, 4))
    assert report.verdict == "PASS"
    assert 1e-16 * large < report.sharpness < 1e-11 * large
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: (Scaled.apply(x, by=1.01) + large) + (-large), normal(3, 4))


class Sine(Function):
    """It goes through thousands of waves within what other inputs would be a small step."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return np.sin(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * np.cos(ctx.saved[0])


@pytest.mark.parametrize("seed", [1, 6, 21, 43, 56])
def test_waves_that_are_shorter_than_steps_are_neither_faults_nor_kinks(seed):
    generator = np.random.default_rng(seed)
    count = int(generator.choice([5, 12, 30, 64, 200]))
    x = 10.0 ** generator.uniform(-6, 6, count) * generator.choice([-1, 1], count)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InconclusiveWarning)
        report = gradcheck(Sine.apply, x)
    assert report.verdict in ("PASS", "INCONCLUSIVE") and report.of_bound <= 1
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: Scaled.apply(Sine.apply(x), by=1.01), x)
