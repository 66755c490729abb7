"""The benchmark of GPUs, without one: what is launched and counted, and how it is measured, with stand-ins."""

import dataclasses
import functools
import importlib
import json
import time
import types

import numpy as np
import pytest
from click.testing import CliRunner

import octsod
from octsod.errors import OctsodError
from octsod.testing import cusim

pytest.importorskip("bench", reason="bench/ is not here: run from a checkout")

from bench_checks import TINY, a_row, product
from fake_peers import counting, failing, sleeping

from bench import ratios, report, rows
from bench.children import ChildError
from bench.gpu import command, counted, measured, predicted, recorded, section
from bench.implementations import Implementation
from bench.network import Turn, Work
from bench.problems import problem

driver = importlib.import_module("octsod.kernels.cuda.driver")
needs_compiler = pytest.mark.skipif(bool(cusim.unavailable()), reason=cusim.unavailable() or "-")
pytestmark = pytest.mark.usefixtures("restored")
SHARED = 227 << 10
GPU = types.SimpleNamespace(title="NVIDIA H200")


@functools.cache
def tiny_step(batch=1):
    return recorded.training_step(TINY, batch, 32, SHARED)


# --- what is launched -------------------------------------------------------------------------------------------------


def test_a_step_is_recorded_without_running_it():
    before = driver.driver()
    step = tiny_step()
    assert driver.driver() is before
    assert len(step.order) == sum(launch.count for launch in step.launches) > 100
    assert {id(launch) for launch in step.order} == set(map(id, step.launches)) and len(step.launches) < len(step.order)
    files = {launch.file for launch in step.launches}
    assert {"depthwise.cu", "pointwise.cu", "pointwise_back.cu", "optimization.cu"} <= files
    titles = {title for launch in step.launches for title in launch.parts}
    assert titles <= step.costs.keys() and any(title.startswith("depthwise_chain_backward ") for title in titles)
    again = recorded.training_step(TINY, 1, 32, SHARED)
    assert [launch.key for launch in again.order] == [launch.key for launch in step.order]
    assert again.costs == step.costs


def test_depthwise_layers_cost_what_they_do_one_by_one():
    """The CPU keeps the maps between them in its cache; a GPU does not."""
    (title, (_, cost)), *_ = ((t, c) for t, c in tiny_step().costs.items() if t.startswith("depthwise_chain 2@32"))

    def expected(cached):
        fine, coarse = (
            octsod.ops.DepthwiseChain.cost((1, n, side, side), (n, 1, 3, 3), 2, cached=cached)
            for n, side in ((2, 32), (3, 16))
        )
        return fine + coarse

    assert cost == expected(False) != expected(True), title


def test_launches_differ_by_shapes_and_shared_memory_not_by_numbers():
    def launch(*arguments, grid=(1,)):
        recorder = recorded._Recorder(SHARED)
        recorder.add('#line 1 "a.cu"\n', (), "f", grid, (32,), arguments, 0)
        (found,) = recorder.found.values()
        return found

    a, b = (recorded.device.full((64,), value, "float32") for value in (1, 2))
    same = launch(a, b, np.int32(3), np.float32(1), None)
    assert launch(b, a, np.int32(3), np.float32(2), None).key == same.key
    for other in (
        launch(a, b, np.int32(4), np.float32(1), None), launch(a, b[:32], np.int32(3), np.float32(1), None),
        launch(a, a, np.int32(3), np.float32(1), None), launch(a, a[32:], np.int32(3), np.float32(1), None),
        launch(a[4:36], b, np.int32(3), np.float32(1), None), launch(a, None, np.int32(3), np.float32(1), None),
        launch(a, b, np.int32(3), np.float32(1), None, grid=(2,)),
    ):  # fmt: skip
        assert other.key != same.key
    assert launch(a[16:32], b).key == launch(b[32:48], a).key  # 64 bytes on, and 128: both begin with a sector
    assert same.file == "a.cu" and same.bytes == 512


def test_arguments_are_like_those_of_the_launch():
    whole, table = recorded.device.empty((64,), "float32"), np.array([[0, 5, 1]], np.int64)
    recorder = recorded._Recorder(SHARED)
    recorder.add('#line 1 "a.cu"\n', (), "f", (1,), (32,), (whole[8:40], whole, table, None, np.float32(7)), 0)
    table[...] = 0  # later
    (launch,) = recorder.found.values()
    part, all_, integers, nothing, number = launch.given()
    assert np.shares_memory(part, all_) and np.array_equal(part, all_[8:40]) and len(set(all_)) == 64
    assert integers.tolist() == [[0, 5, 1]] and nothing is None and number == 7
    assert np.array_equal(launch.given()[1], all_) and not np.array_equal(launch.given(seed=1)[1], all_)


