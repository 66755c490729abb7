"""What the benchmark of GPUs runs there, on the processor, and how it takes samples, with a stand-in for CuPy."""

import contextlib
import dataclasses
import importlib
import types

import numpy as np
import pytest

import octsod
from octsod.backend import launch_with
from octsod.testing import cusim

pytest.importorskip("bench", reason="bench/ is not here: run from a checkout")

from bench_checks import TINY, product

from bench import implementations
from bench.agreement import agreement
from bench.gpu import clocks, kernels, networks
from bench.problems import problem

driver = importlib.import_module("octsod.kernels.cuda.driver")
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


SMALL_OPS = [dataclasses.replace(op, shape=(2, op.shape[1], 6, 6)) for op in kernels.ops(1)]


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


# --- clocks, with a stand-in for CuPy ---------------------------------------------------------------------------------


class Pointer:
    def __init__(self, memory, at=0):
        self.memory, self.at = memory, at

    def __add__(self, bytes_):
        return Pointer(self.memory, self.at + bytes_)

    def copy_from_device_async(self, source, size):
        self.memory[self.at : self.at + size] = source.memory[source.at : source.at + size]


class Memory(np.ndarray):
    @property
    def data(self):
        return Pointer(self.reshape(-1).view(np.uint8).view(np.ndarray))


def stand_in(log):
    """As much of CuPy as clocks.py uses, with NumPy's arrays."""

    def view(shape, dtype, pointer):
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return pointer.memory[pointer.at : pointer.at + size].view(dtype).reshape(shape)

    class Event:
        def record(self):
            log.append(self)

        def synchronize(self):
            log.append("wait")

    def elapsed(start, stop):
        return 1000.0 * (log.index(stop) - log.index(start))

    return types.SimpleNamespace(
        empty=lambda shape, dtype: np.zeros(shape, dtype).view(Memory), asarray=lambda a: a.view(Memory), ndarray=view,
        zeros=lambda shape, dtype: np.zeros(shape, dtype).view(Memory),
        cuda=types.SimpleNamespace(Event=Event, get_elapsed_time=elapsed),
        RawModule=lambda **_: types.SimpleNamespace(get_function=lambda name: lambda *_: log.append(name)),
    )  # fmt: skip


def test_samples_are_taken_with_an_empty_cache(monkeypatch):
    monkeypatch.setattr(clocks, "FLUSHED", 1 << 10)
    log = []
    assert clocks.CupyClock(stand_in(log)).seconds(lambda: log.append("f"), 2) == [2.0, 2.0]
    assert [entry if isinstance(entry, str) else "event" for entry in log] == [
        "f", "read_all", "event", "f", "event", "read_all", "event", "f", "event", "wait",
    ]  # fmt: skip


@needs_compiler
def test_a_launch_is_repeated_on_noise(monkeypatch):
    class Simulator:
        module = staticmethod(lambda code, options: cusim.RawModule(code=code, options=options, mode="plain"))

    (launch,), cupy = product().launches, stand_in([])
    noise = clocks.Noise(cupy, launch.bytes)
    arguments = noise.arguments(launch)
    a, b, out = (a for a in arguments if isinstance(a, np.ndarray))
    assert not np.shares_memory(a, b) and len(np.unique(a)) > 900 and not np.array_equal(a, b)
    with contextlib.ExitStack() as stack:
        stack.callback(driver.use_driver, driver.driver())
        driver.use_driver(Simulator())
        kernels.launched(launch, arguments)()
    assert np.array_equal(out, a * b)
    with pytest.raises(ValueError, match=r"needs .* bytes of noise"):
        clocks.Noise(cupy, 1).arguments(dataclasses.replace(launch, places=((0, 1 << 23),) * 3))
