"""Every kernel of every backend against the plain-NumPy reference, on drawn problems.

Beside the numbers, each run asserts the contract of a kernel: it writes all of its outputs and nothing else, reads
nothing outside of its inputs nor what it has not written itself, leaves inputs and the caller's floating-point mode as
they were, gives the same bits on any number of threads, and makes no subnormal numbers.
"""

import importlib
import inspect
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given

import octsod
from octsod import functional as f
from octsod.backend.deferred import ActivationSums, Deferred, DeferredGradient, Slot, identity_coefficients
from octsod.testing import strategies

cpu, reference = (importlib.import_module(f"octsod.kernels.{name}") for name in ("cpu", "reference"))
BACKENDS = [cpu]
TOLERANCE = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-12}
GUARD = 64  # elements on both sides of every array: as long as the longest vector, or longer
# What makes inputs subnormal, or their products.
TINY = {np.dtype(np.float32): (1e-40, 1e-20), np.dtype(np.float64): (1e-310, 1e-160)}

both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


pytestmark = pytest.mark.usefixtures("poisoned_scratch")


class Arena:
    """Makes a problem's arrays from a seed, each inside a larger buffer of NaN, and knows afterwards what became of
    them. Two arenas of one seed and dtype that are asked for the same arrays make the same ones, unless one is to be
    tiny: full of numbers that are subnormal, or whose products are."""

    def __init__(self, seed, dtype, tiny=False):
        self.rng = np.random.default_rng(seed)
        self.dtype = np.dtype(dtype)
        self.tiny = np.random.default_rng(seed) if tiny else None
        # Multiples of a sixteenth: activations are exact in float32 as well, so signs and ties, on which results
        # depend without continuity, come out alike in any order of operations. And there are many ties.
        self.exact = self.dtype == np.float32 or bool(self.rng.integers(2))
        self.buffers, self.given, self.inputs, self.outputs = [], [], [], {}

    def _guarded(self, values, dtype):
        """A contiguous copy amid NaN, at any alignment."""
        if self.tiny:
            values = values * self.tiny.choice(TINY[self.dtype], values.shape)
        before, size = GUARD + int(self.rng.integers(16)), values.size
        buffer = np.full(before + size + GUARD, np.nan, dtype)
        array = buffer[before : before + size].reshape(values.shape)
        array[...] = values
        self.buffers.append((buffer, before, size))
        self.given.append(array.copy())
        return array

    def array(self, values, dtype=None):
        """An input."""
        array = self._guarded(np.asarray(values), dtype or self.dtype)
        self.inputs.append((array, array.copy()))
        return array

    def normal(self, *shape):
        """An input drawn from the normal distribution."""
        return self.array(self.rng.standard_normal(shape))

    def steps(self, *shape, limit=2):
        """Values from -limit to limit in steps of a sixteenth, or any if this problem need not be exact."""
        if self.exact:
            return self.rng.integers(-16 * limit, 16 * limit + 1, shape) / 16
        return self.rng.standard_normal(shape)

    def map(self, shape):
        """An input map, exact if the problem is."""
        return self.array(self.steps(*shape))

    def output(self, name, shape, dtype=None, values=None, view=None):
        """An array to be written: full of NaN, or of `values` that are to be changed. `view` makes of it what is
        compared, as a dict, if not its very entries."""
        values = np.full(shape, np.nan) if values is None else np.asarray(values)
        array = self._guarded(values, dtype or self.dtype)
        self.outputs[name] = array, view
        return array

    def moments(self, name, out_shape):
        """Channel moments are compared as mean and squares about it: a reference value is the kernel's own choice."""
        pixels = out_shape[2] * out_shape[3]

        def view(moments):
            reference_value, total, squares = moments.transpose(1, 0, 2)
            return {"mean": reference_value + total / pixels, "squares": squares - total**2 / pixels}

        return self.output(name, (out_shape[0], 3, out_shape[1]), np.float64, view=view)

    def deferred(self, name, shape, reading):
        """A map to be read. Its slopes and scales have either sign, or are zero."""
        raw = self.map(shape)
        sums = _GuardedSums(self, f"{name}.sums") if reading.sums else None
        if not reading.deferred:
            return Deferred(raw, activation_sums=sums)
        return Deferred(raw, self.array(self._coefficients(4, shape[1])), activation_sums=sums)

    def gradient(self, shape, deferred):
        """A gradient to be read."""
        g = self.normal(*shape)
        if not deferred:
            return DeferredGradient.of(g)
        return DeferredGradient(g, self.map(shape), self.array(self._coefficients(6, shape[1])))

    def _coefficients(self, rows, channels):
        coefficients = self.rng.integers(-16, 17, (rows, channels)) / 8
        coefficients[2] = self.rng.choice([0, 0.25, -0.5, 0.75, 1], channels)  # slopes
        return coefficients

    def slot(self, name, shape, target):
        """Where the gradient of a map is to be written, or None."""
        if target is None:
            return None
        values = self.rng.standard_normal(shape) if target.accumulate else None
        array = self.output(name, shape, values=values)
        sums = self.output(f"{name}.sums", (shape[0], 3, shape[1]), np.float64) if target.sums else None
        return Slot(array, target.accumulate, sums)

    def check(self):
        """Nothing but the outputs was written."""
        for array, copy in self.inputs:
            assert array.tobytes() == copy.tobytes(), f"an input of shape {array.shape} was changed"
        for buffer, before, size in self.buffers:
            outside = np.concatenate([buffer[:before], buffer[before + size :]])
            assert np.isnan(outside).all(), f"written outside of an array of {size} elements"

    def check_subnormals(self):
        """The subnormal numbers among the outputs are copies of what was given."""
        given = np.concatenate([subnormals(array) for array in self.given])
        for name, (array, _) in self.outputs.items():
            assert np.isin(subnormals(array), given).all(), f"{name} has new subnormal numbers"


