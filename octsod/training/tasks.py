"""What a network is trained for: how samples become a batch, what the loss is, how a network is scored."""

import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .. import functional as f
from ..autograd import no_grad
from ..autograd.tensor import Tensor
from ..backend import is_array
from ..backend.arrays import numbers
from ..checks import require
from ..data.augmentation import Choices, Parts, pair_choices, pair_parts, prepare_parts
from ..evaluation.scoring import evaluate
from ..inference.prediction import predict
from ..nn import Module
from ..nn.module import evaluating
from ..pictures.contact_sheets import contact_sheet
from .settings import LOSSES

Stop = Callable[[], bool]


class Stopped(Exception):  # noqa: N818 (it is no error)
    """A validation was cut short."""


class Validated(NamedTuple):
    """scores: name -> number. pictures: name -> picture (H, W, 3) uint8 for the run's plots."""

    scores: Mapping[str, float]
    pictures: Mapping[str, np.ndarray] = types.MappingProxyType({})


class Task:
    """What a network is trained for. A subclass needs `prepare` and `loss`; the rest has defaults.

    A batch is what `prepare` makes of its samples: arrays, in order. Where a method takes `size`, it is the side in
    pixels that pictures have at this time of the run.

    titles: what charts call the loss and the scores, by their names.
    """

    titles: ClassVar[Mapping[str, str]] = {}

    def prepare(self, sample: Any, size: int, generator: np.random.Generator | None = None) -> Sequence[Any]:
        """The arrays and numbers that a sample adds to each of a batch's arrays; the same shapes for every sample.

        generator: to draw augmentation from, or None for none. Called in background threads.
        """
        raise TypeError(f"{type(self).__name__} needs a method `prepare`.")

    def loss(self, model: Module, *batch: Tensor) -> Tensor | tuple[Tensor, Mapping[str, Tensor]]:
        """What is minimised, a tensor of shape (); also, if wanted, terms of it to be logged by name, likewise."""
        raise TypeError(f"{type(self).__name__} needs a method `loss`.")

    def constants(self) -> tuple[Any, ...] | None:
        """What `loss` depends on besides arrays: while this stays the same, a step that was captured on a GPU may be
        replayed. None, the default: it never is. A `loss` that depends on nothing else may return ()."""
        return None

    def validate(self, model: Module, dataset: Any, size: int, stop: Stop = lambda: False) -> Validated:
        """Score a network on held-out samples; by default, with the mean loss and its terms, in eval mode.

        Raises Stopped as soon as `stop()` is true; call it now and then.
        """
        totals: dict[str, float] = {}
        for count, batch in self.batches(model, dataset, size, stop):
            loss, terms = split_loss(self.loss(model, *batch))
            for name, term in {"loss": loss, **terms}.items():
                totals[name] = totals.get(name, 0.0) + count * term.item()
        return Validated({name: total / len(dataset) for name, total in totals.items()})

    def batches(
        self, model: Module, dataset: Any, size: int, stop: Stop = lambda: False, count: int = 16
    ) -> Iterator[tuple[int, list[Tensor]]]:
        """For `validate`: (number of samples, tensors) of each `count` samples of a data set, without augmentation.
        Meanwhile, the model is in eval mode, and nothing is recorded for backward."""
        require(len(dataset) > 0, "validate", "dataset", "is empty", "at least one sample")
        with evaluating(model), no_grad():
            for first in range(0, len(dataset), count):
                if stop():
                    raise Stopped
                indices = range(first, min(first + count, len(dataset)))
                parts = zip(*(self.prepare(dataset[index], size) for index in indices), strict=True)
                yield len(indices), tensors(model, [np.stack(part) for part in parts])

    def resized(self, model: Any, size: int) -> None:
        """Samples are prepared at another size from now on; a task may note it in the network."""

    def rank(self, scores: Mapping[str, float]) -> Any:
        """What to compare scores by: the larger, the better. By default, the negative loss."""
        return -scores["loss"]


def split_loss(result: Any) -> tuple[Tensor, dict[str, Tensor]]:
    """What a task's `loss` returned, as (loss, terms)."""
    loss, terms = result if isinstance(result, tuple) else (result, {})
    if not isinstance(loss, Tensor) or loss.size != 1:
        was = f"has shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"is a {type(loss).__name__}"
        raise TypeError(f"step: `loss` {was}; expected a tensor of one number, or such a tensor and a dict of terms.")
    return loss, dict(terms)


