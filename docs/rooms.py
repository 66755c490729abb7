"""Draws docs/rooms.png: the rooms of octsod, floor by floor, and a tensor's way through a training step.

    python docs/rooms.py

Rooms, imports and floors are read from the sources, so the left half is true of the code as it is. A room is a folder
of octsod/, or a module that stands there by itself. Its floor is the least one above all that it imports; single
modules that import nothing but each other are the ground. Where each stands on its floor is found by annealing with a
fixed seed: the same sources give the same picture. The right half, the training step, is laid out by hand. Needs
matplotlib.
"""

import ast
import functools
import io
import itertools
import math
import pathlib
import random

ROOT = pathlib.Path(__file__).resolve().parent.parent
SOURCES = {"octsod": ROOT / "octsod", "octsod.kernels": ROOT / "kernels"}  # kernels/ is installed as octsod.kernels
NO_ROOMS = ("octsod", "__main__")  # the package itself and its entry

INK, SOFT, LINE = "#1f2933", "#5b6773", "#8a96a3"
BAND, BOX = ("#f3f5f8", "#e9edf2"), "#ffffff"
HOST, DEVICE, PUT, GET = "#fdf6e3", "#e8f1fb", "#2f6fb0", "#b4451f"

ROOMS_CAPTION = (
    "An arrow is an import; those that other arrows imply are left out. Italics: a single module;\n"
    "those at the bottom serve all floors. backend loads kernels by name, without an import."
)
STEP_CAPTION = "Only get waits for the device. Once halted, nothing\nmoves until the host has read why."


# ----------------------------------------------------------------------------------------------------------------------
# What the sources say
# ----------------------------------------------------------------------------------------------------------------------


def read_modules():
    """Module name -> (whether it is a package, its syntax tree)."""
    modules = {}
    for package, folder in SOURCES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            is_package = parts[-1] == "__init__"
            name = ".".join((package, *(parts[:-1] if is_package else parts)))
            modules[name] = is_package, ast.parse(path.read_text(encoding="utf-8"))
    return modules


