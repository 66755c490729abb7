"""The tables and the picture of results.md: networks side by side, scored by the same code.

    python docs/results.py --data ECSSD [--size PIXELS] [--curves FILE.png] NAME=FILE ...

A FILE is a weight file, a run's folder, or the name of a network that comes with octsod.
"""

import pathlib

import click

import octsod
from octsod.pictures.plots import COLOURS, require_matplotlib

ROWS = {  # what `Evaluation.all_scores` has, as papers call it
    "s_measure": "S-measure",
    "e_measure_mean": "E-measure, mean",
    "e_measure_max": "E-measure, max",
    "e_measure_adaptive": "E-measure, adaptive",
    "weighted_f": "weighted F",
    "mean_f": "F, mean",
    "adaptive_f": "F, adaptive",
    "max_f_of_mean_curve": "F, max of the mean curve",
}


def named(ctx, param, values):
    """(name, weights) of each NAME=FILE."""
    pairs = [value.partition("=") for value in values]
    if odd := [name for name, _, path in pairs if not path]:
        raise click.BadParameter(f"{odd[0]} is not NAME=FILE.")
    found = {name: path for name, _, path in pairs}
    if len(found) < len(pairs):
        raise click.BadParameter("a NAME is given twice.")
    return found


def writable(ctx, param, path):
    """A file to write, whose folder is there."""
    if path and not pathlib.Path(path).parent.is_dir():
        raise click.BadParameter(f"there is no folder {pathlib.Path(path).parent}.")
    return path


def table(results):
    """The lines of a Markdown table of `Evaluation`s by name."""
    found = list(results.values())
    rows = {"**max F**": [r.max_f for r in found], "**MAE** (the lower the better)": [r.mae for r in found]}
    rows |= {words: [r.all_scores[name] for r in found] for name, words in ROWS.items()}
    yield f"| | {' | '.join(results)} |"
    yield f"|---|{'---|' * len(results)}"
    for words, values in rows.items():
        yield f"| {words} | {' | '.join(f'{value:.4f}' for value in values)} |"


def draw(results, path):
    """Precision over recall, and F over the threshold, of all networks."""
    from matplotlib.figure import Figure

    figure = Figure((9, 4.4), layout="constrained")
    plane, course = figure.subplots(1, 2)
    for colour, (name, result) in zip(COLOURS, results.items(), strict=False):
        some = result.scores.recall > result.scores.recall[-1]  # at the last threshold, nothing is found
        plane.plot(result.scores.recall[some], result.scores.precision[some], color=colour, label=name)
        course.plot(result.scores.f, color=colour, label=name)
    plane.set(xlabel="recall", ylabel="precision", xlim=(0.5, 1), ylim=(0.5, 1), title="Precision over recall")
    course.set(xlabel="threshold", ylabel="F-measure", xlim=(0, 255), ylim=(0.5, 1), title="F-measure over threshold")
    course.legend(frameon=False, loc="lower center")
    for plot in (plane, course):
        plot.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)


@click.command()
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--size", type=int, metavar="PIXELS", help="[default: that of each network's training]")
@click.option("--curves", type=click.Path(dir_okay=False), callback=writable, metavar="FILE.png")
@click.argument("networks", nargs=-1, required=True, callback=named, metavar="NAME=FILE...")
def main(data, size, curves, networks):
    """Score networks on a data set, and print a table of their scores."""
    try:
        if curves:
            require_matplotlib()
        models = {name: octsod.load(path) for name, path in networks.items()}
        results = {name: octsod.evaluate(model, data, size, all_scores=True) for name, model in models.items()}
    except (octsod.errors.OctsodError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    click.echo("\n".join(table(results)))
    if curves:
        draw(results, curves)


if __name__ == "__main__":
    main()
