"""A training from Python: settings are resolved, checked and conducted without the command line."""

import dataclasses
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from commands import ROOT, run
from test_data import write_pairs

import octsod
from octsod import training
from octsod.studies.sweep import Sweep
from octsod.training import SettingsError, SetupError, resolve
from octsod.training.settings import DECAYS, EMBEDDED, FINETUNE, SETTINGS

SMALL = {"batch_size": 2, "size": 32, "width": 0.2}


@pytest.fixture
def data(tmp_path):
    return write_pairs(tmp_path / "set", stems="abcdefg")


def test_defaults_are_told_once(data):
    """Those of the settings are those of a recipe, too."""
    settings, recipe = resolve({"data": data}), training.Recipe()
    for field in dataclasses.fields(recipe):
        if field.name in settings and field.name != "decay_strength":
            assert getattr(recipe, field.name) == settings[field.name] == SETTINGS[field.name].default
    assert settings["decay_strength"] == DECAYS["dynamic"] and "steps" not in settings
    assert resolve({"learn_channels": 3, "decay": "dynamic"})["threshold"] == recipe.threshold
    assert EMBEDDED.items() <= resolve({}).items()
    assert FINETUNE.items() <= resolve({"data": data, "init": "w.safetensors"}, finetune=True).items()
    assert list(settings) == [name for name in SETTINGS if name in settings]
    assert resolve(settings) == resolve({}, settings) == settings


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epoch": 3}, "`epoch` is no setting; known are task, data, images, masks, val, "),
        ({"epochs": 0}, "`epochs`: is 0; expected an integer from 1 to 1,000,000."),
        ({"epochs": True}, "`epochs`: is True; expected an integer"),
        ({"batch_size": 2.5}, "`batch_size`: is 2.5; expected an integer"),
        ({"lr": 0}, "`lr`: is 0; expected a finite number above 0"),
        ({"lr": "fast"}, "`lr`: is 'fast'; expected"),
        ({"weight_decay": float("nan")}, "`weight_decay`: is nan; expected a finite number of at least 0"),
        ({"size": 1 << 20}, "`size`: is 1048576; expected pixels from 16 to 16384"),
        ({"schedule": "linear"}, "`schedule`: is 'linear'; expected milestones or cosine or one-cycle or constant"),
        ({"split": [0, 0]}, "`split`: is [0, 0]; expected one to three shares"),
        ({"data": 3}, "`data`: is 3; expected a path"),
        ({"val": "x"}, "`val` needs `data`"),
        ({"threshold": 1}, "`threshold` needs `learn_channels`"),
        ({"init": "w.safetensors", "width": 1}, "leave `width` out"),
        ({"decay": "none", "decay_strength": 1}, "`decay_strength` is of no use"),
    ],
)
def test_bad_settings(given, words):
    with pytest.raises(SettingsError) as caught:
        resolve(given)
    assert words in str(caught.value)


def test_conduct(data, tmp_path):
    """A run, stopped and gone on with, and refused where it makes no sense; threads are as before."""
    folder, lines = tmp_path / "run", []
    settings = resolve({"data": data, **SMALL, "steps": 3, "threads": 2})
    octsod.set_num_threads(1)
    assert not training.conduct(settings, folder, on_line=lines.append, stop=lambda: len(lines) >= 2)
    assert octsod.get_num_threads() == 1
    checkpoint = training.read_checkpoint(folder)
    assert checkpoint.steps == 2 == len(lines) and checkpoint.settings == settings
    for name, array in checkpoint.model().state_dict().items():
        np.testing.assert_array_equal(array, checkpoint.state[f"model.{name}"])
    with pytest.raises(SetupError, match="exists already and is not empty"):
        training.conduct(settings, folder)
    with training.Session(settings, folder, checkpoint=checkpoint) as session:
        assert session.conduct() and session.trainer.steps == 3
    (folder / "weights" / "last.safetensors").unlink()
    assert training.conduct(settings, folder, checkpoint=training.read_checkpoint(folder))  # nothing but what is gone
    assert (folder / "weights" / "last.safetensors").exists()
    longer = resolve({"steps": 4}, checkpoint.settings)
    assert training.conduct(longer, folder, checkpoint=training.read_checkpoint(folder))
    with training.Session(resolve({"data": data}), tmp_path / "other") as session:
        assert session.loader.batch_size == 6 and session.settings["batch_size"] == 24


