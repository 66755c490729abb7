"""The command line. Commands load on demand, and only they import heavy modules (NumPy, Numba, pictures)."""

import contextlib
import errno
import importlib
import os
import sys
import warnings

import click

from .. import __version__
from ..checks import printable, shortened
from ..errors import MOST
from .streams import lasting, silence_output

# Module here -> its function. A function named `eval` would hide Python's own.
COMMANDS = {
    "predict": "predict",
    "train": "train",
    "eval": "evaluate",
    "models": "models",
    "info": "info",
    "prune": "prune",
    "plot": "plot",
    "sweep": "sweep",
    "profile": "profile",
    "convert": "convert",
    "export": "export",
    "warmup": "warmup",
    "doctor": "doctor",
    "check": "check",
}

INTERRUPTED = 130


class Failure(click.ClickException):
    """The command cannot do what was asked: prints one line on standard error and exits with code 2."""

    exit_code = 2

    def format_message(self):
        return one_line(self.message)


def report(error):
    """Print what went wrong with one of several inputs."""
    say(f"Error: {error}")


def say(text):
    """Print a line on standard error."""
    print(one_line(text), file=sys.stderr)  # which a progress bar makes room for; `click.echo` goes round that


def tell(text):
    """Print a line on standard output about work that is done, whose results are in files: if nobody reads it any more,
    as in `octsod train ... | head -1`, nothing is lost, and the command has not failed.

    Where what is printed is the result, as that of `octsod eval`, `click.echo` raises BrokenPipeError, and the exit
    code is 1, as people know it from other commands.
    """
    try:
        click.echo(text)
    except BrokenPipeError:
        silence_output()


def one_line(text):
    """`text` made safe for a terminal, and not long: arguments may hold any amount of text."""
    return shortened(printable(text), MOST)


@contextlib.contextmanager
def _short_usage_errors():
    """click's own messages quote arguments as they are."""
    try:
        yield
    except click.exceptions.NoArgsIsHelpError:
        raise
    except click.UsageError as error:
        error.message = one_line(error.message)
        raise


class LazyGroup(click.Group):
    """Loads a command's module when it is needed; turns octsod's errors into one line and an exit code."""

    def list_commands(self, ctx):
        return list(COMMANDS)

    def get_command(self, ctx, name):
        return getattr(importlib.import_module(f"octsod.cli.{name}"), COMMANDS[name]) if name in COMMANDS else None

    def resolve_command(self, ctx, args):
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            import difflib

            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            if args[0].startswith("-") or not near:
                raise
            raise click.UsageError(f"No such command {args[0]!r}. Did you mean {near[0]!r}?", ctx) from error

    def make_context(self, *args, **kwargs):
        with _short_usage_errors():
            return super().make_context(*args, **kwargs)

    def main(self, *arguments, **options):
        with lasting():
            return super().main(*arguments, **options)

    def invoke(self, ctx):
        import logging

        from ..errors import OctsodError

        logging.getLogger("PIL").addHandler(logging.NullHandler())  # its exceptions say the same
        with warnings.catch_warnings():
            warned = set()

            def show(message, *_, **__):
                if str(message) not in warned:  # the same may come from two places
                    warned.add(str(message))
                    say(f"Warning: {message}")

            warnings.showwarning = show
            # Pillow warns of parts of a picture, such as a TIFF's tile, that are large, but not too large for us.
            warnings.filterwarnings("ignore", message="Image size .* decompression bomb")
            try:
                with _short_usage_errors():
                    return super().invoke(ctx)
            except OctsodError as error:
                raise Failure(str(error)) from error
            except OSError as error:
                if error.errno == errno.EPIPE:  # whoever read our output is gone; click handles that
                    raise
                where = f"{os.fsdecode(error.filename)}: " if error.filename else ""
                raise Failure(f"{where}{error.strerror or error}.") from error
            except MemoryError as error:
                raise Failure(f"out of memory: {error or 'a smaller --batch-size or --size may help'}.") from error
            except KeyboardInterrupt:
                click.echo("Interrupted.", err=True)
                ctx.exit(INTERRUPTED)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="octsod")
def main():
    """Find the object in a picture: train and run CSNet, salient object detection with 100K parameters."""
