"""Maxima, log-softmax and cross-entropy: what classifiers end in."""

import math

from ..autograd import Op
from ..backend import Host, device_of, empty, kernels
from ..backend.contract import Array
from ..checks import described, require, require_float, require_given
from .arithmetic import axes_of
from .cost import Cost, Shape, elements


def _middle(op: str, x: Array, axis: int) -> tuple[int, tuple[int, int, int]]:
    """The axis counted from the front, and (outer, count, inner) with that axis in the middle."""
    (axis,) = axes_of(op, (axis,), x.ndim)
    return axis, (math.prod(x.shape[:axis]), x.shape[axis], math.prod(x.shape[axis + 1 :]))


class Max(Op):
    """The largest elements of x along one axis, which is kept with length 1 if `keepdims`; a NaN wins.

    The gradient goes to the first one of equal ones.
    """

    @staticmethod
    def forward(ctx, x, axis, keepdims=False):
        require_float(x, "max")
        axis, ctx.sizes = _middle("max", x, axis)
        outer, count, inner = ctx.sizes
        kept = (*x.shape[:axis], 1, *x.shape[axis + 1 :])
        require(
            count > 0 or outer * inner == 0, "max", "x", f"has shape {tuple(x.shape)}",
            f"at least one element along axis {axis}",
        )  # fmt: skip
        out = empty(kept if keepdims else (*x.shape[:axis], *x.shape[axis + 1 :]), x.dtype)
        if out.size:
            kernels.max_middle(x.reshape(ctx.sizes), out.reshape(outer, inner))
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx, grad):
        (x,), (outer, _, inner) = ctx.saved, ctx.sizes
        grad_x = ctx.array(0)
        if x.size:
            kernels.max_middle_backward(grad.reshape(outer, inner), x.reshape(ctx.sizes), grad_x.reshape(ctx.sizes))
        return grad_x

    @staticmethod
    def cost(x: Shape, out: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """From the shapes of x and of the result: one comparison per element."""
        return Cost(elements(x), itemsize * elements(x, out, x if backward else None))


class LogSoftmax(Op):
    """x - log(sum(exp(x))), with sums along one axis."""

    @staticmethod
    def forward(ctx, x, axis=-1):
        require_float(x, "log_softmax")
        require(x.ndim > 0, "log_softmax", "x", "has shape ()", "at least one dimension")
        _, ctx.sizes = _middle("log_softmax", x, axis)
        out = empty(x.shape, x.dtype)
        if x.size:
            kernels.log_softmax(x.reshape(ctx.sizes), out.reshape(ctx.sizes))
        ctx.save_for_backward(out)
        return out

    @staticmethod
    def backward(ctx, grad):
        (out,) = ctx.saved
        grad_x = ctx.array(0)
        if out.size:
            kernels.log_softmax_backward(*(array.reshape(ctx.sizes) for array in (grad, out, grad_x)))
        return grad_x

    @staticmethod
    def cost(x: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """A maximum, a difference, an exponential, a sum and a difference per element; backward one less."""
        return Cost((4 if backward else 5) * elements(x), itemsize * elements(x, x, x if backward else None))


class CrossEntropy(Op):
    """The mean over rows n of the cross-entropy, in nats, between softmax(logits[n]) and a target distribution.

    logits (N, K); labels (N,) int64, in [0, K). The target is 1 - s at the label, plus s/K everywhere, with s the label
    smoothing (Szegedy et al. 2016). Where labels lie on a host, they are checked; elsewhere that would mean waiting for
    the device, and one that is out of range makes the loss NaN.
    """

    @staticmethod
    def forward(ctx, logits, labels, label_smoothing=0.0):
        op = "cross_entropy"
        require_float(logits, op, "logits")
        require(
            logits.ndim == 2 and logits.size > 0, op, "logits", f"has shape {tuple(logits.shape)}",
            "two dimensions (N, K), of at least 1",
        )  # fmt: skip
        images, classes = logits.shape
        require_given(labels, op, "labels")
        integers = labels.dtype.kind == "i" and labels.dtype.itemsize == 8
        require(integers and tuple(labels.shape) == (images,), op, "labels", described(labels), f"int64 ({images},)")
        require(0 <= label_smoothing <= 1, op, "label_smoothing", f"is {label_smoothing}", "a number from 0 to 1")
        device = device_of(labels)
        if isinstance(device, Host):
            values = device.get(labels)
            least, most = int(values.min()), int(values.max())
            require(
                least >= 0 and most < classes, op, "labels", f"has {least if least < 0 else most}",
                f"classes from 0 to {classes - 1}",
            )  # fmt: skip
        out = empty((), logits.dtype)
        ctx.smoothing = float(label_smoothing)
        kernels.cross_entropy(logits, labels, ctx.smoothing, out)
        ctx.save_for_backward(logits, labels)
        return out

    @staticmethod
    def backward(ctx, grad):
        logits, labels = ctx.saved
        grad_logits = ctx.array(0)
        kernels.cross_entropy_backward(grad, logits, labels, ctx.smoothing, grad_logits)
        return grad_logits, None

    @staticmethod
    def cost(logits: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """A maximum, a difference, an exponential and a sum per logit; backward, a quotient and a product, too."""
        labels = 8 * logits[0]
        return Cost(
            (6 if backward else 4) * elements(logits),
            itemsize * elements(logits, logits if backward else None) + labels,
        )
