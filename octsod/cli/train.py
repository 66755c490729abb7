"""`octsod train`: a CSNet on a folder of pictures and masks, or on drawn ones, into a run folder."""

import datetime
import itertools
import os
import pathlib
import shlex
import sys
import time

import click
from click.core import ParameterSource

from . import Failure, report
from .configuration import read_configuration
from .interruption import Interruption
from .options import SIDE, Number, existing_file, side_for, split_option, threads_option, width_option
from .progress import INTERVAL, Progress, compilation, duration

EPOCHS = 300  # the paper's, as are the defaults of the options below

# The defaults of a run without --data, which a laptop shall do while one waits: where they differ from the paper's.
# Without decay of any kind: so short a run is only slowed down by it.
EMBEDDED = {
    "batch_size": 16, "lr": 1e-2, "schedule": "cosine", "decay": "none", "weight_decay": 0.0, "size": 96, "width": 0.5,
}  # fmt: skip
EMBEDDED_STEPS = 600
EMBEDDED_PICTURES = 1200
EMBEDDED_SIZE = 112  # of a drawn picture; augmentation cuts off its border

# The defaults with --finetune: the last 20 of the paper's 300 epochs, whose learning rate has fallen twice by then.
FINETUNE = {"epochs": 20, "lr": 1e-6, "schedule": "constant", "decay": "standard"}

# What config.toml holds, and what --config may set.
SETTINGS = (
    "data", "val", "init", "width", "split", "epochs", "steps", "batch_size", "lr", "schedule", "weight_decay",
    "decay", "decay_strength", "learn_channels", "threshold", "size", "seed", "threads",
)  # fmt: skip


def _use_file(ctx, param, path):
    """Let the settings in a file, or those of the run to resume, take the place of the options' defaults."""
    if path is None:
        return None
    if param.name == "resume":
        path = _run_to_resume(path)
        file = path / "config.toml"
    else:
        file = path
    ctx.default_map = {**(ctx.default_map or {}), **read_configuration(file, ctx, SETTINGS)}
    return path


def _run_to_resume(path):
    from ..training.runs import newest_unfinished, read_checkpoint

    if path == "auto":
        folder = newest_unfinished()
        if folder is None:
            raise Failure("runs: holds no unfinished run; name one with --resume RUN.")
        return folder
    read_checkpoint(path)  # says so if there is none
    return pathlib.Path(path)


_folder = click.Path(exists=True, file_okay=False)


@click.command(
    epilog="The run without --data has other defaults: "
    + ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in {**EMBEDDED, "steps": EMBEDDED_STEPS}.items())
    + "."
)
@click.option("--data", type=_folder, metavar="DIR",
              help="Folder with a folder of pictures and one of masks, such as images and masks.  "
                   "[default: drawn pictures]")  # fmt: skip
@click.option("--val", type=_folder, metavar="DIR",
              help="Such a folder to validate on.  [default: a twentieth of --data, held out]")  # fmt: skip
@width_option
@split_option
@click.option("--init", type=click.Path(dir_okay=False), metavar="FILE",
              help="Weight file to start from; it says what the network is.")  # fmt: skip
@click.option("--finetune", is_flag=True,
              help="Recover from pruning: with --init, other defaults, "
                   + ", ".join(f"--{name} {value}" for name, value in FINETUNE.items()) + ".")  # fmt: skip
@click.option("--epochs", type=click.IntRange(min=1), metavar="N", help=f"Stop after N epochs.  [default: {EPOCHS}]")
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Stop after N steps.")
@click.option("-b", "--batch-size", type=click.IntRange(min=1), default=24, show_default=True, metavar="N")
@click.option("--lr", type=Number(0, min_open=True), default=1e-4, show_default=True, metavar="RATE",
              help="Learning rate of Adam.")  # fmt: skip
@click.option("--schedule", type=click.Choice(["milestones", "cosine", "constant"]), default="milestones",
              show_default=True,
              help="How it falls: to a tenth after 2/3 and again after 5/6 of the run, along half a cosine, or never.")
@click.option("--weight-decay", type=Number(0), default=0.005, show_default=True, metavar="LAMBDA",
              help="L2 on all but the scales of the blocks' norms.")  # fmt: skip
@click.option("--decay", type=click.Choice(["dynamic", "standard", "none"]), default="dynamic", show_default=True,
              help="Of these scales: dynamic weight decay, L2 as of all else, or none.")  # fmt: skip
