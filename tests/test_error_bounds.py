"""The bounds of rounding errors: results of every kind stay within them, and they are sharp."""

import numpy as np
import pytest

from octsod import functional as f
from octsod import ops
from octsod.autograd import Function
from octsod.testing import Case, Input, PrecisionError, check_op, check_precision
from octsod.testing.error_bounds import ErrorBounds, vanishing
from octsod.testing.evaluation import Subject
from octsod.testing.example import Example
from octsod.testing.reports import Failed, require_close


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def bounds_of(fn, *inputs):
    """Those of a function of arrays, which has no gradients."""

    def results(change):
        return [fn(*(x * change(x.shape) for x in inputs))]

    return ErrorBounds(results, [fn(*inputs)], [None], [], sum(x.size for x in inputs), 1)


def chain(x, y, z):
    return np.exp(x) * y + np.sin(z)


@pytest.mark.parametrize("fn, shapes", [
    (lambda x: x.sum(), [(10_000,)]), (lambda x: np.cumsum(x), [(500,)]), (np.matmul, [(20, 300), (300, 20)]),
    (chain, [(50, 4)] * 3), (lambda x: np.log(np.exp(x).sum(-1)), [(40, 30)]), (lambda x: np.var(x + 100), [(900,)]),
])  # fmt: skip
@pytest.mark.parametrize("seed", range(3))
def test_errors_of_single_precision_stay_within_their_bounds(fn, shapes, seed):
    inputs = [np.float64(np.float32(normal(*shape, seed=10 * seed + k))) for k, shape in enumerate(shapes)]
    error = np.abs(fn(*map(np.float32, inputs)) - fn(*inputs))
    (bound,) = bounds_of(fn, *inputs).bounds("float32")
    assert (error <= bound).all()
    assert np.median(bound) < 1e4 * max(np.median(error), 2**-24 * np.median(np.abs(fn(*inputs))))


def test_each_element_has_a_bound_of_its_own():
    x = 10.0 ** np.random.default_rng(0).uniform(-6, 6, 1000)
    found = bounds_of(np.square, x)
    for dtype, unit in (("float32", 2**-24), ("float64", 2**-53)):
        shares = found.bounds(dtype)[0] / (unit * x**2)
        assert shares.min() > 7 and np.median(shares) < 60 and shares.max() < 400


def test_numbers_that_a_result_depends_on_are_counted():
    (few,) = bounds_of(lambda x: x.sum(axis=1), np.ones((50, 4))).factors("float32")
    (many,) = bounds_of(lambda x: x.sum(axis=1), np.ones((50, 1024))).factors("float32")
    assert 8 < np.median(many / few) < 32  # the root of 256


def test_numbers_that_are_not_finite_have_bounds():
    with np.errstate(all="ignore"):
        (bound,) = bounds_of(np.log, np.array([2.0, 0.0, -1.0])).bounds("float32")
    assert 0 < bound[0] < 1e-5 and bound[1] == np.inf and np.isnan(bound[2])


class Coarse(Function):
    """x, whose gradient loses digits in single precision."""

    @staticmethod
    def forward(ctx, x):
        return x.copy()

    @staticmethod
    def backward(ctx, grad):
        return grad.astype(np.float16).astype(grad.dtype) if grad.dtype == np.float32 else grad


@pytest.mark.parametrize("bias", [0.0, 1.0])
def test_gradients_that_vanish_but_for_rounding(bias):
    """Batch norm cancels bias and scale of what comes before, whatever the numbers are."""

    def fn(x, weight, bias, gamma, beta):
        return f.batch_norm(f.conv2d(x, weight, bias), None, None, gamma, beta)

    inputs = normal(4, 1, 12, 11), normal(3, 1, 1, 1, seed=1), np.full(3, bias), normal(3, seed=2), normal(3, seed=3)
    assert check_precision(fn, *inputs).verdict == "PASS"
    with pytest.raises(PrecisionError, match="gradient of input 0"):  # which does not vanish
        check_precision(lambda x, *others: fn(Coarse.apply(x), *others), *inputs)


def test_places():
    """An interpolation's weights are differences of places, which have errors of their own."""
    case = Case((Input((3, 1, 8, 4), range=(0.01, 0.5), layout="strided"),), {"size": (5, 2)}, seed=403)
    assert check_op(ops.UpsampleBilinear, case, checks=["reference", "float32"]).verdict == "PASS"
    (bound, _) = Example(Subject(ops.UpsampleBilinear), case).bounds()
    assert bound.max() < 200 * 2**-53 * 0.5


def test_what_vanishes_is_measured_by_the_outputs():
    y, v = [np.full((3, 4), 2.0)], [np.full((3, 4), 0.5)]
    assert vanishing(y, v, [np.full(12, 0.1), np.zeros(12), np.zeros(0)]) == pytest.approx([10, 10, np.sqrt(12) * 10])


@pytest.mark.parametrize("got, bound", [
    ([1, 1, 1], [np.nan, 1, 1]), ([0, 1, 5], [np.nan, 1, 1]), ([np.nan, 1, 1], [np.nan, 1, 1]), ([5, 1, 1], np.nan),
])  # fmt: skip
def test_a_bound_that_is_nan_allows_no_error(got, bound):
    with pytest.raises(Failed, match="exceeds its bound"):
        require_close("it", np.array(got, float), np.array([0.0, 1, 1]), np.array(bound))


def test_a_bound_that_is_nan_is_none_where_there_is_no_error():
    both = np.array([0.0, np.inf, np.nan])
    assert require_close("it", both, both.copy(), np.full(3, np.nan)) == 0
