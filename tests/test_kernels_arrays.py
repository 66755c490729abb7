"""Kernels that fill arrays, copy them, take them apart, turn them and put them together, and products of matrices,
against the reference."""

import numpy as np
import pytest
from hypothesis import example, given
from kernel_contract import BACKENDS, both_dtypes, reference, verify

from octsod.backend.arrays import NUMBERS
from octsod.testing import strategies
from octsod.testing.strategies import MatmulCase, TransposeCase

pytestmark = pytest.mark.usefixtures("poisoned_scratch")
every_backend = pytest.mark.parametrize("kernels", [*BACKENDS, reference])


@both_dtypes
@given(case=strategies.transposes())
@example(case=TransposeCase((3, 40, 7, 9), (0, 2, 3, 1), 0))  # beyond a tile that is turned at once
@example(case=TransposeCase((2, 1, 2, 3, 2, 1, 2, 1, 2, 1, 3), (10, 8, 6, 4, 2, 0, 1, 3, 5, 7, 9), 0))
def test_transpose(dtype, case):
    def launch(kernels, arena):
        out = arena.output("out", tuple(case.shape[i] for i in case.axes))
        kernels.transpose(arena.normal(*case.shape), case.axes, out)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.slices())
def test_strided_slice(dtype, case):
    def launch(kernels, arena):
        x, values = arena.normal(*case.shape), arena.rng.standard_normal(case.counts)
        values.reshape(-1)[:1] = -0.0  # keeps its sign
        grad = arena.array(values)
        out, grad_x = arena.output("out", case.counts), arena.output("grad_x", case.shape)
        kernels.strided_slice(x, case.starts, case.steps, out)
        kernels.strided_slice_backward(grad, case.starts, case.steps, grad_x)
        for place in np.ndindex(*case.counts):
            source = tuple(a + i * c for a, i, c in zip(case.starts, place, case.steps, strict=True))
            assert out[place] == x[source] and grad_x[source].tobytes() == grad[place].tobytes()
        assert np.count_nonzero(grad_x) == np.count_nonzero(grad)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.concatenations())
def test_concatenate(dtype, case):
    def launch(kernels, arena):
        arrays = [arena.normal(case.outer, n, case.inner) for n in case.counts]
        kernels.concatenate(arrays, arena.output("out", (case.outer, sum(case.counts), case.inner)))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.matmuls())
@example(case=MatmulCase(2, 97, 64, 1300, False, False, 0))
@example(case=MatmulCase(2, 97, 64, 1300, True, True, 0))
@example(case=MatmulCase(3, 50, 5, 1, False, True, 0))  # a column is narrower than a vector
def test_matmul(dtype, case):
    def launch(kernels, arena):
        a, b = arena.normal(*case.a_shape), arena.normal(*case.b_shape)
        kernels.matmul(a, b, arena.output("out", case.out_shape), case.transpose_a, case.transpose_b)

    verify(dtype, case.seed, launch)


@every_backend
def test_copies_are_broadcast(kernels):
    out = np.empty((2, 3))
    kernels.copy(np.array([1.0, 2.0, 3.0]), out)
    assert out.tolist() == [[1, 2, 3], [1, 2, 3]]
    kernels.copy(np.array(4.0), out)
    assert (out == 4).all()


@every_backend
@pytest.mark.parametrize("dtype", [str(dtype) for dtype in NUMBERS])
def test_fill(kernels, dtype):
    around = np.zeros(12, dtype)
    for part, value in ((around[1:11].reshape(2, 5), 5), (around[4:4], 7), (around[3:4].reshape(()), 1)):
        kernels.fill(part, value)
    assert np.array_equal(around, np.array([0, 5, 5, 1, *[5] * 7, 0]).astype(dtype))


@every_backend
@pytest.mark.parametrize("dtype", [str(dtype) for dtype in NUMBERS])
def test_copies_are_converted(kernels, dtype):
    values = np.array([[0, 1, 0, 3, 250]])
    for other in NUMBERS:
        if np.can_cast(dtype, other, "same_kind"):
            x, out = values.astype(dtype), np.zeros((2, 5), other)
            kernels.copy(x, out)
            assert np.array_equal(out, [x[0].astype(other)] * 2), other
            together = np.zeros(11, other)
            kernels.gather([x, x.reshape(-1)[:0], x[0, :1], x[0]], together)
            assert np.array_equal(together, np.concatenate([x[0], x[0, :1], x[0]]).astype(other)), other


@every_backend
def test_large_integers_are_copied_exactly(kernels):
    for dtype, number in (("int64", -(2**62) - 1), ("uint64", 2**63 + 1)):
        out, wide = np.zeros(1, dtype), np.zeros(1)
        kernels.copy(np.array([number], dtype), out)
        kernels.copy(out, wide)
        assert out[0] == number and wide[0] == float(number)
    together = np.zeros(4, np.uint64)
    kernels.gather([np.array([2.0**63 - 1024, 2.0**63, 2.0**64 - 2048, 7.75])], together)
    assert together.tolist() == [2**63 - 1024, 2**63, 2**64 - 2048, 7]
