"""Numbers that kernels find hard to get right: small variances, subnormal numbers, NaN."""

import numpy as np
import pytest
from hypothesis import given
from kernel_contract import BACKENDS, both_dtypes, cpu, reference, verify

import octsod
from octsod.backend.deferred import Deferred
from octsod.testing import strategies

pytestmark = pytest.mark.usefixtures("poisoned_scratch")


def statistics_of(kernels, moments, pixels):
    """(mean, variance) of a batch."""
    channels = moments.shape[2]
    ones, statistics = np.ones(channels), np.empty((2, channels))
    coefficients = np.empty((4, channels))
    kernels.batch_norm(
        [moments], [pixels], [0.1], [1e-5], [(ones, ones, ones)], [(None, None)], [statistics], [coefficients]
    )
    return statistics


def assert_statistics(kernels, x, moments):
    """moments are those of the array x, small variance beside a large mean and all."""
    mean, variance = statistics_of(kernels, moments, x.shape[2] * x.shape[3])
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(variance, exact.var(axis=(0, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize("kernels", [*BACKENDS, reference])
@pytest.mark.parametrize("shape", [
    (2, 3, 150, 200), (3, 5, 7, 9),
    (2, 3, 4, 193),  # where it is cut into tiles, some of them have a single column
])  # fmt: skip
def test_small_variance_beside_a_large_mean(kernels, shape):
    """In float32, mean 1e4 and standard deviation 1e-2: E[x^2] - E[x]^2 would be noise."""
    rng = np.random.default_rng(1)
    small = (0.01 * rng.standard_normal(shape)).astype(np.float32)
    batch, channels, *size = shape
    x = small + np.float32(1e4)
    moments = np.full((batch, 3, channels), np.nan)
    kernels.channel_moments(x, moments)
    assert_statistics(kernels, x, moments)

    # The same from the convolutions, which gather moments while they write.
    coefficients = np.repeat(np.float32([[1], [1e4], [1], [0]]), channels, axis=1)
    deferred = Deferred(small, coefficients)
    unit = np.eye(channels, dtype=np.float32)[:, :, None, None]
    out = np.empty_like(x)
    kernels.conv2d(deferred, unit, None, out, 1, 0, 1, moments)
    assert_statistics(kernels, out, moments)
    kernels.dilated_conv2d(deferred, [unit], [1], out, moments)
    assert_statistics(kernels, out, moments)
    kernels.octave_conv2d([deferred], unit, [out], 1, [moments])
    assert_statistics(kernels, out, moments)
    kernels.depthwise_conv2d(deferred, np.ones((channels, 1, 1, 1), np.float32), out, 1, 0, 1, moments)
    assert_statistics(kernels, out, moments)
    middle = np.zeros((channels, 1, 3, 3), np.float32)
    middle[:, :, 1, 1] = 1
    out = np.empty((batch, channels, size[0] - 2, size[1] - 2), np.float32)
    kernels.depthwise_conv2d(deferred, middle, out, 1, 0, 1, moments)
    assert_statistics(kernels, out, moments)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [5, 100_000])
def test_subnormals_are_flushed_in_kernels_only(threads, size):
    """In every thread of the kernel, and no longer than it runs: a loop over subnormals is a hundred times slower."""
    octsod.set_num_threads(threads)
    tiny, out = np.full(size, 1e-20, np.float32), np.full(size, np.nan, np.float32)
    for _ in range(3):
        cpu.multiply(tiny, tiny, out)
        assert not out.any()
        assert (tiny * tiny).all()


def with_nans(arena, array):
    """Some entries of an input are NaN."""
    array[arena.rng.random(array.shape) < 0.03] = np.nan
    arena.inputs = [(a, a.copy()) for a, _ in arena.inputs]
    return array


@both_dtypes
@given(case=strategies.maps())
def test_nan_passes_through_activate(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        with_nans(arena, x.raw)
        out = arena.output("out", case.shape)
        kernels.activate(x, out)
        assert np.array_equal(np.isnan(out), np.isnan(x.raw))

    verify(dtype, case.seed, launch, nans=True)


@both_dtypes
@given(case=strategies.poolings())
def test_nan_passes_through_max_pool2d(dtype, case):
    def launch(kernels, arena):
        x, grad = with_nans(arena, arena.map(case.shape)), arena.normal(*case.out_shape)
        kernels.max_pool2d(x, arena.output("out", case.out_shape), *case.settings)
        kernels.max_pool2d_backward(grad, x, arena.output("grad_x", case.shape), *case.settings)

    verify(dtype, case.seed, launch, nans=True)


@both_dtypes
@given(case=strategies.octaves())
def test_nan_passes_through_octave_conv2d(dtype, case):
    """To the pixels that depend on it, through all resampling, and to no other."""

    def launch(kernels, arena):
        inputs = [
            shape and arena.deferred(f"x{i}", shape, strategies.Reading(r.deferred, False))
            for i, (shape, r) in enumerate(zip(case.in_shapes, case.xs, strict=True))
        ]
        for x in inputs:
            if x is not None and x.raw.size:
                x.raw[tuple(arena.rng.integers(x.shape))] = np.nan
        arena.inputs = [(a, a.copy()) for a, _ in arena.inputs]
        weight = arena.normal(*case.weight_shape)
        outputs = [shape and arena.output(f"out{j}", shape) for j, shape in enumerate(case.out_shapes)]
        kernels.octave_conv2d(inputs, weight, outputs, case.stride)

    verify(dtype, case.seed, launch, nans=True)


@both_dtypes
@given(case=strategies.convolutions(depthwise=True))
def test_nan_passes_through_depthwise_conv2d(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        with_nans(arena, x.raw)
        weight = arena.normal(case.outs, 1, *case.kernel_size)
        kernels.depthwise_conv2d(x, weight, arena.output("out", case.out_shape), *case.settings)

    verify(dtype, case.seed, launch, nans=True)


@both_dtypes
@given(case=strategies.convolutions())
def test_nan_passes_through_conv2d(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        with_nans(arena, x.raw)
        weight = arena.normal(case.outs, case.shape[1], *case.kernel_size)
        kernels.conv2d(x, weight, None, arena.output("out", case.out_shape), *case.settings)

    verify(dtype, case.seed, launch, nans=True)


EDGES = {"float32": (104.0, 1e-40), "float64": (745.0, 1e-310)}  # exp(-edge) is subnormal; a subnormal number


@both_dtypes
def test_functions_at_their_limits(dtype):
    edge, subnormal = EDGES[dtype]
    values = [-np.inf, -1.0, -0.0, 0.0, np.inf, np.nan, edge, -edge / 1.02, -edge, -2 * edge, subnormal, 1.0]
    x, tiny = np.array(values, dtype), np.finfo(dtype).tiny
    for kernels in (*BACKENDS, reference):
        results = {}
        for name in ("exp", "log", "sqrt", "relu"):
            results[name] = np.full(len(x), 7, dtype)
            getattr(kernels, name)(x, results[name])
        exp, log, sqrt, relu = results.values()
        with np.errstate(all="ignore"):
            expected = np.exp(x.astype(np.float64)).astype(dtype)
        expected[np.abs(expected) < tiny] = 0
        # Only the CPU's are held to it: the reference and the simulator keep subnormal numbers.
        np.testing.assert_allclose(exp if kernels is cpu else np.where(exp < tiny, 0, exp), expected, rtol=1e-6)
        np.testing.assert_array_equal(np.isnan(log), [1, 1, 0, 0, 0, 1, 0, 1, 1, 1, 0, 0])
        assert (log[[2, 3, 10]] == -np.inf).all() and log[4] == np.inf and log[11] == 0
        np.testing.assert_array_equal(np.isnan(sqrt), [1, 1, 0, 0, 0, 1, 0, 1, 1, 1, 0, 0])
        np.testing.assert_array_equal(relu[:10], [0, 0, 0, 0, np.inf, np.nan, edge, 0, 0, 0])
        grad = np.full(len(x), 7, dtype)
        kernels.relu_backward(np.ones(len(x), dtype), x, grad)
        np.testing.assert_array_equal(grad[:10], [0, 0, 0, 0, 1, 1, 1, 0, 0, 0])


@both_dtypes
@given(case=strategies.middles())
def test_nan_passes_through_max_middle(dtype, case):
    """And has the gradient: the first one of several."""
    outer, _, inner = case.shape

    def launch(kernels, arena):
        x, grad = with_nans(arena, arena.array(arena.steps(*case.shape))), arena.normal(outer, inner)
        kernels.max_middle(x, arena.output("out", (outer, inner)))
        kernels.max_middle_backward(grad, x, arena.output("grad_x", case.shape))

    verify(dtype, case.seed, launch, nans=True)


@both_dtypes
@given(case=strategies.middles())
def test_nan_passes_through_log_softmax(dtype, case):
    def launch(kernels, arena):
        x, out = with_nans(arena, arena.normal(*case.shape)), arena.output("out", case.shape)
        kernels.log_softmax(x, out)
        assert np.array_equal(np.isnan(out), np.isnan(x).any(axis=1, keepdims=True) & np.ones(x.shape, bool))

    verify(dtype, case.seed, launch, nans=True)


@both_dtypes
@given(case=strategies.matmuls())
def test_nan_passes_through_matmul(dtype, case):
    """To its row and its column, and to no other."""

    def launch(kernels, arena):
        a, b = (with_nans(arena, arena.normal(*shape)) for shape in (case.a_shape, case.b_shape))
        kernels.matmul(a, b, arena.output("out", case.out_shape), case.transpose_a, case.transpose_b)

    verify(dtype, case.seed, launch, nans=True)


@both_dtypes
def test_a_label_that_is_out_of_range_makes_its_row_nan(dtype):
    """On any device, and nothing is read there."""
    logits, grad_logits = np.zeros((4, 3), dtype), np.zeros((4, 3), dtype)
    labels, loss = np.array([0, 3, -1, 2]), np.zeros((), dtype)
    for kernels in (*BACKENDS, reference):
        kernels.cross_entropy(logits, labels, 0.1, loss)
        kernels.cross_entropy_backward(np.ones((), dtype), logits, labels, 0.1, grad_logits)
        assert np.isnan(loss) and np.isnan(grad_logits).all(axis=1).tolist() == [False, True, True, False]
        assert not np.isnan(grad_logits[[0, 3]]).any()
