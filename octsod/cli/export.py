"""`octsod export`: writes a network for other engines."""

import click

from .options import check_output, load_csnet, model_option, overwrite_option, side_for, size_option


@click.command()
@model_option
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), metavar="MODEL.onnx")
@size_option
@overwrite_option
def export(weights, output, size, overwrite):
    """Write a network as an ONNX file.

    Input `image` (N, 3, SIZE, SIZE), normalised as the file's description says; outputs `logits` and `salience`,
    their sigmoid, (N, 1, SIZE, SIZE). Float32, for batches of any length, with batch norm folded into the convolutions.
    Needs the onnx package.
    """
    import octsod

    check_output(output, overwrite)
    model = load_csnet(weights)
    size = side_for(model, size, runs=False)
    octsod.export_onnx(model, output, (size, size))
    click.echo(f"{output}: CSNet with {octsod.complexity(model).parameters:,} parameters, for {size}x{size}", err=True)
