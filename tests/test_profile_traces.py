"""Traces: the format's rules, tracks and nesting, and a bounded size."""

import collections
import dataclasses
import gzip
import json
import random

from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import profiles, typical

from octsod.profiling import Event, write_trace
from octsod.profiling.traces import lanes


def written(given, path, **options):
    """(what is in the trace, how many events it lacks)."""
    lost = write_trace(given, path, **options)
    data = path.read_bytes()
    return json.loads(data if path.suffix == ".json" else gzip.decompress(data)), lost


def checked(trace):
    """The slices of each track, by the names of its process and thread, after checking the rules of the format."""
    assert isinstance(trace["traceEvents"], list) and trace["displayTimeUnit"] in ("ms", "ns")
    names, tracks = {}, collections.defaultdict(list)
    for entry in trace["traceEvents"]:
        assert isinstance(entry["name"], str) and isinstance(entry["pid"], int) and isinstance(entry["tid"], int)
        if entry["ph"] == "M":
            assert entry["name"] in ("process_name", "thread_name", "thread_sort_index")
            if entry["name"] != "thread_sort_index":
                names[entry["name"], entry["pid"], entry["tid"]] = entry["args"]["name"]
        elif entry["ph"] == "X":
            assert entry["ts"] >= 0 and entry["dur"] >= 0 and isinstance(entry["cat"], str)
            tracks[entry["pid"], entry["tid"]].append(entry)
        elif entry["ph"] == "C":
            assert entry["ts"] >= 0 and entry["args"]["bytes"] >= 0
        else:
            assert entry["ph"] == "i" and entry["s"] == "g" and entry["ts"] >= 0
    threads = [tid for _, tid in tracks]
    assert len(set(threads)) == len(threads)  # no number stands for two tracks
    for slices in tracks.values():
        ends = []
        for entry in slices:  # in order, and each within what is open
            start, end = round(1e3 * entry["ts"]), round(1e3 * (entry["ts"] + entry["dur"]))
            assert start >= (ends[-1][0] if ends else 0)
            while ends and ends[-1][1] <= start:
                ends.pop()
            assert not ends or end <= ends[-1][1]
            ends.append((start, end))
    return {
        (names["process_name", pid, 0], names["thread_name", pid, tid]): slices
        for (pid, tid), slices in tracks.items()
    }  # fmt: skip


def test_a_track_per_thread_and_device(tmp_path):
    trace, lost = written(typical(), tmp_path / "t.json.gz")
    tracks = checked(trace)
    assert lost == 0 and [*tracks] == [("cpu", "MainThread"), ("cuda:0", "stream")]
    assert [(e["cat"], e["name"]) for e in tracks["cpu", "MainThread"]] == [
        ("step", "step 0"), ("op", "Conv2d"), ("kernel", "conv2d")
    ]  # fmt: skip
    assert [(e["ts"], e["dur"]) for e in tracks["cpu", "MainThread"]] == [(0, 8), (1, 4), (1.5, 3)]
    assert trace["otherData"]["subject"] == "a step"


def test_memory_in_use_is_a_counter(tmp_path):
    """As far back as the events go."""
    held = ((500, 7), (1000, 10), (4000, 25), (9001, 3))
    trace, _ = written(dataclasses.replace(typical(), held=held), tmp_path / "t.json.gz")
    checked(trace)
    counters = [entry for entry in trace["traceEvents"] if entry["ph"] == "C"]
    assert [(entry["ts"], entry["args"]) for entry in counters] == [(0, {"bytes": 10}), (3, {"bytes": 25})]
    (name,) = (e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M" and e["pid"] == counters[0]["pid"])
    assert name == "memory"


def test_equal_intervals_are_nested_by_kind(tmp_path):
    events = [Event(kind, kind, "t", "cpu", 0, 10) for kind in ("kernel", "op", "step", "layer")]
    tracks = checked(written(dataclasses.replace(typical(), events=events), tmp_path / "t.json.gz")[0])
    assert [entry["name"] for entry in tracks["cpu", "t"]] == ["step", "layer", "op", "kernel"]


def test_what_overlaps_by_parts_gets_a_track_of_its_own(tmp_path):
    events = [Event("kernel", name, "t", "cpu", *ends) for name, ends in (("a", (0, 5)), ("b", (3, 8)), ("c", (8, 9)))]
    tracks = checked(written(dataclasses.replace(typical(), events=events), tmp_path / "t.json.gz")[0])
    assert {key: [e["name"] for e in own] for key, own in tracks.items()} == {
        ("cpu", "t"): ["a", "c"], ("cpu", "t (2)"): ["b"]
    }  # fmt: skip


def test_the_size_is_bounded_and_the_oldest_go(tmp_path):
    """Names that hardly compress; the step around the last events ends last, so it stays."""
    names = random.Random(0)
    events = [Event("kernel", names.randbytes(4).hex(), "t", "cpu", 10 * i, 10 * i + 9) for i in range(5000)]
    events.append(Event("step", "all", "t", "cpu", 0, 10**6))
    many = dataclasses.replace(typical(), events=events, lost=3)
    for name in ("t.json.gz", "t.json"):
        trace, lost = written(many, tmp_path / name, largest=20_000)
        assert (tmp_path / name).stat().st_size <= 20_000 and lost > 1000
        (slices,) = checked(trace).values()
        assert len(slices) == 5001 - (lost - 3)
        assert slices[0]["name"] == "all" and slices[-1]["name"] == events[4999].name
        assert trace["otherData"]["older events left out"] == lost
        assert any(entry["name"] == f"{lost:,} older events are left out" for entry in trace["traceEvents"])


def test_no_events(tmp_path):
    trace, lost = written(dataclasses.replace(typical(), events=()), tmp_path / "t.json.gz", largest=1)
    assert trace["traceEvents"] == [] and lost == 0


def test_the_same_profile_gives_the_same_bytes(tmp_path):
    write_trace(typical(), tmp_path / "a.json.gz")
    write_trace(typical(), tmp_path / "b.json.gz")
    assert (tmp_path / "a.json.gz").read_bytes() == (tmp_path / "b.json.gz").read_bytes()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted), max_size=12))
def test_lanes_lose_nothing(ends):
    events = [Event("kernel", str(i), "t", "cpu", *pair) for i, pair in enumerate(ends)]
    assert sorted(e.name for lane in lanes(events) for e in lane) == sorted(e.name for e in events)


@settings(max_examples=40, deadline=None)
@given(drawn=profiles())
def test_any_profile(drawn, tmp_path_factory):
    trace, lost = written(drawn, tmp_path_factory.mktemp("trace") / "t.json.gz")
    assert lost == drawn.lost and sum(map(len, checked(trace).values())) <= len(drawn.events)
    assert sum(entry["ph"] == "X" for entry in trace["traceEvents"]) == len(drawn.events)
