"""`octsod predict` with folders, outputs and weights as people have them: nothing is passed over, lost or kept."""

import gc
import os
import pathlib
import tempfile
import threading
import weakref

import numpy as np
import pytest
from commands import octsod_process, refused, run
from PIL import Image, ImageFile

import octsod
from octsod.cli import Failure, options, predict
from octsod.data import images
from octsod.data.workers import Workers
from octsod.errors import FileError

links = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for name in ("a.jpg", "b.png", "sub/c.jfif"):
        Image.new("RGB", (40, 30), "teal").save(folder / name, "PNG" if name.endswith("png") else "JPEG")
    return folder


@pytest.fixture
def predicted(tmp_path, weights):
    """Runs `predict` into the folder out, and returns the result and what is in out."""

    def predicted(*arguments):
        result = run("predict", *arguments, "--weights", weights, "-o", tmp_path / "out")
        assert result.exception is None or isinstance(result.exception, SystemExit)
        return result, files(tmp_path / "out")

    return predicted


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


# --- what is found ----------------------------------------------------------------------------------------------------


def test_what_is_not_taken_is_named(pictures, predicted):
    for name in ("raw.cr2", "drawing.svg"):
        (pictures / name).touch()
    result, written = predicted(pictures)
    assert result.exit_code == 0 and written == ["a.png", "b.png", "sub/c.png"]
    (line,) = (line for line in result.stderr.splitlines() if "raw.cr2" in line)
    assert "(2)" in line and "drawing.svg" in line
    for name in ("a.jpg", "b.png", "sub/c.jfif"):
        (pictures / name).unlink()
    result, _ = predicted(pictures)
    assert result.exit_code == 2 and "raw.cr2" in result.stderr and "no pictures there" in result.stderr


@links
def test_links(tmp_path, pictures, predicted):
    """Those to folders and pictures are followed, once each; those that lead nowhere are failures."""
    (tmp_path / "elsewhere").mkdir()
    (pictures / "a.jpg").rename(tmp_path / "elsewhere" / "a.jpg")
    (pictures / "linked").symlink_to(tmp_path / "elsewhere")
    (pictures / "sub" / "back").symlink_to(pictures)
    (pictures / "d.png").symlink_to(pictures / "b.png")
    (pictures / "gone.jpg").symlink_to(tmp_path / "gone.jpg")
    (pictures / "gone").symlink_to(tmp_path / "gone")
    (pictures / "self.jpg").symlink_to(pictures / "self.jpg")
    result, written = predicted(pictures)
    assert result.exit_code == 1 and written == ["b.png", "d.png", "linked/a.png", "sub/c.png"]
    assert "4 done, 3 failed\n" in result.stderr
    for name in ("gone.jpg", "gone", "self.jpg"):
        assert f"Error: {pictures / name}: " in result.stderr


@pytest.mark.parametrize("which", ["sub", "pictures"])
def test_a_folder_that_cannot_be_read_is_one_failure(tmp_path, pictures, predicted, monkeypatch, which):
    scandir = os.scandir

    def refuse(path):
        if pathlib.Path(path).name == which:
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    (tmp_path / "more").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "more" / "e.png")
    monkeypatch.setattr("os.scandir", refuse)
    result, _ = predicted(pictures, tmp_path / "more")
    folder = pictures if which == "pictures" else pictures / "sub"
    assert result.exit_code == 1 and f"Error: {folder}: Permission denied.\n" in result.stderr
    assert f"{1 if which == 'pictures' else 3} done, 1 failed\n" in result.stderr
    if which == "pictures":
        result, _ = predicted(pictures)
        assert result.exit_code == 2 and f"Error: {folder}: Permission denied.\n" in result.stderr


def test_suffixes_keep_pictures_apart(pictures, predicted, weights, tmp_path):
    Image.new("RGB", (40, 30)).save(pictures / "a.png")
    line = refused("predict", pictures, "--weights", weights, "-o", tmp_path / "out")
    assert line.endswith(f"a.jpg and {pictures / 'a.png'} would both be written to {tmp_path / 'out' / 'a.png'}; "
                         "--keep-suffix keeps them apart.")  # fmt: skip
    result, written = predicted(pictures, "--keep-suffix")
    assert result.exit_code == 0 and written == ["a.jpg.png", "a.png.png", "b.png.png", "sub/c.jfif.png"]
    again, _ = predicted(pictures, "--keep-suffix")
    assert "0 done, 0 failed, 4 skipped" in again.stderr
    (tmp_path / "more").mkdir()
    Image.new("RGB", (40, 30)).save(tmp_path / "more" / "a.png")
    result, _ = predicted(pictures, tmp_path / "more", "--keep-suffix")  # the same name: of no use here
    assert result.exit_code == 2 and "both be written" in result.stderr and "--keep-suffix" not in result.stderr


def test_a_folder_of_one_picture_that_is_done_is_no_error(pictures, predicted):
    assert predicted(pictures / "sub")[0].exit_code == 0
    result, written = predicted(pictures / "sub")
    assert result.exit_code == 0 and written == ["c.png"]
    assert "0 done, 0 failed, 1 skipped since they exist\n" in result.stderr


