"""The library's random numbers: one named generator, seeded by `manual_seed`, whose state can be saved."""

import numpy as np

generator = np.random.default_rng()


def manual_seed(seed: int) -> None:
    """Make all that the library draws from now on (initial weights) reproducible."""
    global generator
    generator = np.random.default_rng(seed)
