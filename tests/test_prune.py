"""Pruning: what is removed, that nothing else changes, and `octsod prune`."""

import json

import numpy as np
import pytest
from commands import refused, run
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_data import write_pairs

import octsod
from octsod import nn, prune, training
from octsod.models import Configuration, CSNet
from octsod.prune import channels

SEEDS = st.integers(0, 2**32 - 1)


# Of all kinds that can be pruned, but for those that tell classes apart.
NETWORKS = (
    {}, {"fused": (4,)}, {"fused": (3, 4), "sides": True}, {"fused": (2, 4)}, {"fused": (1, 2, 3, 4), "sides": True},
    {"variant": "extractor", "fused": (4,)}, {"variant": "extractor", "sides": True},
)  # fmt: skip
CLASSIFIERS = ({"classes": 5, "fused": (2, 4)}, {"classes": 5, "variant": "extractor", "fused": (4,)})


def random_configuration(rng, variant="csnet", fused=(2, 3, 4), **kind):
    """One or two blocks in each of the first stages, one in the others, which reach far; few channels, some branches,
    dilations and scales without any."""
    count = lambda: int(rng.integers(2, 6))  # noqa: E731
    stages = []
    for stage in range(5):
        number = rng.integers(1, 3) if stage < 3 else 1
        blocks = [(count(), count()) if rng.random() < 0.7 else (count(), 0) for _ in range(number)]
        stages.append((*blocks[:-1], (count() + 1,)) if stage in fused else blocks)
    if variant == "extractor":
        return Configuration(stages, variant=variant, fused=fused, **kind)
    fuse = [count() if stage in (fused[0], 4) or rng.random() < 0.7 else 0 for stage in range(fused[0], 5)]
    dilated = [[int(n) for n in rng.integers(0, 4, 5)] if ins else [0] * 5 for ins in fuse]
    dilated[0][0] += 2
    return Configuration(stages, fuse, dilated, count(), fused=fused, **kind)


def random_model(configuration, rng, dtype="float64"):
    """A network in eval mode, each channel with |gamma| over 0.1, with biases and slopes, and statistics that fit."""
    model = CSNet(configuration, dtype)
    for name, array in model.state_dict().items():
        if ".norms." in name and name.endswith(".weight"):
            array[...] = rng.uniform(0.2, 1.5, array.shape) * rng.choice([-1, 1], array.shape)
        elif not name.endswith(("running_mean", "running_var")):
            array[...] = rng.normal(0, 0.5, array.shape)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.NormAct, "momentum", 1.0)  # one pass gives the running statistics
        model.train()(octsod.Tensor(rng.standard_normal((2, 3, 48, 48)).astype(dtype)))
    return model.eval()


def answers(model, x):
    """What the network makes of x in eval mode: its logits, and those of its side outputs, in their own sizes."""
    with octsod.no_grad():
        maps = [y for y in model.extractor(octsod.Tensor(x)) if y is not None]
        sides = [side(y) for side, y in zip(model.sides, maps, strict=bool(model.sides))]
        return [y.numpy() for y in (model(octsod.Tensor(x)), *sides)]


def chains(model):
    """Per layer that makes channels, per branch, the norms that a channel goes through."""
    modules, found = dict(model.named_modules()), {}
    for name, module in modules.items():
        if isinstance(module, (nn.OctaveLayer, nn.DilatedLayer)):
            block = modules[name.removesuffix(".mix")]
            parts = (module, *block.depthwise) if isinstance(block, nn.ILBlock) else (module,)
            found[name] = [tuple(part.norms[i] for part in parts) for i in range(len(module.norms))]
    return found


FUSION = ("fusion.fuse", "fusion.dilated", "fusion.merge")


def zero_gammas(model, rng, share):
    """Set a random norm's gamma to zero in `share` of the channels; each layer keeps one alive, of the fusion's finest
    scale, so that a path leads through. Returns how many."""
    zeroed = 0
    for name, layer in chains(model).items():
        places = [(i, c) for i, chain in enumerate(layer) if chain[0] is not None for c in range(chain[0].weight.size)]
        alive = rng.integers(layer[0][0].weight.size) if name in FUSION else rng.integers(len(places))
        for i, c in np.delete(places, alive, axis=0):
            if rng.random() < share:
                layer[i][rng.integers(len(layer[i]))].weight.data[c] = 0
                zeroed += 1
    return zeroed


