"""Profiles as tables: numbers, sums, verdicts, sorting and filtering."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import CPU, profile, profiles, row, typical

from octsod.profiling import Cache, LayerMemory, Roofs, grouped, table, verdict
from octsod.profiling.groups import NAMES, SORTS
from octsod.profiling.tables import COLUMNS


def of(name, by="kernel", found=None):
    """The group whose name begins so."""
    return next(group for group in grouped(found or typical(), by) if group.name.startswith(name))


def test_numbers_of_a_kernel():
    seconds = (8.0, 9.0, 10.0, 11.0, 14.0)
    found = profile(row(ms=seconds, calls=4, flops=200_000_000, bytes=50_000_000), rounds=(40.0,) * 5)
    (group,) = grouped(found)
    assert group.name == "conv2d 8@32 -> 8@32, 3x3" and group.calls == 4
    assert group.time == pytest.approx(0.010) and group.share == pytest.approx(0.25)
    assert group.each == pytest.approx(0.0025) and group.each_iqr == pytest.approx(0.0005)
    assert group.intensity == 4 and group.flop_rate == pytest.approx(20e9) and group.byte_rate == pytest.approx(5e9)
    assert group.roof_share == pytest.approx(0.5) and group.gain == pytest.approx(0.005)
    assert group.bound == "memory"  # 5 ms at 10 GB/s, 2 ms at 100 GFLOP/s


def test_equal_launches_in_several_layers_are_one_kernel():
    two = profile(row(layer="a", flops=10, bytes=20), row(layer="b", flops=1, bytes=2), row("conv2d", "other"))
    group = of("conv2d 8@32", found=two)
    assert (group.calls, group.flops, group.bytes) == (2, 11, 22) and group.time == pytest.approx(0.02)
    assert sorted(g.name for g in grouped(two, "layer")) == ["a", "a.b", "b"]


@pytest.mark.parametrize("name, words", [
    ("add", "memory; 2.0x faster at its roof, 10 ms of the step"),
    ("conv2d 8@32", "arithmetic; 4.0x faster at its roof, 30 ms of the step"),
    ("tiny", "launches; 4.0x faster at its roof, 3 ms of the step"),
    ("Python", "Python; 16 ms of the step outside of kernels"),
    ("mine.swish", "unknown, as its cost is"),
    ("conv2d_backward", "error of the cost: it would be at 1,000 % of its roof"),
])  # fmt: skip
def test_verdicts(name, words):
    assert verdict(of(name), "step") == words


def test_a_kernel_at_its_roof():
    (group,) = grouped(profile(row(ms=(10.1,) * 3, flops=1, bytes=100_000_000)))
    assert verdict(group) == "memory; at its roof"


def test_launches_bind_what_has_no_cost():
    (group,) = grouped(profile(row(ms=(1.0,) * 3, calls=900)))
    assert verdict(group) == "launches; its cost is unknown" and group.roof_share is None


def test_an_empty_launch_may_be_slower_than_a_small_kernel():
    """Then launches bind it, but its cost is not wrong."""
    (group,) = grouped(profile(row(ms=(0.5,) * 3, calls=1000, flops=1, bytes=1)))
    assert group.bound == "launches" and group.roof_share == 1 and not group.wrong


CACHED = dataclasses.replace(CPU, fastest=15e9, caches=(Cache(10**6, 100e9), Cache(30 * 10**6, 40e9)))


def test_the_least_time_of_moving_bytes():
    assert CACHED.memory_floor(5e5) == pytest.approx((5e-6, 5e-6))
    assert CACHED.memory_floor(11e6) == pytest.approx((1e-5 + 10e6 / 40e9,) * 2)
    within = 1e-5 + 29e6 / 40e9
    assert CACHED.memory_floor(130e6) == pytest.approx((within + 100e6 / 10e9, within))
    assert CACHED.memory_floor(130e6, fastest=True)[0] == pytest.approx(within + 100e6 / 15e9)
    assert CPU.memory_floor(1e6, fastest=True) == CPU.memory_floor(1e6) == (1e-4, 0.0)


def test_what_caches_hold_has_their_roof():
    """A launch's bytes count, not those of all its calls."""
    rows = [row(ms=(1.0,) * 3, calls=calls, flops=1, bytes=20_000_000 * calls) for calls in (1, 3)]
    one, three = (grouped(profile(r, roofs=(CACHED,)))[0] for r in rows)
    assert one.bound == "caches" and not one.wrong and one.roof_share == pytest.approx((1e-5 + 19e6 / 40e9) / 1e-3)
    assert three.bound == "" and three.wrong and verdict(three).startswith("error of the cost: it would be at 146 %")
    assert verdict(one) == "caches; 2.1x faster at its roof, 0.515 ms of the round"
    (large,) = grouped(profile(row(ms=(15.0,) * 3, flops=1, bytes=130_000_000), roofs=(CACHED,)))
    assert large.bound == "memory" and large.roof_share == pytest.approx(10.735 / 15)


