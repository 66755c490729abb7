"""Checks of ops as tests of pytest's."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from .operator_check import EXAMPLES, check_op, names_of
from .reports import KINK, SKIP

OFFERED = ("op", "check", "verdict")


def parametrize_ops(
    *ops: Any, checks: Iterable[str] | None = None, examples: int = EXAMPLES, seed: int = 0, cases: Any = None,
    **more: Any,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:  # fmt: skip
    """Make a function a test of each op and each check, such as `test_ops[Swish-gradients]`.

        @octsod.testing.parametrize_ops(Swish, my_module.other, examples=50)
        def test_ops():
            pass

    ops: classes or functions as `check_op` takes them, or pairs (op, cases). checks: the names of checks; by default
    all. examples, seed, cases, and whatever else is named: as in `check_op`.

    A check that does not apply is skipped with its reason, and so is one that meets a kink, which is neither passed nor
    failed. The function runs after the check, if that has passed; if it has arguments named op, check (the check's
    name) or verdict, it gets them. It may have fixtures and marks like any other test.
    """
    pairs = [op if isinstance(op, tuple) else (op, cases) for op in ops]
    if not pairs:
        raise ValueError("parametrize_ops: there is no op; expected at least one.")
    names = names_of(checks)
    given = [(op, own, check) for op, own in pairs for check in names]
    ids = [f"{getattr(op, '__name__', op)}-{check}" for op, _, check in given]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(function)
        wanted = [name for name in OFFERED if name in signature.parameters]

        @functools.wraps(function)
        def test(*receiver, _op_check, **fixtures):
            op, own, check = _op_check
            (found,) = check_op(op, own, checks=[check], examples=examples, seed=seed, **more).verdicts
            if found.verdict in (SKIP, KINK):
                pytest.skip(found.message if found.verdict == SKIP else f"KINK: {found.message}")
            offered = {"op": op, "check": check, "verdict": found}
            return function(*receiver, **fixtures, **{name: offered[name] for name in wanted})

        kept = [p for name, p in signature.parameters.items() if name not in wanted]
        own_parameter = inspect.Parameter("_op_check", inspect.Parameter.POSITIONAL_OR_KEYWORD)
        first = [own_parameter] if "self" not in signature.parameters else [kept.pop(0), own_parameter]
        test.__signature__ = signature.replace(parameters=[*first, *kept])  # type: ignore[attr-defined]
        del test.__wrapped__  # type: ignore[attr-defined]
        return pytest.mark.parametrize("_op_check", given, ids=ids)(test)

    return decorate
