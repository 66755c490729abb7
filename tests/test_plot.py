"""`octsod plot`: what is read from a run's folder, what the figures show of it, and bad input."""

import json
import shutil
import sys

import numpy as np
import pytest
from commands import refused, run
from PIL import Image
from test_data import write_pairs

import octsod
from octsod.models import Configuration, files
from octsod.models.configuration import block_layer
from octsod.optim import decayed_norms
from octsod.pictures import plots
from octsod.prune import scales as distributions
from octsod.studies import figures
from octsod.studies.history import History, block_channels, read_history

pytest.importorskip("matplotlib", reason="needs the matplotlib package")

FIGURES = ("gammas.png", "spread.png", "channels.png", "mae.png")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """(plain, pruned): a run of two epochs, and one of three of which the first learned channels."""
    root = tmp_path_factory.mktemp("runs")
    data = write_pairs(root / "set", stems="abcdefg")
    options = ("--data", data, "-b", 2, "--size", 32, "--width", 0.2, "--lr", 1e-2, "-q")
    for name, *more in (("plain", "--epochs", 2), ("pruned", "--epochs", 3, "--learn-channels", 2, "--threshold", 1)):
        result = run("train", *options, *more, "-o", root / name)
        assert result.exit_code == 0, result.output
    return root / "plain", root / "pruned"


@pytest.fixture
def copy(runs, tmp_path):
    """A copy of the plain run, to be drawn into and to be damaged."""
    return shutil.copytree(runs[0], tmp_path / "copy", ignore=shutil.ignore_patterns("plots"))


def lines_of(folder, key):
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if key in line]


# --- what a run has recorded ------------------------------------------------------------------------------------------


def test_history(runs):
    plain = read_history(runs[0])
    last = octsod.load(runs[0] / "weights" / "last.safetensors")
    assert list(plain.gammas) == [1, 2] and plain.counts.tolist() == distributions.gammas(last)
    recorded = lines_of(runs[0], "spreads")[-1]["spreads"]
    assert [*plain.spreads.values()] == [*recorded.values()] and len(recorded) == len(decayed_norms(last))
    assert plain.spreads["extractor.stages.2.1.depthwise.1", 1] == recorded["extractor.stages.2.1.depthwise.1.norms.1"]
    assert plain.spreads["extractor.stages.4.3.mix", 0] == recorded["extractor.stages.4.3.mix.norms.0"]
    assert plain.mae == {line["epoch"]: line["mae"] for line in lines_of(runs[0], "mae")} and len(plain.mae) == 2
    assert plain.pruned is None and plain.name == "plain"
    assert plain.full == plain.learned == last.configuration
    summary = plain.summary()
    assert (summary["epochs"], summary["mae"], summary["best_mae"]) == (2, plain.mae[2], min(plain.mae.values()))
    assert summary["spread"] == pytest.approx(np.mean([*plain.spreads.values()]))
    assert summary["below"] == {"1e-3": 0, "1e-10": 0, "1e-20": 0}
    assert json.loads(json.dumps(summary)) == summary


def test_history_of_a_pruned_run(runs):
    """Scales and spreads are of the time before, errors of the time after; a threshold prunes the wide network anew."""
    pruned = read_history(runs[1], "mine")
    wide, last = (octsod.load(runs[1] / "weights" / f"{name}.safetensors") for name in ("wide", "last"))
    assert (pruned.pruned, list(pruned.gammas), list(pruned.mae)) == (1, [1], [1, 2, 3])
    assert pruned.counts.tolist() == distributions.gammas(wide) != distributions.gammas(last)
    assert (pruned.full, pruned.learned, pruned.name) == (wide.configuration, last.configuration, "mine")
    assert pruned.full != pruned.learned
    summary = pruned.summary()
    assert summary["best_mae"] == min(pruned.mae[2], pruned.mae[3]) and summary["epochs"] == 3
    assert summary["channels"] == [channels_in(pruned.full), channels_in(pruned.learned)]
    assert read_history(runs[1], threshold=1e-30).learned == pruned.full
    least = read_history(runs[1], threshold=1e9).learned
    assert {sum(block) for block in block_channels(least).values()} == {1}


def channels_in(configuration):
    return sum(sum(block) for stage in configuration.stages for block in stage)


def recorded_run(folder, model):
    """A run folder of one epoch, as training would leave it."""
    norms = [name for name, module in model.named_modules() if isinstance(module, octsod.nn.NormAct)]
    spreads = {name: 0.5 for name in norms if "fusion" not in name}
    line = {"step": 1, "epoch": 1, "gammas": [1] * (len(distributions.bin_edges()) - 1), "spreads": spreads}
    (folder / "weights").mkdir(parents=True)
    (folder / "log.jsonl").write_text(json.dumps(line) + "\n")
    octsod.save(model, folder / "weights" / "last.safetensors")
    return folder


