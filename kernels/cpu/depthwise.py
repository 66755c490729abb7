"""Depthwise convolution, forward and backward, one plane (image, channel) at a time.

A ring of rows holds as many activated input rows as the kernel is high, so every map crosses the bus once. With a
stride, rows are worked out at stride 1 along the row and every `stride`-th pixel is kept; backward, the gradient is
spread out with zeros in between. So each loop has one form.
"""

from .compile import kernel



@kernel
def _load_row(x, start, width, scale, shift, slope, out, first):
    """`out[first:first + width] = prelu(x*scale + shift)`; returns the sum."""
    row = x[start : start + width]
    to = out[first : first + width]
    total = out.dtype.type(0)
    for i in range(width):
        v = row[i] * scale + shift
        v = v if v > 0 else slope * v
        to[i] = v
        total += v
    return total


@kernel
def _filter_3x3(r0, r1, r2, weight, w, dilation, out, n):
    w0, w1, w2 = weight[w], weight[w + 1], weight[w + 2]
    w3, w4, w5 = weight[w + 3], weight[w + 4], weight[w + 5]
    w6, w7, w8 = weight[w + 6], weight[w + 7], weight[w + 8]
    a0, a1, a2 = r0[:n], r0[dilation : dilation + n], r0[2 * dilation : 2 * dilation + n]
    b0, b1, b2 = r1[:n], r1[dilation : dilation + n], r1[2 * dilation : 2 * dilation + n]
    c0, c1, c2 = r2[:n], r2[dilation : dilation + n], r2[2 * dilation : 2 * dilation + n]
    for i in range(n):
        v = w0 * a0[i] + w1 * a1[i] + w2 * a2[i]
        v += w3 * b0[i] + w4 * b1[i] + w5 * b2[i]
        out[i] = v + (w6 * c0[i] + w7 * c1[i] + w8 * c2[i])


@kernel
def _forward(
    slot, start, stop, x, coef, weight, out, moments, sums, want_moments, channels, height, width, out_height, out_width,
    kh, kw, stride, padding, dilation, scratch, scratch_size,
):  # fmt: skip
    depth = (kh - 1) * dilation + 1
    pitch = width + 2 * padding
    span = (out_width - 1) * stride + 1
    ring = scratch[slot * scratch_size :]
    line = ring[depth * pitch : depth * pitch + span]
    for plane in range(start, stop):
        c = plane % channels
        scale = coef[c]
        shift = coef[channels + c]
        slope = coef[2 * channels + c]
        w = c * kh * kw
        source = plane * height * width
        ring[: depth * pitch] = 0
        total = 0.0
        loaded = 0  # rows in padded coordinates
        reference = out.dtype.type(0)
        first_moment = 0.0
        second_moment = 0.0
        for r in range(out_height):
            while loaded <= r * stride + depth - 1:
                at = loaded % depth * pitch
                row = loaded - padding
                if 0 <= row < height:
                    total += _load_row(x, source + row * width, width, scale, shift, slope, ring, at + padding)
                else:
                    ring[at : at + pitch] = 0
                loaded += 1
            if kh == 3 and kw == 3:
                y0 = (r * stride) % depth * pitch
                y1 = (r * stride + dilation) % depth * pitch
                y2 = (r * stride + 2 * dilation) % depth * pitch
                _filter_3x3(
                    ring[y0 : y0 + pitch], ring[y1 : y1 + pitch], ring[y2 : y2 + pitch], weight, w, dilation, line, span
                )
            else:
                line[:] = 0
                for ty in range(kh):
                    for tx in range(kw):
                        at = (r * stride + ty * dilation) % depth * pitch + tx * dilation
                        factor = weight[w + ty * kw + tx]
                        shifted = ring[at : at + span]
                        for i in range(span):
                            line[i] += factor * shifted[i]
            at = (plane * out_height + r) * out_width
            result = out[at : at + out_width]
            for i in range(out_width):
                result[i] = line[i * stride]
            if want_moments:
                if r == 0:
                    s = out.dtype.type(0)
                    for i in range(out_width):
                        s += result[i]
                    reference = s / out.dtype.type(out_width)
                s = out.dtype.type(0)
                t = out.dtype.type(0)
                for i in range(out_width):
                    v = result[i] - reference
                    s += v
                    t += v * v
                first_moment += s
                second_moment += t
        while loaded - padding < height:  # rows that no output sees still count in the mean activation
            row = loaded - padding
            if row >= 0:
                total += _load_row(x, source + row * width, width, scale, shift, slope, ring, padding)
            loaded += 1
        sums[plane] = total
        if want_moments:
            n = plane // channels
            moments[(n * 3) * channels + c] = reference
            moments[(n * 3 + 1) * channels + c] = first_moment
            moments[(n * 3 + 2) * channels + c] = second_moment


