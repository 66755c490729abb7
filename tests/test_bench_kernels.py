"""What a training step launches, kernel by kernel."""

import importlib
import itertools
import pathlib

import click.testing
import numpy as np
import pytest

import octsod
from octsod import functional
from octsod.backend.deferred import ActivationSums, Deferred, DeferredGradient, GradientTarget
from octsod.backend.device import launch_with
from octsod.profiling import launches, recording
from octsod.profiling.results import Cache, Roofs

pytest.importorskip("bench", reason="bench/ is not here: run from a checkout")

from bench_checks import TINY

from bench import implementations, kernels, problems, profiler

cpu = importlib.import_module("octsod.kernels.cpu")

pytestmark = pytest.mark.usefixtures("restored")


def tiny_step():
    return implementations.octsod_training(problems.problem("kernels", TINY, 2, 32), 1).step


def test_launches_of_a_training_step():
    step, made = tiny_step(), []

    def count(name, function, *arguments):
        made.append(name)
        return function(*arguments)

    with launch_with(count):
        step()
    visited = []
    found = kernels.recorded(step, lambda launch, *_: visited.append(launch))
    assert visited == found and sum(launch.count for launch in found) == len(made)
    titles = [launch.title for launch in found]
    assert len(titles) == len(set(titles)) and {title.split()[0] for title in titles} == set(made)
    assert all(launch.cost is not None for launch in found)
    block = next(launch for launch in found if launch.title == "octave_conv2d 2@32+3@16 -> 2@32+3@16, 1x1")
    assert block.count == 3  # stage 1
    assert block.cost == octsod.ops.OctaveConv2d.cost((5, 5, 1, 1), (2, 2, 32, 32), (2, 3, 16, 16), out_channels=(2, 3))
    image = [title for title in titles if "weight only" in title]
    assert image == ["octave_conv2d_backward 3@32 -> 2@32+3@16, 3x3, weight only"]


def test_kernels_are_verified_then_timed(monkeypatch):
    monkeypatch.setattr(recording, "clock", itertools.count(0, 1000).__next__)  # a microsecond per look
    step = tiny_step()
    titles, failures = kernels.verified(step)
    launches = kernels.recorded(step, lambda *_: None)
    assert failures == [] and titles == {launch.title for launch in launches}
    found = kernels.timed(step, 3)
    roof = Roofs("cpu", 1, 2e9, 1e12, 0.0, caches=(Cache(1 << 10, 4e9),))
    chosen = {title for title in titles if "conv2d" in title}
    assert {r["case"] for r in kernels.rows_of(found, chosen, roof)[:-1]} == {f"kernels/{t}" for t in chosen}
    result = kernels.rows_of(found, titles, roof)
    assert len({r["case"] for r in result}) == len(result) and result[-1]["case"] == "kernels/step"
    assert result[-1]["median_ms"] == pytest.approx(1e3 * np.median(found.rounds), rel=1e-4)
    shares = [r["step_share"] for r in result[:-1]]
    assert shares == sorted(shares, reverse=True) and len(shares) > 20
    counted = {launch.title: launch for launch in launches}
    assert {r["case"].removeprefix("kernels/"): r["launches"] for r in result[:-1]} == {
        title: launch.count for title, launch in counted.items()
    }
    for r in result[:-1]:
        cost, seconds = counted[r["case"].removeprefix("kernels/")].cost, 1e-6
        assert r["samples"] == 3 and r["median_ms"] == pytest.approx(1e3 * seconds, rel=1e-4)
        assert r["step_share"] == pytest.approx(r["launches"] * seconds / np.median(found.rounds), rel=1e-4)
        assert r["gb_s"] == pytest.approx(cost.bytes / seconds / 1e9, rel=1e-4)
        within = min(cost.bytes, 1 << 10) / 4e9
        beyond = max(cost.bytes - (1 << 10), 0) / 2e9
        floors = {"caches" if within > beyond else "memory": within + beyond, "arithmetic": cost.flops / 1e12}
        assert r["roof"] == max(floors, key=floors.get)
        assert r["roof_share"] == pytest.approx(max(floors.values()) / seconds, rel=1e-4)
    lines = kernels.lines_of(result)
    assert "1000 GFLOP/s" in lines[0] and lines[-1].startswith("The step itself: ")


