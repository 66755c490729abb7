"""Plain arithmetic over arrays of one size, sigmoid, and the loss. `out` may be one of the inputs."""

import numpy as np


def _quiet():
    """Infinities and NaNs are results like any other: a kernel does not warn."""
    return np.errstate(all="ignore")


def _double(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def add(a, b, out):
    """out = a + b."""
    a, b = _double(a, b)
    with _quiet():
        out[...] = a + b


def subtract(a, b, out):
    """out = a - b."""
    a, b = _double(a, b)
    with _quiet():
        out[...] = a - b


def multiply(a, b, out):
    """out = a * b."""
    a, b = _double(a, b)
    with _quiet():
        out[...] = a * b


def divide(a, b, out):
    """out = a / b."""
    a, b = _double(a, b)
    with _quiet():
        out[...] = a / b


def power(a, exponent, out):
    """out = a ** exponent, an array of one element."""
    a, exponent = _double(a, exponent)
    with _quiet():
        out[...] = a ** exponent.item()


def _sigmoid(x):
    """1 / (1 + exp(-x)), with the exponential of negative numbers only: it never overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def sigmoid(x, out):
    """out = 1 / (1 + exp(-x))."""
    (x,) = _double(x)
    with _quiet():
        out[...] = _sigmoid(x)


def sigmoid_backward(grad, x, out):
    """out = grad * sigmoid(x) * (1 - sigmoid(x))."""
    grad, x = _double(grad, x)
    with _quiet():
        out[...] = grad * _sigmoid(x) * _sigmoid(-x)


def sum_middle(x, out):
    """out (outer, inner) = x (outer, count, inner) added up over its middle axis."""
    out[...] = x.sum(axis=1, dtype=np.float64)


def binary_cross_entropy_with_logits(logits, target, out):
    """out (one element) = mean of `max(x, 0) - x*t + log(1 + exp(-|x|))`."""
    x, t = _double(logits, target)
    with _quiet():
        out[...] = np.mean(np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x))))


def binary_cross_entropy_with_logits_backward(grad, logits, target, grad_logits):
    """grad_logits = grad * (sigmoid(logits) - target) / size."""
    grad, x, t = _double(grad, logits, target)
    with _quiet():
        grad_logits[...] = grad.item() * (_sigmoid(x) - t) / x.size
