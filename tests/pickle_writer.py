"""A writer of pickles that PyTorch could have written, opcode by opcode: honest ones and others."""

import io
import math
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import Any, NamedTuple

import numpy as np


class Global(NamedTuple):
    name: str  # "module name"


class Call(NamedTuple):
    function: Any
    args: tuple


class Built(NamedTuple):
    value: Any
    state: Any


class Pid(NamedTuple):
    pid: Any


class Raw(NamedTuple):
    opcodes: bytes


def emit(value: Any) -> bytes:
    if isinstance(value, Global):
        return b"c" + value.name.replace(" ", "\n").encode() + b"\n"
    if isinstance(value, Call):
        return emit(value.function) + emit(value.args) + b"R"
    if isinstance(value, Built):
        return emit(value.value) + emit(value.state) + b"b"
    if isinstance(value, Pid):
        return emit(value.pid) + b"Q"
    if isinstance(value, Raw):
        return value.opcodes
    if isinstance(value, OrderedDict):
        return emit(Call(Global("collections OrderedDict"), ())) + items(value)
    if isinstance(value, dict):
        return b"}" + items(value)
    if isinstance(value, list):
        return b"](" + b"".join(map(emit, value)) + b"e"
    if isinstance(value, tuple):
        return b"(" + b"".join(map(emit, value)) + b"t"
    return pickle.dumps(value, protocol=2)[2:-1]  # without PROTO and STOP


def items(mapping: dict) -> bytes:
    return b"(" + b"".join(emit(key) + emit(value) for key, value in mapping.items()) + b"u"


def program(value: Any) -> bytes:
    return b"\x80\x02" + emit(value) + b"."


STORAGES = {"f8": "Double", "f4": "Float", "f2": "Half", "i8": "Long", "i4": "Int", "i2": "Short"}
STORAGES |= {"i1": "Char", "u1": "Byte", "b1": "Bool"}


class Writer:
    """Collects storages while tensors are described, then writes the file."""

    def __init__(self, zipped: bool = False) -> None:
        self.zipped = zipped
        self.storages: dict[str, np.ndarray] = {}

    def storage(self, flat: np.ndarray, numel: Any = None, kind: str | None = None, view: tuple = (None,)) -> Pid:
        key = next((key for key, known in self.storages.items() if known is flat), str(1000 + len(self.storages)))
        self.storages[key] = flat
        kind = kind or "torch " + STORAGES[flat.dtype.str[1:]] + "Storage"
        numel = flat.size if numel is None else numel
        return Pid(("storage", Global(kind), key, "cuda:0", numel) + (() if self.zipped else view))

    def tensor(self, flat: np.ndarray, size: Any, stride: Any = None, offset: Any = 0, **kwargs: Any) -> Call:
        if stride is None:
            stride = tuple(math.prod(size[axis + 1 :]) for axis in range(len(size)))
        arguments = (self.storage(flat, **kwargs), offset, size, stride, False, OrderedDict())
        return Call(Global("torch._utils _rebuild_tensor_v2"), arguments)

    def of(self, array: np.ndarray) -> Call:
        return self.tensor(np.ravel(array), array.shape)

    def bytes(self, found: Any) -> bytes:
        if self.zipped:
            file = io.BytesIO()
            with zipfile.ZipFile(file, "w") as archive:
                archive.writestr("archive/data.pkl", program(found))
                archive.writestr("archive/byteorder", "little")
                for key, flat in self.storages.items():
                    archive.writestr(f"archive/data/{key}", flat.tobytes())
                archive.writestr("archive/version", "3\n")
            return file.getvalue()
        machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
        keys = sorted(self.storages)
        head = [program(part) for part in (0x1950A86A20F9469CFC6C, 1001, machine, found, keys)]
        tail = [struct.pack("<q", self.storages[key].size) + self.storages[key].tobytes() for key in keys]
        return b"".join(head + tail)


def small(writer: Writer) -> dict:
    weight = np.arange(24, dtype="f4").reshape(2, 3, 2, 2)
    count = np.array(7, dtype="i8")
    state = OrderedDict({"conv.weight": writer.of(weight), "bn.num_batches_tracked": writer.of(count)})
    metadata = {"_metadata": OrderedDict({"": {"version": 1}})}
    return {"epoch": 20, "arch": "csnet", "state_dict": Built(state, metadata), "lr": 1e-4, "best": None}


TARGET = "this must not exist"
