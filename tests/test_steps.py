"""Steps that programs are made of, each by itself: what they write, and that they write nothing else."""

import importlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

scales, inference_steps, products, regions = (
    importlib.import_module(f"octsod.kernels.cpu.{name}")
    for name in ("scales", "inference_steps", "products", "regions")
)
Region, Table, Weights = regions.Region, regions.Table, regions.Weights
TOLERANCE = {"float32": 2e-5, "float64": 1e-12}
MARGIN = 96  # elements around and behind what a step may read: more than a tile

both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
SEEDS = st.integers(0, 2**32 - 1)


def places(start, stride, pitch, channels, rows, cols):
    """Indices (channels, rows, cols) of a region of a flat array."""
    c, y, x = np.ogrid[:channels, :rows, :cols]
    return start + c * stride + y * pitch + x


def assert_written(array, before, where, expected, dtype):
    """`array` holds `expected` at the indices `where`, and elsewhere what it held `before`."""
    scale = max(np.abs(expected).max(), 1)
    assert np.abs(array[where] - expected).max() <= TOLERANCE[dtype] * scale
    rest = np.ones(array.size, bool)
    rest[where] = False
    assert np.array_equal(array[rest], before[rest], equal_nan=True)


@both_dtypes
@given(rows=st.integers(1, 14), depth=st.integers(0, 7), count=st.integers(1, 150), finished=st.booleans(), seed=SEEDS)
def test_product(dtype, rows, depth, count, finished, seed):
    rng = np.random.default_rng(seed)
    table = np.append(rng.integers(0, MARGIN, depth), 0)
    x = rng.standard_normal(count + 2 * MARGIN).astype(dtype)
    weight = rng.standard_normal(depth * rows + 3 * rows).astype(dtype)
    y = np.full((rows + 2) * 200, np.nan, dtype)
    before = y.copy()
    weights = Weights(weight, 0, rows, depth * rows if finished else regions.UNFINISHED)
    inference_steps.product(Region(y, 130, 200, 0), rows, weights, Region(x, 0, 0, 0), Table(table, 0, depth), count)
    shifted = np.array([x[at : at + count] for at in table[:depth]], float).reshape(depth, count)
    expected = weight[: depth * rows].reshape(depth, rows).T.astype(float) @ shifted
    if finished:
        scale, shift, slope = weight[depth * rows :].reshape(3, rows, 1)
        expected = expected * scale + shift
        expected = np.where(expected > 0, expected, slope * expected)
    assert_written(y, before, places(130, 200, 0, rows, 1, count), expected[:, None], dtype)


