"""Depthwise convolution, forward and backward, one plane (image, channel) at a time.

A ring of rows holds as many activated input rows as the kernel is high, so every map crosses the bus once. With a
stride, rows are worked out at stride 1 along the row and every `stride`-th pixel is kept; backward, the gradient is
spread out with zeros in between. So each loop has one form. Ring rows end in zeros, at least a vector of them.

A 3x3 kernel works out two rows at a time, which share two of the three rows that each of them reads. Sums over pixels
are kept lane by lane behind the ring, and go into float64 every few rows.
"""

from octsod.backend.memory import SMALLEST

from .bodies import READ_AHEAD, WRITE_AHEAD, activated, ahead_of, differentiated, with_gradient
from .compile import inlined, kernel
from .simd import VECTOR_BYTES, lanes
from .vector import fma, keep, load, prefetch, prefetch_to_write, spread, store, total, where_positive

FLUSH = 2048  # pixels that sums in the storage dtype may cover before they go into float64
SUMS = 12  # vectors of sums behind the ring


@kernel
def _clear(sums, at, count):
    lane = lanes(sums)
    for k in range(count):
        store(sums, at + k * lane, spread(sums, 0), lane)


@kernel
def _flush(sums, at, k):
    """The total of the k-th vector of sums, which starts again at zero."""
    lane = lanes(sums)
    whole = float(total(load(sums, at + k * lane, lane)))
    store(sums, at + k * lane, spread(sums, 0), lane)
    return whole


@kernel
def _load_row(x, start, width, ahead, scale, shift, slope, ring, at, sums):
    """`ring[at:at + width] = prelu(x*scale + shift)`, then zeros to the end of the vector; adds to vector 0 of sums."""
    lane = lanes(x)
    scale, shift, slope = spread(x, scale), spread(x, shift), spread(x, slope)
    s = load(ring, sums, lane)
    whole = width - width % lane
    for i in range(0, whole, lane):
        v = activated(x, start + i, lane, ahead, scale, shift, slope)
        store(ring, at + i, v, lane)
        s = s + v
    if whole < width:
        v = activated(x, start + whole, width - whole, ahead, scale, shift, slope)
        store(ring, at + whole, v, lane)
        s = s + v
    store(ring, sums, s, lane)


@kernel
def _filter_row(ring, y0, y1, y2, weight, w, dilation, out, at, span, reference, sums):
    """A row of a 3x3 convolution at stride 1; adds (y - reference) and (y - reference)^2 to vectors 1 and 2 of sums."""
    w0, w1, w2 = spread(ring, weight[w]), spread(ring, weight[w + 1]), spread(ring, weight[w + 2])
    w3, w4, w5 = spread(ring, weight[w + 3]), spread(ring, weight[w + 4]), spread(ring, weight[w + 5])
    w6, w7, w8 = spread(ring, weight[w + 6]), spread(ring, weight[w + 7]), spread(ring, weight[w + 8])
    about = spread(ring, reference)
    lane = lanes(ring)
    first, second = load(ring, sums + lane, lane), load(ring, sums + 2 * lane, lane)
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
        v = keep(v - about, span - i)
        first = first + v
        second = fma(v, v, second)
    store(ring, sums + lane, first, lane)
    store(ring, sums + 2 * lane, second, lane)


