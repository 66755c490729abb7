"""Ops in plain NumPy as others write them, right ones and wrong ones, to test `check_op` with: a table of each."""

import numpy as np

from octsod.autograd import Function
from octsod.testing import Case, Input


def made(forward, backward):
    """An op of two functions: forward(*arrays, **settings), and backward(*arrays, *gradients, **settings)."""

    class Made(Function):
        @staticmethod
        def forward(ctx, *arrays, **settings):
            ctx.given = arrays, settings
            return forward(*arrays, **settings)

        @staticmethod
        def backward(ctx, *grads):
            arrays, settings = ctx.given
            return backward(*arrays, *grads, **settings)

    return Made


def one(*shapes, settings=None, seed=0, **more):
    return Case(tuple(Input(shape, **more) for shape in shapes), settings or {}, seed)


def labels(shape, count):
    return Input(shape, "labels", (0, count))


def softmax(x, axis=-1):
    e = np.exp(x - x.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)


def softmax_back(x, g, axis=-1):
    p = softmax(x, axis)
    return p * (g - (g * p).sum(axis, keepdims=True))


def standardised(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)


def standardised_back(x, g, mean=True, cross=True, extra=0):
    y, n = standardised(x), x.shape[-1]
    part = y * (g * y).sum(-1, keepdims=True) / (n + extra)
    return (g - mean * g.mean(-1, keepdims=True) - cross * part) / np.sqrt(x.var(-1, keepdims=True) + 1e-3)


def attention(q, k, v):
    return softmax(q @ np.swapaxes(k, 1, 2) / q.shape[-1] ** 0.5) @ v


def attention_back(q, k, v, g, key_scale=True):
    scores, scale = q @ np.swapaxes(k, 1, 2) / q.shape[-1] ** 0.5, 1 / q.shape[-1] ** 0.5
    inner = softmax_back(scores, g @ np.swapaxes(v, 1, 2))
    key = np.swapaxes(inner, 1, 2) @ q * (scale if key_scale else 1)
    return inner @ k * scale, key, np.swapaxes(softmax(scores), 1, 2) @ g


def embedding_back(table, rows, g, duplicates=True):
    grad = np.zeros_like(table)
    if duplicates:
        np.add.at(grad, rows, g)
    else:
        grad[rows] += g
    return grad, None


def sort_back(x, g, factor=1):
    grad = np.empty_like(g)
    np.put_along_axis(grad, np.argsort(x, -1), g * x.dtype.type(factor), -1)
    return grad


def top(x, k=2):
    return np.take_along_axis(x, np.argsort(-x, -1)[..., :k], -1)


def top_back(x, g, k=2, flipped=False):
    grad = np.zeros_like(x)
    np.put_along_axis(grad, np.argsort(-x, -1)[..., :k], g[..., ::-1] if flipped else g, -1)
    return grad


def chosen_back(x, g):
    return g[..., None] * (x == x.max(-1, keepdims=True))


def convolution(x, w, stride=1, padding=0, dilation=1):
    taps, n = _taps(x, w, stride, padding, dilation)
    return sum(np.einsum("bcn,oc->bon", taps[..., k : k + n * stride][:, :, ::stride][:, :, :n], w[:, :, j])
               for j, k in enumerate(range(0, dilation * w.shape[2], dilation)))  # fmt: skip


def _taps(x, w, stride, padding, dilation):
    n = (x.shape[2] + 2 * padding - dilation * (w.shape[2] - 1) - 1) // stride + 1
    return np.pad(x, ((0, 0), (0, 0), (padding, padding + stride))), n


def convolution_back(x, w, g, stride=1, padding=0, dilation=1, off=0, spread=None):
    taps, n = _taps(x, w, stride, padding, dilation)
    wide, grad_w = np.zeros((*taps.shape[:2], taps.shape[2] + 20), x.dtype), np.empty_like(w)
    for j in range(w.shape[2]):
        k, own = j * dilation, j * (dilation if spread is None else spread)
        grad_w[:, :, j] = np.einsum("bon,bcn->oc", g, taps[:, :, k : k + n * stride : stride][:, :, :n])
        wide[:, :, own : own + n * stride : stride] += np.einsum("bon,oc->bcn", g, w[:, :, j])
    return wide[:, :, padding - off : padding - off + x.shape[2]], grad_w


