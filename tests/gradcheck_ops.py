"""Ops in plain NumPy, each with faults that its backward can be given, to test `gradcheck` with."""

import numpy as np

from octsod.autograd import Function


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def distinct(*shape, seed=0):
    """Values that are far apart: no ties, no zeros."""
    count = int(np.prod(shape))
    return (np.random.default_rng(seed).permutation(count).reshape(shape) - count / 2 + 0.25) / 7


class Conv3x3(Function):
    """A 3x3 convolution, padded by one."""

    @staticmethod
    def forward(ctx, x, weight, bias, fault=None):
        ctx.save_for_backward(x, weight)
        ctx.fault = fault
        height, width = x.shape[2:]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        out = np.zeros((x.shape[0], weight.shape[0], height, width)) + bias[:, None, None]
        for y in range(3):
            for z in range(3):
                out += np.einsum("oc,nchw->nohw", weight[:, :, y, z], padded[:, :, y : y + height, z : z + width])
        return out

    @staticmethod
    def backward(ctx, grad):
        x, weight = ctx.saved
        fault = ctx.fault
        height, width = x.shape[2:]
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        grad_padded, grad_weight = np.zeros_like(padded), np.zeros_like(weight)
        for y in range(3):
            for z in range(3):
                kernel = weight[:, :, z, y] if fault == "transposed kernel" else weight[:, :, y, z]
                part = np.einsum("oc,nohw->nchw", kernel, grad)
                if fault == "sign of one tap" and (y, z) == (2, 0):
                    part = -part
                grad_padded[:, :, y : y + height, z : z + width] += part
                rows = height - 1 if fault == "weight misses the last row" and y == 1 else height
                window = padded[:, :, y : y + rows, z : z + width]
                grad_weight[:, :, y, z] = np.einsum("nohw,nchw->oc", grad[:, :, :rows], window)
        top = {"shifted down": 0, "shifted up": 2}.get(fault, 1)
        left = {"shifted right": 0, "shifted left": 2}.get(fault, 1)
        grad_x = grad_padded[:, :, top : top + height, left : left + width].copy()
        if fault == "first row dropped":
            grad_x[:, :, 0] = 0
        if fault == "last row dropped":
            grad_x[:, :, -1] = 0
        if fault == "first column dropped":
            grad_x[..., 0] = 0
        if fault == "last column dropped":
            grad_x[..., -1] = 0
        if fault == "border taken from its neighbour":
            grad_x[:, :, 0] = grad_x[:, :, 1]
        if fault == "last image dropped":
            grad_x[-1] = 0
        if fault == "weight twice":
            grad_weight *= 2
        if fault == "no gradient for x":
            grad_x = None
        if isinstance(fault, tuple):
            grad_x[fault] *= 1.001
        grad_bias = None if fault == "no gradient for bias" else grad.sum(axis=(0, 2, 3))
        return grad_x, grad_weight, grad_bias


CONV_FAULTS = {
    "sign of one tap": 0,
    "transposed kernel": 0,
    "shifted down": 0,
    "shifted up": 0,
    "shifted right": 0,
    "shifted left": 0,
    "first row dropped": 0,
    "last row dropped": 0,
    "first column dropped": 0,
    "last column dropped": 0,
    "border taken from its neighbour": 0,
    "last image dropped": 0,
    "no gradient for x": 0,
    "weight twice": 1,
    "weight misses the last row": 1,
    "no gradient for bias": 2,
}
SMALL, LARGE = ((2, 1, 4, 3), (2, 1, 3, 3)), ((2, 3, 17, 23), (5, 3, 3, 3))


def conv_inputs(size):
    x, weight = size
    return normal(*x), normal(*weight, seed=1), normal(weight[0], seed=2)


class Norm(Function):
    """Batch norm of a batch, without scale and shift."""

    @staticmethod
    def forward(ctx, x, fault=None):
        mean = x.mean(axis=(0, 2, 3), keepdims=True)
        deviation = 1 / np.sqrt(x.var(axis=(0, 2, 3), keepdims=True) + 1e-5)
        ctx.save_for_backward((x - mean) * deviation, deviation)
        ctx.fault = fault
        return (x - mean) * deviation

    @staticmethod
    def backward(ctx, grad):
        normed, deviation = ctx.saved
        total = grad.copy()
        if ctx.fault != "mean":
            total -= grad.mean(axis=(0, 2, 3), keepdims=True)
        if ctx.fault != "variance":
            total -= normed * (grad * normed).mean(axis=(0, 2, 3), keepdims=True)
        return deviation * total


class Rectifier(Function):
    """PReLU."""

    @staticmethod
    def forward(ctx, x, slope, fault=None):
        ctx.save_for_backward(x, slope)
        ctx.fault = fault
        return np.where(x > 0, x, slope[:, None, None] * x)

    @staticmethod
    def backward(ctx, grad):
        x, slope = ctx.saved
        negative = {"slope by the positive part": x > 0, "slope by all": x == x}.get(ctx.fault, x <= 0)
        grad_slope = (grad * x * negative).sum(axis=(0, 2, 3))
        left = x < 0 if ctx.fault == "other subgradient" else x <= 0
        if ctx.fault == "sides swapped":
            left = ~left
        grad_x = np.where(left, slope[:, None, None] * grad, grad)
        return grad_x, -grad_slope if ctx.fault == "sign of slope" else grad_slope


class Pool2x2(Function):
    """2x2 max-pooling."""

    @staticmethod
    def forward(ctx, x, to="first"):
        n, c, height, width = x.shape
        windows = x.reshape(n, c, height // 2, 2, width // 2, 2).swapaxes(3, 4).reshape(n, c, -1, 4)
        winner = windows.argmax(axis=-1) if to != "last" else 3 - windows[..., ::-1].argmax(axis=-1)
        ctx.winner = (winner + 1) % 4 if to == "neighbour" else winner
        ctx.shape = x.shape
        return windows.max(axis=-1).reshape(n, c, height // 2, width // 2)

    @staticmethod
    def backward(ctx, grad):
        n, c, height, width = ctx.shape
        windows = np.zeros((n, c, height * width // 4, 4))
        np.put_along_axis(windows, ctx.winner[..., None], grad.reshape(n, c, -1, 1), axis=-1)
        return windows.reshape(n, c, height // 2, width // 2, 2, 2).swapaxes(3, 4).reshape(ctx.shape)


class Square(Function):
    """x * x, whose backward can forget that x is used twice."""

    @staticmethod
    def forward(ctx, x, uses=2):
        ctx.save_for_backward(x)
        ctx.uses = uses
        return x * x

    @staticmethod
    def backward(ctx, grad):
        return ctx.uses * grad * ctx.saved[0]


class Scaled(Function):
    """x, with a gradient that is not its own."""

    @staticmethod
    def forward(ctx, x, by):
        ctx.save_for_backward(by)
        return x.copy()

    @staticmethod
    def backward(ctx, grad):
        return grad * ctx.saved[0]
