"""`python -m bench gpu`."""

import click

from octsod.testing import cusim
from octsod.testing.cusim import nvrtc

from ..command import json_option
from ..problems import configuration
from ..ratios import summary
from ..rows import write_rows
from . import measured, predicted, resources, section


@click.command()
@click.option("--predict", is_flag=True, help="Count what a step and a prediction ask of a GPU; needs g++, but no GPU.")
@click.option("--table", is_flag=True, help=f"Write {resources.TABLE.name} anew; needs g++ and NVRTC, but no GPU.")
@json_option
def gpu(predict, table, json_file):
    """CSNet-x1 at 224x224 on a GPU: results, then times, against PyTorch's on the same GPU.

    A training step at batch 24, predictions of 1 and 64 pictures, single kernels. Takes at most five minutes of a GPU;
    --predict takes a minute or two of a CPU. Prints the part of RESULTS.md that is about GPUs.
    """
    if predict and table:
        raise click.UsageError("--predict and --table are two commands.")
    if (predict or table) and cusim.unavailable():
        raise click.ClickException(cusim.unavailable())
    if table:
        if nvrtc.unavailable():
            raise click.ClickException(nvrtc.unavailable())
        resources.write()
        return

    def keep(rows):
        if json_file is not None:
            write_rows(json_file, rows)

    if predict:
        rows, failures = predicted.counted(configuration("x1")), []
    else:
        rows, failures = measured.measured(*measured.found(), keep)
    keep(rows)
    ratios = summary(rows)
    click.echo("\n".join([f"## {section.TITLE}", "", *section.lines_of(rows), *(["", *ratios] if ratios else [])]))
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    if failures:
        raise SystemExit(1)
