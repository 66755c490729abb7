"""Arrays are checked where they enter, for dtype, byte order, layout and shape, and there is one door."""

import ast
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_arrays import ODD, REFUSED, SHAPE, leaf, normal

import octsod
from octsod import Tensor, nn, optim
from octsod import functional as f
from octsod.autograd import Function
from octsod.backend import host


class Twice(Function):
    @staticmethod
    def forward(ctx, x, result=None, gradient=None):
        ctx.gradient = gradient
        return x * 2 if result is None else result

    @staticmethod
    def backward(ctx, grad):
        return grad * 2 if ctx.gradient is None else ctx.gradient


def assigned(target, name, value):
    setattr(target, name, value)
    return getattr(target, name)


def backward(tensor, gradient=None):
    x = leaf()
    tensor(x).backward(gradient)
    return x.grad


def loaded(array):
    linear = nn.Linear(4, 4)
    linear.load_state_dict({"weight": array, "bias": np.zeros(4, np.float32)})
    return linear.weight.data


# Where arrays (4, 4) enter; each returns what is kept or computed.
ENTRIES = {
    "Tensor": lambda a: Tensor(a).data,
    "Tensor.on": lambda a: Tensor.on(host(), a).data,
    "put": lambda a: host().put(a),
    "Parameter": lambda a: nn.Parameter(a).data,
    "data": lambda a: assigned(leaf(), "data", a),
    "data of a parameter": lambda a: assigned(nn.Parameter(np.ones(SHAPE, np.float32)), "data", a),
    "grad": lambda a: assigned(leaf(), "grad", a),
    "operand": lambda a: (leaf() + a).data,
    "left operand": lambda a: (a * leaf()).data,
    "input": lambda a: f.sigmoid(a).data,
    "target": lambda a: f.binary_cross_entropy_with_logits(leaf(), a).data,
    "result of a forward": lambda a: Twice.apply(leaf(), result=a).data,
    "result of a backward": lambda a: backward(lambda x: Twice.apply(x, gradient=a), np.ones(SHAPE, np.float32)),
    "gradient": lambda a: backward(lambda x: x * 2.0, a),
    "buffer": lambda a: assigned(Buffered(), "kept", a),
    "state": loaded,
}


class Buffered(nn.Module):
    buffers = ("kept",)

    def __init__(self):
        self.kept = np.zeros(SHAPE, np.float32)


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", REFUSED)
def test_foreign_numbers_do_not_come_in(kind, entry):
    array = REFUSED[kind](normal(*SHAPE))
    if kind == "float16" and entry == "state":  # a checkpoint of half precision: exact in float32
        assert np.array_equal(loaded(array), array)
        return
    with pytest.raises((TypeError, ValueError)) as failure:
        ENTRIES[entry](array)
    message = str(failure.value)
    assert ("masked" if kind == "masked" else str(array.dtype)) in message and len(message) < 300
    assert "`" in message or "returned" in message or "The array" in message


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", ODD)
def test_odd_layouts_come_in_as_copies(kind, entry):
    odd = ODD[kind](normal(*SHAPE))
    octsod.manual_seed(0)
    expected = ENTRIES[entry](np.array(odd, order="C", subok=False))
    octsod.manual_seed(0)
    kept = ENTRIES[entry](odd)
    assert type(kept) is np.ndarray and kept.flags.carray
    assert np.array_equal(kept, expected)


def test_an_array_that_fits_is_shared():
    array = normal(*SHAPE)
    assert Tensor(array).data is array


def test_a_memory_map_is_read_at_once(tmp_path):
    mapped = np.memmap(tmp_path / "numbers", np.float32, "w+", shape=SHAPE)
    mapped[...] = normal(*SHAPE)
    kept = Tensor(mapped).data
    mapped[...] = 0
    assert np.array_equal(kept, normal(*SHAPE))


NO_NUMBERS = {"None": None, "text": "a", "complex": 1j, "complex64": np.complex64(1j), "object": object(), "dict": {}}


@pytest.mark.parametrize("operand", [*NO_NUMBERS.values(), np.array(None)], ids=[*NO_NUMBERS, "array of objects"])
@pytest.mark.parametrize("operator", ["__add__", "__rmul__", "__truediv__", "__matmul__", "__pow__"])
def test_operands_are_numbers(operator, operand):
    with pytest.raises((TypeError, ValueError), match="expected"):
        getattr(leaf(), operator)(operand)


