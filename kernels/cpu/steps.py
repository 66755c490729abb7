"""The steps that a program (programs.py) is made of: each a small loop nest over regions (regions.py) in the cache.

Sums are short partial sums in the storage dtype, added up in float64.

Loops with sums or neighbours use explicit vectors. Plain loops run over views of one row: Numba can then prove that
their indices are not negative, as it cannot for `x[start + i]`, and LLVM vectorises them.
"""

from .bodies import (
    READ_AHEAD,
    WRITE_AHEAD,
    activated,
    activation_of,
    ahead_of,
    argument,
    derivative_of,
    differentiated,
    following_run,
    mean_of,
    prelu,
    with_gradient,
)
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
)

FLUSH = 1 << 11  # pixels after which, roughly, sums in the storage dtype go into float64


@kernel
def activate(x, step, coef, y, extent, activation_sums):
    """`y = prelu(x*scale + shift)` while loading; x is read at every `step`-th column. Adds up y per channel.

    coef is (4, channels): scale, shift, slope, mean.
    """
    channels, rows, cols = extent
    source, target = x.array, y.array
    lane = lanes(source)
    run, distance = (rows - 1) * x.pitch + cols, READ_AHEAD // source.itemsize
    for c in range(channels):
        f = activation_of(source, coef, c, channels)
        following = following_run(c, channels, x.stride, run)
        whole = 0.0
        part = spread(source, 0)
        for r in range(rows):
            at, to = x.start + c * x.stride + r * x.pitch, y.start + c * y.stride + r * y.pitch
            if step != 1:
                for i in range(cols):
                    target[to + i] = source[at + i * step]
            for start in range(0, cols, FLUSH):
                b = to + start
                a = at + start if step == 1 else b
                n = min(FLUSH, cols - start)
                ahead = ahead_of(r * x.pitch + start, run, distance, following)
                even = n - n % lane
                for i in range(0, even, lane):
                    v = activated(source if step == 1 else target, a + i, lane, ahead, f)
                    store(target, b + i, v, lane)
                    part = part + v
                if even < n:
                    v = activated(source if step == 1 else target, a + even, n - even, ahead, f)
                    store(target, b + even, v, n - even)
                    part = part + v
                if n == FLUSH:
                    whole += total(part)
                    part = spread(source, 0)
            if r & 15 == 15:
                whole += total(part)
                part = spread(source, 0)
        activation_sums[c] += whole + total(part)


@inlined
def _average_at(x, a, under, y, b, left, ahead, f, quarter):
    """Write a vector of y; returns the sums of four pixels that it is made of."""
    lane, n = lanes(x), 2 * left
    for k in range(2):
        prefetch(x, a + k * lane + ahead)
        prefetch(x, under + k * lane + ahead)
    u0, u1 = deinterleave(load(x, a, n), load(x, a + lane, n - lane))
    u2, u3 = deinterleave(load(x, under, n), load(x, under + lane, n - lane))
    u0, u1 = prelu(argument(u0, f), f), prelu(argument(u1, f), f)
    u2, u3 = prelu(argument(u2, f), f), prelu(argument(u3, f), f)
    v = keep((u0 + u1) + (u2 + u3), left)
    store(y, b, v * quarter, left)
    return v


@kernel
def activate_average(x, coef, y, extent, activation_sums):
    """`y = mean of 2x2 pixels of prelu(x*scale + shift)`; the extent is y's. Adds up all activations per channel."""
    channels, rows, cols = extent
    source, target = x.array, y.array
    lane = lanes(source)
    quarter = spread(source, 0.25)
    run, distance = 2 * rows * x.pitch, READ_AHEAD // source.itemsize
    even = cols - cols % lane
    for c in range(channels):
        f = activation_of(source, coef, c, channels)
        following = following_run(c, channels, x.stride, run)
        whole = 0.0
        part = spread(source, 0)
        for r in range(rows):
            a = x.start + c * x.stride + 2 * r * x.pitch
            b = y.start + c * y.stride + r * y.pitch
            under = a + x.pitch
            ahead = ahead_of(2 * r * x.pitch, run, distance, following)
            for i in range(0, even, lane):
                v = _average_at(source, a + 2 * i, under + 2 * i, target, b + i, lane, ahead, f, quarter)
                part = part + v
            if even < cols:
                i, n = 2 * even, cols - even
                v = _average_at(source, a + i, under + i, target, b + even, n, ahead, f, quarter)
                part = part + v
            if r & 15 == 15:
                whole += total(part)
                part = spread(source, 0)
        activation_sums[c] += whole + total(part)


