"""The commands as people call them: what they print and write, their exit codes, and bad input."""

import json
import os
import subprocess
import sys

import fake_cupy
import numpy as np
import pytest
from commands import ROOT, octsod_process, refused, run
from PIL import Image
from test_data import write_pairs

import octsod
from octsod.cli import options
from octsod.cli.info import _table
from octsod.models import Configuration, CSNet, files
from octsod.models.configuration import VARIANTS
from octsod.training import settings

# --- the group --------------------------------------------------------------------------------------------------------


def test_help_and_version():
    result = run("--help")
    assert result.exit_code == 0
    for command in ("train", "eval", "predict", "info", "prune", "plot", "sweep", "convert", "export", "warmup",
                    "doctor", "check"):  # fmt: skip
        assert f"  {command} " in result.stdout
        assert run(command, "--help").stdout.startswith(f"Usage: octsod {command} ")
    assert run("--version").stdout == f"octsod, version {octsod.__version__}\n"


def test_help_loads_nothing_heavy():
    code = (
        "import sys\nfrom octsod.cli import main\nmain(['--help'], standalone_mode=False)\n"
        "print([m for m in ('numpy', 'numba', 'PIL', 'rich', 'safetensors', 'matplotlib') if m in sys.modules])"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_nearest_match():
    assert "Did you mean 'predict'?" in refused("predcit")
    assert "No such command 'xyz'" in refused("xyz")
    for command, typed, meant in (("info", "--splitt", "--split"), ("predict", "--overlya", "--overlay")):
        line = refused(command, typed)
        assert f"No such option '{typed}'." in line and "Did you mean" in line and f"'{meant}'" in line
    assert run("--bogus").exit_code == 2


def test_as_a_module():
    process = octsod_process("info", "--json", "--width", "0.2")
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0 and err == "" and json.loads(out)["width"] == 0.2


def test_the_variants_of_the_options_are_those_of_the_models():
    assert tuple(VARIANTS) == settings.VARIANTS


def test_the_threshold_in_help_is_that_of_pruning():
    assert f"{octsod.prune.THRESHOLD:g}" == options.THRESHOLD
    for command in ("train", "sweep", "prune", "plot"):
        assert options.THRESHOLD in run(command, "--help").stdout


# --- info -------------------------------------------------------------------------------------------------------------

PUBLISHED = [
    (["--width", "1"], 210_985, 610_638_784),
    (["--width", "1.2"], 298_633, 816_335_296),
    (["--width", "1.5"], 455_631, 1_166_970_672),
    (["--width", "1.8"], 645_565, 1_576_261_792),
    (["--width", "2"], 788_631, 1_870_958_768),
    (["--split", "1,0"], 210_985, 918_476_384),
    (["--split", "3,1"], 210_985, 780_457_104),
    (["--split", "1,3"], 210_985, 467_162_864),
    (["--split", "0,1"], 210_985, 350_029_344),
    (["--fused", "3,4"], 203_133, 510_962_592),
    (["--variant", "extractor", "--split", "5,5"], 179_501, 448_207_312),
    (["--variant", "vanilla"], 1_456_781, 3_309_015_472),
]

LEARNED_X1 = Configuration(
    stages=(
        ((8, 10),),
        ((9, 10), (10, 10), (10, 10)),
        ((19, 13), (19, 17), (20, 12), (34,)),
        ((24, 21), (26, 27), (22, 18), (19, 18), (23, 18), (38,)),
        ((18, 29), (25, 24), (26, 20), (50,)),
    ),
    fuse=(12, 24, 24),
    dilated=((1, 2, 2, 2, 4), (1, 4, 4, 4, 5), (2, 2, 4, 5, 4)),
    merge=60,
)
LEARNED_X2 = Configuration(
    stages=(
        ((13, 10),),
        ((13, 12), (18, 11), (18, 12)),
        ((28, 21), (34, 22), (31, 29), (51,)),
        ((23, 26), (27, 26), (25, 20), (17, 21), (19, 25), (38,)),
        ((18, 31), (31, 27), (26, 44), (64,)),
    ),
    fuse=(17, 38, 32),
    dilated=((2, 1, 2, 2, 1), (0, 6, 6, 7, 5), (0, 1, 3, 7, 7)),
    merge=79,
)


@pytest.mark.parametrize(("options", "parameters", "macs"), PUBLISHED, ids=str)
def test_published_counts(options, parameters, macs):
    result = run("info", *options, "--json")
    facts = json.loads(result.stdout)
    assert (facts["parameters"], facts["macs"], facts["size"]) == (parameters, macs, 224)
    assert sum(facts["split"]) == 1 and result.stderr == ""


@pytest.mark.parametrize(
    ("configuration", "parameters", "macs"), [(LEARNED_X1, 93_647, 435_412_824), (LEARNED_X2, 140_894, 716_713_200)]
)
def test_published_counts_of_learned_models(tmp_path, configuration, parameters, macs):
    octsod.save(CSNet(configuration), tmp_path / "w.safetensors")
    facts = json.loads(run("info", "--weights", tmp_path / "w.safetensors", "--json").stdout)
    assert (facts["parameters"], facts["macs"]) == (parameters, macs)


def test_info_table():
    lines = run("info", "--split", "3,1", "--size", "64").stdout.splitlines()
    assert lines[1].split() == ["extractor.stages.0.0", "64", "15", "+", "5", "1,080"]
    assert lines[-3].split() == ["classifier", "32", "1", "66"]
    assert sum(int(line.split()[-1].replace(",", "")) for line in lines[1:-2]) == 210_985
    assert lines[-1].startswith("210,985 parameters, ") and lines[-1].endswith(" MACs at 64x64")


def test_info_of_a_variant():
    facts = json.loads(run("info", "--width", "0.2", "--variant", "vanilla", "--fused", "3,4", "--json").stdout)
    assert (facts["variant"], facts["fused"]) == ("vanilla", [3, 4])
    assert json.loads(run("info", "--width", "0.2", "--variant", "extractor", "--json").stdout)["fused"] == [4]
    lines = run("info", "--width", "0.2", "--variant", "extractor").stdout.splitlines()
    assert lines[-3].split()[:2] == ["classifier", "28"]  # an eighth of 224
    assert not any("fusion" in line for line in lines)


def test_info_marks_what_exists_in_training_only():
    with_sides = list(_table(Configuration.standard(sides=True), 64))
    sides = [line for line in with_sides if line.endswith("  in training only")]
    assert [line.split()[:5] for line in sides] == [
        ["sides.0", "32", "1", "41", "in"], ["sides.1", "16", "1", "81", "in"], ["sides.2", "8", "1", "81", "in"],
    ]  # fmt: skip
    assert [line for line in with_sides if line not in sides] == list(_table(Configuration.standard(), 64))


def test_info_of_a_classifier(tmp_path):
    network = octsod.csnet(0.2, classes=7)
    octsod.save(network, tmp_path / "w.safetensors")
    lines = run("info", "--weights", tmp_path / "w.safetensors").stdout.splitlines()
    assert lines[-3].split()[:3] == ["classifier", "28", "7"]
    assert lines[-1] == "{:,} parameters, {:,} MACs at 224x224".format(*vars(octsod.complexity(network)).values())


def test_info_of_weights_is_at_their_size(weights):
    assert run("info", "--weights", weights).stdout.endswith(" MACs at 32x32\n")
    assert json.loads(run("info", "--weights", weights, "--json").stdout)["size"] == 32
    assert json.loads(run("info", "--weights", weights, "--size", 64, "--json").stdout)["size"] == 64


def test_info_bad_input(tmp_path, weights):
    assert "multiple of 16" in refused("info", "--size", "100")
    for width in ("0", "nan", "1e9", "x"):
        assert "--width" in refused("info", "--width", width)
    for split in ("a,b", "1,2,3,4", "0,0", "-1,2", "nan,1", "inf,1", ""):
        assert "--split" in refused("info", "--split", split)
    for fused in ("", "2", "2,3", "3,2,4", "2,2,4", "0,4", "2,4,5", "2,x", "4,"):
        line = refused("info", "--fused", fused)
        assert "--fused" in line and ("such as 2,3,4" in line or "with 4 the last" in line)
    assert "--variant" in refused("info", "--variant", "unet")
    for option, value in (("--width", "1"), ("--variant", "csnet"), ("--fused", "4")):
        line = refused("info", "--weights", weights, option, value)
        assert "leave --width, --split, --variant and --fused out" in line
    assert "none.safetensors" in refused("info", "--weights", tmp_path / "none.safetensors")
    (tmp_path / "w.safetensors").write_bytes(weights.read_bytes()[:1000])
    assert "w.safetensors: not a weight file" in refused("info", "--weights", tmp_path / "w.safetensors")


def test_info_blames_the_option_that_is_at_fault(monkeypatch):
    def refuse(*_, **__):
        raise ValueError("csnet: `split` is (1, 2); expected another one.")

    monkeypatch.setattr(Configuration, "standard", refuse)
    assert refused("info") == "Error: Invalid value for --split: is (1, 2); expected another one."


@pytest.mark.parametrize("device", ["cuda", "banana"])
def test_where_nothing_runs_on_a_device_of_choice_none_is_asked_for(monkeypatch, tmp_path, weights, device):
    monkeypatch.setenv("OCTSOD_DEVICE", device)
    out = tmp_path / "small.safetensors"
    for command in (("info",), ("info", "--model", weights), ("models",), ("prune", weights, "-o", out, "--size", 32)):
        assert run(*command).exit_code == 0


def test_the_variable_that_chose_the_device_is_blamed(monkeypatch, tmp_path, weights):
    picture, data = tmp_path / "a.png", write_pairs(tmp_path / "set", stems="ab")
    Image.new("RGB", (32, 32)).save(picture)
    commands = [
        ("predict", picture, "--model", weights, "-q"), ("eval", "--data", data, "--model", weights, "-q"),
        ("train", "--print-config"),
    ]  # fmt: skip
    with fake_cupy.installed(driver=0):
        for command in commands:
            monkeypatch.setenv("OCTSOD_DEVICE", "cuda:1")
            assert refused(*command).startswith("Error: OCTSOD_DEVICE (='cuda:1'): cuda: there is no NVIDIA driver")
            monkeypatch.setenv("OCTSOD_DEVICE", "banana")
            assert refused(*command) == "Error: OCTSOD_DEVICE (='banana') must be cpu, cuda, cuda:N or auto."
        assert "Invalid value for --device: cuda" in refused("train", "--print-config", "--device", "cuda")


# --- networks that find no objects ------------------------------------------------------------------------------------


class Other(octsod.nn.Module):
    """A network that is no CSNet."""

    architecture = "other"

    def __init__(self):
        self.conv = octsod.nn.Conv2d(3, 1)


def test_networks_that_find_no_objects(tmp_path, monkeypatch):
    path, picture, output = tmp_path / "w.safetensors", tmp_path / "p.png", tmp_path / "out.png"
    octsod.images.write_png(picture, np.zeros((8, 8, 3), np.uint8))
    commands = [
        ("predict", picture, "--weights", path, "-o", output), ("eval", "--data", tmp_path, "--weights", path),
        ("export", "--weights", path, "-o", tmp_path / "m.onnx"),
    ]  # fmt: skip
    octsod.save(octsod.csnet(0.2, classes=7), path)
    for command in commands[0], commands[2]:
        line = refused(*command)
        assert f"{path}: `network` tells 7 classes of pictures apart; expected a CSNet that finds" in line
    octsod.save(Other(), path)
    for command in (*commands, ("info", "--weights", path)):
        assert f"{path}: holds a network of the architecture 'other'; known are csnet" in refused(*command)
    monkeypatch.setattr(files, "_architectures", dict(files._architectures))
    octsod.models.register("other", lambda configuration, dtype, count: Other())
    for command in (*commands, ("info", "--weights", path)):
        assert f"{path}: holds a network of the architecture 'other', not a CSNet." in refused(*command)
    assert not output.exists() and not (tmp_path / "m.onnx").exists()


# --- convert ----------------------------------------------------------------------------------------------------------


def hostile_pickle(path):
    """A file that would create `path` if it were unpickled."""
    call = b"cpathlib\nPath\n(V" + str(path).encode() + b"\ntR"
    return b"\x80\x02" + b"cbuiltins\ngetattr\n(" + call + b"Vtouch\ntR)R."


def test_convert_refuses_what_it_does_not_trust(tmp_path):
    checkpoint, layers, target = tmp_path / "c.pth.tar", tmp_path / "l.bin", tmp_path / "w.safetensors"
    arguments = ("convert", checkpoint, "--config", layers, "-o", target)
    assert "does not exist" in refused(*arguments)
    mark = tmp_path / "executed"
    checkpoint.write_bytes(hostile_pickle(mark))
    layers.write_bytes(hostile_pickle(mark))
    assert "c.pth.tar: " in refused(*arguments)
    checkpoint.write_bytes(b"")
    assert "c.pth.tar: " in refused(*arguments)
    target.write_bytes(b"precious")
    assert "--overwrite" in refused(*arguments)
    refused(*arguments, "--overwrite")
    assert target.read_bytes() == b"precious" and not mark.exists()
    assert "no such folder" in refused(*arguments[:-1], tmp_path / "none" / "w.safetensors")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["c.pth.tar", "l.bin", "w.safetensors"]


OFFICIAL = ROOT.parent / "shared" / "official"


@pytest.mark.skipif(not OFFICIAL.exists(), reason="the released checkpoints are not beside the checkout")
def test_convert_released_checkpoint(tmp_path):
    target = tmp_path / "w.safetensors"
    result = run("convert", OFFICIAL / "csnet-L-x1.pth.tar", "--config", OFFICIAL / "csnet-L-x1.bin", "-o", target)
    assert result.exit_code == 0, result.output
    assert octsod.load(target).configuration == LEARNED_X1


