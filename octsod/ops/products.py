"""Products of matrices: `matmul`, and the linear layer."""

import math

from ..autograd import Op
from ..backend import empty, kernels
from ..backend.contract import Array
from ..checks import require, require_channels, require_dtype, require_float, require_given
from .arithmetic import broadcast_shape, expand, reduce_to
from .cost import Cost, Shape, elements


def _sizes(a: Shape, b: Shape) -> tuple[tuple[int, ...], int, int, int]:
    """(batch, M, K, N) of a product: leading axes broadcast, a vector a is one row, a vector b one column."""
    for name, shape in (("a", a), ("b", b)):
        require(len(shape) > 0, "matmul", name, "has shape ()", "at least one dimension")
    depth = b[-2] if len(b) > 1 else b[0]
    require(
        depth == a[-1], "matmul", "b", f"has shape {tuple(b)}",
        f"{a[-1]} rows, as many as `a`, of shape {tuple(a)}, has columns",
    )  # fmt: skip
    try:
        batch = broadcast_shape("matmul", a[:-2], b[:-2])
    except ValueError:  # which names the leading axes alone
        require(
            False, "matmul", "b", f"has shape {tuple(b)}",
            f"leading axes that broadcast with those of `a`, of shape {tuple(a)}",
        )  # fmt: skip
    return batch, a[-2] if len(a) > 1 else 1, depth, b[-1] if len(b) > 1 else 1


def _multiply(a: Array, b: Array, out: Array, transpose_a: bool = False, transpose_b: bool = False) -> Array:
    """The products of matrices a and b (B, ., .), in `out`, an array of any shape that has room for them."""
    rows, columns = a.shape[2 if transpose_a else 1], b.shape[1 if transpose_b else 2]
    kernels.matmul(a, b, out.reshape(a.shape[0], rows, columns), transpose_a, transpose_b)
    return out


class Matmul(Op):
    """a @ b as NumPy has it: matrices in the last two axes, leading axes broadcast; vectors are rows of a, columns of
    b, and the result lacks their axis."""

    @staticmethod
    def forward(ctx, a, b):
        require_float(a, "matmul", "a")
        require_dtype(b, a, "matmul", "b", "a")
        ctx.sizes = batch, rows, _, columns = _sizes(a.shape, b.shape)
        ctx.save_for_backward(a, b)
        shape = (*batch, *(rows,) * (a.ndim > 1), *(columns,) * (b.ndim > 1))
        return _multiply(*_batched(ctx.sizes, a, b), empty(shape, a.dtype))

    @staticmethod
    def backward(ctx, grad):
        (a, b), (batch, rows, depth, columns) = ctx.saved, ctx.sizes
        left, right = _batched(ctx.sizes, a, b)
        grad = grad.reshape(*left.shape[:2], columns)
        grad_a = grad_b = None
        if ctx.needs[0]:
            grad_a = _gradient(ctx, 0, a, (*batch, rows, depth), grad, right, transpose_b=True)
        if ctx.needs[1]:
            shape = (depth, columns) if right.shape[0] == 1 else (*batch, depth, columns)
            grad_b = _gradient(ctx, 1, b, shape, left, grad, transpose_a=True)
        return grad_a, grad_b

    @staticmethod
    def cost(a: Shape, b: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """From the shapes of a and b: multiplies and adds; backward, of each gradient."""
        batch, rows, depth, columns = _sizes(a, b)
        out = (*batch, rows, columns)
        return Cost(
            2 * elements(out) * depth * (1 + backward), itemsize * elements(a, b, out, *((a, b) if backward else ()))
        )


def _matrix(array, rows, columns):
    """The shape of an array as matrices, which vectors are, too."""
    return (*array.shape[:-2], rows, columns)


def _batched(sizes, a, b):
    """a and b as matrices (B, ., .) whose products are the result. If all rows of a meet the same b, B is 1."""
    batch, rows, depth, columns = sizes
    count = math.prod(batch)
    if elements(b.shape[:-2]) == 1:
        return a.reshape(1, count * rows, depth), b.reshape(1, depth, columns)
    a = expand(a.reshape(_matrix(a, rows, depth)), (*batch, rows, depth))
    b = expand(b.reshape(_matrix(b, depth, columns)), (*batch, depth, columns))
    return a.reshape(count, rows, depth), b.reshape(count, depth, columns)


def _gradient(ctx, index, operand, shape, left, right, **transposed):
    """The gradient of an operand that was broadcast to matrices of `shape`: the products of left and right."""
    fits = elements(operand.shape) == elements(shape)
    out = _multiply(left, right, ctx.array(index) if fits else empty(shape, operand.dtype), **transposed)
    return out if fits else reduce_to(out, _matrix(operand, *shape[-2:])).reshape(operand.shape)


class Linear(Op):
    """x (N, I), weight (O, I), bias (O,) or None -> (N, O): x @ weight.T + bias."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        require_float(x, "linear")
        require(x.ndim == 2, "linear", "x", f"has shape {tuple(x.shape)}", "two dimensions (N, I)")
        require_given(weight, "linear", "weight")
        require(
            weight.ndim == 2 and weight.shape[1] == x.shape[1], "linear", "weight", f"has shape {tuple(weight.shape)}",
            f"(O, {x.shape[1]}), with one column per feature of `x`",
        )  # fmt: skip
        require_dtype(weight, x, "linear", "weight")
        out = empty((x.shape[0], weight.shape[0]), x.dtype)
        _multiply(x.reshape(1, *x.shape), weight.reshape(1, *weight.shape), out, transpose_b=True)
        if bias is not None:
            require_channels(bias, weight.shape[0], "linear", "bias", "weight")
            require_dtype(bias, x, "linear", "bias")
            kernels.add(out, bias, out)
        ctx.save_for_backward(x, weight)
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved
        (images, outs), grad_x, grad_weight, grad_bias = grad.shape, ctx.array(0), ctx.array(1), ctx.array(2)
        matrix = grad.reshape(1, images, outs)
        if grad_x is not None:
            _multiply(matrix, weight.reshape(1, *weight.shape), grad_x)
        if grad_weight is not None:
            _multiply(matrix, x.reshape(1, *x.shape), grad_weight, transpose_a=True)
        if grad_bias is not None:
            kernels.sum_middle(matrix, grad_bias.reshape(1, outs))
        return grad_x, grad_weight, grad_bias

    @staticmethod
    def cost(x: Shape, weight: Shape, bias: Shape | None = None, itemsize: int = 4, backward: bool = False) -> Cost:
        """From the shapes of x, weight and bias: multiplies and adds; backward, of each gradient."""
        out = (x[0], weight[0])
        flops = 2 * elements(out) * x[1] * (1 + backward) + (elements(out) if bias is not None else 0)
        return Cost(flops, itemsize * elements(x, weight, bias, out, *((x, weight) if backward else ())))
