"""`check_op` on right and wrong ops: the check that is meant for a fault finds it. And octsod's own ops pass."""

import dataclasses
import functools
import inspect
import os
import re

import numpy as np
import pytest
import wrong_ops
from hypothesis import strategies as st
from more_ops import made
from wrong_ops import ELEMENTS, RIGHT, WRONG, Depthwise, Swish

import octsod
from octsod import functional, ops
from octsod.autograd import Function
from octsod.testing import Case, CheckFailure, Input, check_op, op_cases, strategies
from octsod.testing.operator_check import CHECKS, collect
from octsod.testing.reports import Verdict

EXAMPLES = int(os.environ.get("OCTSOD_CHECK_EXAMPLES", "1"))  # of each op of ours: more find more
FIXED = Case((Input((2, 3)),))


@pytest.mark.parametrize("op", RIGHT, ids=lambda op: op.__name__)
def test_right_ops_pass(op):
    report = check_op(op, examples=6)
    assert report.verdict == "PASS" and report.examples == 6
    assert {v.verdict for v in report} <= {"PASS", "SKIP"}
    assert [v.check for v in report] == list(CHECKS)


@pytest.mark.parametrize("name", WRONG)
def test_wrong_ops_fail(name):
    op, checks = WRONG[name]
    report = collect(op, wrong_ops.CASES.get(name), examples=6)
    assert checks[0] in {v.check for v in report.failures}, str(report)
    assert report.first in checks, str(report)  # and no consequence of the fault
    found = report[checks[0]]
    if found.case is not None:
        again = functools.partial(collect, checks=[checks[0]])
        names = {"Case": Case, "Input": Input, "check_op": again, report.op: op}
        assert eval(report.reproduction(found), names).verdict == "FAIL"


def test_failures_shrink_and_say_where():
    with pytest.raises(CheckFailure) as caught:
        check_op(wrong_ops.OddSizes, examples=6)
    report, text = caught.value.report, str(caught.value)
    (x, weight) = report["gradients"].case.inputs
    assert x.shape[:3] == (1, 1, 3) and weight.shape == (1, 1, 3, 3)
    assert "at (0, 0, 2, " in report["gradients"].message
    assert f"check_op(OddSizes, {report['gradients'].case})" in text
    assert re.search(r"^  FAIL  gradients$", text, re.M) and re.search(r"^  PASS  threads", text, re.M)


def test_a_failure_does_not_shrink_to_another():
    def forward(x):
        if x.size < 3:
            raise TypeError("three numbers at least")
        return x * x

    cases = strategies.cases([strategies.tensors(strategies.shapes(1, 1, 1, 5))])
    report = collect(made(forward, lambda x, g: 3 * x * g), cases, checks=["runs", "gradients"], examples=10)
    assert "three numbers" in report["runs"].message and "input 0 at" in report["gradients"].message, str(report)
    assert report["gradients"].case.leaves()[0].shape == (3,)


def test_what_to_read_first():
    report = collect(wrong_ops.AddsToFreshMemory, FIXED)
    text = str(report)
    assert report.first == report.to_json()["first"] == "written" and len(report.failures) > 2
    assert "\n\nRead `written` first: it may be why the others fail.\n\nFAIL written: " in text
    for check in ("written", "gradients"):  # alone, it needs no such line
        assert "Read `" not in str(collect(wrong_ops.AddsToFreshMemory, FIXED, checks=[check]))
    right = collect(Swish, FIXED, checks=["runs"])
    assert right.first is None is right.to_json()["first"] and "Read `" not in str(right)
    race = tuple(Verdict(check, "FAIL", "") for check in ("guards", "races", "gradients"))
    assert dataclasses.replace(report, verdicts=race).first == "races"  # whose results differ from run to run


def test_numbers_are_named():
    report = collect(wrong_ops.WrongSign, FIXED)
    assert re.search(r"analytic -?[0-9.]+, numeric -?[0-9.]+", report["convergence"].message)
    report = collect(wrong_ops.OtherThanTheReference, FIXED)
    assert re.search(r"at \(\d, \d\): got -?[0-9.]+, the reference -?[0-9.]+", report["reference"].message)


