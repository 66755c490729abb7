"""`octsod prune`: makes a network smaller by removing the channels that matter least."""

import json
import os
import pathlib

import click

from . import Failure, report, say, tell
from .options import (
    MOST_PIXELS,
    THRESHOLD,
    GivenPath,
    Number,
    WeightFile,
    check_output,
    max_pixels_option,
    overwrite_option,
    side_for,
    size_option,
    threads_option,
    threshold_option,
)
from .progress import Progress

PICTURES = 8  # on which the effect of pruning is measured
LOW, SHARE = 1e-2, 0.1  # thresholds and shares that are worth a try


@click.command()
@click.argument("source", required=False, type=GivenPath(), metavar="[RUN|WEIGHTS]")
@click.option("--model", type=WeightFile(exists=True), metavar="NAME|FILE|RUN",
              help="Instead: a network that comes with octsod (see octsod models), a weight file, or the folder of a "
                   "run: its best weights.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False), metavar="W.safetensors")
@click.option("--criterion", type=click.Choice(["gamma", "l1", "geometric-median"]), default="gamma", show_default=True,
              help="Score by batch norm's scale, the norm of filters, or how replaceable these are.")  # fmt: skip
@threshold_option("Remove all channels with a lower score.", f"{THRESHOLD}, of gamma")
@click.option("--ratio", type=Number(0, 1, min_open=True, max_open=True), metavar="R",
              help="Remove this share of all channels instead.")  # fmt: skip
@click.option("--macs", type=Number(0, min_open=True), metavar="N",
              help="Instead, remove just enough to leave at most N MACs at 224x224, such as 430e6.")  # fmt: skip
@click.option("--data", type=click.Path(exists=True, file_okay=False), metavar="DIR",
              help="Score both networks on this folder's pictures and masks.")  # fmt: skip
@max_pixels_option
@size_option
@threads_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@overwrite_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def prune(
    ctx, source, model, output, criterion, threshold, ratio, macs, data, max_pixels, size, threads, as_json, overwrite,
    quiet,
):  # fmt: skip
    """Remove the channels that matter least from a network.

    From a run folder, takes weights/last.safetensors. Shows channels per layer and branch, parameters, MACs and, with
    --data, scores, all before and after. Also shows how far salience (0 to 1), or the probability of a class, moves on
    a few pictures (of --data, or drawn ones): first when the removed channels' gammas are set to zero, then when these
    channels are removed, which only changes it near a picture's borders.
    """
    if (source is None) == (model is None):
        raise click.UsageError("Name the network: RUN or WEIGHTS, or else --model.")
    given = {"threshold": threshold, "ratio": ratio, "macs": macs}
    given = {name: value for name, value in given.items() if value is not None}
    if len(given) > 1:
        raise click.UsageError(f"{' and '.join(f'--{name}' for name in given)} exclude each other.")
    if not given and criterion != "gamma":
        raise click.UsageError(f"--criterion {criterion} needs --threshold, --ratio or --macs.")
    check_output(output, overwrite)

    import octsod

    from .. import prune

    source = source or model
    model = octsod.load(_weights(source))
    given = given or {"threshold": prune.THRESHOLD}
    try:
        plan = prune.plan(model, criterion, **given)
    except ValueError as error:
        raise Failure(f"{source}: {error}") from error
    classifies = model.configuration.classes > 0
    if data and classifies:
        raise Failure(f"{source}: tells classes of pictures apart; --data scores networks that find salient objects.")
    size = side_for(model, size)
    pruned = prune.apply(model, plan)
    pictures = _pictures(data, max_pixels or MOST_PIXELS)
    failures = {}  # messages, each once
    prepared = _prepared(pictures, size, failures)
    change = prune.change(model, plan, prepared)
    before, after = (_facts(network, pictures if data else None, size, quiet, failures) for network in (model, pruned))
    octsod.save(pruned, output)
    for failure in failures:
        report(failure)
    if as_json:
        rest = {"size": size, "before": before, "after": after, "change": change._asdict()}
        tell(json.dumps({"source": source, "output": output, "criterion": criterion, **given, **rest}))
        ctx.exit(1 if failures else 0)
    for line in _table(model.configuration, pruned.configuration):
        tell(line)
    tell("")
    for name, form in (("parameters", ",d"), ("macs", ",d"), ("max_f", ".4f"), ("mae", ".4f")):
        if name in before:
            share = f"   {after[name] / before[name] - 1:+.1%}" if form == ",d" else ""
            label = {"macs": "MACs", "max_f": "max F", "mae": "MAE"}.get(name, name)
            tell(f"{label:<18}{before[name]:>24{form}}{after[name]:>24{form}}{share}")
    answer = "probabilities move" if classifies else "salience moves"
    tell(f"\n{answer} by (mean, greatest), on {len(prepared)} pictures:")
    for what, (mean, greatest) in zip(("zero gammas", "borders"), change, strict=True):
        tell(f"{what:<18}{mean:>24.1e}{greatest:>24.1e}")
    if not _removed(plan):
        say(_nothing_removed(model, plan, criterion, given))
    ctx.exit(1 if failures else 0)


def _removed(plan):
    """How many channels go."""
    return sum(int((~mask).sum()) for masks in plan.kept.values() for mask in masks)


def _nothing_removed(model, plan, criterion, given):
    """That no channel went, and which options would remove some, in words."""
    from .. import prune

    ((name, value),) = given.items()
    total = sum(mask.size for masks in plan.kept.values() for mask in masks)
    few, many = (_removed(prune.plan(model, criterion, **how)) for how in ({"threshold": LOW}, {"ratio": SHARE}))
    if not few and not many:
        return f"Nothing was removed: hardly any of the {total:,} channels may go, since each layer keeps its best one."
    why = {
        "threshold": f"no channel that may go scores below {value:g}",
        "ratio": f"{value:g} of {total:,} channels is less than one",
        "macs": f"the network has no more than {value:,.0f} MACs at 224x224 as it is",
    }[name]
    options = [(f"--threshold {LOW:g}", few), (f"--ratio {SHARE:g}", many)]
    would = ", ".join(f"{option} would remove {count:,}" for option, count in options if count)
    return f"Nothing was removed: {why}; {would} of {total:,} channels."


def _weights(source):
    if not os.path.isdir(source):
        return source
    path = pathlib.Path(source, "weights", "last.safetensors")
    if not path.is_file():
        raise Failure(f"{source}: is no run folder: it has no weights/last.safetensors.")
    return path


def _pictures(data, limit):
    from ..data.datasets import FolderDataset
    from ..data.synthetic import SyntheticDataset

    return FolderDataset(data, limit=limit) if data else SyntheticDataset(PICTURES)


def _prepared(pictures, size, failures):
    """The first few pictures that can be read, prepared for the network; others become keys of `failures`."""
    import numpy as np

    from ..data.images import prepare
    from ..errors import FileError

    found = []
    for index in range(len(pictures)):
        try:
            found.append(prepare(pictures[index].image, size))
        except FileError as error:
            failures.setdefault(str(error))
        if len(found) == PICTURES:
            break
    if not found:
        raise Failure(f"{next(iter(failures))}; none of the {len(pictures)} pictures can be read.")
    return np.stack(found)


def _facts(model, pictures, size, quiet, failures):
    """A network's costs and configuration, and its scores if there are `pictures` to score it on. Those that cannot be
    scored become keys of `failures`."""
    import octsod

    cost = octsod.complexity(model, (size, size))
    facts = {"parameters": cost.parameters, "macs": cost.macs}
    if pictures is not None:
        with Progress(len(pictures), "picture", quiet) as progress:
            fail = lambda error: failures.setdefault(str(error))  # noqa: E731
            result = octsod.evaluate(model, pictures, size, on_failure=fail, on_progress=progress.update)
        facts.update(max_f=result.max_f, mae=result.mae)
    return {**facts, "configuration": json.loads(model.configuration.to_json())}


def _table(before, after):
    """Lines: a layer, its channels per branch (fine to coarse; per dilation in a dilated layer) before and after."""
    yield f"{'layer':<18}{'channels before':>24}{'after':>24}"
    for (name, old), (_, new) in zip(_rows(before), _rows(after), strict=True):
        yield f"{name:<18}{' + '.join(map(str, old)):>24}{' + '.join(map(str, new)):>24}"


def _rows(configuration):
    from ..models.configuration import block_layer

    for layer in configuration.layers():
        if layer.kind == "dilated":
            yield from ((f"{layer.name}.{i}", scale) for i, scale in enumerate(layer.dilations))
        elif layer.makes_channels:
            place = block_layer(layer.name)
            yield (f"stage{place[0]}.{place[1]}" if place else layer.name), layer.outputs