@inlined
def _filter_at(ring, y0, y1, y2, y3, w, out, at, under, left, ahead, about, first, second):
    """A vector of each of two rows, the second one at `under`; returns the sums with what they add."""
    lane = lanes(ring)
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = w
    prefetch_to_write(out, at + ahead)
    prefetch_to_write(out, under + ahead)
    # Each row's sum is one chain, tap by tap, as it is in inference (inference_steps.py): results are the same bits.
    e, f, g = load(ring, y0, lane), load(ring, y0 + 1, lane), load(ring, y0 + 2, lane)
    v = fma(w2, g, fma(w1, f, w0 * e))
    e, f, g = load(ring, y1, lane), load(ring, y1 + 1, lane), load(ring, y1 + 2, lane)
    v = fma(w5, g, fma(w4, f, fma(w3, e, v)))
    u = fma(w2, g, fma(w1, f, w0 * e))
    e, f, g = load(ring, y2, lane), load(ring, y2 + 1, lane), load(ring, y2 + 2, lane)
    v = fma(w8, g, fma(w7, f, fma(w6, e, v)))
    u = fma(w5, g, fma(w4, f, fma(w3, e, u)))
    store(out, at, v, left)
    v = keep(v - about, left)
    first = first + v
    second = fma(v, v, second)
    e, f, g = load(ring, y3, lane), load(ring, y3 + 1, lane), load(ring, y3 + 2, lane)
    u = fma(w8, g, fma(w7, f, fma(w6, e, u)))
    store(out, under, u, left)
    v = keep(u - about, left)
    return first + v, fma(v, v, second)


@inlined
def nine(like, weight, w):
    """The taps of a 3x3 kernel, each in all lanes."""
    return (
        spread(like, weight[w]), spread(like, weight[w + 1]), spread(like, weight[w + 2]), spread(like, weight[w + 3]),
        spread(like, weight[w + 4]), spread(like, weight[w + 5]), spread(like, weight[w + 6]),
        spread(like, weight[w + 7]), spread(like, weight[w + 8]),
    )  # fmt: skip


@kernel
def _filter_two_rows(ring, y0, y1, y2, y3, weight, w, out, at, span, ahead, reference, sums):
    """The same for two rows of `span` pixels, one after the other in `out`, without dilation."""
    taps = nine(ring, weight, w)
    about = spread(ring, reference)
    lane = lanes(ring)
    first, second = load(ring, sums + lane, lane), load(ring, sums + 2 * lane, lane)
    whole = span - span % lane
    for i in range(0, whole, lane):
        first, second = _filter_at(
            ring, y0 + i, y1 + i, y2 + i, y3 + i, taps, out, at + i, at + span + i, lane, ahead, about, first, second
        )
    if whole < span:
        i = whole
        first, second = _filter_at(
            ring, y0 + i, y1 + i, y2 + i, y3 + i, taps, out, at + i, at + span + i, span - i, ahead, about, first,
            second,
        )  # fmt: skip
    store(ring, sums + lane, first, lane)
    store(ring, sums + 2 * lane, second, lane)


@kernel
def _filter_row_any(
    ring, row, mask, pitch, first, weight, w, kh, kw, dilation, out, at, span, reference, sums
):
    """`_filter_row` for any kernel size; `row` is the first of the ring's that it reads, each from `first` on."""
    about = spread(ring, reference)
    lane = lanes(ring)
    one, two = load(ring, sums + lane, lane), load(ring, sums + 2 * lane, lane)
    for i in range(0, span, lane):
        v = spread(ring, 0)
        for ty in range(kh):
            y = ((row + ty * dilation) & mask) * pitch + first + i
            for tx in range(kw):
                v = fma(spread(ring, weight[w + ty * kw + tx]), load(ring, y + tx * dilation, lane), v)
        store(out, at + i, v, span - i)
        v = keep(v - about, span - i)
        one = one + v
        two = fma(v, v, two)
    store(ring, sums + lane, one, lane)
    store(ring, sums + 2 * lane, two, lane)


@kernel
def _thin(line, start, stride, out, at, count, reference, sums):
    """`out[at:at + count] = every stride-th pixel of line`, summed up as above."""
    lane = lanes(line)
    for i in range(count):
        v = line[start + i * stride]
        out[at + i] = v
        v -= reference
        line[sums + lane] += v
        line[sums + 2 * lane] += v * v


