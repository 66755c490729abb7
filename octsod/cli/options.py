"""Options that several commands share, and what they mean."""

import contextlib
import functools
import math
import os
import pathlib
import re
import tempfile

import click
from click.core import ParameterSource

from ..threads import MOST_THREADS, default_threads
from ..training.settings import LEAST_SIDE, MOST_SIDE, SETTINGS
from . import Failure, say


class Number(click.FloatRange):
    """A number in a range; click's own type lets nan pass, which is in no range."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Parsed(click.ParamType):
    """A value of a setting that is more than a number or a choice, such as shares or sizes."""

    name = "text"

    def __init__(self, setting):
        self.setting = setting

    def convert(self, value, param, ctx):
        try:
            return self.setting.parse(value)
        except (ValueError, TypeError, AttributeError, OverflowError):
            self.fail(f"{value!r} is not {self.setting.expected}.", param, ctx)


def setting_option(*flags, **arguments):
    """An option for the setting of that name, which determines its type, bounds and default."""
    setting = SETTINGS[flags[-1].removeprefix("--").replace("-", "_")]
    if isinstance(setting.kind, tuple):
        kind = click.Choice(setting.kind)
    elif setting.kind is bool:
        kind = click.BOOL
    elif isinstance(setting.kind, str):
        kind = Parsed(setting)
    elif setting.kind is int:
        kind = click.IntRange(setting.least, setting.most)
    else:
        kind = Number(setting.least, setting.most, min_open=setting.above, max_open=setting.below)
    default = setting.default
    if setting.kind == "split":
        default = ",".join(f"{share:g}" for share in default)
    shown = default is not None and "default" not in arguments
    return click.option(*flags, type=kind, **{"default": default, "show_default": shown, **arguments})


width_option = setting_option("--width", metavar="K", help="Width of the network: channels in multiples of 20.")

split_option = setting_option("--split", metavar="A,B", help="Shares of the channels per scale, fine first.")

variant_option = setting_option(
    "--variant", help="CSNet; its extractor alone, without the fusion; or that with plain OctConvs in place of "
                      "depthwise layers.",
)  # fmt: skip

fused_option = setting_option(
    "--fused", metavar="S,S", help="Stages whose last block merges its branches; a CSNet fuses their outputs.  "
                                   "[default: 2,3,4, or 4 for an extractor]",
)  # fmt: skip

MOST_PIXELS = 250_000_000  # `images.MOST_PIXELS`, whose import would load NumPy

max_pixels_option = setting_option(
    "--max-pixels", metavar="N", help="Refuse pictures with more pixels, which a small file may claim to fill the "
                                      f"memory.  [default: {MOST_PIXELS // 1_000_000} million]",
)  # fmt: skip

THRESHOLD = "1e-20"  # `prune.THRESHOLD`, whose import would load NumPy


def threshold_option(words, default=THRESHOLD):
    """--threshold, a bound on gamma; default: described in words."""
    return setting_option("--threshold", metavar="T", help=f"{words}  [default: {default}]")


SETTINGS_FILES = "octsod.settings_files"  # in a context's meta: the file that has replaced the default of an option


_SETTING = r"`([a-z_]+)`"  # in messages


@contextlib.contextmanager
def as_options(source=None):
    """Within it, errors in the settings of a training become errors in the options or the file that they come from.

    source: the context of these options, if they may come from a file.
    """
    from ..training.session import SettingsError, SetupError

    try:
        yield
    except SettingsError as error:
        names = [error.setting] if error.setting else re.findall(_SETTING, error.detail)
        sources = {name: source and source.get_parameter_source(name) for name in names}
        read = [name for name, found in sources.items() if found is ParameterSource.DEFAULT_MAP]
        if read and set(sources.values()) <= {ParameterSource.DEFAULT_MAP, ParameterSource.DEFAULT}:
            raise Failure(f"{source.meta[SETTINGS_FILES][read[0]]}: {error}") from error
        if error.setting is not None:
            raise click.BadParameter(_as_options(error.detail), param_hint=_as_options(f"`{error.setting}`")) from error
        raise click.UsageError(_as_options(error.detail)) from error
    except SetupError as error:
        raise Failure(_as_options(str(error))) from error


def _as_options(text):
    """A message with its settings, in backticks, turned into options: `batch_size` becomes --batch-size."""
    return re.sub(_SETTING, lambda match: f"--{match[1].replace('_', '-')}", text)


SIDE = click.IntRange(LEAST_SIDE, MOST_SIDE)

size_option = click.option(
    "--size", type=SIDE, metavar="PIXELS",
    help="Side of the square that the network sees.  [default: that of its training]",
)  # fmt: skip


def side_for(model, size, runs=True):
    """The side of the square that the network will see: `size`, or if that is None, the one it was trained at.

    runs: whether the network will run at this size. Usage error if the network does not accept it, or if it is large
    and only the network's file asks for it.
    """
    from ..models import files

    multiple = model.configuration.multiple
    if size is not None and size % multiple:
        raise click.BadParameter(f"{size} is not a multiple of {multiple}, as this network needs.", param_hint="--size")
    if not runs:
        return size or model.size
    try:
        return files.side_for(model, size, "--size")
    except ValueError as error:
        raise click.UsageError(_as_options(str(error))) from error


def load_csnet(path, finds_objects=True):
    """The CSNet in a weight file. Failure, which says what the file holds, if that is another network or, unless
    `finds_objects` is false, a CSNet that tells classes of pictures apart."""
    import octsod

    from ..models.files import architecture_of, require_salience

    model = octsod.load(path)
    if not isinstance(model, octsod.CSNet):
        raise Failure(f"{path}: holds a network of the architecture {architecture_of(model)!r}, not a CSNet.")
    if finds_objects:
        try:
            require_salience(model, path, "network")
        except ValueError as error:
            raise Failure(str(error)) from error
    return model


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that already exist.")


def check_output(path, overwrite):
    """Failure, before any work, if the file `path` cannot be written, or exists and must not be replaced."""
    path = pathlib.Path(path)
    if path.exists():
        if not path.is_file():  # such as /dev/null, which a new file would replace
            raise Failure(f"{path}: is no regular file, and is not replaced.")
        if not overwrite:
            raise Failure(f"{path}: exists already; --overwrite replaces it.")
    if not path.parent.is_dir():
        raise Failure(f"{path.parent}: no such folder.")
    check_folder(path.parent)


def check_folder(folder):
    """Failure, before any work, if nothing can be written in a folder or, if there is none yet, where it will be made.

    Only trying tells: permissions, a read-only or full disk, quotas.
    """
    folder = pathlib.Path(folder)
    folder = next((place for place in (folder, *folder.parents) if os.path.lexists(place)), folder)
    if not folder.is_dir():
        raise Failure(f"{folder}: is no folder.")
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # without a name, so that a kill leaves nothing behind
            file.write(bytes(4096))
    except OSError as error:
        raise Failure(f"{folder}: cannot be written: {error.strerror or error}.") from error


def _use_threads(ctx, param, count):
    if count is not None:
        import octsod

        octsod.set_num_threads(count)
    return count


class _Threads(click.IntRange):
    """A number of threads; an error in that of the environment names the variable, not the option."""

    def convert(self, value, param, ctx):
        if ctx and ctx.get_parameter_source(param.name) is ParameterSource.ENVIRONMENT:
            return default_threads()
        return super().convert(value, param, ctx)


threads_option = click.option(
    "--threads", type=_Threads(1, MOST_THREADS), envvar="OCTSOD_THREADS", show_envvar=True, callback=_use_threads,
    metavar="N", help="Threads for computing.  [default: OMP_NUM_THREADS, or all cores]",
)  # fmt: skip


device_option = functools.partial(
    click.option, "--device", type=Parsed(SETTINGS["device"]), default="auto", show_default=True,
    metavar="cpu|cuda[:N]|auto",
)  # fmt: skip


def use_device(model, name, worth=True):
    """Move a network to the device that --device names; "auto" is a GPU if there is one and it is worth it."""
    from ..backend import chosen_device

    return model.to(chosen_device(name, worth))


def existing_file(**arguments):
    return click.Path(exists=True, dir_okay=False, **arguments)


class GivenPath(click.Path):
    """A path that exists, as an argument of a command with --model, which is told where a name of ours is given."""

    def __init__(self, **arguments):
        super().__init__(exists=True, **arguments)

    def convert(self, value, param, ctx):
        if not os.path.lexists(value):
            from ..models.shipped import meant

            if name := meant(value):
                self.fail(
                    f"Path {value!r} does not exist; the network that comes with octsod is --model {name}.", param, ctx
                )
        return super().convert(value, param, ctx)


class WeightFile(click.Path):
    """A path of weights, or the name of a network that comes with octsod. The folder of a run becomes the file of its
    best weights, and it is said which one that is."""

    def convert(self, value, param, ctx):
        from ..models.weights import weight_file

        if value and not os.path.lexists(value):  # a name of ours, perhaps; if not, it is said what is
            value = str(weight_file(value))
        given = super().convert(value, param, ctx)
        file = str(weight_file(given))
        if os.path.isdir(given) and not (ctx and ctx.params.get("quiet")):
            say(f"Weights: {file}")
        return file


def _best_by_default(ctx, param, path):
    if path is not None or ctx.resilient_parsing:
        return path
    from ..models.shipped import networks

    best = networks()[0]
    if not ctx.params.get("quiet"):
        say(f"Network: {best.name}, which comes with octsod")
    return str(best.file)


model_option = click.option(
    "--model", "--weights", "weights", type=WeightFile(exists=True), callback=_best_by_default, metavar="NAME|FILE|RUN",
    help="The network: one that comes with octsod (see octsod models), a weight file, or the folder of a run: its best "
         "weights.  [default: the best that comes with octsod]",
)  # fmt: skip

# Eager, so that other options know of it.
quiet_option = click.option("-q", "--quiet", is_flag=True, is_eager=True, help="No progress.")
