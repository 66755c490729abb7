"""What a mask's numbers mean: understood where that is certain, refused where it is not."""

from typing import TYPE_CHECKING, Any

import numpy as np

from ..backend.arrays import is_plain
from ..backend.arrays import plain as plain_array
from ..checks import described, require, shortened
from .decoding import RefusedError, composed, parts, plain, upright

if TYPE_CHECKING:
    from PIL import Image

MASK_THRESHOLD = 128  # mask pixels above this belong to the object

_WANTED = "write the object as 255 (white) and all else as 0 (black)"
_LAST_CLASS = 64  # numbers up to this, beside 255 for what was left open, look like numbers of classes
_COLOURED = 48  # how far a colour's channels lie apart; grey pictures may have got a little colour from JPEG
_MOST_COLOURS = 8  # that are told apart
_BLACK = (0, 0, 0)


def mask_pixels(image: "Image.Image") -> np.ndarray:
    """A picture, opened by Pillow, as a mask (H, W) uint8, 255 for the object. Raises RefusedError if uncertain."""
    deep = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ()))
    image.load()
    extrema: Any = image.getextrema() if image.mode in ("F", "I") else (0, 0)
    low, high = extrema
    if image.mode == "F" or low < 0 or high > 0xFFFF:
        raise RefusedError(f"is a mask of numbers from {low:g} to {high:g}, whose range is unknown; {_WANTED}.")
    if image.mode.startswith("I") or (image.mode in ("1", "L") and not image.has_transparency_data):
        values = upright(image, lambda part: np.asarray(plain(part).convert("L")))
        _require_certain(values, np.asarray(image) if image.mode.startswith("I") else values)
        return values
    colours, coloured, shown = _survey(image)
    pair = _palette_of_two(image) or (colours if coloured and len(colours) == 2 and _BLACK in colours else None)
    if pair:  # all else than the darker one is the object
        dark = min(pair, key=_luminance)
        return upright(image, lambda part: (np.asarray(_seen(part)) != dark).any(axis=2) * np.uint8(255))
    if coloured:
        raise RefusedError(
            f"is a mask in colours ({_listed(colours)}), and which of them are the object is not certain; {_WANTED}."
        )
    values = upright(image, lambda part: np.asarray(_seen(part).convert("L")))
    _require_certain(values, values)
    hidden = not (deep or shown) and not values.any() and _hides(image)
    if not values.any() and (deep or shown or hidden):
        what = "holds colours of 16 bits, all near 0" if deep else "is a mask whose opaque parts are all black"
        what = "is a mask that is transparent everywhere, over colours that are not one" if hidden else what
        raise RefusedError(f"{what}, so where the object is, is not certain; {_WANTED}.")
    return values


def checked_pair(sample: Any, op: str, argument: str) -> tuple[np.ndarray, np.ndarray]:
    """The picture (H, W, 3) uint8 and the mask (H, W) uint8 of a `Sample`, whoever made it; a mask may also be bool.

    Raises ValueError, which names the sample, if one is something else, if their sizes differ, or if what the mask says
    is not certain.
    """
    whole = all(hasattr(sample, part) for part in ("name", "image", "mask"))
    require(whole, op, argument, f"has an item that is a {type(sample).__name__}", "a `Sample` (name, image, mask)")
    name = shortened(sample.name, 80)
    image, mask = (plain_array(a, f"{op}: `{argument}` {name}") for a in (sample.image, sample.mask))
    fits = is_plain(image, 3) and image.shape[2] == 3 and image.size > 0
    require(fits, op, argument, f"has a picture {name} that {described(image)}", "uint8 (H, W, 3), not empty")
    fits = is_plain(mask, 2) or is_plain(mask, 2, np.bool_)
    expected = "uint8 (H, W), 255 for the object and 0 for all else, or bool"
    require(fits, op, argument, f"has a mask for {name} that {described(mask)}", expected)
    if mask.shape != image.shape[:2]:
        require(False, op, argument, f"has a mask {mask.shape} for the picture {name} {image.shape}", "equal sizes")
    if mask.dtype == np.bool_:
        mask = mask * np.uint8(255)
    doubt = doubt_about(mask)
    require(doubt is None, op, argument, f"has a mask for {name} that {doubt}", expected)
    return image, mask


def doubt_about(mask: np.ndarray) -> str | None:
    """What is uncertain about a mask (H, W) uint8, as the end of a sentence; None for nothing."""
    return _doubt(mask, mask)


def _require_certain(values, original):
    doubt = _doubt(values, original)
    if doubt:
        raise RefusedError(f"is a mask that {doubt}, so where the object is, is not certain; {_WANTED}.")


def _doubt(values, original):
    """What is uncertain about a mask of numbers, (H, W) uint8 as it was read and as it is in the file; or None."""
    marked = np.count_nonzero(original)
    above = np.count_nonzero(values > MASK_THRESHOLD)
    if 2 * above >= marked:
        return None
    top = "half of 65535" if original.dtype.itemsize > 1 else MASK_THRESHOLD
    if not above:
        return f"holds {_listed(np.unique(original))} and nothing above {top}"
    known = np.unique(original)
    if known[-1] == (255 if original is values else 65535) and (known[:-1] <= _LAST_CLASS).all():
        return f"holds {_listed(known)}, which look like numbers of classes"
    return None


def _survey(image):
    """The colours of a mask, in front of black, at least as many as matter; whether any of them is no grey; and
    whether something can be seen though parts are transparent."""
    colours, coloured, lowest, highest = set(), False, 255, 0
    for _, part in parts(image):
        part = plain(part)
        if part.mode == "RGBA":
            low, high = part.getextrema()[3]
            lowest, highest = min(lowest, low), max(highest, high)
        seen = composed(part, "black").convert("RGB")
        if len(colours) <= _MOST_COLOURS:
            colours |= _colours(seen)
        red, green, blue = (np.asarray(channel) for channel in seen.split())
        high = np.maximum(np.maximum(red, green), blue)
        coloured = coloured or bool((high - np.minimum(np.minimum(red, green), blue) > _COLOURED).any())
    return colours, coloured, lowest < 255 and highest > 0


def _hides(image):
    """Whether something is drawn where a picture is transparent, as in a mask whose opacity was never set."""
    return image.has_transparency_data and any(
        low < high for _, part in parts(image) for low, high in plain(part).convert("RGBA").getextrema()[:3]
    )


def _colours(picture):
    """The colours of an RGB picture; of more than a few, some."""
    counted = picture.getcolors(_MOST_COLOURS)
    if counted:
        return {colour for _, colour in counted}
    pixels = np.asarray(picture).reshape(-1, 3)
    return {tuple(colour) for colour in np.unique(pixels[:: max(len(pixels) // 10000, 1)], axis=0).tolist()}


def _palette_of_two(image):
    """The colours of a palette of two entries, of which one is darker."""
    if image.mode == "P" and not image.has_transparency_data and len(image.palette.palette) == 6:
        first, second = tuple(image.palette.palette[:3]), tuple(image.palette.palette[3:])
        return (first, second) if _luminance(first) != _luminance(second) else None
    return None


def _luminance(colour):
    return 299 * colour[0] + 587 * colour[1] + 114 * colour[2]


def _seen(part):
    return composed(plain(part), "black").convert("RGB")


def _listed(values):
    """The first few of the values, and the last."""
    values = sorted(np.asarray(values).tolist()) if isinstance(values, np.ndarray) else sorted(values)
    return ", ".join(map(str, values)) if len(values) <= 6 else f"{', '.join(map(str, values[:5]))}, ..., {values[-1]}"
