"""The check of races in loops over `prange`: kernels that have one, and kernels that seem to."""

import re

import numba
import numpy as np
import pytest
from more_ops import made
from numba import prange

from octsod.testing import Case, Input, checks_of_races
from octsod.testing.evaluation import Subject
from octsod.testing.example import Example
from octsod.testing.operator_check import collect
from octsod.testing.reports import Failed, Skipped

CASE = Case((Input((5, 4)),))
parallel = numba.njit(parallel=True)  # compiled by nobody here: the check runs it in Python
RIGHT, WRONG = [], []


def right(kernel):
    RIGHT.append(kernel)
    return kernel


def wrong(kernel):
    WRONG.append(kernel)
    return kernel


def op_of(kernel):
    def forward(x):
        out = np.full(x.shape[1], np.nan)
        kernel(x, out)
        return out

    return made(forward, lambda x, g: np.zeros_like(x))


def races(kernel):
    return checks_of_races.races(Example(Subject(op_of(kernel)), CASE))


@wrong
@parallel
def over_rows(x, out):
    out[:] = 0
    for r in prange(x.shape[0]):
        for c in range(x.shape[1]):
            out[c] += x[r, c]


@wrong
@parallel
def rows_at_once(x, out):
    out[:] = 0
    for r in numba.prange(x.shape[0]):
        out[:] += x[r]


@wrong
@parallel
def one_scratch(x, out):
    scratch = np.zeros(1)
    for c in prange(x.shape[1]):
        scratch[0] = x[:, c].sum()
        out[c] = scratch[0]


@wrong
@parallel
def from_the_one_before(x, out):
    out[0] = x[0, 0]
    for c in prange(1, x.shape[1]):
        out[c] = out[c - 1] + x[0, c]


@wrong
@parallel
def into_an_argument_of_numpy(x, out):
    for c in prange(x.shape[1] - 1):
        np.add(x[c, :2], x[c, 2:], out[c : c + 2])


@numba.njit
def add_column(x, c, out, at):
    for r in range(x.shape[0]):
        out[at] += x[r, c]


@wrong
@parallel
def called_for_two(x, out):
    out[:] = 0
    for c in prange(x.shape[1]):
        add_column(x, c, out, c // 2)


@right
@parallel
def over_columns(x, out):
    for c in prange(x.shape[1]):
        out[c] = 0
        for r in prange(x.shape[0]):
            out[c] += x[r, c]


@right
@parallel
def called_for_each(x, out):
    out[:] = 0
    for c in prange(x.shape[1]):
        add_column(x, c, out, c)


@right
@parallel
def reductions(x, out):
    total, largest, sums = 0.0, -np.inf, np.zeros(x.shape[1])
    for r in prange(x.shape[0]):
        total += x[r].sum()
        largest = max(largest, x[r, 0])
        sums += x[r]
    out[:] = sums + total + largest


@right
@parallel
def own_scratch(x, out):
    for c in prange(x.shape[1]):
        scratch, same, copy = np.zeros(1), np.zeros_like(x[:, c]), x[:, c].copy()
        scratch[0], same[:] = copy.sum(), copy
        copy[:] = 1
        out[c] = scratch[0] + same[0]


@right
@parallel
def scratch_by_thread(x, out):
    scratch = np.zeros((numba.get_num_threads(), x.shape[1]))
    for r in prange(x.shape[0]):
        scratch[numba.get_thread_id()] += x[r]
    out[:] = scratch.sum(0)


@right
@parallel
def rows_by_thread(x, out):
    count, rows = numba.get_num_threads(), x.shape[0]
    scratch = np.zeros((count, x.shape[1]))
    for k in prange(count):
        for r in range(k * rows // count, (k + 1) * rows // count):
            scratch[k] += x[r]
    out[:] = scratch.sum(0)


@right
@parallel
def all_write_the_same(x, out):
    found = np.zeros(1)
    for r in prange(x.shape[0]):
        if x[r, 0] != 0:
            found[0] = 1
    out[:] = found[0]


@right
@parallel
def overlapping_reads(x, out):
    flat = x.reshape(-1)
    for c in prange(x.shape[1]):
        out[c] = flat[c : c + 2].sum()


@pytest.mark.parametrize("kernel", WRONG, ids=lambda kernel: kernel.__name__)
def test_races_are_told(kernel):
    with pytest.raises(Failed, match=r"a race: an iteration .* what another (reads|writes): the element at \(\d,\)"):
        races(kernel)


@pytest.mark.parametrize("kernel", RIGHT, ids=lambda kernel: kernel.__name__)
def test_other_loops_pass(kernel):
    assert re.fullmatch(r"1 loop, \d+ elements", races(kernel))


def test_where_a_race_is():
    with pytest.raises(Failed, match=r"of an array of shape \(4,\) in `add_column` \(.*test_check_races.py:\d+\)"):
        races(called_for_two)


def test_only_so_much_is_followed(monkeypatch):
    monkeypatch.setattr(checks_of_races, "MOST", 10)
    assert races(over_columns).startswith("1 loop")


@numba.njit
def serial(x, out):
    out[:] = 0
    for r in prange(x.shape[0]):
        out[:] += x[r]


@parallel
def only_for_numba(x, out):
    for c in prange(x.shape[1]):
        out[c] = numba.carray(x, x.shape)["no field"][c]


@pytest.mark.parametrize("kernel, why", [
    (serial, "it calls no kernels with loops over `prange`"),
    (lambda x, out: np.sum(x, 0, out=out), "it calls no kernels with loops over `prange`"),
    (only_for_numba, "cannot be run in Python: it raises"),
])  # fmt: skip
def test_what_is_not_followed(kernel, why):
    with pytest.raises(Skipped, match=re.escape(why)):
        races(kernel)


def test_nothing_is_left_behind():
    """And `check_op` tells a race, also of arrays that its other checks make."""
    before = np.zeros, numba.misc.special.prange.__new__, numba.get_num_threads()
    report = collect(op_of(over_rows), CASE, checks=["races"])
    assert report["races"].verdict == "FAIL"
    assert (np.zeros, numba.misc.special.prange.__new__, numba.get_num_threads()) == before
    assert "__call__" not in vars(numba.core.registry.CPUDispatcher)
