"""What else the field reports of maps of salience: S-measure, E-measure, weighted F, mean and adaptive F.

Conventions are those of the package pysodmetrics (1.6), which many papers use. They differ from those of csnet.md,
section 6, which max F and MAE follow (metrics.py):

- A pixel belongs to the object if its mask is above `MASK_THRESHOLD`. That is the same.
- Each prediction is divided by 255 and then stretched: its lowest value becomes 0, its highest 1. If all its values are
  equal, they stay.
- A curve has an entry for each threshold t of 0 to 255, and takes the pixels with floor(255 * value) >= t as found. The
  floor is that of the floating-point product, so rounding moves some values down by one.
- An adaptive score takes the pixels with value >= min(2 * mean of the map, 1) as found.
- Curves are averaged over the pictures; the mean or the maximum over thresholds comes last.
- `EPSILON` is the distance from 1 to the next float64.
"""

import dataclasses
from collections.abc import Iterable

import numpy as np

from ..checks import require
from .metrics import BETA2, MASK_THRESHOLD, require_pair
from .nearest import nearest_pixels

ALPHA = 0.5  # the object's share in the S-measure; the regions have the rest
EPSILON = float(np.finfo(np.float64).eps)  # keeps divisors above 0
HALF_LIFE = 5  # weighted F: pixels from the object to where a false alarm has half of its extra weight
RADIUS, SIGMA = 3, 5  # weighted F: the Gaussian window, 7x7


@dataclasses.dataclass(frozen=True, eq=False)
class AllScores:
    """The field's scores besides max F and MAE: for one picture (`score_all`), or averaged over many (`average_all`).

    s_measure: Fan et al., ICCV 2017. e_curve, f_curve: (256,) float64, E-measure (Fan et al., IJCAI 2018) and F-measure
    (Achanta et al., CVPR 2009, beta squared 0.3) at each threshold; e_measure_adaptive, adaptive_f: those at the
    adaptive threshold. weighted_f: Margolin et al., CVPR 2014, beta squared 1. Higher is better for all of them.
    """

    s_measure: float
    e_curve: np.ndarray
    e_measure_adaptive: float
    weighted_f: float
    f_curve: np.ndarray
    adaptive_f: float

    def as_dict(self) -> dict[str, float]:
        """The scores by name. Means and maxima are of the curves here: a picture's own, or the averaged ones.

        max_f_of_mean_curve: what papers that use pysodmetrics call max F, the maximum of F averaged over the pictures.
        `Scores.max_f` averages precision and recall instead and makes F of these, and does not stretch predictions.
        """
        return {
            "s_measure": self.s_measure,
            "e_measure_max": float(self.e_curve.max()),
            "e_measure_mean": float(self.e_curve.mean()),
            "e_measure_adaptive": self.e_measure_adaptive,
            "weighted_f": self.weighted_f,
            "mean_f": float(self.f_curve.mean()),
            "adaptive_f": self.adaptive_f,
            "max_f_of_mean_curve": float(self.f_curve.max()),
        }


def score_all(prediction: np.ndarray, mask: np.ndarray) -> AllScores:
    """The scores of one map of salience, (H, W) uint8, against its mask, (H, W) uint8 with 255 for the object.

    Raises ValueError if they are something else, empty, not of the same size, or the mask's meaning is uncertain.
    """
    require_pair(prediction, mask, "score_all")
    inside = mask > MASK_THRESHOLD
    levels = np.arange(256) / 255
    low, high = levels[prediction.min()], levels[prediction.max()]
    if low < high:
        levels = np.clip((levels - low) / (high - low), 0, 1)
    values = levels[prediction]
    steps = (levels * 255).astype(np.uint8)[prediction]
    found = values >= min(2 * values.mean(), 1)
    objects = np.count_nonzero(inside)
    at_levels = _at_least(steps[inside]), _at_least(steps.reshape(-1))
    adaptive = np.count_nonzero(found & inside), np.count_nonzero(found)
    return AllScores(
        s_measure=_s_measure(values, inside),
        e_curve=_e_measure(*at_levels, objects, mask.size),
        e_measure_adaptive=float(_e_measure(*adaptive, objects, mask.size)),
        weighted_f=_weighted_f(values, inside),
        f_curve=_f_measure(*at_levels, objects),
        adaptive_f=float(_f_measure(*adaptive, objects)),
    )


def average_all(scores: Iterable[AllScores]) -> AllScores:
    """The data set's scores: those of its pictures, averaged; curves threshold by threshold."""
    scores = list(scores)
    require(len(scores) > 0, "average_all", "scores", "is empty", "at least one picture's")
    return AllScores(
        s_measure=float(np.mean([s.s_measure for s in scores])),
        e_curve=np.mean([s.e_curve for s in scores], axis=0),
        e_measure_adaptive=float(np.mean([s.e_measure_adaptive for s in scores])),
        weighted_f=float(np.mean([s.weighted_f for s in scores])),
        f_curve=np.mean([s.f_curve for s in scores], axis=0),
        adaptive_f=float(np.mean([s.adaptive_f for s in scores])),
    )


def _at_least(values):
    """(256,): how many of `values` (N,) uint8 are at or above each threshold."""
    return np.bincount(values, minlength=256)[::-1].cumsum()[::-1]


def _f_measure(hits, positives, objects):
    """The F-measure of binary maps: (1 + b)*P*R / (b*P + R), where P = hits/positives, R = hits/objects, b = BETA2.

    It is 0 without hits. Written in counts, P and R need not be defined; any divisor will do where there are no hits.
    """
    return (1 + BETA2) * hits / np.maximum(BETA2 * objects + positives, 1)


