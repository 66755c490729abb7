"""A kernel's arguments: of exactly the types that its parameters have, and copied to where accesses can be watched."""

import ctypes
import dataclasses

import numpy as np

from .arrays import address, owner_of

ALIGNMENT = 512  # bytes; as allocations on a GPU have it
GAP = 1 << 20  # bytes between arrays: an index that is off by less is noticed
_DTYPES = {"f": "float", "i": "int", "u": "uint"}


class Parameter(ctypes.Structure):
    """kernels.h's."""

    _fields_ = [
        ("kind", ctypes.c_char), ("pointer", ctypes.c_char), ("constant", ctypes.c_char), ("size", ctypes.c_uint32),
        ("element", ctypes.c_uint32),
    ]  # fmt: skip

    @property
    def is_pointer(self):
        return self.pointer != b"\0"

    @property
    def is_constant(self):
        return self.constant != b"\0"

    def describe(self):
        """What an argument has to be."""
        kind = self.kind.decode()
        if kind == "V":
            return "an array" if self.is_pointer else f"a NumPy scalar of {self.size} bytes"
        dtype = f"{_DTYPES[kind]}{8 * (self.element if self.is_pointer else self.size)}"
        return f"an array of {dtype}" if self.is_pointer else f"a NumPy {dtype}"


class Argument(ctypes.Structure):
    """memory.h's: what the runtime has to know of an array."""

    _fields_ = [
        ("start", ctypes.c_uint64), ("size", ctypes.c_uint64), ("written", ctypes.c_uint64),
        ("index", ctypes.c_int32), ("writable", ctypes.c_int32),
    ]  # fmt: skip


@dataclasses.dataclass
class Segment:
    """Memory that arguments share: the bytes of one array, or of several that overlap. `start` is its address, `place`
    where the kernel sees it."""

    start: int
    size: int
    index: int  # of an argument, to name it by
    writable: bool
    owner: int  # address of the memory's owner
    marks: np.ndarray | None  # which bytes are written
    place: int = 0
    before: bytes = b""  # what `marks` were


