"""`octsod info`: a network's layers, parameters and multiply-accumulates."""

import json

import click

from .options import existing_file, side_for, size_option, split_option, width_option


@click.command()
@width_option
@split_option
@click.option("--weights", type=existing_file(), metavar="FILE", help="Describe the network in a weight file instead.")
@size_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.pass_context
def info(ctx, width, split, weights, size, as_json):
    """Show a network's layers, parameters and MACs.

    MACs (multiply-accumulates) are for one picture, counted as CSNet's authors count them.
    """
    import octsod

    if weights is not None:
        if any(ctx.get_parameter_source(name).name != "DEFAULT" for name in ("width", "split")):
            raise click.UsageError("--weights already determines the network; leave --width and --split out.")
        model, facts = octsod.load(weights), {"weights": weights}
    else:
        model, facts = octsod.csnet(width, split), {"width": width, "split": [share / sum(split) for share in split]}
    size = side_for(model, size)
    cost = octsod.complexity(model, (size, size))
    if as_json:
        click.echo(json.dumps({**facts, "size": size, "parameters": cost.parameters, "macs": cost.macs}))
        return
    for row in _table(model, size):
        click.echo(row)
    click.echo(f"\n{cost.parameters:,} parameters, {cost.macs:,} MACs at {size}x{size}")


def _table(model, size):
    """Lines: a block, the side of its finest output, output channels per branch (fine to coarse), parameters."""
    c, fusion = model.configuration, model.fusion
    rows = [("layer", "size", "channels", "parameters")]
    for s, (stage, channels) in enumerate(zip(model.extractor.stages, c.stages, strict=True)):
        if s >= 2:
            size //= 2
        for b, (block, outputs) in enumerate(zip(stage, channels, strict=True)):
            rows.append((f"stage{s}.{b}", size, block, outputs))
        if s == 2:
            fused = size
    rows.append(("fusion.fuse", fused, fusion.fuse, c.fuse))
    rows.append(("fusion.dilated", fused, fusion.dilated, [sum(scale) for scale in c.dilated]))
    rows.append(("fusion.merge", fused, fusion.merge, [c.merge]))
    rows.append(("classifier", fused, model.classifier, [1]))
    yield "{:<16}{:>6}   {:<16}{:>12}".format(*rows[0])
    for name, side, module, channels in rows[1:]:
        parameters = sum(p.size for p in module.parameters())
        yield f"{name:<16}{side:>6}   {' + '.join(map(str, channels)):<16}{parameters:>12,}"
