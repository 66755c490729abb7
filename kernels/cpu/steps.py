"""The steps that a program (programs.py) is made of: each a small loop nest over maps in the cache.

A region is (array, start, channel stride, row pitch) over a flat array: pixel (c, y, x) lies at
`start + c*stride + y*pitch + x`. A feature map in memory and scratch with zero borders are both regions, so one step
serves both. Sums are short partials in the storage dtype, added up in float64.

Loops with sums, or with neighbours, use explicit vectors; the plain ones run over views of one row: Numba then proves
their indices non-negative, which `x[start + i]` denies it, and LLVM makes vector instructions of them.
"""

from .bodies import READ_AHEAD, WRITE_AHEAD, activated, differentiated, following_run, with_gradient
from .bodies import ahead as ahead_of
from .compile import inlined, kernel
from .simd import lanes
from .vector import (
    aligned,
    deinterleave,
    fma,
    interleave,
    keep,
    larger,
    load,
    prefetch,
    prefetch_to_write,
    spread,
    store,
    stream,
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
    run, distance = (rows - 1) * px + cols, READ_AHEAD // x.itemsize
    for c in range(channels):
        scale, shift = spread(x, coef[c]), spread(x, coef[channels + c])
        slope = spread(x, coef[2 * channels + c])
        following = following_run(c, channels, lx, run)
        whole = 0.0
        part = spread(x, 0)
        for r in range(rows):
            if step != 1:
                for i in range(cols):
                    y[q + c * ly + r * py + i] = x[p + c * lx + r * px + i * step]
            for start in range(0, cols, FLUSH):
                b = q + c * ly + r * py + start
                a = p + c * lx + r * px + start if step == 1 else b
                n = min(FLUSH, cols - start)
                ahead = ahead_of(r * px + start, run, distance, following)
                even = n - n % lane
                for i in range(0, even, lane):
                    v = activated(x if step == 1 else y, a + i, lane, ahead, scale, shift, slope)
                    store(y, b + i, v, lane)
                    part = part + v
                if even < n:
                    v = activated(x if step == 1 else y, a + even, n - even, ahead, scale, shift, slope)
                    store(y, b + even, v, n - even)
                    part = part + v
                if n == FLUSH:
                    whole += total(part)
                    part = spread(x, 0)
            if r & 15 == 15:
                whole += total(part)
                part = spread(x, 0)
        sums[c] += whole + total(part)


@inlined
def _average_at(x, a, under, y, b, left, ahead, scale, shift, slope, quarter):
    """A vector of y and the sums of four pixels that it is made of."""
    lane, n = lanes(x), 2 * left
    for k in range(2):
        prefetch(x, a + k * lane + ahead)
        prefetch(x, under + k * lane + ahead)
    u0, u1 = deinterleave(load(x, a, n), load(x, a + lane, n - lane))
    u2, u3 = deinterleave(load(x, under, n), load(x, under + lane, n - lane))
    u0, u1 = fma(u0, scale, shift), fma(u1, scale, shift)
    u2, u3 = fma(u2, scale, shift), fma(u3, scale, shift)
    u0, u1 = where_positive(u0, u0, slope * u0), where_positive(u1, u1, slope * u1)
    u2, u3 = where_positive(u2, u2, slope * u2), where_positive(u3, u3, slope * u3)
    v = keep((u0 + u1) + (u2 + u3), left)
    store(y, b, v * quarter, left)
    return v


@kernel
def activate_average(x, p, lx, px, coef, y, q, ly, py, channels, rows, cols, sums):
    """`y = mean of 2x2 pixels of prelu(x*scale + shift)`; rows and cols count y's. Adds sums of all activations."""
    lane = lanes(x)
    quarter = spread(x, 0.25)
    run, distance = 2 * rows * px, READ_AHEAD // x.itemsize
    even = cols - cols % lane
    for c in range(channels):
        scale, shift = spread(x, coef[c]), spread(x, coef[channels + c])
        slope = spread(x, coef[2 * channels + c])
        following = following_run(c, channels, lx, run)
        whole = 0.0
        part = spread(x, 0)
        for r in range(rows):
            a = p + c * lx + 2 * r * px
            b = q + c * ly + r * py
            ahead = ahead_of(2 * r * px, run, distance, following)
            for i in range(0, even, lane):
                v = _average_at(x, a + 2 * i, a + px + 2 * i, y, b + i, lane, ahead, scale, shift, slope, quarter)
                part = part + v
            if even < cols:
                i, n = 2 * even, cols - even
                v = _average_at(x, a + i, a + px + i, y, b + even, n, ahead, scale, shift, slope, quarter)
                part = part + v
            if r & 15 == 15:
                whole += total(part)
                part = spread(x, 0)
        sums[c] += whole + total(part)


@kernel
def differentiate(g, p, lg, pg, z, s, lz, pz, coef, y, q, ly, py, channels, rows, cols, first, all_channels):
    """`y = k0*g*prelu'(z*scale + shift) + k1*z + k2`: the gradient of a raw map, formed while loading.

    coef is (6, all_channels): scale, shift, slope, k0, k1, k2, of which these are the channels from `first` on.
    """
    lane = lanes(z)
    run_g, run_z, distance = (rows - 1) * pg + cols, (rows - 1) * pz + cols, READ_AHEAD // z.itemsize
    for c in range(channels):
        k = first + c
        scale, shift = spread(z, coef[k]), spread(z, coef[all_channels + k])
        slope, k0 = spread(z, coef[2 * all_channels + k]), spread(z, coef[3 * all_channels + k])
        k1, k2 = spread(z, coef[4 * all_channels + k]), spread(z, coef[5 * all_channels + k])
        following_g, following_z = following_run(k, all_channels, lg, run_g), following_run(k, all_channels, lz, run_z)
        for r in range(rows):
            for start in range(0, cols, FLUSH):
                a = p + c * lg + r * pg + start
                d = s + c * lz + r * pz + start
                b = q + c * ly + r * py + start
                n = min(FLUSH, cols - start)
                ahead_g = ahead_of(r * pg + start, run_g, distance, following_g)
                ahead_z = ahead_of(r * pz + start, run_z, distance, following_z)
                even = n - n % lane
                for i in range(0, even, lane):
                    v = differentiated(
                        g, a + i, z, d + i, lane, ahead_g, ahead_z, scale, shift, slope, k0, k1, k2
                    )
                    store(y, b + i, v, lane)
                if even < n:
                    i, left = even, n - even
                    v = differentiated(
                        g, a + i, z, d + i, left, ahead_g, ahead_z, scale, shift, slope, k0, k1, k2
                    )
                    store(y, b + i, v, left)


@kernel
def fill(y, q, ly, py, channels, rows, cols, value):
    """`y = value`."""
    lane = lanes(y)
    v = spread(y, value)
    for c in range(channels):
        for r in range(rows):
            b = q + c * ly + r * py
            for i in range(0, cols, lane):
                store(y, b + i, v, cols - i)


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


@inlined
def _reference(x, p, count):
    """The mean of a map's first pixels: moments are taken about it, since E[x^2] - E[x]^2 would lose a small variance
    beside a large mean."""
    lane = lanes(x)
    s = spread(x, 0)
    for i in range(0, count, lane):
        s = s + load(x, p + i, count - i)
    return x.dtype.type(total(s) / count)


@inlined
def _about(v, left, reference, s, t):
    """Sum and sum of squares about the reference, with what v adds."""
    v = keep(v - reference, left)
    return s + v, fma(v, v, t)


@kernel
def write(x, p, lx, px, y, q, ly, py, channels, rows, cols, want, begins, out, first, all_channels, past):
    """`y = x`, from the cache to memory, `past` the caches or through them. If `want`ed, adds this band to the moments
    (3, all_channels) of the channels from `first` on, see `moments_of`; a map `begins` with its first band."""
    lane = lanes(x)
    run, distance = (rows - 1) * py + cols, WRITE_AHEAD // x.itemsize
    for c in range(channels):
        k = first + c
        if want and begins:
            out[k] = _reference(x, p + c * lx, min(cols, FLUSH))
        reference = spread(x, out[k] if want else 0.0)
        following = following_run(k, all_channels, ly, run)
        whole = 0.0
        squares = 0.0
        s = t = spread(x, 0)
        for r in range(rows):
            for start in range(0, cols, FLUSH):
                a = p + c * lx + r * px + start
                b = q + c * ly + r * py + start
                n = min(FLUSH, cols - start)
                ahead = ahead_of(r * py + start, run, distance, following)
                even = n - n % lane
                if past and aligned(y, b):
                    for i in range(0, even, lane):
                        v = load(x, a + i, lane)
                        stream(y, b + i, v)
                        s, t = _about(v, lane, reference, s, t)
                else:
                    for i in range(0, even, lane):
                        prefetch_to_write(y, b + i + ahead)
                        v = load(x, a + i, lane)
                        store(y, b + i, v, lane)
                        s, t = _about(v, lane, reference, s, t)
                if even < n:
                    v = load(x, a + even, n - even)
                    store(y, b + even, v, n - even)
                    s, t = _about(v, n - even, reference, s, t)
                if n == FLUSH:
                    whole += total(s)
                    squares += total(t)
                    s = t = spread(x, 0)
            if r & 15 == 15:
                whole += total(s)
                squares += total(t)
                s = t = spread(x, 0)
        if want:
            out[all_channels + k] += whole + total(s)
            out[2 * all_channels + k] += squares + total(t)


@inlined
def _give(g, y, at, z, beside, left, ahead, ahead_beside, add, scale, shift, slope, mean, zero, s0, s1, s2):
    """Write a vector of a gradient, or add it to y; returns the gradient sums with what it adds."""
    prefetch_to_write(y, at + ahead)
    prefetch(z, beside + ahead_beside)
    if add:
        g = g + load(y, at, left)
    store(y, at, g, left)
    v = load(z, beside, left)
    return with_gradient(keep(g, left), v, fma(v, scale, shift), slope, mean, zero, s0, s1, s2)


@kernel
def write_gradient(
    x, p, lx, px, z, s, lz, pz, coef, y, q, ly, py, channels, rows, cols, accumulate, want, out, first, all_channels
):
    """`y = x` or `y += x`, the gradient of the activation of z. If `want`ed, adds its sums to (3, all_channels), see
    `gradient_sums_of_channel`. coef (4, all_channels); these are the channels from `first` on."""
    lane = lanes(x)
    zero = spread(x, 0)
    run, distance = (rows - 1) * py + cols, WRITE_AHEAD // x.itemsize
    run_z, distance_z = (rows - 1) * pz + cols, READ_AHEAD // x.itemsize
    for c in range(channels):
        k = first + c
        scale, shift = spread(x, coef[k]), spread(x, coef[all_channels + k])
        slope, mean = spread(x, coef[2 * all_channels + k]), spread(x, coef[3 * all_channels + k])
        following, following_z = following_run(k, all_channels, ly, run), following_run(k, all_channels, lz, run_z)
        s0 = 0.0
        s1 = 0.0
        s2 = 0.0
        t0 = t1 = t2 = zero
        for r in range(rows):
            for start in range(0, cols, FLUSH):
                a = p + c * lx + r * px + start
                b = q + c * ly + r * py + start
                d = s + c * lz + r * pz + start
                n = min(FLUSH, cols - start)
                ahead = ahead_of(r * py + start, run, distance, following)
                ahead_z = ahead_of(r * pz + start, run_z, distance_z, following_z)
                even = n - n % lane
                for i in range(0, even, lane):
                    t0, t1, t2 = _give(
                        load(x, a + i, lane), y, b + i, z, d + i, lane, ahead, ahead_z, accumulate, scale, shift,
                        slope, mean, zero, t0, t1, t2,
                    )  # fmt: skip
                if even < n:
                    i, left = even, n - even
                    t0, t1, t2 = _give(
                        load(x, a + i, left), y, b + i, z, d + i, left, ahead, ahead_z, accumulate, scale, shift,
                        slope, mean, zero, t0, t1, t2,
                    )  # fmt: skip
                if n == FLUSH:
                    s0 += total(t0)
                    s1 += total(t1)
                    s2 += total(t2)
                    t0 = t1 = t2 = zero
            if r & 15 == 15:
                s0 += total(t0)
                s1 += total(t1)
                s2 += total(t2)
                t0 = t1 = t2 = zero
        if want:
            out[k] += s0 + total(t0)
            out[all_channels + k] += s1 + total(t1)
            out[2 * all_channels + k] += s2 + total(t2)


@kernel
def write_gradient_of_average(
    x, p, lx, px, z, s, lz, pz, coef, y, q, ly, py, channels, rows, cols, accumulate, want, out, first, all_channels
):
    """The same through a 2x2 average: each pixel of x (rows x cols) goes to four of y with weight 1/4."""
    lane = lanes(x)
    zero, quarter = spread(x, 0), spread(x, 0.25)
    run, distance = 2 * rows * py, WRITE_AHEAD // x.itemsize
    run_z, distance_z = 2 * rows * pz, READ_AHEAD // x.itemsize
    for c in range(channels):
        k = first + c
        scale, shift = spread(x, coef[k]), spread(x, coef[all_channels + k])
        slope, mean = spread(x, coef[2 * all_channels + k]), spread(x, coef[3 * all_channels + k])
        following, following_z = following_run(k, all_channels, ly, run), following_run(k, all_channels, lz, run_z)
        s0 = 0.0
        s1 = 0.0
        s2 = 0.0
        t0 = t1 = t2 = zero
        for r in range(rows):
            a = p + c * lx + r * px
            for half in range(2):
                b = q + c * ly + (2 * r + half) * py
                d = s + c * lz + (2 * r + half) * pz
                ahead = ahead_of((2 * r + half) * py, run, distance, following)
                ahead_z = ahead_of((2 * r + half) * pz, run_z, distance_z, following_z)
                for i in range(0, cols, lane):
                    v = load(x, a + i, cols - i) * quarter
                    left, right = interleave(v, v)
                    n = 2 * (cols - i)
                    t0, t1, t2 = _give(
                        left, y, b + 2 * i, z, d + 2 * i, n, ahead, ahead_z, accumulate, scale, shift, slope, mean,
                        zero, t0, t1, t2,
                    )  # fmt: skip
                    if n > lane:
                        t0, t1, t2 = _give(
                            right, y, b + 2 * i + lane, z, d + 2 * i + lane, n - lane, ahead, ahead_z, accumulate,
                            scale, shift, slope, mean, zero, t0, t1, t2,
                        )  # fmt: skip
            if r & 7 == 7:
                s0 += total(t0)
                s1 += total(t1)
                s2 += total(t2)
                t0 = t1 = t2 = zero
        if want:
            out[k] += s0 + total(t0)
            out[all_channels + k] += s1 + total(t1)
            out[2 * all_channels + k] += s2 + total(t2)


@kernel
def moments_of(x, p, lx, px, channels, rows, cols, first, out):
    """Adds this band to the channel moments (3, channels): reference value, sum and sum of squares about it.

    The reference is the mean of the image's first row, or of its first pixels if rows are taken as one.
    """
    lane = lanes(x)
    for c in range(channels):
        if first:
            out[c] = _reference(x, p + c * lx, min(cols, FLUSH))
        reference = spread(x, out[c])
        whole = 0.0
        squares = 0.0
        s = t = spread(x, 0)
        for r in range(rows):
            a = p + c * lx + r * px
            for i in range(0, cols, lane):
                s, t = _about(load(x, a + i, cols - i), cols - i, reference, s, t)
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
            t0, t1, t2 = with_gradient(e, v, fma(v, scale, shift), slope, mean, zero, t0, t1, t2)
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


@inlined
def _mix(over, under, v, w, y, at, left, scale, shift, slope, finished):
    """A vector of a row of y, to which a mixture of two stretched rows is added."""
    u = fma(v, over, fma(w, under, load(y, at, left)))
    if finished:
        u = fma(u, scale, shift)
        u = where_positive(u, u, slope * u)
    store(y, at, u, left)


@kernel
def upsample_add(x, p, lx, px, height, width, factor, y, q, ly, py, first, channels, rows, spare, o, ends, finish):
    """`y += bilinear upsampling of x` (half-pixel centres, replicated border) for `rows` rows of y from `first` on.

    x is height x width, factor a power of two. Each row of x is stretched once, into one of two lines of `spare[o:]`;
    the `factor` rows of y between the centres of two mix these, two at a time. finish: where in `ends` the scales,
    shifts and slopes (3, channels) lie that are applied to what y then is, as batch norm and PReLU; none if negative.
    """
    lane = lanes(y)
    n = factor * width
    even = n - n % lane
    half = factor // 2
    finished = finish >= 0
    for c in range(channels):
        scale = shift = slope = spread(y, 0)
        if finished:
            scale, shift = spread(y, ends[finish + c]), spread(y, ends[finish + channels + c])
            slope = spread(y, ends[finish + 2 * channels + c])
        ready = -1  # rows of x up to this one have been stretched; row k lies in line k & 1
        for k in range((first + half) // factor - 1, (first + rows - 1 + half) // factor):
            top, below = max(k, 0), min(k + 1, height - 1)
            for row in range(max(top, ready + 1), below + 1):
                _stretch(x, p + c * lx + row * px, width, factor, spare, o + (row & 1) * n)
                ready = row
            over, under = o + (top & 1) * n, o + (below & 1) * n
            begin = factor * k + half  # the first row of y below the centre of row k
            r = max(begin, first)
            end = min(begin + factor, first + rows)
            while r < end:
                b = q + c * ly + (r - first) * py
                pair = r + 1 < end
                t, t_next = (r - begin + 0.5) / factor, (r - begin + 1.5) / factor
                v, w, v_next, w_next = spread(y, 1 - t), spread(y, t), spread(y, 1 - t_next), spread(y, t_next)
                for i in range(0, even, lane):
                    e, f = load(spare, over + i, lane), load(spare, under + i, lane)
                    _mix(e, f, v, w, y, b + i, lane, scale, shift, slope, finished)
                    if pair:
                        _mix(e, f, v_next, w_next, y, b + py + i, lane, scale, shift, slope, finished)
                if even < n:
                    e, f = load(spare, over + even, n - even), load(spare, under + even, n - even)
                    _mix(e, f, v, w, y, b + even, n - even, scale, shift, slope, finished)
                    if pair:
                        _mix(e, f, v_next, w_next, y, b + py + even, n - even, scale, shift, slope, finished)
                r += 1 + pair


@kernel
def _share(r, k, height, factor):
    """The weight of coarse row k in fine row r, one of the 2*factor rows that it has a share in."""
    if r < factor // 2 or r >= factor * height - factor // 2:
        return 1.0  # the border is replicated
    j = r - (factor * k - factor // 2)
    return (j + 0.5) / factor if j < factor else (2 * factor - j - 0.5) / factor


@kernel
def _add_rows(d, a, pd, count, v0, v1, v2, v3, line, n, add):
    """`line = sum of up to four rows of d`, weighted, or that added to it."""
    lane = lanes(d)
    w0, w1, w2, w3 = spread(d, v0), spread(d, v1), spread(d, v2), spread(d, v3)
    b, c, e = a + pd * min(1, count - 1), a + pd * min(2, count - 1), a + pd * min(3, count - 1)
    for i in range(0, n, lane):
        v = fma(w0, load(d, a + i, n - i), w1 * load(d, b + i, n - i))
        w = fma(w2, load(d, c + i, n - i), w3 * load(d, e + i, n - i))
        v = v + w
        if add:
            v = v + load(line, i, n - i)
        store(line, i, v, n - i)


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
            for r in range(begin, end, 4):
                count = min(end - r, 4)
                v0 = _share(r, k, height, factor)
                v1 = _share(r + 1, k, height, factor) if count > 1 else 0.0
                v2 = _share(r + 2, k, height, factor) if count > 2 else 0.0
                v3 = _share(r + 3, k, height, factor) if count > 3 else 0.0
                _add_rows(d, p + c * ld + (r - first) * pd, pd, count, v0, v1, v2, v3, line, n, r > begin)
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
                for i in range(0, width, lane):
                    store(y, b + i, load(y, b + i, width - i) + load(small, i, width - i), width - i)
