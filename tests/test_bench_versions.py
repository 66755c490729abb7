"""Two versions of the library beside each other."""

import importlib
import pathlib
import subprocess
import sys
from contextlib import nullcontext

import click
import numpy as np
import pytest
from click.testing import CliRunner

import octsod
from octsod.places import cache_root

pytest.importorskip("bench", reason="bench/ is not here: run from a checkout")

from bench_checks import a_row
from fake_peers import failing, numbered, which

from bench import (
    compare,
    network,
    rows,
    versions,
)
from bench.agreement import DisagreementError
from bench.children import Child, ChildError

cpu = importlib.import_module("octsod.kernels.cpu")

pytestmark = pytest.mark.usefixtures("restored")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A git repository with two commits."""
    root = tmp_path / "repository"
    root.mkdir()
    for variable in ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"):  # set where tests are run by a hook of git
        monkeypatch.delenv(variable, raising=False)

    def git(*arguments):
        who = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "commit.gpgsign=false")
        subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)

    try:
        git("init")
    except FileNotFoundError:
        pytest.skip("git is not installed")
    for text in ("one", "two"):
        (root / "sub").mkdir(exist_ok=True)
        (root / "sub" / "a.txt").write_text(text)
        (root / "b.txt").write_text(text)
        git("add", "-A")
        git("commit", "-m", text)
    return root


def test_files_of_a_commit_and_of_the_working_tree(repository, tmp_path):
    (repository / ".gitignore").write_text("*.pyc\n")
    (repository / "c.pyc").write_text("ignored")
    (repository / "new \u00fc.txt").write_text("new")
    (repository / "b.txt").unlink()
    (repository / "sub" / "a.txt").write_text("three")

    def files(folder):
        return {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}

    commit = versions.commit_of("HEAD~1", repository)
    assert len(commit) == 40
    (tmp_path / "old").mkdir()
    versions.export_commit(commit, tmp_path / "old", repository)
    assert files(tmp_path / "old") == {"sub/a.txt": "one", "b.txt": "one"}
    (tmp_path / "new").mkdir()
    versions.export_working_tree(tmp_path / "new", repository)
    assert files(tmp_path / "new") == {"sub/a.txt": "three", "new \u00fc.txt": "new", ".gitignore": "*.pyc\n"}


def test_versions_that_are_not_there(repository, tmp_path, monkeypatch):
    def error_of(*revisions, root=repository):
        with pytest.raises(versions.VersionError) as caught, versions.installed(*revisions, root=root):
            pass
        assert caught.value.exit_code == 2
        return caught.value.message

    assert error_of("nobody") == f"There is no commit 'nobody' in {repository}."
    assert error_of("HEAD", "HEAD:b.txt") == f"There is no commit 'HEAD:b.txt' in {repository}."
    said = error_of("HEAD")  # no Python project
    assert said.startswith(versions.commit_of("HEAD", repository)[:10] + " cannot be installed: ") and "\n" not in said
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "empty").mkdir()
    assert error_of(None, root=tmp_path / "empty") == f"There is no git repository in {tmp_path / 'empty'}."
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert error_of("HEAD").startswith("git is not installed")


def a_version(folder, text, title="fake"):
    """A version whose whole package is one file."""
    (folder / "octsod").mkdir(parents=True)
    (folder / "octsod" / "__init__.py").write_text("")
    (folder / "octsod" / "__main__.py").write_text(text)
    return versions.Version(title, folder, folder / "cache")


FAKE_TRAIN = """
import os, sys, time
assert sys.argv[1:3] == ["train", "--steps"] and os.environ["OCTSOD_CACHE_DIR"].endswith("cold")
print("step 0/2  compiling\\nstep 1/2  epoch 1", file=sys.stderr, flush=True)
time.sleep(60)  # a second step, for which nobody waits
"""


def test_first_step(tmp_path):
    good = a_version(tmp_path / "good", FAKE_TRAIN)
    assert 0 < versions.first_step(good, tmp_path / "cold", 1) < 60
    bad = a_version(tmp_path / "bad", "raise SystemExit('no memory\\n')")
    with pytest.raises(ChildError, match="ended before its first step: no memory"):
        versions.first_step(bad, tmp_path / "cold", 1)


def test_a_child_imports_its_own_version(tmp_path, monkeypatch):
    new = versions.Version("new", pathlib.Path(octsod.__file__).parent.parent, pathlib.Path("/cache"))
    for version in (a_version(tmp_path / "old", "", "old"), new):
        child = Child(versions.within, version, which)
        results = child.first_results()
        child.close()
        assert results == {"octsod": str(version.packages / "octsod" / "__init__.py"), "cache": str(version.cache)}
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(RuntimeError, match=r"^old was to be measured, but octsod is"):  # it has been imported before
        versions.within(versions.Version("old", tmp_path / "old", tmp_path), which)


def two_versions(old="/1", new="/1"):
    """Twice the octsod of this process, but for the folders of their caches."""
    packages = pathlib.Path(octsod.__file__).parent.parent
    return {name: versions.Version(name, packages, pathlib.Path(c)) for name, c in (("old", old), ("new", new))}


def test_the_order_in_pairs_alternates(monkeypatch, tmp_path):
    order = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def turn(self, warm, timed):
            order.append(self.name)
            return [float(len(order))] * timed

    seconds = network.in_turns({name: Recorder(name) for name in ("old", "new")}, 4, network.Turn(2, 3), None)
    assert order == ["old", "new", "new", "old"] * 2
    assert seconds == {"old": np.repeat([1.0, 4, 5, 8], 3).tolist(), "new": np.repeat([2.0, 3, 6, 7], 3).tolist()}
    starts = []

    def start(version, cache, threads):
        starts.append((version.title, cache, threads))
        return 1.0

    monkeypatch.setattr(compare, "first_step", start)
    result, _ = compare.measure(two_versions("/1", "/2"), ["first-step"], 3, 4, True)
    cold, filling, warm = starts[:4], starts[4:6], starts[6:]
    assert [name for name, *_ in cold] == ["old", "new", "new", "old"] and len({cache for _, cache, _ in cold}) == 4
    assert [name for name, *_ in filling] == ["old", "new"] and [name for name, *_ in warm] == order
    assert {cache for name, cache, _ in warm if name == "new"} == {pathlib.Path("/2")}
    assert [(r["case"], r["impl"], r["samples"]) for r in result] == [
        ("compare/first-step/cold", "old", 2), ("compare/first-step/cold", "new", 2),
        ("compare/first-step/warm", "old", 4), ("compare/first-step/warm", "new", 4),
    ]  # fmt: skip
    assert [r["case"] for r in compare.measure(two_versions(), ["first-step"], 3, 4, False)[0]] == [
        "compare/first-step/warm"
    ] * 2


def test_versions_that_differ_are_not_timed():
    arguments = ((numbered,), 1, 6, network.Turn(1, 2), (1e-3, 1e-3))
    old, new = compare.compared("compare/a", two_versions(), *arguments)
    assert (old["impl"], old["version"], old["samples"], new["impl"], new["samples"]) == ("old", "old", 6, "new", 6)
    assert new["difference"] == 0 and 0 < new["low"] <= new["ratio"] <= new["high"] and "ratio" not in old
    with pytest.raises(DisagreementError, match="number is off by"):
        compare.compared("compare/a", two_versions("/1", "/2"), *arguments)
    with pytest.raises(click.ClickException, match="compare/a, old: RuntimeError: no such instruction"):
        compare.compared("compare/a", two_versions(), (failing, None, 1), *arguments[1:])


def test_a_version_is_as_fast_as_itself(monkeypatch):
    """All that children do, at small sizes."""
    monkeypatch.setattr(compare, "LEARNED", ())
    cache = cache_root()
    result, failures = compare.measure(two_versions(cache, cache), ["training", "predictions"], 1, 6, False, 2, 32)
    assert failures == [] and [(r["case"], r["impl"]) for r in result] == [
        ("compare/train/x1/b2", "old"), ("compare/train/x1/b2", "new"),
        ("compare/infer/x1/b1", "old"), ("compare/infer/x1/b1", "new"),
    ]  # fmt: skip
    assert all(r["difference"] == 0 for r in result[1::2])


@pytest.mark.parametrize(
    ("low", "high", "word", "code"),
    [(1.03, 1.1, "slower", 1), (1.01, 1.2, "", 0), (0.8, 0.9, "faster", 0), (None, None, "", 0)],
)
def test_verdict_on_a_version(monkeypatch, tmp_path, low, high, word, code):
    ratio = {"ratio": 1.04, "low": low, "high": high}
    given = [
        {**a_row("compare/infer/x1/b1", name, 1, 2.0), "samples": 9, "version": version, **more}
        for name, version, more in (("old", "0123abc", {}), ("new", "working tree", ratio))
    ]
    seen = []
    monkeypatch.setattr(compare, "installed", lambda *revisions: seen.append(revisions) or nullcontext("ab"))
    monkeypatch.setattr(compare, "measure", lambda *arguments: seen.append(arguments) or (given, []))
    file = tmp_path / "rows.json"
    done = CliRunner().invoke(compare.compare, ["HEAD", "--threads", "1", "--no-cold", "--json", str(file)])
    assert done.exit_code == code and rows.read_rows(file) == given
    assert seen == [("HEAD", None), ({"old": "a", "new": "b"}, [*compare.CASES], 1, 40, False)]
    header, _, line, *_ = done.stdout.splitlines()
    assert "old, ms: 0123abc" in header and "new, ms: working tree" in header
    cells = [cell.strip() for cell in line.split("|")[1:-1]]
    interval = "" if low is None else f"{low:.3f} to {high:.3f}"
    assert cells == ["infer/x1/b1", "1", "2.00", "2.00", "9", "1.040", interval, word]
    monkeypatch.setattr(compare, "measure", lambda *arguments: ([], ["a: differs."]))
    done = CliRunner().invoke(compare.compare, ["HEAD", "--threads", "1"])
    assert done.exit_code == 1 and done.stderr.endswith("Error: a: differs.\n") and done.stdout == ""


def test_comparisons_that_cannot_be():
    run = CliRunner().invoke
    done = run(compare.compare, ["HEAD", "--cases", "training,lunch"])
    assert done.exit_code == 2 and "'lunch' is none of training, predictions, first-step." in done.stderr
    assert "'' is none of" in run(compare.compare, ["HEAD", "--cases", ""]).stderr
    assert run(compare.compare, []).exit_code == 2
    assert run(compare.compare, ["no-such-commit", "--threads", "1"]).exit_code == 2
