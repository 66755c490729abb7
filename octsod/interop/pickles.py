"""Reading the authors' released files, which are pickles, without PyTorch and without trusting them.

A pickle is a program, and two things keep it harmless here:

- it is *screened* before it runs: only the opcodes that such files need, memo indices in proportion to its length (one
  of 2**31 makes Python's unpickler fill 32 GB), small tuples (hashing one that is nested a million times overflows the
  C stack, one that holds another twice, 30 times over, takes minutes), and few keys but strings in its dicts (all
  numbers and tuples can be made to collide);
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
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from ..errors import FileError
from ..files import named, read_file
from .screening import FaultError, screened, shown

__all__ = ["read_checkpoint", "read_layers"]

_MAGIC = 0x1950A86A20F9469CFC6C  # first pickle of PyTorch's legacy format
_PROTOCOL = 1001  # second pickle; the third describes the machine that wrote the file

_MAX_FILE_BYTES = 512 << 20  # CSNet-x1 with the state of its optimiser: 2 MB
_MAX_ENTRIES = 100_000  # of a zip; the same: a thousand
_MAX_PICKLE_BYTES = 32 << 20  # the same: 0.14 MB
_MAX_NESTING = 32  # of axes, of lists of layers
_MAX_LAYER_ENTRIES = 100_000  # one array may occur in many places: bounds what a short file unfolds to
_MAX_COUNT = 2**31 - 1


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], kind: str) -> Iterator[bytes]:
    """Yield the contents of the file ``path``; turn every exception raised meanwhile into a FileError."""
    data = read_file(path, _MAX_FILE_BYTES)
    name = named(path)
    try:
        yield data
    except FaultError as fault:
        raise FileError(f"{name}: {fault}.") from None
    except Exception as error:  # damage surfaces as any error of pickle, zipfile or NumPy, MemoryError included
        detail = f"it is damaged ({type(error).__name__}: {shown(error)})"
        raise FileError(f"{name}: cannot be read as {kind}: {detail}.") from error


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
        raise FaultError("sets attributes of a function")


class _Unpickler(pickle.Unpickler):
    """Python's unpickler for the pickle at the current position of ``stream``; leaves the stream after its end."""

    def __init__(self, stream: io.BytesIO, known: dict[str, Any], content: str, storage: Callable[..., Any]) -> None:
        self._known, self._content, self._storage = known, content, storage
        super().__init__(io.BytesIO(screened(stream, self.find_class)), encoding="utf-8")

    def find_class(self, module: str, name: str) -> Any:
        full_name = f"{module}.{name}"
        if full_name not in self._known:
            raise FaultError(f"refuses to load `{shown(full_name)}`; {self._content} only")
        return self._known[full_name]

    def persistent_load(self, pid: Any) -> Any:
        return self._storage(pid)


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


def _ordered_dict(pairs: Any = ()) -> _Dict:
    """``collections.OrderedDict``, also as Python 2 pickles it: with a list of all pairs."""
    found = _Dict()
    for key, value in pairs:
        if type(key) is not str:
            raise FaultError("holds a dict with a key that is no string")
        found[key] = value
    if pairs:
        pairs.clear()  # or a short pickle could name one long list a million times
    return found


def _rebuild_tensor(storage: Any, offset: Any, size: Any, stride: Any, *flags: Any) -> _Tensor:
    """``torch._utils._rebuild_tensor_v2``; ``flags`` are requires_grad, hooks, metadata."""
    if not isinstance(storage, _Storage):
        raise FaultError("holds a tensor without a storage")
    if not (type(size) is tuple and type(stride) is tuple and len(size) == len(stride) <= _MAX_NESTING):
        raise FaultError("holds a tensor whose size and stride do not match")
    if not _are_counts(offset, *size, *stride):
        raise FaultError("holds a tensor whose offset, size or stride is negative or no integer")
    end = offset if 0 in size else offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    if end > storage.numel:
        raise FaultError(f"holds a tensor that ends at element {shown(end)} of a storage of {storage.numel}")
    return _Tensor(storage, offset, size, stride)


