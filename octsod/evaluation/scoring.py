"""A network's scores on a data set, by the evaluation protocol (csnet.md, section 6)."""

import contextlib
import dataclasses
import os
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from ..checks import require_integer, require_samples
from ..data.datasets import Dataset, FolderDataset
from ..data.images import prepare
from ..data.masks import checked_pair
from ..data.workers import Workers, delayed
from ..errors import FileError, OctsodError
from ..inference.prediction import infer, to_bytes
from ..models import CSNet
from ..models.files import require_salience, side_for
from ..threads import get_num_threads
from .all_scores import AllScores, average_all, score_all
from .metrics import BETA2, EPSILON, MASK_THRESHOLD, Scores, average, score

AHEAD = 2  # how many batches are read ahead of the network, and how many may wait behind it to be scored


class PictureScores(NamedTuple):
    """A picture's place in the data set, its name and its scores; all_scores: the field's others, if asked for.

    object_pixels: of its mask; if 0, the mask holds no object, and F is 1 where the network finds nothing.
    """

    index: int  # type: ignore[assignment]  # a method of tuple has that name, too
    name: str
    scores: Scores
    object_pixels: int
    all_scores: AllScores | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """What `evaluate` found.

    scores: the data set's, with the curves. pictures: the scores of each picture, in the order of the data set. size:
    that of the square the network saw. seconds: how long it took; network_seconds: how much of that in the network.
    all_scores: the field's other scores by name (`AllScores.as_dict`); None unless asked for.
    """

    scores: Scores
    pictures: list[PictureScores]
    size: int
    seconds: float
    network_seconds: float
    all_scores: dict[str, float] | None = None

    @property
    def max_f(self) -> float:
        """The F-measure at the threshold where it is highest."""
        return self.scores.max_f

    @property
    def mae(self) -> float:
        """The mean absolute error, in [0, 1]."""
        return self.scores.mae

    @property
    def images(self) -> int:
        """How many pictures were scored."""
        return len(self.pictures)

    @property
    def without_object(self) -> int:
        """How many of the masks hold no object: no pixel above `metrics.MASK_THRESHOLD`."""
        return sum(picture.object_pixels == 0 for picture in self.pictures)

    @property
    def images_per_s(self) -> float:
        """Pictures per second, from file to score."""
        return self.images / self.seconds

    @property
    def protocol(self) -> dict[str, Any]:
        """What the scores mean, to be stored with them: a dict of numbers and strings."""
        protocol = {
            "size": self.size,
            "resize": "bilinear, half-pixel centres, mirrored border, no anti-aliasing",
            "prediction": "sigmoid, resized to the mask's size, times 255, truncated to 8 bits",
            "thresholds": [0, 255],
            "mask_threshold": MASK_THRESHOLD,
            "beta2": BETA2,
            "epsilon": EPSILON,
            "averaged": "precision and recall over pictures, then F; MAE over pictures",
        }
        if self.all_scores is not None:
            protocol["all_scores"] = "as pysodmetrics: predictions stretched to [0, 1]; curves averaged over pictures"
        return protocol

    def worst(self, count: int) -> list[PictureScores]:
        """The `count` pictures with the lowest F-measure at the data set's threshold; if equal, highest MAE first."""
        threshold = self.scores.threshold
        return sorted(self.pictures, key=lambda p: (p.scores.f[threshold], -p.scores.mae, p.index))[:count]


def evaluate(
    model: CSNet,
    data: str | os.PathLike[str] | Dataset,
    size: int | None = None,
    batch_size: int = 16,
    on_failure: Callable[[FileError], None] | None = None,
    on_progress: Callable[[int, str], None] | None = None,
    all_scores: bool = False,
) -> Evaluation:
    """Score a CSNet on pictures with masks.

    data: a folder, as for `data.FolderDataset`, or anything with a length whose items are `data.Sample`s.
    size: the side in pixels of the square that the network sees, a multiple of `model.configuration.multiple`; by
    default `model.size`, the side it was trained at; if that takes over 1 GB, it must be given.
    batch_size: pictures that the network sees at once. on_failure: called with the FileError of each picture that
    cannot be scored, while the rest are scored; without it, the first error is raised. on_progress: called with the
    number of pictures done and the name of the last one. all_scores: also compute the scores of `AllScores`, in the
    same threads: 10 to 30 ms more for a picture of 400x300.

    `get_num_threads()` threads read, resize and score pictures while the network runs; a few batches are in memory at a
    time. The scores do not depend on the batch size or the threads. The model is left in its own mode.
    Raises FileError if the folder or a picture cannot be read, OctsodError if no picture could be scored or the
    network's output is not finite, ValueError if an argument or a mask's size does not fit, a mask is of uncertain
    meaning (`data.masks`) or the network does not find salient objects.
    """
    require_salience(model, "evaluate")
    dataset = FolderDataset(data) if isinstance(data, (str, os.PathLike)) else data
    require_samples(dataset, "evaluate", "data")
    batch_size = require_integer(batch_size, "evaluate", "batch_size", 1)
    size = side_for(model, size, "evaluate")
    # Rejects sizes that the network does not accept, and loads or compiles its kernels before the clock starts.
    infer(model, prepare(np.zeros((1, 1, 3), np.uint8), size)[None])

    pictures, done, network_seconds, start = [], 0, 0.0, time.perf_counter()
    with contextlib.ExitStack() as stack:
        pool = Workers(get_num_threads())
        stack.callback(pool.shutdown, wait=True, cancel_futures=True)

        def read():
            for first in range(0, len(dataset), batch_size):
                indices = range(first, min(first + batch_size, len(dataset)))
                x = np.empty((len(indices), 3, size, size), np.float32)
                yield x, [pool.submit(_read, dataset, index, x[i]) for i, index in enumerate(indices)]

        def through_network():
            nonlocal network_seconds, done
            for x, reading in delayed(read(), AHEAD):
                samples = [_result(future, on_failure) for future in reading]
                good = [i for i, sample in enumerate(samples) if sample is not None]
                done += len(samples) - len(good)
                if good:
                    before = time.perf_counter()
                    salience = infer(model, x if len(good) == len(x) else x[good])
                    network_seconds += time.perf_counter() - before
                    found = zip(good, salience, strict=True)
                    yield [pool.submit(_score, *samples[i], s[0], all_scores) for i, s in found]

        for scoring in delayed(through_network(), AHEAD):
            pictures += [future.result() for future in scoring]
            done += len(scoring)
            if on_progress is not None:
                on_progress(done, pictures[-1].name)
    if not pictures:
        raise OctsodError(f"none of the {len(dataset)} pictures could be scored.")
    scores = average(picture.scores for picture in pictures)
    others = average_all(p.all_scores for p in pictures).as_dict() if all_scores else None
    return Evaluation(scores, pictures, size, time.perf_counter() - start, network_seconds, others)


def _read(dataset, index, x):
    """Prepare picture `index` in `x` (3, S, S); returns what is needed to score it."""
    sample = dataset[index]
    image, mask = checked_pair(sample, "evaluate", "data")
    x[...] = prepare(image, x.shape[1])
    return index, sample.name, mask


def _result(future, on_failure):
    """What a thread has read; None if it failed and `on_failure` was told."""
    try:
        return future.result()
    except FileError as error:
        if on_failure is None:
            raise
        on_failure(error)
        return None


def _score(index, name, mask, salience, all_scores):
    prediction = to_bytes(salience, mask.shape)
    others = score_all(prediction, mask) if all_scores else None
    objects = int(np.count_nonzero(mask > MASK_THRESHOLD))
    return PictureScores(index, name, score(prediction, mask), objects, others)
