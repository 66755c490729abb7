"""Depthwise convolution, forward and backward, one plane (image, channel) at a time.

A ring of rows holds as many activated input rows as the kernel is high, so every map crosses the bus once. With a
stride, rows are computed at stride 1 along the row and every `stride`-th pixel is kept; backward, the gradient is
spread out with zeros in between. So each loop has one form. Ring rows end in at least a vector of zeros.

A 3x3 kernel computes two rows at a time, which share two of the three rows that each of them reads. Sums over pixels
are kept lane by lane in the `running` vectors, behind the ring, and go into float64 every few rows.
"""

from typing import Any, NamedTuple

import numpy as np

from octsod.backend.memory import SMALLEST, empty

from .bodies import (
    READ_AHEAD,
    WRITE_AHEAD,
    Activation,
    activated,
    ahead_of,
    argument,
    derivative_of,
    differentiated,
    prelu,
    with_gradient,
)
from .compile import inlined, kernel, spliced
from .simd import VECTOR_BYTES, lanes
from .vector import fma, keep, load, prefetch, prefetch_to_write, spread, store, total

FLUSH = 2048  # pixels that sums in the storage dtype may cover before they go into float64
RUNNING = 12  # vectors behind the ring
# Forward, these are the sum of the activation, and the output's sum and sum of squares about the reference; backward, 0
# to 8 are the sums of the taps, and 9 to 11 the gradient sums.
SEEN, FIRST, SECOND, GRADIENT = 0, 1, 2, 9


class Shape(NamedTuple):
    """The shape of a convolution: the map's channels and size, the sizes of output and kernel, and how it strides."""

    channels: int
    height: int
    width: int
    out_height: int
    out_width: int
    kh: int
    kw: int
    stride: int
    padding: int
    dilation: int


class Scratch(NamedTuple):
    """Each thread's ring of rows, `size` elements of `array`.

    depth: the number of rows, a power of two; row r is at r modulo depth. pitch: from one row to the next. origin:
    where a row's pixels begin. The last row is followed by a separate line and by the running vectors.
    """

    array: Any
    size: int
    depth: int
    pitch: int
    origin: int


class Planes(NamedTuple):
    """`count` planes, `step` apart, from `first` on; `after`: how many planes behind the last one the next call's first
    plane is, 0 for none. One call for many small planes: a call costs as much as two rows of 14 pixels."""

    first: int
    step: int
    count: int
    after: int


class Source(NamedTuple):
    """The map to be convolved, deferred: x (N*C, height, width), coef (4, C)."""

    x: Any
    coef: Any


class Results(NamedTuple):
    """What the forward pass writes: out (N*C, out_height, out_width), moments (N, 3, C) if `want`ed, and the sums of
    the activations (N, C)."""

    out: Any
    moments: Any
    want: bool
    activation_sums: Any


class Gradient(NamedTuple):
    """The output's gradient, deferred: g and z (N*C, out_height, out_width), dcoef (6, C)."""

    g: Any
    z: Any
    dcoef: Any


class Gradients(NamedTuple):
    """What the backward pass writes: gx, or adds to gx if `accumulate`; the weight's gradient, image by image, as
    partials (N, C, kh, kw); the gradient sums of x (N, 3, C) if `want`ed."""

    gx: Any
    accumulate: bool
    partials: Any
    gradient_sums: Any
    want: bool


@kernel
def _clear(ring, running, count):
    lane = lanes(ring)
    for k in range(count):
        store(ring, running + k * lane, spread(ring, 0), lane)


@kernel
def _flush(ring, running, k):
    """The total of the k-th running vector, which is set back to zero."""
    lane = lanes(ring)
    whole = float(total(load(ring, running + k * lane, lane)))
    store(ring, running + k * lane, spread(ring, 0), lane)
    return whole


class _Ends(NamedTuple):
    """Batch norm and PReLU of a channel, as numbers."""

    scale: Any
    shift: Any
    slope: Any
    mean: Any


@spliced
def _ends_of(coef, c, channels):
    return _Ends(coef[c], coef[channels + c], coef[2 * channels + c], coef[3 * channels + c])


@spliced
def _in_all_lanes(like, ends):
    return Activation(spread(like, ends.scale), spread(like, ends.shift), spread(like, ends.slope))


