"""`octsod profile`: options, files, exit codes."""

import dataclasses
import io
import json
import os
import shutil
import sys
import types

import pytest
from commands import refused, run
from profiles import profile, row, scaled, typical

import octsod
from octsod.errors import OctsodError
from octsod.profiling import load, save


@pytest.fixture
def saved(tmp_path):
    save(typical(), tmp_path / "a.json")
    return tmp_path / "a.json"


@pytest.fixture
def measured(monkeypatch):
    """Stands in for what measures: notes what it was asked for, and answers at once."""
    calls = []

    def stand_in(name):
        def measure(network, batch_size, size, device, steps):
            calls.append((name, network, batch_size, size, device, steps))
            return typical()

        return measure

    subjects = types.ModuleType("octsod.profiling.subjects")
    subjects.profile_training, subjects.profile_prediction = stand_in("training"), stand_in("prediction")
    monkeypatch.setitem(sys.modules, "octsod.profiling.subjects", subjects)
    return calls


def shown(*arguments, code=0):
    result = run("profile", *arguments)
    assert result.exit_code == code, result.output
    return result.stdout


def test_a_training_step(measured):
    text = shown("--width", 0.2, "--size", 32, "--device", "cpu", "-q")
    ((name, network, *numbers, device, steps),) = measured
    assert (name, *numbers, steps) == ("training", 24, 32, 10) and device.name == "cpu"
    assert isinstance(network, octsod.CSNet) and network.configuration == octsod.csnet(0.2).configuration
    assert "memory; 2.0x faster at its roof, 10 ms of the step" in text and "unaccounted for" in text


def test_a_prediction_of_a_network_with_weights(measured):
    shown("--predict", "--model", "csnet-l", "--batch-size", 2, "--steps", 3, "--device", "cpu")
    ((name, network, *numbers, _, steps),) = measured
    assert (name, numbers[0], steps) == ("prediction", 2, 3) and numbers[1] == network.size
    shown("--predict", "--device", "cpu")
    assert measured[1][2] == 1


def test_all_files_at_once(measured, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the matplotlib package")
    names = {"--json": "a.json", "--trace": "t.json.gz", "--roofline": "r.png", "--shares": "s.svg"}
    options = [part for flag, name in names.items() for part in (flag, tmp_path / name)]
    shown("--device", "cpu", *options)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names.values())
    assert load(tmp_path / "a.json") == typical()
    assert refused("profile", *options).endswith("a.json: exists already; --overwrite replaces it.")
    assert len(measured) == 1
    shown("--device", "cpu", *options, "--overwrite", "-q")


def test_a_file_that_cannot_be_written_costs_no_other(measured, tmp_path, monkeypatch):
    """Nor the table, after minutes of work."""
    from octsod.profiling import files

    monkeypatch.setattr(files, "write_atomically", lambda path, data: (_ for _ in ()).throw(OSError(28, "disk full")))
    result = run("profile", "--device", "cpu", "--json", tmp_path / "a.json", "--trace", tmp_path / "t.json.gz")
    assert result.exit_code == 2 and "a.json: disk full" in result.stderr
    assert (tmp_path / "t.json.gz").exists() and "unaccounted for" in result.stdout


def test_a_profile_is_shown_again_in_other_ways(saved, measured):
    for by, name in (("kernel", "conv2d 8@32"), ("op", "Conv2d (forward)"), ("layer", "net.conv")):
        assert any(line.startswith(name) for line in shown("--load", saved, "--by", by).splitlines())
    lines = shown("--load", saved, "--sort", "name", "--filter", "conv2d", "--top", 1).splitlines()
    assert lines[4].startswith("Python") and lines[6].startswith("2 others")
    assert not measured


@pytest.mark.parametrize("columns, width", [(20, 40), (40, 40), (80, 80), (120, 120), (300, 140)])
def test_tables_are_as_wide_as_the_terminal(columns, width, saved, monkeypatch):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
    for options in (("--load", saved), ("--diff", saved, saved)):
        assert max(map(len, shown(*options).splitlines())) <= 100  # this is no terminal
    monkeypatch.setattr(sys, "stdout", terminal := io.StringIO())
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    assert sys.modules["octsod.cli.profile"]._width() == width


def test_pictures_of_a_saved_profile(saved, tmp_path):
    pytest.importorskip("matplotlib", reason="needs the matplotlib package")
    shown("--load", saved, "--shares", tmp_path / "s.png", "--trace", tmp_path / "t.json", "--overwrite")
    assert (tmp_path / "s.png").exists() and json.loads((tmp_path / "t.json").read_text())


def test_left_out_events_are_told(saved, tmp_path):
    save(dataclasses.replace(typical(), lost=1234), saved)
    result = run("profile", "--load", saved, "--trace", tmp_path / "t.json.gz")
    assert "t.json.gz: lacks 1,234 older events" in result.stderr


@pytest.mark.parametrize("factor, code", [(1.0, 0), (0.5, 0), (1.5, 1)])
def test_exit_codes(factor, code, saved, tmp_path):
    save(scaled(typical(), factor), tmp_path / "b.json")
    text = shown("--diff", saved, tmp_path / "b.json", code=code)
    assert ("slower" in text) == (code == 1) and "the step" in text


