"""The arrays of a network are checked before it is used: statistics, weights, pictures, batches."""

import copy

import numpy as np
import pytest
from odd_arrays import ODD, REFUSED, normal

import octsod
from octsod import Tensor, nn, optim
from octsod import functional as f
from octsod.inference import freeze
from octsod.inference.prediction import infer
from octsod.training import Recipe


@pytest.fixture
def model():
    """A small network whose statistics fit a picture, in eval mode."""
    octsod.manual_seed(0)
    model = octsod.csnet(0.2)
    for norm in norms(model):
        norm.momentum = 1.0
    model(Tensor(normal(2, 3, 32, 32)))
    return model.eval()


def norms(model):
    return [module for module in model.modules() if isinstance(module, nn.NormAct)]


def first(model, kind):
    return next(module for module in model.modules() if isinstance(module, kind))


X = normal(1, 3, 32, 32)


@pytest.mark.parametrize("name", nn.NormAct.buffers)
def test_running_statistics_are_replaced_by_ones_that_fit(model, name):
    norm = norms(model)[0]
    (channels,) = norm.running_mean.shape
    before = getattr(norm, name).copy()
    bad = np.zeros(1, np.float32), np.zeros(channels), np.zeros((channels, 1), np.float32), [0.0] * channels, None
    for value in bad:
        with pytest.raises((ValueError, TypeError), match=f"NormAct: `{name}` .*; expected"):
            setattr(norm, name, value)
    assert np.array_equal(getattr(norm, name), before)
    expected = infer(model, X)
    given, state = np.repeat(before, 2), {name: array.copy() for name, array in model.state_dict().items()}
    for array in (given[::2], given[:channels] * 0 + before):
        model.load_state_dict(state)
        setattr(norm, name, array)
        assert np.array_equal(infer(model, X), expected)
        model.train()(Tensor(normal(2, 3, 32, 32) + 1))
        assert (getattr(norm, name) != before).all() and (array == before).all()  # the norm's own is updated in place


@pytest.mark.parametrize("name", nn.NormAct.buffers)
def test_statistics_set_behind_the_door_are_found_before_prediction(model, name):
    infer(model, X)
    vars(norms(model)[0])[name] = np.ones(1, np.float32)
    found = rf"freeze: `extractor.stages.0.0.mix.norms.0.{name}` is float32 \(1,\); expected float32 \(2,\), as"
    with pytest.raises(ValueError, match=found):
        infer(model, X)
    with pytest.raises(ValueError, match="has shape"):
        model.train()(Tensor(X))


REPLACED = {
    "smaller": lambda a: nn.Parameter(a[:1, :1]), "larger": lambda a: nn.Parameter(np.concatenate([a, a])),
    "wider": lambda a: nn.Parameter(a.astype(np.float64)), "missing": lambda a: None, "a tensor": lambda a: Tensor(a),
    "an array": lambda a: a, "one number": lambda a: nn.Parameter(np.ones(1, np.float32)),
}  # fmt: skip


@pytest.mark.parametrize("what", REPLACED)
@pytest.mark.parametrize("kind", [nn.OctaveLayer, nn.Conv2d])
def test_replaced_weights_are_found_before_prediction(model, kind, what):
    infer(model, X)
    layer = first(model, kind)
    layer.weight = REPLACED[what](layer.weight.data)
    with pytest.raises(ValueError, match=r"freeze: `[\w.]+weight` .*; expected .*, as the model's configuration says"):
        infer(model, X)


@pytest.mark.parametrize("part", ["weight", "bias", "slope"])
def test_replaced_scales_are_found_before_prediction(model, part):
    infer(model, X)
    setattr(norms(model)[-1], part, nn.Parameter(np.ones(1, np.float32)))
    with pytest.raises(ValueError, match=rf"freeze: `fusion.merge.norms.0.{part}` is float32 \(1,\)"):
        infer(model, X)