@click.option("--decay-strength", type=Number(0), metavar="LAMBDA",
              help="Its factor.  [default: 3 of dynamic decay, 0.005 of standard]")  # fmt: skip
@click.option("--learn-channels", is_flag=False, flag_value=FINETUNE["epochs"], type=click.IntRange(min=1),
              metavar="[N]",
              help="Remove the channels that have vanished before the last N epochs, which finetune, with standard "
                   f"decay.  [N: {FINETUNE['epochs']} if left out]")  # fmt: skip
@click.option("--threshold", type=Number(0, min_open=True), metavar="T",
              help="With --learn-channels: what is less has vanished, of norms' scales.  [default: 1e-20]")  # fmt: skip
@click.option("--size", type=SIDE, default=224, show_default=True, metavar="PIXELS",
              help="Side of the square that the network sees.")  # fmt: skip
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="For initial weights, hold-out, order and augmentation.")  # fmt: skip
@threads_option
@click.option("-c", "--config", type=existing_file(), is_eager=True, callback=_use_file, metavar="FILE",
              help="TOML file of settings, such as a run's config.toml; options given here come first.")  # fmt: skip
@click.option("--print-config", is_flag=True, help="Print all settings as TOML and do nothing else.")
@click.option("--resume", is_eager=True, callback=_use_file, metavar="RUN|auto",
              help="Go on with the run in this folder, or with the newest unfinished one in ./runs; --epochs or "
                   "--steps make it longer.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(file_okay=False), metavar="RUN",
              help="Run folder.  [default: runs/<time>-<name of the data>]")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="A line per step, and all files that are left out.")
@click.pass_context
def train(ctx, config, print_config, resume, output, quiet, verbose, **_):
    """Train a CSNet on pictures and masks.

    The recipe is the paper's. The run folder gets config.toml, env.json, log.jsonl (a line per step),
    weights/last.safetensors and best.safetensors (by the held-out pictures' max-F), plots of both, and what --resume
    needs; its path is printed at the end. Ctrl-C ends the step, writes a checkpoint and says how to go on.
    """
    if resume and (config or output):
        raise click.UsageError("--resume takes folder and settings from the run; leave --config and --output out.")
    settings = resolved_settings(ctx)
    if print_config:
        import tomli_w

        click.echo(tomli_w.dumps(settings), nl=False)
        return

    from .. import training
    from ..training import runs

    data = open_data(settings, verbose)
    if resume:
        folder, checkpoint = pathlib.Path(resume), runs.read_checkpoint(resume)
    else:
        folder, checkpoint = _new_folder(output, settings), None
    try:
        with Interruption(quiet) as interruption:
            done = conduct(settings, data, folder, checkpoint, interruption.requested, quiet, verbose)
    except training.DivergenceError as error:
        report(error)
        ctx.exit(1)
    if not done:
        click.echo(f"Interrupted. Go on with: octsod train --resume {shlex.quote(str(folder))}", err=True)
        ctx.exit(interruption.code)
    if not quiet:
        best = shlex.quote(str(folder / "weights" / "best.safetensors"))
        click.echo(f"What it finds: {folder / 'plots' / 'predictions.png'}", err=True)
        click.echo(f"Go on with: octsod predict PHOTO --weights {best} -o map.png", err=True)
    click.echo(folder)


def conduct(settings, data, folder, checkpoint, stop, quiet, verbose=False):
    """Train as the settings say, in a new run folder or, with its checkpoint, a run's; returns whether that is done.

    data: see `open_data`. stop: see `training.train`. Raises DivergenceError, which also says what is intact.
    """
    from .. import training
    from ..training import runs

    training_set, held_out, notes = data
    loader = _loader(settings, training_set)
    trainer = _trainer(settings, len(loader), checkpoint)
    pictures = (training_set.names, held_out.names)
    if checkpoint is None:
        run = runs.Run.create(folder, settings, pictures)
    else:
        if checkpoint.finished(trainer.total):
            raise Failure(f"{folder}: is finished after {checkpoint.steps} steps; more --epochs or --steps go on.")
        checkpoint.restore(trainer)
        run = runs.Run.resume(folder, settings, pictures, checkpoint)
    try:
        with (
            run,
            Progress(trainer.total, "step", quiet, 0.0 if verbose else INTERVAL, trainer.steps) as progress,
            compilation(progress) as compiled,
        ):
            for note in (*notes, f"run folder {run.folder}"):
                progress.message(note)
            display = _Display(progress, compiled, run)
            validation = training.Validation(held_out)
            done = training.train(trainer, loader, run, validation, on_line=display.show, stop=stop)
        display.sum_up()
    except training.DivergenceError as error:
        raise training.DivergenceError(f"{str(error).rstrip('.')}; {run.kept}.") from error
    return done


