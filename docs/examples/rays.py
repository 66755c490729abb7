"""A small path tracer in NumPy, which draws the pictures of this folder.

Solids are signed distance functions. Points and directions are (3, n) arrays of float32; y points up. A scene also has
a floor (y = 0), perhaps a wall behind it, one square lamp far away, and a backdrop.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

SKY, FLOOR, WALL, SOLID = range(4)  # what a ray meets
LATTICE = np.random.default_rng(1).random((64, 64, 64), np.float32)


@dataclasses.dataclass
class Scene:
    solid: Callable  # points -> signed distance (n,)
    box: tuple  # two corners of a box around the solid: rays are marched only there
    paint: Callable  # points, normals (3, n), what (n,) -> albedo (3, n), reflectance (n,), roughness (n,), normals
    backdrop: Callable  # directions -> light (3, n), without the lamp
    eye: tuple
    look_at: tuple
    lamp: tuple  # direction to its centre
    light: tuple = (2.0, 1.9, 1.7)  # what it sends to a surface that faces it
    spread: float = 0.3  # tangent of half the angle that it fills
    zoom: float = 2.6  # focal length; half the picture's width is 1
    aperture: float = 0.03
    floor: tuple = (-1e9, 1e9)  # the z at which it ends, far and near
    wall: float = -1e9  # its z
    salient: bool = True  # whether the solid is what the picture shows; otherwise its mask is empty
    exposure: float = 1.0


# ----------------------------------------------------------------------------------------------------------------------
# Distances, noise, patterns
# ----------------------------------------------------------------------------------------------------------------------


def vector(*xyz):
    return np.array(xyz, np.float32)[:, None]


def unit(v):
    return v / np.sqrt((v * v).sum(0) + 1e-20)


def length(*parts):
    return np.sqrt(sum(part * part for part in parts))


def blend(a, b, k):
    """Union with a fillet of size `k`."""
    h = np.maximum(k - np.abs(a - b), 0) / k
    return np.minimum(a, b) - h * h * (k / 4)


def ball(p, centre, *radii):
    """A ball, or an ellipsoid (whose distance is approximate)."""
    q = p - vector(*centre)
    if len(radii) == 1:
        return length(*q) - radii[0]
    r = vector(*radii)
    near, steep = length(*(q / r)), length(*(q / (r * r)))
    return near * (near - 1) / (steep + 1e-6)


def rod(p, a, b, thick, end=None):
    """A rod from `a` to `b` with round ends, whose radius goes from `thick` to `end`."""
    a, along = vector(*a), vector(*b) - vector(*a)
    h = np.clip(((p - a) * along).sum(0) / (along * along).sum(), 0, 1)
    return length(*(p - a - along * h)) - (thick if end is None else thick + (end - thick) * h)


def ring(x, y, z, radius, thick):
    """A torus about the z axis."""
    return length(length(x, y) - radius, z) - thick


def turn(p, angle):
    """Points turned about the y axis."""
    x, y, z = p
    c, s = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return np.stack([c * x - s * z, y, s * x + c * z])


def noise(p):
    """Smooth noise in 0..1, features of size 1."""
    cell = np.floor(p)
    t = p - cell
    t = t * t * (3 - 2 * t)
    (i, j, k), (i1, j1, k1) = cell.astype(np.int32) & 63, (cell.astype(np.int32) + 1) & 63
    low = LATTICE[i, j, k] * (1 - t[0]) + LATTICE[i1, j, k] * t[0]
    high = LATTICE[i, j1, k] * (1 - t[0]) + LATTICE[i1, j1, k] * t[0]
    near = low * (1 - t[1]) + high * t[1]
    low = LATTICE[i, j, k1] * (1 - t[0]) + LATTICE[i1, j, k1] * t[0]
    high = LATTICE[i, j1, k1] * (1 - t[0]) + LATTICE[i1, j1, k1] * t[0]
    return near * (1 - t[2]) + (low * (1 - t[1]) + high * t[1]) * t[2]


def clouds(p, octaves=4):
    """Noise of several sizes, from 1 down."""
    return sum(noise(p * 2.03**i + 11.7 * i) * 0.5 ** (i + 1) for i in range(octaves)) / (1 - 0.5**octaves)


def pebbles(p):
    """A solid packed with pebbles of size 1: how deep points lie in theirs (0 at the gaps), and its random number."""
    cell = np.floor(p)
    best = second = np.full(p.shape[1], 9, np.float32)
    which = np.zeros_like(best)
    for shift in np.ndindex(3, 3, 3):
        i, j, k = (cell + vector(*shift) - 1).astype(np.int32) & 63
        jitter = np.stack([LATTICE[i, j, k], LATTICE[j, k, i], LATTICE[k, i, j]])
        away = length(*(cell + vector(*shift) - 1 + jitter - p))
        which = np.where(away < best, LATTICE[i ^ 21, j, k], which)
        second = np.where(away < best, best, np.minimum(second, away))
        best = np.minimum(best, away)
    return np.clip((second - best) * 1.6, 0, 1), which


def mix(a, b, t):
    return a + (b - a) * np.clip(t, 0, 1)


def bumped(p, normals, height, amount):
    """Normals of a surface that `height` (points -> (n,)) raises by `amount`."""
    here, step = height(p), np.float32(0.004)
    slope = np.stack([height(p + step * axis) - here for axis in np.eye(3, dtype=np.float32)[:, :, None]]) / step
    slope -= normals * (slope * normals).sum(0)
    return unit(normals - amount * slope)


def plain(p, value):
    return np.full(p.shape[1], value, np.float32)


def wood(p, dark=(0.055, 0.022, 0.010), pale=(0.21, 0.095, 0.042), plank=0.9):
    """Albedo of planks along x."""
    board = np.floor(p[2] / plank)
    q = p + vector(3.7, 0, 0) * board
    grain = clouds(np.stack([q[0] * 0.7, 5 * board, q[2] * 9]))
    fibres = noise(np.stack([q[0] * 4, 9 * board, q[2] * 90]))
    tone = mix(vector(*dark), vector(*pale), grain * 1.5 - 0.35 + 0.25 * (fibres - 0.5) + 0.3 * np.sin(board * 2.4))
    gap = np.abs(p[2] / plank - board - 0.5) * 2
    return tone * (1 - 0.75 * np.clip((gap - 0.985) * 130, 0, 1))


def blurred(d, low, high, spots, seed):
    """A backdrop far out of focus: from `low` at the horizon to `high`, with discs of light of some colours."""
    rng = np.random.default_rng(seed)
    light = mix(vector(*low), vector(*high), d[1] * 1.6 + 0.25) * (0.75 + 0.5 * clouds(d * 3 + 5, 2))
    for _ in range(45):
        centre = unit(vector(rng.uniform(-0.7, 0.7), rng.uniform(-0.2, 0.3), -1.3))
        size, bright = rng.uniform(0.018, 0.045), rng.uniform(0.05, 0.6) ** 1.5
        colour = bright * vector(*spots[rng.integers(len(spots))])
        away = length(*(d - centre))
        light = light + colour * np.clip((size - away) * 150, 0, 1) * (0.6 + 0.4 * away / size)
    return light


# ----------------------------------------------------------------------------------------------------------------------
# Light
# ----------------------------------------------------------------------------------------------------------------------


def trace(scene, o, d):
    """How far rays go (inf: for ever) and what they meet."""
    what, far = np.zeros(o.shape[1], np.int8), np.full(o.shape[1], np.inf, np.float32)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = -o[1] / d[1]
        z = o[2] + t * d[2]
        met = (t > 1e-3) & (z > scene.floor[0]) & (z < scene.floor[1])
        far[met], what[met] = t[met], FLOOR
        t = (scene.wall - o[2]) / d[2]
        met = (t > 1e-3) & (t < far) & (o[1] + t * d[1] > 0) & (scene.wall > -1e6)
        far[met], what[met] = t[met], WALL
        sides = [(vector(*corner) - o) / d for corner in scene.box]
        enter = np.maximum(np.fmin(*sides).max(0), 0)
        leave = np.minimum(np.fmax(*sides).min(0), far)
    alive = np.flatnonzero(enter < leave)
    t = enter[alive]
    for _ in range(110):
        if not len(alive):
            break
        away = scene.solid(o[:, alive] + t * d[:, alive])
        met = away < 4e-4 * (1 + t) * 0.5
        far[alive[met]], what[alive[met]] = t[met], SOLID
        t = t + away * 0.92
        alive, t = (part[~met & (t < leave[alive])] for part in (alive, t))
    return far, what


def normals_of(scene, p, what):
    n = np.zeros_like(p)
    n[1, what == FLOOR] = 1
    n[2, what == WALL] = 1
    q, corners = p[:, what == SOLID], np.array([[1, -1, -1], [-1, -1, 1], [-1, 1, -1], [1, 1, 1]], np.float32)
    n[:, what == SOLID] = unit(sum(scene.solid(q + 1e-3 * c[:, None]) * c[:, None] for c in corners) + np.zeros_like(q))
    return n


def frame(n):
    """Two directions at right angles to `n` and each other."""
    side = unit(np.cross(n, np.where(np.abs(n[1]) < 0.9, vector(0, 1, 0), vector(1, 0, 0)), axis=0))
    return side, np.cross(n, side, axis=0)


def surroundings(scene, d, lamp):
    """What comes from far away; with the lamp, a window of four panes, where `lamp` is set."""
    centre = unit(vector(*scene.lamp))
    ahead = (d * centre).sum(0)
    u, v = (np.abs((d * axis).sum(0) / np.maximum(ahead, 1e-3)) / scene.spread for axis in frame(centre))
    seen = lamp & (ahead > 0) & (np.maximum(u, v) < 1) & (np.minimum(u, v) > 0.06)
    return scene.backdrop(d) + seen * vector(*scene.light) * np.float32(np.pi / (4 * scene.spread**2))


def shine(scene, o, d, draw, bounces=3):
    """Light (3, n) that comes back along rays; albedo, normal and distance of what they meet, and what that is."""
    light, weight, rays = np.zeros_like(d), np.ones_like(d), np.arange(d.shape[1])
    lamp = np.zeros(d.shape[1], bool)  # whether the lamp itself is seen: it lights matt surfaces directly
    first = None
    for bounce in range(bounces):
        far, what = trace(scene, o, d)
        free = what == SKY
        glare = lamp[free] & (bounce < 2)  # by way of two mirrors the lamp is rarely seen and blinding: noise
        light[:, rays[free]] += np.minimum(weight[:, free] * surroundings(scene, d[:, free], glare), 12)
        hit = ~free
        p = o[:, hit] + far[hit] * d[:, hit]
        rays, d, weight, what = rays[hit], d[:, hit], weight[:, hit], what[hit]
        normals = normals_of(scene, p, what)
        albedo, reflectance, rough, n = scene.paint(p, normals, what)
        if first is None:
            first = np.zeros((7, light.shape[1]), np.float32), np.zeros(light.shape[1], np.int8)
            first[0][:, rays] = np.concatenate([albedo, n, far[None, hit]])
            first[1][rays] = what
        p = p + normals * 2e-3
        cosine = np.clip(-(d * n).sum(0), 0, 1)
        mirrored = reflectance + (1 - reflectance) * (1 - cosine) ** 5 * (1 - rough) ** 2
        u = [draw(4 + 5 * bounce + i)[rays] for i in range(5)]

        side, up = frame(unit(vector(*scene.lamp)))
        to = unit(unit(vector(*scene.lamp)) + scene.spread * ((2 * u[0] - 1) * side + (2 * u[1] - 1) * up))
        faces = (to * n).sum(0) * ((to * normals).sum(0) > 0)
        lit = np.flatnonzero(faces > 0)
        lit = lit[trace(scene, p[:, lit], to[:, lit])[1] == SKY]
        light[:, rays[lit]] += (weight * albedo * (1 - mirrored) * faces)[:, lit] * vector(*scene.light)

        chance = np.where(mirrored > 0, np.clip(mirrored, 0.15, 0.95), 0)
        lamp = u[2] < chance
        weight = weight * np.where(lamp, mirrored / np.maximum(chance, 1e-6), albedo * (1 - mirrored) / (1 - chance))
        axis = np.where(lamp, unit(d - 2 * (d * n).sum(0) * n), n)
        side, up = frame(axis)
        radius, angle = np.sqrt(u[3]) * np.where(lamp, rough, 1), 2 * np.pi * u[4]
        d = unit(axis * np.sqrt(1 - radius**2) + radius * (np.cos(angle) * side + np.sin(angle) * up))
        above = (d * normals).sum(0) > 0
        o, d, rays, weight, lamp = p[:, above], d[:, above], rays[above], weight[:, above], lamp[above]
    return light, *first


def smooth(light, noisy, guide):
    """Takes noise out of the light (h, w, 3) where neighbours are alike in `guide` and differ by no more than noise."""
    for step in (1, 2, 4, 8):
        total, weights = np.zeros_like(light), np.zeros((*light.shape[:2], 1), np.float32)
        for dy, dx in np.ndindex(5, 5):
            shift = (dy - 2) * step, (dx - 2) * step
            other, beside = np.roll(light, shift, (0, 1)), np.roll(guide, shift, (0, 1))
            unlike = ((guide - beside) ** 2).sum(-1) + ((light - other) ** 2).sum(-1) / (noisy + 1e-4)
            weight = np.exp(-unlike - 0.35 * ((dy - 2) ** 2 + (dx - 2) ** 2))[..., None]
            total, weights = total + weight * other, weights + weight
        light, noisy = total / weights, noisy / 3
    return light


def spread_out(offsets, sample, i):
    """Number `i` in 0..1 of a sample, for each pixel: the samples of a pixel lie evenly, each pixel's elsewhere."""
    primes = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67)
    return (offsets[i] + np.float32(sample * primes[i] ** 0.5 % 1)) % 1


