"""The benchmarks: rows, comparisons, children, refusal of results that differ. Times are never asserted."""

import functools
import importlib
import json
import os
import re

import click
import numpy as np
import pytest
from click.testing import CliRunner

import octsod

pytest.importorskip("bench", reason="bench/ is not here: run from a checkout")

from bench_checks import TINY, a_row
from fake_peers import counting, dying, dying_later, failing

from bench import (
    command,
    implementations,
    network,
    problems,
    ratios,
    report,
    rows,
)
from bench.agreement import DisagreementError, agreement
from bench.children import Child, ChildError, interleaved
from bench.implementations import Implementation

cpu = importlib.import_module("octsod.kernels.cpu")

pytestmark = pytest.mark.usefixtures("restored")


# Rows ----------------------------------------------------------------------------------------------------------------


def test_a_row_has_median_and_quartiles(tmp_path):
    row = rows.row("train/x1/b24", "octsod", 2, [5.0, 1.0, 2.0, 4.0, 3.0], peak_rss_mb=7.0)
    assert {key: row[key] for key in ("case", "impl", "threads", "median_ms", "iqr_ms", "samples", "peak_rss_mb")} == {
        "case": "train/x1/b24", "impl": "octsod", "threads": 2, "median_ms": 3000, "iqr_ms": 2000, "samples": 5,
        "peak_rss_mb": 7.0,
    }  # fmt: skip
    assert row["versions"]["numpy"] == np.__version__ and "cores" in row["machine"] and row["date"] > "2026"
    rows.write_rows(tmp_path / "a.json", [row, row])
    assert rows.read_rows(tmp_path / "a.json") == [row, row] == json.loads((tmp_path / "a.json").read_text())


def test_processors_that_are_not_granted(monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 64)
    for granted, end in ((64, ", 64 cores"), (2, ", 64 cores, 2 of them granted")):
        monkeypatch.setattr("octsod.threads.available_cpus", lambda granted=granted: granted)
        assert rows.machine().endswith(end)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("{", "not JSON"),
        ("{}", "not a list"),
        ("[3]", "row 0 lacks 'case'"),
        (json.dumps([a_row(), {**a_row(), "median_ms": "fast"}]), "row 1 lacks 'median_ms'"),
    ],
)
def test_a_file_that_holds_no_rows(tmp_path, text, word):
    (tmp_path / "base.json").write_text(text)
    done = CliRunner().invoke(network.infer, ["--compare", str(tmp_path / "base.json")])
    assert done.exit_code == 1 and "base.json" in done.stderr and word in done.stderr


def test_comparison():
    base = [a_row(median=3.0), a_row(impl="torch", median=8.0, machine="A"), a_row(threads=1)]
    lines = rows.comparison([a_row(median=2.0, machine="B"), a_row(case="infer/x1/b1")], base)
    assert [cell.strip() for cell in lines[2].split("|")[2:-1]] == ["octsod", "2", "3 ms", "2 ms", "1.50x"]
    assert len(lines) == 5
    assert lines[3].startswith("not in the base: infer/x1/b1, octsod") and "A; B" in lines[4]


def test_table_is_markdown():
    assert rows.table(("name", "ms"), [("a", 1.5), ("bc", None)]) == [
        "| name |  ms |",
        "|------|----:|",
        "| a    | 1.5 |",
        "| bc   |     |",
    ]


# Ratios --------------------------------------------------------------------------------------------------------------


def test_ratios_of_a_training_step():
    given = [
        a_row(median=10, peak_rss_mb=2000), a_row(impl="torch", median=80, peak_rss_mb=6000),
        a_row(impl="torch-channels-last", median=75, peak_rss_mb=7000), a_row(impl="torch-compile", median=40),
    ]  # fmt: skip
    assert ratios.ratios(given) == {
        "train/x1/b24, 2 threads: time of the best peer, torch-compile / octsod": 4,
        "train/x1/b24, 2 threads: memory of octsod / torch eager": pytest.approx(1 / 3),
        "train/x1/b24, 2 threads: time of torch / octsod": 8,
        "train/x1/b24, 2 threads: time of torch-channels-last / octsod": 7.5,
        "train/x1/b24, 2 threads: time of torch-compile / octsod": 4,
        "train/x1/b24, 2 threads: time of torch eager / octsod": 7.5,
    }
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ")[-1].strip("| ") for line in ratios.summary(given)[2:]}
    assert lines["train/x1/b24, 2 threads: time of torch eager / octsod"] == "must"
    assert lines["train/x1/b24, 2 threads: time of torch-compile / octsod"] == "missed"
    assert lines["train/x1/b24, 2 threads: memory of octsod / torch eager"] == "aim"
    assert lines["train/x1/b24, 2 threads: time of torch / octsod"] == ""


