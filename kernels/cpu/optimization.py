"""What ends a training step: Adam (see octsod/backend/contract.py). For the rest, the reference is fast enough."""

import math

from ..reference.optimization import count_step, decay_scales, record_step, restore_if_halted
from . import parallel
from .compile import kernel
from .elementwise import GRAIN

__all__ = ["adam", "count_step", "decay_scales", "record_step", "restore_if_halted"]


@kernel
def _adam(slot, start, stop, parameter, grad, first, second, lr, beta1, beta2, eps, decay, correction1, correction2):
    for i in range(start * GRAIN, min(stop * GRAIN, parameter.size)):
        g = grad[i] + decay * parameter[i]
        m = beta1 * first[i] + (1 - beta1) * g
        v = beta2 * second[i] + (1 - beta2) * g * g
        first[i] = m
        second[i] = v
        parameter[i] -= lr * (m / correction1) / (math.sqrt(v / correction2) + eps)


def adam(parameter, gradient, first, second, ranges, settings, state):
    if state[1]:
        return
    steps = int(state[0]) + 1
    for start, stop, row in ranges.tolist():
        lr, beta1, beta2, eps, decay = settings[row].tolist()
        part = [array[start:stop] for array in (parameter, gradient, first, second)]
        parallel.run(
            _adam, -(-(stop - start) // GRAIN), *part, lr, beta1, beta2, eps, decay, 1 - beta1**steps, 1 - beta2**steps
        )
