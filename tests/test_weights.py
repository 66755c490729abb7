"""Weight files: what is not a whole, honest one is refused with one sentence; writing loses nothing."""

import json
import math
import os
import pickle
import struct

import numpy as np
import pytest
from commands import refused
from networks import lived_in
from pickle_writer import Writer

import octsod
from octsod import nn
from octsod.errors import FileError
from octsod.interop.sod100k import arrays
from octsod.models import Configuration, CSNet, files


def tiny(seed=0):
    octsod.manual_seed(seed)
    return octsod.csnet(0.25)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Header and numbers of a good file, without its checksum: whoever changes them would change that as well."""
    path = tmp_path_factory.mktemp("good") / "w.safetensors"
    octsod.save(tiny(), path)
    header, numbers = apart(path.read_bytes())
    del header["__metadata__"]["crc32"]
    return header, numbers


def apart(data):
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def joined(header, numbers):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + numbers


def test_parts_of_a_good_file_make_one(tmp_path, parts):
    (tmp_path / "w.safetensors").write_bytes(joined(*parts))
    loaded = octsod.load(tmp_path / "w.safetensors").state_dict()
    assert all((loaded[name] == array).all() for name, array in tiny().state_dict().items())


def test_a_file_keeps_the_size(tmp_path, parts):
    model = tiny()
    assert model.size == 224
    model.size = 96
    octsod.save(model, tmp_path / "w.safetensors")
    assert octsod.load(tmp_path / "w.safetensors").size == 96
    header, numbers = parts
    facts = {name: text for name, text in header["__metadata__"].items() if name != "size"}
    (tmp_path / "w.safetensors").write_bytes(joined({**header, "__metadata__": facts}, numbers))
    assert octsod.load(tmp_path / "w.safetensors").size == 224


@pytest.mark.parametrize("arguments", [
    {"variant": "extractor", "split": (1, 0)}, {"variant": "vanilla"}, {"fused": (1, 2, 3, 4)}, {"fused": (2, 4)},
    {"classes": 3},
], ids=str)  # fmt: skip
def test_variants_survive_their_files(tmp_path, arguments):
    model = octsod.csnet(0.2, **arguments, dtype="float64")
    octsod.save(model, tmp_path / "w.safetensors")
    loaded = octsod.load(tmp_path / "w.safetensors")
    assert loaded.configuration == model.configuration and loaded.dtype == np.float64
    state = model.state_dict()
    assert loaded.state_dict().keys() == state.keys()
    assert all((loaded.state_dict()[name] == array).all() for name, array in state.items())


def test_files_hold_what_is_of_use_after_training(tmp_path):
    model = lived_in(Configuration.standard(0.2, sides=True), 0, "float32")
    model.size = 48
    octsod.save(model, tmp_path / "w.safetensors")
    loaded = octsod.load(tmp_path / "w.safetensors")
    assert loaded.configuration == octsod.csnet(0.2).configuration and loaded.size == 48
    left_out = model.state_dict().keys() - loaded.state_dict().keys()
    assert left_out == {f"sides.{k}.{name}" for k in range(3) for name in ("weight", "bias")}
    x = octsod.Tensor(np.random.default_rng(0).standard_normal((1, 3, 32, 32)).astype(np.float32))
    with octsod.no_grad():
        assert (loaded.eval()(x).numpy() == model.eval()(x).numpy()).all()
    assert loaded.deployed() is loaded


def test_a_file_keeps_the_labels(tmp_path, parts):
    model, path = octsod.csnet(0.2, classes=3), tmp_path / "w.safetensors"
    octsod.save(model, path)
    assert octsod.load(path).labels == ()
    model.labels = ("cat", "dög", "cow")
    octsod.save(model, path)
    assert octsod.load(path).labels == model.labels
    header, numbers = parts
    for text in ("", "{}", "[1]", '"cat"', "[" * 100_000):
        path.write_bytes(joined({**header, "__metadata__": {**header["__metadata__"], "labels": text}}, numbers))
        with pytest.raises(FileError, match="its labels are no"):
            octsod.load(path)


class Other(nn.Module):
    """A network of another kind, with a configuration of its own."""

    def __init__(self, channels):
        self.configuration = {"channels": channels}
        self.conv = nn.Conv2d(3, channels)
        self.norm = nn.NormAct(channels)


def test_other_architectures(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "_architectures", dict(files._architectures))
    path, built = tmp_path / "w.safetensors", []
    model = Other(5)
    octsod.save(model, path)
    with pytest.raises(FileError, match="architecture 'Other'; known are csnet"):
        octsod.load(path)

    def build(configuration, dtype, count):
        built.append((configuration, dtype, count))
        return Other(**configuration)

    octsod.models.register("Other", build)
    loaded = octsod.load(path)
    assert built == [({"channels": 5}, "float32", 5 * 3 + 5 + 5 * 5)]
    assert type(loaded) is Other
    assert all((loaded.state_dict()[name] == array).all() for name, array in model.state_dict().items())
    octsod.models.register("Other", lambda *_: Other(4))
    with pytest.raises(FileError, match="has shape"):
        octsod.load(path)


def test_load_into_a_network(tmp_path):
    """It keeps its identity, and takes over only what is of its kind."""
    path, model, other = tmp_path / "w.safetensors", tiny(0), tiny(1)
    model.size = 64
    octsod.save(model, path)
    assert octsod.load(path, other) is other and other.size == 64
    assert all((other.state_dict()[name] == array).all() for name, array in model.state_dict().items())
    for wrong, word in ((octsod.csnet(0.3), "its configuration is"), (Other(3), "its architecture is csnet; expected")):
        before = {name: array.copy() for name, array in wrong.state_dict().items()}
        with pytest.raises(FileError, match=word):
            octsod.load(path, wrong)
        assert all((wrong.state_dict()[name] == array).all() for name, array in before.items())


def test_load_into_a_network_takes_honest_files_only(tmp_path, parts):
    header, numbers = parts
    path, model = tmp_path / "w.safetensors", tiny(1)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    path.write_bytes(joined(header, numbers[:-4] + np.float32(np.nan).tobytes()))
    with pytest.raises(FileError, match="not finite"):
        octsod.load(path, model)
    assert all((model.state_dict()[name] == array).all() for name, array in before.items())


def test_a_flipped_bit_is_found(tmp_path):
    path, model = tmp_path / "w.safetensors", octsod.csnet(0.2, classes=2)
    model.labels = ("cat", "dog")
    octsod.save(model, path)
    octsod.load(path)
    data = path.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    for place in (header, (header + len(data)) // 2, len(data) - 1, data.index(b"dog")):
        damaged = bytearray(data)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        for arguments in ((path,), (path, octsod.csnet(0.2, classes=2))):
            with pytest.raises(FileError) as caught:
                octsod.load(*arguments)
            assert str(caught.value).startswith(f"{path}: is damaged: its contents do not match their checksum; ")
    line = refused("info", "--model", path)
    assert f"Error: {path}: is damaged: its contents do not match their checksum; get or make it again." in line


def test_a_checksum_is_of_contents_and_not_of_how_they_are_written(tmp_path):
    path = tmp_path / "w.safetensors"
    octsod.save(tiny(), path)
    header, numbers = apart(path.read_bytes())
    path.write_bytes(joined(dict(reversed(header.items())), numbers))
    octsod.load(path)
    header["__metadata__"]["crc32"] = "0123456789"
    path.write_bytes(joined(header, numbers))
    with pytest.raises(FileError, match="do not match their checksum"):
        octsod.load(path)


def test_a_new_network_takes_its_size():
    c = Configuration.standard(0.25)
    deep = ((2, 2, 2, 2),)  # 224 is no multiple of 64
    assert CSNet(Configuration((*c.stages[:4], deep + c.stages[4][1:]), c.fuse, c.dilated, c.merge)).size == 256


def with_configuration(header, **changes):
    """The header with another configuration."""
    values = json.loads(header["__metadata__"]["configuration"])
    text = json.dumps({**values, **changes})
    return {**header, "__metadata__": {**header["__metadata__"], "configuration": text}}


def with_text(header, text):
    return {**header, "__metadata__": {**header["__metadata__"], "configuration": text}}


def as_type(header, dtype, itemsize, only=None):
    """The header with the arrays (or only the one of that name) of another dtype, and the bytes that it tells of."""
    end, result = 0, {"__metadata__": header["__metadata__"]}
    for name, entry in sorted(header.items()):
        if name != "__metadata__":
            kind, size = (dtype, itemsize) if only in (None, name) else (entry["dtype"], 4)
            start, end = end, end + size * math.prod(entry["shape"])
            result[name] = {**entry, "dtype": kind, "data_offsets": [start, end]}
    return joined(result, bytes(end))


def hostile_files(header, numbers):
    """(name, content, a word of the sentence) of files to be refused."""
    data = joined(header, numbers)
    first = next(name for name, entry in header.items() if entry.get("data_offsets", [1])[0] == 0)
    shape = header[first]["shape"]
    yield "empty", b"", "not a weight file"
    yield "text", b"hello world, this is not a weight file", "not a weight file"
    yield "truncated", data[: len(data) // 2], "not a weight file"
    yield "header-cut", data[:100], "not a weight file"
    yield "longer", data + b"\0", "not a weight file"
    yield "huge-header", b"\xff" * 8 + data[8:], "not a weight file"
    yield "header-of-2-gb", struct.pack("<Q", 1 << 31) + data[8:], "not a weight file"
    yield "header-no-json", struct.pack("<Q", 9) + b"{" * 9, "not a weight file"
    yield "header-no-object", joined([1, 2], b""), "not a weight file"
    yield "huge-shape", joined({**header, first: {**header[first], "shape": [1 << 62, 1 << 62]}}, numbers), "overflow"
    yield "wrong-shape", joined({**header, first: {**header[first], "shape": [*shape, 2]}}, numbers), "not a weight"
    yield "offsets", joined({**header, first: {**header[first], "data_offsets": [0, 1 << 60]}}, numbers), "not a weight"
    yield "pickle", pickle.dumps({"a": 1}), "not a weight file"
    foreign = {"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}
    yield "foreign", joined(foreign, bytes(4)), "holds no network"
    yield "other-format", data.replace(b"octsod-network-1", b"octsod-network-9"), "holds no network"
    yield "no-arrays", joined({"__metadata__": header["__metadata__"]}, b""), "dtype none"
    names = {"I32": "int32", "I64": "int64", "U8": "uint8", "BOOL": "bool"}  # a network of one's own may have these
    for dtype, itemsize in (("F16", 2), ("BF16", 2), ("F8_E4M3", 1), ("I32", 4), ("I64", 8), ("U8", 1), ("BOOL", 1)):
        yield dtype, as_type(header, dtype, itemsize), f"dtype {names.get(dtype, dtype)};"
    yield "mixed", as_type(header, "F64", 8, only=first), "dtype float32, float64;"
    for name, value in (("nan", np.nan), ("infinite", -np.inf)):
        yield name, joined(header, numbers[:-4] + np.float32(value).tobytes()), "not finite"
    rest = {name: entry for name, entry in header.items() if name != "classifier.bias"}
    unknown = {**rest, "classifier.bais": header["classifier.bias"]}
    yield "unknown-name", joined(unknown, numbers), "lacks classifier.bias and has unknown classifier.bais"
    for text in ("", "[]", "3", "null", '"merge"', "{}", "{", "[" * 100_000, '{"merge": 1}', '{"a": 1}', "9" * 5000):
        yield f"configuration-{text[:9].translate({34: None})}", joined(with_text(header, text), numbers), "not a conf"
    for size in ("", "0", "-16", "100", "96.0", "1e3", " 96", "many", "9" * 5000, "٩٦"):
        facts = {**header["__metadata__"], "size": size}
        yield f"size-{size[:9]}", joined({**header, "__metadata__": facts}, numbers), "its size is"
    stages = json.loads(header["__metadata__"]["configuration"])["stages"]
    for name, changes in {
        "a-billion-channels": {"stages": [[[10**9]], *stages[1:]]},
        "65535-channels": {"stages": [[[65535]] * len(stage) for stage in stages]},
        "65535-fused": {"fuse": [65535] * 3},
        "65535-dilated": {"dilated": [[65535] * 5] * 3},
        "65535-merged": {"merge": 65535},
        "10000-blocks": {"stages": [[[1]] * 10_000, *stages[1:]]},
        "10000-branches": {"stages": [[[1] + [0] * 10_000], *stages[1:]]},
        "negative": {"merge": -1},
        "fraction": {"merge": 1.5},
        "not-a-number": {"merge": math.nan},
        "true": {"merge": True},
        "a-word": {"stages": "aaaaa"},
        "flat": {"stages": [1, 2, 3, 4, 5]},
        "an-object": {"stages": {"a": 1, "b": 2, "c": 3, "d": 4, "e": 5}},
        "one-more": {"extra": 1},
        "unknown-variant": {"variant": "unet"},
        "another-variant": {"variant": "vanilla"},
        "fused-words": {"fused": "234"},
        "fused-objects": {"fused": [[2], 4]},
        "unfused": {"fused": [2, 3]},
        "65535-classes": {"classes": 65535},
        "sides": {"sides": True},
        "other-merge": {"merge": 14},
    }.items():
        yield name, joined(with_configuration(header, **changes), numbers), ""


def test_refusals(tmp_path, parts):
    for name, content, word in hostile_files(*parts):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(content)
        with pytest.raises(FileError) as caught:
            octsod.load(path)
        message = str(caught.value)
        assert message.startswith(f"{path}: ") and word in message, message
        assert message.isprintable() and message.endswith(".") and len(message) < 400, message


def test_missing_files_and_folders(tmp_path):
    for path in (tmp_path, tmp_path / "none.safetensors", tmp_path / "none" / "w.safetensors"):
        with pytest.raises(FileError) as caught:
            octsod.load(path)
        assert str(caught.value).startswith(f"{path}: ")


def test_refusals_on_the_command_line(tmp_path, parts):
    """One line, and exit code 2."""
    path = tmp_path / "w.safetensors"
    for name, content, _ in hostile_files(*parts):
        if name in ("truncated", "nan", "65535-channels"):
            path.write_bytes(content)
            assert f"Error: {path}: " in refused("info", "--weights", path)


def test_what_would_not_be_read_is_not_saved(tmp_path):
    def damaged(change):
        model = octsod.csnet(0.2)
        change(model, model.extractor.stages[0][0].mix)
        return model

    def replace(name, value):
        return lambda model, layer: setattr(layer, name, value)

    def spoil(model, layer):
        layer.weight.data = np.full(layer.weight.shape, np.nan, np.float32)

    for change, named in (
        (replace("weight", [1, 2]), "mix.weight` is no parameter"), (replace("weight", None), "mix.weight` is no"),
        (replace("weight", octsod.nn.Parameter(np.ones((1, 3, 3, 3)))), "mix.weight` is float64"),
        (lambda model, layer: layer.norms[0].__dict__.update(running_var=np.ones(1, np.float32)), "running_var` is"),
        (lambda model, layer: setattr(model, "configuration", octsod.csnet(1.0).configuration), "expected float32"),
        (spoil, "mix.weight` holds a number that is not finite"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=named):
            octsod.save(damaged(change), tmp_path / "w.safetensors")
    assert not list(tmp_path.iterdir())


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    file = tmp_path / "w.safetensors"
    octsod.save(tiny(), file)
    before = file.read_bytes()

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*w\.safetensors'$"):
        octsod.save(tiny(seed=1), file)
    assert file.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == [file.name]


@pytest.mark.skipif(os.name == "nt", reason="Windows opens no folders")
def test_save_flushes_the_file_and_its_folder(tmp_path, monkeypatch):
    """The folder last: only then is the new name sure to survive a power cut."""
    flushed = []

    def fsync(handle):
        flushed.append(([f.name for f in tmp_path.iterdir()], handle))

    monkeypatch.setattr("os.fsync", fsync)
    octsod.save(tiny(), tmp_path / "w.safetensors")
    assert len(flushed) == 2
    assert flushed[0][0] != ["w.safetensors"] and flushed[1][0] == ["w.safetensors"]


# --- the authors' checkpoints -----------------------------------------------------------------------------------------


def layers(configuration):
    """As the authors list them: input and output channels per layer, at the end the blocks per stage."""
    rows = [
        [list(layer.inputs), list(layer.outputs), *([list(map(list, layer.dilations))] if layer.dilations else [])]
        for layer in configuration.layers() if layer.kind in ("octave", "dilated")
    ]  # fmt: skip
    return [*rows, [len(stage) for stage in configuration.stages[1:]]]


@pytest.fixture
def checkpoint(tmp_path):
    writer, model = Writer(), tiny()
    path = tmp_path / "c.pth.tar"
    path.write_bytes(writer.bytes({"state_dict": {name: writer.of(a) for name, a in arrays(model).items()}}))
    return path, model


def test_convert(tmp_path, checkpoint):
    path, model = checkpoint
    (tmp_path / "l.bin").write_bytes(pickle.dumps(layers(model.configuration), 3))
    converted = octsod.interop.sod100k.read_model(path, tmp_path / "l.bin")
    assert all((converted.state_dict()[name] == array).all() for name, array in model.state_dict().items())


def test_convert_refuses_layers_that_do_not_fit(tmp_path, checkpoint):
    path, model = checkpoint
    file, c = tmp_path / "l.bin", model.configuration
    huge = Configuration(tuple(((4000,),) * len(stage) for stage in c.stages), c.fuse, c.dilated, c.merge)
    for wrong, word in (
        (layers(Configuration.standard(0.5)), "c.pth.tar: does not fit the layers in"),
        (layers(huge), "weights or more"),
        ([[10**9, [10**9]], *layers(c)[1:]], "not the layer file"),
        (layers(c)[:-1], "not the layer file"),
        ([], "not the layer file"),
    ):
        file.write_bytes(pickle.dumps(wrong, 3))
        assert word in refused("convert", path, "--config", file, "-o", tmp_path / "w.safetensors")
    assert not (tmp_path / "w.safetensors").exists()


def test_convert_refuses_numbers_that_are_not_finite(tmp_path, checkpoint):
    path, model = checkpoint
    model.classifier.bias.data[...] = np.nan
    writer = Writer()
    path.write_bytes(writer.bytes({name: writer.of(a) for name, a in arrays(model).items()}))
    (tmp_path / "l.bin").write_bytes(pickle.dumps(layers(model.configuration), 3))
    line = refused("convert", path, "--config", tmp_path / "l.bin", "-o", tmp_path / "w.safetensors")
    assert "c.pth.tar: `cls_layer.bias` holds a value that is not finite" in line


def test_a_file_of_a_network_with_side_outputs_loads_into_it(tmp_path):
    model = octsod.csnet(0.2, sides=True)
    octsod.save(model, tmp_path / "w.safetensors")
    other = octsod.csnet(0.2, sides=True)
    sides = {name: array.copy() for name, array in other.state_dict().items() if name.startswith("sides")}
    assert octsod.load(tmp_path / "w.safetensors", other) is other and sides
    for name, array in other.state_dict().items():
        np.testing.assert_array_equal(array, sides.get(name, model.state_dict()[name]))


def test_labels_are_as_many_as_classes(tmp_path):
    model = octsod.csnet(0.2, classes=3)
    model.labels = ("a", "b")
    octsod.save(model, tmp_path / "w.safetensors")
    with pytest.raises(FileError, match="it has 2 labels for 3 classes"):
        octsod.load(tmp_path / "w.safetensors")