def test_ratios_of_the_other_commands():
    given = [
        a_row("infer/x1/b1", threads=1, median=10, macs=100), a_row("infer/L-x1/b1", threads=1, median=8, macs=50),
        a_row("infer/x1/b1", "openvino", 1, 40), a_row("infer/x1/b1", threads=2, median=5, macs=100),
        a_row("scaling/train/x1/b24/1", threads=1, median=30), a_row("scaling/train/x1/b24/2", threads=2, median=20),
        a_row("subnormals/forward/ordinary", median=10), a_row("subnormals/forward/tiny", median=11),
        a_row("blocks/fusion/b24", median=2, peak_rss_mb=1), a_row("blocks/fusion/b24", "torch", 2, 6, peak_rss_mb=2),
        a_row("kernels/a", roof_share=0.7, step_share=0.02), a_row("kernels/b", roof_share=0.9, step_share=0.5),
        a_row("kernels/c", roof_share=0.1, step_share=0.01), a_row("kernels/d", step_share=0.1), a_row("kernels/step"),
    ]  # fmt: skip
    assert ratios.ratios(given) == {
        "infer/x1/b1, 1 thread: time of the best peer, openvino / octsod": 4,
        "infer/x1/b1, 1 thread: time of openvino / octsod": 4,
        "infer, 1 thread: time per MAC of L-x1 / x1": pytest.approx(1.6),
        "kernels, 2 threads: least share of its roof, of those with 2 % of the step or more": 0.7,
        "scaling/train/x1/b24: time on 1 thread / 2 threads": 1.5,
        "subnormals/forward: time of tiny / ordinary": 1.1,
        "blocks/fusion/b24, 2 threads: time of the best peer, torch / octsod": 3,
        "blocks/fusion/b24, 2 threads: time of torch / octsod": 3,
        "blocks/fusion/b24, 2 threads: time of torch eager / octsod": 3,
        "blocks/fusion/b24, 2 threads: memory of octsod / torch eager": 0.5,
    }


def test_paired_ratio():
    rng = np.random.default_rng(3)
    machine = rng.uniform(1, 5, 40)  # what disturbs a pair slows both down
    old, new = machine * rng.normal(1, 0.01, 40), 1.1 * machine * rng.normal(1, 0.01, 40)
    ratio, low, high = ratios.paired_ratio(old, new)
    assert low < ratio < high and low < 1.1 < high and high - low < 0.02
    assert ratios.paired_ratio(list(old), list(new)) == (ratio, low, high)  # in every run the same
    back = ratios.paired_ratio(new, old)
    assert back == pytest.approx((1 / ratio, 1 / high, 1 / low), rel=1e-3)
    new[::10] *= 50  # single pairs
    assert ratios.paired_ratio(old, new)[2] < 1.12
    assert ratios.paired_ratio(old, old) == (1, 1, 1)
    assert ratios.paired_ratio([1, 2], [2, 2]) == (1.5, None, None)
    assert ratios.paired_ratio([1] * 6, [2] * 6) == (2, 2, 2)


def test_an_interval_holds_the_ratio_as_often_as_it_says():
    rng, hits = np.random.default_rng(4), 0
    for _ in range(100):
        _, low, high = ratios.paired_ratio(np.ones(40), 1.5 * np.exp(0.1 * rng.standard_t(3, 40)))
        hits += low <= 1.5 <= high
    assert 88 <= hits <= 99


def test_every_target_can_be_met():
    """Its name is one that `ratios` gives."""
    given = [
        a_row(peak_rss_mb=1), *(a_row(impl=name, peak_rss_mb=1) for name in ("torch", "torch-compile")),
        *(a_row(f"infer/{n}/b1", impl, 1, macs=1) for n in ("x1", "L-x1", "L-x2") for impl in ("octsod", "openvino")),
        *(a_row(f"scaling/train/x1/b24/{n}", threads=n) for n in (1, 2)),
        a_row("kernels/a", roof_share=1, step_share=1),
        *(a_row(f"subnormals/{n}/{of}") for n in ("forward", "forward+backward") for of in ("tiny", "ordinary")),
        *(a_row("profiler/x1/b24", impl) for impl in ("octsod", ratios.PROFILED)),
        *(a_row(f"gpu/{case}", impl, 0, memory_mb=1, copy_share=1) for case in ("train/x1/b24", "infer/x1/b1")
          for impl in ("octsod", "torch", "torch-compile")),
    ]  # fmt: skip
    assert ratios.TARGETS.keys() <= ratios.ratios(given).keys()


