"""Gradient checks: what backward returns against finite differences."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..autograd.graph import backward_all
from ..autograd.mode import is_grad_enabled, no_grad, unguarded
from ..autograd.tensor import Tensor

SEED = 0x0C75  # a generator of its own: neither reads nor disturbs anybody else's random numbers
STEPS = tuple(4e-3 / 8**k for k in range(5))  # the next one is tried where the last one met a kink
ALL_ENTRIES = 64  # inputs of up to so many elements are checked entry by entry
SAMPLED_ENTRIES = 48
DIRECTIONS = 2
EPSILON = float(np.finfo(np.float64).eps)


def gradcheck(fn: Callable[..., Any], *inputs: Any, tolerance: float = 1e-6) -> float:
    """Check the gradients of `fn` against finite differences; returns the largest relative error found.

    fn: takes the inputs; returns a tensor of any shape, or a tuple or list of tensors and Nones; all in float64.
    inputs: checked are leaf tensors (float64) that require a gradient, and float64 arrays, which become such tensors.
    Anything else is passed on as it is.

    With y = fn(x), random cotangents v and a direction u, backward's <J'v, u> is compared with a difference quotient of
    t -> <v, fn(x + t*u)>, of fourth order:

        <v, J u> = (8*(f(h) - f(-h)) - (f(2h) - f(-2h))) / (12*h),    f(t) = <v, fn(x + t*u) - fn(x)>

    per input for random u, and for single entries: all of them for a small input, else corners, borders and a sample.
    An error is relative to the input's largest gradient entry. At a kink (PReLU at 0, a tie of max-pooling) one-sided
    derivatives differ; where they still do within the smallest step, the entry or direction is skipped.

    Raises AssertionError, naming the worst entry, if an error exceeds `tolerance` (a missing gradient counts as zero),
    if more than half of the checks of an input had to be skipped, if fn or a backward changes an input or a cotangent
    in place, or if two runs differ; TypeError or ValueError for inputs and outputs that cannot be checked.
    The `.grad` of the inputs is left as it was.

    >>> gradcheck(lambda x, w: octsod.functional.conv2d(x, w, padding=1), np.ones((1, 2, 5, 4)), np.ones((3, 2, 3, 3)))
    """
    inputs = tuple(Tensor(x.copy(), True) if isinstance(x, np.ndarray) and x.dtype == np.float64 else x for x in inputs)
    checked = _checked(inputs)
    before = [(x, x.data, x.grad) for x in inputs if isinstance(x, Tensor)]
    originals = _copies(inputs)
    generator = np.random.default_rng((SEED, 1))
    try:
        for x in checked.values():
            x.grad = None
        try:
            values, cotangents = _there_and_back(fn, inputs, originals)
        except ValueError as error:
            if "read-only" not in str(error):
                raise
            # Of what an op was given. It gets copies that can be written, to see which one it changes.
            for x, _, _ in before:
                x._data = x.device.put(x.numpy().copy())
            with unguarded():
                _there_and_back(fn, inputs, originals)
            raise AssertionError(f"gradcheck: `fn` or its backward writes to what it was given: {error}.") from error
        gradients = {number: _gradient(number, x) for number, x in checked.items()}
        for y, again in zip(values, _run(fn, inputs), strict=True):
            if not np.array_equal(y, again):
                raise AssertionError("gradcheck: `fn` is not deterministic: two runs on the same inputs differ.")
        _require_unchanged("input", originals, _copies(inputs))
        magnitude = sum(float(np.abs(v * y).sum()) for v, y in zip(cotangents, values, strict=True))
        largest = {number: float(np.abs(g).max(initial=0)) for number, g in gradients.items()}
        # Gradients that are zero but for rounding, such as a bias's before batch norm, need another measure.
        floor = max(1e-3 * max(largest.values()), 1e-5 * magnitude, 1e-300)
        worst = 0.0
        for number, x in checked.items():
            start = x.numpy().copy()

            def change(moved, x=x):
                x.data = moved
                triples = zip(cotangents, _run(fn, inputs), values, strict=True)
                return np.concatenate([(v * (y - y0)).reshape(-1) for v, y, y0 in triples])

            scale, noise = max(largest[number], floor), EPSILON * magnitude
            errors = _check_input(number, change, start, gradients[number], scale, noise, tolerance, generator)
            worst = max([worst, *errors])
            x.data = start
        return worst
    finally:
        for x, data, grad in before:  # the very arrays that were there
            x._data, x._grad = data, grad


def _checked(inputs):
    """The inputs to check, by number."""
    if not is_grad_enabled():
        raise RuntimeError("gradcheck: called within `no_grad`, where nothing has a gradient.")
    checked = {i: x for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad}
    if not checked:
        raise ValueError("gradcheck: no input requires a gradient; expected a tensor that does, or a float64 array.")
    for number, x in checked.items():
        if x.dtype != np.float64:
            raise TypeError(f"gradcheck: input {number} is {x.dtype}; expected float64, for accurate differences.")
        if x.node is not None:
            raise ValueError(f"gradcheck: input {number} is the result of `{x.node.name}`; expected a leaf tensor.")
    return checked


def _outputs(result):
    outputs = [result] if isinstance(result, Tensor) else result
    if not isinstance(outputs, (tuple, list)) or not all(y is None or isinstance(y, Tensor) for y in outputs):
        raise TypeError(f"gradcheck: `fn` returned {type(result).__name__}; expected a tensor or a tuple of tensors.")
    outputs = [y for y in outputs if y is not None]
    if not outputs:
        raise ValueError("gradcheck: `fn` returned no tensor; expected at least one.")
    for y in outputs:
        if y.dtype != np.float64:
            raise TypeError(f"gradcheck: `fn` returned a tensor of {y.dtype}; expected float64.")
    return outputs


def _there_and_back(fn, inputs, originals):
    """The values of the outputs and their cotangents, after a forward and a backward pass that changed nothing in
    place."""
    outputs = _outputs(fn(*inputs))
    _require_unchanged("input", originals, _copies(inputs))
    values = [y.numpy().copy() for y in outputs]
    if not all(np.isfinite(y).all() for y in values):
        raise AssertionError("gradcheck: `fn` returned a number that is not finite.")
    generator = np.random.default_rng(SEED)
    cotangents = [_random(generator, y.shape) for y in values]
    given = [Tensor.on(y.device, v.copy()) for y, v in zip(outputs, cotangents, strict=True)]
    roots = [(y, v) for y, v in zip(outputs, given, strict=True) if y.requires_grad]
    backward_all([y for y, _ in roots], [v for _, v in roots])
    _require_unchanged("input", originals, _copies(inputs))
    _require_unchanged("cotangent", dict(enumerate(cotangents)), _copies(given))
    _require_unchanged("output", dict(enumerate(values)), _copies(outputs))
    return values, cotangents


def _run(fn, inputs):
    with no_grad():
        return [y.numpy() for y in _outputs(fn(*inputs))]


def _copies(inputs):
    arrays = [(i, x.numpy() if isinstance(x, Tensor) else x) for i, x in enumerate(inputs)]
    return {i: a.copy() for i, a in arrays if isinstance(a, np.ndarray)}


def _require_unchanged(what, originals, arrays):
    for number, array in arrays.items():
        if array.tobytes() != originals[number].tobytes():
            raise AssertionError(f"gradcheck: `fn` or its backward changed {what} {number} in place.")


def _gradient(number, x):
    if x.grad is None:
        return np.zeros(x.shape)
    grad = x.device.get(x.grad)
    if not np.isfinite(grad).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(grad))[0])
        raise AssertionError(f"gradcheck: input {number} at {index}: backward gives {grad[index]}.")
    return grad.copy()


def _random(generator, shape):
    """Numbers away from zero, of either sign."""
    return generator.uniform(0.5, 1.5, shape) * generator.choice((-1.0, 1.0), shape)


def _entries(shape, generator):
    """Indices to check: all, or all corners, two on each border, and more at random."""
    if math.prod(shape) <= ALL_ENTRIES:
        return list(np.ndindex(shape))
    chosen = dict.fromkeys(itertools.islice(itertools.product(*({0: 0, n - 1: 0} for n in shape)), SAMPLED_ENTRIES))
    for axis, n in enumerate(shape):
        for end in (0, n - 1) * 2:
            index = [int(generator.integers(m)) for m in shape]
            index[axis] = end
            chosen[tuple(index)] = None
    while len(chosen) < SAMPLED_ENTRIES:
        chosen[tuple(int(generator.integers(m)) for m in shape)] = None
    return list(chosen)


def _check_input(number, change, start, gradient, scale, noise, tolerance, generator):
    """The relative errors of one input's checks; raises if one is too large or too few could be done."""
    failures, errors, kinks = [], [], []

    def check(u, place):
        analytic, norm = float(np.vdot(gradient, u)), math.sqrt(float(np.vdot(u, u)))
        found = _compare(lambda t: change(start + t * u), analytic, norm * scale, noise, tolerance)
        if found is not None:
            numeric, error = found
            errors.append(error)
            if not error <= tolerance:
                failures.append((error, place, analytic / norm, numeric / norm))
        return found is not None

    for index in _entries(start.shape, generator):
        u = np.zeros(start.shape)
        u[index] = max(1.0, abs(start[index]))
        if not check(u, f"at {index}"):
            kinks.append(index)
    for k in range(DIRECTIONS if len(errors) > len(failures) == 0 else 0):
        u = _random(generator, start.shape)
        for index in kinks:
            u[index] = 0
        if u.any():
            check(u, f"along random direction {k}")
    if failures:
        error, place, analytic, numeric = max(failures)
        raise AssertionError(
            f"gradcheck: input {number} {place}: backward gives {analytic:.10g}, finite differences {numeric:.10g}; "
            f"relative error {error:.3g} exceeds {tolerance:g} ({len(failures)} of {len(errors)} checks of this input)."
        )
    if len(kinks) > len(errors):
        raise AssertionError(
            f"gradcheck: `fn` has kinks at {len(kinks)} of {len(kinks) + len(errors)} places checked of input {number} "
            "and has no derivative there; expected inputs away from kinks."
        )
    return errors


