"""Line charts of a training's log, drawn with Pillow alone."""

import array
import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCALE = 3  # drawn this much larger, then averaged down for smooth lines
WIDTH, HEIGHT = 460, 280  # of a chart, in pixels
LEFT, TOP, RIGHT, BOTTOM = 62, 40, 18, 34  # around its plot
APART = 6  # pixels between two labels of an axis, at least

INK, PALE, GRID = (40, 44, 52), (130, 136, 146), (228, 231, 236)
LARGEST, LEAST = 1e39, 1e-300  # of numbers that are drawn: float32 holds none above; of what an axis spans

BLUE, GREEN, ORANGE, PURPLE = (38, 110, 200), (20, 140, 90), (222, 110, 20), (130, 80, 190)


class Line(NamedTuple):
    """A line through the points (x, y), all finite; `marked` puts a dot on each."""

    x: np.ndarray
    y: np.ndarray
    colour: tuple
    width: float = 1.8
    marked: bool = False


def training_curves(lines: Iterable[Mapping[str, Any]], titles: Mapping[str, str] | None = None) -> np.ndarray:
    """Loss, learning rate, and a chart per score of validation, over the steps: a picture (H, W, 3) uint8.

    lines: of a run's log (`logs.each_line`), which are not kept. titles: what to call the loss and scores, by their
    names. The scores of a moving average are drawn as a pale line. Where the size of pictures changes, there is a mark.
    """
    titles = titles or {}
    marks, validations, columns = [], [], {name: array.array("d") for name in ("step", "loss", "lr")}
    for line in lines:
        if _known(line, "step"):
            if "best" in line:
                validations.append(line)
            if (side := _new_side(line)) is not None:
                marks.append((line["step"], f"{side:.6g} px"))
            if _known(line, "lr") and _known(line, "loss"):
                for name, column in columns.items():
                    column.append(line[name])
    steps, losses, rates = map(np.asarray, columns.values())
    names = list(dict.fromkeys(n for line in validations for n, value in line.items() if isinstance(value, float)))

    def points(source, key) -> tuple[np.ndarray, np.ndarray]:
        return np.array([line["step"] for line in source], float), np.array([line[key] for line in source], float)

    x, loss = _thinned(steps, losses)
    charts = [
        chart(titles.get("loss", "Loss"), [Line(x, loss, _pale(BLUE), 1.2), Line(x, _smoothed(loss), BLUE)], marks),
        chart("Learning rate", [Line(*_thinned(steps, rates), ORANGE)], marks),
    ]
    names = names or [name for name in titles if name != "loss"]
    for name, colour in zip(names, itertools.cycle((GREEN, PURPLE)), strict=False):
        known = [line for line in validations if _known(line, name)]
        others = [(line["step"], line["average"]) for line in known if isinstance(line.get("average"), dict)]
        averaged = [{**scores, "step": step} for step, scores in others if _known(scores, name)]
        drawn = [Line(*points(known, name), colour, marked=True)]
        if averaged:
            drawn.insert(0, Line(*points(averaged, name), _pale(colour), marked=True))
        charts.append(chart(f"Validation: {titles.get(name, name)}", drawn, marks))
    if len(charts) % 2:
        charts.append(np.full_like(charts[0], 255))
    pairs = zip(charts[::2], charts[1::2], strict=True)
    return np.concatenate([np.concatenate(pair, axis=1) for pair in pairs])


def _known(line, name):
    """Whether a line of a log has a number of that name that can be drawn."""
    return isinstance(line.get(name), (int, float)) and abs(line[name]) < LARGEST  # which nan is not


def _new_side(line):
    """The side of pictures, where a line of a log says that it changes; else None."""
    sides = line.get("resized")
    return sides[1] if isinstance(sides, list) and len(sides) == 2 and _known({"side": sides[1]}, "side") else None


