"""The steps of a program between two scales: max pooling and bilinear interpolation, and their adjoints.

Regions are those of steps.py. Factors of 2 and 4, which are all that CSNet has, use vectors.
"""

from .compile import inlined, kernel
from .simd import lanes
from .vector import (
    advanced,
    deinterleave,
    delayed,
    fma,
    interleave,
    keep,
    larger,
    load,
    put,
    spread,
    store,
    where_larger,
    where_positive,
)


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
def _add_every_fourth(y, at, c0, c1, c2, c3, left):
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
    _add_every_fourth(y, b, near - d1, d1, far - d3, d3, left)


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


@inlined
def _mix(top, below, v, w, y, at, left, ends):
    """A vector of a row of y, to which `v*top + w*below` is added."""
    scale, shift, slope, finished = ends
    u = fma(v, top, fma(w, below, load(y, at, left)))
    if finished:
        u = fma(u, scale, shift)
        u = where_positive(u, u, slope * u)
    store(y, at, u, left)


@inlined
def _with_neighbours(x, at, first, left):
    """A vector of a row, the same one pixel to the left and to the right; the row's ends are replicated."""
    lane = lanes(x)
    v = load(x, at, left)
    before = delayed(v) if first else load(x, at - 1, left)
    after = load(x, at + 1, lane) if left > lane else put(load(x, at + 1, left - 1), v, left - 1)
    return before, v, after


@inlined
def _stretched_by_two(x, at, first, left):
    """Two vectors of a row that a vector of x is stretched to."""
    before, v, after = _with_neighbours(x, at, first, left)
    near, far = spread(x, 0.75) * v, spread(x, 0.25)
    return interleave(fma(far, before, near), fma(far, after, near))


@inlined
def _stretched_by_four(x, at, first, left):
    """The same for factor 4."""
    before, v, after = _with_neighbours(x, at, first, left)
    f1, f3, f5, f7 = spread(x, 0.125), spread(x, 0.375), spread(x, 0.625) * v, spread(x, 0.875) * v
    c0, c2 = interleave(fma(f3, before, f5), fma(f1, after, f7))
    c1, c3 = interleave(fma(f1, before, f7), fma(f3, after, f5))
    v0, v1 = interleave(c0, c1)
    v2, v3 = interleave(c2, c3)
    return v0, v1, v2, v3


@inlined
def _add_two(top, below, v, w, y, at, left, ends):
    lane = lanes(y)
    _mix(top[0], below[0], v, w, y, at, 2 * left, ends)
    if 2 * left > lane:
        _mix(top[1], below[1], v, w, y, at + lane, 2 * left - lane, ends)


@inlined
def _add_four(top, below, v, w, y, at, left, ends):
    lane = lanes(y)
    _mix(top[0], below[0], v, w, y, at, 4 * left, ends)
    if 4 * left > lane:
        _mix(top[1], below[1], v, w, y, at + lane, 4 * left - lane, ends)
    if 4 * left > 2 * lane:
        _mix(top[2], below[2], v, w, y, at + 2 * lane, 4 * left - 2 * lane, ends)
    if 4 * left > 3 * lane:
        _mix(top[3], below[3], v, w, y, at + 3 * lane, 4 * left - 3 * lane, ends)


@inlined
def _by_two(x, a, px, height, left, first_column, y, b, py, first, rows, ends):
    """A column of vectors of x, down its rows, to what lies below in y."""
    v, w = spread(y, 0.75), spread(y, 0.25)
    low, high = (first + 1) // 2 - 1, (first + rows) // 2 - 1
    top = _stretched_by_two(x, a + max(low, 0) * px, first_column, left)
    for k in range(low, high + 1):
        below = _stretched_by_two(x, a + min(k + 1, height - 1) * px, first_column, left)
        r = 2 * k + 1 - first
        if r >= 0:
            _add_two(top, below, v, w, y, b + r * py, left, ends)
        if r + 1 < rows:
            _add_two(top, below, w, v, y, b + (r + 1) * py, left, ends)
        top = below


