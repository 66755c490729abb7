"""`octsod warmup`: all kernels compiled ahead."""

import warnings

import click

from . import Failure
from .progress import compilation


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def warmup(quiet):
    """Compile all kernels ahead of their first use.

    Training, prediction and evaluation compile the kernels that they find missing, which takes half a minute, once per
    version and machine. They are the same for every network and size of picture. OCTSOD_CACHE_DIR names the folder
    that they are kept in.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that they cannot be kept is an error here
        from ..kernels.cpu.compile import cache_folder, cache_root

        folder = cache_folder()
    if folder is None:
        raise Failure(f"{cache_root()}: is not writable; OCTSOD_CACHE_DIR can name another folder.")
    with compilation(_Lines(quiet)) as report:
        _use_all_kernels()
        compiled = report()
    if not quiet:
        click.echo(f"{folder}: all kernels are compiled{'' if compiled else ' already'}", err=True)


class _Lines:
    """Shows what `compilation` has to say."""

    def __init__(self, quiet):
        self.quiet = quiet

    def status(self, text):
        if not self.quiet:
            click.echo(text, err=True)

    message = status


def _use_all_kernels():
    """Training, prediction and evaluation, as short as they get. Kernels are compiled for dtypes, not for shapes."""
    import numpy as np

    import octsod

    from ..data.datasets import Sample
    from ..data.loader import Loader
    from ..training.trainer import Trainer

    picture, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    samples = [Sample("", picture, mask)] * 2
    model = octsod.csnet(0.2)
    for parameter in model.parameters():  # the answer of an untrained network may overflow; that of this one is zero
        parameter.data = np.zeros(parameter.shape, np.float32)
    trainer = Trainer(model)
    for batch in Loader(samples, len(samples), 32, threads=1):
        trainer.step(*batch)
    octsod.evaluate(model, samples, 32)
