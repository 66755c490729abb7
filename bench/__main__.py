"""`python -m bench COMMAND`, from a checkout."""

import click

from .compare import compare
from .gpu.command import gpu
from .kernels import kernels
from .network import blocks, infer, scaling, subnormals, train
from .profiler import profiler
from .report import report

COMMANDS = (kernels, blocks, train, infer, scaling, subnormals, profiler, compare, gpu, report)

if __name__ == "__main__":
    commands = click.Group(
        "bench", {c.name: c for c in COMMANDS}, help="Benchmarks of octsod: against its peers, its versions, itself."
    )
    commands.main(prog_name="python -m bench")
