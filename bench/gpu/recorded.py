"""What CSNet launches on a GPU: a step, or an inference, runs with a driver that executes nothing and notes everything.

Maps are NumPy's, and nobody writes to them; so what decides on launches must not depend on their numbers, as on a GPU.
Numbers that the host brings are kept, since a table of where things lie may be among them, in whichever type.
"""

import contextlib
import dataclasses
import importlib
import math
import re
import weakref

import numpy as np

import octsod
from octsod import inference, training
from octsod.backend import Host, launch_with, register
from octsod.profiling.launches import described
from octsod.testing.cusim.arguments import ALIGNMENT
from octsod.testing.cusim.arrays import address
from octsod.testing.cusim.counts import SECTOR

from ..problems import masks, pictures

_driver = importlib.import_module("octsod.kernels.cuda.driver")


@dataclasses.dataclass(frozen=True)
class Array:
    """An array of a launch. buffer: which of the launch's pieces of memory it lies in, and `start` at which of its
    bytes."""

    buffer: int
    start: int
    shape: tuple[int, ...]
    dtype: np.dtype


@dataclasses.dataclass
class Launch:
    """Equal launches of a kernel; `key` is what they are equal in.

    file: the .cu file that the kernel is in. code, options: what is compiled. arguments: an `Array` for each array.
    places: (start, stop) of the launch's pieces of memory, in bytes from where an allocation begins. contents: the
    bytes of each piece; None where they are floating-point numbers that kernels compute, which decide on nothing.
    parts: how many there are in the calls of each kernel of the contract, by that one's title.
    """

    key: tuple
    file: str
    kernel: str
    code: str
    options: tuple[str, ...]
    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int
    arguments: tuple
    places: tuple[tuple[int, int], ...]
    contents: tuple[np.ndarray | None, ...]
    parts: dict[str, int] = dataclasses.field(default_factory=dict)

    @property
    def count(self):
        return sum(self.parts.values())

    @property
    def threads(self):
        """Of a block."""
        return math.prod(self.block)

    @property
    def bytes(self):
        """Of all its memory, once."""
        return sum(stop - start for start, stop in self.places)

    @property
    def dtype(self):
        """What `real` stands for."""
        return "float32" if "-DSINGLE=1" in self.options else "float64"

    def given(self, seed=0):
        """Arguments like those of the launch: with its contents, or random numbers where they are not known. What lay
        in the same memory does so again."""
        rng = np.random.default_rng(seed)
        buffers = [np.empty(stop, np.uint8) for _, stop in self.places]
        for (start, _), buffer, contents in zip(self.places, buffers, self.contents, strict=True):
            if contents is not None:
                buffer[start:] = contents
        arguments = []
        for value in self.arguments:
            if isinstance(value, Array):
                start = self.places[value.buffer][0] + value.start
                stop = start + math.prod(value.shape) * value.dtype.itemsize
                array = buffers[value.buffer][start:stop].view(value.dtype).reshape(value.shape)
                if self.contents[value.buffer] is None:
                    array[...] = rng.standard_normal(value.shape)
                value = array
            arguments.append(value)
        return tuple(arguments)


@dataclasses.dataclass
class Recording:
    """launches: of CUDA kernels, those that are equal as one. order: all of them, in the order in which they are made.
    costs: of the calls of the contract's kernels, (how many, `Cost` of one or None), by title."""

    launches: list[Launch]
    order: list[Launch]
    costs: dict[str, tuple[int, octsod.ops.Cost | None]]


class _Recorder:
    """A driver of octsod's CUDA kernels. shared_bytes: of shared memory that a block may have."""

    def __init__(self, shared_bytes):
        self.shared_bytes = shared_bytes
        self.forget()

    def forget(self):
        self.found, self.order, self.costs, self.title = {}, [], {}, ""

    def module(self, code, options):
        return _Module(self, code, tuple(options))

    def prepare(self, modules):
        """Nothing: nothing is compiled."""

    def empty(self, shape, dtype):
        return device.empty(shape, dtype)

    def shared_memory(self):
        return self.shared_bytes

    def launcher(self, name, function, *arguments):
        """For `launch_with`: notes which kernel of the contract launches belong to."""
        before, (title, cost) = self.title, described(name, arguments)
        self.title = f"{name} {title}".strip()
        self.costs[self.title] = self.costs.get(self.title, (0, cost))[0] + 1, cost
        try:
            return function(*arguments)
        finally:
            self.title = before

    def add(self, code, options, kernel, grid, block, given, shared):
        arguments, places, contents = _described(given)
        # How far from a sector's start memory begins makes a difference to what moves; how far from an allocation's
        # does not. Numbers in floating point, given as such, decide on nothing.
        starts = tuple(start % SECTOR for start, _ in places)
        known = tuple(bytes_ is not None for bytes_ in contents)
        key = code, options, kernel, grid, block, shared, tuple(map(_compared, arguments)), starts, known
        launch = self.found.get(key)
        if launch is None:
            file = re.findall(r'^#line 1 "(.*)"$', code, re.M)[-1]
            launch = Launch(key, file, kernel, code, options, grid, block, shared, arguments, places, contents)
            self.found[key] = launch
        self.order.append(launch)
        launch.parts[self.title] = launch.parts.get(self.title, 0) + 1

    def recording(self):
        return Recording(list(self.found.values()), self.order, self.costs)