# Agreement -----------------------------------------------------------------------------------------------------------


def test_agreement():
    expected = {"a": np.ones(4), "b": np.ones((2, 2)), "c": np.ones(1)}
    close = {**expected, "b": expected["b"] * 1.25}
    assert agreement(close, expected, 0.1, 0.5) == 0.25
    with pytest.raises(DisagreementError, match=r"b is off by 2.5e-01, allowed is 1e-01"):
        agreement(close, expected, 0.1)
    with pytest.raises(DisagreementError, match=r"3 results are off by 1.0e\+00 \(median\)"):
        agreement({name: 2 * array for name, array in expected.items()}, expected, 0.1, 5)
    with pytest.raises(DisagreementError, match="a is off by inf"):
        agreement({**expected, "a": np.array([1, 1, 1, np.nan])}, expected, 0.1, 5)
    with pytest.raises(DisagreementError, match="no pair of c"):
        agreement({"a": expected["a"], "b": expected["b"]}, expected, 0.1)
    with pytest.raises(DisagreementError, match=r"a has shape \(4, 1\)"):
        agreement({**expected, "a": np.ones((4, 1))}, expected, 0.1)


# Children ------------------------------------------------------------------------------------------------------------


def test_children_take_turns():
    assert list(interleaved(["a", "b", "c"], 4)) == [*"abc", *"bca", *"cab", *"abc"]
    os.environ["OMP_NUM_THREADS"] = "3"
    child = Child(counting, None, 1)
    try:
        assert {name: list(a) for name, a in child.first_results().items()} == {"steps": [1], "threads": [3]}
        seconds = child.turn(2, 4)
        assert len(seconds) == 4 and all(s >= 0 for s in seconds)
        assert 1 < child.peak_rss_mb() < 1e5
        assert child.first_results()["steps"] == [8]
    finally:
        child.close()
    assert not child._process.is_alive()


def test_children_that_fail():
    with pytest.raises(ChildError, match=r"^RuntimeError: no such instruction$"):
        Child(failing, None, 1)
    child = Child(dying, None, 1)
    with pytest.raises(ChildError, match="exit code 3"):
        child.first_results()
    with pytest.raises(ChildError, match="exit code 3"):
        child.turn(0, 1)


def work(**builds):
    problem = problems.Problem("infer/x1/b1", TINY.to_json(), {}, 1, 32)
    peers = {name: Implementation(build, ("numpy",)) for name, build in builds.items()}
    return network.Work(problem, peers, (1e-3, 1e-3), network.Turn(1, 2), {"macs": 5})


def test_peers_that_differ_or_fail_are_not_timed():
    given = work(
        octsod=counting, same=counting, wrong=functools.partial(counting, factor=1.01), broken=failing, dead=dying,
        later=dying_later,
    )  # fmt: skip
    command.use_threads(1)
    peers = network.chosen("same,wrong,broken,dead,later", given.implementations)
    result, failures = network.against_peers(given, peers, 1, 3)
    assert [(r["case"], r["impl"], r["threads"], r["samples"]) for r in result] == [
        ("infer/x1/b1", "octsod", 1, 6), ("infer/x1/b1", "same", 1, 6),
    ]  # fmt: skip
    assert all(r["macs"] == 5 and r["peak_rss_mb"] > 1 for r in result)
    assert result[1]["difference"] == 0 and "difference" not in result[0]
    assert [line.split(":")[1].strip() for line in failures] == ["wrong", "broken", "dead", "later"]
    for line, word in zip(failures, ("steps is off by 1.0e-02", "no such instr", "code 3", "code 4"), strict=True):
        assert word in line


def test_ours_failing_ends_the_command():
    with pytest.raises(click.ClickException, match=r"infer/x1/b1: octsod: RuntimeError: no such instruction."):
        network.against_peers(work(octsod=failing), [], 1, 1)


