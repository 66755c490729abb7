"""The example pictures are what their script draws."""

import importlib

import numpy as np
import pytest
from commands import ROOT
from PIL import Image

FOLDER = ROOT / "docs" / "examples"


@pytest.mark.parametrize(
    ("name", "least", "most"),  # parts of the picture that the object may cover
    [
        ("still-life", 0.1, 0.3),
        ("two-objects", 0.06, 0.2),
        ("camouflage", 0.06, 0.2),
        ("thin", 0.01, 0.12),
        ("crowd", 0, 0),
        ("reflection", 0.04, 0.2),
    ],
)
def test_a_small_drawing(name, least, most, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    scenes = importlib.import_module("scenes")
    picture, mask = scenes.render(scenes.SCENES[name](), width=48, samples=8)
    assert picture.shape == (36, 48, 3) and picture.dtype == np.uint8
    assert mask.shape == (36, 48) and mask.dtype == bool and least <= mask.mean() <= most
    assert not mask[[0, -1]].any() and not mask[:, [0, -1]].any()  # nothing is cut off
    kept = Image.open(FOLDER / f"{name}.jpg").resize((48, 36), Image.Resampling.BOX)
    assert np.abs(np.float32(kept) - picture).mean() < 15  # drawn at this size it is noisier; another scene: above 39
