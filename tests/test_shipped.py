"""The networks that come with octsod: what is said of them is so, and their names stand for them."""

import json
import os
import pathlib
import re
import shutil
import warnings

import numpy as np
import pytest
from commands import refused, run
from PIL import Image
from test_data import write_pairs

import octsod
from octsod.errors import FileError
from octsod.models import shipped
from octsod.models.shipped import networks
from octsod.models.weights import weight_file
from octsod.studies.sweep import Sweep
from octsod.tensor_files import read_arrays

BEST = networks()[0]


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "in" / "photo.jpg"
    path.parent.mkdir()
    Image.fromarray(octsod.synthetic.SyntheticDataset(1, 64, 0)[0].image).save(path)
    return path


@pytest.mark.parametrize("network", networks(), ids=lambda network: network.name)
class TestEach:
    def test_its_facts_are_those_of_its_file(self, network):
        model = octsod.load(network.name)
        cost = octsod.complexity(model, (network.size, network.size))
        facts = (network.parameters, network.macs, network.size)
        assert facts == (cost.parameters, cost.macs, model.size) and model.dtype == np.float32
        assert network.file.stat().st_size < 1_000_000

    def test_its_card_tells_its_scores(self, network):
        assert network.card.startswith(f"# {network.name}\n")
        for values in network.scores.values():
            assert all(f"{value:.4f}" in network.card for value in values.values())
        assert f"{network.parameters:,}" in network.card and "licence" in network.card.lower()

    def test_its_card_is_whole_without_the_repository(self, network):
        """It comes with octsod, unlike docs/: links lead to files beside it, such as its pictures."""
        targets = re.findall(r"\]\((.*?)\)", network.card)
        for target in targets:
            assert (shipped.FOLDER / target).parent == shipped.FOLDER and (shipped.FOLDER / target).is_file(), target
        assert {f"{network.name}-run.png", f"{network.name}-failures.jpg"} <= set(targets)

    def test_its_file_has_a_checksum(self, network):
        assert "crc32" in read_arrays(network.file)[0]

    def test_it_scores_what_is_said(self, network):
        folder = pathlib.Path(os.environ.get("OCTSOD_ECSSD", "missing"))
        if not folder.is_dir():
            pytest.skip("ECSSD is not here; OCTSOD_ECSSD names its folder")
        found = octsod.evaluate(octsod.load(network.name), folder)
        said = network.scores["ECSSD"]
        assert (round(found.max_f, 4), round(found.mae, 4)) == (said["max_f"], said["mae"])


def test_the_best_comes_first():
    scores = [network.scores["ECSSD"]["max_f"] for network in networks()]
    assert scores == sorted(scores, reverse=True)


def test_folder_holds_these_networks_and_nothing_else():
    ends = ".safetensors", ".md", "-run.png", "-failures.jpg"
    names = {network.name + end for network in networks() for end in ends}
    assert {path.name for path in shipped.FOLDER.iterdir()} == names | {"models.toml"}


@pytest.mark.parametrize("text", ["", "[csnet-x1]", "csnet-x1 = 3"])
def test_a_damaged_list_is_named(text, tmp_path, monkeypatch):
    (tmp_path / "models.toml").write_text(text)
    monkeypatch.setattr(shipped, "FOLDER", tmp_path)
    networks.cache_clear()
    try:
        with pytest.raises(FileError, match=r"models\.toml: does not describe the networks"):
            networks()
    finally:
        networks.cache_clear()