@kernel
def forward(
    slot, start, stop, x, coef, weight, out, moments, activations, want_moments, channels, height, width, out_height,
    out_width, kh, kw, stride, padding, dilation, origin, depth, pitch, scratch, scratch_size, following,
):  # fmt: skip
    """Planes start..stop of x (N*C, height, width); coef (4, C), weight (C, kh, kw), moments (N, 3, C), and the sums of
    the activations (N, C). `following`: by how many planes the one that is worked on next lies behind this one."""
    sees = (kh - 1) * dilation + 1  # rows of the input that a row of the output sees
    mask = depth - 1  # row r lies at r & mask
    pixels, out_pixels = height * width, out_height * out_width
    read_ahead, write_ahead = READ_AHEAD // x.itemsize, WRITE_AHEAD // x.itemsize
    span = (out_width - 1) * stride + 1
    ring = scratch[slot * scratch_size : (slot + 1) * scratch_size]
    line = depth * pitch
    sums = line + pitch
    first = origin - padding  # of a ring row's pixels, the first one that an output sees
    three = stride == 1 and kh == 3 and kw == 3
    for plane in range(start, stop):
        c = plane % channels
        scale, shift, slope = coef[c], coef[channels + c], coef[2 * channels + c]
        w = c * kh * kw
        ring[:sums] = 0
        _clear(ring, sums, 3)
        seen = 0.0
        loaded = 0  # rows, counted from the upper border's first
        reference = x.dtype.type(0)
        first_moment = 0.0
        second_moment = 0.0
        r = 0
        fresh = 0  # rows since sums went into float64
        while r < out_height:
            two = three and dilation == 1 and 0 < r < out_height - 1
            while loaded < (r + two) * stride + sees:
                at = (loaded & mask) * pitch
                row = loaded - padding
                if 0 <= row < height:
                    begin = (plane * height + row) * width
                    ahead = ahead_of(row * width, pixels, read_ahead, following * pixels)
                    _load_row(x, begin, width, ahead, scale, shift, slope, ring, at + origin, sums)
                else:
                    ring[at : at + pitch] = 0
                loaded += 1
            at = (plane * out_height + r) * out_width
            y0 = ((r * stride) & mask) * pitch + first
            y1 = ((r * stride + dilation) & mask) * pitch + first
            y2 = ((r * stride + 2 * dilation) & mask) * pitch + first
            # The first row goes twice: its mean becomes the reference that the moments are taken about, since
            # E[y^2] - E[y]^2 would lose a small variance beside a large mean.
            for again in range(1 + (r == 0)):
                if two:
                    y3 = ((r + 3) & mask) * pitch + first
                    ahead = ahead_of(r * out_width, out_pixels, write_ahead, following * out_pixels)
                    _filter_two_rows(ring, y0, y1, y2, y3, weight, w, out, at, span, ahead, reference, sums)
                elif three:
                    _filter_row(ring, y0, y1, y2, weight, w, dilation, out, at, span, reference, sums)
                elif stride == 1:
                    _filter_row_any(
                        ring, r, mask, pitch, first, weight, w, kh, kw, dilation, out, at, span, reference, sums
                    )
                else:
                    _filter_row_any(
                        ring, r * stride, mask, pitch, first, weight, w, kh, kw, dilation, ring, line, span, 0, sums
                    )
                    _flush(ring, sums, 1)
                    _flush(ring, sums, 2)
                    _thin(ring, line, stride, out, at, out_width, reference, sums)
                if r == 0 and again == 0:
                    reference = x.dtype.type(_flush(ring, sums, 1) / out_width)
                    _flush(ring, sums, 2)
            r += 1 + two
            fresh += 1 + two
            if fresh * width * stride >= FLUSH or stride > 1 or r >= out_height:
                seen += _flush(ring, sums, 0)
                first_moment += _flush(ring, sums, 1)
                second_moment += _flush(ring, sums, 2)
                fresh = 0
        while loaded < height + padding:  # rows that no output sees still count in the mean activation
            if loaded >= padding:
                begin = (plane * height + loaded - padding) * width
                _load_row(x, begin, width, 0, scale, shift, slope, ring, origin, sums)
                seen += _flush(ring, sums, 0)
            loaded += 1
        activations[plane] = seen
        if want_moments:
            n = plane // channels
            moments[n * 3 * channels + c] = reference
            moments[(n * 3 + 1) * channels + c] = first_moment
            moments[(n * 3 + 2) * channels + c] = second_moment


