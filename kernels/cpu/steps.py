"""The steps that a program (programs.py) is made of: each a small loop nest over maps in the cache.

A region is (array, start, channel stride, row pitch) over a flat array: pixel (c, y, x) lies at
`start + c*stride + y*pitch + x`. A feature map in memory and scratch with zero borders are both regions, so one step
serves both. Sums are short partials in the storage dtype, added up in float64.

Loops with sums, or with neighbours, use explicit vectors; the plain ones run over views of one row: Numba then proves
their indices non-negative, which `x[start + i]` denies it, and LLVM makes vector instructions of them.
"""

from .compile import kernel
from .simd import lanes
from .vector import (
    deinterleave,
    fma,
    interleave,
    keep,
    larger,
    load,
    spread,
    store,
    total,
    where_larger,
    where_positive,
)

FLUSH = 1 << 11  # sums in the storage dtype go into float64 about every so many pixels


@kernel
def activate(x, p, lx, px, step, coef, y, q, ly, py, channels, rows, cols, sums):
    """`y = prelu(x*scale + shift)` while loading; x is read at every `step`-th column. Adds sums of y per channel.

    coef is (4, channels): scale, shift, slope, mean.
    """
    lane = lanes(x)
    for c in range(channels):
        scale, shift = spread(x, coef[c]), spread(x, coef[channels + c])
        slope = spread(x, coef[2 * channels + c])
        whole = 0.0
        part = spread(x, 0)
        for r in range(rows):
            a = p + c * lx + r * px
            b = q + c * ly + r * py
            if step != 1:
                for i in range(cols):
                    y[b + i] = x[a + i * step]
            for i in range(0, cols, lane):
                n = cols - i
                u = fma(load(x, a + i, n) if step == 1 else load(y, b + i, n), scale, shift)
                v = keep(where_positive(u, u, slope * u), n)
                store(y, b + i, v, n)
                part = part + v
                if (i + lane) & (FLUSH - 1) == 0:
                    whole += total(part)
                    part = spread(x, 0)
            if r & 15 == 15:
                whole += total(part)
                part = spread(x, 0)
        sums[c] += whole + total(part)


@kernel
def activate_average(x, p, lx, px, coef, y, q, ly, py, channels, rows, cols, sums):
    """`y = mean of 2x2 pixels of prelu(x*scale + shift)`; rows and cols count y's. Adds sums of all activations."""
    lane = lanes(x)
    quarter = spread(x, 0.25)
    for c in range(channels):
        scale, shift = spread(x, coef[c]), spread(x, coef[channels + c])
        slope = spread(x, coef[2 * channels + c])
        whole = 0.0
        part = spread(x, 0)
        for r in range(rows):
            a = p + c * lx + 2 * r * px
            b = q + c * ly + r * py
            for i in range(0, cols, lane):
                n = 2 * (cols - i)
                u0, u1 = deinterleave(load(x, a + 2 * i, n), load(x, a + 2 * i + lane, n - lane))
                u2, u3 = deinterleave(load(x, a + px + 2 * i, n), load(x, a + px + 2 * i + lane, n - lane))
                u0, u1 = fma(u0, scale, shift), fma(u1, scale, shift)
                u2, u3 = fma(u2, scale, shift), fma(u3, scale, shift)
                u0, u1 = where_positive(u0, u0, slope * u0), where_positive(u1, u1, slope * u1)
                u2, u3 = where_positive(u2, u2, slope * u2), where_positive(u3, u3, slope * u3)
                v = keep((u0 + u1) + (u2 + u3), cols - i)
                store(y, b + i, v * quarter, cols - i)
                part = part + v
            if r & 15 == 15:
                whole += total(part)
                part = spread(x, 0)
        sums[c] += whole + total(part)


