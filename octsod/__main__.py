"""`python -m octsod`."""

from octsod.cli import main

main(prog_name="octsod")
