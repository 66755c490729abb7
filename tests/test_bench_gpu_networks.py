"""What the benchmark of GPUs runs there, on the processor, and how it takes samples, with a stand-in for CuPy."""

import dataclasses
import functools

import fake_cupy
import numpy as np
import pytest
from click.testing import CliRunner

import octsod
from octsod.backend import launch_with
from octsod.testing import cusim

pytest.importorskip("bench", reason="bench/ is not here: run from a checkout")

import fake_peers
from bench_checks import TINY, product

from bench import implementations, rows
from bench.agreement import agreement
from bench.gpu import clocks, command, kernels, measured, networks, recorded
from bench.implementations import Implementation
from bench.network import Turn, Work
from bench.problems import problem

needs_compiler = pytest.mark.skipif(bool(cusim.unavailable()), reason=cusim.unavailable() or "-")
pytestmark = pytest.mark.usefixtures("restored")

# --- implementations, on the processor --------------------------------------------------------------------------------


def first_results(block):
    block.step()
    return {name: array.copy() for name, array in block.results().items()}


def test_ours_are_the_training_and_the_logits_of_the_processor():
    given = problem("a", TINY, 2, 32, straight=True)
    for on_gpu, plain in (
        (networks.octsod_training, implementations.octsod_training),
        (networks.octsod_inference, implementations.octsod_inference),
    ):
        block = on_gpu(given, 3, device="cpu")
        assert agreement(first_results(block), first_results(plain(given, 1)), 1e-6) < 1e-6
        block.step()  # three more


@pytest.mark.parametrize("layout", ["contiguous_format", "channels_last"])
def test_pytorchs_are_too(layout):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    given = problem("a", TINY, 2, 32, straight=True)
    train = first_results(networks.torch_training(given, 2, layout, device="cpu"))
    agreement(train, first_results(implementations.octsod_training(given, 1)), 2e-2, 0.5)
    infer = first_results(networks.torch_inference(given, 2, layout, device="cpu"))
    agreement(infer, first_results(implementations.octsod_inference(given, 1)), 1e-3)


def test_rounds_begin_with_a_single_step():
    made = []
    block = networks.rounds(lambda: made.append("step"), lambda: made.append("wait"), dict, 3)
    block.step()
    block.step()
    assert made == ["step", "wait", "step", "step", "step", "wait"]


SMALL_OPS = fake_peers.small_ops()


def test_ops_of_ours_run():
    device = octsod.backend.get_device("cpu")
    for op in SMALL_OPS:
        for backward in (False, True):
            made = []
            with launch_with(lambda name, function, *arguments, made=made: [made.append(name), function(*arguments)]):
                kernels.octsod_op(device, op, backward)()
            assert any(name.endswith("_backward") for name in made) == backward, op.title


@pytest.mark.parametrize("op", SMALL_OPS, ids=lambda op: op.title)
def test_ops_of_pytorch_run(op):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    out, *grads = kernels.torch_op(torch, op, True, "channels_last", "cpu")()
    assert out.shape == (2, op.weight[0], 6, 6) and [g.shape for g in grads[:2]] == [op.shape, op.weight]
    assert len(kernels.torch_op(torch, op, False, "contiguous_format", "cpu")()) == 1


# --- with a stand-in for CuPy -----------------------------------------------------------------------------------------


@pytest.fixture
def cupy(monkeypatch):
    monkeypatch.setattr(clocks, "FLUSHED", 1 << 10)
    monkeypatch.setattr(clocks, "BLOCKS", 1)
    with fake_cupy.installed(memory=1 << 33) as cupy:
        yield cupy


@needs_compiler
def test_samples_are_taken_with_an_empty_cache(cupy, monkeypatch):
    log, clock = [], clocks.CupyClock(cupy)
    read, record = clock._read, cupy.cuda.Event.record
    monkeypatch.setattr(clock, "_read", lambda *arguments: [log.append("read"), read(*arguments)])
    monkeypatch.setattr(cupy.cuda.Event, "record", lambda event: [log.append("event"), record(event)])
    monkeypatch.setattr(cupy.cuda.Event, "synchronize", lambda event: log.append("wait"))

    def work():
        log.append("f")
        cupy.zeros(3)
        cupy.zeros(3)

    assert clock.seconds(work, 2) == [2e-3, 2e-3]  # the reading is not among it
    assert log == ["f", *["read", "event", "f", "event"] * 2, "wait"]


