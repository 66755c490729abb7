"""`octsod train`: trains a CSNet to find salient objects, or to tell classes apart, into a run folder."""

import contextlib
import gc
import pathlib
import shlex
import sys
import time

import click
from click.core import ParameterSource

from ..training.recipe_files import recipe_file
from ..training.settings import CLASSIFY, DECAYS, EMBEDDED, FINETUNE, LENGTHS, SETTINGS, overlaid
from . import Failure, report, tell
from .configuration import read_configuration
from .interruption import Interruption
from .options import (
    SETTINGS_FILES,
    WeightFile,
    as_options,
    existing_file,
    fused_option,
    max_pixels_option,
    setting_option,
    split_option,
    threads_option,
    threshold_option,
    variant_option,
    width_option,
)
from .progress import INTERVAL, Progress, compilation, duration


def _use_file(ctx, param, path):
    """Replace the options' defaults with the settings in a file, those of a recipe, or those of the run to resume. A
    file takes precedence over a recipe."""
    if path is None:
        return None
    if param.name == "resume":
        path, known = _run_to_resume(path)
        ctx.meta[RESUMING] = known
        file = path / "config.toml"
        settings = _settings_of_run(file, ctx, known)
        file = file if file.exists() else path
    else:
        file = recipe_file(path) if param.name == "recipe" else path
        settings = read_configuration(file, ctx, SETTINGS)
    layers = ctx.meta.setdefault(FILES, {})
    layers[param.name] = str(file), settings
    ctx.default_map, ctx.meta[SETTINGS_FILES] = {}, {}
    for name in ("recipe", "config", "resume"):
        if name in layers:
            file, settings = layers[name]
            ctx.default_map = overlaid(settings, ctx.default_map)
            ctx.meta[SETTINGS_FILES].update(dict.fromkeys(settings, file))
    return path


def _settings_of_run(file, ctx, known):
    """What a run's config.toml says, which people may edit; what it lacks is as its checkpoint has it, in `known`."""
    if not file.exists():
        return known
    settings = read_configuration(file, ctx, SETTINGS)
    lost = {name for name in known if name not in LENGTHS or not settings.keys() & {*LENGTHS}}
    return {**{name: known[name] for name in lost}, **settings}


def _run_to_resume(path):
    """(folder, settings by its checkpoint) of the run that --resume names."""
    from ..training.runs import CHECKPOINT, newest_unfinished, read_checkpoint, startable

    if path == "auto":
        path = newest_unfinished()
        if path is None:
            raise Failure("runs: holds no unfinished run; name one with --resume RUN.")
    path = pathlib.Path(path)
    if path.is_dir() and not (path / CHECKPOINT).exists() and any(path.iterdir()) and startable(path):
        config = path / "config.toml"
        options = f"-c {shlex.quote(str(config))} " if config.exists() else ""
        start = f"octsod train {options}-o {shlex.quote(str(path))}"
        raise Failure(f"{path}: was stopped before its first checkpoint; start it again with {start}")
    return path, read_checkpoint(path).settings


def _listed(defaults):
    return ", ".join(f"--{name.replace('_', '-')} {value}" for name, value in defaults.items())


LABELS = {"max_f": "max F", "mae": "MAE", "top1": "top-1", "cross_entropy": "cross-entropy"}
AVERAGE = 0.999  # decay of the moving average, if none is named
# In a context's meta: the settings in the checkpoint of the run to be resumed; by option, the file that it stands for
# and the settings there.
RESUMING, FILES = "octsod.resuming", "octsod.files"


class _Existing(click.Path):
    """A path that exists; that of a run to be resumed may be gone, since another one may be given."""

    def convert(self, value, param, ctx):
        self.exists = not (ctx and RESUMING in ctx.meta)
        return super().convert(value, param, ctx)


class _Initial(WeightFile):
    """As `WeightFile`, but the name of a network that comes with octsod stays a name, which means the same on other
    machines. What a run to be resumed was started from is not looked for again."""

    def convert(self, value, param, ctx):
        from ..models.shipped import shipped_file

        known = ctx and value == ctx.meta.get(RESUMING, {}).get("init")
        return value if known or shipped_file(value) is not None else super().convert(value, param, ctx)


_existing, _existing_folder = _Existing(), _Existing(file_okay=False)


@click.command(epilog=f"Without --data, some defaults differ: {_listed(EMBEDDED)}. "
                      f"With --task classify, they are {_listed(CLASSIFY)}.")  # fmt: skip
@setting_option("--task", help="Find salient objects, or tell classes of pictures apart.")
@click.option("--data", type=_existing, metavar="DIR|FILE.csv",
              help="Folder with a folder of pictures and one of masks, such as images and masks. To classify: a folder "
                   "of folders named after their classes, or with such folders in train and val; or a CSV file of "
                   "names and classes.  [default: drawn pictures]")  # fmt: skip