def channels_in(configuration):
    c = configuration
    blocks = sum(n for stage in c.stages for block in stage for n in block)
    return blocks + sum(c.fuse) + sum(map(sum, c.dilated)) + c.merge


# --- exactness --------------------------------------------------------------------------------------------------------


def radius(configuration):
    """How far from a pixel of the logits what it depends on can lie, in pixels of the input: an upper bound.

    Per layer, its taps' reach at its coarsest branch, and where scales are mixed, the next pixel that interpolation
    takes. At last, the logits are interpolated.
    """
    total = 2
    for layer in configuration.layers():
        coarsest = max(branch for side in (layer.inputs, layer.outputs) for branch, n in enumerate(side) if n)
        reach = 16 if layer.kind == "dilated" else layer.kernel_size // 2
        total += (reach + (layer.kind == "octave")) << (layer.scale + coarsest)
    return total


def interior_difference(model, pruned):
    """The greatest difference of logits where no border can be felt, and how far these spread there."""
    reach = radius(model.configuration)
    side = -(-(2 * reach + 16) // 16) * 16
    x = np.random.default_rng(1).standard_normal((1, 3, side, side))
    differences, spread = [], 0
    for before, after in zip(answers(model, x), answers(pruned, x), strict=True):
        border = -(-reach * before.shape[-1] // side)
        before, after = (y[..., border:-border, border:-border] for y in (before, after))
        differences.append(np.abs(after - before).max())
        spread = spread or np.ptp(before)
    return max(differences), spread


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, share=st.sampled_from([0.3, 0.7, 0.9]), kind=st.sampled_from(NETWORKS))
def test_channels_of_gamma_zero_change_nothing_but_near_borders(seed, share, kind):
    rng = np.random.default_rng(seed)
    model = random_model(random_configuration(rng, **kind), rng)
    zeroed = zero_gammas(model, rng, share)
    pruned = prune.apply(model, prune.plan(model, threshold=prune.THRESHOLD))
    assert channels_in(pruned.configuration) <= channels_in(model.configuration) - zeroed
    difference, spread = interior_difference(model, pruned)
    assume(spread > 1e-4)  # what is left of the network has a say
    assert difference < 1e-10


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS, ratio=st.sampled_from([0.2, 0.5, 0.8]), kind=st.sampled_from(NETWORKS))
def test_what_is_left_is_the_network_whose_least_gammas_are_zero(seed, ratio, kind):
    """Whatever these gammas were. Where all that a dilated branch reads is gone, it is constant without."""
    rng = np.random.default_rng(seed)
    model = random_model(random_configuration(rng, **kind), rng)
    plan = prune.plan(model, ratio=ratio)
    pruned = prune.apply(model, plan)
    for name, layer in chains(model).items():
        for branch, (chain, mask) in enumerate(zip(layer, plan.kept[name], strict=True)):
            if mask.size and not (name == "fusion.dilated" and not plan.kept["fusion.fuse"][branch].any()):
                least = np.argmin([np.abs(norm.weight.data) for norm in chain], axis=0)
                for c in np.flatnonzero(~mask):
                    chain[least[c]].weight.data[c] = 0
    assert interior_difference(model, pruned)[0] < 1e-10


READERS = (
    "extractor.stages.1.0.mix.norms.0.running_mean", "extractor.stages.1.0.mix.norms.1.running_mean",
    "extractor.stages.2.0.mix.norms.0.running_mean", "fusion.fuse.norms.0.running_mean",
    "fusion.dilated.norms.0.running_mean", "fusion.merge.norms.0.running_mean", "classifier.bias", "sides.0.bias",
)  # fmt: skip


def test_each_readers_share_of_the_constants_counts(monkeypatch):
    """The test of the test: a reader that is not told of the constants shows in the interior."""
    rng = np.random.default_rng(0)
    stages = [[(4, 4)], [(4, 4)], [(5,)], [(5,)], [(5,)]]
    model = random_model(Configuration(stages, (3, 3, 3), [[2] * 5] * 3, 4, sides=True), rng)
    zero_gammas(model, rng, 0.5)
    plan, folded = prune.plan(model, threshold=prune.THRESHOLD), channels.folded
    assert interior_difference(model, prune.apply(model, plan))[0] < 1e-10
    assert set(READERS) <= folded(model, plan).keys()
    for reader in READERS:
        monkeypatch.setattr(channels, "folded", lambda *a, r=reader: {n: v for n, v in folded(*a).items() if n != r})
        assert interior_difference(model, prune.apply(model, plan))[0] > 1e-5, reader


