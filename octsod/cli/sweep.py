"""`octsod sweep`: a training per strength of decay, each pruned: performance against complexity."""

import json
import pathlib

import click
from click.core import ParameterSource

from ..errors import FileError
from . import Failure, report
from .interruption import Interruption
from .options import Number
from .train import conduct, open_data, resolved_settings, train


class Several(click.ParamType):
    """A comma between any two of what another type takes; each counts once."""

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
                   "--decay standard, that of the scales, too.")  # fmt: skip
@click.option("--lambda-d", "strengths", type=Several(Number(0)), metavar="L,L,...",
              help="Strengths of dynamic weight decay to try instead (lambda_d of equation 3): train's "
                   "--decay-strength.")  # fmt: skip
@click.option("--decay", "decays", type=Several(click.Choice(["dynamic", "standard"])), default="dynamic",
              show_default=True, metavar="D,D",
              help="Decay of the scales to try each with: dynamic, standard.")  # fmt: skip
@click.option("-o", "--output", required=True, type=click.Path(file_okay=False), metavar="SWEEP",
              help="Folder of the sweep, new or to go on with.")  # fmt: skip
@click.option("--threshold", type=Number(0, min_open=True), metavar="T",
              help="Remove channels of a lower gamma after training.  [default: 1e-20]")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, the results, and nothing else.")
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def sweep(ctx, options, weight_decays, strengths, decays, output, threshold, as_json, quiet):
    """Train, prune and score a CSNet for each of several strengths of decay (fig. 13).

    \b
    octsod sweep --lambda 0.002,0.005,0.01 --decay dynamic,standard -o SWEEP -- --data DUTS-TR --val ECSSD

    Each training has its run folder in SWEEP; its last network is pruned (weights/pruned.safetensors) and scored on the
    pictures of validation. With --learn-channels among train's options, it is taken as finetuning left it. SWEEP gets
    results.json, a row per point, with MACs at 224x224, and sweep.png. The same command goes on where it was stopped,
    more strengths add to it. Needs the matplotlib package: pip install octsod[plot].
    """
    if (weight_decays is None) == (strengths is None):
        raise click.UsageError("Give either --lambda or --lambda-d.")
    varied, values = ("decay_strength", strengths) if weight_decays is None else ("weight_decay", weight_decays)
    if varied == "decay_strength" and decays != ("dynamic",):
        raise click.UsageError("--lambda-d is of dynamic decay alone; leave --decay out.")

    from .. import prune, training
    from ..studies import figures

    figures.require_matplotlib()
    settings = _Settings(ctx, options, varied)
    points = {f"{decay}-{value:.12g}": (decay, value) for value in values for decay in decays}
    first = settings(*next(iter(points.values())))
    if "learn_channels" in first and threshold is not None:
        raise click.UsageError("--learn-channels prunes by train's own --threshold; leave the sweep's out.")
    threshold = first.get("threshold", threshold or prune.THRESHOLD)
    data = open_data(first)
    results = _Results(output, {"varied": varied, "threshold": threshold, "pictures": [len(part) for part in data[:2]]})
    for row in results.rows:
        results.require_same(row["settings"], settings(row["decay"], row["lambda"]))
    failed, done = 0, sum(name in results.names for name in points)
    if done and not quiet:
        click.echo(f"{done} of {len(points)} points are done already", err=True)
    with Interruption(quiet) as interruption:
        for number, (name, (decay, value)) in enumerate(points.items(), 1):
            if name in results.names:
                continue
            if not quiet:
                click.echo(f"{decay} decay, lambda {value:g} ({number} of {len(points)})", err=True)
            chosen = settings(decay, value)
            try:
                found = _trained(results, name, chosen, data, threshold, interruption.requested, quiet)
            except training.DivergenceError as error:
                failed += 1
                report(f"{name}: {error}")
                continue
            if found is None:
                click.echo("Interrupted. The same command goes on.", err=True)
                ctx.exit(interruption.code)
            results.add({"run": name, "decay": decay, "lambda": value, **found, "settings": chosen})
    picture = results.folder / "sweep.png"
    if results.rows:
        figures.write(picture, figures.sweep, results.rows, varied)
        if not quiet:
            click.echo(f"results in {results.path}, drawn in {picture}", err=True)
    for line in [json.dumps(results.facts)] if as_json else _table(results.rows):
        click.echo(line)
    if failed:
        ctx.exit(1)


