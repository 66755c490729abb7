"""The moving average of a model in training."""

import gc

import numpy as np
import opaque
import pytest
from small_trainers import batches

import octsod
from octsod import functional as f
from octsod import nn, optim


class Counted(nn.Module):
    """A layer with an array of whole numbers."""

    buffers = ("seen",)

    def __init__(self):
        self.norm, self.seen = nn.NormAct(3, "float64"), np.zeros(2, np.int64)
        self.again = self.norm  # tied: averaged once

    def forward(self, x):
        self.seen += 1
        return self.norm(x)


def csnet():
    octsod.manual_seed(0)
    return octsod.csnet(0.2, dtype="float64")


def optimizer_of(model):
    return optim.SGD(optim.parameter_groups(model, 5e-3), lr=0.05, momentum=0.9)


def step(model, optimizer, x, y):
    optimizer.zero_grad()
    x, y = (octsod.Tensor(a).to(model.device) for a in (x, y))
    f.binary_cross_entropy_with_logits(model(x), y).backward()
    optimizer.step()


def copied(state):
    return {name: np.array(array) for name, array in state.items()}


def test_the_average_is_that_of_its_formula():
    """Parameters and running statistics; the model itself is not affected."""
    model, alone = csnet(), csnet()
    optimizer, average = optimizer_of(model), optim.MovingAverage(model, decay=0.25)
    plain, expected = optimizer_of(alone), copied(model.state_dict())
    for n, (x, y) in enumerate(batches(6)):
        step(model, optimizer, x, y)
        step(alone, plain, x, y)
        average.update(optimizer.state)
        decay = min(0.25, (1 + n) / (10 + n))
        for name, array in model.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * array
    assert average.updates == 6
    for name, array in average.average.state_dict().items():
        assert np.allclose(array, expected[name], rtol=1e-12, atol=1e-14), name
    for name, array in model.state_dict().items():
        assert np.array_equal(array, alone.state_dict()[name])
    # It is a network of its own, which predicts.
    assert not average.average.training and not average.average.train().training
    x = octsod.Tensor(batches(1)[0][0])
    logits = average.average(x)
    assert logits.node is None and np.isfinite(logits.numpy()).all()
    assert all(p.grad is None and not p.requires_grad for p in average.average.parameters())
    assert all(p.requires_grad for p in model.parameters()) and model.training


def test_whole_numbers_are_copied():
    model = Counted()
    average = optim.MovingAverage(model)
    model(octsod.Tensor(np.ones((1, 3, 2, 2))))
    model.norm.weight.data = np.full(3, 2.0)
    average.update()
    assert average.average.seen.tolist() == [1, 1] and average.average.seen is not model.seen
    assert np.allclose(average.average.norm.weight.data, 1 + 0.9, rtol=1e-15)


def test_a_resumed_average_is_the_same_bit_for_bit():
    model = csnet()
    optimizer, average = optimizer_of(model), optim.MovingAverage(model)
    data, weights = batches(6), None
    for k, (x, y) in enumerate(data):
        if k == 3:
            weights, past, state = map(copied, (model.state_dict(), optimizer.state_dict(), average.state_dict()))
        step(model, optimizer, x, y)
        average.update(optimizer.state)
    assert state["updates"] == 3 and state.keys() == model.state_dict().keys() | {"updates"}
    octsod.manual_seed(1)
    other = octsod.csnet(0.2, dtype="float64")
    other.load_state_dict(weights)
    resumed, again = optimizer_of(other), optim.MovingAverage(other)
    resumed.load_state_dict(past)
    again.load_state_dict(state)
    for x, y in data[3:]:
        step(other, resumed, x, y)
        again.update(resumed.state)
    expected = average.state_dict()
    assert all(array.tobytes() == expected[name].tobytes() for name, array in again.state_dict().items())


def test_states_that_do_not_fit_change_nothing():
    average = optim.MovingAverage(Counted())
    state = copied(average.state_dict())
    other = {name: array + 1 for name, array in state.items()}
    for missing in ("updates", "norm.weight"):
        with pytest.raises(ValueError, match=f"load_state_dict: `state` lacks {missing}"):
            average.load_state_dict({name: array for name, array in other.items() if name != missing})
    with pytest.raises(ValueError, match="`seen` has shape"):
        average.load_state_dict({**other, "seen": np.zeros(3)})
    assert all(np.array_equal(array, state[name]) for name, array in average.state_dict().items())


