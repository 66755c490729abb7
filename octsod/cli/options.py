"""Options that several commands share, and what they stand for."""

import math
import pathlib

import click

from . import Failure


class Number(click.FloatRange):
    """A number in a range; click's own lets nan pass, which is in no range."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Split(click.ParamType):
    """Shares of the channels per scale, fine to coarse, such as 3,1."""

    name = "A,B"

    def convert(self, value, param, ctx):
        try:
            shares = tuple(float(share) for share in (value.split(",") if isinstance(value, str) else value))
        except (ValueError, TypeError):
            shares = ()
        if not 1 <= len(shares) <= 3 or not all(0 <= share < math.inf for share in shares) or not sum(shares) > 0:
            self.fail(f"{value!r} is not one to three shares such as 3,1.", param, ctx)
        return shares


width_option = click.option(
    "--width", type=Number(0.2, 20), default=1.0, show_default=True, metavar="K",
    help="Width of the network: channels in multiples of 20.",
)  # fmt: skip

split_option = click.option(
    "--split", type=Split(), default="0.5,0.5", show_default=True, help="Shares of the channels per scale, fine first."
)

SIDE = click.IntRange(16, 1 << 14)

size_option = click.option(
    "--size", type=SIDE, metavar="PIXELS",
    help="Side of the square that the network sees.  [default: that of its training]",
)  # fmt: skip


def side_for(model, size):
    """The side of the square that the network is to see: `size`, or if that is None, the one it was trained at.

    Usage error if the network does not take it.
    """
    multiple = model.configuration.multiple
    if size is not None and size % multiple:
        raise click.BadParameter(f"{size} is not a multiple of {multiple}, as this network needs.", param_hint="--size")
    return size or model.size


overwrite_option = click.option("--overwrite", is_flag=True, help="Replace files that exist already.")


def check_output(path, overwrite):
    """Failure, before any work, if the file `path` cannot be written or is there already and may not be replaced."""
    path = pathlib.Path(path)
    if path.exists() and not overwrite:
        raise Failure(f"{path}: exists already; --overwrite replaces it.")
    if not path.parent.is_dir():
        raise Failure(f"{path.parent}: no such folder.")


def _use_threads(ctx, param, count):
    if count is not None:
        import octsod

        octsod.set_num_threads(count)
    return count


threads_option = click.option(
    "--threads", type=click.IntRange(1, 1024), envvar="OCTSOD_THREADS", show_envvar=True, callback=_use_threads,
    metavar="N", help="Threads for computing.  [default: OMP_NUM_THREADS, or all cores]",
)  # fmt: skip


def existing_file(**arguments):
    return click.Path(exists=True, dir_okay=False, **arguments)
