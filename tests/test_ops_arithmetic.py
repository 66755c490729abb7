"""Arithmetic, sums, sigmoid and the losses of maps: gradients, and values against NumPy."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from op_checks import SEEDS, check, examples, get, normals

from octsod import Tensor
from octsod import functional as f


@st.composite
def broadcasts(draw):
    """Two shapes that broadcast."""
    full = draw(st.lists(st.sampled_from([1, 2, 3, 5, 0]), max_size=4))
    shapes = []
    for _ in range(2):
        shape = [draw(st.sampled_from([n, n, 1])) for n in full]
        shapes.append(tuple(shape[draw(st.integers(0, len(shape))) :]))
    return shapes


ARITHMETIC = {"add": np.add, "subtract": np.subtract, "multiply": np.multiply, "divide": np.divide}


@examples(40)
@given(st.sampled_from(list(ARITHMETIC)), broadcasts(), SEEDS)
@example("divide", [(2, 3), ()], 0)
@example("subtract", [(1, 3), (2, 1)], 0)
@example("multiply", [(), ()], 0)
@example("add", [(70, 2, 300), (2, 1)], 0)
def test_arithmetic(name, shapes, seed):
    a, b = normals(seed, *shapes)
    b = np.copysign(np.abs(b) + 0.5, b) if name == "divide" else b
    op = getattr(f, name)
    check(op, a, b)
    got, expected = op(a, b).numpy(), ARITHMETIC[name](a, b)
    assert got.shape == expected.shape and np.allclose(got, expected, rtol=1e-14)


def test_arithmetic_with_numbers_and_arrays():
    a, b = normals(0, (2, 3), (2, 3))
    b = np.abs(b) + 0.5
    check(lambda a: 2 - a * 3 + 1 / (a * a + 1) - a / 4, a)
    check(lambda a: b * a, a)
    check(lambda a: b / (a * a + 1) + (b - a), a)
    check(lambda a: -a, a)
    check(lambda a: a * a / a, b)
    single = Tensor(np.ones(2, np.float32)) * 2 + 1
    assert single.dtype == np.float32  # a number takes on the tensor's dtype


def test_a_fraction_is_not_rounded_to_an_integer_tensor():
    whole = Tensor(np.array([1, 2]))
    for op, expected in ((f.multiply, [0.5, 1]), (f.add, [1.5, 2.5]), (f.divide, [2, 4])):
        try:
            got = op(whole, 0.5).numpy()
        except (TypeError, ValueError):
            continue  # to refuse it is as good
        assert np.array_equal(got, expected)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3, 5, -1, -2, 0.5, 1.5, -0.5])
def test_power(exponent):
    (a,) = normals(0, (3, 7))
    a = np.sign(a) * (np.abs(a) + 0.3)
    a = a if exponent == int(exponent) else np.abs(a)
    check(lambda a: f.power(a, exponent), a)
    assert np.allclose(f.power(a, exponent).numpy(), a**exponent, rtol=1e-12)


@pytest.mark.parametrize("exponent", [0, 1, 2, 3])
def test_power_at_zero(exponent):
    check(lambda a: a**exponent, np.array([0.0, 1.0, -2.0]))


@examples(40)
@given(
    st.lists(st.sampled_from([1, 2, 3, 5, 0]), max_size=4), st.data(), st.booleans(), st.sampled_from(["sum", "mean"]),
    SEEDS,
)  # fmt: skip
def test_sum_and_mean(shape, data, keepdims, name, seed):
    axes = st.integers(-len(shape), len(shape) - 1) if shape else st.nothing()
    options = st.none() | axes | st.lists(axes, unique_by=lambda i: i % len(shape)).map(tuple) if shape else st.none()
    axis = data.draw(options)
    (x,) = normals(seed, tuple(shape))
    if name == "mean" and not x.size:
        return
    op = getattr(f, name)
    check(lambda x: op(x, axis, keepdims), x)
    got, expected = op(x, axis, keepdims), getattr(np, name)(x, axis=axis, keepdims=keepdims)
    assert got.shape == expected.shape and np.allclose(got.numpy(), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("compute", "forward", "backward"),
    [
        (lambda x: x.sum(), ["sum_middle"], ["copy"]),
        (lambda x: x.sum((1, 2)), ["sum_middle"], ["copy"]),
        (lambda x: x.sum((0, 2)), ["sum_middle"] * 2, ["copy"]),
        (lambda x: x * np.ones((4, 1)), ["multiply"], ["multiply"]),
        (lambda x: 2 - x, ["subtract"], ["subtract"]),
        (lambda x: x / np.ones(5), ["divide"], ["divide"]),
    ],
)
def test_each_map_is_read_and_written_once(monkeypatch, compute, forward, backward):
    """Neighbouring axes are added up at once, what is broadcast is not written out, and no gradient is copied."""
    from octsod.ops import arithmetic

    class Watched:
        def __getattr__(self, name):
            launched.append(name)
            return getattr(kernels, name)

    launched, kernels = [], arithmetic.kernels
    monkeypatch.setattr(arithmetic, "kernels", Watched())
    x = Tensor(np.ones((3, 4, 5)), requires_grad=True)
    y = compute(x)
    assert launched == forward
    launched.clear()
    y.backward(np.ones(y.shape))
    assert launched == backward


@pytest.mark.parametrize(
    ("shape", "to"),
    [((2, 6), (3, 4)), ((2, 6), (-1,)), ((2, 6), 12), ((12,), (2, -1, 3)), ((1,), ()), ((), (1, 1)), ((0, 3), (3, 0))],
)
def test_reshape(shape, to):
    (x,) = normals(0, shape)
    check(lambda x: f.reshape(x * 2, to) * 3, x)
    assert np.array_equal(f.reshape(x, to).numpy(), x.reshape(to))
    check(lambda x: f.conv2d(x.reshape(1, 1, 1, -1), np.ones((2, 1, 1, 1))), x.reshape(-1)) if x.size else None


@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4, 5), (0, 3), (3, 20_001)])
def test_sigmoid(shape):
    (x,) = normals(0, shape)
    check(lambda x: f.sigmoid(x * 2), x)
    assert np.allclose(f.sigmoid(x).numpy(), 1 / (1 + np.exp(-x)), rtol=1e-13)


def test_sigmoid_does_not_overflow():
    x = Tensor(np.array([-1e4, -800.0, 0.0, 800.0, 1e4]), requires_grad=True)
    y = f.sigmoid(x)
    y.sum().backward()
    assert np.allclose(y.numpy(), [0, 0, 0.5, 1, 1], atol=1e-300)
    assert np.allclose(get(x.grad), [0, 0, 0.25, 0, 0], atol=1e-300)


@pytest.mark.parametrize("shape", [(1,), (2, 1, 5, 4), (), (3, 20_001)])
def test_binary_cross_entropy_with_logits(shape):
    x, target = normals(0, shape, shape)
    target = 1 / (1 + np.exp(-target))
    check(lambda x: f.binary_cross_entropy_with_logits(x * 3, Tensor(target)), x)
    p = 1 / (1 + np.exp(-x))
    expected = -(target * np.log(p) + (1 - target) * np.log1p(-p)).mean()
    assert f.binary_cross_entropy_with_logits(x, target).item() == pytest.approx(expected, rel=1e-12)


def test_the_loss_does_not_overflow():
    x = Tensor(np.array([-1e4, 1e4, -1e4, 1e4]), requires_grad=True)
    loss = f.binary_cross_entropy_with_logits(x, np.array([0.0, 1.0, 1.0, 0.0]))
    loss.backward()
    assert loss.item() == pytest.approx(5e3)
    assert np.allclose(get(x.grad), [0, 0, -0.25, 0.25])


def overlap_losses(x, target):
    """(IoU loss, Dice loss) picture by picture, written out."""
    losses = []
    for p, t in zip(1 / (1 + np.exp(-x)), target, strict=True):
        both, total = (p * t).sum(), p.sum() + t.sum()
        losses.append((1 - (both + 1) / (total - both + 1), 1 - (2 * both + 1) / (total + 1)))
    return np.mean(losses, axis=0)


@pytest.mark.parametrize("shape", [(1,), (2, 1, 5, 4), (3, 7), (3, 0), (2, 20_001)])
def test_overlap_losses(shape):
    x, target = normals(0, shape, shape)
    target = 1 / (1 + np.exp(-2 * target))
    expected = overlap_losses(x, target)
    for op, value in zip((f.iou_loss, f.dice_loss), expected, strict=True):
        check(lambda x, op=op: op(x, Tensor(target)), x)
        loss = op(x, target)
        assert loss.shape == () and loss.item() == pytest.approx(value, rel=1e-12, abs=1e-14)


def test_overlap_losses_at_their_ends():
    """None for what is found, or where there is nothing and nothing is found; nearly 1 for what is missed."""
    target = np.concatenate([np.ones((1, 1, 20, 20)), np.zeros((1, 1, 20, 20))])
    for op, missed in ((f.iou_loss, 1 - 1 / 401), (f.dice_loss, 1 - 1 / 401)):
        assert op(np.where(target > 0, 1e4, -1e4), target).item() == pytest.approx(0, abs=1e-14)
        assert op(np.where(target > 0, -1e4, 1e4), target).item() == pytest.approx(missed, rel=1e-12)