@kernel
def differentiate(g, z, coef, y, extent, part):
    """`y = k0*g*prelu'(z*scale + shift) + k1*z + k2`: the gradient of a raw map, formed while loading.

    coef is (6, all channels): scale, shift, slope, k0, k1, k2; see `Part`.
    """
    channels, rows, cols = extent
    grad, raw = g.array, z.array
    lane = lanes(raw)
    run_g, run_z = (rows - 1) * g.pitch + cols, (rows - 1) * z.pitch + cols
    distance = READ_AHEAD // raw.itemsize
    for c in range(channels):
        k = part.first + c
        d = derivative_of(raw, coef, k, part.all)
        following_g = following_run(k, part.all, g.stride, run_g)
        following_z = following_run(k, part.all, z.stride, run_z)
        for r in range(rows):
            for start in range(0, cols, FLUSH):
                a = g.start + c * g.stride + r * g.pitch + start
                e = z.start + c * z.stride + r * z.pitch + start
                b = y.start + c * y.stride + r * y.pitch + start
                n = min(FLUSH, cols - start)
                ahead_g = ahead_of(r * g.pitch + start, run_g, distance, following_g)
                ahead_z = ahead_of(r * z.pitch + start, run_z, distance, following_z)
                even = n - n % lane
                for i in range(0, even, lane):
                    v = differentiated(grad, a + i, raw, e + i, lane, ahead_g, ahead_z, d)
                    store(y.array, b + i, v, lane)
                if even < n:
                    v = differentiated(grad, a + even, raw, e + even, n - even, ahead_g, ahead_z, d)
                    store(y.array, b + even, v, n - even)


@kernel
def fill(y, extent, value):
    """`y = value`."""
    channels, rows, cols = extent
    lane = lanes(y.array)
    v = spread(y.array, value)
    for c in range(channels):
        for r in range(rows):
            b = y.start + c * y.stride + r * y.pitch
            for i in range(0, cols, lane):
                store(y.array, b + i, v, cols - i)


@kernel
def transfer(x, y, step, extent, accumulate):
    """`y = x`, or `y += x` (only for a step above 1); y is written at every `step`-th column."""
    channels, rows, cols = extent
    for c in range(channels):
        for r in range(rows):
            a = x.start + c * x.stride + r * x.pitch
            b = y.start + c * y.stride + r * y.pitch
            row = x.array[a : a + cols]
            out = y.array[b : b + cols * step]
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
    """The mean of a map's first pixels. Moments are taken about it, since E[x^2] - E[x]^2 would lose a small variance
    next to a large mean."""
    lane = lanes(x)
    s = spread(x, 0)
    for i in range(0, count, lane):
        s = s + load(x, p + i, count - i)
    return x.dtype.type(total(s) / count)


@inlined
def _about(v, left, reference, s, t):
    """Sum and sum of squares about the reference, plus what v adds."""
    v = keep(v - reference, left)
    return s + v, fma(v, v, t)


@kernel
def write(x, y, extent, part, moments, want, begins, past):
    """`y = x`, from the cache to memory, `past` the caches or through them. If `want`ed, adds this band to the moments
    (3, all channels), see `moments_of` and `Part`. begins: whether this is a map's first band."""
    channels, rows, cols = extent
    source, target = x.array, y.array
    lane = lanes(source)
    run, distance = (rows - 1) * y.pitch + cols, WRITE_AHEAD // source.itemsize
    for c in range(channels):
        k = part.first + c
        if want and begins:
            moments[k] = _reference(source, x.start + c * x.stride, min(cols, FLUSH))
        reference = spread(source, moments[k] if want else 0.0)
        following = following_run(k, part.all, y.stride, run)
        whole = 0.0
        squares = 0.0
        s = t = spread(source, 0)
        for r in range(rows):
            for start in range(0, cols, FLUSH):
                a = x.start + c * x.stride + r * x.pitch + start
                b = y.start + c * y.stride + r * y.pitch + start
                n = min(FLUSH, cols - start)
                ahead = ahead_of(r * y.pitch + start, run, distance, following)
                even = n - n % lane
                if past and aligned(target, b):
                    for i in range(0, even, lane):
                        v = load(source, a + i, lane)
                        stream(target, b + i, v)
                        s, t = _about(v, lane, reference, s, t)
                else:
                    for i in range(0, even, lane):
                        prefetch_to_write(target, b + i + ahead)
                        v = load(source, a + i, lane)
                        store(target, b + i, v, lane)
                        s, t = _about(v, lane, reference, s, t)
                if even < n:
                    v = load(source, a + even, n - even)
                    store(target, b + even, v, n - even)
                    s, t = _about(v, n - even, reference, s, t)
                if n == FLUSH:
                    whole += total(s)
                    squares += total(t)
                    s = t = spread(source, 0)
            if r & 15 == 15:
                whole += total(s)
                squares += total(t)
                s = t = spread(source, 0)
        if want:
            moments[part.all + k] += whole + total(s)
            moments[2 * part.all + k] += squares + total(t)


