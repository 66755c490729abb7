"""Parameters, gradients and moments in flat buffers; copies of them, and arrays that somebody holds."""

import copy
import pickle
import threading

import numpy as np
import opaque  # noqa: F401
import pytest
from small_trainers import batches, trainer_on

import octsod
from octsod import nn, optim
from octsod.autograd import Function
from octsod.backend.memory import ALIGNMENT

rng = np.random.default_rng


# --- parameters, gradients and moments in flat buffers ----------------------------------------------------------------


def address(array):
    return array.__array_interface__["data"][0]


def test_parameters_and_gradients_are_aligned_views_of_one_buffer():
    octsod.manual_seed(0)
    model = octsod.csnet(0.2)
    before = {name: array.copy() for name, array in model.state_dict().items()}
    optimizer = optim.Adam(optim.parameter_groups(model, 5e-3), lr=1e-3)
    (buffer,) = optimizer.buffers
    assert all(np.array_equal(array, before[name]) for name, array in model.state_dict().items())
    model(octsod.Tensor(rng(0).standard_normal((2, 3, 32, 32)).astype(np.float32))).sum().backward()
    for p in model.parameters():
        for array, flat in ((p.data, buffer.data), (p.grad, buffer.grad)):
            assert np.shares_memory(array, flat) and array.shape == p.shape and array.flags.c_contiguous
            assert address(array) % ALIGNMENT == 0
        moments = optimizer.state_of(p)
        assert moments.keys() == {"first", "second"}
        for name, moment in moments.items():
            assert np.shares_memory(moment, optimizer.slot(name, 0)) and moment.shape == p.shape
    starts = [start for start, _ in buffer.bounds]
    assert starts == sorted(set(starts)) and len(starts) == len(list(model.parameters()))


@pytest.mark.parametrize("placed", [False, True])
def test_setting_data_and_grad_checks_and_copies(placed):
    p = nn.Parameter(np.zeros((2, 3), np.float32))
    if placed:
        optim.Adam([p], lr=0.1)
    home, weights = p.data, np.arange(6, dtype=np.float32).reshape(3, 2).T
    p.data = weights
    p.grad = 2 * weights
    assert p.data is home and np.array_equal(p.data, weights) and not np.shares_memory(p.data, weights)
    assert np.array_equal(p.grad, 2 * weights) and p.grad.flags.c_contiguous
    weights[...] = 9
    assert p.data.max() == 5
    for name in ("data", "grad"):
        with pytest.raises(ValueError, match=rf"`{name}` has shape \(3, 2\); expected \(2, 3\)"):
            setattr(p, name, np.zeros((3, 2), np.float32))
        with pytest.raises(TypeError, match=f"`{name}` has dtype float64; expected float32"):
            setattr(p, name, np.zeros((2, 3)))
    assert p.data.max() == 5 and p.grad.max() == 10
    p.grad = None
    assert p.grad is None


def test_weights_that_were_set_are_the_ones_that_move():
    p, start = nn.Parameter(np.zeros((2, 3))), np.arange(6.0).reshape(3, 2)
    p.data = start.T
    optimizer = optim.Adam([p], lr=0.5)
    p.data = start.T + 1
    p.grad = np.ones((3, 2)).T
    optimizer.step()
    assert np.allclose(p.data, start.T + 1 - 0.5)


def test_a_parameter_without_a_gradient_does_not_move():
    parameters = [nn.Parameter(np.ones(n)) for n in (3, 1, 5)]
    groups = [{"params": parameters[:2]}, {"params": parameters[2:], "lr": 1.0}]
    optimizer = optim.Adam(groups, lr=0.5, weight_decay=0.1)
    for present in ((0, 2), (1,), (0, 1, 2), ()):
        before = [p.data.copy() for p in parameters]
        optimizer.zero_grad()
        for k in present:
            parameters[k].grad = np.ones(parameters[k].shape)
        optimizer.step()
        for k, (p, old) in enumerate(zip(parameters, before, strict=True)):
            assert (p.data != old).all() == (k in present)
    assert optimizer.steps == 4


def test_two_optimisers_may_share_parameters():
    p, q = nn.Parameter(np.ones(3)), nn.Parameter(np.ones(2))
    first, second = optim.Adam([p, q], lr=0.1), optim.Adam([q, p], lr=0.2)
    for optimizer, moved in ((first, 0.1), (second, 0.3), (first, 0.4)):
        p.grad, q.grad = np.ones(3), np.ones(2)
        optimizer.step()
        assert np.allclose(p.data, 1 - moved) and np.allclose(q.data, 1 - moved)
    model = nn.Conv2d(1, 1)
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    model.to("opaque")
    with pytest.raises(RuntimeError, match="moved to opaque after its optimiser was made on cpu"):
        optimizer.step()


def test_both_dtypes_count_each_step_once():
    p, q = nn.Parameter(np.zeros(3)), nn.Parameter(np.zeros(2, np.float32))
    optimizer = optim.Adam([p, q], lr=0.25, eps=0.0)
    for step in (1, 2):
        p.grad, q.grad = np.ones(3), np.ones(2, np.float32)
        optimizer.step()
        assert optimizer.steps == step
    assert np.allclose(p.data, -0.5) and np.allclose(q.data, -0.5)


# --- copies, and arrays that somebody holds ---------------------------------------------------------------------------


