"""Small faults, and faults that hide: gradcheck catches them, names the worst element and says how to repeat it."""

import re

import numpy as np
import pytest

import octsod
from octsod import functional as f
from octsod.autograd import Function
from octsod.testing import GradientError, gradcheck


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


class Tanh(Function):
    """tanh, whose gradient goes through `spoil`."""

    @staticmethod
    def forward(ctx, x, spoil):
        ctx.save_for_backward(np.tanh(x))
        ctx.spoil = spoil
        return np.tanh(x)

    @staticmethod
    def backward(ctx, grad):
        return ctx.spoil(grad * (1 - ctx.saved[0] ** 2), grad)


def spoiled(spoil):
    return lambda x: Tanh.apply(x, spoil=spoil)


def scaled(index, factor):
    def spoil(g, _):
        g[index] *= factor
        return g

    return spoil


def lost_tail(g, _):
    flat = g.reshape(-1)
    flat[flat.size // 4 * 4 :] = 0
    return g


LARGE = (3, 24, 13, 17)
FAULTS = {
    "all, by 1e-5": (scaled(..., 1 + 1e-5), LARGE),
    "all, by 1e-8": (scaled(..., 1 + 1e-8), LARGE),
    "all, by 1e-8, in a small input": (scaled(..., 1 + 1e-8), (3, 5)),
    "a constant in single precision": (lambda g, _: g / 0.1 * float(np.float32(0.1)), (3, 5)),
    "one channel, by 1e-5": (scaled((slice(None), 11), 1 + 1e-5), LARGE),
    "one channel of many, by 1e-5": (scaled((slice(None), 150), 1 + 1e-5), (2, 200, 3, 3)),
    "one border, by 1e-5": (scaled((..., 0), 1 + 1e-5), LARGE),
    "one corner, by 1e-5": (scaled((-1, -1, -1, -1), 1 + 1e-5), LARGE),
    "one entry of few, by 1e-5": (scaled((1, 3), 1 + 1e-5), (3, 5)),
    "one entry in the middle of many, by 1e-3": (scaled((1, 9, 6, 8), 1.001), LARGE),
    "first image twice": (lambda g, _: np.concatenate([g[:1], g[:1], g[2:]]), LARGE),
    "channels swapped": (lambda g, _: g[:, ::-1], LARGE),
    "right in sum, in another order": (lambda g, _: np.roll(g, 1, axis=-1), (4, 30)),
    "the mean of the cotangents": (lambda g, grad: g / grad * grad.mean(), (4, 30)),
    "the first cotangent": (lambda g, grad: g / grad * grad.flat[0], (4, 30)),
    "right sign, wrong size": (lambda g, _: np.sign(g), (4, 30)),
    "the tail of an odd size": (lost_tail, (7, 9)),
    "the tail of a large odd size": (lost_tail, (3, 21, 13, 17)),
    "nothing": (lambda g, _: None, LARGE),
    "infinite": (scaled((0, 0), np.inf), (3, 5)),
    "NaN at a place that is not sampled": (scaled((1, 9, 6, 8), np.nan), LARGE),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_caught(fault):
    spoil, shape = FAULTS[fault]
    with pytest.raises(GradientError, match="gradcheck: input 0 at"):
        gradcheck(spoiled(spoil), normal(*shape))


def test_the_same_without_a_fault_passes():
    for shape in {shape for _, shape in FAULTS.values()}:
        report = gradcheck(spoiled(lambda g, _: g), normal(*shape))
        assert report.verdict == "PASS"
        assert report.sharpness < 1e-6


def test_the_only_wrong_entry_of_many_is_found_and_named():
    where = (1, 9, 6, 8)
    with pytest.raises(GradientError, match=re.escape(f"input 0 at {where}")) as failure:
        gradcheck(spoiled(scaled(where, 1.001)), normal(*LARGE))
    assert failure.value.report.worst.index == where


class BatchNorm(Function):
    @staticmethod
    def forward(ctx, x, gamma, beta, fault=None):
        mean, var = x.mean(axis=(0, 2, 3), keepdims=True), x.var(axis=(0, 2, 3), keepdims=True)
        ctx.save_for_backward((x - mean) / np.sqrt(var + 1e-5), np.sqrt(var + 1e-5), gamma)
        ctx.fault = fault
        return ctx.saved[0] * gamma[:, None, None] + beta[:, None, None]

    @staticmethod
    def backward(ctx, grad):
        normed, deviation, gamma = ctx.saved
        n = grad.size / len(gamma)
        if ctx.fault == "unbiased":
            normed = normed * np.sqrt(n / (n - 1))
        total = grad - grad.mean(axis=(0, 2, 3), keepdims=True)
        total -= normed * (grad * normed).mean(axis=(0, 2, 3), keepdims=True)
        grad_beta = None if ctx.fault == "no beta" else grad.sum(axis=(0, 2, 3))
        epsilon = 1 + 5e-6 if ctx.fault == "epsilon twice" else 1
        return total * gamma[:, None, None] / deviation * epsilon, (grad * normed).sum(axis=(0, 2, 3)), grad_beta


@pytest.mark.parametrize("fault", [None, "unbiased", "no beta", "epsilon twice"])
def test_batch_norm(fault):
    inputs = normal(4, 3, 20, 15), normal(3, seed=1), normal(3, seed=2)
    if fault is None:
        assert gradcheck(BatchNorm.apply, *inputs).verdict == "PASS"
        return
    with pytest.raises(GradientError, match=f"input {2 if fault == 'no beta' else 0} at"):
        gradcheck(lambda *a: BatchNorm.apply(*a, fault=fault), *inputs)


def test_a_tensor_that_matters_little_must_have_its_gradient():
    with pytest.raises(GradientError, match=r"input 1 at .* backward gives 0 \(analytic\)"):
        gradcheck(lambda x, w: x * 1e3 + w.detach() * 1e-6, normal(3, 4), normal(4))


# --- what only some calls show ----------------------------------------------------------------------------------------


class Doubled(Function):
    """2*x, with faults that depend on what was there before."""

    kept = None

    @staticmethod
    def forward(ctx, x, fault):
        ctx.fault = fault
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        out = ctx.array(0)
        if ctx.fault == "adds":
            out += grad * 2
        elif ctx.fault == "leaves the last element":
            out.reshape(-1)[:-1] = grad.reshape(-1)[:-1] * 2
        elif ctx.fault == "keeps its buffer":
            first = Doubled.kept is None
            Doubled.kept = grad * 2 if first else Doubled.kept + grad * 2
            out[...] = Doubled.kept
        else:
            out[...] = grad * 2
        return out


@pytest.mark.parametrize("fault", [None, "adds", "leaves the last element", "keeps its buffer"])
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 40, 50)])
def test_what_was_in_a_buffer_before(fault, shape):
    Doubled.kept = None
    if fault is None:
        assert gradcheck(lambda x: Doubled.apply(x, fault=fault), normal(*shape)).verdict == "PASS"
        return
    with pytest.raises(GradientError, match=r"input 0 at .*(in a second pass|full of NaN|gives nan)"):
        gradcheck(lambda x: Doubled.apply(x, fault=fault), normal(*shape))


