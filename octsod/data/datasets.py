"""Data sets: folders of pictures and masks, subsets of them, and held-out pictures."""

import os
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..checks import require, require_integer, require_samples, shortened
from ..errors import FileError
from ..files import named
from .decoding import MOST_PIXELS
from .images import read_image, read_mask
from .listing import describe_not_searched, describe_not_taken, find_pictures, nfc

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
    """Pictures and the masks of the same stem; `dataset[i]` reads the i-th pair as a `Sample`.

    root: a folder that holds a pair of folders with usual names (`LAYOUTS`), directly or one level below; or instead of
    it images and masks: these two folders, whatever their names. Suffixes do not matter, nor how Unicode composes the
    letters of a stem; upper and lower case do.
    limit: the most pixels of a file that are read, see `images.read_image`.
    images, masks: the folders; root: the one given, or that of the pictures. pairs: (picture, mask) paths, ordered by
    stem; names: these stems, in NFC. unpaired: paths of pictures without a mask and of masks without a picture, which
    are left out. not_taken: of what is left out since its format is not read; not_searched: subfolders.
    Raises FileError, which names the folder, if there is no such pair of folders, more than one, no picture with a
    mask, or a stem twice in a folder; ValueError unless either a root or two folders are given.
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        *,
        images: str | os.PathLike[str] | None = None,
        masks: str | os.PathLike[str] | None = None,
        limit: int = MOST_PIXELS,
    ):
        self.limit = require_integer(limit, "FolderDataset", "limit", 1)
        if root is not None and images is None and masks is None:
            self.root = pathlib.Path(root)
            self.images, self.masks = _find_folders(self.root)
        elif root is None and images is not None and masks is not None:
            self.images, self.masks = pathlib.Path(images), pathlib.Path(masks)
            self.root = self.images
            if os.path.realpath(images) == os.path.realpath(masks):
                raise FileError(f"{named(images)}: is named both for the pictures and for the masks.")
        else:
            raise ValueError("FolderDataset: needs either `root`, or `images` and `masks`.")
        pictures, of_images = _by_stem(self.images)
        of_masks, others = _by_stem(self.masks)
        self.not_taken = of_images.not_taken + others.not_taken
        self.not_searched = of_images.not_searched + others.not_searched
        self.names = sorted(pictures.keys() & of_masks.keys())
        self.pairs = [(pictures[stem], of_masks[stem]) for stem in self.names]
        self.unpaired = [(pictures.get(s) or of_masks[s]) for s in sorted(pictures.keys() ^ of_masks.keys())]
        if not self.pairs:
            more = f" {describe_not_taken(self.not_taken)}." if self.not_taken else ""
            more += f" {describe_not_searched(self.not_searched)}." if self.not_searched else ""
            raise FileError(f"{self.images}: none of its {len(pictures)} pictures has a mask in {self.masks}.{more}")

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> Sample:
        """Raises FileError if a file cannot be read, or if picture and mask differ in size."""
        path, mask_path = self.pairs[index]
        image, mask = read_image(path, self.limit), read_mask(mask_path, self.limit)
        if mask.shape != image.shape[:2]:
            turned = "; its EXIF orientation may turn one of them only" if mask.shape[::-1] == image.shape[:2] else ""
            raise FileError(
                f"{named(mask_path)}: the mask is {mask.shape[1]}x{mask.shape[0]}, but its picture "
                f"{shortened(path.name)} is {image.shape[1]}x{image.shape[0]}{turned}."
            )
        return Sample(self.names[index], image, mask)


def _find_folders(root):
    faults = []
    try:
        pairs = _layouts_in(root)
        for folder in () if pairs else sorted(_folders(root).values()):
            try:
                pairs += _layouts_in(folder)
            except OSError as error:  # one that cannot be read matters only if nothing is found elsewhere
                faults.append(FileError(f"{named(folder)}: {error.strerror or error}."))
    except (OSError, ValueError) as error:
        raise FileError(f"{named(root)}: {getattr(error, 'strerror', None) or error}.") from error
    if len(pairs) > 1:
        listed = ", ".join(f"{image} with {mask.name}" for image, mask in pairs[:5])
        listed += f", and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        raise FileError(f"{named(root)}: holds more than one data set ({listed}); name the folder of one.")
    if not pairs and faults:
        raise faults[0]
    if not pairs:
        known = ", ".join(f"{image} with {mask}" for image, mask in LAYOUTS)
        raise FileError(
            f"{named(root)}: holds no folders of pictures and masks by a known name ({known}); others "
            "are named by --images and --masks, in Python by `images` and `masks`."
        )
    return pairs[0]


def _folders(folder):
    """Name -> path of the folders in `folder`, except hidden ones and those that macOS puts into archives."""
    return {p.name: p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__"))}


def _layouts_in(folder):
    found = {name.lower(): path for name, path in _folders(folder).items()}
    return [(found[image], found[mask]) for image, mask in LAYOUTS if image in found and mask in found]


def _by_stem(folder):
    """Stem -> path of the pictures in a folder; and all that was found there."""
    found, files = find_pictures(folder, recursive=False), {}
    for path in found.pictures:
        other = files.setdefault(nfc(path.stem), path)
        if other is not path:
            raise FileError(f"{named(folder)}: {other.name} and {path.name} have the same stem.")
    return files, found


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
    require_samples(dataset, "hold_out", "dataset")
    count, seed = len(dataset), require_integer(seed, "hold_out", "seed", 0)
    require(count > 1, "hold_out", "dataset", f"has {count} picture", "at least 2: one to train on, one to hold out")
    # Four numbers: no seed of a `Loader` has as many.
    order = np.random.default_rng((seed, 0, 0, 1)).permutation(count)
    classes = np.zeros(count) if labels is None else np.asarray(list(labels))
    require(classes.shape == (count,), "hold_out", "labels", f"have shape {classes.shape}", f"{count} classes")
    groups = [order[classes[order] == k] for k in np.unique(classes)]
    share = min(1 / HELD_OUT, MOST_HELD_OUT / count)
    held = [group[: max(round(len(group) * share), min(1, len(group) - 1))] for group in groups]
    held = [order[:1]] if not any(map(len, held)) else held
    chosen = np.sort(np.concatenate(held))
    return Subset(dataset, np.setdiff1d(order, chosen)), Subset(dataset, chosen)
