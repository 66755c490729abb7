"""`octsod predict`: turns pictures into maps of salience, or into pictures made with them."""

import concurrent.futures
import contextlib
import os
import pathlib
import sys

import click

from . import Failure, one_line, report
from .options import Number, existing_file, load_csnet, overwrite_option, side_for, size_option, threads_option
from .progress import Progress

MOST_WORKERS = 8  # each may hold a large picture
PATIENCE = 3.0  # seconds that the first picture may take before a message explains the wait


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True, allow_dash=True), metavar="IMAGE...")
@click.option("--weights", required=True, type=existing_file(), metavar="FILE", help="Weight file of the network.")
@click.option("-o", "--output", required=True, type=click.Path(), metavar="OUT",
              help="For one picture, a .png file, or - for standard output; otherwise a folder.")  # fmt: skip
@click.option("--overlay", is_flag=True, help="Write the picture with the object outlined and all else dimmed.")
@click.option("--cutout", is_flag=True, help="Write the object alone, with the map as its opacity.")
@click.option("--crop", is_flag=True, help="Write the picture, its overlay or its cutout cropped to the object.")
@click.option("--margin", type=Number(0, 100), default=0.1, show_default=True, metavar="PART",
              help="What --crop leaves around the object, as a fraction of its size.")  # fmt: skip
@size_option
@threads_option
@overwrite_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def predict(ctx, images, weights, output, overlay, cutout, crop, margin, size, threads, overwrite, quiet):
    """Find the object in pictures.

    IMAGE is a picture, a folder, or - for a picture on standard input. For each picture, writes a grey map of the same
    size, white where the object is; --overlay, --cutout and --crop write other pictures instead. A folder is searched
    with its subfolders; OUT mirrors them, with the suffix .png. Files that already exist are skipped, unless
    --overwrite is given. A picture that cannot be read is named, and the rest are done.
    """
    if overlay and cutout:
        raise click.UsageError("--overlay and --cutout are two different pictures; choose one.")
    if ctx.get_parameter_source("margin").name != "DEFAULT" and not crop:
        raise click.UsageError("--margin is for --crop.")
    jobs = _jobs(images, output)
    todo = [(source, target) for source, target in jobs if overwrite or not _exists(target)]
    if len(jobs) == 1 and not todo:
        raise Failure(f"{output}: exists already; --overwrite replaces it.")

    import octsod

    from ..data.workers import Workers
    from ..errors import FileError

    model = load_csnet(weights)
    size = side_for(model, size)

    def make(source, target):
        """Make one picture; returns False if it was to be cropped but has no object to crop to."""
        image = octsod.images.read_image(source)
        salience = octsod.predict(image, model, size)
        box = octsod.pictures.object_box(salience, margin) if crop else None
        if overlay:
            image = octsod.pictures.overlay(image, salience)
        elif cutout:
            image = octsod.pictures.cutout(image, salience)
        elif not crop:
            image = salience
        _write(target, image[box] if box else image)
        return bool(box) or not crop

    failed = uncropped = 0
    with contextlib.ExitStack() as stack:
        progress = stack.enter_context(Progress(len(todo), "picture", quiet or len(jobs) == 1))
        # While one picture is in the network, others are read and written: a large one holds none of them up.
        pool = Workers(min(octsod.get_num_threads() + 1, MOST_WORKERS), "octsod-predict")
        stack.callback(pool.shutdown, cancel_futures=True)
        running = [pool.submit(make, source, target) for source, target in todo]
        if not quiet and concurrent.futures.wait(running[:1], PATIENCE).not_done:
            click.echo("At the first picture; kernels that are not in the cache yet are being compiled ...", err=True)
        for done, ((source, _), making) in enumerate(zip(todo, running, strict=True), 1):
            name = source if isinstance(source, pathlib.Path) else "<stdin>"
            try:
                if not making.result():
                    uncropped += 1
                    click.echo(one_line(f"Warning: {name}: no object found; it is not cropped."), err=True)
            except FileError as error:
                failed += 1
                report(error)
            progress.update(done, one_line(name))
    if len(jobs) > 1 and not quiet:
        counts = [f"{len(todo) - failed} done", f"{failed} failed"]
        if len(todo) < len(jobs):
            counts.append(f"{len(jobs) - len(todo)} skipped since they exist")
        if uncropped:
            counts.append(f"{uncropped} without an object, not cropped")
        click.echo(", ".join(counts), err=True)
    if failed:
        ctx.exit(1)