class Pair(Function):
    """sin(x) and cos(x), with faults where one of them has no gradient."""

    @staticmethod
    def forward(ctx, x, fault):
        ctx.save_for_backward(np.sin(x), np.cos(x))
        ctx.fault = fault
        return np.sin(x), np.cos(x)

    @staticmethod
    def backward(ctx, grad_sin, grad_cos):
        sin, cos = ctx.saved
        if grad_cos is None:
            return grad_sin * (-cos if ctx.fault == "without the second" else cos)
        if grad_sin is None:
            return None if ctx.fault == "without the first" else -grad_cos * sin
        return grad_sin * cos - grad_cos * sin * (1.001 if ctx.fault == "with both" else 1)


@pytest.mark.parametrize("fault", [None, "without the second", "without the first", "with both"])
def test_outputs_whose_gradient_is_missing(fault):
    if fault is None:
        assert gradcheck(lambda x: Pair.apply(x, fault=fault), normal(3, 4)).verdict == "PASS"
        return
    with pytest.raises(GradientError, match=r"input 0 at .*(each output alone|numeric)"):
        gradcheck(lambda x: Pair.apply(x, fault=fault), normal(3, 4))


def test_a_fault_that_two_outputs_share_is_named_with_the_output():
    def fn(x):
        return x * 1e6, Tanh.apply(x, spoil=scaled((0, 1), 1 + 1e-5))

    with pytest.raises(GradientError, match=r"input 0 at \(0, 1\): .* of output 1; they differ"):
        gradcheck(fn, normal(3, 4))


