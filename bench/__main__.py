"""`python -m bench COMMAND`, from a checkout."""

import click

from .gate import gate
from .kernels import kernels
from .network import infer, scaling, subnormals, train
from .report import report

COMMANDS = (kernels, train, infer, gate, scaling, subnormals, report)

if __name__ == "__main__":
    commands = click.Group("bench", {c.name: c for c in COMMANDS}, help="Benchmarks of octsod against its peers.")
    commands.main(prog_name="python -m bench")
