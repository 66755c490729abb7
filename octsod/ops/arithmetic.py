"""Plain tensor arithmetic with broadcasting: add, subtract, multiply, divide, power, sum, reshape.

Of floats: NumPy's answers for integers often have another dtype than what went in, so integers are refused.
"""

import math
from collections.abc import Sequence

from ..autograd import Op
from ..backend import empty, full, kernels, zeros
from ..backend.contract import Array
from ..checks import require, require_dtype, require_float, require_integer
from .cost import Cost, Shape, elements


def broadcast_shape(op: str, a: Shape, b: Shape) -> tuple[int, ...]:
    """The common shape of arrays of shapes a and b. Raises ValueError, naming `op`, if there is none."""
    shape: list[int] = []
    for i in range(max(len(a), len(b))):
        m = a[len(a) - 1 - i] if i < len(a) else 1
        n = b[len(b) - 1 - i] if i < len(b) else 1
        require(m == n or 1 in (m, n), op, "b", f"has shape {tuple(b)}", f"one that broadcasts with {tuple(a)}")
        shape.insert(0, n if m == 1 else m)
    return tuple(shape)


def expand(array: Array, shape: tuple[int, ...]) -> Array:
    """The array broadcast to `shape`."""
    if array.shape == shape:
        return array
    out = empty(shape, array.dtype)
    kernels.copy(array, out)
    return out


def axes_of(op: str, axis: int | Sequence[int] | None, dimensions: int) -> list[int]:
    """The axes that `axis` means (None for all, a number or several), counted from the front, in order."""
    axes = range(dimensions) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = [require_integer(n, op, "axis", -dimensions) for n in axes]
    for n in axes:
        require(n < dimensions, op, "axis", f"is {n}", f"less than {dimensions}, the number of dimensions")
    return sorted({n % dimensions for n in axes})


def sum_axes(array: Array, axes: Sequence[int]) -> Array:
    """The array added up over `axes`, in ascending order, which stay with length 1."""
    last = len(axes)
    while last:  # neighbours at once, and first what lies side by side in memory
        first = last - 1
        while first and axes[first - 1] == axes[first] - 1:
            first -= 1
        shape, start, stop = array.shape, axes[first], axes[last - 1] + 1
        outer, count, inner = math.prod(shape[:start]), math.prod(shape[start:stop]), math.prod(shape[stop:])
        out = empty((*shape[:start], *(1,) * (stop - start), *shape[stop:]), array.dtype)
        kernels.sum_middle(array.reshape(outer, count, inner), out.reshape(outer, inner))
        array, last = out, first
    return array


def reduce_to(array: Array, shape: tuple[int, ...]) -> Array:
    """Adjoint of `expand`: the array added up to `shape`, from which it was broadcast."""
    if array.shape == shape:
        return array
    extra = array.ndim - len(shape)
    axes = [*range(extra), *(extra + i for i, n in enumerate(shape) if n == 1 and array.shape[extra + i] != 1)]
    return sum_axes(array, axes).reshape(shape)


def _result(op, a, b):
    """Where the result of an op on a and b goes."""
    require_float(a, op, "a")
    require_dtype(b, a, op, "b", "a")
    return empty(broadcast_shape(op, a.shape, b.shape), a.dtype)


def _terms(ctx, index, shape, grad):
    """An array for the terms that `reduce_to` adds up to the gradient of input `index`, which has this shape; that
    gradient's own array, if there is nothing to add up."""
    return ctx.array(index) if ctx.needs[index] and shape == grad.shape else empty(grad.shape, grad.dtype)


def _negate(array, out):
    """out, with -array in it."""
    kernels.subtract(zeros((), array.dtype), array, out)
    return out


