"""`octsod predict` as people call it: what it writes and says, what it refuses, and that nothing is lost."""

import io
import os
import pathlib
import struct
import sys
import threading
import types
import zlib

import numpy as np
import pytest
from click.testing import CliRunner
from commands import octsod_process, refused, run
from numba.core import event
from PIL import Image

import octsod
from octsod.cli import main
from octsod.data.images import read_image
from octsod.pictures import cutout, object_box, overlay


@pytest.fixture(scope="module", autouse=True)
def compiled(weights):
    """The kernels are there, so that nothing is said about them."""
    octsod.predict(np.zeros((9, 9, 3), np.uint8), weights)


@pytest.fixture
def pictures(tmp_path):
    """Two pictures, one of them in a subfolder, a file that only looks like one, and a folder that does."""
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    (folder / "folder.png").mkdir()
    for path, size in (("a.jpg", (40, 30)), ("sub/b.webp", (17, 50))):
        Image.new("RGB", size, "teal").save(folder / path)
    (folder / "broken.jpg").write_text("not a picture")
    (folder / "notes.txt").touch()
    return folder


@pytest.fixture
def found(monkeypatch):
    """The network finds the upper left quarter of every picture."""

    def predict(image, model, size):
        salience = np.full(image.shape[:2], 3, np.uint8)
        salience[: image.shape[0] // 2, : image.shape[1] // 2] = 250
        return salience

    monkeypatch.setattr("octsod.predict", predict)
    return predict


@pytest.fixture
def nothing(tmp_path, weights):
    """A weight file of a network that finds no object anywhere."""
    model = octsod.load(weights)
    model.classifier.weight.data[...] = 0
    model.classifier.bias.data[...] = -50
    octsod.save(model, tmp_path / "nothing.safetensors")
    return tmp_path / "nothing.safetensors"


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- what it writes ---------------------------------------------------------------------------------------------------


def test_one(tmp_path, weights, pictures):
    out = tmp_path / "map.png"
    arguments = ("predict", pictures / "a.jpg", "--weights", weights)
    result = run(*arguments, "-o", out)
    assert result.exit_code == 0, result.output
    assert result.output == ""
    with Image.open(out) as image:
        assert image.mode == "L"
        salience = octsod.predict(pictures / "a.jpg", octsod.load(weights))
        np.testing.assert_array_equal(np.array(image), salience)
    sizes = {size: octsod.predict(pictures / "a.jpg", octsod.load(weights), size) for size in (32, 48)}
    assert (sizes[32] == salience).all() and (sizes[48] != salience).any()  # a network is used at its own size
    assert run(*arguments, "--size", 48, "-o", tmp_path / "48.png").exit_code == 0
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "48.png")), sizes[48])
    before = out.read_bytes()
    assert "--overwrite" in refused(*arguments, "-o", out)
    assert run(*arguments, "-o", out, "--overwrite").exit_code == 0 and out.read_bytes() == before
    assert run(*arguments, "-o", f"{tmp_path}/new/").exit_code == 0 and (tmp_path / "new" / "a.png").exists()


def test_folder(tmp_path, weights, pictures):
    """The output mirrors the tree; the broken file is named, the rest is done."""
    (pictures / ".hidden").mkdir()
    Image.new("RGB", (9, 9)).save(pictures / ".hidden" / "c.png")
    Image.new("RGB", (9, 9)).save(pictures / "folder.png" / "d.bmp")
    arguments = ("predict", pictures, "--weights", weights, "--size", 32, "-o", pictures / "maps")
    result = run(*arguments)
    assert result.exit_code == 1 and f"Error: {pictures / 'broken.jpg'}: " in result.stderr
    assert "3 done, 1 failed\n" in result.stderr and result.stdout == ""
    assert files(pictures / "maps") == ["a.png", "folder.png/d.png", "sub/b.png"]
    with Image.open(pictures / "maps" / "sub" / "b.png") as image:
        assert image.size == (17, 50)
    (pictures / "broken.jpg").unlink()
    again = run(*arguments)  # maps of an earlier run are no pictures to read, and are kept
    assert again.exit_code == 0 and "0 done, 0 failed, 3 skipped" in again.stderr
    out = tmp_path / "out"
    some = run("predict", pictures / "a.jpg", pictures / "sub", "--weights", weights, "--size", 32, "-o", out)
    assert some.exit_code == 0 and files(out) == ["a.png", "b.png"]


