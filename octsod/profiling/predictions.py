"""Inference on a CPU, which is one kernel call, step by step."""

import collections
import dataclasses
import threading
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, overload

import numpy as np

from ..backend import Host, host, launch_with
from ..checks import require, require_integer
from ..inference import Frozen, logits
from ..inference.prediction import infer
from ..kernels.cpu import parallel, timed
from ..kernels.cpu.clock import BETWEEN, FIRST, LAST, TAKEN
from ..kernels.cpu.network import sharing
from ..models.files import require_salience
from .launches import described
from .results import Event, Row
from .step_costs import Part, Steps

if TYPE_CHECKING:
    from ..models import CSNet

OP, PHASE, DEVICE = "prediction_rows", "predict", "cpu"
MOST_EVENTS = 1 << 16
PREPARATION, END, AROUND = Part("", "before the steps"), Part("", "after the steps"), Part("", "around the kernels")
BETWEEN_PICTURES, WAIT = Part("", "between pictures"), Part("", "waiting for other threads")


@overload
def prediction_rows(
    network: "CSNet | Frozen", images: np.ndarray, rounds: int, events: Literal[False] = False
) -> tuple[list[Row], list[float]]: ...
@overload
def prediction_rows(
    network: "CSNet | Frozen", images: np.ndarray, rounds: int, events: Literal[True]
) -> tuple[list[Row], list[float], list[Event], int]: ...
def prediction_rows(network, images, rounds, events=False):
    """Profile `rounds` predictions of all `images`, prepared as for `octsod.inference.infer`, by the steps of the plan.

    network: a CSNet, which is used as in eval mode, or a `Frozen` one, whose prediction is `logits`. Returns the rows,
    and each round's wall time in seconds. A round before them, in which kernels may be compiled, is in neither. With
    `events`, also the latest steps one by one, at most `MOST_EVENTS`, and how many earlier ones there were.

    The seconds of a round's rows add up to its wall time. From the first thread's first step to the last thread's last
    one, a row has the time that its thread spent on it divided by the number of threads at work: two threads that
    are both busy for 1 ms have rows that add up to 1 ms. A thread's time in this span is that of its steps; waiting, at
    barriers and before its first and after its last step; and, with whole pictures per thread, Python between pictures.
    A step lasts from the end of the one before to its own. Outside of the span, Python works alone, and its rows have
    their whole time. So the GFLOP/s of a row are those that the machine would reach if all threads did the same.

    kernel: the operation, such as "product", or another kernel of the prediction; "" for waiting and for Python. op:
    the kind of layer. layer: its path; "" for what prepares the image. calls: how many pictures a thread took part in,
    whatever the number of bands. flops, bytes: see `Steps`; threads have their shares of them.

    Raises ValueError unless the network runs on "cpu" and takes the images.
    """
    rounds = require_integer(rounds, OP, "rounds", 1)
    if not isinstance(network, Frozen):
        require_salience(network, OP)
    device = host() if network.device is None or isinstance(network.device, Host) else network.device
    require(device.name == DEVICE, OP, "network", f"runs on {device.name!r}", "'cpu', where it is one kernel call")
    profiler = _Profiler(network, images, events)
    profiler.predict()
    profiler.forget()
    walls = [profiler.predict() for _ in range(rounds)]
    rows = profiler.table.rows()
    return (rows, walls, list(profiler.events), profiler.lost) if events else (rows, walls)


class Call(NamedTuple):
    """A call of the kernel. bounds: see `Plan`. threads: their names, by slot."""

    steps: Steps
    bounds: Sequence[int]
    pictures: int
    times: timed.Times
    threads: Sequence[str]

    @property
    def unit(self) -> float:
        """The clock's unit, in nanoseconds."""
        (before, after), (start, end) = self.times.ticks, self.times.nanoseconds
        return (end - start) / max(after - before, 1)

    def taken(self) -> Iterator[tuple[int, slice, np.ndarray]]:
        """(slot, steps, their stamps) of all that a thread has taken."""
        if len(self.bounds) == 2:  # each thread the whole program, for pictures of its own
            for slot, stamps in enumerate(self.times.stamps):
                yield slot, slice(None), stamps
        else:
            for program, slot in enumerate(self.times.takers):
                steps = slice(self.bounds[program], self.bounds[program + 1])
                yield int(slot), steps, self.times.stamps[0, steps]


