"""GPUs by way of CuPy, without a GPU: a stand-in for CuPy, with the simulator below it."""

import builtins
import sys

import fake_cupy
import numpy as np
import pytest
from commands import run
from networks import lived_in
from PIL import Image

import octsod
from octsod import functional
from octsod.backend import DeviceError, OutOfMemoryError, chosen_device, device_of, get_device
from octsod.errors import OctsodError
from octsod.inference.prediction import infer
from octsod.models import Configuration
from octsod.testing import cusim
from octsod.training import DivergenceError, Recipe, Saliency

rng = np.random.default_rng
needs_compiler = pytest.mark.skipif(bool(cusim.unavailable()), reason=cusim.unavailable() or "-")


@pytest.fixture(autouse=True)
def undecided(monkeypatch):
    monkeypatch.delenv("OCTSOD_DEVICE")


@pytest.fixture
def gpu():
    with fake_cupy.installed() as cupy:
        yield cupy


# --- which devices there are ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("machine", "message"), [
    ({"driver": 0}, "cuda: there is no NVIDIA driver on this machine."),
    ({"driver": 11040}, "cuda: the NVIDIA driver is for CUDA 11.4, but this CuPy needs 12.4; "
                        "install a newer driver, or the CuPy for this one."),
    ({"gpus": 0}, "cuda: there is no GPU, or CUDA_VISIBLE_DEVICES hides it."),
    ({"capability": "61"}, "cuda:0: Pretend GPU has compute capability 6.1; expected 7.0 or more."),
    ({"nvrtc": False}, "cuda:0: CuPy does not find NVRTC, which compiles kernels: install nvidia-cuda-nvrtc-cu12 "
                       "beside cupy-cuda12x, nvidia-cuda-nvrtc beside cupy-cuda13x."),
])  # fmt: skip
def test_what_is_missing_is_said_in_one_sentence(machine, message):
    with fake_cupy.installed(**machine):
        with pytest.raises(DeviceError) as error:
            get_device("cuda")
        assert str(error.value) == message
        assert chosen_device("auto") is get_device("cpu")


def test_without_cupy(monkeypatch):
    def absent(name, *arguments, **keywords):
        if name == "cupy":
            raise ModuleNotFoundError("No module named 'cupy'", name="cupy")
        return real(name, *arguments, **keywords)

    real = builtins.__import__
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(DeviceError, match=r"^cuda: CuPy is not installed; .*cupy-cuda12x and cupy-cuda13x"):
        get_device("cuda")


def test_a_broken_cupy(monkeypatch):
    def broken(name, *arguments, **keywords):
        if name == "cupy":
            raise OSError("libnvrtc.so.12: cannot open shared object file")
        return real(name, *arguments, **keywords)

    real = builtins.__import__
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    monkeypatch.setattr(builtins, "__import__", broken)
    with pytest.raises(DeviceError, match=r"^cuda: CuPy does not load: OSError: libnvrtc"):
        get_device("cuda:0")


def test_names(gpu, monkeypatch):
    first, second = get_device("cuda"), get_device("cuda:1")
    assert first is get_device("cuda:0") is chosen_device("auto") and first.name == "cuda:0"
    assert second is not first and second.name == "cuda:1"
    assert chosen_device("auto", worth=False) is chosen_device("cpu") is get_device("cpu")
    monkeypatch.setenv("OCTSOD_DEVICE", "cuda:1")
    assert chosen_device("auto") is second and chosen_device("cuda") is first
    for odd in ("gpu", "cuda:x", "cuda:-1", "cudas"):
        monkeypatch.setenv("OCTSOD_DEVICE", odd)
        with pytest.raises(OctsodError, match=rf"OCTSOD_DEVICE \(='{odd}'\) must be cpu, cuda, cuda:N or auto"):
            chosen_device("auto")
    monkeypatch.setenv("OCTSOD_DEVICE", "cuda:2")
    with pytest.raises(DeviceError, match=r"^OCTSOD_DEVICE \(='cuda:2'\): cuda:2: there are 2 GPUs"):
        chosen_device("auto")
    with pytest.raises(DeviceError, match=r"^cuda:2: there are 2 GPUs, cuda:0 to cuda:1\.$"):
        get_device("cuda:2")
    for odd in ("cuda:", "cuda:x", "cuda:-1", "cudas", "gpu", ["cuda"]):
        with pytest.raises(ValueError, match=r"must be one of cpu, cuda, cuda:N"):
            get_device(odd)


