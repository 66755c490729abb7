"""`octsod predict`: turns pictures into maps of salience, or into pictures made with them."""

import contextlib
import io
import os
import pathlib
import sys

import click

from . import Failure, one_line, report, say, tell
from .options import (
    MOST_PIXELS,
    GivenPath,
    Number,
    check_folder,
    check_output,
    device_option,
    load_csnet,
    max_pixels_option,
    model_option,
    overwrite_option,
    quiet_option,
    side_for,
    size_option,
    threads_option,
    use_device,
)
from .progress import Lines, Progress, compilation

MOST_WORKERS = 8  # each may hold a large picture
MANY = 50  # pictures for which compiling and loading kernels for a GPU is worth it
AHEAD = 64  # how many pictures may be begun or done before the one whose turn it is to be reported


@click.command()
@click.argument("images", nargs=-1, required=True, type=GivenPath(allow_dash=True), metavar="IMAGE...")
@model_option
@click.option("-o", "--output", type=click.Path(), metavar="OUT",
              help="For one picture, a .png file, or - for standard output; otherwise a folder.  [default: of "
                   "photo.jpg, photo-salience.png in this folder; of several, the folder salience; likewise overlay, "
                   "cutout, crop]")  # fmt: skip
@click.option("--overlay", is_flag=True, help="Write the picture with the object outlined and all else dimmed.")
@click.option("--cutout", is_flag=True, help="Write the object alone, with the map as its opacity.")
@click.option("--crop", is_flag=True, help="Write the picture, its overlay or its cutout cropped to the object.")
@click.option("--margin", type=Number(0, 100), default=0.1, show_default=True, metavar="PART",
              help="What --crop leaves around the object, as a fraction of its size.")  # fmt: skip
@click.option("--keep-suffix", is_flag=True,
              help="Add .png to whole names, so that a.jpg and a.png become a.jpg.png and a.png.png.")  # fmt: skip
@max_pixels_option
@size_option
@device_option(help="Where the network runs; auto: as OCTSOD_DEVICE says, else on a GPU, if there is one and at least "
                    f"{MANY} pictures.")  # fmt: skip
@threads_option
@overwrite_option
@quiet_option
@click.pass_context
def predict(
    ctx, images, weights, output, overlay, cutout, crop, margin, keep_suffix, max_pixels, size, device, threads,
    overwrite, quiet,
):  # fmt: skip
    """Find the object in pictures.

    IMAGE is a picture, a folder, or - for a picture on standard input. For each picture, writes a grey map of the same
    size, white where the object is; --overlay, --cutout and --crop write other pictures instead. A folder is searched
    with its subfolders, linked ones included; OUT mirrors them, with the suffix .png. Files that already exist are
    skipped, unless --overwrite is given. A picture that cannot be read is named, and the rest are done.
    """
    if overlay and cutout:
        raise click.UsageError("--overlay and --cutout are two different pictures; choose one.")
    if ctx.get_parameter_source("margin").name != "DEFAULT" and not crop:
        raise click.UsageError("--margin is for --crop.")
    single = len(images) == 1 and not os.path.isdir(images[0])
    unnamed = output is None
    if unnamed:
        made = "overlay" if overlay else "cutout" if cutout else "crop" if crop else "salience"
        output = _default_output(images[0] if single else None, made)
    jobs, failures = _jobs(images, single, output, keep_suffix, overwrite)
    todo = [(source, target) for source, target in jobs if overwrite or not _exists(target)]

    import octsod

    from ..data.workers import Workers, delayed
    from ..errors import FileError

    model = load_csnet(weights)
    size = side_for(model, size)
    use_device(model, device, worth=len(todo) >= MANY)

    def make(source, target):
        """Make one picture. Returns what went wrong with it, if anything, as text: an exception would keep the frames
        it came through, and with them the picture. Returns, too, whether it was to be cropped but has no object."""
        try:
            image = octsod.images.read_image(source, limit=max_pixels or MOST_PIXELS)
            salience = octsod.predict(image, model, size)
            box = octsod.pictures.object_box(salience, margin) if crop else None
            if overlay:
                image = octsod.pictures.overlay(image, salience)
            elif cutout:
                image = octsod.pictures.cutout(image, salience)
            elif not crop:
                image = salience
            _write(target, image[box] if box else image)
            return None, crop and box is None
        except FileError as error:
            return str(error), False
        except MemoryError as error:  # others may be smaller
            return f"{_name(source)}: out of memory{f': {error}' if str(error) else ''}.", False

    for failure in failures:
        report(failure)
    failed, uncropped = len(failures), 0
    with contextlib.ExitStack() as stack:
        progress = Lines(quiet) if single else stack.enter_context(Progress(len(todo), "picture", quiet))
        compiled = stack.enter_context(compilation(progress))
        # While one picture is in the network, others are read and written: a large one holds none of them up.
        pool = Workers(min(octsod.get_num_threads() + 1, MOST_WORKERS), "octsod-predict")
        stack.callback(pool.shutdown, cancel_futures=True)
        running = delayed(((source, pool.submit(make, source, target)) for source, target in todo), AHEAD)
        for done, (source, making) in enumerate(running, 1):
            error, is_whole = making.result()
            compiled()
            if error is not None:
                failed += 1
                report(error)
            elif is_whole:
                uncropped += 1
                say(f"Warning: {_name(source)}: no object found; it is not cropped.")
            if not single:
                progress.update(done, one_line(_name(source)))
    if not single and not quiet:
        counts = [f"{len(todo) + len(failures) - failed} done", f"{failed} failed"]
        if len(todo) < len(jobs):
            counts.append(f"{len(jobs) - len(todo)} skipped since they exist")
        if uncropped:
            counts.append(f"{uncropped} without an object, not cropped")
        say(", ".join(counts))
    if failed:
        ctx.exit(1)
    if unnamed and output != "-":
        tell(output)