def test_what_is_faster_than_copying_is_no_error_yet():
    """Such as a kernel that only reads. The steps of a prediction count only bytes that caches can't hold."""
    for inside, ms in ((False, 9.0), (True, 12.0)):
        (group,) = grouped(profile(row(ms=(ms,) * 3, flops=1, bytes=130_000_000, inside=inside), roofs=(CACHED,)))
        assert (group.bound, group.wrong, group.roof_share) == ("memory", {}, 1) and verdict(group).endswith("its roof")
    (group,) = grouped(profile(row(ms=(7.0,) * 3, flops=1, bytes=130_000_000), roofs=(CACHED,)))
    assert group.wrong and group.gain is None


def test_steps_without_work_of_the_op_are_overhead():
    (group,) = grouped(profile(row("fill", "", (1.0,) * 3, flops=0, bytes=0, inside=True)))
    assert verdict(group) == "overhead: nothing that the op itself needs; 1 ms of the round" and not group.outside


def test_launches_bind_only_where_they_take_much():
    (group,) = grouped(profile(row(ms=(1.0,) * 3, calls=100, flops=100, bytes=100)))
    assert group.roof_share == pytest.approx(0.1), "launches take that long at least"
    assert (group.bound, group.nearest) == ("its own code", "launches")


@pytest.mark.parametrize("ms, flops, moved, words", [
    (40.0, 1, 100_000_000, "memory; 4.0x faster at its roof, 30 ms of the round"),
    (41.0, 1, 100_000_000, "its own code, far from every roof; 4.1x faster at its nearest, memory, 31 ms of the round"),
    (750.0, 1, 10**8, "its own code, far from every roof; 75x faster at its nearest, memory, 740 ms of the round"),
    (50.0, 10**9, 1, "its own code, far from every roof; 5.0x faster at its nearest, arithmetic, 40 ms of the round"),
])  # fmt: skip
def test_what_is_far_from_every_roof_is_held_up_by_its_own_code(ms, flops, moved, words):
    (group,) = grouped(profile(row(ms=(ms,) * 3, flops=flops, bytes=moved)))
    assert verdict(group) == words


def test_what_is_partly_far_from_its_roof():
    """60 ms at a sixth of the roof of memory and 40 at half of that of arithmetic are at 0.3 of both."""
    rows = row(ms=(60.0,) * 3, flops=1, bytes=100_000_000), row("b", ms=(40.0,) * 3, flops=2 * 10**9, bytes=1)
    (group,) = grouped(profile(*rows), "op")
    words = "its own code, for the most part far from every roof; 3.3x faster at its roofs, 70 ms of the round"
    assert verdict(group) == words


def test_roofs_are_those_of_the_device():
    gpu = Roofs("cuda:0", 1, 1e12, 1e13, 5e-6)
    rows = [row(flops=1, bytes=100_000_000, device=device) for device in ("cpu", "cuda:0", "cuda:1")]
    groups = {d: grouped(profile(r, roofs=(CPU, gpu)))[0] for d, r in zip(("cpu", "gpu", "other"), rows, strict=True)}
    assert groups["cpu"].roof_share == pytest.approx(1) and groups["gpu"].roof_share == pytest.approx(0.01)
    assert groups["other"].roof_share is None
    assert verdict(groups["other"]) == "unknown; the roofs of cuda:1 were not measured"


