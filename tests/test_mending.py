"""A run goes on whatever happened to its folder, says what is damaged, and makes anew what is gone."""

import json
import os
import shutil

import numpy as np
import pytest
from commands import refused, run
from test_data import write_pairs
from test_training import (  # noqa: F401
    HELD_OUT,
    PICTURES,
    SETTINGS,
    assert_same_run,
    contents,
    go_on,
    loader,
    log_of,
    start,
    straight,
)

import octsod
from octsod.errors import FileError
from octsod.tensor_files import checksum, pack, read_arrays
from octsod.training import Recipe, fit, logs, runs, train
from octsod.training.checkpoints import CHECKPOINT, FORMAT, read_checkpoint

SMALL = ("-b", 2, "--size", 32, "--width", 0.2)


@pytest.fixture
def copy(tmp_path, straight):  # noqa: F811
    return shutil.copytree(straight, tmp_path / "copy")


@pytest.fixture
def stopped(tmp_path):
    """The folder of a run that was stopped after four of seven steps."""
    folder = tmp_path / "stopped"
    trainer, run = start(folder)
    with run:
        assert not train(trainer, loader(), run, HELD_OUT, stop=lambda: trainer.steps >= 4)
    return folder


def finish(folder):
    trainer, run = go_on(folder)
    with run:
        assert train(trainer, loader(), run, HELD_OUT)


# --- what is gone -----------------------------------------------------------------------------------------------------


def test_a_finished_run_is_mended(copy, straight):  # noqa: F811
    """weights, plots and env.json are made again; of the best weights, those of the last step."""
    best = runs.read_checkpoint(copy).best[""]["step"]
    before = {path.relative_to(copy): path.read_bytes() for path in (copy / "plots").iterdir()}
    kept = (copy / "weights" / "best.safetensors").read_bytes()
    shutil.rmtree(copy / "plots")
    shutil.rmtree(copy / "weights")
    (copy / "env.json").unlink()
    with pytest.warns(UserWarning) as caught:
        finish(copy)
    messages = [str(warning.message) for warning in caught]
    assert any("env.json: No such file or directory; it is made anew" in message for message in messages)
    assert (best == 7) != any(f"best.safetensors: is gone, the network of step {best}" in m for m in messages)
    after = {path.relative_to(copy): path.read_bytes() for path in (copy / "plots").iterdir()}
    assert after.keys() == before.keys()
    if best == 7:
        assert after == before and log_of(copy) == log_of(straight)
        assert (copy / "weights" / "best.safetensors").read_bytes() == kept
    ours, theirs = (octsod.load(f / "weights" / "last.safetensors").state_dict() for f in (copy, straight))
    assert all((ours[name] == array).all() for name, array in theirs.items())
    assert len(json.loads((copy / "env.json").read_text())["resumed"]) == 1


def test_best_weights_of_the_last_step_are_made_again(copy, straight):  # noqa: F811
    checkpoint = runs.read_checkpoint(copy)
    trainer, run = go_on(copy)
    with run:
        run.best = {"": {**checkpoint.best[""], "step": 7}}
        (copy / "weights" / "best.safetensors").unlink()
        run.mend(trainer)
    ours, last = (octsod.load(copy / "weights" / f"{name}.safetensors").state_dict() for name in ("best", "last"))
    assert all((ours[name] == array).all() for name, array in last.items())


def test_best_weights_of_an_earlier_step_are_replaced(copy):
    """No network is left but the last one, so it is validated again and is the best."""
    best = runs.read_checkpoint(copy).best[""]
    trainer, run = go_on(copy)
    with run:
        run.best = {"": {**best, "step": 3}}
        (copy / "weights" / "best.safetensors").unlink()
        with pytest.warns(UserWarning, match="is gone, the network of step 3; that of the next validation takes its"):
            assert train(trainer, loader(), run, HELD_OUT)
    checkpoint = runs.read_checkpoint(copy)
    assert checkpoint.finished() and checkpoint.best[""]["step"] == 7 and log_of(copy)[-1]["best"] == [""]
    ours, last = (octsod.load(copy / "weights" / f"{name}.safetensors").state_dict() for name in ("best", "last"))
    assert all((ours[name] == array).all() for name, array in last.items())


def test_folders_that_vanish_during_a_training(tmp_path, straight):  # noqa: F811
    trainer, run = start(tmp_path / "run")

    def remove(line):
        if line["step"] == 4:
            for part in ("weights", "plots"):
                shutil.rmtree(tmp_path / "run" / part)

    with run:
        assert train(trainer, loader(), run, HELD_OUT, on_line=remove)
    assert (tmp_path / "run" / "plots" / "curves.png").exists()
    trainer, run = start(tmp_path / "gone")
    with run, pytest.raises(FileError, match="cannot be written") as caught:
        train(trainer, loader(), run, HELD_OUT, on_line=lambda line: shutil.rmtree(tmp_path / "gone", True))
    assert "intact" not in str(caught.value) and not (tmp_path / "gone").exists()


