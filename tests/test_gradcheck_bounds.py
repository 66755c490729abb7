"""The bounds that gradcheck derives: right gradients of any scale stay within them, and they are sharp."""

import warnings

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from op_checks import examples

from octsod import functional as f
from octsod.autograd import Function
from octsod.testing import InconclusiveWarning, gradcheck
from octsod.testing.finite_differences import Line, Weighted, _grain, convergence_order, noise, random_sum_bound

# name -> (a function, its derivative), in plain NumPy
FUNCTIONS = {
    "sine": (np.sin, np.cos),
    "exponential": (np.exp, np.exp),
    "tanh": (np.tanh, lambda z: 1 - np.tanh(z) ** 2),
    "square": (np.square, lambda z: 2 * z),
    "fifth power": (lambda z: z**5, lambda z: 5 * z**4),
    "bell": (lambda z: np.exp(-z * z), lambda z: -2 * z * np.exp(-z * z)),
    "hyperbola": (lambda z: np.sqrt(z * z + 1), lambda z: z / np.sqrt(z * z + 1)),
    "logarithm": (lambda z: np.log(z * z + 1e-3), lambda z: 2 * z / (z * z + 1e-3)),
    "identity": (lambda z: 1 * z, np.ones_like),
    "constant": (np.ones_like, np.zeros_like),
    "zero": (np.zeros_like, np.zeros_like),
    "hardly anything": (lambda z: 1 + 1e-9 * z, lambda z: np.full_like(z, 1e-9)),
    "what a large number leaves over": (lambda z: (z + 1e5) - 1e5, np.ones_like),
}


COARSE = {  # where outputs are rounded to a grain that small steps do not reach
    "one less cosine": (lambda z: 1 - np.cos(z), np.sin),
    "eight bits, straight through": (lambda z: np.round(z * 256) / 256, np.ones_like),
    "limited, straight through": (lambda z: np.clip(z, -0.25, 0.25), np.ones_like),
}


class Apply(Function):
    @staticmethod
    def forward(ctx, x, name):
        function, derivative = (FUNCTIONS | COARSE)[name]
        ctx.save_for_backward(derivative(x))
        return function(x)

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved[0]


AROUND = {
    "by itself": lambda y, x: y,
    "summed": lambda y, x: y.sum(),
    "squared": lambda y, x: y * y,
    "times x": lambda y, x: y * x,
    "beside another": lambda y, x: (y, None, x * 1.5),
}
SCALES = st.integers(-20, 20)
SHAPES = st.sampled_from([(), (1,), (2, 0), (3,), (7, 5), (64,), (5, 13), (2, 3, 11, 5), (500,)])


def problem(name, around, inner, outer):
    def fn(x):
        z = x * 10.0**-inner
        results = AROUND[around](Apply.apply(z, name=name), z)
        return results * 10.0**outer if not isinstance(results, tuple) else results

    return fn


@given(
    st.sampled_from(list(FUNCTIONS)), st.sampled_from(list(AROUND)), SHAPES, SCALES, SCALES,
    st.sampled_from([0, 0, 1, 100]), st.integers(0, 2**32 - 1),
)
@example("what a large number leaves over", "times x", (), -6, 5, 0, 16)
@example("what a large number leaves over", "by itself", (1,), 2, -9, 0, 10012)
@example("exponential", "squared", (500,), 20, -20, 1, 0)
@examples(25)
def test_right_gradients_of_any_scale_never_fail(name, around, shape, inner, outer, offset, seed):
    z = np.random.default_rng(seed).normal(size=shape) + min(offset, 1 if "power" in name or name[0] == "e" else 100)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of these gradients are too small to be seen
        report = gradcheck(problem(name, around, inner, outer), np.asarray(z * 10.0**inner))
    assert report.verdict in ("PASS", "INCONCLUSIVE")
    assert not report.kinks
    if report.verdict == "PASS":
        assert report.of_bound <= 1
        assert report.error <= report.sharpness <= 1e-2


@pytest.mark.parametrize("name", [n for n in FUNCTIONS if n not in ("zero", "constant", "hardly anything")])
@pytest.mark.parametrize("inner", [-20, 0, 20])
def test_bounds_are_sharp(name, inner):
    x = np.random.default_rng(0).uniform(0.5, 1.5, (3, 30)) * 10.0**inner
    sharpness = gradcheck(problem(name, "by itself", inner, -inner), x).sharpness
    assert 1e-14 < sharpness < (1e-7 if "large number" in name else 2e-8)


@pytest.mark.parametrize("factor", [1 + 1e-6, 1 - 1e-6])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_small_errors_are_seen_at_any_scale(scale, factor):
    class Wrong(Apply):
        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved[0] * factor

    x = np.random.default_rng(0).normal(size=(3, 4)) * scale
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: Wrong.apply(x * (1 / scale), name="sine") * scale, x)