@inlined
def _by_four(x, a, px, height, left, first_column, y, b, py, first, rows, ends):
    """The same for factor 4."""
    low, high = (first + 2) // 4 - 1, (first + rows + 1) // 4 - 1
    top = _stretched_by_four(x, a + max(low, 0) * px, first_column, left)
    for k in range(low, high + 1):
        below = _stretched_by_four(x, a + min(k + 1, height - 1) * px, first_column, left)
        begin = 4 * k + 2 - first
        for r in range(max(begin, 0), min(begin + 4, rows)):
            t = (r - begin) * 0.25 + 0.125
            _add_four(top, below, spread(y, 1 - t), spread(y, t), y, b + r * py, left, ends)
        top = below


@kernel
def _by_any(x, p, px, height, width, factor, y, q, py, first, rows, ends):
    """The same for a whole map and any factor, pixel by pixel."""
    half = factor // 2
    for r in range(first, first + rows):
        k, w = (r + half) // factor - 1, ((r + half) % factor + 0.5) / factor
        top, below = p + max(k, 0) * px, p + min(k + 1, height - 1) * px
        for i in range(factor * width):
            m, u = (i + half) // factor - 1, ((i + half) % factor + 0.5) / factor
            left, right = max(m, 0), min(m + 1, width - 1)
            over = spread(x, (1 - u) * x[top + left] + u * x[top + right])
            under = spread(x, (1 - u) * x[below + left] + u * x[below + right])
            _mix(over, under, spread(x, 1 - w), spread(x, w), y, q + (r - first) * py + i, 1, ends)


@kernel
def upsample_add(x, p, lx, px, height, width, factor, y, q, ly, py, first, channels, rows, ends, finish):
    """`y += bilinear upsampling of x` (half-pixel centres, replicated border) for `rows` rows of y from `first` on.

    x is height x width, factor a power of two. finish: where in `ends` the scales, shifts and slopes (3, channels) lie
    that are applied to what y then is, as batch norm and PReLU; none if negative. Factors of 2 and 4 go down the
    columns, so that a row of x is stretched once, in registers.
    """
    lane = lanes(y)
    finished = finish >= 0
    for c in range(channels):
        scale = shift = slope = spread(y, 0)
        if finished:
            scale, shift = spread(y, ends[finish + c]), spread(y, ends[finish + channels + c])
            slope = spread(y, ends[finish + 2 * channels + c])
        to = scale, shift, slope, finished
        a, b = p + c * lx, q + c * ly
        if factor == 2:
            for i in range(0, width, lane):
                _by_two(x, a + i, px, height, width - i, i == 0, y, b + 2 * i, py, first, rows, to)
        elif factor == 4:
            for i in range(0, width, lane):
                _by_four(x, a + i, px, height, width - i, i == 0, y, b + 4 * i, py, first, rows, to)
        else:
            _by_any(x, a, px, height, width, factor, y, b, py, first, rows, to)


@inlined
def _shrunk_by_two(d, at, first, left):
    """The adjoint of `_stretched_by_two`: what a vector of x gets from the row of d; lanes from `left` on are zero."""
    lane = lanes(d)
    u, v = deinterleave(load(d, at, 2 * left), load(d, at + lane, 2 * left - lane))
    last = min(left, lane) - 1
    after = put(advanced(u), v if left <= lane else spread(d, d[at + 2 * lane]), last)
    before = put(delayed(v), u if first else spread(d, d[at - 1]), 0)
    return keep(fma(spread(d, 0.25), after + before, spread(d, 0.75) * (u + v)), left)


