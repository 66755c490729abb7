"""What the graph keeps alive, and until when."""

import threading
import weakref

import numpy as np
import pytest
from graph_checks import graph_objects, leaf, network, normal, parameters, without_collector

from octsod import Tensor
from octsod import functional as f
from octsod.autograd import Function
from octsod.backend import memory


def test_a_training_step_leaves_nothing_behind():
    params = parameters()
    image = Tensor(normal(2, 3, 64, 96, dtype=np.float32))

    def step():
        loss = network(image, params)
        loss.backward()
        for p in params:
            p.data -= 1e-3 * p.grad
            p.zero_grad()
        return loss.item()

    step()
    with without_collector():
        live, objects = memory.pool.live, graph_objects()
        for _ in range(3):
            assert np.isfinite(step())
            assert memory.pool.live == live
            assert graph_objects() == objects


def test_memory_is_given_back_while_backward_runs():
    x = leaf(1, 1, 128, 128)
    before = memory.pool.live
    y = x
    for _ in range(20):
        y = f.sigmoid(y)
    y = y.sum()
    size = x.numpy().nbytes
    held = memory.pool.live - before
    assert held >= 19 * size
    peak_after = []

    class Watch(Function):
        @staticmethod
        def forward(ctx, x):
            return x

        @staticmethod
        def backward(ctx, grad):
            peak_after.append(memory.pool.live - before)
            return grad

    watched = Watch.apply(x)
    del y
    assert memory.pool.live == before
    y = watched
    for _ in range(20):
        y = f.sigmoid(y)
    y.sum().backward()
    assert peak_after[0] <= 3 * size  # at its end next to nothing is held: gradients, not activations


def test_a_forward_graph_dies_with_its_last_tensor():
    x = leaf(1, 3, 64, 64)
    weight = leaf(4, 3, 3, 3)
    with without_collector():
        live, objects = memory.pool.live, graph_objects()
        y = f.conv2d(x, weight, padding=1)
        z = f.batch_norm_prelu(y, None, None, *(Tensor(np.ones(4), requires_grad=True) for _ in range(3)))
        w = f.sigmoid(z)
        refs = [weakref.ref(o) for o in (y, z, w, w.data, y.data, w.node.ctx, z.data.raw)]
        assert memory.pool.live > live and graph_objects() > objects
        del y, z, w
        assert [r() for r in refs] == [None] * len(refs)
        assert memory.pool.live == live and graph_objects() == objects


def test_tensors_and_arrays_die_after_backward():
    x = leaf(1, 3, 64, 64)
    with without_collector():
        live, objects = memory.pool.live, graph_objects()
        y = f.sigmoid(x)
        loss = (y * y).sum()
        refs = [weakref.ref(o) for o in (y, y.data, y.node.ctx, loss.node.ctx)]
        del y
        assert refs[0]() is None  # the graph needs the array, but not the tensor
        assert refs[1]() is not None
        loss.backward()
        assert [r() for r in refs] == [None] * len(refs)  # freed by backward, while the loss lives
        del loss
        x.zero_grad()
        assert memory.pool.live == live and graph_objects() == objects


def test_an_output_is_not_kept_by_its_own_node():
    x = leaf(1, 1, 64, 64)
    with without_collector():
        y = x + 1.0  # whose backward needs no values
        node, data = y.node, weakref.ref(y.data)
        del y
        assert data() is None
        assert node.name == "Add"


def test_a_failing_backward_leaves_no_cycle():
    class Fails(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            raise KeyError("no")

    with without_collector():
        objects = graph_objects()
        y = f.sigmoid(Fails.apply(f.sigmoid(leaf(1, 1, 64, 64)))).sum()
        context = weakref.ref(y.node.ctx)
        with pytest.raises(KeyError) as failure:
            y.backward()
        del y, failure
        assert context() is None
        assert graph_objects() == objects


DEPTH = 20_000


def deep(x):
    y = x
    for _ in range(DEPTH):
        y = y + 1.0
    return y


def test_deep_graphs_do_not_overflow_the_stack():
    x = Tensor(np.zeros(1), requires_grad=True)
    y = deep(x)
    assert y.item() == DEPTH
    y.backward(retain_graph=True)
    assert x.grad.item() == 1
    y.backward()
    assert x.grad.item() == 2


def test_deep_graphs_die_on_a_small_stack():
    x = Tensor(np.zeros(1), requires_grad=True)
    holder = [deep(x)]
    objects = graph_objects()
    before = threading.stack_size(256 * 1024)
    try:
        thread = threading.Thread(target=holder.clear)
        thread.start()
        thread.join(30)
    finally:
        threading.stack_size(before)
    assert graph_objects() <= objects - 2 * DEPTH  # a node and a context each