def test_the_pictures(tmp_path, weights, found):
    path, out = tmp_path / "a.png", tmp_path / "out.png"
    array = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(array).save(path)
    salience = found(array, None, None)
    box = (slice(0, 22), slice(0, 33))
    assert object_box(salience) == box
    wanted = {
        (): salience,
        ("--overlay",): overlay(array, salience),
        ("--cutout",): cutout(array, salience),
        ("--crop",): array[box],
        ("--crop", "--overlay"): overlay(array, salience)[box],
        ("--crop", "--cutout", "--margin", 0): cutout(array, salience)[:20, :30],
    }
    for options, expected in wanted.items():
        result = run("predict", path, "--weights", weights, "-o", out, "--overwrite", *options)
        assert result.exit_code == 0 and result.output == "", result.output
        with Image.open(out) as image:
            np.testing.assert_array_equal(np.array(image), expected, err_msg=str(options))


def test_crop_without_an_object(tmp_path, pictures, nothing):
    (pictures / "broken.jpg").unlink()
    result = run("predict", pictures, "--crop", "--cutout", "--weights", nothing, "--size", 32, "-o", tmp_path / "out")
    assert result.exit_code == 0
    for name in ("a.jpg", "sub/b.webp"):
        assert f"Warning: {pictures / name}: no object found; it is not cropped.\n" in result.stderr
    assert "2 done, 0 failed, 2 without an object, not cropped\n" in result.stderr
    with Image.open(tmp_path / "out" / "a.png") as image:
        assert image.size == (40, 30) and image.mode == "RGBA" and not np.array(image).any()


def test_a_large_picture(tmp_path, weights, found):
    path, out = tmp_path / "a.jpg", tmp_path / "out.png"
    Image.new("RGB", (4000, 3000), "teal").save(path)
    assert run("predict", path, "--weights", weights, "-o", out, "--overlay", "--crop").exit_code == 0
    with Image.open(out) as image:
        assert image.size == (2200, 1650)


def test_standard_input_and_output(tmp_path, weights, pictures):
    out = tmp_path / "out.png"
    expected = octsod.predict(pictures / "a.jpg", octsod.load(weights), 32)
    arguments = ["predict", "-", "--weights", str(weights), "--size", "32", "-o"]
    data = (pictures / "a.jpg").read_bytes()
    runner = CliRunner()
    piped = runner.invoke(main, [*arguments, "-"], input=data)
    assert piped.exit_code == 0 and piped.stderr == ""
    np.testing.assert_array_equal(np.array(Image.open(io.BytesIO(piped.stdout_bytes))), expected)
    assert runner.invoke(main, [*arguments, str(out)], input=data).exit_code == 0
    np.testing.assert_array_equal(np.array(Image.open(out)), expected)
    for rest in (b"", b"not a picture", data[:200]):
        result = runner.invoke(main, [*arguments, "-"], input=rest)
        assert result.exit_code == 1 and result.stdout == "" and len(result.stderr.splitlines()) == 1
    assert "exists already" in refused(*arguments, out)
    assert "name a .png file" in refused(*arguments, f"{tmp_path}/new/")
    assert "leave the others out" in refused("predict", "-", pictures / "a.jpg", *arguments[2:], tmp_path)
    assert "name a folder" in refused("predict", pictures, *arguments[2:], "-")