def test_an_error_of_the_cost_is_never_shown_as_speed():
    wrong = of("conv2d_backward")
    assert wrong.roof_share == pytest.approx(10) and wrong.flop_rate is None and wrong.byte_rate is None
    lines = table(typical()).splitlines()
    numbers = lines[[line.startswith("conv2d_backward") for line in lines].index(True) + 1]
    assert numbers.split()[-4:] == ["-", "-", "1,000", "%!"]
    assert numbers.split()[6:11] == ["10", "G", "1", "k", "1e+07"]  # what is wrong is shown


def test_a_wrong_cost_does_not_spoil_the_others_of_a_group():
    group = of("net.conv", "layer")
    assert group.flops == 1_000_000_000 and group.roof_share == pytest.approx(0.25)
    words = verdict(group, "step")
    assert words.startswith("arithmetic; 4.0x faster at its roof, 30 ms of the step; 24.2 % of it outside of kernels")
    assert "error of the cost: conv2d_backward 8@32 -> 8@32, 3x3 would be at 1,000 % of its roof" in words


def test_unknown_costs_within_a_group_are_told():
    group = of("op", "op", profile(row(flops=1, bytes=50_000_000, op="op", phase=""), row("b", op="op", phase="")))
    assert verdict(group).endswith("the cost of 50.0 % of it is unknown") and "memory" in verdict(group)


def test_waiting_is_not_called_python():
    found = profile(row(), row("", "waiting for cuda:0", (30.0,) * 5))
    group = grouped(found)[0]
    assert verdict(group, "step") == "waiting for cuda:0; 30 ms of the step outside of kernels"
    assert "waiting for cuda:0                 30.000 ms   75.0 %" in table(found)


def test_what_runs_beside_is_no_part_of_the_whole():
    """Such as the host's rows, where a GPU's add up to the rounds."""
    found = profile(
        row(device="cuda:0"), row("", "idle", (5.0,) * 5, device="cuda:0"), row("", "", (9.0,) * 5, beside=True),
        row(ms=(2.0,) * 5, beside=True), rounds=(15.0,) * 5,
    )  # fmt: skip
    text = table(found)
    assert [g.name for g in grouped(found, "op")] == ["Conv2d (forward)", "Conv2d (forward) (beside)"]
    assert "kernels                            10.000 ms   66.7 % of the round" in text
    assert "idle                                5.000 ms   33.3 % of the round" in text
    assert "unaccounted for                     0.000 ms   0.0 % of the round" in text
    assert "beside the round                   11.000 ms   in other threads" in text
    lines = table(found, top=1).splitlines()
    assert [line.split("  ")[0] for line in lines if "other" in line][:2] == ["1 other", "2 others (beside)"]


def test_parts_add_up():
    text = table(typical())
    assert "the step                          100.000 ms   IQR 0.000 ms of 5 steps" in text
    assert "kernels                            79.000 ms   79.0 % of the step" in text
    assert "Python between kernels             16.000 ms   16.0 % of the step" in text
    assert "unaccounted for                     5.000 ms   5.0 % of the step" in text
    assert "compiling                       2,500.000 ms   in no step" in text
    assert "roofs of cpu, 2 threads: 10 GB/s copied, 100 GFLOP/s in multiply-adds, 1 us" in text


def test_parts_of_a_typical_round_add_up_whatever_the_noise():
    """Medians would not: each part is slow in other rounds."""
    rows = [row("a", ms=(1, 9, 1, 1, 1, 9)), row("b", ms=(9, 1, 9, 1, 1, 1)), row("c", ms=(2, 2, 2, 9, 9, 90))]
    found = profile(*rows)  # rounds of 12, 12, 12, 11, 11, 100: the fastest and the slowest don't count
    times = {group.name[0]: group.time for group in grouped(found)}
    assert times == {"a": pytest.approx(0.003), "b": pytest.approx(0.005), "c": pytest.approx(0.00375)}
    assert sum(group.share for group in grouped(found)) == pytest.approx(1)
    assert "the round                          11.750 ms" in table(found)
    assert "unaccounted for                     0.000 ms" in table(found)


@pytest.mark.parametrize("rounds, warm, told", [(1, 0, True), (1, 1, False), (2, 0, False)])
def test_a_first_round_that_is_the_only_one_is_told(rounds, warm, told):
    text = " ".join(table(profile(row(ms=(1.0,) * rounds), warm=warm)).split())
    said = (
        "This was the first and only round, so it may include loading kernels; `octsod.profile(warm=1)`, with "
        "`p.step()` after each round, counts later ones."
    )
    assert (said in text) == told