def test_nothing_runs_after_stray_writes():
    report = collect(wrong_ops.WritesBehind, ELEMENTS, examples=5)
    assert report.examples == 1
    assert {v.verdict for v in report if v.check != "guards"} == {"SKIP"}
    assert "float64" in report["guards"].message


def test_memory_that_stays_has_an_address():
    """And is the op's, whatever becomes of the arrays inside of generators of random numbers."""
    report = collect(wrong_ops.KeepsAll, FIXED, checks=["memory"])
    source, first = inspect.getsourcelines(wrong_ops.KeepsAll)
    line = first + next(k for k, text in enumerate(source) if "append" in text)
    assert re.search(rf"made at \S*wrong_ops\.py:{line}, kept by something", report["memory"].message)


def test_memory_of_generators_is_not_the_ops(monkeypatch):
    kept, new = [], np.random.default_rng

    def hoarding(*arguments):
        kept.append(np.zeros(1, np.uint32))
        return new(*arguments)

    monkeypatch.setattr(np.random, "default_rng", hoarding)
    monkeypatch.setattr("octsod.random.__file__", __file__)  # as if NumPy's generators, whose frames are not seen
    assert collect(Swish, FIXED, checks=["memory"]).verdict == "PASS"
    assert kept


def test_a_crash_is_a_failure():
    message = collect(wrong_ops.Crashes, FIXED)["runs"].message
    assert "raises IndexError: too many indices" in message
    assert re.search(r"wrong_ops\.py:\d+ in forward", message)


def test_kinks():
    report = collect(functional.relu, Case((Input((4,), "ties", (0, 0.5)),)), checks=["convergence"])
    assert report.verdict == "KINK"
    assert "KINK convergence: one-sided difference quotients" in str(report)
    assert check_op(functional.relu, Case((Input((4,), "ties", (0, 0.5)),)), checks=["convergence"]).failures == ()


def test_linear_ops():
    case = Case((Input((1, 2, 3, 3)), Input((2, 1, 3, 3))))
    assert check_op(Depthwise, case, checks="adjoint")["adjoint"].message == (
        "linear in inputs 0, 1 (found by evaluation)"
    )
    assert check_op(Depthwise, case, checks="adjoint", linear=[1])["adjoint"].message == (
        "linear in input 1 (as declared)"
    )
    report = collect(Swish, FIXED, checks="adjoint", linear=[0])
    assert "declared linear in input 0" in report["adjoint"].message
    assert ", linear=(0,)" in report.reproduction(report["adjoint"])


class Affine(Function):
    """Only in float32."""

    @staticmethod
    def forward(ctx, x):
        if x.dtype != "float32":
            raise TypeError("float32 alone.")
        return 2 * x + 1

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad


def test_ops_of_one_precision():
    report = check_op(Affine, Case((Input((2, 3), dtype="float32"),)))
    assert {report[check].verdict for check in ("runs", "gradients", "adjoint", "accumulation")} == {"PASS"}
    assert "differences are those of float32" in report["gradients"].message
    assert report["float32"].message.startswith("float64 raises TypeError: float32 alone")
    wrong = collect(WrongAffine, Case((Input((2, 3), dtype="float32"),)), checks=["gradients"])
    assert wrong.verdict == "FAIL" and "numeric" in wrong["gradients"].message
    case = Case((Input((2, 3), dtype="float32"),))
    assert {v.verdict for v in check_op(Swish, case, checks=["gradients", "float32"])} == {"PASS"}
    assert "float32" in {v.check for v in collect(wrong_ops.OnlyInFloat32, case).failures}
    assert "float32 alone" in collect(Affine, FIXED)["runs"].message


class WrongAffine(Affine):
    @staticmethod
    def backward(ctx, grad):
        return np.float32(2.05) * grad


