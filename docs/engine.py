"""Draws the pictures of guides/engine.md: the graph that ops record, a kernel's way to its device, and how often a map
crosses the memory bus, op by op and with deferred normalisation.

    python docs/engine.py

Needs matplotlib.
"""

import contextlib
import io
import pathlib

from rooms import BAND, DEVICE, GET, HOST, INK, PUT, SOFT, bend, box, rectangle

WIDTH = 7.2  # inches, about those of a page's column


def words(axes, x, y, text, size=8.5, color=INK, **style):
    axes.text(x, y, text, **{"ha": "center", "va": "center", "fontsize": size, "color": color, **style})


def block(axes, x, y, width, title, *lines):
    """A box with a title and smaller lines below it; returns the height of its upper and lower edge."""
    height = 0.28 + 0.155 * len(lines)
    box(axes, x, y, width, height, "")
    words(axes, x, y + height / 2 - 0.145, title)
    for k, line in enumerate(lines):
        words(axes, x, y + height / 2 - 0.31 - 0.155 * k, line, 7.5, SOFT)
    return y + height / 2, y - height / 2


def draw_tape(axes, left, right, bottom, top):
    """Forward in the upper row, what it records in the lower one."""
    rectangle(axes, left, bottom, right - left, top - bottom, BAND[0])
    forward, nodes, wide = top - 0.5, bottom + 0.98, 1.06
    columns = [left + 1.32 + k * (right - left - 1.96) / 3 for k in range(4)]
    for y, name in ((forward, "forward"), (nodes, "recorded")):
        words(axes, left + 0.1, y, name, 8.5, SOFT, ha="left", style="italic")
    ops = ("Conv2d", "BatchNormPReLU", "Conv2d", "loss")
    kept = (("x,", "weight"), ("raw map,", "mean, deviation"), ("Deferred map,", "weight"), ("logits,", "mask"))
    leaves = ("weight.grad", "weight, bias, slope .grad", "weight.grad", "")
    for k, (x, op, lines, leaf) in enumerate(zip(columns, ops, kept, leaves, strict=True)):
        above = block(axes, x, forward, wide, "")[1]
        words(axes, x, forward, op, 8 if len(op) < 10 else 7)
        high, low = block(axes, x, nodes, wide, "Node", *lines)
        bend(axes, [(x, above), (x, high)], SOFT, linestyle=(0, (3, 2)), linewidth=0.9)
        if k:
            before = columns[k - 1] + wide / 2
            bend(axes, [(before, forward), (x - wide / 2, forward)], PUT, linewidth=1.8)
            bend(axes, [(x - wide / 2, nodes), (before, nodes)], GET, linewidth=1.8)
        if leaf:
            words(axes, x, bottom + 0.2, leaf, 7.5, GET)
            bend(axes, [(x, low), (x, bottom + 0.3)], GET)


def draw_devices(axes, left, right, bottom, top):
    rectangle(axes, left, bottom, right - left, top - bottom, DEVICE)
    middle = (left + right) / 2
    op = block(axes, middle, top - 0.4, 1.9, "Conv2d.forward", "calls kernels.conv2d(...)")
    current = block(axes, middle, top - 1.22, 1.9, "current device", "that of the op's inputs")
    bend(axes, [(middle, op[1]), (middle, current[0])], INK)
    pitch = 1.2
    for k, (device, by) in enumerate((("reference", "NumPy"), ("cpu", "Numba"), ("cuda:0", "CUDA C"))):
        x = middle + pitch * (k - 1)
        high = block(axes, x, bottom + 0.42, pitch - 0.1, device, by)[0]
        bend(axes, [(middle, current[1]), (middle, high + 0.2), (x, high + 0.2), (x, high)], INK)