@pytest.mark.parametrize("again", [False, True])
def test_numbers_that_the_host_brings_are_kept(again):
    """Where things lie may be said in floating point, too, as in the table of the pictures that a batch is made of."""
    rows, device = np.array([[3.0, 2, 2, 0, 0, 2, 2, 0, 1]]), recorded.device
    with recorded.recording(SHARED) as recorder:
        kept, fresh = device.put(np.arange(16, dtype=np.uint8)), device.empty((0,), "uint8")
        x = device.empty((1, 3, 2, 2), "float32")
        table = device.put(rows, device.empty(rows.shape, "float64") if again else None)
        device.kernels.prepare_pictures(kept, fresh, table, (0.5,) * 3, (1.0,) * 3, x, None)
    device.put(0 * rows, table)  # later
    (launch,) = recorder.found.values()
    found = [a for a in launch.given() if isinstance(a, np.ndarray)]
    assert found[0].tolist() == list(range(16)) and np.array_equal(found[2], rows)
    assert len(np.unique(found[3])) == 12  # made by the kernel, so anything will do


# --- what is counted --------------------------------------------------------------------------------------------------


@needs_compiler
def test_counts_of_a_launch():
    (launch,), counter = product().launches, counted.Counter()
    count = counter.count(launch)
    assert (count.read.unique, count.write.unique) == (8000, 4000)
    assert (count.read.sectors, count.write.sectors) == (250, 125) == (count.read.least, count.write.least)
    assert counter.count(launch) is count


@needs_compiler
def test_counts_are_scaled_to_larger_batches():
    small, large, counter = product(1024), product(4096), counted.Counter()
    ((_, count),) = predicted.with_counts(small.order, large.order, counter)
    (exact,) = (counter.count(launch) for launch in large.launches)
    assert count.read == exact.read and count.write == exact.write and count.grid == exact.grid
    assert count.flops == exact.flops == 4096


@needs_compiler
def test_prediction_of_a_step_and_of_logits(monkeypatch):
    for work, (record, _) in predicted.WORKS.items():
        monkeypatch.setitem(predicted.WORKS, work, (record, 2))
    found = predicted.counted(TINY, 32)
    step = [r for r in found if r["case"].startswith("gpu/predicted/train/x1/b1/")]
    *parts, whole = step
    kernels_ = [r for r in parts if "/op/" not in r["case"]]
    assert whole["case"].endswith("/all") and whole["launches"] == len(tiny_step().order)
    for name in ("launches", "unique_mb", "sector_mb", "conflicts", "median_ms"):
        assert sum(r[name] for r in kernels_) == pytest.approx(whole[name], rel=1e-3), name
    ops = [r for r in parts if "/op/" in r["case"]]
    assert sum(r["launches"] for r in ops) == whole["launches"]
    cost = sum(calls * cost.bytes for calls, cost in tiny_step().costs.values() if cost)
    assert whole["cost_mb"] == pytest.approx(cost / 1e6, rel=1e-3)
    (mixed,) = (r for r in kernels_ if r["case"].endswith("/mix_10"))
    assert mixed["class"] == "pointwise" and mixed["registers"] > 32 and mixed["shared"] > 1024
    assert 0 < mixed["gpus"]["H200"]["occupancy"][0] <= 1 and mixed["gpus"]["A100"]["ms"] > 0.003
    assert whole["gpus"]["H200"]["ms_b2"] > 0.003 * whole["launches"]
    numbers = predicted.totals(whole)
    assert numbers["launches"] == whole["launches"] and numbers[predicted.BYTES] == pytest.approx(
        whole["unique_mb"] / whole["cost_mb"]
    )
    text = "\n".join(section.lines_of(found))
    assert text.startswith("**No GPU time has been measured.**")
    heads = [line for line in text.splitlines() if line.startswith(("#", "| CUDA", "| kernel", "| time on"))]
    assert len(heads) > 8 and all("predicted" in line for line in heads)
    assert all(f"| {r['case'].rpartition('/')[2]} " in text for r in kernels_)


def test_a_kernel_that_the_table_lacks(monkeypatch):
    (launch,) = product().launches
    stranger = dataclasses.replace(launch, kernel="stranger")
    with pytest.raises(Exception, match=r"kernels\.json: `stranger` of elementwise\.cu, float32, is not there"):
        predicted.needs_of(stranger)


# --- the command ------------------------------------------------------------------------------------------------------


