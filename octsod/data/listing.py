"""Which pictures a folder holds."""

import os
import pathlib
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..checks import shortened
from ..errors import FileError
from ..files import named
from .formats import HEIF_SUFFIXES, all_suffixes, suffixes


class Found(NamedTuple):
    """pictures: the paths of those that can be read here, by their suffix, sorted. not_taken: of those that cannot be,
    such as raw photographs. not_searched: subfolders, unless they are searched. failures: what could not be looked
    into, a FileError each."""

    pictures: list[pathlib.Path]
    not_taken: list[pathlib.Path]
    not_searched: list[pathlib.Path]
    failures: list[FileError]


def find_pictures(
    folder: str | os.PathLike[str], recursive: bool = True, skip: Iterable[str | os.PathLike[str]] = ()
) -> Found:
    """The pictures in a folder and, if `recursive`, in its subfolders, except those in the folders `skip`.

    Hidden files and folders are left out, and folders with names like `__MACOSX`. Linked folders are followed, but each
    folder is read once, under its own name if that lies within `folder`; so links may lead back. A subfolder that
    cannot be read is one of the `failures`, and so is a link to nothing. All else with the suffix of a picture is among
    the pictures, and is refused when it is read: such a link, a named pipe.
    Raises FileError if `folder` itself cannot be read.
    """
    root = pathlib.Path(folder)
    taken, known = suffixes(), all_suffixes()
    found = Found([], [], [], [])
    seen = {_identity(path) for path in skip if os.path.isdir(path)}
    waiting: list[pathlib.Path] = [root]
    links: list[pathlib.Path] = []
    while waiting or links:
        place = waiting.pop() if waiting else links.pop(0)  # links last: what they lead to may have its own name here
        try:
            identity = _identity(place)
            if identity in seen:
                continue
            seen.add(identity)
            with os.scandir(place) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except (OSError, ValueError) as error:
            failure = _failure(place, error)
            if place is root:
                raise failure from error
            found.failures.append(failure)
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            suffix = os.path.splitext(entry.name)[1].lower()
            is_folder, fault = _look(entry)
            if is_folder:
                if not entry.name.startswith("__"):
                    later = found.not_searched if not recursive else links if entry.is_symlink() else waiting
                    later.append(place / entry.name)
            elif suffix in taken:
                found.pictures.append(place / entry.name)
            elif suffix in known:
                found.not_taken.append(place / entry.name)
            elif fault is not None and recursive:  # it may have been a folder
                found.failures.append(_failure(place / entry.name, fault))
    pictures, not_taken, not_searched = (sorted(paths) for paths in found[:3])
    return Found(pictures, not_taken, not_searched, sorted(found.failures, key=str))


def describe_not_taken(paths: Sequence[pathlib.Path], most: int | None = 3) -> str:
    """A sentence about `Found.not_taken`, not empty: how many, and the names of the first, or of all (None)."""
    shown = ", ".join(shortened(path.name, 80) for path in paths[:most])
    shown += " ..." if most is not None and len(paths) > most else ""
    heif = any(path.suffix.lower() in HEIF_SUFFIXES for path in paths)
    hint = "; the package pillow-heif reads .heic" if heif else ""
    return f"Left out, since their formats are not read here ({len(paths)}): {shown}{hint}"


def describe_not_searched(folders: Sequence[pathlib.Path], most: int | None = 3) -> str:
    """A sentence about `Found.not_searched`, not empty, likewise."""
    shown = ", ".join(shortened(os.path.join(path.parent.name, path.name), 80) for path in folders[:most])
    shown += " ..." if most is not None and len(folders) > most else ""
    return f"Not searched, since pictures and masks are paired within one folder ({len(folders)}): {shown}"


def nfc(name: str) -> str:
    """A name with each letter and its accents as one character (NFC); macOS may keep them apart."""
    return unicodedata.normalize("NFC", name)


def _identity(folder):
    facts = os.stat(folder)
    return facts.st_dev, facts.st_ino


def _look(entry):
    """Whether an entry is a folder or leads to one; and what is wrong with it if it leads nowhere."""
    try:
        if entry.is_symlink():
            entry.stat()
        return entry.is_dir(), None
    except FileNotFoundError:
        return False, "is a link to nothing"
    except OSError as error:
        return False, error


def _failure(path, fault):
    return FileError(f"{named(path)}: {getattr(fault, 'strerror', None) or fault}.")
