"""What ends a training step: the updates of optimisers, clipping, averages (see octsod/backend/contract.py). For the
rest, the reference is fast enough.

Loops over a task's elements run over views of them, so that LLVM vectorises them, or use explicit vectors: see
elementwise.py.
"""

import math

import numpy as np

from ..reference.optimization import count_step, decay_scales, record_step, restore_if_halted
from . import parallel
from .compile import kernel
from .elementwise import GRAIN
from .simd import lanes
from .vector import converted, fma, load, spread, total

__all__ = [
    "adam",
    "average",
    "clip_gradients",
    "count_step",
    "decay_scales",
    "record_step",
    "restore_if_halted",
    "sgd",
]


@kernel
def _squares(slot, start, stop, gradient, partials):
    lane, nothing = lanes(gradient), converted(spread(gradient, 0), partials)
    for task in range(start, stop):
        sums, end = nothing, min((task + 1) * GRAIN, gradient.size)
        for i in range(task * GRAIN, end, lane):
            values = converted(load(gradient, i, end - i), partials)
            sums = fma(values, values, sums)
        partials[task] = total(sums)


@kernel
def _scale(slot, start, stop, gradient, factor):
    part = gradient[start * GRAIN : min(stop * GRAIN, gradient.size)]
    for i in range(part.size):
        part[i] = part[i] * factor


def clip_gradients(gradients, max_norm):
    parts = [flat[start:stop] for flat, ranges in gradients for start, stop, _ in ranges.tolist()]
    tasks = [-(-part.size // GRAIN) for part in parts]
    squares = 0.0
    for part, count in zip(parts, tasks, strict=True):
        partials = np.empty(count)
        parallel.run(_squares, count, part, partials)
        for partial in partials.tolist():
            squares += partial
    factor = max_norm / (math.sqrt(squares) + 1e-6)
    if math.isfinite(squares) and factor < 1:
        for part, count in zip(parts, tasks, strict=True):
            parallel.run(_scale, count, part, factor)


@kernel
def _adam(
    slot, start, stop, parameter, grad, first, second, lr, beta1, beta2, eps, coupled, kept, correction1, correction2
):
    part = slice(start * GRAIN, min(stop * GRAIN, parameter.size))
    parameter, grad, first, second = parameter[part], grad[part], first[part], second[part]
    for i in range(parameter.size):
        g = grad[i] + coupled * parameter[i]
        m = beta1 * first[i] + (1 - beta1) * g
        v = beta2 * second[i] + (1 - beta2) * g * g
        first[i] = m
        second[i] = v
        parameter[i] = kept * parameter[i] - lr * (m / correction1) / (math.sqrt(v / correction2) + eps)


def adam(parameter, gradient, first, second, ranges, settings, state):
    if state[1]:
        return
    steps = int(state[0]) + 1
    for start, stop, row in ranges.tolist():
        lr, beta1, beta2, eps, decay, decoupled = settings[row].tolist()
        coupled, kept = (0.0, 1 - lr * decay) if decoupled else (decay, 1.0)
        part = [array[start:stop] for array in (parameter, gradient, first, second)]
        parallel.run(
            _adam, -(-(stop - start) // GRAIN), *part, lr, beta1, beta2, eps, coupled, kept, 1 - beta1**steps,
            1 - beta2**steps,
        )  # fmt: skip


@kernel
def _sgd(slot, start, stop, parameter, grad, velocity, lr, momentum, share, nesterov, decay):
    part = slice(start * GRAIN, min(stop * GRAIN, parameter.size))
    parameter, grad, velocity = parameter[part], grad[part], velocity[part]
    for i in range(parameter.size):
        g = grad[i] + decay * parameter[i]
        v = momentum * velocity[i] + share * g
        velocity[i] = v
        parameter[i] -= lr * (g + momentum * v if nesterov else v)


def sgd(parameter, gradient, velocity, ranges, settings, state):
    if state[1]:
        return
    for start, stop, row in ranges.tolist():
        lr, momentum, dampening, nesterov, decay = settings[row].tolist()
        share = 1 - dampening if state[0] > 0 and momentum != 0 else 1.0
        part = [array[start:stop] for array in (parameter, gradient, velocity)]
        parallel.run(_sgd, -(-(stop - start) // GRAIN), *part, lr, momentum, share, nesterov != 0, decay)


@kernel
def _average(slot, start, stop, source, target, weight):
    part = slice(start * GRAIN, min(stop * GRAIN, target.size))
    source, target = source[part], target[part]
    for i in range(target.size):
        target[i] += weight * (np.float64(source[i]) - target[i])


def average(sources, targets, weight, state):
    if not state[1]:
        for source, target in zip(sources, targets, strict=True):
            source, target = parallel.flat(source), parallel.flat_out(target)
            parallel.run(_average, -(-target.size // GRAIN), source, target, weight)
