"""Data for training: folders of pictures and masks, the authors' augmentation, batches prepared in the background."""

from .augmentation import MARGIN, augment
from .datasets import LAYOUTS, Dataset, FolderDataset, Sample, Subset, hold_out
from .loader import Batch, Loader

__all__ = [
    "LAYOUTS",
    "MARGIN",
    "Batch",
    "Dataset",
    "FolderDataset",
    "Loader",
    "Sample",
    "Subset",
    "augment",
    "hold_out",
]
