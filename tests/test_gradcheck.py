"""The gradient check is checked: correct gradients pass, and each kind of wrong one that kernels have had is caught."""

import re

import numpy as np
import pytest

import octsod
from octsod import functional as f
from octsod.autograd import Function
from octsod.testing import InconclusiveWarning, gradcheck


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def distinct(*shape, seed=0):
    """Values that are far apart: no ties, no zeros."""
    count = int(np.prod(shape))
    return (np.random.default_rng(seed).permutation(count).reshape(shape) - count / 2 + 0.25) / 7


# --- ops in plain NumPy, each with a list of faults that its backward can be given ------------------------------------


class Conv3x3(Function):
    """A 3x3 convolution, padded by one."""

    @staticmethod
    def forward(ctx, x, weight, bias, fault=None):
        ctx.save_for_backward(x, weight)
        ctx.fault = fault
        height, width = x.shape[2:]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        out = np.zeros((x.shape[0], weight.shape[0], height, width)) + bias[:, None, None]
        for y in range(3):
            for z in range(3):
                out += np.einsum("oc,nchw->nohw", weight[:, :, y, z], padded[:, :, y : y + height, z : z + width])
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved
        fault = ctx.fault
        height, width = x.shape[2:]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        grad_padded, grad_weight = np.zeros_like(padded), np.zeros_like(weight)
        for y in range(3):
            for z in range(3):
                kernel = weight[:, :, z, y] if fault == "transposed kernel" else weight[:, :, y, z]
                part = np.einsum("oc,nohw->nchw", kernel, grad)
                if fault == "sign of one tap" and (y, z) == (2, 0):
                    part = -part
                grad_padded[:, :, y : y + height, z : z + width] += part
                rows = height - 1 if fault == "weight misses the last row" and y == 1 else height
                window = padded[:, :, y : y + rows, z : z + width]
                grad_weight[:, :, y, z] = np.einsum("nohw,nchw->oc", grad[:, :, :rows], window)
        top = {"shifted down": 0, "shifted up": 2}.get(fault, 1)
        left = {"shifted right": 0, "shifted left": 2}.get(fault, 1)
        grad_x = grad_padded[:, :, top : top + height, left : left + width].copy()
        if fault == "first row dropped":
            grad_x[:, :, 0] = 0
        if fault == "last row dropped":
            grad_x[:, :, -1] = 0
        if fault == "first column dropped":
            grad_x[..., 0] = 0
        if fault == "last column dropped":
            grad_x[..., -1] = 0
        if fault == "border taken from its neighbour":
            grad_x[:, :, 0] = grad_x[:, :, 1]
        if fault == "last image dropped":
            grad_x[-1] = 0
        if fault == "weight twice":
            grad_weight *= 2
        if fault == "no gradient for x":
            grad_x = None
        if isinstance(fault, tuple):
            grad_x[fault] *= 1.001
        grad_bias = None if fault == "no gradient for bias" else grad.sum(axis=(0, 2, 3))
        return grad_x, grad_weight, grad_bias


CONV_FAULTS = {
    "sign of one tap": 0,
    "transposed kernel": 0,
    "shifted down": 0,
    "shifted up": 0,
    "shifted right": 0,
    "shifted left": 0,
    "first row dropped": 0,
    "last row dropped": 0,
    "first column dropped": 0,
    "last column dropped": 0,
    "border taken from its neighbour": 0,
    "last image dropped": 0,
    "no gradient for x": 0,
    "weight twice": 1,
    "weight misses the last row": 1,
    "no gradient for bias": 2,
}
SMALL, LARGE = ((2, 1, 4, 3), (2, 1, 3, 3)), ((2, 3, 17, 23), (5, 3, 3, 3))


def conv_inputs(size):
    x, weight = size
    return normal(*x), normal(*weight, seed=1), normal(weight[0], seed=2)


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.parametrize("fault", CONV_FAULTS)
def test_wrong_convolutions_are_caught(fault, size):
    with pytest.raises(AssertionError, match=rf"input {CONV_FAULTS[fault]} at"):
        gradcheck(lambda *a: Conv3x3.apply(*a, fault=fault), *conv_inputs(size))


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_a_right_convolution_passes(size):
    assert gradcheck(lambda *a: Conv3x3.apply(*a), *conv_inputs(size)).error < 1e-9


