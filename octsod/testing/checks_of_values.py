"""Checks on odd numbers and odd arrays: NaN, infinity, large numbers, layouts, arrays without elements."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np

from ..backend.device import Device
from .cases import EITHER_SIGN, LAYOUTS
from .evaluation import computed_on, evaluate
from .example import Example
from .reports import Failed, Skipped, number, place, require_close, require_same

FAR = 1e12
MOVES = (1e-3, -1e-3)  # shares by which an element is moved to see what depends on it
LARGE = 300.0  # its exponential overflows in float32, and that of twice as much does not in float64
SIZES = LARGE, 2.0**-10, 2.0**-20  # of the numbers of an input: a function may have branches for them
ODD = 2.0**-24  # a difference, of the size of what is compared, that rounding in float64 seldom makes
MODERATE = 2.0**64  # half of the exponents of float32
UNBOUNDED = (*EITHER_SIGN, "positive")  # kinds of numbers that may be large


def nonfinite(example: Example) -> str:
    """NaN in an input or a cotangent reaches all that depends on it; infinity is not passed over.

    An op may refuse such numbers: an error is no result. And LAPACK, behind `numpy.linalg`, compares numbers to choose
    pivots, and drops NaN there, whoever calls it. Not all of what it returns is finite, though. So of an op that calls
    such a solver, it is enough if NaN reaches one element of each row or matrix that depends on it as a whole.
    """
    tried = 0
    for index, (leaf, x) in enumerate(zip(example.case.leaves(), example.arrays, strict=True)):
        if leaf.array or x.dtype.kind != "f" or not x.size:
            continue
        gradient = example.run.gradients[index]
        matters = [int(np.argmax(x)), int(np.argmin(x))]  # which maxima and minima depend on
        matters += [] if gradient is None else [int(np.argmax(np.abs(gradient)))]
        for at in _places(example, x, index, matters):
            tried += 1
            _input(example, index, at)
    for index, v in enumerate(example.given):
        if v is not None and v.size and any(g is not None for g in example.run.gradients):
            for at in _places(example, v, 100 + index):
                tried += 1
                _cotangent(example, index, at)
    if not tried:
        raise Skipped("there are no floats")
    solvers = f"; {example.solvers} need not hand on all of a NaN" if example.solvers else ""
    return f"{tried} elements{solvers}"


def _places(example, array, seed, more=()):
    """The first element, the last, one at random, and those `more`."""
    generator = np.random.default_rng((example.case.seed, 0xF1, seed))
    flat = dict.fromkeys([0, array.size - 1, int(generator.integers(array.size)), *more])
    return [np.unravel_index(i, array.shape) for i in flat]


def _changed(arrays: Sequence[Any], index: int, at: Any, value: float) -> list[Any]:
    copies: list[Any] = [None if a is None else a.copy() for a in arrays]
    copies[index][at] = value
    return copies


def _input(example, index, at):
    x = example.arrays[index]

    def outputs(value):
        arrays = _changed(example.case.arrays(), index, at, value)
        run = _unless_refused(example, arrays=arrays, wanted=[False] * len(arrays))
        return [y for y in run.outputs if y is not None] if run else []

    start = [y for y in example.run.outputs if y is not None]
    ends = {sign: outputs(sign * FAR) for sign in (1, -1)}
    moved = [outputs(x[at] * (1 + share) if x[at] else share) for share in MOVES]
    for k, (y, got, *others) in enumerate(zip(start, outputs(np.nan), *moved, strict=False)):
        if y.dtype.kind == "f":
            depends = np.logical_and.reduce([np.isfinite(y), *(np.isfinite(o) & (o != y) for o in others)])
            if any(_shifted(y, depends, far[k]) for far in ends.values() if far):
                continue
            lost = _not_excused(example, depends & ~np.isnan(got), depends | (y == 0), got)
            _require(f"input {index} at {place(at)} is NaN", k, lost, got, "depends on it")
    for sign in (1, -1):
        # Far out, a function goes to a limit, or beyond all limits; if it is finite at infinity, that is its limit.
        for k, (y, got, far) in enumerate(zip(start, outputs(sign * np.inf), ends[sign], strict=False)):
            if got.dtype.kind == "f":
                wrong = np.isfinite(got) & np.isfinite(far) & (np.abs(got - far) > 1e-3 * np.abs(far) + 1e-3)
                wrong = _not_excused(example, wrong, (y != far) | (y == 0), got)
                _require(
                    f"input {index} at {place(at)} is {sign * np.inf}", k, wrong, got, f"is another at {sign * FAR:g}"
                )


def _unless_refused(example, **numbers):
    """The run with these numbers; None if the op refuses them."""
    try:
        with np.errstate(all="ignore"):
            return evaluate(example.subject, example.case, **numbers)
    except (ValueError, ArithmeticError):  # as LinAlgError is
        return None


def _not_excused(example, wrong, depends, got):
    """Where something is wrong that a solver does not excuse, as it does in rows and matrices, along the last axis or
    the last two, all of which depends on a number, or is 0, and some of which is not finite."""
    if not wrong.any() or not example.solvers:
        return wrong
    for axes in [(-1,), (-2, -1)][: got.ndim]:
        wrong = wrong & ~(depends.all(axes, keepdims=True) & ~np.isfinite(got).all(axes, keepdims=True))
    return wrong


def _shifted(y, depends, far):
    """Whether an input that goes far out makes others change places, as in sorting: then NaN goes to a place of its
    own, if it is among what is chosen at all."""
    changed = far != y
    return changed.sum() > 1 and bool((changed & ~depends).any() and np.isin(far[changed], y).any())


def _require(what, output, wrong, got, how):
    if wrong.any():
        where = tuple(np.argwhere(wrong)[0])
        raise Failed(
            f"{what}, but output {output} at {place(where)}, which {how}, is {number(got[where])} "
            f"({int(wrong.sum())} of {wrong.size} elements)."
        )


def _cotangent(example, index, at):
    v = example.given[index]

    def gradients(value):
        run = _unless_refused(example, given=_changed(example.given, index, at, value))
        return run.gradients if run else None

    moved = [gradients(v[at] * (1 + share)) for share in MOVES]
    got = gradients(np.nan)
    if got is None or any(m is None for m in moved):
        return
    for i, g in enumerate(example.run.gradients):
        if g is None:
            continue
        depends = np.logical_and.reduce([m[i] != g for m in moved])
        wrong = _not_excused(example, depends & ~np.isnan(got[i]), depends | (g == 0), got[i])
        if wrong.any():
            where = tuple(np.argwhere(wrong)[0])
            raise Failed(
                f"cotangent {index} at {place(at)} is NaN, but the gradient of input {i} at {place(where)}, which "
                f"depends on it, is {number(got[i][where])} ({int(wrong.sum())} of {int(depends.sum())} such elements)."
            )


def overflow(example: Example) -> str:
    """With large numbers in an input, what is of moderate size in float64 is finite in float32, too.

    An exponential may overflow, but not a softmax. An input with a range of its own is left as it is.
    """
    if example.precision != "float64" or any(leaf.dtype == "float64" for leaf in example.case.leaves()):
        raise Skipped("the case names a precision")
    tried = require_no_overflow(example)
    if not tried:
        raise Skipped("large numbers go in nowhere, or come out everywhere")
    return f"{tried} times with numbers of up to {LARGE:g}"


def require_no_overflow(
    example: Example, device: Device | None = None, names: str = "float32", back: bool = True
) -> int:  # fmt: skip
    """Raise Failed if anything overflows in float32, by default on this device, that does not in float64. Returns how
    many times large numbers were tried. back: whether gradients are compared, too."""
    case, count = example.case, 0
    wanted = None if back else [False] * len(example.arrays)
    for what, arrays in rescaled(example, "float32", LARGE):
        wide = [a.astype("float64") if a.dtype == "float32" else a for a in arrays]
        try:
            with np.errstate(all="ignore"):
                exact = evaluate(example.subject, case, arrays=wide, wanted=wanted)
        except Exception:  # it is not made for them
            continue
        if not all(moderate(y).all() for y in exact.outputs if y is not None):
            continue
        with computed_on(device) if device else nullcontext():
            run = _unless_refused(example, arrays=arrays, wanted=wanted)
        count += 1
        for (name, got), (_, y) in zip(run.results if run else [], exact.results, strict=False):
            wrong = moderate(y) & ~np.isfinite(got)
            if wrong.any():
                where = tuple(np.argwhere(wrong)[0])
                raise Failed(
                    f"{name} at {place(where)} overflows where {what}: {names} gives {number(got[where])}, float64 "
                    f"{number(y[where])} ({int(wrong.sum())} of {wrong.size} elements)."
                )
    return count


def rescaled(example: Example, dtype: str, largest: float) -> Iterator[tuple[str, list[np.ndarray]]]:
    """(what was changed, arrays in this precision) for each input that may be of any size: its numbers go up to this
    one, with either sign if it has signs."""
    for index, leaf in enumerate(example.case.leaves()):
        x = example.arrays[index]
        if leaf.array or leaf.range or leaf.kind not in UNBOUNDED or x.dtype.kind != "f" or not np.any(x):
            continue
        for sign in (1, -1) if leaf.kind in EITHER_SIGN else (1,):
            arrays = example.case.arrays(dtype)
            factor = sign * largest / np.abs(x).max()
            arrays[index] = (x * factor).astype(arrays[index].dtype)
            yield f"input {index} is {factor:.4g} times as large", arrays


def moderate(y: np.ndarray) -> np.ndarray:
    """Where numbers are finite and not very large."""
    return np.isfinite(y) & (np.abs(y) <= MODERATE)


def layouts(example: Example) -> str:
    """Arrays of any layout give the same; arrays without elements give such, or an error that says why not."""
    subject, case = example.subject, example.case
    for layout in LAYOUTS[1:]:
        run = evaluate(subject, case, arrays=case.with_layout(layout).arrays())
        for (name, wanted), (_, got), limit in zip(example.run.results, run.results, example.bounds(), strict=True):
            names = (f"from {layout} inputs", "from contiguous ones")
            if layout == "offset":  # at another alignment, sums may be in another order
                require_close(name, got, wanted, limit, names)
            else:
                require_same(name, got, wanted, names)
    return f"{', '.join(LAYOUTS[1:])}; {_without_elements(example)}"


def _without_elements(example):
    """Where all inputs and outputs have one shape, each of its lengths can be zero."""
    shapes = {leaf.shape for leaf in example.case.leaves() if not leaf.array}
    (shape, *others) = shapes or {()}
    same = not others and all(array.shape == shape for _, array in example.run.results)
    try:
        each = same and all(_keeps_shape(example, shape, axis, n + 1) for axis, n in enumerate(shape))
    except Exception:  # what it raises for another length is its own business
        each = False
    if not each:
        return "no arrays without elements, since shapes depend on each other"
    for axis in range(len(shape)):
        try:
            if not _keeps_shape(example, shape, axis, 0):
                raise Failed(f"an output or a gradient has elements for inputs of shape {_resized(shape, axis, 0)}.")
        except ValueError as error:
            return f"arrays without elements are refused: {' '.join(str(error).split())}"
    return "arrays without elements"


def _resized(shape, axis, length):
    return (*shape[:axis], length, *shape[axis + 1 :])


def _keeps_shape(example, shape, axis, length):
    """Whether all outputs have the inputs' shape if that has this length along an axis."""
    case = example.case.with_shapes(lambda s: _resized(s, axis, length))
    run = evaluate(example.subject, case)
    return all(array.shape == _resized(shape, axis, length) for _, array in run.results)
