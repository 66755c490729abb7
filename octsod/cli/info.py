"""`octsod info`: a network's layers, parameters and multiply-accumulates."""

import itertools
import json

import click

from .options import (
    WeightFile,
    as_options,
    fused_option,
    load_csnet,
    side_for,
    size_option,
    split_option,
    variant_option,
    width_option,
)


@click.command()
@width_option
@split_option
@variant_option
@fused_option
@click.option("--model", "--weights", "weights", type=WeightFile(exists=True), metavar="NAME|FILE|RUN",
              help="Instead, describe a network that comes with octsod (see octsod models), that of a weight file, or "
                   "the best of a run's folder.")  # fmt: skip
@size_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.pass_context
def info(ctx, width, split, variant, fused, weights, size, as_json):
    """Show a network's layers, parameters and MACs.

    MACs (multiply-accumulates) are for one picture, counted as CSNet's authors count them.
    """
    import octsod

    if weights is not None:
        own = ("width", "split", "variant", "fused")
        if any(ctx.get_parameter_source(name).name != "DEFAULT" for name in own):
            options = ", ".join(f"--{name}" for name in own[:-1])
            raise click.UsageError(f"--model already determines the network; leave {options} and --{own[-1]} out.")
        model, facts = load_csnet(weights, finds_objects=False), {"weights": weights}
    else:
        from ..training.session import require_network

        with as_options():
            require_network({"width": width, "split": split, "variant": variant, "fused": fused})
        model = octsod.csnet(width, split, variant, fused)
        facts = {
            "width": width, "split": [share / sum(split) for share in split], "variant": variant,
            "fused": model.configuration.fused,
        }  # fmt: skip
    size = side_for(model, size, runs=False)
    cost = octsod.complexity(model, (size, size))
    if as_json:
        click.echo(json.dumps({**facts, "size": size, "parameters": cost.parameters, "macs": cost.macs}))
        return
    for row in _table(model.configuration, size):
        click.echo(row)
    click.echo(f"\n{cost.parameters:,} parameters, {cost.macs:,} MACs at {size}x{size}")


def _table(configuration, size):
    """Lines: a block, the side of its finest output, output channels per branch (fine to coarse), parameters."""
    from ..prune.counts import parameter_count

    blocks = [list(layers) for _, layers in itertools.groupby(configuration.layers(), lambda layer: layer.block)]
    width = max(len(layers[0].block) for layers in blocks) + 2
    yield f"{'layer':<{width}}{'size':>6}   {'channels':<16}{'parameters':>12}"
    for layers in blocks:
        last, parameters = layers[-1], sum(map(parameter_count, layers))
        channels = " + ".join(map(str, last.outputs))
        note = "  in training only" if last.training_only else ""
        yield f"{last.block:<{width}}{size >> last.scale:>6}   {channels:<16}{parameters:>12,}{note}"