@kernel
def _load_row(x, start, width, ahead, ends, ring, at, running):
    """`ring[at:at + width] = prelu(x*scale + shift)`, then zeros to the end of the vector; adds to the running sum."""
    lane = lanes(x)
    f = _in_all_lanes(x, ends)
    s = load(ring, running, lane)
    whole = width - width % lane
    for i in range(0, whole, lane):
        v = activated(x, start + i, lane, ahead, f)
        store(ring, at + i, v, lane)
        s = s + v
    if whole < width:
        v = activated(x, start + whole, width - whole, ahead, f)
        store(ring, at + whole, v, lane)
        s = s + v
    store(ring, running, s, lane)


@spliced
def _moments_so_far(ring, running):
    """The two running vectors of the moments."""
    lane = lanes(ring)
    return load(ring, running + FIRST * lane, lane), load(ring, running + SECOND * lane, lane)


@spliced
def _keep_moments(ring, running, moments):
    lane = lanes(ring)
    store(ring, running + FIRST * lane, moments[0], lane)
    store(ring, running + SECOND * lane, moments[1], lane)


@inlined
def _about(v, left, about, moments):
    """The moments plus what v adds: its distance from the reference, and the square of that."""
    v = keep(v - about, left)
    return moments[0] + v, fma(v, v, moments[1])


@kernel
def _filter_row(ring, rows, weight, w, dilation, out, at, span, reference, running):
    """A row of a 3x3 convolution at stride 1, from three rows of the ring; adds to the running moments."""
    y0, y1, y2 = rows
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = nine(ring, weight, w)
    about = spread(ring, reference)
    lane = lanes(ring)
    moments = _moments_so_far(ring, running)
    for i in range(0, span, lane):
        v = w0 * load(ring, y0 + i, lane)
        v = fma(w1, load(ring, y0 + i + dilation, lane), v)
        v = fma(w2, load(ring, y0 + i + 2 * dilation, lane), v)
        v = fma(w3, load(ring, y1 + i, lane), v)
        v = fma(w4, load(ring, y1 + i + dilation, lane), v)
        v = fma(w5, load(ring, y1 + i + 2 * dilation, lane), v)
        v = fma(w6, load(ring, y2 + i, lane), v)
        v = fma(w7, load(ring, y2 + i + dilation, lane), v)
        v = fma(w8, load(ring, y2 + i + 2 * dilation, lane), v)
        store(out, at + i, v, span - i)
        moments = _about(v, span - i, about, moments)
    _keep_moments(ring, running, moments)


@inlined
def _filter_at(ring, rows, i, taps, out, at, under, left, ahead, about, moments):
    """A vector of each of two rows, the second one at `under`, from four rows of the ring, pixel i on. Returns the
    moments plus what they add."""
    lane = lanes(ring)
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = taps
    y0, y1, y2, y3 = rows[0] + i, rows[1] + i, rows[2] + i, rows[3] + i
    prefetch_to_write(out, at + ahead)
    prefetch_to_write(out, under + ahead)
    # Each row's sum is one chain, tap by tap, as in inference (inference_steps.py): the results are the same bits.
    e, f, g = load(ring, y0, lane), load(ring, y0 + 1, lane), load(ring, y0 + 2, lane)
    v = fma(w2, g, fma(w1, f, w0 * e))
    e, f, g = load(ring, y1, lane), load(ring, y1 + 1, lane), load(ring, y1 + 2, lane)
    v = fma(w5, g, fma(w4, f, fma(w3, e, v)))
    u = fma(w2, g, fma(w1, f, w0 * e))
    e, f, g = load(ring, y2, lane), load(ring, y2 + 1, lane), load(ring, y2 + 2, lane)
    v = fma(w8, g, fma(w7, f, fma(w6, e, v)))
    u = fma(w5, g, fma(w4, f, fma(w3, e, u)))
    store(out, at, v, left)
    moments = _about(v, left, about, moments)
    e, f, g = load(ring, y3, lane), load(ring, y3 + 1, lane), load(ring, y3 + 2, lane)
    u = fma(w8, g, fma(w7, f, fma(w6, e, u)))
    store(out, under, u, left)
    return _about(u, left, about, moments)


