"""Kernels of arithmetic, dropout, sums and the loss against the reference."""

import importlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_contract import both_dtypes, cpu, hosts_only, verify

from octsod.testing import strategies
from octsod.testing.strategies import SumCase

pytestmark = pytest.mark.usefixtures("poisoned_scratch")


ARITHMETIC = ["add", "subtract", "multiply", "divide"]


@pytest.fixture(scope="module", autouse=True)
def few_elements_are_worth_a_thread():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("octsod.kernels.cpu.parallel"), "BUSY", 1 << 13)
        yield


@both_dtypes
@pytest.mark.parametrize("name", ARITHMETIC)
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
@pytest.mark.parametrize("name", ARITHMETIC)
@pytest.mark.parametrize(("a", "b"), [
    ((), ()), ((3,), ()), ((16385,), (1,)), ((4, 5), (5,)), ((5, 40), (5, 1)), ((5, 1), (1, 40)), ((0, 3), (3,)),
    ((2, 3, 4, 5), (3, 1, 1)), ((2, 1, 4), (1, 3, 4)), ((2, 3, 17), (2, 1, 17)),
    ((2, 1, 2, 1), (1, 2, 1, 2)), ((3, 1, 2, 1, 5), (2, 1, 3, 1)),  # more axes that cannot be one
    ((2, 20000), (20000,)), ((2, 20000), (2, 1)), ((20000, 3), (3,)),  # more than a task
])  # fmt: skip
def test_arithmetic_is_broadcast(dtype, name, a, b):
    def launch(kernels, arena):
        wide, narrow = (arena.array(arena.rng.uniform(0.5, 2, shape)) for shape in (a, b))
        shape = np.broadcast_shapes(a, b)
        getattr(kernels, name)(wide, narrow, arena.output("out", shape))
        getattr(kernels, name)(narrow, wide, arena.output("the other way round", shape))
        if a == shape:
            same = arena.output("in place", None, values=wide)
            getattr(kernels, name)(same, narrow, same)

    verify(dtype, 0, launch)


@both_dtypes
@pytest.mark.parametrize("exponent", [1.0, 2.0, 3.0, 0.5, -1.0, 0.0, 1.7])
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


@hosts_only
@both_dtypes
@pytest.mark.parametrize("name", ["exp", "log"])
def test_exponential_and_logarithm_are_within_a_unit_in_the_last_place(dtype, name):
    wider = np.float64 if dtype == "float32" else np.longdouble
    if np.finfo(wider).eps == np.finfo(dtype).eps:
        pytest.skip("no wider format to compare with")
    rng, limits = np.random.default_rng(0), np.finfo(dtype)
    ends = np.log([limits.tiny, limits.max])
    exponents = np.concatenate([rng.standard_normal(50_000), rng.uniform(ends[0] + 1e-3, ends[1] - 1e-3, 50_000)])
    near_one = np.exp(rng.standard_normal(50_000) * np.exp(rng.uniform(-18, 0, 50_000)))
    x = (exponents if name == "exp" else np.concatenate([np.exp(exponents), near_one])).astype(dtype)
    out = np.empty_like(x)
    getattr(cpu, name)(x, out)
    exact = getattr(np, name)(x.astype(wider))
    unit = np.spacing(np.abs(exact).astype(dtype)).astype(wider)
    assert (np.abs(out - exact) <= unit).all(), np.max(np.abs(out - exact) / unit)


@hosts_only
@both_dtypes
def test_ends_of_exponential_and_logarithm(dtype):
    limits = np.finfo(dtype)
    for name, given_, expected in (
        ("exp", [np.inf, -np.inf, 1e30, -1e30, np.log(limits.max) + 0.01, np.log(limits.tiny) - 0.01, 0, -0.0, np.nan],
         [np.inf, 0, np.inf, 0, np.inf, 0, 1, 1, np.nan]),
        ("log", [np.inf, -np.inf, 0, -0.0, -1, -limits.tiny, limits.tiny / 2, -limits.tiny / 2, 1, np.nan],
         [np.inf, np.nan, -np.inf, -np.inf, np.nan, np.nan, -np.inf, -np.inf, 0, np.nan]),
    ):  # fmt: skip
        x = np.array(given_, dtype)
        getattr(cpu, name)(x, x)
        np.testing.assert_array_equal(x, np.array(expected, dtype))


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
@example(case=SumCase((1, 50000, 1), 0))
@example(case=SumCase((1, 45, 1100), 0))  # more columns than are added up at a time
def test_sum_middle(dtype, case):
    def launch(kernels, arena):
        kernels.sum_middle(arena.normal(*case.shape), arena.output("out", (case.shape[0], case.shape[2])))

    verify(dtype, case.seed, launch)