@pytest.mark.skipif(os.name == "nt", reason="needs a shell's redirection")
def test_a_reader_that_leaves(weights, pictures):
    """Of a pipe that nobody reads any more, click makes exit code 1 without a word."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 400, 3), np.uint8)).save(pictures / "noise.png")
    process = octsod_process("predict", pictures / "noise.png", "--crop", "-q", "--weights", weights, "-o", "-")
    process.stdout.close()
    assert process.stderr.read() == "" and process.wait(timeout=120) == 1
    process.stderr.close()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems allow fewer names")
def test_odd_names_are_said_in_one_line(tmp_path, weights, pictures):
    name = "two\nlines\x1b[31m\udcff.jpg"
    (pictures / "broken.jpg").rename(pictures / name)
    Image.new("RGB", (9, 9)).save(pictures / ("good " + name))
    result = run("predict", pictures, "--weights", weights, "--size", 32, "-o", tmp_path / "out")
    assert result.exit_code == 1 and "3 done, 1 failed" in result.stderr
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("Error: "))
    assert f"{pictures}/two\\nlines\\x1b[31m\\udcff.jpg: is not a picture" in line
    assert files(tmp_path / "out") == ["a.png", "good two\nlines\x1b[31m\udcff.png", "sub/b.png"]


# --- what it refuses --------------------------------------------------------------------------------------------------


def test_collisions_are_refused(tmp_path, weights, pictures):
    Image.new("RGB", (20, 20)).save(pictures / "a.png")
    options = ("--weights", weights, "--size", 32)
    line = refused("predict", pictures, *options, "-o", tmp_path / "out")
    assert "a.jpg and " in line and "a.png would both be written" in line
    before = (pictures / "a.png").read_bytes()
    for overwrite in ((), ("--overwrite",)):
        assert "pictures to read" in refused("predict", pictures / "a.png", *options, "-o", pictures, *overwrite)
        for output in (pictures, f"{pictures}/sub/.."):
            assert "is the folder that is read" in refused("predict", pictures, *options, "-o", output, *overwrite)
    assert (pictures / "a.png").read_bytes() == before
    line = refused("predict", pictures / "a.jpg", pictures / "a.jpg", *options, "-o", tmp_path / "out")
    assert "given twice" in line
    (pictures / "a.png").unlink()
    (pictures / "a.png").mkdir()
    Image.new("RGB", (20, 20)).save(pictures / "a.png" / "c.jpg")
    assert "needs as a folder" in refused("predict", pictures, *options, "-o", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_to_an_input_is_no_output(tmp_path, weights, pictures):
    before = (pictures / "a.jpg").read_bytes()
    (tmp_path / "out.png").symlink_to(pictures / "a.jpg")
    arguments = ("predict", pictures / "a.jpg", "--weights", weights, "-o", tmp_path / "out.png", "--overwrite")
    assert "pictures to read" in refused(*arguments)
    assert (pictures / "a.jpg").read_bytes() == before


def test_bad_input(tmp_path, weights, pictures):
    picture, out = pictures / "a.jpg", tmp_path / "out"
    assert "IMAGE" in refused("predict", "--weights", weights, "-o", out)
    assert "none.jpg" in refused("predict", pictures / "none.jpg", "--weights", weights, "-o", out)
    assert "not a weight file" in refused("predict", picture, "--weights", pictures / "notes.txt", "-o", out)
    assert "is no run folder" in refused("predict", picture, "--weights", pictures, "-o", out)
    assert "multiple of 16" in refused("predict", picture, "--weights", weights, "--size", 40, "-o", out)
    assert ".png" in refused("predict", picture, "--weights", weights, "-o", tmp_path / "out.jpg")
    assert "name a folder" in refused("predict", picture, pictures, "--weights", weights, "-o", tmp_path / "out.png")
    assert "is a file" in refused("predict", pictures, "--weights", weights, "-o", weights)
    assert "no such folder" in refused("predict", picture, "--weights", weights, "-o", out / "map.png")
    for what in (picture, pictures):
        assert "-o is empty" in refused("predict", what, "--weights", weights, "-o", "")
    (tmp_path / "empty").mkdir()
    assert "no pictures" in refused("predict", tmp_path / "empty", "--weights", weights, "-o", out)
    assert "broken.jpg" in refused("predict", pictures / "broken.jpg", "--weights", weights, "-o", out, code=1)
    assert "choose one" in refused("predict", picture, "--overlay", "--cutout", "--weights", weights, "-o", out)
    assert "for --crop" in refused("predict", picture, "--margin", 0.1, "--weights", weights, "-o", out)
    for margin in ("-1", "nan", "x"):
        assert "--margin" in refused("predict", picture, "--crop", "--margin", margin, "--weights", weights, "-o", out)
    assert not out.exists()


def test_a_decompression_bomb(tmp_path, weights):
    """A PNG of a few bytes that claims 100 or 400 million pixels."""
    for side in (10_000, 20_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        chunk = b"IHDR" + header
        path = tmp_path / f"{side}.png"
        path.write_bytes(
            b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
            + struct.pack(">I", 0) + b"IDAT" + struct.pack(">I", zlib.crc32(b"IDAT"))
        )  # fmt: skip
        result = run("predict", path, "--weights", weights, "-o", tmp_path / "out.png")
        assert result.exit_code == 1 and "bomb" in result.stderr and len(result.stderr.splitlines()) == 1


# --- when it cannot finish --------------------------------------------------------------------------------------------


def test_full_disk(tmp_path, weights, pictures, monkeypatch):
    """Each picture that could not be written is named; an earlier map is kept, and no half of a new one."""
    (pictures / "broken.jpg").unlink()
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"precious")

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    result = run("predict", pictures, "--weights", weights, "--size", 32, "-o", out, "--overwrite")
    assert result.exit_code == 1 and "0 done, 2 failed" in result.stderr
    for name in ("a.png", "sub/b.png"):
        assert f"Error: {out / name}: cannot be written: No space left on device.\n" in result.stderr
    assert files(out) == ["a.png"] and (out / "a.png").read_bytes() == b"precious"


def test_interrupted(tmp_path, weights, pictures, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"precious")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    result = run("predict", pictures, "--weights", weights, "--size", 32, "-o", out, "--overwrite")
    assert result.exit_code == 130 and result.stdout == "" and result.stderr.endswith("Interrupted.\n")
    assert files(out) == ["a.png"] and (out / "a.png").read_bytes() == b"precious"


def test_an_output_folder_that_cannot_be_made(tmp_path, weights, pictures):
    (pictures / "broken.jpg").unlink()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").touch()
    result = run("predict", pictures, "--weights", weights, "--size", 32, "-o", tmp_path / "out")
    assert result.exit_code == 1 and "1 done, 1 failed" in result.stderr
    assert f"Error: {tmp_path / 'out' / 'sub'}: cannot be made: File exists.\n" in result.stderr


def test_pictures_do_not_wait_for_each_other(tmp_path, weights, pictures, monkeypatch):
    """While one picture is read, another goes through everything."""
    (pictures / "broken.jpg").unlink()
    other_done = threading.Event()

    def slow(path, limit):
        if pathlib.Path(path).name == "a.jpg":  # the first one
            assert other_done.wait(60)
        return read_image(path, limit)

    def note(*_):
        other_done.set()

    monkeypatch.setattr("octsod.images.read_image", slow)
    monkeypatch.setattr("octsod.images.write_png", note)
    assert run("predict", pictures, "--weights", weights, "--size", 32, "-o", tmp_path / "out").exit_code == 0


def test_kernels_are_said_to_be_compiled_only_when_they_are(tmp_path, weights, pictures, monkeypatch):
    """However long the first picture takes."""
    (pictures / "broken.jpg").unlink()
    compiling = False

    def slow(path, limit):
        if compiling:
            with event.trigger_event("numba:compile", {"dispatcher": types.SimpleNamespace(py_func=slow)}):
                pass
        return read_image(path, limit)

    monkeypatch.setattr("octsod.images.read_image", slow)
    arguments = ("predict", pictures / "a.jpg", "--weights", weights, "--overwrite", "-o", tmp_path / "out.png")
    assert run(*arguments).output == ""
    folder = ("predict", pictures, "--weights", weights, "--overwrite", "-o", tmp_path / "out")
    assert "compil" not in run(*folder).output
    compiling = True
    result = run(*arguments)
    assert result.exit_code == 0 and result.stdout == "" and "compiling kernels: " in result.stderr
    assert run(*arguments, "-q").output == ""
    assert "compiling kernels: " in run(*folder).stderr


@pytest.mark.parametrize("size", [(1, 1), (3, 500), (500, 3)])
def test_small_and_thin_pictures(tmp_path, weights, size):
    Image.new("RGB", size, "teal").save(tmp_path / "a.png")
    for option in ("--overlay", "--cutout", "--crop"):
        out = tmp_path / f"{option}.png"
        result = run("predict", tmp_path / "a.png", "--weights", weights, "--size", 32, option, "-o", out)
        assert result.exit_code == 0, result.output
        with Image.open(out) as image:
            assert option == "--crop" or image.size == size
