"""What loops over a map's pixels have in common: bodies, for one vector each, and how far ahead they fetch.

A body is given how many elements are left. Loops call it with a whole vector's constant number, and once more for the
rest of a row: so there are no masks but at a row's end.
"""

from typing import Any, NamedTuple

from .compile import inlined, kernel, spliced
from .vector import fma, keep, load, prefetch, spread, where_positive

READ_AHEAD, WRITE_AHEAD = 2048, 4096  # bytes by which maps are fetched before they are read and written


class Activation(NamedTuple):
    """Batch norm and PReLU of a channel, `prelu(x*scale + shift)`, each number in all lanes of a vector."""

    scale: Any
    shift: Any
    slope: Any


class Derivative(NamedTuple):
    """What makes the gradient of a raw map z, `k0*g*prelu'(z*scale + shift) + k1*z + k2`, each in all lanes."""

    activation: Activation
    k0: Any
    k1: Any
    k2: Any


@spliced
def activation_of(like, coef, start, channels):
    """That of a channel; its numbers lie `channels` apart, the first one at `start`: (4, channels) or more rows."""
    return Activation(
        spread(like, coef[start]), spread(like, coef[start + channels]), spread(like, coef[start + 2 * channels])
    )


@spliced
def mean_of(like, coef, start, channels):
    """The mean, which follows them, of coefficients (4, channels)."""
    return spread(like, coef[start + 3 * channels])


@spliced
def derivative_of(like, coef, start, channels):
    """That of a channel, of coefficients (6, channels)."""
    return Derivative(
        activation_of(like, coef, start, channels), spread(like, coef[start + 3 * channels]),
        spread(like, coef[start + 4 * channels]), spread(like, coef[start + 5 * channels]),
    )  # fmt: skip


@kernel
def ahead_of(done, pixels, distance, following):
    """How far from pixel `done` of a run of pixels lies what will be needed `distance` pixels later: in the run itself
    or in the one that is worked on next, which begins `following` pixels after this one's beginning."""
    distance = min(distance, pixels)
    return distance if done + distance < pixels else distance - pixels + following


@kernel
def following_run(c, channels, stride, pixels):
    """From the beginning of channel c's run of pixels to that of the run that is worked on next: the next channel's; of
    the last channel, the next image's or, where the map is taken in bands, the first channel's next band."""
    return stride if c + 1 < channels or pixels == stride else pixels - c * stride


@spliced
def argument(v, f):
    """PReLU's, `v*scale + shift`."""
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
    """The gradient sums, three vectors, with what pixels of raw value v, activation's argument u = v*scale + shift and
    gradient g add: of e = g*prelu'(u), of e*(v - mean), and of g*u where u <= 0."""
    s0, s1, s2 = sums
    s2 = s2 + where_positive(u, zero, g * u)
    e = where_positive(u, g, slope * g)
    return s0 + e, fma(e, v - mean, s1), s2