@pytest.mark.parametrize("name", ["octave_conv2d", "depthwise_chain_backward", "adam"])
def test_a_kernel_that_differs_is_not_timed(monkeypatch, name):
    right = getattr(cpu, name)

    def wrong(*arguments):
        right(*arguments)
        outputs = {"octave_conv2d": 2, "depthwise_chain_backward": -1, "adam": 0}[name]
        _, array = next(launches.arrays_of(arguments[outputs]))
        array[...] *= 1.05

    step = tiny_step()
    monkeypatch.setattr(cpu, name, wrong)
    titles, failures = kernels.verified(step, name)
    assert not any(title.startswith(f"{name} ") for title in titles)
    assert failures and all(line.startswith(f"{name} ") and "off by 5.0e-02" in line for line in failures)
    assert all(line.endswith("not timed.") for line in failures)


def test_copies_of_arguments():
    g, z = np.ones((2, 3, 8, 128), np.float32), np.zeros((2, 3, 8, 128), np.float32)
    sums = ActivationSums(64)
    gradient, x = DeferredGradient(g, z, np.ones((6, 3), np.float32)), Deferred(z, activation_sums=sums)
    arguments = (gradient, [x, None], GradientTarget(g), 2, 0.5)
    copied = launches.private(arguments)
    assert copied[0].g is copied[2].array is not g and copied[0].raw is copied[1][0].raw is not z
    assert copied[0].g.ctypes.data % 64 == 0 and copied[3:] == (2, 0.5) and copied[1][1] is None
    copied[0].g[...] = 7
    assert copied[1][0].claim_activation_sums().shape == (2, 3) and sums.values is None and g.max() == 1
    same = launches.signature(arguments)
    assert launches.signature(copied) != same  # its sums have been claimed
    unclaimed = Deferred(z, activation_sums=ActivationSums(64))
    assert launches.signature((gradient, [unclaimed, None], GradientTarget(g), 2, 0.7)) == same
    assert launches.signature((gradient, [x, None], GradientTarget(g, accumulate=True), 2, 0.5)) != same
    assert launches.signature((gradient, [x, None], GradientTarget(g), 3, 0.5)) != same


def test_launches_are_watched_only_within():
    a, seen = octsod.Tensor(np.ones(3, np.float32)), []

    def launcher(name, function, *arguments):
        seen.append(name)
        return function(*arguments)

    with launch_with(launcher):
        functional.add(a, a)
    functional.multiply(a, a)
    assert seen == ["add"]


# Report --------------------------------------------------------------------------------------------------------------


def test_an_op_from_outside_the_package():
    swish = str(pathlib.Path(__file__).parent / "swish.py")
    run = click.testing.CliRunner().invoke(
        kernels.kernels, ["--op", f"{swish}:Swish", "--input", "2x3x8x8", "--rounds", "2", "--threads", "1"]
    )
    assert run.exit_code == 0, run.output
    assert "swish.backward 2x3x8x8" in run.output and "missed" not in run.output
    assert any(bound in run.output for bound in ("memory", "caches", "arithmetic")), "whichever it is on this machine"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--op", "octsod.functional:conv2d"], "conv2d does not take arrays of 24x32x112x112"),
        (["--op", "octsod.functional:relu", "--input", "2 by 3"], "'2 by 3' is no shape"),
        (["--op", "octsod.functional:reul"], "Did you mean 'relu'"),
        (["--op", "octsod.functional:relu", "-b", "3"], "leave --batch-size out"),
        (["--input", "2x3"], "--input is for --op"),
        (["--op", "octsod.functional:relu", "--input", "2x3", "--case", "conv"], "no kernel's title holds 'conv'"),
    ],
)
def test_ops_that_cannot_be_measured(options, said):
    run = click.testing.CliRunner().invoke(kernels.kernels, options)
    assert run.exit_code != 0 and said in run.output


def test_what_a_profile_costs(monkeypatch):
    monkeypatch.setattr(profiler, "training_step", lambda batch: tiny_step())
    run = click.testing.CliRunner().invoke(profiler.profiler, ["--rounds", "2", "--threads", "1"])
    assert run.exit_code == 0 and "profiler/x1/b24" in run.output and "profiled / not" in run.output
