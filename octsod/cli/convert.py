"""`octsod convert`: turns the authors' released checkpoints into weight files."""

import click

from .options import check_output, existing_file, overwrite_option


@click.command()
@click.argument("checkpoint", type=existing_file(), metavar="CKPT.pth.tar")
@click.option(
    "--config", required=True, type=existing_file(), metavar="LAYERS.bin", help="The layer configuration, a .bin file."
)
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), metavar="W.safetensors")
@overwrite_option
def convert(checkpoint, config, output, overwrite):
    """Convert a checkpoint released by CSNet's authors.

    Neither file is trusted: both are read without PyTorch, and nothing in them is executed.
    """
    from ..interop.sod100k import read_model
    from ..models.files import save
    from ..prune.counts import complexity

    check_output(output, overwrite)
    model = read_model(checkpoint, config)
    save(model, output)
    click.echo(f"{output}: CSNet with {complexity(model).parameters:,} parameters", err=True)
