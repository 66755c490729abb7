"""`check_op` on faults that few cases and few numbers show: rare settings, zeros, large and small numbers."""

import functools

import numpy as np
import pytest
import wrong_kernels
from hypothesis import strategies as st
from more_ops import made, one

from octsod.autograd import Function
from octsod.backend import Namespace, empty, namespaces
from octsod.testing import Case, Input, cusim, strategies
from octsod.testing.drawing import MORE, draw
from octsod.testing.operator_check import collect

FIXED = one((2, 3))
needs_simulator = pytest.mark.skipif(bool(cusim.unavailable()), reason=str(cusim.unavailable()))


@pytest.fixture
def space():
    yield Namespace("test_check_odd_cases")
    del namespaces._namespaces["test_check_odd_cases"]


def where(x, y, kept):
    """x*y, written to where `kept` is true."""
    out = empty(np.broadcast_shapes(x.shape, y.shape), x.dtype)
    return np.multiply(x, y, out=out, where=kept)


def softplus(x):
    return np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0)


def softplus_back(x, g, slope=1):
    return g * np.where(x > 20, x.dtype.type(slope), 1 / (1 + np.exp(-x)))


def square_back(x, g):
    return 2 * x * g


# name: (forward, backward, a check that fails or "" if none does).
NUMBERS = {
    "square": (np.square, square_back, ""),
    "cut cotangents": (np.square, lambda x, g: 2 * x * np.clip(g, -5, 5), "gradients"),
    "small cotangents passed over": (np.square, lambda x, g: 2 * x * g * (np.abs(g) > 1e-6), "gradients"),
    "divided by cotangents": (np.square, lambda x, g: 2 * x * g * g / g, "gradients"),
    "zero cotangents passed over": (np.square, lambda x, g: where(2 * x, g, g != 0), "written"),
    "zeros passed over": (lambda x: where(x, x, x != 0), square_back, "written"),
    "zeros passed over in backward": (np.square, lambda x, g: where(2 * x, g, x != 0), "written"),
    "softplus": (softplus, softplus_back, ""),
    "softplus, a branch": (softplus, lambda x, g: softplus_back(x, g, 0), "gradients"),
    "small numbers": (np.square, lambda x, g: 2 * x * g * (np.abs(x) > 1e-3), "gradients"),
    "sine": (np.sin, lambda x, g: g * np.cos(x), ""),
    "differences of cosines": (lambda x: 1 - np.cos(x), lambda x, g: g * np.sin(x), ""),
    "exponential": (np.exp, lambda x, g: g * np.exp(x), ""),
    "reciprocal": (lambda x: 1 / x, lambda x, g: -g / (x * x), ""),
    "absolute": (np.abs, lambda x, g: g * np.sign(x), ""),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_zeros_and_large_and_small_numbers(name):
    forward, backward, check = NUMBERS[name]
    report = collect(made(forward, backward), FIXED, checks=["written", "gradients"])
    assert check in {v.check for v in report.failures} if check else report.verdict == "PASS", str(report)


RARE = strategies.cases([strategies.tensors((2, 3))], {"a": st.integers(0, 6), "b": st.integers(0, 6)})


@functools.cache
def rare():
    """Settings that are among others alone."""
    drawn, others = ([tuple(case.settings.values()) for case in cases] for cases in draw(RARE, 20, 0))
    return next(settings for settings in others if settings not in drawn)


def rarely(*settings):
    return settings == rare()


def stray(x, a, b):
    out = np.empty(x.shape, x.dtype)
    if rarely(a, b):
        np.lib.stride_tricks.as_strided(out, (x.size + 1,), (out.itemsize,))[-1] = 0
    out[...] = x * x
    return out


RIGHT = (lambda x, a, b: x * x, lambda x, g, a, b: 2 * x * g)
RARE_FAULTS = {
    "gradients": (RIGHT[0], lambda x, g, a, b: 2 * x * g * x.dtype.type(1.001 if rarely(a, b) else 1)),
    "guards": (stray, RIGHT[1]),
    "written": (lambda x, a, b: where(x, x, np.arange(3) < (2 if rarely(a, b) else 3)), RIGHT[1]),
    "runs": (lambda x, a, b: x * x if not rarely(a, b) else x[5] * x, RIGHT[1]),
}  # fmt: skip


def test_cases_to_glance_at_are_others():
    drawn, others = draw(RARE, 20, 0)
    assert len(drawn) == 20 and len(others) == 20 * MORE and not {*map(repr, drawn)} & {*map(repr, others)}
    assert draw(RARE, 20, 0) == (drawn, others) and draw(st.just(FIXED), 20, 0) == ([FIXED], [])


@pytest.mark.parametrize("check", RARE_FAULTS)
def test_a_glance_finds_what_few_cases_show(check):
    report = collect(made(*RARE_FAULTS[check]), RARE, checks=["guards", "runs", check])
    assert {v.check for v in report.failures} == {check}, str(report)
    assert tuple(report[check].case.settings.values()) == rare()


def test_right_ops_are_not_odd_at_a_glance():
    assert collect(made(*RIGHT), RARE, checks=["gradients"]).examples == 20
    ties = strategies.cases([strategies.tensors(kind="ties")])
    relu = made(lambda x: np.maximum(x, 0), lambda x, g: g * (x > 0))
    assert collect(relu, ties, checks=["gradients"]).examples == 20


@pytest.mark.parametrize("factor", [1, 1.001])
def test_a_glance_at_the_reference(space, factor):
    @space.kernel("reference")
    def square(x, a, b, out):
        out[...] = x * x

    @space.kernel("cpu", "square")
    def square_on_cpu(x, a, b, out):
        out[...] = x * x * x.dtype.type(factor if rarely(a, b) else 1)

    def forward(x, a, b):
        out = empty(x.shape, x.dtype)
        space.square(x, a, b, out)
        return out

    report = collect(made(forward, RIGHT[1]), RARE, checks=["reference"])
    assert report.verdict == ("PASS" if factor == 1 else "FAIL"), str(report)
    assert (report.examples > 20) == (factor != 1)


@needs_simulator
@pytest.mark.parametrize("name, old, new, words", [
    ("zero cotangents", "grad_x[i] = 3", "if (grad[i / columns] != 0) grad_x[i] = 3", "where some cotangents are 0"),
    ("zeros", "grad_x[i] = 3", "if (x[i] != 0) grad_x[i] = 3", "where some numbers are 0: the gradient of input 0"),
    ("large", "sum += v * v * v;", "sum += v > 50 ? 50 * v * v : v * v * v;", "times as large: the output at"),
    ("small", "sum += v * v * v;", "sum += v * v > real(1e-5) ? v * v * v : v;", "times as large: the output at"),
])  # fmt: skip
def test_odd_numbers_elsewhere(space, tmp_path, name, old, new, words):
    source = wrong_kernels.SOURCE.replace(old, new)
    assert source != wrong_kernels.SOURCE
    op = wrong_kernels.op_of(space, tmp_path / "rows.cu", source)
    found = collect(op, Case((Input((2, 3)),)), checks=["cuda"])["cuda"]
    assert found.verdict == "FAIL" and found.message.startswith("where ") and words in found.message, found.message


@needs_simulator
def test_a_glance_at_a_gpu(space, tmp_path):
    source = wrong_kernels.SOURCE.replace("sum += v * v * v;", "sum += columns == 4 && gridDim.x == 5 ? v : v * v * v;")
    op = wrong_kernels.op_of(space, tmp_path / "rows.cu", source)
    found = collect(op, checks=["cuda"])["cuda"]
    assert found.verdict == "FAIL" and found.cases > 20


@pytest.mark.parametrize("slope, verdict", [(0, "PASS"), (2, "FAIL")])
def test_another_slope_at_a_kink_is_no_fault(space, slope, verdict):
    """The reference of ReLU has a slope of 0 at 0. What is another slope anywhere else is a fault."""
    space.kernel("reference", "back")(lambda x, grad, out: np.multiply(grad, x > 0, out=out))
    space.kernel("cpu", "back")(lambda x, grad, out: np.multiply(grad, np.where(x < 0, slope, 1), out=out))

    class ReLU(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return np.maximum(x, 0)

        @staticmethod
        def backward(ctx, grad):
            out = ctx.array(0)
            space.back(*ctx.saved, grad, out)
            return out

    assert collect(ReLU, FIXED, checks=["reference"]).verdict == verdict


@pytest.mark.parametrize("wrong", [False, True])
def test_what_another_case_leaves_behind(wrong):
    """A mask that is kept for backward, in the op or by the graph; it depends on settings and shapes alone."""

    class Masked(Function):
        cases = strategies.cases([strategies.tensors((2, 3))], {"seed": st.integers(0, 9)})

        @staticmethod
        def forward(ctx, x, seed):
            ctx.mask = Masked.mask = np.random.default_rng(seed).random(x.shape) > 0.5
            return x * ctx.mask

        @staticmethod
        def backward(ctx, grad):
            return grad * (Masked.mask if wrong else ctx.mask)

    report = collect(Masked, checks=["deterministic"])
    assert report.verdict == ("FAIL" if wrong else "PASS"), str(report)
    if wrong:
        found = report["deterministic"]
        assert report.reproduction(found) == f"check_op(Masked, [{found.before!r}, {found.case!r}])"
        assert collect(Masked, [found.before, found.case], checks=["deterministic"]).verdict == "FAIL"