def imported(name, is_package, tree, known):
    """The modules of octsod that a module imports, inside of functions, too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "octsod")
        elif isinstance(node, ast.ImportFrom):
            parts = name.split(".")
            above = parts[: len(parts) - node.level + is_package] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            if source.split(".")[0] == "octsod":
                for alias in node.names:
                    full = f"{source}.{alias.name}"
                    yield full if full in known else source


def room_of(module):
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else parts[0]


def read_rooms():
    """(room -> the rooms that it imports, the rooms that are single modules)."""
    modules = read_modules()
    imports = {room_of(name): set() for name in modules}
    for name, (is_package, tree) in modules.items():
        imports[room_of(name)] |= {room_of(target) for target in imported(name, is_package, tree, modules)}
    rooms = {room: targets - {room, *NO_ROOMS} for room, targets in imports.items() if room not in NO_ROOMS}
    return rooms, {room for room in rooms if not modules[f"octsod.{room}"][0]}


def ground_of(rooms, single):
    """The single modules that import nothing but each other, in order of their names."""
    ground = set(single)
    while above := {room for room in ground if rooms[room] - ground}:
        ground -= above
    return sorted(ground)


def floors_of(rooms):
    """Room -> floor, from 0. Raises ValueError if rooms import each other in a circle."""

    @functools.cache
    def floor(room):
        return max((floor(target) + 1 for target in rooms[room]), default=0)

    try:
        return {room: floor(room) for room in rooms}
    except RecursionError:
        raise ValueError("Rooms import each other in a circle.") from None


def essential(rooms):
    """The imports (room, room) to which no way through other rooms leads."""

    @functools.cache
    def below(room):
        return rooms[room].union(*(below(target) for target in rooms[room]))

    return sorted((a, b) for a in rooms for b in rooms[a] if not any(b in below(c) for c in rooms[a] - {b}))


# ----------------------------------------------------------------------------------------------------------------------
# Where to draw the rooms
# ----------------------------------------------------------------------------------------------------------------------


class Layout:
    """Columns of rooms, and of the points where long arrows cross a floor.

    width: how many columns there are. columns: a room, or (room, room, floor) of an arrow that crosses a floor ->
    column. chains: per arrow, its points.
    """

    def __init__(self, floors, arrows):
        self.floors = floors
        self.chains = {(a, b): [a, *((a, b, f) for f in range(floors[a] - 1, floors[b], -1)), b] for a, b in arrows}
        self.points = {}
        for point in itertools.chain(floors, *self.chains.values()):
            self.points.setdefault(self._floor(point), {})[point] = None
        self.points = {floor: list(points) for floor, points in self.points.items()}
        self.width = max(map(len, self.points.values()))
        self.pieces = {}  # by upper floor: the pieces of arrows that go down from it
        for chain in self.chains.values():
            for upper, lower in itertools.pairwise(chain):
                self.pieces.setdefault(self._floor(upper), []).append((upper, lower))
        self.columns = {point: k for points in self.points.values() for k, point in enumerate(points)}

    def _floor(self, point):
        return point[2] if isinstance(point, tuple) else self.floors[point]

    def _cost(self, floor):
        """Of the pieces that go down from a floor: crossings, and how far they lean."""
        cost, spans = 0.0, []
        for upper, lower in self.pieces.get(floor, ()):
            a, b = self.columns[upper], self.columns[lower]
            cost += abs(a - b) ** 1.5 * (1.5 if isinstance(upper, tuple) or isinstance(lower, tuple) else 1)
            spans.append((a, b))
        for (a, b), (c, d) in itertools.combinations(spans, 2):
            cost += 12 * ((a - c) * (b - d) < 0)
        return cost

    def anneal(self, seed, moves=40_000, heat=40.0):
        """Move points, or swap two of a floor, where that helps and, while it is hot, also where it does not; returns
        the cost."""
        rng, floors = random.Random(seed), sorted(self.points)
        cost = least = sum(map(self._cost, floors))
        best = dict(self.columns)
        for move in range(moves):
            floor = rng.choice(floors)
            point, column = rng.choice(self.points[floor]), rng.randrange(self.width)
            was = self.columns[point]
            other = next((p for p in self.points[floor] if self.columns[p] == column), point)
            near = (floor, floor + 1)
            before = sum(map(self._cost, near))
            self.columns[other], self.columns[point] = was, column
            change = sum(map(self._cost, near)) - before
            if change <= 0 or rng.random() < math.exp(-change / (heat * (1 - move / moves) ** 2 + 1e-3)):
                cost += change
                if cost < least - 1e-9:
                    least, best = cost, dict(self.columns)
            else:
                self.columns[other], self.columns[point] = column, was
        self.columns = best
        return least


def arranged(floors, arrows, tries=6):
    """The best of several `Layout`s."""
    layouts = [Layout(floors, arrows) for _ in range(tries)]
    costs = [layout.anneal(seed) for seed, layout in enumerate(layouts)]
    return layouts[costs.index(min(costs))]


# ----------------------------------------------------------------------------------------------------------------------
# Drawing
# ----------------------------------------------------------------------------------------------------------------------


def box(axes, x, y, width, height, text, size=8.5, **style):
    """A box with its centre at (x, y), in inches, and text in it, of `size` points."""
    from matplotlib.patches import FancyBboxPatch

    shape = "round,pad=0,rounding_size=0.05"
    corner = x - width / 2, y - height / 2
    axes.add_patch(FancyBboxPatch(corner, width, height, shape, facecolor=BOX, edgecolor=LINE, linewidth=0.9))
    axes.text(x, y + 0.02, text, ha="center", va="center_baseline", fontsize=size, color=INK, **style)


def path(axes, points, color=SOFT, **style):
    """An arrow through points, upright at each of them."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    vertices, codes = [points[0]], [Path.MOVETO]
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        middle = (y0 + y1) / 2
        vertices += [(x0, middle), (x1, middle), (x1, y1)]
        codes += [Path.CURVE4] * 3
    settings = {"arrowstyle": "-|>", "mutation_scale": 7, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0, **style}
    axes.add_patch(FancyArrowPatch(path=Path(vertices, codes), color=color, **settings))