@both_dtypes
@given(
    channels=st.integers(1, 3), rows=st.integers(1, 5), cols=st.integers(1, 40), gap=st.integers(1, 20), seed=SEEDS
)
def test_depthwise(dtype, channels, rows, cols, gap, seed):
    """It reads one row and column more on each side, and leaves zeros behind its rows."""
    rng = np.random.default_rng(seed)
    pitch = cols + gap
    stride = (rows + 2) * pitch + MARGIN
    x = rng.standard_normal(channels * stride + MARGIN).astype(dtype)
    weight = rng.standard_normal(12 * channels).astype(dtype)
    y = np.full(channels * stride + MARGIN, np.nan, dtype)
    before = y.copy()
    inference_steps.depthwise(
        Region(x, 1 + pitch, stride, pitch), Region(y, 8, stride, pitch), Weights(weight, 0, channels, 9 * channels),
        regions.Extent(channels, rows, cols),
    )  # fmt: skip
    inputs = x[places(0, stride, pitch, channels, rows + 2, cols + 2)].astype(float)
    expected = np.zeros((channels, rows, pitch))
    for k in range(9):
        tap = weight[: 9 * channels].reshape(channels, 9, 1, 1)[:, k]
        expected[:, :, :cols] += tap * inputs[:, k // 3 : k // 3 + rows, k % 3 : k % 3 + cols]
    scale, shift, slope = weight[9 * channels :].reshape(3, channels, 1, 1)
    expected = expected * scale + shift
    expected = np.where(expected > 0, expected, slope * expected)
    expected[:, :, cols:] = 0
    assert_written(y, before, places(8, stride, pitch, channels, rows, pitch), expected, dtype)


def interpolation(size, factor):
    """The matrix (factor*size, size) of linear interpolation at half-pixel centres, the ends replicated."""
    at = np.clip((np.arange(factor * size) + 0.5) / factor - 0.5, 0, size - 1)
    low = np.minimum(at.astype(int), max(size - 2, 0))
    matrix = np.zeros((factor * size, size))
    matrix[np.arange(factor * size), low] = 1 - (at - low)
    matrix[np.arange(factor * size), np.minimum(low + 1, size - 1)] += at - low
    return matrix


@st.composite
def enlargements(draw):
    """(factor, height and width of the coarse map, first row and number of rows of the fine one, channels)"""
    factor, height, width = draw(st.sampled_from([2, 4, 8])), draw(st.integers(1, 5)), draw(st.integers(1, 40))
    first = draw(st.integers(0, factor * height - 1))
    return factor, height, width, first, draw(st.integers(1, factor * height - first)), draw(st.integers(1, 3))


@both_dtypes
@given(case=enlargements(), finished=st.booleans(), seed=SEEDS)
def test_upsample_add(dtype, case, finished, seed):
    factor, height, width, first, rows, channels = case
    rng = np.random.default_rng(seed)
    n = factor * width
    x = rng.standard_normal((channels, height, width)).astype(dtype)
    y = rng.standard_normal(channels * (rows + 1) * (n + 3) + MARGIN).astype(dtype)  # what is added to a NaN would hide
    where = places(5, (rows + 1) * (n + 3), n + 3, channels, rows, n)
    ends = rng.standard_normal((3, channels)).astype(dtype)
    before = y.copy()
    scales.upsample_add(
        Region(x.reshape(-1), 0, height * width, width), scales.Coarse(height, width, factor),
        Region(y, 5, (rows + 1) * (n + 3), n + 3), first, channels, rows, ends.reshape(-1), 0 if finished else -1,
    )  # fmt: skip
    up, across = interpolation(height, factor)[first : first + rows], interpolation(width, factor)
    expected = before[where] + up @ x.astype(float) @ across.T
    if finished:
        scale, shift, slope = ends[:, :, None, None].astype(float)
        expected = expected * scale + shift
        expected = np.where(expected > 0, expected, slope * expected)
    assert_written(y, before, where, expected, dtype)


@both_dtypes
@given(case=enlargements(), seed=SEEDS)
def test_upsample_backward(dtype, case, seed):
    factor, height, width, first, rows, channels = case
    rng = np.random.default_rng(seed)
    n = factor * width
    d = np.full(channels * rows * (n + 3) + 2 * MARGIN, np.nan, dtype)
    there = places(MARGIN, rows * (n + 3), n + 3, channels, rows, n)
    d[there] = rng.standard_normal(there.shape)
    y = rng.standard_normal(channels * (height + 1) * (width + 2) + MARGIN).astype(dtype)
    where = places(7, (height + 1) * (width + 2), width + 2, channels, height, width)
    before = y.copy()
    scales.upsample_backward(
        Region(d, MARGIN, rows * (n + 3), n + 3), scales.Coarse(height, width, factor),
        Region(y, 7, (height + 1) * (width + 2), width + 2), first, channels, rows,
    )  # fmt: skip
    up, across = interpolation(height, factor)[first : first + rows], interpolation(width, factor)
    expected = before[where] + up.T @ d[there].astype(float) @ across
    assert_written(y, before, where, expected, dtype)


@both_dtypes
@given(rows=st.integers(1, 11), columns=st.integers(1, 12), count=st.integers(1, 70), fresh=st.booleans(), seed=SEEDS)
def test_correlate(dtype, rows, columns, count, fresh, seed):
    rng = np.random.default_rng(seed)
    depth = -(-columns // products.CORRELATE_COLUMNS) * products.CORRELATE_COLUMNS
    x = rng.standard_normal(count + 2 * MARGIN).astype(dtype)
    table = rng.integers(0, MARGIN, depth)
    d = np.zeros((rows, count + MARGIN), dtype)
    d[:, :count] = rng.standard_normal((rows, count))
    out = rng.standard_normal(rows * (depth + 2) + MARGIN).astype(dtype)
    where = places(3, depth + 2, 0, rows, 1, depth)
    if fresh:
        out[where] = np.nan
    before = out.copy()
    products.correlate(
        Region(out, 3, depth + 2, 0), rows, Region(d.reshape(-1), 0, d.shape[1], 0), Region(x, 0, 0, 0),
        Table(table, 0, depth), count, fresh,
    )  # fmt: skip
    shifted = np.array([x[at : at + count] for at in table], float)
    expected = (d[:, :count].astype(float) @ shifted.T)[:, None] + (0 if fresh else before[where])
    assert_written(out, before, where, expected, dtype)
