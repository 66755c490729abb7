"""Dropout (Srivastava et al. 2014), with masks that are functions of a seed and so need no memory."""

from ..autograd import Op
from ..backend import empty, kernels
from ..checks import require_float, require_share
from .cost import Cost, Shape, elements


class Dropout(Op):
    """x with a share p of its elements set to 0 and the others divided by 1 - p, any shape.

    seed: an integer in [0, 2**63), which decides, with an element's number, whether it is dropped: see the kernel. The
    same elements are dropped on every backend, and of the gradient.
    """

    @staticmethod
    def forward(ctx, x, p, seed):
        require_float(x, "dropout")
        ctx.settings = require_share(p, "dropout", "p"), seed
        out = empty(x.shape, x.dtype)
        kernels.dropout(x, *ctx.settings, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        grad_x = ctx.array(0)
        kernels.dropout(grad, *ctx.settings, grad_x)
        return grad_x

    @staticmethod
    def cost(x: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """One multiplication per element; drawing is not counted, since it is in integers."""
        return Cost(elements(x), itemsize * elements(x, x))
