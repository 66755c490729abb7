"""Shapes, arrays and parameters for tests of the public ops, and the check of their gradients."""

import os

import deferred_ops
import numpy as np
from hypothesis import settings
from hypothesis import strategies as st

from octsod.backend import default_device, device_of
from octsod.testing import gradcheck

SEEDS = st.integers(0, 2**32 - 1)
SIDES = st.sampled_from([1, 2, 3, 4, 5, 7, 8, 9, 13, 17])
CHANNELS = st.sampled_from([1, 2, 3, 5, 0])
BATCHES = st.sampled_from([1, 2, 3])


def examples(count):
    """So many of them, or as many as OCTSOD_TEST_EXAMPLES says if that is less: for backends that are slow."""
    return settings(deadline=None, max_examples=min(count, int(os.environ.get("OCTSOD_TEST_EXAMPLES", count))))


def normals(seed, *shapes):
    """Normal arrays of these shapes, None for None."""
    generator = np.random.default_rng(seed)
    return [None if shape is None else np.asarray(generator.normal(size=shape)) for shape in shapes]


def scales(generator, channels):
    """Scales or slopes: large, small, negative and zero ones."""
    return generator.permutation(np.resize([0.7, -0.6, 0.0, 1.9, -1.3, 0.25], max(channels, 6)))[:channels]


def norm_parameters(seed, channels):
    """gamma, beta, slope. beta is never 0, where a gamma of 0 would put a whole map on the kink of PReLU."""
    generator = np.random.default_rng(seed)
    beta = generator.uniform(0.2, 1, channels) * generator.choice([-1, 1], channels)
    return scales(generator, channels), beta, scales(generator, channels)


def check(fn, *inputs):
    """gradcheck, where a None input stays None, and most of it must be conclusive."""
    report = gradcheck(fn, *inputs)
    assert report.verdict in ("PASS", "KINK"), report
    assert len(report.kinks) <= (report.entries + report.directions) / 2, report
    return report


MAPS = st.tuples(BATCHES, CHANNELS, SIDES, SIDES)


def chain(x, *parameters, statistics=None, **more):
    layers = [parameters[k : k + 4] for k in range(0, len(parameters), 4)]
    channels = x.shape[1]
    if statistics is None:
        statistics = [(put(np.zeros(channels)), put(np.ones(channels))) for _ in layers]
    return deferred_ops.depthwise_chain(x, layers, statistics, **more)


def put(array):
    """A NumPy array on the device that the test runs on: on a host, that very array."""
    return default_device().put(array)


def get(array):
    """The other way; None for None."""
    return None if array is None else device_of(array).get(array)


NONE = (None, None)