@settings(deadline=None, max_examples=20)
@given(seed=SEEDS, ratio=st.floats(0.1, 0.95), kind=st.sampled_from(NETWORKS + CLASSIFIERS))
def test_linked_channels(seed, ratio, kind):
    """Without constants, so with nothing to fold and nothing that borders do, all of the output stays as it is."""
    rng = np.random.default_rng(seed)
    model = random_model(random_configuration(rng, **kind), rng)
    plan = prune.plan(model, ratio=ratio)
    assert plan.kept.keys() == chains(model).keys()
    for name, layer in chains(model).items():
        for chain, mask in zip(layer, plan.kept[name], strict=True):
            if mask.size:
                chain[-1].weight.data[~mask] = chain[-1].bias.data[~mask] = 0
    before = {name: array.copy() for name, array in model.state_dict().items()}
    pruned = prune.apply(model, plan)
    x = rng.standard_normal((2, 3, 32, 48))
    for expected, actual in zip(answers(model, x), answers(pruned, x), strict=True):
        assert np.abs(actual - expected).max() <= 1e-11 * np.abs(expected).max()
    assert all((array == before[name]).all() for name, array in model.state_dict().items())
    assert pruned.configuration == plan.configuration and pruned.dtype == model.dtype and not pruned.training
    assert prune.apply(model.train(), plan).training


@pytest.mark.parametrize("kind", CLASSIFIERS)
def test_constants_reach_classes(kind):
    """The average of a constant is that constant: of channels that are constant to the border, nothing is lost."""
    rng = np.random.default_rng(8)
    model = random_model(random_configuration(rng, **kind), rng)
    model.labels = tuple("abcde")
    *_, last = chains(model).values()
    last[-1][-1].weight.data[1:] = 0
    plan = prune.plan(model, threshold=prune.THRESHOLD)
    pruned, x = prune.apply(model, plan), rng.standard_normal((2, 3, 32, 48))
    assert pruned.classifier.weight.shape == (5, 1) and pruned.labels == model.labels
    (before,), (after,) = answers(model, x), answers(pruned, x)
    assert before.shape == (2, 5) and np.abs(after - before).max() < 1e-12 < np.ptp(before, axis=0).min()
    alike = prune.change(model, plan, x)
    assert alike.gammas == (0, 0) and alike.borders[1] < 1e-12
    moved = prune.change(model, prune.plan(model, ratio=0.5), x)
    assert 0 < moved.gammas[0] < moved.gammas[1] < 1 and 0 < moved.borders[1] < 1


def test_change_tells_gammas_from_borders():
    rng = np.random.default_rng(2)
    model = random_model(random_configuration(rng), rng)
    x = rng.standard_normal((1, 3, 48, 48))
    assert zero_gammas(model, rng, 0.4)
    dead = prune.change(model, prune.plan(model, threshold=prune.THRESHOLD), x)
    assert dead.gammas == (0, 0) and 0 < dead.borders[0] < dead.borders[1]
    state = {name: array.copy() for name, array in model.state_dict().items()}
    alive = prune.change(model.train(), prune.plan(model, ratio=0.6), x)
    assert 0 < alive.gammas[0] < alive.gammas[1] <= 1
    assert model.training and all((array == state[name]).all() for name, array in model.state_dict().items())
    for name, layer in chains(model).items():  # without constants, borders are like the interior
        for chain in layer:
            for norm in chain:
                if norm is not None:
                    norm.bias.data[...] = 0
            if name not in FUSION and chain[0] is not None:
                chain[-1].weight.data[np.min([np.abs(norm.weight.data) for norm in chain], axis=0) == 0] = 0
    assert prune.change(model, prune.plan(model, threshold=prune.THRESHOLD), x).borders[1] < 1e-12


