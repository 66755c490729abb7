"""Data for training: folders of pictures and masks, the authors' augmentation, batches made in background threads."""

import collections
import concurrent.futures
import contextlib
import pathlib
from typing import NamedTuple

import numpy as np

from .checks import require, require_integer
from .errors import FileError
from .images import SUFFIXES, prepare, read_image, read_mask, resize

# How data sets name their folders of pictures and of masks (compared in lower case).
LAYOUTS = (
    ("duts-tr-image", "duts-tr-mask"),
    ("duts-te-image", "duts-te-mask"),
    ("images", "ground_truth_mask"),
    ("images", "masks"),
    ("images", "gt"),
    ("imgs", "gt"),
)

MARGIN = 14  # pixels: the most that augmentation cuts off at top and left; one more at bottom and right
HELD_OUT, MOST_HELD_OUT = 20, 500  # one in so many pictures is held out, and so many at most


class Sample(NamedTuple):
    """A picture (H, W, 3) uint8 and its mask (H, W) uint8, 255 for the object."""

    name: str
    image: np.ndarray
    mask: np.ndarray


class Batch(NamedTuple):
    """x: (N, 3, S, S) float32, normalised pictures; y: (N, 1, S, S) float32, masks in [0, 1]."""

    x: np.ndarray
    y: np.ndarray


class FolderDataset:
    """The pictures under `root` that have a mask of the same stem; `dataset[i]` reads the i-th as a `Sample`.

    root: a folder that holds a pair of folders by one of the usual names (`LAYOUTS`), itself or one level below.
    pairs: (picture, mask) paths in the order of their stems; names: these stems. unpaired: paths of pictures without a
    mask and of masks without a picture, which are left out.
    Raises FileError, which names the folder, if there is no such pair, more than one, or no picture with a mask.
    """

    def __init__(self, root):
        self.root = pathlib.Path(root)
        self.images, self.masks = _find_folders(self.root)
        images, masks = _by_stem(self.images), _by_stem(self.masks)
        self.pairs = [(images[stem], masks[stem]) for stem in sorted(images.keys() & masks.keys())]
        self.names = [image.stem for image, _ in self.pairs]
        self.unpaired = [(images.get(s) or masks[s]) for s in sorted(images.keys() ^ masks.keys())]
        if not self.pairs:
            raise FileError(f"{self.images}: none of its {len(images)} pictures has a mask in {self.masks}.")

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, index):
        """Raises FileError if a file cannot be read or picture and mask differ in size."""
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
    """Name -> path of the folders in `folder`; not hidden ones, nor what macOS puts into archives."""
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
    """The samples of a data set at `indices`. names: what they are called; by their index, if the data set has none."""

    def __init__(self, dataset, indices):
        self.dataset, self.indices = dataset, [int(i) for i in indices]
        names = getattr(dataset, "names", None)
        self.names = [str(i) if names is None else names[i] for i in self.indices]

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, index):
        return self.dataset[self.indices[index]]


def hold_out(dataset, seed=0) -> tuple[Subset, Subset]:
    """The pictures to train on, and those held out to validate with: a twentieth, at least 1 and at most 500.

    Which ones depends on the seed and the size of the data set alone. Raises ValueError if it has less than two.
    """
    count = len(dataset)
    require(count > 1, "hold_out", "dataset", f"has {count} picture", "at least 2: one to train on, one to hold out")
    held = min(max(round(count / HELD_OUT), 1), MOST_HELD_OUT)
    # Four numbers, which no seed of a `Loader` has.
    order = np.random.default_rng((seed, 0, 0, 1)).permutation(count)
    return Subset(dataset, np.sort(order[held:])), Subset(dataset, np.sort(order[:held]))


