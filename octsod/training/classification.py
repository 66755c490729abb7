"""Classification: a CSNet with classes learns to tell kinds of pictures apart."""

from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from .. import functional as f
from ..data.augmentation import Parts, crop_choices
from ..data.classes import checked_label
from ..evaluation.classification import evaluate_classes
from ..pictures.confusion import confusion_matrix
from .tasks import PictureTask, Stopped, Validated


class Classification(PictureTask):
    """Which of several classes a picture belongs to, with `data.Labelled` samples: (N, 3, S, S) pictures, (N,) numbers.

    The loss is cross-entropy; scores are top1, the share of pictures whose likeliest class is theirs, and the mean
    cross-entropy. Training pictures are cropped and mirrored (`data.random_crop`).
    """

    titles: ClassVar = {"loss": "Loss (cross-entropy)", "top1": "top-1 accuracy", "cross_entropy": "cross-entropy"}

    def __init__(self, classes: Sequence[str]):
        self.classes = tuple(classes)

    def parts(self, sample):
        image, label = checked_label(sample, "Classification", "sample")
        return Parts(image, more=(np.int64(label),))

    def choices(self, shape, generator):
        return crop_choices(shape, generator)

    def constants(self):
        return ()

    def loss(self, model, x, labels):
        return f.cross_entropy(model(x), labels)

    def validate(self, model, dataset, size, stop=lambda: False):
        def check(done, name):
            if stop():
                raise Stopped

        scores = evaluate_classes(model, dataset, size, on_progress=check)
        pictures = {"confusion": confusion_matrix(scores.confusion, self.classes)}
        return Validated({"top1": scores.top1, "cross_entropy": scores.cross_entropy}, pictures)

    def resized(self, model, size):
        model.size = size

    def rank(self, scores):
        return scores["top1"], -scores["cross_entropy"]
