"""Functions that take part in deferred normalisation."""

import numpy as np
import pytest
from graph_checks import Exponential, leaf, normal

from octsod import Tensor
from octsod import functional as f
from octsod.autograd import Function
from octsod.backend import kernels
from octsod.backend.deferred import ActivationGradient, Deferred, DeferredGradient, GradientTarget
from octsod.testing import gradcheck


class Halve(Function):
    """x / 2 of a deferred map; its gradient goes into the slot, as those of our own ops do."""

    deferred = True

    @staticmethod
    def forward(ctx, x):
        ctx.x = Deferred.of(x)
        return ctx.x.value() / 2

    @staticmethod
    def backward(ctx, grad):
        return (write(ctx, 0, ctx.x, DeferredGradient.of(grad).value() / 2),)


def write(ctx, index, x, grad):
    slot = ctx.target(index)
    if slot is not None:
        slot.array[...] = slot.array + grad if slot.accumulate else grad
        if slot.gradient_sums is not None:
            kernels.gradient_sums(slot.array, x, slot.gradient_sums)
    return slot


class Times(Function):
    """a * b of deferred maps, with a slot each."""

    deferred = True

    @staticmethod
    def forward(ctx, a, b):
        ctx.maps = Deferred.of(a), Deferred.of(b)
        return ctx.maps[0].value() * ctx.maps[1].value()

    @staticmethod
    def backward(ctx, grad):
        grad = DeferredGradient.of(grad).value()
        a, b = ctx.maps
        return write(ctx, 0, a, grad * b.value()), write(ctx, 1, b, grad * a.value())


class Leak(Function):
    """`y if y > 0 else y/4` of y = 2x + 1, left to the reader."""

    deferred = True

    @staticmethod
    def forward(ctx, x):
        raw = Deferred.of(x).value()
        coefficients = np.empty((4, raw.shape[1]), raw.dtype)
        coefficients[:] = np.array([2, 1, 0.25, 0])[:, None]
        ctx.raw = raw
        return Deferred(raw, coefficients)

    @staticmethod
    def backward(ctx, grad):
        assert isinstance(grad, ActivationGradient)
        coefficients = np.empty((6, ctx.raw.shape[1]), ctx.raw.dtype)
        coefficients[:] = np.array([2, 1, 0.25, 2, 0, 0])[:, None]
        return DeferredGradient(grad.array, ctx.raw, coefficients)


NORM = [normal(3, seed=5), normal(3, seed=6), normal(3, seed=7)]


def normed(x, gamma, beta, slope):
    return f.batch_norm_prelu(x, None, None, gamma, beta, slope)


DEFERRED = {
    "leaf": lambda x, w, *p: Halve.apply(x),
    "of a deferred map": lambda x, w, *p: Halve.apply(normed(x, *p)),
    "before a deferred map": lambda x, w, *p: f.sigmoid(normed(Halve.apply(x), *p)),
    "between": lambda x, w, *p: normed(Halve.apply(normed(x, *p)), *p),
    "beside a convolution": lambda x, w, *p: (lambda y: f.conv2d(y, w) + Halve.apply(y))(normed(x, *p)),
    "before a convolution": lambda x, w, *p: (lambda y: Halve.apply(y) + f.conv2d(y, w))(normed(x, *p)),
    "beside a plain op": lambda x, w, *p: (lambda y: f.sigmoid(y) + Halve.apply(y))(normed(x, *p)),
    "twice": lambda x, w, *p: (lambda y: Halve.apply(y) * Halve.apply(y))(normed(x, *p)),
    "two inputs": lambda x, w, *p: Times.apply(normed(x, *p), x),
    "one input twice": lambda x, w, *p: (lambda y: Times.apply(y, y))(normed(x, *p)),
    "one input twice and once more": lambda x, w, *p: (lambda y: Times.apply(y, y) + f.conv2d(y, w))(normed(x, *p)),
    "one leaf twice": lambda x, w, *p: Times.apply(x, x),
    "one plain map twice": lambda x, w, *p: (lambda y: Times.apply(y, y) + y)(f.sigmoid(x)),
    "deferred result": lambda x, w, *p: Leak.apply(x),
    "deferred result read by a convolution": lambda x, w, *p: f.conv2d(Leak.apply(normed(x, *p)), w),
    "deferred result read twice": lambda x, w, *p: (lambda y: f.conv2d(y, w) + f.sigmoid(y))(Leak.apply(x)),
    "deferred result of a result": lambda x, w, *p: Leak.apply(Leak.apply(x) * 0.5),
    "plain function": lambda x, w, *p: Exponential.apply(normed(x, *p)),
    "plain function and a convolution": lambda x, w, *p: (lambda y: f.conv2d(y, w) * Exponential.apply(y))(
        normed(x, *p)
    ),
}


@pytest.mark.parametrize("name", DEFERRED)
def test_deferred_functions(name):
    x, weight = normal(2, 3, 4, 5), normal(3, 3, 1, 1, seed=8)
    assert gradcheck(DEFERRED[name], x, weight, *NORM).error < 1e-6


def test_a_slot_is_there_only_where_a_gradient_is_wanted():
    class Slots(Function):
        deferred = True

        @staticmethod
        def forward(ctx, a, b):
            return a + b

        @staticmethod
        def backward(ctx, grad):
            Slots.got = ctx.target(0), ctx.target(1)
            return None, None

    Slots.apply(leaf(1, 1, 2, 2), Tensor(normal(1, 1, 2, 2))).sum().backward()
    assert isinstance(Slots.got[0], GradientTarget) and Slots.got[1] is None
    assert Slots.got[0].array.shape == (1, 1, 2, 2) and not Slots.got[0].accumulate