# --- what is damaged --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda log: log.replace(b'{"step": 2', b'{"st\xffp" 2', 1), "line 2 is damaged"),
        (lambda log: log[: len(log) // 2], "is shorter than when the run was stopped"),
        (lambda log: b"", "is shorter"),
        (lambda log: None, "is shorter"),
    ],
)
def test_a_damaged_log(stopped, straight, damage, words):  # noqa: F811
    """It is named, kept as it is, and costs the training nothing."""
    log = stopped / "log.jsonl"
    damaged = damage(log.read_bytes())
    log.unlink() if damaged is None else log.write_bytes(damaged)
    with pytest.warns(UserWarning, match=rf"log\.jsonl: {words}"):
        finish(stopped)
    assert log.read_bytes().startswith(damaged or b"")
    states = [runs.read_checkpoint(folder).state for folder in (stopped, straight)]
    assert all((states[0][name] == array).all() for name, array in states[1].items())
    found = []
    lines = logs.read_log(stopped, found.append)
    assert [line["step"] for line in lines if "lr" in line][-3:] == [5, 6, 7] and len(found) <= 1


def test_a_pipe_instead_of_a_log(stopped):
    (stopped / "log.jsonl").unlink()
    os.mkfifo(stopped / "log.jsonl")
    with pytest.raises(FileError, match=r"log\.jsonl: is a named pipe"):
        go_on(stopped)


def rewritten(folder, change, state=None, kind=FORMAT):
    """Change what the checkpoint in a folder says, checksum included."""
    metadata, arrays = read_arrays(folder / CHECKPOINT)
    facts = json.loads(metadata["run"])
    change(facts)
    text = json.dumps(facts)
    arrays = {**arrays, **(state or {})}
    whole = {"format": kind, "run": text, "crc32": checksum(arrays, text)}
    (folder / CHECKPOINT).write_bytes(pack(arrays, whole))


@pytest.mark.parametrize("name", ["total", "logged", "validated"])
@pytest.mark.parametrize("value", [10**30, -1, True, 1.5, float("nan"), "7", None, [7]])
def test_absurd_counts(copy, name, value):
    rewritten(copy, lambda facts: facts.update({name: value}))
    with pytest.raises(FileError, match=r"checkpoint\.safetensors: is damaged, or no checkpoint of octsod's: "):
        read_checkpoint(copy)


@pytest.mark.parametrize("value", [np.int64(-1), np.int64(1 << 60), np.float64(np.nan), np.array([7]), np.bool_(True)])
def test_absurd_steps(copy, value):
    rewritten(copy, lambda facts: None, {"steps": np.asarray(value)})
    with pytest.raises(FileError, match="its `steps` are no count of steps"):
        read_checkpoint(copy)


@pytest.mark.parametrize(
    "changed",
    [
        {"best": {"": {"step": "7", "size": 32}}}, {"best": {"": {"step": 8, "size": 32}}}, {"best": [1]},
        {"best": {"": {"step": 7, "size": 32, "mae": "low"}}}, {"facts": {"architecture": 3}}, {"settings": 3},
        {"plots": "curves"}, {"plots": [3]}, {"given": {}}, {"current": [3]}, {"other": 1},
    ],
)  # fmt: skip
def test_absurd_facts(copy, changed):
    rewritten(copy, lambda facts: facts.update(changed))
    with pytest.raises(FileError, match=r"checkpoint\.safetensors: is damaged, or no checkpoint"):
        read_checkpoint(copy)


def test_a_checkpoint_of_another_version(copy):
    rewritten(copy, lambda facts: None, kind="octsod-checkpoint-0")
    with pytest.raises(FileError, match=r"another version of octsod \(octsod-checkpoint-0, not "):
        read_checkpoint(copy)
    shutil.copy(copy / "weights" / "last.safetensors", copy / CHECKPOINT)
    with pytest.raises(FileError, match="is none of a training"):
        read_checkpoint(copy)


@pytest.mark.parametrize("text", ["{", "[]", '{"training": 3, "validation": []}', '{"training": [1], "validation": 0}'])
def test_damaged_names_of_pictures(stopped, text):
    (stopped / "data.json").write_text(text)
    with pytest.raises(FileError, match=r"data\.json: is damaged"):
        go_on(stopped)


def test_one_damaged_run_blocks_no_other(tmp_path, stopped, monkeypatch):
    good = shutil.copytree(stopped, tmp_path / "runs" / "good")
    bad = shutil.copytree(stopped, tmp_path / "runs" / "bad")
    (bad / CHECKPOINT).write_bytes((bad / CHECKPOINT).read_bytes()[:99])
    os.utime(good / CHECKPOINT, (1, 1))
    with pytest.warns(UserWarning, match=r"bad.state.checkpoint\.safetensors: .*; this run is skipped"):
        assert runs.newest_unfinished(tmp_path / "runs") == good
    shutil.rmtree(bad)
    shutil.copytree(stopped, bad)
    (bad / "data.json").unlink()
    with pytest.warns(UserWarning, match=r"bad.data\.json: is gone.*; this run is skipped"):
        assert runs.newest_unfinished(tmp_path / "runs") == good


