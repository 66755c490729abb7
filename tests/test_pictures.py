"""Overlays, cutouts and crops, pixel by pixel."""

import numpy as np
import pytest

from octsod.pictures import cutout, object_box, overlay
from octsod.pictures.overlays import ACCENT, DIMMED


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


@pytest.fixture
def salience():
    """A block of rows 20 to 39 and columns 30 to 79, with a soft left half."""
    result = np.zeros((60, 90), np.uint8)
    result[20:40, 30:55] = 200
    result[20:40, 55:80] = 255
    return result


def test_overlay(image, salience):
    before = image.copy(), salience.copy()
    result = overlay(image, salience)
    assert result.shape == image.shape and result.dtype == np.uint8
    np.testing.assert_array_equal(result[25:35, 60:75], image[25:35, 60:75])  # the object, in its colours
    background = result[:10].astype(float)
    assert (background == background[..., :1]).all()  # grey
    grey = image[:10] @ [0.299, 0.587, 0.114]
    assert np.abs(background[..., 0] - DIMMED * grey).max() <= 1
    soft = result[30, 40].astype(float)
    expected = (200.0 * image[30, 40] + 55 * DIMMED * (image[30, 40] @ [0.299, 0.587, 0.114])) / 255
    assert np.abs(soft - expected).max() <= 2
    for edge in (result[20, 60], result[39, 60], result[30, 30], result[30, 79]):
        assert np.abs(edge.astype(int) - ACCENT).max() < 40
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(salience, before[1])


def test_overlay_of_nothing_and_of_everything(image):
    everything = np.full(image.shape[:2], 255, np.uint8)
    np.testing.assert_array_equal(overlay(image, everything), image)  # the border of the picture is no outline
    nothing = overlay(image, 0 * everything)
    assert (nothing == nothing[..., :1]).all()
    assert overlay(image[:1, :1], everything[:1, :1]).shape == (1, 1, 3)


def test_cutout(image, salience):
    result = cutout(image, salience)
    assert result.shape == (60, 90, 4) and result.dtype == np.uint8
    np.testing.assert_array_equal(result[..., 3], salience)
    np.testing.assert_array_equal(result[..., :3], image * (salience > 0)[..., None])


def test_object_box(salience):
    assert object_box(salience, 0) == (slice(20, 40), slice(30, 80))
    assert object_box(salience) == (slice(18, 42), slice(25, 85))
    assert object_box(salience, 0.5) == (slice(10, 50), slice(5, 90))
    assert object_box(salience, 9) == (slice(0, 60), slice(0, 90))
    salience[3, 4] = 127  # less likely than not
    assert object_box(salience, 0) == (slice(20, 40), slice(30, 80))
    salience[3, 4] = 128
    assert object_box(salience, 0) == (slice(3, 40), slice(4, 80))
    assert object_box(np.full((7, 9), 127, np.uint8)) is None
    assert object_box(np.full((7, 9), 255, np.uint8)) == (slice(0, 7), slice(0, 9))


def test_faults(image, salience):
    for make in (overlay, cutout):
        for wrong in (salience[:-1], salience / 255, salience[..., None], None):
            with pytest.raises(ValueError, match=rf"{make.__name__}: `salience` is .*; expected uint8 \(60, 90\)"):
                make(image, wrong)
        for wrong in (image[..., :2], image / 255):
            with pytest.raises(ValueError, match=rf"{make.__name__}: `image` is "):
                make(wrong, salience)
    for wrong in (image, salience / 255, salience.tolist()):
        with pytest.raises(ValueError, match=r"object_box: `salience` is .*; expected uint8 \(H, W\)"):
            object_box(wrong)
    for margin in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="object_box: `margin`"):
            object_box(salience, margin)
