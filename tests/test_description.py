"""The description of a network, `Configuration.layers`: it says what the modules are, and how they are connected."""

import collections
import dataclasses
import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import configurations, learned

import octsod
from octsod import nn
from octsod.models import Configuration, CSNet
from octsod.models.configuration import IMAGE
from octsod.prune.counts import parameter_count

KINDS = {
    nn.OctaveLayer: "octave", nn.DepthwiseLayer: "depthwise", nn.DilatedLayer: "dilated", nn.Conv2d: "conv",
    nn.Linear: "linear",
}  # fmt: skip

# With side outputs, or of networks that tell classes apart.
DESCRIBED = (
    configurations()
    | configurations(sides=st.just(True))
    | configurations(classes=st.sampled_from([1, 5]))
)  # fmt: skip


def shape(module):
    """Channels in and out per branch, kernel size and stride, as the module itself has them."""
    if isinstance(module, nn.OctaveLayer):
        return module.in_channels, module.out_channels, module.kernel_size, module.stride
    if isinstance(module, nn.DepthwiseLayer):
        return module.channels, module.channels, 3, 1
    if isinstance(module, nn.DilatedLayer):
        return module.in_channels, tuple(map(sum, module.channels)), 3, 1
    outs, ins = module.weight.shape[:2]
    return (ins,), (outs,), 1, 1


@settings(max_examples=30)
@given(configuration=DESCRIBED)
def test_layers_are_the_modules(configuration):
    model = CSNet(configuration)
    layers = dict(model.layers())
    assert list(layers) == list(configuration.layers())
    for layer, module in layers.items():
        assert KINDS[type(module)] == layer.kind, layer.name
        assert shape(module) == (layer.inputs, layer.outputs, layer.kernel_size, layer.stride), layer.name
        assert layer.dilations == getattr(module, "channels", ()) or layer.kind == "depthwise", layer.name
        assert parameter_count(layer) == sum(p.size for p in module.parameters()), layer.name
        assert layer.weights == sum(p.size for n, p in module.named_parameters() if n.startswith("weight")), layer.name
        if layer.kind == "octave":
            assert layer.single == (module.weight_scale != 1), layer.name
    owners = collections.Counter(id(p) for module in layers.values() for p in module.parameters())
    assert owners == {id(p): 1 for p in model.parameters()}


@settings(max_examples=30)
@given(configuration=DESCRIBED)
def test_layers_read_what_others_make(configuration):
    made = {(IMAGE, 0): (3, 0)}  # channels, and how often the size has been halved
    unread = set()
    for layer in configuration.layers():
        for i, (read, channels) in enumerate(zip(layer.reads, layer.inputs, strict=True)):
            assert (read is None) == (channels == 0), layer.name
            if read:
                assert made[read] == (channels, layer.scale + i - (layer.stride == 2)), (layer.name, read)
                unread.discard(read)
        outputs = {(layer.name, j): (n, layer.scale + j) for j, n in enumerate(layer.outputs) if n}
        assert outputs and not outputs.keys() & made.keys()
        made.update(outputs)
        unread |= outputs.keys()
    ends = {(layer.name, 0) for layer in configuration.layers() if layer.training_only} | {("classifier", 0)}
    # Pruning may leave a scale of the fusion with inputs alone; all else is of use.
    assert {read for read in unread - ends if not read[0].startswith("fusion")} == set()
    assert ends <= unread


@settings(max_examples=30)
@given(configuration=DESCRIBED)
def test_a_configuration_survives_json(configuration):
    assert Configuration.from_json(configuration.to_json()) == configuration
    assert configuration.deployed() == Configuration(**{**json.loads(configuration.to_json()), "sides": False})


PUBLISHED = [
    ({}, 210_985, 610_638_784),
    ({"fused": (4,)}, 188_521, 455_523_600),
    ({"fused": (3, 4)}, 203_133, 510_962_592),
    ({"fused": (1, 2, 3, 4)}, 214_335, 807_091_936),
    ({"variant": "extractor", "split": (1, 0)}, 179_501, 803_672_912),
    ({"variant": "extractor", "split": (3, 1)}, 179_501, 635_018_832),
    ({"variant": "extractor", "split": (5, 5)}, 179_501, 448_207_312),
    ({"variant": "extractor", "split": (1, 3)}, 179_501, 304_202_192),
    ({"variant": "extractor", "split": (0, 1)}, 179_501, 203_003_472),
    ({"variant": "vanilla", "split": (5, 5)}, 1_456_781, 3_309_015_472),
]


@pytest.mark.parametrize(("arguments", "parameters", "macs"), PUBLISHED, ids=str)
def test_published_counts(arguments, parameters, macs):
    model = octsod.csnet(1.0, **arguments)
    cost = octsod.complexity(model)
    assert (cost.parameters, cost.macs) == (parameters, macs)
    assert sum(p.size for p in model.parameters()) == parameters


def test_what_exists_in_training_only_is_not_counted():
    assert octsod.complexity(octsod.csnet(1.0, sides=True)) == octsod.complexity(octsod.csnet(1.0))