def test_float32_is_kept():
    rng = np.random.default_rng(3)
    model = random_model(random_configuration(rng), rng, "float32")
    zero_gammas(model, rng, 0.5)
    pruned = prune.apply(model, prune.plan(model, threshold=prune.THRESHOLD))
    assert {array.dtype for array in pruned.state_dict().values()} == {np.dtype("float32")}


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("criterion", prune.CRITERIA)
@pytest.mark.parametrize("kind", NETWORKS + CLASSIFIERS)
def test_a_plan_fits_its_network(kind, criterion):
    """All of its names and no others, and what is left is a network with as many numbers as are counted."""
    rng = np.random.default_rng(7)
    model = random_model(random_configuration(rng, **kind), rng)
    plan = prune.plan(model, criterion, ratio=0.5)
    state, pruned = model.state_dict(), CSNet(plan.configuration, model.dtype)
    sliced = {name: plan.slice(name, array) for name, array in state.items()}
    assert {name: array.shape for name, array in pruned.state_dict().items()} == {
        name: array.shape for name, array in sliced.items() if array.size
    }
    deployed = sum(parameter.size for parameter in pruned.deployed().parameters())
    cost = octsod.complexity(plan.configuration)
    assert cost == octsod.complexity(pruned) and cost.parameters == deployed
    assert channels_in(plan.configuration) <= channels_in(model.configuration) - round(0.5 * flat(plan).size)
    same = {field: getattr(model.configuration, field) for field in ("variant", "fused", "classes", "sides")}
    assert same == {field: getattr(plan.configuration, field) for field in same}
    everything = {name: tuple(mask | True for mask in masks) for name, masks in plan.kept.items()}
    assert prune.Plan(model.configuration, everything).configuration == model.configuration


def test_a_scale_that_is_left_out_stays_out():
    model = random_model(Configuration.standard(0.4, fused=(2, 4)), np.random.default_rng(9))
    assert model.configuration.fuse[1] == 0
    plan = prune.plan(model, ratio=0.3)
    assert [[mask.size for mask in plan.kept[name]][1] for name in FUSION[:2]] == [0, 0]
    c = prune.apply(model, plan).configuration
    assert c.fusion_inputs[1] == c.fuse[1] == sum(c.dilated[1]) == 0 and c.fused == (2, 4)
    with pytest.raises(ValueError, match=r"`name` is 'fusion.fuse.norms.1.weight'"):
        plan.slice("fusion.fuse.norms.1.weight", np.zeros(0))


def test_networks_that_cannot_be_pruned():
    for model, words in (
        (octsod.csnet(0.2, variant="vanilla"), "`model` is a CSNet of variant 'vanilla'; expected a CSNet whose"),
        (nn.Conv2d(1, 1), "`model` is a network of the architecture 'Conv2d'; expected a CSNet whose"),
    ):
        assert not prune.prunable(model)
        for op, arguments in ((prune.plan, ()), (prune.apply, (None,)), (prune.change, (None, None))):
            with pytest.raises(ValueError, match=f"{op.__name__}: {words}"):
                op(model, *arguments)


@settings(deadline=None, max_examples=10)
@given(seed=SEEDS)
def test_slices_of_adams_moments_fit(seed):
    rng = np.random.default_rng(seed)
    trainer = training.Recipe().trainer(random_model(random_configuration(rng), rng), total=1)
    plan = prune.plan(trainer.model, ratio=0.5)
    pruned = prune.apply(trainer.model, plan)
    own, sliced = trainer.state_dict(), {"steps": np.array(1), "decay.finetuning": np.array(False)}
    for name, array in pruned.state_dict().items():
        sliced[f"model.{name}"] = array
        if f"first.{name}" in own:
            own[f"first.{name}"][...] = trainer.model.state_dict()[name]
            for part in ("first", "second"):
                sliced[f"{part}.{name}"] = plan.slice(name, own[f"{part}.{name}"])
            if name != "classifier.bias":  # which is folded into
                assert (sliced[f"first.{name}"] == array).all()
    after = training.Recipe().trainer(pruned, total=2)
    after.load_state_dict(sliced)
    after.step(rng.standard_normal((2, 3, 32, 32)), np.ones((2, 1, 32, 32)))


def least_gammas(model):
    """Of each channel, in the order of the layers."""
    return np.concatenate([
        np.min([np.abs(norm.weight.data) for norm in chain], axis=0)
        for layer in chains(model).values() for chain in layer if chain[0] is not None
    ])  # fmt: skip


def flat(plan):
    return np.concatenate([mask for masks in plan.kept.values() for mask in masks])


def best_of_layers(model):
    """A mask of the channels that have the largest least gamma of their layer."""
    masks = []
    for layer in chains(model).values():
        values = [np.min([np.abs(n.weight.data) for n in chain], axis=0) for chain in layer if chain[0] is not None]
        masks.append(np.concatenate(values) == max(v.max() for v in values))
    return np.concatenate(masks)


