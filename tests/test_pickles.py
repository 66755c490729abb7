"""The readers of PyTorch checkpoints and layer files: right on honest files, one clear error on every other."""

import contextlib
import io
import math
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from octsod.errors import FileError, OctsodError
from octsod.interop.pickles import read_checkpoint, read_layers

# --- a writer of pickles that PyTorch could have written, opcode by opcode --------------------------------------------


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


@pytest.fixture(params=["legacy", "zip"])
def writer(request):
    return Writer(zipped=request.param == "zip")


@pytest.fixture
def load(tmp_path):
    def load(data: bytes) -> dict[str, np.ndarray]:
        path = tmp_path / "some.pth.tar"
        path.write_bytes(data)
        return read_checkpoint(path)

    return load


@pytest.fixture
def load_layers(tmp_path):
    def load_layers(data: bytes) -> list:
        path = tmp_path / "layers.bin"
        path.write_bytes(data)
        return read_layers(path)

    return load_layers


def small(writer: Writer) -> dict:
    weight = np.arange(24, dtype="f4").reshape(2, 3, 2, 2)
    count = np.array(7, dtype="i8")
    state = OrderedDict({"conv.weight": writer.of(weight), "bn.num_batches_tracked": writer.of(count)})
    metadata = {"_metadata": OrderedDict({"": {"version": 1}})}
    return {"epoch": 20, "arch": "csnet", "state_dict": Built(state, metadata), "lr": 1e-4, "best": None}


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_round_trip(writer, load):
    state = load(writer.bytes(small(writer)))
    assert list(state) == ["conv.weight", "bn.num_batches_tracked"]
    np.testing.assert_array_equal(state["conv.weight"], np.arange(24).reshape(2, 3, 2, 2))
    assert state["conv.weight"].dtype == np.float32
    assert state["bn.num_batches_tracked"].dtype == np.int64
    assert state["bn.num_batches_tracked"].shape == () and state["bn.num_batches_tracked"] == 7
    for array in state.values():
        assert array.flags.c_contiguous and array.flags.writeable and array.flags.owndata


@pytest.mark.parametrize("code", STORAGES)
def test_every_dtype(writer, load, code):
    array = np.array([[0, 1, 2], [3, 4, 100]]).astype(code)
    result = load(writer.bytes({"a": writer.of(array)}))["a"]
    assert result.dtype == array.dtype
    np.testing.assert_array_equal(result, array)


def test_bool_bytes_other_than_one_are_true(load):
    writer = Writer()
    result = load(writer.bytes({"a": writer.tensor(np.array([0, 1, 255], "u1"), (3,), kind="torch BoolStorage")}))["a"]
    assert result.dtype == bool and result.view("u1").tolist() == [0, 1, 1]


def test_views_of_one_storage(writer, load):
    flat = np.arange(40, dtype="f4")
    state = load(
        writer.bytes(
            {
                "transposed": writer.tensor(flat, (4, 3), (1, 4), 5),
                "every_other": writer.tensor(flat, (20,), (2,), 1),
                "one": writer.tensor(flat, (1, 1), (2**62, 2**62), 39),
                "expanded": writer.tensor(flat, (3, 2), (0, 1), 7),
                "last": writer.tensor(flat, (2, 2), (2, 1), 36),
            }
        )
    )
    np.testing.assert_array_equal(state["transposed"], np.arange(5, 17).reshape(3, 4).T)
    np.testing.assert_array_equal(state["every_other"], np.arange(1, 40, 2))
    np.testing.assert_array_equal(state["one"], [[39]])
    np.testing.assert_array_equal(state["expanded"], [[7, 8]] * 3)
    np.testing.assert_array_equal(state["last"], [[36, 37], [38, 39]])
    for array in state.values():
        assert array.flags.c_contiguous and array.flags.owndata
    state["last"][...] = 0  # shared in the file, not here
    assert state["one"] == 39


def test_empty_tensors(writer, load):
    state = load(writer.bytes({"a": writer.of(np.zeros((0, 38, 3, 3), "f4")), "b": writer.of(np.zeros(0, "i8"))}))
    assert state["a"].shape == (0, 38, 3, 3) and state["a"].dtype == np.float32
    assert state["b"].shape == (0,) and state["b"].dtype == np.int64


@pytest.mark.parametrize("wrap", [lambda s: {"state_dict": s}, lambda s: {"model": s, "epoch": 3}, lambda s: s])
def test_where_the_state_dict_may_be(writer, load, wrap):
    weight = np.ones((2, 2), "f4")
    data = writer.bytes(wrap({"module.fc.weight": writer.of(weight), "module.module.bias": writer.of(weight[0])}))
    assert list(load(data)) == ["fc.weight", "module.bias"]


