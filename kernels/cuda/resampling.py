"""Pooling and bilinear resizing: launches of resampling.cu. Pictures are resized on the host."""

import numpy as np

from .launch import THREADS, WARP, source

SOURCE = source("resampling")
MOST_ROWS = 8  # that a thread of upsample_bilinear treats
MOST_TURNS = 8  # threads that share the rows of a pixel of its gradient
ENOUGH = 1 << 17  # threads, to keep a GPU busy


def max_pool2d(x, out, kernel_size, stride, padding):
    sizes = *x.shape[2:], *out.shape[2:], kernel_size, stride, padding
    SOURCE.each("max_pool2d", x.dtype, out.size, *sizes, x, out)


def max_pool2d_backward(grad, x, grad_x, kernel_size, stride, padding):
    sizes = *x.shape[2:], *grad.shape[2:], kernel_size, stride, padding
    SOURCE.each("max_pool2d_backward", x.dtype, grad_x.size, *sizes, grad, x, grad_x)


def avg_pool2d(x, out, kernel_size, stride, padding):
    sizes = *x.shape[2:], *out.shape[2:], kernel_size, stride, padding
    SOURCE.each("avg_pool2d", x.dtype, out.size, *sizes, x, out)


def avg_pool2d_backward(grad, grad_x, kernel_size, stride, padding):
    sizes = *grad_x.shape[2:], *grad.shape[2:], kernel_size, stride, padding
    SOURCE.each("avg_pool2d_backward", grad.dtype, grad_x.size, *sizes, grad, grad_x)


def upsample_bilinear(x, out):
    images, channels, height, width = out.shape
    rows = max(1, min(out.size // ENOUGH, MOST_ROWS))
    threads = images * channels * -(-height // rows) * width
    SOURCE.each("upsample_bilinear", x.dtype, threads, *x.shape[2:], height, width, rows, x, out)


def upsample_bilinear_backward(grad, grad_x):
    sizes = *grad_x.shape[2:], *grad.shape[2:]
    down, over = (max(after // before, 1) for before, after in zip(grad_x.shape[2:], grad.shape[2:], strict=True))
    lanes = min(_power_of_two(over), WARP)
    # A pixel has a share in twice as many rows as the map became higher by: as many threads as keep a GPU busy.
    along = _power_of_two(max(1, min(2 * down, MOST_TURNS, ENOUGH // max(lanes * grad_x.size, 1))))
    blocks = -(-grad_x.size * lanes * along // THREADS)
    SOURCE.launch(
        "upsample_bilinear_backward", grad.dtype, blocks, THREADS, np.int64(grad_x.size), *sizes, lanes, along, grad,
        grad_x,
    )  # fmt: skip


def _power_of_two(most):
    return 1 << (most.bit_length() - 1)