def two_back(x, a, b, ignored=False, small=0):
    if ignored and a is not None:
        return a * np.cos(x)
    a, b = (np.zeros_like(x) if g is None else g for g in (a, b))
    return a * np.cos(x) + b * x.dtype.type(3 + small) * x**2


def nothing_back(*given):
    return None


ROWS = one((3, 5))
TABLE = Case((Input((4, 2)), labels((6,), 4)))
ATTENTION = one((2, 3, 4), (2, 5, 4), (2, 5, 4))
CONVOLUTION = one((2, 2, 9), (3, 2, 2), settings={"stride": 2, "padding": 1, "dilation": 3})
TIES = one((2, 5), kind="ties")
MATRICES = one((3, 4), (4, 2))
SQUARES = one((3, 3), (3, 3))

# name: (forward, backward, case, verdict).
RIGHT = {
    "softmax": (softmax, softmax_back, one((2, 3, 4), settings={"axis": 1}), "PASS"),
    "layer_norm": (standardised, standardised_back, ROWS, "PASS"),
    "attention": (attention, attention_back, ATTENTION, "PASS"),
    "embedding": (lambda table, rows: table[rows], embedding_back, TABLE, "PASS"),
    "einsum": (lambda a, b: np.einsum("ij,kj->ik", a, b), lambda a, b, g: (g @ b, g.T @ a), one((2, 3), (4, 3)),
               "PASS"),
    "cumsum": (lambda x: x.cumsum(-1), lambda x, g: g[..., ::-1].cumsum(-1)[..., ::-1], ROWS, "PASS"),
    "sort": (lambda x: np.sort(x, -1), sort_back, ROWS, "PASS"),
    "sort_ties": (lambda x: np.sort(x, -1), sort_back, one((3, 6), kind="ties", range=(0, 0.5)), "KINK"),
    "top": (top, top_back, ROWS, "PASS"),
    "top_of_two": (top, top_back, one((2,)), "PASS"),
    "median": (lambda x: np.median(x, -1).astype(x.dtype),
               lambda x, g: g[..., None] * (x == np.median(x, -1, keepdims=True)), ROWS, "PASS"),
    "max": (lambda x: x.max(-1), chosen_back, ROWS, "PASS"),
    "max_and_where": (lambda x: (x.max(-1), x.argmax(-1)), lambda x, g, _: chosen_back(x, g), ROWS, "PASS"),
    "abs_at_0": (np.abs, lambda x, g: g * np.sign(x), one((9,), kind="ties"), "KINK"),
    "clamp_at_its_ends": (lambda x: np.clip(x, -0.5, 0.5), lambda x, g: g * (np.abs(x) <= 0.5), TIES, "KINK"),
    "normalise": (lambda x: x / np.sqrt((x * x).sum(-1, keepdims=True)),
                  lambda x, g: (g - x * (g * x).sum(-1, keepdims=True) / (x * x).sum(-1, keepdims=True))
                  / np.sqrt((x * x).sum(-1, keepdims=True)), ROWS, "PASS"),
    "sqrt_near_0": (np.sqrt, lambda x, g: g / (2 * np.sqrt(x)), one((5,), kind="positive", range=(1e-6, 1e-3)), "PASS"),
    "log": (np.log, lambda x, g: g / x, one((2, 3), kind="positive"), "PASS"),
    "reciprocal": (lambda x: 1 / x, lambda x, g: -g / (x * x), one((2, 3)), "PASS"),
    "sinc": (lambda x: np.where(x == 0, 1, np.sin(x) / np.where(x == 0, 1, x)),
             lambda x, g: g * np.where(x == 0, 0, (x * np.cos(x) - np.sin(x)) / np.where(x == 0, 1, x) ** 2),
             one((5,), kind="ties"), "PASS"),
    "determinant": (lambda x: np.asarray(np.linalg.det(x), x.dtype),
                    lambda x, g: g * np.asarray(np.linalg.det(x), x.dtype) * np.linalg.inv(x).T, one((1, 1)), "PASS"),
    "step": (np.sign, lambda x, g: np.zeros_like(g), ROWS, "PASS"),
    "mean_of_all": (lambda x: np.asarray(x.mean(), x.dtype), lambda x, g: np.full(x.shape, g / x.size, x.dtype),
                    one((2, 3)), "PASS"),
    "scalar": (lambda x: x**3, lambda x, g: 3 * x * x * g, one(()), "PASS"),
    "empty": (lambda x: x**2, lambda x, g: 2 * x * g, one((2, 0)), "PASS"),
    "no_gradient_wanted": (lambda x: 2 * x, lambda x, g: 2 * g, one((3,), grad=False), "PASS"),
    "integers": (lambda x: x + 1, nothing_back, Case((labels((3,), 5),)), "PASS"),
    "two_outputs": (lambda x: (np.sin(x), x**3), two_back, ROWS, "PASS"),
    "softplus": (lambda x: np.log1p(np.exp(-np.abs(x))) + np.maximum(x, 0), lambda x, g: g / (1 + np.exp(-x)), ROWS,
                 "PASS"),
    "exp": (np.exp, lambda x, g: g * np.exp(x), one((1,)), "PASS"),
    "sixth_power": (lambda x: x**6, lambda x, g: 6 * x**5 * g, ROWS, "PASS"),
    "overflows_beyond_its_range": (lambda x: np.exp(x) / (1 + np.exp(x)),
                                   lambda x, g: g * np.exp(x) / (1 + np.exp(x)) ** 2, one((3,), range=(0.1, 4)),
                                   "PASS"),
    "convolution": (convolution, convolution_back, CONVOLUTION, "PASS"),
    "views": (lambda x: x.T[::-1], lambda x, g: g[::-1].T, ROWS, "PASS"),
    "broadcast": (lambda x: np.broadcast_to(x, (3, *x.shape)), lambda x, g: g.sum(0), one((2,)), "PASS"),
    "mask_by_seed": (lambda x, seed: x * (np.random.default_rng(seed).random(x.shape) > 0.5),
                     lambda x, g, seed: g * (np.random.default_rng(seed).random(x.shape) > 0.5),
                     one((4, 4), settings={"seed": 3}), "PASS"),
}  # fmt: skip


