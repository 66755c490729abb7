"""`octsod eval`: a network's scores on pictures with masks."""

import contextlib
import csv
import io
import itertools
import json
import pathlib

import click

from . import one_line, report
from .options import (
    MOST_PIXELS,
    check_output,
    device_option,
    load_csnet,
    max_pixels_option,
    model_option,
    overwrite_option,
    quiet_option,
    side_for,
    size_option,
    threads_option,
    use_device,
)
from .progress import Progress, compilation

ALL_SCORES = {  # what --all-scores prints, line by line
    "s_measure": ("S-measure", ""),
    "e_measure_max": ("E max", "   of the mean curve"),
    "e_measure_mean": ("E mean", "   over thresholds"),
    "e_measure_adaptive": ("E adaptive", "   at each picture's own threshold"),
    "weighted_f": ("weighted F", ""),
    "mean_f": ("mean F", "   over thresholds"),
    "adaptive_f": ("adaptive F", "   at each picture's own threshold"),
    "max_f_of_mean_curve": ("max F", "   of the mean curve, as others compute it"),
}


@click.command("eval")
@model_option
@click.option(
    "--data", type=click.Path(exists=True), metavar="DIR|FILE.csv",
    help="Folder with a folder of pictures and one of masks, such as images and masks. For a network of classes: a "
         "folder of folders named after them (of one with train and val, those in val are scored), or a CSV file of "
         "names and classes.",
)  # fmt: skip
@click.option("--images", type=click.Path(exists=True, file_okay=False), metavar="DIR",
              help="Instead of --data, with --masks: the folder of the pictures, whatever its name.")  # fmt: skip
@click.option("--masks", type=click.Path(exists=True, file_okay=False), metavar="DIR",
              help="The folder of their masks, which have the same names but for the suffix.")  # fmt: skip
@max_pixels_option
@size_option
@device_option(help="Where the network runs; auto: as OCTSOD_DEVICE says, else on a GPU, if there is one.")
@threads_option
@click.option("--all-scores", is_flag=True, help="Add the field's other scores: S-measure, E-measure, weighted F, ...")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option("--per-image", type=click.Path(dir_okay=False), metavar="FILE.csv",
              help="Write each picture's F-measure (f: at the data set's best threshold, max_f: at its own) and MAE; "
                   "with --all-scores, the others, too; and how many pixels of its mask are the object.")  # fmt: skip
@click.option("--worst", type=(click.IntRange(1, 100), click.Path(dir_okay=False)), metavar="N FILE.png",
              help="Draw the N pictures with the lowest F-measure at the data set's best threshold.")
@click.option("--curves", type=click.Path(dir_okay=False), multiple=True, metavar="FILE.png|FILE.csv",
              help="Precision, recall and F-measure at each threshold: draw the curves (needs the matplotlib package), "
                   "or write the numbers. For both, give it twice.")  # fmt: skip
