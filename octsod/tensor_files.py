"""Safetensors files: named arrays with text beside them, written with equal bytes for equal contents.

They are read into memory, never mapped into it: where a mapped file is cut short by somebody else, the process dies.
Nothing is believed of a header: what is asked for is bounded by what the file brings.
"""

import json
import os
import struct
import zlib
from collections.abc import Mapping

import numpy as np

from .checks import shortened
from .errors import FileError, detail
from .files import named, open_file, parse_json, read_from

MOST_BYTES = 1 << 31  # of a file: 5000 times a CSNet with the state of its optimiser
MOST_HEADER = 8 << 20  # bytes of a header: some 60 thousand arrays; a CSNet has 900, and its checkpoint 2500

_LENGTH = struct.Struct("<Q")
_DTYPES = {"F32": "<f4", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
_DTYPES |= {"U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8", "BOOL": "u1"}
_NAMES = {np.dtype(code).name for code in _DTYPES.values()} | {"bool"}


def pack(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The contents of a file that `read_arrays` reads.

    arrays: by name, each of any shape and memory layout, and of dtype float32, float64, bool or integers. Raises
    ValueError for other dtypes, and for more than a file may hold.
    """
    import safetensors.numpy

    for name, array in arrays.items():
        if array.dtype.name not in _NAMES:
            name = shortened(name)
            raise ValueError(f"`{name}` has dtype {array.dtype}; expected float32, float64, bool or integers.")
    # The library takes an array's bytes as they lie in memory, in whatever order.
    plain = safetensors.numpy.save({name: np.asarray(array, order="C") for name, array in arrays.items()})
    (length,) = _LENGTH.unpack_from(plain)
    start = _LENGTH.size + length
    # It would also write the metadata in another order in each process.
    header = {"__metadata__": dict(sorted(metadata.items())), **json.loads(plain[_LENGTH.size : start])}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    data = b"".join((_LENGTH.pack(len(text)), text, memoryview(plain)[start:]))
    if len(text) > MOST_HEADER or len(data) > MOST_BYTES:
        raise ValueError(f"{len(arrays)} arrays of {len(data):,} bytes are more than a file may hold.")
    return data


def read_arrays(path: str | os.PathLike[str], kind: str = "safetensors file") -> tuple[dict[str, str], dict]:
    """(metadata, name -> array) of a file, in its order. The arrays are writable.

    kind: what the file should be, for messages. Raises FileError, which names the file, unless it is one and all arrays
    have dtype float32, float64, bool or integers.
    """
    import safetensors

    name = named(path)
    try:
        with open_file(path) as file:
            head = read_from(file, name, _LENGTH.size)
            length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else 0
            if not 0 < length <= MOST_HEADER:
                raise ValueError("it does not start with the length of a header")
            text = read_from(file, name, length)
            entries = parse_json(text)
            if not isinstance(entries, dict):
                raise ValueError("its header is no JSON object")
            metadata = entries.pop("__metadata__", None) or {}
            claimed = _claimed(entries)
            if claimed > MOST_BYTES:
                raise ValueError(f"its header claims {claimed:,} bytes; at most {MOST_BYTES:,} are read")
            found = safetensors.deserialize(b"".join((head, text, read_from(file, name, claimed + 1))))
        views = dict(found)
        foreign = sorted({view["dtype"] for view in views.values()} - _DTYPES.keys())
        if foreign:
            raise FileError(f"{name}: holds arrays of dtype {', '.join(foreign)}; expected F32, F64, BOOL or integers.")
        return metadata, {key: _array(views[key]) for key in entries}
    except (safetensors.SafetensorError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{name}: not a {kind}: {detail(error)}.") from error


def checksum(arrays: Mapping[str, np.ndarray], text: str) -> str:
    """The CRC-32 of a text, and of arrays and their names, as 8 hexadecimal digits.

    It finds what breaks by accident, a flipped bit for sure. Against who means to deceive, no checksum in the same file
    would help, so that of zlib does: it is fast, and 8 digits are easily written.
    """
    value = zlib.crc32(text.encode())
    for name in sorted(arrays):
        value = zlib.crc32(arrays[name].tobytes(), zlib.crc32(name.encode(), value))
    return f"{value:08x}"


def _claimed(entries):
    """How many bytes of arrays a header speaks of. The library checks all else."""
    try:
        ends = [entry["data_offsets"][1] for entry in entries.values()]
    except (TypeError, LookupError) as error:
        raise ValueError("its header does not say where its arrays lie") from error
    if not all(type(end) is int and end >= 0 for end in ends):
        raise ValueError("its header does not say where its arrays lie")
    return max(ends, default=0)


def _array(view):
    array = np.frombuffer(view["data"], _DTYPES[view["dtype"]]).reshape(view["shape"])
    array = array.astype(array.dtype.newbyteorder("="), copy=False)
    return array != 0 if view["dtype"] == "BOOL" else array  # a file may hold any byte, NumPy's bools only 0 and 1