@kernel
def differentiate(g, p, lg, pg, z, s, lz, pz, coef, y, q, ly, py, channels, rows, cols):
    """`y = k0*g*prelu'(z*scale + shift) + k1*z + k2`: the gradient of a raw map, formed while loading.

    coef is (6, channels): scale, shift, slope, k0, k1, k2.
    """
    lane = lanes(z)
    for c in range(channels):
        scale, shift = spread(z, coef[c]), spread(z, coef[channels + c])
        slope, k0 = spread(z, coef[2 * channels + c]), spread(z, coef[3 * channels + c])
        k1, k2 = spread(z, coef[4 * channels + c]), spread(z, coef[5 * channels + c])
        for r in range(rows):
            a = p + c * lg + r * pg
            d = s + c * lz + r * pz
            b = q + c * ly + r * py
            for i in range(0, cols, lane):
                n = cols - i
                v = load(z, d + i, n)
                e = load(g, a + i, n)
                e = where_positive(fma(v, scale, shift), e, slope * e)
                store(y, b + i, fma(k0, e, fma(k1, v, k2)), n)


@kernel
def fill(y, q, ly, py, channels, rows, cols, value):
    """`y = value`."""
    for c in range(channels):
        for r in range(rows):
            b = q + c * ly + r * py
            if cols == 1:  # a border
                y[b] = value
            else:
                y[b : b + cols] = value


@kernel
def transfer(x, p, lx, px, y, q, ly, py, step, channels, rows, cols, accumulate):
    """`y = x` or `y += x`; y is written at every `step`-th column."""
    for c in range(channels):
        for r in range(rows):
            a = p + c * lx + r * px
            b = q + c * ly + r * py
            row = x[a : a + cols]
            out = y[b : b + cols * step]
            if step == 1 and accumulate:
                for i in range(cols):
                    out[i] += row[i]
            elif step == 1:
                for i in range(cols):
                    out[i] = row[i]
            elif accumulate:
                for i in range(cols):
                    out[i * step] += row[i]
            else:
                for i in range(cols):
                    out[i * step] = row[i]


@kernel
def average_backward(x, p, lx, px, y, q, ly, py, channels, rows, cols, accumulate):
    """Adjoint of a 2x2 average: each pixel of x (rows x cols) goes to four of y with weight 1/4."""
    quarter = y.dtype.type(0.25)
    for c in range(channels):
        for r in range(rows):
            a = p + c * lx + r * px
            row = x[a : a + cols]
            for half in range(2):
                b = q + c * ly + (2 * r + half) * py
                out = y[b : b + 2 * cols]
                if accumulate:
                    for i in range(cols):
                        v = row[i] * quarter
                        out[2 * i] += v
                        out[2 * i + 1] += v
                else:
                    for i in range(cols):
                        v = row[i] * quarter
                        out[2 * i] = v
                        out[2 * i + 1] = v


@kernel
def moments_of(x, p, lx, px, channels, rows, cols, first, out):
    """Adds this band to the channel moments (3, channels): reference value, sum and sum of squares about it.

    The reference is the mean of the image's first row, or of its first pixels if rows are taken as one: E[x^2] - E[x]^2
    would lose a small variance beside a large mean.
    """
    lane = lanes(x)
    for c in range(channels):
        if first:
            count = min(cols, FLUSH)
            s = spread(x, 0)
            for i in range(0, count, lane):
                s = s + load(x, p + c * lx + i, count - i)
            out[c] = x.dtype.type(total(s) / count)
        reference = spread(x, out[c])
        whole = 0.0
        squares = 0.0
        s = t = spread(x, 0)
        for r in range(rows):
            a = p + c * lx + r * px
            for i in range(0, cols, lane):
                v = keep(load(x, a + i, cols - i) - reference, cols - i)
                s = s + v
                t = fma(v, v, t)
                if (i + lane) & (FLUSH - 1) == 0:
                    whole += total(s)
                    squares += total(t)
                    s = t = spread(x, 0)
            if r & 15 == 15:
                whole += total(s)
                squares += total(t)
                s = t = spread(x, 0)
        out[channels + c] += whole + total(s)
        out[2 * channels + c] += squares + total(t)