def test_a_profile_is_short_in_a_notebook():
    assert repr(typical()) == "<Profile of 'a step': 5 rounds, 6 rows>"
    assert repr(profile(row(ms=(1.0,)))) == "<Profile of 'a step': 1 round, 1 row>"
    assert len(repr(dataclasses.replace(typical(), subject="x" * 10_000))) < 300


def test_an_interrupted_call_is_told():
    """The mean, by which lines add up, is ranked; the verdict says what made it."""
    found = profile(
        row("a", ms=(0.4, 28.0, 0.4, 0.4, 0.4), flops=1, bytes=10**6), row("b", ms=(5.0,) * 5), rounds=(40.0,) * 5
    )
    group, steady = grouped(found)
    assert group.slowest == 0.028 and group.each == 0.0004 and group.time > 10 * group.each and steady.slowest is None
    assert verdict(group).endswith("; uneven: 28 ms in one round, 0.4 ms in a median one")
    (outside,) = grouped(profile(row("", "", (1.0, 1.0, 28.0))))
    words = "Python; 10 ms of the round outside of kernels; uneven: 28 ms in one round, 1 ms in a median one"
    assert verdict(outside) == words


@pytest.mark.parametrize("ms, whole", [
    ((1.0, 1.3, 1.6, 2.0, 2.4), 40.0),  # noise
    ((0.01, 0.01, 0.2, 0.01, 0.01), 40.0),  # hardly any of the whole
    ((1.0,), 40.0),
])  # fmt: skip
def test_noise_is_not_called_uneven(ms, whole):
    (group,) = grouped(profile(row(ms=ms), rounds=(whole,) * len(ms)))
    assert group.slowest is None and "uneven" not in verdict(group)


def test_captured_steps_and_lost_events_are_told():
    text = table(dataclasses.replace(typical(), captured=(0.05, 0.05), lost=7))
    assert "the step, captured                 50.000 ms   replayed from a captured graph" in text
    assert "7 older events are not in traces" in text


def test_memory_by_layer():
    lines = table(typical()).splitlines()
    assert "memory at its peak: 3.00 MB" in lines
    assert lines[-2].split() == ["2.00", "MB", "1.50", "MB", "50.0", "%", "net.conv"]
    many = [LayerMemory(f"layer {i}", 10**6, 10**6) for i in range(30)]
    assert table(dataclasses.replace(typical(), memory=many)).splitlines()[-1].endswith("20 others")


def test_groups_by_op_layer_and_row():
    assert [g.name for g in grouped(typical(), "op")][:2] == ["Conv2d (forward)", "Add (forward)"]
    assert [g.name for g in grouped(typical(), "layer")][:2] == ["net.conv", "net.join"]
    assert of("add", "row").name == "add 8@32: net.join, Add, forward"
    nameless = profile(row("adam", "9 numbers", op="", layer="", phase="step"), row("", "", op="", layer="", phase=""))
    assert {g.name for g in grouped(nameless, "op")} == {"(step)", "(no op)"}
    assert {g.name for g in grouped(nameless, "layer")} == {"(step)", "(no layer)"}


def test_filter_looks_at_all_names():
    for text, count in (("CONV", 3), ("net.tiny", 1), ("backward", 1), ("3x3", 2), ("swish", 1), ("cpu", 6), ("", 6)):
        assert len(grouped(typical(), "row", filter=text)) == count, text
    text = table(typical(), filter="swish")
    assert "All that hold 'swish': 5 ms, 5.0 % of the step" in text and "unaccounted for" in text
    assert "No row holds 'nonsense'." in table(typical(), filter="nonsense")


def test_what_is_not_shown_is_added_up():
    lines = table(typical(), top=2).splitlines()
    (at,) = [i for i, line in enumerate(lines) if line.startswith("4 others")]
    assert lines[at + 1].split()[0] == "35.000"


@pytest.mark.parametrize("sort", SORTS)
def test_sorting(sort):
    values = [SORTS[sort](group) for group in grouped(typical(), sort=sort)]
    known = [value for value in values if value is not None]
    assert values == known + [None] * (len(values) - len(known))
    assert known == sorted(known, reverse=sort != "name")