@st.composite
def views(draw):
    """(array, its C-contiguous copy): floats (2, 3, 4, 5) of any strides, directions, order, alignment."""
    order = draw(st.permutations(range(4)))
    steps = draw(st.tuples(*[st.sampled_from([1, 2, -1, -3])] * 4))
    repeated = draw(st.booleans())
    shape = [(1 if repeated and axis == 0 else n) for axis, n in enumerate((2, 3, 4, 5))]
    outer = [shape[axis] * abs(steps[axis]) for axis in order]
    offset = draw(st.sampled_from([0, 1, 4]))
    raw = bytearray(8 * int(np.prod(outer)) + offset)
    array = np.frombuffer(raw, np.float64, offset=offset).reshape(outer)
    array[...] = np.random.default_rng(draw(st.integers(0, 99))).standard_normal(outer)
    array = array.transpose(np.argsort(order))[tuple(slice(None, None, step) for step in steps)]
    array = np.broadcast_to(array, (2, 3, 4, 5)) if repeated else array
    if draw(st.booleans()):
        array = array.view()
        array.flags.writeable = False
    return array, np.array(array, order="C")


WHOLE = {
    "sigmoid": f.sigmoid, "sum": lambda x: f.sum(x, (0, 2)), "transpose": f.transpose, "max": lambda x: f.max(x, 1),
    "conv2d": lambda x: f.conv2d(x, np.ones((2, 3, 3, 3)), padding=1), "pool": lambda x: f.max_pool2d(x, 2),
    "matmul": lambda x: x @ Tensor(np.ones((5, 2))), "getitem": lambda x: x[:, ::-1, 1:], "product": lambda x: x * x,
    "upsample": lambda x: f.upsample_bilinear(x, 7), "reshape": lambda x: x.reshape(6, 20),
}  # fmt: skip


@pytest.mark.parametrize("op", WHOLE)
@settings(max_examples=25)
@given(view=views())
def test_results_do_not_depend_on_the_layout(op, view):
    odd, plain = view
    before, results = odd.copy(), []
    for array in (odd, plain):
        x = Tensor(array, requires_grad=True)
        y = WHOLE[op](x)
        y.backward(np.broadcast_to(np.float64(0.5), y.shape))
        results.append((y.numpy(), x.grad))
    assert all(np.array_equal(a, b) for a, b in zip(*results, strict=True))
    assert np.array_equal(odd, before)


# --- integers ---------------------------------------------------------------------------------------------------------

INTEGER_OPS = {
    "a + b": lambda a, b: a + b, "a - b": lambda a, b: a - b, "a * b": lambda a, b: a * b, "a / b": lambda a, b: a / b,
    "a @ b": lambda a, b: a @ b, "a ** -1": lambda a, b: a**-1, "a ** 2": lambda a, b: a**2, "-a": lambda a, b: -a,
    "a + 1": lambda a, b: a + 1, "1 - a": lambda a, b: 1 - a, "2 / a": lambda a, b: 2 / a,
    "a + 0.5": lambda a, b: a + 0.5,
    "a + floats": lambda a, b: a + np.ones(2), "floats * a": lambda a, b: Tensor(np.ones(2)) * a,
    "floats + array": lambda a, b: Tensor(np.ones(2)) + np.array([1, 2]),
    "sum": lambda a, b: a.sum(), "mean": lambda a, b: a.mean(), "max": lambda a, b: a.max(),
    "exp": lambda a, b: a.exp(),
    "log": lambda a, b: a.log(), "sqrt": lambda a, b: a.sqrt(), "relu": lambda a, b: f.relu(a),
    "sigmoid": lambda a, b: f.sigmoid(a), "log_softmax": lambda a, b: f.log_softmax(a),
    "dropout": lambda a, b: f.dropout(a), "concatenate": lambda a, b: f.concatenate([a, Tensor(np.ones(2))]),
    "loss": lambda a, b: f.binary_cross_entropy_with_logits(a, b),
}  # fmt: skip


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8", "bool"])
@pytest.mark.parametrize("op", INTEGER_OPS)
def test_ops_do_not_compute_with_integers(op, dtype):
    a, b = (Tensor(np.array(values).astype(dtype)) for values in ([1, 2], [2, 3]))
    with pytest.raises(ValueError, match=rf"has dtype .*; expected|is {dtype} .*; expected"):
        INTEGER_OPS[op](a, b)