@click.option("--images", type=_existing_folder, metavar="DIR",
              help="Instead of --data, with --masks: the folder of the pictures, whatever its name.")  # fmt: skip
@click.option("--masks", type=_existing_folder, metavar="DIR",
              help="The folder of their masks, which have the same names but for the suffix.")  # fmt: skip
@click.option("--val", type=_existing, metavar="DIR|FILE.csv",
              help="Data of the same kind to validate on.  [default: a twentieth of --data, held out]")  # fmt: skip
@max_pixels_option
@width_option
@split_option
@variant_option
@fused_option
@click.option("--init", type=_Initial(), metavar="NAME|FILE|RUN",
              help="Network to start from: one that comes with octsod (see octsod models), a weight file, or the "
                   "folder of a run: its best weights. It determines the network, except for a classifier's last "
                   "layer.")  # fmt: skip
@setting_option("--freeze", metavar="PART,...",
                help="Parts that stay as they are: extractor, stage0 to stage4, fuse, classifier, or modules by name.")
@click.option("--finetune", is_flag=True,
              help=f"Recover from pruning: needs --init, and changes defaults to {_listed(FINETUNE)}.")  # fmt: skip
@setting_option("--epochs", metavar="N", default=None,
                help=f"Stop after N epochs.  [default: {SETTINGS['epochs'].default}]")  # fmt: skip
@setting_option("--steps", metavar="N", help="Stop after N steps.")
@setting_option("-b", "--batch-size", metavar="N")
@setting_option("--loss", help="For saliency: binary cross-entropy, alone or with a loss of the region.")
@setting_option("--side-outputs", is_flag=True, help="In training, each fused stage has an output and a loss.")
@setting_option("--scale-crop", metavar="S",
                help="Augmentation, for saliency: keep a part with sides of a random share from S to 1.")  # fmt: skip
@setting_option("--colour", metavar="C",
                help="Augmentation, for saliency: change brightness, contrast and saturation by up to this "
                     "share.")  # fmt: skip
@setting_option("--optimizer", help="Adam with coupled L2, AdamW, or SGD with momentum.")
@setting_option("--lr", metavar="RATE", help="Learning rate.")
@setting_option("--schedule", help="How the learning rate changes: it falls to a tenth after 2/3 and again after 5/6 "
                                   "of the run (milestones); rises for a twentieth of the run, at most 500 steps, then "
                                   "falls along half a cosine (cosine); rises and falls (one-cycle); or stays "
                                   "(constant).")  # fmt: skip
@setting_option("--momentum", metavar="M", default=None,
                help=f"Momentum of SGD.  [default: {SETTINGS['momentum'].default}]")  # fmt: skip
@setting_option("--clip", metavar="NORM", help="Scale all gradients down together if their norm is larger.")
@setting_option("--weight-decay", metavar="LAMBDA", help="L2 on all but the scales of the blocks' norms.")
@setting_option("--decay", help="Decay of these scales: dynamic weight decay, L2 as for everything else, or none.")
@setting_option("--decay-strength", metavar="LAMBDA",
                help=f"Factor of that decay.  [default: {DECAYS['dynamic']:g} of dynamic decay, "
                     f"{DECAYS['standard']:g} of standard]")  # fmt: skip
@setting_option("--learn-channels", is_flag=False, flag_value=FINETUNE["epochs"], metavar="[N]",
                help="Before the last N epochs, remove the channels that have vanished, then finetune with standard "
                     f"decay.  [N: {FINETUNE['epochs']} if left out]")  # fmt: skip
@threshold_option("With --learn-channels: norms' scales below this have vanished.")
@setting_option("--average", is_flag=False, flag_value=AVERAGE, metavar="[DECAY]",
                help="Also keep a moving average of the weights, validated and saved beside them.  "
                     f"[DECAY: {AVERAGE} if left out]")  # fmt: skip
@setting_option("--size", metavar="PIXELS",
                help="Side of the square that the network sees, or a schedule: 112:0,160:0.7,224:0.9 begins with 112 "
                     "pixels, and goes on with 160 after 70 % of the run.")  # fmt: skip
@setting_option("--seed", metavar="N", help="Seed of initial weights, hold-out, order and augmentation.")
@setting_option("--device", metavar="cpu|cuda[:N]|auto",
                help="Where to train; auto: as OCTSOD_DEVICE says, else on a GPU, if there is one. A run keeps the "
                     "device it was started on.")  # fmt: skip
