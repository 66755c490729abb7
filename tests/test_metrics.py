"""Scores against the protocol written out threshold by threshold, and where the answer is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from octsod.data.masks import doubt_about
from octsod.evaluation import average, score, score_all


def protocol(prediction, mask):
    """csnet.md, section 6, to the letter: precision (256,), recall (256,), mean absolute error of one picture."""
    truth = mask > 128
    precision, recall = np.zeros(256), np.zeros(256)
    for t in range(256):
        found = prediction > t
        hits = (found & truth).sum()
        precision[t] = (hits + 1e-4) / (found.sum() + 1e-4)
        recall[t] = (hits + 1e-4) / (truth.sum() + 1e-4)
    return precision, recall, np.abs(prediction / 255 - mask / 255).mean()


@st.composite
def pictures(draw):
    """(prediction, mask): any values, few values, or a constant; the borders of the thresholds among them. Masks of
    uncertain meaning are refused, so these lose their background."""
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    generator = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    values = st.sampled_from([(0, 256), (0, 2), (127, 131), (254, 256), (0, 1), (255, 256), (128, 129)])
    prediction, mask = (generator.integers(*draw(values), shape).astype(np.uint8) for _ in range(2))
    return prediction, mask if doubt_about(mask) is None else np.where(mask > 128, mask, np.uint8(0))


@given(st.lists(pictures(), min_size=1, max_size=4))
def test_protocol(pairs):
    scores = [score(*pair) for pair in pairs]
    expected = [protocol(*pair) for pair in pairs]
    for got, (precision, recall, mae) in zip(scores, expected, strict=True):
        np.testing.assert_allclose(got.precision, precision, rtol=1e-12)
        np.testing.assert_allclose(got.recall, recall, rtol=1e-12)
        assert got.mae == pytest.approx(mae, rel=1e-12)
    total = average(scores)
    precision, recall, mae = (sum(parts) / len(pairs) for parts in zip(*expected, strict=True))
    f = 1.3 * precision * recall / (0.3 * precision + recall)
    np.testing.assert_allclose(total.f, f, rtol=1e-12)
    assert total.max_f == pytest.approx(max(f), rel=1e-12) and total.mae == pytest.approx(mae, rel=1e-12)
    assert total.f[total.threshold] == total.max_f


def test_precision_and_recall_are_averaged_first():
    """One picture found in half, one with twice as much found as there is: the average of F would be another number."""
    whole, half = np.full((10, 10), 255, np.uint8), np.zeros((10, 10), np.uint8)
    half[:5] = 255
    total = average([score(half, whole), score(whole, half)])
    assert total.max_f == pytest.approx(0.75, abs=1e-5) and total.mae == pytest.approx(0.5)
    separately = [score(half, whole).max_f, score(whole, half).max_f]
    assert separately == pytest.approx([1.3 * 0.5 / 0.8, 1.3 * 0.5 / 1.15], abs=1e-5)


def test_known_answers():
    nothing, everything = np.zeros((4, 5), np.uint8), np.full((4, 5), 255, np.uint8)
    exact = score(everything, everything)
    assert exact.max_f == pytest.approx(1) and exact.mae == 0 and exact.threshold == 0
    assert exact.recall[255] == pytest.approx(1e-4 / (20 + 1e-4))  # nothing is above 255
    missed = score(nothing, everything)
    assert missed.max_f < 1e-4 and missed.mae == 1
    # Without an object, all that is found is wrong; the addends make an empty prediction right.
    assert score(nothing, nothing).max_f == 1 and score(nothing, nothing).mae == 0
    false_alarm = score(everything, nothing)
    assert false_alarm.precision[254] == pytest.approx(1e-4 / (20 + 1e-4)) and false_alarm.mae == 1
    # A mask's 128 is background, and counts with its grey level in the error.
    grey = np.full((4, 5), 128, np.uint8)
    grey[:2] = 255
    assert score(everything, grey).precision[0] == pytest.approx(0.5, abs=1e-5)
    assert score(everything, grey).mae == pytest.approx(127 / 255 / 2)
    assert score(everything, np.full_like(grey, 129)).precision[0] == pytest.approx(1)


def test_faults():
    map_ = np.zeros((4, 5), np.uint8)
    with pytest.raises(ValueError, match=r"score: `prediction` is \(4, 5\); expected \(5, 4\), the size of `mask`"):
        score(map_, map_.T)
    for wrong in (map_ / 255, map_ > 0, map_[None], map_[:0], map_.tolist()):
        with pytest.raises(ValueError, match="score: `prediction`"):
            score(wrong, map_)
        with pytest.raises(ValueError, match="score: `mask`"):
            score(map_, wrong)
    for wrong in (np.ma.masked_array(map_, True), np.full_like(map_, 1), np.full_like(map_, 128)):
        for measure in (score, score_all):  # the first ones would count as masks without an object, found perfectly
            with pytest.raises(ValueError, match=f"{measure.__name__}: `mask`"):
                measure(map_, wrong)
    with pytest.raises(ValueError, match="average: `scores` is empty"):
        average([])
