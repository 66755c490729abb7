"""A training on a machine that is lent for minutes, and that nothing but a small folder can be brought to.

    python -m bench.lent pack DUTS-TR PACK.zip      # here: pictures and masks at 160x160, 49 MiB for 10,553
    python -m bench.lent train PACK.zip RUN.tar     # on the machine: the paper's recipe, as far as the minutes go
    python -m bench.lent train PACK.zip RUN.tar     # again, on the next machine: goes on where it stopped

RUN.tar holds the run folder, `run`, which `octsod train --resume run --data DIR` goes on with anywhere, too.
"""

import contextlib
import os
import pathlib
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
import threading
import zipfile

import click
from PIL import Image

from octsod.cli.options import SIDE, check_output, overwrite_option
from octsod.cli.progress import Progress
from octsod.data import FolderDataset
from octsod.data.workers import Workers, delayed
from octsod.errors import OctsodError

QUALITY = 75  # of WebP files: 160x160 pixels in some 4 KB
LIMIT = 60 << 20  # bytes of a pack that are sure to travel
RESUMABLE = 75  # `octsod train` was stopped by SIGTERM, and its run can go on


@contextlib.contextmanager
def replaced(path):
    """The name of a file to write, which takes the place of `path` once it is whole."""
    part = pathlib.Path(f"{path}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def unpacking(path):
    """Says of a damaged archive which one it is."""
    try:
        yield
    except (tarfile.TarError, zipfile.BadZipFile, EOFError) as error:
        raise click.ClickException(f"{path}: cannot be unpacked: {error}") from error


class _Group(click.Group):
    def invoke(self, ctx):
        try:
            return super().invoke(ctx)
        except OctsodError as error:
            raise click.ClickException(str(error)) from error


@click.group(cls=_Group)
def lent():
    """Training on a machine that is lent for minutes."""


@lent.command()
@click.argument("data", type=click.Path(exists=True, file_okay=False))
@click.argument("output", type=click.Path(dir_okay=False))
@click.option("--size", type=SIDE, default=160, show_default=True, help="Side of pictures and masks, in pixels.")
@click.option("--quality", type=click.IntRange(1, 95), default=QUALITY, show_default=True, help="Of the WebP pictures.")
@overwrite_option
def pack(data, output, size, quality, overwrite):
    """Write pictures and masks, made small, into one archive."""
    check_output(output, overwrite)
    dataset = FolderDataset(data)
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        for part in ("images", "masks"):
            (root / part).mkdir()

        def shrink(index):
            name, image, mask = dataset[index]
            small = Image.fromarray(image).resize((size, size), Image.Resampling.LANCZOS)
            small.save(root / "images" / f"{name}.webp", quality=quality)
            object_ = Image.fromarray(mask).resize((size, size), Image.Resampling.BOX).point(lambda v: 255 * (v > 127))
            object_.convert("1").save(root / "masks" / f"{name}.png", optimize=True)

        with Workers(2) as pool, Progress(len(dataset), "picture", False) as progress:
            jobs = ((index, pool.submit(shrink, index)) for index in range(len(dataset)))
            for index, job in delayed(jobs, 64):
                job.result()
                progress.update(index + 1)
        # A tar archive would take 16 MB more, for names and gaps.
        with replaced(output) as part, zipfile.ZipFile(part, "w") as archive:
            for path in sorted(root.rglob("*.*")):
                archive.write(path, path.relative_to(root))
    length = pathlib.Path(output).stat().st_size
    click.echo(f"{output}: {len(dataset)} pictures of {size}x{size}, {length / 2**20:.1f} MiB", err=True)
    if length > LIMIT:
        raise click.ClickException(f"{output}: takes more than {LIMIT >> 20} MiB; a lower --quality or --size helps.")


@lent.command()
@click.argument("pictures", type=click.Path(exists=True, dir_okay=False))
@click.argument("output", type=click.Path(dir_okay=False))
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=8.0, show_default=True,
              help="Stop then, with a checkpoint.")  # fmt: skip
@click.option("--recipe", default="paper", show_default=True, metavar="NAME|FILE")
@click.option("--size", type=SIDE, default=160, show_default=True, help="Side that the network sees, in pixels.")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[-- OPTIONS OF TRAIN]")
@click.pass_context
def train(ctx, pictures, output, minutes, recipe, size, options):
    """Train on packed pictures, or go on with the run in OUTPUT, until it ends or time is up."""
    with tempfile.TemporaryDirectory() as temporary:
        root = pathlib.Path(temporary)
        with unpacking(pictures), zipfile.ZipFile(pictures) as archive:
            archive.extractall(root / "data")
        run = root / "run"
        if pathlib.Path(output).exists():
            if given := [name for name in ("recipe", "size") if ctx.get_parameter_source(name).name == "COMMANDLINE"]:
                raise click.UsageError(f"{output}: goes on with its own settings; leave --{given[0]} out.")
            with unpacking(output), tarfile.open(output) as archive:
                archive.extractall(root, filter="data")
            arguments = ["--resume", run]
        else:
            arguments = ["--recipe", recipe, "--size", size, "-o", run]
        arguments += ["--data", root / "data", "--save-minutes", 1, *options]
        process = subprocess.Popen(
            [sys.executable, "-m", "octsod", "train", *map(str, arguments)], text=True, errors="replace",
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        for number in (signal.SIGINT, signal.SIGTERM):  # whoever ends this ends the training, and the run is kept
            signal.signal(number, lambda *_: process.send_signal(signal.SIGTERM))
        again = ["python", "-m", "bench.lent", "train", pictures, output]
        if ctx.get_parameter_source("minutes").name == "COMMANDLINE":
            again += ["--minutes", f"{minutes:g}"]
        # It speaks of a folder that will be gone: what it says should be true of what is kept.
        gone = f"octsod train --resume {shlex.quote(str(run))}"
        end = threading.Timer(60 * minutes, process.send_signal, [signal.SIGTERM])
        end.start()
        try:
            for line in process.stdout:
                line = line.replace(gone, shlex.join(again)).replace(f"{root}{os.sep}", "")
                click.echo(line, nl=False, err=True)
            code = process.wait()
        finally:
            end.cancel()
        if (run / "state").is_dir():
            with replaced(output) as part, tarfile.open(part, "w") as archive:
                archive.add(run, "run")
        if code not in (0, RESUMABLE):
            raise SystemExit(code)
        click.echo(f"{output}: {'finished' if code == 0 else 'holds the run so far'}", err=True)


if __name__ == "__main__":
    lent(prog_name="python -m bench.lent")
