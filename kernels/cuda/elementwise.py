"""Arithmetic, element by element, and dropout: launches of elementwise.cu."""

import numpy as np

from .arrays import copy
from .driver import driver
from .launch import source

SOURCE = source("elementwise")
_MASK = (1 << 64) - 1


def add(a, b, out):
    _broadcast("add", a, b, out)


def subtract(a, b, out):
    _broadcast("subtract", a, b, out)


def multiply(a, b, out):
    _broadcast("multiply", a, b, out)


def divide(a, b, out):
    _broadcast("divide", a, b, out)


def power(a, exponent, out):
    SOURCE.each("power", out.dtype, out.size, a, exponent, out)


def exp(x, out):
    SOURCE.each("exp_", out.dtype, out.size, x, out)


def log(x, out):
    SOURCE.each("log_", out.dtype, out.size, x, out)


def sqrt(x, out):
    SOURCE.each("sqrt_", out.dtype, out.size, x, out)


def relu(x, out):
    SOURCE.each("relu", out.dtype, out.size, x, out)


def relu_backward(grad, x, out):
    SOURCE.each("relu_backward", out.dtype, out.size, grad, x, out)


def sigmoid(x, out):
    SOURCE.each("sigmoid", out.dtype, out.size, x, out)


def sigmoid_backward(grad, x, out):
    SOURCE.each("sigmoid_backward", out.dtype, out.size, grad, x, out)


def dropout(x, probability, seed, out):
    limit = np.uint64(int(probability * 2**53))
    SOURCE.each("dropout", out.dtype, out.size, x, np.uint64(_mixed(seed)), limit, 1.0 - probability, out)


def _broadcast(name, a, b, out):
    SOURCE.each(name, out.dtype, out.size, _expanded(a, out), _expanded(b, out), out)


def _expanded(array, out):
    """An input in the shape of `out`."""
    if array.shape == out.shape:
        return array
    expanded = driver().empty(out.shape, out.dtype)
    copy(array, expanded)
    return expanded


def _mixed(z):
    """SplitMix64's bijection of 64 bits."""
    z = ((z ^ z >> 30) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ z >> 27) * 0x94D049BB133111EB) & _MASK
    return z ^ z >> 31
