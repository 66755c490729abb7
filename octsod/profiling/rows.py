"""From what has been recorded to the rows of a profile."""

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Any

from ..checks import require, require_number
from ..ops import Cost
from .recorder import Recorder
from .results import Event, Row
from .tracks import COMPILING, OUTSIDE, PYTHON, Cell

MOST = 10**15  # of operations or bytes of a user's op: no machine makes as many in a call that anyone waits for


def rows_of(recorder: Recorder, walls: Sequence[int]) -> list[Row]:
    """The rows of rounds that took `walls` nanoseconds: of the thread that was profiled, of other threads, of GPUs."""
    rounds, prices = len(walls), _Prices()
    merged: dict[Any, list[Cell]] = {}
    for track in recorder.all_tracks():
        for cell in list(track.cells.values()):
            kind, frame = cell.kind, cell.frame
            nothing = kind is PYTHON and frame == OUTSIDE and not track.counted
            if kind is not COMPILING and not nothing and (any(cell.seconds) or cell.kept > cell.base):
                merged.setdefault((kind.kernel, kind.title, *frame, kind.device, track.name), []).append(cell)
    rows = [_row(key, cells, rounds, prices) for key, cells in merged.items()]
    busy = {timed.name: _together(rows, timed.name, rounds) for timed in recorder.devices.values()}
    for name, seconds in busy.items():
        idle = tuple(max(wall / 1e9 - s, 0.0) for wall, s in zip(walls, seconds, strict=True))
        rows.append(Row("", "idle", "", "", "", name, name, 1.0, idle))
    # What adds up to the rounds: the time of the GPU, or of the thread, whose kernels have taken most of it.
    kernels = [row for row in rows if row.kernel]
    busy = {recorder.main.name: _together(kernels, recorder.main.name, rounds), **busy}
    whole = max(busy, key=lambda name: sum(busy[name]))
    return [dataclasses.replace(row, beside=row.thread != whole) for row in rows]


def _together(rows, thread, rounds):
    own = [row.seconds for row in rows if row.thread == thread]
    return [sum(seconds[k] for seconds in own) for k in range(rounds)]


def _row(key, cells, rounds, prices):
    kernel, title, op, layer, phase, device, thread = key
    lasting = [0] * rounds
    for cell in cells:
        for k, lasted in enumerate(cell.seconds, rounds - len(cell.seconds)):
            lasting[k] += lasted
    calls = sum(cell.kept - cell.base for cell in cells)
    costs = [prices.of(cell) for cell in cells]
    known = all(cost is not None for cost in costs)
    flops, moved = (round(sum(c[i] for c in costs) / rounds) if known else None for i in (0, 1))
    seconds = tuple(nanoseconds / 1e9 for nanoseconds in lasting)
    return Row(kernel, title, op, layer, phase, device, thread, calls / rounds or 1.0, seconds, flops, moved)


class _Prices:
    """The costs of cells: those of our own kernels, and those that users' ops tell."""

    def __init__(self):
        self._known: dict[Any, Cost | None] = {}
        self._said: set[str] = set()

    def of(self, cell: Cell) -> tuple[float, float] | None:
        """(flops, bytes) of all calls; None if nobody knows."""
        calls = cell.kept - cell.base
        if cell.kind.cost is not None:
            return cell.kind.cost.flops * calls, cell.kind.cost.bytes * calls
        if not cell.kept_costs or sum(cell.kept_costs.values()) != calls:
            return None
        costs = [(self._cost(*key), count) for key, count in cell.kept_costs.items()]
        if any(cost is None for cost, _ in costs):
            return None
        return sum(cost.flops * n for cost, n in costs), sum(cost.bytes * n for cost, n in costs)

    def _cost(self, example, backward):
        key = example, backward
        if key not in self._known:
            function = example.function
            try:
                cost = _sound(
                    function.cost(*example.shapes, itemsize=example.itemsize, backward=backward, **example.settings)
                )
            except Exception as error:  # of a user's code
                cost = None
                self._warn(f"profile: `{function.__name__}.cost` is not used: {type(error).__name__}: {error}")
            self._known[key] = cost
        return self._known[key]

    def _warn(self, text):
        """Say it once, however many shapes it is true of."""
        if text not in self._said:
            self._said.add(text)
            warnings.warn(text, RuntimeWarning, stacklevel=2)


def _sound(cost):
    """A cost that a user's op told, in whole numbers. Raises TypeError or ValueError for what is none."""
    if not isinstance(cost, Cost):
        raise TypeError(f"it returned a {type(cost).__name__}; expected an octsod.ops.Cost")
    numbers = [("flops", cost.flops), ("bytes", cost.bytes)]
    for name, number in numbers:
        require(require_number(number, "cost", name, 0) <= MOST, "cost", name, f"is {number}", f"at most {MOST:g}")
    return Cost(*(int(number) for _, number in numbers))


def events_of(items: Sequence[Any]) -> list[Event]:
    """What the ring buffer holds, as `Event`s."""
    return [Event(*item) for item in items]
