"""Two profiles compared: what counts as slower, with which confidence, and what cannot be compared."""

import dataclasses
import math
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import profile, profiles, row, scaled, typical

from octsod.profiling import Roofs, compare, difference_table
from octsod.profiling.differences import ALARMS, bounds


def noisy(seed, rounds=10, noise=0.02, kernels=8):
    """A profile of some equal kernels, whose times are noisy."""
    rng = np.random.default_rng(seed)
    return profile(*(row(f"kernel{i}", ms=10 * (1 + noise * rng.random(rounds))) for i in range(kernels)))


@pytest.mark.parametrize("n, critical", [(4, 0), (5, 2), (6, 5), (8, 13), (10, 23), (20, 127)])
def test_bounds_are_those_of_mann_and_whitney(n, critical):
    """The critical values of U that tables have for 5 %, two-sided."""
    rng = np.random.default_rng(n)
    before, after = rng.random(n), rng.random(n)
    ratios = np.sort((after[:, None] / before).ravel())
    assert bounds(before, after) == (ratios[critical], ratios[-critical - 1])


def test_bounds_hold_as_often_as_they_should():
    rng = np.random.default_rng(0)
    for n, m, alarms in ((5, 5, ALARMS), (10, 7, ALARMS), (12, 12, 0.01), (40, 35, ALARMS)):
        missed = 0
        for _ in range(600):
            before, after = np.exp(rng.standard_t(2, n)), 1.3 * np.exp(rng.standard_t(2, m))
            low, high = bounds(before, after, alarms)
            missed += not low <= 1.3 <= high
        assert missed / 600 <= 1.6 * alarms


def test_too_few_rounds_have_no_bounds():
    assert bounds((1, 1, 1), (2, 2, 2)) == (0, math.inf)
    assert bounds((1,) * 5, (2,) * 5, 0.001) == (0, math.inf)
    assert bounds((1,) * 4, (2,) * 4) == (2, 2)


@pytest.mark.parametrize("count", [2, 3, 5, 10, 40])
def test_slower_and_faster(count):
    before = noisy(0, count)
    for factor, code, verdict in ((1.2, 1, "slower"), (1 / 1.2, 0, "faster"), (1.0, 0, "no change beyond noise")):
        difference = compare(before, scaled(noisy(1, count), factor))
        assert (difference.exit_code, difference.whole.verdict) == (code, verdict)
        assert difference.whole.ratio == pytest.approx(factor, rel=0.02)
        assert difference.whole.low <= difference.whole.ratio <= difference.whole.high


def test_noise_is_not_slower():
    """Rounds that scatter by a factor of two, of which the second ones' median is longer by a sixteenth."""
    before, after = (profile(row(ms=np.linspace(10, 22, 8) + more)) for more in (0, 1))
    difference = compare(before, after)
    assert difference.whole.ratio == 17 / 16 and difference.exit_code == 0


def test_no_false_alarms_among_many_rows():
    """Of 40 comparisons with 40 rows each, 2 may call something slower where nothing is."""
    alarms = 0
    for seed in range(40):
        a, b = (noisy(2 * seed + i, rounds=10, noise=0.6, kernels=40) for i in (0, 1))
        alarms += compare(a, b, threshold=0).exit_code
    assert alarms <= 4


def test_one_row_alone_is_slower():
    """The whole hardly changes; with too few rounds for that many rows, it is said that nobody can tell."""
    before, after = noisy(0, 12, kernels=40), scaled(noisy(1, 12, kernels=40), 1.5, "kernel7")
    difference = compare(before, after)
    assert difference.whole.verdict == "no change beyond noise" and difference.exit_code == 1
    assert [change.name for change in difference.slower] == ["kernel7 8@32 -> 8@32, 3x3: a.b, Conv2d, forward"]
    few = compare(noisy(0, 4, kernels=40), scaled(noisy(1, 4, kernels=40), 1.5, "kernel7"))
    assert few.exit_code == 0 and few.rows[0].verdict == "too few rounds to tell"
    assert few.notes == [
        "4 and 4 rounds are too few to judge single rows, of which 40 take 0.5% or more: that takes at least 7 in "
        "each, or a filter that leaves fewer."
    ]
    enough = compare(noisy(0, 7, kernels=40), scaled(noisy(1, 7, kernels=40), 1.5, "kernel7"))
    assert len(enough.slower) == 1 and enough.notes == []