def test_central_differences_converge_with_the_square_of_the_step():
    x = np.random.default_rng(0).normal(size=(5, 20))
    assert gradcheck(f.sigmoid, x).orders[0] == pytest.approx(2, abs=0.01)
    assert gradcheck(lambda x: x * 3, x).orders == {0: None}  # too good to be measured
    assert gradcheck(lambda x, y: f.sigmoid(x) * y, x, x).orders == {0: pytest.approx(2, abs=0.01), 1: None}


def line(y, noise=0.0):
    weighted = Weighted(y(0.0), np.ones(y(0.0).size), np.full(y(0.0).size, noise), [slice(None)])
    return Line(weighted, y, 2.0**-8, 2.0**-53)


def test_the_order_of_a_wrong_derivative_is_zero():
    wave = line(lambda t: np.sin(1 + t + np.arange(4.0)))
    right = np.cos(1 + np.arange(4.0)).sum(keepdims=True)
    assert convergence_order(wave.difference(0.01), right) == pytest.approx(2, abs=1e-3)
    assert convergence_order(wave.difference(0.01), right * 1.1) == pytest.approx(0, abs=1e-2)


@pytest.mark.parametrize("step", [2.0**-k for k in range(4, 30, 5)])
def test_differences_are_within_their_bounds(step):
    found = line(lambda t: np.exp(t * np.arange(1, 4.0)), 2e-16).difference(step)
    error = abs(found.value[0] - 6)
    assert error <= found.bound[0]
    assert found.bound[0] < 1e3 * (step**2 + 2e-16 / step)
    assert found.jump[0] <= found.truncation[0]


def test_a_jump_of_the_derivative_is_measured():
    found = line(lambda t: np.array([abs(t), 3 * max(t, 0.0), t]), 1e-16).difference(1e-3)
    assert found.jump[0] == pytest.approx((2 + 3) / 2)
    assert found.value[0] == pytest.approx(0 + 1.5 + 1)


def test_noise_is_seen_and_kinks_are_not():
    values, ways = np.random.default_rng(0).normal(size=(2, 200))

    def y(t):
        return np.concatenate([(values + ways * t + 1e6) - 1e6, np.abs(t) * values, np.exp(values + ways * t)])

    slices = [slice(0, 200), slice(200, 400), slice(400, 600)]
    parts = [noise(y, y(0.0), slices)[part] for part in slices]
    quantum = 2.0**-33  # the distance of numbers around a million
    assert quantum / 4 < parts[0].min() and parts[0].max() < 16 * quantum
    assert parts[1].max() < 1e-18
    assert 1e-17 < np.median(parts[2]) < 1e-14


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5, 1e-6, 1e-7])
def test_what_rounding_keeps_from_moving_is_not_wrong(scale):
    """1 - cos(x) is a multiple of 2**-53: small steps leave it where it is, though the derivative is not 0."""
    x = scale * np.random.default_rng(0).normal(size=12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InconclusiveWarning)
        report = gradcheck(lambda x: Apply.apply(x, name="one less cosine"), x)
    assert report.verdict == ("PASS" if scale > 1e-6 else "INCONCLUSIVE")


@pytest.mark.parametrize("name", ["eight bits, straight through", "limited, straight through"])
def test_a_grain_that_is_made_on_purpose_is_no_rounding(name):
    x = np.random.default_rng(0).normal(size=12)
    with pytest.raises(AssertionError, match="finite differences 0 "):
        gradcheck(lambda x: Apply.apply(x, name=name), x)


def test_the_grain_of_numbers():
    numbers = np.array([[0.75, 3 * 2.0**-60, 0, np.inf, 1 / 3], [5, 2.0**-58, 0, 1, 2 / 3], [0, -(2.0**-59), 0, 2, 1]])
    assert _grain(numbers).tolist() == [0.25, 2.0**-60, np.inf, 0, 2.0**-54]


def test_sums_of_random_signs_are_within_their_bound():
    generator = np.random.default_rng(0)
    for size in (1, 10, 1000):
        magnitudes = generator.uniform(size=size)
        sums = np.abs(generator.choice((-1, 1), (500, size)) @ magnitudes)
        assert sums.max() <= random_sum_bound(magnitudes) <= magnitudes.sum() * (1 + 1e-12)
    assert random_sum_bound(np.ones(10_000)) == pytest.approx(7 * 100)
    assert random_sum_bound(np.array([1e-300, 1e300])) == pytest.approx(1e300)
    assert random_sum_bound(np.zeros(0)) == 0
