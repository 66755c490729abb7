"""The authors' augmentation of training pictures."""

import numpy as np

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
