"""Every kernel of every backend against the plain-NumPy reference, on drawn problems.

Beside the numbers, each run checks the promises that octsod/backend/contract.py lists.
"""

import importlib
import os

import numpy as np
import pytest

import octsod
from octsod.backend.deferred import ActivationSums, Deferred, DeferredGradient, GradientTarget
from octsod.testing import strategies

cpu, reference = (importlib.import_module(f"octsod.kernels.{name}") for name in ("cpu", "reference"))
if os.environ.get("OCTSOD_TEST_KERNELS", "cpu") == "cuda":
    import simulated

    BACKENDS = [simulated.kernels]
elif os.environ.get("OCTSOD_TEST_BACKEND") == "cuda":
    import gpu_kernels

    BACKENDS = [gpu_kernels.kernels]
else:
    BACKENDS = [cpu]
TOLERANCE = {np.dtype(np.float32): 1e-4, np.dtype(np.float64): 1e-12}
GUARD = 64  # elements on both sides of every array: as long as the longest vector, or longer
# What makes inputs subnormal, or their products.
TINY = {np.dtype(np.float32): (1e-40, 1e-20), np.dtype(np.float64): (1e-310, 1e-160)}

# Kernels that only backends of hosts have, or only those of devices.
hosts_only = pytest.mark.skipif(cpu not in BACKENDS, reason="the backend that is tested is no host's")
devices_only = pytest.mark.skipif(cpu in BACKENDS, reason="the backend that is tested is the processor's")
both_dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


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
        return GradientTarget(array, target.accumulate, sums)

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
        self.values = self.arena.output(self.name, (images, channels), np.float64)
        return self.values


def assert_close(name, got, expected, tolerance):
    """Equal up to `tolerance` of the largest entry expected (or of one, the size of the problems' inputs)."""
    assert got.shape == expected.shape
    nans = np.isnan(expected)
    assert np.array_equal(np.isnan(got), nans), f"{name}: NaN at other places, {np.argwhere(np.isnan(got) ^ nans)[:5]}"
    # Equal infinities are no error.
    with np.errstate(invalid="ignore"):
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
        for threads in (1, 2, 3) if backend is cpu else (1,):
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
        if backend is cpu:
            arena = Arena(seed, dtype, tiny=True)
            launch(backend, arena)
            arena.check_subnormals()


def reading(case, out_shape):
    """Sums of the activation are only asked for where there is an output: nothing is read for an empty one."""
    return strategies.Reading(case.x.deferred, case.x.sums and 0 not in out_shape)
