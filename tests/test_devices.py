"""Devices: arrays that say where they are, ops that run there, and a training that does not wait."""

import gc
import json
import os
import pathlib
import subprocess
import sys
import threading

import numpy as np
import opaque
import pytest
from small_trainers import batches, trainer_on
from test_data import Ramp

import octsod
from octsod import functional as f
from octsod import nn, optim
from octsod.autograd import Function
from octsod.backend import Device, default_device, device_of, empty, kernels, on, zeros
from octsod.data import Loader, Subset
from octsod.training import DivergenceError, Recipe, ScaleDecay, runs, train

TESTS = pathlib.Path(__file__).parent
rng = np.random.default_rng


def values(array):
    return device_of(array).get(array)


# --- the tests of ops and of the whole engine, on arrays that are not NumPy's -----------------------------------------


@pytest.mark.skipif("OCTSOD_TEST_BACKEND" in os.environ, reason="runs the tests of other files on another backend")
@pytest.mark.parametrize("files", [
    ("test_ops_arithmetic.py", "test_ops_convolution.py", "test_ops_normalization.py", "test_ops_resampling.py"),
    ("test_ops_classification.py", "test_ops_pointwise.py", "test_ops_products.py", "test_ops_shapes.py",
     "test_layers.py"),
    ("test_ops_deferred.py",),
    ("test_golden.py::test_ten_steps_of_the_recipe_with_dynamic_decay", "test_golden.py::test_ten_plain_adam_steps"),
], ids=["ops", "more ops", "deferred maps", "ten golden steps"])  # fmt: skip
def test_on_opaque_arrays(files):
    """Gradient checks, ops, and ten steps of the golden run on a device with nothing of NumPy's about its arrays."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(TESTS / name) for name in files)]
    environment = {**os.environ, "OCTSOD_TEST_BACKEND": "opaque", "OCTSOD_TEST_EXAMPLES": "3"}
    done = subprocess.run(command, env=environment, cwd=TESTS.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-1000:]


# --- where things are -------------------------------------------------------------------------------------------------


def test_tensors_move_and_gradients_come_back():
    x = octsod.Tensor(np.arange(6.0).reshape(2, 3), requires_grad=True)
    assert x.device.name == "cpu" and x.to("cpu") is x
    y = x.to("opaque")
    assert y.device is opaque.device and isinstance(y.data, opaque.OpaqueArray)
    (y * y).sum().backward()
    assert isinstance(x.grad, np.ndarray) and np.array_equal(x.grad, 2 * x.data)
    with pytest.raises(ValueError, match="nowhere"):
        x.to("nowhere")


def test_modules_move_with_gradients_and_statistics():
    octsod.manual_seed(0)
    model = octsod.csnet(0.2)
    x = octsod.Tensor(rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32))
    model(x).sum().backward()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    grads = {name: p.grad.copy() for name, p in model.named_parameters()}
    assert model.to("opaque") is model and model.device is opaque.device
    statistics = [getattr(module, name) for module in model.modules() for name in module.buffers]
    assert statistics and all(isinstance(a, opaque.OpaqueArray) for a in statistics)
    for name, p in model.named_parameters():
        assert isinstance(p.data, opaque.OpaqueArray) and np.array_equal(values(p.grad), grads[name])
    for name, array in model.state_dict().items():
        assert isinstance(array, np.ndarray) and np.array_equal(array, before[name])
    model.load_state_dict({name: array + 1 for name, array in before.items()})
    model.to("cpu")
    assert all(np.array_equal(array, before[name] + 1) for name, array in model.state_dict().items())


def test_new_tensors_and_modules_are_made_where_it_was_said():
    with octsod.use_backend("opaque"):
        assert octsod.Tensor([1.0]).device is opaque.device and nn.NormAct(3).device is opaque.device
    assert octsod.Tensor([1.0]).device.name == "cpu"


def test_a_tensor_says_where_it_is():
    """Beside what else there is to say of it; not on a processor, where most are."""
    x = octsod.Tensor([1.0], requires_grad=True)
    assert repr(x).endswith(", requires_grad=True)")
    assert repr(x.to(opaque.device)).endswith(f", op=To, device={opaque.device.name})")


def test_devices_do_not_mix():
    here, there = octsod.Tensor(np.ones(3)), octsod.Tensor(np.ones(3)).to("opaque")
    with pytest.raises(ValueError, match=r"Add: input 1 is on opaque, but input 0 on cpu.*\.to\(device\)"):
        here + there
    with pytest.raises(ValueError, match="input 1 is on opaque:1, but input 0 on opaque"):
        there + here.to("opaque:1")
    parameter = nn.Parameter(np.ones(3))
    with pytest.raises(ValueError, match=r"`data` is on opaque; expected cpu"):
        parameter.data = there.data
    with pytest.raises(ValueError, match="`gradient` is on opaque; expected cpu"):
        (parameter * 1.0).backward(there)
    with pytest.raises(ValueError, match="one device"):
        optim.Adam([parameter, there_parameter()], lr=0.1)
    statistics = np.zeros(2), np.ones(2)
    x = octsod.Tensor(np.ones((1, 2, 3, 3))).to("opaque")
    with pytest.raises(ValueError, match=r"`running_mean` is on cpu; expected opaque"):
        f.batch_norm(x, *statistics, octsod.Tensor(np.ones(2)).to("opaque"), octsod.Tensor(np.ones(2)).to("opaque"))


def there_parameter():
    with octsod.use_backend("opaque"):
        return nn.Parameter(np.ones(2))


def test_numbers_and_arrays_take_the_tensors_device():
    x = octsod.Tensor(np.float32([1, 2])).to("opaque")
    for y in (x * 2, 2 * x, np.float64(2) * x, 1 / x, x - np.float32([0, 0])):
        assert y.device is opaque.device
    assert (x * 2).dtype == (x * np.float64(2)).dtype == np.float32


def test_an_op_of_ones_own_runs_where_its_inputs_are():
    class Twice(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.device = device_of(x)
            out = empty(x.shape, x.dtype)
            kernels.add(x, x, out)
            return out

        @staticmethod
        def backward(ctx, grad):
            out = ctx.array(0)
            kernels.add(grad, grad, out)
            assert out.device is ctx.device
            return out

    with octsod.use_backend("opaque"):
        x = octsod.Tensor(np.ones(3), requires_grad=True)
    Twice.apply(x).sum().backward()
    assert values(x.grad).tolist() == [2, 2, 2]

    class Stray(Function):
        @staticmethod
        def forward(ctx, x, what):
            return what

    for what in (1.0, np.ones(3), octsod.Tensor(np.ones(3)).to("opaque:1").data):
        with pytest.raises(TypeError, match=r"What `Stray\.forward` returned is .*; expected an array on opaque"):
            Stray.apply(x, what=what)


def test_a_backend_that_lacks_a_kernel_says_so():
    lacking = pytest.raises(NotImplementedError, match="`reference` has no kernel `warp_drive`")
    with octsod.use_backend("reference"), lacking:
        kernels.warp_drive()


def test_a_choice_of_backend_is_the_threads_own():
    seen = []
    with octsod.use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(default_device().name))
        thread.start()
        thread.join()
        assert seen == ["cpu"] and default_device().name == "reference"
        with on(opaque.device):
            assert isinstance(zeros((2,), "float64"), opaque.OpaqueArray)
        assert isinstance(zeros((2,), "float64"), np.ndarray)


def test_a_deferred_map_is_computed_once(monkeypatch):
    x = f.batch_norm_prelu(rng(0).standard_normal((1, 2, 3, 4)), None, None, *np.ones((3, 2)))
    first = x.numpy()
    monkeypatch.setattr(Device, "put", None)
    assert x.numpy() is first and x.array() is first


# --- a training that does not wait ------------------------------------------------------------------------------------

PICTURES = (["0", "1", "2", "3", "4", "5"], ["1", "4"])


def test_the_device_is_waited_for_once_in_so_many_steps():
    trainer, opaque.device.gets = trainer_on("opaque"), 0
    waits, read = [], []
    for x, y in batches(9):
        before = opaque.device.gets
        result = trainer.step(x, y)
        waits.append(opaque.device.gets - before)
        read.append(result is not None)
    assert waits == [0, 0, 0, 1] * 2 + [0] and read == [bool(n) for n in waits]
    trainer.sync()
    steps = trainer.collect()
    assert [step.number for step in steps] == [6, 7, 8, 9] and trainer.collect() == []
    assert trainer.steps == trainer.optimizer.steps == 9


def test_a_metric_of_ones_own_costs_one_wait():
    trainer = trainer_on("opaque", metric=lambda sums, pixels: np.abs(sums / pixels).mean(axis=0))
    ((x, y),) = batches(1)
    opaque.device.gets = 0
    trainer.step(x, y)
    assert opaque.device.gets == 1
    named = trainer_on("opaque")
    named.step(x, y)
    for (name, ours), theirs in zip(trainer.state_dict().items(), named.state_dict().values(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-12, atol=1e-15, err_msg=name)


def test_steps_on_the_device_are_those_of_the_host():
    results = {}
    for backend in ("reference", "opaque"):
        trainer, steps = trainer_on(backend), []
        for x, y in batches(9):
            trainer.step(x, y)
            steps += trainer.collect()
        trainer.sync()
        results[backend] = steps + trainer.collect(), trainer.state_dict()
    # The same kernels, but products over arrays at other addresses round differently.
    steps = (results[name][0] for name in ("opaque", "reference"))
    numbers = [[(s.number, s.loss, s.terms["penalty"], s.lr) for s in some] for some in steps]
    np.testing.assert_allclose(*numbers, rtol=1e-6)
    for name, array in results["reference"][1].items():
        np.testing.assert_allclose(results["opaque"][1][name], array, rtol=1e-4, atol=1e-7, err_msg=name)


def logged(folder):
    """The log, without what depends on the clock, as far as it is the same whatever rounds differently."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    rounded = lambda v: pytest.approx(v, rel=1e-6) if isinstance(v, float) else v  # noqa: E731
    kept = [{k: v for k, v in line.items() if k not in ("img_s", "data_wait_ms", "spreads")} for line in lines]
    return [{k: rounded(v) for k, v in line.items()} for line in kept]


