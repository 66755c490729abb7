"""`octsod train` as people call it: settings, run folder, resume, interruption, and bad input."""

import errno
import json
import os
import pathlib
import re
import shutil
import signal
import time

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

import numba
import numpy as np
import pytest
from commands import octsod_process, refused, run
from PIL import Image
from test_data import write_pairs

import octsod
from octsod import nn, training
from octsod.cli.interruption import INTERRUPTED, RESUMABLE
from octsod.cli.progress import Progress, compilation, duration
from octsod.threads import available_cpus
from octsod.training import pictures, runs, settings

SMALL = ("-b", 2, "--size", 32, "--width", 0.2)


@pytest.fixture
def data(tmp_path):
    """Seven pictures with masks, of which one is held out: three steps of two per epoch."""
    return write_pairs(tmp_path / "set", stems="abcdefg")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """(data, run folder) of a run of four steps that is done."""
    root = tmp_path_factory.mktemp("finished")
    data = write_pairs(root / "set", stems="abcdefg")
    result = run("train", "--data", data, *SMALL, "--steps", 4, "--seed", 5, "--lr", 1e-3, "-o", root / "run")
    assert result.exit_code == 0, result.output
    assert result.stdout == f"{root / 'run'}\n"
    return data, root / "run"


def settings_of(*arguments):
    result = run("train", "--print-config", *arguments)
    assert result.exit_code == 0 and result.stderr == "", result.output
    return tomllib.loads(result.stdout)


def write_toml(path, text):
    path.write_text(text)
    return path


# --- settings ---------------------------------------------------------------------------------------------------------


def test_defaults(data):
    paper = {"epochs": 300, "batch_size": 24, "lr": 1e-4, "schedule": "milestones", "size": 224, "width": 1.0,
             "split": [0.5, 0.5], "seed": 0, "weight_decay": 0.005, "decay": "dynamic",
             "decay_strength": 3.0, "task": "saliency", "variant": "csnet", "loss": "bce",
             "side_outputs": False, "scale_crop": 1.0, "colour": 0.0, "optimizer": "adam",
             "save_every": 100, "save_minutes": 10.0, "device": "cpu"}  # fmt: skip
    assert settings_of("--data", data, "--threads", 3) == {"data": str(data), "threads": 3, **paper}
    del paper["epochs"], paper["decay_strength"]
    drawn = {**paper, **settings.EMBEDDED, "threads": 3, "lr": 0.25}
    assert settings_of("--threads", 3, "--lr", 0.25) == drawn


def test_precedence(tmp_path, data, monkeypatch):
    """Option, environment, file, default."""
    monkeypatch.delenv("OCTSOD_THREADS", raising=False)
    file = write_toml(tmp_path / "c.toml", "threads = 2\nsize = 64\nlr = 1\nsplit = [3, 1]\nepochs = 7\nseed = 4\n")
    found = settings_of("--config", file, "--size", 32, "--data", data)
    assert (found["threads"], found["size"], found["lr"], found["split"]) == (2, 32, 1.0, [3, 1])
    assert (found["epochs"], found["seed"], found["batch_size"]) == (7, 4, 24)
    monkeypatch.setenv("OCTSOD_THREADS", "5")
    assert settings_of("--config", file)["threads"] == 5
    assert settings_of("--config", file, "--threads", 6)["threads"] == 6
    longer = settings_of("--config", file, "--steps", 9)  # an option for one length replaces the file's other one
    assert longer["steps"] == 9 and "epochs" not in longer
    assert settings_of("--epochs", 2).get("steps") is None
    monkeypatch.setenv("OCTSOD_THREADS", "many")
    assert "OCTSOD_THREADS" in refused("train", "--print-config")


def test_decay(tmp_path):
    """Its strength is that of its kind, unless given with it."""

    def found(*arguments):
        settings = settings_of(*arguments)
        return settings["decay"], settings.get("decay_strength")

    assert found("--decay", "standard") == ("standard", 5e-3) and found("--decay", "none") == ("none", None)
    assert found("--decay", "dynamic", "--decay-strength", 0.5) == ("dynamic", 0.5)
    file = write_toml(tmp_path / "c.toml", 'decay = "dynamic"\ndecay_strength = 7.0\n')
    assert found("-c", file) == ("dynamic", 7) and found("-c", file, "--decay-strength", 2) == ("dynamic", 2)
    assert found("-c", file, "--decay", "standard") == ("standard", 5e-3)
    assert found("-c", file, "--decay", "none") == ("none", None)
    assert "--decay none" in refused("train", "--decay", "none", "--decay-strength", 1)


