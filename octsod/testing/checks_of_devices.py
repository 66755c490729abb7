"""The check of an op's CUDA kernels, on a GPU or the simulator."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import numpy as np

from ..backend import Device, DeviceError, get_device
from ..backend.memory import made_by
from . import cusim
from .checks_of_results import reached, require_like, require_like_at_odd_numbers
from .checks_of_values import FAR, require_no_overflow
from .evaluation import Run, backward, computed_on, cotangents, evaluate, forward, gradients_of, leaves_of, numpy_of
from .example import Example
from .reports import Failed, Skipped, number, place, require_close, require_same
from .simulation import simulated
from .watched_memory import JUNK, NAN


def cuda(example: Example) -> str:
    """The op's CUDA kernels, on a GPU or the simulator, give the same, in both precisions and one graph after another;
    they write every element of what they are given for that, and nothing else."""
    if not example.run.launched:
        raise Skipped("it calls no kernels of a backend")
    with gpu() as device, computed_on(get_device("cpu")):  # which all else is compared with
        names = f"the CUDA kernels on {device.name}"
        with computed_unwritten(device):
            other, missing = reached(example)
        if other is None:
            raise Skipped(missing)
        require_like(example, other, names)
        _require_nan_alike(example, device)
        require_no_overflow(example, device, names, back=not missing)
        if not missing:
            _require_graphs_alike(example, device, names)
        require_like_at_odd_numbers(example, lambda: computed_unwritten(device), names)
    return f"on {device.name}{missing and f', forward alone: {missing}'}"


@contextmanager
def computed_unwritten(device: Device) -> Iterator[None]:
    """Ops run there, and what they leave unwritten is NaN."""
    with computed_on(device), made_by(_filled(NAN)):
        yield


def _filled(pattern):
    """What makes arrays whose bytes are all the same: on the simulator, what is not written shows. A GPU's arrays are
    made elsewhere."""

    def make(shape, dtype):
        array = np.empty(shape, dtype)
        array.reshape(-1).view(np.uint8).fill(pattern)
        return array

    return make


def _require_graphs_alike(example, device, names):
    """Raise Failed unless two graphs that are alive at once, of different numbers, give the same there as here; in
    float32, unless the case names float64."""
    case = example.case
    single = example.precision == "float64" and all(leaf.dtype != "float64" for leaf in case.leaves())
    dtype = "float32" if single else "float64"
    numbers = [case.arrays(dtype), [leaf.make((case.seed + 1, i), dtype) for i, leaf in enumerate(case.leaves())]]
    here = [evaluate(example.subject, case, arrays=arrays) for arrays in numbers]
    with computed_on(device), made_by(_filled(JUNK)):
        there = _both(example, numbers)
    both = zip(numbers, here, there, ("", ", computed while the graph of other numbers is there"), strict=True)
    for arrays, run, other, when in both:
        ours = Example(example.subject, case, arrays, cotangents(case, run.outputs))
        with np.errstate(all="ignore"):
            errors = [np.abs(got - r) for (_, got), (_, r) in zip(other.results, run.results, strict=True)]
        limits = ours.error_bounds.explaining(errors, dtype if single else example.precision)
        for (name, got), (_, wanted), limit in zip(other.results, run.results, limits, strict=True):
            require_close(f"{name}, in {wanted.dtype}{when}", got, wanted, 2 * limit, (names, "on the CPU"))


def _both(example, numbers):
    """The runs of both, forward, forward, backward, backward; raises Failed if anything that was given is changed."""
    case, started, runs = example.case, [], []
    for arrays in numbers:
        leaves = leaves_of(case, [a.copy() for a in arrays])
        started.append((leaves, forward(example.subject, case, leaves)))
    values = [numpy_of(outputs) for _, outputs in started]
    for arrays, (leaves, outputs), before in zip(numbers, started, values, strict=True):
        given = cotangents(case, before)
        copies = [None if v is None else v.copy() for v in given]
        backward(outputs, copies)
        runs.append(Run(before, gradients_of(leaves)))
        now = [None if leaf.array else t.numpy() for leaf, t in zip(case.leaves(), leaves, strict=True)]
        for what, old, new in (("input", arrays, now), ("cotangent", given, copies), ("output", before, outputs)):
            for index, (a, b) in enumerate(zip(old, new, strict=True)):
                if a is not None and b is not None:
                    b = b if isinstance(b, np.ndarray) else b.numpy()
                    require_same(f"{what} {index}, which CUDA kernels change", b, a, ("afterwards", "before"))
    return runs


def _require_nan_alike(example, device):
    """Raise Failed unless NaN in an input, once in the place of its largest number, reaches the same outputs on the
    device as here."""
    generator = np.random.default_rng((example.case.seed, 0xF2))
    for index, (leaf, x) in enumerate(zip(example.case.leaves(), example.arrays, strict=True)):
        if leaf.array or x.dtype.kind != "f" or not x.size:
            continue
        for element in {int(generator.integers(x.size)), int(np.argmax(x))}:
            _require_one_nan_alike(example, device, index, np.unravel_index(element, x.shape))


def _require_one_nan_alike(example, device, index, at):
    with computed_on(device):
        there = _outputs_with(example, index, at, np.nan)
    here = _outputs_with(example, index, at, np.nan)
    for k, ((name, y), (_, other)) in enumerate(zip(here, there, strict=True)):
        apart = np.isnan(y) != np.isnan(other) if y.dtype.kind == "f" else np.zeros(y.shape, bool)
        if apart.any():
            apart &= _matters(example, index, at, k)
        if apart.any():
            where = tuple(np.argwhere(apart)[0])
            raise Failed(
                f"input {index} at {place(at)} is NaN: {name} at {place(where)} is {number(y[where])} on the CPU, "
                f"{number(other[where])} on {device.name} ({int(apart.sum())} of {apart.size} elements)."
            )


def _outputs_with(example, index, at, value):
    """(what it is, array) of the outputs where an element of an input is this number."""
    arrays = example.case.arrays()
    arrays[index] = arrays[index].copy()
    arrays[index][at] = value
    return evaluate(example.subject, example.case, arrays=arrays, wanted=[False] * len(arrays)).results


def _matters(example, index, at, output):
    """Which elements of an output an element of an input has a say in, be it only where it is large. In others, such as
    those for which a weight meets nothing but padding, a kernel may multiply it by zero or leave it out."""
    x = example.arrays[index][at]
    values = [_outputs_with(example, index, at, value)[output][1] for value in (x, 2 * x, FAR, -FAR)]
    return np.logical_or.reduce([value != values[0] for value in values[1:]])


def gpu() -> AbstractContextManager[Device]:
    """The first GPU, or the simulator. Raises Skipped where there is neither."""
    try:
        return nullcontext(get_device("cuda"))
    except DeviceError:
        if reason := cusim.unavailable():
            raise Skipped(reason.rstrip(".")) from None
        return simulated()
