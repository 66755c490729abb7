"""The steps of a program between two scales: max pooling and bilinear interpolation, and their adjoints.

Factors of 2 and 4, the only ones in CSNet, use vectors.
"""

from typing import Any, NamedTuple

from .bodies import Activation, activation_of, argument, prelu
from .compile import inlined, kernel
from .regions import from_element
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
)


@kernel
def _load_four(x, at, left):
    """Elements at, at + 4, at + 8, ... as a vector, and three more vectors of those one, two and three further on."""
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


@inlined
def _pool_by_two(x, a, px, y, b, cols):
    """A row of y, each pixel the largest of 2 x 2 pixels of x; `px` is the pitch of x."""
    lane = lanes(x)
    under = a + px
    for i in range(0, cols, lane):
        n = 2 * (cols - i)
        v0, v1 = deinterleave(load(x, a + 2 * i, n), load(x, a + 2 * i + lane, n - lane))
        v2, v3 = deinterleave(load(x, under + 2 * i, n), load(x, under + 2 * i + lane, n - lane))
        store(y, b + i, larger(larger(v0, v1), larger(v2, v3)), cols - i)


@inlined
def _pool_by_four(x, a, px, y, b, cols):
    """The same for factor 4."""
    for i in range(0, cols, lanes(x)):
        n = 4 * (cols - i)
        at = a + 4 * i
        v0, v1 = _largest_of_four(x, at, n), _largest_of_four(x, at + px, n)
        v2, v3 = _largest_of_four(x, at + 2 * px, n), _largest_of_four(x, at + 3 * px, n)
        store(y, b + i, larger(larger(v0, v1), larger(v2, v3)), cols - i)


@inlined
def _pool_by_any(x, a, px, factor, y, b, cols):
    """The same for any factor, pixel by pixel."""
    for i in range(cols):
        m = x[a + factor * i]
        for dy in range(factor):
            for dx in range(factor):
                v = x[a + dy * px + factor * i + dx]
                m = v if (v > m) | (v != v) else m
        y[b + i] = m


@kernel
def max_pool(x, factor, y, extent):
    """`y = max of factor x factor pixels of x`; a NaN wins. The extent is y's."""
    for c in range(extent.channels):
        for r in range(extent.rows):
            b = y.start + c * y.stride + r * y.pitch
            a = x.start + c * x.stride + factor * r * x.pitch
            if factor == 2:
                _pool_by_two(x.array, a, x.pitch, y.array, b, extent.cols)
            elif factor == 4:
                _pool_by_four(x.array, a, x.pitch, y.array, b, extent.cols)
            else:
                _pool_by_any(x.array, a, x.pitch, factor, y.array, b, extent.cols)


@inlined
def _unpool_by_two(x, a, px, d, e, y, b, py, cols):
    """A row of d goes to two rows of y, which begin at b."""
    lane = lanes(x)
    zero = spread(x, 0)
    under = a + px
    for i in range(0, cols, lane):
        n = cols - i
        v0, v1 = deinterleave(load(x, a + 2 * i, 2 * n), load(x, a + 2 * i + lane, 2 * n - lane))
        v2, v3 = deinterleave(load(x, under + 2 * i, 2 * n), load(x, under + 2 * i + lane, 2 * n - lane))
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


@inlined
def _unpool_by_four(x, a, px, d, e, y, b, py, cols):
    """The same for factor 4, to four rows."""
    zero = spread(x, 0)
    for i in range(0, cols, lanes(x)):
        n = 4 * (cols - i)
        at = a + 4 * i
        v0, v1 = _largest_of_four(x, at, n), _largest_of_four(x, at + px, n)
        v2, v3 = _largest_of_four(x, at + 2 * px, n), _largest_of_four(x, at + 3 * px, n)
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


@inlined
def _unpool_by_any(x, a, px, factor, d, e, y, b, py, cols):
    """The same for any factor, pixel by pixel."""
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
def max_pool_backward(x, factor, d, y, extent):
    """`y += d` at the winner of each factor x factor window of x (the first one on ties); the extent is d's."""
    for c in range(extent.channels):
        for r in range(extent.rows):
            e = d.start + c * d.stride + r * d.pitch
            a = x.start + c * x.stride + factor * r * x.pitch
            b = y.start + c * y.stride + factor * r * y.pitch
            if factor == 2:
                _unpool_by_two(x.array, a, x.pitch, d.array, e, y.array, b, y.pitch, extent.cols)
            elif factor == 4:
                _unpool_by_four(x.array, a, x.pitch, d.array, e, y.array, b, y.pitch, extent.cols)
            else:
                _unpool_by_any(x.array, a, x.pitch, factor, d.array, e, y.array, b, y.pitch, extent.cols)