@inlined
def nine(like, weight, w):
    """The taps of a 3x3 kernel, each in all lanes."""
    return (
        spread(like, weight[w]), spread(like, weight[w + 1]), spread(like, weight[w + 2]), spread(like, weight[w + 3]),
        spread(like, weight[w + 4]), spread(like, weight[w + 5]), spread(like, weight[w + 6]),
        spread(like, weight[w + 7]), spread(like, weight[w + 8]),
    )  # fmt: skip


@kernel
def _filter_two_rows(ring, rows, weight, w, out, at, span, ahead, reference, running):
    """The same for two rows of `span` pixels, one after the other in `out`, from four rows of the ring; no dilation."""
    taps = nine(ring, weight, w)
    about = spread(ring, reference)
    lane = lanes(ring)
    moments = _moments_so_far(ring, running)
    whole, under = span - span % lane, at + span
    for i in range(0, whole, lane):
        moments = _filter_at(ring, rows, i, taps, out, at + i, under + i, lane, ahead, about, moments)
    if whole < span:
        i, left = whole, span - whole
        moments = _filter_at(ring, rows, i, taps, out, at + i, under + i, left, ahead, about, moments)
    _keep_moments(ring, running, moments)


@kernel
def _filter_row_any(ring, row, first, scratch, weight, w, shape, out, at, span, reference, running):
    """`_filter_row` for any kernel size; `row` is the first ring row that it reads, each of them from `first` on."""
    mask, about = scratch.depth - 1, spread(ring, reference)
    lane = lanes(ring)
    moments = _moments_so_far(ring, running)
    for i in range(0, span, lane):
        v = spread(ring, 0)
        for ty in range(shape.kh):
            y = ((row + ty * shape.dilation) & mask) * scratch.pitch + first + i
            for tx in range(shape.kw):
                v = fma(spread(ring, weight[w + ty * shape.kw + tx]), load(ring, y + tx * shape.dilation, lane), v)
        store(out, at + i, v, span - i)
        moments = _about(v, span - i, about, moments)
    _keep_moments(ring, running, moments)


@kernel
def _thin(line, start, stride, out, at, count, reference, running):
    """`out[at:at + count] = every stride-th pixel of line`; adds to the running moments."""
    lane = lanes(line)
    for i in range(count):
        v = line[start + i * stride]
        out[at + i] = v
        v -= reference
        line[running + FIRST * lane] += v
        line[running + SECOND * lane] += v * v


@spliced
def _filter(ring, scratch, weight, w, shape, out, at, r, two, ahead, reference, running):
    """Row r of the output, or `two` rows, from the ring."""
    mask, pitch = scratch.depth - 1, scratch.pitch
    first = scratch.origin - shape.padding  # the first pixel of a ring row that an output sees
    row, line = r * shape.stride, scratch.depth * pitch
    span = (shape.out_width - 1) * shape.stride + 1
    three = shape.stride == 1 and shape.kh == 3 and shape.kw == 3
    y0 = (row & mask) * pitch + first
    y1 = ((row + shape.dilation) & mask) * pitch + first
    y2 = ((row + 2 * shape.dilation) & mask) * pitch + first
    if two:
        y3 = ((r + 3) & mask) * pitch + first
        _filter_two_rows(ring, (y0, y1, y2, y3), weight, w, out, at, span, ahead, reference, running)
    elif three:
        _filter_row(ring, (y0, y1, y2), weight, w, shape.dilation, out, at, span, reference, running)
    elif shape.stride == 1:
        _filter_row_any(ring, row, first, scratch, weight, w, shape, out, at, span, reference, running)
    else:
        _filter_row_any(ring, row, first, scratch, weight, w, shape, ring, line, span, 0, running)
        _flush(ring, running, FIRST)
        _flush(ring, running, SECOND)
        _thin(ring, line, shape.stride, out, at, shape.out_width, reference, running)


