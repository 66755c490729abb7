"""What is recorded of a network in training: the distribution of its scales, and how even its outputs are."""

import numpy as np
import pytest
from test_data import Ramp

import octsod
from octsod import nn
from octsod.data import Loader
from octsod.optim import decayed_norms
from octsod.prune import scales as distributions
from octsod.training import Recipe


def bin_of(size):
    """The bin that holds a size, found by its edges."""
    edges = distributions.bin_edges()
    return int(np.flatnonzero((edges[:-1] <= size) & (size < edges[1:]))[0])


def test_every_scale_is_counted_once():
    model = octsod.csnet(0.2)
    norms = decayed_norms(model)
    total = sum(norm.weight.size for norm in norms)
    counts = distributions.gammas(model)
    assert len(counts) == len(distributions.bin_edges()) - 1 and counts[bin_of(1)] == sum(counts) == total
    norms[0].weight.data[:2] = 0, -2e-20
    norms[-1].weight.data[:2] = 1e-42, 1e9  # beyond the bins at either end
    model.fusion.merge.norms[0].weight.data[...] = 1e-5  # decays like all else: not counted
    counts = distributions.gammas(model)
    assert (counts[0], counts[bin_of(2e-20)], counts[-1], counts[bin_of(1)]) == (2, 1, 1, total - 4)
    assert sum(counts) == total


def test_shares():
    model = nn.ILBlock((3,), (4,), dtype="float64")
    sizes = np.array([1e-3, 0.999e-3, 1e-10, 0.999e-10, 1e-20, 0, 1, 1, 1, 1, 1, 1])
    for norm, part in zip(decayed_norms(model), sizes.reshape(3, 4), strict=True):
        norm.weight.data = part.copy()
    counts = distributions.gammas(model)
    for power in (-3, -10, -20):
        assert distributions.share_below(counts, power) == (sizes < 10.0**power).sum() / 12


def test_spreads_are_those_of_the_outputs():
    """Layer by layer, from the layers' own outputs: the deviation among channels of means over pixels (equation 4)."""
    octsod.manual_seed(1)
    rng = np.random.default_rng(0)
    block = nn.ILBlock((3,), (4, 0, 3), dtype="float64")
    for norm in decayed_norms(block):
        for parameter in (norm.weight, norm.bias):
            parameter.data[...] = rng.normal(1, 0.5, parameter.shape)
    assert distributions.spreads(block) == {}  # it has not run
    x = [octsod.Tensor(rng.standard_normal((2, 3, 16, 16)))]
    outputs = block(x)
    for y in outputs:
        if y is not None:
            y.numpy()
    found, expected, maps = distributions.spreads(block), {}, x
    for name, layer in (("mix", block.mix), ("depthwise.0", block.depthwise[0]), ("depthwise.1", block.depthwise[1])):
        maps = [None if y is None else octsod.Tensor(y.numpy()) for y in layer(maps)]
        for branch in (0, 2):
            means = maps[branch].numpy().mean(axis=(2, 3))
            expected[f"{name}.norms.{branch}"] = means.std(axis=1).mean()
    assert found == pytest.approx(expected, rel=1e-3)
    assert found.keys() == expected.keys() and min(found.values()) > 0.01


def test_spreads_of_a_training_step():
    """Every norm of an ILBlock has one, under its own name, and no other has."""
    octsod.manual_seed(0)
    trainer = Recipe().trainer(octsod.csnet(0.2))
    trainer.step(*next(Loader(Ramp(), 2, 32).epoch(0)))
    found = distributions.spreads(trainer.model)
    modules = dict(trainer.model.named_modules())
    assert {id(modules[name]) for name in found} == {id(norm) for norm in decayed_norms(trainer.model)}
    name = "extractor.stages.2.1.depthwise.1.norms.1"
    sums = modules[name].activation
    assert found[name] == pytest.approx((sums.values / sums.pixels).std(axis=1).mean(), rel=1e-3)


def test_a_model_without_blocks_has_nothing_to_record():
    model = nn.Conv2d(1, 1)
    assert sum(distributions.gammas(model)) == 0 and distributions.spreads(model) == {}
