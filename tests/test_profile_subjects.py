"""What `octsod profile` profiles, and the roofs that are measured with it."""

import dataclasses

import numpy as np
import pytest

import octsod
from octsod import nn
from octsod.profiling import roofs
from octsod.profiling.machine import facts, largest_cache
from octsod.profiling.results import Roofs
from octsod.profiling.subjects import profile_prediction, profile_training


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(roofs, "PATIENCE", 0.0)
    monkeypatch.setattr(roofs, "COPIED", (1 << 12, 1 << 12))


def together(result):
    return [sum(row.seconds[k] for row in result.rows if not row.beside) for k in range(len(result.rounds))]


@pytest.mark.parametrize("device, settings", [("cpu", {}), ("cpu", {"sides": True}), ("cpu", {"classes": 3}),
                                              ("reference", {})])  # fmt: skip
def test_a_training_step(quick, device, settings):
    network = octsod.csnet(0.2, **settings)
    before = {name: array.copy() for name, array in network.state_dict().items()}
    result = profile_training(network, 2, 32, device, 2, threads=1)
    assert len(result.rounds) == 2 and together(result) == pytest.approx(result.rounds)
    assert all(np.array_equal(before[name], array) for name, array in network.state_dict().items())
    kernels = {row.kernel for row in result.rows}
    loss = "cross_entropy" if "classes" in settings else "binary_cross_entropy_with_logits"
    assert kernels > {"octave_conv2d", "octave_conv2d_backward", "adam", loss}
    assert [roof.device for roof in result.roofs] == [device] and result.roofs[0].threads == 1
    count = sum(p.size for p in network.parameters())
    assert result.subject == f"training step of CSNet ({count:,} parameters), 2 x 32x32, {device}, 1 thread"
    assert result.captured == () and result.compiled >= 0 and result.peak_bytes > 0
    assert result.machine.keys() >= {"date", "machine", "versions"}


def test_an_own_network_of_another_size(quick):
    class Net(nn.Module):
        def __init__(self):
            self.layer = nn.Conv2d(3, 1)

        def forward(self, x):
            return self.layer(x)

    result = profile_training(Net(), 1, steps=1)
    (conv,) = (row for row in result.rows if row.kernel == "conv2d")
    assert conv.layer == "layer" and conv.title.startswith("3@224 -> 1@224")


@pytest.mark.filterwarnings("ignore:overflow")  # a network that has learned nothing, of pictures that are noise
def test_a_prediction_by_another_backend(quick):
    result = profile_prediction(octsod.csnet(0.2), 1, 32, "reference", 2)
    assert together(result) == pytest.approx(result.rounds) and len(result.rounds) == 2
    (row,) = (row for row in result.rows if row.kernel == "csnet")
    assert (row.op, row.phase, row.device) == ("predict", "predict", "reference") and row.flops > 0


@pytest.mark.parametrize("settings, said", [
    ({"steps": 0}, "`steps`"), ({"batch_size": 0}, "`batch_size`"), ({"size": -1}, "`size`"),
    ({"size": 33}, "multiples"), ({"device": "gpu"}, "`device`"), ({"network": 3}, "`network` is a int"),
])  # fmt: skip
def test_what_cannot_be_profiled(settings, said):
    arguments = {"network": octsod.csnet(0.2), "batch_size": 1, "size": 32, **settings}
    with pytest.raises((ValueError, TypeError), match=said):
        profile_training(**arguments)


def test_roofs(quick):
    before = octsod.get_num_threads()
    found = roofs.measure("cpu", 2)
    assert found == Roofs("cpu", 2, *dataclasses.astuple(found)[2:]) and octsod.get_num_threads() == before
    assert found.bandwidth > 0 and found.arithmetic > 0 and 0 < found.launch < 1
    with pytest.raises(ValueError, match="`device`"):
        roofs.measure("no such")


def test_what_is_copied_is_more_than_a_cache_holds(monkeypatch):
    sizes = []
    monkeypatch.setattr(roofs, "copy_rate", lambda size: sizes.append(size) or 1.0)
    monkeypatch.setattr(roofs, "multiply_add_rate", lambda: 1.0)
    for cache in (0, 1 << 25, 1 << 30):
        monkeypatch.setattr(roofs, "largest_cache", lambda cache=cache: cache)
        roofs.measure("cpu")
    assert sizes == [1 << 26, 1 << 27, 1 << 28]


def test_the_largest_cache(monkeypatch, tmp_path):
    assert largest_cache() >= 0
    for number, text in enumerate(("32K", "1024K", "8M")):
        (tmp_path / f"index{number}").mkdir()
        (tmp_path / f"index{number}" / "size").write_text(f"{text}\n")
    monkeypatch.setattr("octsod.profiling.machine.CACHES", tmp_path)
    assert largest_cache() == 8 << 20
    (tmp_path / "index2" / "size").write_text("much\n")
    assert largest_cache() in (0, 32 << 10, 1 << 20)


def test_facts():
    assert facts()["versions"].keys() == {"python", "octsod", "numpy", "numba"} and "gpus" not in facts()