@kernel
def forward_planes(slot, planes, source, weight, results, shape, scratch):
    """Convolves planes; weight (C, kh, kw). See `Planes`, `Source`, `Results`, `Shape` and `Scratch`."""
    x, channels, stride = source.x, shape.channels, shape.stride
    sees = (shape.kh - 1) * shape.dilation + 1  # rows of the input that a row of the output sees
    mask = scratch.depth - 1
    pixels, out_pixels = shape.height * shape.width, shape.out_height * shape.out_width
    read_ahead, write_ahead = READ_AHEAD // x.itemsize, WRITE_AHEAD // x.itemsize
    ring = scratch.array[slot * scratch.size : (slot + 1) * scratch.size]
    running = (scratch.depth + 1) * scratch.pitch
    three = stride == 1 and shape.kh == 3 and shape.kw == 3
    for number in range(planes.count):
        plane = planes.first + number * planes.step
        following = planes.step if number < planes.count - 1 else planes.after
        c = plane % channels
        w = c * shape.kh * shape.kw
        ends = _ends_of(source.coef, c, channels)
        ring[:running] = 0
        _clear(ring, running, 3)
        seen = 0.0
        loaded = 0  # rows, counted from the first of the upper border
        reference = x.dtype.type(0)
        first_moment = 0.0
        second_moment = 0.0
        r = 0
        fresh = 0  # rows since sums went into float64
        while r < shape.out_height:
            two = three and shape.dilation == 1 and 0 < r < shape.out_height - 1
            while loaded < (r + two) * stride + sees:
                at = (loaded & mask) * scratch.pitch
                row = loaded - shape.padding
                if 0 <= row < shape.height:
                    begin = (plane * shape.height + row) * shape.width
                    ahead = ahead_of(row * shape.width, pixels, read_ahead, following * pixels)
                    to = at + scratch.origin
                    _load_row(x, begin, shape.width, ahead, ends, ring, to, running)
                else:
                    ring[at : at + scratch.pitch] = 0
                loaded += 1
            at = (plane * shape.out_height + r) * shape.out_width
            ahead = ahead_of(r * shape.out_width, out_pixels, write_ahead, following * out_pixels)
            # The first row is computed twice: its mean becomes the reference that the moments are taken about, since
            # E[y^2] - E[y]^2 would lose a small variance next to a large mean.
            for again in range(1 + (r == 0)):
                _filter(ring, scratch, weight, w, shape, results.out, at, r, two, ahead, reference, running)
                if r == 0 and again == 0:
                    reference = x.dtype.type(_flush(ring, running, FIRST) / shape.out_width)
                    _flush(ring, running, SECOND)
            r += 1 + two
            fresh += 1 + two
            if fresh * shape.width * stride >= FLUSH or stride > 1 or r >= shape.out_height:
                seen += _flush(ring, running, SEEN)
                first_moment += _flush(ring, running, FIRST)
                second_moment += _flush(ring, running, SECOND)
                fresh = 0
        while loaded < shape.height + shape.padding:  # rows that no output sees still count in the mean activation
            if loaded >= shape.padding:
                begin = (plane * shape.height + loaded - shape.padding) * shape.width
                _load_row(x, begin, shape.width, 0, ends, ring, scratch.origin, running)
                seen += _flush(ring, running, SEEN)
            loaded += 1
        results.activation_sums[plane] = seen
        if results.want:
            _put_three(results.moments, plane, channels, reference, first_moment, second_moment)


@kernel
def forward(slot, start, stop, source, weight, results, shape, scratch):
    """Planes start..stop: see `forward_planes`."""
    forward_planes(slot, Planes(start, 1, stop - start, 1), source, weight, results, shape, scratch)


@spliced
def _put_three(out, plane, channels, first, second, third):
    """Write a plane's entries of an array (N, 3, C)."""
    at = plane // channels * 3 * channels + plane % channels
    out[at] = first
    out[at + channels] = second
    out[at + 2 * channels] = third


@kernel
def _differentiate_row(gradient, start, width, ahead, c, channels, ring, at):
    """A row of the output's gradient, `k0*g*prelu'(z*scale + shift) + k1*z + k2`, then zeros."""
    g, z, dcoef = gradient
    lane = lanes(g)
    d = derivative_of(g, dcoef, c, channels)
    whole = width - width % lane
    for i in range(0, whole, lane):
        v = differentiated(g, start + i, z, start + i, lane, ahead, ahead, d)
        store(ring, at + i, v, lane)
    if whole < width:
        v = differentiated(g, start + whole, z, start + whole, width - whole, ahead, ahead, d)
        store(ring, at + whole, v, lane)


