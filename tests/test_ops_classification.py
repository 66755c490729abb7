"""Maxima, log-softmax and cross-entropy: gradients, and values against NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from op_checks import SEEDS, check, examples, get, normals, put

import octsod
from octsod import Tensor
from octsod import functional as f
from octsod.backend import launch_with

SIDES = st.sampled_from([1, 2, 3, 5])


@st.composite
def reductions(draw):
    """A shape, and axes of it."""
    shape = draw(st.lists(SIDES, max_size=4))
    axes = st.integers(-len(shape), len(shape) - 1) if shape else st.nothing()
    several = st.lists(axes, unique_by=lambda i: i % len(shape)).map(tuple)
    return tuple(shape), draw(st.none() | axes | several if shape else st.none())


@examples(60)
@given(reductions(), st.booleans(), SEEDS)
def test_max(shape_and_axis, keepdims, seed):
    shape, axis = shape_and_axis
    (x,) = normals(seed, shape)
    got, expected = f.max(x, axis, keepdims), x.max(axis=axis, keepdims=keepdims)
    assert got.shape == np.shape(expected) and np.array_equal(got.numpy(), expected)
    check(lambda x: f.max(x, axis, keepdims) * 2, x)


@examples(60)
@given(reductions(), SEEDS)
def test_the_first_of_equal_ones_gets_the_gradient(shape_and_axis, seed):
    """The first in C order, over several axes, too; and the first NaN, where there is one."""
    shape, axis = shape_and_axis
    x = np.random.default_rng(seed).choice([0.0, 1.0, 2.0, np.nan], shape, p=[0.3, 0.3, 0.3, 0.1])
    leaf = Tensor(x, requires_grad=True)
    largest = f.max(leaf, axis, keepdims=True)
    largest.backward(np.ones(largest.shape))
    expected, gradient = x.max(axis=axis, keepdims=True), get(leaf.grad)
    assert np.array_equal(largest.numpy(), expected, equal_nan=True)
    winners, taken = np.zeros(shape), set()
    axes = range(len(shape)) if axis is None else [n % len(shape) for n in np.atleast_1d(axis).astype(int)]
    for place in np.ndindex(shape):
        group = tuple(0 if i in axes else n for i, n in enumerate(place))
        if group not in taken and (x[place] == expected[group] or np.isnan(x[place])):
            taken.add(group)
            winners[place] = 1
    assert np.array_equal(gradient, winners)


def test_max_of_a_tensor_and_of_nothing():
    x = Tensor(np.arange(6.0).reshape(2, 3))
    assert x.max().item() == 5 and x.max(1).numpy().tolist() == [2, 5] and x.max(0, keepdims=True).shape == (1, 3)
    assert f.max(np.ones((0, 3)), axis=1).shape == (0,) and f.max(np.ones((2, 0)), 0, True).shape == (1, 0)
    check(lambda x: f.max(x, 0) * x + f.max(x), normals(0, (3, 4))[0])
    empty = Tensor(np.ones((0, 3)), requires_grad=True)
    f.max(empty, 1).sum().backward()
    assert empty.grad.shape == (0, 3)


@examples(40)
@given(st.lists(st.sampled_from([1, 2, 3, 5, 0]), min_size=1, max_size=4), st.data(), SEEDS)
def test_log_softmax(shape, data, seed):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    (x,) = normals(seed, tuple(shape))
    check(lambda x: f.log_softmax(x * 2, axis), x)
    expected = x - (np.log(np.exp(x).sum(axis=axis, keepdims=True)) if x.size else 0)
    assert np.allclose(f.log_softmax(x, axis).numpy(), expected, rtol=1e-12, atol=1e-12)


def test_log_softmax_of_huge_logits():
    x = Tensor(np.array([[1e4, -1e4, 1e4], [-1e4, -1e4, -1e4]]), requires_grad=True)
    y = f.log_softmax(x)
    assert np.allclose(y.numpy(), [[-np.log(2), -2e4 - np.log(2), -np.log(2)], [-np.log(3)] * 3], rtol=1e-12)
    y.backward(np.array([[1.0, 0.0, 0.0]] * 2))
    assert np.allclose(get(x.grad), [[0.5, 0, -0.5], [2 / 3, -1 / 3, -1 / 3]])


def test_kernels_are_asked_for_no_softmax_of_nothing():
    """The contract promises them an axis with an entry at least."""
    asked = []

    def launcher(name, function, *arguments):
        asked.append(name)
        function(*arguments)

    x = Tensor(np.ones((3, 0)), requires_grad=True)
    with launch_with(launcher):
        f.log_softmax(x).backward(np.ones((3, 0)))
    assert x.grad.shape == (3, 0) and not [name for name in asked if "softmax" in name]


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (40, 100)])
def test_cross_entropy(shape, smoothing):
    (x,) = normals(0, shape)
    images, classes = shape
    labels = np.random.default_rng(1).integers(0, classes, images)
    check(lambda x: f.cross_entropy(x * 2, labels, smoothing), x)
    target = smoothing / classes + (1 - smoothing) * np.eye(classes)[labels]
    expected = -(target * (x - np.log(np.exp(x).sum(axis=1, keepdims=True)))).sum(axis=1).mean()
    loss = f.cross_entropy(x, labels, smoothing)
    assert loss.shape == () and loss.item() == pytest.approx(expected, rel=1e-12, abs=1e-15)
    assert loss.item() == f.cross_entropy(Tensor(x), Tensor(labels), label_smoothing=smoothing).item()


def test_cross_entropy_is_what_it_is_made_of():
    """Forward and backward, op by op."""
    x, labels = normals(0, (4, 6))[0], np.array([5, 0, 3, 3])
    ones = np.eye(6)[labels]
    leaf, other = Tensor(x, requires_grad=True), Tensor(x, requires_grad=True)
    loss, composed = f.cross_entropy(leaf, labels), -(f.log_softmax(other) * ones).sum() * 0.25
    (loss * 3).backward()
    (composed * 3).backward()
    assert loss.item() == pytest.approx(composed.item(), rel=1e-13)
    assert np.allclose(get(leaf.grad), get(other.grad), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_cross_entropy_of_huge_logits(dtype):
    x = Tensor(np.array([[1e4, -1e4], [1e4, -1e4], [-np.inf, 0.0]], dtype), requires_grad=True)
    loss = f.cross_entropy(x, np.array([0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx(2e4 / 3)
    assert np.allclose(get(x.grad), [[0, 0], [1 / 3, -1 / 3], [0, 0]])


def test_labels_out_of_range():
    """Refused on a host; elsewhere nobody waits for the device to find out, and the loss is NaN."""
    x = np.zeros((2, 3))
    for labels in ([0, 3], [-1, 0]):
        with octsod.use_backend("opaque"):
            logits = Tensor(x, requires_grad=True)
            before = logits.device.gets
            loss = f.cross_entropy(logits, labels)
            loss.backward()
            assert logits.device.gets == before
            assert np.isnan(loss.item())
        refused = pytest.raises(ValueError, match=rf"`labels` has {max(labels, key=abs)}; expected classes from 0 to 2")
        with octsod.use_backend("cpu"), refused:
            f.cross_entropy(x, labels)


def test_labels_have_no_gradient():
    labels = Tensor(np.array([0, 1]))
    logits = Tensor(np.zeros((2, 2)), requires_grad=True)
    f.cross_entropy(logits, labels).backward()
    assert labels.grad is None and not labels.requires_grad
    with pytest.raises(TypeError, match="float32 or float64"):
        Tensor(np.array([0, 1]), requires_grad=True)
    assert put(np.array([0, 1])).dtype == np.int64