def test_the_limit_of_pixels(pictures, predicted):
    assert images.MOST_PIXELS == options.MOST_PIXELS
    assert f"{options.MOST_PIXELS // 1_000_000} million" in run("predict", "--help").stdout
    Image.new("RGB", (100, 100)).save(pictures / "large.png")
    result, written = predicted(pictures, "--max-pixels", 1200)
    assert result.exit_code == 1 and written == ["a.png", "b.png", "sub/c.png"]
    assert f"Error: {pictures / 'large.png'}: has " in result.stderr and "1,200" in result.stderr
    result, written = predicted(pictures, "--max-pixels", 10_000)
    assert result.exit_code == 0 and "large.png" in written


# --- weights ----------------------------------------------------------------------------------------------------------


def test_a_run_folder_as_weights(tmp_path, pictures, weights):
    (tmp_path / "run" / "weights").mkdir(parents=True)
    for name in ("last", "best"):
        file = tmp_path / "run" / "weights" / f"{name}.safetensors"
        file.write_bytes(weights.read_bytes())
        arguments = ("predict", pictures, "--weights", tmp_path / "run", "-o", tmp_path / name)
        assert run(*arguments).stderr.startswith(f"Weights: {file}\n")
        assert run(*arguments, "--overwrite", "-q").output == ""
        assert files(tmp_path / name) == ["a.png", "b.png", "sub/c.png"]
        config = run("train", "--init", tmp_path / "run", "--print-config")
        assert f'init = "{file}"' in config.stdout and config.stderr == f"Weights: {file}\n"
        result = run("info", "--weights", tmp_path / "run", "--json")
        assert f'"weights": "{file}"' in result.stdout and result.stderr == f"Weights: {file}\n"


def test_every_command_says_how_to_convert_a_checkpoint(tmp_path, pictures, weights):
    checkpoint, out = tmp_path / "net.pth", tmp_path / "out.onnx"
    checkpoint.write_bytes(b"PK\3\4rest")
    commands = [
        ("predict", pictures, "-o", tmp_path / "out", "--weights"), ("eval", "--data", pictures, "--weights"),
        ("info", "--weights"), ("export", "-o", out, "--weights"), ("prune", "-o", out),
        ("train", "-o", tmp_path / "run", "--steps", 1, "--init"),
    ]  # fmt: skip
    for command in commands:
        assert f"{checkpoint}: is a checkpoint, not a weight file; " in refused(*command, checkpoint)
        assert f"octsod convert {checkpoint} -o net.safetensors" in refused(*command, checkpoint)


# --- outputs that cannot be written -----------------------------------------------------------------------------------


@pytest.fixture
def not_loaded(monkeypatch):
    """Weights must not even be read before an output that cannot be written is refused."""

    def load(_):
        raise AssertionError("weights are read before the output is tried")

    monkeypatch.setattr("octsod.load", load)


@pytest.mark.usefixtures("not_loaded")
def test_an_output_that_cannot_be_written_is_found_first(tmp_path, pictures, weights, monkeypatch):
    def full(*_, **options):
        raise OSError(28, "No space left on device", options["dir"])

    (tmp_path / "file").touch()
    picture, rest = pictures / "a.jpg", ("--weights", weights, "-o")
    assert f"{tmp_path / 'file'}: is no folder." in refused("predict", pictures, *rest, tmp_path / "file" / "maps")
    assert "no such folder" in refused("predict", picture, *rest, tmp_path / "none" / "map.png")
    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    line = f"Error: {tmp_path}: cannot be written: No space left on device."
    assert refused("predict", picture, *rest, tmp_path / "map.png") == line
    assert refused("predict", pictures, *rest, tmp_path / "new" / "maps") == line  # where it would be made
    assert refused("predict", picture, *rest, f"{tmp_path}/") == line
    assert refused("export", *rest, tmp_path / "m.onnx") == line
    assert refused("eval", "--data", pictures, "--per-image", tmp_path / "s.csv", "--weights", weights) == line
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("not_loaded")
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a named pipe")
def test_what_is_no_regular_file_is_not_replaced(tmp_path, pictures, weights):
    os.mkfifo(tmp_path / "pipe.png")
    arguments = ("predict", pictures / "a.jpg", "--weights", weights, "-o", tmp_path / "pipe.png", "--overwrite")
    assert "pipe.png: is no regular file" in refused(*arguments)