@pytest.mark.parametrize("row", [0, 16])
@pytest.mark.parametrize("col", [0, 22])
def test_one_wrong_corner_of_a_large_input_is_caught_and_named(row, col):
    where = (1, 2, row, col)
    with pytest.raises(AssertionError, match=re.escape(f"input 0 at {where}")) as failure:
        gradcheck(lambda *a: Conv3x3.apply(*a, fault=where), *conv_inputs(LARGE))
    text = r"gives (\S+) \(analytic\), finite differences (\S+) \(numeric\); they differ by (\S+), and can by (\S+)"
    given, numeric, error, bound = re.search(text, str(failure.value)).groups()
    assert float(given) == pytest.approx(1.001 * float(numeric), rel=1e-6)
    assert float(error) == pytest.approx(1e-3 * abs(float(numeric)), rel=1e-2)
    assert float(bound) < 1e-6 * abs(float(numeric))


class Norm(Function):
    """Batch norm of a batch, without scale and shift."""

    @staticmethod
    def forward(ctx, x, fault=None):
        mean = x.mean(axis=(0, 2, 3), keepdims=True)
        deviation = 1 / np.sqrt(x.var(axis=(0, 2, 3), keepdims=True) + 1e-5)
        ctx.save_for_backward((x - mean) * deviation, deviation)
        ctx.fault = fault
        return (x - mean) * deviation

    @staticmethod
    def backward(ctx, grad):
        normed, deviation = ctx.saved
        total = grad.copy()
        if ctx.fault != "mean":
            total -= grad.mean(axis=(0, 2, 3), keepdims=True)
        if ctx.fault != "variance":
            total -= normed * (grad * normed).mean(axis=(0, 2, 3), keepdims=True)
        return deviation * total


@pytest.mark.parametrize("shape", [(2, 2, 3, 2), (3, 2, 19, 30)])
@pytest.mark.parametrize("fault", [None, "mean", "variance"])
def test_batch_norm_that_forgets_a_term_is_caught(fault, shape):
    x = normal(*shape)
    if fault is None:
        assert gradcheck(Norm.apply, x).error < 1e-8
        return
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: Norm.apply(x, fault=fault), x)


class Rectifier(Function):
    """PReLU."""

    @staticmethod
    def forward(ctx, x, slope, fault=None):
        ctx.save_for_backward(x, slope)
        ctx.fault = fault
        return np.where(x > 0, x, slope[:, None, None] * x)

    @staticmethod
    def backward(ctx, grad):
        x, slope = ctx.saved
        negative = {"slope by the positive part": x > 0, "slope by all": x == x}.get(ctx.fault, x <= 0)
        grad_slope = (grad * x * negative).sum(axis=(0, 2, 3))
        left = x < 0 if ctx.fault == "other subgradient" else x <= 0
        if ctx.fault == "sides swapped":
            left = ~left
        grad_x = np.where(left, slope[:, None, None] * grad, grad)
        return grad_x, -grad_slope if ctx.fault == "sign of slope" else grad_slope


@pytest.mark.parametrize(
    ("fault", "number"),
    [("slope by the positive part", 1), ("slope by all", 1), ("sign of slope", 1), ("sides swapped", 0)],
)
@pytest.mark.parametrize("rounded", [False, True])
def test_wrong_prelu_is_caught(fault, number, rounded):
    x = normal(2, 3, 4, 5)
    x = np.round(x) if rounded else x
    with pytest.raises(AssertionError, match=f"input {number} at"):
        gradcheck(lambda x, s: Rectifier.apply(x, s, fault=fault), x, np.array([-0.5, 0.25, 0.0]))


