"""What the guides show really runs, block by block, and prints what they say that it prints.

A `python` block is executed, in one namespace per guide; an `sh` block is run by bash; a block with a title is a file.
A `text` block is what the block before it has printed: `...` stands for anything. After the comment `numbers vary` only
words are compared, and after `of one machine` only the names of kernels, since what binds them varies, too.
"""

import contextlib
import importlib.util
import io
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from commands import ROOT
from sybil import Sybil
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser, SkipParser
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

GUIDES = sorted((ROOT / "docs" / "guides").glob("*.md"))
NUMBERS_VARY, OF_ONE_MACHINE = "<!-- numbers vary -->", "<!-- of one machine -->"
# What commands tell on standard error of how far they are: the guides show what comes then.
PROGRESS = re.compile(r"^(compiling kernels: .*|\d+ kernels? compiled in .*|case \d+/\d+.*)\n", re.MULTILINE)

# What a guide cannot do without.
NEEDS = {
    "cuda-without-gpu": (shutil.which("g++"), "g++ is not installed"),
    "write-a-kernel": (importlib.util.find_spec("matplotlib"), "matplotlib is not installed"),
}

_execute = PythonEvaluator()


def run_python(example):
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        _execute(example)
    example.namespace["__printed__"] = printed.getvalue()


def run_sh(example):
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", str(example.parsed)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, f"{example.path}, line {example.line}: exit code {done.returncode}\n{done.stdout}"
    example.namespace["__printed__"] = PROGRESS.sub("", done.stdout)


def files(document):
    """A parser of blocks such as ```python title="ops.py"."""
    for region in FencedCodeBlockLexer(r'\w+ title="[^"]+"')(document):
        region.parsed = region.lexemes["language"].split('"')[1], region.lexemes["source"]
        region.evaluator = write_file
        yield region


def write_file(example):
    name, text = example.parsed
    pathlib.Path(name).write_text(text, encoding="utf-8")


def compare_text(example):
    printed, shown = example.namespace["__printed__"], str(example.parsed)
    where, before = f"{example.path}, line {example.line}", example.document.text[: example.region.start].rstrip()
    if before.endswith(OF_ONE_MACHINE):
        names = set(re.findall(r"\b[a-z_]+\.[a-z_]+\b", shown))
        assert names and all(name in printed for name in names), f"{where}: printed was\n{printed}"
        return
    vary = before.endswith(NUMBERS_VARY)
    pattern = re.escape(squeezed(shown, vary)).replace(re.escape("..."), ".*")
    assert re.fullmatch(pattern, squeezed(printed, vary), re.DOTALL), f"{where}: printed was\n{printed}"


def squeezed(text, vary):
    """The text without spaces at the ends of lines; where numbers vary, as words in a row, with # for each number."""
    if vary:
        text = re.sub(r"\d[\d.,:]*(e[-+]\d+)?", "#", text)
        return " ".join(text.split())
    return re.sub(r"[ \t]+\n", "\n", text).strip()


BLOCKS = Sybil(
    parsers=[
        CodeBlockParser("python", run_python), CodeBlockParser("sh", run_sh), CodeBlockParser("text", compare_text),
        files, SkipParser(),
    ],
)  # fmt: skip


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """A folder to work in, as a reader's: with docs/ beside it, and `octsod` and `python` on the path."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, arguments in (("octsod", " -m octsod"), ("python", ""), ("pytest", " -m pytest")):
        (commands / name).write_text(f'#!/bin/sh\nexec "{sys.executable}"{arguments} "$@"\n')
        (commands / name).chmod(0o755)
    folder = tmp_path / "desk"
    folder.mkdir()
    (folder / "docs").symlink_to(ROOT / "docs")
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setenv("PATH", f"{commands}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_a_guide(guide, desk):
    there, reason = NEEDS.get(guide.stem, (True, ""))
    if not there:
        pytest.skip(reason)
    for example in BLOCKS.parse(guide).examples():
        example.evaluate()
