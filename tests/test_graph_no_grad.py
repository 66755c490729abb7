"""`no_grad`: as a context, as a decorator, in threads."""

import threading

import numpy as np
import pytest
from graph_checks import leaf

import octsod
from octsod import no_grad


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
