"""`RawModule`, as CuPy has it, and what a launch goes through."""

import ctypes

import numpy as np

from ...threads import new_lock
from .arguments import Arguments, Memory, Parameter
from .arithmetic import Blocks
from .arrays import address
from .compiler import MODES, Library
from .counts import Count, counted
from .errors import SUBSCRIPT, KernelError, Report, Subscript, error_of
from .source import name_before

SCHEDULES = ("forward", "reverse", "random")
STATIC_LIMIT = 48 << 10  # bytes of shared memory without asking for more
DYNAMIC_LIMIT = 227 << 10


class _Kernel(ctypes.Structure):
    """kernels.h's."""

    _fields_ = [
        ("name", ctypes.c_char_p), ("call", ctypes.c_void_p), ("function", ctypes.c_void_p),
        ("parameters", ctypes.POINTER(Parameter)), ("count", ctypes.c_int), ("bound", ctypes.c_int),
    ]  # fmt: skip


class _Launch(ctypes.Structure):
    """scheduler.h's."""

    _fields_ = [
        ("kernel", ctypes.POINTER(_Kernel)), ("arguments", ctypes.POINTER(ctypes.c_void_p)),
        ("grid", ctypes.c_uint32 * 3), ("block", ctypes.c_uint32 * 3), ("dynamic", ctypes.c_uint64),
        ("order", ctypes.c_int32), ("seed", ctypes.c_uint32),
    ]  # fmt: skip


class _SharedArray(ctypes.Structure):
    _fields_ = [("offset", ctypes.c_uint64), ("size", ctypes.c_uint64), ("name", ctypes.c_char * 48)]


class _Region(ctypes.Structure):
    """The start of memory.h's."""

    _fields_ = [
        ("start", ctypes.c_void_p), ("size", ctypes.c_uint64), ("written", ctypes.c_void_p), ("kind", ctypes.c_int32),
        ("index", ctypes.c_int32),
    ]  # fmt: skip


_lock = new_lock()  # one launch at a time, of all modules: they share the memory
_memory = Memory()


class RawModule:
    """CUDA source, and its kernels on this computer's processor.

    code: the source, which includes nothing.
    options: as CuPy takes them. Macros (`-D`, `-U`), folders of headers (`-I`) and `-std=c++20` count.
    name_expressions: kernels that are instances of templates, such as `("scale<float>",)`.
    mode: "plain" runs kernels, "check" also looks for mistakes, "count" also counts what memory does.
    schedules: in mode "check", the orders in which a launch's threads and blocks are run, each from the same contents
        of the arrays: of "forward", "reverse" and "random". The other modes use the first one, and "count" forward.

    The source is compiled at the first `get_function`; `KernelError` tells of what does not compile, and of what a
    kernel does that it must not. In mode "count", each launch appends a `Count` to the list `counts`.
    """

    def __init__(self, *, code: str, options=(), name_expressions=None, mode="check", schedules=SCHEDULES):
        if mode not in MODES:
            raise ValueError(f"RawModule: `mode` is {mode!r}; expected one of {', '.join(MODES)}.")
        if not schedules or not set(schedules) <= set(SCHEDULES):
            raise ValueError(f"RawModule: `schedules` is {schedules!r}; expected some of {', '.join(SCHEDULES)}.")
        self.code, self.options, self.mode = code, tuple(options), mode
        self.name_expressions = tuple(name_expressions or ())
        self.schedules = {"check": tuple(schedules), "plain": tuple(schedules)[:1], "count": ("forward",)}[mode]
        self.counts: list[Count] = []
        self._library: Library | None = None
        self._functions: dict[str, Function] = {}

    def compile(self) -> None:
        """Compile the source now. Raises KernelError."""
        with _lock:
            if self._library is None:
                self._library = Library(self.code, self.options, self.name_expressions, self.mode)
                blocks = Blocks(self._library) if self.mode == "count" else None
                self._functions = {f.name: f for f in _functions(self, self._library, blocks)}

    def get_function(self, name: str) -> "Function":
        """The kernel of this name: one that is declared `extern "C"`, or one of `name_expressions`."""
        self.compile()
        if name not in self._functions:
            known = ", ".join(self._functions) or "none"
            raise KernelError(f'There is no kernel `{name}`; extern "C" or in name_expressions are: {known}.')
        return self._functions[name]


