"""How well a network tells classes of pictures apart."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd import Tensor, no_grad
from ..checks import require, require_integer, require_samples
from ..data.classes import ClassDataset, checked_label
from ..data.images import prepare
from ..data.workers import Workers
from ..errors import FileError, OctsodError
from ..functional import cross_entropy
from ..models.files import architecture_of, side_for
from ..nn.module import evaluating
from ..threads import get_num_threads


@dataclasses.dataclass(frozen=True, eq=False)
class ClassScores:
    """confusion: (K, K) int64, how many pictures of each class (row) were taken for each (column). cross_entropy: the
    mean over pictures, in nats. classes: their names. size: the side in pixels that the network saw."""

    confusion: np.ndarray
    cross_entropy: float
    classes: tuple[str, ...]
    size: int

    @property
    def images(self) -> int:
        """How many pictures were scored."""
        return int(self.confusion.sum())

    @property
    def top1(self) -> float:
        """The share of pictures whose likeliest class is theirs."""
        return float(np.trace(self.confusion) / self.confusion.sum())

    @property
    def recall(self) -> np.ndarray:
        """(K,): the same of each class alone; nan for a class without pictures."""
        counts = self.confusion.sum(axis=1)
        return np.divide(np.diag(self.confusion), counts, out=np.full(len(counts), np.nan), where=counts > 0)


def class_names(model: Any) -> tuple[str, ...]:
    """The names of a network's classes; without labels, their numbers from 0."""
    return tuple(model.labels) or tuple(map(str, range(model.configuration.classes)))


def evaluate_classes(
    model: Any, data: Any, size: int | None = None, batch_size: int = 32,
    on_failure: Callable[[FileError], None] | None = None, on_progress: Callable[[int, str], None] | None = None,
) -> ClassScores:  # fmt: skip
    """Score a CSNet with classes on pictures.

    data: a path, as for `data.ClassDataset`, or a data set of `data.Labelled` samples. The rest is as for `evaluate`.
    Raises FileError if the data, a folder of it or a picture cannot be read, OctsodError if no picture could be scored
    or the network's output is not finite, ValueError if the network tells no classes apart or an argument does not fit.
    """
    op, classes = "evaluate_classes", getattr(getattr(model, "configuration", None), "classes", 0)
    require(classes > 0, op, "model", f"is a {architecture_of(model)} without classes", "a CSNet with classes")
    labels = class_names(model)
    require(len(labels) == classes, op, "model", f"has {len(labels)} labels for {classes} classes", "one for each")
    dataset = ClassDataset(data, labels) if isinstance(data, (str, os.PathLike)) else data
    require_samples(dataset, op, "data")
    batch_size, side = require_integer(batch_size, op, "batch_size", 1), side_for(model, size, op)
    confusion, total = np.zeros((classes, classes), np.int64), 0.0

    for error in getattr(dataset, "failures", ()):
        if on_failure is None:
            raise error
        on_failure(error)

    def read(index):
        try:
            sample = dataset[index]
        except FileError as error:
            if on_failure is None:
                raise
            return error
        image, label = checked_label(sample, op, "data")
        require(label < classes, op, "data", f"has the class {label} of {sample.name}", f"numbers below {classes}")
        return sample.name, prepare(image, side), label

    pool = Workers(get_num_threads())
    try:
        with evaluating(model), no_grad():
            for first in range(0, len(dataset), batch_size):
                indices = range(first, min(first + batch_size, len(dataset)))
                found = [reading.result() for reading in [pool.submit(read, index) for index in indices]]
                for error in found:
                    if isinstance(error, FileError):
                        on_failure(error)  # type: ignore[misc]
                good = [entry for entry in found if not isinstance(entry, FileError)]
                if good:
                    names, pictures, truth = zip(*good, strict=True)
                    x = np.stack(pictures).astype(model.dtype, copy=False)
                    logits = model(Tensor.on(model.device, x))
                    values = logits.numpy()
                    if not np.isfinite(values).all():
                        raise OctsodError("the network's output is not finite; its weights are damaged or untrained.")
                    np.add.at(confusion, (truth, values.argmax(axis=1)), 1)
                    total += len(truth) * cross_entropy(logits, np.array(truth, np.int64)).item()
                    if on_progress is not None:
                        on_progress(indices[-1] + 1, names[-1])
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if not confusion.sum():
        raise OctsodError(f"none of the {len(dataset)} pictures could be scored.")
    return ClassScores(confusion, total / int(confusion.sum()), tuple(labels), side)
