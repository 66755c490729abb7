"""A small share of each campaign (tests/campaigns), and that the campaigns would see a fault."""

import importlib.util
import pathlib
import random
import shutil
import sys

import numpy as np
import pytest

from octsod.testing import cusim

if sys.platform != "linux":
    pytest.skip("the campaigns watch processes as Linux lets them", allow_module_level=True)

from campaigns import formats, fuzz, jobs, kills, mutants, mutants_detectors, mutants_runs, mutations, soak
from campaigns.harness import DEEDS
from campaigns.inputs import KINDS, Source, kept
from campaigns.mutants_detectors import Stage, detectors, sources
from campaigns.mutants_draw import Equivalents, draw
from campaigns.mutants_runs import Tree
from campaigns.mutants_text import OPERATORS, Edit, Mutant, mutants_in, mutants_of
from campaigns.tables import table
from campaigns.worker import kernel_cache

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


# --- mutants ----------------------------------------------------------------------------------------------------------

ROOT = pathlib.Path(__file__).parents[1]
needs_libcst = pytest.mark.skipif(importlib.util.find_spec("libcst") is None, reason="libcst is not installed")
needs_compiler = pytest.mark.skipif(bool(cusim.unavailable()), reason=cusim.unavailable() or "-")


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    tree = Tree(tmp_path_factory.mktemp("mutants"), ROOT)
    tree.warm = kernel_cache()
    return tree


@needs_libcst
@pytest.mark.parametrize(("file", "function", "operator"), [
    ("octsod/ops/pointwise.py", "Exp.forward", "saved"),
    ("octsod/autograd/graph.py", "_Pending.add", "negate"),
    ("kernels/cpu/resampling.py", "_max_pool2d", "bounds"),
    pytest.param("kernels/cuda/resampling.cu", "max_pool2d", "swap", marks=needs_compiler),
], ids=["op", "graph", "kernel", "CUDA kernel"])  # fmt: skip
def test_a_bug_is_caught(tree, file, function, operator):
    """By the tests that cover its file, and by the first run of them."""
    mutant = next(m for m in mutants_in(ROOT, file) if (m.scope, m.operator) == (function, operator))
    with tree.with_bug(mutant):
        assert (tree.tree / file).read_text() != (ROOT / file).read_text()
        outcome = tree.run(detectors(file)[0], 600)
    assert outcome.kind == "failed", outcome
    assert (tree.tree / file).read_text() == (ROOT / file).read_text()


PYTHON = """
def op(ctx, x, padding: int = 0):
    '''About 1 + 1.'''
    require(padding >= 0, "op", "padding")
    out, blocks = np.zeros(x.shape[2] + 2 * padding, np.float64), -(-x.size // 64)
    for i in range(blocks):
        out[i] += max(x[i], blocks)
    if padding < 3:
        fill(out, x)
    ctx.save_for_backward(x)
    return out.sum(axis=(0, 1)) if x.scale is None else out
"""
IN_PYTHON = {
    ("sign", "out[i] -= max(x[i], blocks)"),
    ("factor", "out, blocks = np.zeros(x.shape[2] + (2 + padding), np.float64), -(-x.size // 64)"),
    ("axis", "out, blocks = np.zeros(x.shape[3] + 2 * padding, np.float64), -(-x.size // 64)"),
    ("stale", "out, blocks = np.empty(x.shape[2] + 2 * padding, np.float64), -(-x.size // 64)"),
    ("dtype", "out, blocks = np.zeros(x.shape[2] + 2 * padding, np.float32), -(-x.size // 64)"),
    ("tile", "out, blocks = np.zeros(x.shape[2] + 2 * padding, np.float64), (x.size // 64)"),
    ("constant", "out, blocks = np.zeros(x.shape[2] + 3 * padding, np.float64), -(-x.size // 64)"),
    ("border", "out, blocks = np.zeros(x.shape[2] + 2 * (padding + 1), np.float64), -(-x.size // 64)"),
    ("swap", "blocks, out = np.zeros(x.shape[2] + 2 * padding, np.float64), -(-x.size // 64)"),
    ("bounds", "for i in range(blocks - 1):"),
    ("accumulate lost", "out[i] = max(x[i], blocks)"),
    ("min/max", "out[i] += min(x[i], blocks)"),
    ("border", "if padding <= 3:"),
    ("negate", "if not (padding < 3):"),
    ("statement", "pass"),
    ("swap", "fill(x, out)"),
    ("saved", "ctx.save_for_backward(out)"),
    ("axis", "return out.sum(axis=(0,)) if x.scale is None else out"),
    ("branch", "return out.sum(axis=(0, 1)) if False else out"),
}
CUDA = """
#define SIDE 16
// a + b
__global__ void blur(int64 count, int stride, const real* x, const real* by, real* out) {
    __shared__ real tile[SIDE][SIDE];
    int blocks = (count + SIDE - 1) / SIDE, height = 3, width = 4;
    double sum = 0;
    for (int k = 0; k < blocks; ++k) sum += x[k * stride] * scale_of(by, k);
    __syncthreads();
    if (by) tile[threadIdx.y][height] = -sum;
    out[blockIdx.x] = width < 2 ? max(sum, 0.5) : 0;
}
"""
IN_CUDA = {
    ("tile", "int blocks = (count ) / SIDE, height = 3, width = 4;"),
    ("sign", "int blocks = (count - SIDE - 1) / SIDE, height = 3, width = 4;"),
    ("constant", "int blocks = (count + SIDE - 1) / SIDE, height = 4, width = 4;"),
    ("dtype", "real sum = 0;"),
    ("bounds", "for (int k = 0; k < blocks - 1; ++k) sum += x[k * stride] * scale_of(by, k);"),
    ("bounds", "for (int k = 1; k < blocks; ++k) sum += x[k * stride] * scale_of(by, k);"),
    ("border", "for (int k = 0; k <= blocks; ++k) sum += x[k * stride] * scale_of(by, k);"),
    ("accumulate lost", "for (int k = 0; k < blocks; ++k) sum = x[k * stride] * scale_of(by, k);"),
    ("factor", "for (int k = 0; k < blocks; ++k) sum += x[k + stride] * scale_of(by, k);"),
    ("stride", "for (int k = 0; k < blocks; ++k) sum += x[k * (stride + 1)] * scale_of(by, k);"),
    ("swap", "for (int k = 0; k < blocks; ++k) sum += x[k * stride] * scale_of(k, by);"),
    ("barrier", ";"),
    ("branch", "if (true) tile[threadIdx.y][height] = -sum;"),
    ("negate", "if (!(by)) tile[threadIdx.y][height] = -sum;"),
    ("accumulate added", "if (by) tile[threadIdx.y][height] += -sum;"),
    ("swap", "if (by) tile[height][threadIdx.y] = -sum;"),
    ("axis", "if (by) tile[threadIdx.x][height] = -sum;"),
    ("sign", "if (by) tile[threadIdx.y][height] = sum;"),
    ("min/max", "out[blockIdx.x] = width < 2 ? min(sum, 0.5) : 0;"),
    ("axis", "out[blockIdx.x] = height < 2 ? max(sum, 0.5) : 0;"),
}


