"""Sums and maxima along an axis, log-softmax and the losses: launches of reductions.cu."""

import numpy as np

from .driver import driver
from .launch import THREADS, WARP, source

SOURCE = source("reductions")
ENOUGH = 512  # blocks, to keep a GPU busy


def sum_middle(x, out):
    sizes, blocks = _lines(x.shape)
    outer, count, inner = x.shape
    along = sizes[-1]
    # Few long lines are cut into parts, of some elements to a thread at least.
    parts = min(ENOUGH // max(blocks, 1), count // (8 * along))
    if parts < 2:
        SOURCE.launch("sum_middle", out.dtype, blocks, THREADS, *sizes, x, out)
    else:
        partials = driver().empty((outer, parts, inner), np.float64)
        SOURCE.launch("sum_parts", out.dtype, (blocks, parts), THREADS, *sizes, x, partials)
        sizes, blocks = _lines(partials.shape)
        SOURCE.launch("add_parts", out.dtype, blocks, THREADS, *sizes, partials, out)


def max_middle(x, out):
    _over_lines("max_middle", x.shape, x, out)


def max_middle_backward(grad, x, grad_x):
    _over_lines("max_middle_backward", x.shape, grad, x, grad_x)


def log_softmax(x, out):
    _over_lines("log_softmax", x.shape, x, out)


def log_softmax_backward(grad, out, grad_x):
    _over_lines("log_softmax_backward", out.shape, grad, out, grad_x)


def cross_entropy(logits, labels, smoothing, out):
    losses = driver().empty(labels.shape, np.float64)
    _over_lines("class_losses", (*logits.shape, 1), logits, labels, np.float64(smoothing), losses)
    _mean(losses, labels.size, out)


def cross_entropy_backward(grad, logits, labels, smoothing, grad_logits):
    shape = (*logits.shape, 1)
    _over_lines("cross_entropy_backward", shape, grad, logits, labels, np.float64(smoothing), grad_logits)


def binary_cross_entropy_with_logits(logits, target, out):
    blocks = min(-(-logits.size // (4 * THREADS)), 2 * ENOUGH)
    partials = driver().empty((blocks,), np.float64)
    SOURCE.launch("binary_losses", out.dtype, blocks, THREADS, np.int64(logits.size), logits, target, partials)
    _mean(partials, logits.size, out)


def binary_cross_entropy_with_logits_backward(grad, logits, target, grad_logits):
    SOURCE.each("binary_losses_backward", logits.dtype, logits.size, grad, logits, target, grad_logits)


def overlap_loss(logits, target, region, sums, out):
    images, pixels = logits.shape
    parts = max(min(-(-pixels // (8 * THREADS)), ENOUGH), 1)
    partials = driver().empty((images, parts, 2), np.float64)
    SOURCE.launch("overlaps", out.dtype, (parts, images), THREADS, np.int64(pixels), logits, target, partials)
    SOURCE.launch("overlap_mean", out.dtype, 1, THREADS, images, parts, partials, region == "dice", sums, out)


def overlap_loss_backward(grad, logits, target, region, sums, grad_logits):
    images, pixels = logits.shape
    SOURCE.each(
        "overlaps_backward", logits.dtype, logits.size, np.int64(pixels), images, grad, logits, target,
        region == "dice", sums, grad_logits,
    )  # fmt: skip


def _mean(partials, count, out):
    SOURCE.launch("mean", out.dtype, 1, THREADS, np.int64(partials.size), partials, np.float64(count), out)


def _over_lines(name, shape, *arguments):
    """Run a kernel over the lines of arrays (outer, count, inner), of which the last argument is one, or its result."""
    sizes, blocks = _lines(shape)
    SOURCE.launch(name, arguments[0].dtype, blocks, THREADS, *sizes, *arguments)


def _lines(shape):
    """How a block's threads are shared out to lines (see reductions.cu), with the shape, and how many blocks."""
    outer, count, inner = shape
    across = min(_power_of_two(inner), WARP)
    along = min(_power_of_two(count), THREADS // across)
    deep = THREADS // (across * along)
    return (*map(np.int64, shape), across, along), -(-outer // deep) * -(-inner // across)


def _power_of_two(least):
    return 1 << max(least - 1, 0).bit_length()
