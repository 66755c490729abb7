"""What ends a training step: decay of the scales, a note of what came of it, Adam.

`state` (2,) int64 holds the number of steps that Adam has made, and whether training has halted: from the first step
on that is not finite, nothing moves any more.
"""

import numpy as np

METRICS = {
    "average_pooling": lambda sums, pixels: np.abs(sums / pixels).mean(axis=0),
    "constant": lambda sums, pixels: np.ones(sums.shape[1]),
}


def decay_scales(metric, sums, pixels, scales, factors, strength, gradients, penalty):
    """Dynamic weight decay of all norms at once: gradients[i] (C_i,) += strength * M_i * scales[i], and
    penalty, one element in float64, = sum over i and channels of M_i * scales[i]**2 / 2.

    With sums[i] (N, C_i) float64, those of an activation over pixels[i] pixels, M_i is factors[i] times the mean over
    images of |sums[i] / pixels[i]| if metric is "average_pooling", 1 if it is "constant", or metric[i], an array (C_i,)
    float64, if it is a list.
    """
    total = 0.0
    for i, (scale, gradient) in enumerate(zip(scales, gradients, strict=True)):
        values = METRICS[metric](sums[i], pixels[i]) if isinstance(metric, str) else metric[i]
        values = factors[i] * values
        total += 0.5 * float((values * scale.astype(np.float64) ** 2).sum())
        with np.errstate(all="ignore"):
            gradient += (strength * values * scale).astype(scale.dtype)
    penalty[...] = total


def record_step(loss, penalty, gradients, ring, state):
    """Note what a training step came to, before it changes anything: row state[0] % R of ring (R, 3) float64 becomes
    the loss, the penalty (both of one element) and a code: 0 if all is finite, else for the first that is not 1, the
    loss, 2, the penalty, or 3, an element of `gradients`, arrays (n,). Any code but 0 halts; halted, nothing is noted.
    """
    if state[1]:
        return
    values = float(loss.reshape(-1)[0]), float(penalty.reshape(-1)[0])
    checks = [*map(np.isfinite, values), all(np.isfinite(g).all() for g in gradients)]
    code = 0 if all(checks) else 1 + checks.index(False)
    ring[int(state[0]) % len(ring)] = *values, code
    state[1] = code != 0


def restore_if_halted(arrays, saved, state):
    """If training has halted, every array = what `gather` has put of it into saved (n,)."""
    if state[1]:
        start = 0
        for array in arrays:
            array[...] = saved[start : start + array.size].reshape(array.shape)
            start += array.size


def adam(parameter, gradient, first, second, ranges, settings, state):
    """One step of Adam with coupled L2, in place, of elements ranges[k, 0] to ranges[k, 1] of arrays (n,), for each k.

    first, second (n,): the moments. ranges (K, 3) int64: start, stop, row of settings. settings (G, 5) float64:
    learning rate, beta1, beta2, eps, weight decay. Bias corrections are those of step number state[0] + 1. Halted,
    nothing happens.
    """
    if state[1]:
        return
    steps = int(state[0]) + 1
    for start, stop, row in ranges:
        lr, beta1, beta2, eps, decay = settings[row]
        p, g, m, v = (a[start:stop].astype(np.float64) for a in (parameter, gradient, first, second))
        g = g + decay * p
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        first[start:stop], second[start:stop] = m, v
        corrected = m / (1 - beta1**steps), v / (1 - beta2**steps)
        parameter[start:stop] = p - lr * corrected[0] / (np.sqrt(corrected[1]) + eps)


def count_step(state):
    """A step is made: state[0] becomes one more, unless training has halted."""
    if not state[1]:
        state[0] += 1
