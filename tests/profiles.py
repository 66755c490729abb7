"""Profiles made by hand, and a strategy that draws them."""

import dataclasses

from hypothesis import strategies as st

from octsod.profiling import Cache, Event, LayerMemory, Profile, Roofs, Row

CPU = Roofs("cpu", 2, bandwidth=10e9, arithmetic=100e9, launch=1e-6)


def row(kernel="conv2d", title="8@32 -> 8@32, 3x3", ms=(10.0,) * 5, flops=None, bytes=None, **changes):
    """A row of the kernel; ms: milliseconds of each round."""
    own = {"op": "Conv2d", "layer": "a.b", "phase": "forward", "device": "cpu", "thread": "MainThread", "calls": 1.0}
    return Row(
        kernel, title, seconds=tuple(value / 1e3 for value in ms), flops=flops, bytes=bytes, **{**own, **changes}
    )


def profile(*rows, rounds=None, **changes):
    """A profile of the rows; rounds: milliseconds of each, by default those of all rows."""
    if rounds is None:
        rounds = [1e3 * sum(seconds) for seconds in zip(*(r.seconds for r in rows), strict=True)]
    own = {"machine": {"processor": "P", "cores": 2, "versions": {"octsod": "1"}}, "roofs": (CPU,)}
    return Profile("a step", rounds=tuple(value / 1e3 for value in rounds), rows=rows, **{**own, **changes})


def typical():
    """One of each: bound by memory, arithmetic, launches and Python; of an unknown cost, and of a wrong one."""
    return profile(
        row("add", "8@32", (20.0,) * 5, flops=1_000_000, bytes=100_000_000, op="Add", layer="net.join"),
        row("conv2d", "8@32 -> 8@32, 3x3", (40.0,) * 5, flops=1_000_000_000, bytes=1_000_000, layer="net.conv"),
        row("conv2d_backward", "8@32 -> 8@32, 3x3", (10.0,) * 5, flops=10_000_000_000, bytes=1000, phase="backward",
            layer="net.conv"),
        row("tiny", "8", (4.0,) * 5, flops=1000, bytes=1000, calls=1000, op="Tiny", layer="net.tiny"),
        row("mine.swish", "24x8", (5.0,) * 5, op="Swish", layer="net.act"),
        row("", "", (16.0,) * 5, op="Conv2d", layer="net.conv"),
        rounds=(100.0,) * 5, compiled=2.5, peak_bytes=3_000_000,
        memory=(LayerMemory("net.conv", 2_000_000, 1_500_000), LayerMemory("net.join", 500_000, 250_000)),
        events=(
            Event("step", "step 0", "MainThread", "cpu", 1000, 9000),
            Event("op", "Conv2d", "MainThread", "cpu", 2000, 6000),
            Event("kernel", "conv2d", "MainThread", "cpu", 2500, 5500),
            Event("kernel", "conv2d", "stream", "cuda:0", 3000, 5000),
        ),
    )  # fmt: skip


def scaled(given, factor, name=""):
    """The profile with times multiplied: of all rows and rounds, or of the rows of one kernel alone, by as much as the
    rounds grow, too."""
    rows = [
        dataclasses.replace(r, seconds=tuple(s * factor for s in r.seconds)) if not name or r.kernel == name else r
        for r in given.rows
    ]
    more = [sum(r.seconds[i] for r in rows) - sum(r.seconds[i] for r in given.rows) for i in range(len(given.rounds))]
    return dataclasses.replace(
        given, rows=tuple(rows), rounds=tuple(wall + m for wall, m in zip(given.rounds, more, strict=True))
    )


NAMES = st.sampled_from(["", "conv2d", "a.b", "step", "mine.swish"]) | st.text(max_size=8)
TIMES = st.floats(1e-9, 1e3)
COUNTS = st.integers(0, 2**62)


@st.composite
def profiles(draw, least=1, most=12):
    """Any profile; least, most: rounds."""
    count = draw(st.integers(least, most))
    seconds = st.tuples(*[st.floats(0, 1e3)] * count)
    rows = st.builds(
        Row, *[NAMES] * 7, calls=st.just(0.0) | st.floats(1e-3, 1e6), seconds=seconds, flops=st.none() | COUNTS,
        bytes=st.none() | COUNTS, beside=st.booleans(), inside=st.booleans(),
    )  # fmt: skip
    ends = st.tuples(st.integers(0, 2**62), st.integers(0, 2**62)).map(sorted)
    events = st.builds(lambda names, ends: Event(*names, *ends), st.tuples(*[NAMES] * 4), ends)
    caches = st.lists(st.builds(Cache, st.integers(1, 1 << 40), st.floats(1e-3, 1e15)), max_size=3).map(tuple)
    roofs = st.builds(
        Roofs, NAMES, st.integers(1, 64), *[st.floats(1e-3, 1e15)] * 2, st.floats(0, 1), st.floats(0, 1e15), caches
    )
    memory = st.builds(LayerMemory, NAMES, COUNTS, COUNTS)
    facts = st.none() | st.booleans() | st.integers(-5, 5) | st.floats(-1, 1) | NAMES
    return Profile(
        draw(NAMES), draw(st.dictionaries(NAMES, facts | st.dictionaries(NAMES, facts))),
        *(tuple(draw(st.lists(part, max_size=4))) for part in (roofs,)), draw(st.tuples(*[TIMES] * count)),
        *(tuple(draw(st.lists(part, max_size=4))) for part in (rows, memory)), draw(COUNTS),
        tuple(draw(st.lists(TIMES, max_size=3))), draw(st.floats(0, 1e6)), tuple(draw(st.lists(events, max_size=6))),
        draw(st.integers(0, 10**6)), tuple(draw(st.lists(st.tuples(st.integers(0, 2**62), COUNTS), max_size=3))),
        draw(st.integers(0, 3)),
    )  # fmt: skip