@dataclasses.dataclass
class _Module:
    recorder: _Recorder
    code: str
    options: tuple[str, ...]

    def get_function(self, name):
        return _Function(self, name)


@dataclasses.dataclass
class _Function:
    module: _Module
    name: str
    max_dynamic_shared_size_bytes: int = 48 << 10

    def __call__(self, grid, block, args, shared_mem=0):
        module = self.module
        module.recorder.add(module.code, module.options, self.name, tuple(grid), tuple(block), args, shared_mem)


def _described(given):
    """(arguments with an `Array` for each array, places of their pieces of memory, contents of these). Arrays that
    overlap share one."""
    pieces = []  # [start, stop, arrays]
    arrays = (value for value in given if isinstance(value, np.ndarray))
    for start, stop, array in sorted(((address(a), address(a) + a.nbytes, a) for a in arrays), key=lambda p: p[:2]):
        if pieces and start < pieces[-1][1]:
            pieces[-1][1] = max(pieces[-1][1], stop)
            pieces[-1][2].append(array)
        else:
            pieces.append([start, stop, [array]])
    named = {}  # pieces, in the order in which the arguments name them: (start, stop) -> (number, arrays)

    def described(value):
        if not isinstance(value, np.ndarray):
            return value
        at = address(value)
        start, stop, inside = next(p for p in pieces if p[0] <= at and at + value.nbytes <= p[1])
        number, _ = named.setdefault((start, stop), (len(named), inside))
        return Array(number, at - start, value.shape, value.dtype)

    arguments = tuple(map(described, given))
    places = tuple((start % ALIGNMENT, start % ALIGNMENT + stop - start) for start, stop in named)
    contents = tuple(_contents(*place, inside) for place, (_, inside) in named.items())
    return arguments, places, contents


def _contents(start, stop, arrays):
    """The bytes of a piece of memory, see `Launch`."""
    if all(map(device.computed, arrays)):
        return None
    contents = np.zeros(stop - start, np.uint8)
    for array in arrays:
        contents[address(array) - start :][: array.nbytes] = array.reshape(-1).view(np.uint8)
    return contents


def _compared(argument):
    if isinstance(argument, Array):
        return argument.buffer, argument.start, argument.shape, argument.dtype
    return type(argument), None if isinstance(argument, np.floating) else argument


class _Device(Host):
    """Arrays are NumPy's, each where an allocation on a GPU could begin; kernels are CUDA's."""

    def __init__(self):
        super().__init__("recorded", "cuda")
        self._untouched = set()  # identities of memory that the host has written nothing to

    def empty(self, shape, dtype):
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        memory = np.zeros(size + ALIGNMENT, np.uint8)  # which takes no memory before somebody writes there
        self._untouched.add(id(memory))
        weakref.finalize(memory, self._untouched.discard, id(memory))
        start = -address(memory) % ALIGNMENT
        return memory[start : start + size].view(dtype).reshape(shape)

    def full(self, shape, value, dtype):
        out = self.empty(shape, dtype)
        self._untouched.discard(id(_memory(out)))
        if value:
            out.fill(value)
        return out

    def put(self, values, out=None, dtype=None):
        if out is not None:
            self._untouched.discard(id(_memory(out)))
            return super().put(values, out, dtype)
        values = super().put(values, dtype=dtype)
        return self.put(values, self.empty(values.shape, values.dtype))

    def computed(self, array):
        """Whether an array's numbers are floating-point ones that nobody but kernels computes."""
        return array.dtype.kind == "f" and id(_memory(array)) in self._untouched


def _memory(array):
    """The array that owns an array's memory."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


device = _Device()
register(device, _Device)  # no array is of this type: NumPy's belong to whichever host computes


@contextlib.contextmanager
def recording(shared_bytes):
    """A `_Recorder`; within the context, octsod computes on it."""
    recorder, before = _Recorder(shared_bytes), _driver.driver()
    _driver.use_driver(recorder)
    try:
        with octsod.use_backend(device), launch_with(recorder.launcher):
            yield recorder
    finally:
        _driver.use_driver(before)


def _moved(model):
    """A model whose statistics lie where they would on a GPU; its parameters go where an optimiser wants them."""
    for module in model.modules():
        for name in module.buffers:
            vars(module)[name] = device.put(getattr(module, name))  # setting it would copy it once more
    return model


def training_step(configuration, batch, size, shared_bytes):
    """The `Recording` of a step of the paper's recipe: the second one, since the first does more."""
    octsod.manual_seed(0)
    with recording(shared_bytes) as recorder:
        trainer = training.Recipe().trainer(_moved(octsod.CSNet(configuration)))
        x, y = pictures(batch, size), masks(batch, size)
        trainer.step(x, y)
        recorder.forget()
        trainer.step(x, y)
    return recorder.recording()


def prediction(configuration, batch, size, shared_bytes):
    """The `Recording` of the logits of pictures."""
    octsod.manual_seed(0)
    with recording(shared_bytes) as recorder:
        frozen = dataclasses.replace(inference.freeze(octsod.CSNet(configuration)), device=device)
        recorder.forget()
        inference.logits(frozen, pictures(batch, size))
    return recorder.recording()
