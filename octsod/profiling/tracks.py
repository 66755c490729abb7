"""What a thread does with its time: intervals within intervals, each nanosecond counted where it was spent.

A `Track` reads the clock wherever something begins or ends, and adds the time since it last did so to the `Cell` of
what was going on. So the cells of a thread add up to its time, exactly.
"""

import collections
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple


class Frame(NamedTuple):
    """What is going on: see `Row`."""

    op: str
    layer: str
    phase: str


OUTSIDE = Frame("", "", "")


class Kind:
    """Equal launches: kernel, title and device, and the cost of one, if it is known. Or, without a kernel, another use
    of time. own: whether the kernel is of a user's namespace."""

    __slots__ = ("cost", "device", "kernel", "own", "title")

    def __init__(self, kernel: str, title: str, device: str, cost: Any = None):
        self.kernel, self.title, self.device, self.cost = kernel, title, device, cost
        self.own = "." in kernel


PYTHON = Kind("", "", "cpu")
PROFILER = Kind("", "the profiler itself", "cpu")
COMPILING = Kind("", "compiling", "cpu")
PROFILING = Frame("octsod.profile", "", "")


class Cell:
    """Time of one kind in one frame, and how often it came up.

    total, calls: they only grow, since other threads read them. costs: how many calls had which cost of a user's op.
    seconds: nanoseconds of each round since the cell has been there. kept, kept_costs: of rounds that are over.
    """

    __slots__ = ("base", "calls", "costs", "frame", "kept", "kept_costs", "kind", "seconds", "seen", "total")

    def __init__(self, kind: Kind, frame: Frame):
        self.kind, self.frame, self.total, self.calls = kind, frame, 0, 0
        self.costs: collections.Counter[Any] = collections.Counter()
        self.seconds: list[int] = []
        self.forget()

    def forget(self, running: int = 0) -> None:
        """Count from here. running: nanoseconds so far of what has not ended."""
        self.seen, self.base, self.kept = self.total + running, self.calls, self.calls
        self.costs.clear()
        self.kept_costs: dict[Any, int] = {}

    def close(self, running: int) -> None:
        """A round is over. running: nanoseconds so far of what has not ended."""
        total = self.total + running
        self.seconds.append(total - self.seen)
        self.seen, self.kept = total, self.calls
        if self.costs:
            self.kept_costs = dict(self.costs)


class Track:
    """A thread's time, or a device's, which is added to its cells as it becomes known.

    counted: whether what it does outside of any interval counts, too: a thread of a pool may be doing nothing.
    """

    def __init__(self, name: str, clock: Callable[[], int], counted: bool):
        self.name, self.clock, self.counted = name, clock, counted
        self.cells: dict[Any, Cell] = {}
        self.compiling = 0  # how many intervals of compiling lie within each other
        self.launches = 0
        self.frame = OUTSIDE
        self.network: Any = None  # the outermost module that is being called
        self.note: Any = None  # of the op that is being applied
        self.launched: Any = None  # cells of the kernels that the op has launched
        self.cell = self.of(PYTHON, OUTSIDE)
        self.last = clock()

    def of(self, kind: Kind, frame: Frame) -> Cell:
        """The cell of a kind in a frame."""
        key = kind, frame
        found = self.cells.get(key)
        if found is None:
            found = self.cells[key] = Cell(kind, frame)
        return found

    def turn(self, cell: Cell) -> int:
        """From now on, time belongs to that cell; returns now."""
        now = self.clock()
        self.cell.total += now - self.last
        self.last, self.cell = now, cell
        return now


class Ring:
    """The latest intervals: (kind, name, thread, device, start, end). count: how many there were."""

    def __init__(self, size: int):
        self._items: list[Any] = [None] * size
        self.clear()

    def clear(self) -> None:
        self._numbers, self.count = itertools.count(1), 0

    def add(self, item: tuple[Any, ...]) -> None:
        """Any thread may call it: two never have the same number."""
        self.count = number = next(self._numbers)
        if self._items:
            self._items[number % len(self._items)] = item

    def latest(self) -> tuple[list[Any], int]:
        """What it holds, in order of their ends, and how many it has lost."""
        size, count = len(self._items), next(self._numbers) - 1
        self._numbers = itertools.count(count + 1)  # so that it may be asked again
        first = max(1, count - size + 1)
        held = [self._items[number % size] for number in range(first, count + 1) if size]
        found = [item for item in held if item is not None]  # a thread may just be adding one
        return found, count - len(found)


class Within:
    """An interval of a track, as a context manager: what was going on before goes on after it, whatever ends it."""

    __slots__ = ("_before", "_cell", "_frame", "_kind", "_name", "_note", "_ring", "_start", "_track")

    def __init__(self, track: Track, ring: Ring, kind: str, name: str, cell: Cell, frame: Frame, note: Any = None):
        self._track, self._ring, self._kind, self._name = track, ring, kind, name
        self._cell, self._frame, self._note = cell, frame, note

    def __enter__(self) -> None:
        track = self._track
        self._before = track.cell, track.frame, track.note, track.launched, track.network
        self._start = track.turn(self._cell)
        track.frame, track.note = self._frame, self._note
        self._cell.calls += 1
        self._begin(track)

    def _begin(self, track):
        pass

    def _end(self, track, launched):
        pass

    def __exit__(self, *_: Any) -> None:
        track, launched = self._track, self._track.launched
        cell, track.frame, track.note, track.launched, track.network = self._before
        end = track.turn(cell)
        self._end(track, launched)
        self._ring.add((self._kind, self._name, track.name, "cpu", self._start, end))
