"""Predictions profiled step by step: the same results, nothing lost, and rows whose times and costs add up."""

import collections
import dataclasses
import importlib
import itertools
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import configurations, learned, lived_in

import octsod
from octsod.inference import freeze, logits
from octsod.inference.prediction import infer
from octsod.models import Configuration
from octsod.profiling import predictions
from octsod.profiling.predictions import Call, Table, events_of, prediction_rows
from octsod.profiling.step_costs import Part, Steps
from octsod.prune import complexity
from octsod.prune.counts import parameter_count

clock, network, plan, timed = (
    importlib.import_module(f"octsod.kernels.cpu.{name}") for name in ("clock", "network", "plan", "timed")
)
compiled = importlib.import_module("octsod.kernels.cpu.compile").kernel

pytestmark = pytest.mark.usefixtures("poisoned_scratch")
SMALL = Configuration.standard(0.2)


def pictures(count, height, width, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, height, width)).astype(np.float32)


@pytest.fixture(autouse=True)
def three_cpus(monkeypatch):
    monkeypatch.setattr(network, "available_cpus", lambda: 3)


# --- the timed kernel -------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=10)
@given(
    configuration=configurations(), units=st.tuples(st.integers(1, 3), st.integers(1, 3)), batch=st.integers(1, 4),
    band=st.sampled_from([1, 1 << 14, 768 << 10]), threads=st.integers(1, 3), events=st.sampled_from([0, 8]),
    seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_results_are_the_same_and_each_step_is_stamped(configuration, units, batch, band, threads, events, seed):
    frozen = freeze(lived_in(configuration, seed, "float32"))
    x = pictures(batch, *(n * configuration.multiple for n in units), seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "BAND_BYTES", band)
        octsod.set_num_threads(threads)
        expected, together = logits(frozen, x), network.sharing(batch)
        ordinary = plan.make_plan(frozen, *x.shape[2:], together)
        steps = Steps(frozen, *x.shape[2:], together)
    made = steps.finish()
    for field in dataclasses.fields(made):
        np.testing.assert_array_equal(getattr(made, field.name), getattr(ordinary, field.name))
    assert len(steps.part) == len(made.program) and len(steps.parts) == steps.part.max() + 1
    out = np.full_like(expected, np.nan)
    times = timed.csnet(made, x, out, events)
    assert out.tobytes() == expected.tobytes()
    assert (times.stamps[..., 1].sum(0) == batch).all(), "each step, for each picture"
    assert (times.stamps >= 0).all()
    spent = times.stamps[..., 0].sum() + times.marks[:, clock.BETWEEN].sum()
    assert spent == (times.marks[:, clock.LAST] - times.marks[:, clock.FIRST]).sum(), "no time is lost between steps"
    assert times.marks[:, clock.TAKEN].sum() == (batch * len(made.program) if events else 0)
    marks = times.marks[times.marks[:, clock.FIRST] > 0]  # other threads may have taken all pictures
    assert (times.ticks[0] <= marks[:, clock.FIRST]).all() and (marks[:, clock.LAST] <= times.ticks[1]).all()


def test_an_ordinary_prediction_knows_no_clock():
    code = """
        import sys, numpy as np, octsod
        from octsod.inference import freeze, logits
        from octsod.kernels.cpu import network
        from octsod.kernels.cpu.fingerprints import fingerprint
        before = fingerprint(network._pictures)
        logits(freeze(octsod.csnet(0.2).eval()), np.zeros((1, 3, 32, 32), np.float32))
        assert not [name for name in sys.modules if name.endswith((".clock", ".timed", ".predictions"))]
        from octsod.kernels.cpu import fingerprints, timed
        fingerprints._kernels.clear()
        fingerprints._module.cache_clear()
        assert fingerprint(network._pictures) == before
    """
    done = subprocess.run([sys.executable, "-c", "\n".join(map(str.strip, code.splitlines()))], capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def reading(now):
    @compiled
    def read_three(out):
        for k in range(3):
            out[k] = now()

    return read_three


@pytest.mark.skipif(clock.MONOTONIC < 0, reason="the system has no clock_gettime")
def test_the_clock_of_the_system():
    out = np.zeros(3, np.int64)
    before = time.clock_gettime_ns(clock.MONOTONIC)
    reading(clock.nanoseconds)(out)
    after = time.clock_gettime_ns(clock.MONOTONIC)
    assert before <= out[0] <= out[1] <= out[2] <= after


@pytest.mark.skipif(not clock.COUNTER, reason="this processor's counter is no clock")
def test_the_counter_of_the_processor():
    out = np.zeros(3, np.int64)
    reading(clock.cycles)(out)
    assert 0 < out[0] <= out[1] <= out[2]


@pytest.mark.parametrize(
    ("system", "x86", "source", "expected"),
    [("Linux", True, "tsc\n", True), ("Linux", True, "hpet\n", False), ("Linux", True, None, False),
     ("Linux", False, "arch_sys_counter\n", False), ("Darwin", True, None, True), ("Darwin", False, None, False)],
)  # fmt: skip
def test_which_clock_is_read(system, x86, source, expected, monkeypatch):
    def read_text(path):
        if source is None:
            raise FileNotFoundError
        return source

    monkeypatch.setattr(clock.platform, "system", lambda: system)
    monkeypatch.setattr(clock, "X86", x86)
    monkeypatch.setattr(clock.pathlib.Path, "read_text", read_text)
    assert clock._has_counter() is expected


# --- costs ------------------------------------------------------------------------------------------------------------


def layer_flops(layer, height, width):
    """What a layer costs by the paper's definition, from its shapes alone: convolutions, norms, resampling."""
    sizes = [(height >> layer.scale + j) * (width >> layer.scale + j) for j in range(9)]
    if layer.kind == "conv":
        return sizes[0] * (2 * layer.inputs[0] + 1) + (8 * height * width if layer.scale else 0)
    norms = sum(4 * n * sizes[j] for j, n in enumerate(layer.outputs))
    pairs = [(i, j) for i, ins in enumerate(layer.inputs) if ins for j, outs in enumerate(layer.outputs) if outs]
    if layer.kind != "octave":
        branches = zip(layer.inputs, layer.outputs, sizes, strict=False)
        of_each = 1 if layer.kind == "depthwise" else None
        return norms + sum(2 * layer.kernel_size**2 * (of_each or i) * o * pixels for i, o, pixels in branches)
    flops = norms
    for i, j in pairs:
        flops += 2 * layer.kernel_size**2 * layer.inputs[i] * layer.outputs[j] * sizes[max(i, j)]
        flops += 8 * layer.outputs[j] * sizes[j] if i > j else 0
    for i, ins in enumerate(layer.inputs):
        flops += 4 * ins * sizes[i] if layer.stride == 2 else 0
        finest = i
        for coarser in (j for k, j in pairs if k == i and j > i):  # each from the one before
            flops += 4 ** (coarser - finest) * ins * sizes[coarser]
            finest = coarser
    return flops


@settings(deadline=None, max_examples=25)
@given(
    configuration=configurations(), units=st.tuples(st.integers(1, 4), st.integers(1, 4)), threads=st.integers(1, 4),
    band=st.sampled_from([1, 1 << 14, 768 << 10]), seed=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_parts_of_a_layer_add_up_to_its_cost(configuration, units, threads, band, seed):
    frozen = freeze(lived_in(configuration, seed, "float32"))
    height, width = (n * configuration.multiple for n in units)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plan, "BAND_BYTES", band)
        steps = Steps(frozen, height, width, threads, cache=0)
    found, weights = collections.Counter(), collections.Counter()
    for part in steps.parts:
        found[part.layer] += part.flops
        weights[part.layer] += part.weight_bytes
    expected = {layer.name: layer_flops(layer, height, width) for layer in configuration.deployed().layers()}
    assert found == collections.Counter(expected)
    assert weights == collections.Counter(
        {layer.name: 4 * parameter_count(layer) for layer in configuration.deployed().layers()}
    )


def test_flops_are_twice_the_macs():
    """Of a network without octaves, whose MACs have 7 per element with a norm, where here are 4 FLOPs."""
    configuration = Configuration.standard(0.2, (1,), "extractor")
    layers = list(configuration.layers())
    elements = sum(layer.outputs[0] * (48 >> layer.scale) * (80 >> layer.scale) for layer in layers if layer.normed)
    steps = Steps(freeze(lived_in(configuration, 1, "float32")), 48, 80, 2)
    found = collections.Counter()
    for part in steps.parts:
        found[part.kernel] += part.flops
    bias = 6 * 10  # a MAC, but one FLOP
    macs = complexity(configuration, (48, 80)).macs
    assert found["product"] + found["depthwise"] == 2 * (macs - 7 * elements - bias) + 4 * elements + bias
    assert found["upsample_add"] == 8 * 48 * 80
    assert {kernel for kernel in found if not found[kernel]} == {"fill", "transfer", ""}


def traffic(**settings):
    """Bytes by layer and kernel of a network with few kinds of layers, for a picture of 32x64."""
    configuration = Configuration.standard(0.2, (1,), "extractor")
    found = collections.Counter()
    for part in Steps(freeze(lived_in(configuration, 2, "float32")), 32, 64, 1, **settings).parts:
        found[part.layer, part.kernel] += part.bytes
    return found


def test_bytes_are_those_of_arrays_that_the_caches_do_not_hold():
    pixels, first = 4 * 32 * 64, "extractor.stages.0.0"
    everything = traffic(cache=0)
    assert everything["", "transfer"] == 2 * 3 * pixels
    assert everything[f"{first}.mix", "product"] == 3 * pixels, "what it writes is a band in the cache"
    assert not everything[f"{first}.depthwise.0", "depthwise"]
    assert everything[f"{first}.depthwise.1", "depthwise"] == 4 * pixels
    assert everything["extractor.stages.1.0.mix", "product"] == 4 * pixels
    assert everything["extractor.stages.2.0.mix", "average"] == 4 * pixels / 4
    assert everything["classifier", "upsample_add"] == pixels + pixels / 64
    assert sum(traffic(cache=4 * pixels).values()) == 0
    large = {(f"{first}.depthwise.1", "depthwise"), ("extractor.stages.1.0.mix", "product")}
    assert large <= {key for key, size in traffic(cache=4 * pixels - 1).items() if size}
    assert +traffic(cache=4 * pixels, at_once=5) and +traffic(cache=4 * pixels, pictures=5)


def test_each_block_reads_a_map_once():
    """However many products do: here those of both levels, and those of all dilations."""
    parts = Steps(freeze(lived_in(SMALL, 3, "float32")), 32, 32, 1, cache=0).parts
    found = collections.Counter()
    for part in parts:
        if part.kernel == "product":
            found[part.layer] += part.bytes
    pixels, c = 4 * 32 * 32, SMALL
    a, b = c.stages[1][0]
    assert found["extractor.stages.1.1.mix"] == a * pixels + (a + b) * pixels / 4, "its own maps, and one pooled"
    outs = [sum(outs) for outs in c.dilated]
    expected = sum((n + out) * pixels / 4 ** (1 + j) for j, (n, out) in enumerate(zip(c.fuse, outs, strict=True)))
    assert found["fusion.dilated"] == expected


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configuration", "threads", "batch", "size"),
    [(SMALL, 1, 1, (32, 32)), (SMALL, 3, 1, (48, 80)), (SMALL, 2, 5, (16, 48)),
     (learned(np.random.default_rng(5)), 3, 2, (64, 32)),
     (Configuration.standard(0.2, variant="vanilla"), 2, 1, (32, 48))],
)  # fmt: skip
def test_rows(configuration, threads, batch, size):
    octsod.set_num_threads(threads)
    model, x = lived_in(configuration, 4, "float32"), pictures(batch, *size)
    before = infer(model, x)
    rows, walls = prediction_rows(model, x, 3)
    assert infer(model, x).tobytes() == before.tobytes()
    assert len(walls) == 3 and all(len(row.seconds) == 3 for row in rows)
    np.testing.assert_allclose([sum(column) for column in zip(*(row.seconds for row in rows), strict=True)], walls)
    together = network.sharing(batch)
    steps = Steps(freeze(model), *size, together, batch, 1 if together > 1 else min(threads, batch))
    keys = {predictions.key_of(part) for part in steps.parts}
    assert {(row.kernel, row.title, row.op, row.layer) for row in rows if row.op} == keys, "each step is in a row"
    for what in ("flops", "bytes"):
        expected = collections.Counter()
        for part in steps.parts:
            expected[predictions.key_of(part)] += getattr(part, what) * batch
        found = collections.Counter()
        for row in rows:
            if row.kernel and row.op:
                found[row.kernel, row.title, row.op, row.layer] += getattr(row, what)
        assert found == +expected, "threads have shares of them"
    names = {"octsod-kernel-0", "octsod-kernel-1"} if threads == 3 else {"octsod-kernel-0"} if threads == 2 else set()
    assert {row.thread for row in rows} <= {*names, "MainThread"}
    assert {row.phase for row in rows} == {"predict"} and {row.device for row in rows} == {"cpu"}
    barriers = [row.calls for row in rows if row.title == "waiting at barriers" and row.op == "head"]
    assert np.isclose(sum(barriers), batch * together), "threads that share a picture all meet"
    assert {"before the steps", "after the steps", "around the kernels"} <= {r.title for r in rows if not r.kernel}
    assert [row.calls for row in rows if row.kernel == "sigmoid"] == [1]


def test_a_frozen_network():
    rows, walls = prediction_rows(freeze(lived_in(SMALL, 6, "float32")), pictures(1, 32, 32), 1)
    assert len(walls) == 1 and not [row for row in rows if row.kernel == "sigmoid"]


class FourSteps:
    """A plan of two threads with two steps each, of three parts."""

    parts = (
        Part("product", "a", "gOctConv", "x", 101, 30, 1), Part("fill", "", "gOctConv", "x"),
        Part("", "waiting at barriers", "head"),
    )  # fmt: skip
    part, work = np.array([0, 1, 0, 2]), np.array([2, 7, 1, 0])


def noted(stamps, marks, takers, events=0):
    """What a clock of half a nanosecond has noted in a call from 1000 to 1100 ns."""
    table = np.zeros((len(marks), clock.MARKS), np.int64)
    table[:, : len(marks[0])] = marks
    ring = np.zeros((len(marks), events, clock.EVENT), np.int64)
    return timed.Times(np.array(stamps), table, np.array(takers), ring, (5000, 5200), (1000, 1100))


def test_two_threads_that_share_a_picture():
    """The arithmetic of rows. The second thread takes the first program, begins late and has to wait at the end."""
    stamps = [[[40, 1], [20, 1], [60, 1], [30, 1]]]
    times = noted(stamps, [(5010, 5100), (5030, 5090)], [1, 0])
    table = Table("main")
    sigmoid = Part("sigmoid", flops=4, bytes=8)
    table.add_round(150, [Call(FourSteps, [0, 2, 4], 1, times, ["main", "other"])], [(sigmoid, 20)])
    rows = {(row.kernel, row.title, row.thread): row for row in table.rows()}
    nanoseconds = {key: round(1e9 * row.seconds[0], 6) for key, row in rows.items()}
    assert nanoseconds == {
        ("sigmoid", "", "main"): 20,
        ("", "before the steps", "main"): 5,
        ("", "after the steps", "main"): 50,
        ("", "waiting for other threads", "other"): 7.5,  # 5 ns before, 10 ns after, half of it
        ("product", "a", "other"): 10,
        ("fill", "", "other"): 5,
        ("product", "a", "main"): 15,
        ("", "waiting at barriers", "main"): 7.5,
        ("", "around the kernels", "main"): 30,
    }
    assert sum(nanoseconds.values()) == 150
    products = rows["product", "a", "other"], rows["product", "a", "main"]
    assert [(row.flops, row.bytes, row.calls) for row in products] == [(67, 21, 1), (34, 10, 1)]
    assert rows["fill", "", "other"].flops == rows["fill", "", "other"].bytes == 0
    assert rows["sigmoid", "", "main"].flops == 4 and rows["", "after the steps", "main"].bytes is None


def test_threads_with_pictures_of_their_own():
    """Three pictures: two for one thread, with 4 ns of Python between them. In the second round, one thread has all."""
    stamps = [[[40, 2], [20, 2], [60, 2], [30, 2]], [[30, 1], [10, 1], [20, 1], [20, 1]]]
    shared = noted(stamps, [(5010, 5168, 8), (5020, 5100, 0)], [0])
    alone = noted([[[30, 3], [10, 3], [20, 3], [20, 3]], np.zeros((4, 2), int)], [(5010, 5090, 0), (0, 0, 0)], [0])
    table = Table("main")
    for times, wall in ((shared, 100), (alone, 200)):
        table.add_round(wall, [Call(FourSteps, [0, 4], 3, times, ["main", "other"])], [])
    rows = {(row.kernel, row.title, row.thread): row for row in table.rows()}
    assert {key: tuple(round(1e9 * s, 6) for s in row.seconds) for key, row in rows.items()} == {
        ("", "before the steps", "main"): (5, 5),
        ("", "after the steps", "main"): (16, 55),
        ("", "waiting for other threads", "other"): (19.5, 20),
        ("", "between pictures", "main"): (2, 0),
        ("product", "a", "main"): (25, 12.5),
        ("fill", "", "main"): (5, 2.5),
        ("", "waiting at barriers", "main"): (7.5, 5),
        ("product", "a", "other"): (12.5, 0),
        ("fill", "", "other"): (2.5, 0),
        ("", "waiting at barriers", "other"): (5, 0),
        ("", "around the kernels", "main"): (0, 100),
    }
    products = rows["product", "a", "main"], rows["product", "a", "other"]
    assert [row.calls for row in products] == [2.5, 0.5]
    assert sum(row.flops for row in products) == 303 and sum(row.bytes for row in products) == 91
    assert abs(products[1].flops - 303 / 6) <= 1


# --- events -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("threads", "batch", "most"), [(1, 1, 1 << 16), (3, 1, 100), (2, 2, 100)])
def test_events_are_bounded_and_none_overlap(threads, batch, most, monkeypatch):
    monkeypatch.setattr(predictions, "MOST_EVENTS", most)
    octsod.set_num_threads(threads)
    model, x = lived_in(SMALL, 7, "float32"), pictures(batch, 32, 32)
    rows, walls, events, lost = prediction_rows(model, x, 2, events=True)
    together = network.sharing(batch)
    count = len(Steps(freeze(model), 32, 32, together).part) * (1 if together > 1 else batch)
    assert len(walls) == 2 and len(events) + lost == 2 * (count + 1) and len(events) <= most
    if most > 1000:
        assert not lost and [event.kind for event in events].count("step") == 2
        named = {f"{row.layer}: {row.kernel}" for row in rows if row.layer and row.kernel}
        assert named <= {" ".join(event.name.split()[:2]) for event in events}
    for thread in {event.thread for event in events}:
        own = [event for event in events if event.thread == thread and event.kind == "kernel"]
        assert all(a.start <= a.end <= b.start + 1 for a, b in itertools.pairwise(own))
    assert {event.device for event in events} == {"cpu"}


def test_a_ring_that_has_gone_round():
    """The latest four of six steps, in order, in nanoseconds of the host's clock."""
    times = noted(np.zeros((1, 4, 2)), [(5010, 5100, 0, 6)], [0], events=4)
    times.events[0] = [(0, 5040, 5050), (1, 5050, 5060), (2, 5020, 5030), (3, 5030, 5040)]
    found = list(events_of(Call(FourSteps, [0, 4], 1, times, ["main"])))
    assert [(event.start, event.end) for event in found] == [(1010, 1015), (1015, 1020), (1020, 1025), (1025, 1030)]
    assert [event.name for event in found] == ["x: product a", "head: waiting at barriers", "x: product a", "x: fill"]


# --- errors -----------------------------------------------------------------------------------------------------------


def test_what_cannot_be_profiled():
    model, x = lived_in(SMALL, 8, "float32"), pictures(1, 32, 32)
    with pytest.raises(ValueError, match="prediction_rows: `rounds` is 0; expected at least 1"):
        prediction_rows(model, x, 0)
    with pytest.raises(ValueError, match=r"csnet: `x` has shape \(1, 3, 32, 33\)"):
        prediction_rows(model, np.zeros((1, 3, 32, 33)), 1)
    with pytest.raises(ValueError, match="prediction_rows: `model` tells 7 classes of pictures apart"):
        prediction_rows(octsod.csnet(0.2, classes=7), x, 1)
    with octsod.use_backend("reference"), pytest.raises(ValueError, match="`network` runs on 'reference'"):
        prediction_rows(model, x, 1)
    octsod.set_num_threads(1)
    assert len(prediction_rows(model, x, 1)) == 2, "and afterwards, all is as before"
