"""What tests of `octsod.profile` have in common: ops and networks, a clock, and what is asked of results."""

import itertools
import math
import threading

import numpy as np
import pytest
import swish

import octsod
from octsod import nn, ops
from octsod.autograd import Function
from octsod.profiling import recording


class Cube(Function):
    """x**3 in plain NumPy, with a cost."""

    @staticmethod
    def forward(ctx, x, scale=1.0):
        ctx.x, ctx.scale = x, scale
        return scale * x**3

    @staticmethod
    def backward(ctx, grad):
        return 3 * ctx.scale * grad * ctx.x**2

    @staticmethod
    def cost(x, scale=1.0, itemsize=4, backward=False):
        return ops.Cost((4 if backward else 3) * math.prod(x), itemsize * math.prod(x) * (3 if backward else 2))


class Net(nn.Module):
    def __init__(self):
        self.stages = [[nn.Conv2d(3, 4), nn.Conv2d(4, 4)], [nn.Conv2d(4, 2)]]
        self.head = {"last": nn.Conv2d(2, 1)}

    def forward(self, x):
        for stage in self.stages:
            for conv in stage:
                x = swish.Swish.apply(conv(x))
        return self.head["last"](x)


@pytest.fixture(name="clock")
def leaping_clock(monkeypatch):
    """Time passes by leaps, whenever somebody looks."""
    leaps = np.random.default_rng(0).integers(1, 10**6, 10**6).tolist()
    monkeypatch.setattr(recording, "clock", itertools.accumulate(leaps).__next__)


def images(count=2, channels=3, size=8):
    return octsod.Tensor(np.random.default_rng(0).standard_normal((count, channels, size, size)).astype(np.float32))


def profiled(**settings):
    return octsod.profile(roofs=False, **settings)


def rows_by(result, **facts):
    return [row for row in result.rows if all(getattr(row, name) == value for name, value in facts.items())]


def the_row(result, **facts):
    (row,) = rows_by(result, **facts)
    return row


def in_thread(work, name="helper"):
    thread = threading.Thread(target=work, name=name)
    thread.start()
    thread.join()


def assert_complete(result):
    assert result.rounds
    for number, wall in enumerate(result.rounds):
        assert sum(row.seconds[number] for row in result.rows if not row.beside) == pytest.approx(wall, rel=1e-12)
