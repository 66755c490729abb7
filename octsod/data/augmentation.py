"""How samples become the network's input and target: augmented, resized, normalised."""

from typing import Any

import numpy as np

from .images import MEAN, STD, prepare, resize
from .masks import checked_pair

MARGIN = 14  # pixels: the most that augmentation cuts off at the top and left; one more at the bottom and right


def augment(image: np.ndarray, mask: np.ndarray, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The authors' augmentation (csnet.md, section 5): a random crop of the border, then a flip with p = 0.5.

    image (H, W, 3), mask (H, W) -> views of both, smaller by 1 to 29 pixels on each axis; half of the flips are
    vertical, as in the authors' code. A picture smaller than 60 pixels loses less: at most about half.
    generator: a NumPy Generator, from which the same number of values is always drawn.
    """
    height, width = mask.shape
    (top, bottom), (left, right) = (
        generator.integers(0, min(MARGIN, (n - 1) // 4), size=2, endpoint=True) for n in (height, width)
    )
    rows, cols = slice(top, max(height - 1 - bottom, 1)), slice(left, max(width - 1 - right, 1))
    image, mask = image[rows, cols], mask[rows, cols]
    flip, vertical = generator.random(2) < 0.5
    if flip:
        where = (slice(None, None, -1),) if vertical else (slice(None), slice(None, None, -1))
        image, mask = image[where], mask[where]
    return image, mask


def prepare_pair(
    sample: Any, size: int, generator: np.random.Generator | None = None, scale_crop: float = 1.0, colour: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """A `Sample` for training: x (3, S, S) float32, its picture as by `prepare`; y (1, S, S) float32, its mask in
    [0, 1].

    Given a generator, it is augmented: by `augment`, then, if scale_crop is less than 1, cut down to a part with sides
    of a random share from [scale_crop, 1], at a random place, and at last recoloured by `recolour`, if colour is not 0.
    Raises ValueError, which names the sample, if its mask does not fit its picture or is of uncertain meaning, such as
    one of 0 and 1.
    """
    image, mask = checked_pair(sample, "prepare_pair", "sample")
    if generator is not None:
        image, mask = augment(image, mask, generator)
        if scale_crop < 1:
            share, *place = generator.uniform((scale_crop, 0, 0), 1)
            image, mask = _part(image, mask, share, place)
    x = prepare(image, size)
    if generator is not None and colour:
        x = recolour(x, generator, colour)
    return x, np.divide(resize(mask[None], (size, size)), np.float32(255))


def _part(image, mask, share, place):
    """Both cut down to `share` of their sides, at `place`: two numbers in [0, 1)."""
    sides = [max(int(share * n), 1) for n in mask.shape]
    starts = [int(at * (n - side + 1)) for at, n, side in zip(place, mask.shape, sides, strict=True)]
    where = tuple(slice(start, start + side) for start, side in zip(starts, sides, strict=True))
    return image[where], mask[where]


LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of RGB (ITU-R BT.601)


def recolour(x: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    """A prepared picture x (3, H, W) float32 with its brightness, contrast and saturation each multiplied by a factor
    drawn from [1 - strength, 1 + strength]; colours stay between black and white."""
    brightness, contrast, saturation = generator.uniform(1 - strength, 1 + strength, 3).astype(np.float32)
    deviation, mean = STD[:, None], MEAN[:, None]
    colours = x.reshape(3, -1) * deviation + mean
    grey = LUMINANCE @ colours
    colours = contrast * brightness * (saturation * colours + (1 - saturation) * grey)
    colours += (1 - contrast) * brightness * grey.mean()
    return ((colours.clip(0, 1) - mean) / deviation).reshape(x.shape)


def random_crop(
    image: np.ndarray, generator: np.random.Generator, least: float = 0.35, aspect: float = 4 / 3
) -> np.ndarray:
    """A part of a picture (H, W, 3), mirrored with p = 0.5: a view.

    Its share of the area is drawn from [least, 1], the logarithm of its aspect ratio evenly between those of 1/aspect
    and aspect, as far as the picture is large enough: the usual augmentation for telling classes apart (Szegedy et al.,
    2015). The same number of values is always drawn from the generator.
    """
    height, width = image.shape[:2]
    share, ratio = generator.uniform(least, 1), np.exp(generator.uniform(-np.log(aspect), np.log(aspect)))
    rows = min(max(round(np.sqrt(share * height * width / ratio)), 1), height)
    cols = min(max(round(np.sqrt(share * height * width * ratio)), 1), width)
    top, left, mirrored = generator.random(3)
    top, left = int(top * (height - rows + 1)), int(left * (width - cols + 1))
    part = image[top : top + rows, left : left + cols]
    return part[:, ::-1] if mirrored < 0.5 else part
