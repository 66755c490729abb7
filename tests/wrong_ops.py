"""Ops with one fault each, and the right ones beside them, to test `check_op` with. Few are of any other use."""

import numpy as np

import octsod
from octsod.autograd import Function
from octsod.backend import empty
from octsod.testing import Case, Input
from octsod.testing import strategies as st

ELEMENTS = st.cases([st.tensors()])
ROWS = st.cases([st.tensors(st.shapes(2, 2, 1, 5))])
MAPS = st.cases([st.feature_maps()])
PAIRS = st.cases(st.alike(2))
CONVOLUTIONS = st.cases(st.SMALL_MAPS.map(lambda s: [Input(s), Input((s[1], 1, 3, 3))]))


def raw(array):
    """The same memory, also where the array cannot be written."""

    return _memory({**array.__array_interface__, "data": (array.ctypes.data, False)})


def beyond(array, offset):
    """The element that lies so many elements from the first, wherever that is."""

    place = array.ctypes.data + offset * array.itemsize
    return _memory({"data": (place, False), "shape": (1,), "typestr": array.dtype.str, "version": 3})


def _memory(interface):
    return np.asarray(type("Memory", (), {"__array_interface__": interface})())


class Swish(Function):
    """x*sigmoid(x), right."""

    cases = ELEMENTS

    @staticmethod
    def forward(ctx, x):
        out = empty(x.shape, x.dtype)
        np.divide(x, 1 + np.exp(-x), out=out)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved
        s = 1 / (1 + np.exp(-x))
        return grad * (s + x * s * (1 - s))

    @staticmethod
    def reference(x):
        return x / (1 + np.exp(-x))


class Mix(Function):
    """Two inputs, two outputs, right: a*b and a - 2*b."""

    cases = PAIRS

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        return a * b, a - 2 * b

    @staticmethod
    def backward(ctx, first, second):
        a, b = ctx.saved
        first = np.zeros_like(a) if first is None else first
        second = np.zeros_like(a) if second is None else second
        return first * b + second, first * a - 2 * second


def _shifted(x, dy, dx):
    """x moved, with zeros beyond its border."""
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    return padded[:, :, 1 + dy : 1 + dy + x.shape[2], 1 + dx : 1 + dx + x.shape[3]]


class Depthwise(Function):
    """A depthwise 3x3 convolution with zeros beyond the border, right."""

    cases = CONVOLUTIONS

    @staticmethod
    def forward(ctx, x, weight):
        ctx.save_for_backward(x, weight)
        taps = [(i, j) for i in range(3) for j in range(3)]
        return np.ascontiguousarray(
            sum(_shifted(x, i - 1, j - 1) * weight[None, :, 0, i, j, None, None] for i, j in taps)
        )

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved
        taps = [(i, j) for i in range(3) for j in range(3)]
        grad_x = sum(_shifted(grad, 1 - i, 1 - j) * weight[None, :, 0, i, j, None, None] for i, j in taps)
        grad_weight = np.zeros_like(weight)
        for i, j in taps:
            grad_weight[:, 0, i, j] = (_shifted(x, i - 1, j - 1) * grad).sum((0, 2, 3))
        return np.ascontiguousarray(grad_x), grad_weight


RIGHT = (Swish, Mix, Depthwise)

# Name -> (op, checks: the first must fail, and the first that fails must be one of them).
WRONG = {}


def wrong(*checks):
    """The op is wrong, and these checks are about that."""

    def add(op):
        WRONG[op.__name__] = op, checks
        return op

    return add


@wrong("gradients", "convergence")
class WrongSign(Swish):
    @staticmethod
    def backward(ctx, grad):
        return -Swish.backward(ctx, grad)


@wrong("gradients")
class SmallError(Swish):
    @staticmethod
    def backward(ctx, grad):
        return Swish.backward(ctx, grad) * (1 + 3e-5)


@wrong("gradients", "adjoint")
class WrongBorder(Depthwise):
    """backward clamps to the border where forward has zeros."""

    @staticmethod
    def backward(ctx, grad):
        _, weight = ctx.saved
        grad_x, grad_weight = Depthwise.backward(ctx, grad)
        grad_x[:, :, 0, :] += grad[:, :, 0, :] * weight[None, :, 0, 0, 1, None]
        return grad_x, grad_weight


@wrong("gradients", "adjoint")
class NotFlipped(Depthwise):
    @staticmethod
    def backward(ctx, grad):
        _, weight = ctx.saved
        _, grad_weight = Depthwise.backward(ctx, grad)
        taps = [(i, j) for i in range(3) for j in range(3)]
        grad_x = sum(_shifted(grad, i - 1, j - 1) * weight[None, :, 0, i, j, None, None] for i, j in taps)
        return np.ascontiguousarray(grad_x), grad_weight


@wrong("gradients", "adjoint")
class SwappedChannels(Depthwise):
    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_weight = Depthwise.backward(ctx, grad)
        return np.ascontiguousarray(grad_x[:, ::-1]), grad_weight