def test_outputs_of_changing_shape_are_refused():
    with pytest.raises(GradientError, match="other shapes"):
        gradcheck(lambda x: x[: 1 + int((x.numpy() > 0.126).sum())] * 2, normal(5))


# --- what a failure says ----------------------------------------------------------------------------------------------


def test_a_failure_has_the_numbers_and_a_reproduction_that_runs():
    x = normal(2, 3)

    def fn(x, _):
        return Tanh.apply(x, spoil=scaled((1, 2), 1.5))

    with pytest.raises(GradientError) as failure:
        gradcheck(fn, x, 2.5)
    report, text = failure.value.report, str(failure.value)
    assert report.verdict == "FAIL" and report.failed == 1
    worst = report.worst
    assert worst.input == 0 and worst.index == (1, 2) and worst.output is None
    assert worst.analytic == pytest.approx(1.5 * worst.numeric, rel=1e-8)
    assert 0 < worst.bound < 1e-8 < worst.error
    for part in ("(analytic)", "(numeric)", "truncation", "rounding", "backward's own", "1 of the 6 comparisons"):
        assert part in text
    call = re.search(r"octsod\.gradcheck\(.*\)", text)[0]
    with pytest.raises(GradientError, match=re.escape(text.split(":")[1])):
        eval(call, {"octsod": octsod, "np": np, "fn": fn})


def test_other_values_are_reproduced_too():
    inputs = [octsod.Tensor(normal(2), requires_grad=True), None, "same", np.arange(3), np.float32([1.5]), normal(0, 2)]
    with pytest.raises(GradientError) as failure:
        gradcheck(lambda x, *_: f.sigmoid(x.detach()), *inputs)
    call = re.search(r"octsod\.gradcheck\(.*\)", str(failure.value))[0]
    made = eval(call.replace("octsod.gradcheck", "(lambda *a: a)"), {"octsod": octsod, "np": np, "fn": None})[1:]
    assert made[0].requires_grad and np.array_equal(made[0].numpy(), inputs[0].numpy())
    assert made[1] is None and made[2] == "same"
    for a, b in zip(made[3:], inputs[3:], strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)


def test_a_failure_names_the_op():
    class Twice(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        def backward(ctx, grad):
            return grad

    with pytest.raises(GradientError, match=r"fn = test_gradcheck_faults\.test_a_failure_names_the_op.*Twice\.apply:"):
        gradcheck(Twice.apply, normal(2))


def test_large_inputs_are_described():
    with pytest.raises(GradientError, match=r"inputs: float64 \(3, 24, 13, 17\)"):
        gradcheck(spoiled(scaled(..., 2)), normal(*LARGE))


@pytest.mark.parametrize("change", [np.transpose, lambda x: x[::-1], lambda x: np.broadcast_to(x[:1], x.shape)])
def test_arrays_of_any_layout_are_checked(change):
    x = change(normal(5, 4))
    x.flags.writeable = False
    assert gradcheck(f.sigmoid, x).verdict == "PASS"
    with pytest.raises(GradientError, match="input 0 at"):
        gradcheck(spoiled(scaled((0, 1), 1.001)), x)
