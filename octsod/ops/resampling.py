"""Pooling and bilinear resizing as ops by themselves. (Octave convolutions resample inside.)"""

from ..autograd import Op
from ..backend import empty, full, kernels
from ..checks import require, require_integer, require_map
from .cost import Cost, Shape, elements


def _windows(op, x, kernel_size, stride, padding):
    kernel_size = require_integer(kernel_size, op, "kernel_size", 1)
    stride = kernel_size if stride is None else require_integer(stride, op, "stride", 1)
    padding = require_integer(padding, op, "padding", 0)
    require_map(x, op)
    require(
        2 * padding <= kernel_size, op, "padding", f"is {padding}", f"at most half of `kernel_size` (={kernel_size})"
    )
    require(
        min(x.shape[2:]) >= max(kernel_size - 2 * padding, 1), op, "x", f"has size {x.shape[2]}x{x.shape[3]}",
        f"at least {max(kernel_size - 2 * padding, 1)} pixels for `kernel_size` {kernel_size}",
    )  # fmt: skip
    size = tuple((n + 2 * padding - kernel_size) // stride + 1 for n in x.shape[2:])
    return (kernel_size, stride, padding), (*x.shape[:2], *size)


class MaxPool2d(Op):
    """x (N, C, H, W) -> (N, C, H', W'): the largest of each window; on ties the first one gets the gradient."""

    @staticmethod
    def forward(ctx, x, kernel_size, stride=None, padding=0):
        ctx.settings, shape = _windows("max_pool2d", x, kernel_size, stride, padding)
        out = empty(shape, x.dtype)
        kernels.max_pool2d(x, out, *ctx.settings)
        ctx.save_for_backward(x)
        return out

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved
        grad_x = ctx.array(0)
        kernels.max_pool2d_backward(grad, x, grad_x, *ctx.settings)
        return grad_x

    @staticmethod
    def cost(x: Shape, out: Shape, kernel_size: int, itemsize: int = 4, backward: bool = False) -> Cost:
        """From the shapes of x and the output: a comparison per element of each window."""
        flops = elements(out) * kernel_size**2
        return Cost(flops, itemsize * (elements(x, x, out) if backward else elements(x, out)))


class AvgPool2d(Op):
    """x (N, C, H, W) -> (N, C, H', W'): the mean of each window, zero padding counted."""

    @staticmethod
    def forward(ctx, x, kernel_size, stride=None, padding=0):
        ctx.settings, shape = _windows("avg_pool2d", x, kernel_size, stride, padding)
        out = empty(shape, x.dtype)
        kernels.avg_pool2d(x, out, *ctx.settings)
        return out

    @staticmethod
    def backward(ctx, grad):
        grad_x = ctx.array(0)
        kernels.avg_pool2d_backward(grad, grad_x, *ctx.settings)
        return grad_x

    @staticmethod
    def cost(x: Shape, out: Shape, kernel_size: int, itemsize: int = 4, backward: bool = False) -> Cost:
        """From the shapes of x and the output: an addition per element of each window."""
        return Cost(elements(out) * kernel_size**2, itemsize * elements(x, out))


class GlobalAveragePool(Op):
    """x (N, C, H, W) -> (N, C): the mean of each plane, summed up in float64."""

    @staticmethod
    def forward(ctx, x):
        require_map(x, "global_average_pool")
        require(min(x.shape[2:]) > 0, "global_average_pool", "x", f"has shape {x.shape}", "at least one pixel")
        ctx.shape = images, channels, height, width = x.shape
        out = empty((images, channels), x.dtype)
        kernels.sum_middle(x.reshape(images * channels, height * width, 1), out.reshape(images * channels, 1))
        kernels.divide(out, full(out.shape, height * width, out.dtype), out)
        return out

    @staticmethod
    def backward(ctx, grad):
        images, channels, height, width = ctx.shape
        share, grad_x = empty((images, channels, 1, 1), grad.dtype), ctx.array(0)
        kernels.divide(grad.reshape(share.shape), full(share.shape, height * width, grad.dtype), share)
        kernels.copy(share, grad_x)
        return grad_x

    @staticmethod
    def cost(x: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """An addition per pixel and a division per plane; backward, the division."""
        flops = (0 if backward else elements(x)) + elements(x[:2])
        return Cost(flops, itemsize * elements(x, x[:2]))


class UpsampleBilinear(Op):
    """x (N, C, H, W) -> (N, C, *size): half-pixel centres (`align_corners=False`), replicated border."""

    @staticmethod
    def forward(ctx, x, size):
        require_map(x, "upsample_bilinear")
        require(len(size) == 2, "upsample_bilinear", "size", f"is {size!r}", "(height, width)")
        size = tuple(require_integer(n, "upsample_bilinear", "size", 1) for n in size)
        require(min(x.shape[2:]) > 0, "upsample_bilinear", "x", f"has shape {x.shape}", "at least one pixel")
        out = empty((*x.shape[:2], *size), x.dtype)
        kernels.upsample_bilinear(x, out)
        return out

    @staticmethod
    def backward(ctx, grad):
        grad_x = ctx.array(0)
        kernels.upsample_bilinear_backward(grad, grad_x)
        return grad_x

    @staticmethod
    def cost(x: Shape, out: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """From the shapes of x and the output: three linear interpolations per output."""
        return Cost(8 * elements(out), itemsize * elements(x, out))
