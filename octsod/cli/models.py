"""`octsod models`: the networks that come with octsod."""

import json

import click

from . import Failure


@click.command()
@click.argument("name", required=False, metavar="[NAME]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON and nothing else.")
def models(name, as_json):
    """List the networks that come with octsod, the best first, with their scores; of one, print the model card.

    --model NAME uses one of them, in predict, eval, export, prune and info; --init NAME, in train, begins with it.
    """
    from ..models.shipped import networks, unknown

    found = networks()
    if name is not None:
        found = [network for network in found if network.name == name]
        if not found:
            raise Failure(f"{name}: {unknown(name)}")
    if as_json:
        facts = [network.as_dict() for network in found]
        click.echo(json.dumps(facts if name is None else facts[0]))
    elif name is not None:
        click.echo(found[0].card, nl=False)
    else:
        from rich.console import Console

        Console().print(_table(found))


def _table(networks):
    from rich.table import Table

    sets = list(dict.fromkeys(data for network in networks for data in network.scores))
    table = Table(box=None, pad_edge=False)
    table.add_column("name", no_wrap=True)
    for column in ("parameters", "MACs", "size", *(f"{data}: {score}" for data in sets for score in ("max F", "MAE"))):
        table.add_column(column, justify="right")
    table.add_column("trained")
    for network in networks:
        scores = [network.scores.get(data, {}).get(score) for data in sets for score in ("max_f", "mae")]
        table.add_row(
            network.name, f"{network.parameters:,}", f"{network.macs / 1e6:,.0f} M", f"{network.size}",
            *("-" if score is None else f"{score:.4f}" for score in scores), network.training,
        )  # fmt: skip
    return table
