"""Adam, schedules, parameter groups, dynamic weight decay."""

import math

import numpy as np
import pytest

import octsod
from octsod import functional as f
from octsod import nn, optim, training


def reference_adam(values, grads, lr, betas, eps, decay):
    """Kingma and Ba's algorithm 1 with L2 added to the gradient, written down plainly."""
    first = second = np.zeros_like(values)
    for t, grad in enumerate(grads, 1):
        g = grad + decay * values
        first = betas[0] * first + (1 - betas[0]) * g
        second = betas[1] * second + (1 - betas[1]) * g * g
        values = values - lr * (first / (1 - betas[0] ** t)) / (np.sqrt(second / (1 - betas[1] ** t)) + eps)
    return values


def test_adam_follows_the_algorithm_per_group():
    rng = np.random.default_rng(0)
    start = [rng.standard_normal((3, 4)), rng.standard_normal(5)]
    grads = [[rng.standard_normal(a.shape) for a in start] for _ in range(7)]
    parameters = [nn.Parameter(a.copy()) for a in start]
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "weight_decay": 0.3, "lr": 0.05}]
    optimizer = optim.Adam(groups, lr=0.01, betas=(0.8, 0.95), eps=1e-6)
    for step in grads:
        for p, g in zip(parameters, step, strict=True):
            p.grad = g.copy()
        optimizer.step()
    for i, (lr, decay) in enumerate([(0.01, 0.0), (0.05, 0.3)]):
        expected = reference_adam(start[i], [g[i] for g in grads], lr, (0.8, 0.95), 1e-6, decay)
        assert np.allclose(parameters[i].data, expected, rtol=1e-12, atol=0)
    optimizer.zero_grad()
    assert all(p.grad is None for p in parameters)
    before = parameters[0].data.copy()
    optimizer.step()  # nothing to learn from: nothing moves
    assert (parameters[0].data == before).all()


@pytest.mark.parametrize("bad", [{"lr": -1}, {"betas": (1.0, 0.9)}])
def test_adam_refuses(bad):
    with pytest.raises(ValueError, match="Adam"):
        optim.Adam([nn.Parameter(np.zeros(1))], **{"lr": 0.1, **bad})


def test_adam_refuses_groups():
    p = nn.Parameter(np.zeros(1))
    with pytest.raises(ValueError, match="momentum"):
        optim.Adam([{"params": [p], "momentum": 1}], lr=0.1)
    with pytest.raises(ValueError, match="twice"):
        optim.Adam([p, p], lr=0.1)
    with pytest.raises(ValueError, match="empty"):
        optim.Adam([], lr=0.1)


def rates(schedule, optimizer, count):
    seen = []
    for _ in range(count):
        seen.append(optimizer.groups[0]["lr"])
        schedule.step()
    return seen


def test_schedules():
    optimizer = optim.Adam([nn.Parameter(np.zeros(1))], lr=2.0)
    seen = rates(optim.MultiStepLR(optimizer, [2, 4]), optimizer, 6)
    assert seen == pytest.approx([2, 2, 0.2, 0.2, 0.02, 0.02])
    optimizer = optim.Adam([nn.Parameter(np.zeros(1))], lr=2.0)
    seen = rates(optim.CosineLR(optimizer, total=6, warmup=2, floor=0.1), optimizer, 8)
    cosine = [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(5)]
    assert seen == pytest.approx([2 * f for f in [0.5, 1.0, *cosine, 0.1]])


def test_parameter_groups_spare_exactly_the_decayed_scales():
    model = octsod.csnet(0.25)
    others, gammas = optim.parameter_groups(model, 5e-3)
    assert others["weight_decay"] == 5e-3 and gammas["weight_decay"] == 0
    names = {id(p): n for n, p in model.named_parameters()}
    spared = {names[id(p)] for p in gammas["params"]}
    assert len(others["params"]) + len(spared) == len(names)
    assert spared == {
        n for n in names.values() if n.startswith("extractor") and ".norms." in n and n.endswith(".weight")
    }