class OwnCases(Swish):
    cases = staticmethod(lambda: [Case((Input((3,)),)), Case((Input((1, 2), "positive"),), seed=4)])


class Keyword(Swish):
    cases = None

    @staticmethod
    def forward(ctx, x, *, scale):
        return Swish.forward(ctx, x * scale)


def test_cases_come_from_the_op_or_are_guessed():
    assert check_op(OwnCases).examples == 2
    report = check_op(lambda a, b: a * b.log(), examples=3, checks=["gradients"], name="own")
    assert report.op == "own" and report.verdict == "PASS"
    assert check_op(lambda x: functional.max_pool2d(x, 1), examples=2, checks=["runs"]).verdict == "PASS"
    with pytest.raises(ValueError, match="nothing is known of the inputs of `Keyword`; give `cases`"):
        check_op(Keyword)


@pytest.mark.parametrize("arguments, message", [
    ((3,), "`op` is a int; expected an octsod.autograd.Function or a function"),
    ((Swish, [3]), "a case is a int; expected a `Case`, or the `Input`s of one"),
    ((Swish, st.just(3)), "a case is a int; expected a `Case`"),
])  # fmt: skip
def test_what_cannot_be_checked(arguments, message):
    with pytest.raises(TypeError, match=message):
        check_op(*arguments)


def test_inputs_alone_are_cases():
    for cases in (Input((2,)), [Input((2,))], [(Input((2,)),)], st.just(Input((2,))), strategies.tensors((2,))):
        assert check_op(Swish, cases, checks=["runs"], examples=2).verdict == "PASS"


def test_other_errors():
    with pytest.raises(ValueError, match="`cases` is empty"):
        check_op(Swish, [])
    with pytest.raises(ValueError, match=r"`checks` has 'gradient' \(did you mean 'gradients'\?\); expected some of"):
        check_op(Swish, checks=["gradient"])
    with pytest.raises(ValueError, match="`examples` is 0; expected at least 1"):
        check_op(Swish, examples=0)
    with octsod.no_grad(), pytest.raises(RuntimeError, match="no_grad"):
        check_op(Swish)
    with pytest.raises(KeyError, match="'nothing' is none of the checks"):
        check_op(Swish, FIXED, checks=["runs"])["nothing"]


def test_nothing_is_left_behind():
    threads, state = octsod.get_num_threads(), octsod.random.generator.bit_generator.state
    check_op(functional.dropout, examples=1)
    assert octsod.get_num_threads() == threads
    assert octsod.random.generator.bit_generator.state == state
    assert octsod.backend.memory._maker is None
    assert vars(wrong_ops)["np"] is np


def test_the_same_cases_each_time():
    reports = [str(collect(wrong_ops.SmallError, examples=4, seed=seed, checks=["gradients"])) for seed in (1, 1)]
    assert reports[0] == reports[1]


# --- octsod's own ops -------------------------------------------------------------------------------------------------

OWN = {name: getattr(ops, name) for name in ops.__all__ if name not in ("Cost", "To")}
OWN_FUNCTIONS = {
    name: function for name, function in vars(functional).items()
    if getattr(function, "__module__", "") == functional.__name__ and not name.startswith("_")
}  # fmt: skip


def test_all_of_our_ops_have_cases():
    assert op_cases.OPS.keys() == OWN.keys()
    assert op_cases.FUNCTIONS.keys() == OWN_FUNCTIONS.keys()


@pytest.mark.parametrize("op", [
    *OWN.values(),
    # The others lead to one op each, and to it alone.
    *(OWN_FUNCTIONS[name] for name in ("batch_norm", "depthwise_chain", "dropout", "octave_conv2d", "max", "mean")),
], ids=lambda op: op.__name__)  # fmt: skip
def test_our_ops_pass(op):
    check_op(op, examples=EXAMPLES + 1)


def test_networks_pass():
    network = strategies.Network("convolutional", (2, 3), seed=1).make()
    check_op(network, Case((Input((2, 3, 4, 3)),)), checks=["gradients", "reference", "threads", "graphs"], name="net")