def test_what_takes_little_decides_nothing():
    rows = [row("large", ms=(100.0,) * 10), row("small", ms=(0.1,) * 10)]
    difference = compare(profile(*rows), scaled(profile(*rows), 3, "small"))
    assert difference.exit_code == 0
    assert next(change for change in difference.rows if change.name.startswith("small")).verdict == "slower"
    assert "slower, but it takes little" in difference_table(difference)


def test_a_slower_row_of_a_faster_whole_is_no_regression():
    """Such as the Python around kernels that have become much faster. Without that, it counts."""

    def of(kernel, python):
        return profile(row(ms=(kernel,) * 10), row("", "", (python,) * 10))

    faster = compare(of(40.0, 0.463), of(25.0, 0.536))
    assert [c.verdict for c in (faster.whole, *faster.rows)] == ["faster", "faster", "slower"]
    assert faster.rows[1].decisive and len(faster.slower) == 1
    assert faster.regressions == [] and faster.exit_code == 0
    assert last_line(faster) == "Exit code 0: the round is faster beyond noise, so the slower row is no regression."
    same = compare(of(40.0, 0.463), of(39.9, 0.536))
    assert same.whole.verdict == "no change beyond noise" and same.exit_code == 1
    assert last_line(same) == (
        "Exit code 1: Python: a.b, Conv2d, forward is slower beyond noise (0.463 ms became 0.536); the round is not "
        "faster, which would make up for that."
    )


def test_the_last_line_says_why_the_exit_code_is_not_0():
    before = noisy(0, 10)
    assert compare(before, before).reason == ""
    slower = compare(before, scaled(noisy(1, 10), 1.5))
    said = r"Exit code 1: the round is slower beyond noise \(\S+ ms became \S+\), and so are 8 other rows\."
    assert re.fullmatch(said, last_line(slower))
    two = compare(before, scaled(scaled(noisy(1, 10), 1.5, "kernel3"), 1.1, "kernel4"))
    assert two.whole.verdict == "slower" and ", and so are 2 other rows." in last_line(two)
    single = compare(profile(row(ms=(10.0,))), profile(row(ms=(20.0,))))
    assert last_line(single) == "Exit code 2: there are too few rounds to tell whether the round is slower."
    other = compare(before, dataclasses.replace(before, subject="x"))
    assert last_line(other) == "Exit code 2: The subjects differ: 'a step' and 'x'."


def last_line(difference):
    return difference_table(difference, width=1000).splitlines()[-1]


def test_threshold():
    before = noisy(0, 10, 0.001)
    after = scaled(noisy(1, 10, 0.001), 1.08)
    assert [compare(before, after, threshold=t).exit_code for t in (0, 0.05, 0.1)] == [1, 1, 0]
    for wrong in (-1, math.nan, "x"):
        with pytest.raises((ValueError, TypeError), match="compare: `threshold`"):
            compare(before, after, threshold=wrong)


def test_a_single_round_tells_nothing_of_noise():
    before = profile(row(ms=(10.0,)))
    codes = [compare(before, profile(row(ms=(10 * f,)))).exit_code for f in (0.5, 1, 1.02, 2)]
    assert codes == [0, 0, 0, 2]
    assert compare(before, before).notes == ["A single round tells nothing of noise: there are 1 and 1."]


def test_new_and_vanished_rows_are_named():
    before, after = profile(row("a"), row("b")), profile(row("a"), row("c", ms=(20.0,) * 5))
    difference = compare(before, after)
    assert difference.new == [("c 8@32 -> 8@32, 3x3: a.b, Conv2d, forward", 0.02)]
    assert [name[0] for name, _ in difference.vanished] == ["b"]
    text = difference_table(difference)
    assert "new, 20.000 ms: c 8@32" in text and "vanished, 10.000 ms: b 8@32" in text


def test_rows_are_matched_by_all_their_names():
    for change in ({"title": "x"}, {"op": "x"}, {"layer": "x"}, {"phase": "x"}, {"kernel": "x"}):
        difference = compare(profile(row()), profile(row(**change)))
        assert not difference.rows and len(difference.new) == len(difference.vanished) == 1
    assert len(compare(profile(row()), profile(row(layer="x")), "kernel").rows) == 1
    assert len(compare(typical(), typical(), filter="conv2d").rows) == 3