class Pool2x2(Function):
    """2x2 max-pooling."""

    @staticmethod
    def forward(ctx, x, to="first"):
        n, c, height, width = x.shape
        windows = x.reshape(n, c, height // 2, 2, width // 2, 2).swapaxes(3, 4).reshape(n, c, -1, 4)
        winner = windows.argmax(axis=-1) if to != "last" else 3 - windows[..., ::-1].argmax(axis=-1)
        ctx.winner = (winner + 1) % 4 if to == "neighbour" else winner
        ctx.shape = x.shape
        return windows.max(axis=-1).reshape(n, c, height // 2, width // 2)

    @staticmethod
    def backward(ctx, grad):
        n, c, height, width = ctx.shape
        windows = np.zeros((n, c, height * width // 4, 4))
        np.put_along_axis(windows, ctx.winner[..., None], grad.reshape(n, c, -1, 1), axis=-1)
        return windows.reshape(n, c, height // 2, width // 2, 2, 2).swapaxes(3, 4).reshape(ctx.shape)


@pytest.mark.parametrize("shape", [(1, 2, 4, 6), (2, 2, 12, 10)])
def test_max_pool_that_routes_to_a_wrong_neighbour_is_caught(shape):
    assert gradcheck(Pool2x2.apply, distinct(*shape)).error < 1e-9
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: Pool2x2.apply(x, to="neighbour"), distinct(*shape))


class Square(Function):
    """x * x, whose backward can forget that x is used twice."""

    @staticmethod
    def forward(ctx, x, uses=2):
        ctx.save_for_backward(x)
        ctx.uses = uses
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return ctx.uses * grad * ctx.saved[0]


def test_missing_accumulation_is_caught():
    assert gradcheck(Square.apply, normal(3, 4)).error < 1e-9
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: Square.apply(x, uses=1), normal(3, 4))

    def second_use_is_cut_off(x):  # the gradient through `detach` never arrives
        return f.sigmoid(x) + f.power(x.detach(), 2)

    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(second_use_is_cut_off, normal(3, 4))


def test_no_gradient_at_all_is_caught_unless_it_is_zero():
    with pytest.raises(AssertionError, match=r"input 0 at .* backward gives 0 \(analytic\),"):
        gradcheck(lambda x: f.sigmoid(x.detach()), normal(3))
    with pytest.raises(AssertionError, match="input 1 at"):
        gradcheck(lambda x, y: x * y.detach(), normal(3), normal(3, seed=1))
    assert gradcheck(lambda x, y: x * 2, normal(3), normal(3)).error < 1e-9


def test_a_tiny_gradient_beside_a_large_one_is_checked_on_its_own_scale():
    class Scaled(Function):
        @staticmethod
        def forward(ctx, x, y):
            return x * 1e3 + y

        @staticmethod
        def backward(ctx, grad):
            return grad * 1e3, grad * 1.001

    with pytest.raises(AssertionError, match="input 1 at"):
        gradcheck(Scaled.apply, normal(4), normal(4, seed=1))


# --- kinks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 3, 3, 4), (2, 3, 9, 14)])
def test_inputs_at_the_kink_of_prelu_do_no_harm(shape):
    slope = np.array([-0.5, 0.25, 3.0])
    x = np.round(normal(*shape))
    assert (x == 0).any()
    assert gradcheck(f.prelu, x, slope).error < 1e-8
    for fault in (None, "other subgradient"):
        assert gradcheck(lambda x, s, fault=fault: Rectifier.apply(x, s, fault=fault), x, slope).error < 1e-8


@pytest.mark.parametrize("distance", [1e-2, 1e-3, 1e-4, 2e-5])
def test_inputs_near_a_kink_are_checked_with_smaller_steps(distance):
    x = distance * np.sign(normal(1, 1, 4, 5))
    slope = np.array([0.25])
    assert gradcheck(Rectifier.apply, x, slope).error < 1e-6
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x, s: Rectifier.apply(x, s, fault="sides swapped"), x, slope)


@pytest.mark.parametrize("shape", [(1, 2, 4, 6), (2, 3, 10, 12)])
def test_ties_of_max_pooling_do_no_harm(shape):
    x = np.random.default_rng(0).integers(0, 5, shape).astype(float)
    assert gradcheck(lambda x: f.max_pool2d(x, 2), x).error < 1e-8
    # Which of the tied ones wins is a choice between subgradients: either is right.
    for to in ("first", "last"):
        assert gradcheck(lambda x, to=to: Pool2x2.apply(x, to=to), x).error < 1e-8
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: Pool2x2.apply(x, to="neighbour"), x)


def test_nothing_but_kinks_is_said():
    report = gradcheck(Rectifier.apply, np.zeros((1, 1, 3, 4)), np.array([0.25]))
    assert report.verdict == "KINK"
    assert report.kinks == tuple((0, index) for index in np.ndindex(1, 1, 3, 4))
    assert "12 at kinks, such as input 0 at (0, 0, 0, 0)" in str(report)


def test_a_kink_is_neither_passed_nor_failed_but_what_no_subgradient_is_fails():
    class Abs(Function):
        @staticmethod
        def forward(ctx, x, at_zero):
            ctx.save_for_backward(np.where(x == 0, at_zero, np.sign(x)))
            return np.abs(x)

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved[0]

    x = np.array([0.5, 0.0, -0.25])
    for at_zero in (-1, -0.3, 0, 1):
        report = gradcheck(lambda x, at_zero=at_zero: Abs.apply(x, at_zero=at_zero), x)
        assert report.verdict == "KINK" and report.kinks == ((0, (1,)),)
    for at_zero in (-1.5, 1.5, 100):
        with pytest.raises(AssertionError, match=r"input 0 at \(1,\)"):
            gradcheck(lambda x, at_zero=at_zero: Abs.apply(x, at_zero=at_zero), x)


def test_a_fault_beside_kinks_is_caught():
    x = np.round(normal(2, 3, 9, 14))
    x[1, 2, 4, 5] = 0.5
    with pytest.raises(AssertionError, match=re.escape("input 0 at (1, 2, 4, 5)")):

        def fn(x):
            ones = np.ones(x.shape)
            ones[1, 2, 4, 5] = 1.001
            return Rectifier.apply(Scaled.apply(x, by=ones), octsod.Tensor(np.array([-0.5, 0.25, 3.0])))

        gradcheck(fn, x)


class Scaled(Function):
    """x, with a gradient that is not its own."""

    @staticmethod
    def forward(ctx, x, by):
        ctx.save_for_backward(by)
        return x.copy()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved[0]


def test_an_infinite_slope_is_no_derivative():
    root = np.array([0.0, 0.25, 1.0])

    class Root(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return np.sqrt(np.abs(x))

        @staticmethod
        def backward(ctx, grad):
            x = ctx.saved[0]
            return grad * np.divide(np.sign(x), 2 * np.sqrt(np.abs(x)), out=np.zeros(x.shape), where=x != 0)

    report = gradcheck(Root.apply, root)
    assert report.verdict == "KINK" and report.kinks == ((0, (0,)),)


@pytest.mark.parametrize("large", [1e3, 1e6, 1e9])
def test_rounding_is_no_kink(large):
    report = gradcheck(lambda x: (x + large) + (-large), normal(3, 4))
    assert report.verdict == "PASS"
    assert 1e-16 * large < report.sharpness < 1e-11 * large
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: (Scaled.apply(x, by=1.01) + large) + (-large), normal(3, 4))


# --- smooth ops -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fn", "inputs"),
    [
        (f.sigmoid, [normal(3, 5)]),
        (lambda x: x**3, [normal(3, 5)]),
        (lambda x, y: x / y, [normal(3, 5), 1 + normal(5) ** 2]),
        (lambda x: f.binary_cross_entropy_with_logits(x, octsod.Tensor(np.full((5, 9), 0.3))), [normal(5, 9)]),
        (lambda x, w, b: f.conv2d(x, w, b, padding=1), [*conv_inputs(LARGE)]),
        (lambda x, g, b: f.batch_norm(x, None, None, g, b), [normal(2, 3, 6, 5), normal(3), normal(3, seed=1)]),
        (lambda x: f.upsample_bilinear(x, (7, 5)), [normal(1, 2, 3, 4)]),
        (lambda x: x * 1e6, [normal(3, 5) * 1e6]),
        (lambda x: x * 1e-6, [normal(3, 5) * 1e-3]),
    ],
)
def test_smooth_ops_have_tiny_errors(fn, inputs):
    assert 0 <= gradcheck(fn, *inputs).error < 1e-8


