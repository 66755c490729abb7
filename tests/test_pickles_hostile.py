"""Hostile and damaged checkpoints: one clear error on each."""

import io
import os
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections import OrderedDict

import numpy as np
import pytest
from pickle_writer import TARGET, Built, Call, Global, Pid, Raw, Writer, emit, program, small

from octsod.errors import FileError, OctsodError
from octsod.interop import pickles
from octsod.interop.pickles import read_checkpoint, read_layers


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.fixture
def refused(load, tmp_path, monkeypatch):
    """Checks that a file is refused with one sentence that starts with its name and has the given words, and that
    nothing happened besides."""
    monkeypatch.chdir(tmp_path)

    def refused(data: bytes, *words: str) -> None:
        with pytest.raises(FileError) as caught:
            load(data)
        message = str(caught.value)
        assert message.startswith(str(tmp_path / "some.pth.tar") + ": ") and message.endswith(".")
        assert message.isprintable() and len(message) < 400
        for word in words:
            assert word in message
        assert os.listdir(tmp_path) == ["some.pth.tar"]

    return refused


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("evil", "name"),
    [
        (Evil(os.system, f"touch '{TARGET}'"), f"`{os.system.__module__}.system`"),
        (Evil(eval, f"open('{TARGET}', 'w')"), ".eval`"),
        (Evil(open, TARGET, "w"), ".open`"),
        (Evil(getattr, "", "join"), ".getattr`"),
    ],
)
def test_refuses_other_globals_by_name(writer, refused, protocol, evil, name):
    bare = pickle.dumps(evil, protocol)
    refused(bare, name, "a checkpoint may hold tensors only.")
    found = small(writer)
    found["extra"] = Raw(bare[2 if protocol >= 2 else 0 : -1])
    refused(writer.bytes(found), name, "a checkpoint may hold tensors only.")


@pytest.mark.parametrize(
    "name",
    ["torch BFloat16Storage", "torch.storage _load_from_bytes", "torch FloatStorage.__class__", "torch \x1b[31m"],
)
def test_refuses_unknown_torch_names(writer, refused, name):
    refused(writer.bytes({"a": Global(name)}), "refuses to load `torch.")


GLOBALS = ["collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch FloatStorage"]


@pytest.mark.parametrize("name", GLOBALS)
@pytest.mark.parametrize(
    "state",
    [
        {"__call__": 1},
        {"dtype": 1},
        (None, {"_function": 1}),
        (None, {"dtype": 1}),
        (None, {"__class__": Global("collections OrderedDict")}),
        (None, {"__setstate__": Global("collections OrderedDict")}),
    ],
)
def test_build_changes_no_global(writer, refused, load, name, state):
    refused(writer.bytes({"a": Built(Global(name), state)}))
    again = Writer(writer.zipped)
    assert len(load(again.bytes(small(again)))) == 2


@pytest.mark.parametrize("state", [{"size": (2**60,)}, (None, {"size": (2**60,)}), (1, (2,), "f4", False, b"")])
def test_build_changes_no_tensor_and_no_storage(writer, refused, state):
    tensor = writer.of(np.ones(3, "f4"))
    refused(writer.bytes({"a": Built(tensor, state)}))
    refused(writer.bytes({"a": Built(writer.storage(np.ones(3, "f4")), state)}))


def test_build_changes_no_dict(writer, load):
    state = Built(
        OrderedDict({"a": writer.of(np.ones(3, "f4"))}), (None, {"items": 1, "__class__": Global(GLOBALS[0])})
    )
    assert list(load(writer.bytes(state))) == ["a"]


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        (1, 2, 3, 4),
        ("storage", 0, (2,), (1,), False, None),
        (Global("torch FloatStorage"), 0, (2,), (1,)),
        (Global("torch._utils _rebuild_tensor_v2"),) * 4,
        ([], {}, (), ()),
    ],
)
@pytest.mark.parametrize("function", [*GLOBALS, "torch._utils _rebuild_parameter"])
def test_arbitrary_arguments(writer, refused, function, arguments):
    call = Call(Global(function), arguments)
    refused(writer.bytes({"state_dict": {"a": call}}))