def test_finetune(tmp_path, data):
    """Other defaults; what is given comes first."""

    def found(*arguments):
        settings = settings_of("--data", data, "--finetune", *arguments)
        names = ("epochs", "steps", "lr", "schedule", "decay", "decay_strength")
        return [settings.get(name) for name in names]

    init = ("--init", tmp_path / "w.safetensors")
    assert found(*init) == [20, None, 1e-6, "constant", "standard", 5e-3]
    assert found(*init, "--lr", 1e-5, "--steps", 9) == [None, 9, 1e-5, "constant", "standard", 5e-3]
    file = write_toml(tmp_path / "c.toml", 'decay = "none"\nsteps = 3\n')
    assert found(*init, "-c", file) == [None, 3, 1e-6, "constant", "none", None]
    assert "--finetune needs --init" in refused("train", "--finetune", "--data", data)


def test_a_runs_own_configuration_can_be_given_back(finished):
    _, folder = finished
    text = (folder / "config.toml").read_text()
    assert run("train", "--print-config", "--config", folder / "config.toml").stdout == text
    assert run("train", "--print-config", "--resume", folder).stdout == text


def test_bad_configuration_files(tmp_path):
    def message(text, *arguments):
        line = refused("train", "--print-config", "-c", write_toml(tmp_path / "c.toml", text), *arguments)
        assert "c.toml: " in line
        return line

    assert "`batchsize` is no setting; did you mean `batch_size`?" in message("batchsize = 3")
    assert "`xyz` is no setting; known are task, data, images, masks, val, " in message("xyz = 3")
    assert "`output` is no setting" in message('output = "runs/a"')
    assert "`lr` is 'fast'; expected a number" in message('lr = "fast"')
    for stages in ("[3, 1e999]", "[3, 4.5]", "[3, true]", "[3, [4]]"):  # nothing is rounded to a stage
        assert "is not numbers of stages such as 2,3,4" in message(f"fused = {stages}")
    for shares in (f"[1, 1{400 * '0'}]", "[1, true]", "[1, nan]"):
        assert "is not one to three shares" in message(f"split = {shares}")
    assert "`epochs` is True; expected an integer" in message("epochs = true")
    assert "`epochs` is 2.5; expected an integer" in message("epochs = 2.5")
    assert "`data` is 3; expected a string" in message("data = 3")
    assert "`split`" in message("split = [0, 0]") and "`split`" in message('split = ["a"]')
    assert "`lr`" in message("lr = nan") and "`size`" in message("size = 3")
    assert "`data`" in message('data = "none"') and "`schedule`" in message('schedule = "linear"')
    assert "`decay_strength` is of no use with `decay` none" in message('decay = "none"\ndecay_strength = 1')
    assert "is no TOML" in message("lr == 3")
    for text in ("lr = " + "[" * 5000, "lr = " + "[" * 5000 + "]" * 5000, "a = " + "{a=" * 4000 + "1" + "}" * 4000):
        assert message(text).endswith("c.toml: is no TOML: it is nested too deeply.")
    (tmp_path / "c.toml").write_bytes(b"# \xe9")
    assert "is no UTF-8 text (byte 3); save it as UTF-8" in refused("train", "-c", tmp_path / "c.toml")
    assert "none.toml" in refused("train", "-c", tmp_path / "none.toml")


# --- a run ------------------------------------------------------------------------------------------------------------


