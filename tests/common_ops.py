"""Common ops as anybody would write them in NumPy, and each with a slip that is made: tables to test `check_op` with.

Where a small result is what large terms leave over, the right ones lose digits, as they do in every framework.
"""

import math

import numpy as np
from more_ops import attention, attention_back, convolution, convolution_back, softmax, softmax_back

from octsod.testing import Case, Input

EPS = 1e-5


def inputs(*given, **settings):
    """seed -> a case of these inputs or shapes."""
    given = tuple(i if isinstance(i, Input) else Input(i) for i in given)
    return lambda seed: Case(given, settings, seed)


def labels(count, classes):
    return Input((count,), "labels", (0, classes))


def logsumexp(x):
    top = x.max(-1, keepdims=True)
    return np.log(np.exp(x - top).sum(-1, keepdims=True)) + top


def log_softmax(x):
    return x - logsumexp(x)


def log_softmax_back(x, g, sign=1):
    return g - sign * softmax(x) * g.sum(-1, keepdims=True)


def normed(x, axis=-1, eps=EPS):
    return (x - x.mean(axis, keepdims=True)) / np.sqrt(x.var(axis, keepdims=True) + eps)


def normed_back(x, g, axis=-1, cross=1, eps=EPS):
    y, scale = normed(x, axis, eps), np.sqrt(x.var(axis, keepdims=True) + eps)
    return (g - g.mean(axis, keepdims=True) - cross * y * (g * y).mean(axis, keepdims=True)) / scale


def layer_norm(x, weight, bias):
    return normed(x) * weight + bias


def layer_norm_back(x, weight, bias, g, summed=True, **slip):
    axes = tuple(range(x.ndim - 1))
    grad = (g * normed(x)).sum(axes) if summed else (g * normed(x))[(0,) * len(axes)]
    return normed_back(x, g * weight, **slip), grad, g.sum(axes)


def group_norm(x, weight, bias):
    return normed(x.reshape(len(x), 2, -1)).reshape(x.shape) * weight[:, None] + bias[:, None]


def group_norm_back(x, weight, bias, g, **slip):
    groups, own = x.reshape(len(x), 2, -1), (g * weight[:, None]).reshape(len(x), 2, -1)
    grad = (g * normed(groups).reshape(x.shape)).sum((0, 2))
    return normed_back(groups, own, **slip).reshape(x.shape), grad, g.sum((0, 2))


SLOPE = math.sqrt(2 / math.pi)


def gelu(x):
    return 0.5 * x * (1 + np.tanh(SLOPE * (x + 0.044715 * x**3)))


def gelu_back(x, g, three=3):
    t = np.tanh(SLOPE * (x + 0.044715 * x**3))
    return g * 0.5 * (1 + t + x * (1 - t * t) * SLOPE * (1 + three * 0.044715 * x * x))


_erf = np.vectorize(math.erf, otypes=[float])


def normal_below(x):
    return 0.5 * (1 + (_erf(x / math.sqrt(2)).astype(x.dtype) if x.size else x))


def erf_gelu_back(x, g, sign=1):
    return g * (normal_below(x) + sign * x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def silu_back(x, g, sign=1):
    s = sigmoid(x)
    return g * (s + sign * x * s * (1 - s))


def softplus(x):
    return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))


def cosine(a, b):
    return (a * b).sum(-1) / np.sqrt((a * a).sum(-1) * (b * b).sum(-1))


def cosine_back(a, b, g, sign=1):
    g, similar = g[..., None], cosine(a, b)[..., None]
    lengths = [np.sqrt((x * x).sum(-1, keepdims=True)) for x in (a, b)]
    units, own = [x / length for x, length in zip((a, b), lengths, strict=True)], sign * similar
    return g * (units[1] - own * units[0]) / lengths[0], g * (units[0] - own * units[1]) / lengths[1]


def unit_length(x, eps=1e-3):
    return x / np.sqrt((x * x).sum(-1, keepdims=True) + eps)


def unit_length_back(x, g, eps=1e-3):
    y, length = unit_length(x, eps), np.sqrt((x * x).sum(-1, keepdims=True) + eps)
    return (g - y * (g * y).sum(-1, keepdims=True)) / length


def cumprod_back(x, g, off=0):
    grad = np.zeros_like(x)
    for i in range(x.shape[-1]):
        for j in range(i + off, x.shape[-1]):
            grad[..., i] += g[..., j] * np.delete(x[..., : j + 1], i, -1).prod(-1)
    return grad


def hartley(x):
    n = x.shape[-1]
    angles = 2 * math.pi / max(n, 1) * np.outer(np.arange(n), np.arange(n))
    return x @ (np.cos(angles) + np.sin(angles)).astype(x.dtype)


def huber(x, y):
    return np.where(np.abs(x - y) < 1, 0.5 * (x - y) ** 2, np.abs(x - y) - 0.5)