def subnormals(array):
    """The magnitudes of the subnormal numbers in an array, in float64."""
    magnitudes = np.abs(array)
    return magnitudes[(magnitudes > 0) & (magnitudes < np.finfo(array.dtype).tiny)].astype(np.float64)


class _GuardedSums(ActivationSums):
    """Sums of an activation that land in an arena."""

    __slots__ = ("arena", "name")

    def __init__(self, arena, name):
        super().__init__(1)
        self.arena, self.name = arena, name

    def claim(self, images, channels):
        assert self.values is None, "claimed twice"
        shape = (images, channels)
        self.values = self.arena.output(self.name, shape, np.float64, values=np.zeros(shape))
        return self.values


def assert_close(name, got, expected, tolerance):
    """Equal up to `tolerance` of the largest entry expected (or of one, the size of the problems' inputs)."""
    assert got.shape == expected.shape
    nans = np.isnan(expected)
    assert np.array_equal(np.isnan(got), nans), f"{name}: NaN at other places, {np.argwhere(np.isnan(got) ^ nans)[:5]}"
    # Equal infinities are no error.
    error = np.where(nans | (got == expected), 0, np.abs(np.where(nans, 0, got) - np.where(nans, 0, expected)))
    if error.size:
        finite = np.abs(expected[np.isfinite(expected)])
        limit = tolerance * max(finite.max(initial=0), 1)
        worst = np.unravel_index(np.argmax(error), error.shape)
        place = tuple(int(i) for i in worst)
        off = f"{(error > limit).sum()} of {error.size} entries are off"
        assert error[worst] <= limit, f"{name}{list(place)} is {got[worst]}; expected {expected[worst]}; {off}"


def verify(dtype, seed, launch, tolerance=None, nans=False):
    """`launch(kernels, arena)` on every backend and on the reference: the same outputs, and the contract kept.

    nans: whether NaN may be among the results that are expected.
    """
    oracle = Arena(seed, dtype)
    launch(reference, oracle)
    oracle.check()
    for backend in BACKENDS:
        runs = []
        for threads in (1, 2, 3):
            octsod.set_num_threads(threads)
            arena = Arena(seed, dtype)
            launch(backend, arena)
            assert np.float32(1e-20) * np.float32(1e-20) != 0, "subnormals are still being flushed"
            arena.check()
            runs.append(arena)
        first = runs[0]
        assert first.outputs.keys() == oracle.outputs.keys()
        for name, (expected, view) in oracle.outputs.items():
            got = first.outputs[name][0]
            assert nans or np.isfinite(expected).all(), f"the reference did not write all of {name}"
            for other in runs[1:]:
                assert other.outputs[name][0].tobytes() == got.tobytes(), f"{name} depends on the number of threads"
            limit = tolerance or TOLERANCE[np.dtype(dtype)]
            if view is None:
                assert_close(name, got, expected, limit)
            else:
                ours, theirs = view(got), view(expected)
                for part in theirs:
                    assert_close(f"{name}: {part}", ours[part], theirs[part], limit)
        arena = Arena(seed, dtype, tiny=True)
        launch(backend, arena)
        arena.check_subnormals()