class _Settings:
    """`settings(decay, value)`: those of the training of a point, as `octsod train` itself resolves its options."""

    def __init__(self, ctx, options, varied):
        self.ctx, self.options, self.varied = ctx, list(options), varied
        call = self._call()
        for name in ("decay", varied, "output", "resume", "print_config", "quiet", "verbose"):
            if call.get_parameter_source(name) is ParameterSource.COMMANDLINE:
                raise click.UsageError(f"--{name.replace('_', '-')} is the sweep's to say; leave it out after the --.")

    def _call(self, *more):
        return train.make_context("train", [*self.options, *map(str, more)], parent=self.ctx.parent)

    def __call__(self, decay, value):
        names = [self.varied, "decay_strength"] if decay == "standard" else [self.varied]
        more = [part for name in names for part in (f"--{name.replace('_', '-')}", value)]
        return resolved_settings(self._call("--decay", decay, *more))


class _Results:
    """results.json in the folder of a sweep, which is written anew with each point.

    facts: its contents: what all points have in common, and `points`, the rows. Raises FileError if it is damaged or of
    other settings, Failure if a folder that is not empty lacks it.
    """

    def __init__(self, folder, common):
        self.folder = pathlib.Path(folder)
        self.path = self.folder / "results.json"
        self.facts = {**common, "points": []}
        if self.path.exists():
            self.facts["points"] = self._read(common)
        elif self.folder.exists() and any(self.folder.iterdir()):
            raise Failure(f"{self.folder}: exists already and is no sweep; name another folder.")
        else:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._write()

    @property
    def rows(self):
        return self.facts["points"]

    @property
    def names(self):
        return {row["run"] for row in self.rows}

    def add(self, row):
        self.rows.append(row)
        self.rows.sort(key=lambda row: (row["decay"], row["lambda"]))
        self._write()

    def require_same(self, before, after):
        """Raise FileError if settings differ by more than the number of threads."""
        from ..training.runs import changes

        if changed := changes(before, after, ("threads",)):
            raise FileError(f"{self.folder}: was started with {changed}; other settings need another folder.")

    def _read(self, common):
        try:
            facts = json.loads(self.path.read_bytes())
            rows = facts.pop("points")
            for row in rows:
                row["run"], row["decay"], row["settings"].keys()
                for name in ("lambda", "parameters", "macs", "max_f", "mae"):
                    float(row[name])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise FileError(f"{self.path}: is damaged, or none of octsod's.") from error
        if rows:  # before the first one, nothing has been done that depends on the sweep's own settings
            self.require_same(facts, common)
        return rows

    def _write(self):
        from ..files import write_atomically

        write_atomically(self.path, (json.dumps(self.facts, indent=1) + "\n").encode())


def _trained(results, name, settings, data, threshold, stop, quiet):
    """Train the network of a point, or go on with it, then prune and score it; None if `stop()` prevented that."""
    import octsod

    from .. import prune, training
    from ..training import runs

    folder = results.folder / name
    checkpoint = runs.read_checkpoint(folder) if (folder / runs.CHECKPOINT).exists() else None
    if checkpoint is not None:
        results.require_same(checkpoint.settings, settings)
    if checkpoint is None or not checkpoint.finished():
        if not conduct(settings, data, folder, checkpoint, stop, quiet):
            return None
        checkpoint = runs.read_checkpoint(folder)
    model = checkpoint.model()
    model.load_state_dict({n[6:]: array for n, array in checkpoint.state.items() if n.startswith("model.")})
    model.size = settings["size"]
    if "learn_channels" not in settings:
        model = prune.apply(model, prune.plan(model, threshold=threshold))
    scores = training.Validation(data[1]).scores(model, stop)
    if scores is None:
        return None
    octsod.save(model, folder / "weights" / "pruned.safetensors")
    cost = octsod.complexity(model)
    return {"parameters": cost.parameters, "macs": cost.macs, **scores}


def _table(rows):
    """Lines: decay, lambda, and what became of the network."""
    yield f"{'decay':<10}{'lambda':>10}{'parameters':>14}{'MACs':>16}{'max F':>10}{'MAE':>10}"
    for row in rows:
        costs = f"{row['parameters']:>14,}{row['macs']:>16,}"
        yield f"{row['decay']:<10}{row['lambda']:>10g}{costs}{row['max_f']:>10.4f}{row['mae']:>10.4f}"