def test_train(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (data / "masks" / "c.png").unlink()
    options = (*SMALL, "--split", "3,1", "--epochs", 2, "--seed", 5)
    result = run("train", "--data", "set", *options, "-v")
    assert result.exit_code == 0, result.output
    folder = pathlib.Path(result.stdout.strip())
    assert folder.parent == pathlib.Path("runs") and folder.name.endswith("-set")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    assert [line["step"] for line in lines if "max_f" in line] == [2, 4]
    held_out = json.loads((folder / "data.json").read_text())["validation"]
    assert len(held_out) == 1 and held_out[0] in "abdefg"
    environment = json.loads((folder / "env.json").read_text())
    assert environment["versions"]["octsod"] == octsod.__version__
    assert environment["cpus"] and environment["available_cpus"] == available_cpus()
    network = octsod.load(folder / "weights" / "last.safetensors")
    assert network.configuration.stages[0] == ((3, 1),) and network.size == 32
    for name in ("curves", "predictions"):
        assert np.asarray(Image.open(folder / "plots" / f"{name}.png")).std() > 10
    for words in (
        "5 pictures to train on, 1 held out", "left out for want of a partner: c.jpg", f"run folder {folder}",
        "step 1/4", "step 4/4", "images/s", "wait ", "left  epoch 1", "epoch 2: max F 0.", "4 steps in 0:",
        "waiting for data", "peak memory",
    ):  # fmt: skip
        assert words in result.stderr, words

    again = run("train", "--config", folder / "config.toml", "-o", "again", "-q")
    assert again.exit_code == 0 and again.stderr == "" and again.stdout == "again\n"
    first, second = (runs.read_checkpoint(f).state for f in (folder, "again"))
    assert all((second[name] == array).all() for name, array in first.items())
    assert "not empty" in refused("train", "--data", data, *SMALL, "-o", "again")


@numba.njit
def _some_kernel(x):
    return x + 1


def test_compilation_is_shown(capsys):
    with Progress(2, "step", interval=0) as progress, compilation(progress) as report:
        assert not report()
        _some_kernel(1)
        assert report()
        assert not report()
    during, after = capsys.readouterr().err.splitlines()
    assert during == "step 0/2  compiling kernels: test_train.some_kernel ..."
    assert re.fullmatch(r"1 kernel compiled in \d+ s", after)


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (754, "12:34"), (3723, "1:02:03")])
def test_duration(seconds, text):
    assert duration(seconds) == text


