"""Reading files: regular ones only, no more of them than is of use, text as Windows writes it, and tensor files."""

import json
import os
import signal
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest
from commands import ROOT, refused, run
from hypothesis import given
from hypothesis import strategies as st
from networks import lived_in

import octsod
from octsod import checks, errors, tensor_files
from octsod.errors import FileError
from octsod.files import open_file, parse_json, read_file, read_text, write_atomically
from octsod.models import Configuration, files
from octsod.tensor_files import pack, read_arrays

pipes = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
LONG = "x" * 300_000


# --- what is opened ---------------------------------------------------------------------------------------------------


@pipes
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for path, word in (
        (tmp_path / "pipe", "is a named pipe; expected a regular file"),
        (tmp_path / "link", "is a named pipe; expected a regular file"),
        ("/dev/zero", "is a device; expected a regular file"),
        (tmp_path, "is a folder; expected a file"),
        (tmp_path / "none", "No such file"),
        ("a\0b", "null"),
    ):
        with pytest.raises(FileError, match=word) as caught:
            open_file(path)
        assert str(caught.value).startswith(f"{path}: ")
    for arguments in (
        ("info", "--weights", "PIPE"), ("train", "-c", "PIPE", "--print-config"),
        ("convert", "PIPE", "--config", "PIPE", "-o", "w"),
    ):  # fmt: skip
        assert "is a named pipe" in refused(*(tmp_path / "pipe" if a == "PIPE" else a for a in arguments))


@pipes
def test_an_open_pipe_is_read_to_its_end():
    reading, writing = os.pipe()
    data = bytes(range(256)) * 1000  # more than the pipe holds at once

    def write():
        with os.fdopen(writing, "wb") as file:
            for start in range(0, len(data), 100_000):
                file.write(data[start : start + 100_000])

    thread = threading.Thread(target=write)
    thread.start()
    assert read_file(f"/dev/fd/{reading}", len(data)) == data
    thread.join()
    os.close(reading)


@pipes
def test_an_interruption_ends_the_wait_for_a_pipe():
    # Whoever runs tests in the background makes them ignore this signal.
    source = (
        "import signal, octsod.cli; signal.signal(signal.SIGINT, signal.default_int_handler);"
        "octsod.cli.main(['info', '--weights', '/dev/stdin'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-c", source], env=environment, stdin=subprocess.PIPE)
    try:
        # More than a pipe holds: once it is written, the process is reading, and waits for the rest of a long header.
        process.stdin.write(struct.pack("<Q", 1 << 20) + b" " * 200_000)
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    finally:
        process.kill()
        process.communicate()


def test_no_more_is_read_than_asked_for(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"12345")
    assert read_file(path, 5) == b"12345"
    with pytest.raises(FileError, match="f: holds more than 4 bytes"):
        read_file(path, 4)


# --- text and JSON ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_as_windows_writes_it(tmp_path, encoding):
    path = tmp_path / "c.toml"
    path.write_bytes("# Größe\r\nsize = 64\r\n".encode(encoding))
    assert read_text(path, 100) == "# Größe\r\nsize = 64\r\n"
    assert "size = 64\n" in run("train", "--print-config", "-c", path).stdout
    path.write_bytes("size = 64".encode("utf-16-be"))
    assert "save it as UTF-8" in refused("train", "--print-config", "-c", path)
    for data in (b"\xff\xfea", "Größe".encode("latin-1")):
        path.write_bytes(data)
        with pytest.raises(FileError, match=r"c\.toml: is no UTF-(8|16) text \(byte \d\); save it as UTF-8\.$"):
            read_text(path, 100)


@pytest.mark.parametrize("text, word", [
    ("", "no JSON"), ("{", "no JSON"), ("{'a': 1}", "no JSON"), (b"\xff\xff", "no JSON"), ("[" * 100_000, "too deeply"),
    ('{"a":' * 100_000, "too deeply"), ('{"a": 1, "b": {"c": 1, "c": 2}}', "a key twice"), ("9" * 100_000, "64 bits"),
    # Not too deep for the parser, but for those who walk through what it makes.
    (150 * "[" + 150 * "]", "too deeply"), (150 * '{"a": [' + 150 * "]}", "too deeply"),
    (str(10**30), "64 bits"), (str(-(2**63) - 1), "64 bits"), (str(2**64), "64 bits"), ("[1e999]", "float's range"),
])  # fmt: skip
def test_json_that_is_refused(text, word):
    with pytest.raises(ValueError, match=word) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 200


