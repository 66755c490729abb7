"""The time of kernels on a GPU, by events before and after each launch."""

from collections.abc import Callable
from typing import Any

from ..backend import gpu
from .tracks import Cell, Ring, Track

MOST = 4096  # launches whose events have not been read: then the host waits for them


class DeviceTrack(Track):
    """The time of a GPU's kernels, in the order of their streams."""

    def __init__(self, device: Any, clock: Callable[[], int], ring: Ring):
        super().__init__(device.name, lambda: 0, False)
        self.device = device
        self._host, self._ring = clock, ring
        self._pairs: list[tuple[Cell, Any, Any]] = []
        self._spare: list[Any] = []
        self._start()

    def _start(self):
        """Learn what time an event has: when the device is idle, now."""
        self._zero = self.mark()
        self._zero.synchronize()
        self._zero_ns = self._host()

    def mark(self) -> Any:
        """An event after all that the current stream has been given."""
        event = self._spare.pop() if self._spare else gpu.event()
        event.record()
        return event

    def add(self, cell: Cell, start: Any, stop: Any) -> None:
        """A launch between two marks, which counts for that cell."""
        self._pairs.append((cell, start, stop))
        if len(self._pairs) >= MOST:
            self.read()

    def read(self) -> None:
        """Wait for all launches, and add their times to their cells."""
        pairs, self._pairs = self._pairs, []
        if not pairs:
            return
        for cell, start, stop in pairs:
            stop.synchronize()
            first = self._zero_ns + round(1e9 * gpu.seconds_between(self._zero, start))
            lasted = round(1e9 * gpu.seconds_between(start, stop))
            cell.total += lasted
            self._ring.add(("kernel", cell.kind.kernel, self.name, self.name, first, first + lasted))
            self._spare += start, stop
        self._spare.append(self._zero)
        with gpu.device(self.device.index):
            self._start()
