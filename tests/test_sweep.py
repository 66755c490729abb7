"""`octsod sweep`: points as if trained by hand, going on where it was stopped, and bad input."""

import json
import shutil
import signal

import pytest
from commands import refused, run
from PIL import Image
from test_data import write_pairs

import octsod
from octsod import prune, training
from octsod.data import FolderDataset
from octsod.studies import figures
from octsod.training import runs

pytest.importorskip("matplotlib", reason="needs the matplotlib package")

NAMES = ["dynamic-0", "dynamic-0.5"]


@pytest.fixture(scope="module")
def options(tmp_path_factory):
    """Of a training of three steps."""
    data, val = (write_pairs(tmp_path_factory.mktemp("data"), stems=stems) for stems in ("abcdef", "xy"))
    return ("--", "--data", data, "--val", val, "-b", 2, "--size", 32, "--width", 0.2, "--lr", 1e-2, "--steps", 3)


def sweep(folder, options, *more):
    return run("sweep", "--lambda", "0,0.5", "--threshold", 1, "-o", folder, *more, *options)


def points(folder):
    return json.loads((folder / "results.json").read_text())["points"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory, options):
    """The folder of a sweep of two points that nothing interrupted, and what it printed."""
    folder = tmp_path_factory.mktemp("sweeps") / "straight"
    result = sweep(folder, options)
    assert result.exit_code == 0, result.output
    return folder, result


def test_points(straight, options):
    """Each is what training, pruning and scoring one after the other give."""
    folder, result = straight
    rows = points(folder)
    assert [(row["run"], row["decay"], row["lambda"]) for row in rows] == [
        ("dynamic-0", "dynamic", 0), ("dynamic-0.5", "dynamic", 0.5)
    ]  # fmt: skip
    for row in rows:
        settings = row["settings"]
        assert (settings["weight_decay"], settings["decay_strength"]) == (row["lambda"], 3) and settings["steps"] == 3
        weights = folder / row["run"] / "weights"
        last, pruned = (octsod.load(weights / f"{name}.safetensors") for name in ("last", "pruned"))
        expected = prune.apply(last, prune.plan(last, threshold=1))
        assert all((array == expected.state_dict()[name]).all() for name, array in pruned.state_dict().items())
        cost, before = octsod.complexity(pruned), octsod.complexity(last)
        assert (row["parameters"], row["macs"]) == (cost.parameters, cost.macs) and cost.macs < before.macs
        scores = octsod.evaluate(pruned, FolderDataset(options[4]), 32)
        assert (row["max_f"], row["mae"]) == (scores.max_f, scores.mae)
    assert rows[0]["mae"] != rows[1]["mae"]
    assert "dynamic decay, lambda 0.5 (2 of 2)" in result.stderr
    header, *shown = result.stdout.splitlines()
    assert header.split() == ["decay", "lambda", "parameters", "MACs", "max", "F", "MAE"] and len(shown) == 2
    first = rows[0]
    assert shown[0].split() == [
        "dynamic", "0", f"{first['parameters']:,}", f"{first['macs']:,}", f"{first['max_f']:.4f}", f"{first['mae']:.4f}"
    ]  # fmt: skip
    assert Image.open(folder / "sweep.png").size == (1800, 720)


def test_the_figure_shows_the_points(straight):
    rows = points(straight[0])
    drawn = figures.sweep(rows, "weight_decay")
    for plot, cost, unit in zip(drawn.axes, ("macs", "parameters"), (1e6, 1e3), strict=True):
        (line,) = plot.lines
        assert line.get_xdata() == pytest.approx([row[cost] / unit for row in rows])
        assert line.get_ydata().tolist() == [row["max_f"] for row in rows]
        assert [text.get_text() for text in plot.texts] == ["0", "0.5"]


