"""Batches made on a device, from the bytes of pictures that are kept there as far as they fit."""

import collections
import contextlib
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from ..backend.arrays import is_plain, numbers
from ..backend.device import Device, get_device
from ..checks import described, require, require_integer, require_samples
from .augmentation import Choices, Parts, pair_choices, pair_parts
from .images import MEAN, STD, checked_picture
from .loader import Batch, Epochs
from .workers import Workers, delayed

BUDGET = 4 << 30  # bytes of a device that pictures may take
PROBED = 128  # pictures whose sizes tell what all will take
_COLOURS = MEAN.tolist(), STD.tolist()


class Resident:
    """The pictures of a data set on a device, as bytes: from the first one on, as many as fit.

    dataset: anything with a length and items that are always the same. parts: makes of an item its `Parts`. budget: the
    most bytes to keep. threads: that read; on_progress: called with how many pictures have been read, and how many
    there are to keep, about. Raises what reading a picture raises.

    bytes: (n,) uint8, on the device: of each picture (H, W, 3), and right after it its mask (H, W), if there is one.
    starts: where each begins, -1 if it is not kept; shapes: (H, W) of each; more: what else belongs to it. masks:
    whether samples have one.
    """

    def __init__(
        self, dataset: Any, device: str | Device, parts: Callable[[Any], Parts] = pair_parts, budget: int = BUDGET,
        threads: int = 2, on_progress: Callable[[int, int], None] = lambda done, total: None,
    ):  # fmt: skip
        op = "Resident"
        require_samples(dataset, op, "dataset")
        budget = require_integer(budget, op, "budget", 0)
        self.dataset, self.parts = dataset, parts
        device = get_device(device)
        count = len(dataset)
        self.starts, self.shapes = np.full(count, -1), np.zeros((count, 2), int)
        self.more: list[tuple[Any, ...]] = [()] * count
        with contextlib.ExitStack() as stack:
            pool = Workers(require_integer(threads, op, "threads", 1))
            stack.callback(pool.shutdown, wait=True, cancel_futures=True)
            self.masks = self._parts_of(0).mask is not None
            needed = self._needed(pool, count)
            self.bytes = device.empty((min(needed, budget),), "uint8")
            total, end = min(count, count * self.bytes.size // needed), 0
            reading = (pool.submit(self.read, index) for index in range(count if total else 0))
            for index, future in enumerate(delayed(reading, 2 * threads)):
                sample = future.result()
                record = _record(sample)
                if end + _size(record) > self.bytes.size:
                    break
                self.starts[index], self.shapes[index], self.more[index] = end, sample.image.shape[:2], sample.more
                for array in record:
                    device.put(array, self.bytes[end : end + array.size])
                    end += array.size
                on_progress(index + 1, max(total, index + 1))

    def _needed(self, pool, count):
        """How many bytes all pictures take, by some of them: hardly ever more than that; of equal sizes, exactly."""
        probed = np.unique(np.linspace(0, count - 1, min(count, PROBED)).astype(int)).tolist()
        reading = [pool.submit(lambda index: _size(_record(self.read(index))), index) for index in probed]
        sizes = [future.result() for future in reading]
        # Three standard deviations of the mean of so many out of so many; none if all are known.
        margin = 3 * np.std(sizes) * math.sqrt((1 - len(sizes) / count) / len(sizes))
        return math.ceil(count * (np.mean(sizes) + margin))

    def _parts_of(self, index):
        found = self.parts(self.dataset[index])
        if not isinstance(found, Parts):
            raise TypeError(f"Resident: `parts` returns a {type(found).__name__}; expected `Parts`.")
        return found

    def read(self, index: int) -> Parts:
        """The parts of a sample, fit for the device. Raises ValueError or TypeError if they are something else."""
        image, mask, more = self._parts_of(index)
        image, op = checked_picture(image, "Resident"), "Resident"
        was = f"has a picture {'without' if mask is None else 'with'} a mask"
        require((mask is not None) == self.masks, op, "dataset", was, "masks for all of its pictures, or for none")
        if mask is not None:
            fits = is_plain(mask, 2) and mask.shape == image.shape[:2]
            require(fits, op, "mask", described(mask), f"uint8 {image.shape[:2]}, the size of its picture")
        return Parts(image, mask, tuple(more))


class DeviceLoader(Epochs):
    """Batches of a data set of pictures as arrays on a device: see `Epochs`. They are those of a `Loader` of the same
    seed, up to rounding.

    Pictures are decoded once to bytes, which are kept on the device up to `budget` bytes. Those beyond it are decoded
    for each batch, by background threads. A kernel augments, resizes and normalises them: it makes x (N, 3, S, S) and,
    if there are masks, y (N, 1, S, S), both of `dtype`; the batch ends with what else belongs to samples, such as
    labels (N,).

    parts: makes of a sample its `Parts`. choices: called with a picture's size (H, W) and a generator, returns the
    `Choices` of its augmentation. By default, samples are pictures with masks, augmented as by `prepare_pair`.
    resident: the pictures on the device, once they are there: see `load`.
    """

    def __init__(
        self,
        dataset: Any,
        device: str | Device,
        batch_size: int = 24,
        size: int | Sequence[tuple[int, int]] = 224,
        seed: int = 0,
        augmented: bool = True,
        threads: int = 2,
        ahead: int = 2,
        parts: Callable[[Any], Parts] = pair_parts,
        choices: Callable[[Sequence[int], np.random.Generator], Choices] = pair_choices,
        dtype: DTypeLike = "float32",
        budget: int = BUDGET,
    ):
        super().__init__(dataset, batch_size, size, seed, augmented, threads, ahead)
        self.device, self.dtype = get_device(device), np.dtype(dtype)
        self.parts, self.choices = parts, choices
        self.budget = require_integer(budget, "DeviceLoader", "budget", 0)
        self.resident: Resident | None = None
        self._buffers: collections.deque[np.ndarray] = collections.deque()  # for bytes that go to the device; in no use

    def load(self, on_progress: Callable[[int, int], None] = lambda done, total: None) -> Resident:
        """Bring pictures to the device, if that has not been done; the first epoch does it, too. See `Resident`."""
        if self.resident is None:
            self.resident = Resident(self.dataset, self.device, self.parts, self.budget, self.threads, on_progress)
        return self.resident

    def epoch(self, number: int, first: int = 0) -> Generator[Batch, None, None]:
        """The batches of epoch `number`, from 0, starting at batch `first`. Raises what reading a picture raises.

        Kernels are launched by the thread that asks for a batch.
        """
        self.load()
        return super().epoch(number, first)

    def _start(self, pool, epoch, indices, side):
        resident = self.load()
        missing = [index for index in indices if resident.starts[index] < 0]
        reading = {index: pool.submit(resident.read, index) for index in missing}
        # Threads take tasks in turn, so those that this one waits for are done or under way.
        return side, pool.submit(self._planned, epoch, indices, reading)

    def _planned(self, epoch, indices, reading):
        """What the kernel needs for a batch: table, a buffer and how many bytes of it, and the samples' further parts.

        None of it is on the device, whose arrays belong to the thread that asks for batches.
        """
        resident = self.load()
        rows, fresh, more, end = [], [], [], resident.bytes.size
        for index in indices:
            if index in reading:
                sample = reading[index].result()
                start, shape, own = end, sample.image.shape[:2], sample.more
                record = _record(sample)
                fresh += record
                end += _size(record)
            else:
                start, shape, own = resident.starts[index], resident.shapes[index].tolist(), resident.more[index]
            generator = self._generator(epoch, index)
            whole = Choices((0, shape[0]), (0, shape[1]))
            rows.append(_row(start, shape, whole if generator is None else self.choices(shape, generator)))
            more.append(own)
        width = max(map(len, rows))
        table = np.array([row + [1] * (width - len(row)) for row in rows], np.float64)  # factors of 1 change no colour
        size = end - resident.bytes.size
        buffer = self._buffer(size) if size else None
        if size:
            np.concatenate(fresh, out=buffer[:size])
        columns = [np.stack([numbers(value, "DeviceLoader: what `parts` returns") for value in column])
                   for column in zip(*more, strict=True)]  # fmt: skip
        return table, buffer, size, columns

    def _buffer(self, size):
        with contextlib.suppress(IndexError):  # there may be none
            buffer = self._buffers.popleft()
            if buffer.size >= size:
                return buffer
        return np.empty(size + size // 4, np.uint8)  # since other batches are larger

    def _finish(self, side, planned):
        resident, device = self.load(), self.device
        table, buffer, size, more = planned.result()
        fresh = device.put(buffer[:size]) if size else device.empty((0,), "uint8")
        x = device.empty((len(table), 3, side, side), self.dtype)
        y = device.empty((len(table), 1, side, side), self.dtype) if resident.masks else None
        device.kernels.prepare_pictures(resident.bytes, fresh, device.put(table), *_COLOURS, x, y)
        if size:
            self._buffers.append(buffer)
        more = [array.astype(self.dtype) if array.dtype.kind == "f" else array for array in more]
        return *((x,) if y is None else (x, y)), *map(device.put, more)


def _record(sample):
    """The bytes of a sample's picture and mask, as flat arrays."""
    return [array.reshape(-1) for array in (sample.image, sample.mask) if array is not None]


def _size(record):
    return sum(array.size for array in record)


def _row(start, shape, choices):
    """An image's row of the kernel's table."""
    windows = choices.rows, choices.columns
    for (first, count), pixels in zip(windows, shape, strict=True):
        fits = 0 <= first < first + count <= pixels
        was = f"keeps {count} pixels from {first} on"
        require(fits, "DeviceLoader", "choices", was, f"a part of the {pixels} that a picture has")
    (top, rows), (left, columns) = windows
    flips = choices.upside_down, choices.mirrored
    return [start, *shape, top, left, rows, columns, *flips, *(() if choices.factors is None else choices.factors)]
