"""`octsod profile`: how far each kernel of a training step or a prediction is from what the machine can do."""

import dataclasses
import itertools
import pathlib
import shutil
import sys

import click
from click.core import ParameterSource

from ..training.settings import SETTINGS
from . import Failure, report, say
from .options import (
    Number,
    WeightFile,
    as_options,
    check_output,
    device_option,
    existing_file,
    fused_option,
    load_csnet,
    overwrite_option,
    quiet_option,
    setting_option,
    side_for,
    size_option,
    split_option,
    threads_option,
    variant_option,
    width_option,
)
from .progress import Lines, compilation

STEPS, SHOWN = 10, 20
WIDTH, WIDEST = 100, 140  # columns
NETWORK = ("width", "split", "variant", "fused")
RUN = ("train", *NETWORK, "weights", "batch_size", "size", "device", "threads", "steps")  # what a new profile needs
PICTURES = ("roofline", "shares")
OUTPUTS = ("json_file", "trace", *PICTURES)
FLAGS = {"weights": "--model", "train": "--train and --predict", "json_file": "--json"}

_file = click.Path(dir_okay=False)


@click.command(context_settings={"allow_extra_args": True})
@click.option("--train/--predict", "train", default=True, show_default=True,
              help="Profile steps of training, or predictions.")  # fmt: skip
@width_option
@split_option
@variant_option
@fused_option
@click.option("--model", "--weights", "weights", type=WeightFile(exists=True), metavar="NAME|FILE|RUN",
              help="Instead, a network that comes with octsod (see octsod models), that of a weight file, or the best "
                   "of a run's folder.")  # fmt: skip
@setting_option("-b", "--batch-size", default=None, metavar="N",
                help=f"Pictures at once.  [default: {SETTINGS['batch_size'].default}; 1 for predictions]")
@size_option
@device_option(help="Where the network runs; auto: as OCTSOD_DEVICE says, else on a GPU, if there is one.")
@threads_option
@click.option("--steps", type=click.IntRange(1, 100_000), default=STEPS, show_default=True, metavar="N",
              help="Rounds to measure, besides those that warm up.")  # fmt: skip
@click.option("--by", type=click.Choice(("kernel", "op", "layer", "row")),
              help="What a line of the table is: a kernel with its shapes, an op, a layer, or a kernel in an op in a "
                   "layer.  [default: kernel; row for --diff]")  # fmt: skip
@click.option("--sort", type=click.Choice((
                  "time", "share", "calls", "each", "flops", "bytes", "intensity", "gflops", "gbs", "roof", "gain",
                  "name",
              )), default="time", show_default=True,
              help="Largest first; gain: the time that would be saved at the roof.")  # fmt: skip
@click.option("--filter", "text", default="", metavar="TEXT",
              help="Only what holds this text in the name of its kernel, op, layer or phase, or in its shapes.")
@click.option("--top", type=click.IntRange(min=1), default=SHOWN, show_default=True, metavar="N",
              help="Lines to show; the others are added up.")  # fmt: skip
@click.option("--json", "json_file", type=_file, metavar="FILE", help="Write the profile, for --load and --diff.")
@click.option("--trace", type=_file, metavar="FILE.json.gz",
              help="Write what happened when, in Chrome's format, for https://ui.perfetto.dev: 20 MB at most.")
@click.option("--roofline", type=_file, metavar="FILE.png|FILE.svg",
              help="Draw the kernels under the roofs that were measured (needs the matplotlib package).")  # fmt: skip
@click.option("--shares", type=_file, metavar="FILE.png|FILE.svg",
              help="Draw what share of the time each group of layers takes (needs the matplotlib package).")
@click.option("--load", type=existing_file(), metavar="FILE.json",
              help="Show a profile that --json has written, without profiling again.")  # fmt: skip
@click.option("--diff", type=(existing_file(), existing_file()), metavar="A.json B.json",
              help="Compare two profiles. Exit code 1: B is slower beyond noise; see above.")  # fmt: skip