def test_layers_of_blocks_are_told_by_their_names():
    for variant in ("csnet", "vanilla"):
        c = Configuration.standard(0.2, variant=variant)
        places = [place for layer in c.layers() if (place := block_layer(layer.name))]
        assert places == [(s, b, k) for s, stage in enumerate(c.stages) for b in range(len(stage)) for k in range(3)]
    assert block_layer("fusion.fuse") is block_layer("blocks.0.mix") is None


def test_runs_of_other_networks(runs, tmp_path, monkeypatch):
    """Of an extractor; of a vanilla one, which cannot be pruned; and of one that has blocks but is no CSNet."""
    extractor = octsod.csnet(0.2, variant="extractor")
    extractor.extractor.stages[0][0].mix.norms[0].weight.data[1:] = 0
    vanilla = octsod.csnet(0.2, variant="vanilla")
    folders = [recorded_run(tmp_path / "extractor", extractor), recorded_run(tmp_path / "vanilla", vanilla)]
    pruned, whole = map(read_history, folders)
    assert block_channels(pruned.full)[0, 0] == (2, 2) and block_channels(pruned.learned)[0, 0] == (1, 2)
    assert whole.full == whole.learned == vanilla.configuration
    assert read_history(folders[1], threshold=1e9).learned == vanilla.configuration
    assert ("extractor.stages.1.2.full.1", 0) in whole.spreads

    class Other(octsod.nn.Module):
        def __init__(self):
            self.blocks = [octsod.nn.ILBlock((3,), (4,)), octsod.nn.ILBlock((4,), (4, 2))]

    monkeypatch.setattr(files, "_architectures", dict(files._architectures))
    files.register("Other", lambda *description: Other())
    folders.append(recorded_run(tmp_path / "other", Other()))
    other = read_history(folders[2])
    assert other.full is other.learned is None and len(other.spreads) == 9
    plots = figures.spreads([read_history(runs[0]), other]).axes
    assert [line.get_xdata().size for line in plots[0].lines[:2]] == [18 * 3 + 6] * 2
    assert [text.get_text() for text in plots[-1].get_xticklabels()] == ["", *(f"stage {s}" for s in range(5))]

    result = run("plot", *folders, runs[0], "-o", tmp_path / "plots")
    assert result.exit_code == 0, result.output
    assert f"{folders[2]}: left out of channels.png, mae.png" in result.stderr
    assert {path.name for path in (tmp_path / "plots").iterdir()} == set(FIGURES)
    assert run("plot", folders[1]).exit_code == 0


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_show_what_is_recorded(runs):
    histories = [read_history(folder) for folder in runs]
    drawn = figures.gammas(histories)
    for row, history in enumerate(histories):
        final, course = drawn.axes[2 * row : 2 * row + 2]
        (steps,) = final.patches
        assert (steps.get_data().values == history.counts).all()
        assert (steps.get_data().edges == distributions.bin_edges()).all()
        (mesh,) = course.collections
        shown = np.ma.filled(mesh.get_array(), 0).reshape(len(history.gammas), -1)
        assert (np.nan_to_num(shown) == np.array(list(history.gammas.values()))).all()
        assert any("0.0 % below $10^{-20}$" in text.get_text() for text in final.texts)
        assert history.name in (final.get_title(), final.get_title(loc="left"))

    for branch, plot in enumerate(figures.spreads(histories).axes):
        for line, history in zip(plot.lines, histories, strict=False):  # more lines part the stages
            y = [spread for place, spread in history.spreads.items() if place[-1] == branch]
            shown = line.get_ydata()
            assert shown[np.isfinite(shown)].tolist() == y and len(y) > 30

    drawn = figures.channels(histories)
    expected = [c for h in histories for c in (h.full, h.learned)]
    for branch, plot in enumerate(drawn.axes):
        for bars, configuration in zip(plot.containers, expected, strict=True):
            blocks = [[*block, 0][branch] for block in block_channels(configuration).values()]
            assert [bar.get_height() for bar in bars] == blocks

    (plot,) = figures.mae(histories).axes
    first, second, pruning = plot.lines
    for line, history in ((first, histories[0]), (second, histories[1])):
        assert dict(zip(*line.get_data(), strict=True)) == history.mae
    assert set(pruning.get_xdata()) == {1.5}


def test_names_are_shown_as_they_are(runs, tmp_path):
    """Neither as mathematics, nor hidden as matplotlib hides what starts with an underscore."""
    histories = [read_history(runs[0], name) for name in (r"_a$\b$", "b")]
    for draw in (figures.gammas, figures.spreads, figures.channels, figures.mae):
        plots.write(tmp_path / "x.png", draw, histories)
    legend = figures.mae(histories).axes[0].get_legend()
    assert [text.get_text().strip() for text in legend.get_texts()] == [r"_a\$\b\$", "b"]


def test_one_record_of_vanished_scales(runs, tmp_path):
    """All in one bin, at the end of the axis."""
    history = read_history(runs[0])
    counts = np.zeros_like(history.counts)
    counts[0] = history.counts.sum()
    drawn = figures.gammas([type(history)(**{**vars(history), "gammas": {1: counts}})])
    assert "zeros" in drawn.axes[0].get_xlabel() and drawn.axes[0].get_xlim()[0] == distributions.bin_edges()[0]
    assert any("100.0 % below $10^{-20}$" in text.get_text() for text in drawn.axes[0].texts)


