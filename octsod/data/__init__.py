"""Data for training: folders of pictures and masks, the authors' augmentation, batches prepared in the background."""

from .augmentation import MARGIN, augment, prepare_pair, random_crop, recolour
from .classes import ClassDataset, Labelled
from .datasets import LAYOUTS, Dataset, FolderDataset, Sample, Subset, hold_out
from .loader import Batch, Loader

__all__ = [
    "LAYOUTS",
    "MARGIN",
    "Batch",
    "ClassDataset",
    "Dataset",
    "FolderDataset",
    "Labelled",
    "Loader",
    "Sample",
    "Subset",
    "augment",
    "hold_out",
    "prepare_pair",
    "random_crop",
    "recolour",
]