def test_dynamic_decay_equals_its_formula_even_with_two_readers():
    """The last maps of stages 2 and 3 are read by the next stage and by the fusion: counted once."""
    octsod.manual_seed(0)
    model = octsod.csnet(0.25, dtype="float64")
    x = octsod.Tensor(np.random.default_rng(1).standard_normal((3, 3, 32, 32)))
    seen = []
    forward = nn.NormAct.forward

    def remember(norm, x):
        result = forward(norm, x)
        seen.append((norm, result))
        return result

    def one_layer_after_the_other(inputs, layers):
        for layer in layers:
            inputs = [
                norm if norm is None else norm(f.depthwise_conv2d(x, weight * nn.WEIGHT_SCALE, padding=1))
                for x, weight, norm in zip(inputs, layer.weights, layer.norms, strict=True)
            ]
        return inputs

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.NormAct, "forward", remember)
        patch.setattr(nn.octave, "depthwise_chain", one_layer_after_the_other)
        model(x)
    model(x)
    decayed = optim.decayed_norms(model)
    assert {norm for norm, _ in seen} >= set(decayed)
    expected = 0.0
    for norm, result in seen:
        if norm in decayed:
            metric = np.abs(result.numpy().mean(axis=(2, 3))).mean(axis=0)
            expected += 0.5 * (metric * norm.weight.data**2).sum()
    assert float(optim.DynamicWeightDecay(model, 3.0).apply()) == pytest.approx(expected, rel=1e-11)


def test_dynamic_decay_needs_a_training_pass():
    model = octsod.csnet(0.25)
    with pytest.raises(ValueError, match="has not run"):
        optim.DynamicWeightDecay(model, 1.0).apply()
    with pytest.raises(ValueError, match="no ILBlock"):
        optim.DynamicWeightDecay(nn.Conv2d(1, 1), 1.0)


def trained_once(recipe, seed=0):
    """A model after one step by the recipe, and the penalty."""
    octsod.manual_seed(seed)
    trainer = training.Trainer(octsod.csnet(0.25, (0.25, 0.25, 0.5), dtype="float64"), recipe, 1)
    rng = np.random.default_rng(seed)
    for norm in trainer.decay.norms:
        norm.weight.data[...] = rng.uniform(-1, 1, norm.weight.shape)
    gammas = [norm.weight.data.copy() for norm in trainer.decay.norms]
    _, penalty = trainer.step(rng.standard_normal((2, 3, 64, 64)), np.ones((2, 1, 64, 64)))
    return trainer, gammas, penalty


def test_standard_decay_is_ordinary_weight_decay():
    """As if Adam had it: coupled L2."""
    trainer, gammas, penalty = trained_once(training.Recipe(decay="standard", decay_strength=0.4))
    assert penalty == pytest.approx(0.5 * sum((g**2).sum() for g in gammas))
    plain, _, _ = trained_once(training.Recipe(decay="none"))
    for norm, bare, gamma in zip(trainer.decay.norms, plain.decay.norms, gammas, strict=True):
        assert np.allclose(norm.weight.grad, bare.weight.grad + 0.4 * gamma, rtol=1e-12, atol=1e-15)
    usual, _, _ = trained_once(training.Recipe(decay="standard"))
    assert usual.decay.strength == usual.recipe.weight_decay


def test_a_metric_of_ones_own_and_a_factor_of_branches():
    asked = []

    def metric(sums, pixels):
        asked.append((sums.shape, pixels))
        return np.arange(1.0, 1 + sums.shape[1])

    recipe = training.Recipe(decay_strength=2.0, metric=metric, branch_factor=0.25)
    trainer, gammas, _ = trained_once(recipe)
    plain, _, _ = trained_once(training.Recipe(decay="none"))
    model = trainer.model
    first = model.extractor.stages[0][0].mix.norms
    assert asked[:3] == [((2, norm.weight.size), 64 * 64 >> 2 * k) for k, norm in enumerate(first)]
    branch = {id(norm): k for module in model.modules() if hasattr(module, "norms") and isinstance(module.norms, list)
              for k, norm in enumerate(module.norms)}  # fmt: skip
    for norm, bare, gamma in zip(trainer.decay.norms, plain.decay.norms, gammas, strict=True):
        added = 2.0 * 0.25 ** branch[id(norm)] * np.arange(1.0, 1 + gamma.size) * gamma
        assert np.allclose(norm.weight.grad, bare.weight.grad + added, rtol=1e-12, atol=1e-15)


def test_bad_decay():
    with pytest.raises(ValueError, match=r"`metric` returns shape \(\)"):
        trained_once(training.Recipe(metric=lambda sums, pixels: sums.mean()))
    for bad in ({"decay": "weight"}, {"decay": "none", "decay_strength": 1.0}):
        with pytest.raises(ValueError, match="Recipe"):
            training.Recipe(**bad)
    with pytest.raises(ValueError, match="`strength` is -1"):
        optim.DynamicWeightDecay(octsod.csnet(0.25), -1)
    with pytest.raises(ValueError, match="`branch_factor` is nan"):
        optim.DynamicWeightDecay(octsod.csnet(0.25), 1, branch_factor=math.nan)
