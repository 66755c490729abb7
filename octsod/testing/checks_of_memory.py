"""Checks of what an op does to memory: its own, that of others, and what it gives back."""

from __future__ import annotations

import collections
import gc
import itertools
import tracemalloc
from typing import NamedTuple

import numpy as np

from .. import random
from ..autograd.mode import unguarded
from ..backend.memory import pool
from .cases import EITHER_SIGN, Case, with_zeros
from .evaluation import Run, Subject, backward, cotangents, crash, evaluate, forward, gradients_of, leaves_of, numpy_of
from .example import Example
from .reports import Failed, Skipped, require_same
from .watched_memory import JUNK, LOW, NAN, SMALL, Watch, watched

FILLED = "in memory full of NaN", "in memory full of other numbers"
SPRAYED = 8  # blocks of each size


def watched_run(
    subject: Subject, case: Case, fill: int, guard: int, back: bool = True, zeros: str = ""
) -> tuple[Run, list[str]]:  # fmt: skip
    """(run, faults) of an evaluation whose arrays lie amid guards. back: whether backward is run, too. zeros: what has
    some zeros in it, "cotangents" or "numbers", which has both."""
    watch = Watch(fill, guard)
    return _run(subject, case, watch, subject.modules(), back, zeros), watch.faults()


def _watched_run(example, fill, guard):
    return watched_run(example.subject, example.case, fill, guard)


def _run(subject, case, watch, modules, back, zeros):
    numbers = case.arrays()
    for i, leaf in enumerate(case.leaves() if zeros == "numbers" else ()):
        if leaf.kind in EITHER_SIGN and not leaf.array:
            numbers[i] = with_zeros(numbers[i], (case.seed, i))
    arrays = [watch.copy(a, f"input {i}") for i, a in enumerate(numbers)]
    with watched(watch, modules):
        leaves = leaves_of(case, arrays)
        outputs = forward(subject, case, leaves)
        values = numpy_of(outputs)
        if back:
            found = cotangents(case, values)
            if zeros:
                found = [None if v is None else with_zeros(v, (case.seed, i)) for i, v in enumerate(found)]
            given = [None if v is None else watch.copy(v, f"cotangent {i}") for i, v in enumerate(found)]
            watch.phase = "backward"
            backward(outputs, given)
        return Run(values, gradients_of(leaves))


def guards(example: Example) -> str:
    """Nothing is written outside of arrays, and nothing outside of them is read."""
    runs = []
    for guard in (NAN, JUNK, LOW, SMALL):
        run, faults = _watched_run(example, JUNK, guard)
        if faults:
            raise Failed(faults[0] if len(faults) == 1 else f"{faults[0][:-1]}; and {len(faults) - 1} other arrays.")
        runs.append(run)
    _require_alike(
        example, runs, "reads outside of an array", ("with NaN around all arrays", "with other numbers there")
    )  # fmt: skip
    return ""


def written(example: Example) -> str:
    """Every element of outputs and gradients is written, and no memory is read before."""
    runs = []
    for fill in (NAN, JUNK, LOW):
        _spray(example, fill)
        runs.append(_watched_run(example, fill, JUNK)[0])
    _require_alike(
        example, runs, "not every element is written, or memory is read before it is", FILLED
    )  # fmt: skip
    for zeros in ("cotangents", "numbers"):
        _require_written_at_zeros(example, zeros)
    return ""


def _require_written_at_zeros(example, zeros):
    """Raise Failed if some elements are not written where others are 0: a kernel that passes over zeros is
    likely to do that."""
    try:
        runs = [watched_run(example.subject, example.case, fill, JUNK, zeros=zeros)[0] for fill in (NAN, JUNK)]
    except Exception:  # it is not made for them
        return
    try:
        _require_equal(*runs, FILLED)
    except Failed as failure:
        raise Failed(f"not every element is written where some {zeros} are 0: {failure}") from None


def _require_alike(example, runs, fault, names):
    """Raise Failed unless the runs are equal bit for bit, or Skipped if any two runs differ."""
    try:
        for other in runs[1:]:
            _require_equal(runs[0], other, names)
    except Failed as failure:
        again = [_watched_run(example, JUNK, JUNK)[0] for _ in range(3)]
        try:
            _require_equal(again[0], again[1], names)
            _require_equal(again[0], again[2], names)
        except Failed:
            raise Skipped("any two evaluations differ: see `deterministic`") from None
        raise Failed(f"{fault}: {failure}") from None


def _require_equal(run, other, names):
    for (name, got), (_, wanted) in zip(run.results, other.results, strict=True):
        require_same(name, got, wanted, names)