def resolved_settings(ctx):
    """All settings of a call of `train`: option > environment > file > default. None is left out: TOML has no null."""
    import octsod

    values = {name: ctx.params[name] for name in SETTINGS}
    source = {name: ctx.get_parameter_source(name) for name in SETTINGS}
    if values["data"] is None:
        if values["val"] is not None:
            raise click.UsageError("--val needs --data.")
        for name, value in EMBEDDED.items():
            if source[name] is ParameterSource.DEFAULT:
                values[name] = value
    if ctx.params["finetune"]:
        if values["init"] is None:
            raise click.UsageError("--finetune needs --init, the network to go on with.")
        for name, value in FINETUNE.items():
            if source[name] is ParameterSource.DEFAULT and (name != "epochs" or values["steps"] is None):
                values[name] = value
    if values["init"] is not None:
        for name in ("width", "split"):
            if source[name] is not ParameterSource.DEFAULT:
                raise click.UsageError(f"--init says what the network is; leave --{name} out.")
            values[name] = None
    values["decay_strength"] = _decay_strength(values, source)
    if values["learn_channels"] is None:
        if values["threshold"] is not None:
            raise click.UsageError("--threshold needs --learn-channels.")
    elif values["threshold"] is None:
        from ..prune.channels import THRESHOLD

        values["threshold"] = THRESHOLD
    # Of the two lengths, an option replaces both of a file: to make a run longer, one is enough.
    if any(source[name] is ParameterSource.COMMANDLINE for name in ("epochs", "steps")):
        for name in ("epochs", "steps"):
            if source[name] is not ParameterSource.COMMANDLINE:
                values[name] = None
    elif values["epochs"] is None and values["steps"] is None:
        values.update({"epochs": EPOCHS} if values["data"] else {"steps": EMBEDDED_STEPS})
    for name in ("data", "val", "init"):
        values[name] = values[name] and os.path.abspath(values[name])
    values["split"] = values["split"] and list(values["split"])
    values["threads"] = values["threads"] or octsod.get_num_threads()
    return {name: value for name, value in values.items() if value is not None}


def _decay_strength(values, source):
    """The factor of the scales' decay; an option for the kind of decay makes nothing of a file's factor for another."""
    from ..training.trainer import DECAYS

    strength, decay = values["decay_strength"], values["decay"]
    if source["decay"] is ParameterSource.COMMANDLINE and source["decay_strength"] is not ParameterSource.COMMANDLINE:
        strength = None
    if decay == "none":
        if strength is not None:
            raise click.UsageError("--decay-strength is of no use with --decay none.")
        return None
    return DECAYS[decay] if strength is None else strength


def open_data(settings, verbose=False):
    """The pictures to train on, those to validate on, and what is to be said about them."""
    from ..data.datasets import FolderDataset, Subset, hold_out

    if "data" not in settings:
        from ..data.synthetic import SyntheticDataset

        drawn = SyntheticDataset(EMBEDDED_PICTURES, EMBEDDED_SIZE, settings["seed"])
        training_set, held_out = hold_out(drawn, settings["seed"])
        return training_set, held_out, [f"{len(training_set)} drawn pictures to train on, {len(held_out)} held out"]
    folders = [FolderDataset(settings[name]) for name in ("data", "val") if name in settings]
    notes = []
    for folder in folders:
        if folder.unpaired:
            shown = folder.unpaired[: None if verbose else 3]
            more = f" and {len(folder.unpaired) - len(shown)} more" if len(shown) < len(folder.unpaired) else ""
            names = ", ".join(path.name for path in shown)
            notes.append(f"{folder.root}: left out for want of a partner: {names}{more}")
    if len(folders) == 2:
        training_set, held_out = (Subset(folder, range(len(folder))) for folder in folders)
        notes.append(f"{len(training_set)} pictures to train on, {len(held_out)} of {folders[1].root} to validate on")
    else:
        if len(folders[0]) < 2:
            raise Failure(f"{folders[0].root}: holds one picture with a mask; without --val, two are needed.")
        training_set, held_out = hold_out(folders[0], settings["seed"])
        notes.append(f"{len(training_set)} pictures to train on, {len(held_out)} held out to validate on (data.json)")
    return training_set, held_out, notes