class Arguments:
    """Arguments of a launch, checked and ready to be passed. Raises TypeError, which names the argument."""

    def __init__(self, kernel: str, parameters: list[Parameter], names: list[str], given: tuple):
        if len(given) != len(parameters):
            raise TypeError(f"{kernel}: {len(given)} arguments; the kernel has {len(parameters)} parameters.")
        self.names = [f"argument {i}" + (f" (`{name}`)" if name else "") for i, name in enumerate(names)]
        self.given = given
        self._values: list = []  # arrays of one element, or None for a pointer
        segments = []
        for i, (parameter, value) in enumerate(zip(parameters, given, strict=True)):
            if reason := _mistake(parameter, value):
                raise TypeError(f"{kernel}: {self.names[i]} {reason}; expected {parameter.describe()}.")
            self._values.append(None if parameter.is_pointer else np.array(value))
            if isinstance(value, np.ndarray):
                owner, marks = owner_of(value)
                start = address(value)
                if marks is not None:
                    marks = marks[start - address(owner) :]
                segments.append(
                    Segment(start, value.nbytes, i, not parameter.is_constant, address(owner), marks)
                )  # fmt: skip
        self.segments = _merged(segments)

    def place(self, memory: "Memory") -> None:
        """Give each segment its place in memory, as far from a multiple of 512 bytes as it is from its owner's
        start."""
        at = GAP
        for segment in self.segments:
            at = -(-at // ALIGNMENT) * ALIGNMENT + (segment.start - segment.owner) % ALIGNMENT
            segment.place = at
            at += segment.size + GAP
        base = memory.at_least(at)
        for segment in self.segments:
            segment.place += base
        pointers = []
        for value, given in zip(self._values, self.given, strict=True):
            if value is None:
                value = np.array(self._place_of(given), np.uint64)
            pointers.append(value)
        self._pointed = pointers  # alive as long as their addresses are in use
        self.addresses = (ctypes.c_void_p * (len(pointers) + 1))(*map(address, pointers), None)

    def _place_of(self, array):
        if array is None:
            return 0
        start = address(array)
        segment = next(s for s in self.segments if s.start <= start and start + array.nbytes <= s.start + s.size)
        return segment.place + start - segment.start

    def copy_in(self) -> None:
        """Put the arrays' contents where the kernel sees them."""
        for segment in self.segments:
            ctypes.memmove(segment.place, segment.start, segment.size)

    def copy_out(self) -> None:
        """Take the results."""
        for segment in self.segments:
            if segment.writable:
                ctypes.memmove(segment.start, segment.place, segment.size)

    def results(self) -> list[bytes]:
        """The bytes of the segments that the kernel may have written to."""
        return [ctypes.string_at(s.place, s.size) for s in self.segments if s.writable]

    def keep_marks(self) -> None:
        """Remember which bytes are written, for `restore_marks`."""
        for segment in self.segments:
            if segment.marks is not None:
                segment.before = segment.marks[: segment.size].tobytes()

    def restore_marks(self) -> None:
        for segment in self.segments:
            if segment.marks is not None:
                segment.marks[: segment.size] = np.frombuffer(segment.before, np.uint8)

    def mark_all(self) -> None:
        """Take for written whatever a kernel that was not watched may have written."""
        for segment in self.segments:
            if segment.writable and segment.marks is not None:
                segment.marks[: segment.size] = 1

    def for_runtime(self, watched: bool):
        """The array of `Argument` that the runtime gets, with marks of what is written if those are watched."""
        marks = [address(s.marks) if watched and s.marks is not None else 0 for s in self.segments]
        return (Argument * (len(self.segments) + 1))(
            *[Argument(s.place, s.size, m, s.index, s.writable) for s, m in zip(self.segments, marks, strict=True)]
        )

    def element(self, index: int, offset: int) -> tuple[int, int]:
        """(argument, element) for a byte of the segment that argument `index` names: of the first array that has it."""
        segment = next(s for s in self.segments if s.index == index)
        byte = segment.start + offset
        for i, array in enumerate(self.given):
            if isinstance(array, np.ndarray) and address(array) <= byte < address(array) + array.nbytes:
                return i, (byte - address(array)) // array.itemsize
        array = self.given[index]
        return index, (byte - address(array)) // array.itemsize


def _mistake(parameter, value):
    """What is wrong with an argument, or ""."""
    kind = parameter.kind.decode()
    if isinstance(value, np.ndarray):
        if not parameter.is_pointer:
            return f"is an array of {value.dtype}"
        fits = kind == "V" or (value.dtype.kind.replace("b", "u") == kind and value.itemsize == parameter.element)
        if not fits or not value.dtype.isnative:
            return f"is an array of {value.dtype}"
        if not value.flags.c_contiguous:
            return "is an array that is not contiguous, of which a kernel gets nothing but the address"
        return "" if parameter.is_constant or value.flags.writeable else "is an array that is read-only"
    if value is None:
        return "" if parameter.is_pointer else "is None"
    if not isinstance(value, np.generic):
        wide = {bool: "bool", int: "int64", float: "float64"}.get(type(value))
        return f"is a Python {type(value).__name__}" + (f", which CuPy would pass as {wide}" if wide else "")
    if parameter.is_pointer:
        return f"is of type {value.dtype}"
    fits = value.itemsize == parameter.size and (kind == "V") == (value.dtype.kind == "V")
    return "" if fits and (kind == "V" or value.dtype.kind.replace("b", "u") == kind) else f"is of type {value.dtype}"


def _merged(segments: list[Segment]) -> list[Segment]:
    """Those that overlap, as one."""
    merged: list[Segment] = []
    for segment in sorted(segments, key=lambda s: (s.start, -s.size)):
        last = merged[-1] if merged else None
        if last and segment.start < last.start + last.size:
            last.size = max(last.size, segment.start + segment.size - last.start)
            last.writable |= segment.writable
        elif not (last and segment.size == 0 and segment.start == last.start + last.size):
            merged.append(segment)
    return merged


class Memory:
    """Memory for the segments, kept from launch to launch: fresh pages cost more than copying."""

    def __init__(self):
        self._block = np.empty(0, np.uint8)

    def at_least(self, size: int) -> int:
        """The address of so many bytes, a multiple of 512."""
        if self._block.size < size + ALIGNMENT:
            self._block = np.empty(size + size // 2 + ALIGNMENT, np.uint8)
        return -(-address(self._block) // ALIGNMENT) * ALIGNMENT
