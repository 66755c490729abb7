"""Cases: their numbers, layouts and lines of text; the strategies that draw them."""

import importlib
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from octsod import Tensor
from octsod.models import Configuration
from octsod.testing import Case, Input, check_op, strategies
from octsod.testing.cases import KINDS, LAYOUTS, laid_out
from octsod.testing.drawing import draw

ENOUGH = settings(max_examples=40, deadline=None)


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_differ_and_come_from_the_seed(kind):
    array = Input((3, 4, 5), kind).make(7)
    assert array.shape == (3, 4, 5) and np.array_equal(array, Input((3, 4, 5), kind).make(7))
    assert not np.array_equal(array, Input((3, 4, 5), kind).make(8))
    if kind in ("signed", "positive", "shares"):
        assert len(np.unique(np.abs(array))) == array.size and np.abs(array).min() > 0.04
        assert np.array_equal(array.astype("float32"), Input((3, 4, 5), kind).make(7, "float32"))
    assert (array.min() < 0) == (kind in ("signed", "ties"))
    assert array.dtype == ("int64" if kind == "labels" else "float64")


def test_ranges():
    assert np.ptp(Input((50,), "labels", (3, 6)).make(0)) == 2
    array = np.abs(Input((50,), range=(5, 6)).make(0))
    assert 5 < array.min() < array.max() < 6
    ties = Input((50,), "ties", (0, 1)).make(0)
    assert set(ties) == {0, 0.25, 0.5, 0.75, 1}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(), (3,), (2, 3, 4), (0, 2)])
def test_layouts(layout, shape):
    array = Input(shape).make(1)
    other = Input(shape, layout=layout).make(1)
    assert np.array_equal(array, other) and other.shape == shape and other.dtype == array.dtype
    assert not np.shares_memory(array, laid_out(array, layout))
    if layout in ("strided", "reversed", "transposed") and array.size > 1 and array.ndim > 1:
        assert not other.flags.c_contiguous
    assert other.flags.writeable == (layout != "read-only")
    assert np.array_equal(Tensor(other).numpy(), array)


@pytest.mark.parametrize("case, text", [
    (Case((Input((1, 2)),), seed=3), "Case((Input((1, 2)),), seed=3)"),
    (Case(Input((2,)), {"axis": 0}), "Case((Input((2,)),), {'axis': 0})"),
    (Case([Input(3), None, [Input((1,), "ties"), None]]),
     "Case((Input((3,)), None, [Input((1,), kind='ties'), None]))"),
    (Case((Input([2], dtype=np.float32, array=True, grad=False), 2, "text")),
     "Case((Input((2,), dtype='float32', grad=False, array=True), 2, 'text'))"),
])  # fmt: skip
def test_a_case_is_a_line_to_paste(case, text):
    assert repr(case) == text
    assert eval(text) == case and hash(eval(text)) == hash(case)


def test_arguments_and_leaves():
    case = Case((Input((2,)), [Input((3,), array=True), None], 5), {"state": (Input((1,)), None), "axis": 1})
    assert [leaf.array for leaf in case.leaves()] == [False, True, True]
    assert [a.shape for a in case.arrays()] == [(2,), (3,), (1,)]
    positional, keywords = case.arguments(["a", "b", "c"])
    assert positional == ["a", ["b", None], 5] and keywords == {"state": ("c", None), "axis": 1}


