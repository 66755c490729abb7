"""Optimisers: their formulas, what all have in common, and one of one's own."""

import copy
import math

import numpy as np
import opaque
import pytest

import octsod
from octsod import nn, optim

rng = np.random.default_rng
SHAPES = (3, 4), (5,), ()
MAKERS = {
    "adam": lambda params, **more: optim.Adam(params, lr=0.01, weight_decay=0.1, **more),
    "adamw": lambda params, **more: optim.AdamW(params, lr=0.01, weight_decay=0.1, **more),
    "sgd": lambda params, **more: optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.1, **more),
}
every_optimizer = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def parameters(dtype="float64", seed=0):
    return [nn.Parameter(rng(seed).standard_normal(shape).astype(dtype)) for shape in SHAPES]


def gradients(steps, dtype="float64", seed=1):
    generator = rng(seed)
    return [[generator.standard_normal(shape).astype(dtype) for shape in SHAPES] for _ in range(steps)]


def train(optimizer, params, steps):
    for grads in steps:
        for p, grad in zip(params, grads, strict=True):
            p.grad = grad
        optimizer.step()


def arrays(params):
    return [p.numpy().copy() for p in params]


# --- formulas ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adam_bit_for_bit(dtype):
    """Twenty steps by Adam's formula, with one rounding at the end: the results of trainings must not change."""
    params, steps = parameters(dtype), gradients(20, dtype)
    values = arrays(params)
    optimizer = optim.Adam(params, lr=1e-2, betas=(0.9, 0.99), weight_decay=5e-3)
    train(optimizer, params, steps)
    lr, beta1, beta2, eps, decay = 1e-2, 0.9, 0.99, 1e-8, 5e-3
    for k, (p, got) in enumerate(zip(values, arrays(params), strict=True)):
        first = second = np.zeros(p.shape, dtype)
        for t, grads in enumerate(steps, 1):
            wide = p.astype(np.float64)
            g = grads[k].astype(np.float64) + decay * wide
            m = beta1 * first.astype(np.float64) + (1 - beta1) * g
            v = beta2 * second.astype(np.float64) + (1 - beta2) * g * g
            p = (wide - lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)).astype(dtype)
            first, second = m.astype(dtype), v.astype(dtype)
        assert got.tobytes() == p.tobytes()


def test_adamw_by_its_formula():
    """Algorithm 2 of Loshchilov and Hutter, with lr for both alpha and the schedule's factor on the decay."""
    params, steps = parameters(), gradients(7)
    start = arrays(params)
    groups = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.5, "lr": 0.05}]
    train(optim.AdamW(groups, lr=0.01, betas=(0.8, 0.95), eps=1e-6, weight_decay=0.2), params, steps)
    for k, (p, (lr, decay)) in enumerate(zip(start, [(0.01, 0.2), (0.05, 0.5), (0.05, 0.5)], strict=True)):
        m = v = np.zeros_like(p)
        for t, grads in enumerate(steps, 1):
            p = p - lr * decay * p
            m = 0.8 * m + 0.2 * grads[k]
            v = 0.95 * v + 0.05 * grads[k] ** 2
            p = p - lr * (m / (1 - 0.8**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-6)
        assert np.allclose(params[k].data, p, rtol=1e-12, atol=1e-14)


SGD_SETTINGS = [
    {}, {"weight_decay": 0.3}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True, "weight_decay": 0.1},
    {"momentum": 0.7, "dampening": 0.5}, {"dampening": 0.5},
]  # fmt: skip


@pytest.mark.parametrize("settings", SGD_SETTINGS, ids=str)
def test_sgd_by_its_formula(settings):
    """As PyTorch's documentation puts it, where there is no velocity before the first step, nor without momentum."""
    params, steps = parameters(), gradients(6)
    start = arrays(params)
    train(optim.SGD(params, lr=0.05, **settings), params, steps)
    momentum, dampening = settings.get("momentum", 0), settings.get("dampening", 0)
    for k, p in enumerate(start):
        velocity = None
        for grads in steps:
            g = grads[k] + settings.get("weight_decay", 0) * p
            if momentum:
                velocity = g if velocity is None else momentum * velocity + (1 - dampening) * g
                g = g + momentum * velocity if settings.get("nesterov") else velocity
            p = p - 0.05 * g
        assert np.allclose(params[k].data, p, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name, settings", [
    ("Adam", {"weight_decay": 0.1}), ("AdamW", {"weight_decay": 0.1}), *(("SGD", s) for s in SGD_SETTINGS),
], ids=str)  # fmt: skip
def test_parity_with_torch(name, settings):
    torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `parity`)")
    params, steps = parameters(), gradients(10)
    theirs = [torch.nn.Parameter(torch.from_numpy(array)) for array in arrays(params)]
    other = getattr(torch.optim, name)(theirs, lr=0.02, **settings)
    optimizer = getattr(optim, name)(params, lr=0.02, max_norm=1.5, **settings)
    for grads in steps:
        for p, grad in zip(theirs, grads, strict=True):
            p.grad = torch.from_numpy(np.array(grad))
        torch.nn.utils.clip_grad_norm_(theirs, 1.5)
        other.step()
    train(optimizer, params, steps)
    for p, q in zip(params, theirs, strict=True):
        assert np.allclose(p.data, q.detach().numpy(), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name, bad, word", [
    ("SGD", {"lr": -1}, "SGD: `lr` is -1"), ("SGD", {"momentum": -0.1}, "`momentum`"),
    ("SGD", {"nesterov": True}, "nesterov"), ("SGD", {"momentum": 0.9, "dampening": 0.1, "nesterov": True}, "nesterov"),
    ("AdamW", {"betas": (0.9, 1.0)}, "AdamW: `betas`"), ("Adam", {"max_norm": 0.0}, "Adam: `max_norm` is 0.0"),
])  # fmt: skip
def test_settings_that_make_no_sense(name, bad, word):
    make = getattr(optim, name)
    with pytest.raises(ValueError, match=word):
        make([nn.Parameter(np.zeros(1))], **{"lr": 0.1, **bad})
    if "max_norm" not in bad:
        with pytest.raises(ValueError, match=word):
            make([{"params": [nn.Parameter(np.zeros(1))], **bad}], lr=0.1)