def _e_measure(hits, positives, objects, size):
    """The E-measure of binary maps; Fan et al. 2018, section 3.

    With p and g, map and mask less their means over the picture (the bias matrices), a pixel's alignment is
    xi = 2*p*g / (p*p + g*g), and the score is the mean of (1 + xi)**2 / 4. In a binary map there are four kinds of
    pixels, so their numbers will do. Without an object, or where all is object, the share of pixels that agree counts.
    The paper's mean divides by size; code in use, and so this, divides by size - 1. So a perfect map's score exceeds 1
    by 1/(size - 1), and for a picture of a single pixel it is 0 or 1/EPSILON.
    """
    if objects == 0:
        total = size - positives
    elif objects == size:
        total = positives
    else:
        p, g = positives / size, objects / size
        kinds = (
            (hits, 1 - p, 1 - g), (positives - hits, 1 - p, -g), (objects - hits, -p, 1 - g),
            (size - positives - objects + hits, -p, -g),
        )  # fmt: skip
        total = sum(count * (1 + 2 * a * b / (a * a + b * b + EPSILON)) ** 2 / 4 for count, a, b in kinds)
    return total / (size - 1 + EPSILON)


def _s_measure(values, inside):
    """The S-measure, ALPHA*S_o + (1 - ALPHA)*S_r, or 0 if that is negative; Fan et al. 2017, section 3.

    values: (H, W) float64 in [0, 1]; inside: (H, W) bool. S_o, object-aware: 2*m / (m*m + 1 + s) of the values inside
    the object and of 1 - values outside, m their mean and s their standard deviation, weighted by the areas. S_r,
    region-aware: the similarity of the four blocks into which the object's centroid cuts the picture, weighted by
    their areas. The centroid is rounded, halves to even; its row and column belong to the upper and left blocks.
    Without an object, the score is 1 - the mean value; where all is object, the mean value.

    A block without pixels counts for nothing. (pysodmetrics returns NaN if the centroid lies in the last row or
    column.)
    """
    share = np.count_nonzero(inside) / inside.size
    if share == 0:
        return float(1 - values.mean())
    if share == 1:
        return float(values.mean())
    of_object = share * _uniformity(values[inside]) + (1 - share) * _uniformity(1 - values[~inside])
    row, column = (int(np.rint(places.mean())) + 1 for places in np.nonzero(inside))
    of_regions = 0.0
    for rows in (slice(row), slice(row, None)):
        for columns in (slice(column), slice(column, None)):
            block = values[rows, columns]
            if block.size:
                of_regions += block.size / values.size * _similarity(block, inside[rows, columns])
    return max(0.0, float(ALPHA * of_object + (1 - ALPHA) * of_regions))


def _uniformity(values):
    """How close values (N,) are to 1 and to each other: O_FG and O_BG of the S-measure."""
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return 2 * mean / (mean * mean + 1 + deviation + EPSILON)


def _similarity(x, y):
    """Structural similarity of two blocks: 4*mx*my*sxy / ((mx*mx + my*my) * (sx + sy)), of means and (co)variances.

    0 if the numerator is 0; but 1 if the denominator is, too, as for two uniform blocks, whatever their values. Where
    rounding of its mean gives a uniform block some variance, the result is 0 instead, here as in pysodmetrics.
    """
    mx, my = x.mean(), y.mean()
    dx, dy = x - mx, y - my
    pixels = x.size - 1 + EPSILON
    sx, sy, sxy = (dx * dx).sum() / pixels, (dy * dy).sum() / pixels, (dx * dy).sum() / pixels
    upper, lower = 4 * mx * my * sxy, (mx * mx + my * my) * (sx + sy)
    return upper / (lower + EPSILON) if upper != 0 else float(lower == 0)


def _weighted_f(values, inside):
    """The weighted F-measure, 2*P*R / (P + R); Margolin et al. 2014, section 4. 0 without an object.

    values: (H, W) float64 in [0, 1]; inside: (H, W) bool. Errors are E = abs(values - inside). A missed pixel of the
    object counts less where the object is found around it: the smaller of E and of E smoothed by a Gaussian, for which
    pixels outside of the object have the error of the object's nearest pixel. A false alarm weighs 2 - 0.5**(d/5), d
    its distance from the object. From these weighted errors, hits = object - errors inside, R = hits/object and
    P = hits / (hits + errors outside).
    """
    objects = np.count_nonzero(inside)
    if objects == 0:
        return 0.0
    error = np.abs(values - inside)
    nearest = nearest_pixels(inside)
    smooth = _smooth(error[nearest.rows, nearest.columns])
    hits = objects - np.minimum(error, smooth)[inside].sum()
    outside = ~inside
    false = (error[outside] * (2 - 0.5 ** (np.sqrt(nearest.squares[outside]) / HALF_LIFE))).sum()
    recall, precision = hits / objects, hits / (hits + false + EPSILON)
    return float(2 * recall * precision / (recall + precision + EPSILON))


def _smooth(array):
    """(H, W) filtered by a Gaussian window of sum 1; beyond the border is 0."""
    weights = np.exp(-(np.arange(-RADIUS, RADIUS + 1) ** 2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for _ in range(2):  # along the columns, then along the rows
        padded = np.pad(array, ((RADIUS, RADIUS), (0, 0)))
        array = sum(weight * padded[i : i + len(array)] for i, weight in enumerate(weights)).T
    return array
