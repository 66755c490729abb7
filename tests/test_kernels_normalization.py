"""Kernels of batch norm and PReLU against the reference."""

import numpy as np
import pytest
from hypothesis import given
from kernel_contract import BACKENDS, both_dtypes, reading, reference, verify

from octsod.backend.deferred import Deferred
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
@given(case=strategies.norms())
def test_batch_norm(dtype, case):
    def launch(kernels, arena):
        rows = []
        for i, (images, channels, pixels, training, kept, wide) in enumerate(case.maps):
            moments = None
            if training:
                # Moments of real numbers about any reference, so that the variance is not negative.
                values = arena.rng.standard_normal((images, pixels, channels))
                about = arena.rng.standard_normal((images, channels))
                values -= about[:, None]
                moments = np.stack([about, values.sum(axis=1), (values**2).sum(axis=1)], axis=1)
                moments = arena.array(moments, np.float64)
            running = [
                arena.output(f"{name} {i}", None, np.float64 if wide else None, arena.rng.uniform(0, 1, channels))
                if own or not training else None
                for name, own in zip(("running mean", "running variance"), kept, strict=True)
            ]  # fmt: skip
            parameters = [arena.normal(channels) for _ in range(3)]
            statistics = arena.output(f"statistics {i}", (2, channels), np.float64)
            coefficients = arena.output(f"coefficients {i}", (4, channels))
            settings = pixels, 0.1 + 0.05 * i, 10.0 ** (i - 5)
            rows.append((moments, *settings, parameters, running, statistics, coefficients))
        kernels.batch_norm(*zip(*rows, strict=True))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.norms())
def test_batch_norm_backward(dtype, case):
    def launch(kernels, arena):
        rows = []
        for i, (images, channels, pixels, training, _, _) in enumerate(case.maps):
            sums = arena.array(arena.rng.standard_normal((images, 3, channels)), np.float64)
            statistics = arena.array(arena.rng.uniform(0.1, 2, (2, channels)), np.float64)
            parameters = [arena.normal(channels) for _ in range(3)]
            coefficients = arena.output(f"coefficients {i}", (6, channels))
            gradients = [arena.output(f"{name} {i}", (channels,)) for name in ("weight", "bias", "slope")]
            settings = images * pixels, training, 10.0 ** (i - 5)
            rows.append((sums, *settings, parameters, statistics, coefficients, gradients))
        kernels.batch_norm_backward(*zip(*rows, strict=True))

    verify(dtype, case.seed, launch)


@both_dtypes
def test_no_maps_and_no_channels(dtype):
    """Nothing to do is no error."""

    def launch(kernels, arena):
        kernels.batch_norm(*[[]] * 8)
        kernels.batch_norm_backward(*[[]] * 8)
        none = [arena.normal(0) for _ in range(3)]
        statistics, coefficients = arena.output("statistics", (2, 0), np.float64), arena.output("coefficients", (4, 0))
        moments = arena.array(np.zeros((2, 3, 0)), np.float64)
        kernels.batch_norm([moments], [6], [0.1], [1e-5], [none], [(None, None)], [statistics], [coefficients])

    verify(dtype, 0, launch)


@pytest.mark.parametrize("kernels", [*BACKENDS, reference])
def test_prelu_alone(kernels):
    slope, sums = np.array([0.25, -0.5, 0.0, 1.5]), np.random.default_rng(0).standard_normal((2, 3, 4))
    coefficients, by, grad_slope = np.empty((4, 4)), np.empty((6, 4)), np.empty(4)
    kernels.prelu_coefficients(slope, coefficients)
    one, zero = [1] * 4, [0] * 4
    assert coefficients.tolist() == [one, zero, slope.tolist(), zero]
    kernels.prelu_backward(sums, slope, by, grad_slope)
    assert by.tolist() == [one, zero, slope.tolist(), one, zero, zero]
    assert np.allclose(grad_slope, sums[:, 2].sum(axis=0))
    by[...] = np.nan
    kernels.prelu_backward(sums, slope, by, None)
    assert by.tolist() == [one, zero, slope.tolist(), one, zero, zero]


@pytest.mark.parametrize("kernels", [*BACKENDS, reference])
def test_sums_over_large_planes_keep_their_last_digits(kernels):
    """A float32 has no room for what is added up here, of numbers of twelve binary places."""
    rng, shape = np.random.default_rng(0), (1, 2, 150, 200)
    x, g = (rng.integers(0, 1 << 13, shape).astype(np.float32) / (1 << 12) for _ in range(2))
    exact = g.astype(np.float64).sum(axis=(2, 3))
    identity = np.repeat(np.float32([[1], [0], [1], [0]]), shape[1], axis=1)
    sums = np.empty((1, 3, 2))
    kernels.gradient_sums(g, Deferred(x, identity), sums)
    assert sums[:, 0].tolist() == exact.tolist() and (np.float32(exact) != exact).any()
