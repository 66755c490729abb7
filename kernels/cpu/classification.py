"""Maxima, log-softmax and cross-entropy (see octsod/backend/contract.py). A task is an outer index, or a row.

Sums of a row are in float64, whatever the dtype.
"""

import math

import numpy as np

from . import parallel
from .compile import inlined, kernel
from .parallel import flat, flat_out


@kernel
def _max_middle(slot, start, stop, x, count, inner, out):
    for o in range(start, stop):
        for i in range(inner):
            out[o * inner + i] = x[o * count * inner + i]
        for k in range(1, count):
            at = (o * count + k) * inner
            for i in range(inner):
                v, best = x[at + i], out[o * inner + i]
                out[o * inner + i] = v if v > best or v != v else best  # a NaN differs from itself


def max_middle(x, out):
    outer, count, inner = x.shape
    parallel.run(_max_middle, outer, flat(x), count, inner, flat_out(out))


@kernel
def _max_middle_backward(slot, start, stop, grad, x, count, inner, grad_x):
    for o in range(start, stop):
        base = o * count * inner
        for i in range(count * inner):
            grad_x[base + i] = 0
        for i in range(inner):
            best, winner = x[base + i], 0
            for k in range(1, count):
                v = x[base + k * inner + i]
                if v > best or (v != v and best == best):
                    best, winner = v, k
            grad_x[base + winner * inner + i] = grad[o * inner + i]


def max_middle_backward(grad, x, grad_x):
    outer, count, inner = x.shape
    parallel.run(_max_middle_backward, outer, flat(grad), flat(x), count, inner, flat_out(grad_x))


@inlined
def _largest_and_total(x, at, count, step):
    """The largest of `count` elements, `step` apart, and the sum of exp(x - largest)."""
    largest = x[at]
    for k in range(1, count):
        largest = max(largest, x[at + k * step])
    total = 0.0
    for k in range(count):
        total += math.exp(x[at + k * step] - largest)
    return largest, total


@kernel
def _log_softmax(slot, start, stop, x, count, inner, out):
    for o in range(start, stop):
        for i in range(inner):
            at = o * count * inner + i
            largest, total = _largest_and_total(x, at, count, inner)
            rest = out.dtype.type(math.log(total))
            for k in range(at, at + count * inner, inner):
                out[k] = (x[k] - largest) - rest  # in this order: next to a huge number, the logarithm would vanish


def log_softmax(x, out):
    outer, count, inner = x.shape
    parallel.run(_log_softmax, outer, flat(x), count, inner, flat_out(out))


@kernel
def _log_softmax_backward(slot, start, stop, grad, out, count, inner, grad_x):
    for o in range(start, stop):
        for i in range(inner):
            at = o * count * inner + i
            total = 0.0
            for k in range(at, at + count * inner, inner):
                total += grad[k]
            for k in range(at, at + count * inner, inner):
                grad_x[k] = grad[k] - math.exp(out[k]) * total


def log_softmax_backward(grad, out, grad_x):
    outer, count, inner = out.shape
    parallel.run(_log_softmax_backward, outer, flat(grad), flat(out), count, inner, flat_out(grad_x))


@kernel
def _cross_entropy(slot, start, stop, x, labels, smoothing, count, losses):
    for n in range(start, stop):
        at, label = n * count, labels[n]
        if label < 0 or label >= count:
            losses[n] = math.nan
            continue
        largest, total = _largest_and_total(x, at, count, 1)
        rest, loss = math.log(total), 0.0
        if smoothing < 1:
            loss += (1 - smoothing) * (rest - (x[at + label] - largest))
        if smoothing > 0:
            for k in range(count):
                loss += smoothing / count * (rest - (x[at + k] - largest))
        losses[n] = loss


def cross_entropy(logits, labels, smoothing, out):
    images, count = logits.shape
    losses = np.empty((images, 1))
    parallel.run(_cross_entropy, images, flat(logits), flat(labels), float(smoothing), count, losses.reshape(-1))
    out[...] = parallel.sum_over_images(losses)[0] / images


@kernel
def _cross_entropy_backward(slot, start, stop, x, labels, smoothing, factor, count, grad_x):
    for n in range(start, stop):
        at, label = n * count, labels[n]
        largest, total = _largest_and_total(x, at, count, 1)
        if label < 0 or label >= count:
            total = math.nan
        for k in range(count):
            share = smoothing / count + (1 - smoothing if k == label else 0.0)
            grad_x[at + k] = factor * (math.exp(x[at + k] - largest) / total - share)


def cross_entropy_backward(grad, logits, labels, smoothing, grad_logits):
    images, count = logits.shape
    parallel.run(
        _cross_entropy_backward, images, flat(logits), flat(labels), float(smoothing),
        float(grad.reshape(-1)[0]) / images, count, flat_out(grad_logits),
    )  # fmt: skip
