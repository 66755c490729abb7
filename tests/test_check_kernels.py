"""`check_op` on ops with kernels: faults of those for CUDA, of sizes, of empty arrays."""

import numba
import numpy as np
import pytest
import wrong_kernels
from more_ops import made
from numpy import zeros

from octsod.autograd import Function
from octsod.backend import Namespace, namespaces
from octsod.testing import Case, Input, check_op, cusim, strategies
from octsod.testing.drawing import draw
from octsod.testing.operator_check import collect

needs_simulator = pytest.mark.skipif(bool(cusim.unavailable()), reason=str(cusim.unavailable()))


@pytest.fixture
def space():
    yield Namespace("test_check_kernels")
    del namespaces._namespaces["test_check_kernels"]


@needs_simulator
def test_right_cuda_kernels_pass(space, tmp_path):
    report = check_op(wrong_kernels.op_of(space, tmp_path / "rows.cu"), examples=6, checks=["cuda", "layouts"])
    assert report["cuda"].message == "on simulated" and report["cuda"].cases == 6


@needs_simulator
@pytest.mark.parametrize("name", wrong_kernels.WRONG)
def test_wrong_cuda_kernels_fail(name, space, tmp_path):
    old, new, case, words = wrong_kernels.WRONG[name]
    source = wrong_kernels.SOURCE.replace(old, new)
    assert source != wrong_kernels.SOURCE
    found = collect(wrong_kernels.op_of(space, tmp_path / "rows.cu", source), case, checks=["cuda"])["cuda"]
    assert found.verdict == "FAIL" and words in found.message, found.message


@needs_simulator
def test_bounds_are_those_of_the_cpu(space, tmp_path):
    """A kernel whose errors are large does not widen what it is allowed."""
    source = wrong_kernels.SOURCE.replace("sum += v * v * v", "sum += v * v * v * (1 + real(1e-9))")
    op = wrong_kernels.op_of(space, tmp_path / "rows.cu", source)
    assert collect(op, wrong_kernels.SHORT, checks=["cuda"])["cuda"].verdict == "FAIL"


@needs_simulator
def test_forward_is_compared_where_backward_has_no_kernel(space, tmp_path):
    op = wrong_kernels.op_of(space, tmp_path / "rows.cu", backward=False)
    found = check_op(op, wrong_kernels.SHORT, checks=["cuda"])["cuda"]
    assert "forward alone: The namespace `test_check_kernels` has no kernel `rows_backward`" in found.message
    source = wrong_kernels.SOURCE.replace("v * v * v", "v * v")
    space = Namespace("test_check_kernels", replace=True)
    op = wrong_kernels.op_of(space, tmp_path / "rows.cu", source, backward=False)
    assert collect(op, wrong_kernels.SHORT, checks=["cuda"])["cuda"].verdict == "FAIL"


@needs_simulator
def test_kernels_of_backward_alone(space, tmp_path):
    report = collect(wrong_kernels.halves(space, tmp_path / "halves.cu"), wrong_kernels.SHORT)
    assert {v.check for v in report.failures} == {"reference", "cuda"}


@numba.njit
def squares(x, out):
    own, kept, flat = np.empty(x.size, x.dtype), zeros(x.size + 1), np.empty_like(out)
    for i in range(x.size):
        own[i], kept[i], flat[i] = x[i] * x[i], 1, 0
    for i in range(x.size + 1):
        out[i] = own[min(i, x.size - 1)] * kept[i]


def test_kernels_are_compiled_amid_guards():
    """Numba meets NumPy's functions, while Python meets those that put guards around arrays."""

    def forward(x):
        out = np.empty(x.shape, x.dtype)
        squares(x, out)
        return out

    assert not squares.signatures
    found = collect(made(forward, lambda x, g: 2 * x * g), Case((Input((5,)),)), checks=["guards"])["guards"]
    assert squares.signatures
    where = "outside of an array from `numpy.empty` in forward (float64 (5,))"
    assert f"{where}: 8 bytes, the nearest 1 behind" in found.message


@pytest.mark.parametrize("inputs, longest", [
    ([strategies.tensors()], (1025,)), ([strategies.tensors(strategies.shapes(2, 2))], (65, 257)),
    ([strategies.feature_maps()], (9, 257, 67, 130)),
])  # fmt: skip
def test_some_are_long_along_each_axis_and_some_are_empty(inputs, longest):
    shapes = [case.leaves()[0].shape for case in draw(strategies.cases(inputs), 20, 0)[0]]
    assert len(set(shapes)) >= 17 and any(0 in shape for shape in shapes)
    for axis, length in enumerate(reversed(longest), 1):
        assert max(shape[-axis] for shape in shapes if len(shape) >= axis) >= length
    if len(longest) > 1:
        assert any(sum(n > 33 for n in shape) > 1 for shape in shapes)


@pytest.mark.parametrize("error, verdict", [(ValueError, "PASS"), (ZeroDivisionError, "FAIL")])
def test_arrays_without_elements_may_be_refused(error, verdict):
    def total(x):
        if not x.size:
            raise error("the sum of nothing")
        return np.asarray(x.sum())

    op = made(total, lambda x, grad: np.full_like(x, grad))
    report = collect(op, [Case((Input((0, 2)),)), Case((Input((2, 2)),))], checks=["runs", "gradients", "memory"])
    assert [v.verdict for v in report.verdicts] == [verdict, "PASS", "PASS"], str(report)


def test_an_output_of_the_inputs_length_by_chance_may_have_elements():
    class First(Function):
        """The first three numbers, and zeros in their places if there are fewer."""

        @staticmethod
        def forward(ctx, x):
            ctx.length = x.size
            return np.concatenate([x[:3], np.zeros(max(3 - x.size, 0), x.dtype)])

        @staticmethod
        def backward(ctx, grad):
            return np.concatenate([grad, np.zeros(ctx.length, grad.dtype)])[: ctx.length]

    assert check_op(First, Case((Input((2,)),)), checks=["layouts"]).verdict == "PASS"