def test_threshold(saved, tmp_path):
    save(scaled(typical(), 1.1), tmp_path / "b.json")
    assert "slower" in shown("--diff", saved, tmp_path / "b.json", code=1)
    shown("--diff", saved, tmp_path / "b.json", "--threshold", 0.2)
    assert "not in the range" in refused("profile", "--diff", saved, saved, "--threshold", -1)
    assert "not a finite number" in refused("profile", "--diff", saved, saved, "--threshold", "nan")


def test_other_machines_are_not_compared_unless_asked(saved, tmp_path):
    other = tmp_path / "b.json"
    save(dataclasses.replace(scaled(typical(), 2), subject="another step"), other)
    assert refused("profile", "--diff", saved, other).endswith("The subjects differ: 'a step' and 'another step'.")
    result = run("profile", "--diff", saved, other, "--anyway")
    assert result.exit_code == 1 and "Warning: The subjects differ" in result.stderr


def test_a_single_round_cannot_be_compared(tmp_path):
    for name, ms in (("a.json", 1.0), ("b.json", 2.0)):
        save(profile(row(ms=(ms,))), tmp_path / name)
    assert "A single round tells nothing" in shown("--diff", tmp_path / "a.json", tmp_path / "b.json", code=2)


@pytest.mark.parametrize("options, words", [
    (("my_ops.py:Op",), "Error: my_ops.py:Op: octsod profile takes options alone, and profiles networks. For code of "
     "your own, write `with octsod.profile() as p:` around it, and print(p); `python -m bench kernels --op MODULE:OP` "
     "times an op's kernels."),
    (("--load", "A", "--diff", "A", "A"), "--load shows one profile and --diff compares two; choose one."),
    (("--load", "A", "--width", 1), "--load shows a profile that there is; leave --width out."),
    (("--load", "A", "--predict"), "--load shows a profile that there is; leave --train and --predict out."),
    (("--load", "A", "--json", "x.json"), "--load shows a profile that there is; leave --json out."),
    (("--load", "A", "--overwrite"), "--load shows a profile that there is; leave --overwrite out."),
    (("--diff", "A", "A", "--steps", 3), "--diff compares profiles that there are; leave --steps out."),
    (("--diff", "A", "A", "--trace", "x"), "--diff compares profiles that there are; leave --trace out."),
    (("--diff", "A", "A", "--sort", "time"), "--diff compares profiles that there are; leave --sort out."),
    (("--threshold", 0.1), "--threshold is for --diff; leave --threshold out."),
    (("--load", "A", "--anyway"), "--anyway is for --diff; leave --anyway out."),
    (("--model", "csnet-l", "--width", 1), "--model already determines the network; leave --width out."),
    (("--json", "x", "--trace", "./x"), "--json and --trace name the same file, x."),
    (("--roofline", "x.jpg"), "Invalid value for --roofline: x.jpg: name a .png or .svg file."),
    (("--json", "none/x"), "none: no such folder."),
    (("--by", "colour"), "'colour' is not one of 'kernel', 'op', 'layer', 'row'."),
    (("--steps", 0), "0 is not in the range 1<=x<=100000."),
    (("--size", 33), "33 is not a multiple of 16, as this network needs."),
    (("--device", "tpu"), "'tpu' is not"),
])  # fmt: skip
def test_options_that_make_no_sense(options, words, saved, tmp_path, monkeypatch, measured):
    monkeypatch.chdir(tmp_path)
    assert words in refused("profile", *(saved if part == "A" else part for part in options))
    assert not measured


def test_damaged_files(saved):
    data = saved.read_bytes()
    saved.write_bytes(data[:200])
    assert refused("profile", "--load", saved).startswith(f"Error: {saved}: is no profile, or a damaged one")
    assert refused("profile", "--diff", saved, saved).startswith(f"Error: {saved}: is no profile, or a damaged one")


def test_without_matplotlib(measured, tmp_path, monkeypatch):
    """It is said before any work."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    line = refused("profile", "--roofline", tmp_path / "r.png")
    assert line == "Error: figures need the matplotlib package; `pip install matplotlib` brings it." and not measured


def test_help_names_the_way_to_profile_own_code_and_the_roofs():
    text = " ".join(run("profile", "--help").output.split())
    assert "For code of your own, there is `with octsod.profile() as p:` in Python." in text
    assert "unless the whole is faster" in text
    roofs = [text.index(f" {roof}, ") for roof in ("memory", "caches", "arithmetic", "launches")]
    assert roofs == sorted(roofs) and roofs[0] > text.index("Four roofs are measured in the same run: ")


def test_errors_while_measuring(measured, monkeypatch):
    def fail(*_):
        raise OctsodError("no.")

    monkeypatch.setattr(sys.modules["octsod.profiling.subjects"], "profile_training", fail)
    assert refused("profile", "--device", "cpu", "-q") == "Error: no."
