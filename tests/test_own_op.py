"""Kernels and ops from outside the package: namespaces, and the op of swish.py."""

import importlib

import numpy as np
import pytest
import swish

import octsod
from octsod import Tensor
from octsod.backend import MissingKernelError, Namespace, cuda_source, get_device, kernel_on, launch_with, namespaces
from octsod.backend.arrays import read_only
from octsod.testing import cusim, gradcheck
from octsod.testing.simulation import simulated


@pytest.fixture
def space():
    yield Namespace("test_own_op")
    del namespaces._namespaces["test_own_op"]


def forward_and_back(x):
    x = Tensor(x, requires_grad=True)
    y = swish.Swish.apply(x, beta=1.5)
    y.backward(np.cos(y.numpy()))
    return y.numpy(), x.device.get(x.grad)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_swish_is_the_same_on_all_backends(dtype):
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 7)).astype(dtype)
    y, grad = forward_and_back(x)
    assert np.allclose(y, x / (1 + np.exp(-1.5 * x)), rtol=1e-5)
    with octsod.use_backend("reference"):
        expected = forward_and_back(x)
    limit = 1e-6 if dtype == "float32" else 1e-14
    assert np.allclose(y, expected[0], atol=limit) and np.allclose(grad, expected[1], atol=limit)
    if reason := cusim.unavailable():
        pytest.skip(reason)
    with simulated():
        y, grad = forward_and_back(x)
    assert np.allclose(y, expected[0], atol=limit) and np.allclose(grad, expected[1], atol=limit)


def test_swish_has_the_right_gradient():
    gradcheck(lambda x: swish.Swish.apply(x, beta=0.7), np.random.default_rng(1).normal(size=(3, 4)))


def test_swish_is_at_most_eighty_lines():
    folder = swish.Path(swish.__file__).parent
    assert sum(len((folder / name).read_text().splitlines()) for name in ("swish.py", "swish.cu")) <= 80


def test_launchers_see_kernels_by_their_full_names():
    seen = []

    def launcher(name, function, *arguments):
        seen.append(name)
        return function(*arguments)

    with launch_with(launcher):
        (swish.Swish.apply(Tensor(np.ones(3), True)) * 2.0).sum().backward()
    assert seen[0] == "swish.forward" and seen[-1] == "swish.backward" and "multiply" in seen
    assert kernel_on(get_device("reference"), "swish.forward") is swish.forward_in_numpy
    assert kernel_on(get_device("cpu"), "multiply") is octsod.kernels.cpu.multiply


def test_a_namespace_that_is_taken(space):
    with pytest.raises(ValueError, match=r"the name `test_own_op` is taken by test_own_op \(.*test_own_op.py, line"):
        Namespace("test_own_op")
    with pytest.raises(ValueError, match="the name `octsod` is taken by octsod itself"):
        Namespace("octsod", replace=True)
    with pytest.raises(ValueError, match=r"`name` \(='a b'\) must be an identifier"):
        Namespace("a b")
    again = Namespace("test_own_op", replace=True)
    again.kernel("cpu")(lambda_called("one", 1))
    again.kernel("cpu")(lambda_called("one", 2))
    assert again.one() == 2


def lambda_called(name, result):
    def function():
        return result

    function.__name__ = name
    return function


def test_a_kernel_that_is_taken(space):
    space.kernel("cpu")(lambda_called("one", 1))
    space.kernel("reference")(lambda_called("one", 2))
    with pytest.raises(ValueError, match="`one` has been defined for the backend `cpu`"):
        space.kernel("cpu")(lambda_called("one", 3))
    assert space.one() == 1 and space.backends("one") == ["cpu", "reference"]
    with octsod.use_backend("reference"):
        assert space.one() == 2
    assert repr(space) == "<namespace test_own_op: one>"


@pytest.mark.parametrize("name", ["kernel", "backends", "find", "_private", "two words", "<lambda>"])
def test_names_that_no_kernel_may_have(space, name):
    with pytest.raises(ValueError, match="is no name for a kernel"):
        space.kernel("cpu", name)(lambda_called("one", 1))


def test_a_kernel_that_is_missing(space):
    space.kernel("reference")(lambda_called("one", 1))
    with pytest.raises(MissingKernelError, match="no kernel `one` for the backend `cpu`, but for reference"):
        space.one()
    with pytest.raises(MissingKernelError, match=r"`test_own_op` has no kernel `two` for the backend `cpu`\."):
        space.two()
    with pytest.raises(MissingKernelError, match="There is no namespace `nobodys`"):
        kernel_on(get_device("cpu"), "nobodys.kernel")
    with pytest.raises(TypeError, match="must be a name"):
        space.kernel(lambda_called("one", 1))
    with pytest.raises(TypeError, match="is a int; expected a function"):
        space.kernel("cpu", "three")(3)


def test_a_cuda_source_that_is_missing_or_wrong(tmp_path, space):
    with pytest.raises(FileNotFoundError, match=r"cuda_source: .*none.cu: no such file"):
        cuda_source(tmp_path / "none.cu")
    if reason := cusim.unavailable():
        pytest.skip(reason)
    (tmp_path / "double.cu").write_text(
        'extern "C" __global__ void twice(int64 count, const real* x, real* out) {\n    out[0] = y;\n}\n'
    )
    source = cuda_source(tmp_path / "double.cu")
    x = np.ones(3)
    with simulated(), pytest.raises(cusim.KernelError, match=r"double\.cu"):
        source.each("twice", x.dtype, 3, x, np.empty(3))
    with simulated() as device:  # octsod's own kernels are none the worse
        assert (Tensor(x) + 1.0).device is device


def test_a_simulated_kernel_is_checked(tmp_path, space):
    if reason := cusim.unavailable():
        pytest.skip(reason)
    (tmp_path / "shift.cu").write_text(
        'extern "C" __global__ void shift(int64 count, const real* x, real* out) {\n'
        "    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) out[i] = x[i + 1];\n}\n"
    )
    source = cuda_source(tmp_path / "shift.cu")
    space.kernel("cuda", "shift")(lambda x, out: source.each("shift", x.dtype, x.size, x, out))
    out, drivers = np.zeros(4), importlib.import_module("octsod.kernels.cuda.driver")
    before = drivers.driver()
    with simulated(), pytest.raises(cusim.KernelError, match=r"shift\.cu line 2: out of bounds"):
        space.shift(np.ones(4), out)
    assert not out.any()
    assert drivers.driver() is before
    with pytest.raises(ValueError, match="mode"), simulated("careful"):
        pass


def test_inputs_of_a_guarded_op_stay_as_they_are():
    x = read_only(np.ones(3))
    assert np.array_equal(swish.Swish.apply(x).numpy(), swish.Swish.apply(x.copy()).numpy())
