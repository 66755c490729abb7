"""`octsod plot`: draws what training has recorded, as in the paper."""

import json
import pathlib

import click

from . import Failure, one_line, tell
from .options import THRESHOLD, threshold_option


@click.command()
@click.argument("runs", nargs=-1, required=True, type=click.Path(), metavar="RUN...")
@click.option("-o", "--output", type=click.Path(file_okay=False), metavar="DIR",
              help="Folder for the figures; required with several runs.  [default: RUN/plots]")  # fmt: skip
@threshold_option("Show the channels left by pruning with this threshold of gamma.",
                  f"those that the run's own pruning left, or else {THRESHOLD}")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
def plot(runs, output, threshold, as_json):
    """Draw what one or more runs have recorded, together for comparison.

    \b
    gammas.png    the distribution of |gamma|, the scales of the blocks' norms (fig. 5)
    spread.png    the standard deviation of outputs among channels per layer (fig. 4)
    channels.png  channels per block and scale, before and after pruning (fig. 10)
    mae.png       mean absolute error in validation, per epoch (fig. 14)

    If a run pruned its network, gammas and spread show it before pruning. Prints shares of small |gamma|, the mean
    spread, MAE and the channels of the blocks. Needs the matplotlib package.
    """
    if output is None and len(runs) > 1:
        raise click.UsageError("Several runs need -o, the folder for their figures.")

    from ..pictures import plots
    from ..studies import figures
    from ..studies.history import read_history

    plots.require_matplotlib()
    histories = [read_history(run, name, threshold) for run, name in zip(runs, _names(runs), strict=True)]
    folder = pathlib.Path(runs[0], "plots") if output is None else pathlib.Path(output)
    drawn = {"gammas": figures.gammas, "spread": figures.spreads, "channels": figures.channels, "mae": figures.mae}
    has = [_recorded(history) for history in histories]
    for run, recorded in zip(runs, has, strict=True):
        if lacking := [f"{name}.png" for name in drawn if not recorded[name]]:
            click.echo(one_line(f"{run}: left out of {', '.join(lacking)}: nothing recorded for that yet."), err=True)
    paths = []
    for name, draw in drawn.items():
        if shown := [history for history, recorded in zip(histories, has, strict=True) if recorded[name]]:
            folder.mkdir(parents=True, exist_ok=True)
            paths.append(folder / f"{name}.png")
            plots.write(paths[-1], draw, shown)
    if not paths:
        raise Failure(f"{', '.join(runs)}: nothing is recorded yet that could be drawn.")
    summaries = [{"run": run, **history.summary()} for run, history in zip(runs, histories, strict=True)]
    if as_json:
        tell(json.dumps({"runs": summaries, "figures": list(map(str, paths))}))
        return
    for line in _table(summaries):
        tell(line)
    click.echo(one_line(f"figures in {folder}: {', '.join(path.name for path in paths)}"), err=True)


def _names(runs):
    """The runs' names in figures: the names of their folders, or their paths if those names are ambiguous."""
    names = [pathlib.Path(run).resolve().name for run in runs]
    return [one_line(name) for name in (names if len(set(names)) == len(names) else runs)]


def _recorded(history):
    """For each figure, whether the run has recorded what it shows."""
    return {
        "gammas": history.counts is not None, "spread": bool(history.spreads), "channels": history.full is not None,
        "mae": bool(history.mae),
    }  # fmt: skip


def _table(summaries):
    """Lines: a run, shares of small gammas, mean spread, last and best MAE, channels left of those before pruning."""
    form = lambda value, spec: "-" if value is None else format(value, spec)  # noqa: E731
    below = (f"|g|<{power}" for power in summaries[0]["below"])
    rows = [("run", "epochs", *below, "spread", "MAE", "best", "channels")]
    for s in summaries:
        full, left = s["channels"]
        rows.append((
            s["name"], str(s["epochs"]), *(form(share, ".1%") for share in s["below"].values()),
            *(form(s[key], ".4f") for key in ("spread", "mae", "best_mae")), f"{left} of {full}" if full else "-",
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for first, *others in rows:
        yield f"{first:<{widths[0]}}" + "".join(f"   {t:>{w}}" for t, w in zip(others, widths[1:], strict=True))