def test_missing_peers_are_named(capsys):
    known = {
        "octsod": Implementation(counting, ("numpy",)), "there": Implementation(counting, ("numpy",)),
        "missing": Implementation(counting, ("numpy", "no-such-package", "nor-this")),
    }  # fmt: skip
    assert network.chosen(None, known) == ["there"]
    assert capsys.readouterr().err == "missing is left out: no-such-package and nor-this not installed.\n"
    assert network.chosen("there, there", known) == ["there"] and network.chosen("", known) == []
    assert capsys.readouterr().err == ""
    with pytest.raises(click.BadParameter, match="'octsod' is none of there, missing"):
        network.chosen("octsod", known)


# The network ---------------------------------------------------------------------------------------------------------


def test_configurations_are_those_of_the_released_models():
    """Parameters and MACs of csnet.md, section 2."""
    expected = {"L-x1": (93_647, 435_412_824), "L-x2": (140_894, 716_713_200), "x1": (210_985, 610_638_784)}
    for name, numbers in expected.items():
        cost = octsod.complexity(octsod.CSNet(problems.configuration(name)))
        assert (cost.parameters, cost.macs) == numbers


def test_problems():
    ordinary = problems.problem("a", TINY, 2, 32)
    tiny = problems.problem("b", TINY, 2, 32, tiny=True)
    for given in (ordinary, tiny):
        logits = given.model().eval()(octsod.Tensor(given.images())).numpy()
        assert logits.shape == (2, 1, 32, 32) and np.isfinite(logits).all() and logits.std() > 0

    def subnormal(state):
        values = np.concatenate([a.ravel() for a in state.values()])
        return ((values != 0) & (np.abs(values) < np.finfo(np.float32).tiny)).sum()

    assert subnormal(ordinary.state) == 0 and subnormal(tiny.state) > 50
    slopes = [a for n, a in problems.problem("c", TINY, 2, 32, straight=True).state.items() if ".prelus." in n]
    assert slopes and all(a.min() > 0.9 and a.max() < 1.1 for a in slopes)
    assert set(np.unique(ordinary.masks())) == {0, 1}


def tiny_case(command, table):
    def make(*names):
        given = problems.problem(f"{command}/x1/b2", TINY, 2, 32, straight=command == "train")
        return network.Work(given, table, (1e-3, 0.1), network.Turn(0, 1), {"macs": problems.macs(given)})

    return make


def test_infer_writes_one_row_per_case_and_implementation(monkeypatch, tmp_path):
    table = {"octsod": implementations.INFERENCE["octsod"], "copy": implementations.INFERENCE["octsod"]}
    monkeypatch.setattr(network, "INFERENCE", table)
    monkeypatch.setattr(network, "inference", tiny_case("infer", table))
    file = tmp_path / "rows.json"
    arguments = ["--threads", "1", "--rounds", "2", "--case", "x1", "--json", str(file)]
    done = CliRunner().invoke(network.infer, arguments)
    assert done.exit_code == 0, done.output
    result = json.loads(file.read_text())
    assert [(r["case"], r["impl"], r["threads"]) for r in result] == [
        ("infer/x1/b2", "octsod", 1), ("infer/x1/b2", "copy", 1),
    ]  # fmt: skip
    assert all(r["median_ms"] > 0 and r["iqr_ms"] >= 0 and r["macs"] > 0 for r in result)
    assert result[1]["difference"] == 0
    assert "time of copy / octsod" in done.stdout and "speed-up" not in done.stdout
    monkeypatch.setitem(table, "copy", Implementation(counting, ("numpy",)))
    done = CliRunner().invoke(network.infer, [*arguments, "--compare", str(file)])
    assert done.exit_code == 1 and "infer/x1/b2: copy: there is no pair of logits, steps, threads." in done.stderr
    assert [r["impl"] for r in json.loads(file.read_text())] == ["octsod"] and "speed-up" in done.stdout


def test_options_that_cannot_be():
    run = CliRunner().invoke
    assert "no such folder" in run(network.train, ["--json", "no/such/folder/a.json"]).stderr
    assert "nothing to compare" in run(network.scaling, ["--threads", "1"]).stderr
    assert run(network.infer, ["--case", "x9"]).exit_code == 2


def test_weights_that_cannot_be_read(tmp_path):
    (tmp_path / "w.safetensors").write_text("nothing")
    done = CliRunner().invoke(network.subnormals, ["--weights", str(tmp_path / "w.safetensors")])
    assert done.exit_code == 1 and "w.safetensors: not a weight file" in done.stderr