def _loader(settings, training_set):
    from ..data.loader import Loader

    size = settings["batch_size"]
    if size > len(training_set):
        message = f"{size} is more than the {len(training_set)} pictures to train on."
        raise click.BadParameter(message, param_hint="--batch-size")
    return Loader(training_set, size, settings["size"], settings["seed"], threads=min(2, settings["threads"]))


def _trainer(settings, steps_per_epoch, checkpoint):
    """A trainer of the network that the run is about, for as many steps as it is to have."""
    import octsod

    from ..training.trainer import Recipe, Trainer

    if checkpoint is not None:
        model = checkpoint.model()
    elif "init" in settings:
        model = octsod.load(settings["init"])
    else:
        octsod.manual_seed(settings["seed"])
        model = octsod.csnet(settings["width"], settings["split"])
    side_for(model, settings["size"])  # says so if the network does not take it
    lengths = [settings["steps"]] if "steps" in settings else []
    lengths += [settings["epochs"] * steps_per_epoch] if "epochs" in settings else []
    total, finetuning = min(lengths), settings.get("learn_channels", 0) * steps_per_epoch
    if finetuning >= total:
        message = f"the run has {total} steps, and finetuning alone {finetuning}."
        raise click.BadParameter(message, param_hint="--learn-channels")
    recipe = Recipe(
        lr=settings["lr"], schedule=settings["schedule"], weight_decay=settings["weight_decay"],
        decay=settings["decay"], decay_strength=settings.get("decay_strength"), finetuning=finetuning,
        **({"threshold": settings["threshold"]} if finetuning else {}),
    )  # fmt: skip
    return Trainer(model, recipe, total)


def _new_folder(output, settings):
    """The folder for a new run, which is new or empty; Failure if it is not."""
    if output is not None:
        folder = pathlib.Path(output)
        if folder.exists() and any(folder.iterdir()):
            raise Failure(f"{folder}: exists already and is not empty; name another run folder, or --resume this one.")
        return folder
    name = pathlib.Path(settings["data"]).name if "data" in settings else "drawn"
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    suffixes = itertools.chain([""], (f"-{number}" for number in itertools.count(2)))
    folders = (pathlib.Path("runs", f"{stamp}-{name}{suffix}") for suffix in suffixes)
    return next(folder for folder in folders if not folder.exists())


class _Display:
    """Shows the lines of a run's log as they come, and sums them up."""

    def __init__(self, progress, compiled, run):
        self.progress, self.compiled, self.run = progress, compiled, run
        self.start, self.steps, self.seconds, self.waited = time.monotonic(), 0, 0.0, 0.0

    def show(self, line):
        self.compiled()
        epoch = f"epoch {line['epoch'] + 1}"
        if "max_f" in line:
            best = ", the best so far" if line == self.run.best else ""
            self.progress.message(f"{epoch}: max F {line['max_f']:.4f}, MAE {line['mae']:.4f}{best}")
            return
        if "pruned" in line:
            costs = (f"{line[name][0]:,} -> {line[name][1]:,} {name}" for name in ("parameters", "macs"))
            self.progress.message(f"{epoch}: pruned, {', '.join(costs)}".replace("macs", "MACs"))
            return
        seconds, waited = self.run.settings["batch_size"] / line["img_s"], line["data_wait_ms"] / 1000
        if self.steps:  # the first step compiles, and says nothing of the others
            self.seconds += seconds
            self.waited += waited
        self.steps += 1
        facts = f"{epoch}  loss {line['loss']:.4f}  {line['img_s']:.1f} images/s  wait {waited / seconds:.0%}"
        self.progress.update(line["step"], facts)

    def sum_up(self):
        facts = [f"{self.steps} steps in {duration(time.monotonic() - self.start)}"]
        if self.steps > 1:
            pictures = (self.steps - 1) * self.run.settings["batch_size"]
            facts.append(f"{pictures / self.seconds:.1f} images/s")
            facts.append(f"{self.waited / self.seconds:.1%} waiting for data")
        memory = _peak_memory()
        if memory:
            facts.append(f"peak memory {memory / 1e6:.0f} MB")
        self.progress.message(", ".join(facts))


def _peak_memory():
    """The most memory that this process has had, in bytes; None where it is not known."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
