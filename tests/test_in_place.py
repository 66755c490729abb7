"""Nothing is written to a copy, and nothing to what belongs to others."""

import ast
import importlib
import pathlib

import numpy as np
import opaque
import pytest
from odd_arrays import SHAPE, frozen_view, leaf, normal

import octsod
from octsod import Tensor, nn, optim
from octsod import functional as f
from octsod.autograd import Function
from octsod.backend import default_device, kernels
from octsod.backend.deferred import Deferred, DeferredGradient
from octsod.testing import gradcheck


@pytest.mark.parametrize("made", [lambda a: Tensor(a, requires_grad=True), nn.Parameter], ids=["tensor", "parameter"])
def test_transposed_data_and_gradients_are_moved(made):
    x = made(np.ones((2, 3)).T)
    x.grad = np.zeros((2, 3)).T
    (x * 2.0).sum().backward()
    assert np.array_equal(x.grad, np.full((3, 2), 2.0))
    optimizer = optim.SGD([x], lr=1.0)
    optimizer.step()
    assert np.array_equal(x.data, -np.ones((3, 2)))
    x.data, x.grad = np.zeros((2, 3)).T, np.ones((2, 3)).T
    optimizer.step()
    assert np.array_equal(x.data, -np.ones((3, 2)))


def test_a_transposed_weight_is_moved_by_adam():
    conv, weight = nn.Conv2d(3, 4, 3), normal(3, 3, 3, 4)
    conv.weight.data = weight.transpose(3, 2, 0, 1)
    optimizer = optim.Adam(conv.parameters(), lr=0.1)
    conv(Tensor(normal(2, 3, 8, 8))).sum().backward()
    optimizer.step()
    moved = np.abs(conv.weight.data - weight.transpose(3, 2, 0, 1))
    assert np.allclose(moved, 0.1, atol=1e-3)


STRIDED = np.zeros((4, 6), np.float32)[:, ::2]
OUTPUTS = {
    "add": lambda out: kernels.add(np.ones((4, 3), np.float32), np.ones((4, 3), np.float32), out),
    "sigmoid": lambda out: kernels.sigmoid(np.ones((4, 3), np.float32), out),
    "matmul": lambda out: kernels.matmul(np.ones((1, 4, 2), np.float32), np.ones((1, 2, 3), np.float32), out[None]),
    "average": lambda out: kernels.average([np.ones((4, 3), np.float32)], [out], 0.5, np.zeros(2, np.int64)),
    "max": lambda out: kernels.max_middle(np.ones((4, 2, 3), np.float32), out),
}


@pytest.mark.parametrize("kernel", OUTPUTS)
@pytest.mark.parametrize("out", [STRIDED, np.zeros((3, 4), np.float32).T, frozen_view(np.zeros((4, 3), np.float32))],
                         ids=["strided", "transposed", "read-only"])  # fmt: skip
def test_kernels_do_not_write_to_copies(kernel, out):
    assert default_device().name == "cpu"
    with pytest.raises(ValueError, match=r"output float32 .* expected a contiguous, aligned and writable one"):
        OUTPUTS[kernel](out)


@pytest.mark.parametrize("op", ["batch_norm", "depthwise_chain"])
def test_statistics_that_would_be_updated_in_a_copy(op):
    x, ones = Tensor(normal(2, 3, 8, 8)), np.ones(3, np.float32)

    def run(mean, training=True):
        if op == "batch_norm":
            return f.batch_norm(x, mean, ones.copy(), ones, ones, training)
        return f.depthwise_chain(x, [(normal(3, 1, 3, 3), ones, ones, ones)], [(mean, ones.copy())], training)

    for name, array in (("strided", np.zeros(6, np.float32)[::2]), ("read-only", frozen_view(0 * ones))):
        with pytest.raises(ValueError, match=f"{op}: `running_mean` would be updated in a copy"):
            run(array)
        assert np.array_equal(run(array, False).numpy(), run(np.zeros(3, np.float32), False).numpy()), name
    for array in (np.zeros(3, int), np.zeros(3, np.float16), [0.0] * 3, np.zeros(3, ">f4")):
        with pytest.raises(ValueError, match=f"{op}: `running_mean` .*; expected an array of floats"):
            run(array)


# --- what ops are given is not theirs ---------------------------------------------------------------------------------