def test_trying_an_output_leaves_nothing(tmp_path, pictures, weights):
    refused("predict", pictures, "--weights", pictures / "a.jpg", "-o", tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["pictures"]


def test_standard_streams_that_are_closed(monkeypatch):
    monkeypatch.setattr("sys.stdout", None)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(Failure, match="standard output is closed"):
        predict._standard_output()
    with pytest.raises(Failure, match="standard input is closed"):
        predict._source("-")
    with open(os.devnull) as unwritable:
        monkeypatch.setattr("sys.stdout", unwritable)
        with pytest.raises(Failure, match="standard output cannot be written: "):
            predict._standard_output()


# --- when something fails on the way ----------------------------------------------------------------------------------


def test_a_disk_that_fills_on_the_way(tmp_path, pictures, predicted, monkeypatch):
    fsync, room = os.fsync, [1, 1]  # a file and its folder

    def fills(handle):
        if not room:
            raise OSError(28, "No space left on device")
        room.pop()
        fsync(handle)

    octsod.set_num_threads(1)
    monkeypatch.setattr("octsod.cli.predict.MOST_WORKERS", 1)
    monkeypatch.setattr("os.fsync", fills)
    result, written = predicted(pictures)
    assert result.exit_code == 1 and "1 done, 2 failed\n" in result.stderr and written == ["a.png"]
    for name in ("b.png", "sub/c.png"):
        assert f"Error: {tmp_path / 'out' / name}: cannot be written: No space left on device.\n" in result.stderr


def test_too_little_memory_for_one_picture(pictures, predicted, monkeypatch):
    read_image = images.read_image

    def read(path, limit):
        if path.name == "b.png":
            raise MemoryError("Unable to allocate 48.0 GiB")
        return read_image(path, limit)

    monkeypatch.setattr(images, "read_image", read)
    result, written = predicted(pictures)
    assert result.exit_code == 1 and written == ["a.png", "sub/c.png"]
    assert f"Error: {pictures / 'b.png'}: out of memory: Unable to allocate 48.0 GiB.\n" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="needs a shell's redirection")
def test_nobody_reads_what_is_said(tmp_path, pictures, weights):
    """A pipe without a reader on standard error does not cost a picture, nor change the exit code."""
    (pictures / "a.jpg").write_text("not a picture")
    process = octsod_process("predict", pictures, "-q", "--weights", weights, "-o", tmp_path / "out")
    process.stderr.close()
    assert process.wait(timeout=120) == 1 and process.stdout.read() == ""
    process.stdout.close()
    assert files(tmp_path / "out") == ["b.png", "sub/c.png"]


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def many(tmp_path):
    """200 pictures; of half of them, the second half is missing."""
    folder = tmp_path / "many"
    folder.mkdir()
    array = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    for number in range(200):
        path = folder / f"{number:03}.jpg"
        Image.fromarray(array).save(path)
        if number % 2:
            path.write_bytes(path.read_bytes()[:2000])
    return folder


class Alive:
    """Counts how many objects that pass by are alive at once."""

    def __init__(self):
        self.references, self.most, self._lock = [], 0, threading.Lock()

    def add(self, thing):
        with self._lock:
            self.references = [ref for ref in self.references if ref() is not None]
            self.references.append(weakref.ref(thing))
            self.most = max(self.most, len(self.references))

    def count(self):
        return sum(ref() is not None for ref in self.references)


def test_failed_pictures_do_not_stay_in_memory(many, predicted, monkeypatch):
    """Neither those that cannot be read nor those that cannot be written, though all wait for the first one's end."""
    alive, read_image, load = Alive(), images.read_image, ImageFile.ImageFile.load
    failed, many_failed = [], threading.Event()

    def read(path, limit):
        image = read_image(path, limit)
        alive.add(image)
        return image

    def loaded(image):
        alive.add(image)
        return load(image)

    def no_room(target, picture):
        alive.add(picture)
        failed.append(target)
        if len(failed) == 1:
            assert many_failed.wait(60)
        elif len(failed) == 25:
            many_failed.set()
        raise FileError(f"{target}: cannot be written: No space left on device.")

    octsod.set_num_threads(2)
    monkeypatch.setattr(images, "read_image", read)
    monkeypatch.setattr(images, "write_png", no_room)
    monkeypatch.setattr(ImageFile.ImageFile, "load", loaded)
    gc.collect()
    gc.disable()  # what is kept only until the collector comes may be gigabytes, too
    try:
        result, _ = predicted(many, "-q")
    finally:
        gc.enable()
    assert result.exit_code == 1 and result.stderr.count("Error: ") == 200
    assert alive.most <= 3 * 3 and alive.count() == 0  # three threads, and a moment between two pictures


def test_few_pictures_are_under_way(many, predicted, monkeypatch):
    """However many there are, only so many are handed to the threads before the first ones are reported."""
    submit, begun, reported = Workers.submit, [], []

    def count(self, function, source, target):
        begun.append(source)
        return submit(self, function, source, target)

    def update(self, done, text=""):
        reported.append(done)
        assert len(begun) <= done + 5

    monkeypatch.setattr(Workers, "submit", count)
    monkeypatch.setattr(predict.Progress, "update", update)
    monkeypatch.setattr(predict, "AHEAD", 5)
    monkeypatch.setattr(images, "read_image", lambda path, limit: np.zeros((9, 9, 3), np.uint8))
    monkeypatch.setattr(images, "write_png", lambda *_: None)
    result, _ = predicted(many)
    assert result.exit_code == 0 and reported == list(range(1, 201))
