"""Versions of octsod side by side: how they are installed, and what is run in them.

Loading this module does not import octsod: a child imports it from the installation that it measures. What runs there
uses only names that all versions have, those of octsod's public interface.
"""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import click

from .children import Block, ChildError
from .problems import configuration, drawn, masks, pictures

ROOT = pathlib.Path(__file__).resolve().parent.parent  # of the checkout
WORKING_TREE = "working tree"


class VersionError(click.ClickException):
    """A version that does not exist or cannot be installed, in one sentence. Commands treat it as bad input."""

    exit_code = 2


@dataclass(frozen=True)
class Version:
    """title: a commit's short name, or `WORKING_TREE`. packages: the folder that contains octsod. cache: where its
    compiled kernels go."""

    title: str
    packages: pathlib.Path
    cache: pathlib.Path


# How they are installed ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def installed(*revisions, root=ROOT):
    """A `Version` for each git revision (None: the working tree), in folders that exist as long as the context."""
    commits = [None if revision is None else commit_of(revision, root) for revision in revisions]
    with tempfile.TemporaryDirectory(prefix="octsod-versions-") as name:
        versions = []
        for number, commit in enumerate(commits):
            folder = pathlib.Path(name).resolve() / str(number)
            tree = folder / "tree"
            tree.mkdir(parents=True)
            if commit is None:
                export_working_tree(tree, root)
            else:
                export_commit(commit, tree, root)
            versions.append(install(WORKING_TREE if commit is None else commit[:10], tree, folder))
        yield versions


def commit_of(revision, root=ROOT):
    """The full name of the commit that `revision` means. Raises VersionError."""
    return _git(root, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}", no=f"commit {revision!r}").strip()


def export_commit(commit, folder, root=ROOT):
    """Put the files of a commit into an empty folder."""
    with tempfile.TemporaryDirectory() as name:
        archive = os.path.join(name, "commit.zip")
        _git(root, "archive", "--format=zip", f"--output={archive}", commit, no=f"commit {commit}")
        shutil.unpack_archive(archive, folder)


def export_working_tree(folder, root=ROOT):
    """Put the files of the checkout as they are now into `folder`, new ones too, but not those that git ignores."""
    listed = _git(root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", no="git repository")
    for name in listed.split("\0"):
        if name and (root / name).is_file():  # a file that has been deleted is still listed
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / name)


def _git(root, *arguments, no):
    """What git prints. If git fails, raises VersionError; `no` is what is then missing."""
    try:
        done = subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True)
    except FileNotFoundError:
        raise VersionError("git is not installed, which exports the versions to compare.") from None
    if done.returncode:
        raise VersionError(f"There is no {no} in {root}.")
    return done.stdout


def install(title, tree, folder):
    """Install the files of the folder `tree` in a folder of its own inside `folder`; returns the `Version`."""
    packages = folder / "packages"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(packages), str(tree)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise VersionError(f"{title} cannot be installed: {_last_line(done.stderr)}")
    return Version(title, packages, folder / "cache")


def _last_line(text):
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it does not say why.")


# What is run in them -------------------------------------------------------------------------------------------------


def within(version, build, *arguments):
    """`build(*arguments)` with the octsod of a version, for a process that has imported none yet."""
    os.environ["OCTSOD_CACHE_DIR"] = str(version.cache)
    sys.path.insert(0, str(version.packages))
    import octsod

    if not pathlib.Path(octsod.__file__).resolve().is_relative_to(version.packages.resolve()):
        raise RuntimeError(f"{version.title} was to be measured, but octsod is {octsod.__file__}")
    return build(*arguments)


def training_step(batch, size, threads):
    """The recipe's step of a new CSNet-x1: forward, binary cross-entropy, backward, dynamic decay, Adam.

    The results are all arrays of the model before two steps, and how much these have changed them. A change is small
    next to a weight, so a wrong one would not show in their sum.
    """
    import octsod
    from octsod import training

    octsod.set_num_threads(threads)
    octsod.manual_seed(0)
    model = octsod.csnet()
    before = {name: array.copy() for name, array in model.state_dict().items()}
    recipe = training.Recipe()
    # A recipe makes its trainer; before tasks came, a trainer took its recipe.
    trainer = recipe.trainer(model) if hasattr(recipe, "trainer") else training.Trainer(model, recipe)
    x, y = pictures(batch, size), masks(batch, size)

    def step():
        trainer.step(x, y)  # what it returns is not the same in all versions

    def results():
        return before | {f"change of {name}": array - before[name] for name, array in model.state_dict().items()}

    step()  # the first of two; the caller asks for the second
    return Block(step, results)


def prediction(name, batch, size, threads):
    """Logits of the network `name` of `problems.configuration`."""
    import octsod
    from octsod import inference

    octsod.set_num_threads(threads)
    frozen = inference.freeze(drawn(configuration(name)))
    x, state = pictures(batch, size), {}

    def step():
        state["logits"] = inference.logits(frozen, x)

    return Block(step, lambda: dict(state))


def first_step(version, cache, threads):
    """Seconds from the start of `octsod train` on its embedded data to the end of its first training step.

    cache: the folder of compiled kernels, empty for a cold start. Raises ChildError.
    """
    environment = {**os.environ, "PYTHONPATH": str(version.packages), "OCTSOD_CACHE_DIR": str(cache)}
    with tempfile.TemporaryDirectory() as folder:
        # A second step follows, so that the first is not the last of its run, which does more.
        options = ["--steps", "2", "--verbose", "--threads", str(threads), "--output", "run"]
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, "-m", "octsod", "train", *options],
            cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        said = ""
        try:
            for line in process.stderr:
                if line.startswith("step 1/"):
                    return time.perf_counter() - start
                said = line.strip() or said
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
    raise ChildError(f"`octsod train` ended before its first step: {said or 'it does not say why.'}")