def test_integers_are_held_moved_cut_and_joined_exactly():
    large = np.array([[2**60 + 1, -1], [2**62, 3]])
    t = Tensor(large)
    assert np.array_equal(t.T.numpy(), large.T) and t[0, 0].item() == 2**60 + 1
    assert np.array_equal(t.reshape(-1).numpy(), large.reshape(-1))
    assert np.array_equal(f.concatenate([t, t[::-1]]).numpy(), np.concatenate([large, large[::-1]]))
    assert np.array_equal(t.to("opaque").to("cpu").numpy(), large)


@pytest.mark.parametrize("kind", ["Fortran order", "read-only", "strided", "misaligned", "reversed"])
def test_labels_of_any_layout(kind):
    logits, labels = Tensor(normal(4, 3)), np.array([0, 1, 2, 1])
    odd = ODD[kind](labels)
    expected = f.cross_entropy(logits, np.array(odd.tolist())).item()
    assert f.cross_entropy(logits, odd).item() == expected


def test_labels_in_foreign_byte_order():
    with pytest.raises(TypeError, match=r"`array` has dtype >i8, in foreign byte order.*`.astype\('int64'\)` converts"):
        f.cross_entropy(normal(4, 3), np.array([0, 1, 2, 1]).astype(">i8"))


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_data_and_gradients_keep_their_shape():
    p = nn.Parameter(np.ones(3, np.float32))
    optimizer = optim.Adam([p], lr=0.1)
    for name, array in (("data", np.ones(30000, np.float32)), ("grad", np.ones(1, np.float32))):
        with pytest.raises(ValueError, match=rf"`{name}` has shape .*; expected \(3,\)"):
            setattr(p, name, array)
    optimizer.step()
    assert np.array_equal(p.data, np.ones(3))


@pytest.mark.parametrize("wrong", ["shape", "dtype", "layout", "kind"])
def test_a_place_must_fit(wrong):
    places = {"shape": np.zeros(4), "dtype": np.zeros(3, np.float32), "layout": np.zeros(6)[::2], "kind": [0.0] * 3}
    place = places[wrong]
    x = Tensor(np.ones(3), requires_grad=True)
    with pytest.raises(ValueError, match=r"place: `data` .*; expected float64 \(3,\) on cpu, contiguous and writable"):
        x.place(place, np.zeros(3))
    with pytest.raises(ValueError, match="place: `grad`"):
        x.place(np.zeros(3), place)
    assert np.array_equal(x.data, np.ones(3))


def test_putting_does_not_broadcast():
    with pytest.raises(ValueError, match=r"shape \(1,\); expected \(3,\)"):
        host().put(np.zeros(1), np.zeros(3))
    with pytest.raises(TypeError):
        host().put(np.zeros(3), np.zeros(3, int))


def test_states_with_masks_change_nothing():
    p = nn.Parameter(np.ones(3, np.float32))
    optimizer = optim.Adam([p], lr=0.1)
    state = {name: array + 1 for name, array in optimizer.state_dict().items()}
    with pytest.raises(TypeError, match=r"load_state_dict: `first.0` is a masked array"):
        optimizer.load_state_dict({**state, "first.0": np.ma.masked_array(state["first.0"], [1, 0, 0])})
    assert optimizer.steps == 0 and not optimizer.state_of(p)["second"].any()


# --- the door is the only one -----------------------------------------------------------------------------------------

ROOT = pathlib.Path(octsod.__file__).parent
# Not `testing`: what it makes enters by `Tensor`, and the rest is compared.
COMPUTING = "autograd", "backend", "nn", "ops", "optim", "inference"


def calls(path):
    return [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]


def test_arrays_come_in_by_one_door():
    """Where arrays reach kernels, only backend/arrays.py makes an array of something else."""
    makers = {"asarray", "asanyarray", "ascontiguousarray", "asfortranarray", "require", "frombuffer", "array"}
    found = set()
    for path in (ROOT / "functional.py", *(path for room in COMPUTING for path in (ROOT / room).glob("*.py"))):
        for call in calls(path):
            function = call.func
            of_numpy = isinstance(function, ast.Attribute) and getattr(function.value, "id", "") == "np"
            if of_numpy and function.attr in makers:
                found.add(f"{path.parent.name}/{path.name}")
    # memory.py makes arrays of its own blocks, `Tensor.__array__` one for NumPy.
    assert found == {"backend/arrays.py", "backend/memory.py", "autograd/tensor.py"}