class Changes(Function):
    """x * 1; forward or backward changes what it is given in place."""

    @staticmethod
    def forward(ctx, x, what):
        ctx.what = what
        ctx.save_for_backward(x)
        if what == "input":
            _double(x)
        out = _zero(x)
        kernels.add(x, out, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        if ctx.what in ("gradient", "saved input"):
            _double(grad if ctx.what == "gradient" else ctx.saved[0])
        out = _zero(grad)
        kernels.add(grad, out, out)
        return out


def _zero(like):
    out = default_device().zeros(like.shape, like.dtype)
    return out


def _double(array):
    if isinstance(array, np.ndarray):
        array *= 2
    else:  # of a device that has no read-only views
        kernels.add(array, array, array)


@pytest.mark.parametrize("what", ["input", "saved input", "gradient"])
def test_changes_in_place_are_refused_on_hosts(what):
    x, gradient = Tensor(normal(3, dtype=np.float64), requires_grad=True), np.ones(3)
    before = x.data.copy()
    with pytest.raises(ValueError, match="read-only"):
        (Changes.apply(x, what=what) + x).backward(gradient)
    assert np.array_equal(x.data, before) and np.array_equal(gradient, np.ones(3))


@pytest.mark.parametrize("device", ["cpu", "reference", "opaque"])
@pytest.mark.parametrize(
    ("what", "named"), [("input", "input 0"), ("saved input", "input 0"), ("gradient", "cotangent 0")]
)
def test_gradcheck_names_what_is_changed(what, named, device):
    with octsod.use_backend(device):
        with pytest.raises(AssertionError, match=f"gradcheck: `fn` or its backward changed {named} in place"):
            gradcheck(lambda x: Changes.apply(x, what=what), normal(3, dtype=np.float64))
        assert gradcheck(lambda x: Changes.apply(x, what=None), normal(3, dtype=np.float64)).error < 1e-8


def test_gradcheck_catches_a_gradient_that_only_a_sibling_shares():
    with pytest.raises(AssertionError, match=r"writes to what it was given: .*read-only"):
        gradcheck(lambda x: f.sigmoid(Changes.apply(x, what="gradient")) * 2.0, normal(3, dtype=np.float64))


def test_what_is_returned_of_an_argument_is_a_copy():
    class Reversal(Function):
        @staticmethod
        def forward(ctx, x):
            return x.reshape(-1)

        @staticmethod
        def backward(ctx, grad):
            return -grad.reshape(SHAPE)

    x = leaf()
    y = Reversal.apply(x)
    assert not np.shares_memory(x.data, y.data) and y.data.flags.writeable
    (y + y).sum().backward()
    assert np.array_equal(x.grad, np.full(SHAPE, -2.0))


@pytest.mark.parametrize("placed", [False, True])
@pytest.mark.parametrize("returned", ["twice", "as views", "for the other input"])
def test_gradients_that_share_memory_are_kept_apart(returned, placed):
    class Shared(Function):
        @staticmethod
        def forward(ctx, a, b):
            return a + b

        @staticmethod
        def backward(ctx, grad):
            out = ctx.array(0)
            out[...] = grad
            pairs = {"twice": (out, out), "as views": (out[::-1], out), "for the other input": (None, out)}
            return pairs[returned]

    a, b = leaf(), leaf()
    if placed:  # an optimiser has a place for each gradient
        optim.SGD([a, b], lr=0.1)
    c = b * 1.0
    (c.sum() * 10.0 + a.sum() * 100.0 + Shared.apply(a, c).sum()).backward()
    assert np.array_equal(b.grad, np.full(SHAPE, 11.0))
    assert np.array_equal(a.grad, np.full(SHAPE, 100.0 if returned == "for the other input" else 101.0))


def test_gradients_of_the_last_two_inputs_are_kept_apart():
    class Shared(Function):
        @staticmethod
        def forward(ctx, *maps):
            return sum(maps)

        @staticmethod
        def backward(ctx, grad):
            out = ctx.array(2)
            out[...] = grad
            return grad, out, out

    a, b, c = leaf(), leaf(), leaf()
    d, e = b * 1.0, c * 1.0
    (e.sum() * 100.0 + d.sum() * 10.0 + Shared.apply(a, d, e).sum()).backward()  # d's further part is added first
    assert [np.unique(x.grad).tolist() for x in (a, b, c)] == [[1], [11], [101]]


def part(rows=4, channels=3, dtype=np.float32):
    return np.ones((rows, channels), dtype)


RAW = normal(2, 3, 8, 8)
DEFERRED = {
    "channels": lambda: Deferred(RAW, part(channels=1)), "rows": lambda: Deferred(RAW, part(3)),
    "dtype": lambda: Deferred(RAW, part(dtype=np.float64)), "layout": lambda: Deferred(np.repeat(RAW, 2, -1)[..., ::2]),
    "moments": lambda: Deferred(RAW, moments=np.zeros((1, 3, 3))), "kind": lambda: Deferred(RAW.tolist()),
    "no map": lambda: Deferred(RAW[0], part()), "gradient": lambda: DeferredGradient(RAW, RAW, part(6, 1)),
    "gradient's map": lambda: DeferredGradient(RAW, RAW[:1]),
    "gradient's rows": lambda: DeferredGradient(RAW, RAW, part()),
}  # fmt: skip


@pytest.mark.parametrize("wrong", DEFERRED)
def test_deferred_maps_and_gradients_of_users_are_checked(wrong):
    class Defers(Function):
        deferred = True

        @staticmethod
        def forward(ctx, x):
            value = DEFERRED[wrong]()
            return value if isinstance(value, Deferred) else Deferred(RAW, part(), np.zeros((2, 3, 3)))

        @staticmethod
        def backward(ctx, grad):
            return DEFERRED[wrong]()

    weight = Tensor(np.ones((3, 3, 1, 1), np.float32), requires_grad=True)
    with pytest.raises(ValueError, match=r"What `Defers.(forward|backward)` returned does not fit together"):
        f.materialize(Defers.apply(f.conv2d(Tensor(RAW), weight))).sum().backward()


def test_kernels_take_read_only_arrays_without_compiling_again():
    from octsod.kernels.cpu import elementwise, normalization, parallel

    class Sigmoid(Function):
        @staticmethod
        def forward(ctx, x):
            assert not x.flags.writeable
            ctx.save_for_backward(x)
            out = np.empty_like(x)
            kernels.sigmoid(x, out)
            return out

        @staticmethod
        def backward(ctx, grad):
            grad_x = ctx.array(0)
            kernels.sigmoid_backward(grad, *ctx.saved, grad_x)
            return grad_x

    def coefficients(*arrays):
        statistics, out, running = np.empty((2, 3)), np.empty((4, 3)), (np.zeros(3), np.ones(3))
        kernels.batch_norm([None], [1], [0.1], [1e-5], [arrays], [running], [statistics], [out])

    ones = np.ones(3)
    coefficients(ones, ones, ones)
    x = Tensor(normal(40, 50), requires_grad=True)
    expected = f.sigmoid(x)
    expected.sum().backward()
    gradient, x.grad = x.grad.copy(), None
    compiled = [elementwise._sigmoid, elementwise._sigmoid_backward, normalization._batch_norm]
    before = [len(kernel.signatures) for kernel in compiled]
    y = Sigmoid.apply(x)
    y.sum().backward()
    coefficients(*[frozen_view(ones)] * 3)
    assert np.array_equal(y.numpy(), expected.numpy()) and np.array_equal(x.grad, gradient)
    assert before == [len(kernel.signatures) for kernel in compiled]
    view = frozen_view(normal(5))
    assert np.shares_memory(parallel.flat(view), view) and not view.flags.writeable


def test_own_ops_get_the_arrays_themselves():
    from octsod import ops
    from octsod.autograd import Op

    own = [op for op in vars(ops).values() if isinstance(op, type) and issubclass(op, Function)]
    assert own and all(issubclass(op, Op) and not op.guarded for op in own)
    assert opaque.device.read_only(marker := object()) is marker  # a device without read-only views


def test_outputs_are_flattened_by_one_helper():
    """`reshape(-1)` of an array of another layout is a copy, so what a kernel writes to goes through `flat_out`."""
    cpu = importlib.import_module("octsod.kernels.cpu")
    written = {"out", "moments", "sums", "between", "running_mean", "running_var", "grad_bias", "grad_slope"}
    written |= {"grad_x", "grad_weight", "grad_logits", "grad_inputs", "targets", "target"}
    for path in pathlib.Path(cpu.__file__).parent.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and function.name in cpu.__all__:
                for node in ast.walk(function):
                    if isinstance(node, ast.Attribute) and node.attr in ("reshape", "ravel", "flatten"):
                        where = f"{path.name}: {function.name}, line {node.lineno}"
                        assert getattr(node.value, "id", "") not in written, where
