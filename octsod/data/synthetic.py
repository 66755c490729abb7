"""The embedded data set: procedural pictures with one salient object each, drawn from a seed on demand.

A picture shows what a network needs to have seen before it meets photographs: a background of one texture, or of two
that meet at a horizon, unevenly lit and sometimes out of focus; patches and small things that are not the object; and
one object of a family (its category), textured, shaded, sometimes of two colours, larger than anything else. It differs
from what is behind it in colour, brightness or texture. Its mask has soft edges. No file is read.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from ..checks import require_integer
from .datasets import Sample

CATEGORIES = ("ellipse", "polygon", "star", "blob", "ring", "bar", "flower", "vessel", "creature", "tree")
SMOOTH = 3  # shapes are drawn this much larger, then averaged down


class SyntheticDataset:
    """`count` pictures of size x size pixels; `dataset[i]` draws the i-th as a `data.Sample`, always the same one.

    category(i) is the family of its object, an index into `CATEGORIES`. Pictures are kept once drawn.
    """

    def __init__(self, count: int = 1000, size: int = 240, seed: int = 0):
        self.count = require_integer(count, "SyntheticDataset", "count", 1)
        self.size = require_integer(size, "SyntheticDataset", "size", 16)
        self.seed = require_integer(seed, "SyntheticDataset", "seed", 0)
        self._drawn: dict[int, Sample] = {}

    def __len__(self) -> int:
        return self.count

    def category(self, index: int) -> int:
        return index % len(CATEGORIES)

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        if index not in self._drawn:
            self._drawn[index] = self._draw(index)
        return self._drawn[index]

    def _draw(self, index):
        rng, size, family = np.random.default_rng((self.seed, 1 + index)), self.size, CATEGORIES[self.category(index)]
        picture, colours = _background(rng, size)
        radius = rng.uniform(0.2, 0.52)
        mask = _shape(rng, family, size, radius, rng.normal(0.5, 0.1, 2))
        if rng.random() < 0.4:  # its shadow
            shift = rng.integers(-size // 16, size // 16 + 1, 2)
            picture *= 1 - rng.uniform(0.2, 0.6) * _blurred(np.roll(mask, shift, (0, 1)), 0.02 * size)
        _cover(picture, mask, _surface(rng, mask, _apart(rng, colours)))
        if rng.random() < 0.3:  # a smaller one beside it
            beside = _shape(rng, family, size, radius * rng.uniform(0.4, 0.7), rng.uniform(0.2, 0.8, 2))
            _cover(picture, beside, _surface(rng, beside, _apart(rng, colours)))
            mask = np.maximum(mask, beside)
        grey = picture.mean(axis=0)
        picture = grey + rng.uniform(0.3, 1.1) * (picture - grey)  # few things are as bright as paint
        picture += rng.uniform(0, 6) * rng.standard_normal(picture.shape, np.float32)
        picture = np.ascontiguousarray(picture.transpose(1, 2, 0))
        return Sample(f"synthetic-{index:05d}", _to_bytes(picture), _to_bytes(255 * mask))


# While being drawn, a picture is a float32 array (3, size, size) from 0 to 255, and a colour an array (3, 1, 1).


def _to_bytes(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _normal(rng, spread, *shape):
    return rng.standard_normal(shape, np.float32) * np.float32(spread)


def _cover(picture, mask, surface):
    """Put `surface`, a colour or a picture, where the mask is."""
    picture += mask * (surface - picture)


def _background(rng, size):
    """A picture without an object, and the colours (K, 3, 1, 1) it is made of."""
    colours = [_colour(rng)]
    picture = colours[0] + _texture(rng, size, rng.gamma(2, 15))
    if rng.random() < 0.55:  # another texture beyond a horizon, or a wall's edge
        other = _colour(rng) if rng.random() < 0.5 else np.clip(colours[0] + _normal(rng, 40, 3, 1, 1), 0, 255)
        y, x = _grid(size)
        slope = rng.normal(0, 0.15) if rng.random() < 0.8 else rng.normal(0, 3)
        line = y - rng.uniform(0.2, 0.8) - slope * (x - 0.5) + 0.1 * rng.random() * _noise(rng, size, 3)
        share = 1 / (1 + np.exp(-np.clip(line / float(rng.choice([0.005, 0.02, 0.1])), -50, 50)))
        _cover(picture, share, other + _texture(rng, size, rng.gamma(2, 15)))
        colours.append(other)
    if rng.random() < 0.8:
        picture += _leaves(rng, size, rng.uniform(10, 65))
    picture *= 1 + rng.uniform(0, 0.4) * _noise(rng, size, 1)  # uneven light
    if rng.random() < 0.5:  # out of focus
        radius = rng.uniform(0.3, 2.5) * size / 112
        picture = np.stack([_blurred(channel, radius) for channel in picture])
    return picture, np.stack(colours)


def _grid(size):
    """The coordinates y (size, 1) and x (1, size) of the pixels, from 0 to 1."""
    line = np.linspace(0, 1, size, dtype=np.float32)
    return line[:, None], line[None]


def _colour(rng):
    """Mostly dull, like the world: a grey of any brightness with a tint."""
    return np.clip(rng.uniform(20, 235) + _normal(rng, rng.choice([8, 20, 45]), 3, 1, 1), 0, 255)


def _apart(rng, colours):
    """A colour clearly different from all of `colours`, but mostly not far from one."""
    least, spread = rng.uniform(35, 105), rng.uniform(30, 90)
    while True:
        near = colours[rng.integers(len(colours))]
        colour = np.clip(near + _normal(rng, spread, 1, 1, 1) + _normal(rng, spread, 3, 1, 1), 0, 255)
        if np.linalg.norm(colours - colour, axis=1).min() > least:
            return colour
        least *= 0.97  # a bright grey and a dark one leave little room


def _leaves(rng, size, spread):
    """Overlapping polygons, to be added to a picture: `spread` is the standard deviation of their colours.

    Dead leaves, whose statistics are much like those of photographs (Lee, Mumford and Huang, "Occlusion models for
    natural images", 2001): the density of radii falls with the third power of the radius.
    """
    count, corners = rng.integers(3, 50), rng.integers(4, 10)
    radii = 1 / np.sqrt(rng.uniform(0.5**-2, 0.04**-2, count))
    angles = np.sort(rng.uniform(0, 2 * math.pi, (count, corners)), axis=1)
    y, x = radii[:, None] * np.sin(angles), radii[:, None] * np.cos(angles) * rng.uniform(0.3, 1, (count, 1))
    turn = rng.uniform(0, math.pi, (count, 1))
    points = np.stack([x * np.cos(turn) - y * np.sin(turn), x * np.sin(turn) + y * np.cos(turn)], 2)
    points = 2 * size * (points + rng.uniform(0, 1, (count, 1, 2)))
    fills = _to_bytes(128 + _normal(rng, spread, count, 1) + _normal(rng, 0.4 * spread, count, 3))
    canvas = Image.new("RGB", (2 * size, 2 * size), (128, 128, 128))
    draw = ImageDraw.Draw(canvas)
    for outline, fill in zip(points.reshape(count, -1).tolist(), fills.tolist(), strict=True):
        draw.polygon(outline, fill=tuple(fill))
    return np.asarray(canvas.reduce(2), np.float32).transpose(2, 0, 1) - 128


def _surface(rng, mask, colour):
    """The look of an object: a colour, a texture, parts, a pattern, light from one side."""
    size = len(mask)
    surface = colour + _texture(rng, size, rng.gamma(2, 15))
    y, x = _grid(size)
    kind = rng.random()
    if kind < 0.45:
        second = np.clip(colour + _normal(rng, 60, 3, 1, 1), 0, 255)
        turn, waves = rng.uniform(0, math.pi), rng.uniform(2, 14)
        if kind < 0.15:  # stripes
            pattern = np.sin(2 * math.pi * waves * (x * math.cos(turn) + y * math.sin(turn))) > rng.uniform(-0.5, 0.5)
        elif kind < 0.3:  # spots
            pattern = _noise(rng, size, rng.integers(2, 5)) > rng.uniform(0, 0.8)
        else:  # two parts
            cos, sin = math.cos(turn), math.sin(turn)
            pattern = x * cos + y * sin > rng.uniform(0.2, 0.8) * (cos + sin)
        _cover(surface, pattern.astype(np.float32), second)
    if rng.random() < 0.7:
        surface += _leaves(rng, size, rng.uniform(10, 65))
    light = rng.uniform(-70, 70, 2).tolist()
    rows, cols = (np.flatnonzero(mask.max(axis=axis) > 0.5) / size for axis in (1, 0))
    if rows.size:
        across = max(np.ptp(rows), np.ptp(cols), 0.01)
        surface += (y - rows.mean()) * (light[0] / across) + (x - cols.mean()) * (light[1] / across)
    return surface


def _enlarged(grey, size):
    """(h, w) -> (size, size), bicubic."""
    return np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC))


def _noise(rng, size, octave):
    """Smooth noise (size, size), about -1 to 1, with 2**octave bumps along a side."""
    cells = (1 << int(octave)) + 2
    return _enlarged(_normal(rng, 0.5, cells, cells), size)


def _texture(rng, size, strength):
    """Noise of several octaves, (3, size, size) about 0: coarse or fine, grey or coloured, sometimes stretched."""
    total = np.zeros((3, size, size), np.float32)
    fall = rng.uniform(-0.5, 0.9)  # how much weaker each finer octave is
    stretch = rng.choice([1, 1, 1, 3, 8])
    upright = rng.random() < 0.5
    for octave in range(1, 7):
        cells = [max((1 << octave) // stretch, 1) + 1, (1 << octave) + 1]
        layer = _enlarged(_normal(rng, 1, *(cells if upright else cells[::-1])), size)
        total += (1 + _normal(rng, rng.choice([0.05, 0.3]), 3, 1, 1)) * np.float32(2 ** (-fall * octave)) * layer
    return total * (strength / max(total.std(), 1e-9))


def _blurred(values, radius):
    """Values (H, W), blurred."""
    low, span = values.min(), max(np.ptp(values), 1e-9)
    image = Image.fromarray(_to_bytes((values - low) * (255 / span))).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, np.float32) * (span / 255) + low


def _shape(rng, family, size, radius, centre):
    """The mask (size, size) in [0, 1] of a random shape; radius and centre are fractions of the size."""
    big = SMOOTH * size
    canvas = Image.new("L", (big, big))
    draw = ImageDraw.Draw(canvas)
    turn = rng.uniform(0, 2 * math.pi)
    if family in ("vessel", "creature", "tree"):
        turn = rng.normal(0, 0.35)  # they mostly stand upright
    where = _Placing(big, radius, centre, turn, rng.uniform(0.65, 1) if family != "bar" else 1, rng.random() < 0.5)
    if family in ("creature", "tree"):
        (_creature if family == "creature" else _tree)(rng, draw, where)
    else:
        draw.polygon(where(*_outline(rng, family)), fill=255)
    if family == "ring":
        inner = rng.uniform(0.35, 0.65)
        angles = np.linspace(0, 2 * math.pi, 64, endpoint=False)
        draw.polygon(where(inner * np.cos(angles), inner * np.sin(angles)), fill=0)
    canvas = canvas.reduce(SMOOTH).filter(ImageFilter.BoxBlur(rng.uniform(0, 1)))
    return np.asarray(canvas, np.float32) / 255


class _Placing:
    """Maps a shape's own coordinates, about -1 to 1, y downwards, to points on a canvas."""

    def __init__(self, big, radius, centre, turn, flat, mirrored):
        self.scale, self.flat, self.mirrored = radius * big, flat, mirrored
        self.centre, self.turn = np.asarray(centre) * big, turn

    def __call__(self, x, y):
        x, y = np.asarray(x) * (-self.flat if self.mirrored else self.flat), np.asarray(y)
        cos, sin = math.cos(self.turn), math.sin(self.turn)
        points = np.stack([x * cos - y * sin, x * sin + y * cos], 1) * self.scale + self.centre
        return [tuple(p) for p in points]


def _ellipse(x, y, a, b):
    angles = np.linspace(0, 2 * math.pi, 48, endpoint=False)
    return x + a * np.cos(angles), y + b * np.sin(angles)


def _outline(rng, family):
    """The outline of a shape that is one polygon, as arrays x and y."""
    count = {"polygon": int(rng.integers(3, 7)), "star": 2 * int(rng.integers(4, 8)), "bar": 4}.get(family, 96)
    angles = np.arange(count) * 2 * math.pi / count
    radii = np.ones(count)
    if family == "polygon":
        angles = angles + rng.uniform(-0.3, 0.3, count)
        radii = rng.uniform(0.75, 1.1, count)
    elif family == "star":
        radii[1::2] = rng.uniform(0.4, 0.6)
    elif family == "blob":
        for wave in range(2, 6):
            radii += rng.normal(0, 0.22 / wave) * np.sin(wave * angles + rng.uniform(0, 6.3))
    elif family == "flower":
        radii += rng.uniform(0.15, 0.35) * np.cos(rng.integers(4, 9) * angles)
    elif family == "vessel":  # a profile, mirrored
        heights = np.linspace(-1, 1, 24)
        knots = rng.uniform(0.15, 0.6, 5)
        half = np.interp(heights, np.linspace(-1, 1, 5), knots)
        return np.concatenate([half, -half[::-1]]), np.concatenate([heights, heights[::-1]])
    flat = rng.uniform(0.15, 0.4) if family == "bar" else 1
    shift = math.pi / 4 if family == "bar" else 0
    return radii * np.cos(angles + shift), flat * radii * np.sin(angles + shift)


def _creature(rng, draw, where):
    """A body, a head, legs and often a tail."""
    draw.polygon(where(*_ellipse(0, 0, 0.62, rng.uniform(0.25, 0.4))), fill=255)
    x, y = rng.uniform(0.5, 0.75), rng.uniform(-0.55, -0.1)
    draw.polygon(where([0.3, 0.55, x, x - 0.2], [-0.2, 0.1, y, y]), fill=255)
    draw.polygon(where(*_ellipse(x, y, rng.uniform(0.18, 0.3), rng.uniform(0.14, 0.24))), fill=255)
    low = rng.uniform(0.55, 0.95)
    for leg in (-0.5, -0.32, 0.25, 0.45):
        shift, wide = rng.normal(0, 0.08), rng.uniform(0.04, 0.09)
        foot = leg + shift
        draw.polygon(where([leg - wide, leg + wide, foot + wide, foot - wide], [0, 0, low, low]), fill=255)
    if rng.random() < 0.7:
        tip_x, tip_y = rng.uniform(-1, -0.7), rng.uniform(-0.5, 0.3)
        draw.polygon(where([-0.5, -0.5, tip_x], [-0.15, 0.05, tip_y]), fill=255)


def _tree(rng, draw, where):
    """A crown on a stem: a tree, a mushroom, a balloon, a sign."""
    wide, crown = rng.uniform(0.05, 0.16), rng.uniform(0.35, 0.75)
    draw.polygon(where([-wide, wide, wide, -wide], [-0.3, -0.3, 1, 1]), fill=255)
    for _ in range(rng.integers(1, 5)):
        x, y = rng.normal(0, 0.15, 2)
        draw.polygon(where(*_ellipse(x, y - 0.4, crown * rng.uniform(0.7, 1), crown * rng.uniform(0.6, 1))), fill=255)