def test_a_gradient_that_is_zero_but_for_rounding_passes():
    x, weight, bias = conv_inputs(SMALL)  # batch norm cancels the convolution's bias

    def normed(bias):
        raw = f.conv2d(octsod.Tensor(x), octsod.Tensor(weight), bias, padding=1)
        return f.batch_norm(raw, None, None, octsod.Tensor(np.ones(2)), octsod.Tensor(np.zeros(2)))

    assert gradcheck(normed, bias).error < 1e-6


# --- what else is checked ---------------------------------------------------------------------------------------------


def test_outputs_may_be_a_tuple_or_list_with_missing_entries():
    x = normal(3)
    assert gradcheck(lambda x: (x * 2, None, f.sigmoid(x)), x).error < 1e-9
    assert gradcheck(lambda x: [None, x.sum()], x).error < 1e-9
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: (x * 2, None, Square.apply(x, uses=1)), x)


def test_other_arguments_are_passed_on():
    x, constant = normal(3), octsod.Tensor(normal(3, seed=1))
    seen = []

    def fn(x, constant, single, count, name):
        seen.append((type(constant), single.dtype, count, name))
        return x * constant

    assert gradcheck(fn, x, constant, np.ones(3, np.float32), 4, "name").error < 1e-9
    assert set(seen) == {(octsod.Tensor, np.dtype(np.float32), 4, "name")}


