"""The embedded data set: procedural pictures with one salient object each, drawn from a seed when asked for.

Every picture has a textured background, faint distractors, and one object of a family (its category) whose colour
stands out; its mask has soft edges. No file is read.
"""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from .checks import require_integer
from .data import Sample

CATEGORIES = ("ellipse", "polygon", "star", "blob", "ring", "bar")
SMOOTH = 2  # shapes are drawn this much larger, then averaged down


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
        base = rng.uniform(30, 225, 3)
        picture = base + _texture(rng, size, rng.uniform(10, 45))
        for _ in range(rng.integers(2, 7)):  # distractors: small, or hardly different from what is behind them
            family = CATEGORIES[rng.integers(len(CATEGORIES))]
            mask = _shape(rng, family, size, rng.uniform(0.02, 0.12), rng.uniform(0, 1, 2))
            picture += mask[..., None] * rng.normal(0, 18, 3)
        mask = _shape(rng, CATEGORIES[self.category(index)], size, rng.uniform(0.16, 0.38), rng.uniform(0.3, 0.7, 2))
        colour = _far_from(rng, base)
        shade = rng.uniform(-25, 25, 2) @ np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j].reshape(2, -1)
        inside = colour + _texture(rng, size, rng.uniform(4, 22)) + shade.reshape(size, size, 1)
        picture = picture * (1 - mask[..., None]) + inside * mask[..., None] + rng.normal(0, rng.uniform(1, 7), 3)
        picture += rng.normal(0, rng.uniform(1, 6), picture.shape)
        to_bytes = lambda a: np.clip(np.rint(a), 0, 255).astype(np.uint8)  # noqa: E731
        return Sample(f"synthetic-{index:05d}", to_bytes(picture), to_bytes(255 * mask))


def _far_from(rng, colour):
    """A random colour at a clear distance from another."""
    while True:
        other = rng.uniform(10, 245, 3)
        if np.linalg.norm(other - colour) > 95:
            return other


def _texture(rng, size, strength):
    """Noise of a few octaves, (size, size, 3), sometimes stretched into stripes."""
    total = np.zeros((size, size, 3))
    stretch = rng.choice([1, 1, 3, 6])
    for octave in range(2, 6):
        cells = (max((1 << octave) // stretch, 1) + 1, (1 << octave) + 1)
        grey = rng.standard_normal(cells)
        layer = np.asarray(Image.fromarray(grey.astype(np.float32)).resize((size, size), Image.Resampling.BICUBIC))
        total += layer[..., None] * (1 + 0.4 * rng.standard_normal(3)) / math.sqrt(octave)
    return total * strength / 2


def _shape(rng, family, size, radius, centre):
    """The mask (size, size) in [0, 1] of a random shape; radius and centre in parts of the size."""
    big = SMOOTH * size
    canvas = Image.new("L", (big, big))
    draw = ImageDraw.Draw(canvas)
    count = {"ellipse": 64, "polygon": int(rng.integers(3, 7)), "star": 10, "blob": 96, "ring": 64, "bar": 4}[family]
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
    flat = 0.2 if family == "bar" else rng.uniform(0.6, 1)
    x, y = radii * np.cos(angles + math.pi / 4 * (family == "bar")), flat * radii * np.sin(angles + math.pi / 4)
    turn = rng.uniform(0, 2 * math.pi)
    outline = np.stack([x * math.cos(turn) - y * math.sin(turn), x * math.sin(turn) + y * math.cos(turn)], 1)
    outline = outline * radius * big + np.asarray(centre) * big
    draw.polygon([tuple(p) for p in outline], fill=255)
    if family == "ring":
        middle = outline.mean(axis=0)
        draw.polygon([tuple(p) for p in middle + (outline - middle) * rng.uniform(0.4, 0.65)], fill=0)
    canvas = canvas.filter(ImageFilter.BoxBlur(SMOOTH * rng.uniform(0.4, 1.4)))
    return np.asarray(canvas.resize((size, size), Image.Resampling.BOX), np.float64) / 255