def test_a_run_on_the_device(tmp_path):
    """The same log as on the host, a line per step, whenever they are read; resumed in the middle, too."""
    validation = Subset(Ramp(), [1, 4])
    for backend in ("reference", "opaque"):
        trainer, run = trainer_on(backend, 7), runs.Run.create(tmp_path / backend, {"lr": 1e-3}, PICTURES)
        with run:
            assert train(trainer, Loader(Ramp(), 2, 32, seed=3), run, validation, save_every=5)
    assert [line["step"] for line in logged(tmp_path / "opaque") if "lr" in line] == [1, 2, 3, 4, 5, 6, 7]
    assert logged(tmp_path / "opaque") == logged(tmp_path / "reference")

    trainer, run = trainer_on("opaque", 7), runs.Run.create(tmp_path / "stopped", {"lr": 1e-3}, PICTURES)
    asked = iter(range(100))
    with run:
        assert not train(trainer, Loader(Ramp(), 2, 32, seed=3), run, validation, 5, stop=lambda: next(asked) > 3)
    checkpoint = runs.read_checkpoint(tmp_path / "stopped")
    with octsod.use_backend("opaque"):
        trainer = Recipe(lr=1e-3).trainer(checkpoint.model(), total=7)
    checkpoint.restore(trainer)
    with runs.Run.resume(tmp_path / "stopped", {"lr": 1e-3}, PICTURES, checkpoint) as run:
        assert train(trainer, Loader(Ramp(), 2, 32, seed=3), run, validation, save_every=5)
    assert logged(tmp_path / "stopped") == logged(tmp_path / "opaque")