def _compare(f, analytic, scale, noise, tolerance):
    """(numeric derivative of sum(f) at 0, relative error of the analytic one), or None at a kink; f is a vector, f(0)
    zero."""
    best = math.nan, math.inf
    for h in STEPS:
        up2, up, down, down2 = f(2 * h), f(h), f(-h), f(-2 * h)
        coarser = (8 * (up - down) - (up2 - down2)) / (12 * h)
        numeric = float(coarser.sum())
        error = abs(numeric - analytic) / max(scale, abs(numeric))
        if error <= tolerance / 100:
            return numeric, error
        half_up, half_down = f(h / 2), f(-h / 2)
        finer = (8 * (half_up - half_down) - (up - down)) / (6 * h)
        # Both vanish for a smooth f: the derivative's dependence on h, and the jump of one-sided derivatives at 0,
        # that is (up + down)/h = jump + h*f''(0) + ..., extrapolated to h = 0. By output: sums would cancel.
        jump = (4 * (half_up + half_down) - (up + down)) / h
        rough = float((np.abs(finer - coarser) + np.abs(jump)).sum())
        if abs(finer.sum() - analytic) < abs(numeric - analytic):  # else rounding outweighs the smaller step's gain
            numeric = float(finer.sum())
        error = abs(numeric - analytic) / max(scale, abs(numeric))
        if rough <= tolerance / 10 * max(scale, abs(numeric)) + 32 * noise / h:
            return numeric, error
        if error < best[1]:
            best = numeric, error
    # Not smooth even in the smallest step. A kink explains a disagreement of its own size, but not one far above it.
    if best[1] <= tolerance:
        return best
    return (numeric, error) if abs(numeric - analytic) > 16 * rough else None
