"""Deferred normalisation: the types that travel between ops in place of normalised maps.

A convolution's raw output, its batch norm and its PReLU are one `Deferred`: the raw map and, per channel, scale, shift
and slope. Whoever reads it applies them while loading; the normalised activation is never stored. Backward, the
gradient with respect to a raw map is an affine function of two maps that exist already, so it travels as a
`DeferredGradient` and is formed while loading, too. Both are shared by all backends.
"""

import numpy as np

from .memory import empty


def identity_coefficients(channels, dtype):
    """Scale 1, shift 0, slope 1, mean 0: (4, channels)."""
    coefficients = np.zeros((4, channels), dtype)
    coefficients[0] = coefficients[2] = 1
    return coefficients


class ActivationSums:
    """Sums of an activation over its pixels, (N, C) in float64, filled in by the first op that reads it.

    They are what the metric of dynamic weight decay is made of; the holder outlives the map.
    """

    __slots__ = ("pixels", "values")

    def __init__(self, pixels):
        self.values = None
        self.pixels = pixels

    def claim(self, images, channels):
        """The array to fill, or None if somebody has filled it before."""
        if self.values is not None:
            return None
        self.values = np.zeros((images, channels))
        return self.values


class Deferred:
    """The map `prelu(raw*scale + shift)` that has not been computed.

    raw: (N, C, H, W). coefficients: (4, C), the rows scale, shift, slope and mean (about which sums of gradients are
    taken), or None for the raw map itself. moments: (N, 3, C) in float64, the raw map's per-image reference value, sum
    and sum of squares about it, if the op that made it was asked for them.
    """

    __slots__ = ("activation_sums", "coefficients", "is_raw", "moments", "raw")

    def __init__(self, raw, coefficients=None, moments=None, activation_sums=None):
        self.raw = raw
        self.is_raw = coefficients is None
        self.coefficients = identity_coefficients(raw.shape[1], raw.dtype) if self.is_raw else coefficients
        self.moments = moments
        self.activation_sums = activation_sums

    @property
    def shape(self):
        return self.raw.shape

    @property
    def dtype(self):
        return self.raw.dtype

    @property
    def ndim(self):
        return self.raw.ndim

    def claim_sums(self):
        """The array (N, C) that the next reader shall fill with sums of the activation, or None."""
        if self.activation_sums is None:
            return None
        return self.activation_sums.claim(*self.raw.shape[:2])

    def value(self, kernels):
        """The map as an array."""
        if self.is_raw:
            return self.raw
        out = empty(self.shape, self.dtype)
        kernels.activate(self, out)
        return out

    @staticmethod
    def of(array):
        """Any map as a `Deferred`."""
        return array if isinstance(array, Deferred) else Deferred(array)


class DeferredGradient:
    """The gradient `k0*g*prelu'(raw*scale + shift) + k1*raw + k2` that has not been computed.

    g, raw: (N, C, H, W); coefficients: (6, C), the rows scale, shift, slope, k0, k1, k2. spent: nobody needs g after
    the op that takes this gradient, so that may write its input's gradient over g, while its lines are in the cache.
    """

    __slots__ = ("coefficients", "g", "raw", "spent")

    def __init__(self, g, raw, coefficients, spent=False):
        self.g, self.raw, self.coefficients, self.spent = g, raw, coefficients, spent

    @property
    def shape(self):
        return self.g.shape

    @property
    def dtype(self):
        return self.g.dtype

    def value(self, kernels):
        """The gradient as an array."""
        out = empty(self.shape, self.dtype)
        kernels.differentiate(self, out)
        return out

    @staticmethod
    def of(gradient):
        """Any gradient of a map as a `DeferredGradient`."""
        if isinstance(gradient, DeferredGradient):
            return gradient
        channels = gradient.shape[1]
        coefficients = np.zeros((6, channels), gradient.dtype)
        # The sign of 0*raw + 1 is positive everywhere, so PReLU's derivative is 1 and the gradient itself passes.
        coefficients[1] = coefficients[2] = coefficients[3] = 1
        return DeferredGradient(gradient, gradient, coefficients)


class Slot:
    """Where a backward pass writes the gradient of one input.

    array: (N, C, H, W) to write, or to add to where `accumulate`. sums: (N, 3, C) in float64, to fill with the channel
    sums that batch norm's gradient needs (see `gradient_sums`), or None: only the last reader of a map can.

    A backward of a normalised map is also given its complete gradient as a Slot; spent: nobody else holds the array.
    """

    __slots__ = ("accumulate", "array", "spent", "sums")

    def __init__(self, array, accumulate=False, sums=None, spent=False):
        self.array, self.accumulate, self.sums, self.spent = array, accumulate, sums, spent
