"""Layer files: right on honest ones, one clear error on every other."""

import contextlib
import pickle
import struct
from typing import Any

import numpy as np
import pytest
from pickle_writer import TARGET, Built, Call, Global, Pid, Raw, program

from octsod.errors import FileError
from octsod.interop.pickles import read_layers


@pytest.fixture
def load_layers(tmp_path):
    def load_layers(data: bytes) -> list:
        path = tmp_path / "layers.bin"
        path.write_bytes(data)
        return read_layers(path)

    return load_layers


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


@pytest.mark.parametrize("channels", [5000, [5000], [0] * 5000, [[7] * 5000] * 3])
@pytest.mark.parametrize("place", [0, 1, 14, 19, 20])
def test_layer_files_of_great_networks(tmp_path, channels, place):
    """Messages are short, whatever they quote."""
    from octsod.interop import sod100k

    blocks = [3, 4, 6, 4]
    layers: list = [[[8, 8], [8, 8]] for _ in range(1 + sum(blocks) + 3)]
    layers[place] = [channels, channels, channels]
    (tmp_path / "layers.bin").write_bytes(pickle.dumps([*layers, blocks], 3))
    (tmp_path / "w.pth.tar").write_bytes(b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sod100k, "read_checkpoint", lambda path: {})
        with pytest.raises(FileError) as caught:
            sod100k.read_model(tmp_path / "w.pth.tar", tmp_path / "layers.bin")
    assert str(caught.value).startswith(f"{tmp_path / 'layers.bin'}: ") and len(str(caught.value)) < 600
