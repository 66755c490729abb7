"""Stand-alone pooling and bilinear resizing of maps (N, C, H, W), and the resizing of pictures.

For those inside octave convolutions, see scales.py.
"""

from typing import Any, NamedTuple

import numpy as np

from . import parallel
from .compile import kernel
from .parallel import flat, flat_out


class Window(NamedTuple):
    """What pooling reduces to one number: size x size pixels, `stride` from one window to the next."""

    size: int
    stride: int
    padding: int


class Size(NamedTuple):
    """The size of a map."""

    height: int
    width: int


class Axis(NamedTuple):
    """For each output pixel along one side, the two inputs that it lies between, and the weight of the second."""

    first: Any
    second: Any
    weight: Any


@kernel
def _max_pool2d(slot, start, stop, x, out, size, window, out_size):
    height, width = size
    k, stride, padding = window
    out_height, out_width = out_size
    for plane in range(start, stop):
        for r in range(out_height):
            top, bottom = max(r * stride - padding, 0), min(r * stride - padding + k, height)
            for i in range(out_width):
                left, right = max(i * stride - padding, 0), min(i * stride - padding + k, width)
                best = x[(plane * height + top) * width + left]
                for y in range(top, bottom):
                    row = (plane * height + y) * width
                    for q in range(left, right):
                        v = x[row + q]
                        best = v if (v > best) | (v != v) else best
                out[(plane * out_height + r) * out_width + i] = best


def max_pool2d(x, out, kernel_size, stride, padding):
    """out (N, C, H', W') = the largest of each window; a NaN wins."""
    parallel.run(
        _max_pool2d, x.shape[0] * x.shape[1], flat(x), flat_out(out), Size(*x.shape[2:]),
        Window(kernel_size, stride, padding), Size(*out.shape[2:]),
    )  # fmt: skip


@kernel
def _max_pool2d_backward(slot, start, stop, grad, x, grad_x, size, window, out_size):
    height, width = size
    k, stride, padding = window
    out_height, out_width = out_size
    for plane in range(start, stop):
        for i in range(plane * height * width, (plane + 1) * height * width):
            grad_x[i] = 0
        for r in range(out_height):
            top, bottom = max(r * stride - padding, 0), min(r * stride - padding + k, height)
            for i in range(out_width):
                left, right = max(i * stride - padding, 0), min(i * stride - padding + k, width)
                at = (plane * height + top) * width + left
                best = x[at]
                for y in range(top, bottom):
                    row = (plane * height + y) * width
                    for q in range(left, right):
                        v = x[row + q]
                        if (v > best) | ((v != v) & (best == best)):
                            best = v
                            at = row + q
                grad_x[at] += grad[(plane * out_height + r) * out_width + i]


def max_pool2d_backward(grad, x, grad_x, kernel_size, stride, padding):
    """Each gradient goes to its window's winner, found again; the first one on ties."""
    parallel.run(
        _max_pool2d_backward, x.shape[0] * x.shape[1], flat(grad), flat(x), flat_out(grad_x),
        Size(*x.shape[2:]), Window(kernel_size, stride, padding), Size(*grad.shape[2:]),
    )  # fmt: skip


@kernel
def _avg_pool2d(slot, start, stop, x, out, size, window, out_size):
    height, width = size
    k, stride, padding = window
    out_height, out_width = out_size
    share = 1 / (k * k)
    for plane in range(start, stop):
        for r in range(out_height):
            top, bottom = max(r * stride - padding, 0), min(r * stride - padding + k, height)
            for i in range(out_width):
                left, right = max(i * stride - padding, 0), min(i * stride - padding + k, width)
                total = 0.0
                for y in range(top, bottom):
                    row = (plane * height + y) * width
                    for q in range(left, right):
                        total += x[row + q]
                out[(plane * out_height + r) * out_width + i] = total * share


def avg_pool2d(x, out, kernel_size, stride, padding):
    """out (N, C, H', W') = the mean of each window; zero padding counts."""
    parallel.run(
        _avg_pool2d, x.shape[0] * x.shape[1], flat(x), flat_out(out), Size(*x.shape[2:]),
        Window(kernel_size, stride, padding), Size(*out.shape[2:]),
    )  # fmt: skip


@kernel
def _avg_pool2d_backward(slot, start, stop, grad, grad_x, size, window, out_size):
    height, width = size
    k, stride, padding = window
    out_height, out_width = out_size
    share = 1 / (k * k)
    for plane in range(start, stop):
        for i in range(plane * height * width, (plane + 1) * height * width):
            grad_x[i] = 0
        for r in range(out_height):
            top, bottom = max(r * stride - padding, 0), min(r * stride - padding + k, height)
            for i in range(out_width):
                left, right = max(i * stride - padding, 0), min(i * stride - padding + k, width)
                v = grad[(plane * out_height + r) * out_width + i] * share
                for y in range(top, bottom):
                    row = (plane * height + y) * width
                    for q in range(left, right):
                        grad_x[row + q] += v


def avg_pool2d_backward(grad, grad_x, kernel_size, stride, padding):
    """Each gradient is spread evenly over its window."""
    parallel.run(
        _avg_pool2d_backward, grad_x.shape[0] * grad_x.shape[1], flat(grad), flat_out(grad_x),
        Size(*grad_x.shape[2:]), Window(kernel_size, stride, padding), Size(*grad.shape[2:]),
    )  # fmt: skip