def test_copies_of_models_optimisers_and_trainers_train_on_their_own():
    x, y = batches(1)[0]
    for again in (copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))):
        p = nn.Parameter(np.ones(3))
        optimizer = optim.Adam([p], lr=0.5)
        p.grad = np.ones(3)
        optimizer.step()
        twin = again(optimizer)
        (q,) = twin.groups[0]["params"]
        q.grad = np.ones(3)
        twin.step()
        assert np.allclose(p.data, 0.5) and np.allclose(q.data, 0, atol=1e-6)
        assert (twin.steps, optimizer.steps) == (2, 1)
    trainer = trainer_on("cpu")
    trainer.step(x, y)
    twin = copy.deepcopy(trainer)
    assert twin.step(x, y) == trainer.step(x, y) and twin.model is not trainer.model
    for name, array in trainer.state_dict().items():
        assert np.array_equal(twin.state_dict()[name], array) and array is not twin.state_dict()[name]
    logits = trainer.model(octsod.Tensor(x))
    assert np.array_equal(copy.deepcopy(logits).numpy(), logits.numpy())
    p.grad = None
    q = copy.copy(p)
    (q * 5.0).sum().backward()
    (p * 2.0).sum().backward()
    assert q.grad.tolist() == [5] * 3 and p.grad.tolist() == [2] * 3


def test_a_gradient_that_somebody_holds_is_left_alone():
    p, q = nn.Parameter(np.float64([1, 2, 3])), nn.Parameter(np.full(3, 3.0))
    optimizer = optim.Adam([p, q], lr=0.5)
    (p * 1.0).sum().backward()
    first = p.grad
    optimizer.zero_grad()
    (p * 10.0).sum().backward()
    assert first.tolist() == [1, 1, 1] and p.grad.tolist() == [10, 10, 10]
    optimizer.zero_grad()
    (p * q).backward(first)  # and may be an input of the next backward
    assert p.grad.tolist() == [3, 3, 3] and q.grad.tolist() == [1, 2, 3]


def test_a_step_takes_gradients_from_where_they_are():
    """And they are then where the optimiser wants them again, whoever holds what was there."""
    p, q = nn.Parameter(np.float64([1, 2, 3])), nn.Parameter(np.ones(3))
    optimizer = optim.SGD([p, q], lr=0.5)
    (buffer,) = optimizer.buffers
    (p * 100.0 + q).sum().backward()
    held = p.grad
    optimizer.zero_grad()
    (p * 7.0).sum().backward()
    assert not np.shares_memory(p.grad, buffer.grad) and held.tolist() == [100, 100, 100]
    optimizer.step()
    assert np.shares_memory(p.grad, buffer.grad) and p.grad.tolist() == [7, 7, 7]
    assert p.data.tolist() == [1 - 3.5, 2 - 3.5, 3 - 3.5] and q.grad is None and q.data.tolist() == [1, 1, 1]


def test_backward_within_backward_and_buffers_asked_for_twice():
    p, q = nn.Parameter(np.ones(3)), nn.Parameter(np.ones(3))
    optim.Adam([p, q], lr=0.1)

    class Nested(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            out = ctx.array(0)
            out[...] = 2 * grad
            (p * 4.0).sum().backward()
            return out

    Nested.apply(p).sum().backward()
    assert p.grad.tolist() == [6, 6, 6]

    class Doubled(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x + y

        @staticmethod
        def backward(ctx, grad):
            one, other = ctx.array(0), ctx.array(0)
            one[...], other[...] = grad, 2 * grad
            return one, other

    p.grad = None
    Doubled.apply(p, q).sum().backward()
    assert p.grad.tolist() == [1, 1, 1] and q.grad.tolist() == [2, 2, 2]


def test_threads_may_add_to_one_parameter():
    p = nn.Parameter(np.zeros(20_000))
    optim.Adam([p], lr=0.1)
    for _ in range(50):
        p.grad = None
        threads = [threading.Thread(target=lambda c=c: (p * c).sum().backward()) for c in (1.0, 2.0)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (p.grad == 3).all()


def test_hosts_share_their_memory():
    """So to(...) between them is for nothing, and an optimiser that was made under one works under the other."""
    octsod.manual_seed(0)
    model = octsod.csnet(0.2, dtype="float64")
    optimizer = optim.Adam(model.parameters(), lr=1e-2)
    before = [p.data.copy() for p in model.parameters()]
    model.to("reference")
    x = octsod.Tensor(batches(1)[0][0])
    with octsod.use_backend("reference"):
        assert model.device.name == optimizer.device.name == "reference" and x.to("cpu") is x
        model(x).sum().backward()
        optimizer.step()
    assert model.device.name == optimizer.device.name == "cpu"
    assert all((p.data != old).any() for p, old in zip(model.parameters(), before, strict=True) if p.grad.any())


def test_two_entries_of_one_name_are_refused():
    class Module(nn.Module):
        def __init__(self):
            self.heads = {1: nn.Parameter(np.ones(1)), "1": nn.Parameter(np.ones(1))}

    with pytest.raises(ValueError, match=r"two parameters or buffers are called `heads\.1`"):
        Module().state_dict()


@pytest.mark.parametrize("bad, word", [
    ([{"params": []}], "empty group"), ([{"lr": 0.1}], "without `params`"), ({"params": []}, "is a dict"),
    ([np.ones(2)], "has a ndarray"),
])  # fmt: skip
def test_groups_that_cannot_be(bad, word):
    with pytest.raises(ValueError, match=word):
        optim.Adam(bad, lr=0.1)