@pytest.mark.filterwarnings("ignore:invalid value")  # the reference is given infinities
@pytest.mark.parametrize("what", ["loss", "gradient", "penalty"])
def test_divergence_is_named_as_on_the_host_and_nothing_moves_after_it(what):
    """Step 6 is not finite; on the device, 7 and 8 are under way before anybody knows."""
    found = {}
    for backend in ("reference", "opaque"):
        trainer, error, steps, states = trainer_on(backend, 20), None, [], {}
        given = batches(9)
        spoil(trainer, given[5][0], what)
        for k, (x, y) in enumerate(given):
            if k == 5:
                trainer.sync()
                states = {name: array.copy() for name, array in trainer.state_dict().items()}
            try:
                trainer.step(x, y)
            except DivergenceError as caught:
                error = str(caught)
            steps += trainer.collect()
            if error:
                break
        assert k == (8 if backend == "opaque" else 5)
        assert [step.number for step in steps] == [1, 2, 3, 4, 5]
        assert trainer.steps == trainer.optimizer.steps == 5
        for name, array in trainer.state_dict().items():
            np.testing.assert_array_equal(array, states[name], err_msg=name)
        found[backend] = error
        trainer.step(*given[0])  # the next good batch goes on from there
        trainer.sync()
        assert trainer.steps == trainer.optimizer.steps == 6
    assert "stopped in step 6" in found["opaque"] and found["opaque"] == found["reference"]


