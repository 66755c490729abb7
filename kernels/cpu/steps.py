"""The steps that a program (programs.py) is made of: each a small loop nest over maps in the cache.

A region is (array, start, channel stride, row pitch) over a flat array: pixel (c, y, x) lies at
`start + c*stride + y*pitch + x`. A feature map in memory and scratch with zero borders are both regions, so one step
serves both. Sums are short partials in the storage dtype, one per row, added up in float64.

Loops run over views of one row: Numba proves their indices non-negative, which `x[start + i]` denies it, and only then
does LLVM turn them into vector instructions.
"""

from .compile import kernel


@kernel
def activate(x, p, lx, px, step, coef, y, q, ly, py, channels, rows, cols, sums):
    """`y = prelu(x*scale + shift)` while loading; x is read at every `step`-th column. Adds sums of y per channel.

    coef is (4, channels): scale, shift, slope, mean.
    """
    for c in range(channels):
        scale = coef[c]
        shift = coef[channels + c]
        slope = coef[2 * channels + c]
        total = 0.0
        for r in range(rows):
            a = p + c * lx + r * px
            b = q + c * ly + r * py
            out = y[b : b + cols]
            part = y.dtype.type(0)
            if step == 1:
                row = x[a : a + cols]
                for i in range(cols):
                    v = row[i] * scale + shift
                    v = v if v > 0 else slope * v
                    out[i] = v
                    part += v
            else:
                row = x[a : a + cols * step]
                for i in range(cols):
                    v = row[i * step] * scale + shift
                    v = v if v > 0 else slope * v
                    out[i] = v
                    part += v
            total += part
        sums[c] += total


@kernel
def activate_average(x, p, lx, px, coef, y, q, ly, py, channels, rows, cols, sums):
    """`y = mean of 2x2 pixels of prelu(x*scale + shift)`; rows and cols count y's. Adds sums of all activations."""
    quarter = y.dtype.type(0.25)
    for c in range(channels):
        scale = coef[c]
        shift = coef[channels + c]
        slope = coef[2 * channels + c]
        total = 0.0
        for r in range(rows):
            a = p + c * lx + 2 * r * px
            b = q + c * ly + r * py
            out = y[b : b + cols]
            upper = x[a : a + 2 * cols]
            lower = x[a + px : a + px + 2 * cols]
            part = y.dtype.type(0)
            for i in range(cols):
                v0 = upper[2 * i] * scale + shift
                v1 = upper[2 * i + 1] * scale + shift
                v2 = lower[2 * i] * scale + shift
                v3 = lower[2 * i + 1] * scale + shift
                v0 = v0 if v0 > 0 else slope * v0
                v1 = v1 if v1 > 0 else slope * v1
                v2 = v2 if v2 > 0 else slope * v2
                v3 = v3 if v3 > 0 else slope * v3
                v = v0 + v1 + v2 + v3
                out[i] = v * quarter
                part += v
            total += part
        sums[c] += total


@kernel
def differentiate(g, p, lg, pg, z, s, lz, pz, coef, y, q, ly, py, channels, rows, cols):
    """`y = k0*g*prelu'(z*scale + shift) + k1*z + k2`: the gradient of a raw map, formed while loading.

    coef is (6, channels): scale, shift, slope, k0, k1, k2.
    """
    for c in range(channels):
        scale = coef[c]
        shift = coef[channels + c]
        slope = coef[2 * channels + c]
        k0 = coef[3 * channels + c]
        k1 = coef[4 * channels + c]
        k2 = coef[5 * channels + c]
        for r in range(rows):
            a = p + c * lg + r * pg
            d = s + c * lz + r * pz
            b = q + c * ly + r * py
            grad = g[a : a + cols]
            raw = z[d : d + cols]
            out = y[b : b + cols]
            for i in range(cols):
                v = raw[i]
                e = grad[i]
                e = e if v * scale + shift > 0 else slope * e
                out[i] = k0 * e + (k1 * v + k2)


