"""`python -m bench profiler`: what it costs to be profiled, as the time of a training step with and without."""

import time

import click

import octsod

from .children import without_garbage
from .command import Outcome, measurement, rounds_option, say
from .implementations import OURS
from .kernels import training_step
from .ratios import CONFIDENCE, PROFILED, paired_ratio
from .rows import row, table


def _seconds(step):
    step()
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def _profiled(step):
    """The seconds of a step and of the end of its round. As without the profiler, a step comes before: to begin a
    profile takes long enough for caches to forget and for threads to fall asleep."""
    with octsod.profile(warm=1, roofs=False) as found:
        step()
        found.step()
        start = time.perf_counter()
        step()
        found.step()
        return time.perf_counter() - start


@measurement
@click.option("-b", "--batch-size", default=24, show_default=True, type=click.IntRange(min=1))
@rounds_option(default=30)
def profiler(threads, batch_size, rounds):
    """A training step of CSNet-x1 at 224x224 within octsod.profile, and without, in turns."""
    step = training_step(batch_size)
    _profiled(step)
    say("timing in turns")
    seconds = {OURS: [], PROFILED: []}
    with without_garbage():
        for turn in range(rounds):
            for name in sorted(seconds, reverse=turn % 2 == 1):
                seconds[name].append((_profiled if name == PROFILED else _seconds)(step))
    case = f"profiler/x1/b{batch_size}"
    rows = [row(case, name, threads, samples) for name, samples in seconds.items()]
    ratio, low, high = paired_ratio(seconds[OURS], seconds[PROFILED])
    interval = "" if low is None else f"{low:.4f} to {high:.4f}"
    header = ("step", "profiled, ms", "not, ms", "profiled / not", f"{CONFIDENCE} %")
    medians = [f"{r['median_ms']:.2f}" for r in reversed(rows)]
    return Outcome(rows, table(header, [(case, *medians, f"{ratio:.4f}", interval)]))