@wrong("gradients", "adjoint")
class OnlyTheFirstImage(Depthwise):
    """Wrong for more than one image."""

    @staticmethod
    def backward(ctx, grad):
        x, _ = ctx.saved
        grad_x, grad_weight = Depthwise.backward(ctx, grad)
        for i in range(3):
            for j in range(3):
                grad_weight[:, 0, i, j] = (_shifted(x, i - 1, j - 1) * grad)[:1].sum((0, 2, 3))
        return grad_x, grad_weight


@wrong("gradients", "adjoint")
class OddSizes(Depthwise):
    """Wrong for odd heights: the last row is left out."""

    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_weight = Depthwise.backward(ctx, grad)
        if grad.shape[2] % 2 and grad.shape[2] > 1:
            grad_x[:, :, -1] = 0
        return grad_x, grad_weight


@wrong("gradients", "adjoint")
class SinglePixels(Depthwise):
    @staticmethod
    def backward(ctx, grad):
        grad_x, grad_weight = Depthwise.backward(ctx, grad)
        return (2 * grad_x if grad.shape[2:] == (1, 1) else grad_x), grad_weight


@wrong("gradients", "convergence")
class SecondOutput(Mix):
    @staticmethod
    def backward(ctx, first, second):
        grad_a, grad_b = Mix.backward(ctx, first, second)
        return grad_a, grad_b if second is None else grad_b + second


@wrong("parts")
class NoMissingGradients(Mix):
    @staticmethod
    def backward(ctx, first, second):
        a, b = ctx.saved
        return first * b + second, first * a - 2 * second


@wrong("parts")
class MixedUpNeeds(Mix):
    """An input alone gets the other one's gradient."""

    @staticmethod
    def backward(ctx, first, second):
        grads = Mix.backward(ctx, first, second)
        return grads if all(ctx.needs) else grads[::-1]


@wrong("guards")
class WritesBehind(Swish):
    @staticmethod
    def forward(ctx, x):
        out = Swish.forward(ctx, x)
        beyond(out, out.size)[0] = 7
        return out


@wrong("guards")
class AddsBehind(Swish):
    """... which in a large number, or NaN, is lost."""

    @staticmethod
    def backward(ctx, grad):
        out = empty(grad.shape, grad.dtype)
        out[...] = Swish.backward(ctx, grad)
        beyond(out, out.size)[0] += 1
        return out


@wrong("guards")
class WritesBefore(Swish):
    """... of an array that NumPy made."""

    @staticmethod
    def backward(ctx, grad):
        out = np.empty_like(grad)
        out[...] = Swish.backward(ctx, grad)
        beyond(out, -1)[0] = 7
        return out


@wrong("guards")
class ReadsBehind(Swish):
    @staticmethod
    def forward(ctx, x):
        out = Swish.forward(ctx, x)
        if out.size:
            out[(0,) * out.ndim] += 1e-3 * np.tanh(np.abs(beyond(x, x.size)[0]) + 1e-3)
        return out


@wrong("written")
class LeavesOneUnwritten(Swish):
    @staticmethod
    def forward(ctx, x):
        out = empty(x.shape, x.dtype)
        out.reshape(-1)[:-1] = Swish.reference(x).reshape(-1)[:-1]
        ctx.save_for_backward(x)
        return out


@wrong("written")
class LeavesGradientUnwritten(Swish):
    """... in memory that NumPy gave."""

    @staticmethod
    def backward(ctx, grad):
        out = np.empty(grad.shape, grad.dtype)
        out.reshape(-1)[1:] = Swish.backward(ctx, grad).reshape(-1)[1:]
        return out


@wrong("written")
class AddsToFreshMemory(Swish):
    @staticmethod
    def backward(ctx, grad):
        out = empty(grad.shape, grad.dtype)
        out += Swish.backward(ctx, grad)
        return out


@wrong("unmodified")
class ChangesItsInput(Swish):
    @staticmethod
    def forward(ctx, x):
        out = Swish.forward(ctx, x)
        raw(x)[...] *= 1.5
        return out


@wrong("unmodified", "runs")
class WritesToTheInput(Swish):
    """As NumPy sees it."""

    @staticmethod
    def forward(ctx, x):
        out = Swish.forward(ctx, x)
        x += 1
        return out


@wrong("unmodified")
class ChangesTheCotangent(Swish):
    @staticmethod
    def backward(ctx, grad):
        result = Swish.backward(ctx, grad)
        raw(grad)[...] = 0
        return result


@wrong("unmodified")
class ChangesTheOutput(Swish):
    """backward writes to what forward returned."""

    @staticmethod
    def forward(ctx, x):
        ctx.out = Swish.forward(ctx, x)
        return ctx.out

    @staticmethod
    def backward(ctx, grad):
        result = Swish.backward(ctx, grad)
        ctx.out[...] = result
        return result


@wrong("graphs")
class OverwritesWhatItSaved(Swish):
    @staticmethod
    def forward(ctx, x):
        out = Swish.forward(ctx, x)
        ctx.save_for_backward(x.copy())
        return out

    @staticmethod
    def backward(ctx, grad):
        result = Swish.backward(ctx, grad)
        ctx.saved[0][...] = result
        return result