def test_what_is_missing_is_said_in_one_sentence(monkeypatch):
    def no_gpu(name):
        raise OctsodError("cuda: there is no GPU, or CUDA_VISIBLE_DEVICES hides it.")

    monkeypatch.setattr(measured.backend, "get_device", no_gpu)
    done = CliRunner().invoke(command.gpu, [])
    assert done.exit_code == 1 and done.stderr.startswith("Error: cuda: there is no GPU") and "--predict" in done.stderr
    monkeypatch.setattr(command.cusim, "unavailable", lambda: "The CUDA simulator needs g++.")
    for option in ("--predict", "--table"):
        done = CliRunner().invoke(command.gpu, [option])
        assert done.exit_code == 1 and done.stderr == "Error: The CUDA simulator needs g++.\n"
    assert CliRunner().invoke(command.gpu, ["--predict", "--table"]).exit_code == 2


def test_command_prints_the_section_and_writes_rows(monkeypatch, tmp_path):
    monkeypatch.setattr(measured, "found", lambda: (GPU, lambda: 0))
    monkeypatch.setattr(measured, "measured", lambda *_: (measured_rows(), ["gpu/kernel: torch: it failed."]))
    done = CliRunner().invoke(command.gpu, ["--json", str(tmp_path / "a.json")])
    assert done.exit_code == 1 and done.stderr == "Error: gpu/kernel: torch: it failed.\n"
    assert rows.read_rows(tmp_path / "a.json") == json.loads(json.dumps(measured_rows()))
    assert done.stdout.startswith("## On a GPU\n\nOn NVIDIA H200, ")
    assert "No GPU time" not in done.stdout and "| gpu/train/x1/b24: time of torch eager / octsod" in done.stdout


# --- what is measured, with stand-ins ---------------------------------------------------------------------------------


def measured_rows():
    facts = {"gpu": "NVIDIA H200", "date": "2026-01-02", "threads": 0}
    train = "gpu/train/x1/b24"
    return [
        a_row("gpu/copy", median=0.5, gb_s=4300.0, **facts),
        a_row("gpu/kernel/mix_10", median=1, launches=3, predicted_ms=0.5, gb_s=2150.0, **facts),
        a_row("gpu/kernel/odd", median=0.25, launches=2, **facts),
        a_row("gpu/op/conv 1x1 10 -> 10@224/forward", median=0.1, **facts),
        a_row("gpu/op/conv 1x1 10 -> 10@224/forward", "torch", median=0.3, **facts),
        a_row(train, median=10, memory_mb=2000.0, difference=0.0, gb_s=1032.0, copy_share=0.24, **facts),
        a_row(train, "torch", median=90, memory_mb=5000.0, difference=1e-3, **facts),
        a_row(train, "torch-channels-last", median=80, memory_mb=6000.0, difference=1e-3, **facts),
        a_row(train, "torch-compile", median=60, memory_mb=4000.0, difference=1e-3, **facts),
        a_row(train, "torch-compile-graphs", median=40, memory_mb=8000.0, difference=1e-3, **facts),
    ]


def test_ratios_of_a_gpu():
    assert ratios.ratios(measured_rows()) == {
        "gpu/train/x1/b24: time of torch eager / octsod": 8,
        "gpu/train/x1/b24: memory of octsod / torch eager": pytest.approx(1 / 3),
        "gpu/train/x1/b24: time of torch.compile / octsod": 4,
        "gpu/train/x1/b24: memory of octsod / torch.compile": 0.25,
        "gpu/train/x1/b24: share of the rate of copying": 0.24,
    }


def test_section_of_measurements():
    lines = section.lines_of(measured_rows())
    assert lines[0] == (
        "On NVIDIA H200, 2026-01-02. Copying 1 GiB moves 4300 GB/s, reading and writing together."
    )
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    assert ["train/x1/b24", "octsod", "10.000", "0.100", "1.00", "2000", "24 %"] in cells
    assert ["train/x1/b24", "torch-compile-graphs", "40.000", "0.100", "4.00", "8000", ""] in cells
    assert ["mix_10", "3", "1000.0", "500.0", "2.00", "50 %"] in cells and ["odd", "2", "250.0", "", "", ""] in cells
    assert ["all", "5", "1250.0", "", "", ""] in cells
    assert ["conv 1x1 10 -> 10@224/forward", "100.0", "300.0", "3.00"] in cells


def test_the_report_has_the_section(tmp_path):
    rows.write_rows(tmp_path / "a.json", measured_rows())
    done = CliRunner().invoke(report.report, [str(tmp_path / "a.json"), "-o", str(tmp_path / "R.md")])
    assert done.exit_code == 0, done.output
    text = (tmp_path / "R.md").read_text()
    assert "\n## On a GPU\n\nOn NVIDIA H200, " in text and "time of torch.compile / octsod" in text


