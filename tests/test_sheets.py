"""Contact sheets: every picture in its place, every text within its own."""

import numpy as np
import pytest

from octsod.data.images import write_png
from octsod.pictures import contact_sheet
from octsod.pictures.contact_sheets import GAP, LINE


def plain(colour, height=10, width=10):
    return np.full((height, width, 3), colour, np.uint8)


def test_pictures_are_fitted_into_their_cells():
    tall, wide, grey = plain((200, 0, 0), 40, 20), plain((0, 200, 0), 5, 10), np.full((60, 60), 90, np.uint8)
    sheet = contact_sheet([(tall, wide), (grey, tall)], cell=40)
    assert sheet.shape == (GAP + 2 * (40 + GAP), GAP + 2 * (40 + GAP), 3) and sheet.dtype == np.uint8
    second = GAP + 40 + GAP
    for y, x, height, width, colour in [
        (GAP, GAP, 40, 20, (200, 0, 0)), (GAP, second, 20, 40, (0, 200, 0)),
        (second, GAP, 40, 40, (90, 90, 90)), (second, second, 40, 20, (200, 0, 0)),
    ]:  # fmt: skip
        assert (sheet[y : y + height, x : x + width] == colour).all()
        sheet[y : y + height, x : x + width] = 255
    assert (sheet == 255).all()


def test_texts_stay_in_their_places():
    rows = [(plain(128), plain(128))] * 2
    empty = contact_sheet(rows, ["", ""], ["", ""], cell=60)
    sheet = contact_sheet(rows, ["x" * 200, "name \udcff\n, F 0.5"], ["image", "x" * 200], cell=60)
    assert sheet.shape == empty.shape == (GAP + LINE + 2 * (60 + GAP + LINE), GAP + 2 * (60 + GAP), 3)
    ink = (sheet != empty).any(axis=2)
    lines = [GAP, GAP + LINE, GAP + LINE + 60 + GAP + LINE]  # of the headings, the first caption, the second
    for y in lines:
        assert ink[y : y + LINE].any()
        ink[y : y + LINE, GAP - 2 : sheet.shape[1] - GAP + 2] = False  # letters overhang a little
    assert not ink.any()
    headings = contact_sheet(rows, headings=["x" * 200, ""], cell=60)[:LINE] < 255
    assert headings[:, : GAP + 60 + 2].any() and not headings[:, GAP + 60 + 2 :].any()


def test_no_room_for_text():
    sheet = contact_sheet([[plain(0)]], ["caption"], ["heading"], cell=2)
    assert sheet.shape == (2 * GAP + 2 * LINE + 2, 2 * GAP + 2, 3)


def test_faults():
    with pytest.raises(ValueError, match="contact_sheet: `rows` is empty"):
        contact_sheet([])
    with pytest.raises(ValueError, match="contact_sheet: `rows`"):
        contact_sheet([[plain(0)], [plain(0), plain(0)]])
    for texts in ({"captions": ["a", "b"]}, {"headings": []}):
        with pytest.raises(ValueError, match=f"contact_sheet: `{next(iter(texts))}`"):
            contact_sheet([[plain(0)]], **texts)


@pytest.mark.parametrize(
    "picture", [np.zeros((4, 5, 3)), np.zeros((4, 5, 2), np.uint8), np.zeros((0, 5), np.uint8), "a"]
)
def test_what_is_no_picture_is_neither_drawn_nor_written(tmp_path, picture):
    with pytest.raises(ValueError, match="contact_sheet: `rows` has one that is "):
        contact_sheet([[picture]])
    with pytest.raises(ValueError, match="write_png: `array` is "):
        write_png(tmp_path / "a.png", picture)
    assert not list(tmp_path.iterdir())