def test_a_tensor_given_twice_has_the_sum_of_both_gradients():
    x = octsod.Tensor(normal(3), requires_grad=True)
    assert gradcheck(lambda a, b: a * b, x, x).error < 1e-9


def test_parameters_may_be_reached_through_a_closure():
    x, weight, bias = (octsod.Tensor(a, requires_grad=True) for a in conv_inputs(SMALL))
    assert gradcheck(lambda *_: f.conv2d(x, weight, bias, padding=1), x, weight, bias).error < 1e-9
    with pytest.raises(AssertionError, match="input 1 at"):
        gradcheck(lambda *_: Conv3x3.apply(x, weight, bias, fault="weight twice"), x, weight, bias)


@pytest.mark.parametrize("fault", [None, "weight twice"])
def test_inputs_and_random_numbers_are_left_as_they_were(fault):
    arrays = conv_inputs(SMALL)
    copies = [a.copy() for a in arrays]
    tensors = [octsod.Tensor(a, requires_grad=True) for a in arrays]
    data = [t.data for t in tensors]
    tensors[0].grad = normal(*arrays[0].shape)
    kept = tensors[0].grad
    np.random.seed(3)
    state = np.random.get_state()[1].copy()
    own = octsod.random.generator.bit_generator.state
    try:
        gradcheck(lambda *a: Conv3x3.apply(*a, fault=fault), *tensors)
        assert fault is None
    except AssertionError:
        assert fault is not None
    assert tensors[0].grad is kept
    assert tensors[1].grad is None and tensors[2].grad is None
    assert all(t.data is d for t, d in zip(tensors, data, strict=True))
    assert all(np.array_equal(a, c) for a, c in zip(arrays, copies, strict=True))
    assert np.array_equal(np.random.get_state()[1], state)
    assert octsod.random.generator.bit_generator.state == own


def test_the_result_is_the_same_every_time():
    inputs = conv_inputs(LARGE)
    assert gradcheck(Conv3x3.apply, *inputs) == gradcheck(Conv3x3.apply, *inputs)