@pytest.mark.parametrize("backend", ["cpu", "opaque"])
def test_after_a_halt_nothing_changes(backend):
    with octsod.use_backend(backend):
        model = csnet()
        optimizer, average = optimizer_of(model), optim.MovingAverage(model)
        step(model, optimizer, *batches(1)[0])
        average.update(optimizer.state)
        before = copied(average.state_dict())
        model.classifier.weight.data = 2 + np.zeros(model.classifier.weight.shape)
        optimizer.device.put([1, 1], optimizer.state)
        average.update(optimizer.state)
        assert average.updates == (1 if backend == "cpu" else 2)
        average.seek(1)  # as a trainer does when it learns of the halt
        assert all(np.array_equal(array, before[name]) for name, array in average.state_dict().items())
        optimizer.seek(1)
        average.update(optimizer.state)
        assert average.updates == 2
        assert (average.state_dict()["classifier.weight"] != before["classifier.weight"]).all()


def test_an_update_waits_for_no_device():
    data = batches(3)
    with octsod.use_backend("opaque"):
        model = csnet()
        optimizer, average = optimizer_of(model), optim.MovingAverage(model)
        waited = opaque.device.gets
        for x, y in data:
            step(model, optimizer, x, y)
            average.update(optimizer.state)
        average.update()
        assert opaque.device.gets == waited and average.updates == 4
    with octsod.use_backend("reference"):  # whose kernels that device has
        here = csnet()
        optimizer, expected = optimizer_of(here), optim.MovingAverage(here)
        for x, y in data:
            step(here, optimizer, x, y)
            expected.update(optimizer.state)
        expected.update()
    there = average.state_dict()
    assert all(np.array_equal(array, there[name]) for name, array in expected.state_dict().items())


def test_the_average_holds_its_own_arrays_and_no_more():
    """Parameters that live in an optimiser's buffers, with gradients: neither is dragged along."""
    model = csnet()
    optimizer = optimizer_of(model)
    step(model, optimizer, *batches(1)[0])
    average = optim.MovingAverage(model)
    flat = [optimizer.buffers[0].data, optimizer.buffers[0].grad, optimizer.slot("velocity", 0)]
    gc.collect()
    held = {id(average.average)}
    stack, found = [average.average], []
    while stack:  # all that the average's network reaches
        for value in gc.get_referents(stack.pop()):
            if id(value) not in held and not isinstance(value, type) and type(value).__name__ not in (
                "module", "function", "Host", "dtype",
            ):  # fmt: skip
                held.add(id(value))
                stack.append(value)
                found.append(value)
    alive = [value for value in found if isinstance(value, np.ndarray)]
    assert len(alive) >= len(average.average.state_dict())
    assert all(not np.shares_memory(array, other) for array in alive for other in flat)
    assert not any(isinstance(value, (optim.Optimizer, octsod.optim.buffers.FlatBuffer)) for value in found)
    for p in average.average.parameters():
        assert p.data.base is None and p.grad is None and p.grad_in_place and p._home is None


def test_another_network_starts_anew():
    average = optim.MovingAverage(csnet())
    average.update()
    octsod.manual_seed(5)
    other = octsod.csnet(0.25, dtype="float64")
    average.replace(other)
    assert average.updates == 0 and average.model is other
    assert all(np.array_equal(a, average.state_dict()[name]) for name, a in other.state_dict().items())
    other.classifier.weight.data = 1 + other.classifier.weight.data
    average.update()
    assert np.allclose(average.average.classifier.weight.data, other.classifier.weight.data - 0.1, rtol=1e-12)


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_decays_that_make_no_sense(decay):
    with pytest.raises(ValueError, match="MovingAverage: `decay` is"):
        optim.MovingAverage(nn.Conv2d(1, 1), decay)


def test_a_model_that_has_moved_is_refused():
    model = nn.Conv2d(1, 1)
    average = optim.MovingAverage(model)
    model.to("opaque")
    with pytest.raises(ValueError, match=r"MovingAverage: input 1 is on \w+, but input 0 on opaque"):
        average.update()
    average.average.to("opaque")
    average.update()
    assert average.updates == 1


@pytest.mark.parametrize("change", ["parameter", "module", "more", "fewer"])
def test_a_model_with_other_parameters(change):
    """Those at first are what is averaged; others would be ignored."""
    model = Counted()
    average = optim.MovingAverage(model)
    average.update()
    before = copied(average.state_dict())
    if change == "parameter":
        model.norm.weight = octsod.nn.Parameter(np.full(3, 2.0))
    elif change == "module":
        model.norm = nn.NormAct(3, "float64")
    elif change == "more":
        model.other = nn.NormAct(3, "float64")
    else:
        model.norm = model.again = None
    with pytest.raises(ValueError, match="MovingAverage: `model` has other parameters than at first"):
        average.update()
    assert all(np.array_equal(array, before[name]) for name, array in average.state_dict().items())
    average.replace(model)
    average.update()
