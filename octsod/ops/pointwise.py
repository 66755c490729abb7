"""Functions of each element by itself: exponential, logarithm, square root, ReLU."""

from ..autograd import Op
from ..backend import empty, kernels
from ..checks import require_float
from .cost import Cost, Shape, elements


class _Pointwise(Op):
    @staticmethod
    def cost(x: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """One operation per element; backward two."""
        return Cost((2 if backward else 1) * elements(x), itemsize * elements(x, x, x if backward else None))


class Exp(_Pointwise):
    """e ** x, any shape."""

    @staticmethod
    def forward(ctx, x):
        require_float(x, "exp")
        out = empty(x.shape, x.dtype)
        kernels.exp(x, out)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, grad):
        (out,) = ctx.saved
        grad_x = ctx.array(0)
        kernels.multiply(grad, out, grad_x)
        return grad_x


class Log(_Pointwise):
    """The natural logarithm of x, any shape."""

    @staticmethod
    def forward(ctx, x):
        require_float(x, "log")
        out = empty(x.shape, x.dtype)
        kernels.log(x, out)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved
        grad_x = ctx.array(0)
        kernels.divide(grad, x, grad_x)
        return grad_x


class Sqrt(_Pointwise):
    """The square root of x, any shape."""

    @staticmethod
    def forward(ctx, x):
        require_float(x, "sqrt")
        out = empty(x.shape, x.dtype)
        kernels.sqrt(x, out)
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, grad):
        (out,) = ctx.saved
        grad_x = ctx.array(0)
        kernels.add(out, out, grad_x)
        kernels.divide(grad, grad_x, grad_x)  # g / (2*sqrt(x))
        return grad_x


class ReLU(_Pointwise):
    """x where it is positive, else 0, any shape. A NaN stays NaN. The gradient at 0 is 0."""

    @staticmethod
    def forward(ctx, x):
        require_float(x, "relu")
        out = empty(x.shape, x.dtype)
        kernels.relu(x, out)
        ctx.save_for_backward(out)  # which is positive where x is; the next op needs it, too
        return out

    @staticmethod
    def backward(ctx, grad):
        (out,) = ctx.saved
        grad_x = ctx.array(0)
        kernels.relu_backward(grad, out, grad_x)
        return grad_x
