"""Pooling and bilinear resizing of maps (N, C, H, W), each with its adjoint, and the resizing of pictures.

Octave convolutions use the functions on float64 maps, `pool_max` to `unresize`; the kernels stand below them.
"""

import numpy as np

from .windows import crop, pad, windows


def pool_max(a, out_size, kernel_size, stride, padding):
    """The largest of each window, and which of the window's elements that is, counted row by row.

    The first one on ties; a NaN counts as larger than any number.
    """
    padded, inside = pad(a, padding), pad(np.ones((1, 1, *a.shape[2:]), bool), padding)
    best = np.zeros((*a.shape[:2], *out_size))
    winner = np.full(best.shape, -1)
    for number, window in enumerate(windows((kernel_size, kernel_size), out_size, stride)):
        v = padded[window]
        better = (v > best) | (np.isnan(v) & ~np.isnan(best)) | (winner < 0)
        better &= inside[window]
        best = np.where(better, v, best)
        winner = np.where(better, number, winner)
    return best, winner


def unpool_max(g, winner, size, kernel_size, stride, padding):
    """Adjoint of pool_max: the gradient of each window goes to its winner."""
    padded = pad(np.zeros((*g.shape[:2], *size)), padding)
    for number, window in enumerate(windows((kernel_size, kernel_size), g.shape[2:], stride)):
        padded[window] += np.where(winner == number, g, 0)
    return crop(padded, padding)


def pool_average(a, out_size, kernel_size, stride, padding):
    """The mean of each window; zero padding counts."""
    padded = pad(a, padding)
    total = sum(padded[window] for window in windows((kernel_size, kernel_size), out_size, stride))
    return total / kernel_size**2


def unpool_average(g, size, kernel_size, stride, padding):
    """Adjoint of pool_average: each gradient is spread evenly over its window."""
    padded = pad(np.zeros((*g.shape[:2], *size)), padding)
    for window in windows((kernel_size, kernel_size), g.shape[2:], stride):
        padded[window] += g / kernel_size**2
    return crop(padded, padding)


def _neighbours(size, out_size):
    """The two input pixels that each output pixel lies between, and the share of the second one.

    Half-pixel centres: output pixel i has its centre at (i + 1/2)*size/out_size of the input; pixels beyond the border
    are the border's own.
    """
    at = np.clip((np.arange(out_size) + 0.5) * size / out_size - 0.5, 0, size - 1)
    first = np.floor(at).astype(int)
    share = at - first
    # A pixel without a share is not looked at: zero times NaN would be NaN.
    return first, np.where(share > 0, first + 1, first), share


def resize(a, out_size):
    """a (N, C, H, W) resized bilinearly to (N, C, *out_size): rows first, then columns."""
    first, second, share = _neighbours(a.shape[2], out_size[0])
    share = share[:, None]
    a = (1 - share) * a[:, :, first] + share * a[:, :, second]
    first, second, share = _neighbours(a.shape[3], out_size[1])
    return (1 - share) * a[..., first] + share * a[..., second]


def unresize(g, size):
    """Adjoint of resize: g (N, C, H', W') -> (N, C, *size), columns first, then rows."""
    first, second, share = _neighbours(size[1], g.shape[3])
    cols = np.zeros((*g.shape[:3], size[1]))
    np.add.at(cols, (..., first), (1 - share) * g)
    np.add.at(cols, (..., second), share * g)
    first, second, share = _neighbours(size[0], g.shape[2])
    share = share[:, None]
    out = np.zeros((*g.shape[:2], *size))
    np.add.at(out, (slice(None), slice(None), first), (1 - share) * cols)
    np.add.at(out, (slice(None), slice(None), second), share * cols)
    return out


def max_pool2d(x, out, kernel_size, stride, padding):
    out[...], _ = pool_max(x.astype(np.float64), out.shape[2:], kernel_size, stride, padding)


def max_pool2d_backward(grad, x, grad_x, kernel_size, stride, padding):
    _, winner = pool_max(x.astype(np.float64), grad.shape[2:], kernel_size, stride, padding)
    grad_x[...] = unpool_max(grad, winner, x.shape[2:], kernel_size, stride, padding)


def avg_pool2d(x, out, kernel_size, stride, padding):
    out[...] = pool_average(x.astype(np.float64), out.shape[2:], kernel_size, stride, padding)


def avg_pool2d_backward(grad, grad_x, kernel_size, stride, padding):
    grad_x[...] = unpool_average(grad.astype(np.float64), grad_x.shape[2:], kernel_size, stride, padding)


def upsample_bilinear(x, out):
    out[...] = resize(x.astype(np.float64), out.shape[2:])


def upsample_bilinear_backward(grad, grad_x):
    grad_x[...] = unresize(grad.astype(np.float64), grad_x.shape[2:])


def _mirrored(size, out_size):
    """The share of each input pixel in each output pixel, (out_size, size): a tent about the output pixel's centre.

    What a tent covers beyond the outermost pixels belongs to those at the same distance inside.
    """
    centres = (np.arange(out_size) + 0.5) * size / out_size - 0.5
    positions = np.arange(-1, size + 1)
    tents = np.maximum(1 - np.abs(centres[:, None] - positions), 0)
    shares = np.zeros((out_size, size))
    for position, column in zip(positions, tents.T, strict=True):
        shares[:, size - 1 - abs(size - 1 - abs(position)) if size > 1 else 0] += column
    return shares


def resize_mirrored(planes, size):
    """Planes (C, H, W) resized bilinearly to (C, *size), with a mirrored border."""
    return _mirrored(planes.shape[1], size[0]) @ planes @ _mirrored(planes.shape[2], size[1]).T


def resize_picture(picture, scale, shift, out):
    _, *size = out.shape
    planes = picture.transpose(2, 0, 1).astype(np.float64)
    out[...] = resize_mirrored(planes, size) * scale[:, None, None] + shift[:, None, None]