def test_among_ourselves():
    given = problems.problem("a", TINY, 2, 32)
    variants = {f"scaling/a/{n}": (implementations.octsod_gradients, given, n) for n in (1, 2)}
    result, results = network.among_ourselves(variants, 2, network.LONG)
    assert [(r["case"], r["impl"], r["threads"], r["samples"]) for r in result] == [
        ("scaling/a/1", "octsod", 1, 2), ("scaling/a/2", "octsod", 2, 2),
    ]  # fmt: skip
    assert agreement(*results.values(), 0) == 0 and len(results["scaling/a/1"]) > 100


@pytest.mark.parametrize(("command", "peers"), [("train", "torch"), ("infer", "onnxruntime,openvino")])
def test_peers_compute_what_we_compute(command, peers):
    table = {"train": implementations.TRAINING, "infer": implementations.INFERENCE}[command]
    there = network.chosen(peers, table)
    if not there:
        pytest.skip(f"{peers}: not installed")
    result, failures = network.against_peers(tiny_case(command, table)(), there, 1, 1)
    assert failures == [] and [r["impl"] for r in result] == ["octsod", *there]


@pytest.mark.parametrize("name", list(problems.PARTS))
def test_blocks(name):
    """All parameters of a block get gradients, those that the network itself gives them."""
    given = problems.block(f"blocks/{name}/b2", TINY, problems.PARTS[name], 2, 32)
    block = implementations.octsod_block(given, 1)
    block.step()
    first = {name: array.copy() for name, array in block.results().items()}
    block.step()
    assert agreement(block.results(), first, 0) == 0  # nothing is added to what the step before has left
    names = [name for name in given.state if name.startswith(given.theirs + ".") and ".running_" not in name]
    assert {name for name in first if name.startswith(given.theirs)} == set(names)
    assert [first[f"output {i}"].shape for i in range(len(given.outputs))] == given.outputs
    assert [first[f"gradient of input {i}"].shape for i in range(len(given.inputs))] == given.inputs
    if network.chosen("torch", implementations.BLOCKS):
        peers = network.Work(given, implementations.BLOCKS, (1e-3, 0.1), network.LONG)
        result, failures = network.against_peers(peers, ["torch"], 1, 1)
        assert failures == [] and [r["impl"] for r in result] == ["octsod", "torch"]


def test_report(tmp_path):
    more = {"machine": "A, 2 cores", "date": "2026-01-02", "versions": {"torch": "2.13.0"}, "peak_rss_mb": 5.0}
    of_kernel = {
        "launches": 3, "step_share": 0.3, "gflop_s": 9.0, "gb_s": 8.0, "roof": "memory", "roof_share": 0.5,
        "roof_gflop_s": 99.0, "roof_gb_s": 16.0,
    }  # fmt: skip
    files = {
        "a.json": [a_row(median=10, **more), a_row(impl="torch", median=80, **more)],
        "b.json": [a_row("kernels/add 3", **of_kernel), a_row("kernels/step", median=10)],
        "c.json": [a_row(median=11)],
    }
    for name, content in files.items():
        rows.write_rows(tmp_path / name, content)
    (tmp_path / "notes.md").write_text("## Why\n\nBecause.\n")
    a, b, c, notes, out = (str(tmp_path / name) for name in ("a.json", "b.json", "c.json", "notes.md", "R.md"))
    done = CliRunner().invoke(report.report, [a, b, "-o", out, "--notes", notes])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "R.md").read_text()
    titles = [line for line in text.splitlines() if line.startswith("#")]
    assert titles == [
        "# Results", "## Ratios and targets", "## A training step against PyTorch, 2 threads",
        "## The kernels of a training step, 2 threads", "## Why",
    ]  # fmt: skip
    assert "- Machine: A, 2 cores.\n- Date: 2026-01-02.\n- Versions: torch 2.13.0.\n" in text
    assert re.search(r"8.00 +\| +7 +\| +12 +\| must", text)
    assert "Roofs: 99 GFLOP/s" in text and text.endswith("Because.\n")
    done = CliRunner().invoke(report.report, [a, c, "-o", out])
    assert done.exit_code == 1 and f"{c}: train/x1/b24 of octsod on 2 threads is in {a}, too." in done.stderr
    rows.write_rows(tmp_path / "d.json", [a_row("lunch/x1")])
    done = CliRunner().invoke(report.report, [str(tmp_path / "d.json"), "-o", out])
    assert done.exit_code == 1 and "'lunch/x1'" in done.stderr