def test_wide_names_are_wrapped_at_100_columns():
    name = "layer." * 60 + "end"
    for by in NAMES:
        lines = table(dataclasses.replace(profile(row(layer=name, title="x" * 130)), subject=name), by).splitlines()
        assert max(map(len, lines)) <= 100
    assert "end" in table(profile(row(layer=name)), "layer")


@pytest.mark.parametrize("width, breaks", [
    (100, 1), (93, 1), (92, 2), (80, 2), (50, 2), (49, 3), (40, 3),
])  # fmt: skip
def test_numbers_are_wrapped_where_a_terminal_is_narrow(width, breaks):
    found = dataclasses.replace(typical(), captured=(0.1,) * 5, lost=12_345)
    lines = table(found, width=width, filter="net").splitlines()
    assert max(map(len, lines)) <= width
    header = [line for line in lines if set(line.split()) & {"share", "FLOP", "roof"}][:breaks]
    assert " ".join(" ".join(header).split()) == " ".join(name for name, _ in COLUMNS)
    numbers = lines[lines.index(header[-1]) :]
    first = next(i for i, line in enumerate(numbers) if line.split()[:3] == ["40.000", "40.0", "%"])
    whole = " ".join(" ".join(numbers[first : first + breaks]).split())
    assert whole == "40.000 40.0 % 1 40.000 0.000 1 G 1 M 1,000 25 0.025 25.0 %"
    for words in ("the step", "unaccounted for", "replayed from a captured", "12,345 older events", "net.conv"):
        assert words in " ".join(" ".join(lines).split())


@pytest.mark.parametrize("width", [39, 0, -1])
def test_too_narrow(width):
    with pytest.raises(ValueError, match=rf"^profile: `width` is {width}; expected at least 40\.$"):
        table(typical(), width=width)


def test_a_very_wrong_cost_does_not_touch_its_neighbour():
    wrong = profile(row(ms=(1e-3,) * 5, flops=2**60, bytes=1), rounds=(100.0,) * 5)
    (line,) = [line for line in table(wrong).splitlines() if line.endswith("!")]
    assert line.split()[-3:] == ["-", "1.2e+15", "%!"]


def test_names_are_safe_for_a_terminal():
    text = table(profile(row(title="\x1b[31mred\nx", layer="a\ud800"), memory=(LayerMemory("\x1b", 1, 1),)), "row")
    assert "\x1b" not in text and "\\x1b[31mred\\n" in text and text.encode()


@pytest.mark.parametrize("arguments, words", [
    ({"by": "colour"}, "profile: `by` is 'colour'; expected one of kernel, op, layer, row."),
    ({"sort": "size"}, "profile: `sort` is 'size'; expected one of time, share,"),
])  # fmt: skip
def test_unknown_words(arguments, words):
    with pytest.raises(ValueError) as error:
        table(typical(), **arguments)
    assert str(error.value).startswith(words)


def test_profiles_that_make_no_sense():
    with pytest.raises(ValueError, match="`rounds` is empty"):
        table(profile(rounds=()))
    with pytest.raises(ValueError, match=r"`conv2d 8@32 -> 8@32, 3x3` has seconds of 5 rounds; expected 2\."):
        table(profile(row(), rounds=(1, 2)))


def test_an_empty_block():
    assert "Nothing was launched." in table(profile(rounds=(1.0,)))


@settings(max_examples=60, deadline=None)
@given(profiles(), st.sampled_from([*NAMES]), st.sampled_from([*SORTS]), st.none() | st.integers(1, 3))
def test_any_profile_can_be_shown(drawn, by, sort, top):
    groups = grouped(drawn, by, sort)
    for i in range(len(drawn.rounds)):
        parts = sum(group.seconds[i] for group in groups)
        assert parts == pytest.approx(sum(r.seconds[i] for r in drawn.rows))  # nothing is lost, nor counted twice
    for group in groups:
        assert verdict(group)
        assert group.gain is None or group.gain >= -1e-12 * group.time
        assert (group.roof_share or 0) <= 1 + 1e-9 or group.flop_rate is group.byte_rate is None
    assert "unaccounted for" in table(drawn, by, sort, top=top)