def test_changing_an_input_is_caught():
    class Forward(Function):
        @staticmethod
        def forward(ctx, x):
            x += 1
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad * 2

    class Backward(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            ctx.saved[0][...] = 0
            return grad * 2

    for op in (Forward, Backward):
        with pytest.raises(AssertionError, match="changed input 0 in place"):
            gradcheck(op.apply, normal(3))

    def constant(x, offsets):
        offsets[0] += 1
        return x * 2

    with pytest.raises(AssertionError, match="changed input 1 in place"):
        gradcheck(constant, normal(3), np.arange(3))


def test_randomness_is_caught():
    generator = np.random.default_rng()
    with pytest.raises(AssertionError, match="not deterministic"):
        gradcheck(lambda x: x * generator.normal(size=3), normal(3))


def test_a_gradient_of_the_wrong_shape_or_dtype_is_caught():
    class Wrong(Function):
        @staticmethod
        def forward(ctx, x, change):
            ctx.change = change
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return ctx.change(grad * 2)

    for change in (lambda g: g.astype(np.float32), lambda g: g[:1], lambda g: g[None]):
        with pytest.raises((AssertionError, ValueError), match="gradient"):
            gradcheck(lambda x, change=change: Wrong.apply(x, change=change), normal(3))


def test_numbers_that_are_not_finite_are_caught():
    with pytest.raises(AssertionError, match="not finite"):
        gradcheck(lambda x: x / octsod.Tensor(np.zeros(3)), normal(3))

    class NoNumber(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return np.array([1.0, np.nan, 1.0])

    with pytest.raises(AssertionError, match=r"input 0 at \(1,\): backward gives nan"):
        gradcheck(NoNumber.apply, normal(3))


@pytest.mark.parametrize("error", [1e-1, 5e-5, 1e-8, 1e-10])
def test_there_is_no_tolerance(error):
    x = normal(3)
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: Scaled.apply(x, by=1 + error) * 2, x)
    with pytest.raises(TypeError, match="tolerance"):
        gradcheck(f.sigmoid, x, tolerance=1.0)


def test_what_cannot_be_seen_is_not_passed():
    def small(x):
        return x * 1e-10 + 1e3

    with pytest.warns(InconclusiveWarning, match="INCONCLUSIVE: 3 entries .* would be seen; 3 inconclusive"):
        report = gradcheck(small, normal(3))
    assert report.verdict == "INCONCLUSIVE"
    assert report.inconclusive == ((0, (0,)), (0, (1,)), (0, (2,)))
    assert report.sharpness > 1e-2
    with pytest.raises(AssertionError, match="input 0 at"):
        gradcheck(lambda x: small(x) * 1e-3 + Scaled.apply(x, by=1.001), normal(3))


@pytest.mark.parametrize(
    ("error", "message", "fn", "inputs"),
    [
        (TypeError, "input 1 is float32; expected float64", lambda a, b: a, lambda: [
            normal(2), octsod.Tensor(np.ones(2, np.float32), requires_grad=True)]),
        (ValueError, "no input requires a gradient", lambda a: a, lambda: [octsod.Tensor(normal(2))]),
        (ValueError, "no input requires a gradient", lambda a: a, lambda: [np.ones(2, int)]),
        (ValueError, "input 0 is the result of `Multiply`", lambda a: a, lambda: [
            octsod.Tensor(normal(2), requires_grad=True) * 2]),
        (TypeError, "`fn` returned float", lambda a: 1.0, lambda: [normal(2)]),
        (TypeError, "`fn` returned ndarray", lambda a: a.numpy(), lambda: [normal(2)]),
        (ValueError, "`fn` returned no tensor", lambda a: (None,), lambda: [normal(2)]),
        (TypeError, "`fn` returned a tensor of float32", lambda a: octsod.Tensor(np.ones(2, np.float32)), lambda: [
            normal(2)]),
    ],
)  # fmt: skip
def test_what_cannot_be_checked_is_refused(error, message, fn, inputs):
    with pytest.raises(error, match=re.escape(message)):
        gradcheck(fn, *inputs())


def test_it_is_refused_where_gradients_are_off():
    with octsod.no_grad(), pytest.raises(RuntimeError, match="no_grad"):
        gradcheck(f.sigmoid, normal(3))


def test_it_is_public():
    assert octsod.gradcheck is gradcheck


def test_empty_inputs_pass():
    assert gradcheck(lambda x, y: (x * 2, y * 2), normal(0, 3), normal(2)).error < 1e-9