def _write(target, picture):
    from ..data.images import write_png
    from ..errors import FileError

    if isinstance(target, pathlib.Path):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"{target.parent}: cannot be made: {error.strerror or error}.") from error
    write_png(target, picture)


def _exists(target):
    return isinstance(target, pathlib.Path) and target.exists()


def _jobs(images, output):
    """All pairs (picture, output) to work on: paths, or standard input and output.

    Refuses, before work starts, outputs that would collide or replace an input picture, and names that do not fit.
    """
    single = len(images) == 1 and not os.path.isdir(images[0])
    if "-" in images and not single:
        raise click.UsageError("IMAGE - is one picture, on standard input; leave the others out.")
    if output == "-":
        if not single:
            raise click.UsageError("-o - is for one picture, but there may be several; name a folder.")
        if sys.stdout.isatty():
            raise click.UsageError("-o -: standard output is a terminal; redirect it, or name a file.")
        return [(_source(images[0]), sys.stdout.buffer)]

    target = pathlib.Path(output)
    is_folder = target.is_dir() or output.endswith(("/", "\\"))
    if target.suffix.lower() == ".png" and not is_folder:
        if not single:
            raise click.UsageError(f"-o {output} names one file, but there may be several pictures; name a folder.")
        if not target.parent.is_dir():
            raise Failure(f"{target.parent}: no such folder.")
        jobs = [(_source(images[0]), target)]
    elif "-" in images:
        raise click.UsageError(f"-o {output}: for the picture on standard input, name a .png file.")
    elif single and target.suffix and not is_folder:
        raise click.UsageError(f"-o {output}: pictures are written as PNG; name a .png file or a folder.")
    elif target.exists() and not target.is_dir():
        raise click.UsageError(f"-o {output} is a file; for several pictures, name a folder.")
    else:
        found = [pair for path in images for pair in _pictures(pathlib.Path(path), target)]
        jobs = [(source, target / relative.with_suffix(".png")) for source, relative in found]
    if not jobs:
        raise Failure(f"{', '.join(images)}: no pictures there.")
    _refuse_collisions(jobs)
    return jobs


def _source(image):
    return sys.stdin.buffer if image == "-" else pathlib.Path(image)


def _refuse_collisions(jobs):
    sources = {source.resolve() for source, _ in jobs if isinstance(source, pathlib.Path)}
    taken = {}
    for source, target in jobs:
        place = target.resolve()
        if place in taken:
            raise Failure(
                f"{source}: given twice." if taken[place] == source
                else f"{taken[place]} and {source} would both be written to {target}."
            )  # fmt: skip
        taken[place] = source
        if place in sources:
            raise Failure(f"{target}: is one of the pictures to read; name another output.")
    for place, source in taken.items():
        for folder in place.parents:
            if folder in taken:
                raise Failure(f"{taken[folder]} would be written to {folder}, which {source} needs as a folder.")


def _pictures(path, output):
    """(picture, its path relative to the input): a file, or all in a folder except those hidden or in the output."""
    if not path.is_dir():
        return [(path, pathlib.Path(path.name))]
    from ..data.images import SUFFIXES

    output = output.resolve()
    if output == path.resolve():
        raise Failure(f"{path}: is the folder that is read; name another one for the output.")
    found = []
    for folder, folders, names in os.walk(path, onerror=_raise):
        folder = pathlib.Path(folder)
        # As in data sets: no hidden folders, nor those that macOS puts into archives.
        folders[:] = sorted(n for n in folders if not n.startswith((".", "__")) and (folder / n).resolve() != output)
        files = (folder / name for name in sorted(names) if not name.startswith("."))
        found += [(f, f.relative_to(path)) for f in files if f.suffix.lower() in SUFFIXES and f.is_file()]
    return found


def _raise(error):
    raise error
