"""How tests call commands."""

import os
import pathlib
import subprocess
import sys

from click.testing import CliRunner

import octsod
from octsod.cli import main

ROOT = pathlib.Path(octsod.__file__).parents[1]


def run(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments], prog_name="octsod")


def refused(*arguments, code=2):
    """The last line on standard error of a call that must fail without a traceback."""
    result = run(*arguments)
    assert result.exit_code == code, result.output
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert result.stdout == ""
    line = result.stderr.strip().splitlines()[-1]
    assert line.startswith("Error: "), result.stderr
    return line


def octsod_process(*arguments, redirect=subprocess.PIPE, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "octsod", *map(str, arguments)], env=environment, text=True, stdout=redirect,
        stderr=redirect, **options,
    )  # fmt: skip
