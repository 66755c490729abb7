"""Draws the pictures of this folder, and their exact masks if asked: a minute or two each, the same every time.

    python docs/examples/scenes.py [NAME ...] [-o FOLDER] [--masks FOLDER] [--width 640] [--samples 32]
"""

import argparse
import pathlib

import numpy as np
from PIL import Image
from rays import (
    FLOOR,
    LATTICE,
    SOLID,
    WALL,
    Scene,
    ball,
    blend,
    blurred,
    bumped,
    clouds,
    length,
    mix,
    noise,
    pebbles,
    plain,
    render,
    ring,
    rod,
    turn,
    unit,
    vector,
    wood,
)


# still-life: a glazed teapot on a table
def teapot(p):
    p = turn(p, -0.35)
    x, y, z = p
    body = ball(p, (0, 0.62, 0), 0.86, 0.62, 0.86)
    body = blend(body, np.maximum(length(x, z) - 0.46, np.abs(y - 0.06) - 0.06), 0.08)
    neck = rod(p, (0.55, 0.48, 0), (1.02, 0.66, 0), 0.24, 0.13)
    spout = blend(neck, rod(p, (1.02, 0.66, 0), (1.3, 1.1, 0), 0.13, 0.085), 0.16)
    spout = np.maximum(spout, -rod(p, (1.22, 1.0, 0), (1.4, 1.3, 0), 0.05, 0.08))
    handle = ring((x + 0.88) * 0.95, y - 0.72, z, 0.38, 0.075)
    pot = blend(blend(body, spout, 0.16), np.maximum(handle, x + 0.6), 0.12)
    pot = np.maximum(pot, -ring(x, z, y - 1.16, 0.47, 0.022))
    lid = blend(ball(p, (0, 1.14, 0), 0.46, 0.15, 0.46), rod(p, (0, 1.24, 0), (0, 1.33, 0), 0.05), 0.06)
    return np.minimum(pot, blend(lid, ball(p, (0, 1.4, 0), 0.115, 0.09, 0.115), 0.05))


def paint_teapot(p, n, what):
    solid = what == SOLID
    edge = 0.42 + 0.1 * clouds(p * 2.2, 3)
    glaze = mix(vector(0.05, 0.012, 0.01), vector(0.50, 0.050, 0.012), (p[1] - edge + 0.30) * 1.8)
    clay = vector(0.36, 0.22, 0.13) * (0.8 + 0.4 * noise(p * 60))
    bare = np.clip((edge - 0.28 - p[1]) * 40, 0, 1)
    speck = np.clip((noise(p * 34) - 0.86) * 14, 0, 1) * (1 - bare)
    pot = mix(mix(glaze, clay, bare), vector(0.05, 0.012, 0.01), 0.8 * speck)
    n = np.where(solid & (bare < 0.5), bumped(p, n, lambda q: noise(q * 5), 0.006), n)
    albedo = np.where(solid, pot, wood(turn(p, 0.25)))
    return albedo, plain(p, 0.04), np.where(solid, 0.03 + 0.5 * bare, 0.22), n


def still_life():
    spots = (1.3, 1.0, 0.6), (0.5, 0.9, 0.35), (0.9, 1.1, 0.7)
    return Scene(
        teapot, ((-1.5, 0, -1.6), (1.5, 1.6, 1.6)), paint_teapot,
        lambda d: blurred(d, (0.10, 0.14, 0.06), (0.42, 0.55, 0.42), spots, 4),
        eye=(0.3, 2.0, 6.2), look_at=(0.1, 0.74, 0.3), lamp=(-1.1, 1.0, 0.75), floor=(-2.6, 1e9), aperture=0.09,
        zoom=3.0, exposure=0.9,
    )  # fmt: skip


# two-objects: an apple and a pear on a checked cloth
def apple(p):
    x, y, z = p - vector(-0.72, 0, 0.25)
    h = y - 0.53
    lobes = 0.012 * np.cos(5 * np.arctan2(z, x)) * np.clip(-2 * h, 0, 1)
    return (length(length(x, z) * (1 - 0.22 * h) - 0.15, h * 0.82) - 0.42 + lobes) * 0.8