@threads_option
@setting_option("--save-every", metavar="N", help="Write a checkpoint after every N steps,")
@setting_option("--save-minutes", metavar="MINUTES", help="and whenever this much time has passed since the last one.")
@setting_option("--validate-minutes", metavar="MINUTES",
                help="Validate whenever this much time has passed, and at the end.  "
                     "[default: after each epoch]")  # fmt: skip
@click.option("--recipe", is_eager=True, callback=_use_file, metavar="NAME|FILE",
              help="Settings to begin with: a recipe that comes with octsod, fast or paper, or a TOML file of one's "
                   "own. --config and options override it.")  # fmt: skip
@click.option("-c", "--config", type=existing_file(), is_eager=True, callback=_use_file, metavar="FILE",
              help="TOML file of settings, such as a run's config.toml; options given here override it.")  # fmt: skip
@click.option("--print-config", is_flag=True, help="Print all settings as TOML and do nothing else.")
@click.option("--resume", is_eager=True, callback=_use_file, metavar="RUN|auto",
              help="Continue the run in this folder, or the newest unfinished one in ./runs; --epochs or --steps "
                   "make it longer; --data, or --images and --masks, and --val say where its pictures are "
                   "now.")  # fmt: skip
@click.option("--skip-broken", is_flag=True,
              help="Go on without pictures that cannot be used: broken, of another size than their mask, in a folder "
                   "that cannot be read or, with --resume, gone. They are named in data.json. From there on, it is "
                   "another run.")  # fmt: skip
@click.option("-o", "--output", type=click.Path(file_okay=False), metavar="RUN",
              help="Run folder.  [default: runs/<time>-<name of the data>]")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.option("-v", "--verbose", is_flag=True, help="Print a line per step, and name all files that are left out.")
@click.pass_context
def train(ctx, recipe, config, print_config, resume, skip_broken, output, quiet, verbose, **_):
    """Train a CSNet on pictures and masks, or on pictures of classes.

    Without --recipe, settings are the paper's. The run folder gets config.toml, env.json, log.jsonl (a line per step),
    weights/last.safetensors and best.safetensors (by the held-out pictures' max F or top-1), plots of the log and of
    what the network finds, and what --resume needs; its path is printed at the end. Ctrl-C finishes the step, writes a
    checkpoint and says how to continue.

    Exit codes: 0, the run is done; 1, the training diverged or failed unexpectedly; 2, an option, a file or the machine
    does not allow it; 130, stopped by Ctrl-C; 75, stopped by SIGTERM, SIGHUP or a limit of processor time. After 130
    and 75, --resume goes on from the checkpoint.
    """
    if resume and (recipe or config or output):
        named = "leave --recipe, --config and --output out"
        raise click.UsageError(f"--resume takes folder and settings from the run; {named}.")
    from .. import training

    with as_options(ctx):
        settings = training.resolve(*given_settings(ctx), ctx.meta.get(RESUMING))
    if print_config:
        import tomli_w

        click.echo(tomli_w.dumps(settings), nl=False)
        return

    folder, checkpoint, before = resume, None, None
    with as_options(ctx):
        if resume:
            checkpoint, before = training.read_checkpoint(resume), training.runs.read_pictures(resume)
        else:
            folder = training.new_folder(settings, output)
        with inspection(quiet) as watch:
            data = training.open_data(settings, verbose, skip_broken, before, watch)
    gc.freeze()  # what has been imported stays: the collector need not look through it while kernels are loaded
    try:
        with Interruption(quiet) as interruption:
            done = conduct(settings, folder, data, checkpoint, interruption.requested, quiet, verbose, source=ctx)
    except training.DivergenceError as error:
        report(error)
        ctx.exit(1)
    finally:
        gc.unfreeze()
    if not done:
        click.echo(f"Interrupted. Go on with: {_resumption(folder)}", err=True)
        ctx.exit(interruption.code)
    if not quiet:
        best = shlex.quote(str(folder / "weights" / "best.safetensors"))
        if settings["task"] == "classify":
            click.echo(f"Confusion matrix of the last validation: {folder / 'plots' / 'confusion.png'}", err=True)
            click.echo(f"Score it on other pictures: octsod eval --weights {best} --data DIR", err=True)
        else:
            click.echo(f"What the network finds: {folder / 'plots' / 'predictions.png'}", err=True)
            click.echo(f"Try it on a picture: octsod predict PHOTO --weights {best} -o map.png", err=True)
    tell(folder)


def given_settings(ctx):
    """Arguments for `training.resolve` from `train`: settings from options or environment, from a file, finetune."""
    given, base = {}, {}
    for name in SETTINGS:
        source = ctx.get_parameter_source(name)
        if source is not ParameterSource.DEFAULT:
            (base if source is ParameterSource.DEFAULT_MAP else given)[name] = ctx.params[name]
    return given, base, ctx.params["finetune"]


