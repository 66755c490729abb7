"""What can be made from a picture and its map of salience: an overlay, a cutout, a crop. All work on uint8 arrays."""

import numpy as np

from ..backend.arrays import is_plain, plain
from ..checks import described, require, require_number
from ..data.images import checked_picture

OBJECT = 128  # from this value on, a pixel counts as the object's: the network finds that more likely than not

ACCENT = (0, 220, 255)  # RGB of the outline: rare in photographs, and never found in the grey around it
DIMMED = 0.45  # brightness of what is not the object
OUTLINE = 1 / 250  # half the outline's width, as a fraction of the picture's longer side


def overlay(image: np.ndarray, salience: np.ndarray) -> np.ndarray:
    """The object in colour, outlined, in front of a dimmed grey background: (H, W, 3) uint8.

    image: (H, W, 3) uint8 RGB. salience: (H, W) uint8, as `predict` returns it; the map is the opacity of the colours,
    so how far they fade shows how sure the network is. The outline runs where the map crosses one half.
    """
    from PIL import Image, ImageFilter

    image, salience = _checked(image, salience, "overlay")
    front = Image.fromarray(image)
    back = front.convert("L").point([round(DIMMED * v) for v in range(256)]).convert("RGB")
    result = Image.composite(front, back, Image.fromarray(salience))
    # A box blur turns the object's edge into a ramp; the middle of the ramp, smoothly bounded, is the line.
    edge = Image.fromarray(np.where(salience >= OBJECT, np.uint8(255), np.uint8(0)))
    ramp = edge.filter(ImageFilter.BoxBlur(max(max(front.size) * OUTLINE, 1)))
    result.paste(ACCENT, mask=ramp.point([min(round(1.6 * (255 - abs(2 * v - 255))), 255) for v in range(256)]))
    return np.array(result)


def cutout(image: np.ndarray, salience: np.ndarray) -> np.ndarray:
    """The object on a transparent background: (H, W, 4) uint8 RGBA, the picture with its map as opacity.

    image: (H, W, 3) uint8 RGB. salience: (H, W) uint8, as `predict` returns it. Fully transparent pixels are black.
    """
    image, salience = _checked(image, salience, "cutout")
    result = np.dstack([image, salience])
    result[salience == 0] = 0  # compresses better, and keeps nothing that someone meant to cut away
    return result


def object_box(salience: np.ndarray, margin: float = 0.1) -> tuple[slice, slice] | None:
    """Where the object is: slices (rows, columns) for `image[box]`, or None if no pixel is likely to be the object's.

    salience: (H, W) uint8, as `predict` returns it. margin: how much to leave around the object, as far as the picture
    goes, as a fraction of the object's height and width.
    """
    op = "object_box"
    salience = plain(salience, f"{op}: `salience`")
    require(is_plain(salience, 2), op, "salience", described(salience), "uint8 (H, W), as `predict` gives it")
    margin = require_number(margin, op, "margin", 0)
    inside = salience >= OBJECT
    if not inside.any():
        return None
    box: list[slice] = []
    for line in (inside.any(axis=1), inside.any(axis=0)):
        start, *_, stop = np.flatnonzero(np.diff(line, prepend=False, append=False))
        extra = round(margin * (stop - start))
        box.append(slice(max(start - extra, 0), min(stop + extra, line.size)))
    return box[0], box[1]


def _checked(image, salience, op):
    """A picture and its map as plain arrays. Raises ValueError unless they are, and of equal sizes."""
    image, salience = checked_picture(image, op), plain(salience, f"{op}: `salience`")
    size = image.shape[:2]
    fits = is_plain(salience, 2) and salience.shape == size
    require(fits, op, "salience", described(salience), f"uint8 {size}, of the picture's height and width")
    return image, salience
