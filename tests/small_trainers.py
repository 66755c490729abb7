"""Trainers of a small network, and batches for them."""

import numpy as np
from test_data import Ramp

import octsod
from octsod.data import Loader
from octsod.training import Recipe


def trainer_on(backend, total=9, **recipe):
    octsod.manual_seed(0)
    with octsod.use_backend(backend):
        return Recipe(lr=1e-3, **recipe).trainer(octsod.csnet(0.2, dtype="float64"), total=total)


def batches(count):
    loader = Loader(Ramp(), 2, 32, seed=3)
    return [tuple(a.astype(np.float64) for a in b) for k in range(1 + count // 3) for b in loader.epoch(k)][:count]