# --- clipping ---------------------------------------------------------------------------------------------------------


@every_optimizer
def test_gradients_are_clipped_together(make):
    """As if they had been given that small, over all dtypes and groups; a parameter without one does not count."""
    groups = [[*parameters(), *parameters("float32", seed=2), nn.Parameter(np.ones(4))] for _ in range(2)]
    clipped, given = groups
    optimizer, plain = make([{"params": clipped[:2]}, {"params": clipped[2:]}], max_norm=0.5), make(given)
    for scale in (0.01, 1.0, 10.0):
        grads = [scale * rng(5).standard_normal(p.shape).astype(p.dtype) for p in clipped[:-1]]
        norm = math.sqrt(sum(float((g.astype(float) ** 2).sum()) for g in grads))
        assert (norm > 0.5) == (scale > 0.1)
        for p, q, grad in zip(clipped, given, grads, strict=False):
            p.grad, q.grad = grad, (grad * min(1, 0.5 / (norm + 1e-6))).astype(grad.dtype)
        optimizer.step()
        plain.step()
    for p, q in zip(clipped, given, strict=True):
        assert np.allclose(p.data, q.data, rtol=1e-5 if p.dtype == np.float32 else 1e-12)
    optimizer.max_norm = None
    clipped[0].grad = grad = 100 * np.ones(SHAPES[0])
    optimizer.step()
    assert np.array_equal(clipped[0].grad, grad)


# --- what is kept per element -----------------------------------------------------------------------------------------


@every_optimizer
def test_an_optimiser_goes_on_where_another_was(make):
    steps = gradients(6)
    params = parameters()
    whole = make([{"params": params[:1]}, {"params": params[1:]}])
    train(whole, params, steps[:3])
    state = {name: np.array(array) for name, array in whole.state_dict().items()}
    weights = arrays(params)
    assert set(state) == {"steps", *(f"{slot}.{i}" for slot in whole.slots for i in range(3))}
    assert state["steps"] == 3 and all(state[f"{slot}.0"].shape == (3, 4) for slot in whole.slots)
    train(whole, params, steps[3:])
    again = parameters()
    other = make([{"params": again[:1]}, {"params": again[1:]}])
    for p, array in zip(again, weights, strict=True):
        p.data = array
    other.load_state_dict(state)
    train(other, again, steps[3:])
    assert other.steps == 6
    assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays(params), arrays(again), strict=True))