@needs_libcst
@pytest.mark.parametrize(("file", "source", "expected"), [("a.py", PYTHON, IN_PYTHON), ("a.cu", CUDA, IN_CUDA)],
                         ids=["Python", "CUDA"])  # fmt: skip
def test_bugs_of_each_kind(file, source, expected):
    found = mutants_of(file, source)
    assert expected <= {(m.operator, m.after) for m in found}
    assert {m.operator for m in found} <= OPERATORS.keys()
    assert len({m.id for m in found}) == len({m.key for m in found}) == len(found)
    for mutant in found:
        changed = mutant.apply(source)
        same = [(a, b) for a, b in zip(source.splitlines(), changed.splitlines(), strict=True) if a != b]
        assert len(same) == 1 and mutant.before in same[0][0] and mutant.after in same[0][1], mutant
        assert "require" not in mutant.before and "About" not in mutant.before and "#define" not in mutant.before
        if file.endswith(".py"):
            compile(changed, file, "exec")
    # Below something new, bugs are those that they were.
    below = mutants_of(file, "\n" * 5 + source)
    assert [m.key for m in below] == [m.key for m in found] and below[0].line == found[0].line + 5


@needs_libcst
def test_what_is_drawn():
    """Every file, every op and every kind of bug; the same by the same seed; little else if a function changes."""
    files = ["octsod/ops/pointwise.py", "octsod/ops/convolution.py", "kernels/cpu/elementwise.py",
             "kernels/cuda/arrays.cu"]  # fmt: skip
    found = [m for file in files for m in mutants_of(file, (ROOT / file).read_text())]

    def drawn(count, seed, found=found, broken=lambda m: False):
        return draw(found, ["add", "exp"], count, seed, broken)

    first = drawn(300, 0)
    assert first == drawn(300, 0, found[::-1]) and len({m.key for m in first}) == 300
    assert {m.file for m in first} == set(files)
    assert {m.operator for m in first} == {m.operator for m in found}
    ops = {m.scope.split(".")[0] for m in first if m.file == files[0]}
    assert ops == {"_Pointwise", "Exp", "Log", "Sqrt", "ReLU"} and {"add", "exp"} <= {m.scope for m in first}
    assert len(set(first) & set(drawn(300, 1))) < 250
    assert set(first) <= set(drawn(350, 0)) and len(drawn(10**6, 0)) == len(found)
    left = drawn(300, 0, broken=lambda m: m == first[0])
    assert first[0] not in left and len(left) == 300 and len(set(left) & set(first)) > 290


@needs_libcst
def test_all_files_have_detectors():
    for file in sources(ROOT):
        tests = [test for stage in detectors(file) for test in stage.tests]
        assert tests and all((ROOT / "tests" / test.partition("::")[0]).exists() for test in tests), file


@needs_libcst
def test_the_listed_equivalents_are_bugs_that_can_be_drawn():
    """Each is still in the sources, and has a reason."""
    listed = Equivalents()
    there = {(m.file, m.scope, m.before, m.after) for file in {bug[0] for bug in listed.bugs}
             for m in mutants_in(ROOT, file)}  # fmt: skip
    assert listed.bugs.keys() <= there, listed.bugs.keys() - there
    assert all(len(reason) > 10 for reason in [*listed.bugs.values(), *(place[-1] for place in listed.places)])


