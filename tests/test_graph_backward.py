"""The way back through the graph: accumulation, aliasing, second passes, what it is given."""

import threading

import numpy as np
import pytest
from graph_checks import leaf, network, normal, parameters

from octsod import Tensor, autograd, no_grad
from octsod import functional as f
from octsod.autograd import Function

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


# --- threads ----------------------------------------------------------------------------------------------------------


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