class Coarse(NamedTuple):
    """The smaller of two maps, height x width; each side of the other is `factor` times as long, a power of two."""

    height: int
    width: int
    factor: int


class _Ends(NamedTuple):
    """What is applied to a sum if it is the last one."""

    activation: Any
    finished: bool


@inlined
def _mix(top, below, v, w, y, at, left, ends):
    """Add `v*top + w*below` to a vector of a row of y."""
    u = fma(v, top, fma(w, below, load(y, at, left)))
    if ends.finished:
        u = prelu(argument(u, ends.activation), ends.activation)
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
    """The two vectors of a row that a vector of x is stretched to."""
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
def _by_two(x, height, left, first_column, y, first, rows, ends):
    """Take a column of vectors of x, row by row, to the same part of y."""
    v, w = spread(y.array, 0.75), spread(y.array, 0.25)
    low, high = (first + 1) // 2 - 1, (first + rows) // 2 - 1
    top = _stretched_by_two(x.array, x.start + max(low, 0) * x.pitch, first_column, left)
    for k in range(low, high + 1):
        below = _stretched_by_two(x.array, x.start + min(k + 1, height - 1) * x.pitch, first_column, left)
        r = 2 * k + 1 - first
        if r >= 0:
            _add_two(top, below, v, w, y.array, y.start + r * y.pitch, left, ends)
        if r + 1 < rows:
            _add_two(top, below, w, v, y.array, y.start + (r + 1) * y.pitch, left, ends)
        top = below


@inlined
def _by_four(x, height, left, first_column, y, first, rows, ends):
    """The same for factor 4."""
    low, high = (first + 2) // 4 - 1, (first + rows + 1) // 4 - 1
    top = _stretched_by_four(x.array, x.start + max(low, 0) * x.pitch, first_column, left)
    for k in range(low, high + 1):
        below = _stretched_by_four(x.array, x.start + min(k + 1, height - 1) * x.pitch, first_column, left)
        begin = 4 * k + 2 - first
        for r in range(max(begin, 0), min(begin + 4, rows)):
            t = (r - begin) * 0.25 + 0.125
            v, w = spread(y.array, 1 - t), spread(y.array, t)
            _add_four(top, below, v, w, y.array, y.start + r * y.pitch, left, ends)
        top = below


@kernel
def _by_any(x, coarse, y, first, rows, ends):
    """The same for a whole map and any factor, pixel by pixel."""
    height, width, factor = coarse
    source = x.array
    half = factor // 2
    for r in range(first, first + rows):
        k, w = (r + half) // factor - 1, ((r + half) % factor + 0.5) / factor
        top, below = x.start + max(k, 0) * x.pitch, x.start + min(k + 1, height - 1) * x.pitch
        to = y.start + (r - first) * y.pitch
        for i in range(factor * width):
            m, u = (i + half) // factor - 1, ((i + half) % factor + 0.5) / factor
            left, right = max(m, 0), min(m + 1, width - 1)
            over = spread(source, (1 - u) * source[top + left] + u * source[top + right])
            under = spread(source, (1 - u) * source[below + left] + u * source[below + right])
            _mix(over, under, spread(source, 1 - w), spread(source, w), y.array, to + i, 1, ends)


@kernel
def upsample_add(x, coarse, y, first, channels, rows, parameters, finish):
    """`y += bilinear upsampling of x` (half-pixel centres, replicated border) for `rows` rows of y from `first` on.

    x is the `coarse` map. finish: the position in `parameters` of the scales, shifts and slopes (3, channels) with
    which batch norm and PReLU finish y; negative for none. Factors of 2 and 4 go down the columns, so that a row of x
    is stretched once, in registers.
    """
    height, width, factor = coarse
    lane, none = lanes(y.array), spread(y.array, 0)
    for c in range(channels):
        f = Activation(none, none, none)
        if finish >= 0:
            f = activation_of(y.array, parameters, finish + c, channels)
        ends = _Ends(f, finish >= 0)
        source, target = from_element(x, c * x.stride), from_element(y, c * y.stride)
        if factor == 2:
            for i in range(0, width, lane):
                a, b = from_element(source, i), from_element(target, 2 * i)
                _by_two(a, height, width - i, i == 0, b, first, rows, ends)
        elif factor == 4:
            for i in range(0, width, lane):
                a, b = from_element(source, i), from_element(target, 4 * i)
                _by_four(a, height, width - i, i == 0, b, first, rows, ends)
        else:
            _by_any(source, coarse, target, first, rows, ends)


