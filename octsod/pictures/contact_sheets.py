"""Contact sheets: pictures in rows of equally sized cells, with captions."""

from collections.abc import Iterable, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from ..backend.arrays import is_plain
from ..checks import described, require, require_integer, shortened

GAP = 8  # pixels between cells and around the sheet
FONT_SIZE = 14
LINE = 22  # height in pixels of a line of text
PAPER, INK = "white", "black"


def contact_sheet(
    rows: Iterable[Iterable[np.ndarray]],
    captions: Sequence[str] | None = None,
    headings: Sequence[str] | None = None,
    cell: int = 224,
) -> np.ndarray:
    """One picture (H, W, 3) uint8 that shows many.

    rows: sequences of equal length of pictures, (h, w) or (h, w, 3) uint8 of any size; each is fitted into a square
    cell of `cell` pixels, keeping its proportions. captions: a line of text above each row; headings: one above each
    column. Text that is too long for its place is cut short.
    """
    table = [list(row) for row in rows]
    columns = len(table[0]) if table else 0
    require(columns > 0, "contact_sheet", "rows", "is empty", "at least one picture")
    for name, expected, got in [("rows", columns, [len(row) for row in table]),
                                ("captions", len(table), [] if captions is None else [len(captions)]),
                                ("headings", columns, [] if headings is None else [len(headings)])]:  # fmt: skip
        require(set(got) <= {expected}, "contact_sheet", name, f"has length {got}", f"{expected} everywhere")

    cell = require_integer(cell, "contact_sheet", "cell", 1)
    for picture in (picture for row in table for picture in row):
        fits = (is_plain(picture, 2) or (is_plain(picture, 3) and picture.shape[2] == 3)) and picture.size > 0
        wanted = "pictures of uint8, (h, w) or (h, w, 3), not empty"
        require(fits, "contact_sheet", "rows", f"has one that {described(picture)}", wanted)
    top = GAP + (LINE if headings else 0)
    row_height = cell + GAP + (LINE if captions else 0)
    sheet = Image.new("RGB", (GAP + columns * (cell + GAP), top + len(table) * row_height), PAPER)
    write = _Writer(sheet)
    for column, heading in enumerate(headings or ()):
        write(heading, GAP + column * (cell + GAP), GAP, cell)
    for number, row in enumerate(table):
        y = top + number * row_height
        if captions:
            write(captions[number], GAP, y, sheet.width - 2 * GAP)
            y += LINE
        for column, picture in enumerate(row):
            sheet.paste(_fitted(Image.fromarray(picture), cell), (GAP + column * (cell + GAP), y))
    return np.array(sheet)


def _fitted(image, cell):
    scale = cell / max(image.size)
    return image.resize([max(round(side * scale), 1) for side in image.size], Image.Resampling.BICUBIC)


class _Writer:
    """Draws lines of text, cut short where there is no more room."""

    def __init__(self, sheet):
        self.draw = ImageDraw.Draw(sheet)
        self.font = ImageFont.load_default(FONT_SIZE)

    def __call__(self, text, x, y, width):
        text = shortened(text, 1000).encode("utf-8", "replace").decode()  # file names may hold anything
        text = " ".join(text.split())
        shown = text
        while text and self.draw.textlength(shown, self.font) > width:
            text = text[:-1]
            shown = f"{text} ..."
        self.draw.text((x, y), shown, INK, self.font)