# --- arrays -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cuda:0", "cuda:1"])
def test_arrays_come_and_go(gpu, name):
    device, values = get_device(name), rng(0).standard_normal((3, 4)).astype(np.float32)
    array = device.put(values)
    assert isinstance(array, gpu.ndarray) and device_of(array) is device
    assert np.array_equal(device.get(array), values)
    assert np.array_equal(device.get(device.put(values.T)), values.T)  # another layout
    out = device.empty((3, 4), "float64")
    assert device.put(values, out) is out and np.array_equal(device.get(out), values)
    with pytest.raises(ValueError, match=r"has shape \(3, 4\); expected \(4, 3\)"):
        device.put(values, device.empty((4, 3), "float32"))
    with pytest.raises(TypeError, match="has dtype float32; expected int64"):
        device.put(values, device.empty((3, 4), "int64"))
    assert device.get(device.put(np.zeros((0, 3)))).shape == (0, 3)
    assert device.get(device.put(7, dtype="int64")) == 7


def test_devices_know_their_arrays(gpu):
    here, there = octsod.Tensor([1.0]).to("cuda"), octsod.Tensor([1.0]).to("cuda:1")
    with pytest.raises(ValueError, match=r"input 1 is on cuda:1, but input 0 on cuda:0"):
        here + there
    assert repr(get_device("cuda:1")) == "<device cuda:1>"


def test_memory_that_runs_out_is_named(gpu):
    device = get_device("cuda:1")
    gpu.machine.memory = 1 << 20
    with pytest.raises(OutOfMemoryError, match=r"^cuda:1: out of memory: 0\.01 GB more are needed, and 0\.00 of 0\.0 "):
        device.empty((1 << 21,), "float32")
    with pytest.raises(OutOfMemoryError):
        device.put(np.zeros(1 << 21))


# --- kernels ----------------------------------------------------------------------------------------------------------


@needs_compiler
@pytest.mark.parametrize("name", ["cuda:0", "cuda:1"])
def test_ops_and_gradients(gpu, name):
    x = octsod.Tensor(rng(1).standard_normal((2, 3)), requires_grad=True)
    y = x.to(name)
    ((y * y + 2 * y).exp() * 0.5).sum().backward()
    expected = 0.5 * np.exp(x.data**2 + 2 * x.data) * (2 * x.data + 2)
    assert np.allclose(x.grad, expected, rtol=1e-12)


@needs_compiler
def test_all_files_of_kernels_are_compiled_at_once_and_told_of(gpu):
    told = []
    octsod.backend.gpu.compiling.append(lambda *facts: told.append(facts))
    try:
        device = get_device("cuda:1")
        device.zeros((3,), "float32")
        device.full((3,), 1.0, "float32")
    finally:
        octsod.backend.gpu.compiling.pop()
    names = [name for name, _, _ in told]
    assert len(set(names)) == len(names) == len(gpu.compiled) > 10 and "optimization" in names
    assert [done for _, done, _ in told] == list(range(1, len(told) + 1)) and {n for *_, n in told} == {len(told)}
    assert {index for index, _, _ in gpu.compiled} == {1}
    assert all("--device-as-default-execution-space" not in options for *_, options in gpu.compiled)


# --- training and inference -------------------------------------------------------------------------------------------