def apple_stem(p):
    return rod(p - vector(-0.72, 0, 0.25), (0, 0.8, 0), (0.09, 1.17, 0.02), 0.018, 0.03)


def pear(p):
    p = p - vector(0.62, 0, -0.15)
    return blend(ball(p, (0, 0.54, 0), 0.56, 0.54, 0.56), ball(p, (0.07, 1.2, 0), 0.27, 0.33, 0.27), 0.55)


def pear_stem(p):
    return rod(p - vector(0.62, 0, -0.15), (0.08, 1.45, 0), (0.2, 1.78, 0.03), 0.022, 0.034)


def fruit(p):
    return np.minimum(np.minimum(apple(p), apple_stem(p)), np.minimum(pear(p), pear_stem(p)))


def paint_fruit(p, n, what):
    a, b, stem = apple(p), pear(p), np.minimum(apple_stem(p), pear_stem(p))
    q = p - vector(-0.72, 0, 0.25)
    streaks = clouds(np.concatenate([9 * unit(q[::2]), 1.2 * q[1:2]]), 4)
    red = mix(vector(0.48, 0.26, 0.05), vector(0.36, 0.016, 0.014), streaks * 1.6 + 0.9 * q[0] - 0.2 * q[1] + 0.25)
    green = mix(vector(0.36, 0.38, 0.06), vector(0.50, 0.33, 0.05), clouds(p * 2, 3) * 2 - 0.6 + p[2])
    dots = np.clip((noise(p * 40) - 0.8) * 9, 0, 1)
    green = mix(green, vector(0.22, 0.16, 0.05), 0.6 * dots)
    albedo = np.where(a < b, red, green)
    albedo = np.where(stem < np.minimum(a, b), vector(0.09, 0.05, 0.025), albedo)
    x, _, z = turn(p, 0.5) / np.float32(0.42)
    checks = (np.floor(x) % 2 + np.floor(z) % 2) / 2
    weave = 0.85 + 0.15 * np.sin(x * 110) * np.sin(z * 110)
    cloth = mix(vector(0.72, 0.70, 0.66), vector(0.07, 0.13, 0.30), checks) * weave
    floor = what == FLOOR
    n = np.where(floor, bumped(p, n, lambda q: clouds(q * 1.3, 2), 0.12), n)
    return np.where(floor, cloth, albedo), np.where(floor, 0, plain(p, 0.04)), np.where(floor, 1, plain(p, 0.18)), n


def two_objects():
    return Scene(
        fruit, ((-1.5, 0, -0.9), (1.3, 1.85, 1.1)), paint_fruit,
        lambda d: mix(vector(0.16, 0.12, 0.10), vector(0.36, 0.31, 0.27), d[1] * 1.5 + 0.3 - 0.3 * d[0]),
        eye=(-0.3, 2.4, 6.0), look_at=(-0.03, 0.66, 0), lamp=(1.2, 1.1, 0.7), aperture=0.07, floor=(-2.6, 1e9),
    )  # fmt: skip


# camouflage: a toad of pebbles on pebbles
def toad(p):
    p = turn(p, 0.7) * vector(1, 1.3, 1)
    z = np.abs(p[2])
    half = np.stack([p[0], p[1], z])
    body = blend(ball(p, (0, 0.3, 0), 0.75, 0.36, 0.55), ball(p, (0.62, 0.42, 0), 0.4, 0.28, 0.42), 0.3)
    body = blend(body, ball(half, (0.68, 0.64, 0.23), 0.13), 0.1)
    thigh = rod(half, (-0.45, 0.2, 0.5), (0.12, 0.24, 0.72), 0.2)
    shin = rod(half, (0.1, 0.2, 0.74), (-0.4, 0.08, 0.86), 0.12)
    arm = rod(half, (0.5, 0.3, 0.4), (0.62, 0.1, 0.62), 0.13)
    foot = rod(half, (0.62, 0.06, 0.62), (0.85, 0.03, 0.7), 0.08)
    return blend(blend(body, blend(thigh, shin, 0.1), 0.12), blend(arm, foot, 0.1), 0.12) / 1.3


