"""Programs of the multi-scale octave convolution (gOctConv), forward and backward, for any number of branches.

Level l is the scale 1 / 2**l of the finest one. A buffer of level l holds, channel after channel, the inputs that
output l reads at its own scale: the finer branches, max-pooled, and then branch l itself. So one product covers them
all. A coarser branch is multiplied at its own scale for all finer outputs at once, and upsampled while their rows are
written. A 1x1 kernel takes the finest level, by far the largest, in bands of rows.
"""

import dataclasses
import functools

from .dense import band_rows, bands
from .operations import (
    ACTIVATE,
    ACTIVATE_AVERAGE,
    DIFFERENTIATE,
    MAX_POOL,
    MAX_POOL_BACKWARD,
    UPSAMPLE_ADD,
    UPSAMPLE_BACKWARD,
    WRITE,
    WRITE_GRADIENT,
    WRITE_GRADIENT_OF_AVERAGE,
)
from .programs import Program


@dataclasses.dataclass(frozen=True)
class Octave:
    """All that a program depends on. `height`, `width`: of the outputs' finest level (after `pool`, the 2x2 average).

    ins, outs: channels per branch, zero for a missing one. The kernel is square, odd, and zero-padded to keep the size.
    """

    itemsize: int
    ins: tuple[int, ...]
    outs: tuple[int, ...]
    height: int
    width: int
    kernel_size: int
    pool: bool

    def __post_init__(self):
        object.__setattr__(self, "padding", self.kernel_size // 2)

    @property
    def levels(self):
        return max(len(self.ins), len(self.outs))

    def size(self, level):
        return self.height >> level, self.width >> level

    def pitch(self, level):
        return self.size(level)[1] + self.padding

    def plane(self, level):
        """Elements of a plane with zero borders."""
        return (self.size(level)[0] + 2 * self.padding) * self.pitch(level) + self.padding

    def count(self, level):
        """Pixels from the first to the last of a map whose rows are `pitch` apart."""
        height, width = self.size(level)
        return (height - 1) * self.pitch(level) + width

    def before(self, level):
        """Channels of all inputs finer than `level`."""
        return sum(self.ins[:level])

    def in_at(self, level):
        return self.ins[level] if level < len(self.ins) else 0

    def out_at(self, level):
        return self.outs[level] if level < len(self.outs) else 0

    @property
    def band(self):
        """Rows per band of the finest level."""
        return self.band_at(0)

    def band_at(self, level):
        """Rows of a level that are processed at once; all of them if the kernel looks at neighbours."""
        height, width = self.size(level)
        if self.padding:
            return height
        row_bytes = (2 * self.in_at(level) + self.out_at(level)) * width * self.itemsize
        return band_rows(height, row_bytes, 1 << (self.levels - 1 - level))


class _Builder:
    """The steps that the forward and the backward program share."""

    def __init__(self, c: Octave):
        self.c = c
        self.program = Program(c.itemsize)
        self.taps = list(range(c.kernel_size**2))
        scale = 2 if c.pool else 1
        self.inputs = [
            self.program.map(f"x{i}", n, scale * (c.height >> i), scale * (c.width >> i)) for i, n in enumerate(c.ins)
        ]
        self.coefs = [self.program.tensor(f"coef{i}", 0) for i in range(len(c.ins))]
        # Sources of level 0 hold a band; those of coarser levels a whole map.
        self.sources = []
        for level in range(c.levels):
            channels = c.before(level) * (level < len(c.outs)) + c.in_at(level)
            size = c.plane(level) if level or c.padding else c.band * c.pitch(level)
            source = self.program.buffer(channels, size, c.pitch(level))
            if c.padding:
                self.program.zero(source, channels, source.stride)
            else:
                count = c.count(level) if level else c.band * c.pitch(0)
                self.program.zero(source.at(0, count), channels, self.program.lanes)
            self.sources.append(source)

    def pooled(self, level):
        """Where the finer inputs, pooled, are at `level`."""
        return self.sources[level]

    def own(self, level):
        """Where input `level` itself is: after the pooled ones."""
        c = self.c
        return self.sources[level].at(channel=c.before(level) * (level < len(c.outs)))

    def places(self, counts):
        """For each level a block of `counts[level]` channels, which holds results until they are written to memory."""
        c, program = self.c, self.program
        most = [max((n for _, n in program.blocks(count)), default=0) for count in counts]
        return [program.buffer(n, (c.band_at(j) + 1) * c.pitch(j), c.pitch(j)) for j, n in enumerate(most)]

    def inside(self, region):
        """From a plane's zero border to its first pixel."""
        return region.at(self.c.padding, self.c.padding)

    def offsets(self, region, channels):
        """Table entries (tap, channel) of a zero-bordered source."""
        k = self.c.kernel_size
        return [i * region.stride + y * region.pitch + x for y in range(k) for x in range(k) for i in range(channels)]

    def offsets_by_channel(self, region, channels):
        """The same as (channel, tap), as in a weight: the taps of a channel read what is in the nearest cache."""
        k = self.c.kernel_size
        return [i * region.stride + y * region.pitch + x for i in range(channels) for y in range(k) for x in range(k)]

    def offsets_transposed(self, region, channels, base):
        """Table entries (tap, channel) of a gradient that is correlated back, relative to the first pixel of `base`."""
        k, p = self.c.kernel_size, self.c.padding
        start = self.inside(region).start - self.inside(base).start
        return [
            start + o * region.stride + (p - y) * region.pitch + p - x
            for y in range(k) for x in range(k) for o in range(channels)
        ]  # fmt: skip

    def load(self, level, row, rows, sums=1):
        """Activate (and average) rows of input `level` into its place."""
        c, program = self.c, self.program
        target = self.inside(self.own(level))
        channels, cols = c.ins[level], c.size(level)[1]
        x, coef = self.inputs[level], self.coefs[level]
        if c.pool:
            program.step(ACTIVATE_AVERAGE, channels, rows, cols, x.at(2 * row), target, coef=coef, sums=sums)
        else:
            program.contiguous(ACTIVATE, channels, rows, cols, x.at(row), target, coef=coef, sums=sums, a=1)

    def pool(self, i, row, rows):
        """Max-pool loaded rows of input i into the sources of every coarser output."""
        c = self.c
        for level in range(i + 1, len(c.outs)):
            if c.outs[level]:
                target = self.inside(self.pooled(level).at(channel=c.before(i))).at(row >> (level - i))
                source = self.inside(self.own(i))
                cols = c.size(level)[1]
                self.program.step(
                    MAX_POOL, c.ins[i], rows >> (level - i), cols, source, target, a=1 << (level - i)
                )


@functools.lru_cache(maxsize=256)
def forward(c: Octave, moments: tuple[bool, ...], activation_sums: tuple[bool, ...]):
    """The program of the forward pass: tensors x, coef, activation_sums (C) by input; out, moments (3, O) by output."""
    b = _Builder(c)
    program = b.program
    outputs = [program.map(f"out{j}", n, *c.size(j)) for j, n in enumerate(c.outs)]
    summed = [program.tensor(f"activation_sums{i}", n) if activation_sums[i] else 1 for i, n in enumerate(c.ins)]
    upward = {}  # level -> products of that level's input for all finer outputs
    for level in range(c.levels - 1, 0, -1):
        if not c.in_at(level):
            continue
        b.load(level, 0, c.size(level)[0], summed[level])
        rows = sum(c.outs[:level])
        if rows:
            upward[level] = program.buffer(rows, c.size(level)[0] * c.pitch(level), c.pitch(level))
            weights = [(slice(0, rows), slice(c.before(level), c.before(level) + c.ins[level]), b.taps, False)]
            own = b.own(level)
            program.multiply(upward[level], rows, own, b.offsets(own, c.ins[level]), weights, c.count(level))
    places = b.places(c.outs)

    def write(level, row, rows, source):
        """`rows` rows of output `level`: multiply `source`, add what comes up from coarser levels, write and sum up."""
        place = places[level]
        outs, cols = c.outs[level], c.size(level)[1]
        depth = c.before(level) + c.in_at(level)
        count = c.count(level) if c.padding else rows * cols
        offsets = b.offsets(source, depth)
        to = program.tensor(f"moments{level}", 3 * outs) if moments[level] else 1
        for o, n in program.blocks(outs):
            first = sum(c.outs[:level]) + o
            weights = [(slice(first, first + n), slice(0, depth), b.taps, False)]
            program.multiply(place, n, source, offsets, weights, count)
            for coarse, products in upward.items():
                if coarse > level:
                    height, width = c.size(coarse)
                    program.step(
                        UPSAMPLE_ADD, n, rows, width, products.at(channel=first), place,
                        a=1 << (coarse - level), b=height, c=row, d=-1,
                    )  # fmt: skip
            target = outputs[level].at(row, channel=o)
            program.contiguous(WRITE, n, rows, cols, place, target, sums=to, a=moments[level], b=row == 0, c=o, d=outs)

    for row, rows in bands(c.height, c.band):
        if c.in_at(0):
            b.load(0, row, rows, summed[0])
            b.pool(0, row, rows)
        if c.out_at(0):
            write(0, row, rows, b.sources[0])
    for level in range(1, len(c.outs)):
        height = c.size(level)[0]
        if c.in_at(level):
            b.pool(level, 0, height)
        if c.outs[level]:
            for row, rows in bands(height, c.band_at(level)):
                write(level, row, rows, b.sources[level].at(row))
    return program.finish()


class _Backward(_Builder):
    """The steps of the backward pass; see `backward` for what it is given.

    deltas: by output, its zero-bordered gradient. downward: by level, the gradients of the products that went up from
    it. pooled_grads: by level, the gradients of the pooled finer inputs.
    """

    def __init__(self, c, need_weight, need, accumulate, gradient_sums):
        super().__init__(c)
        self.need_weight, self.need = need_weight, need
        self.accumulate, self.gradient_sums = accumulate, gradient_sums
        program = self.program
        self.grads, self.raws = (
            [program.map(f"{n}{j}", m, *c.size(j)) for j, m in enumerate(c.outs)] for n in "gz"
        )
        self.dcoefs = [program.tensor(f"dcoef{j}", 0) for j in range(len(c.outs))]
        self.scale = 2 if c.pool else 1
        self.gxs = [
            program.map(f"gx{i}", n, self.scale * (c.height >> i), self.scale * (c.width >> i)) if need[i] else None
            for i, n in enumerate(c.ins)
        ]
        self.deltas = [self._delta(level) for level in range(len(c.outs))]
        self.downward, self.pooled_grads = {}, {}
        for level in range(1, len(c.ins)):
            rows = sum(c.outs[:level])
            if c.ins[level] and rows:
                self.downward[level] = program.buffer(rows, c.plane(level), c.pitch(level))
                program.zero(self.downward[level], rows, self.downward[level].stride, once=False)
        self.own_places = self.places([n * wanted for n, wanted in zip(c.ins, need, strict=True)])

    def _delta(self, level):
        """A buffer for the gradient of an output; at level 0 only a band, unless the kernel looks at neighbours."""
        c, program = self.c, self.program
        whole = level or c.padding
        delta = program.buffer(c.outs[level], c.plane(level) if whole else c.band * c.width, c.pitch(level))
        if c.padding:
            program.zero(delta, c.outs[level], delta.stride)
        else:
            program.zero(delta.at(0, c.count(level) if level else c.band * c.width), c.outs[level], program.lanes)
        return delta

    def differentiate(self, level, row, rows):
        """Rows of the gradient of output `level`, and the part of it that goes down to the coarser inputs."""
        c, program = self.c, self.program
        outs, cols = c.outs[level], c.size(level)[1]
        for o, n in program.blocks(outs):
            g, z = (maps[level].at(row, channel=o) for maps in (self.grads, self.raws))
            target = self.inside(self.deltas[level].at(channel=o))
            program.contiguous(DIFFERENTIATE, n, rows, cols, g, target, z, coef=self.dcoefs[level], c=o, d=outs)
            if not level and rows < c.band:  # a shorter last band would leave old values behind its end
                program.zero(target.at(0, rows * cols), n, program.lanes, once=False)
            for coarse, products in self.downward.items():
                if coarse > level:
                    height, width = c.size(coarse)
                    place = self.inside(products.at(channel=sum(c.outs[:level]) + o))
                    program.step(
                        UPSAMPLE_BACKWARD, n, rows, width, target, place, a=1 << (coarse - level), b=height, c=row
                    )  # fmt: skip

    def multiply_for_pooled(self, level):
        """The gradients of the pooled finer inputs from output `level`."""
        c = self.c
        finer, first = sum(c.ins[:level]), sum(c.outs[:level])
        if finer and any(self.need[:level]):
            pooled = self.program.buffer(finer, c.size(level)[0] * c.pitch(level), c.pitch(level))
            delta, outs = self.deltas[level], c.outs[level]
            offsets = self.offsets_transposed(delta, outs, delta)
            weights = [(slice(first, first + outs), slice(0, finer), self.taps, True)]
            self.program.multiply(pooled, finer, self.inside(delta), offsets, weights, c.count(level))
            self.pooled_grads[level] = pooled

    def correlate(self, level, count):
        """Weight gradients of output `level` for all sources at its level."""
        c, source = self.c, self.sources[level]
        if self.need_weight and c.out_at(level):
            offsets = self.offsets_by_channel(source, c.before(level) + c.in_at(level))
            delta = self.inside(self.deltas[level])
            self.program.correlate(("same", level), c.outs[level], delta, source, offsets, count)

    def correlate_upward(self, level):
        """Weight gradients of all finer outputs for input `level`."""
        c = self.c
        if self.need_weight and level in self.downward:
            own, delta = self.own(level), self.inside(self.downward[level])
            offsets = self.offsets_by_channel(own, c.ins[level])
            self.program.correlate(("up", level), sum(c.outs[:level]), delta, own, offsets, c.count(level))

    def _products(self, level, columns):
        """Table entries and weights of the products that make the gradient of some channels of input `level`."""
        c = self.c
        above = sum(c.outs[:level])
        base = self.deltas[level] if level < len(c.outs) else self.downward.get(level)
        offsets, weights = [], []
        if c.out_at(level):
            offsets += self.offsets_transposed(base, c.outs[level], base)
            weights.append((slice(above, above + c.outs[level]), columns, self.taps, True))
        if level in self.downward:
            offsets += self.offsets_transposed(self.downward[level], above, base)
            weights.append((slice(0, above), columns, self.taps, True))
        return base or self.sources[level], offsets, weights

    def write(self, level, row, rows):
        """Rows of the gradient of input `level`."""
        c, program = self.c, self.program
        channels, cols = c.ins[level], c.size(level)[1]
        count = c.count(level) if c.padding else rows * cols
        at = row if level else 0  # at level 0, scratch holds a band
        place, want = self.own_places[level], self.gradient_sums[level]
        to = program.tensor(f"gradient_sums{level}", 3 * channels) if want else 1
        for i, n in program.blocks(channels):
            first = c.before(level) + i
            base, offsets, weights = self._products(level, slice(first, first + n))
            program.multiply(place, n, self.inside(base).at(at), offsets, weights, count)
            own = self.inside(self.own(level).at(at, channel=i))
            for coarse, pooled in self.pooled_grads.items():
                if coarse > level:
                    shift = coarse - level
                    program.step(
                        MAX_POOL_BACKWARD, n, rows >> shift, c.size(coarse)[1], own, place,
                        pooled.at(row >> shift, channel=first), a=1 << shift,
                    )  # fmt: skip
            target, raw = (m[level].at(self.scale * row, channel=i) for m in (self.gxs, self.inputs))
            more = {
                "coef": self.coefs[level], "sums": to, "a": self.accumulate[level], "b": want, "c": i, "d": channels,
            }  # fmt: skip
            if c.pool:
                program.step(WRITE_GRADIENT_OF_AVERAGE, n, rows, cols, place, target, raw, **more)
            else:
                program.contiguous(WRITE_GRADIENT, n, rows, cols, place, target, raw, **more)


@functools.lru_cache(maxsize=256)
def backward(
    c: Octave, need_weight: bool, need: tuple[bool, ...], accumulate: tuple[bool, ...], gradient_sums: tuple[bool, ...]
):
    """The program of the backward pass.

    Tensors g, z, dcoef by output (the deferred gradient), x, coef, gx, gradient_sums (3, C) by input; partial weight
    gradients: ("same", l) of output l for the sources at its level, ("up", l) of all finer outputs for input l.
    """
    b = _Backward(c, need_weight, need, accumulate, gradient_sums)
    for level in range(1, len(c.outs)):
        if c.outs[level]:
            b.differentiate(level, 0, c.size(level)[0])
            b.multiply_for_pooled(level)
    for row, rows in bands(c.height, c.band):
        if c.outs[0]:
            b.differentiate(0, row, rows)
        if c.in_at(0):
            b.load(0, row, rows)
            b.pool(0, row, rows)
        b.correlate(0, c.count(0) if c.padding else rows * c.width)
        if c.ins[0] and need[0]:
            b.write(0, row, rows)
    for level in range(1, c.levels):
        height = c.size(level)[0]
        if c.in_at(level):
            b.load(level, 0, height)
            b.pool(level, 0, height)
        b.correlate(level, c.count(level))
        if level < len(c.ins):
            b.correlate_upward(level)
            if c.ins[level] and need[level]:
                for row, rows in bands(height, c.band_at(level)):
                    b.write(level, row, rows)
    return b.program.finish()
