"""One run of an op on a case: forward and backward, and what came of it."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import traceback
import types
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .. import random
from ..autograd import Function, Tensor, backward_all
from ..backend import default_device, launch_with, on
from ..backend.device import Device
from .cases import Case, flat, signed
from .reports import Failed

RAISES = "raises "  # how the report of an exception begins
COTANGENTS = 0xC07A  # the seed of cotangents, beside that of a case


class Subject:
    """What is checked: a `Function`, or a plain function of tensors.

    name: as it is written in a reproduction. reference: a NumPy function of the same arguments; by default the op's
    own attribute of that name, if it has one. linear: the
    numbers of the inputs in which it is declared linear, or None to find out.
    """

    def __init__(
        self, op: Any, reference: Callable[..., Any] | None = None, linear: Sequence[int] | None = None,
        name: str | None = None,
    ):  # fmt: skip
        self.is_function = isinstance(op, type) and issubclass(op, Function)
        if not self.is_function and not callable(op):
            kind = type(op).__name__
            raise TypeError(
                f"check_op: `op` is a {kind}; expected an octsod.autograd.Function or a function of tensors."
            )
        self.op, self.linear = op, linear
        self.reference = getattr(op, "reference", None) if reference is None else reference
        self.name = str(name or written(op, "op"))
        self.call: Callable[..., Any] = op.apply if self.is_function else op

    def modules(self) -> list[dict[str, Any]]:
        """The globals of the op's own code and of what that may call, unless it is octsod's or a library's: where they
        may call NumPy for memory."""
        waiting: list[Any] = [self.op.forward, self.op.backward] if self.is_function else [self.op]
        found: dict[int, dict[str, Any]] = {}
        seen: set[int] = set()
        while waiting:
            item = waiting.pop()
            function = getattr(item, "py_func", item)  # of what Numba compiles
            names = vars(item) if isinstance(item, types.ModuleType) else getattr(function, "__globals__", None)
            if id(function) in seen or not isinstance(names, dict) or _of_a_library(names):
                continue
            seen.add(id(function))
            cells = getattr(function, "__closure__", None) or ()
            waiting += [cell.cell_contents for cell in cells if cell != types.CellType()]
            if id(names) not in found:
                found[id(names)] = names
                waiting += names.values()
        return list(found.values())


def _of_a_library(names):
    """Whether a module, by its globals, is octsod's, Python's or an installed one."""
    package, folders = str(names.get("__name__")).partition(".")[0], str(names.get("__file__")).split(os.sep)
    python = package in sys.stdlib_module_names and package != "__main__"
    return python or package == "octsod" or "site-packages" in folders or "dist-packages" in folders


def written(function: Any, otherwise: str) -> str:
    """The name of a function or class as code; `otherwise` for one that has none, such as a lambda."""
    name = str(getattr(function, "__name__", ""))
    return name if name.isidentifier() else otherwise


@dataclasses.dataclass
class Run:
    """outputs: NumPy arrays, None for what is missing. gradients: of each leaf of the case, None for one that has none.
    launched: the names of the kernels that forward ran, and of those of namespaces that backward did."""

    outputs: list[Any]
    gradients: list[Any]
    launched: set[str] = dataclasses.field(default_factory=set)

    @property
    def results(self) -> list[tuple[str, Any]]:
        """(what it is, array) of outputs, then gradients."""
        named = [(f"output {i}" if len(self.outputs) > 1 else "the output", y) for i, y in enumerate(self.outputs)]
        named += [(f"the gradient of input {i}", g) for i, g in enumerate(self.gradients)]
        return [(name, array) for name, array in named if array is not None]


def cotangents(case: Case, outputs: Sequence[Any]) -> list[Any]:
    """What the outputs' gradients are in checks: numbers that all differ; None for what has none."""
    found = []
    for index, y in enumerate(outputs):
        has = y is not None and y.dtype.kind == "f"
        generator = np.random.default_rng((case.seed, COTANGENTS, index))
        found.append(np.asarray(signed(generator, y.shape).astype(y.dtype)) if has else None)
    return found


def leaves_of(case: Case, arrays: Sequence[Any], wanted: Sequence[bool] | None = None) -> list[Any]:
    """The arrays as tensors on the default device, but for those that the op gets as arrays. wanted: which ones require
    a gradient; by default, all that can."""
    device, found = default_device(), []
    for index, (leaf, array) in enumerate(zip(case.leaves(), arrays, strict=True)):
        if leaf.array:
            found.append(device.put(array.copy()))
        else:
            tensor = Tensor.on(device, array)
            tensor.requires_grad = leaf.differentiable and (wanted is None or wanted[index])
            found.append(tensor)
    return found


