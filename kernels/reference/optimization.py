"""What ends a training step: decay of the scales, a note of what came of it, the optimiser's update, averages."""

import numpy as np

METRICS = {
    "average_pooling": lambda sums, pixels: np.abs(sums / pixels).mean(axis=0),
    "constant": lambda sums, pixels: np.ones(sums.shape[1]),
}


def decay_scales(metric, sums, pixels, scales, factors, strength, gradients, penalty):
    total = 0.0
    for i, (scale, gradient) in enumerate(zip(scales, gradients, strict=True)):
        values = METRICS[metric](sums[i], pixels[i]) if isinstance(metric, str) else metric[i]
        values = factors[i] * values
        total += 0.5 * float((values * scale.astype(np.float64) ** 2).sum())
        with np.errstate(all="ignore"):
            gradient += (strength * values * scale).astype(scale.dtype)
    penalty[...] = total


def record_step(terms, gradients, ring, state):
    if state[1]:
        return
    values = [float(term.reshape(-1)[0]) for term in terms]
    parts = [flat[start:stop] for flat, ranges in gradients for start, stop, _ in ranges]
    checks = [*map(np.isfinite, values), all(np.isfinite(part).all() for part in parts)]
    code = 0 if all(checks) else 1 + checks.index(False)
    ring[int(state[0]) % len(ring)] = *values, code
    state[1] = code != 0


def restore_if_halted(arrays, saved, state):
    if state[1]:
        start = 0
        for array in arrays:
            array[...] = saved[start : start + array.size].reshape(array.shape)
            start += array.size


def clip_gradients(gradients, max_norm):
    parts = [flat[start:stop] for flat, ranges in gradients for start, stop, _ in ranges]
    with np.errstate(all="ignore"):
        norm = np.sqrt(sum(np.sum(part.astype(np.float64) ** 2) for part in parts))
    factor = max_norm / (norm + 1e-6)
    if np.isfinite(norm) and factor < 1:
        for part in parts:
            part[...] = part.astype(np.float64) * factor


def adam(parameter, gradient, first, second, ranges, settings, state):
    if state[1]:
        return
    steps = int(state[0]) + 1
    for start, stop, row in ranges:
        lr, beta1, beta2, eps, decay, decoupled = settings[row]
        p, g, m, v = (a[start:stop].astype(np.float64) for a in (parameter, gradient, first, second))
        if decoupled:
            p = p - lr * decay * p
        else:
            g = g + decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        first[start:stop], second[start:stop] = m, v
        corrected = m / (1 - beta1**steps), v / (1 - beta2**steps)
        parameter[start:stop] = p - lr * corrected[0] / (np.sqrt(corrected[1]) + eps)


def sgd(parameter, gradient, velocity, ranges, settings, state):
    if state[1]:
        return
    for start, stop, row in ranges:
        lr, momentum, dampening, nesterov, decay = settings[row]
        p, g, v = (a[start:stop].astype(np.float64) for a in (parameter, gradient, velocity))
        g = g + decay * p
        dampened = state[0] > 0 and momentum != 0
        v = momentum * v + (1 - dampening if dampened else 1) * g
        velocity[start:stop] = v
        parameter[start:stop] = p - lr * (g + momentum * v if nesterov else v)


def count_step(state):
    if not state[1]:
        state[0] += 1


def average(sources, targets, weight, state):
    if not state[1]:
        for source, target in zip(sources, targets, strict=True):
            t = target.astype(np.float64)
            target[...] = t + weight * (source.astype(np.float64) - t)