def wide_model(seed=0):
    return random_model(Configuration.standard(0.6), np.random.default_rng(seed))


def test_a_threshold_in_a_gap():
    """As the paper's figure 5: any threshold between the small and the large gammas removes the same channels."""
    rng = np.random.default_rng(4)
    model = wide_model()
    for layer in chains(model).values():
        for chain in layer:
            chain[0].weight.data[1::2] *= 1e-8 * rng.choice([-1, 1], chain[0].weight.data[1::2].shape)
    found = [prune.plan(model, threshold=t) for t in (1e-7, 1e-4, 1e-2)]
    small = least_gammas(model) < 1e-4
    assert 0 < small.sum() < small.size
    assert all((flat(plan) == ~small | best_of_layers(model)).all() for plan in found)
    gamma = np.sort(least_gammas(model))[10]
    at, above = (prune.plan(model, threshold=t) for t in (gamma, np.nextafter(gamma, 1)))
    assert (~flat(at)).sum() + 1 == (~flat(above)).sum()  # less than the threshold goes


def test_a_ratio_ranks_over_the_whole_network():
    model = wide_model()
    model.extractor.stages[3][2].mix.norms[1].weight.data *= 1e-3  # a whole branch
    plan = prune.plan(model, ratio=0.3)
    gone, gammas = ~flat(plan), least_gammas(model)
    assert gone.sum() == round(0.3 * gone.size)
    assert gammas[gone].max() < gammas[~gone & ~best_of_layers(model)].min()
    assert plan.configuration.stages[3][2][1] == 0


@pytest.mark.parametrize("criterion", prune.CRITERIA)
def test_macs_are_at_most_the_target(criterion):
    model = wide_model()
    full = octsod.complexity(model).macs
    before, last = full, None
    for target in (full, 0.8 * full, 0.5 * full):
        plan = prune.plan(model, criterion, macs=target)
        macs = octsod.complexity(prune.apply(model, plan)).macs
        assert macs <= min(target, before) and macs > 0.95 * target
        assert last is None or not (flat(plan) & ~last).any()  # who is gone stays gone
        before, last = macs, flat(plan)
    assert flat(prune.plan(model, criterion, macs=full)).all()


def test_every_layer_keeps_its_best():
    """And what is left is a network: the fusion's first convolution and its dilated ones keep the same scale."""
    model = wide_model()
    model.fusion.dilated.norms[1].weight.data[0] = 9  # the best, but of a scale
    model.fusion.fuse.norms[1].weight.data[...] = 0  # that leads nowhere
    model.fusion.fuse.norms[2].weight.data[1], model.fusion.dilated.norms[2].weight.data[2] = 3, 2
    plan = prune.plan(model, threshold=1e9)
    kept = {name: np.concatenate(masks).sum() for name, masks in plan.kept.items()}
    assert set(kept.values()) == {1}
    first, dilated = ([mask.any() for mask in plan.kept[f"fusion.{name}"]] for name in ("fuse", "dilated"))
    assert first == dilated == [False, False, True]
    assert plan.kept["fusion.fuse"][2][1] and plan.kept["fusion.dilated"][2][2]
    x = np.zeros((1, 3, 32, 32))
    assert np.isfinite(answers(prune.apply(model, plan), x)).all()


def test_a_scale_of_the_fusion_goes_as_a_whole():
    """Where its first convolution's channels go, or its dilated ones."""
    for part in ("fuse", "dilated"):
        model = wide_model()
        getattr(model.fusion, part).norms[1].weight.data[...] = 0
        plan = prune.plan(model, threshold=prune.THRESHOLD)
        assert plan.configuration.fuse[1] == sum(plan.configuration.dilated[1]) == 0
        assert plan.configuration.fuse[0] == model.configuration.fuse[0]


def first_to_go(model, criterion):
    """The layer and channel (its branches one after the other) that is removed first."""
    channels = channels_in(model.configuration)
    plan = prune.plan(model, criterion, ratio=1.01 / channels)
    (place,) = [(name, int(c)) for name, masks in plan.kept.items() for c in np.flatnonzero(~np.concatenate(masks))]
    return place


