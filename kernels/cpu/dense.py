"""Dense convolutions over one scale: conv2d with stride, padding and dilation, and parallel dilated convolutions.

The source is kept in scratch as zero-bordered planes, so that a tap of the kernel is a shift. With stride s the pixels
of the source are dealt out to s*s planes by the remainders of their row and column; each tap then reads one plane with
a plain shift, and no product is wasted. Rows are `pitch` apart; the zeros between two rows are the right border of one
and the left border of the next.
"""

import dataclasses
import functools

from .operations import ACTIVATE, DIFFERENTIATE, FILL, GRADIENT_SUMS, TRANSFER, WRITE, WRITE_GRADIENT
from .programs import Program
from .regions import NOWHERE

BAND_BYTES = 640 << 10  # the scratch that a band of rows may fill and still stay in a core's level-2 cache


def band_rows(height, bytes_per_row, multiple=1):
    """Rows per band that keep a band's scratch in the cache: a multiple of `multiple`, at most `height`."""
    rows = max(BAND_BYTES // max(bytes_per_row, 1), 1)
    return min(max(rows // multiple, 1) * multiple, height)


def bands(height, rows):
    """[(first row, rows)] that cover `height`."""
    return [(r, min(rows, height - r)) for r in range(0, height, rows)]


@dataclasses.dataclass(frozen=True)
class Tap:
    """One kernel element of one group: which plane of the source it reads, and by how much it shifts."""

    number: int
    plane: tuple[int, int]
    row: int
    col: int


class Geometry:
    """Planes, shifts and borders of convolutions that share a source; `groups` are (dilation, padding) pairs."""

    def __init__(self, height, width, kernel_size, stride, groups):
        kh, kw = kernel_size
        self.height, self.width, self.stride = height, width, stride
        self.padding = pad = max(p for _, p in groups)
        d, p = groups[0]
        self.out_height = (height + 2 * p - d * (kh - 1) - 1) // stride + 1
        self.out_width = (width + 2 * p - d * (kw - 1) - 1) // stride + 1
        self.taps = []
        for dilation, own in groups:
            taps = []
            for ty in range(kh):
                for tx in range(kw):
                    y, x = pad - own + ty * dilation, pad - own + tx * dilation
                    # Where the dilation exceeds the map, a tap may see only the border.
                    sees = y - pad < height and y - pad + stride * (self.out_height - 1) >= 0
                    sees = sees and x - pad < width and x - pad + stride * (self.out_width - 1) >= 0
                    if sees:
                        tap = Tap(ty * kw + tx, (y % stride, x % stride), y // stride, x // stride)
                        taps.append(tap)
            self.taps.append(taps)
        self.planes = []  # (plane, first row and column of the map in it, the same inside the plane, rows, cols)
        for py in range(stride):
            for px in range(stride):
                y, x = (py - pad) % stride, (px - pad) % stride
                rows, cols = max(-(-(height - y) // stride), 0), max(-(-(width - x) // stride), 0)
                self.planes.append(((py, px), y, x, (y + pad) // stride, (x + pad) // stride, rows, cols))
        reads = [(t, p) for taps in self.taps for t in taps for p in self.planes if p[0] == t.plane and p[5] and p[6]]
        self.top = max([t.row - p[3] for t, p in reads] + [0])
        self.left = max([t.col - p[4] for t, p in reads] + [0])
        bottom = max([p[3] + p[5] - t.row for t, p in reads] + [self.out_height])
        right = max([p[4] + p[6] - t.col for t, p in reads] + [self.out_width])
        own_width = width + pad if stride == 1 else -(-(width + 2 * pad) // stride)
        self.pitch = max(own_width, right, self.out_width + self.left)
        self.plane_size = -(-(height + 2 * pad) // stride) * self.pitch + pad
        self.source_size = stride * stride * self.plane_size
        self.gradient_size = (self.top + bottom) * self.pitch + self.left
        self.count = (self.out_height - 1) * self.pitch + self.out_width
        # Only 1x1: planes are the map itself, results need no scratch, and bands of rows need no neighbours.
        self.pointwise = kh == kw == stride == 1 and pad == 0

    def plane_start(self, plane):
        return (plane[0] * self.stride + plane[1]) * self.plane_size

    def offset(self, tap):
        """Where in the source a tap begins, for output pixel (0, 0)."""
        return self.plane_start(tap.plane) + tap.row * self.pitch + tap.col


@dataclasses.dataclass(frozen=True)
class Convolution:
    """Everything that a program depends on; `groups` are (first output channel, end, dilation, padding)."""

    itemsize: int
    channels: int
    height: int
    width: int
    out_channels: int
    kernel_size: tuple[int, int]
    stride: int
    groups: tuple
    bias: bool

    @property
    def geometry(self):
        dilations = [(d, p) for _, _, d, p in self.groups]
        return Geometry(self.height, self.width, self.kernel_size, self.stride, dilations)


def _load(program, geometry, x, channels, y, row, rows, coef, sums):
    """Activate rows of the map x into the planes of y."""
    if geometry.pointwise:
        program.contiguous(ACTIVATE, channels, rows, geometry.width, x.at(row), y, coef=coef, sums=sums, a=1)
        return
    for plane, first_row, first_col, to_row, to_col, n_rows, n_cols in geometry.planes:
        source = x.at(first_row, first_col).every(geometry.stride)
        target = y.at(to_row, to_col + geometry.plane_start(plane))
        program.step(ACTIVATE, channels, n_rows, n_cols, source, target, coef=coef, sums=sums, a=geometry.stride)


@functools.lru_cache(maxsize=256)
def forward(c: Convolution, moments: bool, activation_sums: bool):
    """The program of the forward pass: tensors x, coef, out, moments (3, O), activation_sums (C)."""
    g = c.geometry
    program = Program(c.itemsize)
    x = program.map("x", c.channels, c.height, c.width)
    out = program.map("out", c.out_channels, g.out_height, g.out_width)
    coef = program.tensor("coef", 0)
    summed = program.tensor("activation_sums", c.channels) if activation_sums else 1
    row_bytes = (c.channels + c.out_channels) * g.pitch * c.itemsize
    height = band_rows(g.out_height, row_bytes) if g.pointwise else g.out_height
    source = program.buffer(c.channels, height * g.pitch if g.pointwise else g.source_size, g.pitch)
    ones = _ones(program, c, g)
    if not g.pointwise:
        program.zero(source, c.channels, source.stride)
    result = program.buffer(c.out_channels, height * g.pitch, g.pitch)
    for row, rows in bands(g.out_height, height):
        _load(program, g, x, c.channels, source, row, rows, coef, summed)
        count = rows * g.width if g.pointwise else g.count
        for (first, end, _, _), taps in zip(c.groups, g.taps, strict=True):
            offsets = [i * source.stride + g.offset(t) for t in taps for i in range(c.channels)]
            weights = [(slice(first, end), slice(None), [t.number for t in taps], False)]
            if c.bias:
                offsets.append(ones.start - source.start)
                weights.append((slice(first, end), "bias", None, False))
            program.multiply(result.at(channel=first), end - first, source, offsets, weights, count)
        to = program.tensor("moments", 3 * c.out_channels) if moments else 1
        program.contiguous(
            WRITE, c.out_channels, rows, g.out_width, result, out.at(row), sums=to, a=moments, b=row == 0,
            d=c.out_channels,
        )  # fmt: skip
    return program.finish()


def _ones(program, c, g):
    """Put a row of ones in scratch: the bias is the weight of a channel that is 1 everywhere."""
    if not c.bias:
        return None
    ones = program.buffer(1, g.count, g.pitch)
    program.step(FILL, 1, 1, ones.stride, y=ones, a=1, once=True)
    return ones


@functools.lru_cache(maxsize=256)
def backward(c: Convolution, need_x: bool, need_weight: bool, accumulate: bool, gradient_sums: bool):
    """The program of the backward pass.

    Tensors g, z, dcoef (the deferred gradient), x, coef (the input), gx, gradient_sums (3, C); partial weight
    gradients by group.
    """
    g = c.geometry
    program = Program(c.itemsize)
    x = program.map("x", c.channels, c.height, c.width)
    grad = program.map("g", c.out_channels, g.out_height, g.out_width)
    raw = program.map("z", c.out_channels, g.out_height, g.out_width)
    coef, dcoef = program.tensor("coef", 0), program.tensor("dcoef", 0)
    gx = program.map("gx", c.channels, c.height, c.width) if need_x else None
    row_bytes = (2 * c.channels + c.out_channels) * g.pitch * c.itemsize
    height = band_rows(g.out_height, row_bytes) if g.pointwise else g.out_height
    delta = program.buffer(c.out_channels, height * g.pitch if g.pointwise else g.gradient_size, g.pitch)
    program.zero(delta, c.out_channels, delta.stride)
    source = program.buffer(c.channels, height * g.pitch if g.pointwise else g.source_size, g.pitch)
    if need_weight:
        program.zero(source, c.channels, source.stride)
    ones = _ones(program, c, g) if need_weight else None
    origin = delta if g.pointwise else delta.at(g.top, g.left)
    to = program.tensor("gradient_sums", 3 * c.channels) if gradient_sums else 1
    if need_x:
        result = program.buffer(c.channels, height * g.pitch if g.pointwise else g.plane_size, g.pitch)
    for row, rows in bands(g.out_height, height):
        program.contiguous(
            DIFFERENTIATE, c.out_channels, rows, g.out_width, grad.at(row), origin, raw.at(row), coef=dcoef,
            d=c.out_channels,
        )
        count = rows * g.width if g.pointwise else g.count
        if g.pointwise and rows < height:  # a shorter last band would leave old values behind its end
            program.zero(origin.at(0, count), c.out_channels, program.lanes, once=False)
        if need_weight:
            _load(program, g, x, c.channels, source, row, rows, coef, 1)
            for k, ((first, end, _, _), taps) in enumerate(zip(c.groups, g.taps, strict=True)):
                offsets = [i * source.stride + g.offset(t) for i in range(c.channels) for t in taps]
                if c.bias:
                    offsets.append(ones.start - source.start)
                program.correlate(k, end - first, origin.at(channel=first), source, offsets, count)
        if not need_x:
            continue
        for plane, first_row, first_col, at_row, at_col, n_rows, n_cols in g.planes:
            if not (n_rows and n_cols):
                continue
            offsets, weights = [], []
            for (first, end, _, _), taps in zip(c.groups, g.taps, strict=True):
                mine = [t for t in taps if t.plane == plane]
                offsets += [o * delta.stride - t.row * g.pitch - t.col for t in mine for o in range(first, end)]
                weights.append((slice(first, end), slice(None), [t.number for t in mine], True))
            target = gx.at(row + first_row, first_col).every(c.stride)
            count = rows * g.width if g.pointwise else (n_rows - 1) * g.pitch + n_cols
            program.multiply(result, c.channels, origin.at(at_row, at_col), offsets, weights, count)
            n_rows = rows if g.pointwise else n_rows
            if c.stride > 1:
                program.step(TRANSFER, c.channels, n_rows, n_cols, result, target, a=c.stride, b=accumulate)
                continue
            program.contiguous(
                WRITE_GRADIENT, c.channels, n_rows, n_cols, result, target, x.at(row + first_row, first_col), coef=coef,
                sums=to, a=accumulate, b=gradient_sums, d=c.channels,
            )  # fmt: skip
        if gradient_sums and c.stride > 1:
            program.contiguous(
                GRADIENT_SUMS, c.channels, c.height, c.width, gx, NOWHERE, x, coef=coef, sums=to
            )
    return program.finish()

