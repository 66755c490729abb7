"""`octsod warmup`: compiles all kernels ahead of time."""

import click

from . import Failure
from .progress import Lines, compilation


@click.command()
@click.option("-q", "--quiet", is_flag=True, help="No progress.")
def warmup(quiet):
    """Compile all kernels ahead of their first use.

    Training, prediction and evaluation compile any kernels that are missing, which takes half a minute, once per
    version and machine. The kernels are the same for every network and picture size. OCTSOD_CACHE_DIR names the folder
    where they are kept.
    """
    from ..kernels.cpu.cache import first_loss, is_writable
    from ..kernels.cpu.cache_folder import SUFFIX, cache_folder

    folder, problem = cache_folder()
    if problem:  # here it is an error if they cannot be kept
        raise Failure(f"{problem}.")
    if not is_writable(folder) and not any(folder.glob(f"*{SUFFIX}")):  # rather than after a minute
        raise Failure(f"{folder.parent}: is not writable; OCTSOD_CACHE_DIR can name another folder.")
    with compilation(Lines(quiet)) as report:
        _use_all_kernels()
        compiled = report()
    if loss := first_loss():
        raise Failure(f"{loss}; OCTSOD_CACHE_DIR can name another folder.")
    if not quiet:
        click.echo(f"{folder}: all kernels are compiled{'' if compiled else ' already'}", err=True)


def _use_all_kernels():
    """Train, predict and evaluate as briefly as possible. Kernels are compiled for dtypes, not for shapes."""
    import numpy as np

    import octsod

    from ..data.datasets import Sample
    from ..data.loader import Loader
    from ..training.recipes import Recipe

    picture, mask = np.zeros((32, 32, 3), np.uint8), np.zeros((32, 32), np.uint8)
    samples = [Sample("", picture, mask)] * 2
    model = octsod.csnet(0.2)
    for parameter in model.parameters():  # the output of an untrained network may overflow; this one's is zero
        parameter.data = np.zeros(parameter.shape, np.float32)
    trainer = Recipe().trainer(model)
    for batch in Loader(samples, len(samples), 32, threads=1):
        trainer.step(*batch)
    octsod.evaluate(model, samples, 32)
