"""A complete op from outside the package: swish, x / (1 + exp(-beta*x)), element by element."""

from math import prod
from pathlib import Path

import numba
import numpy as np

from octsod.autograd import Function
from octsod.backend import Namespace, cuda_source, empty
from octsod.ops import Cost

kernels = Namespace("swish")
SOURCE = cuda_source(Path(__file__).parent / "swish.cu")


@kernels.kernel("reference", "forward")
def forward_in_numpy(x, beta, out):
    out[...] = x / (1 + np.exp(-beta * x))


@kernels.kernel("reference", "backward")
def backward_in_numpy(grad, x, beta, grad_x):
    s = 1 / (1 + np.exp(-beta * x))
    grad_x[...] = grad * s * (1 + beta * x * (1 - s))


@kernels.kernel("cpu", "forward")
@numba.njit(nogil=True)
def forward_on_cpu(x, beta, out):
    for i in range(x.size):
        out.flat[i] = x.flat[i] / (1 + np.exp(-beta * x.flat[i]))


@kernels.kernel("cpu", "backward")
@numba.njit(nogil=True)
def backward_on_cpu(grad, x, beta, grad_x):
    for i in range(x.size):
        s = 1 / (1 + np.exp(-beta * x.flat[i]))
        grad_x.flat[i] = grad.flat[i] * s * (1 + beta * x.flat[i] * (1 - s))


@kernels.kernel("cuda", "forward")
def forward_on_gpu(x, beta, out):
    SOURCE.each("swish", x.dtype, x.size, x, beta, out)


@kernels.kernel("cuda", "backward")
def backward_on_gpu(grad, x, beta, grad_x):
    SOURCE.each("swish_backward", x.dtype, x.size, grad, x, beta, grad_x)


class Swish(Function):
    """x, an array of any shape -> one of the same shape. beta: how steep it is around 0."""

    @staticmethod
    def forward(ctx, x, beta=1.0):
        ctx.x, ctx.beta, out = x, beta, empty(x.shape, x.dtype)
        kernels.forward(x, beta, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        grad_x = ctx.array(0)
        kernels.backward(grad, ctx.x, ctx.beta, grad_x)
        return grad_x

    @staticmethod
    def cost(x, beta=1.0, itemsize=4, backward=False):
        return Cost(prod(x) * (10 if backward else 5), itemsize * prod(x) * (3 if backward else 2))
