"""Depthwise convolution, forward and backward, one plane (image, channel) at a time.

A ring of rows holds as many activated input rows as the kernel is high, so every map crosses the bus once. With a
stride, rows are worked out at stride 1 along the row and every `stride`-th pixel is kept; backward, the gradient is
spread out with zeros in between. So each loop has one form. Ring rows end in zeros, at least a vector of them.
"""

from .compile import kernel
from .simd import VECTOR_BYTES, lanes
from .vector import fma, keep, load, spread, store, total, where_positive

FLUSH = 2048  # pixels that float32 sums may cover before they go into float64


@kernel
def _load_row(x, start, width, scale, shift, slope, ring, at):
    """`ring[at:at + width] = prelu(x*scale + shift)`, then zeros to the end of the vector; returns the sums by lane."""
    sums = spread(x, 0)
    lane = lanes(x)
    for i in range(0, width, lane):
        u = fma(load(x, start + i, width - i), scale, shift)
        v = keep(where_positive(u, u, slope * u), width - i)
        store(ring, at + i, v, lane)
        sums = sums + v
    return sums


@kernel
def _filter_row(ring, y0, y1, y2, weight, w, dilation, out, at, span, reference):
    """A row of a 3x3 convolution at stride 1; returns its sums of (y - reference) and (y - reference)^2 by lane."""
    w0, w1, w2 = spread(ring, weight[w]), spread(ring, weight[w + 1]), spread(ring, weight[w + 2])
    w3, w4, w5 = spread(ring, weight[w + 3]), spread(ring, weight[w + 4]), spread(ring, weight[w + 5])
    w6, w7, w8 = spread(ring, weight[w + 6]), spread(ring, weight[w + 7]), spread(ring, weight[w + 8])
    first = second = spread(ring, 0)
    lane = lanes(ring)
    for i in range(0, span, lane):
        a = w0 * load(ring, y0 + i, lane)
        a = fma(w1, load(ring, y0 + i + dilation, lane), a)
        a = fma(w2, load(ring, y0 + i + 2 * dilation, lane), a)
        b = w3 * load(ring, y1 + i, lane)
        b = fma(w4, load(ring, y1 + i + dilation, lane), b)
        b = fma(w5, load(ring, y1 + i + 2 * dilation, lane), b)
        c = w6 * load(ring, y2 + i, lane)
        c = fma(w7, load(ring, y2 + i + dilation, lane), c)
        c = fma(w8, load(ring, y2 + i + 2 * dilation, lane), c)
        v = (a + b) + c
        store(out, at + i, v, span - i)
        v = keep(v - reference, span - i)
        first = first + v
        second = fma(v, v, second)
    return first, second


@kernel
def _filter_row_any(ring, row, depth, pitch, weight, w, kh, kw, dilation, out, at, span, reference):
    """The same for any kernel size."""
    first = second = zero = spread(ring, 0)
    lane = lanes(ring)
    for i in range(0, span, lane):
        v = zero
        for ty in range(kh):
            y = (row + ty * dilation) % depth * pitch + i
            for tx in range(kw):
                v = fma(spread(ring, weight[w + ty * kw + tx]), load(ring, y + tx * dilation, lane), v)
        store(out, at + i, v, span - i)
        v = keep(v - reference, span - i)
        first = first + v
        second = fma(v, v, second)
    return first, second


@kernel
def _thin(line, start, stride, out, at, count, reference):
    """`out[at:at + count] = every stride-th pixel of line`, and its sums as above."""
    first = 0.0
    second = 0.0
    for i in range(count):
        v = line[start + i * stride]
        out[at + i] = v
        v -= reference
        first += v
        second += v * v
    return first, second


