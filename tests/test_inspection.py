"""Pictures are looked through before the first step; a run follows its pictures, and goes on without broken ones."""

import json
import os
import pathlib
import shutil

import numpy as np
import pytest
from commands import refused, run
from PIL import Image
from test_data import write_pairs

from octsod.data import ClassDataset, FolderDataset, Subset, inspection
from octsod.data.inspection import inspect
from octsod.training import SetupError, logs, open_data, pictures, resolve, runs

SMALL = ("-b", 2, "--size", 32, "--width", 0.2)


@pytest.fixture
def data(tmp_path):
    return write_pairs(tmp_path / "set", stems="abcdefghij")


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """Where it is remembered that pictures were good; small sets count, too."""
    monkeypatch.setattr(inspection, "REMEMBERED", 1)
    monkeypatch.setenv("OCTSOD_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pictures"


def break_picture(data, stem):
    (data / "images" / f"{stem}.jpg").write_bytes(b"\xff\xd8 no picture")


def whole(dataset):
    return Subset(dataset, range(len(dataset)))


def names(folder):
    return json.loads((folder / "data.json").read_text())


# --- inspection -------------------------------------------------------------------------------------------------------


def test_every_broken_sample_is_found(data, monkeypatch):
    break_picture(data, "c")
    Image.new("L", (30, 30)).save(data / "masks" / "f.png")
    (data / "masks" / "h.png").write_bytes(b"")
    monkeypatch.setattr(inspection, "CHUNK", 3)
    seen = []
    sets = [whole(FolderDataset(data)), Subset(FolderDataset(data), [0])]
    found, none = inspect(sets, 2, lambda *at: seen.append(at))
    assert list(found) == [2, 5, 7] and none == {}
    assert "c.jpg: " in found[2] and "the mask is 30x30" in found[5] and "h.png: " in found[7]
    assert seen == [(3, 11), (6, 11), (9, 11), (11, 11)]
    for stem in "abcd":
        (data / "classes" / ("x" if stem < "c" else "y")).mkdir(parents=True, exist_ok=True)
        shutil.copy(data / "images" / f"{stem}.jpg", data / "classes" / ("x" if stem < "c" else "y"))
    assert list(inspect([whole(ClassDataset(data / "classes"))], 1)[0]) == [2]


def test_what_was_good_is_not_read_again(data, memory, monkeypatch):
    break_picture(data, "c")
    read = []
    real = FolderDataset.__getitem__
    monkeypatch.setattr(FolderDataset, "__getitem__", lambda self, index: read.append(index) or real(self, index))

    def look():
        read.clear()
        found = inspect([whole(FolderDataset(data))], 2)[0]
        return sorted(read), list(found)

    assert look() == ([*range(10)], [2]) and look() == ([2], [2])
    Image.new("RGB", (40, 30), "red").save(data / "images" / "e.jpg")
    break_picture(data, "g")
    assert look() == ([2, 4, 6], [2, 6])
    (file,) = memory.iterdir()
    good = file.read_bytes()
    for damaged in (b"", good[:-1], good[:-8], good[:30] + b"x" + good[31:], b"octsod pictures 1\n"):
        file.write_bytes(damaged)
        assert look() == ([*range(10)], [2, 6]) and look() == ([2, 6], [2, 6])
    file.unlink()
    file.mkdir()
    assert look() == ([*range(10)], [2, 6])
    shutil.rmtree(memory)
    memory.write_bytes(b"in the way")
    assert look() == ([*range(10)], [2, 6])


def test_an_interrupted_inspection_remembers_what_it_has_read(data, memory, monkeypatch):
    monkeypatch.setattr(inspection, "CHUNK", 4)

    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        inspect([whole(FolderDataset(data))], 1, interrupt)
    seen = []
    inspect([whole(FolderDataset(data))], 1, lambda *at: seen.append(at))
    assert seen[-1] == (6, 6)


@pytest.mark.parametrize("chosen", [None, "~/mine"])
def test_nobody_has_a_home(data, monkeypatch, chosen):
    for name in ("OCTSOD_CACHE_DIR", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    if chosen:
        monkeypatch.setenv("OCTSOD_CACHE_DIR", chosen)
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.setattr(inspection, "REMEMBERED", 1)
    monkeypatch.chdir(data)
    before = {*data.iterdir()}
    inspect([whole(FolderDataset(data))], 1)
    assert {*data.iterdir()} == before, "nothing is put into the working directory"


@pytest.mark.skipif(os.name == "nt", reason="no rights of groups and others")
def test_the_cache_that_is_made_is_not_for_others(tmp_path, data, monkeypatch):
    """Kernels are kept there, too, and would be refused if others could write to it."""
    monkeypatch.setenv("OCTSOD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(inspection, "REMEMBERED", 1)
    before = os.umask(0)
    try:
        inspect([whole(FolderDataset(data))], 1)
    finally:
        os.umask(before)
    assert (tmp_path / "cache").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "cache" / "pictures").stat().st_mode & 0o777 == 0o700


# --- broken pictures --------------------------------------------------------------------------------------------------


def test_broken_pictures_are_named_before_the_first_step(tmp_path, data, monkeypatch):
    options = ("train", "--data", data, *SMALL, "--steps", 2, "-o", tmp_path / "run")
    break_picture(data, "c")
    line = refused(*options)
    assert "c.jpg: is not a picture" in line and line.endswith("leave it out with --skip-broken.")
    break_picture(data, "e")
    break_picture(data, "h")
    monkeypatch.setattr(pictures, "NAMED", 2)
    result = run(*options)
    *warned, more, error = result.stderr.splitlines()
    assert [pathlib.Path(line.split(": ")[1]).name for line in warned] == ["c.jpg", "e.jpg"]
    assert more == "Warning: 1 more pictures cannot be used."
    assert error.startswith("Error: 3 of 10 pictures cannot be used") and error.endswith("out with --skip-broken.")
    assert result.exit_code == 2 and not (tmp_path / "run").exists()


def test_a_run_without_broken_pictures(tmp_path, data):
    """It is another run than one with them: what is held out is drawn from the rest. It goes on without the option."""
    break_picture(data, "c")
    folder = tmp_path / "run"
    result = run("train", "--data", data, *SMALL, "--steps", 2, "--skip-broken", "-o", folder)
    assert result.exit_code == 0, result.output
    assert "c.jpg: is not a picture" in result.stderr
    assert "broken pictures that are left out: 1" in result.stderr
    found = names(folder)
    assert found["skipped"] == {"data": ["c"]} and sorted(found["training"] + found["validation"]) == [*"abdefghij"]
    assert run("train", "--resume", folder, "--steps", 3).exit_code == 0
    assert names(folder) == found
    (data / "images" / "c.jpg").unlink()
    assert run("train", "--resume", folder, "--steps", 4).exit_code == 0
    break_picture(data, found["validation"][0])
    assert "--skip-broken" in refused("train", "--resume", folder, "--steps", 5)
    line = refused("train", "--resume", folder, "--steps", 5, "--skip-broken")
    assert "too few of the run's pictures are left" in line


def test_pictures_that_break_or_vanish_later(tmp_path, data):
    """In data.json they move from the pictures to train on to those skipped; what is held out stays held out."""
    folder = tmp_path / "run"
    assert run("train", "--data", data, *SMALL, "--steps", 2, "-o", folder).exit_code == 0
    before = names(folder)
    first, second = before["training"][:2]
    break_picture(data, first)
    (data / "masks" / f"{second}.png").unlink()
    again = ("train", "--resume", folder, "--steps", 3)
    line = refused(*again)
    assert f"lacks 1 of the pictures that the run was started with, such as {second}; with --skip-broken, it" in line
    assert names(folder) == before
    result = run(*again, "--skip-broken")
    assert result.exit_code == 0, result.output
    assert names(folder) == {
        "training": before["training"][2:], "validation": before["validation"], "skipped": {"data": [second, first]},
    }  # fmt: skip
    assert runs.read_checkpoint(folder).steps == 3
    assert run("train", "--resume", folder, "--steps", 4).exit_code == 0
    (data / "images" / f"{second}.jpg").rename(data / "images" / "new.jpg")
    Image.new("L", (40, 30)).save(data / "masks" / "new.png")
    line = refused("train", "--resume", folder, "--steps", 5, "--skip-broken")
    assert "other pictures for training than the data holds now; they differ in 1, such as new" in line


def test_none_is_left(tmp_path, data):
    for stem in "abcdefghij":
        break_picture(data, stem)
    with pytest.warns(UserWarning, match="is not a picture"), pytest.raises(SetupError, match="none of its pictures"):
        open_data(resolve({"data": data}), skip_broken=True)


# --- where the pictures are -------------------------------------------------------------------------------------------


def test_a_run_follows_its_pictures(tmp_path, data):
    """Moved data are named by --data and --val; names are compared, and config.toml has the new places."""
    val = write_pairs(tmp_path / "val", stems="xy")
    folder = tmp_path / "run"
    assert run("train", "--data", data, "--val", val, *SMALL, "--steps", 1, "-o", folder).exit_code == 0
    data.rename(tmp_path / "moved")
    val.rename(tmp_path / "moved too")
    again = ("train", "--resume", folder, "--steps", 2)
    assert "if the pictures are elsewhere now, say where by --data." in refused(*again)
    other = write_pairs(tmp_path / "other", stems="abq")
    assert "other pictures for training" in refused(*again, "--data", other, "--val", tmp_path / "moved too")
    assert "other pictures for" in refused(*again, "--data", tmp_path / "moved", "--val", tmp_path / "moved")
    result = run(*again, "--data", tmp_path / "moved", "--val", tmp_path / "moved too")
    assert result.exit_code == 0, result.output
    assert str(tmp_path / "moved too") in (folder / "config.toml").read_text()
    assert run("train", "--resume", folder, "--steps", 3).exit_code == 0
    assert runs.read_checkpoint(folder).steps == 3


def test_batches_of_few_pictures(tmp_path, data):
    """config.toml has what was asked for; the run goes on."""
    folder = tmp_path / "run"
    result = run("train", "--data", data, *SMALL[2:], "-b", 100, "--steps", 1, "-o", folder)
    assert result.exit_code == 0 and "batches of 9 pictures: there are no more to train on" in result.stderr
    assert "batch_size = 100" in (folder / "config.toml").read_text()
    assert run("train", "--resume", folder, "--steps", 2).exit_code == 0
    assert np.isfinite([line["loss"] for line in logs.read_log(folder) if "lr" in line]).all()