def bend(axes, points, color=INK, **style):
    """An arrow of straight pieces."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path

    settings = {"arrowstyle": "-|>", "mutation_scale": 8, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0, **style}
    axes.add_patch(FancyArrowPatch(path=Path(points), color=color, joinstyle="round", **settings))


def rectangle(axes, x, y, width, height, fill, edge="none"):
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge, linewidth=0.8))


def draw_rooms(axes, rooms, floors, single, ground, left, right, bottom, top):
    """Floors, the rooms on them, and what they import; single: the rooms that are modules. Those on the ground, which
    are imported everywhere, get no arrows."""
    count, margin = 1 + max(floors.values()), 0.22
    layout = arranged({room: floors[room] for room in rooms}, essential(rooms))
    step, pitch = (top - bottom) / (count + 0.75), (right - left - margin) / layout.width
    wide, high, base = 0.88 * pitch, 0.31, bottom + 0.75 * step

    def centre(point):
        floor = point[2] if isinstance(point, tuple) else floors[point]
        return left + margin + pitch * (layout.columns[point] + 0.5), base + step * (floor + 0.5)

    for floor in range(count):
        low = base + step * floor if floor else bottom
        rectangle(axes, left, low, right - left, base + step * (floor + 1) - low, BAND[floor % 2])
        axes.text(left + 0.07, base + step * (floor + 0.5), floor, va="center", fontsize=8.5, color=SOFT)
    out, into = {}, {}
    for chain in layout.chains.values():
        out.setdefault(chain[0], []).append(chain)
        into.setdefault(chain[-1], []).append(chain)

    def port(chains, chain, neighbour):
        """Arrows share the edge of a room out in the order of where they go."""
        order = sorted(chains, key=lambda c: centre(c[neighbour])[0])
        return 0.17 * (order.index(chain) - (len(order) - 1) / 2)

    for chain in layout.chains.values():
        (x0, y0), *between, (x1, y1) = map(centre, chain)
        first = x0 + port(out[chain[0]], chain, 1), y0 - high / 2
        last = x1 + port(into[chain[-1]], chain, -2), y1 + high / 2 + 0.01
        path(axes, [first, *((x, y + rise) for x, y in between for rise in (0.14, -0.14)), last])
    for room in rooms:
        box(axes, *centre(room), wide, high, room, style="italic" if room in single else "normal")
    pitch = (right - left - margin) / len(ground)
    for k, room in enumerate(ground):
        place = left + margin + pitch * (k + 0.5), bottom + 0.47 * step
        box(axes, *place, 0.94 * pitch, 0.28, room, 6.6, style="italic")


def draw_step(axes, left, right, bottom, top):
    """A tensor's way through a training step: what the host does at the left, what the device does at the right."""
    border, edge = left + 1.16, 0.05
    rectangle(axes, left, bottom, border - edge - left, top - bottom, HOST)
    rectangle(axes, border + edge, bottom, right - border - edge, top - bottom, DEVICE)
    host, device = (left + border - edge) / 2 + 0.04, (border + edge + right) / 2
    narrow, wide = border - edge - left - 0.24, right - border - edge - 0.5
    west, east = device - wide / 2, device + wide / 2
    for x, title in ((host, "the host"), (device, "the device")):
        axes.text(x, top - 0.17, title, ha="center", va="center", fontsize=8.5, color=SOFT, style="italic")

    def stage(x, y, width, title, *lines):
        """A box with a title and smaller lines; returns the height of its upper and lower edge."""
        height = 0.25 + 0.145 * len(lines)
        box(axes, x, y, width, height, "")
        axes.text(x, y + height / 2 - 0.13, title, ha="center", va="center", fontsize=8.5, color=INK)
        for k, line in enumerate(lines):
            axes.text(x, y + height / 2 - 0.285 - 0.145 * k, line, ha="center", va="center", fontsize=7.5, color=SOFT)
        return y + height / 2, y - height / 2

    batch = stage(device, 5.78, wide, "x, y")
    forward = stage(device, 5.2, wide, "forward", "ops call kernels; maps stay", "raw, their norms deferred")
    backward = stage(device, 4.5, wide, "backward", "the graph, its last op first;", "gradients land in their place")
    decay = stage(device, 2.76, wide, "decay_scales", r"gradients of scales += $\lambda_d M \gamma$")
    record = stage(device, 2.24, wide, "record_step", "halts if a number is not finite")
    restore = stage(device, 1.72, wide, "restore_if_halted", "running statistics")
    adam = stage(device, 1.2, wide, "adam", "if it has not halted")
    stages = batch, forward, backward, None, decay, record, restore, adam
    for above, below in itertools.pairwise(stages):
        if above and below:
            bend(axes, [(device, above[1]), (device, below[0])])
    # The flat buffers: a bar each, cut where one parameter ends and the next begins.
    rows, start = {"gradients": 3.87, "moments": 3.59, "parameters": 3.31}, west + 0.7
    cuts = (0, 8, 14, 40, 48, 54, 82, 100)
    for name, y in rows.items():
        for a, b in itertools.pairwise(cuts):
            length = (east - start) / cuts[-1]
            rectangle(axes, start + a * length, y - 0.09, (b - a) * length, 0.18, BOX, LINE)
        axes.text(start - 0.06, y, name, ha="right", va="center", fontsize=7.5, color=INK)
    bend(axes, [(device, backward[1]), (device, rows["gradients"] + 0.1)])
    bend(axes, [(device, rows["parameters"] - 0.1), (device, decay[0])])
    for name in ("parameters", "moments"):
        turn = east + 0.13
        bend(axes, [(east, 1.2), (turn, 1.2), (turn, rows[name]), (east + 0.01, rows[name])])
    # The ring, and the row that this step writes.
    ring, cells = 0.68, 8
    for k in range(cells):
        side = (wide - 0.7) / cells
        rectangle(axes, start + k * side, ring - 0.09, side, 0.18, PUT if k == 2 else BOX, LINE)
    axes.text(start - 0.06, ring, "ring", ha="right", va="center", fontsize=7.5, color=INK)
    bend(axes, [(west, 2.24), (west - 0.12, 2.24), (west - 0.12, 0.93), (start + 2.5 * side, 0.93),
                (start + 2.5 * side, ring + 0.1)])  # fmt: skip

    loader = stage(host, 5.63, narrow, "Loader", "reads and", "augments", "ahead")
    step = stage(host, 3.4, narrow, "Trainer.step", "starts all of", "this, waits", "for nothing")
    sync = stage(host, 0.98, narrow, "sync", "every", "steps_ahead", "steps")
    bend(axes, [(host, loader[1]), (host, step[0])])
    bend(axes, [(host, step[1]), (host, sync[0])])
    loop = left + 0.07
    bend(axes, [(host - narrow / 2, 3.4), (loop, 3.4), (loop, 5.63), (host - narrow / 2, 5.63)])
    bend(axes, [(host + narrow / 2, 5.78), (west, 5.78)], PUT, linewidth=1.8)
    axes.text(border, 5.84, "put", ha="center", va="bottom", fontsize=8.5, color=PUT)
    bend(axes, [(start - 0.34, ring), (host + narrow / 2, ring)], GET, linewidth=1.8)
    axes.text(border, ring - 0.05, "get", ha="center", va="top", fontsize=8.5, color=GET)