def test_two_scales_that_are_not_the_first():
    """Their names, high and low, are of the first two."""
    spreads = {("extractor.stages.0.0.mix", 0): 0.5, ("extractor.stages.0.0.mix", 2): 0.25}
    plots = figures.spreads([History("odd", {}, spreads, {}, None, None, None)]).axes
    assert [plot.get_title(loc="left") or plot.get_title() for plot in plots] == ["Scale 1/1", "Scale 1/4"]


# --- octsod plot ------------------------------------------------------------------------------------------------------


def test_plot(copy):
    result = run("plot", copy)
    assert result.exit_code == 0, result.output
    first = {name: (copy / "plots" / name).read_bytes() for name in FIGURES}
    for name in FIGURES:
        assert np.asarray(Image.open(copy / "plots" / name).convert("L")).std() > 10
    header, row = result.stdout.splitlines()
    below = [f"|g|<1e{power}" for power in (-3, -10, -20)]
    assert header.split() == ["run", "epochs", *below, "spread", "MAE", "best", "channels"]
    summary = read_history(copy).summary()
    left = f"{summary['channels'][1]} of {summary['channels'][0]}"
    shown = f"copy 2 0.0% 0.0% 0.0% {summary['spread']:.4f} {summary['mae']:.4f} {summary['best_mae']:.4f} {left}"
    assert " ".join(row.split()) == shown
    assert run("plot", copy).exit_code == 0
    assert first == {name: (copy / "plots" / name).read_bytes() for name in FIGURES}  # the same pictures


def test_plot_several(runs, tmp_path):
    folder = tmp_path / "some" / "plots"
    result = run("plot", *runs, "-o", folder, "--json", "--threshold", 1e9)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert [r["name"] for r in facts["runs"]] == ["plain", "pruned"]
    assert [r["channels"][1] for r in facts["runs"]] == [18, 18]  # one per block
    assert facts["figures"] == [str(folder / name) for name in FIGURES]
    assert {path.name for path in folder.iterdir()} == set(FIGURES)
    assert "-o" in refused("plot", *runs)


def test_runs_of_the_same_name_are_told_by_their_paths(runs, copy, tmp_path):
    other = shutil.copytree(copy, tmp_path / "else" / "copy")
    result = run("plot", copy, other, "-o", tmp_path / "plots", "--json")
    assert [r["name"] for r in json.loads(result.stdout)["runs"]] == [str(copy), str(other)]


def test_what_is_not_recorded_is_left_out(copy, runs, tmp_path):
    """A run in its first epoch, in the middle of a line, beside one that is done; then one that has nothing at all."""
    log = copy / "log.jsonl"
    log.write_bytes(log.read_bytes().splitlines(keepends=True)[0] + b'{"step": 2, "ep')
    result = run("plot", copy, runs[0], "-o", tmp_path / "plots")
    assert result.exit_code == 0, result.output
    assert f"{copy}: left out of gammas.png, spread.png, mae.png: nothing" in result.stderr
    assert {path.name for path in (tmp_path / "plots").iterdir()} == set(FIGURES)
    assert result.stdout.splitlines()[1].split()[:8] == ["copy", "0", *["-"] * 6]
    result = run("plot", copy)
    assert result.exit_code == 0 and not (copy / "plots" / "gammas.png").exists()
    (copy / "weights" / "last.safetensors").unlink()
    assert f"{copy}: nothing is recorded yet" in refused("plot", copy)


def test_bad_input(copy, tmp_path, monkeypatch):
    log, weights = copy / "log.jsonl", copy / "weights" / "last.safetensors"
    assert "none: no such run folder" in refused("plot", tmp_path / "none")
    (tmp_path / "empty").mkdir()
    assert "empty: is no run folder: it has no log.jsonl" in refused("plot", tmp_path / "empty")
    whole = log.read_text()
    for number, damaged in ((1, "{" + whole), (2, whole.replace("\n", "\n[1]\n", 1))):
        log.write_text(damaged)
        assert f"log.jsonl: line {number} is damaged" in refused("plot", copy)
    for key, value in (("gammas", [1, 2]), ("mae", "low"), ("spreads", 3), ("spreads", {"mix": 1}), ("pruned", True)):
        lines = [json.loads(line) for line in whole.splitlines()]
        last = next((line for line in reversed(lines) if key in line), lines[-1])
        last[key] = value
        if key == "pruned":
            del last["epoch"]
        log.write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert "log.jsonl: the line of step 6 is damaged" in refused("plot", copy)
    log.write_text(whole)
    weights.write_bytes(weights.read_bytes()[:100])
    assert "last.safetensors: not a weight file" in refused("plot", copy)
    assert "--threshold" in refused("plot", copy, "--threshold", 0)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert "`pip install matplotlib`" in refused("plot", copy)
