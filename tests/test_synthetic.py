"""The embedded data: the same pictures from the same seed, each with an object that its mask shows."""

import numpy as np
import pytest

from octsod.data.synthetic import CATEGORIES, SyntheticDataset


def test_pictures_depend_on_seed_and_index_alone():
    first, again, other = SyntheticDataset(5, 48, seed=3), SyntheticDataset(9, 48, seed=3), SyntheticDataset(5, 48, 4)
    again[0]
    for a, b in zip(first[4], again[4], strict=True):
        assert np.array_equal(a, b)
    assert first[4] is first[4] and len(first) == 5
    assert (first[4].image != first[3].image).any() and (first[4].image != other[4].image).any()
    for index in (-1, 5):
        with pytest.raises(IndexError):
            first[index]


def test_every_picture_has_an_object():
    """Of every family, in one piece of the picture, apart from what is behind it, with soft edges."""
    dataset = SyntheticDataset(60, 64)
    assert {dataset.category(i) for i in range(60)} == set(range(len(CATEGORIES)))
    shares, distances, centres = [], [], []
    for name, image, mask in (dataset[i] for i in range(60)):
        assert image.shape == (64, 64, 3) and mask.shape == (64, 64) and image.dtype == mask.dtype == np.uint8
        assert mask.max() == 255 and mask.min() == 0 and ((mask > 0) & (mask < 255)).any(), name
        inside = mask > 127
        shares.append(inside.mean())
        distances.append(np.linalg.norm(image[inside].mean(axis=0) - image[~inside].mean(axis=0)))
        centres.append(np.argwhere(inside).mean(axis=0) / 64)
    assert min(shares) > 0.005 and max(shares) < 0.9 and 0.1 < np.mean(shares) < 0.35
    assert np.median(distances) > 50
    np.testing.assert_allclose(np.mean(centres, axis=0), 0.5, atol=0.1)
