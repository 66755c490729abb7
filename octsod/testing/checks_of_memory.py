"""Checks of what an op does to memory: its own, that of others, and what it gives back."""

from __future__ import annotations

import gc
import itertools
import tracemalloc

import numpy as np

from ..autograd.mode import unguarded
from ..backend.memory import pool
from .cases import Case
from .evaluation import Run, Subject, backward, cotangents, crash, evaluate, forward, gradients_of, leaves_of, numpy_of
from .example import Example
from .reports import Failed, Skipped, require_same
from .watched_memory import JUNK, LOW, NAN, Watch, watched

SPRAYED = 8  # blocks of each size


def watched_run(subject: Subject, case: Case, fill: int, guard: int, back: bool = True) -> tuple[Run, list[str]]:
    """(run, faults) of an evaluation whose arrays lie amid guards. back: whether backward is run, too."""
    watch = Watch(fill, guard)
    try:
        return _run(subject, case, watch, subject.modules(), back), watch.faults()
    except Exception as error:
        if not type(error).__module__.startswith("numba"):
            raise
        watch = Watch(fill, guard)  # Numba cannot compile what calls our functions in the place of NumPy's
        return _run(subject, case, watch, [], back), watch.faults()


def _watched_run(example, fill, guard):
    return watched_run(example.subject, example.case, fill, guard)


def _run(subject, case, watch, modules, back):
    arrays = [watch.copy(a, f"input {i}") for i, a in enumerate(case.arrays())]
    with watched(watch, modules):
        leaves = leaves_of(case, arrays)
        outputs = forward(subject, case, leaves)
        values = numpy_of(outputs)
        if back:
            given = [
                None if v is None else watch.copy(v, f"cotangent {i}") for i, v in enumerate(cotangents(case, values))
            ]
            backward(outputs, given)
        return Run(values, gradients_of(leaves))


def guards(example: Example) -> str:
    """Nothing is written outside of arrays, and nothing outside of them is read."""
    runs = []
    for guard in (NAN, JUNK, LOW):
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
        example, runs, "not every element is written, or memory is read before it is",
        ("in memory full of NaN", "in memory full of other numbers"),
    )  # fmt: skip
    return ""


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
    for _ in range(2):  # what is made once, such as tables of constants, is there from now on
        evaluate(example.subject, example.case)
    kept, leased, cycles = _left_behind(example, 0, 4)
    if kept > 0 or leased > 0:  # NumPy hands small blocks from hand to hand, so at first their count may only grow
        kept, leased, cycles = _left_behind(example, 12, 12)
    if kept > 0 or leased > 0:
        why = "in reference cycles, which only the garbage collector frees" if cycles else "kept alive by something"
        raise Failed(f"each evaluation leaves {kept or leased} bytes of arrays {why}.")
    return ""


def _left_behind(example, before, rounds):
    """(bytes of arrays that each of so many evaluations leaves at least, bytes of the pool's, whether they are in
    cycles). before: how many evaluations come first."""
    enabled, started = gc.isenabled(), not tracemalloc.is_tracing()
    gc.disable()
    if started:
        tracemalloc.start(1)
    try:
        for _ in range(before):
            evaluate(example.subject, example.case)
        sizes, leased = [_arrays()], pool.live
        for _ in range(rounds):
            evaluate(example.subject, example.case)
            sizes.append(_arrays())
        kept, leased = min(b - a for a, b in itertools.pairwise(sizes)), (pool.live - leased) // rounds
        cycles = False
        if kept > 0 or leased > 0:
            gc.collect()
            cycles = sizes[-1] - _arrays() >= rounds * kept > 0
        return kept, leased, cycles
    finally:
        if started:
            tracemalloc.stop()
        if enabled:
            gc.enable()


def _arrays():
    """The bytes of all NumPy arrays that were made since tracing began."""
    domain = tracemalloc.DomainFilter(True, np.lib.tracemalloc_domain)
    traces = tracemalloc.take_snapshot().filter_traces([domain])
    return sum(trace.size for trace in traces.traces)
