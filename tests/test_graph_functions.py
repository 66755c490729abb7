"""User-defined functions: what they may return, and errors."""

import numpy as np
import pytest
from graph_checks import Exponential, leaf, normal

from octsod import Tensor, no_grad
from octsod import functional as f
from octsod.autograd import Function
from octsod.testing import gradcheck


class Divmod(Function):
    """Two outputs: quotient and remainder by a constant; the first has no gradient."""

    @staticmethod
    def forward(ctx, x, divisor):
        return x // divisor, x % divisor

    @staticmethod
    def backward(ctx, grad_quotient, grad_remainder):
        return grad_remainder


class SinCos(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.sin, ctx.cos = np.sin(x), np.cos(x)
        return ctx.sin, ctx.cos

    @staticmethod
    def backward(ctx, grad_sin, grad_cos):
        SinCos.seen = grad_sin is not None, grad_cos is not None
        total = np.zeros_like(ctx.sin)
        if grad_sin is not None:
            total += grad_sin * ctx.cos
        if grad_cos is not None:
            total -= grad_cos * ctx.sin
        return total


def test_a_function_of_one_output():
    assert gradcheck(Exponential.apply, normal(3, 4)).error < 1e-8
    assert gradcheck(lambda x: Exponential.apply(f.sigmoid(Exponential.apply(x))) * x, normal(3, 4)).error < 1e-8
    y = Exponential.apply(normal(3))  # an array is a constant
    assert isinstance(y, Tensor) and not y.requires_grad
    assert "op=Exponential" in repr(Exponential.apply(leaf(3)))


def test_a_function_of_two_outputs():
    x = normal(2, 3)
    assert gradcheck(SinCos.apply, x).error < 1e-8
    sin, cos = SinCos.apply(leaf(2, 3))
    (sin + cos).backward(x)
    assert SinCos.seen == (True, True)
    assert gradcheck(lambda x: SinCos.apply(x)[1], x).error < 1e-8
    assert SinCos.seen == (False, True)
    assert gradcheck(lambda x: SinCos.apply(x)[0] + x, x).error < 1e-8
    assert SinCos.seen == (True, False)
    assert gradcheck(lambda x: Exponential.apply(SinCos.apply(x)[0]) * SinCos.apply(x)[1], x).error < 1e-8
    assert gradcheck(lambda x: Divmod.apply(x, divisor=0.75), x).error < 1e-8


def test_an_output_that_is_unused_does_not_hold_up_the_others():
    x = leaf(2, 3)
    sin, cos = SinCos.apply(x)
    unused = f.sigmoid(cos)
    sin.sum().backward()
    assert np.allclose(x.grad, np.cos(x.numpy()))
    assert unused.requires_grad and cos.requires_grad


def test_inputs_may_be_missing_or_have_no_gradient():
    class Affine(Function):
        @staticmethod
        def forward(ctx, x, scale, shift):
            ctx.save_for_backward(x, scale)
            Affine.needs = ctx.needs
            return x * (1 if scale is None else scale) + (0 if shift is None else shift)

        @staticmethod
        def backward(ctx, grad):
            x, scale = ctx.saved
            return grad * (1 if scale is None else scale), None if scale is None else grad * x, grad

    x, scale = leaf(3), Tensor(normal(3, seed=1))
    Affine.apply(x, scale, None).sum().backward()  # gradients that are not wanted are dropped
    assert Affine.needs == (True, False, False)
    assert np.array_equal(x.grad, scale.numpy()) and scale.grad is None
    assert gradcheck(lambda x, s, b: Affine.apply(x, s, b), normal(3), normal(3), normal(3)).error < 1e-8
    assert gradcheck(lambda x: Affine.apply(x, None, None), normal(3)).error < 1e-8
    with no_grad():
        Affine.apply(x, scale, None)
    assert Affine.needs == (False, False, False)


def test_a_gradient_of_none_stops_there():
    class Stop(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            return None

    class Refuses(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            raise AssertionError("no gradient arrives here")

    x = leaf(3)
    (Stop.apply(Refuses.apply(x)) + x * 2).sum().backward()
    assert np.array_equal(x.grad, np.full(3, 2.0))
    x.zero_grad()
    Stop.apply(x).sum().backward()
    assert x.grad is None


def test_integer_outputs_have_no_gradient():
    class Signs(Function):
        @staticmethod
        def forward(ctx, x):
            return np.sign(x).astype(np.int32), x * 2

        @staticmethod
        def backward(ctx, none, grad):
            assert none is None
            return grad * 2

    x = leaf(3)
    signs, doubled = Signs.apply(x)
    assert not signs.requires_grad and doubled.requires_grad
    doubled.sum().backward()
    assert np.array_equal(x.grad, np.full(3, 2.0))


def test_views_are_gradients_too():
    class Flip(Function):
        @staticmethod
        def forward(ctx, x):
            return x[..., ::-1]

        @staticmethod
        def backward(ctx, grad):
            return grad[..., ::-1]

    class Total(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.shape = x.shape
            return x.sum()

        @staticmethod
        def backward(ctx, grad):
            return np.broadcast_to(grad, ctx.shape)  # read-only, and with strides of zero

    x, weight = normal(1, 2, 4, 5), normal(3, 2, 1, 1)
    assert gradcheck(lambda x, w: Flip.apply(f.conv2d(Flip.apply(x), w)) * 2, x, weight).error < 1e-8
    assert gradcheck(lambda x: f.sigmoid(Flip.apply(x)) + Flip.apply(f.sigmoid(x)), x).error < 1e-8
    assert gradcheck(lambda x: Total.apply(f.sigmoid(x)) + Total.apply(x * x), x).error < 1e-8
    y = leaf(3)
    Total.apply(y).backward()
    y.grad += 1  # writable all the same
    assert np.array_equal(y.grad, np.full(3, 2.0))


class Returns(Function):
    """x * 2, whose backward returns what it was told to."""

    @staticmethod
    def forward(ctx, x, y, result):
        ctx.result = result
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return ctx.result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ((np.ones(3), np.ones(4)), r"Returns.backward returned a gradient of float64 \(4,\) for input 1; "
            r"expected float64 \(3,\)"),
        ((np.ones((3, 1)), None), r"Returns.backward returned a gradient of float64 \(3, 1\) for input 0; expected"),
        ((np.ones(3, np.float32), None), r"a gradient of float32 \(3,\) for input 0; expected float64 \(3,\)"),
        ((np.ones(3),), r"Returns.backward returned 1 gradients; expected 2, one per input"),
        (np.ones(3), r"Returns.backward returned 1 gradients; expected 2"),
        ((np.ones(3),) * 3, r"Returns.backward returned 3 gradients; expected 2"),
        (None, r"Returns.backward returned 1 gradients; expected 2"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inner", [False, True])
def test_wrong_gradients_are_refused(result, message, inner):
    x, y = leaf(3), leaf(3)
    if inner:
        x, y = x * 1.0, y * 1.0
    with pytest.raises(ValueError, match=message):
        Returns.apply(x, y, result=result).sum().backward()


@pytest.mark.parametrize("setting", [1e-5, 2, True, np.float32(2), "same"], ids=repr)
def test_settings_by_position_are_refused(setting):
    with pytest.raises(TypeError, match=r"^Divmod.apply: argument 2, `divisor`, is .*; expected an array. Give settin"):
        Divmod.apply(leaf(3), setting)
    with pytest.raises(TypeError, match=r"^Divmod.apply: argument 3 is .*; expected an array."):
        Divmod.apply(leaf(3), leaf(3), setting)


def test_a_gradient_may_be_a_tensor():
    x = leaf(3)
    Returns.apply(x, leaf(3), result=[Tensor(np.arange(3.0)), None]).sum().backward()
    assert np.array_equal(x.grad, np.arange(3.0))


def test_a_function_without_its_methods_says_so():
    class Empty(Function):
        pass

    with pytest.raises(TypeError, match="static method `forward"):
        Empty.apply(leaf(3))

    class Half(Function):
        @staticmethod
        def forward(ctx, x):
            return x

    with pytest.raises(TypeError, match="static method `backward"):
        Half.apply(leaf(3)).sum().backward()
