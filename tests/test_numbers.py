"""Settings that are numbers are checked where they are given: a kernel would make of anything else another error."""

import copy

import numpy as np
import pytest

import octsod
from octsod import Tensor, nn, optim
from octsod import functional as f
from octsod.checks import require_integer, require_number, require_share
from octsod.inference.prediction import infer
from octsod.pictures import object_box

X, C = np.random.default_rng(0).normal(size=(2, 4, 6, 6)), np.ones(4)
WRONG = [None, "x" * 5000, b"1", 1j, np.ones(3), np.ones((4, 1)), [0.5], {}, object(), True, float("nan"), float("inf")]


def norm(**settings):
    return f.batch_norm(X, np.zeros(4), np.ones(4), C, C, **settings)


def chain(**settings):
    return f.depthwise_chain(X, [(np.ones((4, 1, 3, 3)), C, C, C)], [(np.zeros(4), np.ones(4))], **settings)


def optimizer(kind, **settings):
    return kind([nn.Parameter(C)], **{"lr": 0.1, **settings})


def schedule(kind, *arguments, **settings):
    return kind(optimizer(optim.SGD), *arguments, **settings)


CALLS = {
    "batch_norm momentum": lambda value: norm(momentum=value),
    "batch_norm eps": lambda value: norm(training=False, eps=value),
    "depthwise_chain momentum": lambda value: chain(momentum=value),
    "depthwise_chain eps": lambda value: chain(eps=value),
    "depthwise_chain weight_scale": lambda value: chain(weight_scale=value),
    **{f"SGD {name}": lambda value, name=name: optimizer(optim.SGD, **{name: value})
       for name in ("lr", "momentum", "weight_decay", "dampening")},
    **{f"{kind.__name__} {name}": lambda value, kind=kind, name=name: optimizer(kind, **{name: value})
       for kind in (optim.Adam, optim.AdamW) for name in ("lr", "eps", "weight_decay")},
    "Adam betas": lambda value: optimizer(optim.Adam, betas=(0.9, value)),
    "MultiStepLR gamma": lambda value: schedule(optim.MultiStepLR, [3], gamma=value),
    "MultiStepLR milestones": lambda value: schedule(optim.MultiStepLR, [value]),
    "CosineLR total": lambda value: schedule(optim.CosineLR, value),
    "CosineLR warmup": lambda value: schedule(optim.CosineLR, 9, value),
    "CosineLR floor": lambda value: schedule(optim.CosineLR, 9, floor=value),
    "OneCycleLR warmup": lambda value: schedule(optim.OneCycleLR, 9, value),
    "OneCycleLR start": lambda value: schedule(optim.OneCycleLR, 9, start=value),
    "MovingAverage decay": lambda value: optim.MovingAverage(nn.Linear(2, 2), value),
    "object_box margin": lambda value: object_box(np.zeros((4, 4), np.uint8), value),
    "dropout p": lambda value: f.dropout(X, value),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_what_is_no_number_is_refused(call):
    op, argument = call.split()
    for value in WRONG:
        with pytest.raises((ValueError, TypeError), match=f"^{op}: `{argument}` is ") as caught:
            CALLS[call](value)
        assert len(str(caught.value)) < 400 and "expected" in str(caught.value)


def test_a_norm_that_may_be_left_out():
    assert optimizer(optim.Adam, max_norm=None).max_norm is None
    for value in (*WRONG[1:], 0, -1):
        with pytest.raises((ValueError, TypeError), match="SGD: `max_norm` is "):
            optimizer(optim.SGD, max_norm=value)


def test_messages_quote_little():
    for call in (octsod.set_num_threads, octsod.manual_seed, octsod.use_backend, octsod.csnet):
        with pytest.raises((ValueError, TypeError)) as caught:
            call("x" * 100_000).__enter__()
        assert len(str(caught.value)) < 400
    for size in (32, (32,), "ab", (32, 32, 32), (32.0, 32), (0, 32)):
        with pytest.raises((ValueError, TypeError), match="complexity: `size` is "):
            octsod.complexity(octsod.csnet(0.2), size)
    octsod.set_num_threads(np.int64(2))
    assert octsod.get_num_threads() == 2


def test_numbers_of_numpy_are_numbers():
    for value in (0.5, np.float32(0.5), np.float64(0.5), np.array(0.5), np.float16(0.5)):
        assert require_number(value, "op", "x") == require_share(value, "op", "x") == 0.5
        assert type(require_number(value, "op", "x")) is float
    assert [require_integer(value, "op", "x", 0) for value in (3, np.int64(3), np.uint8(3), np.array(3))] == [3] * 4
    for value in (np.ones(3, int), np.array([3]).reshape(1, 1), 3.0, "3", int, True, np.bool_(True)):
        with pytest.raises(TypeError, match=r"op: `x` is .*; expected an integer"):
            require_integer(value, "op", "x", 0)


@pytest.mark.parametrize("name", ["eps", "weight_scale"])
def test_settings_of_layers_are_numbers_in_prediction_too(name):
    model, x = octsod.csnet(0.2), np.zeros((1, 3, 32, 32), np.float32)
    infer(model, x)
    for value in WRONG:
        changed = copy.deepcopy(model)
        kind = nn.NormAct if name == "eps" else nn.ScaledLayer
        setattr(next(module for module in changed.modules() if isinstance(module, kind)), name, value)
        with pytest.raises((ValueError, TypeError), match=f"`{name}` is "):
            infer(changed, x)
        with pytest.raises((ValueError, TypeError), match=f"`{name}` is "):
            changed.train()(Tensor(x))


@pytest.mark.parametrize("size", [None, 1.5, "32", [32], (32, 32), np.ones(2), 0, -16])
def test_a_network_without_a_sensible_size(size, tmp_path):
    model = octsod.csnet(0.2)
    model.size = size
    with pytest.raises((ValueError, TypeError), match=r"predict: `model\.size` is "):
        octsod.predict(np.zeros((20, 30, 3), np.uint8), model)
    with pytest.raises((ValueError, TypeError), match=r"save: `model\.size` is "):
        octsod.save(model, tmp_path / "w.safetensors")


def test_a_size_of_numpy_is_saved(tmp_path):
    model = octsod.csnet(0.2)
    model.size = np.int64(96)
    octsod.save(model, tmp_path / "w.safetensors")
    assert octsod.load(tmp_path / "w.safetensors").size == 96