def main():
    rooms, single = read_rooms()
    ground = ground_of(rooms, single)
    print(f"{len(rooms) - len(single)} rooms, {len(single)} single modules; the ground: {', '.join(ground)}")
    rooms = {room: targets - set(ground) for room, targets in rooms.items() if room not in ground}
    floors = floors_of(rooms)
    count = 1 + max(floors.values())
    for floor in reversed(range(count)):
        print(f"{floor}: {', '.join(sorted(room for room in rooms if floors[room] == floor))}")

    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot
    from PIL import Image

    width, height, bottom, top = 9, 6.7, 0.45, 6.3
    figure = pyplot.figure(figsize=(width, height), dpi=200)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    draw_rooms(axes, rooms, floors, single, ground, 0.1, 5.3, bottom, top)
    draw_step(axes, 5.5, 8.9, bottom, top)
    for x, title in ((0.1, "The rooms, floor by floor"), (5.5, "A training step")):
        axes.text(x, top + 0.19, title, fontsize=11, color=INK, va="center")
    for x, lines in ((0.1, ROOMS_CAPTION), (5.5, STEP_CAPTION)):
        axes.text(x, bottom - 0.08, lines, fontsize=7.5, color=SOFT, va="top", linespacing=1.25)
    data = io.BytesIO()
    figure.savefig(data)
    picture = Image.open(data).convert("RGB").quantize(128)  # a third of the bytes
    picture.save(pathlib.Path(__file__).with_name("rooms.png"), optimize=True)


if __name__ == "__main__":
    main()
