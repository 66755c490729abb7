"""Records what every thread computes: kernels, ops, layers and what lies between, see `watching.Profiler`."""

import collections
import threading
from collections.abc import Callable
from typing import Any

from numba.core import event as numba_events

from ..autograd import Op
from ..backend import current, device_of, gpu, memory
from ..backend.cuda import CudaDevice
from ..threads import new_lock
from .events import DeviceTrack
from .holdings import Holdings
from .launches import Example, described, first_array, signature, told_apart
from .names import Names
from .tracks import COMPILING, OUTSIDE, PROFILER, PROFILING, PYTHON, Cell, Frame, Kind, Ring, Track, Within

# What autograd and memory launch around an op: zeros, gradients that are added up, maps that are materialised.
AROUND_FORWARD = {"activate", "copy", "fill"}
AROUND_BACKWARD = AROUND_FORWARD | {"add", "differentiate"}
CHANGES = 1 << 14  # of memory in use, the latest
KINDS = 500  # different launches of one kernel that are told apart; what comes after them is one more


class Recorder:
    """The time of all threads and devices, while a profile is under way. It begins in the thread that makes it.

    main: the track of that thread. tracks: those of all others. devices: by name, those of devices with a time of their
    own. computing: all devices on which kernels have run, by name. ring: the latest intervals.
    """

    def __init__(self, events: int, clock: Callable[[], int]):
        self.clock, self.ring, self.active = clock, Ring(events), True
        self.tracks: list[Track] = []
        self.devices: dict[str, DeviceTrack] = {}
        kept = min(events, CHANGES)
        self.memory, self.gpu_memory = Holdings(memory.pool.live, kept), Holdings(0, kept)
        self.computing: dict[str, Any] = {}
        self._names = Names()
        self._kinds: dict[Any, Kind] = {}
        self._of_kernel: collections.Counter[str] = collections.Counter()  # how many kinds
        self._titles: collections.Counter[tuple[str, str]] = collections.Counter()
        self._here = threading.local()
        self._naming = new_lock()
        self._threads = [(threading.current_thread().name, threading.current_thread())]  # alive, by name
        self.main = self._here.track = Track(threading.current_thread().name, clock, True)

    # What `watching` tells -------------------------------------------------------------------------------------------

    def forward(self, function, tensors, settings):
        track = self.track()
        before = track.frame
        frame = Frame(function.__name__, before.layer, before.phase or "forward")
        priced = None if issubclass(function, Op) or not hasattr(function, "cost") else (function, tensors, settings)
        cost = None if priced is None else Example.of(*priced)
        return _Applied(track, self.ring, "op", frame.op, track.of(PYTHON, frame), frame, (before.layer, cost, False))

    def noted(self):
        return self.track().note

    def backward(self, node):
        track = self.track()
        layer, cost, _ = node.note or ("", None, False)
        frame = Frame(node.name, layer, "backward")
        return _Applied(track, self.ring, "op", frame.op, track.of(PYTHON, frame), frame, (layer, cost, True))

    def layer(self, module):
        track = self.track()
        before = track.frame
        name = self._names.of(module, track.network, before.layer)
        frame = Frame("", name, before.phase or "forward")
        return _Called(track, self.ring, "layer", name, track.of(PYTHON, frame), frame, module)

    def span(self, name, phase):
        track = self.track()
        frame = Frame(name, track.frame.layer, phase)
        return Within(track, self.ring, "op", name, track.of(PYTHON, frame), frame)

    def waiting(self, device):
        track, title = self.track(), f"waiting for {device.name}"
        return Within(track, self.ring, "op", title, track.of(self._use(title), track.frame), track.frame)

    def compiling(self):
        return _Compiling(self.track(), self.ring)

    def part(self, layer, name, function, *arguments):
        track = self.track()
        before, track.frame = track.frame, track.frame._replace(layer=layer)
        try:
            self.launch(name, function, *arguments)
        finally:
            track.frame = before

    def taken(self, block, size):
        self.memory.taken(block, size, self.track().frame.layer)

    def returned(self, block, size):
        self.memory.returned(block, size)

    def taken_of_gpu(self, address, size):
        """The same of a GPU's memory."""
        self.gpu_memory.taken(address, size, self.track().frame.layer)

    # Kernels ---------------------------------------------------------------------------------------------------------

    def launch(self, name: str, function: Any, *arguments: Any) -> Any:
        """For `launch_with`. What it takes to tell which launch this is counts as the profiler's own time."""
        if not self.active:  # whoever asked for the kernel has kept it
            return function(*arguments)
        track = self.track()
        before, own = track.cell, track.of(PROFILER, PROFILING)
        track.turn(own)
        own.calls += 1
        try:
            kind, device = self._kind(name, arguments)
        except BaseException:
            track.turn(before)
            raise
        if isinstance(device, CudaDevice):
            track.turn(before)
            return self._on_device(track, device, kind, function, arguments)
        cell = track.of(kind, track.frame)
        self._count(track, cell)
        start = track.turn(cell)
        try:
            return function(*arguments)
        finally:
            end = track.turn(before)
            self.ring.add(("kernel", name, track.name, kind.device, start, end))

    def _on_device(self, track, device, kind, function, arguments):
        """Launch a kernel on a device that runs it later; the launch itself is Python's time."""
        if gpu.capturing():
            return function(*arguments)
        timed = self.devices.get(device.name)
        if timed is None:
            timed = self.devices[device.name] = DeviceTrack(device, self.clock, self.ring)
        cell = timed.of(kind, track.frame)
        track.launches += 1
        number, start = track.launches, timed.mark()
        try:
            return function(*arguments)
        finally:
            if track.launches == number:  # else it is made of launches, which are timed by themselves
                self._count(track, cell)
                timed.add(cell, start, timed.mark())

    @staticmethod
    def _count(track, cell):
        cell.calls += 1
        if track.launched is not None:
            track.launched.append(cell)

    def _kind(self, name, arguments):
        array = first_array(arguments)
        device = current() if array is None else device_of(array)
        key = name, device.name, signature(arguments)
        found = self._kinds.get(key)
        if found is None:
            self._of_kernel[name] += 1
            if self._of_kernel[name] > KINDS:
                key = name, device.name
                title, cost = "other shapes", None
            else:
                title, cost = _described(name, arguments)
                title = told_apart(name, title, self._titles)
            found = self._kinds.setdefault(key, Kind(name, title, device.name, cost))
            self.computing[device.name] = device
        return found, device

    def _use(self, title):
        return self._kinds.setdefault(("", title), Kind("", title, "cpu"))

    # Threads and rounds ----------------------------------------------------------------------------------------------

    def track(self) -> Track:
        """The track of this thread."""
        try:
            return self._here.track
        except AttributeError:
            with self._naming:
                track = self._here.track = Track(self._own_name(), self.clock, False)
                self.tracks.append(track)
            return track

    def _own_name(self):
        """The name of this thread, with a number if one that is alive has it, too."""
        thread = threading.current_thread()
        self._threads = [(name, other) for name, other in self._threads if other.is_alive()]
        taken, name, number = {self.main.name, *(name for name, _ in self._threads)}, thread.name, 1
        while name in taken:
            number += 1
            name = f"{thread.name} ({number})"
        self._threads.append((name, thread))
        return name

    def all_tracks(self) -> list[Track]:
        """The tracks of all threads and devices, the main one first."""
        return [self.main, *self.tracks, *self.devices.values()]

    def _cells(self):
        return [cell for track in self.all_tracks() for cell in list(track.cells.values())]

    def _running(self, now):
        """Nanoseconds of what other threads have not ended yet, by cell."""
        found: collections.Counter[Cell] = collections.Counter()
        for track in self.tracks:
            cell, last = track.cell, track.last  # nothing comes between, as `turn` sets both
            found[cell] += max(now - last, 0)
        return found

    def close(self, now: int) -> None:
        """A round is over."""
        running = self._running(now)
        for cell in self._cells():
            cell.close(running[cell])

    def forget(self, now: int) -> None:
        """Count from here, but for compiling."""
        running = self._running(now)
        for cell in self._cells():
            cell.forget(running[cell])
        self.ring.clear()
        for holdings in (self.memory, self.gpu_memory):
            holdings.restart()

    def compiled(self) -> int:
        """Nanoseconds that the main thread has been compiling."""
        return self.main.of(COMPILING, OUTSIDE).total

    def compiled_by_all(self) -> int:
        """Nanoseconds that all threads together have been compiling."""
        return sum(track.of(COMPILING, OUTSIDE).total for track in self.all_tracks())

    def settle(self) -> None:
        """Wait for all devices that have a time of their own, and read it."""
        for timed in self.devices.values():
            with self.waiting(timed.device):
                timed.read()