# --- the table --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_backends_export_the_same_table(backend):
    assert sorted(backend.__all__) == sorted(reference.__all__)
    for name in reference.__all__:
        ours, theirs = (inspect.signature(getattr(b, name)).parameters for b in (backend, reference))
        if all(p.kind is not p.VAR_POSITIONAL for p in ours.values()):
            assert [(p.name, p.default) for p in ours.values()] == [(p.name, p.default) for p in theirs.values()], name


def test_the_reference_needs_no_compiler():
    code = "import sys, octsod.kernels.reference; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": ":".join(sys.path)}).returncode == 0


# --- convolutions -----------------------------------------------------------------------------------------------------


def reading(case, out_shape):
    """Sums of the activation are only asked for where there is an output: nothing is read for an empty one."""
    return strategies.Reading(case.x.deferred, case.x.sums and 0 not in out_shape)


@both_dtypes
@given(case=strategies.convolutions())
def test_conv2d(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, reading(case, case.out_shape))
        weight = arena.normal(case.outs, case.shape[1], *case.kernel_size)
        bias = arena.normal(case.outs) if case.bias else None
        out = arena.output("out", case.out_shape)
        moments = arena.moments("moments", case.out_shape) if case.moments else None
        kernels.conv2d(x, weight, bias, out, *case.settings, moments)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.convolutions())
def test_conv2d_backward(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        weight = arena.normal(case.outs, case.shape[1], *case.kernel_size)
        grad = arena.gradient(case.out_shape, case.grad_deferred)
        grad_x = arena.slot("grad_x", case.shape, case.grad_x)
        grad_weight = arena.output("grad_weight", weight.shape) if case.grad_weight else None
        grad_bias = arena.output("grad_bias", (case.outs,)) if case.grad_bias else None
        kernels.conv2d_backward(grad, x, weight, *case.settings, grad_x, grad_weight, grad_bias)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.convolutions(depthwise=True))
def test_depthwise_conv2d(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, reading(case, case.out_shape))
        weight = arena.normal(case.outs, 1, *case.kernel_size)
        out = arena.output("out", case.out_shape)
        moments = arena.moments("moments", case.out_shape) if case.moments else None
        kernels.depthwise_conv2d(x, weight, out, *case.settings, moments)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.convolutions(depthwise=True))
def test_depthwise_conv2d_backward(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        weight = arena.normal(case.outs, 1, *case.kernel_size)
        grad = arena.gradient(case.out_shape, case.grad_deferred)
        grad_x = arena.slot("grad_x", case.shape, case.grad_x)
        grad_weight = arena.output("grad_weight", weight.shape) if case.grad_weight else None
        kernels.depthwise_conv2d_backward(grad, x, weight, *case.settings, grad_x, grad_weight)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.depthwise_chains())
def test_depthwise_chain(dtype, case):
    layers, channels = case.layers, case.shape[1]

    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.deferred, False))
        weight = arena.normal(layers, channels, case.kernel_size, case.kernel_size)
        norm = arena.normal(layers, 3, channels)
        averages = arena.output("averages", (layers, 2, channels), np.float64, arena.rng.random((layers, 2, channels)))
        raw = arena.output("raw", (layers, *case.shape))
        coefficients = arena.output("coefficients", (layers, 4, channels))
        statistics = arena.output("statistics", (layers, 2, channels), np.float64)
        sums = arena.output("sums", (layers, case.shape[0], channels), np.float64)
        # A large eps, since a normalised layer multiplies what differs in the last place by 1/sqrt(eps).
        kernels.depthwise_chain(
            x, weight, norm, averages, raw, coefficients, statistics, sums, case.training, 0.1, 0.5
        )

    verify(dtype, case.seed, launch, tolerance=1e-3 if dtype == "float32" else 1e-11)