@inlined
def _nothing_yet(like):
    """Gradient sums of no pixel, lane by lane."""
    zero = spread(like, 0)
    return zero, zero, zero


@inlined
def _with_totals(whole, sums):
    """The three gradient sums in float64, plus those that have been kept lane by lane."""
    return whole[0] + total(sums[0]), whole[1] + total(sums[1]), whole[2] + total(sums[2])


@inlined
def _add_to(gradient_sums, c, channels, whole):
    """Add a channel's sums to `gradient_sums` (3, channels)."""
    for k in range(3):
        gradient_sums[k * channels + c] += whole[k]


@inlined
def _give(g, y, at, z, beside, left, ahead, add, f, mean, sums):
    """Write a vector of a gradient, or add it to y; returns the gradient sums plus what it adds. ahead: how far to look
    ahead in y and in z."""
    prefetch_to_write(y, at + ahead[0])
    prefetch(z, beside + ahead[1])
    if add:
        g = g + load(y, at, left)
    store(y, at, g, left)
    v = load(z, beside, left)
    return with_gradient(keep(g, left), v, argument(v, f), f.slope, mean, spread(y, 0), sums)


@kernel
def write_gradient(x, z, coef, y, extent, part, gradient_sums, want, accumulate):
    """`y = x` or `y += x`, the gradient of the activation of z. If `want`ed, adds to the gradient sums (3, all
    channels), see `gradient_sums_of_channel` and `Part`. coef: (4, all channels)."""
    channels, rows, cols = extent
    source, raw, target = x.array, z.array, y.array
    lane = lanes(source)
    run, distance = (rows - 1) * y.pitch + cols, WRITE_AHEAD // source.itemsize
    run_z, distance_z = (rows - 1) * z.pitch + cols, READ_AHEAD // source.itemsize
    for c in range(channels):
        k = part.first + c
        f, mean = activation_of(source, coef, k, part.all), mean_of(source, coef, k, part.all)
        following = following_run(k, part.all, y.stride, run)
        following_z = following_run(k, part.all, z.stride, run_z)
        whole = 0.0, 0.0, 0.0
        sums = _nothing_yet(source)
        for r in range(rows):
            for start in range(0, cols, FLUSH):
                a = x.start + c * x.stride + r * x.pitch + start
                b = y.start + c * y.stride + r * y.pitch + start
                d = z.start + c * z.stride + r * z.pitch + start
                n = min(FLUSH, cols - start)
                ahead = (
                    ahead_of(r * y.pitch + start, run, distance, following),
                    ahead_of(r * z.pitch + start, run_z, distance_z, following_z),
                )
                even = n - n % lane
                for i in range(0, even, lane):
                    g = load(source, a + i, lane)
                    sums = _give(g, target, b + i, raw, d + i, lane, ahead, accumulate, f, mean, sums)
                if even < n:
                    i, left = even, n - even
                    g = load(source, a + i, left)
                    sums = _give(g, target, b + i, raw, d + i, left, ahead, accumulate, f, mean, sums)
                if n == FLUSH:
                    whole, sums = _with_totals(whole, sums), _nothing_yet(source)
            if r & 15 == 15:
                whole, sums = _with_totals(whole, sums), _nothing_yet(source)
        if want:
            _add_to(gradient_sums, k, part.all, _with_totals(whole, sums))