def fake_contest(reference=counting, **builds):
    work = Work(
        problem("gpu/train/x1/b24", TINY, 2, 32),
        {name: Implementation(build, ("numpy",)) for name, build in builds.items()}, (1e-3, 1e-3), Turn(1, 2),
    )  # fmt: skip
    return measured.Contest(work, 4, (Implementation(reference, ("numpy",)), (1e-4, 1e-4)))


def fake_kernels(seconds):
    """Samples of kernels; the first ones are not to be used."""
    made = []

    def step():
        made.append(1)

    def results():
        value = np.full(3, seconds * (100 if len(made) == 1 else 1))
        return {"copy": value, "launch/mix_10/2/0": value, "launch/mix_10/1/1": value, "op/conv/forward": value}

    return types.SimpleNamespace(step=step, results=results)


def test_everything_is_measured_in_turns(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the stand-ins tell of
    monkeypatch.setattr(measured, "ROUNDS", 3)
    monkeypatch.setattr(measured, "step_bytes", lambda batch: 1e9)
    monkeypatch.setattr(measured, "_estimates", lambda device, failures: {"mix_10": (0.002, 8e6)})
    free = iter(range(0, 10**10, 10**9))
    contest = fake_contest(
        octsod=counting, torch=counting, wrong=functools.partial(counting, factor=2.0), broken=failing
    )
    kept = []
    found, failures = measured.measured(
        GPU, lambda: next(free), lambda rows: kept.append(len(rows)), budget=900, compiling=800, cases=[contest],
        singles={"octsod": (fake_kernels, 0.001), "torch": (fake_kernels, 0.003), "broken": (failing, 1, 2)},
    )  # fmt: skip
    assert kept == [len(found) - 2, len(found)]  # what there is is written at once
    by_key = {(r["case"], r["impl"]): r for r in found}
    assert [key for key in by_key if key[0] == "gpu/train/x1/b24"] == [
        ("gpu/train/x1/b24", "octsod"), ("gpu/train/x1/b24", "torch")
    ]  # fmt: skip
    ours = by_key["gpu/train/x1/b24", "octsod"]
    assert ours["samples"] == 6 and ours["memory_mb"] == 1000 and ours["processor_difference"] == 0
    assert ours["gpu"] == "NVIDIA H200" and ours["copy_share"] == pytest.approx(
        ours["gb_s"] / by_key["gpu/copy", "octsod"]["gb_s"], rel=1e-3
    )
    mixed = by_key["gpu/kernel/mix_10", "octsod"]
    assert (mixed["launches"], mixed["median_ms"], mixed["predicted_ms"], mixed["gb_s"]) == (3, 3, 2, 2.6667)
    assert by_key["gpu/copy", "octsod"]["gb_s"] == pytest.approx(2 * 2**30 / 0.001 / 1e9, rel=1e-4)
    assert by_key["gpu/op/conv/forward", "torch"]["median_ms"] == 3
    about = sorted(failure.removesuffix(".") for failure in failures)
    assert about == [
        "gpu/kernel: broken: RuntimeError: no such instruction",
        "gpu/train/x1/b24: broken: RuntimeError: no such instruction",
        "gpu/train/x1/b24: wrong: steps is off by 1.0e+00, allowed is 1e-03",
    ]


def test_the_processor_is_compared_with_more_strictly(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # which the stand-ins tell of
    pool, failures = measured.Children(4), []
    contest = fake_contest(functools.partial(counting, factor=1.0005), octsod=counting, torch=counting)
    measured._start(pool, contest)
    errors = measured._ready(pool, contest, time.monotonic() + 60, failures)
    pool.close_all()
    assert list(errors) == ["octsod", "torch"]
    assert failures == ["gpu/train/x1/b24: octsod on the processor: steps is off by 5.0e-04, allowed is 1e-04."]


def test_whoever_is_not_ready_in_time_is_left_out():
    pool = measured.Children(1)
    pool.start("slow", None, sleeping, None, 1)
    with pytest.raises(ChildError, match=r"^it was not ready in time$"):
        pool.wait("slow", until=0)
    pool.close_all()


@needs_compiler
def test_estimates_need_a_known_gpu(monkeypatch):
    failures = []
    assert measured._estimates(types.SimpleNamespace(title="GT 710"), failures) == {}
    assert failures == ["gpu/kernel: nothing is predicted: GT 710 is none of T4, A100, H100, H200."]


def test_the_cases(monkeypatch):
    cases = {contest.case: contest.work.implementations for contest in measured.contests()}
    assert list(cases) == ["gpu/train/x1/b24", "gpu/infer/x1/b1", "gpu/infer/x1/b64"]
    assert [len(of) for of in cases.values()] == [5, 5, 3]  # torch.compile in two of them
    assert all(next(iter(of)) == "octsod" for of in cases.values())