def tensors(model: Module, batch: Sequence[Any]) -> list[Tensor]:
    """A batch's arrays on the model's device, those of floating-point numbers in its parameters' dtype."""
    device = model.device
    dtype = next((p.dtype for p in model.parameters()), np.dtype("float32"))
    found = []
    for array in batch:
        if isinstance(array, np.ndarray) or not is_array(array):
            array = numbers(array, "step: `batch`")
            array = array.astype(dtype, copy=False) if array.dtype.kind == "f" else array
        found.append(Tensor.on(device, array))
    return found


SIDE_WEIGHT = 0.4  # of each side output's loss, beside the whole network's


class PictureTask(Task):
    """A task whose samples have a picture each, perhaps with a mask. A subclass needs `parts`, `choices` and `loss`.

    The first two make batches wherever the network is: by `prepare` on a host, by a `data.DeviceLoader` on another
    device. A subclass that has a `prepare` of its own gets what that makes, on any device.
    """

    def parts(self, sample: Any) -> Parts:
        """The picture of a sample, its mask, if any, and what else it adds to a batch. Called in background threads."""
        raise TypeError(f"{type(self).__name__} needs a method `parts`.")

    def choices(self, shape: Sequence[int], generator: np.random.Generator) -> Choices:
        """The augmentation of a picture of shape (H, W), drawn from the generator. Called in background threads."""
        raise TypeError(f"{type(self).__name__} needs a method `choices`.")

    def prepare(self, sample, size, generator=None):
        parts = self.parts(sample)
        choices = None if generator is None else self.choices(parts.image.shape[:2], generator)
        return prepare_parts(parts, size, choices)


class Saliency(PictureTask):
    """Salient object detection, with `data.Sample`s: (N, 3, S, S) pictures and (N, 1, S, S) masks in [0, 1].

    loss: "bce", binary cross-entropy; "bce+iou" and "bce+dice" add a loss of the region. Where a network returns a list
    of logits, as one with side outputs does in training, the loss of the first is that of the network; those of the
    others are averaged, multiplied by 0.4, and added. scale_crop, colour: of augmentation, see `data.augmentation`.
    Scores are max_f and mae by the evaluation protocol (csnet.md, section 6); the highest max_f is the best, then the
    lowest mae.
    """

    titles: ClassVar[Mapping[str, str]] = {"loss": "Loss", "max_f": "max F-measure", "mae": "mean absolute error"}

    def __init__(self, loss: str = "bce", scale_crop: float = 1.0, colour: float = 0.0):
        if loss not in LOSSES:
            raise ValueError(f"Saliency: `loss` is {loss!r}; expected {' or '.join(LOSSES)}.")
        self.terms = loss.split("+")
        self.scale_crop, self.colour = scale_crop, colour

    def parts(self, sample):
        return pair_parts(sample)

    def choices(self, shape, generator):
        return pair_choices(shape, generator, self.scale_crop, self.colour)

    def constants(self):
        return tuple(self.terms)

    def loss(self, model, x, y):
        outputs = model(x)
        logits, *sides = outputs if isinstance(outputs, (list, tuple)) else [outputs]
        terms = {name: _LOSSES[name](logits, y) for name in self.terms}
        total = _sum(terms.values())
        if sides:
            terms["sides"] = _sum(_LOSSES[name](side, y) for side in sides for name in self.terms) / len(sides)
            total = total + terms["sides"] * SIDE_WEIGHT
        return total, terms if len(terms) > 1 else {}

    def validate(self, model, dataset, size, stop=lambda: False):
        def check(done, name):
            if stop():
                raise Stopped

        result = evaluate(model, dataset, size, on_progress=check)
        return Validated({"max_f": result.max_f, "mae": result.mae}, {"predictions": sheet(model, dataset, size)})

    def resized(self, model, size):
        model.size = size

    def rank(self, scores):
        return scores["max_f"], -scores["mae"]


_LOSSES: dict[str, Callable[[Any, Any], Tensor]] = {
    "bce": f.binary_cross_entropy_with_logits, "iou": f.iou_loss, "dice": f.dice_loss,
}  # fmt: skip


def _sum(values):
    first, *rest = values
    for value in rest:
        first = first + value
    return first


def sheet(model: Any, dataset: Any, size: int, columns: int = 8) -> np.ndarray:
    """A sheet (H, W, 3) uint8 of some of the pictures, their masks, and what the model finds."""
    chosen = np.unique(np.linspace(0, len(dataset) - 1, columns).astype(int))
    samples = [dataset[int(index)] for index in chosen]
    rows = zip(*((s.image, s.mask, predict(s.image, model, size)) for s in samples), strict=True)
    return contact_sheet(rows, ("pictures held out", "masks", "found"), cell=128)