@kernel
def gradient_sums_of_channel(g, p, pg, z, s, pz, coef, c, channels, rows, cols, out):
    """Adds to (3, channels) the sums of channel c that batch norm's and PReLU's gradients are made of.

    With e = g*prelu'(u), u = z*scale + shift: sum e, sum e*(z - mean), sum of g*u where u <= 0.
    """
    lane = lanes(z)
    zero = spread(z, 0)
    scale, shift = spread(z, coef[c]), spread(z, coef[channels + c])
    slope, mean = spread(z, coef[2 * channels + c]), spread(z, coef[3 * channels + c])
    s0 = 0.0
    s1 = 0.0
    s2 = 0.0
    t0 = t1 = t2 = zero
    for r in range(rows):
        a = p + r * pg
        d = s + r * pz
        for i in range(0, cols, lane):
            n = cols - i
            v = load(z, d + i, n)
            e = load(g, a + i, n)  # zero beyond the row's end, and so are all three terms
            u = fma(v, scale, shift)
            t2 = t2 + where_positive(u, zero, e * u)
            e = where_positive(u, e, slope * e)
            t0 = t0 + e
            t1 = fma(e, v - mean, t1)
            if (i + lane) & (FLUSH - 1) == 0:
                s0 += total(t0)
                s1 += total(t1)
                s2 += total(t2)
                t0 = t1 = t2 = zero
        if r & 15 == 15:
            s0 += total(t0)
            s1 += total(t1)
            s2 += total(t2)
            t0 = t1 = t2 = zero
    out[c] += s0 + total(t0)
    out[channels + c] += s1 + total(t1)
    out[2 * channels + c] += s2 + total(t2)


@kernel
def gradient_sums_of(g, p, lg, pg, z, s, lz, pz, coef, channels, rows, cols, out):
    """The same for all channels."""
    for c in range(channels):
        gradient_sums_of_channel(g, p + c * lg, pg, z, s + c * lz, pz, coef, c, channels, rows, cols, out)


@kernel
def _load_four(x, at, left):
    """Elements at, at + 4, at + 8, ... as a vector; those one, two and three further on as three more."""
    lane = lanes(x)
    v0, v1 = deinterleave(load(x, at, left), load(x, at + lane, left - lane))
    v2, v3 = deinterleave(load(x, at + 2 * lane, left - 2 * lane), load(x, at + 3 * lane, left - 3 * lane))
    c0, c2 = deinterleave(v0, v2)
    c1, c3 = deinterleave(v1, v3)
    return c0, c1, c2, c3


@kernel
def _add_four(y, at, c0, c1, c2, c3, left):
    """The counterpart: adds to elements at, at + 1, at + 2, ..."""
    lane = lanes(y)
    v0, v2 = interleave(c0, c2)
    v1, v3 = interleave(c1, c3)
    w0, w1 = interleave(v0, v1)
    w2, w3 = interleave(v2, v3)
    store(y, at, w0 + load(y, at, left), left)
    store(y, at + lane, w1 + load(y, at + lane, left - lane), left - lane)
    store(y, at + 2 * lane, w2 + load(y, at + 2 * lane, left - 2 * lane), left - 2 * lane)
    store(y, at + 3 * lane, w3 + load(y, at + 3 * lane, left - 3 * lane), left - 3 * lane)


@kernel
def _largest_of_four(x, at, left):
    c0, c1, c2, c3 = _load_four(x, at, left)
    return larger(larger(c0, c1), larger(c2, c3))


@kernel
def _give_to_largest(x, at, y, b, g, left):
    """Adds g to the largest of each four elements in a row, the first one on ties."""
    zero = spread(x, 0)
    c0, c1, c2, c3 = _load_four(x, at, left)
    near = where_larger(larger(c0, c1), larger(c2, c3), zero, g)
    far = g - near
    d1 = where_larger(c0, c1, near, zero)
    d3 = where_larger(c2, c3, far, zero)
    _add_four(y, b, near - d1, d1, far - d3, d3, left)


