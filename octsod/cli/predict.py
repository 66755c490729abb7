"""`octsod predict`: pictures to maps of salience."""

import pathlib

import click

from . import Failure
from .options import check_size, existing_file, overwrite_option, size_option, threads_option
from .progress import Progress


@click.command()
@click.argument("images", nargs=-1, required=True, type=click.Path(exists=True), metavar="IMAGE...")
@click.option("--weights", required=True, type=existing_file(), metavar="FILE", help="Weight file of the network.")
@click.option("-o", "--output", required=True, type=click.Path(), metavar="OUT",
              help="A .png file for one picture; otherwise a folder.")  # fmt: skip
@size_option
@threads_option
@overwrite_option
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
@click.pass_context
def predict(ctx, images, weights, output, size, threads, overwrite, quiet):
    """Find the object in pictures.

    A picture gives a grey map of its own size, white where the object is. A folder's pictures are found in its
    subfolders, too; OUT mirrors them, with the suffix .png. Pictures whose map exists already are skipped, unless
    --overwrite. One that cannot be read is named, and the rest is done.
    """
    jobs = _jobs([pathlib.Path(path) for path in images], pathlib.Path(output), output.endswith(("/", "\\")))
    todo = [(source, target) for source, target in jobs if overwrite or not target.exists()]
    if len(jobs) == 1 and not todo:
        raise Failure(f"{jobs[0][1]}: exists already; --overwrite replaces it.")

    import octsod
    from octsod.errors import FileError
    from octsod.images import write_png
    from octsod.prediction import predict as run

    model = octsod.load(weights)
    check_size(model, size)
    failed = 0
    with Progress(len(todo), "picture", quiet or len(jobs) == 1) as progress:
        for done, (source, target) in enumerate(todo, 1):
            try:
                salience = run(source, model, size)
                target.parent.mkdir(parents=True, exist_ok=True)
                write_png(target, salience)
            except FileError as error:
                failed += 1
                click.echo(f"Error: {error}", err=True)
            progress.update(done, source.name)
    if len(jobs) > 1 and not quiet:
        skipped = f", {len(jobs) - len(todo)} skipped since their maps exist" if len(todo) < len(jobs) else ""
        click.echo(f"{len(todo) - failed} done, {failed} failed{skipped}", err=True)
    if failed:
        ctx.exit(1)


def _jobs(inputs, output, is_folder):
    """(picture, map) paths of all that is to do. Refused before work starts: maps that would collide or replace a
    picture that is read, and names of `output` that do not fit."""
    single = len(inputs) == 1 and not inputs[0].is_dir()
    if output.suffix.lower() == ".png" and not output.is_dir() and not is_folder:
        if not single:
            raise click.UsageError(f"-o {output} names one file, but there may be several maps; name a folder.")
        if not output.parent.is_dir():
            raise Failure(f"{output.parent}: no such folder.")
        jobs = [(inputs[0], output)]
    elif single and output.suffix and not output.is_dir() and not is_folder:
        raise click.UsageError(f"-o {output}: maps are written as PNG; name a .png file or a folder.")
    else:
        if output.exists() and not output.is_dir():
            raise click.UsageError(f"-o {output} is a file; for several maps, name a folder.")
        found = [pair for path in inputs for pair in _pictures(path, output)]
        jobs = [(source, output / relative.with_suffix(".png")) for source, relative in found]
    if not jobs:
        raise Failure(f"{', '.join(map(str, inputs))}: no pictures there.")
    sources = {source.resolve() for source, _ in jobs}
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
    return jobs


def _pictures(path, output):
    """(picture, its path relative to the input): a file, or all in a folder but what lies in the output folder."""
    if not path.is_dir():
        return [(path, pathlib.Path(path.name))]
    from octsod.images import SUFFIXES

    output = output.resolve()
    return [
        (file, file.relative_to(path))
        for file in sorted(path.rglob("*"))
        if file.suffix.lower() in SUFFIXES and not file.name.startswith(".") and file.is_file()
        and not (output != path.resolve() and output in file.resolve().parents)
    ]  # fmt: skip
