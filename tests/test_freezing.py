"""Frozen modules: they stay as they are, and autograd knows nothing of them."""

import copy

import numpy as np
import pytest
from small_trainers import batches

import octsod
from octsod import functional as f
from octsod import optim
from octsod.autograd.mode import observe
from octsod.backend.deferred import Deferred


def csnet():
    octsod.manual_seed(0)
    return octsod.csnet(0.2, dtype="float64")


def loss_of(model, x, y):
    return f.binary_cross_entropy_with_logits(model(octsod.Tensor(x)), octsod.Tensor(y))


def test_frozen_and_back():
    model = csnet()
    stage = model.extractor.stages[0]
    for block in stage:
        assert block.freeze() is block
    assert not model.frozen and stage[0].frozen and stage[0].mix.norms[0].frozen
    model.train()
    assert model.training and not stage[0].training and not stage[0].depthwise[1].norms[0].training
    assert not any(p.requires_grad for p in stage[0].parameters())
    model.eval()
    assert stage[0].unfreeze() is stage[0]
    assert not stage[0].training  # until the next train()
    model.train()
    assert all(module.training for module in stage[0].modules())
    assert all(p.requires_grad for p in stage[0].parameters())
    twin = copy.deepcopy(model.freeze())
    assert not twin.train().training and not any(p.requires_grad for p in twin.parameters())


def test_training_with_frozen_first_layers():
    """Their weights and statistics stay, all others learn, and the optimiser, decay and average work without them."""
    model = csnet()
    for stage in model.extractor.stages[:2]:
        for block in stage:
            block.freeze()
    frozen = {id(p) for stage in model.extractor.stages[:2] for block in stage for p in block.parameters()}
    names = {name for name, p in model.named_parameters() if id(p) in frozen}
    groups = optim.parameter_groups(model, 5e-3)
    assert {id(p) for group in groups for p in group["params"]} == {
        id(p) for name, p in model.named_parameters() if name not in names
    }
    optimizer = optim.AdamW(groups, lr=1e-3)
    decay = optim.DynamicWeightDecay(model, 1e-2)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    penalties = []
    for x, y in batches(2):
        model.train()
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        penalties.append(float(decay.apply()))
        optimizer.step()
    learned = [norm for norm in optim.decayed_norms(model) if norm.weight.requires_grad]
    assert 0 < len(learned) < len(decay.norms) and min(penalties) > 0
    assert all(norm.activation is None for norm in decay.norms if norm not in learned)
    for name, array in model.state_dict().items():
        still = name.startswith(("extractor.stages.0.", "extractor.stages.1."))
        assert np.array_equal(array, before[name]) == still, name


def test_nothing_is_recorded_for_frozen_layers():
    """No node, no moments of maps, no sums of activations, up to the first layer that learns."""
    model = csnet()
    first = model.extractor.stages[0]
    for block in first:
        block.freeze()
    seen = []
    x, y = batches(1)[0]
    with observe(lambda function, outputs: seen.append((function.__name__, outputs))):
        loss = loss_of(model, x, y)
    count = next(k for k, (_, outputs) in enumerate(seen) if any(o is not None and o.requires_grad for o in outputs))
    assert count >= 3  # at least one ILBlock
    for _, outputs in seen[:count]:
        for output in outputs:
            if output is not None:
                assert output.node is None
                assert not isinstance(output.data, Deferred) or output.data.moments is None
    nodes, edges = {loss.node}, [loss.node]
    while edges:
        for edge in edges.pop().edges:
            if isinstance(edge, tuple) and edge[0] not in nodes:
                nodes.add(edge[0])
                edges.append(edge[0])
    assert len(nodes) == len(seen) - count
    loss.backward()
    assert all(p.grad is None for block in first for p in block.parameters())


@pytest.mark.parametrize("which", ["norms", "blocks"])
def test_frozen_layers_in_the_middle_pass_gradients_on(which):
    """The gradients of what learns are those of the same network in which the frozen parts are in eval mode and learn,
    too."""
    model, other = csnet(), csnet()
    for network in (model, other):  # so that running statistics are not the initial ones
        network(octsod.Tensor(batches(2)[1][0]))

    def middle(network):
        block = network.extractor.stages[2][0]
        return [norm for norm, _ in block.decayed_norms()] if which == "norms" else [block]

    for part, same in zip(middle(model), middle(other), strict=True):
        part.freeze()
        same.eval()
    x, y = batches(1)[0]
    for network in (model, other):
        loss_of(network, x, y).backward()
    gradients = dict(other.named_parameters())
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert 0 < len(learning) < len(gradients)
    for name, p in learning.items():
        assert np.allclose(p.grad, gradients[name].grad, rtol=1e-9, atol=1e-12), name
    assert all(p.grad is None for part in middle(model) for p in part.parameters())
    before = [norm.weight.grad for norm in optim.decayed_norms(model) if not norm.weight.requires_grad]
    penalty = float(optim.DynamicWeightDecay(model, 1.0).apply())
    assert penalty > 0 and before == [None] * 3 * 2


def test_an_optimiser_made_before_leaves_frozen_parameters_alone():
    model = csnet()
    optimizer = optim.SGD(optim.parameter_groups(model, 5e-3), lr=0.1)
    x, y = batches(1)[0]
    loss_of(model, x, y).backward()
    model.classifier.freeze()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    for _ in range(2):
        optimizer.step()
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
    for name, p in model.named_parameters():
        assert (p.data == before[name]).all() == name.startswith("classifier"), name


def test_a_network_frozen_as_a_whole_has_nothing_to_decay():
    model = csnet().freeze()
    decay = optim.DynamicWeightDecay(model, 1.0)
    assert float(decay.apply()) == 0 and optim.parameter_groups(model, 0.1) == []
    x, y = batches(1)[0]
    before = {name: array.copy() for name, array in model.state_dict().items()}
    model.train()
    loss = loss_of(model, x, y)
    assert loss.node is None
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())