@pytest.mark.parametrize(("change", "words"), [
    ({"variant": "unet"}, "`variant` is 'unet'; expected 'csnet' or 'extractor' or 'vanilla'"),
    ({"variant": ["csnet"]}, r"`variant` is \['csnet'\]"),
    ({"fused": (2, 3)}, "`fused` is .* with 4 the last"),
    ({"fused": (3, 2, 4)}, "ascending stages"),
    ({"fused": (2, 2, 4)}, "ascending stages"),
    ({"fused": (0, 4)}, "stages from 1 to 4"),
    ({"fused": (2, 3, 4, 5)}, "stages from 1 to 4"),
    ({"fused": ()}, "`fused` is"),
    ({"fused": 4}, "`fused` has 4; expected lists"),
    ({"fused": (True, 4)}, "`fused` is"),
    ({"fused": (1, 2, 3, 4)}, r"`stages\[1\]\[-1\]` has 2 branches"),
    ({"fused": (3, 4)}, "`fuse` is .* 2 counts, one per scale"),
    ({"variant": "extractor"}, "expected nothing: variant 'extractor' has no fusion"),
    ({"variant": "vanilla", "fuse": (), "dilated": ()}, "expected nothing: variant 'vanilla'"),
    ({"sides": 1}, "`sides` is 1"),
    ({"sides": True, "classes": 3}, "`sides` is true of a classifier"),
    ({"classes": -1}, "`classes` is -1"), ({"classes": 10_001}, "`classes` is 10001"),
    ({"merge": 4097}, "contain 4097"),
])  # fmt: skip
def test_a_configuration_refuses_nonsense(change, words):
    values = vars(learned(np.random.default_rng(0)))
    with pytest.raises(ValueError, match=f"Configuration: {words}" if words.startswith("`") else words):
        Configuration(**{**values, **change})


@pytest.mark.parametrize(("arguments", "words"), [
    ({"variant": "x"}, "csnet: `variant` is 'x'"), ({"fused": (1, 2)}, "csnet: `fused` is"),
    ({"variant": "extractor", "fused": (2, 3)}, "csnet: `fused` is"),
])  # fmt: skip
def test_csnet_refuses_nonsense(arguments, words):
    with pytest.raises(ValueError, match=words):
        octsod.csnet(0.2, **arguments)


@pytest.mark.parametrize(
    ("stages", "multiple"),
    [
        ((((4,),), ((4,),), ((4,),), ((1, 1, 1, 1),), ((4,),)), 64),
        ((((4,),), ((4,),), ((4,),), ((2, 2, 2),), ((4,),)), 32),
        ((((4,),), ((4,),), ((4,),), ((2, 2),), ((4,),)), 16),
    ],
)
def test_the_multiple_is_that_of_the_layer_with_most_branches(stages, multiple):
    """Also where a layer reads more branches than it makes."""
    configuration = Configuration(stages, variant="extractor", fused=(4,))
    model = CSNet(configuration)
    assert configuration.multiple == multiple
    assert model.size == configuration.usual_size == {16: 224, 32: 224, 64: 256}[multiple]
    x = octsod.Tensor(np.zeros((1, 3, multiple, multiple), np.float32))
    assert tuple(model(x).shape) == (1, 1, multiple, multiple)
    assert octsod.complexity(model) == octsod.complexity(model, (model.size, model.size))
    with pytest.raises(ValueError, match="multiples of"):
        octsod.complexity(model, (multiple // 2 * 3, multiple))


@pytest.mark.parametrize(
    "values",
    [
        {"stages": None}, {"stages": [1.0] * 5}, {"fuse": None}, {"fuse": {}}, {"dilated": ""}, {"dilated": [3, 3, 3]},
        {"fused": 4}, {"fused": None},
    ],
)  # fmt: skip
def test_what_is_no_list_is_refused_by_name(values):
    (name,) = values
    for variant in ("csnet", "extractor"):
        standard = Configuration.standard(0.2, variant=variant)
        with pytest.raises(ValueError, match=f"Configuration: `{name}` "):
            dataclasses.replace(standard, **values)
    for wrong in ({"width": np.inf}, {"width": True}, {"split": (1, np.inf)}, {"split": "ab"}, {"split": None},
                  {"fused": 4}, {"variant": ["csnet"]}):  # fmt: skip
        with pytest.raises(ValueError, match=rf"csnet: `{next(iter(wrong))}` (is|has) "):
            octsod.csnet(**wrong)


def test_layers_are_taken_over_only_where_they_are_the_same():
    def made(**values):
        return CSNet(dataclasses.replace(Configuration.standard(0.2), **values))

    ours, theirs = made(dilated=((1, 0, 0, 0, 0),) * 3), made(dilated=((0, 0, 0, 0, 1),) * 3)
    assert "fusion.dilated" in ours.take_over(theirs)
    stages = Configuration.standard(0.2).stages
    first = [made(stages=(((block),), *stages[1:])) for block in ((4,), (4, 0), (0, 4))]
    for a, b in itertools.permutations(first, 2):
        assert "extractor.stages.0.0.mix" in a.take_over(b)
