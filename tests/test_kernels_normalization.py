"""Kernels of batch norm and PReLU against the reference."""

import numpy as np
import pytest
from hypothesis import given
from kernel_contract import both_dtypes, reading, verify

from octsod.testing import strategies

pytestmark = pytest.mark.usefixtures("poisoned_scratch")


@both_dtypes
@given(case=strategies.maps())
def test_activate(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, reading(case, case.shape))
        kernels.activate(x, arena.output("out", case.shape))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.maps())
def test_differentiate(dtype, case):
    def launch(kernels, arena):
        kernels.differentiate(arena.gradient(case.shape, case.x.deferred), arena.output("out", case.shape))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.maps())
def test_channel_moments(dtype, case):
    def launch(kernels, arena):
        kernels.channel_moments(arena.normal(*case.shape), arena.moments("moments", case.shape))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.maps())
def test_gradient_sums(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        sums = arena.output("sums", (case.shape[0], 3, case.shape[1]), np.float64)
        kernels.gradient_sums(arena.normal(*case.shape), x, sums)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.statistics())
def test_batch_statistics(dtype, case):
    def launch(kernels, arena):
        # Moments of real numbers about any reference, so that the variance is not negative.
        values = arena.rng.standard_normal((case.batch, case.pixels, case.channels))
        about = arena.rng.standard_normal((case.batch, case.channels))
        values -= about[:, None]
        moments = np.stack([about, values.sum(axis=1), (values**2).sum(axis=1)], axis=1)
        mean, variance = (arena.output(name, (case.channels,), np.float64) for name in ("mean", "variance"))
        running = [
            arena.output(name, None, values=arena.rng.uniform(0, 1, case.channels))
            for name in ("running_mean", "running_var")
        ]
        kernels.batch_statistics(arena.array(moments, np.float64), case.pixels, 0.1, mean, variance, *running)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.statistics())
def test_batch_norm_coefficients(dtype, case):
    n = case.channels

    def launch(kernels, arena):
        mean, variance = (arena.array(arena.rng.uniform(0, 2, n), np.float64) for _ in range(2))
        weight, bias, slope = (arena.normal(n) for _ in range(3))
        kernels.batch_norm_coefficients(mean, variance, 1e-5, weight, bias, slope, arena.output("out", (4, n)))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.statistics())
def test_batch_norm_backward(dtype, case):
    n = case.channels

    def launch(kernels, arena):
        sums = arena.array(arena.rng.standard_normal((case.batch, 3, n)), np.float64)
        mean, variance = (arena.array(arena.rng.uniform(0.1, 2, n), np.float64) for _ in range(2))
        vectors = [arena.normal(n) for _ in range(3)]
        out = arena.output("out", (6, n))
        grads = [arena.output(name, (n,)) for name in ("grad_weight", "grad_bias", "grad_slope")]
        count = case.batch * case.pixels
        kernels.batch_norm_backward(sums, count, case.training, mean, variance, 1e-5, *vectors, out, *grads)

    verify(dtype, case.seed, launch)