def render(scene, width=640, samples=32, seed=0):
    """The picture (h, w, 3) uint8, four by three, and the mask (h, w) bool of its object."""
    height, rng = width * 3 // 4, np.random.default_rng(seed)
    eye, ahead = vector(*scene.eye), vector(*scene.look_at) - vector(*scene.eye)
    focus = length(*ahead)
    ahead = unit(ahead)
    right = unit(np.cross(ahead, vector(0, 1, 0), axis=0))
    up = np.cross(right, ahead, axis=0)
    rows, columns = (part.reshape(-1) for part in np.mgrid[:height, :width])
    light, squares, guide = (np.zeros((n, height * width), np.float32) for n in (3, 1, 7))
    covered = np.zeros(height * width, np.float32)
    for part in np.array_split(np.arange(height * width), max(1, height * width // 32768)):
        offsets = rng.random((19, len(part)), np.float32)
        for sample in range(samples):
            draw = functools.partial(spread_out, offsets, sample)
            x = (columns[part] + draw(0)) * np.float32(2 / width) - 1
            y = (height / width) - (rows[part] + draw(1)) * np.float32(2 / width)
            radius, angle = scene.aperture * np.sqrt(draw(2)), 2 * np.pi * draw(3)
            lens = radius * (np.cos(angle) * right + np.sin(angle) * up)
            at = (scene.zoom * ahead + x * right + y * up) * (focus / scene.zoom)
            found, seen, what = shine(scene, (eye + lens).astype(np.float32), unit(at - lens).astype(np.float32), draw)
            light[:, part] += found
            squares[0, part] += found.sum(0) ** 2
            guide[:, part] += seen
            covered[part] += what == SOLID
    shape = (height, width, -1)
    light, guide = (sums.T.reshape(shape) / samples for sums in (light, guide))
    noisy = (squares / samples).reshape(height, width) - light.sum(-1) ** 2
    albedo = guide[..., :3] + 0.02
    alike = guide[..., 3:] * np.float32([5, 5, 5, 5 / focus[0]])
    noisy = np.maximum(noisy, 0) / samples / albedo.mean(-1) ** 2
    light = smooth(light / albedo, noisy, alike) * albedo
    return develop(light * scene.exposure, rng), (covered.reshape(height, width) > samples / 2) & scene.salient


def develop(light, rng):
    """Light as a photograph: the corners are darker, film has a curve and grain."""
    height, width = light.shape[:2]
    y, x = np.mgrid[-0.75 : 0.75 : height * 1j, -1 : 1 : width * 1j]
    light = light * (1 - 0.22 * (x * x + y * y))[..., None]
    film = light * (2.51 * light + 0.03) / (light * (2.43 * light + 0.59) + 0.14)
    grain = rng.normal(0, 1, (height, width, 1)) * 0.6 + rng.normal(0, 1, (height, width, 3)) * 0.3
    picture = np.clip(film, 0, 1) ** (1 / 2.2) + 0.012 * grain
    return np.uint8(np.clip(picture, 0, 1) * 255 + 0.5)