@pytest.mark.skipif(runs.fcntl is None, reason="no locks")
def test_a_run_at_work_blocks_no_other(tmp_path, stopped):
    good = shutil.copytree(stopped, tmp_path / "runs" / "good")
    os.utime(good / CHECKPOINT, (1, 1))
    busy = shutil.copytree(stopped, tmp_path / "runs" / "busy")
    _, run = go_on(busy)
    with run, pytest.warns(UserWarning, match="busy: is being trained by another process; this run is skipped"):
        assert runs.newest_unfinished(tmp_path / "runs") == good
    assert runs.newest_unfinished(tmp_path / "runs") == busy


# --- another start ----------------------------------------------------------------------------------------------------


def test_a_run_killed_before_its_first_checkpoint(tmp_path, monkeypatch):
    """It can be started again in its folder; one with a log, or with a file of somebody's, is not touched."""
    data = write_pairs(tmp_path / "set", stems="abcdefg")
    folder = tmp_path / "run"
    options = ("train", "--data", data, *SMALL, "--steps", 1, "-o", folder)

    def killed(self, trainer):
        raise KeyboardInterrupt

    monkeypatch.setattr(runs.Run, "checkpoint", killed)
    assert run(*options).exit_code == 130
    monkeypatch.undo()
    (folder / "state" / ".octsod-0123.part").touch()
    line = refused("train", "--resume", folder)
    assert f"was stopped before its first checkpoint; start it again with octsod train -c {folder}" in line
    assert runs.startable(folder)
    (folder / "notes.txt").touch()
    assert "exists already and is not empty" in refused(*options)
    (folder / "notes.txt").unlink()
    assert run("train", "-c", folder / "config.toml", "-o", folder).exit_code == 0
    shutil.rmtree(folder / "state")
    assert not runs.startable(folder), "its log is not empty"
    assert "exists already" in refused(*options)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data.json").touch()
    assert not runs.startable(tmp_path / "other")


def test_two_processes(tmp_path):
    """Whoever comes second is told so, and changes nothing, whether the other is at work or has started and stopped."""
    trainer, run = start(tmp_path)
    with run, pytest.raises(FileError, match="is being trained by another process"):
        runs.Run.create(tmp_path, SETTINGS, PICTURES)
    with run:
        pass
    trainer, run = start(tmp_path)
    with run:
        run.checkpoint(trainer)
    before = contents(tmp_path)
    with pytest.raises(FileError, match="another run has started there meanwhile"):
        runs.Run.create(tmp_path, SETTINGS, PICTURES)
    assert contents(tmp_path) == before


def test_settings_from_the_checkpoint(tmp_path):
    """config.toml is made again; a run may be moved."""
    data = write_pairs(tmp_path / "set", stems="abcdefg")
    assert run("train", "--data", data, *SMALL, "--steps", 1, "--split", "3,1", "-o", tmp_path / "run").exit_code == 0
    text = (tmp_path / "run" / "config.toml").read_text()
    (tmp_path / "run").rename(tmp_path / "moved")
    (tmp_path / "moved" / "config.toml").unlink()
    result = run("train", "--resume", tmp_path / "moved", "--steps", 2)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "moved" / "config.toml").read_text() == text.replace("steps = 1", "steps = 2")


@pytest.mark.parametrize("text", ["", "width = 0.2\n", "steps = 4\n"])
def test_a_configuration_that_was_cut(tmp_path, text):
    """What it lacks, the checkpoint knows; half of the length of a run is not mixed with the other."""
    data = write_pairs(tmp_path / "set", stems="abcdefg")
    folder = tmp_path / "run"
    assert run("train", "--data", data, *SMALL, "--epochs", 1, "-o", folder).exit_code == 0
    before = (folder / "config.toml").read_bytes()
    (folder / "config.toml").write_text(text)
    done = run("train", "--resume", folder)
    assert done.exit_code == 0, done.output
    assert ((folder / "config.toml").read_bytes() == before) == ("steps" not in text)
    assert runs.read_checkpoint(folder).steps == (4 if "steps" in text else 3)


def test_fit_notices_other_settings_of_the_optimiser(tmp_path):
    """Those given at first must be the same; those changed since are restored."""
    def trainer(**changed):
        octsod.manual_seed(0)
        recipe = {"lr": 1e-3, "optimizer": "sgd", "momentum": 0.5, **changed}
        return Recipe(**recipe).trainer(octsod.csnet(0.2), total=3)

    first = trainer()
    first.optimizer.groups[0]["momentum"] = 0.25
    first.optimizer.max_norm = 2.0
    assert not fit(first, loader(), tmp_path, stop=lambda: first.steps >= 1)
    for changed, words in (({"lr": 1e-2}, "lr = 0.001, not 0.01"), ({"momentum": 0.9}, "momentum = 0.5, not 0.9")):
        with pytest.raises(FileError, match=f"its optimiser was given .*{words}"):
            fit(trainer(**changed), loader(), tmp_path)
    second = trainer()
    assert fit(second, loader(), tmp_path)
    assert second.optimizer.groups[0]["momentum"] == 0.25 and second.optimizer.max_norm == 2.0
    assert second.optimizer.groups[1]["momentum"] == 0.5
