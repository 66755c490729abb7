"""Reading the authors' released files, which are pickles, without PyTorch and without trusting them.

A pickle is a program, and two things keep it harmless here:

- it is *screened* before it runs: only the opcodes that such files need, and memo indices and nesting in proportion to
  its length (a memo index of 2**31 makes Python's unpickler fill 32 GB; hashing a tuple nested a million times
  overflows the C stack);
- it *runs* with a table of the few globals it may name. None of them is the real thing: each is a stand-in that only
  takes notes and has no attributes to set, so REDUCE reaches nothing else and BUILD changes nothing. Arrays are made
  from the notes afterwards, once sizes and offsets have been checked against the file.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ..errors import FileError

__all__ = ["read_checkpoint", "read_layers"]

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of PyTorch's legacy format
_PROTOCOL = 1001  # second pickle; the third describes the machine that wrote the file

_MAX_PICKLE_BYTES = 32 << 20  # CSNet-x1 with the state of its optimiser: 0.14 MB
_MAX_OPCODES = 1_000_000  # the same: 32 thousand
_MAX_NESTING = 32  # of tuples, of axes, of lists of layers
_MAX_LAYER_ENTRIES = 100_000  # one array may occur in many places: bounds what a short file unfolds to
_MAX_COUNT = 2**31 - 1

_GETS = {"BINGET", "LONG_BINGET"}
_PUTS = {"BINPUT", "LONG_BINPUT", "MEMOIZE"}
_TUPLES = {"EMPTY_TUPLE", "TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}
# Left out on purpose: the text opcodes of protocols 0 and 1 (numbers of any length), EXT1/2/4 (objects from a table
# of the process, past find_class), sets (they hash), DUP and POP (no such file needs them).
_OPCODES = {*_GETS, *_PUTS, *_TUPLES, "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE"}
_OPCODES |= {"BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINUNICODE", "BINSTRING"}
_OPCODES |= {"SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "EMPTY_DICT", "SETITEM", "SETITEMS", "EMPTY_LIST"}
_OPCODES |= {"APPEND", "APPENDS", "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD", "NEWOBJ", "BINPERSID"}


class _FaultError(Exception):
    """What is wrong with a file, without the file's name: `_opened` puts it in front."""


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], kind: str) -> Iterator[tuple[BinaryIO, int]]:
    """Open ``path`` and yield it with its size in bytes; turn every exception raised meanwhile into a FileError."""
    name = os.fsdecode(path)
    try:
        if os.path.exists(name) and not os.path.isfile(name):  # a pipe or a device may never end
            raise _FaultError("is not a regular file")
        with open(name, "rb") as file:
            yield file, os.fstat(file.fileno()).st_size
    except _FaultError as fault:
        raise FileError(f"{name}: {fault}.") from None
    except Exception as error:  # damage surfaces as any error of pickle, zipfile or NumPy, MemoryError included
        detail = getattr(error, "strerror", None) or f"it is damaged ({type(error).__name__}: {_shown(error)})"
        raise FileError(f"{name}: cannot be read as {kind}: {detail}.") from error


def _shown(text: object) -> str:
    """Text from the file, made fit for a message: one line, no control characters, not long."""
    escaped = ascii(str(text))[1:-1]
    return escaped if len(escaped) <= 120 else escaped[:117] + "..."


def _are_counts(*values: object) -> bool:
    return all(type(value) is int and value >= 0 for value in values)  # `type`, not isinstance: True is not a size


# --- running a pickle -------------------------------------------------------------------------------------------------


