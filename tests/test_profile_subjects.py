"""What `octsod profile` profiles, and the roofs that are measured with it."""

import numpy as np
import profiles
import pytest

import octsod
from octsod import nn
from octsod.profiling import roofs, subjects
from octsod.profiling.machine import LARGE, cache_bytes, cache_levels, facts
from octsod.profiling.results import Cache, Roofs
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


def test_a_subject_names_its_threads(quick, monkeypatch):
    monkeypatch.setattr(subjects, "available_cpus", lambda: 3)
    for threads in (1, 3):
        result = profile_prediction(octsod.csnet(0.2), 1, 32, steps=1, threads=threads)
        count = f"{threads} thread{'s' * (threads > 1)}"
        assert result.subject.endswith(f", cpu, {count}") and result.roofs[0].threads == threads


def test_a_prediction_has_no_more_threads_than_processors(quick, monkeypatch):
    """Steps of others would seem faster than the machine can be, while they wait for a processor."""
    monkeypatch.setattr(subjects, "available_cpus", lambda: 2)
    network, before = octsod.csnet(0.2), octsod.get_num_threads()
    said = r"^profile_prediction: `threads` is 3; expected at most 2, one per processor: .*\.$"
    with pytest.raises(subjects.ThreadsError, match=said):
        profile_prediction(network, 1, 32, steps=1, threads=3)
    assert octsod.get_num_threads() == before
    assert profile_training(network, 1, 32, steps=1, threads=3).roofs[0].threads == 3  # where the caller's clock counts


def test_roofs(quick):
    before = octsod.get_num_threads()
    found = roofs.measure("cpu", 2)
    assert (found.device, found.threads) == ("cpu", 2) and octsod.get_num_threads() == before
    assert found.bandwidth > 0 and found.arithmetic > 0 and 0 < found.launch < 1 and found.fastest >= found.bandwidth
    assert [c.bytes for c in found.caches] == sorted(c.bytes for c in found.caches) and found.caches[0].bandwidth > 0
    with pytest.raises(ValueError, match="`device`"):
        roofs.measure("no such")


def test_what_is_copied_is_more_than_caches_hold(monkeypatch):
    sizes = []
    monkeypatch.setattr(roofs, "move_rates", lambda size: sizes.append(size) or (1.0, 2.0))
    monkeypatch.setattr(roofs, "multiply_add_rate", lambda: 1.0)
    monkeypatch.setattr(roofs, "cache_rates", lambda: [])
    for cache in (0, 1 << 25, 1 << 30):
        monkeypatch.setattr(roofs, "cache_bytes", lambda cache=cache: cache)
        roofs.measure("cpu")
    assert sizes == [1 << 26, 1 << 27, 1 << 28]


def test_the_levels_of_caches(monkeypatch, tmp_path):
    assert 1 << 16 <= cache_bytes() <= 1 << 40
    monkeypatch.setattr("octsod.profiling.machine.CPUS", tmp_path)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 5}, raising=False)
    assert cache_levels() == [] and cache_bytes() == LARGE, "the system does not tell"
    for cpu in (0, 1, 5):
        pair = "4-5" if cpu == 5 else "0-1"
        caches = [("Data", 1, "32K", str(cpu)), ("Instruction", 1, "64K", str(cpu)), ("Unified", 2, "1M", pair),
                  ("Unified", 3, "8192K", "0-7,64")]  # fmt: skip
        for number, (kind, level, size, shared) in enumerate(caches):
            folder = tmp_path / f"cpu{cpu}" / "cache" / f"index{number}"
            folder.mkdir(parents=True)
            facts = {"type": kind, "level": level, "size": size, "shared_cpu_list": shared}
            for name, fact in facts.items():
                (folder / name).write_text(f"{fact}\n")
    assert cache_levels() == [(32 << 10, 1, 96 << 10), (1 << 20, 2, 2 << 20), (8 << 20, 9, 8 << 20)]
    assert cache_bytes() == 8 << 20
    (tmp_path / "cpu5" / "cache" / "index2" / "size").write_text("much\n")
    assert cache_levels() == []


def test_the_most_that_threads_did_together():
    """Two units of work per burst: a quick thread, and one that begins late and is held up once."""
    quick, slow = np.arange(0, 50, 10), np.array([20, 30, 40, 90, 100])
    assert roofs.most_within(quick[None], 2, 20) == pytest.approx(2 / 10)
    assert roofs.most_within(slow[None], 2, 1) == pytest.approx(2 / 10), "a window is as long as a burst"
    assert roofs.most_within(np.stack([quick, slow]), 2, 20) == pytest.approx(4 / 10), "from 20 to 40"
    assert roofs.most_within(np.stack([quick, slow]), 2, 1000) == pytest.approx(16 / 100), "the whole"
    assert roofs.most_within(np.zeros((1, 3)), 2, 10) >= 0, "a clock that stands still"


def test_roofs_that_a_kernel_passes_are_measured_again(monkeypatch):
    """The machine was disturbed at first; but a cost that is wrong stays so."""
    found = [
        Roofs("cpu", 2, 1e9, 1e9, 3e-6, 0.0, (Cache(10, 1e9),)), Roofs("cpu", 2, 9e9, 5e8, 1e-6, 1e9, (Cache(10, 2e9),))
    ]  # fmt: skip
    given = profiles.profile(profiles.row(ms=(1.0,) * 3, flops=10, bytes=8_000_000))
    measured = iter([*found, *[found[0]] * 9])
    monkeypatch.setattr(roofs, "measure", lambda device: next(measured))
    (best,) = roofs.under_roofs(given, ["cpu"]).roofs
    assert best == Roofs("cpu", 2, 9e9, 1e9, 1e-6, 1e9, (Cache(10, 2e9),)) and next(measured) == found[0]
    wrong = profiles.profile(profiles.row(ms=(1.0,) * 3, flops=10**12, bytes=8))
    measured = iter([found[0]] * (1 + roofs.AGAIN))
    assert roofs.under_roofs(wrong, ["cpu"]).roofs == (found[0],) and next(measured, None) is None


def test_facts():
    assert facts()["versions"].keys() == {"python", "octsod", "numpy", "numba"} and "gpus" not in facts()
