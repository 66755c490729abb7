"""The inference path: the model in eval mode, to the last bits, for any network, size, batch and number of threads."""

import importlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import octsod
from octsod import functional as f
from octsod import nn
from octsod.inference import freeze, logits, prediction, snapshots
from octsod.models import Configuration, CSNet

network = importlib.import_module("octsod.kernels.cpu.network")
plan = importlib.import_module("octsod.kernels.cpu.plan")


pytestmark = pytest.mark.usefixtures("poisoned_scratch")


def lived_in(configuration, seed, dtype):
    """A network in eval mode whose scales, biases and slopes are of either sign or zero, with statistics that fit."""
    octsod.manual_seed(seed)
    model = CSNet(configuration, dtype)
    rng = np.random.default_rng(seed)
    for name, array in model.state_dict().items():
        if name.endswith((".bias", ".slope")):
            array[...] = rng.normal(0, 0.3, array.shape)
        elif ".norms." in name and name.endswith(".weight"):
            array[...] = rng.choice([1, 1.3, 0.6, -0.8, 0], array.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.NormAct, "momentum", 1.0)  # one pass gives the running statistics
        side = 2 * configuration.multiple
        model.train()(octsod.Tensor(rng.standard_normal((2, 3, side, side)).astype(dtype)))
    return model.eval()


def in_eval_mode(model, x):
    with octsod.no_grad():
        return model(octsod.Tensor(x)).numpy()


def learned(rng):
    """A configuration such as pruning leaves behind: any counts, some branches and dilations without channels."""
    count = lambda high: int(rng.integers(1, high))  # noqa: E731
    stages = []
    for stage, blocks in enumerate((1, 2, 2, 3, 1)):
        outs = [(count(9), count(9)) if rng.random() < 0.7 else (count(9), 0) for _ in range(blocks)]
        outs = [(0, count(9)) if rng.random() < 0.1 else pair for pair in outs]
        stages.append((*outs[:-1], (count(12),)) if stage >= 2 else outs)
    fuse = [count(9), count(9) if rng.random() < 0.7 else 0, count(9)]
    dilated = [[int(n) for n in rng.integers(0, 4, 5)] if ins else [0] * 5 for ins in fuse]
    dilated[0][0] += 1
    return Configuration(stages, fuse, dilated, count(9))


CONFIGURATIONS = st.one_of(
    st.tuples(
        st.sampled_from([0.2, 0.35, 0.5]),
        st.sampled_from([(0.5, 0.5), (1, 0), (0, 1), (0.25, 0.25, 0.5), (0.7, 0.3), (1,)]),
    ).map(lambda drawn: Configuration.standard(*drawn)),
    st.integers(0, 2**32 - 1).map(lambda seed: learned(np.random.default_rng(seed))),
)


@settings(deadline=None, max_examples=25)
@given(
    configuration=CONFIGURATIONS, units=st.tuples(st.integers(1, 4), st.integers(1, 4)), batch=st.integers(1, 4),
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
        patch.setattr(network.os, "cpu_count", lambda: 3)
        patch.setattr(plan, "BAND_BYTES", band)
        for threads in (1, 2, 3):
            octsod.set_num_threads(threads)
            results.append(logits(freeze(model), x))
    assert results[0].tobytes() == results[1].tobytes() == results[2].tobytes()
    limit = 2e-6 if dtype == "float32" else 1e-12
    assert np.abs(results[0] - expected).max() <= limit * max(np.abs(expected).max(), 1e-3)


@settings(deadline=None, max_examples=8)
@given(configuration=CONFIGURATIONS, seed=st.integers(0, 2**32 - 1))
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


def test_a_changed_model_is_frozen_anew():
    model = lived_in(Configuration.standard(0.2), 3, "float32")
    first = snapshots.of(model)
    assert snapshots.of(model) is first
    model.fusion.merge.norms[0].running_mean[...] += 1
    second = snapshots.of(model)
    assert second is not first
    x = np.random.default_rng(2).standard_normal((1, 3, 32, 32)).astype(np.float32)
    assert not np.array_equal(logits(first, x), logits(second, x))  # a snapshot stays what it was


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