def _resumption(folder):
    return f"octsod train --resume {shlex.quote(str(folder))}"


@contextlib.contextmanager
def inspection(quiet):
    """Yields what shows the progress of `open_data`."""
    with contextlib.ExitStack() as stack:
        shown = []

        def watch(done, total):
            if not shown and done < total:  # it takes a while
                shown.append(stack.enter_context(Progress(total, "pictures checked", quiet)))
            if shown:
                shown[0].update(done)

        yield watch


def conduct(settings, folder, data, checkpoint, stop, quiet, verbose=False, again=None, source=None):
    """Like `training.conduct`, but show progress. again: the command that goes on after an error. source: as for
    `as_options`."""
    from .. import training

    with as_options(source):
        session = training.Session(settings, folder, data, checkpoint)
    try:
        return _conduct(session, stop, quiet, verbose)
    except training.DivergenceError:
        raise
    except BaseException:
        if kept := session.run.kept:
            click.echo(f"{kept[0].upper()}{kept[1:]}. Go on with: {again or _resumption(folder)}", err=True)
        raise


def _conduct(session, stop, quiet, verbose):
    with (
        session,
        Progress(session.trainer.total, "step", quiet, 0.0 if verbose else INTERVAL, session.trainer.steps) as progress,
        compilation(progress) as compiled,
    ):
        size = session.loader.batch_size
        notes = [*session.data.notes, f"run folder {session.run.folder}"]
        if size < session.settings["batch_size"]:
            notes.append(f"batches of {size} pictures: there are no more to train on")
        if session.finished:
            longer = "a larger --epochs or --steps makes it longer"
            notes.append(f"{session.run.folder}: is finished after {session.trainer.steps} steps; {longer}")
        for note in notes:
            progress.message(note)
        display = _Display(progress, compiled, size)
        if not session.finished:
            _load(session, progress)
        done = session.conduct(display.show, stop)
    if not session.finished:
        display.sum_up()
    return done


def _load(session, progress):
    """Bring the pictures to the device, where that is what the loader does first."""
    load = getattr(session.loader, "load", None)
    if load is not None:
        where = session.trainer.model.device.name
        load(lambda done, total: progress.status(f"pictures brought to {where}: {done} of {total}"))


class _Display:
    """Shows the lines of a run's log as they come, and sums them up."""

    def __init__(self, progress, compiled, batch_size):
        self.progress, self.compiled, self.batch_size = progress, compiled, batch_size
        self.start, self.steps, self.seconds, self.waited = time.monotonic(), 0, 0.0, 0.0

    def show(self, line):
        self.compiled()
        epoch = f"epoch {line['epoch']}"
        if "best" in line:
            for name, scores in {"": line, **{n: v for n, v in line.items() if isinstance(v, dict)}}.items():
                best = ", the best so far" if name in line["best"] else ""
                words = ", ".join(f"{LABELS.get(n, n)} {v:.4f}" for n, v in scores.items() if isinstance(v, float))
                self.progress.message(f"{epoch}{name and f', {name}'}: {words}{best}")
            return
        if "pruned" in line:
            costs = (f"{line[name][0]:,} -> {line[name][1]:,} {name}" for name in ("parameters", "macs"))
            self.progress.message(f"{epoch}: pruned, {', '.join(costs)}".replace("macs", "MACs"))
            return
        if "resized" in line:
            before, side = line["resized"]
            count = "earlier scores no longer count" if side > before else "scores at larger sizes count for more"
            self.progress.message(f"{epoch}: pictures of {side}x{side} pixels from here on; {count}")
        seconds, waited = self.batch_size / line["img_s"], line["data_wait_ms"] / 1000
        if self.steps:  # the first step compiles, so its time says nothing about the others
            self.seconds += seconds
            self.waited += waited
        self.steps += 1
        facts = f"{epoch}  loss {line['loss']:.4f}  {line['img_s']:.1f} images/s  wait {waited / seconds:.0%}"
        self.progress.update(line["step"], facts)

    def sum_up(self):
        facts = [f"{self.steps} steps in {duration(time.monotonic() - self.start)}"]
        if self.steps > 1:
            pictures = (self.steps - 1) * self.batch_size
            facts.append(f"{pictures / self.seconds:.1f} images/s")
            facts.append(f"{self.waited / self.seconds:.1%} waiting for data")
        memory = _peak_memory()
        if memory:
            facts.append(f"peak memory {memory / 1e6:.0f} MB")
        self.progress.message(", ".join(facts))


def _peak_memory():
    """The most memory that this process has used, in bytes; None where that is unknown."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
