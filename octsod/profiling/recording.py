"""`octsod.profile`: what a block of code computes, and where its time goes."""

import contextlib
import time
from typing import Any

from numba.core import event as numba_events

from ..backend import cuda, default_device, gpu, launch_with, watching
from ..checks import require, require_integer
from ..threads import new_lock
from .machine import facts
from .recorder import Compiler, Recorder
from .results import Profile
from .roofs import under_roofs
from .rows import events_of, rows_of

clock = time.perf_counter_ns
EVENTS = 1 << 16  # intervals that are kept for a trace

_begins = new_lock()


class profile:  # noqa: N801 (reads as in `with octsod.profile() as p:`)
    """Within `with octsod.profile() as p:`, all that octsod computes is recorded, in every thread: kernels, ops, layers
    and the Python between them, memory and compiling. Afterwards `p.result` is a `Profile`, and `print(p)` shows it.

        with octsod.profile(warm=1) as p:
            for batch in batches:
                trainer.step(*batch)
                p.step()

    `p.step()` ends a round, which makes the next one begin, so that a result has repeated rounds; without it, the whole
    block is one. What follows the last `step` is a round of its own if octsod computed something there. A round that an
    exception ends is left out, unless it is the only one.

    subject: what is profiled, in words. warm: rounds at first that are made but not counted, such as those that
    compile. events: how many intervals are kept for a trace, the latest. roofs: whether to measure, at the end, what
    the devices can do at most, which takes a second.

    What runs within the block in another thread is recorded, too, as rows of that thread. A captured training step is
    launched kernel by kernel meanwhile. Profiles do not lie within each other, and each is used once: RuntimeError.
    """

    def __init__(self, subject: str = "", warm: int = 0, events: int = EVENTS, roofs: bool = True):
        op = "profile"
        require(isinstance(subject, str), op, "subject", f"is a {type(subject).__name__}", "text")
        self._subject, self._roofs = subject, bool(roofs)
        self._warm = self._asked = require_integer(warm, op, "warm", 0)
        self._events = require_integer(events, op, "events", 0)
        self._recorder: Any = None
        self._stack: Any = None
        self._walls: list[int] = []
        self._result: Profile | None = None

    def __enter__(self) -> "profile":
        if self._recorder is not None:
            raise RuntimeError("profile: this one has been used; make another one.")
        with contextlib.suppress(AttributeError):  # loads the kernels, which is no part of what is profiled
            _ = default_device().kernels.CACHED
        with _begins:
            if watching.profiler is not None:
                raise RuntimeError("profile: another one is under way; profiles do not lie within each other.")
            recorder = self._recorder = Recorder(self._events, clock)
            with contextlib.ExitStack() as stack:
                stack.enter_context(launch_with(recorder.launch))
                stack.enter_context(numba_events.install_listener("numba:compiler_lock", Compiler(recorder)))
                if cuda.in_use():
                    stack.enter_context(gpu.watch_memory(recorder.taken_of_gpu, recorder.gpu_memory.returned))
                self._stack = stack.pop_all()
            watching.profiler = recorder
        now = recorder.main.turn(recorder.main.cell)
        recorder.forget(now)
        self._begin(now)
        return self

    def _begin(self, now):
        """A round begins."""
        self._start, self._compiled = now, self._recorder.compiled()
        self._seen = self._recorder.ring.count

    def step(self) -> None:
        """A round ends, and the next one begins. On a GPU, this waits until all that was launched has run. Raises
        RuntimeError outside of the block, and in another thread than the one that entered it."""
        if self._recorder is None or not self._recorder.active:
            raise RuntimeError("profile: `step` is called within the `with` block.")
        if self._recorder.track() is not self._recorder.main:
            raise RuntimeError("profile: `step` is called by the thread that has entered the `with` block.")
        self._end()

    def _end(self):
        recorder = self._recorder
        recorder.settle()
        now = recorder.main.turn(recorder.main.cell)
        if self._warm:
            self._warm -= 1
            recorder.forget(now)
        else:
            recorder.close(now)
            wall = now - self._start - (recorder.compiled() - self._compiled)
            recorder.ring.add(("step", f"round {len(self._walls) + 1}", recorder.main.name, "cpu", self._start, now))
            self._walls.append(wall)
        self._begin(now)

    def __exit__(self, kind: Any, error: Any, _: Any) -> None:
        recorder = self._recorder
        done = recorder.ring.count != self._seen and error is None
        try:
            if done or not self._walls:
                self._end()
        finally:
            with _begins:
                recorder.active = False
                watching.profiler = None
                self._stack.close()
        if error is None:
            self._result = self._built()

    @property
    def result(self) -> Profile:
        """What was found. Raises RuntimeError before the end of the block, and if all rounds were warm ones."""
        if self._recorder is None or self._recorder.active:
            raise RuntimeError("profile: there is no result before the end of the `with` block.")
        if self._result is None:  # an exception has ended the block
            self._result = self._built()
        return self._result

    def _built(self):
        """The `Profile`; its roofs are measured now."""
        recorder = self._recorder
        if not self._walls:
            raise RuntimeError(
                f"profile: no round was counted: {self._asked} warm ones were asked for; call `step` more often."
            )
        rows = rows_of(recorder, self._walls)
        devices = [timed.device for timed in recorder.devices.values()]
        memory = recorder.gpu_memory if recorder.gpu_memory.used else recorder.memory
        events, lost = recorder.ring.latest()
        found = Profile(
            subject=self._subject or "a block of code", machine=facts(devices), roofs=(),
            rounds=tuple(wall / 1e9 for wall in self._walls), rows=tuple(rows), memory=tuple(memory.by_layer()),
            peak_bytes=memory.peak,
            compiled=recorder.compiled_by_all() / 1e9, events=tuple(events_of(events)), lost=lost,
            held=tuple(memory.changes), warm=self._asked,
        )  # fmt: skip
        if not self._roofs:
            return found
        names = dict.fromkeys([row.device for row in rows if row.flops is not None] or ["cpu"])
        return under_roofs(found, [recorder.computing.get(name, name) for name in names])

    def __str__(self):
        from .tables import table

        return table(self.result)

    def __repr__(self):
        state = "not begun" if self._recorder is None else "under way" if self._recorder.active else "done"
        return f"<profile, {state}>"
