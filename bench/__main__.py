"""`python -m bench COMMAND`, from a checkout."""

import click

from .gate import gate

if __name__ == "__main__":
    click.Group("bench", {"gate": gate}, help="Benchmarks of octsod against its peers.").main(prog_name="python -m bench")