def _default_output(picture, made):
    """Where to write what is made of one picture, or of several (None), if nobody says."""
    if picture == "-":
        return "-"
    return made if picture is None else f"{pathlib.Path(picture).stem}-{made}.png"


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
    return isinstance(target, pathlib.Path) and os.path.isfile(target)


def _name(source):
    return str(source) if isinstance(source, pathlib.Path) else "<stdin>"


def _jobs(images, single, output, keep_suffix, overwrite):
    """All pairs (picture, output) to work on, paths or standard input and output; and the FileErrors of folders that
    cannot be searched.

    Refuses, before work starts, outputs that would collide, replace an input picture or cannot be written, and names
    that do not fit.
    """
    if "-" in images and not single:
        raise click.UsageError("IMAGE - is one picture, on standard input; leave the others out.")
    if output == "-":
        if not single:
            raise click.UsageError("-o - is for one picture, but there may be several; name a folder.")
        return [(_source(images[0]), _standard_output())], []

    if not output:  # an unset variable of a script, for which `Path` would be this folder
        raise click.UsageError("-o is empty; name a .png file or a folder.")
    target, failures = pathlib.Path(output), []
    is_folder = target.is_dir() or output.endswith(("/", "\\"))
    is_file = target.suffix.lower() == ".png" and not is_folder
    if is_file:
        if not single:
            raise click.UsageError(f"-o {output} names one file, but there may be several pictures; name a folder.")
        jobs = [(_source(images[0]), target)]
    elif "-" in images:
        raise click.UsageError(f"-o {output}: for the picture on standard input, name a .png file.")
    elif single and not is_folder and (target.suffix or target.exists()):
        raise click.UsageError(f"-o {output}: pictures are written as PNG; name a .png file or a folder.")
    elif target.exists() and not target.is_dir():
        raise click.UsageError(f"-o {output} is a file; for several pictures, name a folder.")
    else:
        found = [pair for path in images for pair in _pictures(pathlib.Path(path), target, failures)]
        jobs = [
            (source, target / (name.with_name(f"{name.name}.png") if keep_suffix else name.with_suffix(".png")))
            for source, name in found
        ]
    if not jobs:
        for failure in failures:
            report(failure)
        raise Failure(f"{', '.join(images)}: no pictures there.")
    _refuse_collisions(jobs)
    if is_file or (single and _exists(jobs[0][1])):
        check_output(jobs[0][1], overwrite)
    else:
        check_folder(target)
    return jobs, failures


def _source(image):
    if image != "-":
        return pathlib.Path(image)
    if sys.stdin is None:
        raise Failure("IMAGE -: standard input is closed.")
    return sys.stdin.buffer


def _standard_output():
    if sys.stdout is None:
        raise Failure("-o -: standard output is closed.")
    if sys.stdout.isatty():
        raise click.UsageError("-o -: standard output is a terminal; redirect it, or name a file.")
    try:
        os.write(sys.stdout.fileno(), b"")  # fails if it is open for reading only
    except io.UnsupportedOperation:  # it is no file, but in the memory of this process
        pass
    except OSError as error:
        raise Failure(f"-o -: standard output cannot be written: {error.strerror or error}.") from error
    return sys.stdout.buffer


def _refuse_collisions(jobs):
    folders = {}  # their real paths: of a hundred thousand pictures, those of single ones take too long

    def real(path):
        # Not `Path.resolve`, which raises an error for a link to itself.
        if path.name in ("", "..") or path.is_symlink():
            return os.path.realpath(path)
        parent = os.path.dirname(path)
        if parent not in folders:
            folders[parent] = os.path.realpath(parent)
        return os.path.join(folders[parent], path.name)

    sources = {real(source) for source, _ in jobs if isinstance(source, pathlib.Path)}
    taken, needed = {}, {}
    for source, target in jobs:
        place = real(target)
        if place in taken:
            other = taken[place]
            hint = "; --keep-suffix keeps them apart" if other.suffix != source.suffix else ""
            raise Failure(
                f"{source}: given twice." if other == source
                else f"{other} and {source} would both be written to {target}{hint}."
            )  # fmt: skip
        taken[place] = source
        needed.setdefault(os.path.dirname(place), source)
        if place in sources:
            raise Failure(f"{target}: is one of the pictures to read; name another output.")
    for place, source in needed.items():
        for folder in map(str, (pathlib.Path(place), *pathlib.Path(place).parents)):
            if folder in taken:
                raise Failure(f"{taken[folder]} would be written to {folder}, which {source} needs as a folder.")


def _pictures(path, output, failures):
    """(picture, its path relative to the input): a file, or all in a folder except those hidden or in the output.

    What cannot be searched is added to `failures`; pictures in formats that are not read are named.
    """
    if not path.is_dir():
        return [(path, pathlib.Path(path.name))]
    from ..data.listing import describe_not_taken, find_pictures
    from ..errors import FileError

    if os.path.realpath(output) == os.path.realpath(path):
        raise Failure(f"{path}: is the folder that is read; name another one for the output.")
    try:
        found = find_pictures(path, skip=(output,))
    except FileError as error:
        failures.append(error)
        return []
    failures += found.failures
    if found.not_taken:
        say(describe_not_taken(found.not_taken))
    return [(picture, picture.relative_to(path)) for picture in found.pictures]