class _Builder:
    """A function for REDUCE to call. A bare function has attributes, defaults among them, that BUILD could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: object) -> None:  # BUILD calls this if it exists
        raise _FaultError("sets attributes of a function")


class _Unpickler(pickle.Unpickler):
    """Python's unpickler for the pickle at the current position of ``stream``; leaves the stream after its end."""

    def __init__(self, stream: io.BytesIO, known: dict[str, Any], content: str, storage: Callable[..., Any]) -> None:
        self._known, self._content, self._storage = known, content, storage
        super().__init__(io.BytesIO(_screened(stream, self.find_class)), encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in self._known:
            raise _FaultError(f"refuses to load `{_shown(full_name)}`; {self._content} only")
        return self._known[full_name]

    def persistent_load(self, pid: Any) -> Any:
        return self._storage(pid)


def _screened(stream: io.BytesIO, find_class: Callable[[str, str], Any]) -> bytes:
    """The bytes of the next pickle, without its frames, after a look at every opcode.

    The stack is simulated with the nesting of tuples instead of values. What an opcode makes from values other than
    tuples keeps their nesting: a little too strict, never too lax.
    """
    start = stream.tell()
    cuts = [start]
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    opcodes: Iterator[tuple[Any, Any, Any]] = pickletools.genops(stream)  # their arguments have the types they name
    for done, (opcode, arg, position) in enumerate(opcodes):
        name = opcode.name
        if name in ("GLOBAL", "INST"):  # before the check of the opcode: this name tells more
            find_class(*arg.split(" ", 1))
        if name not in _OPCODES:
            raise _FaultError(f"uses the pickle opcode {name} at byte {position}, which no such file needs")
        if done >= _MAX_OPCODES:
            raise _FaultError(f"holds a pickle of more than {_MAX_OPCODES} opcodes")
        if name == "FRAME":  # 9 bytes: a hint to read ahead, and the one opcode that unpicklers follow differently
            cuts += [position, position + 9]
        elif name == "MARK":
            marks.append(len(stack))
        elif name in _PUTS:
            index = len(memo) if arg is None else arg
            if index > done:  # picklers number their objects one by one
                raise _FaultError(f"uses memo index {index} at byte {position}, beyond all that it can have stored")
            memo[index] = stack[-1]
        elif name in _GETS:
            stack.append(memo[arg])
        else:
            before = opcode.stack_before
            marked = pickletools.markobject in before
            base = marks.pop() - before.index(pickletools.markobject) if marked else len(stack) - len(before)
            if base < 0:
                raise _FaultError(f"holds a malformed pickle: nothing for {name} to work on at byte {position}")
            nesting = max(stack[base:], default=0) + (name in _TUPLES)
            if nesting > _MAX_NESTING:
                raise _FaultError(f"nests tuples more than {_MAX_NESTING} deep")
            stack[base:] = [nesting] * len(opcode.stack_after)
    cuts.append(stream.tell())
    data = stream.getbuffer()
    return b"".join(data[low:high] for low, high in zip(cuts[::2], cuts[1::2], strict=True))


# --- PyTorch checkpoints ----------------------------------------------------------------------------------------------


class _StorageType(NamedTuple):
    dtype: np.dtype


class _Storage(NamedTuple):
    """A flat run of ``numel`` numbers elsewhere in the file."""

    key: str
    dtype: np.dtype
    numel: int

    @property
    def nbytes(self) -> int:
        return self.numel * self.dtype.itemsize


class _Tensor(NamedTuple):
    """A strided view of a storage; offset and strides in elements."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


class _Dict(OrderedDict):
    def __setstate__(self, state: object) -> None:
        pass  # modules leave version numbers here (`_metadata`), which octsod does not need


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *flags: Any) -> _Tensor:
    """``torch._utils._rebuild_tensor_v2``; ``flags`` are requires_grad, hooks, metadata."""
    if not isinstance(storage, _Storage):
        raise _FaultError("holds a tensor without a storage")
    if not (type(size) is tuple and type(stride) is tuple and len(size) == len(stride) <= _MAX_NESTING):
        raise _FaultError("holds a tensor whose size and stride do not match")
    if not _are_counts(offset, *size, *stride):
        raise _FaultError("holds a tensor whose offset, size or stride is negative or no integer")
    end = offset if 0 in size else offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if end > storage.numel:
        raise _FaultError(f"holds a tensor that ends at element {_shown(end)} of a storage of {storage.numel}")
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor: Any, *flags: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise _FaultError("holds a parameter that is no tensor")
    return tensor


_STORAGE_TYPES = {"Double": "<f8", "Float": "<f4", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2"}
_STORAGE_TYPES |= {"Char": "i1", "Byte": "u1", "Bool": "?"}
_CHECKPOINT_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _Builder(_Dict),
    "torch._utils._rebuild_tensor_v2": _Builder(_rebuild_tensor),
    "torch._utils._rebuild_parameter": _Builder(_rebuild_parameter),
    **{f"torch.{name}Storage": _StorageType(np.dtype(code)) for name, code in _STORAGE_TYPES.items()},
}


class _Storages(dict):
    """The storages that a checkpoint's pickles name, by key."""

    def __init__(self, file_size: int) -> None:
        self.file_size = file_size

    def unpickle(self, stream: io.BytesIO) -> Any:
        return _Unpickler(stream, _CHECKPOINT_GLOBALS, "a checkpoint may hold tensors", self.storage).load()

    def storage(self, pid: Any) -> _Storage:
        """The storage of a persistent id ('storage', type, key, location, numel); legacy files append a view."""
        if not (type(pid) is tuple and len(pid) in (5, 6) and isinstance(pid[1], _StorageType)):
            raise _FaultError("refers to something outside the pickle that is not a storage")
        _, (dtype,), key, _, numel, *view = pid
        if not (type(key) is str and _are_counts(numel)):
            raise _FaultError("holds a malformed reference to a storage")
        if view not in ([], [None]):
            raise _FaultError(f"holds storage {_shown(key)} as a view of another, as only very old PyTorch wrote them")
        storage = _Storage(key, dtype, numel)
        if storage.nbytes > self.file_size:
            raise _FaultError(f"claims {_shown(numel)} elements for a storage, in a file of {self.file_size} bytes")
        if self.setdefault(key, storage) != storage:
            raise _FaultError(f"describes storage {_shown(key)} in two ways")
        return storage


def read_checkpoint(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the state dict of a PyTorch checkpoint, in the legacy or the zip format, without PyTorch.

    The state dict is found under ``state_dict`` or ``model``, or is the whole object. A ``module.`` in front of all
    names (``DataParallel``) is dropped. A file that holds anything but tensors, containers, numbers and strings is
    refused; nothing in it is ever executed.

    Returns:
        Name -> array of any shape, in the order of the file: C-contiguous, writable, own memory, native byte order;
        float64, float32, float16, int64, int32, int16, int8, uint8 or bool.

    Raises:
        FileError: the file is missing, damaged, hostile or not such a checkpoint; the message says what is wrong.
    """
    with _opened(path, "a PyTorch checkpoint") as (file, size):
        zipped = file.read(4) == b"PK\x03\x04"
        file.seek(0)
        found, read = (_open_zip if zipped else _open_legacy)(file, _Storages(size))
        return _arrays(_state_dict(found), read, budget=4 * size)


def _open_legacy(file: BinaryIO, storages: _Storages) -> tuple[Any, Callable[[_Storage], bytes]]:
    """Five pickles (magic, protocol, machine, object, storage keys); per key an int64 count and the raw numbers."""
    stream = io.BytesIO(file.read(_MAX_PICKLE_BYTES))
    magic = storages.unpickle(stream)
    if type(magic) is not int or magic != _MAGIC:
        raise _FaultError("is not a PyTorch checkpoint: it starts without the magic number")
    protocol, machine = storages.unpickle(stream), storages.unpickle(stream)
    if type(protocol) is not int or protocol != _PROTOCOL:
        raise _FaultError("is a PyTorch checkpoint of an unknown protocol")
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise _FaultError("was not written on a little-endian machine")
    found, keys = storages.unpickle(stream), storages.unpickle(stream)
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
        raise _FaultError("lists other storages than its tensors use")

    starts: dict[str, int] = {}
    position = stream.tell()
    for key in keys:
        file.seek(position)
        count = int.from_bytes(file.read(8), "little", signed=True)
        starts[key] = position + 8
        position += 8 + storages[key].nbytes
        if position > storages.file_size:
            raise _FaultError(f"is truncated: it ends inside storage {_shown(key)}, at byte {storages.file_size}")
        if count != storages[key].numel:
            raise _FaultError(f"stores {count} elements in storage {_shown(key)}, declared with {storages[key].numel}")

    def read(storage: _Storage) -> bytes:
        file.seek(starts[storage.key])
        return file.read(storage.nbytes)

    return found, read


def _open_zip(file: BinaryIO, storages: _Storages) -> tuple[Any, Callable[[_Storage], bytes]]:
    """A zip with the uncompressed entries FOLDER/data.pkl and, per storage, FOLDER/data/KEY."""
    archive = zipfile.ZipFile(file)
    pickles = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise _FaultError(f"is not a PyTorch checkpoint: a zip with {len(pickles)} entries data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    unread = storages.file_size  # the entries of a crafted zip may overlap: their sum must not pass the file's size

    def entry(name: str, limit: int) -> bytes:
        nonlocal unread
        if name not in archive.NameToInfo:
            raise _FaultError(f"lacks the entry {_shown(name)}")
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise _FaultError(f"holds the compressed entry {_shown(name)}; PyTorch does not compress")
        unread -= info.file_size
        if info.file_size > limit or unread < 0:
            raise _FaultError(f"claims {info.file_size} bytes for entry {_shown(name)}, too many")
        return archive.read(info)

    if folder + "byteorder" in archive.NameToInfo and entry(folder + "byteorder", 16) != b"little":
        raise _FaultError("was not written on a little-endian machine")
    found = storages.unpickle(io.BytesIO(entry(pickles[0], _MAX_PICKLE_BYTES)))
    return found, lambda storage: entry(f"{folder}data/{storage.key}", storage.nbytes)


def _state_dict(found: Any) -> dict[str, _Tensor]:
    if not isinstance(found, dict):
        raise _FaultError(f"holds no state dict but a {type(found).__name__.lstrip('_')}")
    state = next((found[key] for key in ("state_dict", "model") if isinstance(found.get(key), dict)), found)
    if not state:
        raise _FaultError("holds an empty state dict")
    for name, tensor in state.items():
        if type(name) is not str:
            raise _FaultError("holds a state dict with a name that is not a string")
        if not isinstance(tensor, _Tensor):
            raise _FaultError(f"holds no state dict: `{_shown(name)}` is no tensor")
    prefix = "module." if all(name.startswith("module.") for name in state) else ""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items()}


def _arrays(state: dict[str, _Tensor], read: Callable[[_Storage], bytes], budget: int) -> dict[str, np.ndarray]:
    """Copy every tensor out of its storage. ``budget`` bounds the total bytes of shared and expanded tensors."""
    raws: dict[str, bytes] = {}
    arrays: dict[str, np.ndarray] = {}
    for name, (storage, offset, size, stride) in state.items():
        dtype = storage.dtype
        budget -= math.prod(size) * dtype.itemsize
        if budget < 0:
            raise _FaultError(f"claims more for its tensors, `{_shown(name)}` included, than four times its own size")
        if storage.key not in raws:
            raws[storage.key] = read(storage)
        raw = raws[storage.key]
        if len(raw) != storage.nbytes:
            wanted = f"declared with {storage.nbytes}"
            raise _FaultError(f"stores {len(raw)} bytes in storage {_shown(storage.key)}, {wanted}")
        if 0 in size:  # its offset and strides mean nothing
            arrays[name] = np.zeros(size, dtype.newbyteorder("="))
            continue
        # A step along an axis of length 1 is never taken, so it may be any number, even one that overflows in bytes.
        strides = [step * dtype.itemsize if n > 1 else 0 for n, step in zip(size, stride, strict=True)]
        stored = np.dtype("u1") if dtype.kind == "b" else dtype
        view = np.ndarray(size, stored, raw, offset * dtype.itemsize, strides)
        if dtype.kind == "b":
            view = view != 0  # the file may hold any byte, NumPy's bools only 0 and 1
        arrays[name] = np.array(view, dtype.newbyteorder("="), order="C")
    return arrays


# --- the authors' layer files -----------------------------------------------------------------------------------------


class _Dtype:
    """``numpy.dtype(code, align, copy)``; BUILD gives the byte order."""

    __slots__ = ("code",)

    def __init__(self, code: Any, *flags: Any) -> None:
        if type(code) is not str or code not in ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"):
            shown = _shown(code) if type(code) is str else type(code).__name__  # a list might unfold without end
            raise _FaultError(f"holds an array of dtype `{shown}`; a layer file may hold integers and floats only")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or state[1] not in ("<", "|"):
            raise _FaultError("holds an array that is not little-endian")


class _Array:
    """``numpy.core.multiarray._reconstruct(...)``, an array without values; BUILD provides them."""

    __slots__ = ("values",)

    def __init__(self, *args: Any) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not (isinstance(dtype, _Dtype) and type(data) is bytes and type(shape) is tuple and _are_counts(*shape)):
            raise _FaultError("holds a malformed array")
        flat = np.frombuffer(data, "<" + dtype.code)
        if math.prod(shape) != flat.size or (0 in shape and len(shape) > 1):  # (2**60, 0) would be 2**60 empty rows
            raise _FaultError(f"holds an array whose shape does not fit its {len(data)} bytes")
        self.values = flat.reshape(shape, order="F" if fortran else "C")


_LAYER_GLOBALS: dict[str, Any] = {
    "numpy.core.multiarray._reconstruct": _Builder(_Array),
    "numpy._core.multiarray._reconstruct": _Builder(_Array),
    "numpy.ndarray": None,  # only ever used as an argument
    "numpy.dtype": _Builder(_Dtype),
}


def read_layers(path: str | os.PathLike[str]) -> list:
    """Read the authors' ``.bin`` layer file, a pickle of nested lists and NumPy arrays of channel counts.

    Checks only the form (nested lists of integers from 0 to 2**31 - 1), not whether the layers make a network.

    Returns:
        The nested lists, with a list of int for each array (nested lists for an array of several axes).

    Raises:
        FileError: the file is missing, damaged, hostile or not such a list; the message says what is wrong.
    """
    with _opened(path, "a layer file") as (file, size):
        stream = io.BytesIO(file.read(_MAX_PICKLE_BYTES))
        found = _Unpickler(stream, _LAYER_GLOBALS, "a layer file may hold lists of numbers", _no_storage).load()
        if stream.tell() != size:
            raise _FaultError(f"goes on after the list of layers, which ends at byte {stream.tell()} of {size}")
        if type(found) is not list:
            raise _FaultError("holds no list of layers")
        return _plain(found, [_MAX_LAYER_ENTRIES])


def _no_storage(pid: object) -> None:
    raise _FaultError("refers to something outside the pickle")


def _plain(value: Any, left: list[int], nesting: int = 0) -> Any:
    """``value`` as nested lists of int; may make at most ``left[0]`` more entries."""
    if isinstance(value, _Array) and value.values is not None:
        left[0] -= value.values.size
        value = value.values.tolist() if left[0] >= 0 else None
    left[0] -= 1
    if left[0] < 0:
        raise _FaultError(f"holds more than {_MAX_LAYER_ENTRIES} numbers")
    if type(value) in (list, tuple):
        if nesting >= _MAX_NESTING:
            raise _FaultError(f"nests lists more than {_MAX_NESTING} deep")
        return [_plain(item, left, nesting + 1) for item in value]
    if type(value) not in (int, float):
        raise _FaultError(f"holds an entry of type {type(value).__name__.lstrip('_')} in place of a channel count")
    if not 0 <= value <= _MAX_COUNT or value != int(value):  # not-a-number fails the first comparison
        raise _FaultError(f"holds {_shown(value)} in place of a channel count")
    return int(value)
