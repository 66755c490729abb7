"""Modules, configurations, names, weight files."""

import math

import numpy as np
import pytest

import octsod
from octsod import nn
from octsod.interop import sod100k
from octsod.models import Configuration


def tiny(dtype="float64", split=(0.5, 0.5), seed=0):
    octsod.manual_seed(seed)
    return octsod.csnet(0.25, split, dtype=dtype)


def image(model, size=(32, 48), batch=2, seed=0):
    return octsod.Tensor(np.random.default_rng(seed).standard_normal((batch, 3, *size)).astype(model.dtype))


@pytest.mark.parametrize("split", [(0.5, 0.5), (1, 0), (0, 1), (3, 1), (1,), (0.4, 0.3, 0.3)])
def test_any_split_trains_and_every_parameter_gets_a_gradient(split):
    model = tiny(split=split)
    logits = model(image(model, (32, 64)))
    assert logits.shape == (2, 1, 32, 64)
    logits.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.shape == parameter.shape, name
        assert np.isfinite(parameter.grad).all(), name


def test_initialisation():
    octsod.manual_seed(1)
    model = octsod.csnet(2.0)
    for name, parameter in model.named_parameters():
        values = parameter.data
        if values.ndim == 4:
            bound = 1 / math.sqrt(math.prod(values.shape[1:]))
            assert np.abs(values).max() <= bound, name
            if values.size > 500:
                assert np.abs(values).max() > 0.98 * bound and abs(values.mean()) < 0.1 * bound, name
        elif name.endswith("slope"):
            assert (values == 0.25).all()
        elif name.endswith(".weight"):
            assert (values == 1).all()
    again = [p.data.copy() for p in model.parameters()]
    octsod.manual_seed(1)
    assert all((a == b.data).all() for a, b in zip(again, octsod.csnet(2.0).parameters(), strict=True))


def test_state_dict_round_trip_and_refusals():
    model, other = tiny(seed=0), tiny(seed=1)
    other.load_state_dict(model.state_dict())
    x = image(model)
    with octsod.no_grad():
        assert (model.eval()(x).numpy() == other.eval()(x).numpy()).all()
    state = {name: array.copy() for name, array in model.state_dict().items()}
    before = other.state_dict()["classifier.weight"].copy()
    del state["classifier.bias"]
    state["classifier.weight"] += 1
    with pytest.raises(ValueError, match=r"lacks classifier\.bias"):
        other.load_state_dict(state)
    with pytest.raises(ValueError, match=r"`classifier\.bias` has shape \(2,\); expected \(1,\)"):
        other.load_state_dict({**state, "classifier.bias": np.zeros(2)})
    assert (other.state_dict()["classifier.weight"] == before).all()  # nothing was changed


def test_train_and_eval_differ_and_eval_leaves_statistics_alone():
    model = tiny()
    x = image(model)
    with octsod.no_grad():
        trained = model(x).numpy()
        statistics = {n: a.copy() for n, a in model.state_dict().items() if "running" in n}
        evaluated = model.eval()(x).numpy()
        assert np.abs(trained - evaluated).max() > 1e-3
        assert all((model.state_dict()[n] == a).all() for n, a in statistics.items())


@pytest.mark.parametrize(
    "shape, dtype, words",
    [
        ((1, 3, 30, 32), "float64", "multiples of 16"),
        ((1, 4, 32, 32), "float64", r"expected \(N, 3, H, W\)"),
        ((3, 32, 32), "float64", r"expected \(N, 3, H, W\)"),
        ((1, 3, 32, 32), "float32", "float32; expected float64, the model's"),
        ((0, 3, 32, 32), "float64", "multiples of 16"),
    ],
)
def test_model_refuses_wrong_input(shape, dtype, words):
    with pytest.raises(ValueError, match=words):
        tiny()(octsod.Tensor(np.zeros(shape, dtype)))


@pytest.mark.parametrize(("arguments", "word"), [
    ((0,), "width"), ((-1,), "width"), ((0.1,), "width"), ((1, (0, 0)), "split"), ((1, (-1, 2)), "split"),
    ((1, ()), "split"), ((1, (0.5,), "csnet", None, 0, False, "int32"), "dtype"), ((1, (0.5,), "float64"), "variant"),
])  # fmt: skip
def test_csnet_refuses_nonsense(arguments, word):
    with pytest.raises(ValueError, match=f"csnet: `{word}` is"):
        octsod.csnet(*arguments)


def test_authors_names_cover_the_model():
    names = sod100k.arrays(octsod.csnet())
    assert len(names) == 421 + 2 * 106
    assert "stage0.0.conv1x1.conv.weight" in names and "stage2.3.conv1x1.bns.0.running_var" in names
    assert "stage4.1.conv3x3_2.prelus.1.weight" in names and "oct_fuse.ms.convs.2.msconv.4.weight" in names
    assert "oct_fuse.ms.convs.0.prelu.weight" in names and "oct_fuse.fuse1x1.bns.0.bias" in names
    assert "cls_layer.bias" in names


def learned():
    """A configuration as pruning leaves them: uneven counts, an empty branch, empty dilations, an empty scale."""
    stages = (((3, 4),), ((3, 5), (4, 0), (2, 3)), ((5, 2), (3, 3), (7,)), ((0, 6), (5, 1), (6,)), ((3, 2), (5,)))
    return Configuration(stages, (3, 4, 0), ((1, 0, 0, 2, 0), (0, 0, 0, 0, 3), (0, 0, 0, 0, 0)), 6)


def test_learned_configuration_runs_and_survives_its_file(tmp_path):
    model = octsod.CSNet(learned(), "float64")
    x = image(model)
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    octsod.save(model, tmp_path / "w.safetensors")
    loaded = octsod.load(tmp_path / "w.safetensors")
    assert loaded.configuration == learned() and loaded.dtype == np.float64
    with octsod.no_grad():
        assert (loaded.eval()(x).numpy() == model.eval()(x).numpy()).all()


@pytest.mark.parametrize(
    "change",
    [
        {"merge": 0},
        {"fuse": (1, 2)},
        {"dilated": ((1, 0, 0, 2, 0), (0, 0, 0, 0, 3), (1, 0, 0, 0, 0))},
        {"stages": ()},
        {"merge": 1.5},
        {"merge": 1 << 40},
        {"stages": (((3, 4),) * 1000, *learned().stages[1:])},
        {"stages": (((3,) + (0,) * 1000,), *learned().stages[1:])},
    ],
)
def test_configuration_refuses_nonsense(change):
    values = {"stages": learned().stages, "fuse": learned().fuse, "dilated": learned().dilated, "merge": 6}
    with pytest.raises(ValueError, match="Configuration"):
        Configuration(**{**values, **change})


def test_module_finds_nested_lists_and_buffers():
    class Pair(nn.Module):
        buffers = ("seen",)

        def __init__(self):
            self.layers = [[nn.Conv2d(1, 2), None], [nn.NormAct(2)]]
            self.seen = np.zeros(1)

    names = list(Pair().state_dict())
    assert names == [
        "layers.0.0.weight", "layers.0.0.bias", "layers.1.0.weight", "layers.1.0.bias", "layers.1.0.slope", "seen",
        "layers.1.0.running_mean", "layers.1.0.running_var",
    ]  # fmt: skip