@pytest.mark.parametrize("size, stride, offset", [
    ((2**60,), (1,), 0), ((2**60,), (0,), 0), ((2**31, 2**31), (1, 1), 0), ((5,), (1,), 0), ((4,), (1,), 1),
    ((2,), (4,), 0), ((2,), (2**63,), 0), ((2, 2), (2, 2), 0), ((1,), (1,), 4), ((1,), (1,), 2**63), ((0,), (1,), 5),
    ((-1,), (1,), 0), ((2,), (-1,), 1), ((2,), (1,), -1), ((2,), (1, 1), 0), ((2, 1), (1,), 0), ((1,) * 65,) * 2 + (0,),
    (2, 1, 0), ([2], [1], 0), ((2.0,), (1,), 0), ((True,), (1,), 0), ((2,), (None,), 0), ((2,), (1,), "0"),
    ((10**600, 0), (1, 1), 0), ((0, 2**62), (1, 1), 0), ((1000, 1000, 4), (0, 0, 1), 0), ((None,), (1,), 0),
])  # fmt: skip
def test_refuses_impossible_views(writer, refused, size, stride, offset):
    flat = np.arange(4, dtype="f4")
    refused(writer.bytes({"state_dict": {"a": writer.tensor(flat, size, stride, offset)}}))


@pytest.mark.parametrize("numel", [2**60, 2**63, 10**600, 10**5, 5, 3, -1, 4.0, None, True, "4", (4,)])
def test_refuses_wrong_element_counts(writer, refused, numel):
    storage = Pid(("storage", Global("torch FloatStorage"), "1000", "cpu", numel) + (() if writer.zipped else (None,)))
    writer.storages["1000"] = np.arange(4, dtype="f4")
    refused(writer.bytes({"a": Call(Global("torch._utils _rebuild_tensor_v2"), (storage, 0, (2,), (1,), False, {}))}))


def test_refuses_legacy_counts_that_differ(refused):
    writer = Writer()
    data = writer.bytes({"a": writer.of(np.arange(4, dtype="f4"))})
    for count in (3, 5, 0, -1, 2**62, -(2**63)):
        refused(data[:-24] + struct.pack("<q", count) + data[-16:], f"stores {count} elements", "declared with 4")


@pytest.mark.parametrize("pid", [
    (), "storage", ("storage",), None, ("module", 1, "k", "cpu", 1), ("storage", "torch.FloatStorage", "k", "cpu", 1),
    ("storage", Global("collections OrderedDict"), "k", "cpu", 1), ("storage", Global("torch IntStorage"), 1, "cpu", 1),
    ("storage", Global("torch FloatStorage"), ["k"], "cpu", 1), [1, 2, 3, 4, 5],
    ("storage", Global("torch FloatStorage"), "k", "cpu", 1, ("v", 0, 1)),
    ("storage", Global("torch FloatStorage"), "../../etc/passwd", "cpu", 1),
])  # fmt: skip
def test_refuses_malformed_storages(writer, refused, pid):
    refused(writer.bytes({"a": Call(Global("torch._utils _rebuild_tensor_v2"), (Pid(pid), 0, (1,), (1,), False, {}))}))


def test_refuses_one_storage_in_two_ways(writer, refused):
    flat = np.arange(4, dtype="f4")
    found = {"a": writer.tensor(flat, (1,)), "b": writer.tensor(flat, (1,), kind="torch IntStorage")}
    refused(writer.bytes(found), "storage 1000 in two ways")


def test_refuses_many_copies_of_one_storage(writer, refused):
    flat = np.zeros(10_000, "f4")
    found = {str(n): writer.tensor(flat, (10_000,)) for n in range(1000)}  # 40 MB out of 200 KB
    refused(writer.bytes(found), "four times its own size")


def test_truncated_anywhere(writer, refused):
    data = writer.bytes(small(writer))
    for length in range(0, len(data), 97):
        refused(data[:length])
    refused(data[:-1])


