"""The kernels that end a training step."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_contract import BACKENDS, both_dtypes, reference, verify

from octsod.testing import strategies
from octsod.testing.strategies import ArraysCase

every_backend = pytest.mark.parametrize("kernels", [*BACKENDS, reference])
ADAM = np.array([
    [0.01, 0.9, 0.99, 1e-8, 0.005, 0], [0.1, 0.5, 0.75, 1e-3, 0.0, 0], [0.1, 0.9, 0.75, 1e-3, 0.25, 1],
])  # fmt: skip
SGD = np.array([
    [0.01, 0, 0, 0, 0.005], [0.1, 0.9, 0, 0, 0], [0.1, 0.75, 0.25, 0, 0.5], [0.2, 0.9, 0, 1, 0.1], [0.1, 0, 0.5, 0, 0],
])  # fmt: skip
CUTS = st.tuples(st.floats(0, 1), st.floats(0, 1))


def between(case, cuts, rows):
    """Two ranges of a vector, and the gap between them."""
    start, stop = sorted(int(cut * case.size) for cut in cuts)
    return np.array([[0, start, rows[0]], [stop, case.size, rows[1]]]), slice(start, stop)


def verify_update(dtype, case, gap, update):
    """`update(kernels, parameter, gradient, slots, halted)` moves what it should, and nothing else."""

    def launch(kernels, arena):
        grad = arena.normal(case.size)
        parameter, first = (arena.output(n, None, values=arena.rng.standard_normal(case.size)) for n in "pm")
        second = arena.output("v", None, values=arena.rng.uniform(0.1, 1, case.size))
        arrays = parameter, first, second
        before = [array.copy() for array in arrays]
        update(kernels, *arrays, grad, False)
        for array, old in zip(arrays, before, strict=True):
            assert array[gap].tobytes() == old[gap].tobytes(), "moved outside of the ranges"
        halted = [array.copy() for array in arrays]
        update(kernels, *arrays, grad, True)
        for array, old in zip(arrays, halted, strict=True):
            assert array.tobytes() == old.tobytes(), "moved although training has halted"

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.vectors(), cuts=CUTS, rows=st.tuples(*[st.integers(0, 2)] * 2), steps=st.integers(0, 5))
def test_adam(dtype, case, cuts, rows, steps):
    ranges, gap = between(case, cuts, rows)

    def update(kernels, parameter, first, second, grad, halted):
        kernels.adam(parameter, grad, first, second, ranges, ADAM, np.array([steps, halted]))

    verify_update(dtype, case, gap, update)


@both_dtypes
@given(case=strategies.vectors(), cuts=CUTS, rows=st.tuples(*[st.integers(0, 4)] * 2), steps=st.integers(0, 2))
def test_sgd(dtype, case, cuts, rows, steps):
    ranges, gap = between(case, cuts, rows)

    def update(kernels, parameter, velocity, _, grad, halted):
        kernels.sgd(parameter, grad, velocity, ranges, SGD, np.array([steps, halted]))

    verify_update(dtype, case, gap, update)


@both_dtypes
@given(case=strategies.vectors(), cuts=CUTS, max_norm=st.sampled_from([1e-3, 1.0, 5.0, 1e4]))
def test_clipping(dtype, case, cuts, max_norm):
    ranges, gap = between(case, cuts, (0, 1))

    def launch(kernels, arena):
        a, b = (arena.output(n, None, values=arena.rng.standard_normal(case.size)) for n in "ab")
        before = a.copy(), b.copy()
        kernels.clip_gradients([(a, ranges), (b, np.array([[0, case.size, 0]]))], max_norm)
        assert a[gap].tobytes() == before[0][gap].tobytes(), "moved outside of the ranges"
        counted = [np.delete(np.arange(case.size), gap), slice(None)]
        norm = math.sqrt(sum((array[c].astype(float) ** 2).sum() for array, c in zip(before, counted, strict=True)))
        factor = min(1, max_norm / (norm + 1e-6))
        for array, old, c in zip((a, b), before, counted, strict=True):
            assert np.allclose(array[c], old[c] * factor, rtol=1e-6, atol=0 if arena.tiny is None else 1e-30)

    verify(dtype, case.seed, launch)


@every_backend
@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_gradients_without_a_finite_norm_stay_as_they_are(kernels, bad):
    gradient = np.array([3.0, bad, 4.0])
    kernels.clip_gradients([(gradient, np.array([[0, 3, 0]]))], 1.0)
    assert np.array_equal(gradient, [3.0, bad, 4.0], equal_nan=True)
    kernels.clip_gradients([(gradient, np.array([[0, 1, 0], [2, 3, 0]]))], 1.0)  # whose is nobody's does not count
    assert np.allclose(gradient, [0.6, bad, 0.8], rtol=1e-6, equal_nan=True)
    large = np.array([3e30, 4e30], np.float32)  # their squares are beyond float32
    kernels.clip_gradients([(large, np.array([[0, 2, 0]]))], 1.0)
    assert np.allclose(large, [0.6, 0.8], rtol=1e-6)
    kernels.clip_gradients([], 1.0)


@example(case=ArraysCase((((3,), False, True), ((), True, False)) * 101, 0), weight=0.25)
@given(case=strategies.lists_of_arrays(), weight=st.sampled_from([0.0, 0.001, 0.25, 0.9, 1.0]))
def test_averages(case, weight):
    def launch(kernels, arena):
        dtypes = np.float32, np.float64
        sources = [arena.array(arena.rng.standard_normal(s), dtypes[wide]) for s, wide, _ in case.arrays]
        targets = [
            arena.output(f"target{k}", None, dtypes[wide], values=arena.rng.standard_normal(s))
            for k, (s, _, wide) in enumerate(case.arrays)
        ]
        kernels.average(sources, targets, weight, np.array([7, 0]))
        halted = [target.copy() for target in targets]
        kernels.average(sources, targets, weight, np.array([7, 1]))
        assert all(a.tobytes() == b.tobytes() for a, b in zip(targets, halted, strict=True)), "moved although halted"

    verify("float32", case.seed, launch)


@every_backend
def test_an_average_of_weight_one_is_the_source(kernels):
    target = np.array([1.0, 2.0])
    kernels.average([np.array([3.0, 5.0], np.float32)], [target], 0.5, np.array([0, 0]))
    assert target.tolist() == [2.0, 3.5]
    kernels.average([np.array([3.0, 5.0])], [target], 1.0, np.array([0, 0]))
    kernels.average([], [], 1.0, np.array([0, 0]))
    assert target.tolist() == [3.0, 5.0]


@every_backend
def test_adam_makes_a_known_step(kernels):
    """In its first step, whatever the gradient's size, Adam moves by the learning rate, against the sign."""
    parameter, grad = np.zeros(3), np.array([0.5, -2.0, 7.0])
    ranges = np.array([[0, 3, 0]])
    settings = np.array([[0.25, 0.9, 0.999, 0.0, 0.0, 0]])
    kernels.adam(parameter, grad, np.zeros(3), np.zeros(3), ranges, settings, np.array([0, 0]))
    assert np.allclose(parameter, [-0.25, 0.25, -0.25], rtol=1e-12)


