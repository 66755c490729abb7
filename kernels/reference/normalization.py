"""Batch norm and PReLU around the convolutions: deferred maps, channel statistics, coefficients."""

import numpy as np

# What coefficients are where there are none: of a map that is read as it is, and of a gradient that is.
IDENTITY = np.array([1, 0, 1, 0])[:, None]
IDENTITY_GRADIENT = np.array([0, 1, 1, 1, 0, 0])[:, None]


def _rows(coefficients, identity=IDENTITY):
    """The rows of coefficients (K, C) in float64, each shaped (C, 1, 1) to go with a map."""
    return (identity if coefficients is None else coefficients).astype(np.float64)[:, :, None, None]


def normalised(x):
    """raw*scale + shift: the map before its PReLU, in float64."""
    scale, shift, _, _ = _rows(x.coefficients)
    return x.raw * scale + shift


def activation(x):
    """The map that the deferred x stands for, in float64."""
    u, slope = normalised(x), _rows(x.coefficients)[2]
    return np.where(u > 0, u, slope * u)


def read(x):
    """`activation` in a forward pass: writes its sums over the pixels, if they are wanted."""
    a = activation(x)
    sums = x.claim_activation_sums()
    if sums is not None:
        sums[...] = a.sum(axis=(2, 3))
    return a


def gradient(grad):
    """The gradient of a raw map that the deferred grad stands for, in float64."""
    scale, shift, slope, k0, k1, k2 = _rows(grad.coefficients, IDENTITY_GRADIENT)
    e = np.where(grad.raw * scale + shift > 0, grad.g, slope * grad.g)
    return k0 * e + k1 * grad.raw + k2


def write_gradient(target, x, g):
    """Write g, the gradient of the activation of x, to its `GradientTarget`."""
    if target is None:
        return
    target.array[...] = target.array + g if target.accumulate else g
    if target.gradient_sums is not None:
        gradient_sums(target.array, x, target.gradient_sums)


def activate(x, out):
    out[...] = read(x)


def differentiate(grad, out):
    out[...] = gradient(grad)


def channel_moments(x, moments):
    a = x.astype(np.float64)
    # With the mean itself as the reference value, nothing is lost to cancellation.
    mean = a.mean(axis=(2, 3))
    about = a - mean[:, :, None, None]
    moments[:, 0] = mean
    moments[:, 1] = about.sum(axis=(2, 3))
    moments[:, 2] = (about**2).sum(axis=(2, 3))


def gradient_sums(g, x, sums):
    u = normalised(x)
    _, _, slope, mean = _rows(x.coefficients)
    e = np.where(u > 0, g, slope * g)
    sums[:, 0] = e.sum(axis=(2, 3))
    sums[:, 1] = (e * (x.raw - mean)).sum(axis=(2, 3))
    sums[:, 2] = np.where(u > 0, 0, g * u).sum(axis=(2, 3))


def batch_norm(moments, pixels, momentum, eps, parameters, running, statistics, coefficients):
    for i, used in enumerate(statistics):
        if moments[i] is None:
            used[...] = running[i]
        else:
            _batch_statistics(moments[i], pixels[i], momentum[i], running[i], used)
        _coefficients(*used, eps[i], *parameters[i], coefficients[i])


def _batch_statistics(moments, pixels, momentum, running, used):
    reference, total, squares = moments.transpose(1, 0, 2)
    count = moments.shape[0] * pixels
    own = reference + total / pixels  # each image's mean
    mean = own.mean(axis=0)
    # Squares about the mean of all: those about each image's own mean, and that mean's distance, once per pixel.
    about = (squares - total**2 / pixels + pixels * (own - mean) ** 2).sum(axis=0)
    used[0], used[1] = mean, about / count
    for average, value in zip(running, (mean, about / max(count - 1, 1)), strict=True):
        if average is not None:
            average[...] = (1 - momentum) * average + momentum * value


def _coefficients(mean, variance, eps, weight, bias, slope, out):
    scale = weight / np.sqrt(variance + eps)
    out[0] = scale
    out[1] = bias - mean * scale
    out[2] = slope
    out[3] = mean


def batch_norm_backward(sums, counts, training, eps, parameters, statistics, coefficients, gradients):
    for i, (weight, bias, slope) in enumerate(parameters):
        (mean, variance), out = statistics[i], coefficients[i]
        grad_weight, grad_bias, grad_slope = gradients[i]
        sum_e, sum_e_about, sum_negative = sums[i].sum(axis=0)
        deviation = 1 / np.sqrt(variance + eps[i])
        scale = weight * deviation
        grad_bias[...] = sum_e
        grad_weight[...] = deviation * sum_e_about
        grad_slope[...] = sum_negative
        out[0] = scale
        out[1] = bias - mean * scale
        out[2] = slope
        out[3] = scale
        per_x = -scale * deviation**2 * sum_e_about / counts[i] if training[i] else np.zeros_like(scale)
        out[4] = per_x
        out[5] = -scale * sum_e / counts[i] - per_x * mean if training[i] else 0


def prelu_coefficients(slope, out):
    out[...] = IDENTITY
    out[2] = slope


def prelu_backward(sums, slope, out, grad_slope):
    out[...] = np.array([1, 0, 0, 1, 0, 0])[:, None]
    out[2] = slope
    if grad_slope is not None:
        grad_slope[...] = sums[:, 2].sum(axis=0)
