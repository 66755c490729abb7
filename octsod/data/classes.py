"""Data sets of pictures with classes: a folder of folders, or a CSV file."""

import csv
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from ..errors import FileError
from .datasets import LAYOUTS
from .images import SUFFIXES, read_image

HEADERS = {"name", "file", "filename", "image", "path", "picture"}  # what a CSV file's first line may call its names


class Labelled(NamedTuple):
    """A picture (H, W, 3) uint8 and the number of its class."""

    name: str
    image: np.ndarray
    label: int


class ClassDataset:
    """Pictures with classes; `dataset[i]` reads the i-th as a `Labelled`.

    path: a folder whose folders are the classes, each with pictures at any depth; or a CSV file with a line per
    picture, its name and its class. Names are paths relative to the CSV file's folder, or stems of pictures in it or in
    a folder of it; a header is skipped. classes: their names, which the numbers count; by default those found, sorted.
    paths, labels: of each picture, ordered by name; names: paths relative to the folder.
    Raises FileError, which names the file, if there are no pictures, fewer than two classes, or others than `classes`.
    """

    def __init__(self, path: str | os.PathLike[str], classes: Sequence[str] | None = None):
        self.root = pathlib.Path(path)
        try:
            folder = self.root if self.root.is_dir() else self.root.parent
            found = _in_folders(folder) if self.root.is_dir() else _in_csv(self.root)
        except OSError as error:
            raise FileError(f"{self.root}: {error.strerror or error}.") from error
        if not found:
            raise FileError(f"{self.root}: holds no pictures in folders named after their classes.")
        known = {label for _, label in found}
        self.classes = tuple(sorted(known)) if classes is None else tuple(classes)
        if strange := sorted(known - set(self.classes)):
            raise FileError(
                f"{self.root}: holds the class {strange[0]!r}; expected "
                f"{', '.join(map(repr, self.classes[:5]))}{', ...' if len(self.classes) > 5 else ''}."
            )
        if tuple(sorted(map(str.lower, known))) in {tuple(sorted(layout)) for layout in LAYOUTS}:
            raise FileError(f"{self.root}: holds pictures and their masks, not pictures in folders of classes.")
        if len(self.classes) < 2:
            raise FileError(f"{self.root}: holds one class only, {self.classes[0]}; at least two are needed.")
        found.sort(key=lambda entry: str(entry[0]))
        numbers = {name: number for number, name in enumerate(self.classes)}
        self.paths = [picture for picture, _ in found]
        self.labels = [numbers[label] for _, label in found]
        self.names = [os.path.relpath(picture, folder) for picture in self.paths]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Labelled:
        """Raises FileError if the picture cannot be read."""
        return Labelled(self.names[index], read_image(self.paths[index]), self.labels[index])


def find_parts(path: str | os.PathLike[str]) -> tuple[pathlib.Path, pathlib.Path | None]:
    """The pictures to train on and those to validate on: in a folder with `train` and one of `val`, `validation` and
    `test`, as data sets are usually laid out, these; else the path itself, and None."""
    root = pathlib.Path(path)
    if (root / "train").is_dir():
        parts = [root / name for name in ("val", "validation", "test") if (root / name).is_dir()]
        if parts:
            return root / "train", parts[0]
    return root, None


def _is_picture(path):
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _in_folders(root):
    """(path, class) of all pictures in the folders of `root`."""
    folders = [p for p in sorted(root.iterdir()) if p.is_dir() and not p.name.startswith((".", "__"))]
    return [(path, folder.name) for folder in folders for path in sorted(folder.rglob("*")) if _is_picture(path)]


def _in_csv(file):
    """(path, class) of the pictures that a CSV file lists."""
    try:
        with open(file, newline="", encoding="utf-8-sig") as lines:
            rows = [(number, row) for number, row in enumerate(csv.reader(lines), 1) if any(map(str.strip, row))]
    except (UnicodeDecodeError, csv.Error) as error:
        raise FileError(f"{file}: is no CSV file of names and classes: {error}.") from error
    stems = {}  # -> paths
    for path in sorted(file.parent.rglob("*")):
        if _is_picture(path):
            stems.setdefault(path.stem, []).append(path)
    found, seen = [], {}
    for number, row in rows:
        if len(row) != 2 or not all(map(str.strip, row)):
            raise FileError(f"{file}: line {number} is not a name and a class, separated by a comma.")
        name, label = (part.strip() for part in row)
        path = file.parent / name
        matches = [path] if path.is_file() else stems.get(name, [])
        if not matches and number == rows[0][0] and name.lower() in HEADERS:
            continue
        if len(matches) != 1:
            count = "no picture" if not matches else f"{len(matches)} pictures"
            raise FileError(f"{file}: line {number} names {name}, but there is {count} of that name.")
        other = seen.setdefault(matches[0].resolve(), number)
        if other != number:
            raise FileError(f"{file}: lines {other} and {number} both name {name}.")
        found.append((matches[0], label))
    return found