@every_backend
def test_steps_count_until_training_halts(kernels):
    state = np.array([3, 0])
    kernels.count_step(state)
    assert state.tolist() == [4, 0]
    state[1] = 1
    kernels.count_step(state)
    assert state.tolist() == [4, 1]


@every_backend
@pytest.mark.parametrize("place", [(0, 0), (0, 99), (1, 5), (1, 8), (1, 9), (1, 29)])
@pytest.mark.parametrize("loss, penalty, bad, code", [
    (1.5, 2.5, 0.0, 0), (np.nan, 2.5, 0.0, 1), (1.5, np.inf, 0.0, 2), (1.5, 2.5, -np.inf, 4),
    (np.inf, np.nan, np.nan, 1),
])  # fmt: skip
def test_what_a_step_came_to(kernels, loss, penalty, bad, code, place):
    gradients = [np.ones(100, np.float32), np.ones(30)]
    gradients[place[0]][place[1]] += bad
    gradients[1][:5] = np.nan  # nobody's
    gradients = [(gradients[0], np.array([[0, 100, 0]])), (gradients[1], np.array([[5, 9, 0], [9, 30, 1]]))]
    ring, state = np.full((4, 4), -1.0), np.array([6, 0])
    kernels.record_step([np.array(loss, np.float32), np.array([penalty]), np.array(7.0)], gradients, ring, state)
    assert np.array_equal(ring[2], [loss, penalty, 7.0, code], equal_nan=True)
    assert (ring[[0, 1, 3]] == -1).all()
    assert state.tolist() == [6, int(code != 0)]
    before = ring.copy()
    state[1] = 1
    kernels.record_step([np.array(0.0)] * 3, [], ring, state)
    assert np.array_equal(ring, before, equal_nan=True), "noted although training has halted"


@every_backend
def test_statistics_come_back_only_where_training_has_halted(kernels):
    rng = np.random.default_rng(0)
    arrays = [rng.random(3).astype(np.float32), rng.random((2, 2))]
    saved = np.zeros(7)
    kernels.gather(arrays, saved)
    assert np.array_equal(saved, np.concatenate([a.reshape(-1) for a in arrays]))
    changed = [a + 1 for a in arrays]
    kernels.restore_if_halted(changed, saved, np.array([5, 0]))
    assert all(np.array_equal(c, a + 1) for c, a in zip(changed, arrays, strict=True))
    kernels.restore_if_halted(changed, saved, np.array([5, 1]))
    assert all(np.array_equal(c, a) for c, a in zip(changed, arrays, strict=True))


@every_backend
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("metric", ["average_pooling", "constant", "given"])
def test_decay_of_scales_equals_its_formula(kernels, dtype, metric):
    rng = np.random.default_rng(1)
    sizes, pixels, factors = (3, 0, 5), [4, 9, 16], [1.0, 0.5, 0.25]
    sums = [rng.standard_normal((2, n)) for n in sizes]
    scales = [rng.standard_normal(n).astype(dtype) for n in sizes]
    gradients = [rng.standard_normal(n).astype(dtype) for n in sizes]
    given = [rng.random(n) for n in sizes]
    values = {
        "average_pooling": [np.abs(s / p).mean(axis=0) for s, p in zip(sums, pixels, strict=True)],
        "constant": [np.ones(n) for n in sizes],
        "given": given,
    }[metric]
    expected = [g + 3.0 * f * m * s for g, f, m, s in zip(gradients, factors, values, scales, strict=True)]
    penalty = np.array([np.nan])
    kernels.decay_scales(
        given if metric == "given" else metric, sums, pixels, scales, factors, 3.0, gradients, penalty
    )
    total = sum(float((f * m * s.astype(float) ** 2).sum()) for f, m, s in zip(factors, values, scales, strict=True))
    assert np.isclose(penalty[0], total / 2, rtol=1e-12)
    for got, wanted in zip(gradients, expected, strict=True):
        assert np.allclose(got, wanted, rtol=1e-6 if dtype == "float32" else 1e-12)