@click.option("--threshold", type=Number(0), metavar="SHARE",
              help="For --diff: what is not slower by more than this counts as noise.  [default: 0.03]")
@click.option("--anyway", is_flag=True, help="For --diff: compare, even if subjects, devices or machines differ.")
@overwrite_option
@quiet_option
@click.pass_context
def profile(
    ctx, train, width, split, variant, fused, weights, batch_size, size, device, threads, steps, by, sort, text, top,
    json_file, trace, roofline, shares, load, diff, threshold, anyway, overwrite, quiet,
):  # fmt: skip
    """Measure the kernels of a training step, or of a prediction, against what the machine can do.

    For code of your own, there is `with octsod.profile() as p:` in Python.

    \b
    octsod profile --json before.json --roofline roofline.png
    octsod profile --predict --model csnet-l --by layer
    octsod profile --load before.json --sort gain --filter conv
    octsod profile --diff before.json after.json

    Four roofs are measured in the same run: memory, the rate of copying; caches, the rate within each of them;
    arithmetic, multiply-adds per second; launches, the time of an empty one. A line has calls, time, its share, time
    per call with its spread over the rounds, operations, bytes, and the share of the roof that binds it. The verdict
    names that roof, and says how much faster the kernel could be. Below 25 % of every roof, its own code binds it: it
    is not vectorised, waits for other threads, or, as a step of a prediction, moves bytes within caches, which nobody
    counts. More than 100 % is an error of the op's cost.

    ms is the mean over the middle half of the rounds, so that lines add up to the whole; each is the median over the
    rounds of the time per call, and IQR its spread. Where a slow round makes ms much more than calls x each, as when a
    call is interrupted, the verdict says "uneven"; then the share of the roof, which is that of ms, is too low.

    --diff compares medians, with bounds of noise from the rounds of both. Exit codes: 0, no slower beyond noise; 1, the
    whole is slower, or, unless the whole is faster, a row that takes 0.5 % of it or more; 2, they cannot be compared,
    since subjects, machines, devices or numbers of threads differ, or there is only one round. The last line says why
    the code is not 0.
    """
    if ctx.args:
        _refuse(ctx.args[0])
    given = {name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    _check_options(given)
    outputs = {name: ctx.params[name] for name in OUTPUTS if ctx.params[name] is not None}
    _check_outputs(outputs, overwrite)

    from .. import profiling

    if diff:
        difference = _compared(profiling, diff, by or "row", text, threshold, anyway)
        click.echo(profiling.difference_table(difference, top, _width()))
        ctx.exit(difference.exit_code)
    if load:
        result = profiling.load(load)
    else:
        model = load_csnet(weights, not train) if weights else _network(width, split, variant, fused)
        batch_size = batch_size or (SETTINGS["batch_size"].default if train else 1)
        result = _profiled(model, train, batch_size, side_for(model, size), device, steps, quiet)
    lost = _write(profiling, result, outputs, text, quiet)
    _show(profiling.lines, result, by or "kernel", sort, text, top)
    if lost:
        ctx.exit(Failure.exit_code)


def _refuse(argument):
    """Usage error for an argument, such as an op's name: only networks are profiled here."""
    raise click.UsageError(
        f"{argument}: octsod profile takes options alone, and profiles networks. For code of your own, write `with "
        "octsod.profile() as p:` around it, and print(p); `python -m bench kernels --op MODULE:OP` times an op's "
        "kernels."
    )


def _flag(name):
    return FLAGS.get(name, f"--{name.replace('_', '-')}")


def _check_options(given):
    """Usage error for options that do not go together."""
    if {"load", "diff"} <= given:
        raise click.UsageError("--load shows one profile and --diff compares two; choose one.")
    idle = []
    if "load" in given:
        needless = () if given.intersection(OUTPUTS) else ("overwrite",)
        idle = [(name, "--load shows a profile that there is") for name in (*RUN, "json_file", *needless)]
    if "diff" in given:
        idle = [(name, "--diff compares profiles that there are") for name in (*RUN, *OUTPUTS, "sort", "overwrite")]
    else:
        idle += [(name, f"{_flag(name)} is for --diff") for name in ("threshold", "anyway")]
    if "weights" in given:
        idle += [(name, "--model already determines the network") for name in NETWORK]
    for name, reason in idle:
        if name in given:
            raise click.UsageError(f"{reason}; leave {_flag(name)} out.")


def _check_outputs(outputs, overwrite):
    """Refuse, before any work, files that cannot be written as they are named."""
    for name, path in outputs.items():
        check_output(path, overwrite)
        if name in PICTURES and pathlib.Path(path).suffix.lower() not in (".png", ".svg"):
            raise click.BadParameter(f"{path}: name a .png or .svg file.", param_hint=_flag(name))
    for (name, path), (other, same) in itertools.combinations(outputs.items(), 2):
        if pathlib.Path(path).resolve() == pathlib.Path(same).resolve():
            raise click.UsageError(f"{_flag(name)} and {_flag(other)} name the same file, {path}.")
    if not outputs.keys().isdisjoint(PICTURES):
        from ..pictures.plots import require_matplotlib

        require_matplotlib()


def _network(width, split, variant, fused):
    import octsod

    from ..training.session import require_network

    with as_options():
        require_network({"width": width, "split": split, "variant": variant, "fused": fused})
    return octsod.csnet(width, split, variant, fused)


def _profiled(model, train, batch_size, size, device, steps, quiet):
    from ..backend import chosen_device
    from ..profiling.subjects import profile_prediction, profile_training

    measure = profile_training if train else profile_prediction
    with compilation(Lines(quiet)) as compiled:
        result = measure(model, batch_size, size, chosen_device(device), steps)
        compiled()
    return result


def _write(profiling, result, outputs, text, quiet):
    """Write what was asked for; returns how many files could not be written, each of which is named."""
    from ..pictures import plots

    writers = {
        "json_file": lambda path: profiling.save(result, path),
        "trace": lambda path: profiling.write_trace(result, path),
        "roofline": lambda path: plots.write(path, profiling.roofline, result, text),
        "shares": lambda path: plots.write(path, profiling.shares, result, text),
    }
    lost = 0
    for name, path in outputs.items():
        try:
            left_out = writers[name](path)
        except (OSError, ValueError) as error:
            report(f"{path}: {getattr(error, 'strerror', None) or error}")
            lost += 1
        else:
            if left_out:
                say(f"{path}: lacks {left_out:,} older events, for which there is no room")
    if len(outputs) > lost and not quiet:
        say(f"written: {', '.join(outputs.values())}")
    return lost


def _compared(profiling, paths, by, text, threshold, anyway):
    before, after = map(profiling.load, paths)
    difference = profiling.compare(before, after, by, text, profiling.THRESHOLD if threshold is None else threshold)
    for refusal in difference.refusals:
        say(f"Warning: {refusal}" if anyway else f"Error: {paths[0]}, {paths[1]}: {refusal}")
    if difference.refusals and not anyway:
        raise SystemExit(Failure.exit_code)
    return dataclasses.replace(difference, refusals=())


def _width():
    """Columns of a table: as a terminal has them, within bounds."""
    from ..profiling.tables import NARROWEST

    if not sys.stdout.isatty():
        return WIDTH
    return max(NARROWEST, min(shutil.get_terminal_size().columns, WIDEST))


def _show(lines, *arguments):
    """Print a table, in colours on a terminal."""
    if sys.stdout.isatty():
        from rich.console import Console

        console = Console(highlight=False)
        for line in lines(*arguments, width=_width()):
            console.print(line, soft_wrap=True)
    else:
        for line in lines(*arguments, width=_width()):
            click.echo(line.plain.rstrip())