def outputs_of(result: Any) -> list[Any]:
    """The tensors that an op returned, in order, and None for those that are missing. Raises Failed for anything
    else."""
    outputs = list(flat(result))
    for y in outputs:
        if y is not None and not isinstance(y, Tensor):
            raise Failed(f"returned a {type(y).__name__}; expected a tensor or a tuple of tensors.")
    if not any(y is not None for y in outputs):
        raise Failed("returned no tensor; expected at least one.")
    return outputs


def forward(subject: Subject, case: Case, leaves: list[Any]) -> list[Any]:
    """The op's outputs, as tensors, for these leaves. What octsod draws at random is the same each time."""
    positional, keywords = case.arguments(leaves)
    with random.stream(case.seed):
        return outputs_of(subject.call(*positional, **keywords))


def backward(outputs: Sequence[Any], given: Sequence[Any], retain_graph: bool = False) -> None:
    """The way back from all outputs that have a gradient, but for those whose cotangent is None."""
    roots = [(y, v) for y, v in zip(outputs, given, strict=True) if y is not None and v is not None and y.requires_grad]
    if roots:
        tensors = [v if isinstance(v, Tensor) else Tensor.on(y.device, v) for y, v in roots]
        backward_all([y for y, _ in roots], tensors, retain_graph)


def numpy_of(tensors: Sequence[Any]) -> list[Any]:
    """Copies of the values; None for None."""
    return [None if t is None else np.array(t.numpy()) for t in tensors]


def gradients_of(leaves: Sequence[Any]) -> list[Any]:
    """Copies of the gradients; None where there is none."""
    return [
        np.array(t.device.get(t.grad)) if isinstance(t, Tensor) and t.grad is not None else None for t in leaves
    ]  # fmt: skip


def evaluate(
    subject: Subject, case: Case, dtype: str = "float64", arrays: Sequence[Any] | None = None,
    given: Sequence[Any] | None = None, wanted: Sequence[bool] | None = None,
) -> Run:  # fmt: skip
    """Forward and backward on the default device. arrays, given: numbers and cotangents in the place of the case's."""
    leaves = leaves_of(case, case.arrays(dtype) if arrays is None else arrays, wanted)
    launched: set[str] = set()

    def launch(name, function, *arguments, **keywords):
        launched.add(name)
        return function(*arguments, **keywords)

    with launch_with(launch):
        outputs = forward(subject, case, leaves)
        values = numpy_of(outputs)
        there = set(launched)
        backward(outputs, cotangents(case, values) if given is None else given)
    # On the way back, the graph adds and copies with octsod's own kernels.
    return Run(values, gradients_of(leaves), there | {name for name in launched if "." in name})


def values(subject: Subject, case: Case, arrays: Sequence[Any]) -> list[np.ndarray]:
    """The outputs that are there, as NumPy arrays, without a graph."""
    outputs = forward(subject, case, leaves_of(case, arrays, [False] * len(arrays)))
    return [np.array(y.numpy()) for y in outputs if y is not None]


@contextlib.contextmanager
def computed_on(device: Device) -> Iterator[None]:
    """Within it, the reference or another device computes."""
    from ..backend import use_backend

    with use_backend(device), on(device):
        yield


@functools.cache
def _not_of_users() -> tuple[str, ...]:
    """Where code lies of which an op's author need not hear."""
    package = sys.modules[__package__.rpartition(".")[0]]
    folders = [os.path.dirname(os.path.dirname(__file__)), os.path.dirname(np.__file__)]
    folders += [os.path.join(path, "kernels") for path in package.__path__]  # beside it, in a bare checkout
    return (functools.__file__, *(os.path.join(os.path.abspath(folder), "") for folder in folders))


def crash(error: BaseException) -> str:
    """An exception of an op as text: its type, what it says, and where in the op's code it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [k for k, f in enumerate(frames) if f.filename == __file__]
    inside = frames[ours[-1] + 1 :] if ours else frames
    outside = [f for f in inside if not f.filename.startswith(_not_of_users())]
    where = outside[-1] if outside else None
    said = " ".join(str(error).split())
    at = f" ({where.filename}:{where.lineno} in {where.name})" if where else ""
    return f"{RAISES}{type(error).__name__}: {said}{at}"