@overwrite_option
@quiet_option
@click.pass_context
def evaluate(
    ctx, weights, data, images, masks, max_pixels, size, device, threads, all_scores, as_json, per_image, worst,
    curves, overwrite, quiet,
):  # fmt: skip
    """Score a network on pictures with masks, or on pictures of classes.

    Max F-measure (beta^2 = 0.3, thresholds 0 to 255, precision and recall averaged over the pictures first) and mean
    absolute error. Pictures without a mask are left out. A picture that cannot be scored is named; the rest are scored.
    A mask is white, or anything above 128 of 255, where the object is; one of other numbers or colours cannot be
    scored. Masks without an object are counted: the F-measure of one is 1 where the map is at most the threshold
    everywhere, else about 0.

    Of a network that tells classes apart, it prints the share of pictures whose likeliest class is theirs (top-1), and
    that of each class; --json has the confusion matrix.

    --all-scores adds S-measure, E-measure, weighted F, mean and adaptive F, and max F as other papers compute it, all
    with the conventions of pysodmetrics: each map is stretched to the full range, and F is averaged over pictures.
    """
    if (data is None) == (images is None) or (images is None) != (masks is None):
        raise click.UsageError("Name the data by --data, or by both --images and --masks.")
    count, sheet = worst or (0, None)
    _check_files(per_image, sheet, curves, overwrite)

    import octsod

    from ..checks import shortened
    from ..data.datasets import FolderDataset
    from ..data.images import write_png
    from ..files import write_atomically
    from ..pictures import plots
    from ..studies import figures

    if any(_suffix(path) == ".png" for path in curves):
        plots.require_matplotlib()
    limit = max_pixels or MOST_PIXELS
    model = load_csnet(weights, finds_objects=False)
    size = side_for(model, size)
    use_device(model, device)
    if model.configuration.classes:
        if all_scores or per_image or worst or curves:
            options = "--all-scores, --per-image, --worst and --curves"
            raise click.UsageError(f"{options} are for networks that find salient objects.")
        if masks:
            raise click.UsageError("--images and --masks are for networks that find salient objects; name --data.")
        return _evaluate_classes(ctx, model, weights, data, limit, size, as_json, quiet)
    dataset = FolderDataset(data, images=images, masks=masks, limit=limit)
    _note_left_out(dataset)
    if unpaired := dataset.unpaired:
        shown = ", ".join(shortened(path.name, 80) for path in unpaired[:3]) + (" ..." if len(unpaired) > 3 else "")
        click.echo(one_line(f"Left out, since they have no partner ({len(unpaired)}): {shown}"), err=True)
    failed = 0

    def fail(error):
        nonlocal failed
        failed += 1
        report(error)

    with Progress(len(dataset), "picture", quiet) as progress, compilation(progress) as compiled:
        result = octsod.evaluate(
            model, dataset, size, on_failure=fail, on_progress=progress.update, all_scores=all_scores
        )
        compiled()
    # Before the scores are printed, whose reader may be gone; and a full disk does not cost the scores.
    lost = []
    with _noting(lost, per_image):
        if per_image:
            write_atomically(per_image, _table(result))
    with _noting(lost, sheet):
        if sheet:
            write_png(sheet, _sheet(result, count, dataset, model, size))
    for path in curves:
        with _noting(lost, path):
            if _suffix(path) == ".png":
                plots.write(path, figures.curves, result.scores)
            else:
                write_atomically(path, _curves(result.scores))
    scores, others = result.scores, result.all_scores or {}
    if as_json:
        facts = {
            "max_f": scores.max_f, "mae": scores.mae, "threshold": scores.threshold, **others, "images": result.images,
            "without_object": result.without_object, "failed": failed, "unpaired": len(unpaired),
            "images_per_s": round(result.images_per_s, 2),
            "seconds": round(result.seconds, 3), "network_seconds": round(result.network_seconds, 3),
            "weights": weights, "data": data or [images, masks], "protocol": result.protocol,
        }  # fmt: skip
        click.echo(json.dumps(facts))
    else:
        outside = 1 - result.network_seconds / result.seconds
        click.echo(f"max F     {scores.max_f:8.4f}   at threshold {scores.threshold}")
        click.echo(f"MAE       {scores.mae:8.4f}")
        for name, value in others.items():
            label, remark = ALL_SCORES[name]
            click.echo(f"{label:10}{value:8.4f}{remark}")
        click.echo(f"images    {result.images:8}" + (f"   {failed} failed" if failed else ""))
        if result.without_object:
            click.echo(f"no object {result.without_object:8}   of these; their F is 1 where nothing is found, else 0")
        click.echo(f"images/s  {result.images_per_s:8.1f}   {outside:.1%} of the time outside the network")
    for fault in lost:
        report(fault)
    if lost:
        ctx.exit(2)
    if failed:
        ctx.exit(1)


def _check_files(per_image, sheet, curves, overwrite):
    """Refuse, before any work, files that cannot be written as they are named."""
    named = [("--per-image", per_image), ("--worst", sheet), *(("--curves", path) for path in curves)]
    named = [(option, path) for option, path in named if path is not None]
    for _, path in named:
        check_output(path, overwrite)
    if sheet and _suffix(sheet) != ".png":
        raise click.BadParameter(f"{sheet}: pictures are drawn as PNG; name a .png file.", param_hint="--worst")
    suffixes = [_suffix(path) for path in curves]
    for path, suffix in zip(curves, suffixes, strict=True):
        if suffix not in (".png", ".csv"):
            words = "curves are drawn as PNG or written as CSV; name a .png or .csv file."
            raise click.BadParameter(f"{path}: {words}", param_hint="--curves")
    if len(set(suffixes)) < len(suffixes):
        raise click.UsageError("--curves takes at most one .png and one .csv file.")
    for (option, path), (other, same) in itertools.combinations(named, 2):
        if pathlib.Path(path).resolve() == pathlib.Path(same).resolve():
            raise click.UsageError(f"{option} and {other} both name {same}.")


