"""The embedded data set: procedural pictures with one salient object each, drawn from a seed when asked for.

A picture is what a network needs to have seen before it meets photographs: a background of one texture or of two that
meet at a horizon, lit unevenly and out of focus here and there; patches and small things that are not the object; and
one object of a family (its category), textured, shaded, sometimes of two colours, larger than anything else, which
differs from what is behind it in colour, brightness or texture. Its mask has soft edges. No file is read.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .checks import require_integer
from .data import Sample

CATEGORIES = ("ellipse", "polygon", "star", "blob", "ring", "bar", "flower", "vessel", "creature", "tree")
SMOOTH = 3  # shapes are drawn this much larger, then averaged down


class SyntheticDataset:
    """`count` pictures of size x size pixels; `dataset[i]` draws the i-th as a `data.Sample`, always the same one.

    category(i) is the family of its object, an index into `CATEGORIES`. Pictures are kept once they are drawn.
    """

    def __init__(self, count=1000, size=240, seed=0):
        self.count = require_integer(count, "SyntheticDataset", "count", 1)
        self.size = require_integer(size, "SyntheticDataset", "size", 16)
        self.seed = require_integer(seed, "SyntheticDataset", "seed", 0)
        self._drawn = {}

    def __len__(self):
        return self.count

    def category(self, index):
        return index % len(CATEGORIES)

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        if index not in self._drawn:
            self._drawn[index] = self._draw(index)
        return self._drawn[index]

    def _draw(self, index):
        rng, size = np.random.default_rng((self.seed, 1 + index)), self.size
        picture, colours = _background(rng, size)
        for _ in range(rng.integers(0, 5)):  # what is small, or hardly differs from what is behind it, is no object
            mask = _shape(rng, _any_family(rng), size, rng.uniform(0.02, 0.09), rng.uniform(0, 1, 2))
            _cover(picture, mask, colours[rng.integers(len(colours))] + rng.normal(0, 45, 3))
        for _ in range(rng.integers(0, 3)):
            mask = _shape(rng, _any_family(rng), size, rng.uniform(0.1, 0.4), rng.uniform(0, 1, 2))
            picture += mask[..., None] * rng.normal(0, 9, 3)
        radius = rng.uniform(0.16, 0.48)
        mask = _shape(rng, CATEGORIES[self.category(index)], size, radius, rng.normal(0.5, 0.1, 2))
        if rng.random() < 0.4:  # its shadow
            shift = rng.integers(-size // 16, size // 16 + 1, 2)
            shadow = _blurred(np.roll(mask, shift, (0, 1)), rng.uniform(0.01, 0.04) * size)
            picture *= 1 - rng.uniform(0.2, 0.6) * shadow[..., None]
        _cover(picture, mask, _surface(rng, size, mask, _apart(rng, colours)))
        if rng.random() < 0.3:  # a smaller one beside it
            beside = _shape(
                rng, CATEGORIES[self.category(index)], size, radius * rng.uniform(0.4, 0.7), rng.uniform(0.2, 0.8, 2)
            )
            _cover(picture, beside, _surface(rng, size, beside, _apart(rng, colours)))
            mask = np.maximum(mask, beside)
        picture += rng.normal(0, rng.uniform(0, 6), picture.shape)
        return Sample(f"synthetic-{index:05d}", _to_bytes(picture), _to_bytes(255 * mask))


def _to_bytes(values):
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _any_family(rng):
    return CATEGORIES[rng.integers(len(CATEGORIES))]


def _cover(picture, mask, surface):
    """Put `surface`, a colour or a picture, where the mask is."""
    picture += mask[..., None] * (surface - picture)


def _background(rng, size):
    """A picture (size, size, 3) in 0 to 255 and the colours (K, 3) that it is made of."""
    colours = [_colour(rng)]
    picture = colours[0] + _texture(rng, size, rng.gamma(2, 9))
    if rng.random() < 0.55:  # another texture beyond a horizon, or a wall's edge
        colours.append(_colour(rng) if rng.random() < 0.5 else np.clip(colours[0] + rng.normal(0, 40, 3), 0, 255))
        y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
        slope = rng.normal(0, 0.15) if rng.random() < 0.8 else rng.normal(0, 3)
        line = y - rng.uniform(0.2, 0.8) - slope * (x - 0.5) + 0.1 * _noise(rng, size, 3) * rng.random()
        share = 1 / (1 + np.exp(-np.clip(line / rng.choice([0.005, 0.02, 0.1]), -50, 50)))
        _cover(picture, share, colours[1] + _texture(rng, size, rng.gamma(2, 9)))
    picture *= 1 + rng.uniform(0, 0.25) * _noise(rng, size, 1)[..., None]  # uneven light
    if rng.random() < 0.4:  # out of focus
        picture = _blurred(picture, rng.uniform(0.3, 2.5) * size / 112)
    return picture, np.array(colours)


def _colour(rng):
    """Mostly dull, as the world is: a grey of any brightness and a tint."""
    return np.clip(rng.uniform(20, 235) + rng.normal(0, rng.choice([8, 25, 60]), 3), 0, 255)


def _apart(rng, colours):
    """A colour at a clear distance from all of `colours`."""
    least = rng.uniform(45, 110)
    while True:
        colour = _colour(rng) if rng.random() < 0.5 else rng.uniform(0, 255, 3)
        if np.linalg.norm(colours - colour, axis=1).min() > least:
            return colour
        least *= 0.97  # in the middle of grey, nothing is far away


def _surface(rng, size, mask, colour):
    """What an object looks like: a colour, a texture, light from one side, sometimes a pattern of a second colour."""
    surface = colour + _texture(rng, size, rng.gamma(2, 8))
    kind = rng.random()
    if kind < 0.45:
        second = np.clip(colour + rng.normal(0, 60, 3), 0, 255)
        y, x = np.mgrid[0 : 1 : size * 1j, 0 : 1 : size * 1j]
        turn, waves = rng.uniform(0, math.pi), rng.uniform(2, 14)
        if kind < 0.15:  # stripes
            pattern = np.sin(2 * math.pi * waves * (x * math.cos(turn) + y * math.sin(turn))) > rng.uniform(-0.5, 0.5)
        elif kind < 0.3:  # spots
            pattern = _noise(rng, size, rng.integers(2, 5)) > rng.uniform(0, 0.8)
        else:  # two parts
            cos, sin = math.cos(turn), math.sin(turn)
            pattern = x * cos + y * sin > rng.uniform(0.2, 0.8) * (cos + sin)
        _cover(surface, pattern.astype(float), second)
    light = rng.uniform(-70, 70, 2)
    rows, cols = np.nonzero(mask > 0.5)
    if rows.size:
        y, x = np.mgrid[0 : size * 1.0, 0 : size * 1.0]
        across = max(np.ptp(rows), np.ptp(cols), 1)
        surface += ((y - rows.mean()) * light[0] + (x - cols.mean()) * light[1])[..., None] / across
    return surface


def _noise(rng, size, octave):
    """Smooth noise (size, size), about -1 to 1, with 2**octave bumps along a side."""
    cells = (1 << int(octave)) + 2
    grey = Image.fromarray(rng.normal(0, 0.5, (cells, cells)).astype(np.float32))
    return np.asarray(grey.resize((size, size), Image.Resampling.BICUBIC), np.float64)


def _texture(rng, size, strength):
    """Noise of several octaves (size, size, 3), coarse or fine, grey or coloured, sometimes stretched."""
    total = np.zeros((size, size, 3))
    fall = rng.uniform(-0.5, 0.9)  # how much weaker each finer octave is
    stretch = rng.choice([1, 1, 1, 3, 8])
    upright = rng.random() < 0.5
    for octave in range(1, 7):
        cells = [max((1 << octave) // stretch, 1) + 1, (1 << octave) + 1]
        grey = rng.standard_normal(cells if upright else cells[::-1]).astype(np.float32)
        layer = np.asarray(Image.fromarray(grey).resize((size, size), Image.Resampling.BICUBIC))
        total += layer[..., None] * (1 + rng.choice([0.05, 0.3]) * rng.standard_normal(3)) * 2 ** (-fall * octave)
    return total * (strength / max(total.std(), 1e-9))


def _blurred(values, radius):
    """Values (H, W) or (H, W, C), each channel blurred."""
    if values.ndim == 3:
        return np.stack([_blurred(values[..., c], radius) for c in range(values.shape[2])], 2)
    low, span = values.min(), max(np.ptp(values), 1e-9)
    image = Image.fromarray(_to_bytes((values - low) * (255 / span))).filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(image, np.float64) * (span / 255) + low


def _shape(rng, family, size, radius, centre):
    """The mask (size, size) in [0, 1] of a random shape; radius and centre in parts of the size."""
    big = SMOOTH * size
    canvas = Image.new("L", (big, big))
    draw = ImageDraw.Draw(canvas)
    turn = rng.uniform(0, 2 * math.pi)
    if family in ("vessel", "creature", "tree"):
        turn = rng.normal(0, 0.35)  # they mostly stand
    where = _Placing(big, radius, centre, turn, rng.uniform(0.65, 1) if family != "bar" else 1, rng.random() < 0.5)
    if family in ("creature", "tree"):
        (_creature if family == "creature" else _tree)(rng, draw, where)
    else:
        draw.polygon(where(*_outline(rng, family)), fill=255)
    if family == "ring":
        inner = rng.uniform(0.35, 0.65)
        angles = np.linspace(0, 2 * math.pi, 64, endpoint=False)
        draw.polygon(where(inner * np.cos(angles), inner * np.sin(angles)), fill=0)
    canvas = canvas.filter(ImageFilter.BoxBlur(SMOOTH * rng.uniform(0.3, 1.2)))
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX), np.float64) / 255


class _Placing:
    """From a shape's own coordinates, about -1 to 1, y downwards, to points on a canvas."""

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