@kernel
def fill(y, q, ly, py, channels, rows, cols, value):
    """`y = value`."""
    for c in range(channels):
        for r in range(rows):
            b = q + c * ly + r * py
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
def spread(x, p, lx, px, y, q, ly, py, channels, rows, cols, accumulate):
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

    The reference is the mean of the image's first row: E[x^2] - E[x]^2 would lose a small variance beside a large mean.
    """
    for c in range(channels):
        if first:
            total = 0.0
            for i in range(cols):
                total += x[p + c * lx + i]
            out[c] = total / cols
        reference = x.dtype.type(out[c])
        total = 0.0
        squares = 0.0
        for r in range(rows):
            a = p + c * lx + r * px
            row = x[a : a + cols]
            s = x.dtype.type(0)
            t = x.dtype.type(0)
            for i in range(cols):
                v = row[i] - reference
                s += v
                t += v * v
            total += s
            squares += t
        out[c] = reference
        out[channels + c] += total
        out[2 * channels + c] += squares


@kernel
def gradient_sums_of(g, p, lg, pg, z, s, lz, pz, coef, channels, rows, cols, out):
    """Adds to (3, channels) the sums that batch norm's and PReLU's gradients are made of.

    With e = g*prelu'(u), u = z*scale + shift: sum e, sum e*(z - mean), sum of g*u where u <= 0.
    """
    for c in range(channels):
        scale = coef[c]
        shift = coef[channels + c]
        slope = coef[2 * channels + c]
        mean = coef[3 * channels + c]
        zero = g.dtype.type(0)
        s0 = 0.0
        s1 = 0.0
        s2 = 0.0
        for r in range(rows):
            a = p + c * lg + r * pg
            d = s + c * lz + r * pz
            t0 = zero
            t1 = zero
            t2 = zero
            grad = g[a : a + cols]
            raw = z[d : d + cols]
            for i in range(cols):
                v = raw[i]
                u = v * scale + shift
                e = grad[i]
                # Selected before it is added: LLVM does not vectorise a sum that is itself the choice.
                w = e * u
                w = zero if u > 0 else w
                e = e if u > 0 else slope * e
                t0 += e
                t1 += e * (v - mean)
                t2 += w
            s0 += t0
            s1 += t1
            s2 += t2
        out[c] += s0
        out[channels + c] += s1
        out[2 * channels + c] += s2


@kernel
def max_pool(x, p, lx, px, factor, y, q, ly, py, channels, rows, cols):
    """`y = max of factor x factor pixels of x`, a NaN wins; rows and cols count y's."""
    for c in range(channels):
        for r in range(rows):
            b = q + c * ly + r * py
            a = p + c * lx + factor * r * px
            if factor == 2:
                out = y[b : b + cols]
                upper = x[a : a + 2 * cols]
                lower = x[a + px : a + px + 2 * cols]
                for i in range(cols):
                    m = upper[2 * i]
                    v = upper[2 * i + 1]
                    m = v if (v > m) | (v != v) else m
                    v = lower[2 * i]
                    m = v if (v > m) | (v != v) else m
                    v = lower[2 * i + 1]
                    out[i] = v if (v > m) | (v != v) else m
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
    zero = y.dtype.type(0)
    for c in range(channels):
        for r in range(rows):
            e = s + c * ld + r * pd
            a = p + c * lx + factor * r * px
            b = q + c * ly + factor * r * py
            if factor == 2:
                upper = x[a : a + 2 * cols]
                lower = x[a + px : a + px + 2 * cols]
                over = y[b : b + 2 * cols]
                under = y[b + py : b + py + 2 * cols]
                grad = d[e : e + cols]
                for i in range(cols):
                    v0 = upper[2 * i]
                    v1 = upper[2 * i + 1]
                    v2 = lower[2 * i]
                    v3 = lower[2 * i + 1]
                    m0 = v0 if v0 >= v1 else v1
                    m1 = v2 if v2 >= v3 else v3
                    up = grad[i] if m0 >= m1 else zero
                    down = grad[i] - up
                    left = up if v0 >= v1 else zero
                    over[2 * i] += left
                    over[2 * i + 1] += up - left
                    left = down if v2 >= v3 else zero
                    under[2 * i] += left
                    under[2 * i + 1] += down - left
            else:
                for i in range(cols):
                    m = x[a + factor * i]
                    row = 0
                    col = 0
                    for dy in range(factor):
                        for dx in range(factor):
                            v = x[a + dy * px + factor * i + dx]
                            if v > m:
                                m = v
                                row = dy
                                col = dx
                    y[b + row * py + factor * i + col] += d[e + i]