SOURCE = """
DEED = "nothing"

def half(x):
    return 0.5 * x if x < 8 else 4
"""
TESTS = """
import os, signal, time
from octsod.ops import deed

def test_deed():
    if deed.DEED == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    while deed.DEED == "timeout":
        pass
    if deed.DEED == "idle":
        time.sleep(1000)
    if deed.DEED == "memory":
        data = b"1" * (400 << 20)
        time.sleep(1000)

def test_half():
    assert (deed.half(2), deed.half(8), deed.half(9)) == (1, 4, 4)
"""


@pytest.fixture
def small(tmp_path, monkeypatch):
    """A checkout with one function and its tests."""
    root = tmp_path / "checkout"
    for name, text in {"octsod/ops/deed.py": SOURCE, "octsod/ops/__init__.py": "", "octsod/__init__.py": "",
                       "tests/test_deed.py": TESTS}.items():  # fmt: skip
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shutil.copytree(ROOT / "tests" / "campaigns", root / "tests" / "campaigns",
                    ignore=shutil.ignore_patterns("__pycache__"))  # fmt: skip
    monkeypatch.setattr(mutants_detectors, "TABLE", [("*", [Stage(("test_deed.py",))])])
    return root


@pytest.mark.parametrize("deed", ["nothing", "crash", "timeout", "idle", "memory", 'broken" +'])
def test_how_bugs_end(small, tmp_path, monkeypatch, deed):
    monkeypatch.setattr(mutants_runs, "COMPILING", 2)
    monkeypatch.setattr(mutants_runs, "IDLE", 10 if deed == "idle" else 600)
    monkeypatch.setattr(mutants_runs, "MOST_MEMORY", 300 << 20)
    tree = Tree(tmp_path / "out", small)
    start = SOURCE.index("nothing")
    edit = Edit("constant", start, start + len("nothing"), deed, "", 0, len(SOURCE))
    mutant = Mutant("", "octsod/ops/deed.py", 2, "constant", "", "", "", "", edit)
    with tree.with_bug(mutant):
        outcome = tree.run(Stage(("test_deed.py",)), 1)
    expected = {"nothing": "passed", "idle": "timeout", 'broken" +': "broken"}.get(deed, deed)
    assert outcome.kind == expected, outcome
    assert deed in ("nothing", "idle", 'broken" +') or outcome.test == "tests/test_deed.py::test_deed"


@needs_libcst
def test_a_campaign(small, tmp_path):
    """It goes on where it was, counts what is equivalent, and tries survivors again if tests have changed."""
    border = "deed.py:5:border:1"
    campaign = mutants.Campaign(tmp_path / "out", small)
    drawn = campaign.run(100, 0, 0)  # no time
    assert {campaign.state(m) for m in drawn} == {"new"} and len(drawn) > 5
    with pytest.raises(SystemExit, match="another campaign is at work"):
        mutants.Campaign(tmp_path / "out", small)
    campaign.close()

    campaign = mutants.Campaign(tmp_path / "out", small, jobs=2)
    (equivalent,) = (m for m in drawn if m.id.endswith(border))
    fact = equivalent.file, equivalent.scope, equivalent.before, equivalent.after
    campaign.equivalents.bugs[fact] = "both sides are 4 there"
    assert campaign.run(100, 0, None) == drawn
    states = {m.after.strip(): campaign.state(m) for m in drawn}
    assert states.pop(equivalent.after) == "equivalent" and equivalent.key not in campaign.results
    survivor = "return 0.5 * x if x < 9 else 4"
    assert states.pop(survivor) == "survived" and set(states.values()) == {"caught"}
    report = campaign.report(drawn)
    assert "1 equivalent, 1 survived,\n0 not settled" in report and survivor in report
    assert "both sides are 4 there" in report
    assert "`test_deed.py::test_half`" in report and campaign.faults(drawn) == 1
    campaign.close()

    with (small / "tests" / "test_deed.py").open("a") as file:
        file.write("    assert deed.half(8.5) == 4\n")
    campaign = mutants.Campaign(tmp_path / "out", small)
    campaign.equivalents.bugs[fact] = "both sides are 4 there"
    tried = []
    campaign.run(100, 0, None, say=lambda words, **_: tried.append(words))
    assert len(tried) == 1 and not campaign.faults(drawn)
    (small / "octsod" / "ops" / "deed.py").write_text("# moved\n" + SOURCE)
    campaign.close()
    campaign = mutants.Campaign(tmp_path / "out", small)
    campaign.equivalents.bugs[fact] = "both sides are 4 there"
    assert campaign.run(100, 0, None, say=pytest.fail) != drawn  # in other lines, and nothing to do
    campaign.close()


def test_table():
    assert table(["a", "count"], [["x", 12345], ["long", 1]]) == (
        "| a    |  count |\n| ---- | -----: |\n| x    | 12,345 |\n| long |      1 |"
    )