@kernel
def _backward_3x3(d0, d1, d2, a, weight, w, dilation, out, add, n, partial):
    """One row of the input's gradient and its share of the weight's: both read the same nine shifted rows."""
    w0, w1, w2 = weight[w], weight[w + 1], weight[w + 2]
    w3, w4, w5 = weight[w + 3], weight[w + 4], weight[w + 5]
    w6, w7, w8 = weight[w + 6], weight[w + 7], weight[w + 8]
    e2, e1, e0 = d0[:n], d0[dilation : dilation + n], d0[2 * dilation : 2 * dilation + n]
    e5, e4, e3 = d1[:n], d1[dilation : dilation + n], d1[2 * dilation : 2 * dilation + n]
    e8, e7, e6 = d2[:n], d2[dilation : dilation + n], d2[2 * dilation : 2 * dilation + n]
    if add:
        for i in range(n):
            v = w0 * e0[i] + w1 * e1[i] + w2 * e2[i]
            v += w3 * e3[i] + w4 * e4[i] + w5 * e5[i]
            out[i] += v + (w6 * e6[i] + w7 * e7[i] + w8 * e8[i])
    else:
        for i in range(n):
            v = w0 * e0[i] + w1 * e1[i] + w2 * e2[i]
            v += w3 * e3[i] + w4 * e4[i] + w5 * e5[i]
            out[i] = v + (w6 * e6[i] + w7 * e7[i] + w8 * e8[i])
    zero = out.dtype.type(0)
    t0 = t1 = t2 = t3 = t4 = t5 = t6 = t7 = t8 = zero
    for i in range(n):
        v = a[i]
        t0 += v * e0[i]
        t1 += v * e1[i]
        t2 += v * e2[i]
        t3 += v * e3[i]
        t4 += v * e4[i]
        t5 += v * e5[i]
        t6 += v * e6[i]
        t7 += v * e7[i]
        t8 += v * e8[i]
    partial[0] += t0
    partial[1] += t1
    partial[2] += t2
    partial[3] += t3
    partial[4] += t4
    partial[5] += t5
    partial[6] += t6
    partial[7] += t7
    partial[8] += t8


@kernel
def _backward(
    slot, start, stop, g, z, dcoef, x, coef, weight, gx, partials, sums, want_sums, add, channels, height, width,
    out_height, out_width, kh, kw, stride, padding, dilation, scratch, scratch_size,
):  # fmt: skip
    depth = (kh - 1) * dilation + 1
    left = (kw - 1) * dilation
    pitch = width + 2 * padding + left
    ring = scratch[slot * scratch_size :]
    line = ring[depth * pitch : depth * pitch + width]
    for plane in range(start, stop):
        c = plane % channels
        scale, shift, slope, mean = coef[c], coef[channels + c], coef[2 * channels + c], coef[3 * channels + c]
        dscale, dshift, dslope = dcoef[c], dcoef[channels + c], dcoef[2 * channels + c]
        k0, k1, k2 = dcoef[3 * channels + c], dcoef[4 * channels + c], dcoef[5 * channels + c]
        w = c * kh * kw
        zero = x.dtype.type(0)
        ring[: depth * pitch] = 0
        partial = partials[plane * kh * kw : (plane + 1) * kh * kw]
        partial[:] = 0
        s0 = 0.0
        s1 = 0.0
        s2 = 0.0
        loaded = padding - depth + 1  # row of the spread-out gradient
        for r in range(height):
            while loaded <= r + padding:
                at = (loaded + depth) % depth * pitch
                if 0 <= loaded < out_height * stride and loaded % stride == 0:
                    from_ = (plane * out_height + loaded // stride) * out_width
                    grad = g[from_ : from_ + out_width]
                    raw = z[from_ : from_ + out_width]
                    to = ring[at + left : at + pitch]
                    if stride == 1:
                        for i in range(out_width):
                            v = raw[i]
                            e = grad[i]
                            e = e if v * dscale + dshift > 0 else dslope * e
                            to[i] = k0 * e + (k1 * v + k2)
                    else:
                        for i in range(out_width):
                            v = raw[i]
                            e = grad[i]
                            e = e if v * dscale + dshift > 0 else dslope * e
                            to[i * stride] = k0 * e + (k1 * v + k2)
                else:
                    ring[at : at + pitch] = 0
                loaded += 1
            source = (plane * height + r) * width
            _load_row(x, source, width, scale, shift, slope, line, 0)
            result = gx[source : source + width]
            if kh == 3 and kw == 3:
                y0 = (r + padding + depth) % depth * pitch + padding
                y1 = (r + padding - dilation + depth) % depth * pitch + padding
                y2 = (r + padding - 2 * dilation + 2 * depth) % depth * pitch + padding
                n = width + left
                _backward_3x3(
                    ring[y0 : y0 + n], ring[y1 : y1 + n], ring[y2 : y2 + n], line, weight, w, dilation, result, add,
                    width, partial,
                )  # fmt: skip
            else:
                if not add:
                    result[:] = 0
                for ty in range(kh):
                    for tx in range(kw):
                        at = (r + padding - ty * dilation + depth) % depth * pitch + left + padding - tx * dilation
                        factor = weight[w + ty * kw + tx]
                        shifted = ring[at : at + width]
                        for i in range(width):
                            result[i] += factor * shifted[i]
                        total = zero
                        for i in range(width):
                            total += line[i] * shifted[i]
                        partial[ty * kw + tx] += total
            if want_sums:
                raw = x[source : source + width]
                t0 = zero
                t1 = zero
                t2 = zero
                for i in range(width):
                    v = raw[i]
                    u = v * scale + shift
                    e = result[i]
                    q = e * u
                    q = zero if u > 0 else q
                    e = e if u > 0 else slope * e
                    t0 += e
                    t1 += e * (v - mean)
                    t2 += q
                s0 += t0
                s1 += t1
                s2 += t2
        if want_sums:
            n = plane // channels
            sums[(n * 3) * channels + c] = s0
            sums[(n * 3 + 1) * channels + c] = s1
            sums[(n * 3 + 2) * channels + c] = s2


forward, backward = _forward, _backward


def scratch_sizes(width, out_width, kernel_size, stride, padding, dilation):
    """Elements of scratch per thread, forward and backward."""
    kh, kw = kernel_size
    depth, left = (kh - 1) * dilation + 1, (kw - 1) * dilation
    pitch = width + 2 * padding
    return depth * pitch + (out_width - 1) * stride + 1 + 64, depth * (pitch + left) + width + 64