def augment(image, mask, generator):
    """The authors' augmentation (csnet.md, section 5): a random crop of the border, then a flip with p = 0.5.

    image (H, W, 3), mask (H, W) -> views of both, smaller by 1 to 29 pixels on each axis; half of the flips are
    vertical, as in the authors' code. Of a picture smaller than 60 pixels, less is cut off: at most about half.
    generator: a numpy Generator, from which as many numbers are drawn whatever they are.
    """
    height, width = mask.shape
    (top, bottom), (left, right) = (
        generator.integers(0, min(MARGIN, (n - 1) // 4), size=2, endpoint=True) for n in (height, width)
    )
    rows, cols = slice(top, max(height - 1 - bottom, 1)), slice(left, max(width - 1 - right, 1))
    image, mask = image[rows, cols], mask[rows, cols]
    flip, vertical = generator.random(2) < 0.5
    if flip:
        where = (slice(None, None, -1),) if vertical else (slice(None), slice(None, None, -1))
        image, mask = image[where], mask[where]
    return image, mask


class Loader:
    """Batches of a data set, epoch after epoch, read and augmented ahead of time by background threads.

    dataset: anything with a length whose items are `Sample`s. batch_size: pictures per batch, at most as many as there
    are; what does not fill a batch at the end of an epoch is left out.
    size: the side of the square they are resized to, in pixels. augmented: whether pictures are shuffled, cropped and
    flipped. threads: background threads; ahead: batches they prepare beyond the one in use.

    Every random choice is drawn from (seed, epoch, index of the picture): batches do not depend on the threads.
    """

    def __init__(self, dataset, batch_size=24, size=224, seed=0, augmented=True, threads=2, ahead=2):
        op = "Loader"
        require(len(dataset) > 0, op, "dataset", "is empty", "at least one picture")
        self.dataset, self.augmented = dataset, augmented
        self.size = require_integer(size, op, "size", 1)
        self.batch_size = require_integer(batch_size, op, "batch_size", 1)
        require(batch_size <= len(dataset), op, "batch_size", f"is {batch_size}", f"at most {len(dataset)} pictures")
        self.seed = require_integer(seed, op, "seed", 0)
        self.threads = require_integer(threads, op, "threads", 1)
        self.ahead = require_integer(ahead, op, "ahead", 0)

    def __len__(self):
        """Batches per epoch."""
        return len(self.dataset) // self.batch_size

    def order(self, epoch):
        """The indices of an epoch's pictures, batch by batch: (batches, batch size)."""
        count = len(self) * self.batch_size
        indices = np.arange(len(self.dataset))
        if self.augmented:
            # A seed sequence ignores zeros at its end, so 0 stands for the order and 1 + index for a picture.
            np.random.default_rng((self.seed, epoch, 0)).shuffle(indices)
        return indices[:count].reshape(len(self), self.batch_size)

    def epoch(self, number, first=0):
        """Yield the batches of epoch `number` from batch `first` on. Raises what reading a picture raises."""
        with contextlib.ExitStack() as stack:
            pool = concurrent.futures.ThreadPoolExecutor(self.threads, "octsod-data")
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            waiting = collections.deque()
            for indices in self.order(number)[first:]:
                waiting.append(self._start(pool, number, indices))
                if len(waiting) > self.ahead:
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())

    def __iter__(self):
        """The batches of all epochs, without end."""
        number = 0
        while True:
            yield from self.epoch(number)
            number += 1

    def _start(self, pool, epoch, indices):
        count, side = len(indices), self.size
        batch = Batch(np.empty((count, 3, side, side), np.float32), np.empty((count, 1, side, side), np.float32))
        parts = [
            pool.submit(self._fill, batch.x[i], batch.y[i, 0], epoch, int(index)) for i, index in enumerate(indices)
        ]
        return batch, parts

    @staticmethod
    def _finish(batch, parts):
        for part in parts:
            part.result()
        return batch

    def _fill(self, x, y, epoch, index):
        _, image, mask = self.dataset[index]
        if self.augmented:
            image, mask = augment(image, mask, np.random.default_rng((self.seed, epoch, 1 + index)))
        x[...] = prepare(image, self.size)
        np.divide(resize(mask, y.shape), np.float32(255), out=y)
