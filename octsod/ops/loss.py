"""Sigmoid and the loss: mean binary cross-entropy with logits."""

from ..autograd import Op
from ..backend import empty, kernels
from ..checks import require, require_dtype, require_float, require_given
from .cost import Cost, Shape, elements


class Sigmoid(Op):
    """`1 / (1 + exp(-x))`, any shape."""

    @staticmethod
    def forward(ctx, x):
        require_float(x, "sigmoid")
        out = empty(x.shape, x.dtype)
        kernels.sigmoid(x, out)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved
        grad_x = ctx.array(0)
        kernels.sigmoid_backward(grad, x, grad_x)
        return grad_x

    @staticmethod
    def cost(x: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """An exponential counted as one operation."""
        return Cost(4 * elements(x), itemsize * elements(x, x, x if backward else None))


class BinaryCrossEntropyWithLogits(Op):
    """The mean over all elements of `max(x, 0) - x*t + log(1 + exp(-|x|))`; logits x and target t of one shape."""

    @staticmethod
    def forward(ctx, logits, target):
        op = "binary_cross_entropy_with_logits"
        require_float(logits, op, "logits")
        require_given(target, op, "target")
        require(
            logits.shape == target.shape, op, "target", f"has shape {target.shape}",
            f"{logits.shape}, the shape of `logits`",
        )  # fmt: skip
        require_dtype(target, logits, op, "target", "logits")
        require(elements(logits.shape) > 0, op, "logits", f"has shape {logits.shape}", "at least one element")
        require(not ctx.needs[1], op, "target", "requires a gradient", "constants")
        out = empty((), logits.dtype)
        kernels.binary_cross_entropy_with_logits(logits, target, out)
        ctx.save_for_backward(logits, target)
        return out

    @staticmethod
    def backward(ctx, grad):
        logits, target = ctx.saved
        grad_logits = ctx.array(0)
        kernels.binary_cross_entropy_with_logits_backward(grad, logits, target, grad_logits)
        return grad_logits, None

    @staticmethod
    def cost(logits: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """An exponential and a logarithm counted as one operation each."""
        return Cost(7 * elements(logits), itemsize * elements(logits, logits, logits if backward else None))
