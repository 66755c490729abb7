"""Damage inside a format: what stays well-formed on the surface gets further in than bytes changed anywhere."""

import io
import json
import math
import pickle
import pickletools
import random
import struct
import zipfile
import zlib

from pickle_writer import Call, Global, Raw, emit

from . import mutations
from .mutations import NUMBERS, Mutation

SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
         "F8_E4M3": 1, "I8": 1, "U8": 1, "BOOL": 1}  # fmt: skip


# --- safetensors ------------------------------------------------------------------------------------------------------


def parse(data: bytes) -> tuple[dict, dict[str, tuple[str, list[int], bytes]]]:
    """Metadata, and per array its dtype, shape and bytes. ValueError if the bytes are not all there, or too many."""
    (length,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__", {})
    if max((entry["data_offsets"][1] for entry in header.values()), default=0) != len(body):
        raise ValueError("its arrays do not end where the file does")
    return metadata, {
        name: (entry["dtype"], entry["shape"], body[slice(*entry["data_offsets"])]) for name, entry in header.items()
    }


def build(metadata: dict, arrays: dict[str, tuple[str, list[int], bytes]], rng: random.Random | None = None) -> bytes:
    """The file; with `rng`, its header is damaged once more after sizes and offsets have been made to fit."""
    header, parts, position = {"__metadata__": metadata}, [], 0
    for name, (dtype, shape, raw) in arrays.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, position + len(raw)]}
        parts.append(raw)
        position += len(raw)
    header = mutations.tree(header, rng) if rng else header
    text = json.dumps(header, ensure_ascii=False).encode("utf-8", "surrogatepass")
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(parts)


def seal(metadata: dict, arrays: dict) -> dict:
    """The metadata of a file whose checksum fits: whoever wants to deceive writes that, too."""
    if "crc32" not in metadata:
        return metadata
    text = metadata.get("run")  # of a checkpoint
    if not isinstance(text, str):
        text = json.dumps({name: value for name, value in metadata.items() if name != "crc32"}, sort_keys=True)
    value = zlib.crc32(text.encode("utf-8", "surrogatepass"))
    for name in sorted(arrays):
        value = zlib.crc32(arrays[name][2], zlib.crc32(name.encode("utf-8", "surrogatepass"), value))
    return {**metadata, "crc32": f"{value:08x}"}


