"""The steps that a program (programs.py) is made of: each a small loop nest over maps in the cache.

A region is (array, start, channel stride, row pitch) over a flat array: pixel (c, y, x) lies at
`start + c*stride + y*pitch + x`. A feature map in memory and scratch with zero borders are both regions, so one step
serves both. Sums are short partials in the storage dtype, added up in float64.

Loops with sums, or with neighbours, use explicit vectors; the plain ones run over views of one row: Numba then proves
their indices non-negative, which `x[start + i]` denies it, and LLVM makes vector instructions of them.
"""

from .bodies import READ_AHEAD, WRITE_AHEAD, activated, ahead_of, differentiated, following_run, with_gradient
from .compile import inlined, kernel
from .simd import lanes
from .vector import (
    aligned,
    deinterleave,
    fma,
    interleave,
    keep,
    load,
    prefetch,
    prefetch_to_write,
    spread,
    store,
    stream,
    total,
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
    """`y = x`, or `y += x` (of a step above 1 only); y is written at every `step`-th column."""
    for c in range(channels):
        for r in range(rows):
            a = p + c * lx + r * px
            b = q + c * ly + r * py
            row = x[a : a + cols]
            out = y[b : b + cols * step]
            if step == 1:
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