@pytest.mark.parametrize("change, words", [
    ({"subject": "other"}, "The subjects differ: 'a step' and 'other'."),
    ({"roofs": (Roofs("cuda:0", 2, 1, 1, 0),)}, "The devices differ: cpu and cuda:0."),
    ({"roofs": (Roofs("cpu", 1, 1, 1, 0),)}, "The numbers of threads differ: 2 and 1."),
    ({"machine": {"processor": "Q", "cores": 2}}, "The machines differ: processor P and Q."),
])  # fmt: skip
def test_what_cannot_be_compared(change, words):
    difference = compare(typical(), dataclasses.replace(typical(), **change))
    assert difference.refusals == [words] and difference.exit_code == 2


def test_roofs_that_differ_much_are_told():
    def under(bandwidth, arithmetic):
        return dataclasses.replace(typical(), roofs=(Roofs("cpu", 2, bandwidth, arithmetic, 1e-6),))

    assert compare(under(18e9, 100e9), under(55e9, 100e9)).notes == [
        "The roofs of cpu differ much: 18 and 55 GB/s copied. The machine was busy, or is another one, and times may "
        "differ for that alone."
    ]
    (note,) = compare(under(55e9, 300e9), under(18e9, 100e9)).notes
    assert ": 55 and 18 GB/s copied; 300 and 100 GFLOP/s in multiply-adds. The" in note
    assert compare(under(20e9, 100e9), under(24e9, 120e9)).notes == []


def test_versions_may_differ():
    machine = {**typical().machine, "versions": {"octsod": "2"}}
    difference = compare(typical(), dataclasses.replace(typical(), machine=machine))
    assert difference.exit_code == 0 and difference.notes == ["Their versions differ: octsod 1 and octsod 2."]


def test_as_text():
    difference = compare(noisy(0), scaled(noisy(1), 1.3, "kernel3"))
    text = difference_table(difference, top=1, width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert "the step" not in text and "the round" in text  # its phases are forward alone
    assert text.count("slower") >= 2 and "7 others, none of them slower" in text


def test_what_only_one_has_is_listed_up_to_the_top():
    def of(*names):
        return profile(*(row(name, ms=(10.0 + i,) * 4) for i, name in enumerate(names)), rounds=(100.0,) * 4)

    difference = compare(of("a", "b", "c"), of("d", "e", "a", "f"))
    lines = difference_table(difference, top=1).splitlines()
    assert [line.split(":")[0] for line in lines if line.startswith(("new", "vanished"))] == [
        "new, 13.000 ms", "new, 21.000 ms", "vanished, 12.000 ms", "vanished, 11.000 ms"
    ]  # fmt: skip
    assert "new, 21.000 ms: 2 others" in lines and "vanished, 11.000 ms: 1 other" in lines
    assert difference_table(difference).count("new, ") == 3


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_difference_fits_a_terminal(width):
    text = difference_table(compare(noisy(0), scaled(noisy(1), 1e6, "kernel3")), width=width)
    assert max(map(len, text.splitlines())) <= width and "slower" in text
    with pytest.raises(ValueError, match="`width`"):
        difference_table(compare(noisy(0), noisy(1)), width=39)


@settings(max_examples=60, deadline=None)
@given(profiles())
def test_nothing_is_slower_than_itself(drawn):
    difference = compare(drawn, drawn, threshold=0)
    assert difference.exit_code == 0 and not difference.new and not difference.vanished
    assert all(change.low <= 1 <= change.high for change in (difference.whole, *difference.rows))
    assert difference_table(difference)


@settings(max_examples=40, deadline=None)
@given(profiles(), profiles(), st.floats(0, 2))
def test_any_two_profiles_can_be_compared(a, b, threshold):
    difference = compare(a, b, threshold=threshold)
    assert difference.exit_code in (0, 1, 2) and difference_table(difference, 3)
    for change in difference.rows:
        assert change.low <= change.ratio <= change.high
        assert (change.verdict != "slower") or change.ratio > 1 + threshold
