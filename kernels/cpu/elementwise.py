"""Plain arithmetic, dropout, sums, sigmoid, and the loss. octsod/backend/contract.py says what the kernels do."""

import math

import numpy as np

from . import parallel
from .compile import inlined, kernel
from .parallel import flat, flat_out

GRAIN = 1 << 14  # elements per task: sums of tasks are added up in order, whatever the number of threads


def _run(function, out, *inputs):
    """Run a kernel `(slot, start, stop, *inputs, out, size)` whose tasks are GRAIN elements each."""
    parallel.run(function, -(-out.size // GRAIN), *(flat(a) for a in inputs), flat_out(out), out.size)


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
def _exp(slot, start, stop, x, out, size):
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        out[i] = math.exp(x[i])


@kernel
def _log(slot, start, stop, x, out, size):
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        # While subnormal numbers are flushed, `x == 0` holds for them, too; `log` itself is off by any amount there.
        out[i] = -math.inf if x[i] == 0 else math.log(x[i])


@kernel
def _sqrt(slot, start, stop, x, out, size):
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        out[i] = math.sqrt(x[i])


@kernel
def _relu(slot, start, stop, x, out, size):
    zero = out.dtype.type(0)
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        out[i] = zero if x[i] <= zero else x[i]


@kernel
def _relu_backward(slot, start, stop, grad, x, out, size):
    zero = out.dtype.type(0)
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        out[i] = zero if x[i] <= zero else grad[i]


# Numba makes a float of a signed and an unsigned integer, so all of these are unsigned.
GOLDEN, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
S30, S27, S31, S11 = (np.uint64(n) for n in (30, 27, 31, 11))


@inlined
def _mix(z):
    z = (z ^ (z >> S30)) * FIRST
    z = (z ^ (z >> S27)) * SECOND
    return z ^ (z >> S31)


@kernel
def _dropout(slot, start, stop, x, seed, threshold, scale, out, size):
    zero, factor = out.dtype.type(0), out.dtype.type(scale)
    key = _mix(seed)
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        drawn = _mix(key + np.uint64(i + 1) * GOLDEN) >> S11
        out[i] = zero if drawn < threshold else x[i] * factor


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


def exp(x, out):
    _run(_exp, out, x)


def log(x, out):
    _run(_log, out, x)


def sqrt(x, out):
    _run(_sqrt, out, x)


def relu(x, out):
    _run(_relu, out, x)


def relu_backward(grad, x, out):
    _run(_relu_backward, out, grad, x)


def dropout(x, probability, seed, out):
    threshold = np.uint64(int(probability * 2**53))
    parallel.run(
        _dropout, -(-out.size // GRAIN), flat(x), np.uint64(seed), threshold, 1 / (1 - probability), flat_out(out),
        out.size,
    )  # fmt: skip


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
    parallel.run(_sum_middle, outer, flat(x), count, inner, flat_out(out))


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
        _binary_cross_entropy_backward, tasks, flat(logits), flat(target), scale, flat_out(grad_logits),
        logits.size,
    )  # fmt: skip


@kernel
def _overlaps(slot, start, stop, x, target, pixels, dice, sums):
    one = x.dtype.type(1)
    for n in range(start, stop):
        both = 0.0
        either = 0.0
        for i in range(n * pixels, (n + 1) * pixels):
            e = math.exp(-abs(x[i]))
            p = one / (one + e) if x[i] >= 0 else e / (one + e)
            both += p * target[i]
            either += p + target[i]
        sums[n, 0] = (2 * both if dice else both) + 1
        sums[n, 1] = (either if dice else either - both) + 1


def overlap_loss(logits, target, region, sums, out):
    images, pixels = logits.shape
    sums_out = flat_out(sums).reshape(images, 2)
    parallel.run(_overlaps, images, flat(logits), flat(target), pixels, region == "dice", sums_out)
    with np.errstate(all="ignore"):
        out[...] = np.mean(1 - sums_out[:, 0] / sums_out[:, 1])


@kernel
def _overlaps_backward(slot, start, stop, x, target, factors, grad_x, pixels):
    one = grad_x.dtype.type(1)
    for n in range(start, stop):
        by_target, rest = factors[n, 0], factors[n, 1]
        for i in range(n * pixels, (n + 1) * pixels):
            e = math.exp(-abs(x[i]))
            p = one / (one + e)
            grad_x[i] = (by_target * target[i] + rest) * p * (e * p)  # sigmoid of x and of -x, in either order


def overlap_loss_backward(grad, logits, target, region, sums, grad_logits):
    images, pixels = logits.shape
    inner, outer = sums.T
    with np.errstate(all="ignore"):
        scale = float(grad.reshape(())) / images / outer**2
        per_target = -2 * outer if region == "dice" else -outer - inner
        factors = (np.stack([per_target, inner], axis=1) * scale[:, None]).astype(logits.dtype)
    parallel.run(
        _overlaps_backward, images, flat(logits), flat(target), factors, flat_out(grad_logits), pixels
    )  # fmt: skip
