"""Data for training: folders of pictures and masks, the authors' augmentation, batches made in the background."""

from .augmentation import MARGIN, Choices, Parts, augment, prepare_pair, random_crop, recolour
from .classes import ClassDataset, Labelled
from .datasets import LAYOUTS, Dataset, FolderDataset, Sample, Subset, hold_out
from .device_loader import DeviceLoader, Resident
from .loader import Batch, Loader

__all__ = [
    "LAYOUTS",
    "MARGIN",
    "Batch",
    "Choices",
    "ClassDataset",
    "Dataset",
    "DeviceLoader",
    "FolderDataset",
    "Labelled",
    "Loader",
    "Parts",
    "Resident",
    "Sample",
    "Subset",
    "augment",
    "hold_out",
    "prepare_pair",
    "random_crop",
    "recolour",
]