@inlined
def _shrunk_by_two(d, at, first, left):
    """The adjoint of `_stretched_by_two`: what a vector of x gets from a row of d; lanes from `left` on are zero."""
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
    u, v = fma(f3, c0, f1 * c1), fma(f3, c3, f1 * c2)  # for the pixels before and after
    last = min(left, lane) - 1
    to = at + 4 * lane
    after = put(advanced(u), v if left <= lane else fma(f3, spread(d, d[to]), f1 * spread(d, d[to + 1])), last)
    before = put(delayed(v), u if first else fma(f3, spread(d, d[at - 1]), f1 * spread(d, d[at - 2])), 0)
    return keep(fma(f5, c0 + c3, f7 * (c1 + c2)) + (after + before), left)


@inlined
def _add_to(y, at, v, left):
    store(y, at, v + load(y, at, left), left)


@inlined
def _back_by_two(d, height, left, first_column, y, first, rows):
    """Add to a column of vectors of y, row by row, what it gets from the same part of d."""
    near, far = spread(y.array, 0.75), spread(y.array, 0.25)
    low, high = (first + 1) // 2 - 1, (first + rows) // 2 - 1
    top = spread(y.array, 0)
    for k in range(low, high + 1):
        below = spread(y.array, 0)
        r = 2 * k + 1 - first
        if r >= 0:
            h = _shrunk_by_two(d.array, d.start + r * d.pitch, first_column, left)
            top, below = fma(near, h, top), far * h
        if r + 1 < rows:
            h = _shrunk_by_two(d.array, d.start + (r + 1) * d.pitch, first_column, left)
            top, below = fma(far, h, top), fma(near, h, below)
        _add_to(y.array, y.start + max(k, 0) * y.pitch, top, left)
        top = below
    _add_to(y.array, y.start + min(high + 1, height - 1) * y.pitch, top, left)


@inlined
def _back_by_four(d, height, left, first_column, y, first, rows):
    """The same for factor 4."""
    low, high = (first + 2) // 4 - 1, (first + rows + 1) // 4 - 1
    top = spread(y.array, 0)
    for k in range(low, high + 1):
        below = spread(y.array, 0)
        begin = 4 * k + 2 - first
        for r in range(max(begin, 0), min(begin + 4, rows)):
            t = (r - begin) * 0.25 + 0.125
            h = _shrunk_by_four(d.array, d.start + r * d.pitch, first_column, left)
            top, below = fma(spread(y.array, 1 - t), h, top), fma(spread(y.array, t), h, below)
        _add_to(y.array, y.start + max(k, 0) * y.pitch, top, left)
        top = below
    _add_to(y.array, y.start + min(high + 1, height - 1) * y.pitch, top, left)


@kernel
def _back_by_any(d, coarse, y, first, rows):
    """The same for a whole map and any factor, pixel by pixel."""
    height, width, factor = coarse
    target = y.array
    half = factor // 2
    for r in range(first, first + rows):
        k, j = (r + half) // factor - 1, (r + half) % factor
        top, below = y.start + max(k, 0) * y.pitch, y.start + min(k + 1, height - 1) * y.pitch
        w = target.dtype.type((j + 0.5) / factor)
        for i in range(factor * width):
            m, n = (i + half) // factor - 1, (i + half) % factor
            left, right = max(m, 0), min(m + 1, width - 1)
            u = target.dtype.type((n + 0.5) / factor)
            v = d.array[d.start + (r - first) * d.pitch + i]
            target[top + left] += (1 - w) * (1 - u) * v
            target[top + right] += (1 - w) * u * v
            target[below + left] += w * (1 - u) * v
            target[below + right] += w * u * v


@kernel
def upsample_backward(d, coarse, y, first, channels, rows):
    """Adjoint of `upsample_add`: adds `rows` fine rows of d, which begin at row `first`, to the `coarse` map y."""
    height, width, factor = coarse
    lane = lanes(y.array)
    for c in range(channels):
        source, target = from_element(d, c * d.stride), from_element(y, c * y.stride)
        if factor == 2:
            for i in range(0, width, lane):
                a, b = from_element(source, 2 * i), from_element(target, i)
                _back_by_two(a, height, width - i, i == 0, b, first, rows)
        elif factor == 4:
            for i in range(0, width, lane):
                a, b = from_element(source, 4 * i), from_element(target, i)
                _back_by_four(a, height, width - i, i == 0, b, first, rows)
        else:
            _back_by_any(source, coarse, target, first, rows)