@kernel
def upsample_add(x, p, lx, px, height, width, factor, y, q, ly, py, row, channels, rows, spare, o):
    """`y += bilinear upsampling of x` (half-pixel centres, replicated border) for `rows` rows of y from `row` on.

    x is height x width. `spare[o:]` holds one padded coarse row and one fine row.
    """
    half = y.dtype.type(0.5)
    one = y.dtype.type(1)
    wide = o + width + 2
    for c in range(channels):
        for r in range(rows):
            at = (row + r + half) / factor - half
            top = int(at + 1) - 1
            t = y.dtype.type(at - top)
            a = p + c * lx + max(top, 0) * px
            b = p + c * lx + min(top + 1, height - 1) * px
            upper = x[a : a + width]
            lower = x[b : b + width]
            coarse = spare[o : o + width + 2]
            fine = spare[wide : wide + factor * width]
            for i in range(width):
                coarse[1 + i] = (one - t) * upper[i] + t * lower[i]
            coarse[0] = coarse[1]
            coarse[width + 1] = coarse[width]
            if factor == 2:
                near = y.dtype.type(0.75)
                far = y.dtype.type(0.25)
                for i in range(width):
                    v = near * coarse[1 + i]
                    fine[2 * i] = v + far * coarse[i]
                    fine[2 * i + 1] = v + far * coarse[2 + i]
            elif factor == 4:
                f1 = y.dtype.type(0.125)
                f3 = y.dtype.type(0.375)
                f5 = y.dtype.type(0.625)
                f7 = y.dtype.type(0.875)
                for i in range(width):
                    left = coarse[i]
                    v = coarse[1 + i]
                    right = coarse[2 + i]
                    fine[4 * i] = f3 * left + f5 * v
                    fine[4 * i + 1] = f1 * left + f7 * v
                    fine[4 * i + 2] = f7 * v + f1 * right
                    fine[4 * i + 3] = f5 * v + f3 * right
            else:
                for k in range(factor):
                    u = (k + half) / factor - half
                    first = 1 if u >= 0 else 0
                    u = u if u >= 0 else u + one
                    for i in range(width):
                        fine[factor * i + k] = (one - u) * coarse[first + i] + u * coarse[first + 1 + i]
            b = q + c * ly + r * py
            out = y[b : b + factor * width]
            for i in range(factor * width):
                out[i] += fine[i]


@kernel
def upsample_backward(d, p, ld, pd, height, width, factor, y, q, ly, py, row, channels, rows, spare, o):
    """Adjoint of `upsample_add`: adds `rows` fine rows of d, which begin at row `row`, into y (height x width).

    `spare[o:]` holds one fine row with `factor` zeros on both sides and one padded coarse row.
    """
    half = y.dtype.type(0.5)
    one = y.dtype.type(1)
    zero = y.dtype.type(0)
    n = factor * width
    fine = spare[o : o + n + 2 * factor]
    start = o + n + 2 * factor
    coarse = spare[start : start + width + 2]
    fine[:factor] = zero
    fine[factor + n :] = zero
    for c in range(channels):
        for r in range(rows):
            a = p + c * ld + r * pd
            fine[factor : factor + n] = d[a : a + n]
            if factor == 2:
                near = y.dtype.type(0.75)
                far = y.dtype.type(0.25)
                for i in range(width):
                    outer = fine[2 * i + 1] + fine[2 * i + 4]
                    coarse[i + 1] = near * (fine[2 * i + 2] + fine[2 * i + 3]) + far * outer
                coarse[0] = far * fine[2]
                coarse[width + 1] = far * fine[2 * width + 1]
            elif factor == 4:
                f1 = y.dtype.type(0.125)
                f3 = y.dtype.type(0.375)
                f5 = y.dtype.type(0.625)
                f7 = y.dtype.type(0.875)
                for i in range(width):
                    inner = f5 * (fine[4 * i + 4] + fine[4 * i + 7]) + f7 * (fine[4 * i + 5] + fine[4 * i + 6])
                    outer = f3 * (fine[4 * i + 3] + fine[4 * i + 8]) + f1 * (fine[4 * i + 2] + fine[4 * i + 9])
                    coarse[i + 1] = inner + outer
                coarse[0] = f3 * fine[4] + f1 * fine[5]
                coarse[width + 1] = f3 * fine[4 * width + 3] + f1 * fine[4 * width + 2]
            else:
                coarse[:] = zero
                for k in range(factor):
                    u = (k + half) / factor - half
                    first = 1 if u >= 0 else 0
                    u = u if u >= 0 else u + one
                    for i in range(width):
                        v = fine[factor + factor * i + k]
                        coarse[first + i] += (one - u) * v
                        coarse[first + 1 + i] += u * v
            coarse[1] += coarse[0]
            coarse[width] += coarse[width + 1]
            at = (row + r + half) / factor - half
            top = int(at + 1) - 1
            t = y.dtype.type(at - top)
            b = q + c * ly + max(top, 0) * py
            upper = y[b : b + width]
            for i in range(width):
                upper[i] += (one - t) * coarse[1 + i]
            b = q + c * ly + min(top + 1, height - 1) * py
            lower = y[b : b + width]
            for i in range(width):
                lower[i] += t * coarse[1 + i]