@kernel
def _differentiate_row(g, z, start, width, ahead, dcoef, c, channels, ring, at):
    """A row of the output's gradient, `k0*g*prelu'(z*scale + shift) + k1*z + k2`, then zeros."""
    lane = lanes(g)
    scale, shift = spread(g, dcoef[c]), spread(g, dcoef[channels + c])
    slope, k0 = spread(g, dcoef[2 * channels + c]), spread(g, dcoef[3 * channels + c])
    k1, k2 = spread(g, dcoef[4 * channels + c]), spread(g, dcoef[5 * channels + c])
    whole = width - width % lane
    for i in range(0, whole, lane):
        v = differentiated(g, start + i, z, start + i, lane, ahead, ahead, scale, shift, slope, k0, k1, k2)
        store(ring, at + i, v, lane)
    if whole < width:
        v = differentiated(
            g, start + whole, z, start + whole, width - whole, ahead, ahead, scale, shift, slope, k0, k1, k2
        )
        store(ring, at + whole, v, lane)


@inlined
def _correlate_at(ring, y0, y1, y2, y3, x, at, under, left, ahead, w, ends, gx, add, write_ahead, t, s):
    """A vector of each of two rows, the second one at `under`; returns t and s, the sums, with what they add."""
    w0, w1, w2, w3, w4, w5, w6, w7, w8 = w
    scale, shift, slope, mean = ends
    t0, t1, t2, t3, t4, t5, t6, t7, t8 = t
    s0, s1, s2 = s
    lane, zero = lanes(x), spread(x, 0)
    prefetch(x, at + ahead)
    prefetch(x, under + ahead)
    prefetch_to_write(gx, at + write_ahead)
    prefetch_to_write(gx, under + write_ahead)
    v = load(x, at, left)
    u = fma(v, scale, shift)
    a = keep(where_positive(u, u, slope * u), left)
    v_under = load(x, under, left)
    u_under = fma(v_under, scale, shift)
    b = keep(where_positive(u_under, u_under, slope * u_under), left)
    # y: the first row's gradient, z: the second's, in two chains each. A row of the ring meets tap row t of the
    # second and t + 1 of the first.
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
    if add:
        y = y + load(gx, at, left)
        z = z + load(gx, under, left)
    store(gx, at, y, left)
    store(gx, under, z, left)
    s0, s1, s2 = with_gradient(keep(y, left), v, u, slope, mean, zero, s0, s1, s2)
    s0, s1, s2 = with_gradient(keep(z, left), v_under, u_under, slope, mean, zero, s0, s1, s2)
    return (t0, t1, t2, t3, t4, t5, t6, t7, t8), (s0, s1, s2)


@inlined
def _three(sums, at):
    """Three vectors of sums."""
    lane = lanes(sums)
    return load(sums, at, lane), load(sums, at + lane, lane), load(sums, at + 2 * lane, lane)


@inlined
def _keep_three(sums, at, three):
    lane = lanes(sums)
    for k in range(3):
        store(sums, at + k * lane, three[k], lane)


