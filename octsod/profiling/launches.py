"""Launches of kernels: which of them are equal, and copies of their arguments."""

import collections
import copy
import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..autograd import Tensor
from ..backend import Host, default_device, device_of, is_array, memory
from ..backend.deferred import ActivationGradient, ActivationSums, Deferred, DeferredGradient, GradientTarget
from ..ops import Cost
from .costs import DESCRIPTIONS

_SETTING = 1 << 16  # larger integers are no settings: seeds, counts of steps
_FAST = {int, bool, str, type(None)}


def signature(value: Any) -> Any:
    """The parts of a launch's arguments that its time depends on: shapes and settings. Equal for equal work, and
    hashable."""
    kind = type(value)
    if kind is np.ndarray:
        return value.shape, value.dtype
    if kind is list or kind is tuple:  # without a call for what most items are: a launch may have hundreds of them
        return tuple([
            (item.shape, item.dtype) if type(item) is np.ndarray
            else item if item is None or item is True or item is False
            else signature(item)
            for item in value
        ])  # fmt: skip
    if kind is float:
        return float
    if kind in _FAST:
        return int if kind is int and not -_SETTING < value < _SETTING else value
    if kind is Deferred:
        sums = value.activation_sums
        return "map", signature(value.raw), sums is not None and sums.values is None
    if kind is DeferredGradient:
        return "gradient", signature(value.g), value.g is value.raw
    if kind is GradientTarget:
        return "target", signature(value.array), value.accumulate, value.gradient_sums is not None
    if kind is ActivationGradient:
        return "of activation", signature(value.array), value.gradient_sums is not None
    if is_array(value):
        return tuple(value.shape), value.dtype
    if isinstance(value, (list, tuple)):
        return tuple([signature(item) for item in value])
    if isinstance(value, dict):
        return tuple([(str(key), signature(item)) for key, item in value.items()])
    return kind  # numbers, which do not decide on time, and whatever else users' kernels take


def arrays_of(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """(path, array) of every array in a launch's arguments; an array may appear more than once."""
    if is_array(value):
        yield path, value
    elif isinstance(value, (list, tuple)):
        for i, item in enumerate(value):
            yield from arrays_of(item, f"{path}[{i}]")
    elif isinstance(value, (ActivationGradient, ActivationSums, Deferred, DeferredGradient, GradientTarget)):
        for name in value.__slots__:
            yield from arrays_of(getattr(value, name), f"{path}.{name}")


def first_array(value: Any) -> Any:
    """Any array of a launch's arguments, which tells where it runs; None if there is none."""
    if type(value) is np.ndarray:
        return value
    if isinstance(value, (Deferred, DeferredGradient)):
        return value.raw
    if isinstance(value, (list, tuple)):
        return next((array for item in value if (array := first_array(item)) is not None), None)
    return next((array for _, array in arrays_of(value)), None)


def private(arguments: Any) -> Any:
    """A copy of a launch's arguments. Its arrays are placed as in a step: in the pool, aligned. What was one array is
    one array again, since kernels may overwrite what they have read."""
    memo = {}
    for _, array in arrays_of(arguments):
        if id(array) not in memo:
            memo[id(array)] = memory.empty(array.shape, array.dtype)
            memo[id(array)][...] = array
    return copy.deepcopy(arguments, memo)


def told_apart(name: str, title: str, seen: collections.Counter[tuple[str, str]]) -> str:
    """A title for one more kind of launches of a kernel: with a number if others, which differ in something that the
    title leaves out, have it already. seen: how many have."""
    seen[name, title] += 1
    return title if seen[name, title] == 1 else f"{title} ({seen[name, title]})".strip()


def described(name: str, arguments: Any) -> tuple[str, Cost | None]:
    """(title, cost) of a launch. The title gives the shapes that a reader wants to know, but not the batch. The cost is
    None if nobody knows it, as of kernels of users' namespaces."""
    if name in DESCRIPTIONS:
        return DESCRIPTIONS[name](*arguments)
    return ", ".join("x".join(map(str, array.shape)) for _, array in arrays_of(arguments)), None


@dataclasses.dataclass(frozen=True)
class Example:
    """An application of a user's op: what decides on its cost. function: the op. shapes: of its inputs. on_host:
    whether a processor computes it, not a GPU. settings: its parameters, of which `kinds` is the signature."""

    function: Any
    shapes: tuple[Any, ...]
    itemsize: int
    on_host: bool
    kinds: Any
    settings: dict[str, Any] = dataclasses.field(compare=False)

    @classmethod
    def of(cls, function: Any, tensors: Any, settings: dict[str, Any]) -> "Example":
        first = next((t for t in tensors if hasattr(t, "dtype")), None)
        itemsize = 4 if first is None else first.dtype.itemsize
        array = first_array(first._data if isinstance(first, Tensor) else first)
        device = default_device() if array is None else device_of(array)
        shapes, kinds = tuple(shapes_of(tensors)), signature(settings)
        return cls(function, shapes, itemsize, isinstance(device, Host), kinds, settings)


def shapes_of(inputs: Any) -> list[Any]:
    """The shapes of an op's inputs: tensors, or what becomes one; None for a missing one."""
    return [None if x is None else tuple(x.shape if hasattr(x, "shape") else np.shape(x)) for x in inputs]