def test_a_prefix_that_not_all_names_have_stays(writer, load):
    weight = np.ones(2, "f4")
    state = load(writer.bytes({"module.a": writer.of(weight), "a": writer.of(weight)}))
    assert list(state) == ["module.a", "a"]


def test_parameters_and_optimiser_state(writer, load):
    parameter = Call(Global("torch._utils _rebuild_parameter"), (writer.of(np.ones(3, "f4")), True, OrderedDict()))
    optimizer = {"state": {140: {"step": 3, "exp_avg": writer.of(np.zeros(3, "f4"))}}, "param_groups": [{"lr": 0.1}]}
    state = load(writer.bytes({"state_dict": {"a": parameter}, "optimizer": optimizer}))
    np.testing.assert_array_equal(state["a"], [1, 1, 1])


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_pickle_protocols(writer, load, protocol):
    """Protocols 4 and 5 come in frames, which the screening cuts out."""
    keys = {str(n) * 100: list(range(n)) for n in range(300)}
    found = small(writer)
    found["more"] = Raw(pickle.dumps(keys, protocol)[2:-1])
    assert len(load(writer.bytes(found))) == 2


def test_accepts_str_and_path(tmp_path):
    writer = Writer()
    (tmp_path / "a.pth").write_bytes(writer.bytes(small(writer)))
    assert list(read_checkpoint(str(tmp_path / "a.pth"))) == list(read_checkpoint(tmp_path / "a.pth"))


# --- hostile and damaged checkpoints ----------------------------------------------------------------------------------


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


TARGET = "this must not exist"


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
    (b"]" * 1_100_000, "1000000 opcodes"),
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
    with pytest.raises(FileError, match="not a regular file"):
        read(tmp_path)
    with pytest.raises(FileError):
        read("a\0b")
    assert issubclass(FileError, OctsodError) and issubclass(FileError, ValueError)


def test_reads_no_pipe(tmp_path):
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="not a regular file"):
        read_checkpoint(tmp_path / "pipe")


# --- layer files ------------------------------------------------------------------------------------------------------


def old_spelling(data: bytes) -> bytes:
    return data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def new_spelling(data: bytes) -> bytes:
    return data.replace(b"cnumpy.core.multiarray\n", b"cnumpy._core.multiarray\n")


@pytest.mark.parametrize("spelling", [old_spelling, new_spelling])
def test_layers(load_layers, spelling):
    shared = np.array([9.0, 10.0])
    layers = [[3, np.array([8.0, 10.0])], [np.array([8.0, 10.0]), shared], [shared, np.array([[0, 2.0, 1], [4, 5, 6]])]]
    data = spelling(pickle.dumps([*layers, [3, 4, 6, 4], np.array(5.0)], protocol=3))
    expected = [[3, [8, 10]], [[8, 10], [9, 10]], [[9, 10], [[0, 2, 1], [4, 5, 6]]], [3, 4, 6, 4], 5]
    result = load_layers(data)
    assert result == expected
    assert type(result[0][1][0]) is int


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"])
def test_layer_dtypes(load_layers, dtype, protocol):
    array = np.asfortranarray(np.arange(6, dtype=dtype).reshape(2, 3))
    assert load_layers(pickle.dumps([array, np.zeros(0, dtype)], protocol)) == [[[0, 1, 2], [3, 4, 5]], []]


@pytest.mark.parametrize("layers, word", [
    ([np.array([1.5])], "1.5"), ([np.array([-1.0])], "-1.0"), ([np.array([np.nan])], "nan"), ([-1], "-1"),
    ([np.array([np.inf])], "inf"), ([2**31], "2147483648"), ([True], "bool"), ([None], "NoneType"), (["a"], "str"),
    ([{}], "dict"), (3, "no list"), ([0.5], "0.5"), ([np.array([None, "a"])], "`O8`"), ([np.array(["a"])], "`U1`"),
    ([np.array([1j])], "`c16`"), ([np.array([True])], "`b1`"), ([np.zeros(1, [("a", "f4")])], "dtype"),
    ([np.array([1.0], ">f8")], "little-endian"), ([np.zeros(1, "M8[s]")], "dtype"), ([np.zeros((0, 3))], "shape"),
    ([np.float64(1)], "multiarray.scalar`"), ([np.datetime64("2020")], "refuses"),
    ([np.zeros(100_001)], "100000 numbers"), ([np.zeros((1,) * 32)], "nests"),
])  # fmt: skip
def test_refuses_what_is_no_layer_list(load_layers, layers, word):
    with pytest.raises(FileError, match=r"layers\.bin: ") as caught:
        load_layers(pickle.dumps(layers, 3))
    assert word in str(caught.value)


