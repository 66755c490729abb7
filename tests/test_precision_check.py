"""Single precision is checked by double: what rounding explains passes, and what loses digits is caught."""

import numpy as np
import pytest

import octsod
from octsod import functional as f
from octsod.autograd import Function
from octsod.testing import GradientError, PrecisionError, check_precision, gradcheck


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def norm_inputs(mean, shape=(4, 3, 10, 10)):
    return normal(*shape) + mean, normal(3, seed=1), normal(3, seed=2)


@pytest.mark.parametrize(
    ("fn", "inputs"),
    [
        (f.sigmoid, [normal(3, 5)]),
        (lambda x: x.sum(), [normal(30, 1000)]),
        (lambda x: x.mean(), [normal(30, 1000) + 5]),
        (f.matmul, [normal(30, 100), normal(100, 20)]),
        (lambda x, w, b: f.conv2d(x, w, b, padding=1), [normal(2, 3, 17, 23), normal(5, 3, 3, 3), normal(5)]),
        (lambda x, g, b: f.batch_norm(x, None, None, g, b), norm_inputs(0)),
        (lambda x, g, b: f.batch_norm(x, None, None, g, b), norm_inputs(300)),
        (lambda x: f.max_pool2d(f.relu(x), 2), [np.round(2 * normal(2, 3, 8, 8))]),
        (lambda x: f.log_softmax(x * 3, 1), [normal(30, 20)]),
        (lambda x: (x * 2, None, f.exp(x)), [normal(3)]),
        (lambda x, y: x * 2, [normal(0, 3), normal(2)]),
        (lambda x: x * 1e-30, [normal(3)]),
    ],
)
def test_ops_lose_no_more_than_rounding_explains(fn, inputs):
    report = check_precision(fn, *inputs)
    assert report.verdict == "PASS"
    assert report.of_bound <= 1 and report.error <= report.sharpness


class Norm(Function):
    """Batch norm of a batch, with variances that are right to different degrees."""

    @staticmethod
    def forward(ctx, x, way):
        axes = (0, 2, 3)
        mean = x.mean(axis=axes, keepdims=True)
        if way == "square of the mean":
            variance = (x * x).mean(axis=axes, keepdims=True) - mean * mean
        elif way == "coarse in single precision" and x.dtype == np.float32:
            variance = ((x - mean) ** 2)[:, :, ::2].mean(axis=axes, keepdims=True)
        else:
            variance = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
        ctx.deviation = np.sqrt(np.abs(variance) + x.dtype.type(1e-5))
        ctx.normed = (x - mean) / ctx.deviation
        ctx.way, ctx.x = way, x
        return ctx.normed

    @staticmethod
    def backward(ctx, grad):
        axes = (0, 2, 3)
        if ctx.way == "half" and grad.dtype == np.float32:
            grad = grad.astype(np.float16).astype(np.float32)
        if ctx.way == "square of the mean, on the way back":
            mean = ctx.x.mean(axis=axes, keepdims=True)
            ctx.deviation = np.sqrt(np.abs((ctx.x * ctx.x).mean(axis=axes, keepdims=True) - mean * mean))
        total = grad - grad.mean(axis=axes, keepdims=True)
        total -= ctx.normed * (grad * ctx.normed).mean(axis=axes, keepdims=True)
        return total / ctx.deviation


@pytest.mark.parametrize(
    "way", ["square of the mean", "square of the mean, on the way back", "coarse in single precision", "half"]
)
def test_lost_digits_are_caught(way):
    x = normal(4, 3, 10, 10) + 100
    assert check_precision(lambda x: Norm.apply(x, way="deviations"), x).verdict == "PASS"
    named = r"gradient of input 0 at \(" if way == "half" or "back" in way else r"(output 0|gradient of input 0) at \("
    with pytest.raises(PrecisionError, match=rf"{named}.*float32 gives .*, float64 .*; they differ by") as failure:
        check_precision(lambda x: Norm.apply(x, way=way), x)
    report = failure.value.report
    assert report.verdict == "FAIL" and report.of_bound > 1
    assert abs(report.single - report.double) > report.bound > 0


def test_gradcheck_of_single_precision_checks_both():
    x, w = np.float32(normal(2, 3)), octsod.Tensor(np.float32(normal(3)), requires_grad=True)
    report = gradcheck(lambda x, w: f.sigmoid(x) * w, x, w)
    assert report.verdict == report.precision.verdict == "PASS"
    assert report.entries == 9 and report.sharpness < 1e-7
    assert "float32 differs from float64 by at most" in str(report)
    with pytest.raises(GradientError, match="input 0 at"):
        gradcheck(lambda x: f.sigmoid(x.detach()), x)
    with pytest.raises(PrecisionError):
        gradcheck(lambda x: Norm.apply(x, way="square of the mean"), np.float32(normal(4, 3, 10, 10) + 100))


def test_inputs_stay_as_they_were():
    x = octsod.Tensor(normal(3, 4), requires_grad=True)
    data, kept = x.data, x.data.copy()
    check_precision(f.sigmoid, x)
    assert x.data is data and np.array_equal(data, kept) and x.grad is None


def test_what_cannot_be_checked_is_refused():
    with pytest.raises(ValueError, match="an array of floats"):
        check_precision(lambda x: x, np.arange(3))
    with pytest.raises(TypeError, match="returned a tensor of float64; expected float32"):
        check_precision(lambda x: octsod.Tensor(np.ones(3)), normal(3))
    with pytest.raises(ValueError, match="result of `Multiply`"):
        check_precision(lambda x: x, octsod.Tensor(normal(3), requires_grad=True) * 2)
