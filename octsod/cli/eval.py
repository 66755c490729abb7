"""`octsod eval`: a network's scores on pictures with masks."""

import csv
import io
import json
import pathlib

import click

from . import report
from .options import check_output, existing_file, overwrite_option, side_for, size_option, threads_option
from .progress import Progress


@click.command("eval")
@click.option("--weights", required=True, type=existing_file(), metavar="FILE", help="Weight file of the network.")
@click.option(
    "--data", required=True, type=click.Path(exists=True, file_okay=False), metavar="DIR",
    help="Folder with a folder of pictures and one of masks, such as images and masks.",
)  # fmt: skip
@size_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--per-image", type=click.Path(dir_okay=False), metavar="FILE.csv",
              help="Write each picture's F-measure (f: at the data set's best threshold, max_f: at its own) and MAE.")
@click.option("--worst", type=(click.IntRange(1, 100), click.Path(dir_okay=False)), metavar="N FILE.png",
              help="Draw the N pictures with the lowest F-measure at the data set's best threshold.")
@overwrite_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def evaluate(ctx, weights, data, size, threads, as_json, per_image, worst, overwrite, quiet):
    """Score a network on pictures with masks.

    Max F-measure (beta^2 = 0.3, thresholds 0 to 255, precision and recall averaged over the pictures first) and mean
    absolute error. Pictures without a mask are left out. A picture that cannot be scored is named; the rest are scored.
    """
    count, sheet = worst or (0, None)
    for path in filter(None, (per_image, sheet)):
        check_output(path, overwrite)
    if sheet and pathlib.Path(sheet).suffix.lower() != ".png":
        raise click.BadParameter(f"{sheet}: pictures are drawn as PNG; name a .png file.", param_hint="--worst")
    if sheet and per_image and pathlib.Path(sheet).resolve() == pathlib.Path(per_image).resolve():
        raise click.UsageError(f"--per-image and --worst both name {sheet}.")

    import octsod

    from ..data.datasets import FolderDataset
    from ..data.images import write_png
    from ..files import write_atomically

    model = octsod.load(weights)
    size = side_for(model, size)
    dataset = FolderDataset(data)
    if unpaired := dataset.unpaired:
        shown = ", ".join(path.name for path in unpaired[:3]) + (" ..." if len(unpaired) > 3 else "")
        click.echo(f"Left out, since they have no partner ({len(unpaired)}): {shown}", err=True)
    failed = 0

    def fail(error):
        nonlocal failed
        failed += 1
        report(error)

    with Progress(len(dataset), "picture", quiet) as progress:
        result = octsod.evaluate(model, dataset, size, on_failure=fail, on_progress=progress.update)
    scores = result.scores
    if as_json:
        facts = {
            "max_f": scores.max_f, "mae": scores.mae, "threshold": scores.threshold, "images": result.images,
            "failed": failed, "unpaired": len(unpaired), "images_per_s": round(result.images_per_s, 2),
            "seconds": round(result.seconds, 3), "network_seconds": round(result.network_seconds, 3),
            "weights": weights, "data": data, "protocol": result.protocol,
        }  # fmt: skip
        click.echo(json.dumps(facts))
    else:
        outside = 1 - result.network_seconds / result.seconds
        click.echo(f"max F     {scores.max_f:8.4f}   at threshold {scores.threshold}")
        click.echo(f"MAE       {scores.mae:8.4f}")
        click.echo(f"images    {result.images:8}" + (f"   {failed} failed" if failed else ""))
        click.echo(f"images/s  {result.images_per_s:8.1f}   {outside:.1%} of the time outside the network")
    # Only now that the scores have been printed: a full disk must not cost them.
    if per_image:
        write_atomically(per_image, _table(result))
    if sheet:
        write_png(sheet, _sheet(result, count, dataset, model, size))
    if failed:
        ctx.exit(1)


def _table(result):
    """The scores of each picture as a CSV file's bytes."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["name", "f", "max_f", "mae"])
    threshold = result.scores.threshold
    for _, name, scores in result.pictures:
        writer.writerow([name, *(f"{value:.6f}" for value in (scores.f[threshold], scores.max_f, scores.mae))])
    return table.getvalue().encode("utf-8", "surrogateescape")  # file names need not be text


def _sheet(result, count, dataset, model, size):
    """The worst pictures, their masks and predictions, with their scores."""
    from ..inference.prediction import predict
    from ..pictures.contact_sheets import contact_sheet

    rows, captions = [], []
    for index, name, scores in result.worst(count):
        _, image, mask = dataset[index]
        rows.append((image, mask, predict(image, model, size)))
        captions.append(f"{name}, F {scores.f[result.scores.threshold]:.3f}, MAE {scores.mae:.3f}")
    return contact_sheet(rows, captions, ("image", "mask", "prediction"))
