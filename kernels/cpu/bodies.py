"""What loops over a map's pixels have in common: bodies, for one vector each, and how far ahead they fetch.

A body is given how many elements are left. Loops call it with a whole vector's constant number, and once more for the
rest of a row: so there are no masks but at a row's end.
"""

from .compile import inlined, kernel
from .vector import fma, keep, load, prefetch, where_positive

READ_AHEAD, WRITE_AHEAD = 2048, 4096  # bytes by which maps are fetched before they are read and written


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


@inlined
def activated(x, at, left, ahead, scale, shift, slope):
    """`prelu(x*scale + shift)`, zero from `left` on."""
    prefetch(x, at + ahead)
    u = fma(load(x, at, left), scale, shift)
    return keep(where_positive(u, u, slope * u), left)


@inlined
def differentiated(g, at, z, beside, left, ahead, ahead_beside, scale, shift, slope, k0, k1, k2):
    """`k0*g*prelu'(z*scale + shift) + k1*z + k2`, the gradient of a raw map z, zero from `left` on."""
    prefetch(g, at + ahead)
    prefetch(z, beside + ahead_beside)
    v = load(z, beside, left)
    e = load(g, at, left)
    e = where_positive(fma(v, scale, shift), e, slope * e)
    return keep(fma(k0, e, fma(k1, v, k2)), left)


@inlined
def with_gradient(g, v, u, slope, mean, zero, s0, s1, s2):
    """The sums that batch norm's and PReLU's gradients are made of, with what pixels of raw value v, activation's
    argument u = v*scale + shift and gradient g add: of e = g*prelu'(u), of e*(v - mean), and of g*u where u <= 0."""
    s2 = s2 + where_positive(u, zero, g * u)
    e = where_positive(u, g, slope * g)
    return s0 + e, fma(e, v - mean, s1), s2
