"""Adam, schedules, parameter groups, dynamic weight decay."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

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


@given(total=st.integers(3, 3000), warmup=st.floats(0, 0.99))
def test_one_cycle_goes_up_and_then_down(total, warmup):
    optimizer = optim.Adam([nn.Parameter(np.zeros(1))], lr=2.0)
    schedule = optim.OneCycleLR(optimizer, total, warmup, start=0.1, end=1e-3)
    seen, peak = rates(schedule, optimizer, total), schedule.peak
    assert peak == min(round(warmup * (total - 1)), total - 2)
    assert seen[0] == (0.2 if peak else 2.0) and seen[peak] == 2.0 and seen[-1] == 2e-3
    assert (np.diff(seen[: peak + 1]) > 0).all() and (np.diff(seen[peak:]) < 0).all()
    assert optimizer.groups[0]["lr"] == 2e-3  # and so it stays
    schedule.seek(peak)
    assert optimizer.groups[0]["lr"] == 2.0


def test_one_cycle_by_its_formula():
    optimizer = optim.SGD([nn.Parameter(np.zeros(1))], lr=1.0)
    seen = rates(optim.OneCycleLR(optimizer, 11), optimizer, 11)
    up = [0.04 + 0.96 * (1 - math.cos(math.pi * k / 3)) / 2 for k in range(3)]
    down = [1e-4 + (1 - 1e-4) * (1 + math.cos(math.pi * k / 7)) / 2 for k in range(8)]
    assert seen == pytest.approx(up + down, rel=1e-12)
    assert rates(optim.OneCycleLR(optimizer, 1), optimizer, 2)[0] == seen[-1]  # one step: that of the group's own rate


@pytest.mark.parametrize("bad", [{"total": 0}, {"warmup": 1.0}, {"start": 2.0}, {"end": -1e-3}])
def test_one_cycle_refuses(bad):
    optimizer = optim.Adam([nn.Parameter(np.zeros(1))], lr=2.0)
    with pytest.raises(ValueError, match=f"OneCycleLR: `{next(iter(bad))}`"):
        optim.OneCycleLR(optimizer, **{"total": 5, **bad})


def test_a_schedule_moves_to_another_optimiser():
    optimizer = optim.Adam([{"params": [nn.Parameter(np.zeros(1))]}], lr=2.0)
    schedule = optim.MultiStepLR(optimizer, [2, 4])
    schedule.seek(2)
    p, q = (nn.Parameter(np.zeros(1)) for _ in range(2))
    other = optimizer.rebuilt([{"params": [p]}, {"params": [q], "lr": 1.0}])
    schedule.move_to(other)
    schedule.step()
    assert [group["lr"] for group in other.groups] == pytest.approx([0.2, 0.1])
    schedule.step()
    assert [group["lr"] for group in other.groups] == pytest.approx([0.02, 0.01])
    assert optimizer.groups[0]["lr"] == pytest.approx(0.2)


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

    def one_norm_after_the_other(norms, maps):
        return [norm if norm is None else norm(x) for norm, x in zip(norms, maps, strict=True)]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.NormAct, "forward", remember)
        patch.setattr(nn.octave, "normalized", one_norm_after_the_other)
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
    with pytest.raises(ValueError, match=r"no norms whose scales may decay; expected .* method `decayed_norms`"):
        optim.DynamicWeightDecay(nn.Conv2d(1, 1), 1.0)


def trained_once(recipe, seed=0):
    """After one step by the recipe: (model, decay, scales before it, penalty)."""
    octsod.manual_seed(seed)
    trainer = recipe.trainer(octsod.csnet(0.25, (0.25, 0.25, 0.5), dtype="float64"), total=1)
    decay = trainer.hook(training.ScaleDecay).decay
    rng = np.random.default_rng(seed)
    for norm in decay.norms:
        norm.weight.data[...] = rng.uniform(-1, 1, norm.weight.shape)
    gammas = [norm.weight.data.copy() for norm in decay.norms]
    step = trainer.step(rng.standard_normal((2, 3, 64, 64)), np.ones((2, 1, 64, 64)))
    return trainer.model, decay, gammas, step.terms["penalty"]


def test_standard_decay_is_ordinary_weight_decay():
    """As if Adam had it: coupled L2."""
    _, decay, gammas, penalty = trained_once(training.Recipe(decay="standard", decay_strength=0.4))
    assert penalty == pytest.approx(0.5 * sum((g**2).sum() for g in gammas))
    _, plain, _, _ = trained_once(training.Recipe(decay="none"))
    for norm, bare, gamma in zip(decay.norms, plain.norms, gammas, strict=True):
        assert np.allclose(norm.weight.grad, bare.weight.grad + 0.4 * gamma, rtol=1e-12, atol=1e-15)
    _, usual, _, _ = trained_once(training.Recipe(decay="standard"))
    assert usual.strength == training.Recipe().weight_decay


def test_a_metric_of_ones_own_and_a_factor_of_branches():
    asked = []

    def metric(sums, pixels):
        asked.append((sums.shape, pixels))
        return np.arange(1.0, 1 + sums.shape[1])

    recipe = training.Recipe(decay_strength=2.0, metric=metric, branch_factor=0.25)
    model, decay, gammas, _ = trained_once(recipe)
    _, plain, _, _ = trained_once(training.Recipe(decay="none"))
    first = model.extractor.stages[0][0].mix.norms
    assert asked[:3] == [((2, norm.weight.size), 64 * 64 >> 2 * k) for k, norm in enumerate(first)]
    branch = {id(norm): k for module in model.modules() if hasattr(module, "norms") and isinstance(module.norms, list)
              for k, norm in enumerate(module.norms)}  # fmt: skip
    for norm, bare, gamma in zip(decay.norms, plain.norms, gammas, strict=True):
        added = 2.0 * 0.25 ** branch[id(norm)] * np.arange(1.0, 1 + gamma.size) * gamma
        assert np.allclose(norm.weight.grad, bare.weight.grad + added, rtol=1e-12, atol=1e-15)


class TwoBranches(nn.Module):
    """A block of one's own: a map and its half, each with a norm."""

    def __init__(self):
        self.layers = {"coarse": nn.NormAct(2, "float64"), "fine": nn.NormAct(2, "float64")}

    def decayed_norms(self):
        return [(self.layers["fine"], 0), (self.layers["coarse"], 1)]

    def forward(self, x):
        fine, coarse = self.layers["fine"](x), self.layers["coarse"](f.avg_pool2d(x, 2))
        return (fine * fine).sum() + (coarse * coarse).sum()