@both_dtypes
@given(case=strategies.depthwise_chains())
def test_depthwise_chain_backward(dtype, case):
    layers, channels = case.layers, case.shape[1]

    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.deferred, False))
        weight = arena.normal(layers, channels, case.kernel_size, case.kernel_size)
        norm = arena.array(arena.steps(layers, 3, channels))
        raw = arena.array(arena.steps(layers, *case.shape))
        statistics = arena.array(np.stack([arena.steps(layers, channels), np.ones((layers, channels))], 1), np.float64)
        # Coefficients that rounding cannot move: a variance and eps that make the deviation exactly one.
        scale, mean = norm[:, 0], statistics[:, 0]
        coefficients = arena.array(np.stack([scale, norm[:, 1] - mean * scale, norm[:, 2], mean], 1))
        statistics[:, 1] = 0.75
        arena.inputs = [(a, a.copy()) for a, _ in arena.inputs]
        g = arena.rng.standard_normal(case.shape)
        if case.spent:
            between = array = arena.output("between", case.shape, values=g)
        else:
            array, between = arena.array(g), arena.output("between", case.shape, values=np.zeros(case.shape))
        last = Deferred(raw[-1], coefficients[-1])
        sums = np.zeros((case.shape[0], 3, channels))
        reference.gradient_sums(array, last, sums)
        grad = Slot(array, sums=arena.array(sums, np.float64) if case.sums_given else None, spent=case.spent)
        grad_x = arena.slot("grad_x", case.shape, case.grad_x)
        grad_weight = arena.output("grad_weight", weight.shape)
        grad_norm = arena.output("grad_norm", norm.shape)
        kernels.depthwise_chain_backward(
            grad, x, weight, norm, raw, coefficients, statistics, case.training, 0.25, between, grad_x, grad_weight,
            grad_norm,
        )  # fmt: skip

    verify(dtype, case.seed, launch, tolerance=1e-3 if dtype == "float32" else None)


@both_dtypes
@given(case=strategies.dilated_convolutions())
def test_dilated_conv2d(dtype, case):
    out_shape = (case.shape[0], case.outs, *case.shape[2:])

    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, reading(case, out_shape))
        weight = arena.normal(case.outs, case.shape[1], case.kernel_size, case.kernel_size)
        out = arena.output("out", out_shape)
        moments = arena.moments("moments", out_shape) if case.moments else None
        kernels.dilated_conv2d(x, weight, case.groups, out, moments)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.dilated_convolutions())
def test_dilated_conv2d_backward(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        weight = arena.normal(case.outs, case.shape[1], case.kernel_size, case.kernel_size)
        grad = arena.gradient((case.shape[0], case.outs, *case.shape[2:]), case.grad_deferred)
        grad_x = arena.slot("grad_x", case.shape, case.grad_x)
        grad_weight = arena.output("grad_weight", weight.shape) if case.grad_weight else None
        kernels.dilated_conv2d_backward(grad, x, weight, case.groups, grad_x, grad_weight)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.octaves())
def test_octave_conv2d(dtype, case):
    def launch(kernels, arena):
        inputs = [
            shape and arena.deferred(f"x{i}", shape, strategies.Reading(r.deferred, r.sums and case.batch > 0))
            for i, (shape, r) in enumerate(zip(case.in_shapes, case.xs, strict=True))
        ]
        weight = arena.normal(*case.weight_shape)
        outputs = [shape and arena.output(f"out{j}", shape) for j, shape in enumerate(case.out_shapes)]
        moments = None
        if case.moments:
            moments = [shape and arena.moments(f"moments{j}", shape) for j, shape in enumerate(case.out_shapes)]
        kernels.octave_conv2d(inputs, weight, outputs, case.stride, moments)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.octaves())
def test_octave_conv2d_backward(dtype, case):
    def launch(kernels, arena):
        inputs = [
            shape and arena.deferred(f"x{i}", shape, strategies.Reading(r.deferred, False))
            for i, (shape, r) in enumerate(zip(case.in_shapes, case.xs, strict=True))
        ]
        weight = arena.normal(*case.weight_shape)
        grads = [
            shape and arena.gradient(shape, deferred)
            for shape, deferred in zip(case.out_shapes, case.grads_deferred, strict=True)
        ]
        slots = [
            shape and arena.slot(f"grad_x{i}", shape, target)
            for i, (shape, target) in enumerate(zip(case.in_shapes, case.grad_xs, strict=True))
        ]
        grad_weight = arena.output("grad_weight", weight.shape) if case.grad_weight else None
        kernels.octave_conv2d_backward(grads, inputs, weight, case.stride, slots, grad_weight)

    verify(dtype, case.seed, launch)


