"""Pictures to train on, named in other ways than by one folder, and what is left out of them."""

import json
import os
import unicodedata

import pytest
from commands import refused, run
from PIL import Image
from test_data import write_pairs

import octsod
from octsod.data import ClassDataset, FolderDataset, Subset
from octsod.data.inspection import inspect
from octsod.training import SettingsError, SetupError, open_data, resolve, runs
from octsod.training.settings import EMBEDDED

SMALL = ("-b", 2, "--size", 32, "--width", 0.2)


@pytest.fixture
def named(tmp_path):
    """Options that name the folders of seven pictures and their masks."""
    root = write_pairs(tmp_path / "set", "photos", "truth", stems="abcdefg")
    return ("--images", root / "photos", "--masks", root / "truth")


def names(folder):
    return json.loads((folder / "data.json").read_text())


# --- settings ---------------------------------------------------------------------------------------------------------


def test_settings(tmp_path):
    """Both folders are needed. What is given takes the place of what a file or a run names, and nothing else."""
    folders = {"images": str(tmp_path / "i"), "masks": str(tmp_path / "m")}
    settings = resolve(folders)
    assert folders.items() <= settings.items() and "data" not in settings
    assert settings["epochs"] == 300 and not EMBEDDED.items() <= settings.items(), "these are pictures of one's own"
    data = {"data": str(tmp_path), "val": str(tmp_path)}
    assert resolve(folders, data) == resolve({**folders, "val": str(tmp_path)})
    assert resolve(data, folders) == resolve(data)
    assert resolve({"images": "j"}, folders)["masks"] == folders["masks"]
    assert "images" not in resolve({"task": "classify", "data": "x"}, folders)
    for given, words in (
        ({"images": "i"}, "`images` needs `masks`"), ({"masks": "m"}, "`masks` needs `images`"),
        ({**folders, "data": "x"}, "`images` stands in place of `data`"),
        ({"val": "x"}, "`val` needs `data`, or `images` and `masks`"),
        ({"max_pixels": 9}, "`max_pixels` needs `data`, or `images` and `masks`"),
        ({"task": "classify", **folders}, "`task` classify needs `data`"), ({"images": 3}, "expected a path"),
    ):  # fmt: skip
        with pytest.raises(SettingsError) as caught:
            resolve(given)
        assert words in str(caught.value)
    with pytest.raises(SettingsError, match="`images` needs `masks`"):
        resolve({"images": "i"}, {"data": "x"})


@pytest.mark.parametrize("name", ["epochs", "steps", "batch_size", "learn_channels", "seed", "max_pixels", "threads"])
@pytest.mark.parametrize("value", [10**30, -1, pytest.param(10**5000, id="5001 digits")])
def test_numbers_without_measure(tmp_path, name, value):
    """By option, in a file and from Python: one sentence that names the setting."""
    option = f"--{name.replace('_', '-')}"
    with pytest.raises(SettingsError, match=f"`{name}`: is .*; expected an integer from [01] to [0-9,]+\\.$"):
        resolve({name: value, "data": tmp_path})
    if value == 10**30:
        assert option in refused("train", "--print-config", "--data", tmp_path, option, value)
        (tmp_path / "c.toml").write_text(f"{name} = {value}\n")
        assert f"c.toml: `{name}`: " in refused("train", "--data", tmp_path, "-c", tmp_path / "c.toml")


def test_a_files_settings_are_its_own(tmp_path):
    """An error in them names the file, not an option; that of `octsod sweep`, too."""
    (tmp_path / "c.toml").write_text("fused = [1, 2]\n")
    expected = f"Error: {tmp_path / 'c.toml'}: `fused`: is (1, 2); expected ascending stages from 1 to 4"
    assert expected in refused("train", "-c", tmp_path / "c.toml")
    pytest.importorskip("matplotlib", reason="needs the matplotlib package")
    assert expected in refused("sweep", "--lambda", 0.1, "-o", tmp_path / "sweep", "--", "-c", tmp_path / "c.toml")
    assert "--fused" in refused("train", "-c", tmp_path / "c.toml", "--fused", "1,3")


# --- runs -------------------------------------------------------------------------------------------------------------


