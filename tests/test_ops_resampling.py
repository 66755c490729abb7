"""Pooling and upsampling: gradients, and values against NumPy."""

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st
from op_checks import BATCHES, CHANNELS, MAPS, SEEDS, SIDES, check, examples, normals

from octsod import functional as f


@st.composite
def poolings(draw):
    k, channels = draw(st.integers(1, 4)), draw(CHANNELS)
    padding = draw(st.integers(0, k // 2))
    sides = SIDES.filter(lambda n: n + 2 * padding >= k)
    shape = draw(BATCHES), channels, draw(sides), draw(sides)
    return shape, (k, draw(st.none() | st.integers(1, 3)), padding), draw(SEEDS)


@examples(25)
@given(poolings(), st.booleans())
@example(((1, 1, 4, 6), (2, None, 0), 0), True)
def test_max_pool2d(case, ties):
    shape, arguments, seed = case
    (x,) = normals(seed, shape)
    if ties:  # a few, far apart
        x.reshape(-1)[:: max(x.size // 3, 1)] = 2.5
        x.reshape(-1)[1 :: max(x.size // 3, 2)] = 2.5
    if ties and x.size < 20:
        return  # not enough is left to check
    check(lambda x: f.max_pool2d(x, *arguments), x)


@examples(20)
@given(poolings())
def test_avg_pool2d(case):
    shape, arguments, seed = case
    check(lambda x: f.avg_pool2d(x, *arguments), *normals(seed, shape))


@examples(30)
@given(poolings())
def test_pooling_is_what_it_says(case):
    shape, (k, stride, padding), seed = case
    (x,) = normals(seed, shape)
    for op, fill, reduce in ((f.max_pool2d, -np.inf, np.max), (f.avg_pool2d, 0, np.mean)):
        padded = np.pad(x, ((0, 0), (0, 0), (padding, padding), (padding, padding)), constant_values=fill)
        windows = np.lib.stride_tricks.sliding_window_view(padded, (k, k), axis=(2, 3))
        expected = reduce(windows[:, :, :: stride or k, :: stride or k], axis=(4, 5))
        got = op(x, k, stride, padding).numpy()
        assert got.shape == expected.shape and np.allclose(got, expected, rtol=1e-12, atol=1e-12)


@examples(20)
@given(MAPS, st.tuples(SIDES, SIDES) | SIDES, SEEDS)
@example((1, 2, 1, 1), (5, 3), 0)
@example((1, 2, 9, 7), (1, 1), 0)
@example((2, 2, 3, 4), 5, 0)
def test_upsample_bilinear(shape, size, seed):
    (x,) = normals(seed, shape)
    check(lambda x: f.upsample_bilinear(x, size), x)
    check(lambda x: f.upsample_bilinear(x, shape[2:]), x)


def test_upsample_bilinear_by_a_factor():
    (x,) = normals(0, (1, 2, 3, 4))
    for factor in (1, 2, 3):
        size = 3 * factor, 4 * factor
        check(lambda x, factor=factor: f.upsample_bilinear(x, scale_factor=factor), x)
        assert np.array_equal(f.upsample_bilinear(x, scale_factor=factor).numpy(), f.upsample_bilinear(x, size).numpy())
    assert np.array_equal(f.upsample_bilinear(x, scale_factor=1).numpy(), x)
    assert np.array_equal(f.upsample_bilinear(x, np.int64(5)).numpy(), f.upsample_bilinear(x, 5).numpy())


@examples(20)
@given(MAPS, SEEDS)
@example((0, 2, 3, 4), 0)
def test_global_average_pool(shape, seed):
    (x,) = normals(seed, shape)
    got, expected = f.global_average_pool(x), x.mean(axis=(2, 3))
    assert got.shape == expected.shape and np.allclose(got.numpy(), expected, rtol=1e-12, atol=1e-14)
    check(f.global_average_pool, x)


def test_global_average_pool_of_a_deferred_map():
    x, gamma, beta = normals(0, (2, 3, 4, 5), (3,), (3,))

    def pooled(x, gamma, beta):
        y = f.batch_norm_prelu(x, None, None, gamma, beta, np.full(3, 0.25))
        return f.global_average_pool(y) + f.global_average_pool(y * y)

    check(pooled, x, gamma, beta)


def test_global_average_pool_adds_up_in_float64():
    """In float32, a million ones and a half would be a million ones and no half, or several."""
    x = np.ones((1, 1, 1000, 1000), np.float32)
    x[0, 0, 0, :500] += np.float32(2**-10)
    assert f.global_average_pool(x).item() == np.float32(x.astype(np.float64).mean())