@both_dtypes
@pytest.mark.parametrize("accumulate", [False, True])
def test_no_output_no_gradient(dtype, accumulate):
    """A convolution without output channels adds nothing to a gradient, whose sums are still those of the total."""
    target = strategies.Target(accumulate, sums=True)

    def launch(kernels, arena):
        x = arena.deferred("x", (2, 3, 4, 5), strategies.Reading(True, False))
        grad_weight = arena.output("grad_weight", (0, 3, 1, 1))
        grad_x = arena.slot("grad_x", x.shape, target)
        kernels.conv2d_backward(arena.gradient((2, 0, 4, 5), False), x, grad_weight, 1, 0, 1, grad_x, grad_weight)

    verify(dtype, 0, launch)


def test_gradient_of_an_octave_convolution_with_an_unused_output():
    """Whether a branch of the output is multiplied by zero or not used at all, the other's gradients are the same."""
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((1, 2, 4, 6)), rng.standard_normal((5, 2, 1, 1))

    def gradients(loss):
        tensors = [octsod.Tensor(a, requires_grad=True) for a in (x, weight)]
        loss(*f.octave_conv2d(tensors[:1], tensors[1], (2, 3))).backward()
        return [t.grad for t in tensors]

    unused = gradients(lambda fine, coarse: coarse.sum())
    zero = gradients(lambda fine, coarse: coarse.sum() + (fine * 0.0).sum())
    for name, got, expected in zip(("x", "weight"), unused, zero, strict=True):
        assert_close(name, got, expected, 1e-12)


# --- batch norm, PReLU ------------------------------------------------------------------------------------------------


@both_dtypes
@given(case=strategies.maps())
def test_activate(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, reading(case, case.shape))
        kernels.activate(x, arena.output("out", case.shape))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.maps())
def test_differentiate(dtype, case):
    def launch(kernels, arena):
        kernels.differentiate(arena.gradient(case.shape, case.x.deferred), arena.output("out", case.shape))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.maps())
def test_channel_moments(dtype, case):
    def launch(kernels, arena):
        kernels.channel_moments(arena.normal(*case.shape), arena.moments("moments", case.shape))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.maps())
def test_gradient_sums(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        sums = arena.output("sums", (case.shape[0], 3, case.shape[1]), np.float64)
        kernels.gradient_sums(arena.normal(*case.shape), x, sums)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.statistics())
def test_batch_statistics(dtype, case):
    def launch(kernels, arena):
        # Moments of real numbers about any reference, so that the variance is not negative.
        values = arena.rng.standard_normal((case.batch, case.pixels, case.channels))
        about = arena.rng.standard_normal((case.batch, case.channels))
        values -= about[:, None]
        moments = np.stack([about, values.sum(axis=1), (values**2).sum(axis=1)], axis=1)
        mean, variance = (arena.output(name, (case.channels,), np.float64) for name in ("mean", "variance"))
        running = [
            arena.output(name, None, values=arena.rng.uniform(0, 1, case.channels))
            for name in ("running_mean", "running_var")
        ]
        kernels.batch_statistics(arena.array(moments, np.float64), case.pixels, 0.1, mean, variance, *running)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.statistics())
def test_batch_norm_coefficients(dtype, case):
    n = case.channels

    def launch(kernels, arena):
        mean, variance = (arena.array(arena.rng.uniform(0, 2, n), np.float64) for _ in range(2))
        weight, bias, slope = (arena.normal(n) for _ in range(3))
        kernels.batch_norm_coefficients(mean, variance, 1e-5, weight, bias, slope, arena.output("out", (4, n)))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.statistics())
def test_batch_norm_backward(dtype, case):
    n = case.channels

    def launch(kernels, arena):
        sums = arena.array(arena.rng.standard_normal((case.batch, 3, n)), np.float64)
        mean, variance = (arena.array(arena.rng.uniform(0.1, 2, n), np.float64) for _ in range(2))
        vectors = [arena.normal(n) for _ in range(3)]
        out = arena.output("out", (6, n))
        grads = [arena.output(name, (n,)) for name in ("grad_weight", "grad_bias", "grad_slope")]
        count = case.batch * case.pixels
        kernels.batch_norm_backward(sums, count, case.training, mean, variance, 1e-5, *vectors, out, *grads)

    verify(dtype, case.seed, launch)


