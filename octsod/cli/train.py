"""`octsod train`: a CSNet on a folder of pictures and masks, into a run folder."""

import datetime
import json
import pathlib
import platform
import sys
import time

import click

from . import Failure
from .options import Number, check_size, size_option, split_option, threads_option, width_option
from .progress import Progress

EPOCHS = 300  # the paper's
EPOCHS_DRAWN = 10  # enough for pictures as simple as the embedded ones
DRAWN = 600  # pictures of the embedded data set


@click.command()
@click.option(
    "--data", type=click.Path(exists=True, file_okay=False), metavar="DIR",
    help="Folder with a folder of pictures and one of masks, such as images and masks.  [default: drawn pictures]",
)  # fmt: skip
@click.option("--steps", type=click.IntRange(min=1), metavar="N", help="Stop after N steps.")
@click.option("--epochs", type=click.IntRange(min=1), metavar="N",
              help=f"Stop after N epochs.  [default: {EPOCHS}; {EPOCHS_DRAWN} without --data]")  # fmt: skip
@click.option("-b", "--batch-size", type=click.IntRange(min=1), default=24, show_default=True, metavar="N")
@click.option("--lr", type=Number(0, min_open=True), default=1e-4, show_default=True, metavar="RATE",
              help="Learning rate of Adam; a tenth from epoch 200, a hundredth from epoch 250.")  # fmt: skip
@size_option
@width_option
@split_option
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="N",
              help="For initial weights, order and augmentation.")  # fmt: skip
@threads_option
@click.option("-o", "--output", type=click.Path(file_okay=False), metavar="RUN",
              help="Run folder.  [default: runs/<time>-<name of the data>]")  # fmt: skip
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def train(data, steps, epochs, batch_size, lr, size, width, split, seed, threads, output, quiet):
    """Train a CSNet on pictures and masks.

    The recipe is the paper's. The run folder gets config.toml, env.json, log.jsonl (a line per step) and
    weights/last.safetensors; its path is printed at the end.
    """
    import octsod
    from octsod.data import FolderDataset, Loader
    from octsod.synthetic import SyntheticDataset
    from octsod.training import Recipe, Trainer
    from octsod.training import train as run

    if data is None:
        dataset, name, source = SyntheticDataset(DRAWN, seed=seed), "synthetic", "drawn from the seed"
    else:
        dataset = FolderDataset(data)
        name, source = dataset.root.resolve().name, f"in {dataset.root}"
    octsod.manual_seed(seed)
    model = octsod.csnet(width, split)
    check_size(model, size)
    trainer = Trainer(model, Recipe(lr=lr))
    loader = Loader(dataset, batch_size, size, seed, threads=min(2, octsod.get_num_threads()))
    if steps is None and epochs is None:
        epochs = EPOCHS if data else EPOCHS_DRAWN
    folder = _new_folder(output, name)
    config = {
        "data": data, "steps": steps, "epochs": epochs, "batch_size": loader.batch_size, "lr": lr, "size": size,
        "width": width, "split": list(split), "seed": seed, "threads": octsod.get_num_threads(),
    }  # fmt: skip
    _describe(folder, config)

    limits = [steps, epochs and epochs * len(loader)]
    with Progress(min(limit for limit in limits if limit), "step", quiet) as progress:
        progress.message(f"{len(dataset)} pictures with masks {source}; run folder {folder}")
        if unpaired := getattr(dataset, "unpaired", ()):
            shown = ", ".join(path.name for path in unpaired[:3])
            progress.message(f"{len(unpaired)} files without a partner are left out: {shown} ...")
        progress.message("First step: compiling the kernels that are not in the cache yet ...")
        start = time.monotonic()

        def show(line):
            if line["step"] == 1:
                progress.message(f"First step done after {time.monotonic() - start:.1f} s.")
            progress.update(line["step"], _status(line))

        run(trainer, loader, folder, steps, epochs, on_step=show)
    click.echo(folder)


def _status(line):
    return (
        f"epoch {line['epoch'] + 1}  loss {line['loss']:.4f}  penalty {line['penalty']:.1f}  "
        f"{line['img_s']:.1f} images/s  waited {line['data_wait_ms']:.0f} ms for data"
    )


def _new_folder(output, name):
    """The run folder, made; Failure if there is something in it already."""
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    folder = pathlib.Path(output) if output else pathlib.Path("runs") / f"{stamp}-{name}"
    if folder.exists() and any(folder.iterdir()):
        raise Failure(f"{folder}: exists already and is not empty; name another run folder.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _describe(folder, config):
    """Write what the run was asked for and what it runs on."""
    from importlib.metadata import PackageNotFoundError, version

    import tomli_w

    import octsod

    versions = {"octsod": octsod.__version__, "python": platform.python_version()}
    for package in ("numpy", "numba", "llvmlite", "pillow", "safetensors"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    environment = {
        "versions": versions,
        "platform": platform.platform(),
        "machine": platform.machine(),
        "threads": config["threads"],
        "arguments": sys.argv[1:],
    }
    config = {name: value for name, value in config.items() if value is not None}  # TOML has no null
    (folder / "config.toml").write_text(tomli_w.dumps(config), encoding="utf-8")
    (folder / "env.json").write_text(json.dumps(environment, indent=2) + "\n", encoding="utf-8")
