"""What `gradcheck` takes and refuses, what it leaves as it was, and what ops must not do."""

import re

import numpy as np
import pytest
from gradcheck_ops import LARGE, SMALL, Conv3x3, Square, conv_inputs, normal

import octsod
from octsod import functional as f
from octsod.autograd import Function
from octsod.testing import gradcheck


def test_outputs_may_be_a_tuple_or_list_with_missing_entries():
    x = normal(3)
    assert gradcheck(lambda x: (x * 2, None, f.sigmoid(x)), x).error < 1e-9
    assert gradcheck(lambda x: [None, x.sum()], x).error < 1e-9
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: (x * 2, None, Square.apply(x, uses=1)), x)


def test_other_arguments_are_passed_on():
    x, constant = normal(3), octsod.Tensor(normal(3, seed=1))
    seen = []

    def fn(x, constant, single, count, name):
        seen.append((type(constant), single.dtype, count, name))
        return x * constant

    assert gradcheck(fn, x, constant, np.ones(3, np.float32), 4, "name").error < 1e-9
    assert set(seen) == {(octsod.Tensor, np.dtype(np.float32), 4, "name")}


def test_a_tensor_given_twice_has_the_sum_of_both_gradients():
    x = octsod.Tensor(normal(3), requires_grad=True)
    assert gradcheck(lambda a, b: a * b, x, x).error < 1e-9


def test_parameters_may_be_reached_through_a_closure():
    x, weight, bias = (octsod.Tensor(a, requires_grad=True) for a in conv_inputs(SMALL))
    assert gradcheck(lambda *_: f.conv2d(x, weight, bias, padding=1), x, weight, bias).error < 1e-9
    with pytest.raises(AssertionError, match="input 1 at"):
        gradcheck(lambda *_: Conv3x3.apply(x, weight, bias, fault="weight twice"), x, weight, bias)


@pytest.mark.parametrize("fault", [None, "weight twice"])
def test_inputs_and_random_numbers_are_left_as_they_were(fault):
    arrays = conv_inputs(SMALL)
    copies = [a.copy() for a in arrays]
    tensors = [octsod.Tensor(a, requires_grad=True) for a in arrays]
    data = [t.data for t in tensors]
    tensors[0].grad = normal(*arrays[0].shape)
    kept = tensors[0].grad
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    own = octsod.random.generator.bit_generator.state
    try:
        gradcheck(lambda *a: Conv3x3.apply(*a, fault=fault), *tensors)
        assert fault is None
    except AssertionError:
        assert fault is not None
    assert tensors[0].grad is kept
    assert tensors[1].grad is None and tensors[2].grad is None
    assert all(t.data is d for t, d in zip(tensors, data, strict=True))
    assert all(np.array_equal(a, c) for a, c in zip(arrays, copies, strict=True))
    assert np.array_equal(np.random.get_state()[1], state)
    assert octsod.random.generator.bit_generator.state == own


def test_the_result_is_the_same_every_time():
    inputs = conv_inputs(LARGE)
    assert gradcheck(Conv3x3.apply, *inputs) == gradcheck(Conv3x3.apply, *inputs)


def test_changing_an_input_is_caught():
    class Forward(Function):
        @staticmethod
        def forward(ctx, x):
            x += 1
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    class Backward(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            ctx.saved[0][...] = 0
            return grad * 2

    for op in (Forward, Backward):
        with pytest.raises(AssertionError, match="changed input 0 in place"):
            gradcheck(op.apply, normal(3))

    def constant(x, offsets):
        offsets[0] += 1
        return x * 2

    with pytest.raises(AssertionError, match="changed input 1 in place"):
        gradcheck(constant, normal(3), np.arange(3))


def test_randomness_is_caught():
    generator = np.random.default_rng()
    with pytest.raises(AssertionError, match="not deterministic"):
        gradcheck(lambda x: x * generator.normal(size=3), normal(3))


def test_a_gradient_of_the_wrong_shape_or_dtype_is_caught():
    class Wrong(Function):
        @staticmethod
        def forward(ctx, x, change):
            ctx.change = change
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return ctx.change(grad * 2)

    for change in (lambda g: g.astype(np.float32), lambda g: g[:1], lambda g: g[None]):
        with pytest.raises((AssertionError, ValueError), match="gradient"):
            gradcheck(lambda x, change=change: Wrong.apply(x, change=change), normal(3))


def test_numbers_that_are_not_finite_are_caught():
    with pytest.raises(AssertionError, match="not finite"):
        gradcheck(lambda x: x / octsod.Tensor(np.zeros(3)), normal(3))

    class NoNumber(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return np.array([1.0, np.nan, 1.0])

    with pytest.raises(AssertionError, match=r"input 0 at \(1,\): backward gives nan"):
        gradcheck(NoNumber.apply, normal(3))


@pytest.mark.parametrize(
    ("error", "message", "fn", "inputs"),
    [
        (TypeError, "input 1 is float32; expected float64", lambda a, b: a, lambda: [
            normal(2), octsod.Tensor(np.ones(2, np.float32), requires_grad=True)]),
        (ValueError, "no input requires a gradient", lambda a: a, lambda: [octsod.Tensor(normal(2))]),
        (ValueError, "no input requires a gradient", lambda a: a, lambda: [np.ones(2, int)]),
        (ValueError, "input 0 is the result of `Multiply`", lambda a: a, lambda: [
            octsod.Tensor(normal(2), requires_grad=True) * 2]),
        (TypeError, "`fn` returned float", lambda a: 1.0, lambda: [normal(2)]),
        (TypeError, "`fn` returned ndarray", lambda a: a.numpy(), lambda: [normal(2)]),
        (ValueError, "`fn` returned no tensor", lambda a: (None,), lambda: [normal(2)]),
        (TypeError, "`fn` returned a tensor of float32", lambda a: octsod.Tensor(np.ones(2, np.float32)), lambda: [
            normal(2)]),
    ],
)  # fmt: skip
def test_what_cannot_be_checked_is_refused(error, message, fn, inputs):
    with pytest.raises(error, match=re.escape(message)):
        gradcheck(fn, *inputs())


def test_it_is_refused_where_gradients_are_off():
    with octsod.no_grad(), pytest.raises(RuntimeError, match="no_grad"):
        gradcheck(f.sigmoid, normal(3))


def test_it_is_public():
    assert octsod.gradcheck is gradcheck


def test_empty_inputs_pass():
    assert gradcheck(lambda x, y: (x * 2, y * 2), normal(0, 3), normal(2)).error < 1e-9


def test_single_beside_double_is_named_as_unchecked():
    report = gradcheck(lambda a, b: a * 2.0, np.ones(3), np.ones(3, np.float32))
    assert report.unchecked == (1,) and str(report).endswith("; input 1, float32 beside float64, is not checked")
    assert gradcheck(lambda a, b: a * 2.0, np.ones(3), 1).unchecked == ()
