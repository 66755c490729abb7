"""What loops over a map's pixels have in common: bodies that handle one vector each, and how far ahead they fetch.

A body is told how many elements are left. Loops call it with the constant number of a whole vector, and once more for
the rest of a row, so only the end of a row needs masks.
"""

from typing import Any, NamedTuple

from .compile import inlined, kernel, spliced
from .vector import fma, keep, load, prefetch, spread, where_positive

READ_AHEAD, WRITE_AHEAD = 2048, 4096  # bytes: how far ahead of reading and writing maps are fetched


class Activation(NamedTuple):
    """Batch norm and PReLU of a channel, `prelu(x*scale + shift)`, each number in all lanes of a vector."""

    scale: Any
    shift: Any
    slope: Any


class Derivative(NamedTuple):
    """Coefficients of a raw map z's gradient, `k0*g*prelu'(z*scale + shift) + k1*z + k2`, each in all lanes."""

    activation: Activation
    k0: Any
    k1: Any
    k2: Any


@spliced
def activation_of(like, coef, start, channels):
    """A channel's `Activation`. Its numbers are `channels` apart, the first at `start`; coef is (4, channels) or has
    more rows."""
    return Activation(
        spread(like, coef[start]), spread(like, coef[start + channels]), spread(like, coef[start + 2 * channels])
    )


@spliced
def mean_of(like, coef, start, channels):
    """A channel's mean, the last row of coefficients (4, channels)."""
    return spread(like, coef[start + 3 * channels])


@spliced
def derivative_of(like, coef, start, channels):
    """A channel's `Derivative`, from coefficients (6, channels)."""
    return Derivative(
        activation_of(like, coef, start, channels), spread(like, coef[start + 3 * channels]),
        spread(like, coef[start + 4 * channels]), spread(like, coef[start + 5 * channels]),
    )  # fmt: skip


@kernel
def ahead_of(done, pixels, distance, following):
    """How far from pixel `done` of a run of pixels to the one needed `distance` pixels later. That is in the same run,
    or in the next one, which begins `following` pixels after the beginning of this one."""
    distance = min(distance, pixels)
    return distance if done + distance < pixels else distance - pixels + following


@kernel
def following_run(c, channels, stride, pixels):
    """From the beginning of channel c's run of pixels to the beginning of the next run: that of the next channel. After
    the last channel comes the next image or, where the map is taken in bands, the first channel's next band."""
    return stride if c + 1 < channels or pixels == stride else pixels - c * stride


@spliced
def argument(v, f):
    """PReLU's argument, `v*scale + shift`."""
    return fma(v, f.scale, f.shift)


@spliced
def prelu(u, f):
    """`u`, or `slope*u` where it is not positive."""
    return where_positive(u, u, f.slope * u)


@inlined
def activated(x, at, left, ahead, f):
    """`prelu(x*scale + shift)`, zero from `left` on."""
    prefetch(x, at + ahead)
    return keep(prelu(argument(load(x, at, left), f), f), left)


@inlined
def differentiated(g, at, z, beside, left, ahead, ahead_beside, d):
    """`k0*g*prelu'(z*scale + shift) + k1*z + k2`, the gradient of a raw map z, zero from `left` on."""
    prefetch(g, at + ahead)
    prefetch(z, beside + ahead_beside)
    v = load(z, beside, left)
    e = load(g, at, left)
    e = where_positive(argument(v, d.activation), e, d.activation.slope * e)
    return keep(fma(d.k0, e, fma(d.k1, v, d.k2)), left)


@inlined
def with_gradient(g, v, u, slope, mean, zero, sums):
    """The three vectors of gradient sums, with some pixels added: the sums of e = g*prelu'(u), of e*(v - mean), and of
    g*u where u <= 0. v is the raw value, u = v*scale + shift the activation's argument, g the gradient."""
    s0, s1, s2 = sums
    s2 = s2 + where_positive(u, zero, g * u)
    e = where_positive(u, g, slope * g)
    return s0 + e, fma(e, v - mean, s1), s2