class _Elementwise(Op):
    @classmethod
    def cost(cls, a: Shape, b: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """From the shapes of a and b: one operation per element of the result; backward, of each gradient."""
        shape = broadcast_shape(cls.__name__, a, b)
        return Cost(elements(shape) * (1 + backward), itemsize * elements(a, b, shape))


class Add(_Elementwise):
    """a + b"""

    @staticmethod
    def forward(ctx, a, b):
        ctx.shapes = a.shape, b.shape
        out = _result("add", a, b)
        kernels.add(a, b, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        return tuple(reduce_to(grad, s) if need else None for s, need in zip(ctx.shapes, ctx.needs, strict=True))


class Subtract(_Elementwise):
    """a - b"""

    @staticmethod
    def forward(ctx, a, b):
        ctx.shapes = a.shape, b.shape
        out = _result("subtract", a, b)
        kernels.subtract(a, b, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.shapes
        grad_b = _negate(reduce_to(grad, b), ctx.array(1)) if ctx.needs[1] else None
        return reduce_to(grad, a) if ctx.needs[0] else None, grad_b


class Multiply(_Elementwise):
    """a * b"""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        out = _result("multiply", a, b)
        kernels.multiply(a, b, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved
        grads = []
        for index, own, other in ((0, a, b), (1, b, a)):
            product = None
            if ctx.needs[index]:
                product = _terms(ctx, index, own.shape, grad)
                kernels.multiply(grad, other, product)
                product = reduce_to(product, own.shape)
            grads.append(product)
        return tuple(grads)


class Divide(_Elementwise):
    """a / b"""

    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a, b)
        out = _result("divide", a, b)
        kernels.divide(a, b, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        a, b = ctx.saved
        quotient = _terms(ctx, 0, a.shape, grad)
        kernels.divide(grad, b, quotient)  # g/b
        grad_b = None
        if ctx.needs[1]:
            grad_b = _terms(ctx, 1, b.shape, grad)
            kernels.multiply(quotient, a, grad_b)
            kernels.divide(grad_b, b, grad_b)
            grad_b = reduce_to(grad_b, b.shape)
            _negate(grad_b, grad_b)  # -g*a/b^2
        return reduce_to(quotient, a.shape) if ctx.needs[0] else None, grad_b


class Power(Op):
    """a ** exponent, a Python number."""

    @staticmethod
    def forward(ctx, a, exponent):
        require_float(a, "power", "a")
        ctx.save_for_backward(a)
        ctx.exponent = exponent
        out = empty(a.shape, a.dtype)
        kernels.power(a, full((1,), exponent, a.dtype), out)
        return out

    @staticmethod
    def backward(ctx, grad):
        (a,) = ctx.saved
        if ctx.exponent == 0:  # also where a is zero
            return zeros(a.shape, a.dtype)
        out = ctx.array(0)
        kernels.power(a, full((1,), ctx.exponent - 1, a.dtype), out)
        kernels.multiply(out, grad, out)
        kernels.multiply(out, full((), ctx.exponent, out.dtype), out)
        return out

    @staticmethod
    def cost(a: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """A power counted as one operation."""
        return Cost(elements(a) * (3 if backward else 1), itemsize * elements(a, a, a if backward else None))


class Sum(Op):
    """a added up over `axis` (None for all, a number or a tuple), which is kept with length 1 if `keepdims`."""

    @staticmethod
    def forward(ctx, a, axis=None, keepdims=False):
        require_float(a, "sum")
        axes = axes_of("sum", axis, a.ndim)
        ctx.shape, ctx.kept = a.shape, tuple(1 if i in axes else n for i, n in enumerate(a.shape))
        out = sum_axes(a, axes)
        return out if keepdims else out.reshape(tuple(n for i, n in enumerate(a.shape) if i not in axes))

    @staticmethod
    def backward(ctx, grad):
        grad_a = ctx.array(0)
        kernels.copy(grad.reshape(ctx.kept), grad_a)
        return grad_a

    @staticmethod
    def cost(a: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """One addition per element; backward a copy."""
        return Cost(0 if backward else elements(a), itemsize * elements(a))


class Reshape(Op):
    """The same elements in another shape; one length may be -1."""

    @staticmethod
    def forward(ctx, a, shape):
        shape = (shape,) if isinstance(shape, int) else tuple(shape)
        known = math.prod(n for n in shape if n != -1)
        fits = shape.count(-1) <= 1 and (known == math.prod(a.shape) if -1 not in shape else known > 0)
        fits = fits and math.prod(a.shape) % max(known, 1) == 0 and min(shape, default=0) >= -1
        require(fits, "reshape", "shape", f"is {shape}", f"one of {math.prod(a.shape)} elements, like {a.shape}")
        ctx.shape = a.shape
        return a.reshape(shape)

    @staticmethod
    def backward(ctx, grad):
        return grad.reshape(ctx.shape)

    @staticmethod
    def cost(a: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """Nothing."""
        return Cost(0, 0)