@wrong("deterministic")
class Noise(Swish):
    @staticmethod
    def forward(ctx, x):
        noise = np.random.default_rng().standard_normal(x.shape)
        return Swish.forward(ctx, x) * (1 + 1e-6 * noise).astype(x.dtype)


@wrong("deterministic")
class SavesInTheClass(Swish):
    """The last forward's input, whatever graph goes backward."""

    @staticmethod
    def forward(ctx, x):
        SavesInTheClass.last = x.copy()
        return Swish.forward(ctx, x)

    @staticmethod
    def backward(ctx, grad):
        ctx.saved = (SavesInTheClass.last,)
        return Swish.backward(ctx, grad)


@wrong("gradients", "deterministic", "convergence", "nonfinite")
class StaleBuffer(Swish):
    """The result of the first call with a shape is that of all."""

    known = {}  # noqa: RUF012

    @staticmethod
    def forward(ctx, x):
        out = Swish.forward(ctx, x)
        return StaleBuffer.known.setdefault((x.shape, x.dtype), out).copy()


@wrong("threads")
class DependsOnThreads(Swish):
    @staticmethod
    def forward(ctx, x):
        return Swish.forward(ctx, x) + 1e-12 * (octsod.get_num_threads() == 3)


@wrong("runs")
class WrongDtype(Swish):
    @staticmethod
    def forward(ctx, x):
        return Swish.forward(ctx, x).astype("float32")


@wrong("float32")
class OnlyInFloat32(Swish):
    """Sums up in half precision, where nobody looks."""

    @staticmethod
    def forward(ctx, x):
        out = Swish.forward(ctx, x)
        return out if x.dtype == "float64" else out.astype("float16").astype("float32")


@wrong("memory")
class KeepsAll(Swish):
    kept = []  # noqa: RUF012

    @staticmethod
    def forward(ctx, x):
        KeepsAll.kept.append(x * 1)
        return Swish.forward(ctx, x)


@wrong("memory")
class KeepsItself(Swish):
    """A cycle, which waits for the garbage collector."""

    @staticmethod
    def forward(ctx, x):
        ctx.own = ctx
        ctx.spare = x * 1
        return Swish.forward(ctx, x)


@wrong("nonfinite")
class ClearsNaN(Swish):
    @staticmethod
    def forward(ctx, x):
        return np.nan_to_num(Swish.forward(ctx, x))


@wrong("nonfinite")
class ClearsNaNOfGradients(Swish):
    @staticmethod
    def backward(ctx, grad):
        return np.nan_to_num(Swish.backward(ctx, grad))


@wrong("nonfinite")
class CutsInfinity(Swish):
    @staticmethod
    def forward(ctx, x):
        return Swish.forward(ctx, np.where(np.isinf(x), x.dtype.type(0.5), x))


@wrong("reference")
class OtherThanTheReference(Swish):
    """As wrong forward as backward."""

    @staticmethod
    def forward(ctx, x):
        return 1.0001 * Swish.forward(ctx, x)

    @staticmethod
    def backward(ctx, grad):
        return 1.0001 * Swish.backward(ctx, grad)


@wrong("runs")
class Crashes(Swish):
    @staticmethod
    def forward(ctx, x):
        return Swish.forward(ctx, x)[(slice(None),) * 3] if x.ndim < 3 else Swish.forward(ctx, x)


@wrong("layouts", "runs")
class NoEmptyArrays(Swish):
    @staticmethod
    def forward(ctx, x):
        out = Swish.forward(ctx, x)
        out[(0,) * out.ndim] += 0
        return out


@wrong("accumulation")
class MissingAccumulate(Function):
    """2*x. An op that takes part in deferred normalisation has to add where it is told to."""

    cases = ELEMENTS
    deferred = True

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, grad):
        target = ctx.target(0)
        target.array[...] = 2 * grad
        return target


@wrong("gradients", "convergence")
class FarOut(Swish):
    """Wrong where numbers are large."""

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved
        return Swish.backward(ctx, grad) * np.where(x > 3, 1.1, 1).astype(x.dtype)


@wrong("gradients", "convergence", "reference")
class LostTail(Swish):
    """What is behind the last whole block of 64 elements gets no gradient."""

    @staticmethod
    def backward(ctx, grad):
        out = Swish.backward(ctx, grad)
        if out.size > 64:
            out.reshape(-1)[out.size // 64 * 64 :] = 0
        return out


@wrong("aliasing")
class InPlaceOfTheOther(Mix):
    """Right unless both inputs are one array."""

    @staticmethod
    def forward(ctx, a, b):
        out = Mix.forward(ctx, a, b)
        return (out[0] + np.shares_memory(a, b), out[1])


def mishandled(x, w):
    """A function, not a class: the gradient of w is that of one use only."""
    return x * w + w.detach() * w


WRONG["mishandled"] = mishandled, ("gradients", "convergence")
CASES = {
    "mishandled": PAIRS, "Crashes": Case((Input((2, 3)),)), "LostTail": st.cases([st.tensors((100,))]),
    "FarOut": st.cases([st.tensors((3, 7), range=(0.5, 8))]),
}  # fmt: skip