def test_learn_channels(tmp_path, data):
    options = ("train", "--data", data, *SMALL, "--epochs", 2)
    result = run(*options, "--learn-channels", 1, "--threshold", 1.001, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    line = next(line for line in result.stderr.splitlines() if "pruned" in line)
    model = octsod.load(tmp_path / "run" / "weights" / "last.safetensors")
    assert line.startswith("epoch 2: pruned, ") and f" -> {octsod.complexity(model).parameters:,} parameters" in line
    assert octsod.complexity(model).parameters < octsod.complexity(octsod.csnet(0.2)).parameters
    resumed = run("train", "--resume", tmp_path / "run", "--epochs", 3)
    assert resumed.exit_code == 0, resumed.output
    settings = settings_of("--data", data, "--learn-channels")
    assert (settings["learn_channels"], settings["threshold"]) == (20, 1e-20)
    assert "finetuning alone" in refused(*options, "--learn-channels", 2, "-o", tmp_path / "other")
    assert "--threshold needs --learn-channels" in refused(*options, "--threshold", 1)


def test_validation_folder(tmp_path, data):
    other = write_pairs(tmp_path / "other", stems="xy")
    result = run("train", "--data", data, "--val", other, *SMALL, "--steps", 1, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "7 pictures to train on, 2 of " in result.stderr
    names = json.loads((tmp_path / "run" / "data.json").read_text())
    assert names == {"training": [*"abcdefg"], "validation": ["x", "y"]}
    assert "--val needs --data" in refused("train", "--val", other)


def test_validation_on_pictures_that_are_trained_on(tmp_path, data):
    """It is said, for links as well; equal copies are other files."""
    (tmp_path / "link").symlink_to(data)
    mixed = write_pairs(tmp_path / "mixed", stems="xyz")
    (mixed / "images" / "x.jpg").unlink()
    (mixed / "images" / "x.jpg").symlink_to(data / "images" / "a.jpg")
    other = shutil.copytree(data, tmp_path / "other")
    for val, count, of, such in (
        (data, 7, 7, "a.jpg"), (tmp_path / "link", 7, 7, "a.jpg"), (mixed, 1, 3, "a.jpg"), (other, 0, 7, ""),
    ):
        result = run("train", "--data", data, "--val", val, *SMALL, "--steps", 1, "-o", tmp_path / "run", "-q")
        assert result.exit_code == 0, result.output
        said = (
            f"Warning: {val}: {count} of the {of} pictures to validate on are also trained on, such as "
            f"{os.path.realpath(data / 'images' / such)}; their scores say little about other pictures.\n"
        )
        assert result.stderr == (said if count else "")
        shutil.rmtree(tmp_path / "run")


def test_larger_pictures_are_announced(tmp_path, data):
    """In the log, on the screen, and again by a run that is resumed just there."""
    options = ("--data", data, *SMALL, "--size", "32:0,48:0.5", "--save-every", 1)
    result = run("train", *options, "--steps", 4, "-o", tmp_path / "run")
    said = "epoch 1: pictures of 48x48 pixels from here on; earlier scores no longer count"
    assert result.exit_code == 0 and result.stderr.count(said) == 1, result.output
    lines = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    assert {line["step"]: line["resized"] for line in lines if "resized" in line} == {3: [32, 48]}

    seen = []
    given = training.resolve({"data": data, "size": "32:0,48:0.5", "batch_size": 2, "width": 0.2, "steps": 4})
    assert not training.conduct(given, tmp_path / "cut", on_line=seen.append, stop=lambda: len(seen) >= 2)
    assert runs.read_checkpoint(tmp_path / "cut").steps == 2
    resumed = run("train", "--resume", tmp_path / "cut")
    assert resumed.exit_code == 0 and resumed.stderr.count(said) == 1, resumed.output


def test_smaller_pictures_are_announced(tmp_path, data):
    options = ("--data", data, *SMALL, "--size", "48:0,32:0.5", "--steps", 2)
    said = run("train", *options, "-o", tmp_path / "run").stderr
    assert "pictures of 32x32 pixels from here on; scores at larger sizes count for more" in said


def test_a_longer_run_may_go_back_to_a_smaller_size(tmp_path, data):
    options = ("--data", data, *SMALL, "--size", "32:0,48:0.5", "--epochs", 2)
    assert run("train", *options, "-o", tmp_path / "run").exit_code == 0
    longer = run("train", "--resume", tmp_path / "run", "--epochs", 6, "-q")
    assert longer.exit_code == 0, longer.output
    changes = "pictures of 32 pixels, not 48, and a learning rate of 0.0001, not 1e-06"
    said = f"goes on with {changes}: sizes and schedule go by the length of a run, now 18 steps."
    assert longer.stderr == f"Warning: {tmp_path / 'run'}: {said}\n"
    again = run("train", "--resume", tmp_path / "run", "--epochs", 7, "-q")  # 18 of 21 steps are made
    assert again.exit_code == 0 and again.stderr == ""
    lines = map(json.loads, (tmp_path / "run" / "log.jsonl").read_text().splitlines())
    sizes = {line["step"]: line["size"] for line in lines if "size" in line}
    assert sizes == {3: 32, 6: 48, 9: 32, 12: 48, 15: 48, 18: 48, 21: 48}


def test_init(tmp_path, data, finished):
    """Weights say what the network is; a learned layer configuration survives."""
    weights = finished[1] / "weights" / "last.safetensors"
    options = ("--data", data, "-b", 2, "--size", 48, "--init", weights)
    result = run("train", *options, "--steps", 1, "-o", tmp_path / "run")
    assert result.exit_code == 0, result.output
    started = octsod.load(tmp_path / "run" / "weights" / "last.safetensors")
    assert started.configuration == octsod.load(weights).configuration
    assert (started.size, octsod.load(weights).size) == (48, 32)  # that of its last training
    assert "width" not in (tmp_path / "run" / "config.toml").read_text()
    lines = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    before = (finished[1] / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[0])["loss"] < json.loads(before[0])["loss"]
    for option, value in (("--width", 1), ("--split", "1,1")):
        assert option in refused("train", *options, option, value)
    assert "none.safetensors" in refused("train", "--data", data, *SMALL[:4], "--init", tmp_path / "none.safetensors")
    assert not (tmp_path / "runs").exists()


def test_embedded_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pictures, "EMBEDDED_PICTURES", 6)
    result = run("train", *SMALL, "--steps", 1)
    assert result.exit_code == 0, result.output
    assert "5 drawn pictures to train on, 1 held out" in result.stderr
    folder = pathlib.Path(result.stdout.strip())
    assert folder.name.endswith("-drawn") and len(json.loads((folder / "data.json").read_text())["training"]) == 5


# --- resume -----------------------------------------------------------------------------------------------------------


def test_resume(tmp_path, data, finished, monkeypatch):
    """A run that was killed goes on where it was, and ends as one that nothing stopped; then it is made longer."""
    monkeypatch.chdir(tmp_path)
    straight = finished[1]
    real = runs.Run.log

    def log(self, line):
        real(self, line)
        if line["step"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(runs.Run, "log", log)
    options = ("--data", data, *SMALL, "--seed", 5, "--lr", 1e-3)
    killed = run("train", *options, "--steps", 4, "-o", "runs/a")
    assert killed.exit_code == 130 and killed.stderr.endswith("Interrupted.\n")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    result = run("train", "--resume", "auto", *options, "--steps", 4)
    assert result.exit_code == 0, result.output
    assert result.stdout == "runs/a\n" or result.stdout == f"{pathlib.Path('runs/a')}\n"
    ours, theirs = runs.read_checkpoint("runs/a"), runs.read_checkpoint(straight)
    assert all((ours.state[name] == array).all() for name, array in theirs.state.items())
    assert "no unfinished run" in refused("train", "--resume", "auto")
    again = run("train", "--resume", "runs/a")
    done = f"{pathlib.Path('runs/a')}: is finished after 4 steps; a larger --epochs or --steps makes it longer"
    assert again.exit_code == 0 and done in again.stderr

    longer = run("train", "--resume", "runs/a", "--epochs", 2, "--threads", 2)
    assert longer.exit_code == 0, longer.output
    assert runs.read_checkpoint("runs/a").steps == 6
    text = (tmp_path / "runs" / "a" / "config.toml").read_text()
    assert "epochs = 2" in text and "threads = 2" in text and "steps" not in text


def test_resume_bad_input(tmp_path, finished):
    data, folder = finished
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def message(*arguments, code=2):
        line = refused("train", "--resume", folder, *arguments, code=code)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        return line

    assert "none: no such run folder" in refused("train", "--resume", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "holds no checkpoint" in refused("train", "--resume", tmp_path / "empty")
    assert "was started with width = 0.2, not 0.4" in message("--width", 0.4, "--steps", 9)
    assert "lr = 0.001, not 0.5; seed = 5, not 6" in message("--lr", 0.5, "--seed", 6, "--steps", 9)
    assert "leave --recipe, --config and --output out" in message("-o", tmp_path / "other")
    assert "leave --recipe, --config and --output out" in message("-c", folder / "config.toml")
    assert "was started with init = None, not" in message("--init", folder / "weights" / "last.safetensors")
    picture = data / "images" / "a.jpg"
    picture.rename(data / "images" / "new.jpg")
    try:
        assert "lacks 1 of the pictures that the run was started with, such as a" in message("--steps", 9)
    finally:
        (data / "images" / "new.jpg").rename(picture)


def test_resume_of_a_damaged_run(tmp_path, finished):
    folder = finished[1]
    other = tmp_path / "run"
    for part in ("config.toml", "data.json", "env.json", "log.jsonl", runs.CHECKPOINT):
        (other / part).parent.mkdir(parents=True, exist_ok=True)
        (other / part).write_bytes((folder / part).read_bytes())
    config = (other / "config.toml").read_text()
    (other / "config.toml").write_text(config.replace("width = 0.2", "width = 0.3"))  # as of another network
    assert "width = 0.2, not 0.3" in refused("train", "--resume", other, "--steps", 9)
    (other / "config.toml").write_text("lr = ")
    assert "config.toml: " in refused("train", "--resume", other, "--steps", 9)
    (other / "config.toml").write_text(config)
    (other / "data.json").write_text("{")
    assert "data.json: " in refused("train", "--resume", other, "--steps", 9)
    whole = (other / runs.CHECKPOINT).read_bytes()
    (other / runs.CHECKPOINT).write_bytes(whole[: len(whole) // 2])
    assert "checkpoint.safetensors: not a checkpoint of octsod's" in refused("train", "--resume", other, "--steps", 9)


# --- what goes wrong --------------------------------------------------------------------------------------------------


def test_bad_input(tmp_path, data):
    assert "none" in refused("train", "--data", tmp_path / "none")
    target = tmp_path / "run"
    (tmp_path / "empty").mkdir()
    assert "images with masks" in refused("train", "--data", tmp_path / "empty", "-o", target)
    write_pairs(tmp_path / "one", stems="a")
    assert "without --val, two are needed" in refused("train", "--data", tmp_path / "one", "-o", target)
    for mask in (write_pairs(tmp_path / "apart") / "masks").iterdir():
        mask.rename(mask.with_stem(mask.stem + "_mask"))
    assert "has a mask in" in refused("train", "--data", tmp_path / "apart", "-o", target)
    wrong = {"--steps": [0], "--epochs": [0], "--batch-size": [0], "--lr": [0, "nan"], "--size": [40, 0],
             "--seed": [-1], "--schedule": ["linear"], "--threads": [0]}  # fmt: skip
    for option, values in wrong.items():
        for value in values:
            assert option in refused("train", "--data", data, "-b", 2, option, value, "-o", target)
    assert not target.exists()


def test_bad_pictures(tmp_path, data):
    options = ("--data", data, *SMALL, "--epochs", 1, "-q")
    Image.new("L", (30, 30)).save(data / "masks" / "b.png")
    line = refused("train", *options, "-o", tmp_path / "size")
    assert "b.png: the mask is 30x30, but its picture b.jpg is 40x30" in line
    (data / "images" / "b.jpg").write_text("not a picture")
    assert "b.jpg" in refused("train", *options, "-o", tmp_path / "broken")
    assert not (tmp_path / "size").exists() and not (tmp_path / "broken").exists()


def test_divergence(tmp_path, data):
    options = ("--data", data, *SMALL, "--steps", 4, "-q", "-o", tmp_path / "run")
    line = refused("train", *options, "--lr", 1e38, code=1)
    assert "stopped in step 2: the loss is" in line and "first number that is not finite" in line
    assert line.endswith(f"the checkpoint of step 0 in {tmp_path / 'run'} is intact.")
    assert len((tmp_path / "run" / "log.jsonl").read_text().splitlines()) == 1


def test_full_disk(tmp_path, data, monkeypatch):
    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    line = refused("train", "--data", data, *SMALL, "-q", "-o", tmp_path / "run")
    assert "run: cannot be written: No space left on device" in line
    assert not [path for path in (tmp_path / "run").rglob("*") if path.is_file() and path.stat().st_size]


def interrupted(tmp_path, data, *numbers):
    """Exit code and standard error of a training that gets signals in the middle of a step."""
    log = tmp_path / "run" / "log.jsonl"
    process = octsod_process("train", "--data", data, *SMALL, "--epochs", 100_000, "-o", tmp_path / "run")
    deadline = time.monotonic() + 120
    while not (log.exists() and log.stat().st_size) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    for number in numbers:
        process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert out == ""
    return process.returncode, err


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGINT to send")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75)])
def test_interruption(tmp_path, data, number, code):
    """The step is finished, the checkpoint is written, and what is printed goes on from there."""
    found, err = interrupted(tmp_path, data, number)
    assert found == code, err
    assert err.endswith(f"Interrupted. Go on with: octsod train --resume {tmp_path / 'run'}\n")
    assert "Finishing this step" in err
    by_hand = number == signal.SIGINT
    assert ("a second Ctrl-C stops at once" in err, "SIGTERM: Finishing" in err) == (by_hand, not by_hand), err
    checkpoint = runs.read_checkpoint(tmp_path / "run")
    steps = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    assert checkpoint.steps == max(line["step"] for line in steps) > 0
    result = run("train", "--resume", tmp_path / "run", "--steps", checkpoint.steps + 1)
    assert result.exit_code == 0, result.output


def test_exit_codes_are_told():
    said = " ".join(run("train", "--help").stdout.split())
    assert f"{INTERRUPTED}, stopped by Ctrl-C; {RESUMABLE}, stopped by SIGTERM" in said


def test_a_second_interrupt_stops_at_once(tmp_path, data, monkeypatch):
    """In the middle of a step, which is not finished; those before it are in the checkpoint."""
    forward = nn.Conv2d.forward
    seen = []

    def interrupting(self, x):
        seen.append(x)
        if len(seen) == 2:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        return forward(self, x)

    monkeypatch.setattr(nn.Conv2d, "forward", interrupting)
    before = signal.getsignal(signal.SIGINT)  # where a shell has put us into the background, it is ignored
    result = run("train", "--data", data, *SMALL, "-o", tmp_path / "run")
    assert result.exit_code == 130 and result.stderr.endswith("Interrupted.\n")
    assert runs.read_checkpoint(tmp_path / "run").steps == 1
    assert "Go on with: octsod train --resume" in result.stderr
    assert signal.getsignal(signal.SIGINT) is before