def _functions(module, library, blocks):
    find = library.calls.cusim_kernel
    find.restype = ctypes.POINTER(_Kernel)
    i = 0
    while kernel := find(i):
        yield Function(module, library, blocks, kernel)
        i += 1


class Function:
    """A kernel that can be launched. `max_dynamic_shared_size_bytes` can be set, as with CuPy."""

    def __init__(self, module, library, blocks, kernel):
        self.name = kernel.contents.name.decode()
        self.max_dynamic_shared_size_bytes = STATIC_LIMIT
        self._module, self._library, self._blocks, self._kernel = module, library, blocks, kernel
        self._parameters = list(kernel.contents.parameters[: kernel.contents.count])
        known = library.kernels.get(self.name.partition("<")[0].rpartition("::")[2].strip())
        names = known.parameters if known else []
        self._names = names if len(names) == len(self._parameters) else [""] * len(self._parameters)

    @property
    def max_threads_per_block(self) -> int:
        return self._kernel.contents.bound or 1024

    def __call__(self, grid, block, args, shared_mem=0, stream=None) -> None:
        """Run the kernel on `grid` blocks of `block` threads, tuples of up to three numbers. `args` are NumPy arrays,
        None for a null pointer, and NumPy scalars; `shared_mem` is the size of dynamic shared memory in bytes; `stream`
        is ignored. Raises TypeError for an argument of another type than its parameter, KernelError for what the launch
        or the kernel does wrong; arrays are then as they were."""
        arguments = Arguments(self.name, self._parameters, self._names, tuple(args))
        launch = self._launch(_sizes(grid), _sizes(block), shared_mem)
        with _lock:
            arguments.place(_memory)
            launch.arguments = arguments.addresses
            self._run(launch, arguments)

    def _launch(self, grid, block, shared_mem):
        threads = block[0] * block[1] * block[2]
        fits = all(0 < n <= most for n, most in zip(block, (1024, 1024, 64), strict=True)) and threads <= 1024
        if not fits or not all(0 < n <= most for n, most in zip(grid, (2**31 - 1, 65535, 65535), strict=True)):
            raise KernelError(f"{self.name}: a grid of {grid} blocks of {block} threads cannot be launched.")
        if threads > self.max_threads_per_block:
            most = self.max_threads_per_block
            raise KernelError(f"{self.name}: {threads} threads in a block; __launch_bounds__ promises at most {most}.")
        if not 0 <= shared_mem <= min(self.max_dynamic_shared_size_bytes, DYNAMIC_LIMIT):
            raise KernelError(
                f"{self.name}: {shared_mem} bytes of dynamic shared memory; max_dynamic_shared_size_bytes allows "
                f"{self.max_dynamic_shared_size_bytes}, and a GPU has {DYNAMIC_LIMIT}."
            )
        sizes = ((ctypes.c_uint32 * 3)(*grid), (ctypes.c_uint32 * 3)(*block))
        return _Launch(self._kernel, None, *sizes, shared_mem, 0, 0)

    def _run(self, launch, arguments):
        calls, checks = self._library.calls, self._module.mode == "check"
        size = ctypes.c_uint64()
        calls.cusim_variables.restype = ctypes.c_void_p
        variables = calls.cusim_variables(ctypes.byref(size))
        before = ctypes.string_at(variables, size.value) if size.value else b""
        arguments.keep_marks()
        given = arguments.for_runtime(checks)
        results = after = None
        try:
            for i, schedule in enumerate(self._module.schedules):
                if i:
                    arguments.restore_marks()
                    ctypes.memmove(variables, before, size.value)
                arguments.copy_in()
                launch.order, launch.seed = SCHEDULES.index(schedule), i
                outcome = calls.cusim_launch(ctypes.byref(launch), given, len(arguments.segments))
                if outcome < 0:
                    raise MemoryError(f"{self.name}: no memory to watch arrays of this size with.")
                if not outcome:
                    raise self._error(launch, arguments, schedule)
                if len(self._module.schedules) == 1:
                    break
                if results is None:
                    results, after = arguments.results(), ctypes.string_at(variables, size.value) if size.value else b""
                else:
                    self._compare(arguments, results, arguments.results(), schedule)
        except BaseException:
            arguments.restore_marks()
            ctypes.memmove(variables, before, size.value)
            raise
        if after is not None:
            ctypes.memmove(variables, after, size.value)
        arguments.copy_out()
        if not checks:
            arguments.mark_all()
        if self._module.mode == "count":
            count = counted(self._library, self._blocks, self.name, launch, arguments.names, self._where_shared)
            self._module.counts.append(count)

    def _compare(self, arguments, results, others, schedule):
        """Refuse results that depend on the schedule."""
        writable = [segment for segment in arguments.segments if segment.writable]
        for segment, first, second in zip(writable, results, others, strict=True):
            if first == second:
                continue
            byte = int(np.flatnonzero(np.frombuffer(first, np.uint8) != np.frombuffer(second, np.uint8))[0])
            index, element = arguments.element(segment.index, byte)
            array = arguments.given[index]
            start = address(array) + element * array.itemsize - segment.start
            values = [np.frombuffer(data, array.dtype, 1, start)[0] for data in (first, second)]
            raise KernelError(
                f"{self.name}: order: element {element} of {arguments.names[index]} depends on the order of threads: "
                f"{values[0]} (schedule {self._module.schedules[0]}), {values[1]} (schedule {schedule}).",
                kind="order", kernel=self.name,
            )  # fmt: skip

    def _error(self, launch, arguments, schedule):
        calls = self._library.calls
        calls.cusim_report.restype = ctypes.POINTER(Report)
        report = calls.cusim_report().contents
        where = self._where(report, arguments) if report.region >= 0 else ""
        if report.region == SUBSCRIPT:
            subscript = Subscript.from_address(report.size)
            name = name_before(self._library.unit, subscript.file.decode(), subscript.line, subscript.column)
            where = f"`{name}`, which is a {subscript.type()}" if name else f"a {subscript.type()}"
        return error_of(report, self.name, tuple(launch.block), where, self._library.lines, schedule)

    def _where(self, report, arguments):
        """The memory that a report is about, in words."""
        calls = self._library.calls
        calls.cusim_region.restype = ctypes.POINTER(_Region)
        region = calls.cusim_region(report.region).contents
        outside = report.offset < 0 or report.offset + report.size > region.size
        if region.kind == 1 and not outside:
            index, element = arguments.element(region.index, report.offset)
            return f"element {element} of {arguments.names[index]}"
        name = arguments.names[region.index] if region.kind == 1 else self._where_shared(region.kind, region.index)
        if not outside:
            return f"byte {report.offset} of {name}"
        if report.offset < 0:
            return f"{-report.offset} bytes before {name}"
        return f"byte {report.offset} of {name}, which has {region.size}"

    def _where_shared(self, kind, index):
        if kind != 2:
            return "the dynamic shared memory" if kind == 3 else "the module's variables"
        calls, count = self._library.calls, ctypes.c_int64()
        calls.cusim_shared_arrays.restype = ctypes.POINTER(_SharedArray)
        return f"the shared `{calls.cusim_shared_arrays(ctypes.byref(count))[index].name.decode()}`"


def _sizes(numbers):
    sizes = tuple(int(n) for n in (numbers if hasattr(numbers, "__iter__") else (numbers,)))
    if not 1 <= len(sizes) <= 3:
        raise ValueError(f"A grid or block has one to three numbers; this one is {numbers!r}.")
    return (*sizes, 1, 1)[:3]