@pytest.mark.parametrize(("schedule", "rates"), [
    ("cosine", "0.00075, not 0.000146"), ("one-cycle", "0.000962, not 1e-07"), ("milestones", "0.001, not 0.0001"),
    ("constant", None),
])  # fmt: skip
def test_a_longer_run_may_go_back_to_a_higher_rate(data, tmp_path, schedule, rates):
    """Which is told; not so if the run goes on as it was to."""
    folder = tmp_path / "run"
    settings = resolve({"data": data, **SMALL, "schedule": schedule, "lr": 1e-3, "steps": 4})
    assert training.conduct(settings, folder)
    checkpoint = training.read_checkpoint(folder)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for steps in (4, 12):
            longer = resolve({"steps": steps}, checkpoint.settings)
            training.Session(longer, folder, checkpoint=checkpoint).__exit__()
    why = "sizes and schedule go by the length of a run, now 12 steps"
    expected = [f"{folder}: goes on with a learning rate of {rates}: {why}."] if rates else []
    assert [str(warning.message) for warning in said] == expected


def test_what_is_for_saliency_is_left_out_with_a_note(tmp_path):
    given = {"task": "classify", "data": tmp_path}
    note = "settings that are for saliency only are left out: loss, colour"
    with pytest.warns(UserWarning, match=note):
        assert "loss" not in resolve(given, training.read_recipe("fast"))
    said = run("train", "--task", "classify", "--data", tmp_path, "--recipe", "fast", "--print-config")
    assert said.exit_code == 0 and said.stderr == f"Warning: {note}.\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        resolve({}, resolve(given))
        resolve(given, training.read_recipe("paper"))


def test_sweep(data, tmp_path):
    given = {"data": data, **SMALL, "steps": 1}
    sweep = Sweep(tmp_path / "sweep", "weight_decay", [0.1, 0], ["dynamic", "standard"], given, threshold=1)
    assert len(sweep.left()) == 4
    row = sweep.run(sweep.left()[1])
    assert (row["decay"], row["lambda"], row["settings"]["decay_strength"]) == ("standard", 0.1, 0.1)
    again = Sweep(tmp_path / "sweep", "weight_decay", [0.1], ["dynamic", "standard"], given, threshold=1)
    assert again.rows == [row] and [point.name for point in again.left()] == ["dynamic-0.1"]
    assert again.run(again.left()[0], stop=lambda: True) is None
    for arguments in (("lr", [1]), ("weight_decay", []), ("weight_decay", [-1])):
        with pytest.raises(SettingsError):
            Sweep(tmp_path / "none", *arguments, given=given)
    assert not (tmp_path / "none").exists()


def test_no_command_line_is_needed():
    code = """
import sys
sys.modules["click"] = None  # importing it raises ImportError
import octsod.studies.sweep, octsod.training.session
assert not any(name.startswith("octsod.cli") for name in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)


def test_a_network_that_there_is_not():
    with pytest.raises(SettingsError, match=r"`fused`: is .*; expected ascending stages from 1 to 4"):
        resolve({"fused": "2,3"})


def test_what_cannot_vanish_is_not_pruned(data, tmp_path):
    octsod.save(octsod.csnet(0.2), tmp_path / "w.safetensors")
    for given in ({"variant": "vanilla"}, {"init": tmp_path / "w.safetensors", "freeze": "extractor"}):
        small = {name: value for name, value in SMALL.items() if name != "width" or "init" not in given}
        settings = resolve({"data": data, **small, **given, "epochs": 2, "learn_channels": 1})
        with pytest.raises(SettingsError, match="`learn_channels`: the network has no scales that may vanish"):
            training.Session(settings, tmp_path / "run")
    with pytest.raises(ValueError, match="`model` has no scales that may vanish, or cannot be pruned"):
        training.Recipe(finetuning=1).trainer(octsod.csnet(0.2, variant="vanilla"), total=3)
    assert not (tmp_path / "run").exists()
    for variant in ("csnet", "extractor", "vanilla"):
        norms = octsod.optim.decayed_norms(octsod.csnet(0.2, variant=variant))
        assert len(norms) > 90 and training.Recipe().trainer(octsod.csnet(0.2, variant=variant)).hooks


def test_a_base_of_another_kind_is_no_hindrance(data):
    base = resolve({"data": data, "learn_channels": 3, "loss": "bce+iou"})
    with pytest.warns(UserWarning, match="for saliency only are left out: loss, learn_channels"):
        classify = resolve({"task": "classify", "data": data}, base)
    assert "threshold" in base and "threshold" not in classify
    for wrong in ({"momentum": -1.0}, {"clip": -1.0}, {"average": 2.0}, {"lr": 0.0}, {"weight_decay": -1.0}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"Recipe: `{name}` is "):
            training.Recipe(**wrong)
