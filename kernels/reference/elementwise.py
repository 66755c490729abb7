"""Plain arithmetic, dropout, sums, sigmoid, and the loss."""

import numpy as np


def _quiet():
    """A kernel does not warn of infinity or NaN."""
    return np.errstate(all="ignore")


def _double(*arrays):
    return [np.asarray(a, np.float64) for a in arrays]


def add(a, b, out):
    a, b = _double(a, b)
    with _quiet():
        out[...] = a + b


def subtract(a, b, out):
    a, b = _double(a, b)
    with _quiet():
        out[...] = a - b


def multiply(a, b, out):
    a, b = _double(a, b)
    with _quiet():
        out[...] = a * b


def divide(a, b, out):
    a, b = _double(a, b)
    with _quiet():
        out[...] = a / b


def power(a, exponent, out):
    a, exponent = _double(a, exponent)
    with _quiet():
        out[...] = a ** exponent.item()


def exp(x, out):
    (x,) = _double(x)
    with _quiet():
        out[...] = np.exp(x)


def log(x, out):
    with _quiet():
        out[...] = np.log(np.where(np.abs(x) < np.finfo(x.dtype).tiny, 0, x.astype(np.float64)))


def sqrt(x, out):
    (x,) = _double(x)
    with _quiet():
        out[...] = np.sqrt(x)


def relu(x, out):
    with _quiet():
        out[...] = np.where(x <= 0, 0, x)


def relu_backward(grad, x, out):
    with _quiet():
        out[...] = np.where(x <= 0, 0, grad)


def _mix(z):
    """SplitMix64's bijection of 64 bits, of an array of uint64."""
    z = (z ^ z >> 30) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ z >> 27) * np.uint64(0x94D049BB133111EB)
    return z ^ z >> 31


def dropout(x, probability, seed, out):
    numbers = np.arange(1, x.size + 1, dtype=np.uint64).reshape(x.shape)
    drawn = _mix(_mix(np.array([seed], np.uint64)) + numbers * np.uint64(0x9E3779B97F4A7C15)) >> 11
    with _quiet():
        out[...] = np.where(drawn < int(probability * 2**53), 0, x / (1 - probability))


def _sigmoid(x):
    """Takes the exponential of negative numbers only, so it never overflows."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + e), e / (1 + e))


def sigmoid(x, out):
    (x,) = _double(x)
    with _quiet():
        out[...] = _sigmoid(x)


def sigmoid_backward(grad, x, out):
    grad, x = _double(grad, x)
    with _quiet():
        out[...] = grad * _sigmoid(x) * _sigmoid(-x)


def sum_middle(x, out):
    out[...] = x.sum(axis=1, dtype=np.float64)


def binary_cross_entropy_with_logits(logits, target, out):
    x, t = _double(logits, target)
    with _quiet():
        out[...] = np.mean(np.maximum(x, 0) - x * t + np.log1p(np.exp(-np.abs(x))))


def binary_cross_entropy_with_logits_backward(grad, logits, target, grad_logits):
    grad, x, t = _double(grad, logits, target)
    with _quiet():
        grad_logits[...] = grad.item() * (_sigmoid(x) - t) / x.size


def overlap_loss(logits, target, region, sums, out):
    x, t = _double(logits, target)
    with _quiet():
        p = _sigmoid(x)
        both, either = (p * t).sum(axis=1), p.sum(axis=1) + t.sum(axis=1)
        sums[:, 0] = (2 * both if region == "dice" else both) + 1
        sums[:, 1] = (either if region == "dice" else either - both) + 1
        out[...] = np.mean(1 - sums[:, 0] / sums[:, 1])


def overlap_loss_backward(grad, logits, target, region, sums, grad_logits):
    grad, x, t = _double(grad, logits, target)
    with _quiet():
        inner, outer = sums[:, :1], sums[:, 1:]
        by_inner, by_outer = (2 * t, 1) if region == "dice" else (t, 1 - t)  # what p adds to I and to U
        per_p = (inner * by_outer - outer * by_inner) / outer**2
        grad_logits[...] = grad.item() / len(x) * per_p * _sigmoid(x) * _sigmoid(-x)