def test_a_path_of_that_name_wins_with_a_note(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert weight_file(BEST.name) == BEST.file
        assert weight_file(f"./{BEST.name}") == pathlib.Path(BEST.name)  # a path, said so
    pathlib.Path(BEST.name).write_bytes(weights.read_bytes())
    with pytest.warns(UserWarning, match=f"{BEST.name}: is a path here, which is used instead of octsod's own"):
        model = octsod.load(BEST.name)
    assert model.configuration == octsod.load(weights).configuration
    result = run("info", "--model", BEST.name, "--json")
    assert json.loads(result.stdout)["weights"] == BEST.name
    assert f"Warning: {BEST.name}: is a path here" in result.stderr


def test_an_unknown_name_is_told_from_a_missing_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("csnet-x9", pathlib.Path("csnet-x9")):
        with pytest.raises(FileError, match=f"^csnet-x9: no such file, and no network that comes .*: .*{BEST.name}"):
            octsod.load(name)
    with pytest.raises(FileError, match=r"^csnet-x9\.safetensors: No such file"):
        octsod.load("csnet-x9.safetensors")
    assert "csnet-x9: no such file, and no network" in refused("train", "--init", "csnet-x9")


@pytest.mark.parametrize("near", [
    "csnet-x1/", "csnet-x1//", "CSNet-x1", "csnet_x1", "csnetX1", "csnet x1", "csnet-x1.safetensors",
    "CSNET_X1.safetensors",
])  # fmt: skip
def test_a_name_that_is_nearly_right(near, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = f"{near}: no such file; a network that comes with octsod is named csnet-x1."
    with pytest.raises(FileError, match=f"^{re.escape(said)}$"):
        octsod.load(near)
    assert refused("predict", "--model", near, picture) == f"Error: {said}"
    assert refused("train", "--init", near) == f"Error: {said}"
    assert refused("models", near) == f"Error: {near}: a network that comes with octsod is named csnet-x1."


@pytest.mark.parametrize("near", ["csnet-x", "csnet-x2", "CNSet-X1", "cset-x1"])
def test_a_name_that_is_mistyped(near, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = f"no network that comes with octsod: {', '.join(n.name for n in networks())}; did you mean csnet-x1?"
    assert refused("predict", "--model", near, picture) == f"Error: {near}: no such file, and {said}"
    assert refused("models", near) == f"Error: {near}: {said}"


def test_a_name_in_place_of_a_path(tmp_path, monkeypatch):
    """An argument that is a path takes no name; it is said which option does."""
    monkeypatch.chdir(tmp_path)
    for name in ("csnet-x1", "csnet_x1"):
        said = f"Path {name!r} does not exist; the network that comes with octsod is --model csnet-x1."
        assert refused("prune", name, "--ratio", 0.2, "-o", "w.safetensors").endswith(said)
        assert refused("predict", name).endswith(said)
    assert refused("prune", "none", "-o", "w.safetensors").endswith("Path 'none' does not exist.")
    pathlib.Path("csnet-x1").write_bytes(b"\x89PNG")
    assert refused("predict", "csnet-x1", code=1).startswith("Error: csnet-x1: ")


@pytest.mark.parametrize("far", ["runs/csnet-x1", "csnet-x1.pth", "x1.safetensors", "weights/csnet-x1.safetensors"])
def test_a_file_that_is_missing_is_no_name(far, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileError, match=f"^{re.escape(far)}: No such file or directory"):
        octsod.load(far)
    assert "comes with" not in refused("predict", "--model", far, picture)


def test_a_file_with_nearly_such_a_name_is_used(tmp_path, monkeypatch, weights):
    monkeypatch.chdir(tmp_path)
    pathlib.Path("csnet_x1").write_bytes(weights.read_bytes())
    assert octsod.load("csnet_x1").configuration == octsod.load(weights).configuration


def test_predict_needs_nothing_but_a_picture(picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("predict", picture)
    assert result.exit_code == 0, result.output
    assert result.stdout == "photo-salience.png\n"
    assert f"Network: {BEST.name}, which comes with octsod\n" in result.stderr
    np.testing.assert_array_equal(Image.open("photo-salience.png"), octsod.predict(picture))
    np.testing.assert_array_equal(octsod.predict(picture), octsod.predict(picture, BEST.name))
    assert "photo-salience.png: exists already; --overwrite replaces it" in refused("predict", picture)
    for option in ("overlay", "cutout", "crop"):
        assert run("predict", picture, f"--{option}", "-q").stdout == f"photo-{option}.png\n"
        assert pathlib.Path(f"photo-{option}.png").is_file()
    assert run("predict", picture.parent, "-q").stdout == "salience\n"
    assert pathlib.Path("salience", "photo.png").is_file()


def test_predict_answers_where_it_was_asked(picture):
    from click.testing import CliRunner

    from octsod.cli import main

    result = CliRunner().invoke(main, ["predict", "-", "-q"], input=picture.read_bytes())
    assert result.exit_code == 0 and result.stdout_bytes.startswith(b"\x89PNG")


def test_commands_know_the_names(picture, tmp_path):
    info = json.loads(run("info", "--model", BEST.name, "--json").stdout)
    assert (info["parameters"], info["macs"]) == (BEST.parameters, BEST.macs)
    pruned = tmp_path / "pruned.safetensors"
    result = run("prune", "--model", BEST.name, "--ratio", "0.3", "--size", "64", "-o", pruned, "--json")
    assert json.loads(result.stdout)["before"]["parameters"] == BEST.parameters
    assert octsod.complexity(octsod.load(pruned)).parameters < BEST.parameters
    assert "Name the network: RUN or WEIGHTS, or else --model" in refused("prune", "-o", tmp_path / "x")
    assert "Name the network" in refused("prune", pruned, "--model", BEST.name, "-o", tmp_path / "x")
    printed = run("train", "--print-config", "--init", BEST.name).stdout
    assert f'init = "{BEST.name}"' in printed
    assert octsod.training.resolve({"init": BEST.name})["init"] == BEST.name


def test_a_run_that_starts_from_one_travels(tmp_path, monkeypatch):
    """Its settings have the name. A run in a folder of that name can be resumed; another run would start from it."""
    monkeypatch.chdir(tmp_path)
    data = write_pairs(tmp_path / "set", stems="abc")
    options = ("train", "--data", data, "--size", 32, "-b", 1, "-q")
    started = run(*options, "--init", BEST.name, "--steps", 1, "-o", BEST.name)
    assert started.exit_code == 0, started.output
    config = pathlib.Path(BEST.name, "config.toml")
    assert f'init = "{BEST.name}"' in config.read_text()
    resumed = run("train", "--resume", BEST.name, "--steps", 2, "-q")
    assert (resumed.exit_code, resumed.stderr) == (0, ""), resumed.output
    assert f'init = "{BEST.name}"' in config.read_text()
    other = run("train", "-c", config, "--print-config")
    best = tmp_path / BEST.name / "weights" / "best.safetensors"
    assert f'init = "{best}"' in other.stdout and "is a path here, which is used instead" in other.stderr
    said = refused("train", "--resume", BEST.name, "--init", best)
    assert f"was started with init = '{BEST.name}', not '{best}'; other settings need a new run" in said
    config.rename("c.toml")
    shutil.rmtree(BEST.name)
    again = run(*options, "-c", "c.toml", "-o", "again")
    assert (again.exit_code, again.stderr) == (0, ""), again.output


def test_a_sweep_may_be_called_as_the_network_that_it_starts_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = write_pairs(tmp_path / "set", stems="abc")
    settings = {"data": data, "size": 32, "batch_size": 1, "steps": 1, "init": BEST.name}
    sweep = Sweep(BEST.name, "weight_decay", [1e-3], given=settings)
    assert sweep.folder.is_dir() and sweep.settings(sweep.points[0])["init"] == BEST.name
    assert sweep.run(sweep.points[0])["settings"]["init"] == BEST.name


def test_models_lists_them_and_prints_cards():
    listed = run("models").stdout
    for network in networks():
        assert re.search(rf"{network.name} +{network.parameters:,}", listed)
    assert json.loads(run("models", "--json").stdout)[0] == BEST.as_dict()
    assert run("models", BEST.name).stdout == BEST.card
    assert json.loads(run("models", BEST.name, "--json").stdout)["name"] == BEST.name
    assert refused("models", "vgg").startswith("Error: vgg: no network that comes with octsod: csnet-")
