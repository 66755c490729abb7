"""`python -m octsod`."""

from .cli import main

main(prog_name="octsod")