def spoil(trainer, bad, what):
    """Make a number not finite in each step that is made on the batch `bad`."""
    forward, hook, seen = trainer._forward, trainer.hook(ScaleDecay), [False]
    apply = hook.decay.apply

    def watched(inputs):
        x, y = inputs
        seen[0] = np.array_equal(x.numpy(), bad)
        if seen[0] and what == "loss":
            x = octsod.Tensor.on(x.device, np.where(np.isnan(bad), bad, np.inf))
        return forward((x, y))

    def spoiled():
        penalty = apply()
        if seen[0] and what == "gradient":
            bias = trainer.model.classifier.bias
            bias.grad = np.full(bias.shape, np.nan)
        return penalty * (np.inf if seen[0] and what == "penalty" else 1.0)

    trainer._forward = watched
    hook.decay = type("Spoiled", (), {"apply": staticmethod(spoiled)})


def test_a_batch_that_diverges_may_be_followed_by_frozen_layers():
    trainer, (first, second) = trainer_on("cpu"), batches(2)
    trainer.step(*first)
    with pytest.raises(DivergenceError):
        trainer.step(second[0] * np.nan, second[1])
    for p in list(trainer.model.parameters())[:3]:  # whose part of the buffer is full of NaN
        p.requires_grad = False
    assert trainer.step(*second) is not None and trainer.steps == 2


def test_a_step_that_is_broken_off_leaves_a_trainer_that_goes_on(monkeypatch):
    trainer, (first, second) = trainer_on("cpu"), batches(2)
    trainer.step(*first)

    def interrupted():
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer.optimizer, "step", interrupted)
        trainer.step(*second)
    assert trainer.steps == trainer.optimizer.steps == 1
    assert trainer.step(*second) is not None and trainer.steps == 2
    with pytest.raises(DivergenceError, match="step 3"):
        trainer.step(second[0] * np.nan, second[1])


def test_a_state_with_steps_under_way_is_of_all_of_them():
    trainer, (first, second) = trainer_on("opaque"), batches(2)
    trainer.step(*first)
    assert trainer.state_dict()["steps"] == 1 and len(trainer.collect()) == 1
    trainer.step(second[0] * np.nan, second[1])
    with pytest.raises(DivergenceError, match="step 2"):
        trainer.state_dict()


def test_nothing_is_kept_alive_by_a_divergence():
    gc.collect()
    gc.disable()
    try:
        before = octsod.memory.pool.live
        trainer, ((x, y),) = trainer_on("cpu"), batches(1)
        with pytest.raises(DivergenceError):
            trainer.step(x * np.nan, y)
        del trainer
        assert octsod.memory.pool.live == before
    finally:
        gc.enable()