def test_filters_of_small_norm_go_first():
    model = wide_model()
    layer = model.extractor.stages[3][1].mix
    layer.weight.data *= 1e6  # batch norm hides it
    layer.weight.data[7] *= 1e-3
    assert first_to_go(model, "l1") == ("extractor.stages.3.1.mix", 7)
    weights = model.fusion.dilated.weights[2]
    weights[1].data[0] *= 1e-9
    first = weights[0].shape[0]
    before = sum(model.configuration.dilated[0]) + sum(model.configuration.dilated[1])
    assert first_to_go(model, "l1") == ("fusion.dilated", before + first)


def test_the_filter_in_the_middle_of_the_others_goes_first():
    """However large it is: the others can stand in for it."""
    model = wide_model()
    weight = model.extractor.stages[2][1].mix.weight.data
    weight[...] = np.random.default_rng(5).uniform(-1, 1, weight.shape) + 100
    weight[4] = np.delete(weight, 4, axis=0).mean(axis=0)
    model.extractor.stages[2][1].mix.weight.data[...] = weight
    assert first_to_go(model, "geometric-median") == ("extractor.stages.2.1.mix", 4)


def test_bad_arguments():
    model = wide_model()
    bad = [
        ({}, "given 0 times"), ({"ratio": 0.5, "macs": 1e6}, "given 2 times"),
        ({"criterion": "l2", "ratio": 0.5}, "'l2'"),
        ({"threshold": 0}, "positive"), ({"threshold": float("nan")}, "positive"), ({"ratio": 1}, "between 0 and 1"),
        ({"ratio": 0.0}, "between"), ({"macs": 1000}, "`macs` is 1,000; expected at least "),
    ]  # fmt: skip
    for arguments, message in bad:
        with pytest.raises(ValueError, match=message):
            prune.plan(model, **arguments)
    plan = prune.plan(model, ratio=0.5)
    with pytest.raises(ValueError, match="another configuration"):
        prune.apply(octsod.csnet(0.5), plan)
    with pytest.raises(ValueError, match="`name` is 'fc"):
        plan.slice("fc.weight", np.zeros(3))
    with pytest.raises(ValueError, match=r"`fusion.merge.weight` has shape \(3, 2\)"):
        plan.slice("fusion.merge.weight", np.zeros((3, 2)))
    model.classifier.weight.data[...] = np.inf
    model.fusion.merge.norms[0].weight.data[0] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        prune.plan(model, ratio=0.5)


# --- octsod prune -----------------------------------------------------------------------------------------------------


