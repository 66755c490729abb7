"""The profile of a GPU, on the stand-in for CuPy: each launch and each copy there takes a millisecond, and the host
ten whenever it looks at the clock."""

import itertools

import fake_cupy
import numpy as np
import pytest

import octsod
from octsod import functional, ops
from octsod.autograd import Function
from octsod.profiling import events, gpu_roofs, recording
from octsod.profiling.roofs import measure
from octsod.profiling.subjects import profile_prediction, profile_training
from octsod.testing import cusim
from octsod.testing.simulation import Simulator

pytestmark = pytest.mark.skipif(bool(cusim.unavailable()), reason=cusim.unavailable() or "-")


@pytest.fixture
def device(monkeypatch):
    for name, value in {"COPIED": 1 << 12, "LAUNCHES": 2, "SAMPLES": 1, "LONG_ENOUGH": 0}.items():
        monkeypatch.setattr(gpu_roofs, name, value)
    monkeypatch.setattr(recording, "clock", itertools.count(0, 10**7).__next__)  # of the host
    with fake_cupy.installed(memory=1 << 33):
        yield octsod.backend.get_device("cuda")


def assert_complete(result):
    """Both the device's time and the host's."""
    for thread in ("cuda:0", "MainThread"):
        for number, wall in enumerate(result.rounds):
            own = [row.seconds[number] for row in result.rows if row.thread == thread]
            assert sum(own) == pytest.approx(wall)


def test_kernels_are_timed_by_events(device):
    x = octsod.Tensor(np.ones((4, 600), np.float32)).to("cuda")
    with octsod.profile(roofs=False) as p:
        for count in (2, 1):
            for _ in range(count):
                functional.multiply(functional.relu(x), x)
            p.step()
    result = p.result
    rows = {row.kernel: row for row in result.rows if row.device == "cuda:0"}
    assert rows.keys() == {"relu", "multiply", ""}
    assert rows["relu"].seconds == pytest.approx([2e-3, 1e-3]) and rows["relu"].calls == 1.5
    assert (rows["relu"].op, rows["relu"].thread, rows["relu"].beside) == ("ReLU", "cuda:0", False)
    assert rows["relu"].bytes == 3 * 2 * 4 * 2400 // 2 and rows[""].title == "idle"
    host = [row for row in result.rows if row.device == "cpu"]
    assert all(row.beside and not row.kernel for row in host)
    assert {row.title for row in host} == {"", "the profiler itself", "waiting for cuda:0"}
    assert {row.op: row.calls for row in host if row.op in ("ReLU", "Multiply")} == {"ReLU": 1.5, "Multiply": 1.5}
    assert_complete(result)
    intervals = [event for event in result.events if event.device == "cuda:0"]
    assert [event.name for event in intervals] == ["relu", "multiply"] * 3
    assert all(event.end - event.start == 1_000_000 and event.thread == "cuda:0" for event in intervals)
    assert result.machine["gpus"] == {"cuda:0": "Pretend GPU"}


def test_memory_of_a_gpu(device):
    x = octsod.Tensor(np.ones((4, 600), np.float32)).to("cuda")
    with octsod.profile(roofs=False) as p:
        y = functional.relu(x)
        del y
        functional.relu(x)
    (entry,) = p.result.memory
    assert entry.layer == "" and entry.bytes == p.result.peak_bytes == 2400 * 4 + 128  # by blocks of 512 bytes


def test_many_launches_are_read_in_between(device, monkeypatch):
    monkeypatch.setattr(events, "MOST", 3)
    x = octsod.Tensor(np.ones(600, np.float32)).to("cuda")
    with octsod.profile(roofs=False) as p:
        for _ in range(8):
            functional.relu(x)
    (row,) = (row for row in p.result.rows if row.kernel)
    assert row.calls == 8 and row.seconds == pytest.approx([8e-3])
    assert_complete(p.result)


def test_what_is_captured_is_not_timed(device):
    x = octsod.Tensor(np.ones(600, np.float32)).to("cuda")
    functional.relu(x)
    with octsod.profile(roofs=False) as p:
        device.capture(lambda: functional.relu(x))
        functional.exp(x)
    assert {row.kernel for row in p.result.rows} == {"", "exp"}


def test_kernels_of_the_host_count_where_they_take_more(device):
    """A GPU that has computed less than the host is beside."""
    x = np.ones((64, 64, 64), np.float32)
    with octsod.profile(roofs=False) as p:
        for _ in range(3):
            functional.exp(octsod.Tensor(x))
        functional.relu(octsod.Tensor(np.ones(600, np.float32)).to("cuda"))
    beside = {row.kernel: row.beside for row in p.result.rows if row.kernel}
    assert beside == {"exp": False, "relu": True}
    assert_complete(p.result)


def test_an_own_op_without_kernels_has_no_cost_there(device):
    """What it launches by itself has no time that anyone has measured: the host's would be that of launching."""

    class Empty(Function):
        @staticmethod
        def forward(ctx, x):
            return octsod.backend.empty(x.shape, x.dtype)

        @staticmethod
        def cost(x, itemsize=4, backward=False):
            return ops.Cost(10**12, 10**12)

    x = octsod.Tensor(np.ones((4, 600), np.float32))
    with octsod.profile(roofs=False) as p:
        Empty.apply(x.to("cuda"))
        Empty.apply(x)
    assert [(row.calls, row.flops) for row in p.result.rows if row.op == "Empty" and not row.kernel] == [(2, None)]


def test_roofs_of_a_gpu(device):
    found = measure("cuda")
    assert found.device == "cuda:0" and found.bandwidth == pytest.approx(2 * (1 << 12) / 1e-3)
    assert found.arithmetic == pytest.approx(2 * 8 * 64 * 256 * 8 / 1e-3) and 0 < found.launch < 10
    assert found.fastest == found.bandwidth, "each takes a millisecond, and copying moves the most"
    (cache,) = found.caches
    assert cache.bytes == 1 << 13 and cache.bandwidth == pytest.approx(2 * (1 << 11) * gpu_roofs.ROUNDS / 1e-3)


def test_a_step_and_a_prediction_are_launched_one_by_one_and_then_captured(device):
    network = octsod.csnet(0.2)
    trained = profile_training(network, 1, 32, "cuda", 2)
    predicted = profile_prediction(network, 1, 32, "cuda", 1)
    for result, steps in ((trained, 2), (predicted, 1)):
        assert len(result.rounds) == len(result.captured) == steps and min(result.captured) > 0
        assert [roof.device for roof in result.roofs] == ["cuda:0"]
        assert_complete(result)
        launched = [row for row in result.rows if row.kernel and not row.beside]
        assert len({row.layer for row in launched}) > 20 and all(row.calls >= 1 for row in launched)
    assert {row.kernel for row in trained.rows if row.kernel} > {"adam", "record_step", "depthwise_chain_backward"}
    assert any(entry.layer == "extractor.stages.0.0" for entry in trained.memory)
    layers = {row.layer: row for row in predicted.rows if row.kernel == "depthwise_conv2d"}
    assert layers["extractor.stages.0.0.depthwise.1"].phase == "predict"
    assert not any(row.kernel == "csnet" and not row.beside for row in predicted.rows)


def test_compiling_for_the_simulator_is_in_no_round():
    with octsod.profile(roofs=False) as p:
        module = Simulator().module('extern "C" __global__ void nothing() {}', ())
        assert module.get_function("nothing") is module.get_function("nothing")
    assert p.result.compiled > 0 and "compile" in {event.kind for event in p.result.events}
