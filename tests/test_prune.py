"""Pruning: what is removed, that nothing else changes, and `octsod prune`."""

import json

import numpy as np
import pytest
from commands import refused, run
from hypothesis import given, settings
from hypothesis import strategies as st
from test_data import write_pairs

import octsod
from octsod import nn, optim, prune
from octsod.complexity import complexity
from octsod.inference import freeze, logits
from octsod.models import Configuration, CSNet
from octsod.tensor import Tensor

SEEDS = st.integers(0, 2**32 - 1)


def random_configuration(rng):
    """One or two blocks per stage, few channels, some branches, dilations and scales without any."""
    count = lambda: int(rng.integers(2, 6))  # noqa: E731
    stages = []
    for stage in range(5):
        blocks = [(count(), count()) if rng.random() < 0.7 else (count(), 0) for _ in range(rng.integers(1, 3))]
        stages.append((*blocks[:-1], (count() + 1,)) if stage >= 2 else blocks)
    fuse = [count(), count() if rng.random() < 0.7 else 0, count()]
    dilated = [[int(n) for n in rng.integers(0, 4, 5)] if ins else [0] * 5 for ins in fuse]
    dilated[0][0] += 2
    return Configuration(stages, fuse, dilated, count())


def random_model(configuration, rng, dtype="float64"):
    """A network in eval mode with random numbers everywhere, each channel with |gamma| over 0.1."""
    model = CSNet(configuration, dtype).eval()
    for name, array in model.state_dict().items():
        if name.endswith("running_var"):
            array[...] = rng.uniform(0.5, 2, array.shape)
        elif ".norms." in name and name.endswith(".weight"):
            array[...] = rng.uniform(0.2, 1.5, array.shape) * rng.choice([-1, 1], array.shape)
        elif array.ndim == 1:
            array[...] = rng.normal(0, 0.5, array.shape)
        elif ".mix" not in name and "fuse" not in name and "merge" not in name and "classifier" not in name:
            array[...] = rng.normal(0, 0.3 / nn.WEIGHT_SCALE, array.shape)  # what the factor makes 0.3
        else:
            array[...] = rng.normal(0, 0.3, array.shape)
    return model


def chains(model):
    """Per layer, per branch, the norms that a channel goes through."""
    blocks = [block for stage in model.extractor.stages for block in stage]
    layers = [[(b.mix.norms[i], *(d.norms[i] for d in b.depthwise)) for i in range(len(b.mix.norms))] for b in blocks]
    fusion = model.fusion
    return layers + [[(norm,) for norm in part.norms] for part in (fusion.fuse, fusion.dilated, fusion.merge)]


def zero_gammas(model, rng, share):
    """Set a random norm's gamma to zero in `share` of the channels, though not in all of a layer; returns how many."""
    zeroed = 0
    for layer in chains(model):
        places = [(i, c) for i, chain in enumerate(layer) if chain[0] is not None for c in range(chain[0].weight.size)]
        rng.shuffle(places)
        for i, c in places[1:]:
            if rng.random() < share:
                layer[i][rng.integers(len(layer[i]))].weight.data[c] = 0
                zeroed += 1
    return zeroed


def copies(model):
    return {name: array.copy() for name, array in model.state_dict().items()}


def channels_in(configuration):
    c = configuration
    blocks = sum(n for stage in c.stages for block in stage for n in block)
    return blocks + sum(c.fuse) + sum(map(sum, c.dilated)) + c.merge


# --- exactness --------------------------------------------------------------------------------------------------------


def radius(configuration):
    """How far from a pixel of the logits what it depends on can lie, in pixels of the input: an upper bound.

    Per block, the taps' reach at its coarsest branch and the next pixel that interpolation takes; the fusion's dilations
    reach 16 pixels at its coarsest scale, and interpolation takes the next pixel thrice.
    """
    total, strides = 0, (1, 1, 2, 4, 8)
    for s, (stage, stride) in enumerate(zip(configuration.stages, strides, strict=True)):
        for b, block in enumerate(stage):
            coarsest = stride << (sum(block[1:]) > 0)
            total += coarsest * ((b == 0 and s != 1) + 2 + 1)
    return total + 8 * (16 + 2) + 2


def interior_difference(model, pruned, rng):
    """The greatest difference of logits where no border can be felt, over their size."""
    reach = radius(model.configuration)
    side = -(-(2 * reach + 8) // 16) * 16
    x = rng.standard_normal((1, 3, side, side))
    expected = logits(freeze(model), x)
    inside = np.s_[..., reach:-reach, reach:-reach]
    difference = np.abs(logits(freeze(pruned), x) - expected)
    assert difference[inside].size > 0
    return difference[inside].max() / np.abs(expected).max(), difference.max()


@settings(deadline=None, max_examples=12)
@given(seed=SEEDS, share=st.sampled_from([0.3, 0.7, 1.0]))
def test_channels_of_gamma_zero_change_nothing_but_near_borders(seed, share):
    rng = np.random.default_rng(seed)
    model = random_model(random_configuration(rng), rng)
    zeroed = zero_gammas(model, rng, share)
    before = copies(model)
    plan = prune.plan(model, threshold=prune.THRESHOLD)
    pruned = prune.apply(model, plan)
    assert channels_in(pruned.configuration) <= channels_in(model.configuration) - min(zeroed, 1)
    inside, _ = interior_difference(model, pruned, rng); print('REACH', radius(model.configuration), inside)
    assert inside < 1e-10
    assert all((array == before[name]).all() for name, array in model.state_dict().items())
