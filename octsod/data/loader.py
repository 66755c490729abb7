"""Batches of a data set, read and augmented ahead of time by background threads."""

import bisect
import collections
import contextlib
import itertools
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np

from ..backend.arrays import numbers
from ..checks import require, require_integer, require_samples
from ..threads import new_lock
from .augmentation import prepare_pair
from .workers import Workers

Batch = tuple[Any, ...]  # arrays: what samples add to each of them, with an axis (N,) before its own
Prepare = Callable[[Any, int, np.random.Generator | None], Sequence[Any]]


class Epochs:
    """The batches of a data set, epoch by epoch, prepared ahead of time by background threads: what loaders share.

    `for batch in loader:` runs through an epoch, the next one each time: `next_epoch`, from 0, counts them.
    `epoch(number)` is the epoch of that number, whatever came before.

    dataset: anything with a length and items, such as a `Dataset`. batch_size: samples per batch, at most as many as
    the data set has; those that do not fill a batch at the end of an epoch are left out.
    size: the side in pixels of the square that pictures are resized to, or several as (first batch, side), in order:
    from that batch on, counted from 0 over all epochs, the side is used. augmented: whether samples are shuffled and
    augmented. threads: background threads; ahead: batches they prepare beyond the one in use.

    Every random choice is seeded by (seed, epoch, index of the sample): batches do not depend on the threads.
    """

    def __init__(
        self, dataset: Any, batch_size: int, size: int | Sequence[tuple[int, int]], seed: int, augmented: bool,
        threads: int, ahead: int,
    ):  # fmt: skip
        op = type(self).__name__
        require_samples(dataset, op, "dataset")
        self.dataset, self.augmented = dataset, augmented
        sizes = [(0, size)] if hasattr(size, "__index__") else list(size)  # type: ignore[arg-type]
        self._starts = [require_integer(first, op, "size", 0) for first, _ in sizes]
        self._sides = [require_integer(side, op, "size", 1) for _, side in sizes]
        rising = self._starts[:1] == [0] and all(a < b for a, b in itertools.pairwise(self._starts))
        require(rising, op, "size", f"is {size}", "sides from rising batches on, the first from batch 0")
        self.batch_size = require_integer(batch_size, op, "batch_size", 1)
        require(batch_size <= len(dataset), op, "batch_size", f"is {batch_size}", f"at most {len(dataset)} pictures")
        self.seed = require_integer(seed, op, "seed", 0)
        self.threads = require_integer(threads, op, "threads", 1)
        self.ahead = require_integer(ahead, op, "ahead", 0)
        self.next_epoch = 0

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.dataset) // self.batch_size

    def side(self, batch: int) -> int:
        """The side in pixels of the pictures of a batch, counted from 0 over all epochs."""
        return self._sides[bisect.bisect_right(self._starts, batch) - 1]

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
            for position, indices in enumerate(self.order(number)[first:], first):
                side = self.side(number * len(self) + position)
                waiting.append(self._start(pool, number, indices.tolist(), side))
                if len(waiting) > self.ahead:
                    yield self._finish(*waiting.popleft())
            while waiting:
                yield self._finish(*waiting.popleft())

    def _start(self, pool, epoch, indices, side):
        """Have threads begin with a batch; returns arguments for `_finish`, which returns it."""
        raise NotImplementedError

    def _finish(self, *begun):
        raise NotImplementedError

    def _generator(self, epoch, index):
        """What the augmentation of a sample is drawn from; None for none."""
        return np.random.default_rng((self.seed, epoch, 1 + index)) if self.augmented else None


class Loader(Epochs):
    """Batches of a data set as NumPy arrays, read and augmented ahead of time by background threads: see `Epochs`.

    prepare: called with a sample, the side, and a generator for augmentation, or None for none; returns the arrays or
    numbers that the sample adds to each of a batch's arrays. By default `prepare_pair`: pictures and masks.
    """

    def __init__(
        self,
        dataset: Any,
        batch_size: int = 24,
        size: int | Sequence[tuple[int, int]] = 224,
        seed: int = 0,
        augmented: bool = True,
        threads: int = 2,
        ahead: int = 2,
        prepare: Prepare = prepare_pair,
    ):
        super().__init__(dataset, batch_size, size, seed, augmented, threads, ahead)
        self.prepare = prepare

    def _start(self, pool, epoch, indices, side):
        batch = _Batch(len(indices))
        return batch, [pool.submit(self._fill, batch, row, epoch, index, side) for row, index in enumerate(indices)]

    def _finish(self, batch, parts):
        for part in parts:
            part.result()
        return tuple(batch.arrays)

    def _fill(self, batch, row, epoch, index, side):
        batch.put(row, self.prepare(self.dataset[index], side, self._generator(epoch, index)))


class _Batch:
    """A batch that threads fill, sample by sample; the first one says what its arrays are like."""

    def __init__(self, count):
        self.count, self.arrays = count, None
        self._lock = new_lock()

    def put(self, row, parts):
        if not isinstance(parts, (tuple, list)) or not parts:
            was = f"a {type(parts).__name__}" if parts else "nothing"
            raise TypeError(f"Loader: `prepare` returns {was}; expected a tuple of arrays and numbers.")
        parts = [numbers(part, "Loader: what `prepare` returns") for part in parts]
        with self._lock:
            if self.arrays is None:
                self.arrays = [np.empty((self.count, *part.shape), part.dtype) for part in parts]
        shapes = [(part.shape, part.dtype) for part in parts]
        like = [(array.shape[1:], array.dtype) for array in self.arrays]
        require(shapes == like, "Loader", "prepare", f"returns {shapes}", f"{like}, as for another sample of the batch")
        for array, part in zip(self.arrays, parts, strict=True):
            array[row] = part
