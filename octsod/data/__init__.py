"""Data for training: folders of pictures and masks, the authors' augmentation, batches made in the background."""

from .augmentation import MARGIN, augment
from .datasets import LAYOUTS, FolderDataset, Sample, Subset, hold_out
from .loader import Batch, Loader

__all__ = ["LAYOUTS", "MARGIN", "Batch", "FolderDataset", "Loader", "Sample", "Subset", "augment", "hold_out"]