@kernel
def max_pool(x, p, lx, px, factor, y, q, ly, py, channels, rows, cols):
    """`y = max of factor x factor pixels of x`, a NaN wins; rows and cols count y's."""
    for c in range(channels):
        for r in range(rows):
            b = q + c * ly + r * py
            a = p + c * lx + factor * r * px
            if factor == 2:
                lane = lanes(x)
                for i in range(0, cols, lane):
                    n = 2 * (cols - i)
                    v0, v1 = deinterleave(load(x, a + 2 * i, n), load(x, a + 2 * i + lane, n - lane))
                    v2, v3 = deinterleave(load(x, a + px + 2 * i, n), load(x, a + px + 2 * i + lane, n - lane))
                    store(y, b + i, larger(larger(v0, v1), larger(v2, v3)), cols - i)
            elif factor == 4:
                for i in range(0, cols, lanes(x)):
                    n = 4 * (cols - i)
                    at = a + 4 * i
                    v0, v1 = _largest_of_four(x, at, n), _largest_of_four(x, at + px, n)
                    v2, v3 = _largest_of_four(x, at + 2 * px, n), _largest_of_four(x, at + 3 * px, n)
                    store(y, b + i, larger(larger(v0, v1), larger(v2, v3)), cols - i)
            else:
                for i in range(cols):
                    m = x[a + factor * i]
                    for dy in range(factor):
                        for dx in range(factor):
                            v = x[a + dy * px + factor * i + dx]
                            m = v if (v > m) | (v != v) else m
                    y[b + i] = m


@kernel
def max_pool_backward(x, p, lx, px, factor, d, s, ld, pd, y, q, ly, py, channels, rows, cols):
    """`y += d` at the winner of each factor x factor window of x (the first one on ties); rows and cols count d's."""
    for c in range(channels):
        for r in range(rows):
            e = s + c * ld + r * pd
            a = p + c * lx + factor * r * px
            b = q + c * ly + factor * r * py
            if factor == 2:
                lane = lanes(x)
                zero = spread(x, 0)
                for i in range(0, cols, lane):
                    n = cols - i
                    v0, v1 = deinterleave(load(x, a + 2 * i, 2 * n), load(x, a + 2 * i + lane, 2 * n - lane))
                    v2, v3 = deinterleave(load(x, a + px + 2 * i, 2 * n), load(x, a + px + 2 * i + lane, 2 * n - lane))
                    g = load(d, e + i, n)
                    # The upper pair wins a tie, and in each pair the left one.
                    up = where_larger(larger(v0, v1), larger(v2, v3), zero, g)
                    down = g - up
                    right = where_larger(v0, v1, up, zero)
                    w0, w1 = interleave(up - right, right)
                    store(y, b + 2 * i, w0 + load(y, b + 2 * i, 2 * n), 2 * n)
                    store(y, b + 2 * i + lane, w1 + load(y, b + 2 * i + lane, 2 * n - lane), 2 * n - lane)
                    right = where_larger(v2, v3, down, zero)
                    w0, w1 = interleave(down - right, right)
                    at = b + py + 2 * i
                    store(y, at, w0 + load(y, at, 2 * n), 2 * n)
                    store(y, at + lane, w1 + load(y, at + lane, 2 * n - lane), 2 * n - lane)
            elif factor == 4:
                for i in range(0, cols, lanes(x)):
                    n = 4 * (cols - i)
                    at = a + 4 * i
                    v0, v1 = _largest_of_four(x, at, n), _largest_of_four(x, at + px, n)
                    v2, v3 = _largest_of_four(x, at + 2 * px, n), _largest_of_four(x, at + 3 * px, n)
                    zero = spread(x, 0)
                    g = load(d, e + i, cols - i)
                    up = where_larger(larger(v0, v1), larger(v2, v3), zero, g)
                    down = g - up
                    second = where_larger(v0, v1, up, zero)
                    fourth = where_larger(v2, v3, down, zero)
                    to = b + 4 * i
                    _give_to_largest(x, at, y, to, up - second, n)
                    _give_to_largest(x, at + px, y, to + py, second, n)
                    _give_to_largest(x, at + 2 * px, y, to + 2 * py, down - fourth, n)
                    _give_to_largest(x, at + 3 * px, y, to + 3 * py, fourth, n)
            else:
                for i in range(cols):
                    m = x[a + factor * i]
                    row = 0
                    col = 0
                    for dy in range(factor):
                        for dx in range(factor):
                            v = x[a + dy * px + factor * i + dx]
                            if (v > m) | ((v != v) & (m == m)):
                                m = v
                                row = dy
                                col = dx
                    y[b + row * py + factor * i + col] += d[e + i]


