"""Which layer's calls hold how much memory."""

import collections
import time
from collections.abc import Callable

from ..threads import new_lock
from .results import LayerMemory


class Holdings:
    """Memory by the layer whose call took it, and how it was shared when most was in use.

    Of one kind of memory: that of a host's pool, where arrays of less than 16 KB are not counted, or a GPU's. before:
    how many bytes were in use at first; they are nobody's, "". changes: when, and how many bytes were in use from then
    on; the latest `kept` ones.

    Threads take and return memory at any time, and so does garbage collection in the midst of that. So what happens is
    queued first, and counted by one at a time.
    """

    def __init__(self, before: int = 0, kept: int = 0):
        self.live, self._before = {"": before}, before
        self.changes: collections.deque[tuple[int, int]] = collections.deque(maxlen=kept)
        self._owners: dict[int, str] = {}
        self._lock, self._counting = new_lock(), False
        self._queue: collections.deque[tuple[Callable[..., None], tuple]] = collections.deque()
        self.restart()

    def _count(self):
        with self._lock:
            if self._counting:  # further out on this thread's stack
                return
            self._counting = True
            try:
                while self._queue:
                    count, arguments = self._queue.popleft()
                    count(*arguments)
            finally:
                self._counting = False

    def restart(self) -> None:
        """Measure from here."""
        self._count()
        self.total = self.peak = sum(self.live.values())
        self.most, self.at_peak = dict(self.live), dict(self.live)
        self.used = False
        self.changes.clear()

    def _changed(self, size):
        self.total += size
        self.changes.append((time.perf_counter_ns(), self.total))

    def taken(self, block: int, size: int, layer: str) -> None:
        self._queue.append((self._taken, (block, size, layer)))
        self._count()

    def returned(self, block: int, size: int) -> None:
        self._queue.append((self._returned, (block, size)))
        self._count()

    def _taken(self, block, size, layer):
        self.used = True
        self._owners[block] = layer
        now = self.live[layer] = self.live.get(layer, 0) + size
        if now > self.most.get(layer, 0):
            self.most[layer] = now
        self._changed(size)
        if self.total > self.peak:
            self.peak, self.at_peak = self.total, self.live.copy()

    def _returned(self, block, size):
        layer = self._owners.pop(block, None)
        if layer is None:  # it was there before; of a GPU's memory, nobody knows how much that was
            layer, size = "", min(size, self._before)
            self._before -= size
        self.live[layer] = self.live.get(layer, 0) - size
        self._changed(-size)

    def by_layer(self) -> list[LayerMemory]:
        """Layers in the order in which they first took memory; "" is what was in use before, or taken outside of
        layers."""
        self._count()
        return [LayerMemory(layer, self.most[layer], self.at_peak.get(layer, 0)) for layer in self.most]
