"""Exponential, logarithm, square root, ReLU and dropout: gradients, values against NumPy, masks."""

import gc
import math
import threading
import weakref

import numpy as np
import pytest
from op_checks import check, get, normals

import octsod
from octsod import Tensor, random
from octsod import functional as f

SHAPES = [(), (5,), (2, 3, 4, 5), (0, 3), (3, 20_001)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["exp", "log", "sqrt"])
def test_functions(name, shape):
    (x,) = normals(0, shape)
    x = x if name == "exp" else np.asarray(np.abs(x) + 0.3)
    op = getattr(f, name)
    check(op, x)
    assert np.allclose(op(x).numpy(), getattr(np, name)(x), rtol=1e-13)
    assert np.array_equal(getattr(Tensor(x), name)().numpy(), op(x).numpy())
    single = op(x.astype(np.float32))
    assert single.dtype == np.float32 and np.allclose(single.numpy(), getattr(np, name)(x), rtol=1e-5, atol=1e-6)


def test_an_input_that_is_used_twice():
    (x,) = normals(0, (3, 4))
    x = np.abs(x) + 0.5
    check(lambda x: f.exp(x) * f.log(x) + f.sqrt(x) * x + f.relu(x - 1) * x, x)


@pytest.mark.parametrize("shape", SHAPES)
def test_relu(shape):
    (x,) = normals(0, shape)
    x = np.asarray(x + np.copysign(0.1, x))  # away from the kink
    check(f.relu, x)
    assert np.array_equal(f.relu(x).numpy(), np.maximum(x, 0))


def test_relu_at_zero_and_of_nan():
    x = Tensor(np.array([0.0, -0.0, 1.0, -1.0, np.nan]), requires_grad=True)
    y = f.relu(x)
    y.backward(np.ones(5))
    assert np.array_equal(y.numpy(), [0, 0, 1, 0, np.nan], equal_nan=True)
    assert get(x.grad)[:4].tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("op", [f.exp, f.sqrt, f.relu])
def test_what_has_a_gradient_by_its_result_does_not_keep_its_input(op):
    """The next op needs the result anyway."""
    x = Tensor(np.ones((3, 4)), requires_grad=True)
    between = x * 2.0
    array = weakref.ref(between.data)
    y = op(between)
    del between
    gc.collect()
    assert array() is None and y.node is not None


def test_limits_do_not_warn():
    assert f.exp(np.array([-1e4, 1e4])).numpy().tolist() == [0, np.inf]
    assert f.log(np.array([0.0, np.inf])).numpy().tolist() == [-np.inf, np.inf]
    assert np.isnan(f.log(np.array([-1.0])).item()) and np.isnan(f.sqrt(np.array([-1.0])).item())


# --- dropout ----------------------------------------------------------------------------------------------------------


def kept(entropy, p=0.3, size=100_000, dtype=np.float64):
    """Which elements of a vector are kept."""
    with random.stream(*entropy):
        return f.dropout(np.ones(size, dtype), p).numpy() != 0


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("seed", range(3))
def test_dropout_keeps_the_mean(seed, p):
    """The number of elements that stay is binomial, so it is rarely 5 standard deviations off: 6e-7 of all seeds."""
    size = 100_000
    with random.stream(seed):
        y = f.dropout(np.ones(size), p).numpy()
    assert set(np.unique(y)) == {0, 1 / (1 - p)}
    bound = 5 * math.sqrt(size * p * (1 - p))
    assert abs(np.count_nonzero(y) - size * (1 - p)) < bound
    assert abs(y.mean() - 1) < bound / (size * (1 - p))


def test_masks_of_steps_and_neighbours_are_independent():
    """How often two elements that do not know of each other are alike is binomial, too."""
    size, p = 100_000, 0.3
    alike = p**2 + (1 - p) ** 2
    bound = 5 * math.sqrt(size * alike * (1 - alike))
    first, second, other_seed = kept((1, 1)), kept((1, 2)), kept((2, 1))
    for a, b in ((first, second), (first, other_seed), (first, np.roll(first, 1)), (first, np.roll(first, 64))):
        assert abs(np.count_nonzero(a == b) - size * alike) < bound
    assert np.array_equal(first, kept((1, 1)))


def test_dropout_drops_the_same_on_every_backend_and_in_every_shape_and_dtype():
    expected = kept((3, 4), size=20_004)
    for backend in ("cpu", "reference", "opaque"):
        with octsod.use_backend(backend), random.stream(3, 4):
            y = f.dropout(np.ones((3, 6668), np.float32), 0.3).numpy()
            assert np.array_equal(y.reshape(-1) != 0, expected), backend


def test_the_mask_is_the_one_of_the_formula():
    """Element by element in Python's integers, and fixed: a resumed run depends on it."""

    def mix(z):
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31

    for seed in (0, 12345, 2**63 - 1):
        y = octsod.ops.Dropout.apply(np.ones(100), p=0.25, seed=seed).numpy()
        drawn = [mix((mix(seed) + (i + 1) * 0x9E3779B97F4A7C15) % 2**64) >> 11 for i in range(100)]
        assert np.array_equal(y == 0, [n < 2**51 for n in drawn])
    assert mix(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # SplitMix64's first number from seed 0


def test_the_gradient_of_dropout_is_its_mask():
    (x,) = normals(0, (4, 50))

    def once(x):
        with random.stream(5):
            return f.dropout(x, 0.4)

    check(once, x)
    check(lambda x: once(x) * x + once(x), x)
    leaf = Tensor(x, requires_grad=True)
    y = once(leaf)
    y.backward(np.ones(x.shape))
    assert np.array_equal(get(leaf.grad), np.where(y.numpy() == 0, 0, 1 / 0.6))


def test_dropout_does_nothing_outside_of_training():
    x = Tensor(np.ones(3))
    assert f.dropout(x, 0.5, training=False) is x and f.dropout(x, 0.0) is x


# --- streams of random numbers ----------------------------------------------------------------------------------------


def drawn(count=3):
    return [random.draw_seed() for _ in range(count)]


def test_a_stream_depends_on_its_entropy_alone():
    with random.stream(7, 1):
        first = drawn()
    drawn()
    with random.stream(7, 2):
        second = drawn()
    with random.stream(7, 1):
        one = drawn(1)
        with random.stream(7, 2):  # one within another
            assert drawn() == second
        assert one + drawn(2) == first
    assert not set(first) & set(second) and len(set(first)) == 3
    assert all(0 <= seed < 2**63 for seed in first + second)


def test_without_a_stream_seeds_come_from_the_librarys_generator():
    octsod.manual_seed(3)
    first = drawn()
    with pytest.raises(KeyError), random.stream(1):
        drawn()
        raise KeyError
    octsod.manual_seed(3)
    assert drawn() == first


def test_a_stream_is_the_threads_own():
    seen = []
    octsod.manual_seed(4)
    expected = drawn(1)
    octsod.manual_seed(4)
    with random.stream(1):
        thread = threading.Thread(target=lambda: seen.extend(drawn(1)))
        thread.start()
        thread.join()
    assert seen == expected
