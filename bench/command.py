"""What all measuring commands have in common: their options, and what they do with their rows."""

import functools
import os
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

import click

import octsod
from octsod.cli.options import threads_option

from .ratios import summary
from .rows import comparison, read_rows, write_rows


class Outcome(NamedTuple):
    """rows: see rows.py. lines: what to print about them. failures: a sentence each; with any, the exit code is 1."""

    rows: list
    lines: list
    failures: Sequence[str] = ()


def measurement(function):
    """Make a click command of a function `(threads, **its own options) -> Outcome`."""

    @click.command(name=function.__name__, help=function.__doc__)
    @threads_option
    @json_option
    @click.option("--compare", type=_Rows(), metavar="BASE.json", help="Show what has changed since these rows.")
    @functools.wraps(function)
    def run(threads, json_file, compare, **options):
        threads = use_threads(threads)
        outcome = function(threads, **options)
        if json_file is not None:
            write_rows(json_file, outcome.rows)
        tables = [outcome.lines, summary(outcome.rows), comparison(outcome.rows, compare) if compare else []]
        click.echo("\n\n".join("\n".join(lines) for lines in tables if lines))
        for failure in outcome.failures:
            click.echo(f"Error: {failure}", err=True)
        if outcome.failures:
            raise SystemExit(1)

    return run


rounds_option = functools.partial(
    click.option, "--rounds", type=click.IntRange(min=1), show_default=True, metavar="N", help="Turns of each."
)


class _File(click.Path):
    """A file to be written at the end; its folder is checked now."""

    def __init__(self):
        super().__init__(dir_okay=False, writable=True, path_type=pathlib.Path)

    def convert(self, value, param, ctx):
        path = super().convert(value, param, ctx)
        if not path.parent.is_dir():
            self.fail(f"{path.parent}: no such folder.", param, ctx)
        return path


json_option = click.option(
    "--json", "json_file", type=_File(), metavar="FILE", help="Write the rows here, as one list."
)


class _Rows(click.ParamType):
    name = "file"

    def convert(self, value, param, ctx):
        return value if isinstance(value, list) else read_rows(value)


def use_threads(threads):
    """Set the number of threads for octsod in this process, and for all libraries in the processes that it starts from
    now on; None for octsod's own choice. Returns the number."""
    threads = threads or octsod.get_num_threads()
    for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OCTSOD_THREADS"):
        os.environ[variable] = str(threads)
    octsod.set_num_threads(threads)
    return threads


def say(text):
    """Report progress on standard error."""
    click.echo(text, err=True)
