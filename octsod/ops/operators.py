"""Operators of tensors: arithmetic, sums, another shape, another device. This module puts them on `Tensor`."""

import math
from collections.abc import Sequence
from typing import Any

from ..autograd import Function, Tensor
from ..backend import Device, device_of, get_device
from ..checks import require
from .arithmetic import Add, Divide, Multiply, Power, Reshape, Subtract, Sum
from .cost import Cost, Shape


class To(Function):
    """x on another device."""

    moves = True

    @staticmethod
    def forward(ctx, x, device):
        ctx.source, ctx.target_device = device_of(x), device
        return device.put(ctx.source.get(x))

    @staticmethod
    def backward(ctx, grad):
        return ctx.source.put(ctx.target_device.get(grad))

    @staticmethod
    def cost(x: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """Read once, written once."""
        return Cost(0, 2 * itemsize * math.prod(x))


def to(tensor: Tensor, device: str | Device) -> Tensor:
    """The tensor on `device`, a name or a `Device`; the tensor itself if it is there. Gradients flow back.

    Hosts ("cpu", "reference") share their memory: `use_backend` says which of them computes.
    """
    device = get_device(device)
    return tensor if device.shares_memory_with(tensor.device) else To.apply(tensor, device=device)


def _pair(a, b):
    """Two tensors, of which one may be a number or an array."""
    like = a if isinstance(a, Tensor) else b
    return like.constant(a), like.constant(b)


def add(a: Any, b: Any) -> Tensor:
    """a + b, broadcast."""
    return Add.apply(*_pair(a, b))


def subtract(a: Any, b: Any) -> Tensor:
    """a - b, broadcast."""
    return Subtract.apply(*_pair(a, b))


def multiply(a: Any, b: Any) -> Tensor:
    """a * b, broadcast."""
    return Multiply.apply(*_pair(a, b))


def divide(a: Any, b: Any) -> Tensor:
    """a / b, broadcast."""
    return Divide.apply(*_pair(a, b))


def negative(a: Tensor) -> Tensor:
    """-a."""
    return multiply(a, -1)


def power(a: Tensor, exponent: float) -> Tensor:
    """a ** exponent, a number. Raises TypeError if it is none."""
    if isinstance(exponent, Tensor) or hasattr(exponent, "__len__") or getattr(exponent, "ndim", 0) > 0:
        raise TypeError(f"power: `exponent` is {exponent}; expected a number.")
    return Power.apply(a, exponent=float(exponent))


def sum(x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """x added up over `axis`, by default over all. With keepdims, those axes stay, with length 1."""
    return Sum.apply(x, axis=axis, keepdims=keepdims)


def mean(x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """The mean of x over `axis`, by default over all. With keepdims, those axes stay, with length 1."""
    require(x.size > 0, "mean", "x", f"has shape {tuple(x.shape)}", "at least one element")
    total = sum(x, axis, keepdims)
    return total * (total.size / x.size)


def reshape(x: Tensor, *shape: int | Sequence[int]) -> Tensor:
    """The same elements in another shape; one length may be -1."""
    return Reshape.apply(x, shape=shape[0] if len(shape) == 1 else shape)


# Name on `Tensor` -> function. tensor.py declares them for type checkers.
OPERATORS = {
    "__add__": add,
    "__radd__": lambda a, b: add(b, a),
    "__sub__": subtract,
    "__rsub__": lambda a, b: subtract(b, a),
    "__mul__": multiply,
    "__rmul__": lambda a, b: multiply(b, a),
    "__truediv__": divide,
    "__rtruediv__": lambda a, b: divide(b, a),
    "__neg__": negative,
    "__pow__": power,
    "sum": sum,
    "mean": mean,
    "reshape": reshape,
    "to": to,
}

for name, operator in OPERATORS.items():
    setattr(Tensor, name, operator)
