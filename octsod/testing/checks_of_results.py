"""Checks of what an op computes: the reference, repetitions, threads, precisions.

Each check gets an `Example`, and returns what it has found in words, or raises Failed, Skipped or Kink.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from ..backend import MissingKernelError, get_device
from ..threads import get_num_threads, set_num_threads
from .cases import EITHER_SIGN, flat, with_zeros
from .checks_of_values import ODD, SIZES, moderate, rescaled
from .evaluation import (
    Run,
    backward,
    computed_on,
    cotangents,
    crash,
    evaluate,
    forward,
    gradients_of,
    leaves_of,
    numpy_of,
)
from .example import Example
from .reports import Failed, Skipped, number, place, require_close, require_same

REPETITIONS = 3
FEW = 64  # numbers in all inputs together
NOISE_STEPS = 2.0**-20, 2.0**-24
NOISY = 2.0**18  # times the rounding of float64, far below that of float32
THREADS = (1, 2, 3, 5)


def runs(example: Example) -> str:
    """Forward and backward go through, and floats keep their precision."""
    case = example.case
    for dtype in ("float64", "float32"):
        run = example.run if dtype == "float64" else evaluate(example.subject, case, dtype)
        floats = {
            leaf.dtype_for(dtype) for leaf in case.leaves() if leaf.dtype_for(dtype).kind == "f" and not leaf.array
        }
        if len(floats) != 1:
            continue
        (expected,) = floats
        for index, y in enumerate(run.outputs):
            if y is not None and y.dtype.kind == "f" and y.dtype != expected:
                raise Failed(f"output {index} is {y.dtype}; expected {expected}, like the inputs.")
    _require_precision(example)
    return ""


def _require_precision(example):
    """Raise Failed if what is computed in float64 has more noise than that explains: a part of it is float32 then."""
    case, floats = example.case, [k for k, v in enumerate(example.given) if v is not None]
    arrays, generator = example.arrays, np.random.default_rng((example.case.seed, 0xF64))
    ways = [x * generator.uniform(0.5, 1.5, x.shape) if x.dtype == "f8" else None for x in arrays]
    if example.precision != "float64" or not floats or all(u is None for u in ways):
        return

    def outputs(t):
        moved = [x if u is None else np.asarray(x + t * u) for x, u in zip(case.arrays(), ways, strict=True)]
        with np.errstate(all="ignore"):
            return evaluate(example.subject, case, arrays=moved, wanted=[False] * len(moved)).outputs

    # Fourth differences of a smooth function fade away with the step; the noise of single precision does not.
    series = [[outputs(step * k) for k in range(1, 7)] for step in NOISE_STEPS]
    again = outputs(NOISE_STEPS[-1])
    if any(not np.array_equal(series[-1][0][k], again[k]) for k in floats):
        return  # it is not deterministic: there is a check for that
    sizes = map(np.maximum, example.output_amounts(), example.output_scales())
    for k, size in zip(floats, sizes, strict=True):
        fourth = [np.abs(np.diff([point[k] for point in points], n=4, axis=0)).max(axis=0) / 4 for points in series]
        noise = np.asarray(np.minimum(*fourth))
        noisy = noise > NOISY * np.finfo("f8").eps * size
        if noisy.any():
            at = np.unravel_index(np.argmax(np.where(noisy, noise, 0)), noisy.shape)
            raise Failed(
                f"output {k} at {place(at)}, which is {number(example.run.outputs[k][at])}, has noise of "
                f"{noise[at]:.2g}, though inputs are float64: a part of it is not computed in float64."
            )


def reference(example: Example) -> str:
    """The NumPy function that is the reference, and the reference kernels, give the same."""
    compared = []
    if example.subject.reference is not None:
        _with_function(example)
        compared.append("a NumPy function")
    if not example.run.launched:
        missing = "it calls no kernels of a backend, and no `reference` is given"
    else:
        with computed_on(get_device("reference")):
            other, missing = reached(example)
        if other is not None:
            require_like(example, other, "the reference kernels")
            require_like_at_odd_numbers(example, lambda: computed_on(get_device("reference")), "the reference kernels")
            compared.append(f"the reference kernels{missing and f', forward alone: {missing}'}")
    if not compared:
        raise Skipped(missing)
    return f"compared with {' and '.join(compared)}"


def _with_function(example):
    positional, keywords = example.case.arguments(example.case.arrays())
    expected = example.subject.reference(*positional, **keywords)
    expected = [None if y is None else np.asarray(y) for y in flat(expected)]
    got = example.run.outputs
    if len(got) != len(expected):
        raise Failed(f"returned {len(got)} outputs; the reference returned {len(expected)}.")
    pairs = []
    for index, (y, wanted) in enumerate(zip(got, expected, strict=True)):
        if y is not None and wanted is not None:
            pairs.append((f"output {index}", y, wanted.astype(y.dtype, copy=False)))
        elif y is not wanted:
            raise Failed(f"output {index} is {'missing' if y is None else 'there'}, unlike the reference's.")
    for (name, y, wanted), limit in zip(pairs, _between(example, pairs), strict=False):
        require_close(name, y, wanted, limit, ("got", "the reference"))


def reached(example: Example) -> tuple[Run | None, str]:
    """(run, "") on the default device; where kernels for backward are missing, its outputs alone, and what is missing;
    None where kernels for forward are."""
    case, missing = example.case, ""
    for wanted in (None, [False] * len(example.arrays)):
        try:
            arrays, given = [a.copy() for a in example.arrays], example.own_cotangents
            return evaluate(example.subject, case, arrays=arrays, given=given, wanted=wanted), missing
        except MissingKernelError as error:
            missing = missing or str(error).rstrip(".")
    return None, missing


def require_like(example: Example, other: Run, names: str) -> None:
    """Raise Failed if a run elsewhere, or its outputs if it has no gradients, are not those of the example."""
    alone = not any(g is not None for g in other.gradients)
    ours, theirs = Run(example.run.outputs, []).results if alone else example.run.results, other.results
    if [name for name, _ in ours] != [name for name, _ in theirs]:
        raise Failed(f"{names} gives {[n for n, _ in theirs]}; expected {[n for n, _ in ours]}.")
    pairs = [(name, a, b.astype(a.dtype, copy=False)) for (name, a), (_, b) in zip(ours, theirs, strict=True)]
    for (name, got, wanted), limit in zip(pairs, _between(example, pairs), strict=False):
        require_close(name, got, wanted, 2 * limit, ("got", names))


def require_like_at_odd_numbers(
    example: Example, where: Callable[[], AbstractContextManager[object]], names: str
) -> None:  # fmt: skip
    """Raise Failed unless kernels elsewhere give the same, as far as a glance shows, where some cotangents or numbers
    are 0, and where numbers are large or small: kernels may pass over the first, and have branches for the others."""
    if sum(a.size for a in example.arrays) > FEW:
        return  # such faults don't depend on sizes
    for what, other, subgradients in _odd_numbers(example):
        try:
            if not all(moderate(r).all() for _, r in other.run.results):
                continue
        except Exception:  # it is not made for them
            continue
        with where():
            run, _ = reached(other)
        if run is None or not apart(other.run.results, run.results, example.run.results):
            continue
        if subgradients:  # at a kink, each may have one of its own; but what isn't written is NaN
            kept = zip(other.run.gradients, run.gradients, strict=True)
            run.gradients = [h if g is None or h is None or np.isnan(h).any() else g for g, h in kept]
        try:
            require_like(other, run, names)
        except Failed as failure:
            raise Failed(f"where {what}: {failure}") from failure


def _odd_numbers(example):
    """(what was changed, the example with that, whether it may be at kinks)."""
    subject, case, seed = example.subject, example.case, example.case.seed
    given = [None if v is None else with_zeros(v, (seed, k)) for k, v in enumerate(example.given)]
    yield "some cotangents are 0", Example(subject, case, example.arrays, given), False
    arrays = case.arrays()
    for k, leaf in enumerate(case.leaves()):
        if leaf.kind in EITHER_SIGN and not leaf.array:
            arrays[k] = with_zeros(arrays[k], (seed, k))
    yield "some numbers are 0", Example(subject, case, arrays), True
    for largest in SIZES:
        for what, changed in rescaled(example, example.precision, largest):
            yield what, Example(subject, case, changed), False


def apart(
    ours: Sequence[tuple[str, Any]], theirs: Sequence[tuple[str, Any]], usual: Sequence[tuple[str, Any]] = ()
) -> bool:  # fmt: skip
    """Whether results differ by more than rounding is likely to explain; those that only we have are left out. usual:
    the results for usual numbers, whose size counts, too: small ones may be what numbers of that size leave over."""
    if [(name, y.shape) for name, y in ours[: len(theirs)]] != [(name, y.shape) for name, y in theirs]:
        return True
    with np.errstate(all="ignore"):
        for (_, y), (_, z), (_, w) in zip(ours, theirs, usual or ours, strict=False):
            a, b = y.astype(np.float64), z.astype(np.float64)
            size = max(np.abs(r).max(initial=0.0, where=np.isfinite(r)) for r in (a, w.astype(np.float64)))
            if not ((np.abs(a - b) <= ODD * size) | (a == b) | (np.isnan(a) & np.isnan(b))).all():
                return True
    return False


def _between(example, pairs):
    """How far each of the first results, or of all, may be from that of another implementation. pairs: (name, ours,
    theirs)."""
    errors = [np.zeros(())] * len(pairs)
    with np.errstate(all="ignore"):
        for k, (_, a, b) in enumerate(pairs):
            if a.shape == b.shape:  # otherwise it is told by what compares them
                errors[k] = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return example.error_bounds.explaining(errors, example.precision, alone=False)


def deterministic(example: Example) -> str:
    """A second evaluation gives the same bits, also if another case is evaluated in between."""
    for _ in range(REPETITIONS):
        _require_equal(example.run, evaluate(example.subject, example.case), "evaluated again")
    subject, case = example.subject, example.case
    others = [leaf.make((case.seed + 1, i)) for i, leaf in enumerate(case.leaves())]
    for backwards in (False, True):
        graphs = []
        for arrays in (case.arrays(), others):
            leaves = leaves_of(case, arrays)
            outputs = forward(subject, case, leaves)
            graphs.append((leaves, outputs, numpy_of(outputs)))
        for leaves, outputs, values in reversed(graphs) if backwards else graphs:
            backward(outputs, cotangents(case, values))
            if leaves is graphs[0][0]:
                _require_results(
                    example, numpy_of(outputs), gradients_of(leaves), "with another case evaluated in between"
                )
    if example.before is not None:
        _require_nothing_left_behind(example, example.before)
    return f"{REPETITIONS + 2} more evaluations"


def _require_nothing_left_behind(example, other):
    """Raise Failed if a case of other shapes or settings, between forward and backward, changes anything."""
    leaves = leaves_of(example.case, example.case.arrays())
    outputs = forward(example.subject, example.case, leaves)
    values = numpy_of(outputs)
    evaluate(example.subject, other)
    try:
        backward(outputs, cotangents(example.case, values))
        _require_results(example, numpy_of(outputs), gradients_of(leaves), "with another case evaluated in between")
    except Failed as failure:
        raise Failed(str(failure), other) from None
    except Exception as error:
        raise Failed(f"with another case evaluated in between, it {crash(error)}", other) from error


def _require_equal(run, other, how):
    for (name, wanted), (_, got) in zip(run.results, other.results, strict=True):
        require_same(name, got, wanted, (how, "at first"))


def _require_results(example, outputs, gradients, how):
    run = type(example.run)(outputs, gradients)
    _require_equal(example.run, run, how)


@contextmanager
def on_threads(count: int) -> Iterator[None]:
    """Within it, octsod and Numba, if its threads are running, use so many threads."""
    before = get_num_threads()
    numba: Any = sys.modules.get("numba")
    parallel = sys.modules.get("numba.np.ufunc.parallel")
    theirs = numba.get_num_threads() if numba and getattr(parallel, "_is_initialized", False) else None
    try:
        set_num_threads(count)
        if theirs is not None:
            numba.set_num_threads(min(count, numba.config.NUMBA_NUM_THREADS))
        yield
    finally:
        set_num_threads(before)
        if theirs is not None:
            numba.set_num_threads(theirs)


def threads(example: Example) -> str:
    """Any number of threads gives the same bits."""
    first = None
    for count in THREADS:
        with on_threads(count):
            run = evaluate(example.subject, example.case)
        first = first or run
        for (name, wanted), (_, got) in zip(first.results, run.results, strict=True):
            require_same(name, got, wanted, (f"on {count} threads", f"on {THREADS[0]}"))
    return f"{', '.join(map(str, THREADS))} threads"


def float32(example: Example) -> str:
    """float32 is as close to float64 of the same kernels, on the same numbers, as rounding allows."""
    case = example.case
    if any(leaf.dtype == "float64" for leaf in case.leaves()):
        raise Skipped("the case names float64")
    narrow = case.arrays("float32")
    given = [_like(v, "float32") for v in example.given]
    run = evaluate(example.subject, case, arrays=narrow, given=given)
    wide = [_like(a, "float64") if a.dtype == "float32" else a for a in narrow]
    exact = Example(example.subject, case, wide, [_like(v, "float64") for v in given])
    try:
        wanted = [r for _, r in exact.run.results]
    except Exception as error:
        if example.precision != "float32":
            raise
        raise Skipped(f"float64 {crash(error).rstrip('.')}") from error
    with np.errstate(all="ignore"):
        # What lies beyond the largest float32 is infinite there.
        wanted = [np.where(np.isfinite(r.astype("float32")), r, r.astype("float32")) for r in wanted]
        errors = [np.abs(got - r) for (_, got), r in zip(run.results, wanted, strict=True)]
    used, limits = 0.0, exact.error_bounds.explaining(errors, "float32")
    for (name, got), r, limit in zip(run.results, wanted, limits, strict=True):
        if got.dtype == "float32":
            used = max(used, require_close(name, got.astype("float64"), r, limit, ("float32", "float64")))
    return f"at most {used:.2g} of the bound"


def _like(array, dtype):
    return None if array is None else array.astype(dtype)