def paint_gravel(p, n, what):
    scale = np.float32(8)
    q = turn(p, 0.7)
    eye = length(q[0] - 0.76, q[1] - 0.51, np.abs(q[2]) - 0.31)
    deep, which = pebbles(p * scale)
    grey = mix(vector(0.13, 0.11, 0.09), vector(0.46, 0.41, 0.34), which * 1.1 + 0.3 * (clouds(p * 30, 2) - 0.5))
    rusty = np.clip((which * 7.3 % 1 - 0.7) * 6, 0, 1)
    albedo = mix(grey, grey * vector(1.15, 0.85, 0.62), rusty) * (0.35 + 0.65 * np.clip(deep * 2.5, 0, 1))
    n = bumped(p, n, lambda q: np.sqrt(pebbles(q * scale)[0] + 0.01), 0.07)
    albedo = np.where(eye < 0.06, vector(0.012, 0.010, 0.008), albedo * (0.85 + 0.3 * noise(p * 55)))
    return albedo, plain(p, 0.04), np.where(eye < 0.06, plain(p, 0.05), 0.7), n


def camouflage():
    return Scene(
        toad, ((-1.3, 0, -1.3), (1.4, 0.9, 1.3)), paint_gravel,
        lambda d: mix(vector(0.5, 0.52, 0.55), vector(0.8, 0.83, 0.88), d[1]),
        eye=(1.2, 3.6, 4.3), look_at=(0.5, 0.1, -0.3), lamp=(0.4, 1.5, -0.3), light=(0.9, 0.88, 0.85), spread=0.8,
        exposure=0.8,
    )  # fmt: skip


# thin: a bicycle before a wall
AXLE, CRANK, SEAT = (-0.53, 0.34, 0.055), (-0.07, 0.29, 0), (-0.21, 0.82, 0)
HEAD, FORK, FRONT = (0.33, 0.86, 0), (0.37, 0.74, 0), (0.53, 0.34, 0.05)
TUBES = (CRANK, SEAT, 0.0145), (CRANK, FORK, 0.0145), ((-0.2, 0.78, 0), (0.345, 0.81, 0), 0.0145), (HEAD, FORK, 0.0145)
STAYS = (AXLE, (-0.07, 0.29, 0.03), 0.008), (AXLE, (-0.2, 0.78, 0.015), 0.008), (FRONT, (0.38, 0.71, 0.05), 0.008)
POSTS = (
    (SEAT, (-0.235, 0.91, 0), 0.011), (HEAD, (0.315, 0.93, 0), 0.011),
    ((-0.07, 0.29, 0.06), (0.03, 0.15, 0.07), 0.008), ((0.03, 0.15, 0.07), (0.03, 0.15, 0.16), 0.012),
    ((-0.07, 0.29, -0.06), (-0.17, 0.43, -0.07), 0.008), ((-0.17, 0.43, -0.07), (-0.17, 0.43, -0.16), 0.012),
)  # fmt: skip
HANDLES = ((0.315, 0.93, 0), (0.36, 0.94, 0.2), 0.010), ((0.36, 0.94, 0.2), (0.22, 0.96, 0.27), 0.012)


def wheels(p):
    """Distances to tyres, and to rims and spokes."""
    x, y, z = np.abs(p[0]) - 0.53, p[1] - 0.34, p[2]
    r, part = length(x, y), np.float32(np.pi / 14)
    across = r * np.sin((np.arctan2(y, x) + part) % (2 * part) - part)
    spokes = np.maximum(length(across, np.abs(z) - 0.02 * (1 - r / 0.31)) - 0.0022, r - 0.31)
    rims = np.minimum(ring(x, y, z, 0.302, 0.008), length(x, y, z) - 0.03)
    return ring(x, y, z, 0.325, 0.016), np.minimum(spokes, rims)


def rods(p, single, pairs):
    """Distance to rods (a, b, thickness), of which `pairs` have a twin at the other side."""
    side = np.stack([p[0], p[1], np.abs(p[2])])
    return np.minimum.reduce([rod(p, *line) for line in single] + [rod(side, *line) for line in pairs])


def fittings(p):
    saddle = blend(ball(p, (-0.27, 0.93, 0), 0.1, 0.03, 0.075), rod(p, (-0.24, 0.935, 0), (-0.11, 0.94, 0), 0.02), 0.05)
    sprocket = ring(p[0] + 0.07, p[1] - 0.29, p[2] - 0.045, 0.085, 0.007)
    return np.minimum(np.minimum(saddle, sprocket), rods(p, POSTS, HANDLES))


