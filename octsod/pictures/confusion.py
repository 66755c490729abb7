"""A confusion matrix as a picture."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

CELL, LEAST_CELL, MOST_SIDE = 44, 4, 1600  # pixels: of a cell, of one with a border, and of the whole matrix at most
MARGIN, TOP, FONT_SIZE = 190, 84, 13
INK, PALE, BLUE = (40, 44, 52), (130, 136, 146), np.array([38, 110, 200])
EMPTY = 245  # grey of a cell without pictures


def confusion_matrix(confusion: np.ndarray, classes: Sequence[str]) -> np.ndarray:
    """How many pictures of each class (row) were taken for each (column): (K, K) counts and K names -> a picture
    (H, W, 3) uint8. A cell's colour is its share of its row; many classes get small cells without numbers."""
    count = len(classes)
    cell = min(CELL, MOST_SIDE // count)
    side = cell * count if cell >= LEAST_CELL else min(LEAST_CELL * count, MOST_SIDE)
    image = Image.new("RGB", (max(MARGIN + side, 440) + 20, TOP + side + 20), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(FONT_SIZE)
    rows = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(rows, 1)
    top1 = np.trace(confusion) / max(confusion.sum(), 1)
    draw.text((16, 16), f"top-1 {top1:.1%} of {confusion.sum()} pictures", INK, ImageFont.load_default(15))
    draw.text((16, 40), "row: the class of a picture, column: what it was taken for", PALE, font)
    colours = np.rint(EMPTY + (BLUE - EMPTY) * shares[..., None]).astype(np.uint8)
    if cell < LEAST_CELL:
        image.paste(Image.fromarray(colours).resize((side, side), Image.Resampling.BOX), (MARGIN, TOP))
        return np.array(image)
    for i in range(count):
        y = TOP + i * cell
        if cell >= FONT_SIZE + 3:
            draw.text((MARGIN - 8, y + cell / 2), _short(draw, f"{classes[i]}  {i + 1}", font), INK, font, "rm")
            draw.text((MARGIN + (i + 0.5) * cell, TOP - 9), str(i + 1), PALE, font, "mm")
        for j in range(count):
            x = MARGIN + j * cell
            draw.rectangle((x, y, x + cell - 2, y + cell - 2), tuple(colours[i, j].tolist()))
            if cell >= 30 and confusion[i, j]:
                ink = "white" if shares[i, j] > 0.5 else INK
                draw.text((x + cell / 2 - 1, y + cell / 2 - 1), str(confusion[i, j]), ink, font, "mm")
    return np.array(image)


def _short(draw, text, font):
    """The text, cut short where it is too long for the margin."""
    if draw.textlength(text, font) <= MARGIN - 16:
        return text
    name, _, number = text.rpartition("  ")
    while draw.textlength(f"{name}…  {number}", font) > MARGIN - 16:
        name = name[:-1]
    return f"{name}…  {number}"