def huber_back(x, y, g, sign=-1):
    return g * np.clip(x - y, -1, 1), sign * g * np.clip(x - y, -1, 1)


def hinge(x, y):
    return np.maximum(1 - x * y, 0)


def hinge_back(x, y, g, sign=-1):
    return -g * y * (x * y < 1), sign * g * x * (x * y < 1)


def cross_entropy(x, rows):
    return np.asarray(-log_softmax(x)[np.arange(len(x)), rows].mean(), x.dtype)


def cross_entropy_back(x, rows, g, count=None):
    p = softmax(x)
    p[np.arange(len(x)), rows] -= 1
    return p * g / (count or len(x)), None


def focal(x, rows):
    sign = (2 * rows - 1).astype(x.dtype)
    return (1 - sigmoid(sign * x)) ** 2 * softplus(-sign * x)


def focal_back(x, rows, g, factor=2):
    sign = (2 * rows - 1).astype(x.dtype)
    p = sigmoid(sign * x)
    return -g * sign * (1 - p) ** 2 * (factor * p * softplus(-sign * x) + 1 - p), None


def inverse_back(x, g, turned=True):
    y = np.linalg.inv(x)
    y = y.T if turned else y
    return -y @ g @ y


def solve_back(a, b, g):
    x, v = np.linalg.solve(a, b[..., None])[..., 0], np.linalg.solve(np.swapaxes(a, -1, -2), g[..., None])[..., 0]
    return -v[..., None] * x[..., None, :], v


def cholesky(x):
    return np.linalg.cholesky(x @ x.T + np.eye(len(x), dtype=x.dtype))


def cholesky_back(x, g):
    lower = cholesky(x)
    inner, over = np.tril(lower.T @ np.tril(g)), np.linalg.inv(lower)
    inner -= np.diag(np.diag(inner)) / 2
    inner = over.T @ inner @ over
    return (inner + inner.T) @ x


ROWS, WIDE = inputs((2, 4)), inputs(Input((1, 4), range=(1.0, 100.0)))
FAR = inputs(Input((3,), range=(0.5, 8.0)))
NORM, LONG_NORM = inputs((2, 2, 2), (2,), (2,)), inputs((2, 5), (5,), (5,))
GROUPS = inputs((2, 2, 2), (2,), (2,))
PAIRS, TIES = inputs((2, 3), (2, 3)), inputs(Input((2, 3), "ties"), Input((2, 3), "ties"))
CLASSES = inputs(Input((3, 4), range=(1.0, 60.0)), labels(3, 4))
MATRIX = inputs((3, 3))
QUERIES = inputs(Input((1, 2, 2), range=(1.0, 20.0)), (1, 2, 2), (1, 2, 1))
SIGNAL = inputs((2, 2, 9), (3, 2, 2), stride=2, padding=1, dilation=2)

# name: (forward, backward, seed -> case, seeds), those that rounding and kinks made fail among them.
RIGHT = {
    "softmax": (softmax, softmax_back, WIDE, (2, 3)),
    "log_softmax": (log_softmax, log_softmax_back, inputs(Input((2, 4), range=(1.0, 100.0))), (0, 1)),
    "logsumexp": (lambda x: logsumexp(x)[..., 0], lambda x, g: g[..., None] * softmax(x), WIDE, (0,)),
    "layer_norm": (layer_norm, layer_norm_back, NORM, (3, 4)),
    "group_norm": (group_norm, group_norm_back, GROUPS, (3, 0)),
    "batch_norm": (lambda x: normed(x, 0), lambda x, g: normed_back(x, g, 0), inputs((2, 3)), (12,)),
    "gelu": (gelu, gelu_back, FAR, (1, 3, 4)),
    "gelu_near": (gelu, gelu_back, inputs((2, 3)), (25,)),
    "erf_gelu": (lambda x: x * normal_below(x), erf_gelu_back, FAR, (1, 3)),
    "silu": (lambda x: x * sigmoid(x), silu_back, inputs(Input((4,), range=(0.1, 30.0))), (0,)),
    "tanh": (np.tanh, lambda x, g: g * (1 - np.tanh(x) ** 2), inputs(Input((4,), range=(0.1, 12.0))), (21,)),
    "softplus": (softplus, lambda x, g: g * sigmoid(x), inputs(Input((4,), range=(0.1, 40.0))), (0,)),
    "cosine": (cosine, cosine_back, inputs((2, 4), (2, 4)), (0,)),
    "cosine_of_one": (cosine, cosine_back, inputs((2, 1), (2, 1)), (0,)),
    "unit_length": (unit_length, unit_length_back, inputs((3, 1)), (0,)),
    "cumprod": (lambda x: x.cumprod(-1), cumprod_back, ROWS, (0,)),
    "hartley": (hartley, lambda x, g: hartley(g), inputs((2, 7)), (0,)),
    "huber": (huber, huber_back, TIES, (0, 1)),
    "hinge": (hinge, hinge_back, PAIRS, (0,)),
    "cross_entropy": (cross_entropy, cross_entropy_back, CLASSES, (48, 0)),
    "focal": (focal, focal_back, inputs(Input((4,), range=(0.1, 30.0)), labels(4, 2)), (0, 1)),
    "attention": (attention, attention_back, QUERIES, (0,)),
    "convolution": (convolution, convolution_back, SIGNAL, (0,)),
    "inverse": (np.linalg.inv, inverse_back, MATRIX, (0,)),
    "solve": (lambda a, b: np.linalg.solve(a, b[..., None])[..., 0], solve_back, inputs((2, 3, 3), (2, 3)), (0,)),
    "cholesky": (cholesky, cholesky_back, MATRIX, (0,)),
}  # fmt: skip

