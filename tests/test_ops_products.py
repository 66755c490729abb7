"""Products of matrices and the linear layer: gradients, and values against NumPy."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from op_checks import SEEDS, check, examples, normals

from octsod import Tensor
from octsod import functional as f

SIDES = st.sampled_from([1, 2, 3, 5, 8, 0])


@st.composite
def operands(draw):
    """Two shapes that can be multiplied: vectors, matrices, and leading axes that broadcast."""
    depth, full = draw(SIDES), draw(st.lists(st.sampled_from([1, 2, 3, 0]), max_size=2))
    shapes = []
    for vector, matrix in (((depth,), (draw(SIDES), depth)), ((depth,), (depth, draw(SIDES)))):
        leading = [draw(st.sampled_from([n, n, 1])) for n in full][draw(st.integers(0, len(full))) :]
        shapes.append(draw(st.sampled_from([vector, matrix, (*leading, *matrix), (*leading, *matrix)])))
    return shapes


@examples(100)
@given(operands(), SEEDS)
@example([(2, 1, 3, 4), (5, 4, 2)], 0)
@example([(2, 3, 4), (4, 5)], 0)
@example([(2, 3, 4), (1, 1, 4, 5)], 0)
@example([(4,), (4,)], 0)
@example([(4,), (2, 4, 3)], 0)
@example([(2, 3, 4), (4,)], 0)
@example([(1, 3, 4), (2, 4, 5)], 0)
@example([(3, 0), (0, 4)], 0)
@example([(0, 3, 2), (2, 2)], 0)
def test_matmul(shapes, seed):
    a, b = normals(seed, *shapes)
    got, expected = f.matmul(a, b), a @ b
    assert got.shape == expected.shape and np.allclose(got.numpy(), expected, rtol=1e-12, atol=1e-12)
    check(f.matmul, a, b)


def test_large_matrices():
    a, b = normals(0, (150, 90), (90, 1100))
    assert np.allclose(f.matmul(a, b).numpy(), a @ b, rtol=1e-12, atol=1e-12)
    single = f.matmul(a.astype(np.float32), b.astype(np.float32))
    assert single.dtype == np.float32 and np.allclose(single.numpy(), a @ b, atol=1e-4)


def test_operators_and_inputs_used_twice():
    a, b = normals(0, (3, 4), (4, 2))
    assert np.array_equal((Tensor(a) @ b).numpy(), (a @ Tensor(b)).numpy())
    check(lambda a: a @ a.T, a)
    check(lambda a: a.T @ a * 2 + (a @ b).sum(), a)
    check(lambda a: f.matmul(a, a), normals(1, (2, 3, 3))[0])
    check(lambda a: a @ a, a[0])


@examples(40)
@given(SIDES, SIDES, SIDES, st.booleans(), SEEDS)
def test_linear(images, ins, outs, with_bias, seed):
    x, weight, bias = normals(seed, (images, ins), (outs, ins), (outs,) if with_bias else None)
    got, expected = f.linear(x, weight, bias), x @ weight.T + (bias if with_bias else 0)
    assert got.shape == expected.shape and np.allclose(got.numpy(), expected, rtol=1e-12, atol=1e-12)
    check(f.linear, x, weight, bias)


def test_linear_with_an_input_used_twice():
    (x,) = normals(0, (3, 3))
    check(lambda x: f.linear(x, x, x[0]) + x, x)
    check(lambda x: f.linear(f.linear(x, x), x), x)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_only_the_gradients_that_are_wanted(wanted):
    arrays = normals(0, (3, 4), (2, 4), (2,))
    tensors = [Tensor(a, requires_grad=i == wanted) for i, a in enumerate(arrays)]
    f.linear(*tensors).sum().backward()
    assert [t.grad is not None for t in tensors] == [i == wanted for i in range(3)]
    if wanted < 2:
        tensors = [Tensor(a, requires_grad=i == wanted) for i, a in enumerate((arrays[0], arrays[1].T))]
        f.matmul(*tensors).sum().backward()
        assert [t.grad is not None for t in tensors] == [i == wanted for i in range(2)]