@pytest.mark.filterwarnings("ignore:invalid escape sequence")  # of pickletools, on strings of protocol 0
def test_damaged_anywhere(writer, load):
    """One wrong byte gives the right names (the numbers may differ), or a FileError: nothing else."""
    data = writer.bytes(small(writer))
    random = np.random.default_rng(0)
    for position in range(len(data)):
        value = bytes([int(random.integers(256))])
        try:
            state = load(data[:position] + value + data[position + 1 :])
        except FileError:
            continue
        assert len(state) == 2


def test_random_bytes(refused):
    random = np.random.default_rng(0)
    for length in (0, 1, 2, 16, 100, 5000):
        for start in (b"", b"PK\x03\x04", b"\x80\x02", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."):
            refused(start + random.bytes(length))


def test_foreign_files(refused):
    npy = io.BytesIO()
    np.save(npy, np.ones(3))
    npz = io.BytesIO()
    np.savez(npz, np.ones(3))
    refused(npy.getvalue())
    refused(npz.getvalue(), "0 entries data.pkl")
    refused(program(123), "magic number")
    refused(program({"a": 1}), "magic number")
    refused(program(0x1950A86A20F9469CFC6C) + program(1002) + program({}), "protocol")
    head = program(0x1950A86A20F9469CFC6C) + program(1001)
    refused(head + program({"little_endian": False}), "little-endian")
    refused(head + program([]), "little-endian")
    refused(head + program({"little_endian": True}) + program({}) + program(["1"]), "other storages")
    refused(head + program({"little_endian": True}) + program({}) + program([[]]), "other storages")


@pytest.mark.parametrize("found", [{}, [], 1, "a", None, {"a": 1}, {"state_dict": {}}, {"state_dict": {"a": 1}}])
def test_refuses_what_is_no_state_dict(writer, refused, found):
    refused(writer.bytes(found), "state dict")


def test_refuses_names_that_are_no_strings(writer, refused):
    refused(writer.bytes({1: writer.of(np.ones(1, "f4"))}), "not a string")


@pytest.mark.parametrize("opcodes, word", [
    (b"r\xff\xff\xff\x7f", "memo index"),  # makes room for 2**31 objects
    (b"Nr\xff\xff\xff\xff", "memo index"),
    (b")" + b"\x85" * 200_000, "nests tuples"),  # hashing it overflows the C stack
    (b"})" + b"\x85" * 200_000 + b"Ns", "nests tuples"),
    (b")q\x01" + b"h\x01\x85q\x01" * 100_000, "nests tuples"),
    (b"]" * 200_000 + b"a" * 199_999, ""),
    (b"]" * 310_000, "300000 opcodes"),
    (b"\x8b\xff\xff\xff\x7f", ""),  # a number of 2 GB
    (b"L" + b"9" * 10_000 + b"L\n", ""),
    (b"X\xff\xff\xff\xff", ""), (b"B\xff\xff\xff\xffabc", ""), (b"\x8e" + b"\xff" * 7 + b"\x7f", ""),
    (b"\x95" + b"\xff" * 7 + b"\x7f", ""), (b"X\x02\x00\x00\x00\xff\xff", ""), (b"U\x02\xff\xff", ""),
    (b"\x82\x01", "EXT1"), (b"\x97", "NEXT_BUFFER"), (b"\x8f", "EMPTY_SET"), (b"N2", "DUP"), (b"N0", "POP"),
    (b"b", "damaged"), (b"R", "damaged"), (b"0" * 9, "POP"),
    (b"t", ""), (b"e", ""), (b"h\x05", ""), (b"(l", "LIST"), (b"Pid\n", "PERSID"),
    (b"]N]s", ""), (b"}]Ns", ""), (b"NN\x81", ""), (b"ccollections\nOrderedDict\n)\x81", ""),
    (b"icollections\nOrderedDict\n", "INST"), (b"ios\nsystem\n", "`os.system`"), (b"\x80\x09", ""), (b"N" * 10, ""),
])  # fmt: skip
def test_hostile_opcodes(writer, refused, opcodes, word):
    refused(writer.bytes({"state_dict": {"a": Raw(opcodes)}}), word)


def test_keys_that_take_time(writer, refused):
    """Tuples that unfold without end, and keys that all collide, in a dict and in one with an order."""
    doubled = b")q\x01" + b"h\x01h\x01\x86q\x01" * 60
    refused(writer.bytes({"state_dict": {"a": Raw(b"}" + doubled + b"Ns")}}), "nests tuples")
    wide = b"(" + b"N" * 100 + b"tq\x01" + (b"(" + b"h\x01" * 100 + b"tq\x01") * 5
    refused(writer.bytes({"state_dict": {"a": Raw(b"}" + wide + b"Ns")}}), "nests tuples")
    # Python's hash of a number is the number modulo this one.
    keys = [emit(k * ((1 << 61) - 1)) for k in range(11_000)]
    at_once = b"(" + b"".join(key + b"N" for key in keys) + b"u"
    one_by_one = b"".join(key + b"Ns" for key in keys)
    for items in (at_once, one_by_one):
        for start in (b"}", b"ccollections\nOrderedDict\n)R"):
            refused(writer.bytes({"state_dict": {"a": Raw(start + items)}}), "keys that are no strings")
    pairs = [[Raw(key), None] for key in keys]
    refused(writer.bytes(Call(Global("collections OrderedDict"), (pairs,))), "a key that is no string")


def test_a_long_list_is_copied_once(writer, refused):
    """Python 2 writes a dict with an order as a call that takes a list; a pickle may name one list many times."""
    pairs = Raw(emit([[str(k), None] for k in range(2000)]) + b"q\x01")
    dicts = Raw(b"](" + b"ccollections\nOrderedDict\nh\x01\x85R" * 2000 + b"e")
    data = writer.bytes({"pairs": pairs, "state_dict": {"a": dicts}})
    tracemalloc.start()
    try:
        refused(data, "`a` is no tensor")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


def test_lists_of_lists_without_end(writer, refused):
    opcodes = b"]q\x01h\x01a" + b"]q\x02(h\x01h\x01eq\x01" * 60  # 2**60 leaves, in a loop besides
    refused(writer.bytes({"state_dict": {"a": Raw(opcodes + b"h\x01" + b"]" + b"h\x01a" + b"a")}}))


def test_compressed_and_overlapping_zips(refused):
    writer = Writer(zipped=True)
    found = program({"a": writer.of(np.zeros(1000, "f4"))})
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", method) as archive:
            archive.writestr("x/data.pkl", found)
            archive.writestr("x/data/1000", bytes(4000))
        refused(file.getvalue(), "compressed entry")

    good = writer.bytes({"a": writer.of(np.zeros(1000, "f4"))})
    entry = good.rindex(b"PK\x01\x02", 0, good.rindex(b"data/1001"))  # its sizes stand 20 and 24 bytes behind this
    for size in (2**31, 2**32 - 2, 3999, 4001):
        refused(good[: entry + 20] + struct.pack("<II", size, size) + good[entry + 28 :])


def test_zips_with_many_or_equal_entries(refused, monkeypatch):
    monkeypatch.setattr(pickles, "_MAX_ENTRIES", 10)
    for names, word in ((["x/data.pkl", "a", "a"], "two entries of one name"), (range(11), "more than 10 entries")):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name in names:
                archive.writestr(str(name), b"")
        refused(file.getvalue(), word)


def test_two_pickles_and_big_endian_zips(refused):
    for entries in ({"a/data.pkl": b"", "b/data.pkl": b""}, {"a/data.pkl": b"", "a/byteorder": b"big"}):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in entries.items():
                archive.writestr(name, data)
        refused(file.getvalue(), "entries data.pkl" if "b/data.pkl" in entries else "little-endian")


@pytest.mark.parametrize("read", [read_checkpoint, read_layers])
def test_missing_files_and_folders(tmp_path, read):
    with pytest.raises(FileError, match=r"none\.pth: .*[Nn]o such file"):
        read(tmp_path / "none.pth")
    with pytest.raises(FileError, match="is a folder; expected a file"):
        read(tmp_path)
    with pytest.raises(FileError):
        read("a\0b")
    assert issubclass(FileError, OctsodError) and issubclass(FileError, ValueError)


def test_reads_no_pipe(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="is a named pipe; expected a regular file"):
        read_checkpoint(tmp_path / "pipe")