def bicycle(p):
    p = turn(p, 0.12)
    return np.minimum(np.minimum(*wheels(p)), np.minimum(rods(p, TUBES, STAYS), fittings(p)))


def paint_bicycle(p, n, what):
    q = turn(p, 0.12)
    tyres, spokes = wheels(q)
    black = np.minimum(tyres, fittings(q))
    frame, metal = rods(q, TUBES, STAYS), spokes < np.minimum(black, 0.004)
    solid = np.where(frame < np.minimum(black, spokes), vector(0.02, 0.10, 0.12), vector(0.03, 0.03, 0.03))
    solid = np.where(metal, vector(0.25, 0.25, 0.25), solid)
    stain = clouds(p * vector(1.5, 0.9, 1.5), 5)
    plaster = mix(vector(0.42, 0.33, 0.24), vector(0.66, 0.55, 0.42), stain * 1.8 - 0.3) * (0.9 + 0.2 * noise(p * 70))
    stone = np.floor(p / vector(0.32, 1, 0.22) + vector(0.5, 0, 0) * (np.floor(p[2] / 0.22) % 2))
    edge = np.abs((p / vector(0.32, 1, 0.22) + vector(0.5, 0, 0) * (np.floor(p[2] / 0.22) % 2)) % 1 - 0.5)
    slab = vector(0.30, 0.27, 0.24) * (0.75 + 0.5 * noise(stone * 3.3 + 0.5)) * (0.8 + 0.4 * clouds(p * 25, 3))
    slab = slab * (1 - 0.6 * np.clip((np.maximum(edge[0], edge[2]) - 0.47) * 60, 0, 1))
    albedo = np.where(what == WALL, plaster, np.where(what == FLOOR, slab, solid))
    n = np.where(what == WALL, bumped(p, n, lambda q: clouds(q * 9, 3), 0.02), n)
    reflectance = np.where(what == SOLID, np.where(metal, 0.5, plain(p, 0.05)), 0)
    return albedo, reflectance, np.where(what == SOLID, plain(p, 0.15), 1), n


def thin():
    return Scene(
        bicycle, ((-0.95, 0, -0.35), (0.95, 1.0, 0.35)), paint_bicycle,
        lambda d: mix(vector(0.45, 0.5, 0.6), vector(0.5, 0.65, 0.95), d[1]),
        eye=(0.35, 0.95, 4.4), look_at=(0.0, 0.52, 0), lamp=(-0.8, 1.25, 1.2), light=(2.2, 1.95, 1.6), spread=0.05,
        zoom=3.5, wall=-0.5, aperture=0.01,
    )  # fmt: skip


# crowd: oranges, none of which stands out
def oranges(p):
    best = plain(p, 9)
    cell = np.floor(p + 0.5)
    for dx, dz in np.ndindex(2, 2):
        i = cell[0] + np.where(p[0] > cell[0], dx, -dx)
        k = cell[2] + np.where(p[2] > cell[2], dz, -dz)
        wobble = LATTICE[i.astype(np.int32) & 63, k.astype(np.int32) & 63, 7] - 0.5
        centre = i + 0.12 * wobble, 0.46 + 0.1 * wobble, k + 0.12 * wobble
        best = np.minimum(best, length(p[0] - centre[0], (p[1] - centre[1]) * 1.06, p[2] - centre[2]) - 0.5)
    return best * 0.9


def paint_oranges(p, n, what):
    q = np.floor(p + 0.5)
    kind = noise(np.stack([q[0] * 3.1 + 0.5, plain(p, 0.5), q[2] * 2.3 + 0.5]))
    peel = mix(vector(0.50, 0.10, 0.004), vector(0.56, 0.17, 0.008), kind + 0.6 * (clouds(p * 3, 2) - 0.5))
    i, k = q[0].astype(np.int32) & 63, q[2].astype(np.int32) & 63
    calyx = unit(np.stack([LATTICE[i, k, 1] - 0.5, 0.1 + LATTICE[i, k, 2], LATTICE[i, k, 3] - 0.5]))
    across = ((n - calyx) ** 2).sum(0)
    peel = mix(peel, vector(0.07, 0.10, 0.015), (0.013 - across) * 400)
    n = bumped(p, n, lambda q: noise(q * 42), 0.006)
    floor = what == FLOOR
    return np.where(floor, vector(0.1, 0.06, 0.03), peel), np.where(floor, 0, plain(p, 0.045)), plain(p, 0.3), n


