"""Data sets of pictures with classes: a folder of folders, or a CSV file."""

import codecs
import csv
import io
import os
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backend.arrays import is_plain
from ..checks import described, require, require_integer, shortened
from ..errors import FileError
from ..files import named, read_file
from .datasets import LAYOUTS
from .decoding import MOST_PIXELS
from .images import read_image
from .listing import describe_not_taken, find_pictures, nfc

MOST_CSV = 1 << 28  # bytes
HEADERS = {"name", "file", "filename", "image", "path", "picture"}  # what a CSV file's first line may call its names


class Labelled(NamedTuple):
    """A picture (H, W, 3) uint8 and the number of its class."""

    name: str
    image: np.ndarray
    label: int


def checked_label(sample: Any, op: str, argument: str) -> tuple[np.ndarray, int]:
    """The picture (H, W, 3) uint8 and the class of a `Labelled` sample, whoever made it.

    Raises ValueError or TypeError, which names the sample, if one is something else.
    """
    whole = all(hasattr(sample, part) for part in Labelled._fields)
    require(whole, op, argument, f"has an item that is a {type(sample).__name__}", "a `Labelled` (name, image, label)")
    image, name = sample.image, shortened(sample.name, 80)
    fits = is_plain(image, 3) and image.shape[2] == 3 and image.size > 0
    require(fits, op, argument, f"has a picture {name} that {described(image)}", "uint8 (H, W, 3), not empty")
    return image, require_integer(sample.label, op, f"{argument}: label of {name}", 0)


class ClassDataset:
    """Pictures with classes; `dataset[i]` reads the i-th as a `Labelled`.

    path: a folder whose folders are the classes, each with pictures at any depth; or a CSV file with a line per
    picture, its name and its class. Names are paths relative to the CSV file's folder, or stems of pictures in it or in
    a folder of it; a header is skipped. classes: their names, which the numbers count; by default those found, sorted.
    limit: the most pixels of a file that are read, see `images.read_image`.
    paths, labels: of each picture, ordered by name; names: paths relative to the folder, in NFC. not_taken: paths of
    what is left out since its format is not read; failures: a FileError for each folder that could not be read.
    Raises FileError, which names the file, if there are no pictures, fewer than two classes, or others than `classes`.
    """

    def __init__(
        self, path: str | os.PathLike[str], classes: Sequence[str] | None = None, limit: int = MOST_PIXELS
    ):
        self.limit = require_integer(limit, "ClassDataset", "limit", 1)
        self.root, root = pathlib.Path(path), named(path)
        self.not_taken: list[pathlib.Path] = []
        self.failures: list[FileError] = []
        try:
            in_folders = self.root.is_dir()
            found = self._in_folders() if in_folders else self._in_csv()
        except OSError as error:
            raise FileError(f"{root}: {error.strerror or error}.") from error
        if not found:
            more = f" {describe_not_taken(self.not_taken)}." if self.not_taken else ""
            nothing = FileError(f"{root}: holds no pictures in folders named after their classes.{more}")
            raise self.failures[0] if self.failures else nothing
        known = {label for _, label in found}
        self.classes = tuple(sorted(known)) if classes is None else tuple(classes)
        numbers = {nfc(name): number for number, name in enumerate(self.classes)}
        if strange := sorted(known - numbers.keys()):
            names = [repr(shortened(name, 80)) for name in self.classes[:5]]
            raise FileError(
                f"{root}: holds the class {shortened(strange[0], 80)!r}; expected "
                f"{', '.join(names)}{', ...' if len(self.classes) > 5 else ''}."
            )
        if tuple(sorted(map(str.lower, known))) in {tuple(sorted(layout)) for layout in LAYOUTS}:
            raise FileError(f"{root}: holds pictures and their masks, not pictures in folders of classes.")
        if len(self.classes) < 2:
            raise FileError(f"{root}: holds one class only, {self.classes[0]}; at least two are needed.")
        folder = self.root if in_folders else self.root.parent
        entries = [(nfc(os.path.relpath(picture, folder)), picture, numbers[label]) for picture, label in found]
        entries.sort(key=lambda entry: entry[0])
        self.names = [name for name, _, _ in entries]
        self.paths = [picture for _, picture, _ in entries]
        self.labels = [number for _, _, number in entries]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Labelled:
        """Raises FileError if the picture cannot be read."""
        return Labelled(self.names[index], read_image(self.paths[index], self.limit), self.labels[index])

    def _find(self, folder):
        """The pictures in a folder and its subfolders."""
        try:
            found = find_pictures(folder)
        except FileError as error:
            self.failures.append(error)
            return []
        self.not_taken += found.not_taken
        self.failures += found.failures
        return found.pictures

    def _in_folders(self):
        """(path, class) of all pictures in the folders of the root."""
        folders = {}
        for path in sorted(self.root.iterdir()):
            if path.name.startswith((".", "__")):
                continue
            if path.is_dir():
                other = folders.setdefault(nfc(path.name), path)
                if other is not path:
                    raise FileError(f"{self.root}: two folders are named {path.name}, composed in different ways.")
            elif path.is_symlink() and not path.exists():
                self.failures.append(FileError(f"{path}: is a link to nothing."))
        return [(path, label) for label, folder in folders.items() for path in self._find(folder)]

    def _in_csv(self):
        """(path, class) of the pictures that a CSV file lists."""
        file, rows = self.root, _rows(self.root)
        pictures, stems = self._find(file.parent), {}
        by_name = {nfc(os.path.relpath(path, file.parent)): [path] for path in pictures}
        for path in pictures:
            stems.setdefault(nfc(path.stem), []).append(path)
        self.not_taken = []  # the file says what belongs to the data set
        found, seen = [], {}
        for number, row in rows:
            if len(row) != 2 or not all(map(str.strip, row)):
                raise FileError(f"{self.root}: line {number} is not a name and a class, separated by a comma.")
            name, label = (part.strip() for part in row)
            path = file.parent / name
            matches = [path] if os.path.isfile(path) else by_name.get(nfc(name)) or stems.get(nfc(name), [])
            if not matches and number == rows[0][0] and name.lower() in HEADERS:
                continue
            if len(matches) != 1:
                count = "no picture" if not matches else f"{len(matches)} pictures"
                there = f"but there is {count} of that name"
                raise FileError(f"{self.root}: line {number} names {shortened(name)}, {there}.")
            other = seen.setdefault(matches[0].resolve(), number)
            if other != number:
                raise FileError(f"{self.root}: lines {other} and {number} both name {shortened(name)}.")
            found.append((matches[0], nfc(label)))
        return found


def find_parts(path: str | os.PathLike[str]) -> tuple[pathlib.Path, pathlib.Path | None]:
    """The pictures to train on and those to validate on: in a folder with `train` and one of `val`, `validation` and
    `test`, as data sets are usually laid out, these; else the path itself, and None."""
    root = pathlib.Path(path)
    if (root / "train").is_dir():
        parts = [root / name for name in ("val", "validation", "test") if (root / name).is_dir()]
        if parts:
            return root / "train", parts[0]
    return root, None


def _rows(file):
    """(number of the line, fields) of the lines of a CSV file that are not empty."""
    data = read_file(file, MOST_CSV)
    try:
        text = data.decode("utf-16" if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) else "utf-8-sig")
        rows = csv.reader(io.StringIO(text, newline=""))
        return [(number, row) for number, row in enumerate(rows, 1) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{named(file)}: is no CSV file of names and classes: {shortened(error)}.") from error
