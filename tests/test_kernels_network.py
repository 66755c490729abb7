"""The kernel that runs a whole network against the reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_contract import BACKENDS, both_dtypes, verify
from networks import configurations, lived_in

from octsod.inference import freeze
from octsod.models import Configuration
from octsod.testing import strategies

pytestmark = pytest.mark.usefixtures("poisoned_scratch")


@both_dtypes
@settings(max_examples=min(10, settings().max_examples))  # each is a network
@given(configuration=configurations(), images=st.integers(1, 2), seed=strategies.SEEDS)
def test_csnet(dtype, configuration, images, seed):
    frozen = freeze(lived_in(configuration, seed, dtype))
    size = configuration.multiple, 2 * configuration.multiple

    def launch(kernels, arena):
        x = arena.normal(images, 3, *size)
        kernels.csnet(frozen, x, arena.output("out", (images, 1, *size)))

    # Rounding grows from layer to layer; in networks like these, which nobody has trained, up to a thousandfold.
    verify(dtype, seed, launch, 1e-3 if dtype == "float32" else 1e-10)


@pytest.mark.parametrize("kernels", BACKENDS)
def test_networks_are_told_apart(kernels):
    """What is kept of a network belongs to that network, call after call."""
    rng = np.random.default_rng(1)
    networks = [freeze(lived_in(Configuration.standard(0.2), seed, "float32")) for seed in (1, 2)]
    x = rng.standard_normal((1, 3, 32, 32)).astype(np.float32)
    first, second, again = (np.empty((1, 1, 32, 32), np.float32) for _ in range(3))
    for frozen, out in zip((*networks, networks[0]), (first, second, again), strict=True):
        kernels.csnet(frozen, x, out)
    assert first.tobytes() == again.tobytes() and not np.array_equal(first, second)
