"""What is wrong with a kernel, as an error that says where."""

import ctypes

from ...errors import OctsodError


class KernelError(OctsodError):
    """A kernel does not compile, cannot be launched, or did what it must not.

    `kind` is one of the words in `KINDS`, or "" if no kernel ran. If one ran: `kernel` is its name; `file` and `line`
    are where in the source (`file` is "" but for source with `#line`), `block` and `thread` who did it, and `other`,
    if two took part, the same of the other: (line, block, thread).
    """

    def __init__(self, message, *, kind="", kernel="", file="", line=0, block=None, thread=None, other=None):
        super().__init__(message)
        self.kind, self.kernel, self.file, self.line = kind, kernel, file, line
        self.block, self.thread, self.other = block, thread, other


KINDS = (
    "", "race", "out of bounds", "write to const", "misaligned", "unwritten", "divergent barrier", "stuck warp",
    "not in mask", "trap", "division by zero", "invalid address", "stack overflow", "endless", "order",
)  # fmt: skip


class Index(ctypes.Structure):
    _fields_ = [("x", ctypes.c_uint32), ("y", ctypes.c_uint32), ("z", ctypes.c_uint32)]

    def tuple(self):
        return self.x, self.y, self.z


class Place(ctypes.Structure):
    _fields_ = [
        ("block", Index), ("thread", Index), ("site", ctypes.c_int64), ("line", ctypes.c_int32),
        ("what", ctypes.c_int32),
    ]  # fmt: skip


class Report(ctypes.Structure):
    """scheduler.h's."""

    _fields_ = [
        ("fault", ctypes.c_int32), ("region", ctypes.c_int32), ("here", Place), ("there", Place),
        ("offset", ctypes.c_int64), ("size", ctypes.c_uint64),
    ]  # fmt: skip


SUBSCRIPT = -2  # as a report's region: `offset` is an index that an array does not have, described by a Subscript


class Subscript(ctypes.Structure):
    """How g++ -fsanitize=bounds describes a subscript in the source. array: the address of four bytes, and then of the
    name of the array's type in quotes."""

    _fields_ = [
        ("file", ctypes.c_char_p), ("line", ctypes.c_uint32), ("column", ctypes.c_uint32), ("array", ctypes.c_void_p),
    ]  # fmt: skip

    def type(self):
        return ctypes.string_at(self.array + 4).decode(errors="replace").strip("'")


_DOES = {1: "reads", 2: "writes", 3: "atomically changes"}
_DID = {1: "read", 2: "wrote", 3: "atomically changed"}
# What a thread does instead of waiting for the same as another one: 1 + its state.
_INSTEAD = {2: "waits at another barrier", 3: "waits for lanes of its warp", 4: "has ended"}


def error_of(report: Report, kernel: str, block, where: str, lines, schedule: str) -> KernelError:
    """The error that a report tells of. `block` is a block's size, `where` names the memory, `lines` is a function from
    call sites to (file, line)."""
    here, there = report.here, report.there
    kind = KINDS[report.fault]
    sites = [place.site for place in (here, there) if place.site > 0]
    found = dict(zip(sites, lines(sites), strict=True)) if sites else {}
    (file, line), (_, other_line) = (found.get(place.site, ("", place.line)) for place in (here, there))
    file = "" if file == "kernel.cu" else file
    at = f"{file + ' ' if file else ''}line {line or '?'}"
    who = f"thread {here.thread.tuple()} of block {here.block.tuple()}"
    other = f"thread {there.thread.tuple()} of block {there.block.tuple()}"
    bytes_ = f"{report.size} byte{'s' * (report.size != 1)}"
    does = f"{who} {_DOES.get(here.what, 'reads')} {bytes_}"
    match kind:
        case "race":
            if here.block.tuple() != there.block.tuple():
                hint = "blocks of a launch have no order but by __threadfence before and after an atomic"
            elif _warp(here, block) == _warp(there, block):
                hint = "within a warp, only __syncwarp orders memory"
            else:
                hint = "no __syncthreads lies between"
            text = f"{does} of {where}, which {other} {_DID[there.what]} in line {other_line or '?'}: {hint}"
        case "out of bounds" if report.region == SUBSCRIPT:
            text = f"{who} uses index {report.offset} of {where}"
        case "out of bounds":
            text = f"{does} outside of all arrays" + (f": {where}" if where else "")
        case "write to const":
            text = f"{does} of {where}, which is const"
        case "misaligned":
            text = f"{does} of {where}, which is no multiple of {report.size}"
        case "unwritten":
            text = f"{does} of {where}, which nobody has written"
        case "divergent barrier":
            text = f"{who} waits at __syncthreads, but {other} {_instead(there)}"
        case "stuck warp":
            text = f"{who} waits for the lanes that its mask names, but {other} {_instead(there)}"
        case "not in mask":
            text = f"{who} calls for lanes {report.size:#010x}, to which its own does not belong"
        case "trap":
            text = f"{who} calls __trap"
        case "division by zero":
            text = f"{who} divides an integer by zero"
        case "invalid address":
            text = f"{who} accesses memory that there is not"
        case "stack overflow":
            text = f"{who} needs more than {report.size >> 10} KB of stack"
        case _:
            text = f"{who} goes on changing one place atomically; blocks run one by one, so none can wait for another"
    return KernelError(
        f"{kernel}, {at}: {kind}: {text} (schedule {schedule}).",
        kind=kind, kernel=kernel, file=file, line=line, block=here.block.tuple(), thread=here.thread.tuple(),
        other=(other_line, there.block.tuple(), there.thread.tuple()) if there.what else None,
    )  # fmt: skip


def _instead(place):
    what = _INSTEAD.get(place.what, "goes on")
    return f"{what} in line {place.line}" if place.line and place.what in (2, 3) else what


def _warp(place, block):
    x, y, z = place.thread.tuple()
    return (x + block[0] * (y + block[1] * z)) // 32