@needs_compiler
def test_a_launch_is_repeated_on_noise(cupy):
    (launch,) = product().launches
    noise = clocks.Noise(cupy, launch.bytes)
    arguments = noise.arguments(launch)
    kernels.launched(launch, arguments)()
    a, b, out = (a.get() for a in arguments if isinstance(a, cupy.ndarray))
    assert len(np.unique(a)) > 900 and not np.array_equal(a, b) and np.array_equal(out, a * b)
    with pytest.raises(ValueError, match=r"needs .* bytes of noise"):
        clocks.Noise(cupy, 1).arguments(dataclasses.replace(launch, places=((0, 1 << 23),) * 3))


def test_what_is_known_of_a_launch_is_no_noise(cupy):
    table, ranges = np.array([[3.0, 2, 2]]), np.arange(6)
    with recorded.recording(227 << 10) as recorder:
        whole, fresh = recorded.device.put(ranges), recorded.device.empty((5,), "float64")
        given = recorded.device.put(table), whole, whole[4:], fresh
        recorder.add('#line 1 "a.cu"\n', (), "f", (1,), (32,), given, 0)
    (launch,) = recorder.found.values()
    first, all_, part, noise = clocks.Noise(cupy, launch.bytes).arguments(launch)
    assert np.array_equal(first.get(), table) and np.array_equal(all_.get(), ranges) and part.get().tolist() == [4, 5]
    assert part.data.ptr == all_.data.ptr + 32 and len(np.unique(noise.get())) == 5


def on_stand_in(build):
    return Implementation(functools.partial(fake_peers.on_stand_in, build), ("numpy",))


@needs_compiler
def test_the_whole_command(cupy, monkeypatch, tmp_path):
    """`bench gpu` without PyTorch, on tiny maps: all that it launches, and asks of CuPy. Children are on stand-ins of
    their own."""
    cupy.machine.name = "NVIDIA H200"
    monkeypatch.setattr(measured, "SIZE", 32)
    monkeypatch.setattr(measured, "ROUNDS", 1)
    monkeypatch.setattr(measured, "KERNEL_ROUNDS", 1)
    singles = {"octsod": (fake_peers.on_stand_in, kernels.octsod_kernels, 1, 32)}
    monkeypatch.setattr(measured, "_singles", lambda: singles)
    monkeypatch.setattr(measured, "contests", lambda: [
        measured.Contest(
            Work(problem(case, TINY, 2, 32, straight=True), {"octsod": on_stand_in(ours)}, (0, 0), Turn(1, 1)), 3,
            (Implementation(reference, ("numpy",)), (tolerance, tolerance)),
        )
        for case, ours, reference, tolerance in (
            ("gpu/train/x1/b24", networks.octsod_training, implementations.octsod_training, 1e-3),
            ("gpu/infer/x1/b1", networks.octsod_inference, implementations.octsod_inference, 1e-4),
        )
    ])  # fmt: skip
    monkeypatch.setattr(measured, "measured", functools.partial(measured.measured, budget=900, compiling=800))
    done = CliRunner().invoke(command.gpu, ["--json", str(tmp_path / "a.json")])
    assert done.exit_code == 0, done.stderr
    found = {row["case"]: row for row in rows.read_rows(tmp_path / "a.json")}
    assert found["gpu/copy"]["median_ms"] == 1 and found["gpu/infer/x1/b1"]["processor_difference"] < 1e-4
    assert found["gpu/train/x1/b24"].keys() >= {"copy_share", "memory_mb"}
    single = [row for case, row in found.items() if case.startswith("gpu/kernel/")]
    assert len(single) > 25 and all(row["median_ms"] == row["launches"] and row["predicted_ms"] > 0 for row in single)
    assert {case for case in found if case.startswith("gpu/op/")} == {
        f"gpu/{kernels.title_of(op, backward)}" for op in SMALL_OPS for backward in (False, True)
    }
    assert all(f"| {case.rpartition('/')[2]} " in done.stdout for case in found if case.startswith("gpu/kernel/"))


@needs_compiler
def test_steps_and_predictions_are_captured(cupy):
    given = problem("a", TINY, 1, 32, straight=True)
    for build in (networks.octsod_training, networks.octsod_inference):
        block, graphs = build(given, 3), len(cupy.graphs)
        for _ in range(2):
            block.step()
        assert sum(graph.launches for graph in cupy.graphs[graphs:]) >= 2
