"""Costs of users' ops in a profile: which are used, which are refused, and what they are compared with."""

import math
import warnings

import numpy as np
import pytest
import swish

import octsod
from octsod import functional, ops
from octsod.autograd import Function
from octsod.profiling import grouped, load, save, table, verdict


class Square(Function):
    """x**2 in plain NumPy; FLOPs per element as its class says."""

    flops = 1

    @staticmethod
    def forward(ctx, x):
        ctx.x = x
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad * ctx.x

    @classmethod
    def cost(cls, x, itemsize=4, backward=False):
        return ops.Cost(cls.flops * math.prod(x), 2 * itemsize * math.prod(x))


def numbers(*shape):
    return octsod.Tensor(np.ones(shape or (4, 100), np.float32), requires_grad=True)


def profiled(work, roofs=False):
    with octsod.profile(roofs=roofs) as p:
        work()
    return p.result


def the_row(result, **facts):
    (row,) = [row for row in result.rows if all(getattr(row, name) == value for name, value in facts.items())]
    return row


@pytest.mark.parametrize("flops, moved, said", [
    (-5, 10, "`flops` is -5; expected a finite number of at least 0"),
    (5, -10, "`bytes` is -10; expected a finite number of at least 0"),
    (float("nan"), 10, "`flops` is nan; expected a finite number"),
    (10, float("inf"), "`bytes` is inf; expected a finite number"),
    ("a", 10, "`flops` is 'a'; expected a number"),
    (None, 10, "`flops` is None; expected a number"),
    (1j, 10, "`flops` is 1j; expected a number"),
    (np.ones(3), 10, r"`flops` is float64 \(3,\); expected a number"),
    (10, 10**30, r"`bytes` is 10{30}; expected at most 1e\+15"),
])  # fmt: skip
def test_a_cost_that_makes_no_sense_is_said_and_the_profile_is_kept(flops, moved, said, tmp_path):
    class Wrong(Square):
        @staticmethod
        def cost(x, itemsize=4, backward=False):
            return ops.Cost(flops, moved)

    with pytest.warns(RuntimeWarning, match=rf"^profile: `Wrong\.cost` is not used: \w+: cost: {said}"):
        result = profiled(lambda: Wrong.apply(numbers()))
    row = the_row(result, op="Wrong")
    assert row.flops is None and row.bytes is None and row.calls == 1
    save(result, tmp_path / "p.json")
    assert load(tmp_path / "p.json") == result and "Python" in table(result)


def test_a_cost_that_fails_is_said_once_for_all_shapes():
    class Wrong(Square):
        @staticmethod
        def cost(x):
            return None

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        profiled(lambda: [Wrong.apply(numbers(n)) for n in range(1, 6)])
    assert len(caught) == 1


def test_costs_in_numbers_of_numpy_are_whole_ones(tmp_path):
    class Typed(Square):
        @staticmethod
        def cost(x, itemsize=4, backward=False):
            return ops.Cost(np.float32(8.0), np.int64(1 << 40))

    row = the_row(profiled(lambda: [Typed.apply(numbers()) for _ in range(4)]), op="Typed")
    assert (row.flops, row.bytes) == (32, 1 << 42) and type(row.flops) is type(row.bytes) is int


def test_a_graph_of_an_earlier_profile_has_its_costs():
    found = []
    profiled(lambda: found.append(functional.sum(Square.apply(numbers()))))
    row = the_row(profiled(found[0].backward), op="Square", phase="backward", kernel="")
    assert (row.flops, row.bytes, row.layer) == (400, 3200, "")


@pytest.mark.parametrize("flops, wrong", [(1, False), (10**10, True)])
def test_an_op_without_kernels_is_compared_with_the_roofs(flops, wrong):
    class Counted(Square):
        pass

    Counted.flops = flops
    result = profiled(lambda: Counted.apply(numbers(4, 1000)), roofs=True)
    (group,) = [group for group in grouped(result) if group.name == "Python of Counted (forward)"]
    assert (group.flops, group.bytes) == (4000 * flops, 32_000) and group.outside == group.time
    assert (group.roof_share > 1) == bool(group.wrong) == wrong
    assert verdict(group).startswith("error of the cost: it would be at ") == wrong
    text = table(result)
    assert " %!" in text if wrong else "100 % of it outside of kernels" in text
    assert "Python between kernels" in text and text.count("Python of Counted (forward)") == 1  # not among the sums


def test_the_cost_of_an_op_made_of_others_is_not_that_of_its_python():
    """What other ops launch within it takes its time, though autograd launches such kernels, too."""

    class Doubled(Square):
        @staticmethod
        def forward(ctx, x):
            return functional.add(x, x).numpy()

    class Direct(Square):
        @staticmethod
        def forward(ctx, x):
            out = octsod.backend.empty(x.shape, x.dtype)
            octsod.backend.kernels.add(x, x, out)
            return out

    result = profiled(lambda: [op.apply(numbers()) for op in (Doubled, Direct)])
    for op in ("Doubled", "Direct"):
        assert the_row(result, op=op, kernel="").flops is None
    assert the_row(result, op="Add", kernel="add").flops == 400


def test_a_kernel_of_an_own_op_within_another_one_keeps_its_cost():
    class Outer(Function):
        @staticmethod
        def forward(ctx, x):
            return swish.Swish.apply(x).numpy()

    assert the_row(profiled(lambda: Outer.apply(numbers(3))), kernel="swish.forward").flops == 15
