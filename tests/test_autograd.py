"""The graph and its backward pass: accumulation, memory, user-defined functions, errors; and the pool of buffers."""

import contextlib
import gc
import itertools
import threading
import weakref

import numpy as np
import pytest

import octsod
from octsod import Tensor, autograd, no_grad
from octsod import functional as f
from octsod.autograd import Function, graph
from octsod.backend import memory
from octsod.backend.deferred import Deferred, DeferredGradient, Slot
from octsod.backend.device import kernels
from octsod.testing.gradient_check import gradcheck


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
    kinds = (graph.Node, graph.Context, graph._Pending, Deferred, DeferredGradient, Slot, Tensor)
    return sum(isinstance(o, kinds) for o in gc.get_objects())


# --- accumulation -----------------------------------------------------------------------------------------------------


def test_backward_adds_to_grad():
    x = leaf(3, 4)
    (x * 2).sum().backward()
    assert np.array_equal(x.grad, np.full((3, 4), 2.0))
    (x * 3).sum().backward()
    assert np.array_equal(x.grad, np.full((3, 4), 5.0))
    x.zero_grad()
    assert x.grad is None
    (x * 3).sum().backward()
    assert np.array_equal(x.grad, np.full((3, 4), 3.0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_two_backwards_of_a_network_add_up(dtype):
    x, weight, gamma, beta, slope = (
        leaf(*s, dtype=dtype) for s in ((2, 3, 6, 5), (3, 3, 3, 3), (3,), (3,), (3,))
    )  # fmt: skip
    tensors = (x, weight, gamma, beta, slope)

    def run(seed):
        y = f.conv2d(x, weight, padding=1)
        y = f.batch_norm_prelu(y, None, None, gamma, beta, slope)
        y = f.conv2d(y, weight, padding=1)
        y.backward(normal(*y.shape, seed=seed, dtype=dtype))

    singles = []
    for seed in (1, 2):
        run(seed)
        singles.append([t.grad for t in tensors])
        for t in tensors:
            t.zero_grad()
    run(1)
    run(2)
    for t, first, second in zip(tensors, *singles, strict=True):
        assert t.grad.dtype == dtype and t.grad.shape == t.shape
        assert np.allclose(t.grad, first + second, rtol=1e-5)


def test_a_tensor_used_often_gets_every_part():
    x = leaf(5)
    ((x * x) + x + x * 3 + (x - x) + x.sum()).sum().backward()
    assert np.allclose(x.grad, 2 * x.numpy() + 4 + 5)


def test_diamonds_are_walked_once():
    x = Tensor(np.ones(2), requires_grad=True)
    y = x
    for _ in range(60):  # 2**60 paths
        y = y + y
    y.backward(np.ones(2))
    assert np.array_equal(x.grad, np.full(2, 2.0**60))


def test_only_what_requires_a_gradient_gets_one():
    x, constant = leaf(3), Tensor(normal(3))
    y = x * constant
    y.sum().backward()
    assert constant.grad is None and y.grad is None
    assert y.requires_grad and not (constant * 2).requires_grad
    assert not y.detach().requires_grad


def test_a_leaf_is_its_own_gradient():
    x, given = leaf(3), normal(3, seed=1)
    x.backward(given)
    x.backward(given)
    assert np.array_equal(x.grad, 2 * given)


# --- aliasing ---------------------------------------------------------------------------------------------------------


class Both(Function):
    """a + b, whose backward returns the very same array twice."""

    @staticmethod
    def forward(ctx, a, b):
        return a + b

    @staticmethod
    def backward(ctx, grad):
        return grad, grad


@pytest.mark.parametrize("add", [Both.apply, f.add], ids=["user", "add"])
def test_gradients_do_not_share_memory(add):
    a, b, c = leaf(4, 200), leaf(4, 200, seed=1), leaf(4, 200, seed=2)
    given = normal(4, 200, seed=3)
    copy = given.copy()
    add(add(a, b), c.reshape(800).reshape(4, 200)).backward(given)
    a.grad[...] = 7
    assert np.array_equal(b.grad, copy) and np.array_equal(c.grad, copy) and np.array_equal(given, copy)
    b.grad += 1
    assert np.array_equal(c.grad, copy) and (a.grad == 7).all() and np.array_equal(given, copy)


def test_accumulating_into_one_part_leaves_the_others():
    a, b = leaf(3), leaf(3, seed=1)
    middle = a * 1.0
    total = Both.apply(middle, b)  # middle and b are given the same array; more is then added for middle
    given = np.ones(3)
    (total + middle * 2).backward(given)
    assert np.array_equal(a.grad, np.full(3, 3.0))
    assert np.array_equal(b.grad, np.ones(3))
    assert np.array_equal(given, np.ones(3))


def test_a_saved_array_returned_as_gradient_is_not_shared():
    class Product(Function):
        @staticmethod
        def forward(ctx, a, b):
            ctx.save_for_backward(a, b)
            return np.asarray(np.vdot(a, b))

        @staticmethod
        def backward(ctx, grad):
            return ctx.saved[::-1]

    a, b = leaf(3), leaf(3, seed=1)
    before = b.numpy().copy()
    Product.apply(a, b).backward()
    a.grad += 1
    assert np.array_equal(b.numpy(), before)


def test_deferred_parts_do_not_disturb_each_other():
    """The raw map is read by batch norm (an affine gradient that is formed late) and by two others."""
    for order in range(3):
        x, gamma, beta = leaf(2, 2, 3, 4), leaf(2, seed=1), leaf(2, seed=2)
        given = normal(2, 2, 3, 4, seed=3)

        def read(x, kind):
            if kind == 0:
                return f.batch_norm(x, None, None, gamma, beta)  # noqa: B023
            return f.sigmoid(x) if kind == 1 else x

        raw = x * 1.5
        parts = [read(raw, (order + k) % 3) for k in range(3)]
        (parts[0] + parts[1] + parts[2]).backward(given)
        together = x.grad
        x.zero_grad()
        for kind in range(3):
            read(x * 1.5, kind).backward(given)
        assert np.allclose(x.grad, together, rtol=1e-12)


def test_editing_a_gradient_does_not_reach_a_retained_graph():
    x, weight = leaf(1, 2, 5, 4), leaf(3, 2, 3, 3)
    y = f.sigmoid(f.conv2d(x, weight, padding=1)).sum()
    y.backward(retain_graph=True)
    first = x.grad.copy(), weight.grad.copy()
    x.grad[...] = np.nan
    weight.grad[...] = np.nan
    x.grad = weight.grad = None
    y.backward()
    assert np.array_equal(x.grad, first[0]) and np.array_equal(weight.grad, first[1])


# --- second passes over a graph ---------------------------------------------------------------------------------------


def test_a_freed_graph_is_refused_by_name():
    x = leaf(3)
    y = f.sigmoid(x)
    total = y.sum()
    total.backward()
    before = x.grad.copy()
    with pytest.raises(RuntimeError, match=r"backward: the graph of `Sum` has been freed.*retain_graph=True"):
        total.backward()
    with pytest.raises(RuntimeError, match="`Sigmoid`"):
        (y * 2).sum().backward()  # a new graph on top of a freed one
    assert np.array_equal(x.grad, before)


def test_retain_graph():
    x, gamma, beta, slope = leaf(2, 3, 4, 5), leaf(3), leaf(3, seed=1), leaf(3, seed=2)
    weight = leaf(2, 3, 1, 1)
    y = f.conv2d(f.batch_norm_prelu(x, None, None, gamma, beta, slope), weight)
    given = normal(*y.shape, seed=4)
    y.backward(given, retain_graph=True)
    tensors = (x, gamma, beta, slope, weight)
    first = [t.grad.copy() for t in tensors]
    y.backward(given, retain_graph=True)
    y.backward(given)
    for t, once in zip(tensors, first, strict=True):
        assert np.allclose(t.grad, 3 * once, rtol=1e-12)
    with pytest.raises(RuntimeError, match="`Conv2d`"):
        y.backward(given)


def test_two_losses_over_one_retained_part():
    x = leaf(3)
    shared = f.sigmoid(x)
    a, b = (shared * 2).sum(), (shared * 3).sum()
    a.backward(retain_graph=True)
    b.backward()
    s = shared.numpy()
    assert np.allclose(x.grad, 5 * s * (1 - s))


def test_backward_from_several_tensors():
    x, y = leaf(3), leaf(3, seed=1)
    given = [normal(3, seed=k) for k in range(5)]

    def roots():
        a = f.sigmoid(x)
        b = a * y  # made of another root
        return [a, b, b, y, a]  # twice the same, and a leaf

    autograd.backward_all(roots(), given)
    together = x.grad, y.grad
    x.zero_grad()
    y.zero_grad()
    for root, gradient in zip(roots(), given, strict=True):
        root.backward(gradient, retain_graph=True)
    assert np.allclose(x.grad, together[0]) and np.allclose(y.grad, together[1])


def test_backward_from_several_tensors_changes_nothing_where_it_fails():
    x, y = leaf(3), leaf(3, seed=1)
    freed = f.sigmoid(x).sum()
    freed.backward()
    x.zero_grad()
    for bad, error in ((freed, RuntimeError), (Tensor(np.ones(())), RuntimeError), (x * 2, ValueError)):
        with pytest.raises(error):
            autograd.backward_all([y.sum(), y, bad], [None, np.ones(3), None])
        assert x.grad is None and y.grad is None


# --- what backward is given -------------------------------------------------------------------------------------------


def test_only_a_single_element_needs_no_gradient():
    x = leaf(2, 3)
    with pytest.raises(ValueError, match=r"backward: `gradient` is needed for a tensor of shape \(2, 3\)"):
        (x * 2).backward()
    x.sum(keepdims=True).backward()
    x.sum().backward()
    assert np.array_equal(x.grad, np.full((2, 3), 2.0))


@pytest.mark.parametrize(
    ("gradient", "message"),
    [
        (np.ones((3, 2)), r"float64 \(3, 2\); expected float64 \(2, 3\)"),
        (np.ones(()), r"float64 \(\); expected float64 \(2, 3\)"),
        (np.ones((2, 3), np.float32), r"float32 \(2, 3\); expected float64 \(2, 3\)"),
        (np.ones((2, 3), int), r"int64 \(2, 3\); expected float64 \(2, 3\)"),
        (Tensor(np.ones((3, 2))), r"float64 \(3, 2\); expected"),
    ],
)
def test_a_gradient_of_another_shape_or_dtype_is_refused(gradient, message):
    with pytest.raises(ValueError, match=r"backward: `gradient` is " + message):
        (leaf(2, 3) * 2).backward(gradient)


def test_a_gradient_may_be_a_tensor_or_a_view():
    x, given = leaf(2, 3), normal(3, 2)
    (x * 2).backward(Tensor(given.T))
    (x * 2).backward(given.T)
    assert np.allclose(x.grad, 4 * given.T)


def test_backward_of_a_constant_is_refused():
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        Tensor(np.ones(1)).backward()
    with no_grad():
        y = leaf(3).sum()
    with pytest.raises(RuntimeError, match="does not require a gradient"):
        y.backward()


# --- no_grad ----------------------------------------------------------------------------------------------------------


def test_no_grad_as_a_context():
    x = leaf(3)
    with no_grad():
        assert not octsod.is_grad_enabled()
        y = x * 2
        with no_grad():
            assert not octsod.is_grad_enabled()
        assert not octsod.is_grad_enabled()
    assert octsod.is_grad_enabled()
    assert not y.requires_grad and y.node is None
    assert (x * 2).requires_grad


def test_no_grad_as_a_decorator():
    @no_grad()
    def predict(x, depth=0):
        """Predicts."""
        assert not octsod.is_grad_enabled()
        return predict(x, depth - 1) if depth else x * 2

    assert predict.__name__ == "predict" and predict.__doc__ == "Predicts."
    assert not predict(leaf(3), depth=3).requires_grad
    assert octsod.is_grad_enabled()


def test_no_grad_ends_with_an_exception():
    with pytest.raises(KeyError), no_grad():
        raise KeyError
    assert octsod.is_grad_enabled()


def test_one_no_grad_object_may_be_entered_again():
    off = no_grad()
    with off:
        with off:
            pass
        assert not octsod.is_grad_enabled()
    assert octsod.is_grad_enabled()


def in_thread(function):
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join(10)
    return results[0]


def test_no_grad_is_of_this_thread():
    with no_grad():
        assert in_thread(octsod.is_grad_enabled)
        assert in_thread(lambda: (leaf(3) * 2).requires_grad)

    def turn_off():
        no_grad().__enter__()
        return octsod.is_grad_enabled()

    assert not in_thread(turn_off)
    assert octsod.is_grad_enabled()


def test_a_decorated_function_may_run_in_two_threads_at_once():
    """One no_grad object serves all calls of the function: the mode that a call goes back to must be its own."""
    plain_in, within_in, plain_left = threading.Event(), threading.Event(), threading.Event()
    modes = {}

    @no_grad()
    def predict(entered, until):
        entered.set()
        until.wait(10)

    def plain():  # enters first, with gradients on, and leaves first
        predict(plain_in, within_in)
        modes["plain"] = octsod.is_grad_enabled()
        plain_left.set()

    def within():  # enters second, with gradients off
        with no_grad():
            plain_in.wait(10)
            predict(within_in, plain_left)
            modes["within"] = octsod.is_grad_enabled()
        modes["after"] = octsod.is_grad_enabled()

    threads = [threading.Thread(target=t) for t in (plain, within)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert modes == {"plain": True, "within": False, "after": True}


def test_backward_works_within_no_grad():
    x = leaf(3)
    y = (x * x).sum()
    with no_grad():
        y.backward()
    assert np.allclose(x.grad, 2 * x.numpy())


# --- memory -----------------------------------------------------------------------------------------------------------


def network(x, parameters):
    """One of everything that CSNet does."""
    weight, gamma, beta, slope, mix, depth, dilated, last = parameters
    norm = (None, None, gamma, beta, slope)
    y = f.batch_norm_prelu(f.conv2d(x, weight, padding=1, moments=True), *norm)
    fine, coarse = f.octave_conv2d([y, None], mix, (4, 4), moments=True)
    fine, coarse = f.batch_norm_prelu(fine, *norm), f.batch_norm_prelu(coarse, *norm)
    fine = f.batch_norm_prelu(f.depthwise_conv2d(fine, depth, padding=1), *norm)
    coarse = f.batch_norm_prelu(f.dilated_conv2d(coarse, [dilated, dilated], (1, 2)), None, None,
                                *(Tensor(np.ones(8, x.dtype)) for _ in range(3)))  # fmt: skip
    (joined,) = f.octave_conv2d([fine, coarse], last, (1,))
    return f.binary_cross_entropy_with_logits(joined, Tensor(np.full(joined.shape, 0.25, x.dtype)))


def parameters(dtype=np.float32):
    shapes = (4, 3, 3, 3), (4,), (4,), (4,), (8, 4, 1, 1), (4, 1, 3, 3), (4, 4, 3, 3), (1, 12, 1, 1)
    return [leaf(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)]


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


# --- user-defined functions -------------------------------------------------------------------------------------------


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


class Divmod(Function):
    """Two outputs: quotient and remainder by a constant; the first has no gradient."""

    @staticmethod
    def forward(ctx, x, divisor):
        return x // divisor, x % divisor

    @staticmethod
    def backward(ctx, grad_quotient, grad_remainder):
        return grad_remainder


class SinCos(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.sin, ctx.cos = np.sin(x), np.cos(x)
        return ctx.sin, ctx.cos

    @staticmethod
    def backward(ctx, grad_sin, grad_cos):
        SinCos.seen = grad_sin is not None, grad_cos is not None
        total = np.zeros_like(ctx.sin)
        if grad_sin is not None:
            total += grad_sin * ctx.cos
        if grad_cos is not None:
            total -= grad_cos * ctx.sin
        return total


def test_a_function_of_one_output():
    assert gradcheck(Exponential.apply, normal(3, 4)) < 1e-8
    assert gradcheck(lambda x: Exponential.apply(f.sigmoid(Exponential.apply(x))) * x, normal(3, 4)) < 1e-8
    y = Exponential.apply(normal(3))  # an array is a constant
    assert isinstance(y, Tensor) and not y.requires_grad
    assert "op=Exponential" in repr(Exponential.apply(leaf(3)))


def test_a_function_of_two_outputs():
    x = normal(2, 3)
    assert gradcheck(SinCos.apply, x) < 1e-8
    assert SinCos.seen == (True, True)
    assert gradcheck(lambda x: SinCos.apply(x)[1], x) < 1e-8
    assert SinCos.seen == (False, True)
    assert gradcheck(lambda x: SinCos.apply(x)[0] + x, x) < 1e-8
    assert SinCos.seen == (True, False)
    assert gradcheck(lambda x: Exponential.apply(SinCos.apply(x)[0]) * SinCos.apply(x)[1], x) < 1e-8
    assert gradcheck(lambda x: Divmod.apply(x, divisor=0.75), x) < 1e-8


def test_an_output_that_is_unused_does_not_hold_up_the_others():
    x = leaf(2, 3)
    sin, cos = SinCos.apply(x)
    unused = f.sigmoid(cos)
    sin.sum().backward()
    assert np.allclose(x.grad, np.cos(x.numpy()))
    assert unused.requires_grad and cos.requires_grad


def test_inputs_may_be_missing_or_have_no_gradient():
    class Affine(Function):
        @staticmethod
        def forward(ctx, x, scale, shift):
            ctx.save_for_backward(x, scale)
            Affine.needs = ctx.needs
            return x * (1 if scale is None else scale) + (0 if shift is None else shift)

        @staticmethod
        def backward(ctx, grad):
            x, scale = ctx.saved
            return grad * (1 if scale is None else scale), None if scale is None else grad * x, grad

    x, scale = leaf(3), Tensor(normal(3, seed=1))
    Affine.apply(x, scale, None).sum().backward()  # gradients that are not wanted are dropped
    assert Affine.needs == (True, False, False)
    assert np.array_equal(x.grad, scale.numpy()) and scale.grad is None
    assert gradcheck(lambda x, s, b: Affine.apply(x, s, b), normal(3), normal(3), normal(3)) < 1e-8
    assert gradcheck(lambda x: Affine.apply(x, None, None), normal(3)) < 1e-8
    with no_grad():
        Affine.apply(x, scale, None)
    assert Affine.needs == (False, False, False)


def test_a_gradient_of_none_stops_there():
    class Stop(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            return None

    class Refuses(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, grad):
            raise AssertionError("no gradient arrives here")

    x = leaf(3)
    (Stop.apply(Refuses.apply(x)) + x * 2).sum().backward()
    assert np.array_equal(x.grad, np.full(3, 2.0))
    x.zero_grad()
    Stop.apply(x).sum().backward()
    assert x.grad is None


def test_integer_outputs_have_no_gradient():
    class Signs(Function):
        @staticmethod
        def forward(ctx, x):
            return np.sign(x).astype(np.int32), x * 2

        @staticmethod
        def backward(ctx, none, grad):
            assert none is None
            return grad * 2

    x = leaf(3)
    signs, doubled = Signs.apply(x)
    assert not signs.requires_grad and doubled.requires_grad
    doubled.sum().backward()
    assert np.array_equal(x.grad, np.full(3, 2.0))


def test_views_are_gradients_too():
    class Flip(Function):
        @staticmethod
        def forward(ctx, x):
            return x[..., ::-1]

        @staticmethod
        def backward(ctx, grad):
            return grad[..., ::-1]

    class Total(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.shape = x.shape
            return x.sum()

        @staticmethod
        def backward(ctx, grad):
            return np.broadcast_to(grad, ctx.shape)  # read-only, and with strides of zero

    x, weight = normal(1, 2, 4, 5), normal(3, 2, 1, 1)
    assert gradcheck(lambda x, w: Flip.apply(f.conv2d(Flip.apply(x), w)) * 2, x, weight) < 1e-8
    assert gradcheck(lambda x: f.sigmoid(Flip.apply(x)) + Flip.apply(f.sigmoid(x)), x) < 1e-8
    assert gradcheck(lambda x: Total.apply(f.sigmoid(x)) + Total.apply(x * x), x) < 1e-8
    y = leaf(3)
    Total.apply(y).backward()
    y.grad += 1  # writable all the same
    assert np.array_equal(y.grad, np.full(3, 2.0))


class Returns(Function):
    """x * 2, whose backward returns what it was told to."""

    @staticmethod
    def forward(ctx, x, y, result):
        ctx.result = result
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return ctx.result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ((np.ones(3), np.ones(4)), r"Returns.backward returned a gradient of float64 \(4,\) for input 1; "
            r"expected float64 \(3,\)"),
        ((np.ones((3, 1)), None), r"Returns.backward returned a gradient of float64 \(3, 1\) for input 0; expected"),
        ((np.ones(3, np.float32), None), r"a gradient of float32 \(3,\) for input 0; expected float64 \(3,\)"),
        ((np.ones(3),), r"Returns.backward returned 1 gradients; expected 2, one per input"),
        (np.ones(3), r"Returns.backward returned 1 gradients; expected 2"),
        ((np.ones(3),) * 3, r"Returns.backward returned 3 gradients; expected 2"),
        (None, r"Returns.backward returned 1 gradients; expected 2"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("inner", [False, True])
def test_wrong_gradients_are_refused(result, message, inner):
    x, y = leaf(3), leaf(3)
    if inner:
        x, y = x * 1.0, y * 1.0
    with pytest.raises(ValueError, match=message):
        Returns.apply(x, y, result=result).sum().backward()


def test_a_gradient_may_be_a_tensor():
    x = leaf(3)
    Returns.apply(x, leaf(3), result=[Tensor(np.arange(3.0)), None]).sum().backward()
    assert np.array_equal(x.grad, np.arange(3.0))


def test_a_function_without_its_methods_says_so():
    class Empty(Function):
        pass

    with pytest.raises(TypeError, match="static method `forward"):
        Empty.apply(leaf(3))

    class Half(Function):
        @staticmethod
        def forward(ctx, x):
            return x

    with pytest.raises(TypeError, match="static method `backward"):
        Half.apply(leaf(3)).sum().backward()


# --- functions that take part in deferred normalisation ---------------------------------------------------------------


class Halve(Function):
    """x / 2 of a deferred map; its gradient goes into the slot, as those of our own ops do."""

    deferred = True

    @staticmethod
    def forward(ctx, x):
        ctx.x = Deferred.of(x)
        return ctx.x.value(kernels) / 2

    @staticmethod
    def backward(ctx, grad):
        return (write(ctx, 0, ctx.x, DeferredGradient.of(grad).value(kernels) / 2),)


def write(ctx, index, x, grad):
    slot = ctx.slot(index)
    if slot is not None:
        slot.array[...] = slot.array + grad if slot.accumulate else grad
        if slot.sums is not None:
            kernels.gradient_sums(slot.array, x, slot.sums)
    return slot


class Times(Function):
    """a * b of deferred maps, with a slot each."""

    deferred = True

    @staticmethod
    def forward(ctx, a, b):
        ctx.maps = Deferred.of(a), Deferred.of(b)
        return ctx.maps[0].value(kernels) * ctx.maps[1].value(kernels)

    @staticmethod
    def backward(ctx, grad):
        grad = DeferredGradient.of(grad).value(kernels)
        a, b = ctx.maps
        return write(ctx, 0, a, grad * b.value(kernels)), write(ctx, 1, b, grad * a.value(kernels))


class Leak(Function):
    """`y if y > 0 else y/4` of y = 2x + 1, left to the reader."""

    deferred = True

    @staticmethod
    def forward(ctx, x):
        raw = Deferred.of(x).value(kernels)
        coefficients = np.empty((4, raw.shape[1]), raw.dtype)
        coefficients[:] = np.array([2, 1, 0.25, 0])[:, None]
        ctx.raw = raw
        return Deferred(raw, coefficients)

    @staticmethod
    def backward(ctx, grad):
        assert isinstance(grad, Slot)
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
    assert gradcheck(DEFERRED[name], x, weight, *NORM) < 1e-6


def test_a_slot_is_there_only_where_a_gradient_is_wanted():
    class Slots(Function):
        deferred = True

        @staticmethod
        def forward(ctx, a, b):
            return a + b

        @staticmethod
        def backward(ctx, grad):
            Slots.got = ctx.slot(0), ctx.slot(1)
            return None, None

    Slots.apply(leaf(1, 1, 2, 2), Tensor(normal(1, 1, 2, 2))).sum().backward()
    assert isinstance(Slots.got[0], Slot) and Slots.got[1] is None
    assert Slots.got[0].array.shape == (1, 1, 2, 2) and not Slots.got[0].accumulate


# --- the pool ---------------------------------------------------------------------------------------------------------

BIG = memory.SMALLEST * 4


def test_buffers_are_reused():
    pool = memory.pool
    pool.clear()
    a = memory.empty(BIG, np.uint8)
    address = a.ctypes.data
    live = pool.live
    del a
    assert pool.live < live and pool.free >= BIG
    b = memory.empty((BIG // 4,), np.float32)  # of another dtype, but as many bytes
    assert b.ctypes.data == address
    assert pool.live == live
    c = memory.empty(BIG, np.uint8)
    assert c.ctypes.data != address


def test_a_view_keeps_its_buffer():
    a = memory.empty((4, BIG), np.uint8)
    a[...] = 1
    view = a[1:3].reshape(-1)[5:].view(np.int8)
    live = memory.pool.live
    del a
    assert memory.pool.live == live
    other = memory.empty((4, BIG), np.uint8)
    other[...] = 2
    assert (view == 1).all()
    live = memory.pool.live
    del view
    assert memory.pool.live < live


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8, np.int64])
@pytest.mark.parametrize("shape", [BIG, (3, BIG), (5, 7, 11, 1009), (2, 3, 224, 225)])
def test_buffers_are_aligned_and_contiguous(shape, dtype):
    arrays = [memory.empty(shape, dtype) for _ in range(3)] + [memory.zeros(shape, dtype)]
    for a in arrays:
        assert a.ctypes.data % memory.ALIGNMENT == 0 == a.ctypes.data % 64
        assert a.shape == ((shape,) if isinstance(shape, int) else shape) and a.dtype == dtype
        assert a.flags.c_contiguous and a.flags.writeable
    assert not arrays[-1].any()
    for i, a in enumerate(arrays):
        a[...] = i
    assert all((a == i).all() for i, a in enumerate(arrays))


@pytest.mark.parametrize("shape", [(), 0, 1, (0, 5), (3, 0), (2, 3), memory.SMALLEST - 1, memory.SMALLEST])
def test_small_and_empty_buffers(shape):
    for make in (memory.empty, memory.zeros):
        a = make(shape, np.uint8)
        assert a.shape == ((shape,) if isinstance(shape, int) else shape)
        a[...] = 3
        assert (a == 3).all()


def test_the_pool_stays_within_its_slack_over_peak_use():
    pool = memory.Pool()
    generator = np.random.default_rng(0)
    held, peak = [], 0
    for _ in range(3000):
        if held and generator.random() < 0.5:
            pool.give_back(held.pop(int(generator.integers(len(held)))))
        else:
            held.append(pool.take(64 * int(generator.integers(1, 40))))
        live = sum(b.size for b in held)
        peak = max(peak, live)
        waiting = sum(b.size for blocks in pool._free.values() for b in blocks)
        assert (pool.live, pool.free, pool.peak) == (live, waiting, peak)
        assert live + waiting <= memory.SLACK * peak
    spans = sorted((b.ctypes.data, b.ctypes.data + b.size) for b in held)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
    pool.clear()
    assert pool.free == 0 and pool.live == sum(b.size for b in held)


def test_threads_may_share_the_pool():
    gc.collect()
    live = memory.pool.live
    errors = []
    start = threading.Barrier(4)
    handed_over = [[] for _ in range(4)]

    def work(number):
        generator = np.random.default_rng(number)
        mine = []
        start.wait(10)
        try:
            for turn in range(400):
                a = memory.empty(int(generator.integers(1, 6)) * BIG, np.uint8)
                a[:: 1 << 10] = number
                mine.append(a)
                if len(mine) > 4:
                    old = mine.pop(int(generator.integers(len(mine))))
                    if (old[:: 1 << 10] != number).any():
                        errors.append("a buffer was handed out twice")
                    if turn % 3 == 0:
                        handed_over[(number + 1) % 4].append(old)  # dies in another thread
                handed_over[number].clear()
                del a
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    del threads
    for bucket in handed_over:
        bucket.clear()
    assert not errors
    assert memory.pool.live == live
    assert memory.pool.live + memory.pool.free <= memory.SLACK * memory.pool.peak


def test_threads_may_differentiate_at_the_same_time():
    def run(seed):
        params = parameters(np.float64)
        loss = network(Tensor(normal(1, 3, 16, 24, seed=seed)), params)
        loss.backward()
        return [p.grad for p in params]

    alone = [run(seed) for seed in range(4)]
    results = [None] * 4

    def work(seed):
        for _ in range(3):
            results[seed] = run(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for one, other in zip(alone, results, strict=True):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
