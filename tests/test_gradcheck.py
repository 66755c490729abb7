"""The gradient check is checked: correct gradients pass, and each kind of wrong one that kernels have had is caught."""

import re

import numpy as np
import pytest
from gradcheck_ops import (
    CONV_FAULTS,
    LARGE,
    SMALL,
    Conv3x3,
    Norm,
    Pool2x2,
    Rectifier,
    Scaled,
    Square,
    conv_inputs,
    distinct,
    normal,
)

import octsod
from octsod import functional as f
from octsod.autograd import Function
from octsod.testing import InconclusiveWarning, gradcheck


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("fault", CONV_FAULTS)
def test_wrong_convolutions_are_caught(fault, size):
    with pytest.raises(AssertionError, match=rf"input {CONV_FAULTS[fault]} at"):
        gradcheck(lambda *a: Conv3x3.apply(*a, fault=fault), *conv_inputs(size))


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_a_right_convolution_passes(size):
    assert gradcheck(lambda *a: Conv3x3.apply(*a), *conv_inputs(size)).error < 1e-9


@pytest.mark.parametrize("row", [0, 16])
@pytest.mark.parametrize("col", [0, 22])
def test_one_wrong_corner_of_a_large_input_is_caught_and_named(row, col):
    where = (1, 2, row, col)
    with pytest.raises(AssertionError, match=re.escape(f"input 0 at {where}")) as failure:
        gradcheck(lambda *a: Conv3x3.apply(*a, fault=where), *conv_inputs(LARGE))
    text = r"gives (\S+) \(analytic\), finite differences (\S+) \(numeric\); they differ by (\S+), and can by (\S+)"
    given, numeric, error, bound = re.search(text, str(failure.value)).groups()
    assert float(given) == pytest.approx(1.001 * float(numeric), rel=1e-6)
    assert float(error) == pytest.approx(1e-3 * abs(float(numeric)), rel=1e-2)
    assert float(bound) < 1e-6 * abs(float(numeric))


@pytest.mark.parametrize("shape", [(2, 2, 3, 2), (3, 2, 19, 30)])
@pytest.mark.parametrize("fault", [None, "mean", "variance"])
def test_batch_norm_that_forgets_a_term_is_caught(fault, shape):
    x = normal(*shape)
    if fault is None:
        assert gradcheck(Norm.apply, x).error < 1e-8
        return
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: Norm.apply(x, fault=fault), x)


@pytest.mark.parametrize(
    ("fault", "number"),
    [("slope by the positive part", 1), ("slope by all", 1), ("sign of slope", 1), ("sides swapped", 0)],
)
@pytest.mark.parametrize("rounded", [False, True])
def test_wrong_prelu_is_caught(fault, number, rounded):
    x = normal(2, 3, 4, 5)
    x = np.round(x) if rounded else x
    with pytest.raises(AssertionError, match=f"input {number} at"):
        gradcheck(lambda x, s: Rectifier.apply(x, s, fault=fault), x, np.array([-0.5, 0.25, 0.0]))


@pytest.mark.parametrize("shape", [(1, 2, 4, 6), (2, 2, 12, 10)])
def test_max_pool_that_routes_to_a_wrong_neighbour_is_caught(shape):
    assert gradcheck(Pool2x2.apply, distinct(*shape)).error < 1e-9
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: Pool2x2.apply(x, to="neighbour"), distinct(*shape))


def test_missing_accumulation_is_caught():
    assert gradcheck(Square.apply, normal(3, 4)).error < 1e-9
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: Square.apply(x, uses=1), normal(3, 4))

    def second_use_is_cut_off(x):  # the gradient through `detach` never arrives
        return f.sigmoid(x) + f.power(x.detach(), 2)

    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(second_use_is_cut_off, normal(3, 4))


def test_no_gradient_at_all_is_caught_unless_it_is_zero():
    with pytest.raises(AssertionError, match=r"input 0 at .* backward gives 0 \(analytic\),"):
        gradcheck(lambda x: f.sigmoid(x.detach()), normal(3))
    with pytest.raises(AssertionError, match="input 1 at"):
        gradcheck(lambda x, y: x * y.detach(), normal(3), normal(3, seed=1))
    assert gradcheck(lambda x, y: x * 2, normal(3), normal(3)).error < 1e-9


def test_a_tiny_gradient_beside_a_large_one_is_checked_on_its_own_scale():
    class Scaled(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x * 1e3 + y

        @staticmethod
        def backward(ctx, grad):
            return grad * 1e3, grad * 1.001

    with pytest.raises(AssertionError, match="input 1 at"):
        gradcheck(Scaled.apply, normal(4), normal(4, seed=1))


@pytest.mark.parametrize(
    ("fn", "inputs"),
    [
        (f.sigmoid, [normal(3, 5)]),
        (lambda x: x**3, [normal(3, 5)]),
        (lambda x, y: x / y, [normal(3, 5), 1 + normal(5) ** 2]),
        (lambda x: f.binary_cross_entropy_with_logits(x, octsod.Tensor(np.full((5, 9), 0.3))), [normal(5, 9)]),
        (lambda x, w, b: f.conv2d(x, w, b, padding=1), [*conv_inputs(LARGE)]),
        (lambda x, g, b: f.batch_norm(x, None, None, g, b), [normal(2, 3, 6, 5), normal(3), normal(3, seed=1)]),
        (lambda x: f.upsample_bilinear(x, (7, 5)), [normal(1, 2, 3, 4)]),
        (lambda x: x * 1e6, [normal(3, 5) * 1e6]),
        (lambda x: x * 1e-6, [normal(3, 5) * 1e-3]),
    ],
)
def test_smooth_ops_have_tiny_errors(fn, inputs):
    assert 0 <= gradcheck(fn, *inputs).error < 1e-8


def test_a_gradient_that_is_zero_but_for_rounding_passes():
    x, weight, bias = conv_inputs(SMALL)  # batch norm cancels the convolution's bias

    def normed(bias):
        raw = f.conv2d(octsod.Tensor(x), octsod.Tensor(weight), bias, padding=1)
        return f.batch_norm(raw, None, None, octsod.Tensor(np.ones(2)), octsod.Tensor(np.zeros(2)))

    assert gradcheck(normed, bias).error < 1e-6


@pytest.mark.parametrize("error", [1e-1, 5e-5, 1e-8, 1e-10])
def test_there_is_no_tolerance(error):
    x = normal(3)
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: Scaled.apply(x, by=1 + error) * 2, x)
    with pytest.raises(TypeError, match="tolerance"):
        gradcheck(f.sigmoid, x, tolerance=1.0)


def test_what_cannot_be_seen_is_not_passed():
    def small(x):
        return x * 1e-10 + 1e3

    with pytest.warns(InconclusiveWarning, match="INCONCLUSIVE: 3 entries .* would be seen; 3 inconclusive"):
        report = gradcheck(small, normal(3))
    assert report.verdict == "INCONCLUSIVE"
    assert report.inconclusive == ((0, (0,)), (0, (1,)), (0, (2,)))
    assert report.sharpness > 1e-2
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: small(x) * 1e-3 + Scaled.apply(x, by=1.001), normal(3))