# name: (forward, backward, seed -> case, a check that fails).
WRONG = {
    "softmax": (softmax, lambda x, g: softmax(x) * (g + (g * softmax(x)).sum(-1, keepdims=True)), ROWS, "gradients"),
    "log_softmax": (log_softmax, lambda x, g: log_softmax_back(x, g, -1), ROWS, "gradients"),
    "log_softmax_not_summed": (log_softmax, lambda x, g: g - softmax(x) * g, ROWS, "gradients"),
    "layer_norm_one_row": (layer_norm, lambda *a: layer_norm_back(*a, summed=False), NORM, "gradients"),
    "layer_norm_no_cross_term": (layer_norm, lambda *a: layer_norm_back(*a, cross=0), NORM, "gradients"),
    "layer_norm_no_eps": (layer_norm, lambda *a: layer_norm_back(*a, eps=0), LONG_NORM, "gradients"),
    "group_norm_no_cross_term": (group_norm, lambda *a: group_norm_back(*a, cross=0), GROUPS, "gradients"),
    "gelu_factor": (gelu, lambda x, g: gelu_back(x, g, 1), FAR, "gradients"),
    "erf_gelu_sign": (lambda x: x * normal_below(x), lambda x, g: erf_gelu_back(x, g, -1), FAR, "gradients"),
    "silu_sign": (lambda x: x * sigmoid(x), lambda x, g: silu_back(x, g, -1), ROWS, "gradients"),
    "softplus_sign": (softplus, lambda x, g: g * sigmoid(-x), ROWS, "gradients"),
    "softplus_overflows": (lambda x: np.log(1 + np.exp(x)), lambda x, g: g * sigmoid(x),
                           inputs(Input((4,), "positive", range=(60.0, 100.0))), "float32"),
    "cosine_sign": (cosine, lambda a, b, g: cosine_back(a, b, g, -1), inputs((2, 4), (2, 4)), "gradients"),
    "unit_length_no_eps": (unit_length, lambda x, g: unit_length_back(x, g, 0), inputs((2, 3)), "gradients"),
    "cumprod_off_by_one": (lambda x: x.cumprod(-1), lambda x, g: cumprod_back(x, g, 1), ROWS, "gradients"),
    "hartley_factor": (hartley, lambda x, g: hartley(g) / g.shape[-1], inputs((2, 7)), "adjoint"),
    "huber_sign": (huber, lambda *a: huber_back(*a, sign=1), TIES, "convergence"),
    "huber_slope": (huber, lambda x, y, g: [1.001 * a for a in huber_back(x, y, g)], TIES, "convergence"),
    "hinge_sign": (hinge, lambda *a: hinge_back(*a, sign=1), PAIRS, "gradients"),
    "cross_entropy_not_meaned": (cross_entropy, lambda *a: cross_entropy_back(*a, count=1),
                                 inputs((3, 4), labels(3, 4)), "gradients"),
    "focal_factor": (focal, lambda *a: focal_back(*a, factor=1), inputs((4,), labels(4, 2)), "gradients"),
    "inverse_not_turned": (np.linalg.inv, lambda x, g: inverse_back(x, g, turned=False), MATRIX, "gradients"),
    "inverse_without_nan": (lambda x: np.nan_to_num(np.linalg.inv(x)), inverse_back, MATRIX, "nonfinite"),
    "softmax_of_what_is_no_nan": (lambda x: np.exp(x) / np.nansum(np.exp(x), -1, keepdims=True), softmax_back,
                                  inputs((1, 4)), "nonfinite"),
    "unit_length_of_what_is_no_nan": (lambda x: x / np.linalg.norm(np.nan_to_num(x), axis=-1, keepdims=True),
                                      lambda x, g: unit_length_back(x, g, 0), inputs((1, 3)), "nonfinite"),
    "variance_as_squares": (lambda x: (x * x).mean(-1) - x.mean(-1) ** 2,
                            lambda x, g: 2 * (x - x.mean(-1, keepdims=True)) * g[..., None] / x.shape[-1],
                            inputs(Input((2, 8), "positive", range=(1000.0, 1004.0))), "float32"),
}  # fmt: skip