# --- pooling, resizing ------------------------------------------------------------------------------------------------


@both_dtypes
@given(case=strategies.poolings())
def test_max_pool2d(dtype, case):
    def launch(kernels, arena):
        kernels.max_pool2d(arena.map(case.shape), arena.output("out", case.out_shape), *case.settings)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.poolings())
def test_max_pool2d_backward(dtype, case):
    def launch(kernels, arena):
        grad, x, grad_x = arena.normal(*case.out_shape), arena.map(case.shape), arena.output("grad_x", case.shape)
        kernels.max_pool2d_backward(grad, x, grad_x, *case.settings)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.poolings())
def test_avg_pool2d(dtype, case):
    def launch(kernels, arena):
        kernels.avg_pool2d(arena.normal(*case.shape), arena.output("out", case.out_shape), *case.settings)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.poolings())
def test_avg_pool2d_backward(dtype, case):
    def launch(kernels, arena):
        grad, grad_x = arena.normal(*case.out_shape), arena.output("grad_x", case.shape)
        kernels.avg_pool2d_backward(grad, grad_x, *case.settings)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.resizings())
def test_upsample_bilinear(dtype, case):
    def launch(kernels, arena):
        x = arena.normal(*case.shape)
        kernels.upsample_bilinear(x, arena.output("out", (*case.shape[:2], *case.size)))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.resizings())
def test_upsample_bilinear_backward(dtype, case):
    def launch(kernels, arena):
        grad = arena.normal(*case.shape[:2], *case.size)
        kernels.upsample_bilinear_backward(grad, arena.output("grad_x", case.shape))

    verify(dtype, case.seed, launch)


@pytest.mark.parametrize("kind", ["uint8", "float32"])
@given(case=strategies.resizings())
def test_resize_picture(kind, case):
    channels, height, width = case.shape[1:]

    def launch(kernels, arena):
        values = arena.rng.integers(0, 256, (height, width, channels))
        picture = values.astype(np.uint8) if kind == "uint8" else arena.array(values)
        scale, shift = arena.normal(channels), arena.normal(channels)
        kernels.resize_picture(picture, scale, shift, arena.output("out", (channels, *case.size)))

    verify("float32", case.seed, launch)


# --- elementwise ------------------------------------------------------------------------------------------------------


@both_dtypes
@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide"])
@given(case=strategies.vectors())
def test_arithmetic(dtype, name, case):
    def launch(kernels, arena):
        a = arena.normal(case.size)
        b = arena.array(arena.rng.uniform(0.5, 2, case.size) * arena.rng.choice([-1, 1], case.size))
        getattr(kernels, name)(a, b, arena.output("out", (case.size,)))
        total = arena.output("in place", None, values=a)
        getattr(kernels, name)(total, b, total)

    verify(dtype, case.seed, launch)


@both_dtypes
@pytest.mark.parametrize("exponent", [2.0, 3.0, 0.5, -1.0, 0.0, 1.7])
@given(case=strategies.vectors())
def test_power(dtype, exponent, case):
    def launch(kernels, arena):
        base = arena.rng.uniform(0.2, 3, case.size)
        if exponent % 1 == 0:
            base *= arena.rng.choice([-1, 1], case.size)
        kernels.power(arena.array(base), arena.array([exponent]), arena.output("out", (case.size,)))

    verify(dtype, case.seed, launch)


def logits(arena, size):
    """Of every magnitude: where the exponential underflows, is subnormal, and is of use."""
    return arena.array(arena.rng.standard_normal(size) * arena.rng.choice([1, 30, 1000], size))


@both_dtypes
@given(case=strategies.vectors())
def test_sigmoid(dtype, case):
    def launch(kernels, arena):
        x, grad = logits(arena, case.size), arena.normal(case.size)
        kernels.sigmoid(x, arena.output("out", (case.size,)))
        kernels.sigmoid_backward(grad, x, arena.output("grad_x", (case.size,)))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.vectors(least=1))