def _described(name, arguments):
    """Title and cost of a launch; neither for arguments that the contract does not know, with which a user may call a
    kernel."""
    try:
        return described(name, arguments)
    except Exception:
        return "", None


class _Applied(Within):
    """An op, forward or backward. Its note: layer, cost's example, whether this is backward."""

    __slots__ = ()

    def _begin(self, track):
        track.launched = []

    def _end(self, track, launched):
        _, cost, backward = self._note
        if cost is not None:
            around = AROUND_BACKWARD if backward else AROUND_FORWARD
            kernels = [c for c in launched if c.kind.kernel not in around or c.frame.op != self._frame.op]
            if not kernels and cost.on_host:  # of a GPU, nobody has timed what is no kernel
                self._cell.costs[cost, backward] += 1
            elif len(kernels) == 1 and kernels[0].kind.own:
                kernels[0].costs[cost, backward] += 1
        if track.launched is not None:
            track.launched += launched


class _Called(Within):
    """A module, its note."""

    __slots__ = ()

    def _begin(self, track):
        track.note = None
        if track.network is None:
            track.network = self._note


class _Compiling:
    """Compiling, which is no part of a round; intervals may lie within each other."""

    __slots__ = ("_before", "_ring", "_start", "_track")

    def __init__(self, track: Track, ring: Ring):
        self._track, self._ring = track, ring

    def __enter__(self):
        track = self._track
        track.compiling += 1
        if track.compiling == 1:
            self._before = track.cell
            self._start = track.turn(track.of(COMPILING, OUTSIDE))

    def __exit__(self, *_):
        track = self._track
        track.compiling -= 1
        if track.compiling == 0:
            end = track.turn(self._before)
            self._ring.add(("compile", "compiling", track.name, "cpu", self._start, end))


class Compiler(numba_events.Listener):
    """Tells a recorder when Numba compiles, or loads what it has compiled before, in whichever thread."""

    def __init__(self, recorder: Recorder):
        self._recorder = recorder
        self._here = threading.local()

    def _open(self):
        if not hasattr(self._here, "intervals"):
            self._here.intervals = []
        return self._here.intervals

    def on_start(self, event):
        interval = self._recorder.compiling()
        self._open().append(interval)
        interval.__enter__()

    def on_end(self, event):
        if self._open():
            self._open().pop().__exit__()