# What runs, which maps it reads, and which it writes. Maps have numbers, their places in memory.
OP_BY_OP = (
    ("conv", (), (0,)),
    ("norm:\nstatistics", (0,), ()),
    ("norm", (0,), (1,)),
    ("PReLU", (1,), (2,)),
    ("next conv", (2,), ()),
    ("next conv,\nbackward", (2,), (3,)),
    ("PReLU,\nbackward", (1, 3), (4,)),
    ("norm:\nsums of\ngradient", (0, 4), ()),
    ("norm,\nbackward", (0, 4), (5,)),
    ("conv:\ngradient\nof input", (5,), ()),
    ("conv:\ngradient\nof weight", (5,), ()),
)
DEFERRED = (
    ("conv, with\nstatistics", (), (0,)),
    ("next conv:\nnorm and PReLU\nwhile loading", (0,), ()),
    ("next conv,\nbackward, with\nsums of gradient", (0,), (1,)),
    ("conv, backward:\nits gradient formed\nwhile loading", (0, 1), ()),
)
GRADIENT = "gradient\nof "
MAPS = "raw", "normed", "activated", GRADIENT + "activated", GRADIENT + "normed", GRADIENT + "raw"


def draw_crossings(axes, left, right, bottom, top, title, ops, maps, places):
    """What runs above, the maps in memory below, and an arrow for each time that a whole map is read or written."""
    rectangle(axes, left, bottom, right - left, top - bottom, HOST)
    memory = bottom + 0.36
    rectangle(axes, left, bottom, right - left, 0.72, BAND[1])
    words(axes, left + 0.1, top - 0.19, title, 8.5, INK, ha="left")
    words(axes, left + 0.1, bottom + 0.36, "memory", 8.5, SOFT, ha="left", style="italic")
    start, end = left + 0.68, right - 0.04
    pitch = (end - start) / len(ops)
    wide = min(0.93 * pitch, 1.32)
    high = 0.62 if len(ops) < 6 else 0.46
    row = top - 0.42 - high / 2
    spots = {number: start + (end - start) * place for number, place in places.items()}
    for number, x in spots.items():
        box(axes, x, memory, 0.86, 0.5, maps[number], 7.5)
    crossings = 0
    used = dict.fromkeys(spots, 0)
    total = {n: sum((n in reads) + (n in writes) for _, reads, writes in ops) for n in spots}
    for k, (name, reads, writes) in enumerate(ops):
        x = start + pitch * (k + 0.5)
        box(axes, x, row, wide, high, name, 6.6 if len(ops) > 6 else 7.5, linespacing=1.05)
        arrows = [(n, False) for n in reads] + [(n, True) for n in writes]
        for j, (number, writing) in enumerate(arrows):
            offset = 0.2 * (j - (len(arrows) - 1) / 2)
            place = 0.15 * (used[number] - (total[number] - 1) / 2)
            used[number] += 1
            crossings += 1
            a, b = (x + offset, row - high / 2), (spots[number] + place, memory + 0.25)
            line(axes, *((a, b) if writing else (b, a)), PUT if writing else GET)
    words(axes, right - 0.1, top - 0.19, f"{crossings} crossings, {len(spots)} maps in memory", 8.5, INK, ha="right")


def line(axes, start, end, color):
    bend(axes, [start, end], color, linewidth=1.0, mutation_scale=7)


@contextlib.contextmanager
def picture(name, height):
    """Axes to draw on, in inches; the file is written afterwards."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from PIL import Image

    figure = pyplot.figure(figsize=(WIDTH, height), dpi=220)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height))
    axes.axis("off")
    yield axes
    data = io.BytesIO()
    figure.savefig(data)
    drawn = Image.open(data).convert("RGB").quantize(128)  # a third of the bytes
    drawn.save(pathlib.Path(__file__).parent / "guides" / name, optimize=True)


def main():
    left, right = 0.04, WIDTH - 0.04
    with picture("tape.png", 2.8) as axes:
        draw_tape(axes, left, right, 0.06, 2.74)
    places = {0: 0.07, 1: 0.26, 2: 0.43, 3: 0.57, 4: 0.74, 5: 0.93}
    with picture("deferred.png", 5.0) as axes:
        draw_crossings(axes, left, right, 2.5, 4.94, "op by op", OP_BY_OP, MAPS, places)
        draw_crossings(axes, left, right, 0.06, 2.38, "deferred", DEFERRED, (MAPS[0], MAPS[3]), {0: 0.3, 1: 0.72})
    with picture("devices.png", 2.5) as axes:
        draw_devices(axes, left, right, 0.06, 2.44)


if __name__ == "__main__":
    main()
