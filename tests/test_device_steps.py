"""A few steps of training, on whichever device OCTSOD_TEST_BACKEND names, against the reference."""

import numpy as np
import pytest

import octsod
from octsod.training import Recipe, Saliency

RECIPES = {
    "the paper's": (Recipe(lr=1e-2), Saliency()),
    "another": (
        Recipe(lr=1e-2, optimizer="sgd", decay="standard", clip=0.5, average=0.9), Saliency("bce+iou"),
    ),
}  # fmt: skip


def trained(recipe, task, batches):
    """(losses, state) of a small network after a step per batch."""
    octsod.manual_seed(0)
    trainer = recipe.trainer(octsod.csnet(0.2, dtype="float64"), task, total=10)
    for batch in batches:
        trainer.step(*batch)
    state = trainer.state_dict()
    return [step.loss for step in trainer.collect()], state


@pytest.mark.parametrize("name", RECIPES)
def test_two_steps(name):
    rng = np.random.default_rng(1)
    batches = [(rng.standard_normal((2, 3, 32, 32)), (rng.random((2, 1, 32, 32)) > 0.5).astype(float)) for _ in "ab"]
    losses, state = trained(*RECIPES[name], batches)
    with octsod.use_backend("reference"):
        expected, others = trained(*RECIPES[name], batches)
    assert np.allclose(losses[-1], expected[-1], rtol=1e-9)
    for key, array in others.items():
        error = np.abs(state[key].astype(float) - array).max(initial=0)
        assert error <= 1e-8 * max(np.abs(array).max(initial=0), 1e-3), key
