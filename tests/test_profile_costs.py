"""Costs and titles of launches, against numbers worked out by hand."""

import inspect

import numpy as np
import pytest

import octsod
from octsod import functional, nn, ops, optim
from octsod.backend import launch_with
from octsod.backend.contract import KERNELS, Contract
from octsod.backend.deferred import Deferred, DeferredGradient, GradientTarget
from octsod.ops import Cost
from octsod.profiling.costs import DESCRIPTIONS
from octsod.profiling.launches import described, first_array, signature


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


def test_every_kernel_is_described():
    facts = {name for name in KERNELS if not inspect.isfunction(getattr(Contract, name, None))}
    assert DESCRIPTIONS.keys() == set(KERNELS) - facts


X, RAW = zeros(2, 3, 8, 6), Deferred(zeros(2, 3, 8, 6))
MAP = Deferred(X, zeros(4, 3))
N = 2 * 3 * 8 * 6
FLAT, RANGES = zeros(100), np.array([[0, 40, 0], [48, 60, 0]])
STATE, SETTINGS = zeros(2, dtype=np.int64), zeros(1, 6, dtype=np.float64)

# kernel, arguments, title, operations, bytes
CASES = [
    ("fill", (X, 1.0), "3x8x6", 0, 4 * N),
    ("copy", (zeros(3, dtype=np.float64), zeros(2, 3)), "3", 0, 24 + 24),
    ("gather", ([zeros(3), zeros(2, 2)], zeros(7, dtype=np.float64)), "7", 0, 28 + 56),
    ("transpose", (X, (1, 0, 2, 3), zeros(3, 2, 8, 6)), "2x8x6", 0, 8 * N),
    ("strided_slice", (zeros(9, 9), (0, 0), (2, 3), zeros(5, 3)), "3", 0, 2 * 60),
    ("strided_slice_backward", (zeros(5, 3), (0, 0), (2, 3), zeros(9, 9)), "9", 0, 60 + 324),
    ("concatenate", ([zeros(2, 3, 4), zeros(2, 1, 4)], zeros(2, 4, 4)), "4x4", 0, 2 * 128),
    ("add", (X, zeros(2, 3, 8, 6), zeros(2, 3, 8, 6)), "3x8x6", N, 12 * N),
    ("add", (X, X, X), "3x8x6", N, 8 * N),  # read once and written once
    ("multiply", (X, zeros(3, 1, 1), zeros(2, 3, 8, 6)), "3x8x6", N, 8 * N + 12),  # broadcast
    ("power", (X, zeros(), zeros(2, 3, 8, 6)), "3x8x6", N, 8 * N),
    ("exp", (X, X), "3x8x6", N, 8 * N),
    ("relu_backward", (zeros(5), zeros(5), zeros(5)), "5", 5, 60),
    ("dropout", (zeros(4, 5), 0.5, 7, zeros(4, 5)), "5", 20, 160),
    ("sum_middle", (zeros(2, 5, 3), zeros(2, 3)), "5x3 -> 3", 30, 120 + 24),
    ("max_middle_backward", (zeros(2, 3), zeros(2, 5, 3), zeros(2, 5, 3)), "5x3", 30, 24 + 240),
    ("matmul", (zeros(2, 3, 4), zeros(2, 4, 5), zeros(2, 3, 5)), "3x4 by 4x5", 2 * 30 * 4, 4 * (24 + 40 + 30)),
    ("matmul", (zeros(2, 4, 3), zeros(2, 5, 4), zeros(2, 3, 5), True, True), "4x3 by 5x4", 240, 4 * (24 + 40 + 30)),
    ("sigmoid", (zeros(5), zeros(5)), "5", 20, 40),
    ("log_softmax", (zeros(2, 5, 3), zeros(2, 5, 3)), "5x3", 150, 240),
    ("cross_entropy", (zeros(2, 5), zeros(2, dtype=np.int64), 0.0, zeros()), "5", 40, 40 + 16),
    ("activate", (MAP, zeros(2, 3, 8, 6)), "3@8", 4 * N, 8 * N),
    ("activate", (RAW, zeros(2, 3, 8, 6)), "3@8", 0, 8 * N),
    ("differentiate", (DeferredGradient(zeros(2, 3, 8, 6), X, zeros(6, 3)), zeros(2, 3, 8, 6)), "3@8", 6 * N, 12 * N),
    ("channel_moments", (X, zeros(2, 3, 3, dtype=np.float64)), "3@8", 4 * N, 4 * N + 144),
    ("gradient_sums", (zeros(2, 3, 8, 6), MAP, zeros(2, 3, 3, dtype=np.float64)), "3@8", 9 * N, 8 * N + 144),
    ("prelu_coefficients", (zeros(3), zeros(4, 3)), "3 channels", 0, 12 + 48),
    ("max_pool2d", (X, zeros(2, 3, 4, 3), 2, 2, 0), "3@8 -> 3@4, 2x2", N, 4 * (N + N // 4)),
    ("avg_pool2d_backward", (zeros(2, 3, 4, 3), X, 2, 2, 0), "3@8 -> 3@4, 2x2", N, 4 * (N + N // 4)),
    ("adam", (FLAT, FLAT, FLAT, FLAT, RANGES, SETTINGS, STATE), "52 numbers", 16 * 52, 7 * 4 * 52),
    ("sgd", (FLAT, FLAT, FLAT, RANGES, SETTINGS, STATE), "52 numbers", 7 * 52, 5 * 4 * 52),
    ("record_step", ([zeros()], [(FLAT, RANGES)], zeros(1, 2), STATE), "52 numbers", 52, 208),
    ("clip_gradients", ([(FLAT, RANGES)], 1.0), "52 numbers", 104, 208),
    ("restore_if_halted", ([FLAT], zeros(100), STATE), "100 numbers", 0, 16),
    ("count_step", (STATE,), "", 1, 16),
    ("average", ([zeros(3)], [zeros(3)], 0.5, STATE), "3 numbers", 9, 36),
    ("decay_scales", ("constant", [zeros(2, 3, dtype=np.float64)], [48], [zeros(3)], [1.0], 0.1, [zeros(3)],
                      zeros(dtype=np.float64)), "3 channels", 12 + 15, 48 + 12 + 24 + 8),
    ("resize_picture", (zeros(4, 5, 3, dtype=np.uint8), zeros(3), zeros(3), zeros(3, 8, 8)), "3@4 -> 8x8", 1920,
     60 + 24 + 768),
]  # fmt: skip


@pytest.mark.parametrize("name, arguments, title, flops, moved", CASES, ids=[case[0] for case in CASES])
def test_costs_by_hand(name, arguments, title, flops, moved):
    assert described(name, arguments) == (title, Cost(flops, moved))


@pytest.mark.parametrize("name", ["conv2d", "depthwise_conv2d"])
def test_a_convolution_whose_gradients_are_not_all_wanted(name):
    """Without that of its input: half of the arithmetic; the input's gradient is not written, nor the weight read."""
    weight = zeros(4, 3, 3, 3) if name == "conv2d" else zeros(3, 1, 3, 3)
    op = ops.Conv2d if name == "conv2d" else ops.DepthwiseConv2d
    forward = op.cost(X.shape, weight.shape, padding=1)
    grad = DeferredGradient.of(zeros(2, weight.shape[0], 8, 6))
    target, grad_weight = GradientTarget(zeros(2, 3, 8, 6)), zeros(*weight.shape)
    costs = {}
    for wanted in (False, True):
        for learned in (False, True):
            outputs = target if wanted else None, grad_weight if learned else None
            _, costs[wanted, learned] = described(f"{name}_backward", (grad, MAP, weight, 1, 1, 1, *outputs))
    assert costs[True, True] == op.cost(X.shape, weight.shape, padding=1, backward=True)
    less = 4 * N + 4 * weight.size
    for key in ((False, True), (True, False)):
        assert costs[key].flops == forward.flops == costs[True, True].flops // 2
        assert costs[key].bytes == costs[True, True].bytes - less
    assert costs[False, False].flops == 0


def test_the_cost_of_a_network():
    frozen = octsod.inference.freeze(octsod.csnet(0.2))
    count = octsod.complexity(octsod.csnet(0.2), (32, 64))
    title, cost = described("csnet", (frozen, zeros(2, 3, 32, 64), zeros(2, 1, 32, 64)))
    assert title == "3x32x64" and cost.flops == 4 * count.macs
    assert cost.bytes == 4 * (4 * 2 * 32 * 64 + count.parameters)


def test_kernels_of_others_have_no_cost():
    assert described("mine.swish", (zeros(2, 3), 0.5, zeros(2, 3))) == ("2x3, 2x3", None)


def test_costs_of_ops_are_those_of_their_kernels():
    """Where an op launches one kernel, both costs are counted by the same rules."""
    x = octsod.Tensor(np.ones((2, 3, 8, 8), np.float32), requires_grad=True)
    found = {}

    def launcher(name, function, *arguments):
        found.setdefault(name, described(name, arguments)[1])
        return function(*arguments)

    with launch_with(launcher):
        functional.sum(functional.max_pool2d(functional.sigmoid(x), 2)).backward()
        functional.cross_entropy(np.ones((4, 3), np.float32), np.zeros(4, np.int64))
        functional.matmul(np.ones((5, 2, 3), np.float32), np.ones((5, 3, 4), np.float32))
    assert found["sigmoid"] == ops.Sigmoid.cost(x.shape)
    assert found["sigmoid_backward"] == ops.Sigmoid.cost(x.shape, backward=True)
    assert found["max_pool2d"] == ops.MaxPool2d.cost(x.shape, (2, 3, 4, 4), 2)
    assert found["max_pool2d_backward"] == ops.MaxPool2d.cost(x.shape, (2, 3, 4, 4), 2, backward=True)
    assert found["cross_entropy"] == ops.CrossEntropy.cost((4, 3))
    assert found["matmul"] == ops.Matmul.cost((5, 2, 3), (5, 3, 4))


@pytest.mark.parametrize("make", [optim.Adam, optim.AdamW, optim.SGD])
def test_an_optimizer_counts_what_it_goes_over(make):
    """Six numbers, ten that only fill a line of the cache, and two more; not the rest of the buffer."""
    layer, counted = nn.Linear(3, 2), []
    optimizer = make(layer.parameters(), 1e-3)
    functional.sum(layer(np.ones((1, 3), np.float32))).backward()
    with launch_with(lambda name, function, *arguments: counted.append(described(name, arguments))):
        optimizer.step()
    assert counted[0][0] == "18 numbers"


def test_signatures():
    x = zeros(2, 3)
    assert signature((x, 1 << 40)) == signature((x, 1 << 41)) != signature((x, 3))  # a seed is no setting
    assert signature((x, 0.5)) == signature((x, 0.25)) and signature((x, True)) != signature((x, 1.0))
    assert signature({"a": x}) == signature({"a": zeros(2, 3)}) != signature({"a": zeros(3, 2)})
    hash(signature((x, [x, None], {"a": {1, 2}}, object, np.float32(2), MAP)))
    assert first_array((1, [None, RAW])) is RAW.raw and first_array((1, "a")) is None


def test_pictures_that_a_device_prepares_have_a_cost():
    """How much of the pictures' bytes is read, only the device knows: the least counts, none."""
    x, y = np.empty((2, 3, 8, 8), np.float32), np.empty((2, 1, 8, 8), np.float32)
    kept, fresh, table = np.empty(999, np.uint8), np.empty(99, np.uint8), np.empty((2, 9))
    title, cost = described("prepare_pictures", (kept, fresh, table, (0.5,) * 3, (0.2,) * 3, x, y))
    assert title == "3x8x8" and cost == Cost(10 * (x.size + y.size), x.nbytes + y.nbytes + table.nbytes)
    _, cost = described("prepare_pictures", (kept, fresh, table, (0.5,) * 3, (0.2,) * 3, x, None))
    assert cost == Cost(10 * x.size, x.nbytes + table.nbytes)
