"""Plain arithmetic, sigmoid, and the loss. octsod/backend/contract.py says what the kernels do."""

import math

import numpy as np

from . import parallel
from .compile import kernel
from .parallel import flat

GRAIN = 1 << 14  # elements per task: sums of tasks are added up in order, whatever the number of threads


def _run(function, out, *inputs):
    """Run a kernel `(slot, start, stop, *inputs, out, size)` whose tasks are GRAIN elements each."""
    parallel.run(function, -(-out.size // GRAIN), *(flat(a) for a in inputs), out.reshape(-1), out.size)


@kernel
def _add(slot, start, stop, a, b, out, size):
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        out[i] = a[i] + b[i]


@kernel
def _subtract(slot, start, stop, a, b, out, size):
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        out[i] = a[i] - b[i]


@kernel
def _multiply(slot, start, stop, a, b, out, size):
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        out[i] = a[i] * b[i]


@kernel
def _divide(slot, start, stop, a, b, out, size):
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        out[i] = a[i] / b[i]


@kernel
def _power(slot, start, stop, a, exponent, out, size):
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        out[i] = a[i] ** exponent[0]


@kernel
def _sigmoid(slot, start, stop, x, out, size):
    one = out.dtype.type(1)
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        e = math.exp(-abs(x[i]))  # never overflows
        out[i] = one / (one + e) if x[i] >= 0 else e / (one + e)


@kernel
def _sigmoid_backward(slot, start, stop, grad, x, out, size):
    one = out.dtype.type(1)
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        e = math.exp(-abs(x[i]))
        out[i] = grad[i] * (e / ((one + e) * (one + e)))


def add(a, b, out):
    _run(_add, out, a, b)


def subtract(a, b, out):
    _run(_subtract, out, a, b)


def multiply(a, b, out):
    _run(_multiply, out, a, b)


def divide(a, b, out):
    _run(_divide, out, a, b)


def power(a, exponent, out):
    _run(_power, out, a, exponent)


def sigmoid(x, out):
    _run(_sigmoid, out, x)


def sigmoid_backward(grad, x, out):
    _run(_sigmoid_backward, out, grad, x)


@kernel
def _sum_middle(slot, start, stop, x, count, inner, out):
    for o in range(start, stop):
        for i in range(inner):
            total = 0.0
            for k in range(count):
                total += x[(o * count + k) * inner + i]
            out[o * inner + i] = total


def sum_middle(x, out):
    outer, count, inner = x.shape
    parallel.run(_sum_middle, outer, flat(x), count, inner, out.reshape(-1))


@kernel
def _binary_cross_entropy(slot, start, stop, x, target, partials, size):
    for task in range(start, stop):
        total = 0.0
        product = 0.0  # of 1 + exp(-|x|) over a few pixels, less 1: one logarithm instead of a sum of several
        for i in range(task * GRAIN, min((task + 1) * GRAIN, size)):
            v = x[i]
            e = float(math.exp(-abs(v)))
            total += max(v, 0) - v * target[i]
            product += e + product * e
            if i & 255 == 255:
                total += math.log1p(product)
                product = 0.0
        partials[task] = total + math.log1p(product)


def binary_cross_entropy_with_logits(logits, target, out):
    tasks = -(-logits.size // GRAIN)
    partials = np.zeros((tasks, 1))
    parallel.run(_binary_cross_entropy, tasks, flat(logits), flat(target), partials.reshape(-1), logits.size)
    out[...] = parallel.sum_over_images(partials)[0] / logits.size


@kernel
def _binary_cross_entropy_backward(slot, start, stop, x, target, scale, grad_x, size):
    one = grad_x.dtype.type(1)
    factor = scale[0]
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        e = math.exp(-abs(x[i]))
        p = one / (one + e) if x[i] >= 0 else e / (one + e)
        grad_x[i] = (p - target[i]) * factor


def binary_cross_entropy_with_logits_backward(grad, logits, target, grad_logits):
    tasks = -(-logits.size // GRAIN)
    scale = (np.asarray(grad) / logits.size).astype(logits.dtype).reshape(1)
    parallel.run(
        _binary_cross_entropy_backward, tasks, flat(logits), flat(target), scale, grad_logits.reshape(-1),
        logits.size,
    )  # fmt: skip
