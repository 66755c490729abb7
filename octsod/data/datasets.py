"""Data sets: folders of pictures and masks, subsets of them, and held-out pictures."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..checks import require
from ..errors import FileError
from .images import SUFFIXES, read_image, read_mask

# How data sets name their folders of pictures and of masks (compared in lower case).
LAYOUTS = (
    ("duts-tr-image", "duts-tr-mask"),
    ("duts-te-image", "duts-te-mask"),
    ("images", "ground_truth_mask"),
    ("images", "masks"),
    ("images", "gt"),
    ("imgs", "gt"),
)


HELD_OUT, MOST_HELD_OUT = 20, 500  # one in 20 pictures is held out, and at most 500


class Sample(NamedTuple):
    """A picture (H, W, 3) uint8 and its mask (H, W) uint8, 255 for the object."""

    name: str
    image: np.ndarray
    mask: np.ndarray


class Dataset(Protocol):
    """Pictures with masks: anything with a length whose items are `Sample`s. Its `names`, if any, name the items."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Sample: ...


class FolderDataset:
    """The pictures under `root` that have a mask of the same stem; `dataset[i]` reads the i-th as a `Sample`.

    root: a folder that holds a pair of folders with usual names (`LAYOUTS`), directly or one level below.
    pairs: (picture, mask) paths, ordered by stem; names: these stems. unpaired: paths of pictures without a mask and of
    masks without a picture, which are left out.
    Raises FileError, which names the folder, if there is no such pair, more than one, or no picture with a mask.
    """

    def __init__(self, root: str | os.PathLike[str]):
        self.root = pathlib.Path(root)
        self.images, self.masks = _find_folders(self.root)
        images, masks = _by_stem(self.images), _by_stem(self.masks)
        self.pairs = [(images[stem], masks[stem]) for stem in sorted(images.keys() & masks.keys())]
        self.names = [image.stem for image, _ in self.pairs]
        self.unpaired = [(images.get(s) or masks[s]) for s in sorted(images.keys() ^ masks.keys())]
        if not self.pairs:
            raise FileError(f"{self.images}: none of its {len(images)} pictures has a mask in {self.masks}.")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Raises FileError if a file cannot be read, or if picture and mask differ in size."""
        path, mask_path = self.pairs[index]
        image, mask = read_image(path), read_mask(mask_path)
        if mask.shape != image.shape[:2]:
            raise FileError(
                f"{mask_path}: the mask is {mask.shape[1]}x{mask.shape[0]}, but its picture {path.name} is "
                f"{image.shape[1]}x{image.shape[0]}."
            )
        return Sample(path.stem, image, mask)


def _find_folders(root):
    try:
        pairs = _layouts_in(root)
        if not pairs:
            pairs = [pair for folder in sorted(_folders(root).values()) for pair in _layouts_in(folder)]
    except OSError as error:
        raise FileError(f"{root}: {error.strerror or error}.") from error
    if len(pairs) > 1:
        listed = ", ".join(f"{image} with {mask.name}" for image, mask in pairs)
        raise FileError(f"{root}: holds more than one data set ({listed}); name the folder of one.")
    if not pairs:
        known = ", ".join(f"{image} with {mask}" for image, mask in LAYOUTS)
        raise FileError(f"{root}: holds no folders of pictures and masks by a known name ({known}).")
    return pairs[0]


def _folders(folder):
    """Name -> path of the folders in `folder`, except hidden ones and those that macOS puts into archives."""
    return {p.name: p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))}


def _layouts_in(folder):
    found = {name.lower(): path for name, path in _folders(folder).items()}
    return [(found[image], found[mask]) for image, mask in LAYOUTS if image in found and mask in found]


def _by_stem(folder):
    files = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in SUFFIXES and not path.name.startswith("."):
            other = files.setdefault(path.stem, path)
            if other is not path:
                raise FileError(f"{folder}: {other.name} and {path.name} have the same stem.")
    return files


class Subset:
    """The samples of a data set at `indices`. names: their names, or indices if the data set has no names."""

    def __init__(self, dataset: Any, indices: Iterable[int]):
        self.dataset, self.indices = dataset, [int(i) for i in indices]
        names = names_of(dataset)
        self.names = [names[i] for i in self.indices]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[self.indices[index]]


def names_of(dataset: Any) -> list[str]:
    """What a data set calls its items: its `names`, or else their numbers."""
    names = getattr(dataset, "names", None)
    return [str(i) for i in range(len(dataset))] if names is None else list(names)


def hold_out(dataset: Any, seed: int = 0, labels: Iterable[int] | None = None) -> tuple[Subset, Subset]:
    """The pictures to train on, and those held out for validation: a twentieth, at least 1 and at most 500.

    labels: of each picture, a class. The same share of each class is held out then, but at least one picture of every
    class that has two; so with many classes it may be more than 500. If no class has two, one picture is held out.
    Which ones depends only on the seed, the size of the data set and the labels. Raises ValueError if it has fewer than
    two pictures.
    """
    count = len(dataset)
    require(count > 1, "hold_out", "dataset", f"has {count} picture", "at least 2: one to train on, one to hold out")
    # Four numbers: no seed of a `Loader` has as many.
    order = np.random.default_rng((seed, 0, 0, 1)).permutation(count)
    classes = np.zeros(count) if labels is None else np.asarray(list(labels))
    groups = [order[classes[order] == k] for k in np.unique(classes)]
    share = min(1 / HELD_OUT, MOST_HELD_OUT / count)
    held = [group[: max(round(len(group) * share), min(1, len(group) - 1))] for group in groups]
    held = [order[:1]] if not any(map(len, held)) else held
    chosen = np.sort(np.concatenate(held))
    return Subset(dataset, np.setdiff1d(order, chosen)), Subset(dataset, chosen)
