"""Sigmoid, and the losses of saliency: mean binary cross-entropy with logits, and the overlap of regions."""

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


class OverlapLoss(Op):
    """The mean over pictures of 1 - I/U, of logits and target (N, ...) of one shape. With p = sigmoid(logits), t the
    target, and sums over a picture: I = sum(p*t) + 1 and U = sum(p) + sum(t) - sum(p*t) + 1 if region is "iou",
    I = 2*sum(p*t) + 1 and U = sum(p) + sum(t) + 1 if it is "dice"."""

    @staticmethod
    def forward(ctx, logits, target, region):
        op = f"{region}_loss"
        require_float(logits, op, "logits")
        require_given(target, op, "target")
        require_dtype(target, logits, op, "target", "logits")
        require(
            logits.shape == target.shape, op, "target", f"has shape {tuple(target.shape)}",
            f"{tuple(logits.shape)}, the shape of `logits`",
        )  # fmt: skip
        require(
            logits.ndim > 0 and logits.shape[0] > 0, op, "logits", f"has shape {tuple(logits.shape)}",
            "(N, ...) with at least one picture",
        )  # fmt: skip
        require(not ctx.needs[1], op, "target", "requires a gradient", "constants")
        shape = logits.shape[0], elements(logits.shape[1:])
        sums, out = empty((shape[0], 2), "float64"), empty((), logits.dtype)
        kernels.overlap_loss(logits.reshape(shape), target.reshape(shape), region, sums, out)
        ctx.region = region
        ctx.save_for_backward(logits.reshape(shape), target.reshape(shape), sums)
        return out

    @staticmethod
    def backward(ctx, grad):
        logits, target, sums = ctx.saved
        grad_logits = ctx.array(0)
        kernels.overlap_loss_backward(grad, logits, target, ctx.region, sums, grad_logits.reshape(logits.shape))
        return grad_logits, None

    @staticmethod
    def cost(logits: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """An exponential counted as one operation."""
        return Cost(8 * elements(logits), itemsize * elements(logits, logits, logits if backward else None))