def test_json():
    values = {"a": [1, -1.5, True, None, "\u00fc\ud800"], "b": {"a": -(2**63), "c": 2**64 - 1}}
    assert parse_json(json.dumps(values)) == values and parse_json(b'"\xc3\xbc"') == "\u00fc"
    assert np.isnan(parse_json("NaN"))
    assert parse_json(49 * "[" + 49 * "]") and parse_json("3") == 3 and parse_json("[]") == []


# --- tensor files -----------------------------------------------------------------------------------------------------

ARRAYS = {
    "transposed": np.arange(6, dtype="f4").reshape(2, 3).T,
    "reversed": np.arange(4.0)[::-1],
    "big-endian": np.arange(3, dtype=">i4"),
    "scalar": np.array(7),
    "empty": np.zeros((0, 5), "u1"),
    "truth": np.array([True, False]),
}


def test_arrays_survive_their_file(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(pack(ARRAYS, {"b": "ü", "a": "\n"}))
    facts, arrays = read_arrays(path)
    assert list(facts.items()) == [("a", "\n"), ("b", "ü")] and arrays.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        found = arrays[name]
        assert found.shape == array.shape and found.dtype == array.dtype.newbyteorder("=") and (found == array).all()
        assert found.flags.c_contiguous and found.flags.writeable
    path.write_bytes(pack({}, {}))
    assert read_arrays(path) == ({}, {})


def test_a_transposed_array_keeps_its_values(tmp_path):
    model = octsod.csnet(0.2)
    weight = model.classifier.weight.data
    assert weight.shape[1] > 1
    state = {"w": np.arange(weight.size, dtype="f4").reshape(weight.shape[1], -1).T}
    (tmp_path / "w").write_bytes(pack(state, {}))
    assert (read_arrays(tmp_path / "w")[1]["w"] == state["w"]).all()


def test_equal_contents_have_equal_bytes(tmp_path):
    """In another process, too, where strings have other hashes."""
    source = (
        "import sys, octsod; octsod.manual_seed(3); model = octsod.csnet(0.2, classes=3);"
        "model.labels = ('a', 'b', 'c'); octsod.save(model, sys.argv[1])"
    )
    contents = set()
    for seed in range(3):
        path = tmp_path / str(seed)
        environment = {**os.environ, "PYTHONHASHSEED": str(seed), "PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, "-c", source, path], env=environment, check=True)
        contents.add(path.read_bytes())
    assert len(contents) == 1


def test_dtypes_that_a_file_may_not_hold():
    for dtype in ("f2", "c8", "S3", "M8[s]", "O", "longdouble"):
        with pytest.raises(ValueError, match=r"`x` has dtype .*; expected float32, float64, bool or integers"):
            pack({"x": np.zeros(2, dtype)}, {})


def test_what_could_not_be_read_is_not_written(monkeypatch):
    with pytest.raises(ValueError, match="more than a file may hold"):
        pack({}, {"a": "x" * tensor_files.MOST_HEADER})
    monkeypatch.setattr(tensor_files, "MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"1 arrays of .* bytes are more than a file may hold"):
        pack({"a": np.zeros(1000)}, {})


def contents(header, numbers=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


HOSTILE = {
    "empty": b"",
    "short": b"1234567",
    "no-header": bytes(100),
    "header-of-2**64": b"\xff" * 8,
    "header-of-1-gb": struct.pack("<Q", 1 << 30) + b"{}",
    "header-cut": struct.pack("<Q", 100) + b"{}",
    "no-object": contents([1]),
    "nested": contents(b"[" * 100_000),
    "nested-objects": contents(b'{"a":' * 100_000),
    "huge-number": contents(b'{"a":' + b"9" * 100_000 + b"}"),
    "twice": contents(b'{"a":%s,"a":%s}' % ((json.dumps(entry()).encode(),) * 2), bytes(4)),
    "overlap": contents({"a": entry(), "b": entry()}, bytes(4)),
    "hole": contents({"a": entry(), "b": entry(offsets=(8, 12))}, bytes(12)),
    "before": contents({"a": entry(offsets=(4, 0))}, bytes(4)),
    "negative": contents({"a": entry(offsets=(-4, 0))}, bytes(4)),
    "fraction": contents({"a": entry(offsets=(0, 4.0))}, bytes(4)),
    "no-offsets": contents({"a": {}}),
    "no-entry": contents({"a": 1}),
    "1-tb": contents({"a": entry(shape=(1 << 38,), offsets=(0, 1 << 40))}),
    "1-gb": contents({"a": entry(shape=(1 << 28,), offsets=(0, 1 << 30))}, bytes(4)),
    "overflow": contents({"a": entry(shape=(1 << 62, 1 << 62))}, bytes(4)),
    "empty-and-huge": contents({"a": entry(shape=(0, 1 << 62), offsets=(0, 0))}),
    "huge-and-empty": contents({"a": entry(shape=(1 << 62, 0), offsets=(0, 0))}),
    "200-axes": contents({"a": entry(shape=(1,) * 200)}, bytes(4)),
    "longer": contents({"a": entry()}, bytes(5)),
    "shorter": contents({"a": entry()}, bytes(3)),
    "long-dtype": contents({"a": entry(LONG)}, bytes(4)),
    "long-name": contents({LONG: entry(shape=(2,))}, bytes(4)),
    "metadata-list": contents({"__metadata__": ["a"]}),
    "metadata-number": contents({"__metadata__": {"a": 1}}),
    "surrogate": contents({"\ud800": entry()}, bytes(4)),
    **{
        dtype: contents({"a": entry(dtype, (8,), (0, size))}, bytes(size))
        for dtype, size in (("F16", 16), ("BF16", 16), ("F8_E4M3", 8), ("F4", 4), ("C64", 64))
    },
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_tensor_files(tmp_path, name):
    path = tmp_path / "w.safetensors"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(FileError) as caught:
        read_arrays(path, "weight file")
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.endswith(".") and len(message) < 500 + len(str(path))
    with pytest.raises(FileError):
        octsod.load(path)


def test_bytes_of_truth_values_become_0_and_1(tmp_path):
    (tmp_path / "w").write_bytes(contents({"a": entry("BOOL", (3,), (0, 3))}, b"\0\5\1"))
    assert read_arrays(tmp_path / "w")[1]["a"].view("u1").tolist() == [0, 1, 1]


# --- what a file may ask for ------------------------------------------------------------------------------------------


def test_a_file_alone_asks_for_no_large_pictures(tmp_path):
    model, path = lived_in(Configuration.standard(0.2), 0, "float32"), tmp_path / "w.safetensors"
    model.size = 8192
    octsod.save(model, path)
    loaded, picture = octsod.load(path), np.zeros((8, 8, 3), np.uint8)
    assert loaded.size == 8192
    with pytest.raises(ValueError, match=r"predict: the network's own size is 8192 pixels, at which it takes 1\.6 GB"):
        octsod.predict(picture, loaded)
    with pytest.raises(ValueError, match="evaluate: the network's own size"):
        octsod.evaluate(loaded, [None])
    assert octsod.predict(picture, loaded, 32).shape == (8, 8)
    octsod.images.write_png(tmp_path / "p.png", picture)
    arguments = ("predict", tmp_path / "p.png", "--weights", path, "-o", tmp_path / "m.png")
    assert "give --size if you mean it" in refused(*arguments)
    assert run(*arguments, "--size", 32).exit_code == 0
    assert '"size": 8192' in run("info", "--weights", path, "--json").stdout  # a description takes no memory
    c = Configuration.standard(0.2)
    wide = Configuration(((((4096,),), *c.stages[1:])), c.fuse, c.dilated, c.merge)
    octsod.save(octsod.models.CSNet(wide), path)
    with pytest.raises(ValueError, match=r"own size is 224 pixels, at which it takes 1\.6 GB"):
        octsod.predict(picture, octsod.load(path))
    for size, width in ((2800, 1), (224, 50)):
        model.size, model.configuration = size, Configuration.standard(width)
        assert files.side_for(model, None, "predict") == size


def test_the_largest_map_of_a_configuration():
    assert Configuration.standard(1, classes=10).largest_map(224) == 10 * 224**2 + 10 * 112**2


# --- messages ---------------------------------------------------------------------------------------------------------


@given(st.text(max_size=3), st.integers(0, 1000), st.integers(10, 300))
def test_shortened(part, times, most):
    text = part * times
    short = checks.shortened(text, most)
    if len(text) <= most:
        assert short == text
    else:
        head, tail = short.split(" ... ", 1) if " ... " not in text else (short[: (most - 4) // 2], short[-1:])
        assert len(short) == most and text.startswith(head) and text.endswith(tail)


VALUES = [LONG, LONG.encode(), [1] * 100_000, {LONG: 1}, np.zeros((300, 300)), 10**3000, (LONG,) * 3]


@pytest.mark.parametrize("number", range(len(VALUES)))
def test_messages_are_short_whatever_they_quote(tmp_path, number):
    value = VALUES[number]
    calls = [
        lambda: octsod.load(value),
        lambda: octsod.csnet(value),
        lambda: octsod.csnet(1.0, value),
        lambda: octsod.csnet(1.0, variant=value),
        lambda: octsod.csnet(1.0, fused=value),
        lambda: octsod.csnet(1.0, classes=value),
        lambda: octsod.csnet(1.0, sides=value),
        lambda: Configuration(value),
        lambda: Configuration.from_values(value),
        lambda: Configuration.from_values({"stages": value}),
        lambda: Configuration.from_json(value),
        lambda: octsod.interop.sod100k.configuration(value),
        lambda: octsod.interop.sod100k.configuration([[[1], [2]]] * 30 + [value]),
        lambda: octsod.interop.sod100k.arrays(octsod.csnet(0.2), value),
        lambda: octsod.interop.pickles.read_checkpoint(value),
        lambda: octsod.interop.pickles.read_layers(value),
        lambda: parse_json(value),
        lambda: read_text(value, 10),
        lambda: pack({LONG: np.zeros(1, "c8")}, {}),
        lambda: errors.detail(ValueError(value)),
        lambda: (_ for _ in ()).throw(FileError(value)),
    ]
    for call in calls:
        try:
            said = str(call())[:1000]
        except (ValueError, TypeError, AttributeError) as error:
            said = str(error)
        assert len(said) <= errors.MOST


def test_the_command_line_quotes_little(tmp_path):
    (tmp_path / "c.toml").write_text(f'"{LONG[:16_000]}" = 1')
    for arguments in (
        (LONG,), (f"--{LONG}",), ("info", f"--{LONG}"), ("info", "--weights", LONG), ("info", "--size", LONG),
        ("convert", LONG, "--config", LONG, "-o", LONG), ("train", "-c", tmp_path / "c.toml"),
        ("info", "--split", LONG),
    ):  # fmt: skip
        assert len(run(*arguments).output) < 2000


@pytest.mark.parametrize("text, word", [
    ("a = " + "[" * 16_000, "is no TOML"), ("lr = " + "9" * 5000, ""), (".".join("a" * 2000) + " = 1", "no setting"),
    (f"epochs = [{'1,' * 8000}]", "`epochs` is a list; expected an integer"),
    (".".join(["epochs"] * 2000) + " = 1", "`epochs` is a dict; expected an integer"),
    (f'data = "{LONG}"', "holds more than 16,384 bytes"), ("lr = inf", "`lr`"), ("lr = -1e999", "`lr`"),
    ("size = " + "9" * 4000, "`size`"), ("threads = 1000000", "`threads`"), ("lr = 1979-05-27", "`lr`"),
])  # fmt: skip
def test_hostile_configurations(tmp_path, text, word):
    (tmp_path / "c.toml").write_text(text)
    line = refused("train", "--print-config", "-c", tmp_path / "c.toml")
    assert "c.toml: " in line and word in line and len(line) < 1000


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.fixture
def left(tmp_path, monkeypatch):
    """The temporary file that a process left that was killed while it wrote `file`."""
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *_: os._exit(0))
        if (child := os.fork()) == 0:
            try:
                write_atomically(tmp_path / "file", b"a long text that never got its name")
            finally:
                os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    (part,) = tmp_path.iterdir()
    return part


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
class TestLeftOver:
    def test_it_is_overwritten(self, left, tmp_path):
        write_atomically(tmp_path / "file", b"text")
        assert [path.name for path in tmp_path.iterdir()] == ["file"]
        assert (tmp_path / "file").read_bytes() == b"text"

    def test_another_file_leaves_it_alone(self, left, tmp_path):
        write_atomically(tmp_path / "other", b"text")
        assert sorted(path.name for path in tmp_path.iterdir()) == [left.name, "other"]

    @pytest.mark.parametrize("link", [os.symlink, os.link])
    def test_nothing_else_of_ours_is_overwritten_in_its_place(self, left, tmp_path, link):
        precious = tmp_path / "precious"
        precious.write_bytes(b"precious")
        left.unlink()
        link(precious, left)
        write_atomically(tmp_path / "file", b"text")
        assert precious.read_bytes() == b"precious" and (tmp_path / "file").read_bytes() == b"text"

    def test_a_pipe_in_its_place_keeps_nobody_waiting(self, left, tmp_path):
        left.unlink()
        os.mkfifo(left)
        write_atomically(tmp_path / "file", b"text")
        assert (tmp_path / "file").read_bytes() == b"text"

    def test_a_process_that_is_still_writing_is_left_alone(self, left, tmp_path):
        import fcntl

        with open(left, "r+b") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            write_atomically(tmp_path / "file", b"text")
            assert left.read_bytes() == b"a long text that never got its name"
        assert (tmp_path / "file").read_bytes() == b"text"


def test_many_writers_of_one_file(tmp_path):
    path, texts = tmp_path / "file", [bytes([65 + k]) * 100_000 for k in range(8)]

    def write(text):
        for _ in range(20):
            write_atomically(path, text)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert not path.exists() or path.read_bytes() in texts
    for thread in threads:
        thread.join()
    assert list(tmp_path.iterdir()) == [path]
