"""Max F-measure and mean absolute error of maps of salience, by the evaluation protocol (csnet.md, section 6)."""

import dataclasses
import functools
from collections.abc import Iterable

import numpy as np

from ..backend.arrays import is_plain
from ..checks import described, require
from ..data.masks import MASK_THRESHOLD, doubt_about

BETA2 = 0.3  # beta squared: precision counts for more than recall
EPSILON = 1e-4  # added to numerator and denominator of precision and recall


@dataclasses.dataclass(frozen=True, eq=False)
class Scores:
    """How well maps of salience fit their masks: for one picture (`score`), or averaged over many (`average`).

    precision, recall: (256,) float64; entry t takes the pixels above t as the object. mae: mean absolute error in
    [0, 1]. From these:
    f: (256,), the F-measure (1 + BETA2)*P*R / (BETA2*P + R) at each threshold; threshold: the one where it is highest,
    or the lowest such; max_f: the F-measure there.
    """

    precision: np.ndarray
    recall: np.ndarray
    mae: float

    @functools.cached_property
    def f(self) -> np.ndarray:
        return (1 + BETA2) * self.precision * self.recall / (BETA2 * self.precision + self.recall)

    @property
    def threshold(self) -> int:
        return int(self.f.argmax())

    @property
    def max_f(self) -> float:
        return float(self.f.max())


def score(prediction: np.ndarray, mask: np.ndarray) -> Scores:
    """The scores of one map of salience, (H, W) uint8, against its mask, (H, W) uint8 with 255 for the object.

    A mask without an object has a recall of 1, and a precision of 1 where nothing is found, of almost 0 elsewhere.
    Raises ValueError if they are something else, empty, or not of the same size, and for a mask of uncertain meaning
    (`data.masks`), such as one of 0 and 1.
    """
    require_pair(prediction, mask, "score")
    inside = mask > MASK_THRESHOLD
    hits, positives = _above(prediction[inside]), _above(prediction.reshape(-1))
    difference = np.maximum(prediction, mask) - np.minimum(prediction, mask)
    return Scores(
        precision=(hits + EPSILON) / (positives + EPSILON),
        recall=(hits + EPSILON) / (np.count_nonzero(inside) + EPSILON),
        mae=int(difference.sum(dtype=np.int64)) / (255 * mask.size),
    )


def require_pair(prediction: np.ndarray, mask: np.ndarray, op: str) -> None:
    """Raise ValueError unless both are (H, W) uint8, not empty and of the same size, and the mask is certain."""
    for name, array in (("prediction", prediction), ("mask", mask)):
        require(is_plain(array, 2) and array.size > 0, op, name, described(array), "uint8 (H, W), not empty")
    require(prediction.shape == mask.shape, op, "prediction", f"is {prediction.shape}",
            f"{mask.shape}, the size of `mask`")  # fmt: skip
    doubt = doubt_about(mask)
    require(doubt is None, op, "mask", doubt, "255 for the object and 0 for all else")


def _above(values):
    """(256,): how many of `values` (N,) uint8 are above each threshold."""
    return values.size - np.bincount(values, minlength=256).cumsum()


def average(scores: Iterable[Scores]) -> Scores:
    """The data set's scores: precision, recall and mae averaged over its pictures' (F-measures are not)."""
    scores = list(scores)
    require(len(scores) > 0, "average", "scores", "is empty", "at least one picture's")
    return Scores(
        np.mean([s.precision for s in scores], axis=0),
        np.mean([s.recall for s in scores], axis=0),
        float(np.mean([s.mae for s in scores])),
    )
