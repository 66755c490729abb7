"""How samples become the network's input and target: augmented, resized, normalised.

What is drawn at random is told apart from what is done to the pixels, so that a device may do the latter.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from .images import MEAN, STD, prepare, resize
from .masks import checked_pair

MARGIN = 14  # pixels: the most that augmentation cuts off at the top and left; one more at the bottom and right


class Parts(NamedTuple):
    """What a sample adds to a batch: its picture (H, W, 3) uint8; its mask (H, W) uint8, or None for none; further
    numbers and arrays, such as the number of a class."""

    image: np.ndarray
    mask: np.ndarray | None = None
    more: tuple[Any, ...] = ()


class Choices(NamedTuple):
    """What augmentation does to a picture.

    rows, columns: the part that is kept, along each axis as (first pixel, number of pixels). upside_down, mirrored:
    whether the order of its rows is reversed, and that of its columns. factors: those of brightness, contrast and
    saturation, see `recolour`; None leaves the colours as they are.
    """

    rows: tuple[int, int]
    columns: tuple[int, int]
    upside_down: bool = False
    mirrored: bool = False
    factors: Sequence[float] | None = None

    def part_of(self, array: np.ndarray) -> np.ndarray:
        """The part of a picture or a mask (H, W, ...), flipped: a view."""
        (top, height), (left, width) = self.rows, self.columns
        part = array[top : top + height, left : left + width]
        return part[:: -1 if self.upside_down else 1, :: -1 if self.mirrored else 1]


def pair_parts(sample: Any) -> Parts:
    """The parts of a `Sample`. Raises ValueError, which names it, if its mask does not fit its picture or is of
    uncertain meaning, such as one of 0 and 1."""
    return Parts(*checked_pair(sample, "prepare_pair", "sample"))


def pair_choices(
    shape: Sequence[int], generator: np.random.Generator, scale_crop: float = 1.0, colour: float = 0.0
) -> Choices:
    """How a picture of shape (H, W) and its mask are augmented, drawn from a generator: as by `augment`, then, if
    scale_crop is less than 1, cut down to a part with sides of a random share from [scale_crop, 1], at a random place;
    and if colour is not 0, recoloured by factors from [1 - colour, 1 + colour]."""
    (top, bottom), (left, right) = (
        generator.integers(0, min(MARGIN, (n - 1) // 4), size=2, endpoint=True).tolist() for n in shape
    )
    rows, columns = ((first, max(n - 1 - last, 1) - first) for n, first, last in zip(
        shape, (top, left), (bottom, right), strict=True
    ))  # fmt: skip
    flip, vertical = (generator.random(2) < 0.5).tolist()
    upside_down, mirrored = flip and vertical, flip and not vertical
    if scale_crop < 1:
        share, *place = generator.uniform((scale_crop, 0, 0), 1)
        rows, columns = _within(rows, share, place[0], upside_down), _within(columns, share, place[1], mirrored)
    factors = tuple(generator.uniform(1 - colour, 1 + colour, 3).astype(np.float32)) if colour else None
    return Choices(rows, columns, upside_down, mirrored, factors)


def _within(part, share, place, reversed_):
    """Of (first, count), the part with `share` of the count, at `place`, a number in [0, 1), once the order of all is
    reversed or not."""
    first, count = part
    side = max(int(share * count), 1)
    start = int(place * (count - side + 1))
    return first + (count - start - side if reversed_ else start), side


def crop_choices(
    shape: Sequence[int], generator: np.random.Generator, least: float = 0.35, aspect: float = 4 / 3
) -> Choices:
    """How a picture of shape (H, W) is augmented for telling classes apart, see `random_crop`."""
    height, width = shape
    share, ratio = generator.uniform(least, 1), np.exp(generator.uniform(-np.log(aspect), np.log(aspect)))
    rows = min(max(round(np.sqrt(share * height * width / ratio)), 1), height)
    columns = min(max(round(np.sqrt(share * height * width * ratio)), 1), width)
    top, left, mirrored = generator.random(3)
    top, left = int(top * (height - rows + 1)), int(left * (width - columns + 1))
    return Choices((top, rows), (left, columns), mirrored=bool(mirrored < 0.5))


def augment(image: np.ndarray, mask: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The authors' augmentation (csnet.md, section 5): a random crop of the border, then a flip with p = 0.5.

    image (H, W, 3), mask (H, W) -> views of both, smaller by 1 to 29 pixels on each axis; half of the flips are
    vertical, as in the authors' code. A picture smaller than 60 pixels loses less: at most about half.
    generator: a NumPy Generator, from which the same number of values is always drawn.
    """
    choices = pair_choices(mask.shape, generator)
    return choices.part_of(image), choices.part_of(mask)


def random_crop(
    image: np.ndarray, generator: np.random.Generator, least: float = 0.35, aspect: float = 4 / 3
) -> np.ndarray:
    """A part of a picture (H, W, 3), mirrored with p = 0.5: a view.

    Its share of the area is drawn from [least, 1], the logarithm of its aspect ratio evenly between those of 1/aspect
    and aspect, as far as the picture is large enough: the usual augmentation for telling classes apart (Szegedy et al.,
    2015). The same number of values is always drawn from the generator.
    """
    return crop_choices(image.shape[:2], generator, least, aspect).part_of(image)


def prepare_pair(
    sample: Any, size: int, generator: np.random.Generator | None = None, scale_crop: float = 1.0, colour: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A `Sample` for training: x (3, S, S) float32, its picture as by `prepare`; y (1, S, S) float32, its mask in
    [0, 1]. Given a generator, it is augmented, see `pair_choices`. Raises what `pair_parts` raises."""
    parts = pair_parts(sample)
    choices = None if generator is None else pair_choices(parts.image.shape[:2], generator, scale_crop, colour)
    return prepare_parts(parts, size, choices)


def prepare_parts(parts: Parts, size: int, choices: Choices | None = None) -> tuple[Any, ...]:
    """What a sample adds to the arrays of a batch: x (3, S, S) float32, its picture as by `prepare`; y (1, S, S)
    float32, its mask in [0, 1], if there is one; and its further parts. choices: of augmentation, None for none."""
    image, mask, more = parts
    if choices is not None:
        image = choices.part_of(image)
        mask = None if mask is None else choices.part_of(mask)
    x = prepare(image, size)
    if choices is not None and choices.factors is not None:
        x = recolour(x, choices.factors)
    if mask is None:
        return x, *more
    return x, np.divide(resize(mask[None], (size, size)), np.float32(255)), *more


LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB (ITU-R BT.601)


def recolour(x: np.ndarray, factors: Sequence[float]) -> np.ndarray:
    """A prepared picture x (3, H, W) float32 with its brightness, contrast and saturation each multiplied by a factor;
    colours stay between black and white."""
    brightness, contrast, saturation = np.asarray(factors, np.float32)
    deviation, mean = STD[:, None], MEAN[:, None]
    colours = x.reshape(3, -1) * deviation + mean
    grey = LUMINANCE @ colours
    colours = contrast * brightness * (saturation * colours + (1 - saturation) * grey)
    colours += (1 - contrast) * brightness * grey.mean()
    return ((colours.clip(0, 1) - mean) / deviation).reshape(x.shape)
