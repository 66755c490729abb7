"""Kernels that take arrays apart, turn them and put them together, and products of matrices, against the reference."""

import numpy as np
import pytest
from hypothesis import example, given
from kernel_contract import both_dtypes, verify

from octsod.testing import strategies
from octsod.testing.strategies import MatmulCase, TransposeCase

pytestmark = pytest.mark.usefixtures("poisoned_scratch")


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
        x, grad = arena.normal(*case.shape), arena.normal(*case.counts)
        out, grad_x = arena.output("out", case.counts), arena.output("grad_x", case.shape)
        kernels.strided_slice(x, case.starts, case.steps, out)
        kernels.strided_slice_backward(grad, case.starts, case.steps, grad_x)
        for place in np.ndindex(*case.counts):
            source = tuple(a + i * c for a, i, c in zip(case.starts, place, case.steps, strict=True))
            assert out[place] == x[source] and grad_x[source] == grad[place]
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