@inlined
def _shrunk_by_four(d, at, first, left):
    """The same for factor 4."""
    lane = lanes(d)
    c0, c1, c2, c3 = _load_four(d, at, 4 * left)
    f1, f3, f5, f7 = spread(d, 0.125), spread(d, 0.375), spread(d, 0.625), spread(d, 0.875)
    u, v = fma(f3, c0, f1 * c1), fma(f3, c3, f1 * c2)  # of the pixel before and after
    last = min(left, lane) - 1
    to = at + 4 * lane
    after = put(advanced(u), v if left <= lane else fma(f3, spread(d, d[to]), f1 * spread(d, d[to + 1])), last)
    before = put(delayed(v), u if first else fma(f3, spread(d, d[at - 1]), f1 * spread(d, d[at - 2])), 0)
    return keep(fma(f5, c0 + c3, f7 * (c1 + c2)) + (after + before), left)


@inlined
def _add_to(y, at, v, left):
    store(y, at, v + load(y, at, left), left)


@inlined
def _back_by_two(d, a, pd, height, left, first_column, y, b, py, first, rows):
    """A column of vectors of y gets what lies below in d, row by row."""
    near, far = spread(y, 0.75), spread(y, 0.25)
    low, high = (first + 1) // 2 - 1, (first + rows) // 2 - 1
    top = spread(y, 0)
    for k in range(low, high + 1):
        below = spread(y, 0)
        r = 2 * k + 1 - first
        if r >= 0:
            h = _shrunk_by_two(d, a + r * pd, first_column, left)
            top, below = fma(near, h, top), far * h
        if r + 1 < rows:
            h = _shrunk_by_two(d, a + (r + 1) * pd, first_column, left)
            top, below = fma(far, h, top), fma(near, h, below)
        _add_to(y, b + max(k, 0) * py, top, left)
        top = below
    _add_to(y, b + min(high + 1, height - 1) * py, top, left)


@inlined
def _back_by_four(d, a, pd, height, left, first_column, y, b, py, first, rows):
    """The same for factor 4."""
    low, high = (first + 2) // 4 - 1, (first + rows + 1) // 4 - 1
    top = spread(y, 0)
    for k in range(low, high + 1):
        below = spread(y, 0)
        begin = 4 * k + 2 - first
        for r in range(max(begin, 0), min(begin + 4, rows)):
            t = (r - begin) * 0.25 + 0.125
            h = _shrunk_by_four(d, a + r * pd, first_column, left)
            top, below = fma(spread(y, 1 - t), h, top), fma(spread(y, t), h, below)
        _add_to(y, b + max(k, 0) * py, top, left)
        top = below
    _add_to(y, b + min(high + 1, height - 1) * py, top, left)


@kernel
def _back_by_any(d, p, pd, height, width, factor, y, q, py, first, rows):
    """The same for a whole map and any factor, pixel by pixel."""
    half = factor // 2
    for r in range(first, first + rows):
        k, j = (r + half) // factor - 1, (r + half) % factor
        top, below = q + max(k, 0) * py, q + min(k + 1, height - 1) * py
        w = y.dtype.type((j + 0.5) / factor)
        for i in range(factor * width):
            m, n = (i + half) // factor - 1, (i + half) % factor
            left, right = max(m, 0), min(m + 1, width - 1)
            u = y.dtype.type((n + 0.5) / factor)
            v = d[p + (r - first) * pd + i]
            y[top + left] += (1 - w) * (1 - u) * v
            y[top + right] += (1 - w) * u * v
            y[below + left] += w * (1 - u) * v
            y[below + right] += w * u * v


@kernel
def upsample_backward(d, p, ld, pd, height, width, factor, y, q, ly, py, first, channels, rows):
    """Adjoint of `upsample_add`: adds `rows` fine rows of d, which begin at row `first`, into y (height x width)."""
    lane = lanes(y)
    for c in range(channels):
        a, b = p + c * ld, q + c * ly
        if factor == 2:
            for i in range(0, width, lane):
                _back_by_two(d, a + 2 * i, pd, height, width - i, i == 0, y, b + i, py, first, rows)
        elif factor == 4:
            for i in range(0, width, lane):
                _back_by_four(d, a + 4 * i, pd, height, width - i, i == 0, y, b + i, py, first, rows)
        else:
            _back_by_any(d, a, pd, height, width, factor, y, b, py, first, rows)
