"""What can be done with a tensor: arithmetic, sums, another shape, another device. Put on `Tensor` here."""

import math

from ..autograd import Function, Tensor
from ..backend import device_of, get_device
from ..checks import require
from .arithmetic import Add, Divide, Multiply, Power, Reshape, Subtract, Sum
from .cost import Cost


class To(Function):
    """x on another device."""

    @staticmethod
    def forward(ctx, x, device):
        ctx.source, ctx.target_device = device_of(x), device
        return device.put(ctx.source.get(x))

    @staticmethod
    def backward(ctx, grad):
        return ctx.source.put(ctx.target_device.get(grad))

    @staticmethod
    def cost(x, itemsize=4, backward=False):
        """Read once, written once."""
        return Cost(0, 2 * itemsize * math.prod(x))


def to(tensor, device):
    """The tensor on `device`, a name or a `Device`; itself if it is there. Gradients flow back."""
    device = get_device(device)
    return tensor if tensor.device is device else To.apply(tensor, device=device)


def _pair(a, b):
    """Two tensors, of which one may be a number or an array."""
    like = a if isinstance(a, Tensor) else b
    return like.constant(a), like.constant(b)


def add(a, b):
    """a + b, broadcast."""
    return Add.apply(*_pair(a, b))


def subtract(a, b):
    """a - b, broadcast."""
    return Subtract.apply(*_pair(a, b))


def multiply(a, b):
    """a * b, broadcast."""
    return Multiply.apply(*_pair(a, b))


def divide(a, b):
    """a / b, broadcast."""
    return Divide.apply(*_pair(a, b))


def negative(a):
    """-a."""
    return multiply(a, -1)


def power(a, exponent):
    """a ** exponent, a number."""
    if isinstance(exponent, Tensor) or getattr(exponent, "ndim", 0) or hasattr(exponent, "__len__"):
        raise TypeError(f"power: `exponent` is {exponent}; expected a number.")
    return Power.apply(a, exponent=float(exponent))


def sum(x, axis=None, keepdims=False):
    """Added up over `axis` (all by default)."""
    return Sum.apply(x, axis=axis, keepdims=keepdims)


def mean(x, axis=None, keepdims=False):
    """The mean over `axis` (all by default)."""
    require(x.size > 0, "mean", "x", f"has shape {tuple(x.shape)}", "at least one element")
    total = sum(x, axis, keepdims)
    return total * (total.size / x.size)


def reshape(x, *shape):
    """The same elements in another shape; one length may be -1."""
    return Reshape.apply(x, shape=shape[0] if len(shape) == 1 else shape)


# Name on `Tensor` -> what it does.
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