@pytest.fixture
def weights(tmp_path):
    """A weight file where half of stage 1's first channels are dead."""
    model = random_model(Configuration.standard(0.3), np.random.default_rng(6), "float32")
    model.extractor.stages[1][0].depthwise[1].norms[0].weight.data[1:] = 0
    octsod.save(model, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def test_prune(weights, tmp_path):
    out = tmp_path / "small.safetensors"
    result = run("prune", weights, "-o", out, "--size", 32)
    assert result.exit_code == 0, result.output
    before, after = octsod.load(weights), octsod.load(out)
    assert after.configuration.stages[1][0] == (1, 3) and before.configuration.stages[1][0] == (3, 3)
    rows = {line.split("  ")[0]: line.split() for line in result.stdout.splitlines() if line}
    assert rows["stage1.0"][1:] == ["3", "+", "3", "1", "+", "3"]
    costs = [octsod.complexity(m, (32, 32)) for m in (before, after)]
    assert rows["parameters"][1:3] == [f"{cost.parameters:,}" for cost in costs]
    assert rows["MACs"][1:3] == [f"{cost.macs:,}" for cost in costs]
    assert rows["zero gammas"][2:] == ["0.0e+00"] * 2 and float(rows["borders"][-1]) > 0


def test_it_is_said_if_nothing_is_removed(tmp_path):
    """And what would remove something."""
    file, out = tmp_path / "w.safetensors", tmp_path / "small.safetensors"
    model = random_model(Configuration.standard(0.3), np.random.default_rng(6), "float32")
    octsod.save(model, file)
    count = sum(mask.size for masks in prune.plan(model, threshold=1e-20).kept.values() for mask in masks)
    would = f"--ratio 0.1 would remove {round(0.1 * count)} of {count} channels.\n"
    small = ("prune", file, "-o", out, "--size", 32, "--overwrite")
    done = run(*small)
    assert done.exit_code == 0 and octsod.load(out).configuration == model.configuration
    assert done.stderr == f"Nothing was removed: no channel that may go scores below 1e-20; {would}"
    assert run(*small, "--json").stderr == "" and run(*small, "--ratio", 0.5).stderr == ""
    assert f"1e-09 of {count} channels is less than one; {would}" in run(*small, "--ratio", 1e-9).stderr
    assert f"no more than 1,000,000,000 MACs at 224x224 as it is; {would}" in run(*small, "--macs", 1e9).stderr
    model.extractor.stages[1][0].depthwise[1].norms[0].weight.data[1:] = 1e-3
    octsod.save(model, file)
    assert f"; --threshold 0.01 would remove 2, {would}" in run(*small).stderr
    tiny = tmp_path / "tiny.safetensors"
    assert run(*small[:3], tiny, "--size", 32, "--ratio", 0.999).exit_code == 0
    assert "since each layer keeps its best one" in run("prune", tiny, "-o", out, "--size", 32, "--overwrite").stderr


def test_prune_a_run_with_scores(weights, tmp_path):
    folder = tmp_path / "run"
    (folder / "weights").mkdir(parents=True)
    weights.rename(folder / "weights" / "last.safetensors")
    data = write_pairs(tmp_path / "set", stems="abc")
    out = tmp_path / "small.safetensors"
    options = ("--size", 32, "--data", data, "--ratio", 0.4, "--criterion", "l1", "--json")
    result = run("prune", folder, "-o", out, *options)
    assert result.exit_code == 0, result.output
    facts = json.loads(result.stdout)
    assert (facts["criterion"], facts["ratio"], facts["size"]) == ("l1", 0.4, 32) and "threshold" not in facts
    expected = octsod.evaluate(octsod.load(out), data, 32)
    after = facts["after"]
    assert (after["max_f"], after["mae"]) == (expected.max_f, expected.mae)
    assert Configuration(**after["configuration"]) == octsod.load(out).configuration
    assert after["parameters"] < facts["before"]["parameters"] and len(facts["change"]["borders"]) == 2


def test_prune_other_networks(tmp_path):
    """An extractor; one that tells classes of pictures apart; a vanilla one, which is refused."""
    file, out = tmp_path / "w.safetensors", tmp_path / "small.safetensors"
    kinds = (NETWORKS[5], "stage4.0", "salience"), (CLASSIFIERS[0], "fusion.merge", "probabilities")
    for kind, last, answer in kinds:
        rng = np.random.default_rng(1)
        octsod.save(random_model(random_configuration(rng, **kind), rng), file)
        result = run("prune", file, "-o", out, "--size", 32, "--ratio", 0.5, "--overwrite")
        assert result.exit_code == 0, result.output
        rows = [line.split("  ")[0] for line in result.stdout.splitlines()]
        assert rows[rows.index("") - 1] == last and f"{answer} move" in result.stdout
        assert channels_in(octsod.load(out).configuration) < channels_in(octsod.load(file).configuration)
    assert "w.safetensors: tells classes of pictures apart; --data scores" in refused(
        "prune", file, "-o", out, "--data", tmp_path, "--overwrite"
    )
    octsod.save(octsod.csnet(0.2, variant="vanilla"), file)
    assert "w.safetensors: plan: `model` is a CSNet of variant 'vanilla'" in refused(
        "prune", file, "-o", out, "--overwrite"
    )


def test_prune_bad_input(weights, tmp_path):
    out = tmp_path / "small.safetensors"
    assert "--threshold and --macs exclude each other" in refused(
        "prune", weights, "-o", out, "--threshold", 1, "--macs", 1
    )
    assert "--criterion l1 needs" in refused("prune", weights, "-o", out, "--criterion", "l1")
    assert "'--ratio'" in refused("prune", weights, "-o", out, "--ratio", 1)
    assert "`macs` is 10" in refused("prune", weights, "-o", out, "--macs", 10)
    assert "is no run folder" in refused("prune", tmp_path, "-o", out)
    assert "not a multiple of 16" in refused("prune", weights, "-o", out, "--size", 40)
    assert not out.exists()
    out.write_bytes(b"mine")
    assert "--overwrite replaces it" in refused("prune", weights, "-o", out)
    assert out.read_bytes() == b"mine"
    assert run("prune", weights, "-o", out, "--size", 32, "--overwrite").exit_code == 0
    assert octsod.load(out)