class Holder(nn.Module):
    """Holds blocks, one of them by two names, and a norm that does not decay."""

    def __init__(self):
        self.first, self.last, self.norm = TwoBranches(), TwoBranches(), nn.NormAct(2, "float64")
        self.again = self.first

    def forward(self, x):
        return self.first(x) + self.last(self.norm(x))


def test_a_block_of_ones_own_declares_its_norms():
    model = Holder()
    blocks = model.first, model.last
    norms = [norm for block in blocks for norm in (block.layers["fine"], block.layers["coarse"])]
    assert optim.decayed_norms(model) == norms
    decay = optim.DynamicWeightDecay(model, 3.0, "constant", branch_factor=0.25)
    assert decay.norms == norms and decay.factors == [1, 0.25] * 2
    others, gammas = optim.parameter_groups(model, 0.5)
    assert {id(p) for p in gammas["params"]} == {id(norm.weight) for norm in norms}
    assert len(others["params"]) == 3 + 4 * 2 and model.norm.weight in others["params"]
    rng = np.random.default_rng(0)
    model(octsod.Tensor(rng.standard_normal((2, 2, 4, 4)))).backward()
    before = [norm.weight.grad.copy() for norm in norms]
    penalty = float(decay.apply())
    for norm, grad, factor in zip(norms, before, decay.factors, strict=True):
        assert np.allclose(norm.weight.grad, grad + 3 * factor * norm.weight.data, rtol=1e-12)
    assert penalty == pytest.approx(0.5 * 2 * (1 + 0.25) * 2)


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