def _spray(example, fill):
    """Fill memory that is free with a pattern, in blocks of the sizes that the op is about to ask for: where it does
    not ask `empty`."""
    sizes = {array.nbytes for _, array in example.run.results}
    blocks = [np.full(size, fill, np.uint8) for size in sizes for _ in range(SPRAYED)]
    del blocks


def unmodified(example: Example) -> str:
    """Neither inputs nor cotangents are changed, nor outputs by backward; bytes are compared."""
    subject, case = example.subject, example.case
    refused = None
    try:
        evaluate(subject, case)
    except ValueError as error:
        if "read-only" not in str(error):
            raise
        refused = error
    arrays = case.arrays()
    with unguarded():
        leaves = leaves_of(case, arrays)
        held = [None if leaf.array else np.array(t.numpy()) for leaf, t in zip(case.leaves(), leaves, strict=True)]
        outputs = forward(subject, case, leaves)
        _require_unchanged("input", held, _now(case, leaves), "forward")
        values = numpy_of(outputs)
        given = cotangents(case, values)
        copies = [None if v is None else v.copy() for v in given]
        backward(outputs, given)
        _require_unchanged("input", held, _now(case, leaves), "backward")
        _require_unchanged("cotangent", copies, given, "backward")
        _require_unchanged("output", values, numpy_of(outputs), "backward")
    if refused is not None:
        raise Failed(f"writes to what it was given: {crash(refused)}")
    return ""


def _now(case, leaves):
    return [None if leaf.array else t.numpy() for leaf, t in zip(case.leaves(), leaves, strict=True)]


def _require_unchanged(what, before, after, who):
    for index, (a, b) in enumerate(zip(before, after, strict=True)):
        if a is not None:
            try:
                require_same(f"{what} {index}", b, a, ("afterwards", "before"))
            except Failed as failure:
                raise Failed(f"{who} changes what it was given: {failure}") from None


def returned(example: Example) -> str:
    """All memory is given back, without the help of the garbage collector."""
    once = _once(example)
    for _ in range(2):  # what is made once, such as tables of constants, is there from now on
        once()
    left = _left_behind(once, 0, 4)
    if left.kept > 0 or left.leased > 0:  # caches fill up at first
        left = _left_behind(once, 12, 12)
    if left.kept > 0 or left.leased > 0:
        why = "in cycles of references, which only the garbage collector frees" if left.cycles else "kept by something"
        made = f", made at {left.where}" if left.kept > 0 and left.where else ""
        raise Failed(f"each evaluation leaves {left.kept or left.leased} bytes of arrays{made}, {why}.")
    return ""


def _once(example):
    """A function that evaluates the op. It draws no numbers: the generators' own arrays are none of the op's."""
    arrays, given = example.arrays, example.given

    def once():
        copies = [None if v is None else v.copy() for v in given]
        evaluate(example.subject, example.case, arrays=[a.copy() for a in arrays], given=copies)

    return once


class _Left(NamedTuple):
    """What each of several evaluations leaves behind at least: bytes of arrays (kept) and of the pool (leased), whether
    the arrays are in cycles, and where most of them were made."""

    kept: int
    leased: int
    cycles: bool
    where: str


def _left_behind(once, before, rounds):
    """What so many evaluations leave behind. before: how many come first."""
    enabled, started = gc.isenabled(), not tracemalloc.is_tracing()
    gc.disable()
    if started:
        tracemalloc.start(1)
    try:
        for _ in range(before):
            once()
        made, leased = [_arrays()], pool.live
        for _ in range(rounds):
            once()
            made.append(_arrays())
        sizes = [counts.total() for counts in made]
        kept, leased = min(b - a for a, b in itertools.pairwise(sizes)), (pool.live - leased) // rounds
        cycles, where = False, ""
        if kept > 0 or leased > 0:
            gc.collect()
            cycles = sizes[-1] - _arrays().total() >= rounds * kept > 0
            where = next((place for place, _ in (made[-1] - made[0]).most_common(1)), "")
        return _Left(kept, leased, cycles, where)
    finally:
        if started:
            tracemalloc.stop()
        if enabled:
            gc.enable()


def _arrays():
    """The bytes of all NumPy arrays that were made since tracing began, by the line that made them; but for those of
    octsod's generators of random numbers, with which no op has to do."""
    domain = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    sizes: collections.Counter[str] = collections.Counter()
    for trace in tracemalloc.take_snapshot().filter_traces([domain]).traces:
        frame = trace.traceback[-1]
        if frame.filename != random.__file__:
            sizes[f"{frame.filename}:{frame.lineno}"] += trace.size
    return sizes