def test_binary_cross_entropy_with_logits(dtype, case):
    def launch(kernels, arena):
        x, target = logits(arena, case.size), arena.array(arena.rng.uniform(0, 1, case.size))
        grad, out = arena.array(arena.rng.standard_normal(())), arena.output("out", ())
        kernels.binary_cross_entropy_with_logits(x, target, out)
        grad_x = arena.output("grad_x", (case.size,))
        kernels.binary_cross_entropy_with_logits_backward(grad, x, target, grad_x)

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.sums())
def test_sum_middle(dtype, case):
    def launch(kernels, arena):
        kernels.sum_middle(arena.normal(*case.shape), arena.output("out", (case.shape[0], case.shape[2])))

    verify(dtype, case.seed, launch)


@both_dtypes
@given(case=strategies.vectors())
def test_adam(dtype, case):
    def launch(kernels, arena):
        grad = arena.normal(case.size)
        parameter, first = (arena.output(n, None, values=arena.rng.standard_normal(case.size)) for n in "pm")
        second = arena.output("v", None, values=arena.rng.uniform(0.1, 1, case.size))
        kernels.adam(parameter, grad, first, second, 0.01, 0.9, 0.99, 1e-8, 0.005, 0.3, 0.05)

    verify(dtype, case.seed, launch)


# --- numbers that are hard to get right -------------------------------------------------------------------------------


def statistics_of(kernels, moments, pixels):
    """(mean, variance) of a batch."""
    channels = moments.shape[2]
    mean, variance, *running = (np.zeros(channels) for _ in range(4))
    kernels.batch_statistics(moments, pixels, 0.1, mean, variance, *running)
    return mean, variance


