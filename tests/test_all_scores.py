"""The field's other scores: answers known by hand, pysodmetrics' numbers (tests/data), and pysodmetrics itself."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from peer_scores import GOLDEN, ORDINARY, peer_scores
from test_metrics import pictures

from octsod.evaluation import AllScores, average_all, score_all
from octsod.evaluation.nearest import nearest_pixels

# --- the nearest pixel of the object ----------------------------------------------------------------------------------


@st.composite
def objects(draw):
    """(H, W) bool with at least one True: from single pixels to nearly all."""
    height, width = draw(st.tuples(st.integers(1, 14), st.integers(1, 14)))
    share = draw(st.sampled_from([0.0, 0.03, 0.1, 0.4, 0.9]))
    generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    inside = generator.random((height, width)) < share
    inside[generator.integers(height), generator.integers(width)] = True
    return inside


def with_ties():
    """Pictures in which many pixels have several nearest ones: a lattice, a circle and the corners of a square."""
    y, x = np.ogrid[:21, :21]
    yield (y % 4 == 0) & (x % 4 == 0)
    yield (y - 10) ** 2 + (x - 10) ** 2 == 25
    yield np.isin(y, (3, 17)) & np.isin(x, (3, 17))


def assert_nearest(inside):
    """Compare with all distances: the leftmost of the nearest, then the topmost."""
    columns, rows = np.nonzero(inside.T)  # left to right, each from top to bottom
    y, x = np.indices(inside.shape)
    squares = (y[..., None] - rows) ** 2 + (x[..., None] - columns) ** 2
    first = squares.argmin(axis=2)
    nearest = nearest_pixels(inside)
    np.testing.assert_array_equal(nearest.squares, squares.min(axis=2))
    np.testing.assert_array_equal(nearest.columns, columns[first])
    np.testing.assert_array_equal(nearest.rows, rows[first])


@given(objects())
def test_nearest_pixels(inside):
    assert_nearest(inside)


def test_nearest_pixels_with_ties():
    for inside in with_ties():
        assert_nearest(inside)


def test_nearest_pixels_are_scipys():
    ndimage = pytest.importorskip("scipy.ndimage", reason="SciPy is not installed (extra `parity`)")
    rng = np.random.default_rng(0)
    for inside in (*with_ties(), rng.random((61, 90)) < 0.01, rng.random((120, 37)) < 0.3):
        distances, (rows, columns) = ndimage.distance_transform_edt(~inside, return_indices=True)
        nearest = nearest_pixels(inside)
        np.testing.assert_array_equal(nearest.rows, rows)
        np.testing.assert_array_equal(nearest.columns, columns)
        np.testing.assert_array_equal(np.sqrt(nearest.squares), distances)


# --- known answers ----------------------------------------------------------------------------------------------------


def binary(*rows):
    """A map of 0 and 255 from rows of 0 and 1."""
    return np.array(rows, np.uint8) * np.uint8(255)


def test_a_map_that_is_its_mask():
    y, x = np.ogrid[:20, :30]
    mask = (np.hypot(y - 9, x - 17) < 6) * np.uint8(255)
    scores = score_all(mask, mask)
    for value in (scores.s_measure, scores.weighted_f, scores.adaptive_f, *scores.f_curve[1:]):
        assert value == pytest.approx(1)
    for value in (scores.e_measure_adaptive, *scores.e_curve[1:]):
        assert value == pytest.approx(600 / 599)
    objects = np.count_nonzero(mask)
    assert scores.f_curve[0] == pytest.approx(1.3 * objects / (0.3 * objects + 600))  # all are at or above 0
    assert scores.e_curve[0] == pytest.approx(600 / 4 / 599)


def test_f_and_e_measure():
    """Half of the object is found, and half of what is found is object: two pixels align exactly, two are opposite."""
    scores = score_all(binary([1, 0, 1, 0]), binary([1, 1, 0, 0]))
    np.testing.assert_allclose(scores.f_curve, [1.3 * 0.5 / (0.3 * 0.5 + 1)] + [0.5] * 255)
    np.testing.assert_allclose(scores.e_curve, [4 * 0.25 / 3] + [2 / 3] * 255)
    assert scores.adaptive_f == pytest.approx(0.5) and scores.e_measure_adaptive == pytest.approx(2 / 3)


def test_s_measure():
    """A missed corner and a false alarm; the centroid cuts off blocks of one pixel, which are uniform."""
    scores = score_all(binary([0, 0], [0, 1]), binary([1, 0], [0, 0]))
    outside = 2 * (2 / 3) / ((2 / 3) ** 2 + 1 + math.sqrt(1 / 3))
    assert scores.s_measure == pytest.approx(0.5 * 0.75 * outside + 0.5 * 1)


def test_s_measure_with_the_centroid_in_the_last_row():
    """There are no lower blocks. Left and right one, three pixels each, fit their masks in part and exactly."""
    scores = score_all(binary([1, 1, 0, 0, 0, 0]), binary([0, 1, 1, 1, 0, 0]))
    of_object = 0.5 * 2 * (1 / 3) / (1 / 9 + 1 + math.sqrt(1 / 3)) + 0.5 * 2 * (2 / 3) / (4 / 9 + 1 + math.sqrt(1 / 3))
    x, y = np.array([1, 1, 0]), np.array([0, 1, 1])
    covariance = ((x - 2 / 3) * (y - 2 / 3)).sum() / 2
    left = 4 * (4 / 9) * covariance / ((8 / 9) * (2 / 3))
    assert scores.s_measure == pytest.approx(0.5 * of_object + 0.5 * (0.5 * left + 0.5 * 0))


def test_s_measure_with_the_centroid_between_two_columns():
    """Between 0 and 1, it goes to the even one: the left block is a single pixel, and the right one finds nothing."""
    scores = score_all(binary([1, 0, 0, 0]), binary([1, 1, 0, 0]))
    of_object = 0.5 * 2 * 0.5 / (0.25 + 1 + math.sqrt(0.5)) + 0.5 * 1
    assert scores.s_measure == pytest.approx(0.5 * of_object + 0.5 * 0.25)


def test_weighted_f():
    """A missed pixel and a false alarm five pixels away. The error that is smoothed is 1 everywhere."""
    scores = score_all(binary([0, 0, 0, 0, 0, 1]), binary([1, 0, 0, 0, 0, 0]))
    window = [math.exp(-d * d / 50) for d in range(-3, 4)]
    found = 1 - sum(window[3:]) * window[3] / sum(window) ** 2
    precision = found / (found + 1.5)  # at five pixels, an alarm counts half as much again
    assert scores.weighted_f == pytest.approx(2 * precision * found / (precision + found))


def test_without_an_object_or_a_background():
    nothing, everything = np.zeros((4, 5), np.uint8), np.full((4, 5), 255, np.uint8)
    for prediction, mask, s, best_e in (
        (nothing, nothing, 1, 20 / 19), (everything, nothing, 0, 0),
        (nothing, everything, 0, 20 / 19), (everything, everything, 1, 20 / 19),
    ):  # fmt: skip
        scores = score_all(prediction, mask).as_dict()
        assert scores["s_measure"] == s and scores["e_measure_max"] == pytest.approx(best_e)
        if mask is nothing:
            assert scores["weighted_f"] == scores["mean_f"] == scores["adaptive_f"] == 0


def test_predictions_are_stretched():
    """Contrast and brightness do not matter, where rounding does not."""
    mask = binary([1, 1, 0], [0, 1, 0])
    grey = np.where(mask > 0, 151, 100).astype(np.uint8)
    assert score_all(grey, mask).as_dict() == score_all(mask, mask).as_dict()


def test_curves_are_averaged_first():
    """Each picture has its own best threshold; no threshold is best for both."""
    mask = binary([1, 0, 0, 0])
    pairs = [(np.array([row], np.uint8), mask) for row in ([255, 200, 0, 0], [100, 99, 0, 255])]
    scores = [score_all(*pair) for pair in pairs]
    total = average_all(scores)
    assert isinstance(total, AllScores)
    np.testing.assert_allclose(total.f_curve, (scores[0].f_curve + scores[1].f_curve) / 2)
    np.testing.assert_allclose(total.e_curve, (scores[0].e_curve + scores[1].e_curve) / 2)
    for name in ("s_measure", "weighted_f", "adaptive_f", "e_measure_adaptive"):
        assert getattr(total, name) == pytest.approx(sum(getattr(s, name) for s in scores) / 2)
    best = [s.as_dict()["max_f_of_mean_curve"] for s in scores]
    assert total.as_dict()["max_f_of_mean_curve"] < sum(best) / 2 - 0.05
    assert total.as_dict()["mean_f"] == pytest.approx(sum(s.as_dict()["mean_f"] for s in scores) / 2)


def test_faults():
    map_ = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match=r"score_all: `prediction` is \(4, 5\); expected \(5, 4\)"):
        score_all(map_, map_.T)
    with pytest.raises(ValueError, match="score_all: `mask` is float64"):
        score_all(map_, map_ / 255)
    with pytest.raises(ValueError, match="average_all: `scores` is empty"):
        average_all([])


# --- pysodmetrics -----------------------------------------------------------------------------------------------------


def assert_agree(scores, expected):
    """Within 1e-6, relative to 1 or more; where pysodmetrics has NaN for the S-measure, ours is a score."""
    assert list(scores) == list(expected)
    for name, value in expected.items():
        if name == "s_measure" and np.isnan(value):
            assert 0 <= scores[name] <= 1
        else:
            assert scores[name] == pytest.approx(value, rel=1e-6, abs=1e-6), name


def test_pysodmetrics_numbers():
    with np.load(GOLDEN) as file:
        golden = {name: file[name] for name in file.files}
    names = golden["names"].tolist()
    scores = [score_all(golden[f"prediction/{i}"], golden[f"mask/{i}"]) for i in range(len(golden["scores"]))]
    assert len(scores) >= 12
    for ours, expected in zip(scores, golden["scores"], strict=True):
        assert_agree(ours.as_dict(), dict(zip(names, expected, strict=True)))
    assert_agree(average_all(scores[:ORDINARY]).as_dict(), dict(zip(names, golden["average"], strict=True)))


@st.composite
def kinds(draw):
    """(prediction, mask): one of `pictures`, as it is, with an object of one pixel, or with a better prediction."""
    prediction, mask = draw(pictures())
    kind = draw(st.sampled_from(["as drawn", "one pixel", "background right", "mostly right"]))
    generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    if kind == "one pixel":
        mask = np.zeros_like(mask)
        mask.flat[generator.integers(mask.size)] = 255
    elif kind == "background right":
        prediction = np.where(mask > 128, prediction, 0).astype(np.uint8)
    elif kind == "mostly right":
        prediction = np.where(generator.random(mask.shape) < 0.1, prediction, mask)
    return prediction, mask


@given(st.lists(kinds(), min_size=1, max_size=4))
def test_pysodmetrics(pairs):
    pytest.importorskip("py_sod_metrics", reason="pysodmetrics is not installed (extra `parity`)")
    scores = [score_all(*pair) for pair in pairs]
    for ours, pair in zip(scores, pairs, strict=True):
        assert_agree(ours.as_dict(), peer_scores([pair]))
    assert_agree(average_all(scores).as_dict(), peer_scores(pairs))
