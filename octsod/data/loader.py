"""Batches of a data set, read and augmented ahead of time by background threads."""

import collections
import contextlib
from collections.abc import Generator
from typing import NamedTuple

import numpy as np

from ..checks import require, require_integer
from .augmentation import augment
from .datasets import Dataset
from .images import prepare, resize
from .workers import Workers


class Batch(NamedTuple):
    """x: (N, 3, S, S) float32, normalised pictures; y: (N, 1, S, S) float32, masks in [0, 1]."""

    x: np.ndarray
    y: np.ndarray


class Loader:
    """Batches of a data set, read and augmented ahead of time by background threads.

    `for batch in loader:` runs through an epoch, the next one each time: `next_epoch`, from 0, counts them.
    `epoch(number)` is the epoch of that number, whatever came before.

    dataset: a `Dataset`. batch_size: pictures per batch, at most as many as the data set has; pictures that do not fill
    a batch at the end of an epoch are left out.
    size: the side of the square they are resized to, in pixels. augmented: whether pictures are shuffled, cropped and
    flipped. threads: background threads; ahead: batches they prepare beyond the one in use.

    Every random choice is seeded by (seed, epoch, index of the picture): batches do not depend on the threads.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 24,
        size: int = 224,
        seed: int = 0,
        augmented: bool = True,
        threads: int = 2,
        ahead: int = 2,
    ):
        op = "Loader"
        require(len(dataset) > 0, op, "dataset", "is empty", "at least one picture")
        self.dataset, self.augmented = dataset, augmented
        self.size = require_integer(size, op, "size", 1)
        self.batch_size = require_integer(batch_size, op, "batch_size", 1)
        require(batch_size <= len(dataset), op, "batch_size", f"is {batch_size}", f"at most {len(dataset)} pictures")
        self.seed = require_integer(seed, op, "seed", 0)
        self.threads = require_integer(threads, op, "threads", 1)
        self.ahead = require_integer(ahead, op, "ahead", 0)
        self.next_epoch = 0

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.dataset) // self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        """The indices of an epoch's pictures, batch by batch: (batches, batch size)."""
        count = len(self) * self.batch_size
        indices = np.arange(len(self.dataset))
        if self.augmented:
            # A seed sequence ignores zeros at its end, so 0 stands for the order and 1 + index for a picture.
            np.random.default_rng((self.seed, epoch, 0)).shuffle(indices)
        return indices[:count].reshape(len(self), self.batch_size)

    def epoch(self, number: int, first: int = 0) -> Generator[Batch, None, None]:
        """The batches of epoch `number`, from 0, starting at batch `first`. Raises what reading a picture raises.

        Kernels run in the background, on the backend in use at the time of this call.
        """
        require_integer(number, "epoch", "number", 0)
        require_integer(first, "epoch", "first", 0)
        return self._batches(Workers(self.threads), number, first)

    def __iter__(self) -> Generator[Batch, None, None]:
        """The batches of the next epoch."""
        number, self.next_epoch = self.next_epoch, self.next_epoch + 1
        return self.epoch(number)

    def _batches(self, pool, number, first):
        with contextlib.ExitStack() as stack:
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            waiting = collections.deque()
            for indices in self.order(number)[first:]:
                waiting.append(self._start(pool, number, indices))
                if len(waiting) > self.ahead:
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())

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
