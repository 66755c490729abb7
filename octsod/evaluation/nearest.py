"""The nearest pixel of an object, for every pixel of a picture: an exact Euclidean distance transform."""

from typing import NamedTuple

import numpy as np


class Nearest(NamedTuple):
    """For each pixel of a picture (H, W): the nearest pixel of the object and the square of the distance to it.

    rows, columns, squares: (H, W) int64. If several are equally near, it is the leftmost of them, then the topmost;
    so `scipy.ndimage.distance_transform_edt` decides, too. A pixel of the object is its own nearest.
    """

    rows: np.ndarray
    columns: np.ndarray
    squares: np.ndarray


def nearest_pixels(inside: np.ndarray) -> Nearest:
    """The nearest pixel of the object for each pixel of `inside`, (H, W) bool with at least one True.

    The transform of Felzenszwalb and Huttenlocher (*Distance Transforms of Sampled Functions*, Theory of Computing 8,
    2012), exact, since all numbers are integers: first the nearest object pixel in each column, then, along each row,
    the lower envelope of the parabolas that these raise, squared distance over column. Each parabola joins the envelope
    once and leaves it at most once. All rows are done at the same time, column by column.
    """
    height, width = inside.shape
    columns = np.flatnonzero(inside.any(axis=0))  # each holds a pixel for every row
    nearest = _nearest_in_lines(inside.T[columns])  # (columns, H)
    heights = (nearest - np.arange(height)) ** 2 + columns[:, None] ** 2  # parabolas, less the x**2 that all share
    owner = _lower_envelope(heights, columns, width)  # (H, W), indices in columns
    y, x = np.ogrid[:height, :width]
    rows, columns = nearest[owner, y], columns[owner]
    return Nearest(rows, columns, (rows - y) ** 2 + (columns - x) ** 2)


def _nearest_in_lines(inside):
    """(K, L) bool, a True in each line -> (K, L): the index in its line of the True that is nearest, the first such."""
    length = inside.shape[1]
    place = np.arange(length)
    far = 2 * length  # farther than anything in the line
    before = np.maximum.accumulate(np.where(inside, place, -far), axis=1)
    after = np.minimum.accumulate(np.where(inside, place, far)[:, ::-1], axis=1)[:, ::-1]
    return np.where(place - before <= after - place, before, after)


def _lower_envelope(heights, columns, width):
    """For each row and x < width: which k has the least heights[k, row] - 2*x*columns[k], the first such; (H, width).

    heights (K, H), columns (K,) ascending. Each row has a stack of those that are lowest somewhere, with the integer x
    from which on each is strictly lower than all before it. The first stays at the bottom, before the picture's edge.
    """
    count, lines = heights.shape
    stack, start = np.zeros((2, count, lines), np.int64)
    start[0] = -1
    top = np.zeros(lines, np.int64)
    everyone = np.arange(lines)
    for k in range(1, count):
        begin = np.empty(lines, np.int64)
        rows = everyone
        while rows.size:
            level = top[rows]
            rival = stack[level, rows]
            crossing = (heights[k, rows] - heights[rival, rows]) // (2 * (columns[k] - columns[rival])) + 1
            begin[rows] = crossing = np.clip(crossing, 0, width)
            rows = rows[crossing <= start[level, rows]]  # there the rival is nowhere the lowest any more
            top[rows] -= 1
        top += 1
        stack[top, everyone], start[top, everyone] = k, begin
    owner = np.zeros((lines, width + 1), np.int64)  # one more, for those that begin past the edge
    level, row = np.nonzero(np.arange(1, count)[:, None] <= top)
    owner[row, start[level + 1, row]] = stack[level + 1, row]
    return np.maximum.accumulate(owner[:, :width], axis=1)