def _suffix(path):
    return pathlib.Path(path).suffix.lower()


@contextlib.contextmanager
def _noting(lost, path):
    """Within it, an error that keeps the file `path` from being written ends only that; what it says, which names the
    file, is added to `lost`."""
    try:
        yield
    except OSError as error:
        lost.append(f"{path}: cannot be written: {error.strerror or error}.")
    except ValueError as error:  # a FileError, perhaps of a picture that is to be drawn once more
        lost.append(str(error))


def _evaluate_classes(ctx, model, weights, data, limit, size, as_json, quiet):
    """Print the scores of a network that tells classes of pictures apart."""
    from ..data.classes import ClassDataset, find_parts
    from ..evaluation.classification import class_names, evaluate_classes

    dataset, failed = ClassDataset(find_parts(data)[1] or data, class_names(model), limit), 0
    _note_left_out(dataset)

    def fail(error):
        nonlocal failed
        failed += 1
        report(error)

    with Progress(len(dataset), "picture", quiet) as progress, compilation(progress) as compiled:
        result = evaluate_classes(model, dataset, size, on_failure=fail, on_progress=progress.update)
        compiled()
    if as_json:
        click.echo(json.dumps({
            "top1": result.top1, "cross_entropy": result.cross_entropy, "classes": list(result.classes),
            "confusion": result.confusion.tolist(), "images": result.images, "failed": failed, "size": size,
            "weights": weights, "data": data,
        }))  # fmt: skip
    else:
        click.echo(f"top-1           {result.top1:8.4f}")
        click.echo(f"cross-entropy   {result.cross_entropy:8.4f}")
        click.echo(f"images          {result.images:8}" + (f"   {failed} failed" if failed else ""))
        click.echo("\nrecall of each class, and what it is most often mistaken for:")
        for name, share, row in zip(result.classes, result.recall, result.confusion, strict=True):
            others = [(count, other) for count, other in zip(row, result.classes, strict=True) if other != name]
            count, other = max(others)
            click.echo(f"{one_line(name):15} {share:8.1%}" + (f"   {one_line(other)} ({count})" if count else ""))
    if failed:
        ctx.exit(1)


def _note_left_out(dataset):
    from ..data.listing import describe_not_searched, describe_not_taken

    if dataset.not_taken:
        click.echo(one_line(describe_not_taken(dataset.not_taken)), err=True)
    if folders := getattr(dataset, "not_searched", ()):  # classes are searched
        click.echo(one_line(describe_not_searched(folders)), err=True)


def _table(result):
    """The scores of each picture as a CSV file's bytes."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["name", "f", "max_f", "mae", *(result.all_scores or ()), "object_pixels"])
    threshold = result.scores.threshold
    for _, name, scores, object_pixels, others in result.pictures:
        values = [scores.f[threshold], scores.max_f, scores.mae, *(others.as_dict().values() if others else ())]
        writer.writerow([name, *(f"{value:.6f}" for value in values), object_pixels])
    return table.getvalue().encode("utf-8", "surrogateescape")  # file names need not be text


def _curves(scores):
    """The data set's curves as a CSV file's bytes, with all digits of the numbers."""
    columns = (curve.tolist() for curve in (scores.precision, scores.recall, scores.f))
    lines = (f"{threshold},{p!r},{r!r},{f!r}\n" for threshold, (p, r, f) in enumerate(zip(*columns, strict=True)))
    return "".join(["threshold,precision,recall,f\n", *lines]).encode()


def _sheet(result, count, dataset, model, size):
    """The worst pictures, their masks and predictions, with their scores."""
    from ..inference.prediction import predict
    from ..pictures.contact_sheets import contact_sheet

    rows, captions = [], []
    for index, name, scores, *_ in result.worst(count):
        _, image, mask = dataset[index]
        rows.append((image, mask, predict(image, model, size)))
        captions.append(f"{name}, F {scores.f[result.scores.threshold]:.3f}, MAE {scores.mae:.3f}")
    return contact_sheet(rows, captions, ("image", "mask", "prediction"))
