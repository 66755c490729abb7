"""Exported networks: other engines give octsod's logits; what the file says; bad input."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from commands import refused, run

import octsod
from octsod import nn
from octsod.data.images import prepare
from octsod.models import Configuration, CSNet

onnx = pytest.importorskip("onnx", reason="needs the onnx package")

SIZE = (32, 64)

# Learned networks: any number of channels, missing branches in blocks, scales and dilations.
LEARNED = Configuration(
    stages=(((3, 2),), ((2, 3), (3, 2)), ((4, 3), (6,)), ((0, 4), (5, 3), (7,)), ((3, 0), (2, 5), (6,))),
    fuse=(0, 4, 5),
    dilated=((0, 0, 0, 0, 0), (2, 0, 1, 0, 3), (1, 1, 1, 1, 1)),
    merge=7,
)
COARSE_AT_LAST = Configuration(
    stages=(((4,),), ((4, 3, 2), (0, 3, 2)), ((3, 0, 2), (5,)), ((4, 2), (6,)), ((6,),)),
    fuse=(3, 2, 4),
    dilated=((0, 0, 0, 0, 0), (0, 0, 0, 0, 0), (0, 2, 0, 0, 1)),
    merge=2,
)


def short(split, *kind, **more):
    """A standard network with one or two blocks per stage: in the whole one, float32 differs from itself by 1e-4."""
    standard = Configuration.standard(0.4, split, *kind, **more)
    return dataclasses.replace(standard, stages=tuple(stage[-2:] for stage in standard.stages))


CONFIGURATIONS = {
    **{f"split {split}": short(split) for split in [(1, 1), (1, 0), (0, 1), (3, 1), (1, 1, 1)]},
    "learned": LEARNED,
    "coarse at last": COARSE_AT_LAST,
    **{variant: short((1, 1), variant) for variant in ("extractor", "vanilla")},
    **{f"fused {fused}": short((1, 1), fused=fused) for fused in [(4,), (2, 4), (1, 2, 3, 4)]},
}


@pytest.fixture(params=CONFIGURATIONS)
def model(request, monkeypatch):
    """A network with drawn norms, whose running statistics are those of a batch: its numbers stay finite."""
    rng = np.random.default_rng(0)
    octsod.manual_seed(0)
    model = CSNet(CONFIGURATIONS[request.param])
    for module in model.modules():
        if isinstance(module, nn.NormAct):
            module.weight.data[...] = rng.uniform(0.5, 1.5, module.weight.shape)
            module.bias.data[...] = rng.normal(0, 0.3, module.bias.shape)
            module.slope.data[...] = rng.uniform(-0.2, 1.2, module.slope.shape)
    monkeypatch.setattr(nn.NormAct, "momentum", 1.0)
    with octsod.no_grad():
        model(pictures(4))
    return model.eval()


def pictures(count, seed=0):
    return octsod.Tensor(np.random.default_rng(seed).standard_normal((count, 3, *SIZE)).astype(np.float32))


def exported(model, tmp_path):
    octsod.export_onnx(model, tmp_path / "model.onnx", SIZE)
    proto = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(proto, full_check=True)
    return proto


def assert_same(model, x, logits, salience):
    with octsod.no_grad():
        expected = model(x).numpy()
    assert logits.dtype == np.float32 and logits.shape == expected.shape
    assert np.abs(logits - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(salience - 1 / (1 + np.exp(-logits.astype(np.float64)))).max() < 1e-6


def test_onnx_runtime_gives_our_logits(model, tmp_path):
    runtime = pytest.importorskip("onnxruntime", reason="needs the onnxruntime package")
    session = runtime.InferenceSession(exported(model, tmp_path).SerializeToString())
    for count in (1, 3):
        x = pictures(count, seed=count)
        assert_same(model, x, *session.run(["logits", "salience"], {"image": x.numpy()}))


def test_the_reference_evaluator_gives_our_logits(model, tmp_path):
    from onnx.reference import ReferenceEvaluator

    x = pictures(1, seed=1)
    assert_same(model, x, *ReferenceEvaluator(exported(model, tmp_path)).run(None, {"image": x.numpy()}))


def test_what_the_file_says(tmp_path):
    network = CSNet(LEARNED)
    proto = exported(network, tmp_path)
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert (proto.producer_name, proto.producer_version) == ("octsod", octsod.__version__)
    assert Configuration.from_json(facts["configuration"]) == LEARNED
    shapes = [
        (value.name, [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim])
        for value in (*proto.graph.input, *proto.graph.output)
    ]
    assert shapes == [("image", ["N", 3, *SIZE]), ("logits", ["N", 1, *SIZE]), ("salience", ["N", 1, *SIZE])]
    # Whoever normalises as the file says gives the network what `prepare` does.
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    mean, std = (np.array(json.loads(facts[name])) for name in ("mean", "std"))
    expected = ((picture / 255 - mean) / std).transpose(2, 0, 1)
    assert np.abs(prepare(picture, 32) - expected).max() < 1e-5
    assert facts["mean"] in proto.doc_string and facts["std"] in proto.doc_string


def test_side_outputs_are_left_out(tmp_path):
    octsod.manual_seed(0)
    network = CSNet(dataclasses.replace(LEARNED, sides=True)).eval()
    assert exported(network, tmp_path).graph == exported(network.deployed(), tmp_path).graph


def test_weights_that_dynamic_decay_has_driven_out_are_zero(tmp_path):
    """Numbers that are subnormal in float32 would make many engines slow; float64 networks have numbers below that."""
    network = CSNet(LEARNED, "float64")
    norm = network.extractor.stages[2][0].mix.norms[0]
    norm.weight.data[...] = [1e-40, 1e-300, 1e-20, 1]
    constants = [onnx.numpy_helper.to_array(constant) for constant in exported(network, tmp_path).graph.initializer]
    assert all(constant.dtype == np.float32 for constant in constants)
    values = np.abs(np.concatenate([constant.reshape(-1) for constant in constants]))
    assert not ((values > 0) & (values < np.finfo(np.float32).tiny)).any()
    assert ((values > 0) & (values < 1e-19)).any()  # others stay


def test_bad_input(tmp_path, monkeypatch):
    network, path = CSNet(LEARNED), tmp_path / "model.onnx"
    for size in ((30, 32), (0, 32), (32, -32), 32, (1, 32, 32)):
        with pytest.raises(ValueError, match="export_onnx: `size` is"):
            octsod.export_onnx(network, path, size)
    with pytest.raises(TypeError, match="export_onnx: `size` is"):
        octsod.export_onnx(network, path, (32.0, 32))
    for other, words in (
        (octsod.csnet(0.2, classes=7), "tells 7 classes of pictures apart"),
        (nn.Conv2d(3, 1), "is of the architecture 'Conv2d'"),
    ):
        with pytest.raises(ValueError, match=f"export_onnx: `model` {words}; expected a CSNet that finds"):
            octsod.export_onnx(other, path)
    monkeypatch.setitem(sys.modules, "onnx", None)  # importing it raises ImportError
    with pytest.raises(octsod.errors.OctsodError, match=r"pip install onnx"):
        octsod.export_onnx(network, path)
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path, monkeypatch):
    weights, path = tmp_path / "w.safetensors", tmp_path / "model.onnx"
    network = CSNet(LEARNED)
    network.size = 64
    octsod.save(network, weights)
    result = run("export", "--weights", weights, "-o", tmp_path / "own.onnx")
    assert result.exit_code == 0 and "for 64x64" in result.stderr
    arguments = ("export", "--weights", weights, "-o", path, "--size", 48)
    result = run(*arguments)
    assert result.exit_code == 0 and result.stdout == "" and "for 48x48" in result.stderr
    assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[3].dim_value == 48
    before = path.read_bytes()
    assert "--overwrite" in refused(*arguments)
    assert run(*arguments, "--overwrite").exit_code == 0 and path.read_bytes() == before
    assert "multiple of 16" in refused(*arguments[:-1], 40, "--overwrite")
    assert "no such folder" in refused(*arguments[:3], "-o", tmp_path / "none" / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert "pip install onnx" in refused(*arguments, "--overwrite")
