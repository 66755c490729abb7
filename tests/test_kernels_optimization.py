"""The kernels that end a training step, and those that move arrays as a whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_contract import BACKENDS, both_dtypes, reference, verify

from octsod.testing import strategies

every_backend = pytest.mark.parametrize("kernels", [*BACKENDS, reference])
SETTINGS = np.array([[0.01, 0.9, 0.99, 1e-8, 0.005], [0.1, 0.5, 0.75, 1e-3, 0.0]])


@both_dtypes
@given(case=strategies.vectors(), cuts=st.tuples(st.floats(0, 1), st.floats(0, 1)), steps=st.integers(0, 5))
def test_adam(dtype, case, cuts, steps):
    start, stop = sorted(int(cut * case.size) for cut in cuts)
    ranges = np.array([[0, start, 0], [stop, case.size, 1]])

    def launch(kernels, arena):
        grad = arena.normal(case.size)
        parameter, first = (arena.output(n, None, values=arena.rng.standard_normal(case.size)) for n in "pm")
        second = arena.output("v", None, values=arena.rng.uniform(0.1, 1, case.size))
        before = parameter.copy(), first.copy(), second.copy()
        kernels.adam(parameter, grad, first, second, ranges, SETTINGS, np.array([steps, 0]))
        for array, old in zip((parameter, first, second), before, strict=True):
            assert array[start:stop].tobytes() == old[start:stop].tobytes(), "moved outside of the ranges"
        halted = parameter.copy()
        kernels.adam(parameter, grad, first, second, ranges, SETTINGS, np.array([steps, 1]))
        assert parameter.tobytes() == halted.tobytes(), "moved although training has halted"

    verify(dtype, case.seed, launch)


@every_backend
def test_adam_makes_a_known_step(kernels):
    """In its first step, whatever the gradient's size, Adam moves by the learning rate, against the sign."""
    parameter, grad = np.zeros(3), np.array([0.5, -2.0, 7.0])
    ranges = np.array([[0, 3, 0]])
    settings = np.array([[0.25, 0.9, 0.999, 0.0, 0.0]])
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
@pytest.mark.parametrize("loss, penalty, bad, code", [
    (1.5, 2.5, 0.0, 0), (np.nan, 2.5, 0.0, 1), (1.5, np.inf, 0.0, 2), (1.5, 2.5, -np.inf, 3),
    (np.inf, np.nan, np.nan, 1),
])  # fmt: skip
def test_what_a_step_came_to(kernels, loss, penalty, bad, code):
    gradients = [np.ones(100, np.float32), np.ones(30)]
    gradients[1][29] += bad
    gradients[1][:5] = np.nan  # nobody's
    gradients = [(gradients[0], np.array([[0, 100, 0]])), (gradients[1], np.array([[5, 9, 0], [9, 30, 1]]))]
    ring, state = np.full((4, 3), -1.0), np.array([6, 0])
    kernels.record_step(np.array(loss, np.float32), np.array([penalty]), gradients, ring, state)
    assert np.array_equal(ring[2], [loss, penalty, code], equal_nan=True)
    assert (ring[[0, 1, 3]] == -1).all()
    assert state.tolist() == [6, int(code != 0)]
    before = ring.copy()
    state[1] = 1
    kernels.record_step(np.array(0.0), np.array([0.0]), [], ring, state)
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


@every_backend
def test_copies_are_broadcast(kernels):
    out = np.empty((2, 3))
    kernels.copy(np.array([1.0, 2.0, 3.0]), out)
    assert out.tolist() == [[1, 2, 3], [1, 2, 3]]
    kernels.copy(np.array(4.0), out)
    assert (out == 4).all()
    kernels.fill(out, 5)
    assert (out == 5).all()


@every_backend
def test_prelu_alone(kernels):
    slope, sums = np.array([0.25, -0.5]), np.random.default_rng(0).standard_normal((3, 3, 2))
    coefficients, by, grad_slope = np.empty((4, 2)), np.empty((6, 2)), np.empty(2)
    kernels.prelu_coefficients(slope, coefficients)
    assert coefficients.tolist() == [[1, 1], [0, 0], slope.tolist(), [0, 0]]
    kernels.prelu_backward(sums, slope, by, grad_slope)
    assert by.tolist() == [[1, 1], [0, 0], slope.tolist(), [1, 1], [0, 0], [0, 0]]
    assert np.allclose(grad_slope, sums[:, 2].sum(axis=0))
