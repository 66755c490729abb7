"""The inference path: the model in eval mode, to the last bits, for any network, size, batch and number of threads."""

import dataclasses
import gc
import importlib
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import configurations, lived_in

import octsod
from octsod import functional as f
from octsod import nn
from octsod.inference import freeze, logits, prediction, snapshots
from octsod.models import Configuration

network = importlib.import_module("octsod.kernels.cpu.network")
plan = importlib.import_module("octsod.kernels.cpu.plan")


pytestmark = pytest.mark.usefixtures("poisoned_scratch")


def in_eval_mode(model, x):
    with octsod.no_grad():
        return model(octsod.Tensor(x)).numpy()


@settings(deadline=None, max_examples=40)
@given(
    configuration=configurations(), units=st.tuples(st.integers(1, 4), st.integers(1, 4)), batch=st.integers(1, 4),
    band=st.sampled_from([1, 1 << 14, 768 << 10]), dtype=st.sampled_from(["float32", "float64"]),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_it_is_the_model_in_eval_mode(configuration, units, batch, band, dtype, seed):
    """Bit by bit the same for any number of threads and any bands; all but the last upsampling as the model's ops."""
    model = lived_in(configuration, seed, dtype)
    height, width = (n * configuration.multiple for n in units)
    x = np.random.default_rng(seed).standard_normal((batch, 3, height, width)).astype(dtype)
    expected = in_eval_mode(model, x)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(network, "available_cpus", lambda: 3)
        patch.setattr(plan, "BAND_BYTES", band)
        for threads in (1, 2, 3):
            octsod.set_num_threads(threads)
            results.append(logits(freeze(model), x))
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
    limit = 2e-6 if dtype == "float32" else 1e-12
    assert np.abs(results[0] - expected).max() <= limit * max(np.abs(expected).max(), 1e-3)


@settings(deadline=None, max_examples=8)
@given(configuration=configurations(), seed=st.integers(0, 2**32 - 1))
def test_it_is_the_same_on_the_reference(configuration, seed):
    model = lived_in(configuration, seed, "float64")
    x = np.random.default_rng(seed).standard_normal((1, 3, configuration.multiple, 2 * configuration.multiple))
    frozen = freeze(model)
    with octsod.use_backend("reference"):
        expected = logits(frozen, x)
    assert np.abs(logits(frozen, x) - expected).max() <= 1e-11 * max(np.abs(expected).max(), 1e-3)


def test_nothing_of_a_picture_stays_behind():
    """Memory is used again from picture to picture, and from network to network: what lies there must not matter."""
    x = np.random.default_rng(1).standard_normal((3, 3, 48, 32)).astype(np.float32)
    frozen = freeze(lived_in(Configuration.standard(0.3), 1, "float32"))
    octsod.set_num_threads(1)
    expected = logits(frozen, x)
    poisoned = np.full_like(x, np.nan)
    assert np.isnan(logits(frozen, poisoned)).any()
    assert logits(frozen, x).tobytes() == expected.tobytes()
    assert np.concatenate([logits(frozen, x[k : k + 1]) for k in range(3)]).tobytes() == expected.tobytes()


def _replace_array(layer):
    """As moving a parameter does."""
    layer.weight._data = layer.weight.data * 2


CHANGES = {
    "numbers of a buffer": lambda layer: layer.norms[0].running_mean.fill(1),
    "another buffer": lambda layer: setattr(layer.norms[0], "running_mean", layer.norms[0].running_mean + 1),
    "numbers of a parameter": lambda layer: layer.weight.data.fill(0.1),
    "another array": _replace_array,
    "another parameter": lambda layer: setattr(layer, "weight", nn.Parameter(2 * layer.weight.data)),
    "another norm": lambda layer: layer.norms.__setitem__(0, nn.NormAct(layer.norms[0].weight.size)),
    "epsilon": lambda layer: setattr(layer.norms[0], "eps", 1.0),
    "scale of weights": lambda layer: setattr(layer, "weight_scale", 2.5),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_changed_model_is_frozen_anew(change):
    model = lived_in(Configuration.standard(0.2), 3, "float32")
    first = snapshots.of(model)
    assert snapshots.of(model) is first and snapshots.of(model.train()) is first and snapshots.of(model.eval()) is first
    change(model.fusion.merge)
    second = snapshots.of(model)
    assert second is not first and snapshots.of(model) is second
    x = np.random.default_rng(2).standard_normal((1, 3, 32, 32)).astype(np.float32)
    assert not np.array_equal(logits(first, x), logits(second, x))  # a snapshot stays what it was
    assert np.array_equal(logits(freeze(model), x), logits(second, x))


def test_infer_is_sigmoid_of_the_logits_whatever_the_mode():
    model = lived_in(Configuration.standard(0.2), 4, "float32").train()
    x = np.random.default_rng(3).standard_normal((2, 3, 32, 32))
    before = {name: array.copy() for name, array in model.state_dict().items()}
    salience = prediction.infer(model, x)
    assert model.training and salience.dtype == np.float32
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())
    expected = f.sigmoid(octsod.Tensor(in_eval_mode(model.eval(), x.astype(np.float32)))).numpy()
    assert np.abs(salience - expected).max() < 1e-6


@pytest.mark.parametrize("shape, words", [
    ((1, 4, 32, 32), "(N, 3, H, W)"), ((3, 32, 32), "(N, 3, H, W)"), ((1, 3, 40, 32), "multiples of 16"),
    ((0, 3, 32, 32), "multiples of 16"),
])  # fmt: skip
def test_bad_input(shape, words):
    frozen = freeze(lived_in(Configuration.standard(0.2), 5, "float32"))
    with pytest.raises(ValueError, match="csnet: `x` has shape") as error:
        logits(frozen, np.zeros(shape, np.float32))
    assert words in str(error.value)
    with pytest.raises(ValueError, match="float64"):
        logits(frozen, np.zeros((1, 3, 32, 32)))


def memory(configuration):
    """Elements that the maps of a picture of 64x64 take."""
    return plan.make_plan(freeze(lived_in(configuration, 6, "float32")), 64, 64, 1).memory_size


def test_memory_is_used_again():
    """A map lives until its last reader: more blocks of the same width do not take more memory."""
    c = Configuration.standard(0.3)
    deep = dataclasses.replace(c, stages=(c.stages[0], c.stages[1] * 5, *c.stages[2:]))
    assert memory(deep) == memory(c)


@pytest.fixture
def plans(monkeypatch):
    """Weak references to all plans that are made."""
    made = []

    def make_plan(*arguments):
        result = plan.make_plan(*arguments)
        made.append(weakref.ref(result))
        return result

    monkeypatch.setattr(network, "make_plan", make_plan)
    return made


def alive(references):
    gc.collect()
    return [k for k, reference in enumerate(references) if reference() is not None]


def test_plans_end_with_their_network(plans):
    """Each validation of a training freezes the model anew."""
    model, x = lived_in(Configuration.standard(0.2), 8, "float32"), np.zeros((1, 3, 32, 32), np.float32)
    for k in range(4):
        model.classifier.bias.data[0] = k
        prediction.infer(model, x)
        prediction.infer(model, x)
    assert len(plans) == 4 and alive(plans) == [3]
    frozen = weakref.ref(snapshots.of(model))
    del model
    assert alive([*plans, frozen]) == []


def test_a_network_has_few_plans(plans):
    """Those of the sizes used last are kept."""
    frozen = freeze(lived_in(Configuration.standard(0.2), 9, "float32"))

    def take(width):
        logits(frozen, np.zeros((1, 3, 16, width), np.float32))

    most = network.MOST_PLANS
    for k in range(most):
        take(16 * (k + 1))
    take(16)
    take(16 * (most + 1))
    assert len(plans) == most + 1 and alive(plans) == [0, *range(2, most + 1)]
    take(16)
    assert len(plans) == most + 1
    take(32)
    assert len(plans) == most + 2


def test_a_plan_holds_arrays_only():
    """Not the lists that it was made from, which take more memory than these."""
    made = plan.make_plan(freeze(lived_in(Configuration.standard(0.2), 6, "float32")), 64, 64, 2)
    assert all(isinstance(value, (np.ndarray, int)) for value in vars(made).values())


def test_what_is_there_for_training_is_left_out():
    model = lived_in(Configuration.standard(0.2, sides=True), 7, "float32")
    x = np.random.default_rng(4).standard_normal((1, 3, 32, 32)).astype(np.float32)
    frozen = freeze(model)
    assert [part.layer for part in frozen.layers] == list(model.configuration.deployed().layers())
    assert logits(frozen, x).tobytes() == logits(freeze(model.deployed()), x).tobytes()


class Other(nn.Module):
    """A network that is no CSNet."""

    def __init__(self):
        self.conv = nn.Conv2d(3, 1)


@pytest.mark.parametrize("make, words", [
    (Other, "is of the architecture 'Other'"),
    (lambda: octsod.csnet(0.2, classes=7), "tells 7 classes of pictures apart"),
])  # fmt: skip
def test_other_networks_are_refused(make, words):
    model, picture = make(), np.zeros((8, 8, 3), np.uint8)
    for call, name in (
        (lambda: freeze(model), "freeze"),
        (lambda: octsod.predict(picture, model), "predict"),
        (lambda: octsod.evaluate(model, "nowhere"), "evaluate"),
    ):
        with pytest.raises(ValueError) as error:
            call()
        assert str(error.value) == f"{name}: `model` {words}; expected a CSNet that finds salient objects."
