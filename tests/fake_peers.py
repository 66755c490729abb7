"""Implementations that the tests of the benchmarks have measured; children import nothing else."""

import contextlib
import dataclasses
import os
import time

import numpy as np

from bench.children import Block


def counting(problem, threads, factor=1.0):
    """A block whose result tells how many steps it has made, and under which conditions."""
    steps = []

    def results():
        return {"steps": np.array([factor * len(steps)]), "threads": np.array([int(os.environ["OMP_NUM_THREADS"])])}

    return Block(lambda: steps.append(threads), results)


def failing(problem, threads):
    raise RuntimeError("no such instruction.\nin detail")


def dying(problem, threads):
    return Block(lambda: os._exit(3), dict)


def dying_later(problem, threads):
    block, steps = counting(problem, threads), []

    def step():
        block.step()
        steps.append(1)
        if len(steps) == 3:
            os._exit(4)

    return Block(step, block.results)


def which():
    """Where octsod comes from, and where its compiled kernels go."""
    import octsod

    return Block(lambda: None, lambda: {"octsod": octsod.__file__, "cache": os.environ["OCTSOD_CACHE_DIR"]})


def numbered():
    """A block whose result is the last digit of the name of the folder for compiled kernels."""
    return Block(lambda: None, lambda: {"number": np.array([float(os.environ["OCTSOD_CACHE_DIR"][-1])])})


def sleeping(problem, threads):
    """A block whose first step never ends."""
    return Block(lambda: time.sleep(3600), dict)


_open = contextlib.ExitStack()  # as long as the child lives


def on_stand_in(build, *arguments):
    """A block of bench.gpu's, on a stand-in for CuPy, with little memory and few samples."""
    import fake_cupy

    from bench.gpu import clocks, kernels

    clocks.FLUSHED, clocks.BLOCKS, kernels.COPIED, kernels.SAMPLES = 1 << 10, 1, 1 << 10, 1
    small = small_ops()
    kernels.ops = lambda batch: small
    _open.enter_context(fake_cupy.installed(memory=1 << 33))
    return build(*arguments)


def small_ops():
    from bench.gpu import kernels

    return [dataclasses.replace(op, shape=(2, op.shape[1], 6, 6)) for op in kernels.ops(1)]
