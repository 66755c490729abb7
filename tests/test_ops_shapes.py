"""Transposing, slicing, concatenating: gradients, and values against NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from op_checks import SEEDS, check, examples, get, normals

from octsod import Tensor
from octsod import functional as f

SIDES = st.sampled_from([1, 2, 3, 5, 0])


@examples(40)
@given(st.lists(SIDES, max_size=4).flatmap(lambda s: st.tuples(st.just(s), st.permutations(range(len(s))))), SEEDS)
def test_transpose(shape_and_axes, seed):
    shape, axes = shape_and_axes
    (x,) = normals(seed, tuple(shape))
    check(lambda x: f.transpose(x * 2, axes), x)
    assert np.array_equal(f.transpose(x, axes).numpy(), x.transpose(axes))


def test_transpose_of_a_tensor():
    (x,) = normals(0, (2, 3, 4))
    t = Tensor(x)
    ways = t.T, t.transpose(), t.transpose(2, 1, 0), t.transpose((2, 1, 0)), t.transpose(-1, -2, 0), f.transpose(x)
    for got in ways:
        assert np.array_equal(got.numpy(), x.T) and got.numpy().flags.c_contiguous
    assert np.array_equal(Tensor(x[0, 0]).transpose(0).numpy(), x[0, 0])
    whole = Tensor(np.arange(6).reshape(2, 3)).T
    assert whole.dtype.kind == "i" and whole.numpy().tolist() == [[0, 3], [1, 4], [2, 5]]
    check(lambda x: x.T * x.T + f.transpose(x, (2, 1, 0)), x)


@st.composite
def indices(draw, shape):
    """A basic index into an array of this shape."""
    entries = []
    for n in shape:
        ends = st.integers(-n - 2, n + 2) | st.none()
        part = st.builds(slice, ends, ends, st.sampled_from([None, 1, 2, -1, -3]))
        entries.append(draw(st.integers(-n, n - 1) | part if n else part))
    if draw(st.booleans()):
        start = draw(st.integers(0, len(entries)))
        entries[start : draw(st.integers(start, len(entries)))] = [...]
    else:
        entries = entries[: draw(st.integers(0, len(entries)))]
    for _ in range(draw(st.integers(0, 2))):
        entries.insert(draw(st.integers(0, len(entries))), None)
    return entries[0] if len(entries) == 1 and draw(st.booleans()) else tuple(entries)


@examples(100)
@given(st.data(), st.lists(SIDES, max_size=4), SEEDS)
def test_slicing(data, shape, seed):
    (x,) = normals(seed, tuple(shape))
    index = data.draw(indices(shape))
    got, expected = Tensor(x)[index], x[index]
    assert got.shape == expected.shape and np.array_equal(got.numpy(), expected)
    check(lambda x: x[index] * 2, x)


def test_slices_of_one_tensor_add_up():
    (x,) = normals(0, (4, 5))
    check(lambda x: x[:2] * x[2:] + x[1], x)
    check(lambda x: x[::-1] * x, x)
    leaf = Tensor(x, requires_grad=True)
    leaf[1:3, 0].sum().backward()
    expected = np.zeros((4, 5))
    expected[1:3, 0] = 1
    assert np.array_equal(get(leaf.grad), expected)


def test_a_slice_is_a_copy():
    x = Tensor(np.zeros(3))
    part = x[:]
    x.data = np.ones(3)
    assert part.numpy().tolist() == [0, 0, 0]


def test_numpys_integers_are_integers():
    x = Tensor(np.arange(6).reshape(2, 3))
    assert x[np.int64(1), np.array(2)].item() == 5 and x[np.int8(0) : np.int32(1)].shape == (1, 3)


@pytest.mark.parametrize(
    "index", [[0, 1], np.array([0, 1]), np.array([True, False]), True, np.True_, 0.5, "a", (0, [1]), Tensor([1])]
)
def test_other_indices_are_refused(index):
    with pytest.raises(TypeError, match=r"getitem: `index` has a \w+; expected integers, slices, Ellipsis and None\."):
        Tensor(np.zeros((2, 3)))[index]


@pytest.mark.parametrize(("index", "message"), [
    (2, "`index` is 2 on axis 0; expected -2 to 1"),
    ((None, 0, -4), "`index` is -4 on axis 1; expected -3 to 2"),
    ((0, 0, 0), r"`index` is \(0, 0, 0\); expected at most 2 entries"),
    ((..., 0, ...), r"expected at most 2 entries and one Ellipsis"),
])  # fmt: skip
def test_indices_out_of_range(index, message):
    with pytest.raises(IndexError, match=message):
        Tensor(np.zeros((2, 3)))[index]


def test_a_tensor_is_walked_through_row_by_row():
    (x,) = normals(0, (3, 2))
    rows = list(Tensor(x))
    assert len(rows) == 3 and np.array_equal([row.numpy() for row in rows], x)
    with pytest.raises(TypeError, match="without dimensions"):
        iter(Tensor(1.0))


@examples(40)
@given(st.lists(SIDES, min_size=1, max_size=4), st.lists(SIDES, min_size=1, max_size=4), st.data(), SEEDS)
def test_concatenate(shape, counts, data, seed):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    shapes = []
    for count in counts:
        shapes.append(list(shape))
        shapes[-1][axis] = count
    arrays = normals(seed, *map(tuple, shapes))
    check(lambda *arrays: f.concatenate(arrays, axis) * 2, *arrays)
    assert np.array_equal(f.concatenate(arrays, axis).numpy(), np.concatenate(arrays, axis))


def test_concatenate_a_tensor_with_itself_and_constants():
    x, constant = normals(0, (2, 3), (1, 3))
    check(lambda x: f.concatenate([x, constant, x * x, x]), x)
    whole = f.concatenate(iter([np.arange(2), np.arange(3)]))
    assert whole.dtype.kind == "i" and whole.numpy().tolist() == [0, 1, 0, 1, 2]