class _Profiler:
    def __init__(self, network, images, events):
        self._infer, self._network, self._images = logits if isinstance(network, Frozen) else infer, network, images
        self._ring = MOST_EVENTS if events else 0
        self._thread = threading.get_ident()
        self._key, self._steps, self._plan = None, None, None
        self.forget()

    def forget(self):
        """Begin with the first round."""
        self.table, self.lost = Table(parallel.thread_name(0)), 0
        self.events = collections.deque(maxlen=self._ring)

    def predict(self):
        """One round. Returns its wall time in seconds."""
        self._calls, self._kernels = [], []
        with launch_with(self._launch):
            start = time.perf_counter_ns()
            self._infer(self._network, self._images)
            end = time.perf_counter_ns()
        self.table.add_round(end - start, self._calls, self._kernels)
        if self._ring:
            self._add_events(start, end)
        return (end - start) / 1e9

    def _launch(self, name, function, *arguments):
        if threading.get_ident() != self._thread:
            return function(*arguments)
        if name == "csnet":
            return self._csnet(*arguments)
        start = time.perf_counter_ns()
        result = function(*arguments)
        end = time.perf_counter_ns()
        title, cost = described(name, arguments)
        part = Part(name, title) if cost is None else Part(name, title, flops=cost.flops, bytes=cost.bytes)
        self._kernels.append((part, end - start))
        return result

    def _csnet(self, frozen, x, out):
        batch, together = len(x), sharing(len(x))
        slots = parallel.parts(batch) if together == 1 else together
        key = frozen, *x.shape[2:], together, batch, slots if together == 1 else 1
        if self._key != key:
            self._steps = Steps(*key)
            self._key, self._plan = key, self._steps.finish()
        events = self._ring and 1 << (self._ring // slots).bit_length() - 1
        times = timed.csnet(self._plan, x, out, events)
        names = [parallel.thread_name(slot) for slot in range(slots)]
        self._calls.append(Call(self._steps, self._plan.bounds, batch, times, names))

    def _add_events(self, start, end):
        found = [event for call in self._calls for event in events_of(call)]
        before = len(self.events)
        taken = sum(int(call.times.marks[:, TAKEN].sum()) for call in self._calls)
        self.events.append(Event("step", "prediction", self.table.caller, DEVICE, start, end))
        self.events.extend(sorted(found, key=lambda event: event.start))
        self.lost += before + taken + 1 - len(self.events)


def events_of(call: Call) -> Iterator[Event]:
    """The steps that a call has noted one by one, thread after thread."""
    (before, _), (start, _), unit = call.times.ticks, call.times.nanoseconds, call.unit
    for name, marks, ring in zip(call.threads, call.times.marks, call.times.events, strict=True):
        taken = int(marks[TAKEN])
        first = taken % len(ring) if taken > len(ring) else 0
        for k, begin, end in np.roll(ring, -first, 0)[:taken]:
            part = call.steps.parts[call.steps.part[k]]
            title = f"{part.layer or part.op}: {' '.join(filter(None, (part.kernel, part.title)))}"
            begin, end = (start + round((int(moment) - before) * unit) for moment in (begin, end))
            yield Event("kernel", title, name, DEVICE, begin, end)


@dataclasses.dataclass
class _Entry:
    """What a thread did of a part. seconds: by round. calls: of all rounds. costs: its shares of FLOPs and bytes."""

    seconds: dict[int, float] = dataclasses.field(default_factory=lambda: collections.defaultdict(float))
    calls: float = 0.0
    costs: Any = 0.0


class Table:
    """Rounds, added up in rows. caller: the name of the thread that predicts."""

    def __init__(self, caller: str):
        self.caller, self._rounds = caller, 0
        self._entries: dict[tuple[str, str, str, str], dict[str, _Entry]] = {}

    def add_round(self, wall: int, calls: Sequence[Call], kernels: Sequence[tuple[Part, int]]) -> None:
        """Add a round that took `wall` nanoseconds: calls of the network's kernel, and other kernels with theirs."""
        for part, nanoseconds in kernels:
            self._add(part, self.caller, nanoseconds, 1, np.array([part.flops, part.bytes]))
            wall -= nanoseconds
        for call in calls:
            self._add_call(call)
            start, end = call.times.nanoseconds
            wall -= end - start
        self._add(AROUND, self.caller, wall, 1)
        self._rounds += 1

    def _add_call(self, call):
        (before, after), marks, unit = call.times.ticks, call.times.marks, call.unit
        at_work = marks[marks[:, FIRST] > 0]
        first, last = int(at_work[:, FIRST].min()), int(at_work[:, LAST].max())
        self._add(PREPARATION, self.caller, (first - before) * unit, 1)
        self._add(END, self.caller, (after - last) * unit, 1)
        share = unit / len(marks)
        for name, own in zip(call.threads, marks, strict=True):
            self._add(WAIT, name, (last - first - int(own[LAST] - own[FIRST])) * share, 0)
            self._add(BETWEEN_PICTURES, name, int(own[BETWEEN]) * share, 0)
        parts, whole = call.steps.parts, np.zeros(len(call.steps.parts))
        found = []
        for slot, steps, stamps in call.taken():
            numbers, count = call.steps.part[steps], stamps[:, 1]
            ticks, work = (
                np.bincount(numbers, weights, len(parts)) for weights in (stamps[:, 0], call.steps.work[steps] * count)
            )
            calls = np.zeros(len(parts), np.int64)
            np.maximum.at(calls, numbers, count)
            whole += work
            found.append((call.threads[slot], ticks, work, calls))
        for name, ticks, work, calls in found:
            for number in np.flatnonzero(calls):
                part = parts[number]
                costs = np.array([part.flops * call.pictures, part.bytes * call.pictures + part.weight_bytes])
                costs = costs * (work[number] / max(whole[number], 1))
                self._add(part, name, ticks[number] * share, calls[number], costs)

    def _add(self, part, thread, nanoseconds, calls, costs=0.0):
        entry = self._entries.setdefault(key_of(part), {}).setdefault(thread, _Entry())
        entry.seconds[self._rounds] += nanoseconds / 1e9
        entry.calls += calls
        entry.costs = entry.costs + costs

    def rows(self) -> list[Row]:
        """A row per part and thread."""
        rows = []
        for key, threads in self._entries.items():
            known = bool(key[0])
            for (thread, entry), costs in zip(threads.items(), self._divided(threads.values(), known), strict=True):
                seconds = tuple(float(entry.seconds[n]) for n in range(self._rounds))
                if entry.calls or any(seconds):
                    calls = float(entry.calls / self._rounds)
                    inside = bool(key[2])  # what belongs to a layer
                    row = Row(*key, PHASE, DEVICE, thread, calls, seconds, *costs)
                    rows.append(dataclasses.replace(row, inside=inside))
        return rows

    def _divided(self, entries, known):
        """The costs of a round, (FLOPs, bytes) per entry or nothing if nobody knows: whole numbers that add up to those
        of all."""
        before, so_far = np.zeros(2), np.zeros(2)
        for entry in entries:
            so_far = so_far + entry.costs / self._rounds
            until = np.rint(so_far)
            yield tuple(int(n) for n in until - before) if known else ()
            before = until


def key_of(part: Part) -> tuple[str, str, str, str]:
    return part.kernel, part.title, part.op, part.layer