def trained(device, steps, sizes=(32,), recipe=None):
    """(the steps' losses, the network's state) of a small training."""
    octsod.manual_seed(0)
    model = octsod.csnet(0.2).to(device)
    trainer = (recipe or Recipe(lr=1e-2, schedule="cosine", average=0.9)).trainer(model, total=50)
    draw = rng(2)
    batches = {side: [(draw.standard_normal((2, 3, side, side)).astype(np.float32),
                       (draw.random((2, 1, side, side)) > 0.5).astype(np.float32)) for _ in range(2)]
               for side in sizes}  # fmt: skip
    found = []
    for step in range(steps):
        trainer.step(*batches[sizes[step * len(sizes) // steps]][step % 2])
        found += trainer.collect()
    trainer.sync()
    found += trainer.collect()
    return [(step.loss, step.terms, step.lr) for step in found], trainer


@needs_compiler
def test_replayed_steps_are_the_same_bits_as_launched_ones(gpu, monkeypatch):
    captured, trainer = trained("cuda", 8, (32, 48))
    assert [graph.launches for graph in gpu.graphs] == [2, 3]  # each size is captured anew
    monkeypatch.setattr(type(trainer.model.device), "captures", False)
    launched, other = trained("cuda:1", 8, (32, 48))
    assert len(gpu.graphs) == 2 and len(captured) == 8
    assert captured == launched and len({lr for *_, lr in captured}) > 5
    state, others = trainer.state_dict(), other.state_dict()
    assert [name for name in state if not np.array_equal(state[name], others[name])] == []
    assert state["steps"] == trainer.optimizer.steps == 8
    assert abs(captured[0][0] - trained("cpu", 1)[0][0][0]) < 1e-5


@needs_compiler
def test_a_replayed_step_that_is_not_finite_changes_nothing(gpu):
    _, trainer = trained("cuda", 4)
    assert gpu.graphs[-1].launches == 2
    before = trainer.state_dict()
    x, y = rng(3).standard_normal((2, 3, 32, 32)).astype(np.float32), np.ones((2, 1, 32, 32), np.float32)
    trainer.step(x * np.float32(np.nan), y)
    trainer.step(x, y)
    with pytest.raises(DivergenceError, match=r"stopped in step 5: the loss is nan; .* is in "):
        trainer.sync()
    assert gpu.graphs[-1].launches == 4 and trainer.steps == 4
    after = trainer.state_dict()
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == ["average.updates"]  # counts on, as documented


class Noisy(Saliency):
    """A task whose steps differ: it draws, which a captured step would do only once."""

    def loss(self, model, x, y):
        return super().loss(model, functional.dropout(x, 0.5), y)


class Declared(Noisy):
    def constants(self):
        return ()


@needs_compiler
@pytest.mark.parametrize("task", [Noisy(), Declared()])
def test_steps_that_need_the_host_are_not_captured(gpu, task):
    octsod.manual_seed(0)
    trainer = Recipe().trainer(octsod.csnet(0.2).to("cuda"), task, total=50)
    assert trainer.capturable == isinstance(task, Declared)
    x, y = rng(3).standard_normal((2, 3, 32, 32)).astype(np.float32), np.ones((2, 1, 32, 32), np.float32)
    for _ in range(4):
        trainer.step(x, y)
    trainer.sync()
    assert sum(graph.launches for graph in gpu.graphs) == 0 and trainer.steps == 4


@needs_compiler
def test_a_change_of_what_a_step_depends_on_is_seen(gpu):
    _, trainer = trained("cuda", 4)
    x, y = rng(3).standard_normal((2, 3, 32, 32)).astype(np.float32), np.ones((2, 1, 32, 32), np.float32)
    for change in (
        lambda: setattr(trainer.optimizer, "max_norm", 1.0),
        lambda: setattr(trainer.hooks[0].decay, "strength", 7.0),
        lambda: setattr(next(m for m in trainer.model.modules() if hasattr(m, "eps")), "eps", 1e-3),
    ):
        trainer.step(x, y)
        count = len(gpu.graphs)
        change()
        launched = gpu.launches
        trainer.step(x, y)
        assert gpu.launches > launched + 100 and len(gpu.graphs) == count
        trainer.step(x, y)
        assert len(gpu.graphs) == count + 1


@needs_compiler
def test_inference_is_captured_by_shape(gpu):
    model = lived_in(Configuration.standard(0.2), 1, "float64")
    pictures = [rng(n).standard_normal((count, 3, 32, 32)) for n, count in enumerate((1, 1, 2, 1))]
    expected = [infer(model, x) for x in pictures]
    model.to("cuda:1")
    for x, y in zip(pictures, expected, strict=True):
        assert np.abs(infer(model, x) - y).max() < 1e-10
    assert [graph.launches for graph in gpu.graphs] == [2]  # of the second and third single picture
    next(model.parameters()).data = next(model.parameters()).numpy() * 0
    assert np.abs(infer(model, pictures[0]) - expected[0]).max() > 1e-3


def write_pictures(folder, count):
    """A folder of small pictures."""
    folder.mkdir()
    for number in range(count):
        Image.fromarray(rng(number).integers(0, 256, (40, 50, 3), np.uint8)).save(folder / f"{number}.png")
    return folder


# --- on the command line ----------------------------------------------------------------------------------------------


@needs_compiler
def test_a_run_keeps_its_device(tmp_path, gpu):
    options = ("--width", 0.2, "--size", 32, "-b", 4, "--lr", "1e-3", "-v", "-o", tmp_path / "run")
    done = run("train", *options, "--steps", 3, "--device", "cuda:1")
    assert done.exit_code == 0, done.stderr
    assert "compiling kernels for the GPU: " in done.stderr and "pictures brought to cuda:1: " in done.stderr
    assert 'device = "cuda:1"' in (tmp_path / "run" / "config.toml").read_text()
    compiled = len(gpu.compiled)
    done = run("train", "--resume", tmp_path / "run", "--steps", 5)
    assert done.exit_code == 0, done.stderr
    assert {index for index, *_ in gpu.compiled} == {1} and len(gpu.compiled) == compiled
    gpu.machine.gpus = 1
    done = run("train", "--resume", tmp_path / "run", "--steps", 6)
    text = (tmp_path / "run" / "config.toml").read_text()
    assert done.exit_code == 0 and 'device = "cuda:1"' in text  # it was found before; a new process looks again


def test_a_gpu_that_is_gone(tmp_path, gpu):
    done = run("train", "--steps", 1, "--device", "cuda:7", "-o", tmp_path / "run")
    assert done.exit_code == 2
    last = done.stderr.splitlines()[-1]
    assert last == "Error: Invalid value for --device: cuda:7: there are 2 GPUs, cuda:0 to cuda:1."
    (tmp_path / "config.toml").write_text('device = "cuda:7"\nsteps = 1\n')
    done = run("train", "-c", tmp_path / "config.toml", "-o", tmp_path / "run")
    last = done.stderr.splitlines()[-1]
    assert done.exit_code == 2 and last.startswith(f"Error: {tmp_path / 'config.toml'}: `device`: cuda:7: there are 2 ")
    assert last.endswith("; `device` cpu trains on the processor.")


@needs_compiler
def test_predictions_are_those_of_the_cpu(tmp_path, gpu, weights, monkeypatch):
    picture = write_pictures(tmp_path / "in", 3)
    for device in ("cpu", "cuda", "auto"):
        done = run("predict", picture, "--model", weights, "--device", device, "-o", tmp_path / device)
        assert done.exit_code == 0, done.stderr
        assert bool(gpu.compiled) == (device != "cpu")
    compiled = len(gpu.compiled)
    names = sorted(path.name for path in (tmp_path / "cpu").iterdir())
    assert len(names) == 3
    for name in names:
        maps = [np.asarray(Image.open(tmp_path / device / name), int) for device in ("cpu", "cuda", "auto")]
        assert np.abs(maps[0] - maps[1]).max() <= 1 and np.array_equal(maps[0], maps[2])  # too few for a GPU
    monkeypatch.setattr("octsod.cli.predict.MANY", 3)
    done = run("predict", picture, "--model", weights, "-o", tmp_path / "more")
    assert done.exit_code == 0 and len(gpu.compiled) >= compiled and gpu.launches > 0
    done = run("predict", picture, "--device", "gpu", "-o", tmp_path / "other")
    assert done.exit_code == 2 and "'gpu' is not cpu, cuda, cuda:N or auto" in done.stderr
