"""A small share of each campaign (tests/campaigns), and that the campaigns would see a fault."""

import pathlib
import random
import shutil
import sys

import numpy as np
import pytest

if sys.platform != "linux":
    pytest.skip("the campaigns watch processes as Linux lets them", allow_module_level=True)

from campaigns import formats, fuzz, jobs, kills, mutations, soak
from campaigns.harness import DEEDS
from campaigns.inputs import KINDS, Source, kept
from campaigns.tables import table

PATIENCE = 300.0  # seconds that a process may take on a busy machine


# --- fuzzing ----------------------------------------------------------------------------------------------------------


def test_faults_are_seen(tmp_path):
    """Inputs that are faults themselves: each is noted as what it is, saved, and done by a worker that goes on."""
    campaign = fuzz.Campaign(tmp_path, 229, hang=0.5)  # whose first nine inputs are all that there are
    campaign.run(["harness"], 9, None)
    done = campaign.state["kinds"]["harness"]
    expected = set(DEEDS) - {"nothing"}
    assert {fault["outcome"] for fault in done["faults"].values()} == expected == set(fuzz.FAULTS)
    for fault in done["faults"].values():
        files, facts = kept(pathlib.Path(fault["saved"][0]))
        assert files == {"deed": fault["outcome"].encode()} and facts["fault"]["outcome"] == fault["outcome"]
    assert done["next"] == 9 and done["refused"] == 1 and len(done["faults"]) == 8
    assert "| harness |      9 |" in campaign.report() and not (tmp_path.parent / "outside").exists()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("samples")


@pytest.mark.parametrize("kind", KINDS)
def test_fuzzing(kind, home, tmp_path):
    """A few inputs have no fault; valid samples are accepted and some others refused, or else nothing was tried."""
    campaign = fuzz.Campaign(tmp_path, 1, hang=60)
    campaign.home = home
    campaign.run([kind], 30, None)
    done = campaign.state["kinds"][kind]
    assert done["next"] == 30 and done["valid"] and done["refused"]
    assert not done["faults"], campaign.report()


def test_inputs_depend_on_seed_and_number_alone(home):
    first, second = Source("masks", home), Source("masks", home)
    for number in range(20):
        given = first.input(3, number)
        assert given == second.input(3, number) and first.files(given) == second.files(given)
    assert first.input(3, 0) != first.input(4, 0) != first.input(4, 1)


def test_what_is_well_formed_stays_so():
    """Tensors in other shapes, with a checksum that fits: only such files get past the first look."""
    arrays = {"a": ("F32", [2, 3], bytes(24)), "b": ("I64", [], bytes(8))}
    metadata = formats.seal({"run": "{}", "crc32": ""}, arrays)
    data = formats.build(metadata, arrays)
    assert formats.parse(data) == (metadata, arrays)
    read = 0
    for seed in range(100):
        changed = formats.safetensors(data, random.Random(seed))
        try:
            facts, found = formats.parse(changed)
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        read += changed != data and facts.get("crc32") == formats.seal(facts, found).get("crc32")
    assert read > 40


@pytest.mark.parametrize("mutation", [*mutations.BYTES, *mutations.TEXT], ids=lambda mutation: mutation.__name__)
def test_mutations_take_anything(mutation):
    for data in (b"", b"a", bytes(range(256)), b'{"a": [1, 2.5]}\n{"b": "c"}\n'):
        for seed in range(20):
            assert mutation(data, random.Random(seed)) == mutation(data, random.Random(seed))


# --- kills ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def train_only(tmp_path_factory):
    return kills.Campaign(tmp_path_factory.mktemp("kills"), 0, PATIENCE, only="train")


def test_kills(train_only, monkeypatch):
    """A training that is killed before one of its operations on files, and gone on with."""
    assert train_only.state["references"]["train"]["operations"] > 20
    monkeypatch.setattr(random.Random, "choice", lambda self, options: options[0])  # one kill, before an operation
    train_only.state["groups"]["kill"] = {"faults": []}
    assert train_only.trial("kill", 0) == 1
    assert train_only.state["groups"]["kill"]["faults"] == []


def test_two_processes_on_one_folder(train_only):
    train_only.state["groups"]["pairs"] = {"faults": []}
    assert train_only.trial("pairs", 0) == 1
    assert train_only.state["groups"]["pairs"]["faults"] == []


def test_full_disk(train_only):
    train_only.state["groups"]["full"] = {"faults": []}
    assert train_only.trial("full", 0) == 1
    assert train_only.state["groups"]["full"]["faults"] == []


def test_differences_are_seen(train_only, tmp_path):
    """Half a file, other numbers and files that are missing or left over."""
    out = tmp_path / "out"
    shutil.copytree(train_only.home / "train", out)
    expected = jobs.results(out)
    last, log = out / "weights" / "last.safetensors", out / "log.jsonl"
    whole = last.read_bytes()
    last.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert jobs.difference(jobs.results(out), expected) == "weights/last.safetensors differs"
    last.write_bytes(whole[:-1])
    with pytest.raises(jobs.FaultError, match=r"last\.safetensors is not whole"):
        jobs.results(out)
    last.write_bytes(whole)
    log.write_bytes(log.read_bytes().split(b"\n", 1)[1])
    assert "log.jsonl differs" in jobs.difference(jobs.results(out), expected)
    (out / "weights" / "new.safetensors").write_bytes(whole)
    (out / "log.jsonl").unlink()
    found = jobs.results(out)
    assert jobs.difference(found, expected) == "log.jsonl is missing"
    found["log.jsonl"] = expected["log.jsonl"]
    assert jobs.difference(found, expected) == "weights/new.safetensors is too much"


# --- soak -------------------------------------------------------------------------------------------------------------


def test_soak():
    points = soak.measure(soak.predictions(30, 10, 3, 0), 10)
    assert len(points) == 10 and points[-1][0] == 1
    points = soak.measure(soak.training(8, 2, 0), 4)
    assert len(points) == 4 and all(size > 0 for _, size in points)


def test_what_flat_means():
    share = np.linspace(0.02, 1, 50)
    size = 200e6
    start, slope, spread = soak.verdict([(s, size) for s in share])
    assert start == share[4] and abs(slope) < 1 and spread == 0
    start, slope, _ = soak.verdict([(s, size + 30e6 * min(s, 0.3)) for s in share])  # grows, then stays
    assert 0.1 < start <= 0.3 and slope < 0.02 * size
    start, slope, spread = soak.verdict([(s, size * (1 + s / 10)) for s in share])  # a leak
    assert start is None and slope == pytest.approx(size / 10) and spread > 0.02


def test_table():
    assert table(["a", "count"], [["x", 12345], ["long", 1]]) == (
        "| a    |  count |\n| ---- | -----: |\n| x    | 12,345 |\n| long |      1 |"
    )