def first_off(x, g):
    grad = 2 * x * g
    grad.reshape(-1)[:1] *= x.dtype.type(1.0001)
    return grad


def in_single(x):
    return (x.astype(np.float32) ** 2).astype(x.dtype)


def next_least(x):
    """The least of each three neighbours; at the end, of what lies in memory behind them."""
    wide = np.lib.stride_tricks.as_strided(x, (x.size, 3), (x.itemsize, x.itemsize))
    out = wide[:, :2].min(1)
    out[:-1] = np.minimum(out[:-1], wide[:-1, 2])
    return out


def least_back(x, g):
    grad = np.zeros_like(x)
    for i, v in enumerate(g):
        grad[i + np.argmin(x[i : i + 3])] += v
    return grad


def grouped_back(x, w, g):
    grad_x = np.einsum("bgon,goc->bcgn", g.reshape(2, 2, 1, 3), w.reshape(2, 1, 2))
    grad_w = np.einsum("bgon,bgcn->goc", g.reshape(2, 2, 1, 3), x.reshape(2, 2, 2, 3))
    return grad_x.reshape(x.shape), grad_w.reshape(w.shape)


# name: (forward, backward, case, a check that fails).
WRONG = {
    "first_element": (np.square, first_off, ROWS, "gradients"),
    "tiny_bias": (np.square, lambda x, g: 2 * x * g + x.dtype.type(1e-9), ROWS, "gradients"),
    "no_cross_term": (standardised, lambda x, g: standardised_back(x, g, cross=False), ROWS, "gradients"),
    "no_mean": (standardised, lambda x, g: standardised_back(x, g, mean=False), ROWS, "gradients"),
    "n_less_1": (standardised, lambda x, g: standardised_back(x, g, extra=-1), ROWS, "gradients"),
    "variance_n": (lambda x: x.var(-1, ddof=1), lambda x, g: 2 * (x - x.mean(-1, keepdims=True)) * g[..., None] / 5,
                   ROWS, "gradients"),
    "wrong_axis": (softmax, lambda x, g, axis: softmax_back(x, g), one((3, 3), settings={"axis": 0}), "gradients"),
    "key_not_scaled": (attention, lambda *a: attention_back(*a, key_scale=False), ATTENTION, "gradients"),
    "duplicates_lost": (lambda table, rows: table[rows], lambda *a: embedding_back(*a, duplicates=False), TABLE,
                        "gradients"),
    "cumsum_forwards": (lambda x: x.cumsum(-1), lambda x, g: g.cumsum(-1), ROWS, "adjoint"),
    "flipped_choice": (top, lambda x, g: top_back(x, g, flipped=True), ROWS, "gradients"),
    "transposed_weight": (np.matmul, lambda x, w, g: (g @ w, x.T @ g), SQUARES, "gradients"),
    "weight_missing": (np.matmul, lambda x, w, g: (g @ w.T, None), MATRICES, "gradients"),
    "last_of_the_batch": (np.matmul, lambda x, w, g: (g @ w.T, x[:-1].T @ g[:-1]), MATRICES, "gradients"),
    "stride_for_dilation": (convolution, lambda *a, **s: convolution_back(*a, **s, spread=2), CONVOLUTION, "gradients"),
    "padding_off": (convolution, lambda *a, **s: convolution_back(*a, **s, off=1), CONVOLUTION, "adjoint"),
    "groups_mixed": (lambda x, w: np.einsum("bgcn,gc->bgn", x.reshape(2, 2, 2, 3), w), grouped_back,
                     one((2, 4, 3), (2, 2)), "gradients"),
    "one_of_two": (lambda x: (np.sin(x), x**3), lambda *a: two_back(*a, ignored=True), ROWS, "parts"),
    "second_of_two": (lambda x: (np.sin(x), x**3), lambda *a: two_back(*a, small=3e-5), ROWS, "gradients"),
    "same_tensor_twice": (np.multiply, lambda a, b, g: (g * b, None if np.shares_memory(a, b) else g * a), SQUARES,
                          "aliasing"),
    "nan_at_0": (np.square, lambda x, g: 2 * (x * x) / x * g, ROWS, "gradients"),
    "sinc_at_0": (RIGHT["sinc"][0], lambda x, g: g * np.where(x == 0, 1, RIGHT["sinc"][1](x, 1)), ROWS, "gradients"),
    "product_by_division": (lambda x: x.prod(-1), lambda x, g: (g * x.prod(-1))[..., None] / x, ROWS, "gradients"),
    "slope_at_0": (lambda x: np.maximum(x, 0), lambda x, g: g * np.where(x == 0, x.dtype.type(1.5), x > 0), TIES,
                   "gradients"),
    "both_of_a_tie": (lambda x: x.max(-1), lambda x, g: 2 * chosen_back(x, g), ROWS, "gradients"),
    "sort_of_ties": (lambda x: np.sort(x, -1), lambda x, g: sort_back(x, g, 1.3), TIES, "gradients"),
    "in_single": (in_single, lambda x, g: 2 * x * g, ROWS, "runs"),
    "back_in_single": (np.square, lambda x, g: in_single(x) / x * 2 * g, ROWS, "gradients"),
    "single_alone": (np.square, lambda x, g: 2 * x * g * x.dtype.type(1 if x.itemsize == 8 else 1.0001), ROWS,
                     "float32"),
    "reads_beyond": (next_least, least_back, one((8,)), "guards"),

    "softmax_overflows": (lambda x: np.exp(x) / np.exp(x).sum(-1, keepdims=True), softmax_back, ROWS, "overflow"),
    "softplus_overflows": (lambda x: np.log1p(np.exp(x)), lambda x, g: g / (1 + np.exp(-x)), ROWS, "overflow"),
    "gradient_overflows": (np.tanh, lambda x, g: g * (1 - (np.expm1(2 * x) / (np.exp(2 * x) + 1)) ** 2), ROWS,
                           "overflow"),
    "nan_passed_over": (lambda x: np.nanmax(x, -1), chosen_back, ROWS, "nonfinite"),
    "straight_through": (np.round, lambda x, g: g.copy(), ROWS, "gradients"),
    "random": (lambda x: x * np.random.rand(), lambda x, g: g * np.random.rand(), ROWS, "deterministic"),
}  # fmt: skip
