"""Looks through data sets before a training, so that broken pictures are known before the first step, not hours later.
"""

import hashlib
import os
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .. import __version__
from ..errors import FileError
from ..files import read_file, write_atomically
from ..places import cache_root, make_cache_root
from .datasets import Subset
from .workers import Workers

CHUNK = 32  # pictures that a thread reads at a time
REMEMBERED = 500  # pictures that a data set has at least if what was found is worth remembering
MOST_BYTES = 1 << 28  # of what is remembered about a data set
_HEAD = b"octsod pictures 1\n"


def inspect(
    sets: Sequence[Subset], threads: int, on_progress: Callable[[int, int], None] = lambda done, total: None
) -> list[dict[int, str]]:
    """Read every sample of some data sets; returns, for each of these, index -> what is wrong with that sample.

    sets: parts of a `FolderDataset` or `ClassDataset`. threads: that read. on_progress: called with how many samples
    have been read, and how many are to be. Files that were good before, and have the same size and times of change,
    are not read again: see `Memory`.
    """
    memories = [Memory(part.dataset) for part in sets]
    marks = [memory.marks(part.indices) for memory, part in zip(memories, sets, strict=True)]
    left = [(n, k) for n, found in enumerate(marks) for k in np.flatnonzero(~memories[n].knows(found)).tolist()]
    broken: list[dict[int, str]] = [{} for _ in sets]

    def look(chunk):
        found = []
        for n, k in chunk:
            try:
                sets[n][k]
            except FileError as error:
                found.append((n, k, str(error)))
        return found

    read, pool = 0, Workers(threads)
    try:
        chunks = [left[first : first + CHUNK] for first in range(0, len(left), CHUNK)]
        for chunk, future in zip(chunks, [pool.submit(look, chunk) for chunk in chunks], strict=True):
            for n, k, fault in future.result():
                broken[n][k] = fault
            read += len(chunk)
            on_progress(read, len(left))
    finally:  # also when it is interrupted
        pool.shutdown(wait=True, cancel_futures=True)
        unread = left[read:]
        for n, memory in enumerate(memories):
            bad = [*broken[n], *(k for m, k in unread if m == n)]
            memory.keep(np.delete(marks[n], bad))
    return broken


class Memory:
    """Which files of a data set were good when they were last read: a file in the user's cache folder, which holds a
    mark of each sample, 8 bytes made of the names, sizes and times of change of its files. If it is missing, damaged or
    cannot be written, everything is read again."""

    def __init__(self, dataset: Any):
        self.dataset = dataset
        folder = cache_root()
        root = hashlib.sha256(os.fsencode(os.path.abspath(dataset.root))).hexdigest()[:20]
        worth = folder is not None and len(dataset) >= REMEMBERED
        self.path = folder / "pictures" / root if worth and folder else None
        self._good = self._read()

    def knows(self, marks: np.ndarray) -> np.ndarray:
        """Which of some marks belong to samples that were good: booleans."""
        return np.isin(marks, self._good)

    def keep(self, marks: np.ndarray) -> None:
        """Remember the marks of good samples, and no others."""
        marks = np.unique(marks)
        if self.path is None or np.array_equal(marks, self._good):
            return
        data = marks.astype("<u8").tobytes()
        try:
            make_cache_root(self.path.parent.parent)
            self.path.parent.mkdir(mode=0o700, exist_ok=True)
            write_atomically(self.path, b"".join((_HEAD, zlib.crc32(data).to_bytes(4, "little"), data)))
        except OSError:
            pass

    def _read(self):
        try:
            data = b"" if self.path is None else read_file(self.path, MOST_BYTES)
        except FileError:
            data = b""
        head, check, marks = data[: len(_HEAD)], data[len(_HEAD) :][:4], data[len(_HEAD) + 4 :]
        whole = head == _HEAD and check == zlib.crc32(marks).to_bytes(4, "little") and len(marks) % 8 == 0
        return np.frombuffer(marks if whole else b"", "<u8").astype(np.uint64)

    def marks(self, indices: Sequence[int]) -> np.ndarray:
        """The marks of samples, uint64."""
        if self.path is None:
            return np.arange(len(indices), dtype=np.uint64)
        import PIL
        from PIL import Image

        limits = f"{Image.MAX_IMAGE_PIXELS} {self.dataset.limit}"
        reader = f"{__version__} {PIL.__version__} {limits}"  # what is broken is theirs to say
        return np.array([self._mark(reader, index) for index in indices], np.uint64)

    def _mark(self, reader, index):
        files = self.dataset.pairs[index] if hasattr(self.dataset, "pairs") else (self.dataset.paths[index],)
        parts = [reader]
        for path in files:
            try:
                facts = os.stat(path)
            except OSError:  # reading it will say
                return 0
            parts += [os.fspath(path), f"{facts.st_size} {facts.st_mtime_ns} {facts.st_ctime_ns}"]
        digest = hashlib.blake2b("\0".join(parts).encode("utf-8", "surrogateescape"), digest_size=8).digest()
        return int.from_bytes(digest, "little")