def _pale(colour):
    return tuple((c + 2 * 255) // 3 for c in colour)


def chart(title: str, lines: Sequence[Line], marks: Sequence[tuple[float, str]] = ()) -> np.ndarray:
    """Lines over steps from 0, on a common grid: a picture (HEIGHT, WIDTH, 3) uint8. Without any points, it says so.

    marks: (step, words) of thin vertical lines, drawn as far as the other lines go.
    """
    image = Image.new("RGB", (WIDTH * SCALE, HEIGHT * SCALE), "white")
    draw = ImageDraw.Draw(image)
    font = functools.cache(lambda size: ImageFont.load_default(size * SCALE))
    text = lambda x, y, words, anchor, size=12, fill=PALE: draw.text(  # noqa: E731
        (x * SCALE, y * SCALE), words, fill, font(size), anchor
    )
    text(LEFT, TOP / 2, title, "lm", 14, INK)
    if not any(len(line.x) for line in lines):
        text(WIDTH / 2, HEIGHT / 2, "nothing yet", "mm")
        return _averaged(image)
    x_ticks = ticks(0, max(line.x.max() for line in lines), 5)
    y_ticks = ticks(min(line.y.min() for line in lines), max(line.y.max() for line in lines), 5)

    def place(x, y):
        """From values to pixels of the large picture."""
        across, up = ((v - t[0]) / (t[-1] - t[0]) for v, t in ((x, x_ticks), (y, y_ticks)))
        return (
            SCALE * (LEFT + across * (WIDTH - LEFT - RIGHT)), SCALE * (HEIGHT - BOTTOM - up * (HEIGHT - TOP - BOTTOM))
        )  # fmt: skip

    for y in y_ticks:
        draw.line([place(x_ticks[0], y), place(x_ticks[-1], y)], GRID, SCALE)
        text(LEFT - 8, place(0, y)[1] / SCALE, f"{y:.6g}", "rm")
    free = math.inf  # where the label to the right begins: from the last one, others are left out that do not fit
    for x in reversed(x_ticks):
        words = f"{x:.6g}" if x < x_ticks[-1] else f"{x:.6g} steps"
        length = font(12).getlength(words) / SCALE
        right = min(place(x, 0)[0] / SCALE + length / 2, WIDTH - RIGHT)
        if right + APART <= free:
            text(right, HEIGHT - BOTTOM + 14, words, "rm")
            free = right - length
    for x, words in marks:
        if 0 <= x <= x_ticks[-1]:
            ends = [place(x, y_ticks[0]), place(x, y_ticks[-1])]
            draw.line(ends, PALE, 1)
            left = ends[0][0] / SCALE
            text(*((left - 3, TOP, words, "ra") if left > WIDTH / 2 else (left + 3, TOP, words, "la")), 10)
    for line in lines:
        xs, ys = place(line.x, line.y)
        path = list(zip(xs.tolist(), ys.tolist(), strict=True))
        draw.line(path, line.colour, round(line.width * SCALE), "curve")
        if line.marked or len(path) == 1:
            for point in path:
                draw.circle(point, 2.6 * SCALE, line.colour)
    return _averaged(image)


def ticks(low: float, high: float, count: int) -> list[float]:
    """About `count` round numbers, evenly spaced, from at most `low` to at least `high`; at least two."""
    size = max(abs(low), abs(high))
    span = high - low if high - low > 1e-9 * size else size or 1.0  # values that differ only by rounding count as equal
    span = max(span, LEAST)
    step = 10.0 ** math.floor(math.log10(span / count))
    step *= next(factor for factor in (1, 2, 2.5, 5, 10) if factor * step * count >= span * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{k * step:.12g}") for k in range(first, max(last, first + 1) + 1)]


def _averaged(image):
    return np.asarray(image.reduce(SCALE))


def _thinned(x, y, limit=WIDTH) -> tuple[np.ndarray, np.ndarray]:
    """At most `limit` points, each the mean of equally many neighbours."""
    if not len(x):
        return x, y
    starts = np.arange(0, len(x), -(-len(x) // limit))
    counts = np.diff([*starts, len(x)])
    return np.add.reduceat(x, starts) / counts, np.add.reduceat(y, starts) / counts


def _smoothed(y):
    """The mean over a window of a twentieth of all points."""
    window = np.ones(max(len(y) // 20, 1))
    return np.convolve(y, window, "same") / np.convolve(np.ones(len(y)), window, "same") if len(y) else y