def assert_statistics(kernels, x, moments):
    """moments are those of the array x, small variance beside a large mean and all."""
    mean, variance = statistics_of(kernels, moments, x.shape[2] * x.shape[3])
    exact = x.astype(np.float64)
    np.testing.assert_allclose(mean, exact.mean(axis=(0, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(variance, exact.var(axis=(0, 2, 3)), rtol=1e-3)


@pytest.mark.parametrize("kernels", [*BACKENDS, reference])
@pytest.mark.parametrize("shape", [(2, 3, 150, 200), (3, 5, 7, 9)])
def test_small_variance_beside_a_large_mean(kernels, shape):
    """In float32, mean 1e4 and standard deviation 1e-2: E[x^2] - E[x]^2 would be noise."""
    rng = np.random.default_rng(1)
    small = (0.01 * rng.standard_normal(shape)).astype(np.float32)
    batch, channels, *size = shape
    x = small + np.float32(1e4)
    moments = np.full((batch, 3, channels), np.nan)
    kernels.channel_moments(x, moments)
    assert_statistics(kernels, x, moments)

    # The same from the convolutions, which gather moments while they write.
    coefficients = identity_coefficients(channels, np.float32)
    coefficients[1] = 1e4
    deferred = Deferred(small, coefficients)
    unit = np.eye(channels, dtype=np.float32)[:, :, None, None]
    out = np.empty_like(x)
    kernels.conv2d(deferred, unit, None, out, 1, 0, 1, moments)
    assert_statistics(kernels, out, moments)
    kernels.dilated_conv2d(deferred, unit, [(0, channels, 1)], out, moments)
    assert_statistics(kernels, out, moments)
    kernels.octave_conv2d([deferred], unit, [out], 1, [moments])
    assert_statistics(kernels, out, moments)
    kernels.depthwise_conv2d(deferred, np.ones((channels, 1, 1, 1), np.float32), out, 1, 0, 1, moments)
    assert_statistics(kernels, out, moments)
    middle = np.zeros((channels, 1, 3, 3), np.float32)
    middle[:, :, 1, 1] = 1
    out = np.empty((batch, channels, size[0] - 2, size[1] - 2), np.float32)
    kernels.depthwise_conv2d(deferred, middle, out, 1, 0, 1, moments)
    assert_statistics(kernels, out, moments)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("size", [5, 100_000])
def test_subnormals_are_flushed_in_kernels_only(threads, size):
    """In every thread of the kernel, and no longer than it runs: a loop over subnormals is a hundred times slower."""
    octsod.set_num_threads(threads)
    tiny, out = np.full(size, 1e-20, np.float32), np.full(size, np.nan, np.float32)
    for _ in range(3):
        cpu.multiply(tiny, tiny, out)
        assert not out.any()
        assert (tiny * tiny).all()


def with_nans(arena, array):
    """Some entries of an input are NaN."""
    array[arena.rng.random(array.shape) < 0.03] = np.nan
    arena.inputs = [(a, a.copy()) for a, _ in arena.inputs]
    return array


@both_dtypes
@given(case=strategies.maps())
def test_nan_passes_through_activate(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        with_nans(arena, x.raw)
        out = arena.output("out", case.shape)
        kernels.activate(x, out)
        assert np.array_equal(np.isnan(out), np.isnan(x.raw))

    verify(dtype, case.seed, launch, nans=True)


@both_dtypes
@given(case=strategies.poolings())
def test_nan_passes_through_max_pool2d(dtype, case):
    def launch(kernels, arena):
        x, grad = with_nans(arena, arena.map(case.shape)), arena.normal(*case.out_shape)
        kernels.max_pool2d(x, arena.output("out", case.out_shape), *case.settings)
        kernels.max_pool2d_backward(grad, x, arena.output("grad_x", case.shape), *case.settings)

    verify(dtype, case.seed, launch, nans=True)


@both_dtypes
@given(case=strategies.octaves())
def test_nan_passes_through_octave_conv2d(dtype, case):
    """To the pixels that depend on it, through all resampling, and to no other."""

    def launch(kernels, arena):
        inputs = [
            shape and arena.deferred(f"x{i}", shape, strategies.Reading(r.deferred, False))
            for i, (shape, r) in enumerate(zip(case.in_shapes, case.xs, strict=True))
        ]
        for x in inputs:
            if x is not None and x.raw.size:
                x.raw[tuple(arena.rng.integers(x.shape))] = np.nan
        arena.inputs = [(a, a.copy()) for a, _ in arena.inputs]
        weight = arena.normal(*case.weight_shape)
        outputs = [shape and arena.output(f"out{j}", shape) for j, shape in enumerate(case.out_shapes)]
        kernels.octave_conv2d(inputs, weight, outputs, case.stride)

    verify(dtype, case.seed, launch, nans=True)


@both_dtypes
@given(case=strategies.convolutions(depthwise=True))
def test_nan_passes_through_depthwise_conv2d(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        with_nans(arena, x.raw)
        weight = arena.normal(case.outs, 1, *case.kernel_size)
        kernels.depthwise_conv2d(x, weight, arena.output("out", case.out_shape), *case.settings)

    verify(dtype, case.seed, launch, nans=True)


@both_dtypes
@given(case=strategies.convolutions())
def test_nan_passes_through_conv2d(dtype, case):
    def launch(kernels, arena):
        x = arena.deferred("x", case.shape, strategies.Reading(case.x.deferred, False))
        with_nans(arena, x.raw)
        weight = arena.normal(case.outs, case.shape[1], *case.kernel_size)
        kernels.conv2d(x, weight, None, arena.output("out", case.out_shape), *case.settings)

    verify(dtype, case.seed, launch, nans=True)


# --- the whole network ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("split", [(0.5, 0.5), (0.0, 1.0)])
def test_csnet_is_the_same_on_all_backends(split):
    """Logits, all gradients, running statistics and sums of activations of one training step."""
    rng = np.random.default_rng(2)
    images, target = rng.standard_normal((2, 3, 32, 48)), rng.integers(0, 2, (2, 1, 32, 48)).astype(np.float64)

    def step(backend):
        octsod.manual_seed(3)
        with octsod.use_backend(backend):
            model = octsod.csnet(0.5, split=split, dtype="float64")
            # Away from the initial biases of zero, with which many gradients are zero: a PReLU's output is then
            # proportional to the scale before it, which the next batch norm takes out again.
            noise = np.random.default_rng(4)
            for _, parameter in model.named_parameters():
                parameter.data[...] += 0.1 * noise.standard_normal(parameter.shape)
            logits = model(octsod.Tensor(images))
            f.binary_cross_entropy_with_logits(logits, octsod.Tensor(target)).backward()
            results = {"logits": logits.numpy()}
        results.update({f"gradient of {name}": p.grad for name, p in model.named_parameters()})
        results.update({name: a for name, a in model.state_dict().items() if "running" in name})
        for name, module in model.named_modules():
            if getattr(module, "activation", None) is not None:
                results[f"sums of {name}"] = module.activation.values
        return results

    expected, got = step("reference"), step("cpu")
    assert expected.keys() == got.keys()
    for name, value in expected.items():
        scale = np.abs(value).max()
        assert scale > 0, name
        assert np.abs(got[name] - value).max() <= 1e-9 * scale, name
