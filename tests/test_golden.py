"""Whole-model runs against numbers of the authors' published model, computed in float64 (tests/data)."""

import pathlib

import numpy as np
import pytest

import octsod
from octsod import functional, optim
from octsod.inference import freeze, logits
from octsod.interop import sod100k
from octsod.models.shipped import networks

HERE = pathlib.Path(__file__).parent
GOLDEN = HERE / "data" / "csnet_x1_train.npz"
SHARED = HERE.parents[1] / "shared"


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as file:
        return {name: file[name] for name in file.files}


def part(golden, prefix):
    return {name.removeprefix(prefix): value for name, value in golden.items() if name.startswith(prefix)}


def setup(golden, dtype):
    model = octsod.csnet(dtype=dtype)
    sod100k.load_arrays(model, part(golden, "init/"))
    return model, octsod.Tensor(golden["x"].astype(dtype)), octsod.Tensor(golden["y"].astype(dtype))


def relative(actual, expected):
    """The largest error, relative to the largest entry."""
    return np.abs(actual - expected).max() / np.abs(expected).max()


def one_pass(golden, dtype):
    model, x, y = setup(golden, dtype)
    logits = model(x)
    functional.binary_cross_entropy_with_logits(logits, y).backward()
    return model, logits.numpy()


def test_float64_logits_gradients_and_statistics(golden):
    model, logits = one_pass(golden, "float64")
    assert relative(logits, golden["train_logits"]) < 1e-9
    expected = part(golden, "grad/")
    actual = sod100k.arrays(model, "grad")
    assert actual.keys() == expected.keys() and len(actual) == 421
    errors = {name: relative(actual[name], value) for name, value in expected.items()}
    assert max(errors.values()) < 1e-9, max(errors, key=errors.get)
    state = sod100k.arrays(model)
    for name, value in part(golden, "after1/").items():
        if not name.endswith("num_batches_tracked"):
            assert relative(state[name], value) < 1e-9, name


def test_float32_logits_and_gradients(golden):
    model, logits = one_pass(golden, "float32")
    assert relative(logits, golden["train_logits"]) < 1e-4
    expected = part(golden, "grad/")
    actual = sod100k.arrays(model, "grad")
    squares = sum(((actual[n] - v) ** 2).sum() for n, v in expected.items())
    assert np.sqrt(squares / sum((v**2).sum() for v in expected.values())) < 1e-2
    assert max(relative(actual[n], v) for n, v in expected.items()) < 5e-2


def test_ten_plain_adam_steps(golden):
    model, x, y = setup(golden, "float64")
    optimizer = optim.Adam(model.parameters(), lr=float(golden["adam_lr"]), betas=(0.9, 0.999))
    losses = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert relative(np.array(losses), golden["losses"]) < 1e-9
    state = sod100k.arrays(model)
    for name, value in part(golden, "after10/").items():
        if not name.endswith("num_batches_tracked"):
            assert relative(state[name], value) < 1e-8, name
    model.eval()
    with octsod.no_grad():
        assert relative(model(x).numpy(), golden["eval_logits_after10"]) < 1e-8


def test_ten_steps_of_the_recipe_with_dynamic_decay(golden):
    model, x, y = setup(golden, "float64")
    optimizer = optim.Adam(optim.parameter_groups(model, 5e-3), lr=1e-4, betas=(0.9, 0.99))
    decay = optim.DynamicWeightDecay(model, 3.0)
    losses, penalties = [], []
    for _ in range(10):
        optimizer.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(model(x), y)
        loss.backward()
        penalties.append(decay.apply())
        optimizer.step()
        losses.append(loss.item())
    assert relative(np.array(losses), golden["recipe/bce"]) < 1e-8
    assert relative(np.array(penalties), golden["recipe/decay"]) < 1e-8
    state = sod100k.arrays(model)
    for name, value in part(golden, "recipe/after10/").items():
        if not name.endswith("num_batches_tracked"):
            assert relative(state[name], value) < 1e-8, name


def test_dynamic_decay_alone(golden):
    model, x, _ = setup(golden, "float64")
    model(x)
    penalty = optim.DynamicWeightDecay(model, 2.0).apply()
    assert penalty == pytest.approx(float(golden["dynamic_decay/value"]), rel=1e-9)  # unscaled
    actual, expected = sod100k.arrays(model, "grad"), part(golden, "dynamic_decay/grad/")
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert relative(actual[name], 2 * value) < 1e-9, name


@pytest.mark.parametrize("name, parameters, macs", [("L-x1", 93647, 435412824), ("L-x2", 140894, 716713200)])
def test_released_models(name, parameters, macs):
    official = SHARED / "official"
    if not official.is_dir():
        pytest.skip("the released checkpoints are not here (../shared/official)")
    model = sod100k.read_model(official / f"csnet-{name}.pth.tar", official / f"csnet-{name}.bin")
    assert octsod.complexity(model) == octsod.Complexity(parameters, macs)
    golden = SHARED / "golden" / f"csnet_{name.replace('-', '_')}_predict.npz"
    if not golden.exists():
        return
    with np.load(golden) as file, octsod.no_grad():
        logits = model.eval()(octsod.Tensor(file["x"])).numpy()
        assert np.abs(logits - file["logits"]).max() < 1e-3


@pytest.mark.parametrize("name", [network.name for network in networks()])
def test_trained_networks_give_the_references_logits(name):
    """The networks that come with octsod, layer by layer and as one kernel call, on whichever device the tests run."""
    x = np.random.default_rng(0).standard_normal((1, 3, 96, 80)).astype(np.float32)
    with octsod.no_grad():
        model = octsod.load(name).eval()
        found = [model(octsod.Tensor(x)).numpy(), logits(freeze(model), x)]
        with octsod.use_backend("reference"):
            expected = octsod.load(name).eval()(octsod.Tensor(x)).numpy()
    assert all(relative(array, expected) < 1e-4 for array in found)
