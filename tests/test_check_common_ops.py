"""`check_op` on common ops: what rounding, kinks and LAPACK do to right ones is no fault, and faults are found."""

import subprocess
import sys

import common_ops
import numpy as np
import pytest
from more_ops import made

from octsod import ops
from octsod.testing import Case, Input
from octsod.testing.operator_check import collect

OF_NUMBERS = ("runs", "gradients", "convergence", "adjoint", "float32", "nonfinite")


@pytest.mark.parametrize("name", common_ops.RIGHT)
def test_right_ops_do_not_fail(name):
    forward, backward, case, seeds = common_ops.RIGHT[name]
    for seed in seeds:
        report = collect(made(forward, backward), case(seed), checks=OF_NUMBERS)
        assert report.verdict == "PASS", str(report)


@pytest.mark.parametrize("name", common_ops.WRONG)
def test_wrong_ops_fail(name):
    forward, backward, case, check = common_ops.WRONG[name]
    for seed in range(2):
        report = collect(made(forward, backward), case(seed), checks=[check])
        assert report.verdict == "FAIL", str(report)


@pytest.mark.parametrize("reference", [
    lambda x: x / (1 + np.exp(-2 * common_ops.SLOPE * (x + 0.044715 * x**3))),
    lambda x: common_ops.gelu(x) * (1 + 1e-9),
])  # fmt: skip
def test_a_reference_may_lose_other_digits(reference):
    right = common_ops.gelu(np.float64(2)) == pytest.approx(reference(np.float64(2)), rel=1e-12)
    for seed in (1, 3, 4):
        op = made(common_ops.gelu, common_ops.gelu_back)
        report = collect(op, common_ops.FAR(seed), checks=["reference"], reference=reference)
        assert report.verdict == ("PASS" if right else "FAIL"), str(report)


@pytest.mark.parametrize("channels, seed", [(3, 898), (17, 338)])
def test_a_gradient_vanishes_whose_terms_are_large(channels, seed):
    """A bias before batch norm, where PReLU is straight: what divides the terms of its gradient is small."""
    layer = Input((channels, 1, 1, 1)), *[Input((channels,))] * 3
    running = [(Input((channels,), array=True), Input((channels,), "positive", array=True))] * 2
    case = Case((Input((2, channels, 2, 3)), *layer, *layer), {"running": [running], "training": True}, seed)
    assert collect(ops.DepthwiseChain, case, checks=["float32"]).verdict == "PASS"


def test_solvers_are_named():
    op = made(np.linalg.inv, common_ops.inverse_back)
    message = collect(op, common_ops.MATRIX(0), checks=["nonfinite"])["nonfinite"].message
    assert message.endswith("; numpy.linalg need not hand on all of a NaN")
    softmax = made(common_ops.softmax, common_ops.softmax_back)
    assert "numpy" not in collect(softmax, common_ops.ROWS(0), checks=["nonfinite"])["nonfinite"].message


def test_ops_may_refuse_nan():
    def finite(x):
        if not np.isfinite(x).all():
            raise ValueError("x is not finite.")
        return x * 1

    assert collect(made(finite, lambda x, g: g), common_ops.ROWS(0), checks=["nonfinite"]).verdict == "PASS"
    broken = made(lambda x: {True: x * 1}[bool(np.isfinite(x).all())], lambda x, g: g)
    assert "raises KeyError" in collect(broken, common_ops.ROWS(0), checks=["nonfinite"])["nonfinite"].message


def test_a_profiler_of_python_may_run():
    """Looking for solvers asks Python to tell of calls; whom it tells already goes on to hear of them."""
    code = "import cProfile, numpy as np; from octsod import functional as f; from octsod.testing import check_op\n"
    code += "profile = cProfile.Profile(); profile.enable(); check_op(f.exp, checks=['nonfinite']); profile.disable()\n"
    code += "assert any('nonfinite' in str(entry.code) for entry in profile.getstats())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