@kernel
def _correlate_two_rows(
    ring, y0, y1, y2, y3, x, begin, width, ahead, coef, c, channels, weight, w, gx, add, write_ahead, sums
):
    """Two rows of the input's gradient and what they add to the weight's, from the same rows of the output's gradient.

    y0 is the ring's row that the first row's upper taps read, y3 that of the second's. Vectors 0 to 8 of sums are for
    the taps, 9 to 11 for the gradient sums of x.
    """
    lane = lanes(x)
    taps = nine(x, weight, w)
    ends = (
        spread(x, coef[c]), spread(x, coef[channels + c]), spread(x, coef[2 * channels + c]),
        spread(x, coef[3 * channels + c]),
    )  # fmt: skip
    t = _three(ring, sums) + _three(ring, sums + 3 * lane) + _three(ring, sums + 6 * lane)
    s = _three(ring, sums + 9 * lane)
    whole = width - width % lane
    for i in range(0, whole, lane):
        t, s = _correlate_at(
            ring, y0 + i, y1 + i, y2 + i, y3 + i, x, begin + i, begin + width + i, lane, ahead, taps, ends, gx, add,
            write_ahead, t, s,
        )  # fmt: skip
    if whole < width:
        i = whole
        t, s = _correlate_at(
            ring, y0 + i, y1 + i, y2 + i, y3 + i, x, begin + i, begin + width + i, width - i, ahead, taps, ends, gx,
            add, write_ahead, t, s,
        )  # fmt: skip
    _keep_three(ring, sums, t[:3])
    _keep_three(ring, sums + 3 * lane, t[3:6])
    _keep_three(ring, sums + 6 * lane, t[6:])
    _keep_three(ring, sums + 9 * lane, s)


@kernel
def _correlate_row_any(
    ring, row, mask, pitch, origin, x, begin, width, coef, c, channels, weight, w, kh, kw, dilation, gx, add, partials,
    p, sums,
):  # fmt: skip
    """A row of the same for any kernel; `row` is the ring's that the upper taps read, `origin` where they begin."""
    scale, shift = spread(x, coef[c]), spread(x, coef[channels + c])
    slope, mean = spread(x, coef[2 * channels + c]), spread(x, coef[3 * channels + c])
    zero = spread(x, 0)
    lane = lanes(x)
    for ty in range(kh):
        for tx in range(kw):
            at = ((row - ty * dilation) & mask) * pitch + origin - tx * dilation
            share = zero
            for i in range(0, width, lane):
                u = fma(load(x, begin + i, width - i), scale, shift)
                share = fma(keep(where_positive(u, u, slope * u), width - i), load(ring, at + i, lane), share)
            partials[p + ty * kw + tx] += total(share)
    s0, s1, s2 = _three(ring, sums + 9 * lane)
    for i in range(0, width, lane):
        left = width - i
        v = load(x, begin + i, left)
        u = fma(v, scale, shift)
        y = zero
        for ty in range(kh):
            at = ((row - ty * dilation) & mask) * pitch + origin + i
            for tx in range(kw):
                y = fma(spread(x, weight[w + ty * kw + tx]), load(ring, at - tx * dilation, lane), y)
        if add:
            y = y + load(gx, begin + i, left)
        store(gx, begin + i, y, left)
        s0, s1, s2 = with_gradient(keep(y, left), v, u, slope, mean, zero, s0, s1, s2)
    _keep_three(ring, sums + 9 * lane, (s0, s1, s2))