def _rebuild_parameter(tensor: Any, *flags: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise FaultError("holds a parameter that is no tensor")
    return tensor


_STORAGE_TYPES = {"Double": "<f8", "Float": "<f4", "Half": "<f2", "Long": "<i8", "Int": "<i4", "Short": "<i2"}
_STORAGE_TYPES |= {"Char": "i1", "Byte": "u1", "Bool": "?"}
_CHECKPOINT_GLOBALS: dict[str, Any] = {
    "collections.OrderedDict": _Builder(_ordered_dict),
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
            raise FaultError("refers to something outside the pickle that is not a storage")
        _, (dtype,), key, _, numel, *view = pid
        if not (type(key) is str and _are_counts(numel)):
            raise FaultError("holds a malformed reference to a storage")
        if view not in ([], [None]):
            raise FaultError(f"holds storage {shown(key)} as a view of another, as only very old PyTorch wrote them")
        storage = _Storage(key, dtype, numel)
        if storage.nbytes > self.file_size:
            raise FaultError(f"claims {shown(numel)} elements for a storage, in a file of {self.file_size} bytes")
        if self.setdefault(key, storage) != storage:
            raise FaultError(f"describes storage {shown(key)} in two ways")
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
    with _opened(path, "a PyTorch checkpoint") as data:
        zipped = data.startswith(b"PK\x03\x04")
        found, read = (_open_zip if zipped else _open_legacy)(data, _Storages(len(data)))
        return _arrays(_state_dict(found), read, budget=4 * len(data))


def _open_legacy(data: bytes, storages: _Storages) -> tuple[Any, Callable[[_Storage], bytes]]:
    """Five pickles (magic, protocol, machine, object, storage keys); per key an int64 count and the raw numbers."""
    stream = io.BytesIO(data[:_MAX_PICKLE_BYTES])
    magic = storages.unpickle(stream)
    if type(magic) is not int or magic != _MAGIC:
        raise FaultError("is not a PyTorch checkpoint: it starts without the magic number")
    protocol, machine = storages.unpickle(stream), storages.unpickle(stream)
    if type(protocol) is not int or protocol != _PROTOCOL:
        raise FaultError("is a PyTorch checkpoint of an unknown protocol")
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise FaultError("was not written on a little-endian machine")
    found, keys = storages.unpickle(stream), storages.unpickle(stream)
    if type(keys) is not list or any(type(key) is not str for key in keys) or sorted(keys) != sorted(storages):
        raise FaultError("lists other storages than its tensors use")

    starts: dict[str, int] = {}
    position = stream.tell()
    for key in keys:
        count = int.from_bytes(data[position : position + 8], "little", signed=True)
        starts[key] = position + 8
        position += 8 + storages[key].nbytes
        if position > storages.file_size:
            raise FaultError(f"is truncated: it ends inside storage {shown(key)}, at byte {storages.file_size}")
        if count != storages[key].numel:
            raise FaultError(f"stores {count} elements in storage {shown(key)}, declared with {storages[key].numel}")

    def read(storage: _Storage) -> bytes:
        start = starts[storage.key]
        return data[start : start + storage.nbytes]

    return found, read


def _open_zip(data: bytes, storages: _Storages) -> tuple[Any, Callable[[_Storage], bytes]]:
    """A zip with the uncompressed entries FOLDER/data.pkl and, per storage, FOLDER/data/KEY."""
    if data.count(b"PK\x01\x02") > _MAX_ENTRIES:  # what each entry of the directory begins with; it takes 1 KB here
        raise FaultError(f"is a zip with more than {_MAX_ENTRIES} entries")
    archive = zipfile.ZipFile(io.BytesIO(data))
    if len(archive.NameToInfo) != len(archive.filelist):
        raise FaultError("is a zip with two entries of one name")
    pickles = [name for name in archive.namelist() if name.split("/")[-1] == "data.pkl"]
    if len(pickles) != 1:
        raise FaultError(f"is not a PyTorch checkpoint: a zip with {len(pickles)} entries data.pkl")
    folder = pickles[0].removesuffix("data.pkl")
    unread = storages.file_size  # the entries of a crafted zip may overlap: their sum must not pass the file's size

    def entry(name: str, limit: int) -> bytes:
        nonlocal unread
        if name not in archive.NameToInfo:
            raise FaultError(f"lacks the entry {shown(name)}")
        info = archive.getinfo(name)
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise FaultError(f"holds the compressed entry {shown(name)}; PyTorch does not compress")
        unread -= info.file_size
        if info.file_size > limit or unread < 0:
            raise FaultError(f"claims {info.file_size} bytes for entry {shown(name)}, too many")
        return archive.read(info)

    if folder + "byteorder" in archive.NameToInfo and entry(folder + "byteorder", 16) != b"little":
        raise FaultError("was not written on a little-endian machine")
    found = storages.unpickle(io.BytesIO(entry(pickles[0], _MAX_PICKLE_BYTES)))
    return found, lambda storage: entry(f"{folder}data/{storage.key}", storage.nbytes)


def _state_dict(found: Any) -> dict[str, _Tensor]:
    if not isinstance(found, dict):
        raise FaultError(f"holds no state dict but a {type(found).__name__.lstrip('_')}")
    state = next((found[key] for key in ("state_dict", "model") if isinstance(found.get(key), dict)), found)
    if not state:
        raise FaultError("holds an empty state dict")
    for name, tensor in state.items():
        if type(name) is not str:
            raise FaultError("holds a state dict with a name that is not a string")
        if not isinstance(tensor, _Tensor):
            raise FaultError(f"holds no state dict: `{shown(name)}` is no tensor")
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
            raise FaultError(f"claims more for its tensors, `{shown(name)}` included, than four times its own size")
        if storage.key not in raws:
            raws[storage.key] = read(storage)
        raw = raws[storage.key]
        if len(raw) != storage.nbytes:
            wanted = f"declared with {storage.nbytes}"
            raise FaultError(f"stores {len(raw)} bytes in storage {shown(storage.key)}, {wanted}")
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
            was = shown(code) if type(code) is str else type(code).__name__  # a list might unfold without end
            raise FaultError(f"holds an array of dtype `{was}`; a layer file may hold integers and floats only")
        self.code = code

    def __setstate__(self, state: Any) -> None:
        if type(state) is not tuple or state[1] not in ("<", "|"):
            raise FaultError("holds an array that is not little-endian")


class _Array:
    """``numpy.core.multiarray._reconstruct(...)``, an array without values; BUILD provides them."""

    __slots__ = ("values",)

    def __init__(self, *args: Any) -> None:
        self.values: np.ndarray | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, data = state
        if not (isinstance(dtype, _Dtype) and type(data) is bytes and type(shape) is tuple and _are_counts(*shape)):
            raise FaultError("holds a malformed array")
        flat = np.frombuffer(data, "<" + dtype.code)
        if math.prod(shape) != flat.size or (0 in shape and len(shape) > 1):  # (2**60, 0) would be 2**60 empty rows
            raise FaultError(f"holds an array whose shape does not fit its {len(data)} bytes")
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
    with _opened(path, "a layer file") as data:
        stream = io.BytesIO(data[:_MAX_PICKLE_BYTES])
        found = _Unpickler(stream, _LAYER_GLOBALS, "a layer file may hold lists of numbers", _no_storage).load()
        if stream.tell() != len(data):
            raise FaultError(f"goes on after the list of layers, which ends at byte {stream.tell()} of {len(data)}")
        if type(found) is not list:
            raise FaultError("holds no list of layers")
        return _plain(found, [_MAX_LAYER_ENTRIES])


def _no_storage(pid: object) -> None:
    raise FaultError("refers to something outside the pickle")


def _plain(value: Any, left: list[int], nesting: int = 0) -> Any:
    """``value`` as nested lists of int; may make at most ``left[0]`` more entries."""
    if isinstance(value, _Array) and value.values is not None:
        left[0] -= value.values.size
        value = value.values.tolist() if left[0] >= 0 else None
    left[0] -= 1
    if left[0] < 0:
        raise FaultError(f"holds more than {_MAX_LAYER_ENTRIES} numbers")
    if type(value) in (list, tuple):
        if nesting >= _MAX_NESTING:
            raise FaultError(f"nests lists more than {_MAX_NESTING} deep")
        return [_plain(item, left, nesting + 1) for item in value]
    if type(value) not in (int, float):
        raise FaultError(f"holds an entry of type {type(value).__name__.lstrip('_')} in place of a channel count")
    if not 0 <= value <= _MAX_COUNT or value != int(value):  # not-a-number fails the first comparison
        raise FaultError(f"holds {shown(value)} in place of a channel count")
    return int(value)