class _Two(NamedTuple):
    """Two successive rows of a map: where the first and the second one begin, or a vector of each."""

    at: int
    under: int


class _Target(NamedTuple):
    """The gradient to be written, or to be added to if `accumulate`."""

    gx: Any
    accumulate: bool


@inlined
def _correlate_at(ring, rows, i, x, two, left, ahead, taps, f, mean, target, running):
    """A vector of each of two rows, i pixels after their beginnings. Returns the running vectors plus what it adds:
    nine for the taps, and three gradient sums."""
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = taps
    y0, y1, y2, y3 = rows[0] + i, rows[1] + i, rows[2] + i, rows[3] + i
    at, under = two.at + i, two.under + i
    gx = target.gx
    t, sums = running
    t0, t1, t2, t3, t4, t5, t6, t7, t8 = t
    lane, zero = lanes(x), spread(x, 0)
    prefetch(x, at + ahead[0])
    prefetch(x, under + ahead[0])
    prefetch_to_write(gx, at + ahead[1])
    prefetch_to_write(gx, under + ahead[1])
    v = load(x, at, left)
    u = argument(v, f)
    a = keep(prelu(u, f), left)
    v_under = load(x, under, left)
    u_under = argument(v_under, f)
    b = keep(prelu(u_under, f), left)
    # y: the first row's gradient, z: the second's, in two chains each. A row of the ring meets tap row t of the first
    # and tap row t + 1 of the second.
    e = load(ring, y3 + 2, lane)
    z = w0 * e
    t0 = fma(b, e, t0)
    e = load(ring, y3 + 1, lane)
    q = w1 * e
    t1 = fma(b, e, t1)
    e = load(ring, y3, lane)
    z = fma(w2, e, z)
    t2 = fma(b, e, t2)
    e = load(ring, y0 + 2, lane)
    y = w0 * e
    t0 = fma(a, e, t0)
    q = fma(w3, e, q)
    t3 = fma(b, e, t3)
    e = load(ring, y0 + 1, lane)
    p = w1 * e
    t1 = fma(a, e, t1)
    z = fma(w4, e, z)
    t4 = fma(b, e, t4)
    e = load(ring, y0, lane)
    y = fma(w2, e, y)
    t2 = fma(a, e, t2)
    q = fma(w5, e, q)
    t5 = fma(b, e, t5)
    e = load(ring, y1 + 2, lane)
    p = fma(w3, e, p)
    t3 = fma(a, e, t3)
    z = fma(w6, e, z)
    t6 = fma(b, e, t6)
    e = load(ring, y1 + 1, lane)
    y = fma(w4, e, y)
    t4 = fma(a, e, t4)
    q = fma(w7, e, q)
    t7 = fma(b, e, t7)
    e = load(ring, y1, lane)
    p = fma(w5, e, p)
    t5 = fma(a, e, t5)
    z = fma(w8, e, z)
    t8 = fma(b, e, t8)
    e = load(ring, y2 + 2, lane)
    y = fma(w6, e, y)
    t6 = fma(a, e, t6)
    e = load(ring, y2 + 1, lane)
    p = fma(w7, e, p)
    t7 = fma(a, e, t7)
    e = load(ring, y2, lane)
    y = fma(w8, e, y)
    t8 = fma(a, e, t8)
    y = y + p
    z = z + q
    if target.accumulate:
        y = y + load(gx, at, left)
        z = z + load(gx, under, left)
    store(gx, at, y, left)
    store(gx, under, z, left)
    sums = with_gradient(keep(y, left), v, u, f.slope, mean, zero, sums)
    sums = with_gradient(keep(z, left), v_under, u_under, f.slope, mean, zero, sums)
    return (t0, t1, t2, t3, t4, t5, t6, t7, t8), sums


@inlined
def _three(ring, at):
    """Three running vectors."""
    lane = lanes(ring)
    return load(ring, at, lane), load(ring, at + lane, lane), load(ring, at + 2 * lane, lane)


@inlined
def _keep_three(ring, at, three):
    lane = lanes(ring)
    for j in range(3):
        store(ring, at + j * lane, three[j], lane)