@kernel
def write_gradient_of_average(x, z, coef, y, extent, part, gradient_sums, want, accumulate):
    """The same through a 2x2 average: each pixel of x goes to four of y with weight 1/4; the extent is x's."""
    channels, rows, cols = extent
    source, raw, target = x.array, z.array, y.array
    lane = lanes(source)
    quarter = spread(source, 0.25)
    run, distance = 2 * rows * y.pitch, WRITE_AHEAD // source.itemsize
    run_z, distance_z = 2 * rows * z.pitch, READ_AHEAD // source.itemsize
    for c in range(channels):
        k = part.first + c
        f, mean = activation_of(source, coef, k, part.all), mean_of(source, coef, k, part.all)
        following = following_run(k, part.all, y.stride, run)
        following_z = following_run(k, part.all, z.stride, run_z)
        whole = 0.0, 0.0, 0.0
        sums = _nothing_yet(source)
        for r in range(rows):
            a = x.start + c * x.stride + r * x.pitch
            for half in range(2):
                b = y.start + c * y.stride + (2 * r + half) * y.pitch
                d = z.start + c * z.stride + (2 * r + half) * z.pitch
                ahead = (
                    ahead_of((2 * r + half) * y.pitch, run, distance, following),
                    ahead_of((2 * r + half) * z.pitch, run_z, distance_z, following_z),
                )
                for i in range(0, cols, lane):
                    v = load(source, a + i, cols - i) * quarter
                    left, right = interleave(v, v)
                    n, at, beside = 2 * (cols - i), b + 2 * i, d + 2 * i
                    sums = _give(left, target, at, raw, beside, n, ahead, accumulate, f, mean, sums)
                    if n > lane:
                        at, beside = at + lane, beside + lane
                        sums = _give(right, target, at, raw, beside, n - lane, ahead, accumulate, f, mean, sums)
            if r & 7 == 7:
                whole, sums = _with_totals(whole, sums), _nothing_yet(source)
        if want:
            _add_to(gradient_sums, k, part.all, _with_totals(whole, sums))


@kernel
def moments_of(x, extent, begins, moments):
    """Add this band to the channel moments (3, channels): reference value, sum and sum of squares about it.

    The reference is the mean of the image's first row, or of its first pixels if rows are taken as one. The band that
    `begins` an image sets it.
    """
    channels, rows, cols = extent
    source = x.array
    lane = lanes(source)
    for c in range(channels):
        if begins:
            moments[c] = _reference(source, x.start + c * x.stride, min(cols, FLUSH))
        reference = spread(source, moments[c])
        whole = 0.0
        squares = 0.0
        s = t = spread(source, 0)
        for r in range(rows):
            a = x.start + c * x.stride + r * x.pitch
            for i in range(0, cols, lane):
                s, t = _about(load(source, a + i, cols - i), cols - i, reference, s, t)
                if (i + lane) & (FLUSH - 1) == 0:
                    whole += total(s)
                    squares += total(t)
                    s = t = spread(source, 0)
            if r & 15 == 15:
                whole += total(s)
                squares += total(t)
                s = t = spread(source, 0)
        moments[channels + c] += whole + total(s)
        moments[2 * channels + c] += squares + total(t)


@kernel
def gradient_sums_of_channel(g, z, coef, c, extent, gradient_sums):
    """Add the sums of channel c, from which the gradients of batch norm and PReLU are made, to `gradient_sums`
    (3, channels).

    With e = g*prelu'(u), u = z*scale + shift: sum e, sum e*(z - mean), sum of g*u where u <= 0. g and z are the regions
    of all channels; coef is (4, channels).
    """
    channels, rows, cols = extent
    grad, raw = g.array, z.array
    lane = lanes(raw)
    zero = spread(raw, 0)
    f, mean = activation_of(raw, coef, c, channels), mean_of(raw, coef, c, channels)
    whole = 0.0, 0.0, 0.0
    sums = _nothing_yet(raw)
    for r in range(rows):
        a = g.start + c * g.stride + r * g.pitch
        d = z.start + c * z.stride + r * z.pitch
        for i in range(0, cols, lane):
            n = cols - i
            v = load(raw, d + i, n)
            e = load(grad, a + i, n)  # zero beyond the row's end, so all three terms are too
            sums = with_gradient(e, v, argument(v, f), f.slope, mean, zero, sums)
            if (i + lane) & (FLUSH - 1) == 0:
                whole, sums = _with_totals(whole, sums), _nothing_yet(raw)
        if r & 15 == 15:
            whole, sums = _with_totals(whole, sums), _nothing_yet(raw)
    _add_to(gradient_sums, c, channels, _with_totals(whole, sums))


@kernel
def gradient_sums_of(g, z, coef, extent, gradient_sums):
    """The same for all channels."""
    for c in range(extent.channels):
        gradient_sums_of_channel(g, z, coef, c, extent, gradient_sums)