def crowd():
    return Scene(
        oranges, ((-20, 0, -30), (20, 1.05, 5)), paint_oranges,
        lambda d: mix(vector(0.4, 0.42, 0.45), vector(0.7, 0.75, 0.85), d[1]),
        eye=(0.3, 6.5, 4.2), look_at=(0.2, 0.5, 0), lamp=(-0.7, 1.2, -0.2), aperture=0.05, salient=False,
        exposure=0.75,
    )  # fmt: skip


# reflection: a rubber duck on still water
def duck_parts(p):
    """Distances to body and beak."""
    p = turn(p, 0.45)
    side = np.stack([p[0], p[1], np.abs(p[2])])
    body = blend(ball(p, (0, 0.22, 0), 0.78, 0.42, 0.56), rod(p, (-0.5, 0.35, 0), (-0.84, 0.66, 0), 0.2, 0.04), 0.25)
    body = blend(body, ball(p, (0.42, 0.92, 0), 0.37, 0.36, 0.35), 0.22)
    body = blend(body, ball(side, (-0.12, 0.36, 0.5), 0.4, 0.2, 0.1), 0.06)
    beak = blend(ball(p, (0.84, 0.87, 0), 0.2, 0.05, 0.16), ball(p, (0.8, 0.79, 0), 0.17, 0.045, 0.13), 0.02)
    return body, beak


def duck(p):
    return blend(*duck_parts(p), 0.03)


def paint_duck(p, n, what):
    body, beak = duck_parts(p)
    q = turn(p, 0.45)
    eye = length(q[0] - 0.66, q[1] - 1.03, np.abs(q[2]) - 0.24)
    solid = np.where(beak < body, vector(0.65, 0.12, 0.01), vector(0.75, 0.45, 0.02))
    solid = np.where(eye < 0.1, vector(0.7, 0.7, 0.68), solid)
    solid = np.where(eye < 0.072, vector(0.01, 0.01, 0.012), solid)
    water = what == FLOOR
    n = np.where(water, bumped(p, n, lambda q: clouds(q * vector(0.9, 1, 2.2), 2), 0.022), n)
    albedo = np.where(water, vector(0.012, 0.03, 0.032), solid)
    return albedo, np.where(water, plain(p, 0.62), 0.045), np.where(water, plain(p, 0), 0.12), n


def reflection():
    spots = (0.5, 0.8, 0.25), (0.9, 1.1, 0.5)
    return Scene(
        duck, ((-1.1, 0, -1.0), (1.2, 1.4, 1.0)), paint_duck,
        lambda d: blurred(d, (0.03, 0.07, 0.03), (0.30, 0.42, 0.33), spots, 9),
        eye=(-0.2, 1.0, 6.0), look_at=(0, 0.28, 0), lamp=(-0.9, 1.3, 0.8), aperture=0.05,
    )  # fmt: skip


SCENES = {
    "still-life": still_life, "two-objects": two_objects, "camouflage": camouflage, "thin": thin, "crowd": crowd,
    "reflection": reflection,
}  # fmt: skip


def main():
    folder = pathlib.Path(__file__).resolve().parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SCENES)}")
    parser.add_argument("-o", "--output", type=pathlib.Path, default=folder, metavar="FOLDER")
    parser.add_argument("--masks", type=pathlib.Path, metavar="FOLDER")
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--samples", type=int, default=32, help="rays per pixel")
    options = parser.parse_args()
    for name in options.names:
        if name not in SCENES:
            parser.error(f"There is no scene `{name}`; there are {', '.join(SCENES)}.")
    for name in options.names or SCENES:
        picture, mask = render(SCENES[name](), options.width, options.samples)
        options.output.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(options.output / f"{name}.jpg", quality=85)
        if options.masks:
            options.masks.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.uint8(mask) * 255).save(options.masks / f"{name}.png")
        print(f"{name}.jpg")


if __name__ == "__main__":
    main()