@kernel
def forward(
    slot, start, stop, x, coef, weight, out, moments, sums, want_moments, channels, height, width, out_height,
    out_width, kh, kw, stride, padding, dilation, pitch, scratch, scratch_size,
):  # fmt: skip
    """Planes start..stop of x (N*C, height, width); coef (4, C), weight (C, kh, kw), moments (N, 3, C), sums (N, C)."""
    depth = (kh - 1) * dilation + 1
    span = (out_width - 1) * stride + 1
    ring = scratch[slot * scratch_size : (slot + 1) * scratch_size]
    line = depth * pitch
    zero = spread(x, 0)
    for plane in range(start, stop):
        c = plane % channels
        scale, shift, slope = spread(x, coef[c]), spread(x, coef[channels + c]), spread(x, coef[2 * channels + c])
        w = c * kh * kw
        ring[:] = 0
        seen = 0.0
        loaded = 0  # rows, counted from the upper border's first
        reference = x.dtype.type(0)
        first_moment = 0.0
        second_moment = 0.0
        for r in range(out_height):
            while loaded < r * stride + depth:
                at = loaded % depth * pitch
                row = loaded - padding
                if 0 <= row < height:
                    begin = (plane * height + row) * width
                    seen += total(_load_row(x, begin, width, scale, shift, slope, ring, at + padding))
                else:
                    ring[at : at + pitch] = 0
                loaded += 1
            at = (plane * out_height + r) * out_width
            y0 = (r * stride) % depth * pitch
            y1 = (r * stride + dilation) % depth * pitch
            y2 = (r * stride + 2 * dilation) % depth * pitch
            # The first row goes twice: its mean becomes the reference that the moments are taken about, since
            # E[y^2] - E[y]^2 would lose a small variance beside a large mean.
            for again in range(1 + (r == 0)):
                about = spread(x, reference)
                if stride == 1 and kh == 3 and kw == 3:
                    a, b = _filter_row(ring, y0, y1, y2, weight, w, dilation, out, at, span, about)
                    first, second = float(total(a)), float(total(b))
                elif stride == 1:
                    a, b = _filter_row_any(
                        ring, r, depth, pitch, weight, w, kh, kw, dilation, out, at, span, about
                    )
                    first, second = float(total(a)), float(total(b))
                else:
                    _filter_row_any(
                        ring, r * stride, depth, pitch, weight, w, kh, kw, dilation, ring, line, span, zero
                    )
                    first, second = _thin(ring, line, stride, out, at, out_width, reference)
                if r == 0 and again == 0:
                    reference = x.dtype.type(first / out_width)
            first_moment += first
            second_moment += second
        while loaded < height + padding:  # rows that no output sees still count in the mean activation
            if loaded >= padding:
                begin = (plane * height + loaded - padding) * width
                seen += total(_load_row(x, begin, width, scale, shift, slope, ring, padding))
            loaded += 1
        sums[plane] = seen
        if want_moments:
            n = plane // channels
            moments[n * 3 * channels + c] = reference
            moments[(n * 3 + 1) * channels + c] = first_moment
            moments[(n * 3 + 2) * channels + c] = second_moment


@kernel
def _differentiate_row(g, z, start, width, k0, k1, k2, scale, shift, slope, ring, at):
    """A row of the output's gradient, `k0*g*prelu'(z*scale + shift) + k1*z + k2`, then zeros."""
    lane = lanes(g)
    for i in range(0, width, lane):
        v = load(z, start + i, width - i)
        e = load(g, start + i, width - i)
        e = where_positive(fma(v, scale, shift), e, slope * e)
        store(ring, at + i, keep(fma(k0, e, fma(k1, v, k2)), width - i), lane)


