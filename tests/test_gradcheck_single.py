"""Gradients of functions that take float32 alone: differences of float32, with bounds that follow from it."""

import numpy as np
import pytest
from gradcheck_ops import Rectifier, Scaled

from octsod import functional as f
from octsod.testing import GradientError, gradcheck


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def single(fn):
    """The same, in float32 alone."""

    def only(*inputs):
        if any(x.dtype != np.float32 for x in inputs):
            raise TypeError("float32 alone.")
        return fn(*inputs)

    return only


FUNCTIONS = {
    "elementwise": (f.sigmoid, [(3, 5)]),
    "two inputs": (lambda x, y: x * y, [(3, 5), (3, 5)]),
    "convolution": (lambda x, w, b: f.conv2d(x, w, b, padding=1), [(2, 3, 7, 9), (5, 3, 3, 3), (5,)]),
    "batch norm": (lambda x, g, b: f.batch_norm(x, None, None, g, b), [(4, 3, 6, 6), (3,), (3,)]),
    "sum": (lambda x: x.sum(), [(30, 20)]),
    "pooling": (lambda x: f.max_pool2d(x, 2), [(1, 2, 6, 8)]),
    "several outputs": (lambda x: (f.exp(x), None, x * 3), [(6,)]),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("seed", [0, 10, 20])
def test_right_gradients_pass(name, seed):
    fn, shapes = FUNCTIONS[name]
    report = gradcheck(single(fn), *(normal(*shape, seed=seed + k) for k, shape in enumerate(shapes)))
    assert report.verdict == "PASS" and report.precision is None
    assert report.of_bound <= 1 and 1e-7 < report.sharpness < 1e-2
    assert "differences are those of float32, since float64 raises TypeError: float32 alone." in str(report)


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("factor", [1.02, 0.98, 0, -1])
def test_wrong_gradients_are_caught(name, factor):
    fn, shapes = FUNCTIONS[name]
    inputs = [normal(*shape, seed=k) for k, shape in enumerate(shapes)]
    by = np.full(shapes[0], factor, np.float32)
    with pytest.raises(GradientError, match=r"input 0 at .* \(analytic\), finite differences"):
        gradcheck(single(lambda x, *others: fn(Scaled.apply(x, by=by), *others)), *inputs)


def test_kinks_are_told_from_faults():
    x = np.round(normal(2, 3, 4, 5))
    slope = np.float32([-0.5, 0.25, 3.0])
    report = gradcheck(single(Rectifier.apply), x, slope)
    assert report.verdict == "KINK"
    kinks = [index for _, index in report.kinks if index]
    assert len(kinks) > 5 and all(x[index] == 0 for index in kinks)
    with pytest.raises(GradientError, match="input 0 at"):
        gradcheck(single(lambda x, s: Rectifier.apply(x, s, fault="sides swapped")), x, slope)


def test_what_float64_raises_is_no_excuse_for_float32():
    def wrong(x):
        raise KeyError("nothing")

    with pytest.raises(KeyError):
        gradcheck(wrong, normal(3))