def array(shape: Any, data: Any, dtype: Any = "f8", state: Any = None) -> Built:
    """As NumPy pickles one; ``state`` replaces what fills it."""
    new = Call(Global("numpy.core.multiarray _reconstruct"), (Global("numpy ndarray"), (0,), "b"))
    kind = Built(Call(Global("numpy dtype"), (dtype, 0, 1)), (3, "<", None, None, None, -1, -1, 0))
    return Built(new, (1, shape, kind, False, data) if state is None else state)


def raw_bytes(data: bytes) -> Raw:
    return Raw(b"C" + bytes([len(data)]) + data)


def test_hand_made_array(load_layers):
    assert load_layers(program([array((2,), raw_bytes(struct.pack("<2d", 3, 4)))])) == [[3, 4]]


@pytest.mark.parametrize("bad", [
    array((2**60,), raw_bytes(bytes(16))), array((2**60, 0), raw_bytes(b"")), array((-2,), raw_bytes(bytes(16))),
    array((3,), raw_bytes(bytes(16))), array((2,), raw_bytes(bytes(15))), array([2], raw_bytes(bytes(16))),
    array((2,), [1, 2]), array((2,), "ab"), array((1,), None), array((1,), raw_bytes(bytes(8)), "O"),
    array((1,), raw_bytes(bytes(8)), "V8"), array((1,), raw_bytes(bytes(8)), "f8,f8"),
    array((1,), raw_bytes(bytes(8)), ["f8"]),
    array((True,), raw_bytes(bytes(8))), array((), (), state=(1, 2)), array((), (), state={}), array((), (), state=7),
    Call(Global("numpy.core.multiarray _reconstruct"), (Global("numpy ndarray"), (2**60,), "b")),
    Built(Global("numpy dtype"), (None, {"_function": 1})), Built(Global("numpy ndarray"), {"shape": 1}),
    Global("numpy ndarray"), Call(Global("numpy ndarray"), ((2**60,),)), Call(Global("numpy load"), (TARGET,)),
    Call(Global("builtins eval"), ("1",)), Pid("x"), Raw(b")" + b"\x85" * 100_000), Raw(b"]q\x01h\x01a"),
    Raw(b"]" * 50_000 + b"a" * 49_999), Raw(b"]q\x01" + b"]q\x02(h\x01h\x01eq\x01" * 30),
    Raw(b"](" + b"K\x01" * 1000 + b"eq\x01" + b"](" + b"h\x01" * 1000 + b"e"),
    Call(Global("numpy dtype"), (Raw(b"]q\x01" + b"](h\x01h\x01eq\x01" * 60), 0, 1)),
])  # fmt: skip
def test_hostile_layers(load_layers, bad):
    with pytest.raises(FileError, match=r"layers\.bin: "):
        load_layers(program([bad]))


def test_damaged_layers(load_layers):
    data = pickle.dumps([[3, np.array([8.0, 10.0])], [np.array([8.0, 10.0]), np.arange(6.0).reshape(2, 3)]], 3)
    for length in range(len(data)):
        with pytest.raises(FileError):
            load_layers(data[:length])
    with pytest.raises(FileError, match="goes on"):
        load_layers(data + b"\0")
    random = np.random.default_rng(0)
    for position in range(len(data)):
        with contextlib.suppress(FileError):
            load_layers(data[:position] + random.bytes(1) + data[position + 1 :])


# --- the released files, where there are copies of them ---------------------------------------------------------------

OFFICIAL = Path(__file__).parents[2] / "shared" / "official"


@pytest.mark.skipif(not OFFICIAL.is_dir(), reason=f"needs the authors' released files in {OFFICIAL}")
@pytest.mark.parametrize("model, tensors, parameters", [("L-x1", 739, 93_647), ("L-x2", 737, 140_894)])
def test_released_files(model, tensors, parameters):
    state = read_checkpoint(OFFICIAL / f"csnet-{model}.pth.tar")
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    assert len(state) == tensors
    assert sum(array.size for name, array in state.items() if not name.endswith(statistics)) == parameters
    assert all(np.isfinite(array).all() for array in state.values())

    layers = read_layers(OFFICIAL / f"csnet-{model}.bin")
    assert len(layers) == 22 and layers[-1] == [3, 4, 6, 4]
    weight = state["stage0.0.conv1x1.conv.weight"]
    assert weight.shape == (sum(layers[0][1]), layers[0][0], 3, 3)
    for branch, widths in enumerate(layers[19][2]):
        kept = [f"oct_fuse.ms.convs.{branch}.msconv.{n}.weight" for n, width in enumerate(widths) if width]
        assert [state[name].shape[0] for name in kept] == [width for width in widths if width]