@pytest.mark.parametrize("make, message", [
    (lambda: Input((2, -1)), r"Input: `shape` is \(2, -1\); expected a tuple of lengths"),
    (lambda: Input("ab"), "`shape` is 'ab'"),
    (lambda: Input((2,), "positve"), "`kind` is 'positve'; expected did you mean|`kind` is 'positve'.*'positive'"),
    (lambda: Input((2,), layout="diagonal"), "`layout` is 'diagonal'"),
    (lambda: Input((2,), range=(2, 1)), r"`range` is \(2, 1\); expected \(low, high\) with low less than high"),
    (lambda: Input((2,), dtype="float16"), "`dtype` is float16; expected float32"),
    (lambda: Case((2, 3), seed=-1), "`seed` is -1"),
    (lambda: Case(3), "`inputs` is a int; expected a tuple of `Input`s"),
])  # fmt: skip
def test_what_is_no_case(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("value", [np.ones(3), Tensor(np.ones(3, "float32"))])
def test_arrays_are_refused(value):
    with pytest.raises(TypeError, match="expected `Input`s, whose numbers come from the seed"):
        Case((value,))


@ENOUGH
@given(strategies.tensors() | strategies.feature_maps() | strategies.tensors((2, 3), "positive"))
def test_tensors(found):
    assert isinstance(found, Input) and found.make(0).shape == found.shape


@ENOUGH
@given(strategies.broadcast(3))
def test_broadcast(found):
    np.broadcast_shapes(*(one.shape for one in found))


@ENOUGH
@given(strategies.alike(2, kind="shares"))
def test_alike(found):
    a, b = found
    assert a.shape == b.shape and a.kind == b.kind == "shares"


@ENOUGH
@given(strategies.convolution_parameters(), strategies.branch_lists(), strategies.windows())
def test_what_fits_together(convolution, branches, windows):
    assert min(convolution.out_shape[2:]) > 0 and min(windows.out_shape[2:]) > 0
    shapes = [s for s in (*branches.in_shapes, *branches.out_shapes) if s is not None]
    assert shapes and all(min(s) > 0 for s in shapes)
    assert branches.weight_shape[:2] == (sum(branches.outs), sum(branches.ins))


@ENOUGH
@given(strategies.cases([strategies.tensors((2,)), None, (Input((1,)),)], {"axis": st.sampled_from([0, 1]), "k": 2}))
def test_cases(case):
    x, nothing, (one,) = case.inputs
    assert x.shape == (2,) and nothing is None and one == Input((1,))
    assert case.settings["axis"] in (0, 1) and case.settings["k"] == 2


@settings(max_examples=4, deadline=None)
@given(strategies.networks())
def test_networks(network):
    assert eval(repr(network), {"Network": strategies.Network, "Configuration": Configuration}) == network
    model = network.make()
    x = np.random.default_rng(0).standard_normal((2, 3, network.side, network.side))
    output = model(Tensor(x))
    output.sum().backward() if output.size > 1 else output.backward()
    assert all(p.grad is not None for p in model.parameters())
    again = network.make().state_dict()
    assert all(np.array_equal(a, again[name]) for name, a in network.make().state_dict().items())


def test_drawn_cases_differ():
    found, _ = draw(strategies.cases([strategies.tensors()]), 20, 0)
    assert len({repr(case) for case in found}) == len(found) == 20
    assert found == draw(strategies.cases([strategies.tensors()]), 20, 0)[0]
    assert found != draw(strategies.cases([strategies.tensors()]), 20, 1)[0]
    assert len(draw(strategies.cases([Input(2)]), 20, 0)[0]) == 20  # which differ in their seeds alone
    assert draw(st.just(Case((Input(2),))), 20, 0) == ([Case((Input(2),))], [])


def test_draws_do_not_depend_on_what_is_loaded(tmp_path, monkeypatch):
    """Hypothesis reads the sources of modules, and would draw what stands there."""
    number, share = st.integers(0, 1000), st.floats(0, 1)
    drawn = st.builds(lambda seed, p, t: Case((Input(2),), {"p": p, "t": t}, seed), number, share, st.text(max_size=5))
    before = draw(drawn, 60, 0)
    texts = [letter * 3 for letter in "abcdefghijklmnop"]
    (tmp_path / "constants_to_draw.py").write_text(
        f"A = {list(range(101, 150))}\nB = {[k / 1000 for k in range(50)]}\nC = {texts}"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("constants_to_draw")
    assert draw(drawn, 60, 0) == before
    sys.modules.pop("constants_to_draw")


def test_empty_arrays_and_thousands_are_drawn():
    sizes = [case.arrays()[0].size for case in draw(strategies.cases([strategies.tensors()]), 30, 0)[0]]
    assert min(sizes) == 0 and max(sizes) > 1000


def test_a_case_is_checked_as_it_is():
    report = check_op(lambda x, y: x + y.sum(), Case((Input((2, 2)), Input((3,)))), checks=["gradients"], name="f")
    assert report.examples == 1