@kernel
def backward(
    slot, start, stop, g, z, dcoef, x, coef, weight, gx, partials, sums, want_sums, add, channels, height, width,
    out_height, out_width, kh, kw, stride, padding, dilation, pitch, scratch, scratch_size,
):  # fmt: skip
    """Planes start..stop: the deferred gradient (g, z, dcoef (6, C)) to gx, partials (N, C, kh, kw), sums (N, 3, C)."""
    depth = (kh - 1) * dilation + 1
    left = (kw - 1) * dilation  # zeros before the first pixel of a ring row
    ring = scratch[slot * scratch_size : (slot + 1) * scratch_size]
    line = depth * pitch
    lane = lanes(x)
    zero = spread(x, 0)
    flush = max(1, FLUSH // width)
    for plane in range(start, stop):
        c = plane % channels
        scale, shift, slope = spread(x, coef[c]), spread(x, coef[channels + c]), spread(x, coef[2 * channels + c])
        mean = spread(x, coef[3 * channels + c])
        dscale, dshift = spread(x, dcoef[c]), spread(x, dcoef[channels + c])
        dslope = spread(x, dcoef[2 * channels + c])
        k0, k1 = spread(x, dcoef[3 * channels + c]), spread(x, dcoef[4 * channels + c])
        k2 = spread(x, dcoef[5 * channels + c])
        w = c * kh * kw
        w0, w1, w2, w3, w4, w5, w6, w7, w8 = zero, zero, zero, zero, zero, zero, zero, zero, zero
        if kh == 3 and kw == 3:
            w0, w1, w2 = spread(x, weight[w]), spread(x, weight[w + 1]), spread(x, weight[w + 2])
            w3, w4, w5 = spread(x, weight[w + 3]), spread(x, weight[w + 4]), spread(x, weight[w + 5])
            w6, w7, w8 = spread(x, weight[w + 6]), spread(x, weight[w + 7]), spread(x, weight[w + 8])
        t0, t1, t2, t3, t4, t5, t6, t7, t8 = zero, zero, zero, zero, zero, zero, zero, zero, zero
        s0, s1, s2 = zero, zero, zero
        ring[:] = 0
        p = plane * kh * kw
        partials[p : p + kh * kw] = 0
        sum0 = 0.0
        sum1 = 0.0
        sum2 = 0.0
        loaded = padding - depth + 1  # row of the spread-out gradient
        for r in range(height):
            while loaded <= r + padding:
                at = (loaded + depth) % depth * pitch
                inside = 0 <= loaded < out_height * stride and loaded % stride == 0
                begin = (plane * out_height + loaded // stride) * out_width
                if inside and stride == 1:
                    _differentiate_row(
                        g, z, begin, out_width, k0, k1, k2, dscale, dshift, dslope, ring, at + left
                    )
                elif inside:
                    _differentiate_row(g, z, begin, out_width, k0, k1, k2, dscale, dshift, dslope, ring, line)
                    for i in range(out_width):
                        ring[at + left + i * stride] = ring[line + i]
                else:
                    ring[at : at + pitch] = 0
                loaded += 1
            row = r + padding + depth
            begin = (plane * height + r) * width
            # The input's gradient and the weight's read the same shifted rows of the output's gradient.
            y0 = row % depth * pitch + padding
            y1 = (row - dilation) % depth * pitch + padding
            y2 = (row - 2 * dilation) % depth * pitch + padding
            if kh != 3 or kw != 3:
                for ty in range(kh):
                    for tx in range(kw):
                        at = (row - ty * dilation) % depth * pitch + left + padding - tx * dilation
                        share = zero
                        for i in range(0, width, lane):
                            u = fma(load(x, begin + i, width - i), scale, shift)
                            share = fma(
                                keep(where_positive(u, u, slope * u), width - i), load(ring, at + i, lane), share
                            )
                        partials[p + ty * kw + tx] += total(share)
            for i in range(0, width, lane):
                v = load(x, begin + i, width - i)
                u = fma(v, scale, shift)
                if kh == 3 and kw == 3:
                    a = keep(where_positive(u, u, slope * u), width - i)
                    e = load(ring, y0 + i + 2 * dilation, lane)
                    y = w0 * e
                    t0 = fma(a, e, t0)
                    e = load(ring, y0 + i + dilation, lane)
                    q = w1 * e
                    t1 = fma(a, e, t1)
                    e = load(ring, y0 + i, lane)
                    y = fma(w2, e, y)
                    t2 = fma(a, e, t2)
                    e = load(ring, y1 + i + 2 * dilation, lane)
                    q = fma(w3, e, q)
                    t3 = fma(a, e, t3)
                    e = load(ring, y1 + i + dilation, lane)
                    y = fma(w4, e, y)
                    t4 = fma(a, e, t4)
                    e = load(ring, y1 + i, lane)
                    q = fma(w5, e, q)
                    t5 = fma(a, e, t5)
                    e = load(ring, y2 + i + 2 * dilation, lane)
                    y = fma(w6, e, y)
                    t6 = fma(a, e, t6)
                    e = load(ring, y2 + i + dilation, lane)
                    q = fma(w7, e, q)
                    t7 = fma(a, e, t7)
                    e = load(ring, y2 + i, lane)
                    y = fma(w8, e, y)
                    t8 = fma(a, e, t8)
                    y = y + q
                else:
                    y = zero
                    for ty in range(kh):
                        at = (row - ty * dilation) % depth * pitch + left + padding + i
                        for tx in range(kw):
                            y = fma(spread(x, weight[w + ty * kw + tx]), load(ring, at - tx * dilation, lane), y)
                if add:
                    y = y + load(gx, begin + i, width - i)
                store(gx, begin + i, y, width - i)
                if want_sums:
                    y = keep(y, width - i)
                    s2 = s2 + where_positive(u, zero, y * u)
                    y = where_positive(u, y, slope * y)
                    s0 = s0 + y
                    s1 = fma(y, v - mean, s1)
            if r % flush == flush - 1 or r == height - 1:
                if kh == 3 and kw == 3:
                    partials[p] += total(t0)
                    partials[p + 1] += total(t1)
                    partials[p + 2] += total(t2)
                    partials[p + 3] += total(t3)
                    partials[p + 4] += total(t4)
                    partials[p + 5] += total(t5)
                    partials[p + 6] += total(t6)
                    partials[p + 7] += total(t7)
                    partials[p + 8] += total(t8)
                    t0, t1, t2, t3, t4, t5, t6, t7, t8 = zero, zero, zero, zero, zero, zero, zero, zero, zero
                sum0 += total(s0)
                sum1 += total(s1)
                sum2 += total(s2)
                s0, s1, s2 = zero, zero, zero
        if want_sums:
            n = plane // channels
            sums[n * 3 * channels + c] = sum0
            sums[(n * 3 + 1) * channels + c] = sum1
            sums[(n * 3 + 2) * channels + c] = sum2


def layout(itemsize, width, out_width, kernel_size, stride, padding, dilation, backwards):
    """(pitch of the ring's rows, elements of scratch per thread)."""
    kh, kw = kernel_size
    lane = VECTOR_BYTES // itemsize
    depth, left = (kh - 1) * dilation + 1, (kw - 1) * dilation
    pixels = max(width, (out_width - 1) * stride + 1, out_width)
    pitch = -(-(pixels + 2 * padding + left * (1 + backwards)) // lane) * lane + 2 * lane
    return pitch, (depth + 1) * pitch
