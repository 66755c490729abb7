"""Kernels that pool and resize against the reference."""

import numpy as np
import pytest
from hypothesis import example, given
from kernel_contract import both_dtypes, hosts_only, verify

from octsod.testing import strategies
from octsod.testing.strategies import ResizingCase

pytestmark = pytest.mark.usefixtures("poisoned_scratch")


@both_dtypes
@given(case=strategies.poolings())
def test_max_pool2d(dtype, case):
    def launch(kernels, arena):
        kernels.max_pool2d(arena.map(case.shape), arena.output("out", case.out_shape), *case.settings)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.poolings())
def test_max_pool2d_backward(dtype, case):
    def launch(kernels, arena):
        grad, x, grad_x = arena.normal(*case.out_shape), arena.map(case.shape), arena.output("grad_x", case.shape)
        kernels.max_pool2d_backward(grad, x, grad_x, *case.settings)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.poolings())
def test_avg_pool2d(dtype, case):
    def launch(kernels, arena):
        kernels.avg_pool2d(arena.normal(*case.shape), arena.output("out", case.out_shape), *case.settings)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.poolings())
def test_avg_pool2d_backward(dtype, case):
    def launch(kernels, arena):
        grad, grad_x = arena.normal(*case.out_shape), arena.output("grad_x", case.shape)
        kernels.avg_pool2d_backward(grad, grad_x, *case.settings)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.resizings())
def test_upsample_bilinear(dtype, case):
    def launch(kernels, arena):
        x = arena.normal(*case.shape)
        kernels.upsample_bilinear(x, arena.output("out", (*case.shape[:2], *case.size)))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.resizings())
@example(case=ResizingCase((1, 2, 1, 3), (3, 201), 0))  # a pixel has a share in more columns than a warp has threads
@example(case=ResizingCase((1, 1, 363, 362), (363, 362), 0))  # more pixels than a GPU has threads at once
def test_upsample_bilinear_backward(dtype, case):
    def launch(kernels, arena):
        grad = arena.normal(*case.shape[:2], *case.size)
        kernels.upsample_bilinear_backward(grad, arena.output("grad_x", case.shape))

    verify(dtype, case.seed, launch)


@hosts_only
@pytest.mark.parametrize("kind", ["uint8", "float32"])
@given(case=strategies.resizings())
def test_resize_picture(kind, case):
    channels, height, width = case.shape[1:]

    def launch(kernels, arena):
        values = arena.rng.integers(0, 256, (height, width, channels))
        picture = values.astype(np.uint8) if kind == "uint8" else arena.array(values)
        scale, shift = arena.normal(channels), arena.normal(channels)
        kernels.resize_picture(picture, scale, shift, arena.output("out", (channels, *case.size)))

    verify("float32", case.seed, launch)