@kernel
def _stretch(row, p, width, factor, out, q):
    """factor*width elements of out from q on = width of row from p on, interpolated at half-pixel centres, the ends
    replicated."""
    lane = lanes(out)
    if factor == 2 and width > 1:
        near, far = spread(out, 0.75), spread(out, 0.25)
        for i in range(0, width - 1, lane):
            n = width - 1 - i
            a, b = load(row, p + i, n), load(row, p + i + 1, n)
            v0, v1 = interleave(near * a + far * b, far * a + near * b)
            store(out, q + 2 * i + 1, v0, 2 * n)
            store(out, q + 2 * i + 1 + lane, v1, 2 * n - lane)
    elif factor == 4 and width > 1:
        f1, f3, f5, f7 = spread(out, 0.125), spread(out, 0.375), spread(out, 0.625), spread(out, 0.875)
        for i in range(0, width - 1, lane):
            n = width - 1 - i
            a, b = load(row, p + i, n), load(row, p + i + 1, n)
            v0, v2 = interleave(f7 * a + f1 * b, f3 * a + f5 * b)
            v1, v3 = interleave(f5 * a + f3 * b, f1 * a + f7 * b)
            w0, w1 = interleave(v0, v1)
            w2, w3 = interleave(v2, v3)
            at = q + 4 * i + 2
            store(out, at, w0, 4 * n)
            store(out, at + lane, w1, 4 * n - lane)
            store(out, at + 2 * lane, w2, 4 * n - 2 * lane)
            store(out, at + 3 * lane, w3, 4 * n - 3 * lane)
    else:
        half = out.dtype.type(0.5)
        one = out.dtype.type(1)
        for k in range(factor):
            u = out.dtype.type((k + half) / factor)
            for i in range(width - 1):
                out[q + factor * i + factor // 2 + k] = (one - u) * row[p + i] + u * row[p + i + 1]
    for k in range(factor // 2):
        out[q + k] = row[p]
        out[q + factor * width - 1 - k] = row[p + width - 1]


@kernel
def _shrink(row, width, factor, out):
    """Adjoint of `_stretch`: row (factor*width) to out (width)."""
    n = factor * width
    if factor == 4 and width > 1:
        f1 = out.dtype.type(0.125)
        f3 = out.dtype.type(0.375)
        f5 = out.dtype.type(0.625)
        f7 = out.dtype.type(0.875)
        out[0] = row[0] + row[1] + f7 * row[2] + f5 * row[3] + f3 * row[4] + f1 * row[5]
        last = row[n - 1] + row[n - 2] + f7 * row[n - 3] + f5 * row[n - 4]
        out[width - 1] = last + f3 * row[n - 5] + f1 * row[n - 6]
        g1, g3, g5, g7 = spread(out, 0.125), spread(out, 0.375), spread(out, 0.625), spread(out, 0.875)
        for i in range(0, width - 2, lanes(out)):
            left = 4 * (width - 2 - i)
            a0, a1, a2, a3 = _load_four(row, 4 * i + 2, left)
            b0, b1, b2, b3 = _load_four(row, 4 * i + 6, left)
            v = (g5 * (a2 + b1) + g7 * (a3 + b0)) + (g3 * (a1 + b2) + g1 * (a0 + b3))
            store(out, i + 1, v, width - 2 - i)
    else:
        half = out.dtype.type(0.5)
        one = out.dtype.type(1)
        for i in range(width):
            out[i] = 0
        for k in range(factor):
            u = out.dtype.type((k + half) / factor)
            for i in range(width - 1):
                v = row[factor * i + factor // 2 + k]
                out[i] += (one - u) * v
                out[i + 1] += u * v
        for k in range(factor // 2):
            out[0] += row[k]
            out[width - 1] += row[n - 1 - k]


@kernel
def _share(r, k, height, factor):
    """The weight of coarse row k in fine row r."""
    at = (r + 0.5) / factor - 0.5
    top = int(at + 1) - 1
    if top < 0 or top + 1 >= height:
        return 1.0
    return at - top if top < k else 1 - (at - top)


@kernel
def upsample_add(x, p, lx, px, height, width, factor, y, q, ly, py, first, channels, rows, spare, o, ends, finish):
    """`y += bilinear upsampling of x` (half-pixel centres, replicated border) for `rows` rows of y from `first` on.

    x is height x width, factor a power of two. Each row of x is stretched once, into one of two lines of `spare[o:]`;
    every row of y mixes two of them. finish: where in `ends` the scales, shifts and slopes (3, channels) lie that are
    applied to what y then is, as batch norm and PReLU; none if negative.
    """
    half = y.dtype.type(0.5)
    one = y.dtype.type(1)
    lane = lanes(y)
    n = factor * width
    for c in range(channels):
        scale = shift = slope = spread(y, 0)
        if finish >= 0:
            scale, shift = spread(y, ends[finish + c]), spread(y, ends[finish + channels + c])
            slope = spread(y, ends[finish + 2 * channels + c])
        ready = -1  # rows of x up to this one have been stretched; row k lies in line k % 2
        for r in range(rows):
            at = (first + r + half) / factor - half
            top = int(at + 1) - 1
            t = y.dtype.type(at - top)
            below = min(top + 1, height - 1)
            top = max(top, 0)
            for k in range(max(top, ready + 1), below + 1):
                _stretch(x, p + c * lx + k * px, width, factor, spare, o + k % 2 * n)
                ready = k
            b = q + c * ly + r * py
            v, w = spread(y, one - t), spread(y, t)
            for i in range(0, n, lane):
                over, under = load(spare, o + top % 2 * n + i, n - i), load(spare, o + below % 2 * n + i, n - i)
                u = fma(v, over, fma(w, under, load(y, b + i, n - i)))
                if finish >= 0:
                    u = fma(u, scale, shift)
                    u = where_positive(u, u, slope * u)
                store(y, b + i, u, n - i)


@kernel
def upsample_backward(d, p, ld, pd, height, width, factor, y, q, ly, py, first, channels, rows, spare, o):
    """Adjoint of `upsample_add`: adds `rows` fine rows of d, which begin at row `first`, into y (height x width).

    For each coarse row, fine rows are first added up, weighted, in a line of `spare[o:]`, which is then shrunk once.
    """
    lane = lanes(y)
    n = factor * width
    line = spare[o + 1 : o + 1 + n]
    small = spare[o + 2 + n : o + 2 + n + width]
    near, far = spread(y, 0.75), spread(y, 0.25)
    low = max((first + factor // 2) // factor - 1, 0)
    high = min((first + rows - 1 + factor // 2) // factor, height - 1)
    for c in range(channels):
        for k in range(low, high + 1):
            begin = max(factor * k - factor // 2, first)
            end = min(factor * (k + 1) + factor // 2, first + rows)
            for r in range(begin, end, 2):
                pair = r + 1 < end
                v = spread(y, _share(r, k, height, factor))
                w = spread(y, _share(r + 1, k, height, factor) if pair else 0.0)
                a = p + c * ld + (r - first) * pd
                b = a + pd if pair else a
                for i in range(0, n, lane):
                    add = fma(v, load(d, a + i, n - i), w * load(d, b + i, n - i))
                    store(line, i, add if r == begin else add + load(line, i, n - i), n - i)
            b = q + c * ly + k * py
            if factor == 2:  # shrunk and added at once; the ends, replicated forwards, count twice
                spare[o] = line[0]
                spare[o + 1 + n] = line[n - 1]
                for i in range(0, width, lane):
                    at = o + 2 * i
                    left, first_half = deinterleave(load(spare, at, lane), load(spare, at + lane, lane))
                    at += 2
                    second_half, right = deinterleave(load(spare, at, lane), load(spare, at + lane, lane))
                    v = fma(near, first_half + second_half, far * (left + right))
                    store(y, b + i, v + load(y, b + i, width - i), width - i)
            else:
                _shrink(line, width, factor, small)
                out = y[b : b + width]
                for i in range(width):
                    out[i] += small[i]