def test_what_is_done_is_not_done_again(straight, options, monkeypatch):
    folder, _ = straight
    contents = (folder / "results.json").read_bytes()
    monkeypatch.setattr(training.Session, "conduct", None)
    again = sweep(folder, options, "--json")
    assert again.exit_code == 0 and "2 of 2 points are done already" in again.stderr, again.output
    assert json.loads(again.stdout) == json.loads(contents)
    assert (folder / "results.json").read_bytes() == contents


@pytest.mark.parametrize("when", ["training", "scoring", "killed"])
def test_interruption(straight, options, tmp_path, monkeypatch, when):
    """In the second point; the same command then ends as if nothing had been."""
    log = runs.Run.log

    def interrupting(self, line):
        log(self, line)
        if self.folder.name == NAMES[1] and line["step"] == 2 and when != "scoring":
            if when == "killed":
                raise KeyboardInterrupt
            signal.raise_signal(signal.SIGINT)
        if self.folder.name == NAMES[1] and "max_f" in line:
            signal.raise_signal(signal.SIGTERM)

    folder = tmp_path / "sweep"
    with monkeypatch.context() as patch:
        patch.setattr(runs.Run, "log", interrupting)
        if when == "killed":  # which leaves no time for that
            patch.setattr(runs.Run, "rescue", lambda self, trainer: None)
        stopped = sweep(folder, options)
    assert stopped.exit_code == (75 if when == "scoring" else 130), stopped.output
    assert stopped.stderr.endswith("Interrupted.\n" if when == "killed" else "Interrupted. The same command goes on.\n")
    assert stopped.stdout == "" and [row["run"] for row in points(folder)] == NAMES[:1]
    assert runs.read_checkpoint(folder / NAMES[1]).steps == {"training": 2, "scoring": 3, "killed": 0}[when]
    result = sweep(folder, options)
    assert result.exit_code == 0, result.output
    assert (folder / "results.json").read_bytes() == (straight[0] / "results.json").read_bytes()
    assert (folder / "sweep.png").read_bytes() == (straight[0] / "sweep.png").read_bytes()


def test_more_points(straight, options):
    """Of another decay, beside those that are there; lambda is then that of the scales, too."""
    folder, _ = straight
    before = (folder / "results.json").read_bytes()
    result = run("sweep", "--lambda", 0.5, "--decay", "standard", "--threshold", 1, "-o", folder, "-q", *options)
    assert result.exit_code == 0 and "left" not in result.stderr, result.output
    rows = points(folder)
    assert [row["run"] for row in rows] == [*NAMES, "standard-0.5"] and rows[:2] == json.loads(before)["points"]
    assert (rows[2]["settings"]["weight_decay"], rows[2]["settings"]["decay_strength"]) == (0.5, 0.5)
    assert len(result.stdout.splitlines()) == 4
    (folder / "results.json").write_bytes(before)


def test_lambda_of_dynamic_decay_and_learned_channels(options, tmp_path):
    more = ("--epochs", 2, "--learn-channels", 1, "--threshold", 1)
    result = run("sweep", "--lambda-d", 0.001, "-o", tmp_path / "s", *options[:-2], *more)
    assert result.exit_code == 0, result.output
    facts = json.loads((tmp_path / "s" / "results.json").read_text())
    (row,) = facts["points"]
    assert (facts["varied"], facts["threshold"], facts["pictures"]) == ("decay_strength", 1, [6, 2])
    assert (row["settings"]["decay_strength"], row["settings"]["weight_decay"]) == (0.001, 0.005)
    last = octsod.load(tmp_path / "s" / "dynamic-0.001" / "weights" / "last.safetensors")
    assert row["parameters"] == octsod.complexity(last).parameters < octsod.complexity(octsod.csnet(0.2)).parameters


def test_divergence_of_a_point_does_not_stop_the_others(straight, options, tmp_path, monkeypatch):
    step = training.Trainer.step

    def diverging(self, *batch):
        if self.optimizer.groups[0]["weight_decay"] == 0:
            raise training.DivergenceError("training stopped in step 1: by the test.")
        return step(self, *batch)

    monkeypatch.setattr(training.Trainer, "step", diverging)
    result = sweep(tmp_path / "s", options)
    assert result.exit_code == 1, result.output
    intact = f"the checkpoint of step 0 in {tmp_path / 's' / NAMES[0]} is intact."
    assert f"Error: dynamic-0: training stopped in step 1: by the test; {intact}\n" in result.stderr
    assert points(tmp_path / "s") == points(straight[0])[1:]