@kernel
def backward(
    slot, start, stop, g, z, dcoef, x, coef, weight, gx, partials, gradient_sums, want_sums, add, channels, height,
    width, out_height, out_width, kh, kw, stride, padding, dilation, origin, depth, pitch, scratch, scratch_size,
    following,
):  # fmt: skip
    """Planes start..stop: the deferred gradient (g, z, dcoef (6, C)) to gx, partials (N, C, kh, kw) and the gradient
    sums of x, (N, 3, C). `following`: by how many planes the one that is worked on next lies behind this one."""
    mask = depth - 1  # row r lies at r & mask
    pixels, out_pixels = height * width, out_height * out_width
    read_ahead, write_ahead = READ_AHEAD // x.itemsize, WRITE_AHEAD // x.itemsize
    first = origin + padding - (kw - 1) * dilation  # of a ring row's pixels, the first that the input's first one met
    ring = scratch[slot * scratch_size : (slot + 1) * scratch_size]
    line = depth * pitch
    sums = line + pitch
    flush = max(2, FLUSH // width)
    for plane in range(start, stop):
        c = plane % channels
        w = c * kh * kw
        ring[:sums] = 0
        _clear(ring, sums, SUMS)
        p = plane * kh * kw
        partials[p : p + kh * kw] = 0
        sum0 = 0.0
        sum1 = 0.0
        sum2 = 0.0
        loaded = padding - (kh - 1) * dilation  # row of the spread-out gradient
        r = 0
        fresh = 0  # rows since sums went into float64
        while r < height:
            two = kh == 3 and kw == 3 and dilation == 1 and r < height - 1
            while loaded <= r + two + padding:
                at = (loaded & mask) * pitch
                inside = 0 <= loaded < out_height * stride and loaded % stride == 0
                begin = (plane * out_height + loaded // stride) * out_width
                ahead = ahead_of(loaded // stride * out_width, out_pixels, read_ahead, following * out_pixels)
                if inside and stride == 1:
                    _differentiate_row(g, z, begin, out_width, ahead, dcoef, c, channels, ring, at + origin)
                elif inside:
                    _differentiate_row(g, z, begin, out_width, ahead, dcoef, c, channels, ring, line)
                    for i in range(out_width):
                        ring[at + origin + i * stride] = ring[line + i]
                else:
                    ring[at : at + pitch] = 0
                loaded += 1
            row = r + padding
            begin = (plane * height + r) * width
            if two:
                y0 = (row & mask) * pitch + first
                y1 = ((row - 1) & mask) * pitch + first
                y2 = ((row - 2) & mask) * pitch + first
                y3 = ((row + 1) & mask) * pitch + first
                ahead = ahead_of(r * width, pixels, read_ahead, following * pixels)
                ahead_of_writes = ahead_of(r * width, pixels, write_ahead, following * pixels)
                _correlate_two_rows(
                    ring, y0, y1, y2, y3, x, begin, width, ahead, coef, c, channels, weight, w, gx, add,
                    ahead_of_writes, sums,
                )  # fmt: skip
            else:
                _correlate_row_any(
                    ring, row, mask, pitch, origin + padding, x, begin, width, coef, c, channels, weight, w, kh, kw,
                    dilation, gx, add, partials, p, sums,
                )  # fmt: skip
            r += 1 + two
            fresh += 1 + two
            if fresh >= flush or r >= height:
                for k in range(9 * (kh == 3 and kw == 3)):
                    partials[p + k] += _flush(ring, sums, k)
                sum0 += _flush(ring, sums, 9)
                sum1 += _flush(ring, sums, 10)
                sum2 += _flush(ring, sums, 11)
                fresh = 0
        if want_sums:
            n = plane // channels
            gradient_sums[n * 3 * channels + c] = sum0
            gradient_sums[(n * 3 + 1) * channels + c] = sum1
            gradient_sums[(n * 3 + 2) * channels + c] = sum2


def layout(itemsize, width, out_width, kernel_size, stride, padding, dilation):
    """(where pixels begin in the ring's rows, their number, a power of two, their pitch, elements of scratch per
    thread)."""
    kh, kw = kernel_size
    lane = VECTOR_BYTES // itemsize
    # One row more than a row of the output sees, or of the input's gradient.
    depth, left = 1 << ((kh - 1) * dilation + 1).bit_length(), (kw - 1) * dilation
    pixels = max(width, (out_width - 1) * stride + 1, out_width)
    # Rows and their first pixels lie at whole vectors: of three neighbouring taps, one is then read within a line.
    origin = -(-max(left, padding) // lane) * lane
    pitch = origin + -(-(pixels + 2 * padding + left) // lane) * lane + 2 * lane
    return origin, depth, pitch, max((depth + 1) * pitch + SUMS * lane, SMALLEST // itemsize)