def safetensors(data: bytes, rng: random.Random) -> bytes:
    """Metadata, names, dtypes, shapes or numbers are changed; what follows from them fits again, mostly."""
    try:
        metadata, arrays = parse(data)
    except (ValueError, KeyError, TypeError, AttributeError, struct.error, RecursionError):
        return mutations.flip(data, rng)
    choice = rng.choice([0, 1, 2, 2, 3, 3, 3, 4, 5, 6, 7])
    names = list(arrays)
    name = rng.choice(names) if names else ""
    if choice == 0 or not names:
        return build(metadata, arrays, rng)
    dtype, shape, raw = arrays[name]
    if choice in (1, 2):
        metadata = mutations.tree(metadata, rng)
        metadata = metadata if isinstance(metadata, dict) else {}
    elif choice == 3:
        arrays[name] = dtype, shape, mutations.floats(raw, rng)
    elif choice == 4:  # another shape, with numbers to fill it
        flat, last = [math.prod(shape)], [*shape[:-1], 1]
        new = rng.choice([[1], [], [0], [*shape, 1], shape[1:], shape[::-1], last, [2, *shape], flat])
        length = math.prod(new) * SIZES.get(dtype, 1)
        arrays[name] = dtype, new, (raw * (length // max(len(raw), 1) + 1) + bytes(length))[:length]
    elif choice == 5:  # another dtype
        new = rng.choice(list(SIZES))
        length = math.prod(shape) * SIZES[new]
        arrays[name] = new, shape, (raw * 8 + bytes(length))[:length]
    elif choice == 6:
        other = rng.choice(names)
        arrays[rng.choice([other, name + "2", "", "a" * 999])] = arrays.pop(name)
    else:
        del arrays[name]
    if rng.random() < 0.9:
        metadata = seal(metadata, arrays)
    return build(metadata, arrays)


# --- pickles ----------------------------------------------------------------------------------------------------------

_SYSTEM, _WRITE = ("touch canary",), ("open('canary', 'w')",)
HOSTILE = [
    *map(emit, [
        Call(Global("os system"), _SYSTEM), Call(Global("posix system"), _SYSTEM),
        Call(Global("builtins exec"), _WRITE), Call(Global("builtins eval"), _WRITE),
        Call(Global("subprocess Popen"), (["touch", "canary"],)), Global("torch._utils _rebuild_tensor_v2"),
        Call(Global("builtins getattr"), (Global("os path"), "join")),
        Global("collections OrderedDict"), Global("numpy dtype"), Call(Global("numpy dtype"), ("O8", False, True)),
        Call(Global("collections OrderedDict"), ([],)), Call(Global("numpy.core.multiarray _reconstruct"), ()),
    ]),
    b"\x8c\x02os\x8c\x06system\x93", b"\x82\x01", b"j\xff\xff\xff\x7f", b"r\xff\xff\xff\x7f", b"(" * 5000, b"(t" * 2000,
    b"]" * 5000, b"2" * 200, b"\x8b\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8, b"X\xff\xff\xff\x7f", b"I99999999999\n",
    b"(ios\nsystem\n", b"0", b"1", b"\x81", b"R", b"b", b"Q", b"}", b")", b"\x85" * 40, b"N",
    b"G" + struct.pack(">d", math.nan),
]  # fmt: skip


def opcodes(data: bytes, rng: random.Random) -> bytes:
    """An opcode of a pickle is lost, doubled, moved, replaced by a hostile one, or gets another argument."""
    places, stream = [], io.BytesIO(data)
    try:
        while len(places) < 4000:
            start = stream.tell()
            places += [start + position for _, _, position in pickletools.genops(data[start:])]
            for _ in pickletools.genops(stream):
                pass
    except Exception:  # the end of the last pickle, or damage
        pass
    if len(places) < 3:
        return mutations.flip(data, rng)
    at = rng.randrange(len(places) - 1)
    start, end = places[at], places[at + 1]
    other = rng.randrange(len(places) - 1)
    piece = data[places[other] : places[other + 1]]
    match rng.randrange(6):
        case 0:
            return data[:start] + data[end:]
        case 1:
            return data[:start] + piece + data[start:]
        case 2:
            return data[:start] + piece + data[end:]
        case 3:
            return data[: start + 1] + mutations.number(data[start + 1 : end], rng)[: end - start - 1] + data[end:]
        case 4:
            value = rng.choice([Raw(b"N"), "x", -1, 2**31, 2**70, 0.5, [], (), {}, True])
            return data[:start] + emit(value) + data[end:]
        case _:
            return data[:start] + rng.choice(HOSTILE) + data[rng.choice([start, end]) :]


def archive(data: bytes, rng: random.Random) -> bytes:
    """A zip whose entries are changed, or its directory, or how they are stored."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as old:
            entries = [(info.filename, old.read(info)) for info in old.infolist()]
    except Exception:
        return opcodes(data, rng)
    choice = rng.randrange(8)
    if choice < 3:
        entries = [(name, opcodes(raw, rng) if name.endswith(".pkl") else raw) for name, raw in entries]
    elif choice < 6 and entries:
        at = rng.randrange(len(entries))
        name, raw = entries[at]
        changed = rng.choice([
            [(name, raw)] * 2, [], [("../" + name, raw)], [("/tmp/" + name, raw)], [(name + "2", raw)],
            [(name, rng.choice(mutations.BYTES)(raw, rng))], [(name, raw * 2)], [(name, b"")],
        ])  # fmt: skip
        entries[at : at + 1] = changed
    file = io.BytesIO()
    stored = zipfile.ZIP_DEFLATED if choice == 6 else zipfile.ZIP_STORED
    with zipfile.ZipFile(file, "w", stored) as new:
        for name, raw in entries:
            new.writestr(zipfile.ZipInfo(name), raw, stored)
    data = file.getvalue()
    directory = data.rfind(b"PK\x01\x02") if rng.random() < 0.5 else data.find(b"PK\x01\x02")
    if choice == 7 and directory >= 0:
        return data[:directory] + mutations.number(data[directory:], rng)
    return data


def relisted(rows: list) -> Mutation:
    """Layer files with other lists in them than `rows`."""

    def relist(data: bytes, rng: random.Random) -> bytes:
        try:
            return pickle.dumps(mutations.tree(rows, rng), rng.choice([2, 3, 4]))
        except RecursionError:
            return opcodes(data, rng)

    return relist


# --- pictures ---------------------------------------------------------------------------------------------------------


def chunks(data: bytes, rng: random.Random) -> bytes:
    """A PNG whose chunks are changed, moved, doubled or lost, each with a checksum that fits."""
    if not data.startswith(b"\x89PNG"):
        return rng.choice(mutations.BYTES)(data, rng)
    found, position = [], 8
    while position + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, position)
        found.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + length]))
        position += 12 + length
    at = rng.randrange(len(found)) if found else 0
    kind, body = found[at] if found else (b"IHDR", b"")
    match rng.randrange(6):
        case 0:
            found[at : at + 1] = []
        case 1:
            found.insert(rng.randrange(len(found) + 1), (kind, body))
        case 2:
            other = rng.choice([b"tRNS", b"PLTE", b"iCCP", b"gAMA", b"acTL", b"eXIf", b"zTXt", b"abcd"])
            found[at : at + 1] = [(other, body)]
        case 3 if kind == b"IDAT":  # what decompresses to too much, too little or something else
            raw = rng.choice([bytes(rng.choice([0, 1, 9, 10**6])), rng.randbytes(700)])
            found[at : at + 1] = [(kind, zlib.compress(raw))]
        case _:
            found[at : at + 1] = [(kind, rng.choice([mutations.number, mutations.flip, mutations.cut])(body, rng))]
    if rng.random() < 0.2 and found and found[0][0] == b"IHDR":
        side = [abs(rng.choice(NUMBERS)) % 2**32 for _ in range(2)]
        found[0] = b"IHDR", struct.pack(">II", *side) + found[0][1][8:]
    return data[:8] + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in found
    )


SAFETENSORS: list[Mutation] = [safetensors] * 40 + mutations.BYTES
PICKLES: list[Mutation] = [archive] * 16 + [opcodes] * 8 + mutations.BYTES
PICTURES: list[Mutation] = [chunks] * 4 + mutations.BYTES * 2
