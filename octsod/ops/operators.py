"""Operators of tensors: arithmetic, sums, products, parts, another shape, another device. This module puts them on
`Tensor`."""

import math
from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

from ..autograd import Op, Tensor
from ..backend import Device, device_of, get_device
from ..checks import require, require_float
from .arithmetic import Add, Divide, Multiply, Power, Reshape, Subtract, Sum, axes_of
from .classification import Max
from .cost import Cost, Shape
from .pointwise import Exp, Log, Sqrt
from .products import Matmul
from .shapes import Slice, Transpose


class To(Op):
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
    require_float(a, "negative", "a")
    return multiply(a, -1)


def power(a: Tensor, exponent: Any) -> Tensor:
    """a ** exponent, a number. Raises TypeError if it is none."""
    number = exponent.item() if getattr(exponent, "ndim", 1) == 0 and not isinstance(exponent, Tensor) else exponent
    if not isinstance(number, Real):
        raise TypeError(f"power: `exponent` is {exponent}; expected a number.")
    return Power.apply(a, exponent=float(number))


def sum(x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """x added up over `axis`, by default over all. With keepdims, those axes stay, with length 1."""
    return Sum.apply(x, axis=axis, keepdims=keepdims)


def mean(x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """The mean of x over `axis`, by default over all. With keepdims, those axes stay, with length 1."""
    require_float(x, "mean")
    require(x.size > 0, "mean", "x", f"has shape {tuple(x.shape)}", "at least one element")
    total = sum(x, axis, keepdims)
    return total * (total.size / x.size)


def reshape(x: Tensor, *shape: int | Sequence[int]) -> Tensor:
    """The same elements in another shape; one length may be -1."""
    return Reshape.apply(x, shape=shape[0] if len(shape) == 1 else shape)


def max(x: Tensor, axis: int | Sequence[int] | None = None, keepdims: bool = False) -> Tensor:
    """The largest elements of x over `axis`, by default over all; a NaN wins. With keepdims, those axes stay, with
    length 1. Of equal ones, the first in C order gets the gradient."""
    if axis is None:
        require(x.size > 0, "max", "x", f"has shape {tuple(x.shape)}", "at least one element")
        largest = Max.apply(x.reshape(-1), axis=0)
        return largest.reshape((1,) * x.ndim) if keepdims else largest
    for n in reversed(axes_of("max", axis, x.ndim)):  # the last axis first: so the first row wins of those as good
        x = Max.apply(x, axis=n, keepdims=keepdims)
    return x


def matmul(a: Any, b: Any) -> Tensor:
    """a @ b, as NumPy has it: leading axes broadcast, vectors are rows of a and columns of b."""
    return Matmul.apply(*_pair(a, b))


def transpose(x: Tensor, *axes: int | Sequence[int] | None) -> Tensor:
    """x with its axes in the order `axes`, several numbers or a sequence of them; reversed if there are none."""
    order = axes[0] if len(axes) == 1 and not hasattr(axes[0], "__index__") else axes or None
    return Transpose.apply(x, axes=order)


def getitem(x: Tensor, index: Any) -> Tensor:
    """x[index] with NumPy's basic indexing: integers, slices (of any step), Ellipsis and None. A copy.

    Raises TypeError for anything else, IndexError for what is out of range.
    """
    return Slice.apply(x, index=index)


def iterate(x: Tensor) -> Iterator[Tensor]:
    """x[0], x[1], and so on."""
    return (x[i] for i in range(len(x)))


def exp(x: Tensor) -> Tensor:
    """e ** x."""
    return Exp.apply(x)


def log(x: Tensor) -> Tensor:
    """The natural logarithm of x."""
    return Log.apply(x)


def sqrt(x: Tensor) -> Tensor:
    """The square root of x."""
    return Sqrt.apply(x)


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
    "__matmul__": matmul,
    "__rmatmul__": lambda a, b: matmul(b, a),
    "__getitem__": getitem,
    "__iter__": iterate,
    "exp": exp,
    "log": log,
    "max": max,
    "sqrt": sqrt,
    "sum": sum,
    "mean": mean,
    "reshape": reshape,
    "transpose": transpose,
    "T": property(transpose),
    "to": to,
}

for name, operator in OPERATORS.items():
    setattr(Tensor, name, operator)
