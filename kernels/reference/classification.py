"""Maxima, log-softmax and cross-entropy: what classifiers end in."""

import numpy as np


def _quiet():
    return np.errstate(all="ignore")


def max_middle(x, out):
    out[...] = x.max(axis=1)


def max_middle_backward(grad, x, grad_x):
    winners = np.expand_dims(x.argmax(axis=1), 1)  # the first one; of a NaN, if there is any
    grad_x[...] = 0
    np.put_along_axis(grad_x, winners, grad[:, None], axis=1)


def _log_softmax(x, axis):
    x = x - x.max(axis=axis, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=axis, keepdims=True))


def log_softmax(x, out):
    with _quiet():
        out[...] = _log_softmax(x.astype(np.float64), 1)


def log_softmax_backward(grad, out, grad_x):
    grad, out = grad.astype(np.float64), out.astype(np.float64)
    with _quiet():
        grad_x[...] = grad - np.exp(out) * grad.sum(axis=1, keepdims=True)


def _chosen(logits, labels):
    """(N, K): 1 at a row's label, NaN in the rows of labels that are out of range."""
    chosen = (np.arange(logits.shape[1]) == labels[:, None]).astype(np.float64)
    chosen[(labels < 0) | (labels >= logits.shape[1])] = np.nan
    return chosen


def cross_entropy(logits, labels, smoothing, out):
    share = (1 - smoothing) * _chosen(logits, labels) + smoothing / logits.shape[1]
    with _quiet():
        terms = -share * _log_softmax(logits.astype(np.float64), 1)
        out[...] = np.where(share == 0, 0, terms).sum(axis=1).mean()


def cross_entropy_backward(grad, logits, labels, smoothing, grad_logits):
    share = (1 - smoothing) * _chosen(logits, labels) + smoothing / logits.shape[1]
    with _quiet():
        softmax = np.exp(_log_softmax(logits.astype(np.float64), 1))
        grad_logits[...] = float(grad.reshape(-1)[0]) / len(logits) * (softmax - share)
