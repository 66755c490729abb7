"""The clock of the profiler: time stamps inside kernels, one for each step of the interpreter.

Only profilers import this; without it, `hooks.after_step` has no clock to read.
"""

import pathlib
import platform
import time
from typing import Any, NamedTuple

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, overload

from octsod.errors import OctsodError

from .compile import inlined, kernel
from .hooks import after_step
from .simd import X86

FIRST, LAST, BETWEEN, TAKEN = range(4)  # a thread's marks, see `Clock`
MARKS = 16  # from one thread's marks to the next one's: two lines of the cache, so that no thread slows down another
EVENT = 3  # numbers per event: step, start, end


def _has_counter():
    """Whether a processor's counter goes at one pace, and equally on all cores: then it is a clock.

    Every x86 of the last 15 years has such a one, but not every virtual machine; Linux tests it, and uses it itself if
    it is. On ARM, LLVM would read a counter that only the system may read.
    """
    if platform.system() != "Linux":
        return X86
    try:
        source = pathlib.Path("/sys/devices/system/clocksource/clocksource0/current_clocksource").read_text()
    except OSError:
        return False
    return X86 and source.strip() == "tsc"


COUNTER = _has_counter()
MONOTONIC = getattr(time, "CLOCK_MONOTONIC", -1)


@intrinsic
def cycles(typingctx):
    """The processor's counter. It takes some 10 ns to read."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(64), [])
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.readcyclecounter"), [])

    return types.int64(), generate


@intrinsic
def nanoseconds(typingctx):
    """The system's monotonic clock, which is 20 to 50 ns away."""

    def generate(context, builder, signature, arguments):
        whole, part = ir.IntType(64), ir.IntType(8 * context.get_abi_sizeof(context.get_value_type(types.intp)))
        moment = ir.LiteralStructType([part, part])
        slot = cgutils.alloca_once(builder, moment)
        kind = ir.FunctionType(ir.IntType(32), [ir.IntType(32), moment.as_pointer()])
        function = cgutils.get_or_insert_function(builder.module, kind, "clock_gettime")
        builder.call(function, [ir.Constant(ir.IntType(32), MONOTONIC), slot])
        seconds, rest = (builder.extract_value(builder.load(slot), i) for i in range(2))
        if part != whole:
            seconds, rest = builder.sext(seconds, whole), builder.sext(rest, whole)
        return builder.add(builder.mul(seconds, ir.Constant(whole, 1_000_000_000)), rest)

    return types.int64(), generate


if not COUNTER and MONOTONIC < 0:
    raise OctsodError("There is no clock on this system that a kernel can read; inference cannot be profiled by steps.")
now = cycles if COUNTER else nanoseconds


@kernel
def read():
    """What the clock shows, in its own units: see `Clock`."""
    return now()


class Clock(NamedTuple):
    """A thread's clock, and what it has noted. Times are in units of `now`; a caller who has looked at the system's
    clock before and after knows how long they are.

    stamps: per step of the program, how long it took in all and how often it was taken. A step lasts from the end of
    the one before to its own. marks: when this thread began with its first task, and when it ended its last step; how
    long it was between tasks; how many events it has noted. events (count, EVENT), flat: a ring of the latest steps,
    each with its start and end; empty if nobody wants them. count is a power of two.
    """

    stamps: Any
    marks: Any
    events: Any


@inlined
def begin(clock):
    """A thread begins with a task."""
    moment = now()
    if clock.marks[FIRST]:
        clock.marks[BETWEEN] += moment - clock.marks[LAST]
    else:
        clock.marks[FIRST] = moment
    clock.marks[LAST] = moment


@inlined
def stamp(clock, k):
    """Step k has ended."""
    moment, start = now(), clock.marks[LAST]
    clock.stamps[2 * k] += moment - start
    clock.stamps[2 * k + 1] += 1
    clock.marks[LAST] = moment
    if clock.events.size:
        at = EVENT * (clock.marks[TAKEN] & (clock.events.size // EVENT - 1))
        clock.events[at], clock.events[at + 1], clock.events[at + 2] = k, start, moment
        clock.marks[TAKEN] += 1


@overload(after_step, inline="always")
def _timed(clock, k):
    if isinstance(clock, types.BaseNamedTuple) and clock.instance_class is Clock:
        return lambda clock, k: stamp(clock, k)
    return None