def test_missing_parts_are_found_before_prediction(model):
    infer(model, X)
    for change, named in (
        (lambda m: setattr(m, "classifier", None), "classifier"),
        (lambda m: setattr(m, "classifier", nn.Linear(12, 1)), "classifier.weight"),
        (lambda m: setattr(m, "fusion", None), "fusion.fuse"),
        (lambda m: m.extractor.stages[2].pop(), r"extractor.stages.2.\d.mix"),
        (lambda m: setattr(first(m, nn.OctaveLayer), "norms", []), r"extractor.stages.0.0.mix.norms.0.\w+"),
        (lambda m: setattr(first(m, nn.DepthwiseLayer), "weights", [None, None]), r"[\w.]+depthwise.0.weights.0"),
        (lambda m: setattr(m, "configuration", octsod.csnet(1.0).configuration), r"extractor.stages.0.0.mix.weight"),
        (lambda m: first(m, nn.OctaveLayer).norms.append(nn.NormAct(2)), r"extractor.stages.0.0.mix.norms.2.\w+"),
    ):
        changed = copy.deepcopy(model)
        change(changed)
        with pytest.raises(ValueError, match=rf"freeze: `{named}` .*; expected"):
            infer(changed, X)
        with pytest.raises(ValueError, match=rf"freeze: `{named}` .*; expected"):
            freeze(changed)


def test_settings_of_layers_are_seen_by_the_next_prediction(model):
    for part, name, value in (
        (norms(model)[0], "eps", 10.0), (first(model, nn.DepthwiseLayer), "weight_scale", 1.0),
        (norms(model)[-1], "eps", 0.0),
    ):  # fmt: skip
        before = infer(model, X)
        setattr(part, name, value)
        assert not np.array_equal(infer(model, X), before)
        expected = f.sigmoid(model(Tensor(X))).numpy()
        assert np.abs(infer(model, X) - expected).max() < 1e-6


@pytest.mark.parametrize("kind", [*REFUSED, *ODD])
def test_arrays_for_inference(model, kind):
    x = normal(2, 3, 32, 32)
    if kind in REFUSED:
        with pytest.raises(TypeError, match=r"infer: `x` .*; expected"):
            infer(model, REFUSED[kind](x))
    elif kind != "matrix":
        odd = ODD[kind](x)
        assert np.array_equal(infer(model, odd), infer(model, np.array(odd, order="C")))


@pytest.mark.parametrize("kind", [*REFUSED, *ODD])
@pytest.mark.parametrize("which", [0, 1])
def test_arrays_for_a_training_step(model, kind, which):
    batch = [normal(2, 3, 32, 32), (normal(2, 1, 32, 32) > 0).astype(np.float32)]
    if kind in REFUSED:
        batch[which] = REFUSED[kind](batch[which])
        with pytest.raises(TypeError, match=r"step: `batch` .*; expected"):
            Recipe().trainer(model).step(*batch)
    elif kind != "matrix":
        batch[which] = ODD[kind](batch[which])
        plain = [np.array(array, order="C") for array in batch]
        losses = [Recipe().trainer(copy.deepcopy(model)).step(*given).loss for given in (batch, plain)]
        assert losses[0] == losses[1]


def test_a_parameter_that_the_trainer_does_not_know(model):
    trainer, batch = Recipe().trainer(model), (normal(2, 3, 32, 32), np.ones((2, 1, 32, 32), np.float32))
    trainer.step(*batch)
    model.classifier.weight = nn.Parameter(model.classifier.weight.data)
    with pytest.raises(ValueError, match="step: `model` has other parameters than its trainer knows"):
        trainer.step(*batch)


def test_an_average_of_arrays_that_have_shrunk(model):
    average = optim.MovingAverage(model)
    vars(norms(model)[0])["running_mean"] = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match="MovingAverage: `model` has arrays of other shapes"):
        average.update()
