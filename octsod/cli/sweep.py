"""`octsod sweep`: trains and prunes a network per strength of decay: performance against complexity."""

import functools
import json

import click
from click.core import ParameterSource

from . import report, tell
from .interruption import Interruption
from .options import Number, as_options, threshold_option
from .train import conduct, given_settings, inspection, train


class Several(click.ParamType):
    """Values of another type, separated by commas; repeated ones count once."""

    def __init__(self, item):
        self.item = item
        self.name = f"{item.name},..."

    def convert(self, value, param, ctx):
        parts = value.split(",") if isinstance(value, str) else value
        return tuple(dict.fromkeys(self.item.convert(part, param, ctx) for part in parts))


@click.command()
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS OF TRAIN]")
@click.option("--lambda", "weight_decays", type=Several(Number(0)), metavar="L,L,...",
              help="Strengths of ordinary weight decay to try (lambda of equation 1): train's --weight-decay and, with "
                   "--decay standard, also the decay of the scales.")  # fmt: skip
@click.option("--lambda-d", "strengths", type=Several(Number(0)), metavar="L,L,...",
              help="Strengths of dynamic weight decay to try instead (lambda_d of equation 3): train's "
                   "--decay-strength.")  # fmt: skip
@click.option("--decay", "decays", type=Several(click.Choice(["dynamic", "standard"])), default="dynamic",
              show_default=True, metavar="D,D",
              help="Decay of the scales to try each strength with: dynamic, standard.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), metavar="SWEEP",
              help="Folder of the sweep, a new one or one to continue.")  # fmt: skip
@threshold_option("Remove channels with a lower gamma after training.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, the results, and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def sweep(ctx, options, weight_decays, strengths, decays, output, threshold, as_json, quiet):
    """Train, prune and score a CSNet for each of several strengths of decay (fig. 13).

    \b
    octsod sweep --lambda 0.002,0.005,0.01 --decay dynamic,standard -o SWEEP -- --data DUTS-TR --val ECSSD

    Each training has its run folder in SWEEP; its last network is pruned (weights/pruned.safetensors) and scored on the
    validation pictures. With --learn-channels among train's options, the network is scored as finetuning left it. SWEEP
    gets results.json, with a row per point and MACs at 224x224, and sweep.png. The same command continues where it was
    stopped; with more strengths, it adds them. Needs the matplotlib package.
    """
    if (weight_decays is None) == (strengths is None):
        raise click.UsageError("Give either --lambda or --lambda-d.")
    varied, values = ("decay_strength", strengths) if weight_decays is None else ("weight_decay", weight_decays)
    if varied == "decay_strength" and decays != ("dynamic",):
        raise click.UsageError("--lambda-d is the strength of dynamic decay alone; leave --decay out.")

    from .. import training
    from ..pictures import plots
    from ..studies import figures
    from ..studies.sweep import Sweep

    plots.require_matplotlib()
    settings, skip_broken, source = _settings(ctx, options, varied)
    with as_options(source), inspection(quiet) as watch:
        found = Sweep(output, varied, values, decays, *settings, threshold, skip_broken, watch)
    left, failed = found.left(), 0
    done = len(found.points) - len(left)
    if done and not quiet:
        click.echo(f"{done} of {len(found.points)} points are done already", err=True)
    with Interruption(quiet) as interruption:
        train_point = functools.partial(
            conduct, stop=interruption.requested, quiet=quiet, again="the same command", source=source
        )
        for point in left:
            if not quiet:
                place = f"{found.points.index(point) + 1} of {len(found.points)}"
                click.echo(f"{point.decay} decay, lambda {point.value:g} ({place})", err=True)
            try:
                row = found.run(point, train_point, interruption.requested)
            except training.DivergenceError as error:
                failed += 1
                report(f"{point.name}: {error}")
                continue
            if row is None:
                click.echo("Interrupted. The same command goes on.", err=True)
                ctx.exit(interruption.code)
    picture = found.folder / "sweep.png"
    if found.rows:
        plots.write(picture, figures.sweep, found.rows, varied)
        if not quiet:
            click.echo(f"results in {found.path}, drawn in {picture}", err=True)
    for line in [json.dumps(found.facts)] if as_json else _table(found.rows):
        tell(line)
    if failed:
        ctx.exit(1)


def _settings(ctx, options, varied):
    """The arguments for `training.resolve` from the options of train, whether to skip broken pictures, and the context
    of these options; usage error if the sweep itself sets one."""
    call = train.make_context("train", list(options), parent=ctx.parent)
    for name in ("decay", varied, "output", "resume", "print_config", "quiet", "verbose"):
        if call.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name.replace('_', '-')} is the sweep's to say; leave it out after the --.")
    return given_settings(call), call.params["skip_broken"], call


def _table(rows):
    """Lines: decay, lambda, and the costs and scores of the network."""
    yield f"{'decay':<10}{'lambda':>10}{'parameters':>14}{'MACs':>16}{'max F':>10}{'MAE':>10}"
    for row in rows:
        costs = f"{row['parameters']:>14,}{row['macs']:>16,}"
        yield f"{row['decay']:<10}{row['lambda']:>10g}{costs}{row['max_f']:>10.4f}{row['mae']:>10.4f}"