def test_train(tmp_path, named, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set" / "truth" / "c.png").unlink()
    (tmp_path / "set" / "photos" / "raw.cr2").write_bytes(b"")
    val = write_pairs(tmp_path / "val", stems="xy")
    result = run("train", *named, "--val", val, *SMALL, "--steps", 1)
    assert result.exit_code == 0, result.output
    assert "6 pictures to train on, 2 of " in result.stderr and "left out for want of a partner: c.jpg" in result.stderr
    assert "Left out, since their formats are not read here (1): raw.cr2" in result.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-photos") and names(folder) == {"training": [*"abdefg"], "validation": ["x", "y"]}


def test_folders_that_move(tmp_path, named):
    """A run goes on where the folders are now, or with a data set of the same pictures, but not with other names."""
    folder, root = tmp_path / "run", tmp_path / "set"
    assert run("train", *named, *SMALL, "--steps", 1, "-o", folder).exit_code == 0
    held_out = names(folder)
    again = ("train", "--resume", folder, "--steps")
    (root / "photos").rename(root / "images")
    assert "say where by --images and --masks." in refused(*again, 2)
    assert "--data" in refused(*again, 2, "--images", root / "images", "--data", root)
    assert run(*again, 2, "--images", root / "images").exit_code == 0
    (root / "truth").rename(root / "masks")
    assert run(*again, 3, "--images", root / "images", "--masks", root / "masks").exit_code == 0
    assert run(*again, 4, "--data", root).exit_code == 0
    text = (folder / "config.toml").read_text()
    assert f'data = "{root}"' in text and "images =" not in text and names(folder) == held_out
    (root / "images" / "a.jpg").rename(root / "images" / "z.jpg")
    (root / "masks" / "a.png").rename(root / "masks" / "z.png")
    assert "other pictures for" in refused(*again, 5, "--images", root / "images", "--masks", root / "masks")


def test_broken_pictures_in_named_folders(tmp_path, named):
    (tmp_path / "set" / "photos" / "c.jpg").write_bytes(b"\xff\xd8\xff broken")
    assert "--skip-broken" in refused("train", *named, *SMALL, "--steps", 1, "-o", tmp_path / "run")
    assert run("train", *named, *SMALL, "--steps", 1, "--skip-broken", "-o", tmp_path / "run").exit_code == 0
    assert names(tmp_path / "run")["skipped"] == {"data": ["c"]}
    assert run("train", "--resume", tmp_path / "run", "--steps", 2).exit_code == 0


def test_names_of_an_older_run(tmp_path):
    """Letters and their accents may have been kept apart."""
    stems = [unicodedata.normalize("NFC", stem) for stem in ("é", "ü", "a", "b", "c")]
    data, folder = write_pairs(tmp_path / "set", stems=stems), tmp_path / "run"
    assert run("train", "--data", data, *SMALL, "--steps", 1, "-o", folder).exit_code == 0
    old = {part: [unicodedata.normalize("NFD", name) for name in found] for part, found in names(folder).items()}
    assert old != names(folder)
    (folder / "data.json").write_text(json.dumps(old))
    result = run("train", "--resume", folder, "--steps", 2)
    assert result.exit_code == 0, result.output
    assert {**names(folder), "skipped": {}} == runs.read_pictures(folder)
    runs.Run(folder, {}).require_same((old["training"], old["validation"]))


@pytest.mark.filterwarnings("ignore:.*is a link to nothing")
def test_folders_of_classes_that_cannot_be_read(tmp_path):
    """They are errors before the first step, or left out. A run that began without them goes on without them."""
    for name in ("red", "blue"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", (20, 20), name).save(tmp_path / "set" / name / f"{number}.png")
    (tmp_path / "set" / "red" / "gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "set" / "red" / "raw.nef").write_bytes(b"")
    settings = resolve({"task": "classify", "data": tmp_path / "set"})
    with pytest.raises(SetupError, match="gone: is a link to nothing; mend or remove it, or leave it out"):
        open_data(settings)
    (tmp_path / "set" / "blue" / "away").symlink_to(tmp_path / "nowhere")
    with pytest.warns(UserWarning), pytest.raises(SetupError, match="2 folders or links cannot be read, the first"):
        open_data(settings)
    with pytest.warns(UserWarning, match="gone: is a link to nothing"):
        data = open_data(settings, skip_broken=True)
    assert "Left out, since their formats are not read here (1): raw.nef" in data.notes
    before = {"training": data.training.names, "validation": data.held_out.names, "skipped": {}}
    with pytest.warns(UserWarning, match="gone: is a link to nothing"):
        assert open_data(settings, before=before).training.names == data.training.names
    shown = [f"{number}.cr2" for number in range(5)]
    for name in shown:
        (tmp_path / "set" / "blue" / name).write_bytes(b"")
    with pytest.warns(UserWarning):
        some, all_of_them = (open_data(settings, verbose, skip_broken=True).notes[0] for verbose in (False, True))
    assert some.endswith(" ...") and all(name in all_of_them for name in shown)


# --- the limit of pixels ----------------------------------------------------------------------------------------------


def test_the_limit_of_pixels(tmp_path, named, weights):
    """It says how to raise it, in every command that reads pictures; a run that is resumed may have another one."""
    hint = "limit against decompression bombs; a larger limit (--max-pixels on the command line) reads it"
    options = ("train", *named, *SMALL, "--steps", 1, "-o", tmp_path / "run")
    line = refused(*options, "--max-pixels", 1199)
    assert "40x30 pixels, which is more than 1,199, the" in line
    assert run(*options, "--max-pixels", 1200).exit_code == 0
    assert "max_pixels = 1200" in (tmp_path / "run" / "config.toml").read_text()
    assert run("train", "--resume", tmp_path / "run", "--steps", 2).exit_code == 0
    assert run("train", "--resume", tmp_path / "run", "--steps", 3, "--max-pixels", 5000).exit_code == 0
    assert hint in run("train", "--resume", tmp_path / "run", "--steps", 4, "--max-pixels", 9).stderr
    result = run("eval", "--weights", weights, *named, "--max-pixels", 9)
    assert result.exit_code == 2 and result.stderr.count(hint) == 7
    assert run("eval", "--weights", weights, *named, "--max-pixels", 1200).exit_code == 0
    os.rename(tmp_path / "set" / "photos", tmp_path / "set" / "images")
    os.rename(tmp_path / "set" / "truth", tmp_path / "set" / "masks")
    prune = ("prune", weights, "-o", tmp_path / "p.safetensors", "--data", tmp_path / "set")
    assert hint in refused(*prune, "--max-pixels", 9)
    assert run(*prune, "--max-pixels", 1200).exit_code == 0


def test_limits_of_data_sets(tmp_path):
    data = write_pairs(tmp_path / "set")
    with pytest.raises(octsod.errors.FileError, match="more than 9, "):
        FolderDataset(data, limit=9)[0]
    (data / "more").mkdir()
    (data / "masks").rename(data / "not masks")
    with pytest.raises(octsod.errors.FileError, match="more than 9, "):
        ClassDataset(data, limit=9)[0]
    for wrong in (0, "9"):
        with pytest.raises((ValueError, TypeError), match="FolderDataset: `limit` is "):
            FolderDataset(tmp_path, limit=wrong)


def test_what_was_read_by_another_limit_is_read_again(tmp_path, monkeypatch):
    monkeypatch.setenv("OCTSOD_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("octsod.data.inspection.REMEMBERED", 1)
    data = write_pairs(tmp_path / "set")

    def broken(limit):
        dataset = FolderDataset(data, limit=limit)
        return [*inspect([Subset(dataset, range(3))], 1)[0]]

    assert broken(5000) == [] and broken(9) == [0, 1, 2] and broken(5000) == []


# --- memory -----------------------------------------------------------------------------------------------------------


def test_a_network_that_does_not_fit_into_the_memory(tmp_path, named, weights, monkeypatch):
    """The file is named before anything is allocated; a smaller batch or size may do."""
    configuration = octsod.load(weights).configuration
    assert configuration.all_maps(64) == 4 * configuration.all_maps(32) > 20 * configuration.largest_map(32)
    needed = 2 * configuration.all_maps(32) * 4
    options = ("train", *named, "--init", weights, "--steps", 1, "-b")
    monkeypatch.setattr("octsod.backend.device.available_memory", lambda: needed)
    line = refused(*options, 3, "--size", 32, "-o", tmp_path / "other")
    assert line.startswith(f"Error: {weights}: to train on 3 pictures of 32 pixels at once takes 0.0 GB of memory or ")
    assert line.endswith("; a --batch-size of 2, a smaller one, or a smaller --size may fit.")
    assert not (tmp_path / "other").exists()
    assert "pictures of 48 pixels" in refused(*options, 2, "--size", "32:0,48:0.5")
    assert run(*options, 2, "--size", 32, "-o", tmp_path / "run").exit_code == 0
    frozen = (*options, 3, "--size", 32, "--freeze", "extractor", "-o", tmp_path / "frozen")
    assert run(*frozen).exit_code == 0, "what does not learn keeps nothing"
    monkeypatch.setattr("octsod.backend.device.available_memory", lambda: needed - 1)
    line = refused("train", "--resume", tmp_path / "run", "--steps", 2)
    assert line.startswith(f"Error: {tmp_path / 'run' / 'state' / 'checkpoint.safetensors'}: to train on 2")


@pytest.mark.parametrize("damaged", [
    {"training": [["a"]]}, {"validation": [None]}, {"training": {"a": 1}}, {"training": "abc"}, {"skipped": ["a"]},
    {"skipped": {"data": [["a"]]}}, {"skipped": {"data": "a"}}, {"skipped": None},
])  # fmt: skip
def test_damaged_names(tmp_path, damaged):
    (tmp_path / "data.json").write_text(json.dumps({"training": ["a"], "validation": ["b"], **damaged}))
    with pytest.raises(octsod.errors.FileError, match=r"data\.json: is damaged: it does not name the run's pictures"):
        runs.read_pictures(tmp_path)
