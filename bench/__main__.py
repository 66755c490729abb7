"""`python -m bench COMMAND`, from a checkout."""

import click

from .gate import gate

if __name__ == "__main__":
    commands = click.Group("bench", {"gate": gate}, help="Benchmarks of octsod against its peers.")
    commands.main(prog_name="python -m bench")
