"""`check_op` on ops as others write them: wrong ones fail, right ones don't; and what it says of wrong use."""

import os
import subprocess
import sys
import warnings

import more_ops
import numpy as np
import pytest
import wrong_ops
from wrong_ops import Swish

import octsod
from octsod.autograd import Function
from octsod.backend import Namespace, cuda_source, empty, namespaces
from octsod.testing import Case, Input, check_op, cusim, gradcheck
from octsod.testing.operator_check import collect

FIXED = Case((Input((2, 3)),))
TWICE = more_ops.made(lambda x: 2 * x, lambda x, g: 2 * g)


@pytest.mark.parametrize("name", more_ops.RIGHT)
def test_right_ops_do_not_fail(name):
    forward, backward, case, verdict = more_ops.RIGHT[name]
    report = collect(more_ops.made(forward, backward), case)
    assert report.verdict == verdict, str(report)


@pytest.mark.parametrize("name", more_ops.WRONG)
def test_wrong_ops_fail(name):
    forward, backward, case, check = more_ops.WRONG[name]
    report = collect(more_ops.made(forward, backward), case, checks=[check])
    assert report.verdict == "FAIL", str(report)


def test_a_guess_of_cases_keeps_stray_writes_amid_guards(monkeypatch):
    monkeypatch.delattr(Swish, "cases")
    assert collect(wrong_ops.WritesBehind, examples=2)["guards"].verdict == "FAIL"


def test_ties_of_many_are_kinks_and_hide_no_error():
    op = more_ops.made(lambda x: np.sort(x, -1), more_ops.sort_back)
    for seed in range(4):
        x = np.random.default_rng(seed).integers(-4, 5, (3, 40)) * 0.25
        assert gradcheck(op.apply, x).verdict == "KINK"

    def off(x, g):
        grad = g * (x > 0)
        grad[2, 33] += 0.01
        return grad

    x[2, 33] = 0.75
    with pytest.raises(AssertionError, match=r"at \(2, 33\)"):
        gradcheck(more_ops.made(lambda x: np.maximum(x, 0), off).apply, x)


def softplus(x, out):
    np.log1p(np.exp(-np.abs(x)), out=out)
    out += np.maximum(x, 0)


@pytest.mark.parametrize("on_gpu, on_cpu, words", [
    ("fmax(x[i], real(-1e9))", lambda x, out: np.maximum(x, -1e9, out=out),
     ("is NaN: the output at", "is nan on the CPU, -1000000000.0 on simulated")),
    ("log1p(exp(x[i]))", softplus,
     ("overflows where input 0 is ", "the CUDA kernels on simulated gives inf, float64 ")),
])  # fmt: skip
def test_odd_numbers_on_a_gpu(tmp_path, on_gpu, on_cpu, words):
    if reason := cusim.unavailable():
        pytest.skip(reason)
    (tmp_path / "cut.cu").write_text(
        'extern "C" __global__ void cut(int64 count, const real* x, real* out) {\n'
        f"    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) out[i] = {on_gpu};\n}}\n"
    )
    source, space = cuda_source(tmp_path / "cut.cu"), Namespace("test_odd_numbers_on_a_gpu")
    try:
        space.kernel("cpu", "cut")(on_cpu)
        space.kernel("cuda", "cut")(lambda x, out: source.each("cut", x.dtype, x.size, x, out))

        class Cut(Function):
            @staticmethod
            def forward(ctx, x):
                out = empty(x.shape, x.dtype)
                space.cut(x, out)
                return out

            @staticmethod
            def backward(ctx, grad):
                return grad

        message = collect(Cut, FIXED, checks=["cuda"])["cuda"].message
        assert all(text in message for text in words), message
    finally:
        del namespaces._namespaces["test_odd_numbers_on_a_gpu"]


def test_warnings_of_odd_numbers_are_no_errors():
    op = more_ops.made(more_ops.standardised, more_ops.standardised_back)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_op(op, more_ops.ROWS)


def test_nothing_is_linear_in_no_elements():
    square = more_ops.made(np.square, lambda x, g: 2 * x * g)
    assert collect(square, Case((Input((2, 0)),)), checks="adjoint")["adjoint"].verdict == "SKIP"


def test_what_does_not_run_is_told_once():
    none = more_ops.made(lambda x: None, more_ops.nothing_back)
    assert [v.check for v in collect(none, FIXED).failures] == ["runs"]
    assert [v.check for v in collect(wrong_ops.Crashes, FIXED).failures] == ["runs"]
    assert {"runs", "unmodified"} <= {v.check for v in collect(wrong_ops.WritesToTheInput, FIXED).failures}
    singular = more_ops.made(lambda x: np.linalg.inv(0 * x), more_ops.nothing_back)
    message = collect(singular, Case((Input((2, 2)),)))["runs"].message
    assert "raises LinAlgError: Singular matrix" in message and "test_check_more_ops.py" in message


def test_reproductions_can_be_pasted():
    report = collect(wrong_ops.WrongSign, FIXED, cuda=False, checks="gradients")
    lines = str(report).splitlines()
    names = {}
    exec(next(line for line in lines if line.startswith("with: ")).removeprefix("with: "), names)
    line = next(line for line in lines if line.startswith("  reproduce: ")).removeprefix("  reproduce: ")
    assert line.endswith(", cuda=False)") and "To reproduce" not in str(report)
    with pytest.raises(AssertionError, match="gradients"):
        eval(line, names)
    report = collect(lambda x: wrong_ops.WrongSign.apply(x), FIXED, checks="gradients", reference=lambda x: x)
    (found,) = report.failures
    assert report.reproduction(found) == f"check_op(op, {found.case!r}, reference=reference)"
    assert report.imports == "from octsod.testing import Case, Input, check_op"


def test_wrong_use():
    with pytest.raises(TypeError, match="`cases` is a int; expected a Case"):
        check_op(TWICE, 3)
    with pytest.raises(ValueError, match=r"with an array of shape \(3, 2\) it raises KeyError: 'x' \(.*ops.py:\d+"):
        check_op(more_ops.made(lambda x: {}["x"], more_ops.nothing_back))
    with pytest.raises(ValueError, match="it returned a float; expected a tensor"):
        check_op(lambda x: 3.0)
    assert check_op(TWICE, examples=2, checks="runs").verdict == "PASS"  # of any number of inputs, it takes one


def test_check_op_needs_nothing_else_to_be_imported():
    code = (
        "from octsod.autograd import Function; from octsod.testing import Case, Input, check_op\n"
        "class Twice(Function):\n"
        "    forward = staticmethod(lambda ctx, x: 2 * x)\n"
        "    backward = staticmethod(lambda ctx, g: 2 * g)\n"
        "check_op(Twice, Case((Input((2,)),)), checks=['accumulation'])"
    )
    folder = os.path.dirname(os.path.dirname(octsod.__file__))
    found = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