def _weights(size, out_size, dtype):
    """The `Axis` of half-pixel centres."""
    at = np.maximum((np.arange(out_size) + 0.5) * (size / out_size) - 0.5, 0)
    first = np.minimum(at.astype(np.int64), size - 1)
    return Axis(first, np.minimum(first + 1, size - 1), (at - first).astype(dtype))


@kernel
def _upsample(slot, start, stop, x, out, size, rows, cols):
    height, width = size
    (y0, y1, ty), (x0, x1, tx) = rows, cols
    for plane in range(start, stop):
        for r in range(ty.size):
            a = (plane * height + y0[r]) * width
            b = (plane * height + y1[r]) * width
            at = (plane * ty.size + r) * tx.size
            t = ty[r]
            for i in range(tx.size):
                s = tx[i]
                upper = x[a + x0[i]] + s * (x[a + x1[i]] - x[a + x0[i]])
                lower = x[b + x0[i]] + s * (x[b + x1[i]] - x[b + x0[i]])
                out[at + i] = upper + t * (lower - upper)


def upsample_bilinear(x, out):
    """out (N, C, H', W') = x resized: half-pixel centres, replicated border, no anti-aliasing."""
    rows, cols = (_weights(n, m, x.dtype) for n, m in zip(x.shape[2:], out.shape[2:], strict=True))
    parallel.run(
        _upsample, x.shape[0] * x.shape[1], flat(x), flat_out(out), Size(*x.shape[2:]), rows, cols
    )


@kernel
def _upsample_backward(slot, start, stop, grad, grad_x, size, rows, cols):
    height, width = size
    (y0, y1, ty), (x0, x1, tx) = rows, cols
    for plane in range(start, stop):
        for i in range(plane * height * width, (plane + 1) * height * width):
            grad_x[i] = 0
        for r in range(ty.size):
            a = (plane * height + y0[r]) * width
            b = (plane * height + y1[r]) * width
            at = (plane * ty.size + r) * tx.size
            t = ty[r]
            for i in range(tx.size):
                s = tx[i]
                upper = grad[at + i] * (1 - t)
                lower = grad[at + i] * t
                grad_x[a + x0[i]] += upper * (1 - s)
                grad_x[a + x1[i]] += upper * s
                grad_x[b + x0[i]] += lower * (1 - s)
                grad_x[b + x1[i]] += lower * s


def upsample_bilinear_backward(grad, grad_x):
    """The adjoint of upsample_bilinear."""
    sizes = zip(grad_x.shape[2:], grad.shape[2:], strict=True)
    rows, cols = (_weights(n, m, grad.dtype) for n, m in sizes)
    parallel.run(
        _upsample_backward, grad_x.shape[0] * grad_x.shape[1], flat(grad), flat_out(grad_x),
        Size(*grad_x.shape[2:]), rows, cols,
    )  # fmt: skip


def _mirrored_weights(size, out_size, stride):
    """The same in float32, except that centres beyond those of the outermost pixels are mirrored at them.

    Inputs are given by where they begin, as multiples of `stride`.
    """
    at = np.abs((np.arange(out_size) + 0.5) * (size / out_size) - 0.5)
    at = np.maximum(size - 1 - np.abs(size - 1 - at), 0)
    first = at.astype(np.int64)
    second = np.minimum(first + 1, size - 1)
    return Axis((first * stride).astype(np.uintp), (second * stride).astype(np.uintp), (at - first).astype(np.float32))


@kernel
def _resize_picture(slot, start, stop, picture, scale, shift, out, row, rows, cols):
    (y0, y1, ty), (x0, x1, tx) = rows, cols
    # Slices and unsigned indices: Numba need not check for negative ones, so LLVM vectorises.
    for r in range(start, stop):
        upper, lower, t = picture[y0[r] :][: row.size], picture[y1[r] :][: row.size], ty[r]
        for i in range(row.size):
            v = np.float32(upper[i])
            row[i] = v + t * (np.float32(lower[i]) - v)
        for c in range(scale.size):
            line, channel = out[(c * ty.size + r) * tx.size :][: tx.size], row[c:]
            a, b = scale[c], shift[c]
            for i in range(tx.size):
                v = channel[x0[i]]
                line[i] = (v + tx[i] * (channel[x1[i]] - v)) * a + b


def resize_picture(picture, scale, shift, out):
    """out (C, H', W') float32 = picture (H, W, C), uint8 or float32, resized, times scale (C,), plus shift (C,).

    Half-pixel centres, mirrored border, no anti-aliasing. Runs only in the calling thread: threads that read pictures
    must not wait for those that compute.
    """
    row = np.empty(picture.shape[1] * picture.shape[2], np.float32)
    rows = _mirrored_weights(picture.shape[0], out.shape[1], row.size)
    cols = _mirrored_weights(picture.shape[1], out.shape[2], picture.shape[2])
    parallel.run(
        _resize_picture, out.shape[1], flat(picture), scale, shift, flat_out(out), row, rows, cols, slots=1
    )