@kernel
def _correlate_two_rows(ring, rows, x, begin, width, ahead, ends, weight, w, gx, accumulate, running):
    """Two rows of the input's gradient and what they add to the weight's, from the same rows of the output's gradient.

    Of the four rows of the ring, the first is the one that the first row's upper taps read, the last the one that the
    second row's upper taps read. ahead: how far to look ahead where it reads, and where it writes.
    """
    lane = lanes(x)
    taps = nine(x, weight, w)
    f, mean = _in_all_lanes(x, ends), spread(x, ends.mean)
    target = _Target(gx, accumulate)
    two = _Two(begin, begin + width)
    vectors = (
        _three(ring, running) + _three(ring, running + 3 * lane) + _three(ring, running + 6 * lane),
        _three(ring, running + GRADIENT * lane),
    )  # fmt: skip
    whole = width - width % lane
    for i in range(0, whole, lane):
        vectors = _correlate_at(ring, rows, i, x, two, lane, ahead, taps, f, mean, target, vectors)
    if whole < width:
        left = width - whole
        vectors = _correlate_at(ring, rows, whole, x, two, left, ahead, taps, f, mean, target, vectors)
    t, sums = vectors
    _keep_three(ring, running, t[:3])
    _keep_three(ring, running + 3 * lane, t[3:6])
    _keep_three(ring, running + 6 * lane, t[6:])
    _keep_three(ring, running + GRADIENT * lane, sums)


@kernel
def _correlate_row_any(ring, row, scratch, x, begin, ends, weight, w, shape, gradients, p, running):
    """The same for one row and any kernel; `row` is the ring row that the upper taps read; p: where partials begin."""
    gx = gradients.gx
    f, mean = _in_all_lanes(x, ends), spread(x, ends.mean)
    mask, pitch, origin = scratch.depth - 1, scratch.pitch, scratch.origin + shape.padding
    kh, kw, dilation, width = shape.kh, shape.kw, shape.dilation, shape.width
    zero = spread(x, 0)
    lane = lanes(x)
    for ty in range(kh):
        for tx in range(kw):
            at = ((row - ty * dilation) & mask) * pitch + origin - tx * dilation
            share = zero
            for i in range(0, width, lane):
                u = argument(load(x, begin + i, width - i), f)
                share = fma(keep(prelu(u, f), width - i), load(ring, at + i, lane), share)
            gradients.partials[p + ty * kw + tx] += total(share)
    sums = _three(ring, running + GRADIENT * lane)
    for i in range(0, width, lane):
        left = width - i
        v = load(x, begin + i, left)
        y = zero
        for ty in range(kh):
            at = ((row - ty * dilation) & mask) * pitch + origin + i
            for tx in range(kw):
                y = fma(spread(x, weight[w + ty * kw + tx]), load(ring, at - tx * dilation, lane), y)
        if gradients.accumulate:
            y = y + load(gx, begin + i, left)
        store(gx, begin + i, y, left)
        sums = with_gradient(keep(y, left), v, argument(v, f), f.slope, mean, zero, sums)
    _keep_three(ring, running + GRADIENT * lane, sums)


