"""For tests of the graph: leaves, a small network and its parameters, a function, a count of the graph's objects."""

import contextlib
import gc

import deferred_ops
import numpy as np

from octsod import Tensor
from octsod import functional as f
from octsod.autograd import Context, Function, graph
from octsod.backend.deferred import Deferred, DeferredGradient, GradientTarget


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def leaf(*shape, seed=0, dtype=np.float64):
    return Tensor(normal(*shape, seed=seed, dtype=dtype), requires_grad=True)


@contextlib.contextmanager
def without_collector():
    """What dies in here dies by reference count."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def graph_objects():
    """How many nodes, contexts, deferred maps, gradients and slots there are."""
    kinds = (graph.Node, Context, graph._Pending, Deferred, DeferredGradient, GradientTarget, Tensor)
    return sum(isinstance(o, kinds) for o in gc.get_objects())


def network(x, parameters):
    """One of everything that CSNet does."""
    weight, gamma, beta, slope, mix, depth, dilated, last = parameters
    norm = (None, None, gamma, beta, slope)
    y = f.batch_norm_prelu(deferred_ops.conv2d(x, weight, padding=1, moments=True), *norm)
    fine, coarse = deferred_ops.octave_conv2d([y, None], mix, (4, 4), moments=True)
    fine, coarse = f.batch_norm_prelu(fine, *norm), f.batch_norm_prelu(coarse, *norm)
    fine = f.batch_norm_prelu(f.depthwise_conv2d(fine, depth, padding=1), *norm)
    coarse = f.batch_norm_prelu(f.dilated_conv2d(coarse, [dilated, dilated], (1, 2)), None, None,
                                *(Tensor(np.ones(8, x.dtype)) for _ in range(3)))  # fmt: skip
    (joined,) = f.octave_conv2d([fine, coarse], last, (1,))
    return f.binary_cross_entropy_with_logits(joined, Tensor(np.full(joined.shape, 0.25, x.dtype)))


def parameters(dtype=np.float32):
    shapes = (4, 3, 3, 3), (4,), (4,), (4,), (8, 4, 1, 1), (4, 1, 3, 3), (4, 4, 3, 3), (1, 12, 1, 1)
    return [leaf(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)]


class Exponential(Function):
    """Saves its own result, as an op may."""

    @staticmethod
    def forward(ctx, x):
        y = np.exp(x)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved[0]