def test_other_settings_are_refused(straight, options, tmp_path):
    folder, _ = straight
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    def message(*arguments):
        line = refused("sweep", "-o", folder, *arguments)
        assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
        return line

    assert "lr = 0.01, not 0.5; other settings" in message("--lambda", 0.5, "--threshold", 1, *options, "--lr", 0.5)
    assert "lr = 0.01, not 0.5" in message("--lambda", 3, "--threshold", 1, *options, "--lr", 0.5)  # of a new point
    assert "threshold = 1.0, not 1e-20" in message("--lambda", 0.5, *options)
    assert "varied = 'weight_decay', not 'decay_strength'" in message("--lambda-d", 3, "--threshold", 1, *options)
    write_pairs(tmp_path / "val", stems="xyz")
    line = message("--lambda", 0.5, "--threshold", 1, *options, "--val", tmp_path / "val")
    assert "pictures = [6, 2], not [6, 3]" in line


def test_runs_without_results(straight, options, tmp_path):
    """They are those of the same settings, if any; what comes after training may be chosen anew."""
    folder = shutil.copytree(straight[0], tmp_path / "s")
    facts = json.loads((folder / "results.json").read_text())
    (folder / "results.json").write_text(json.dumps({**facts, "points": []}))
    for name, value in (("lr", 0.5), ("steps", 9)):
        assert f"{name} = " in refused("sweep", "--lambda", "0,0.5", "-o", folder, *options, f"--{name}", value)
    result = run("sweep", "--lambda", "0,0.5", "-o", folder, *options)
    assert result.exit_code == 0 and "step" not in result.stderr, result.output
    assert json.loads((folder / "results.json").read_text())["threshold"] == prune.THRESHOLD
    assert points(folder)[0]["macs"] > points(straight[0])[0]["macs"]


def test_bad_input(options, tmp_path):
    folder = tmp_path / "s"
    one = ("--lambda", 0.1, "-o", folder)
    assert "either --lambda or --lambda-d" in refused("sweep", "-o", folder, *options)
    assert "either --lambda or --lambda-d" in refused("sweep", *one, "--lambda-d", 1, *options)
    assert "'--lambda'" in refused("sweep", "-o", folder, "--lambda", "1,x", *options)
    assert "'--decay'" in refused("sweep", *one, "--decay", "dynamic,none", *options)
    assert "of dynamic decay alone" in refused("sweep", "-o", folder, "--lambda-d", 1, "--decay", "standard", *options)
    assert "'-o'" in refused("sweep", "--lambda", 1, *options)
    for option, *value in (("--weight-decay", 1), ("--decay", "none"), ("--output", "x"), ("--print-config",), ("-q",)):
        name = {"-q": "--quiet"}.get(option, option)
        assert f"{name} is the sweep's to say" in refused("sweep", *one, *options, option, *value)
    assert "--learn-channels prunes" in refused("sweep", *one, "--threshold", 1, *options, "--learn-channels")
    assert "No such option '--lrr'" in refused("sweep", *one, *options, "--lrr", 1)
    assert "'--steps'" in refused("sweep", *one, "--threshold", 1, *options, "--steps", 0)  # nothing was done before
    folder = tmp_path / "other"
    folder.mkdir()
    (folder / "notes.txt").touch()
    assert "exists already and is no sweep" in refused("sweep", "--lambda", 0.1, "-o", folder, *options)
    for text in ("{", "[]", '{"points": [{"run": "a"}]}'):
        (folder / "results.json").write_text(text)
        assert "results.json: is damaged" in refused("sweep", "--lambda", 0.1, "-o", folder, *options)