@spliced
def _spread_out_row(gradient, plane, c, row, ring, scratch, shape, following):
    """Put a row of the output's gradient in its place in the ring, with zeros where the stride left pixels out."""
    stride, out_width = shape.stride, shape.out_width
    out_pixels = shape.out_height * out_width
    at = (row & (scratch.depth - 1)) * scratch.pitch
    # A division costs as much as a vector of a row, so there is none without a stride.
    source = row if stride == 1 else row // stride
    inside = row >= 0 and source < shape.out_height and (stride == 1 or row % stride == 0)
    begin = (plane * shape.out_height + source) * out_width
    ahead = ahead_of(source * out_width, out_pixels, READ_AHEAD // ring.itemsize, following * out_pixels)
    to = at + scratch.origin
    if inside and stride == 1:
        _differentiate_row(gradient, begin, out_width, ahead, c, shape.channels, ring, to)
    elif inside:
        line = scratch.depth * scratch.pitch
        _differentiate_row(gradient, begin, out_width, ahead, c, shape.channels, ring, line)
        for i in range(out_width):
            ring[to + i * stride] = ring[line + i]
    else:
        ring[at : at + scratch.pitch] = 0


@kernel
def backward_planes(slot, planes, gradient, source, weight, gradients, shape, scratch):
    """From the output's gradient to the input's, the weight's and the gradient sums, plane by plane. See `Planes`,
    `Gradient`, `Source`, `Gradients`, `Shape` and `Scratch`."""
    kh, kw, height, width, padding = shape.kh, shape.kw, shape.height, shape.width, shape.padding
    partials, itemsize = gradients.partials, source.x.itemsize
    mask, pitch, pixels = scratch.depth - 1, scratch.pitch, height * width
    # The first pixel of a ring row that the input's first pixel met.
    first = scratch.origin + padding - (kw - 1) * shape.dilation
    ring = scratch.array[slot * scratch.size : (slot + 1) * scratch.size]
    running = (scratch.depth + 1) * pitch
    flush = max(2, FLUSH // width)
    for number in range(planes.count):
        plane = planes.first + number * planes.step
        following = planes.step if number < planes.count - 1 else planes.after
        c = plane % shape.channels
        ends = _ends_of(source.coef, c, shape.channels)
        ring[:running] = 0
        _clear(ring, running, RUNNING)
        p = plane * kh * kw
        partials[p : p + kh * kw] = 0
        sum0 = 0.0
        sum1 = 0.0
        sum2 = 0.0
        loaded = padding - (kh - 1) * shape.dilation  # row of the spread-out gradient
        r = 0
        fresh = 0  # rows since sums went into float64
        while r < height:
            two = kh == 3 and kw == 3 and shape.dilation == 1 and r < height - 1
            while loaded <= r + two + padding:
                _spread_out_row(gradient, plane, c, loaded, ring, scratch, shape, following)
                loaded += 1
            row = r + padding
            begin = (plane * height + r) * width
            if two:
                rows = (
                    (row & mask) * pitch + first, ((row - 1) & mask) * pitch + first,
                    ((row - 2) & mask) * pitch + first, ((row + 1) & mask) * pitch + first,
                )  # fmt: skip
                ahead = (
                    ahead_of(r * width, pixels, READ_AHEAD // itemsize, following * pixels),
                    ahead_of(r * width, pixels, WRITE_AHEAD // itemsize, following * pixels),
                )
                _correlate_two_rows(
                    ring, rows, source.x, begin, width, ahead, ends, weight, c * kh * kw, gradients.gx,
                    gradients.accumulate, running,
                )  # fmt: skip
            else:
                w = c * kh * kw
                _correlate_row_any(ring, row, scratch, source.x, begin, ends, weight, w, shape, gradients, p, running)
            r += 1 + two
            fresh += 1 + two
            if fresh >= flush or r >= height:
                for k in range(9 * (kh == 3 and kw == 3)):
                    partials[p + k] += _flush(ring, running, k)
                sum0 += _flush(ring, running, GRADIENT)
                sum1 += _flush(ring, running, GRADIENT + 1)
                sum2 += _flush(ring, running, GRADIENT + 2)
                fresh = 0
        if gradients.want:
            _put_three(gradients.gradient_sums, plane, shape.channels, sum0, sum1, sum2)


@kernel
def backward(slot, start, stop, gradient, source, weight, gradients, shape, scratch):
    """Planes start..stop: see `backward_planes`."""
    backward_planes(slot, Planes(start, 1, stop - start, 1), gradient, source, weight, gradients, shape, scratch)


def scratch_for(shape, dtype, slots):
    """The `Scratch` of `slots` threads for a convolution of this `Shape`."""
    lane = VECTOR_BYTES // np.dtype(dtype).itemsize
    # One row more than a row of the output, or of the input's gradient, sees.
    depth, left = 1 << ((shape.kh - 1) * shape.dilation + 1).bit_length(), (shape.kw - 1) * shape.dilation
    pixels = max(shape.width, (shape.out_width - 1) * shape.stride + 1, shape.out_width)
    # Rows and their first pixels begin at whole vectors: then one of three neighbouring taps is read within a line.
    origin = -(-max(left, shape.padding) // lane) * lane
    pitch = origin + -(-(pixels + 2 * shape.padding + left) // lane) * lane + 2 * lane
    size = max((depth + 1) * pitch + RUNNING * lane, SMALLEST // np.dtype(dtype).itemsize)
    return Scratch(empty(slots * size, dtype), size, depth, pitch, origin)