def test_states_that_do_not_fit_change_nothing():
    params = parameters()
    optimizer = MAKERS["adam"](params)
    train(optimizer, params, gradients(2))
    state = {name: np.array(array) for name, array in optimizer.state_dict().items()}
    other = {name: array + 1 for name, array in state.items()}
    for bad, word in (
        ({"first.3": np.zeros(1)}, "has or lacks first.3"), ({"steps": 3}, "`steps` is a int"),
        ({"second.0": np.zeros((4, 3))}, r"`second.0` is float64 \(4"),
        ({"second.2": np.zeros((), np.float32)}, "`second.2` is float32"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"load_state_dict: .*{word}"):
            optimizer.load_state_dict({**other, **bad})
    with pytest.raises(ValueError, match="has or lacks steps"):
        optimizer.load_state_dict({name: array for name, array in other.items() if name != "steps"})
    assert all(np.array_equal(array, state[name]) for name, array in optimizer.state_dict().items())


def test_what_is_kept_of_a_parameter():
    params = parameters()
    optimizer = MAKERS["sgd"](params)
    train(optimizer, params, gradients(1))
    for p, grad, start in zip(params, gradients(1)[0], arrays(parameters()), strict=True):
        (velocity,) = optimizer.state_of(p).values()
        assert velocity.shape == p.shape and np.allclose(velocity, grad + 0.1 * start, rtol=1e-12)
    assert optimizer.state_of(nn.Parameter(np.ones(3))) == {}
    twin = copy.deepcopy(optimizer)
    (copied,) = twin.state_of(twin.groups[0]["params"][0]).values()
    assert np.array_equal(copied, optimizer.state_of(params[0])["velocity"])
    assert not np.shares_memory(copied, optimizer.slot("velocity", 0)) and twin.state_of(params[0]) == {}


@every_optimizer
def test_an_optimiser_for_other_parameters(make):
    """It has the same settings, and none of the past."""
    params, steps = parameters(), gradients(4)
    optimizer = make(params, max_norm=2.0)
    train(optimizer, params, steps[:2])
    optimizer.groups[0]["lr"] = 1e3  # such as a schedule's
    before = optimizer.state_dict()["steps"], arrays(params)
    others, plain = parameters(seed=3), parameters(seed=3)
    rebuilt, fresh = optimizer.rebuilt([{"params": others}]), make(plain, max_norm=2.0)
    assert type(rebuilt) is type(optimizer) and rebuilt.steps == 0
    train(rebuilt, others, steps)
    train(fresh, plain, steps)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(arrays(others), arrays(plain), strict=True))
    assert optimizer.steps == before[0] == 2
    assert all(np.array_equal(a, b) for a, b in zip(arrays(params), before[1], strict=True))
    bad = [{"params": parameters(), "lr": -1.0}]
    with pytest.raises(ValueError, match="`lr` is -1"):
        optimizer.rebuilt(bad)


# --- devices and halts ------------------------------------------------------------------------------------------------


@every_optimizer
def test_a_step_waits_for_no_device(make):
    params, steps = parameters(), gradients(3)
    with octsod.use_backend("opaque"):
        there = parameters()
        optimizer = make(there, max_norm=1.0)
        waited = opaque.device.gets
        train(optimizer, there, steps)
        assert opaque.device.gets == waited
        state = optimizer.state_dict()
        optimizer.load_state_dict({name: array + 1 for name, array in state.items()})
        assert optimizer.steps == 4 and np.array_equal(optimizer.state_dict()["steps"], 4)
    train(make(params, max_norm=1.0), params, steps)
    for p, q in zip(params, there, strict=True):
        assert np.allclose(p.data, q.numpy(), rtol=1e-12)


class Momentum(optim.Optimizer):
    """That of the documentation."""

    slots = ("velocity",)

    def __init__(self, params_or_groups, lr, max_norm=None):
        super().__init__(params_or_groups, {"lr": lr}, max_norm)

    def update(self, number, buffer, ranges):
        velocity = self.slot("velocity", number)
        for start, stop, row in ranges.tolist():
            part = slice(start, stop)
            velocity[part] = 0.9 * velocity[part] + buffer.grad[part]
            buffer.data[part] -= self.groups[row]["lr"] * velocity[part]


def test_an_optimiser_of_ones_own():
    """Written in NumPy, it has all that ours have: groups, clipping, state, and standing still after a halt."""
    own, ours = parameters(), parameters()
    mine = Momentum([{"params": own[:2]}, {"params": own[2:], "lr": 0.5}], lr=0.1, max_norm=1.0)
    groups = [{"params": ours[:2]}, {"params": ours[2:], "lr": 0.5}]
    known = optim.SGD(groups, lr=0.1, momentum=0.9, max_norm=1.0)
    steps = gradients(5)
    for optimizer, params in ((mine, own), (known, ours)):
        train(optimizer, params, steps)
    assert all(np.allclose(a, b, rtol=1e-12) for a, b in zip(arrays(own), arrays(ours), strict=True))
    before, state = arrays(own), {name: np.array(a) for name, a in mine.state_dict().items()}
    mine.state[1] = 1
    train(mine, own, steps)
    assert all(np.array_equal(a, b) for a, b in zip(arrays(own), before, strict=True))
    assert all(np.array_equal(array, state[name]) for name, array in mine.state_dict().items())
    mine.seek(mine.steps)
    train(mine, own, steps[:1])
    assert mine.steps == 6 and all((a != b).any() for a, b in zip(arrays(own), before, strict=True))
    nothing = optim.Optimizer(own, {"lr": 0.1})
    with pytest.raises(TypeError, match="Optimizer needs a method `update`"):
        train(nothing, own, steps[:1])


def test_parameters_that_do_not_learn_are_refused():
    frozen = nn.Parameter(np.zeros((2, 3)))
    frozen.requires_grad = False
    with pytest.raises(ValueError, match=r"Adam: .* a Parameter \(2, 3\) that requires no gradient, as in a frozen"):
        optim.Adam([*parameters(), frozen], lr=0.1)
