"""Plain arithmetic, dropout, sigmoid, and the losses. octsod/backend/contract.py says what the kernels do.

Loops use explicit vectors (vector.py). Numba cannot prove that the index of `x[start + i]` is not negative, so LLVM's
code for it is ten times slower; nor does LLVM vectorise a loop whose output may be one of its inputs.
"""

import functools
import math
import operator

import numpy as np

from ..reference.arrays import copy
from . import parallel
from .compile import inlined, kernel, spliced
from .exponential import exponential, logarithm
from .parallel import flat, flat_out
from .simd import lanes
from .vector import (
    converted,
    element,
    fma,
    keep,
    load,
    magnitude,
    spread,
    square_root,
    store,
    total,
    unless_positive,
    where_positive,
)

GRAIN = 1 << 14  # elements per task: sums of tasks are added up in order, whatever the number of threads


def _run(function, x, out):
    """Run a kernel `(slot, start, stop, x, out, size)` whose tasks are GRAIN elements each."""
    slots = parallel.slots_for(out.size)
    parallel.run(function, -(-out.size // GRAIN), flat(x), flat_out(out), out.size, slots=slots)


@spliced
def _each(operation, start, stop, x, out, size):
    """`out = operation(x)`, vector by vector."""
    end, lane = min(stop * GRAIN, size), lanes(out)
    for i in range(start * GRAIN, end, lane):
        store(out, i, operation(load(x, i, end - i)), end - i)


def _steps(shape, dimensions):
    """(length, step) for each of so many axes of a contiguous array of this shape, 0 where it is repeated."""
    steps, step = [], 1
    for n in reversed(shape):
        steps.append(step if n != 1 else 0)
        step *= n
    return (steps + [0] * (dimensions - len(shape)))[::-1]


def _merged(shape, a, b):
    """[(length, step in a, step in b), ...] of as few axes as possible: neighbours along which neither input is
    repeated, or the same one, are one."""
    axes = []
    for n, *steps in zip(shape, _steps(a, len(shape)), _steps(b, len(shape)), strict=True):
        if axes and axes[-1][1:] == [n * step for step in steps]:
            axes[-1] = [axes[-1][0] * n, *steps]
        elif n != 1:
            axes.append([n, *steps])
    return axes


@functools.lru_cache(1 << 10)
def _rows(shape, a, b):
    """What `_pairs` has to know of inputs of shapes a and b that are broadcast to a shape, as an array, which is handed
    over faster than a tuple; and the number of tasks.

    There are `outer` times `middle` rows of `inner` elements. A step along each of these axes leads on in a and in b by
    some elements, by 0 where an input is repeated. A task is `per_task` rows, or one of `pieces` of a row. None if
    three axes are not enough, as of shapes (2, 1, 2, 1) and (1, 2, 1, 2).
    """
    axes = _merged(shape, a, b)
    if len(axes) > 3:
        return None
    (outer, *outer_steps), (middle, *middle_steps), (inner, *inner_steps) = [[1, 0, 0]] * (3 - len(axes)) + axes
    per_task, pieces = max(GRAIN // max(inner, 1), 1), -(-inner // GRAIN)
    numbers = [outer * middle, middle, inner, *outer_steps, *middle_steps, *inner_steps, per_task, pieces]
    return np.array(numbers), -(-outer * middle // per_task) * pieces


def _run_broadcast(function, a, b, out):
    """Run a kernel `(slot, start, stop, a, b, out, rows)` on inputs that are broadcast."""
    found = _rows(out.shape, a.shape, b.shape)
    if found is None:
        return _run_broadcast(function, np.broadcast_to(a, out.shape), np.broadcast_to(b, out.shape), out)
    rows, tasks = found
    slots = parallel.slots_for(out.size)
    parallel.run(function, tasks, flat(a), flat(b), flat_out(out), rows, slots=slots)


@spliced
def _pairs(operation, start, stop, a, b, out, rows):
    """`out = operation(a, b)`, vector by vector; see `_rows`."""
    count, middle, inner, a_outer, b_outer, a_middle, b_middle, a_inner, b_inner, per_task, pieces = (
        rows[0], rows[1], rows[2], rows[3], rows[4], rows[5], rows[6], rows[7], rows[8], rows[9], rows[10]
    )  # fmt: skip
    lane = lanes(out)
    for task in range(start, stop):
        first = task % pieces * GRAIN
        last = min(first + GRAIN, inner)
        for row in range(task // pieces * per_task, min((task // pieces + 1) * per_task, count)):
            n, m = row // middle, row % middle
            at_a, at_b = n * a_outer + m * a_middle, n * b_outer + m * b_middle
            for i in range(first, last, lane):
                left = last - i
                u = load(a, at_a + i, left) if a_inner else spread(a, a[at_a])
                v = load(b, at_b + i, left) if b_inner else spread(b, b[at_b])
                store(out, row * inner + i, operation(u, v), left)


@kernel
def _add(slot, start, stop, a, b, out, rows):
    _pairs(operator.add, start, stop, a, b, out, rows)


@kernel
def _subtract(slot, start, stop, a, b, out, rows):
    _pairs(operator.sub, start, stop, a, b, out, rows)


@kernel
def _multiply(slot, start, stop, a, b, out, rows):
    _pairs(operator.mul, start, stop, a, b, out, rows)


@kernel
def _divide(slot, start, stop, a, b, out, rows):
    _pairs(operator.truediv, start, stop, a, b, out, rows)


@kernel
def _power(slot, start, stop, a, exponent, out, size):
    for i in range(start * GRAIN, min(stop * GRAIN, size)):
        out[i] = a[i] ** exponent[0]


@kernel
def _exp(slot, start, stop, x, out, size):
    _each(exponential, start, stop, x, out, size)


@kernel
def _log(slot, start, stop, x, out, size):
    _each(logarithm, start, stop, x, out, size)


@kernel
def _sqrt(slot, start, stop, x, out, size):
    _each(square_root, start, stop, x, out, size)


@inlined
def _rectified(v):
    return unless_positive(v, spread(v, 0), v)


@kernel
def _relu(slot, start, stop, x, out, size):
    _each(_rectified, start, stop, x, out, size)


@inlined
def _passed(g, v):
    return unless_positive(v, spread(g, 0), g)


@kernel
def _relu_backward(slot, start, stop, grad, x, out, rows):
    _pairs(_passed, start, stop, grad, x, out, rows)


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
    first, last = start * GRAIN, min(stop * GRAIN, size)
    key, own_x, own = _mix(seed), x[first:last], out[first:last]
    for i in range(own.size):
        drawn = _mix(key + np.uint64(first + i + 1) * GOLDEN) >> S11
        own[i] = zero if drawn < threshold else own_x[i] * factor


@inlined
def _decay(v):
    """e ** -|v|, which never overflows."""
    return exponential(spread(v, 0) - magnitude(v))


@inlined
def _logistic(v):
    one, e = spread(v, 1), _decay(v)
    return where_positive(v, one, e) / (one + e)


@kernel
def _sigmoid(slot, start, stop, x, out, size):
    _each(_logistic, start, stop, x, out, size)


@inlined
def _through_logistic(g, v):
    e = _decay(v)
    rest = spread(v, 1) + e
    return g * (e / (rest * rest))


@kernel
def _sigmoid_backward(slot, start, stop, grad, x, out, rows):
    _pairs(_through_logistic, start, stop, grad, x, out, rows)


def add(a, b, out):
    _run_broadcast(_add, a, b, out)


def subtract(a, b, out):
    _run_broadcast(_subtract, a, b, out)


def multiply(a, b, out):
    _run_broadcast(_multiply, a, b, out)


def divide(a, b, out):
    _run_broadcast(_divide, a, b, out)


def power(a, exponent, out):
    number = exponent.item()
    if number == 1:
        copy(a, out)
    elif number == 2:
        multiply(a, a, out)
    elif number == 0.5:
        sqrt(a, out)
    else:
        parallel.run(_power, -(-out.size // GRAIN), flat(a), flat(exponent), flat_out(out), out.size)


def exp(x, out):
    _run(_exp, x, out)


def log(x, out):
    _run(_log, x, out)


def sqrt(x, out):
    _run(_sqrt, x, out)


def relu(x, out):
    _run(_relu, x, out)


def relu_backward(grad, x, out):
    _run_broadcast(_relu_backward, grad, x, out)


def dropout(x, probability, seed, out):
    threshold = np.uint64(int(probability * 2**53))
    parallel.run(
        _dropout, -(-out.size // GRAIN), flat(x), np.uint64(seed), threshold, 1 / (1 - probability), flat_out(out),
        out.size,
    )  # fmt: skip


def sigmoid(x, out):
    _run(_sigmoid, x, out)


def sigmoid_backward(grad, x, out):
    _run_broadcast(_sigmoid_backward, grad, x, out)


@kernel
def _binary_cross_entropy(slot, start, stop, x, target, partials, size):
    lane, zero = lanes(x), spread(x, 0)
    nothing = converted(zero, partials)
    for task in range(start, stop):
        sums, logarithms = nothing, 0.0
        product = nothing  # of 1 + exp(-|x|) over a few pixels, less 1: one logarithm instead of a sum of several
        end = min((task + 1) * GRAIN, size)
        for i in range(task * GRAIN, end, lane):
            left = end - i
            v = load(x, i, left)
            e = converted(keep(_decay(v), left), partials)
            sums = sums + converted(where_positive(v, v, zero) - v * load(target, i, left), partials)
            product = product + fma(product, e, e)
            if i // lane & 255 == 255 or left <= lane:
                for k in range(lane):
                    logarithms += math.log1p(element(product, k))
                product = nothing
        partials[task] = total(sums) + logarithms


def binary_cross_entropy_with_logits(logits, target, out):
    tasks = -(-logits.size // GRAIN)
    partials = np.zeros((tasks, 1))
    parallel.run(_binary_cross_entropy, tasks, flat(logits), flat(target), partials.reshape(-1), logits.size)
    out[...] = parallel.sum_over_images(partials)[0] / logits.size


@kernel
def _binary_cross_entropy_backward(slot, start, stop, x, target, scale, grad_x, size):
    end, lane, factor = min(stop * GRAIN, size), lanes(x), spread(x, scale[0])
    for i in range(start * GRAIN, end, lane):
        left = end - i
        store(grad_x, i, (_logistic(load(x, i, left)) - load(target, i, left)) * factor, left)


def binary_cross_entropy_with_logits_backward(grad, logits, target, grad_logits):
    tasks = -(-logits.size // GRAIN)
    scale = (np.asarray(grad) / logits.size).astype(logits.dtype).reshape(1)
    parallel.run(
        _binary_cross_entropy_backward, tasks, flat(logits), flat(target), scale, flat_out(grad_logits),
        logits.size,
    )  # fmt: skip


@kernel
def _overlaps(slot, start, stop, x, target, pixels, dice, sums):
    lane = lanes(x)
    for n in range(start, stop):
        both = either = converted(spread(x, 0), sums)
        end = (n + 1) * pixels
        for i in range(n * pixels, end, lane):
            left = end - i
            t = load(target, i, left)
            p = keep(_logistic(load(x, i, left)), left)
            both = both + converted(p * t, sums)
            either = either + converted(p + t, sums)
        common, all_of_both = total(both), total(either)
        sums[n, 0] = (2 * common if dice else common) + 1
        sums[n, 1] = (all_of_both if dice else all_of_both - common) + 1


def overlap_loss(logits, target, region, sums, out):
    images, pixels = logits.shape
    sums_out = flat_out(sums).reshape(images, 2)
    parallel.run(_overlaps, images, flat(logits), flat(target), pixels, region == "dice", sums_out)
    with np.errstate(all="ignore"):
        out[...] = np.mean(1 - sums_out[:, 0] / sums_out[:, 1])


@kernel
def _overlaps_backward(slot, start, stop, x, target, factors, grad_x, pixels):
    one, lane = spread(x, 1), lanes(x)
    for n in range(start, stop):
        by_target, rest = spread(x, factors[n, 0]), spread(x, factors[n, 1])
        end = (n + 1) * pixels
        for i in range(n * pixels, end, lane):
            left = end - i
            e = _decay(load(x, i, left))
            p = one / (one + e)
            # p * (e * p): sigmoid of x and of -x, in either order
            store(grad_x, i, (by_target * load(target, i, left) + rest) * p * (e * p), left)


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
