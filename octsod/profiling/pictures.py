"""A profile as pictures, drawn with matplotlib (`pip install matplotlib`): kernels under their roofs, shares of layers.

Both functions return a `matplotlib.figure.Figure`; `octsod.pictures.plots.write` writes it as PNG or SVG. They are made
to be read at 900 pixels of width.
"""

import math
import os
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..checks import printable, require, shortened
from ..pictures.plots import COLOURS, GREY, INK, PALE, escaped, new_figure
from .groups import (
    ARITHMETIC,
    CACHES,
    LAUNCHES,
    MEMORY,
    OWN_CODE,
    Group,
    added,
    grouped,
    matching,
    median,
    require_whole,
    typical,
)
from .results import Profile, Roofs, Row
from .verdicts import large, milliseconds, number, percent, round_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LABELLED = 12  # points
MOST_BARS = 24
LARGEST = 1500  # area of the largest point, in square points
HEIGHT = 6.8  # of a roofline's plot with all that belongs to it, in inches
WIDTH, PLOT, LABELS = 9.0, 0.52, 0.575  # of the figure in inches; where the plot ends, where labels begin
LINE = 54  # characters that fit in a label's line
SIZE, SPACING = 8, 1.2  # of a label's letters, in points; of its lines, in letters
NOTE = 7  # size of the letters of what else there is to say
SMALL = 0.002  # of a round: kernels that take less are no points

OF_BOUND = {MEMORY: COLOURS[0], CACHES: COLOURS[5], ARITHMETIC: COLOURS[1], LAUNCHES: COLOURS[2], OWN_CODE: COLOURS[3]}
OF_PHASE = {
    "forward": COLOURS[0], "backward": COLOURS[1], "predict": COLOURS[5], "step": COLOURS[2], "": COLOURS[3],
    "outside of kernels": GREY,
}  # fmt: skip


def roofline(profile: Profile, filter: str = "") -> "Figure":
    """Kernels under the roofs that were measured: operations per second over operations per byte, a plot per device.

    A point is a kernel with its shapes, as large as its share; the dozen with the largest shares are labelled. What
    stays in caches by construction, as most of a prediction does, has no traffic: it stands at the right edge. Kernels
    without arithmetic, those whose cost nobody knows, and those whose cost is wrong have no place there; how much time
    they take is said. filter: only rows that hold this text. Raises ValueError if there are none, and if no device's
    roofs were measured.
    """
    _require_rows("roofline", profile, filter)
    require(len(profile.roofs) > 0, "roofline", "profile", "has no roofs", "those that were measured with it")
    found = grouped(profile, "kernel", "time", filter)
    devices = {roof.device: roof for roof in profile.roofs}
    on = {device: [group for group in found if [*group.devices] == [device]] for device in devices}
    on = {device: own for device, own in on.items() if own} or {device: [] for device in [*devices][:1]}
    height = HEIGHT * len(on)
    figure, plots = new_figure(WIDTH, height, len(on), 1, layout=None)
    figure.subplots_adjust(0.075, 0.6 / height, PLOT, 1 - 0.62 / height, hspace=0.22)
    for plot, (device, own) in zip(plots[:, 0], on.items(), strict=True):
        _roofline(plot, devices[device], own, round_name(profile))
    figure.text(0.012, 1 - 0.1 / height, _head(profile), fontsize=10, weight="bold", va="top")
    return figure


def _require_rows(op, profile, filter):
    """Raise ValueError for a filter that no row holds, such as the name of a file to write."""
    if isinstance(filter, os.PathLike) or str(filter).casefold().endswith((".png", ".svg")):
        path = os.fspath(filter)
        raise ValueError(
            f"{op}: `filter` is {path!r}, the name of a file; expected text that rows hold. To write the figure: "
            f"`{op}(result).savefig({path!r})`."
        )
    if filter:
        held = matching(profile.rows, filter)
        require(len(held) > 0, op, "filter", f"is {shortened(repr(filter), 60)}", "text that some row holds")


def _head(profile):
    return escaped(textwrap.fill(shortened(printable(profile.subject), 200), 110))


def _roofline(plot, roof: Roofs, found: Sequence[Group], whole: str):
    known = [g for g in found if g.gain is not None and g.flops and g.share >= SMALL]
    rates = [group.flop_rate or 0 for group in known]
    ridge = roof.arithmetic / roof.bandwidth
    measured = [group.intensity for group in known if group.intensity]
    low, high = min([*measured, ridge / 16]) / 2, max([*measured, ridge * 2]) * 2
    edge = high * (high / low) ** 0.06  # where what has no traffic stands
    points = [(group.intensity or edge, (group.flop_rate or 0) / 1e9) for group in known]
    if len(measured) < len(known):
        plot.axvline(high, color=PALE, linewidth=0.8, linestyle=":")
        plot.text(edge, 0.01, "in caches", transform=_above(plot), rotation=90, ha="center", va="bottom", fontsize=8)
        high = edge * edge / high
    bottom = min([*rates, roof.bandwidth * low, roof.arithmetic / 100]) / 1e9 / 2
    top = roof.arithmetic / 1e9
    plot.set(xscale="log", yscale="log", xlim=(low, high), ylim=(bottom, top * 2.2))
    plot.set(xlabel="floating-point operations per byte", ylabel="GFLOP/s")
    plot.grid(True, which="major", axis="both")
    plot.minorticks_off()
    plot.plot([ridge, high], [top, top], color=INK, linewidth=1.4)
    threads = f", {roof.threads} threads" if roof.threads > 1 else ""
    plot.set_title(escaped(f"{printable(roof.device)}{threads}: kernels under their roofs"), pad=6)
    plot.text(high, top * 1.06, f"{number(top)} GFLOP/s in multiply-adds ", ha="right", va="bottom", fontsize=9)
    _along(plot, max(low, bottom * 1e9 / roof.bandwidth), ridge, roof)
    for cache in roof.caches:
        ends = np.array([max(low, bottom * 1e9 / cache.bandwidth), max(low, roof.arithmetic / cache.bandwidth)])
        plot.plot(ends, cache.bandwidth / 1e9 * ends, color=PALE, linewidth=0.7, zorder=1)
    sizes = [max(LARGEST * group.share, 12) for group in known]
    colours = [OF_BOUND.get(group.bound, PALE) for group in known]
    if points:
        plot.scatter(
            *zip(*points, strict=True), sizes, colours, alpha=0.75, linewidths=0.8, edgecolors="white", zorder=3
        )
    _label(plot, list(zip(known, points, strict=True))[:LABELLED], whole)
    _legend(plot, {group.bound for group in known})
    words = []
    if roof.caches:
        told = [f"{number(cache.bandwidth, 1e-9)} GB/s up to {large(cache.bytes)}B" for cache in roof.caches]
        words.append(f"Thin lines: in caches, {', '.join(told)}.")
    if left := [group for group in found if group not in known]:
        seconds = milliseconds(math.fsum(group.time for group in left))
        wrong = sum(1 for group in left if group.wrong)
        said = f"Not shown: {seconds} in Python, in small kernels, or of a cost that is unknown or without arithmetic"
        words.append(said + f"; {wrong} kernel{'s' * (wrong > 1)} with an error of the cost" * (wrong > 0))
    text = "\n".join(textwrap.fill(line, LINE * SIZE // NOTE) for line in words)
    plot.text(LABELS, 0, text, fontsize=NOTE, color=PALE, va="top", transform=_across(plot))


def _across(plot):
    """Coordinates: x of the whole figure, y of a plot."""
    from matplotlib.transforms import blended_transform_factory

    return blended_transform_factory(plot.figure.transFigure, plot.transAxes)


def _above(plot):
    """Coordinates: x of the data, y of a plot."""
    return plot.get_xaxis_transform()


def _along(plot, start, end, roof):
    """The roof of copying, and its bandwidth written along it, below it: above it are those of caches."""
    rate = roof.bandwidth / 1e9
    plot.plot([start, end], [rate * start, rate * end], color=INK, linewidth=1.4)
    x = start * (end / start) ** 0.42
    (left, low), (right, high) = plot.transData.transform([(start, rate * start), (end, rate * end)])
    plot.annotate(
        f"{number(rate)} GB/s copied", (x, rate * x), (3, -5), fontsize=9, textcoords="offset points", ha="center",
        va="top", rotation=math.degrees(math.atan2(high - low, right - left)), rotation_mode="anchor",
    )  # fmt: skip


def _label(plot, shown: Sequence[tuple[Group, tuple[float, float]]], whole):
    """Write labels in a column beside the plot, each with a line to its point, and as near to its height as there is
    room."""
    shown = sorted(shown, key=lambda item: (-item[1][1], -item[1][0]))
    labels, points = [], [point for _, point in shown]
    for group, _ in shown:
        name = textwrap.wrap(shortened(printable(group.name), 2 * LINE - 10), LINE)[:2]
        time = f"{milliseconds(group.time)}, {percent(group.share)} of the {whole}"
        labels.append([*map(escaped, name), f"{time}; {percent(group.roof_share or 0)} of its roof"])
    low, high = np.log(plot.get_ylim())
    height = 72 * plot.figure.get_figheight() * plot.get_position().height
    heights = [(SIZE * SPACING * len(label) + 4) / height for label in labels]
    places = apart([(math.log(rate) - low) / (high - low) for _, rate in points], heights)
    across = _across(plot)
    for (group, point), label, y in zip(shown, labels, places, strict=True):
        line = {"arrowstyle": "-", "color": OF_BOUND.get(group.bound, PALE), "linewidth": 0.7, "alpha": 0.6}
        plot.annotate(
            "", point, (LABELS - 0.008, y), textcoords=across, annotation_clip=False,
            arrowprops={**line, "shrinkA": 0, "shrinkB": 2},
        )  # fmt: skip
        plot.text(LABELS, y, "\n".join(label), transform=across, va="center", fontsize=SIZE, linespacing=SPACING)


def apart(wanted: Sequence[float], heights: Sequence[float]) -> list[float]:
    """Where to put the middles of labels between 0 and 1, so that they don't overlap: as wanted, as far as there is
    room. wanted: from the top to the bottom."""
    places, above = [], 1.0
    for middle, height in zip(wanted, heights, strict=True):
        places.append(min(middle, above - height / 2))
        above = places[-1] - height / 2
    below = 0.0
    for i in reversed(range(len(places))):  # what has been pushed below the bottom pushes others up again
        places[i] = max(places[i], below + heights[i] / 2)
        below = places[i] + heights[i] / 2
    return places


def _legend(plot, bounds):
    from matplotlib.lines import Line2D

    marks = [
        Line2D([], [], marker="o", linestyle="", color=colour, label=bound, markersize=6)
        for bound, colour in OF_BOUND.items()
        if bound in bounds
    ]
    if marks:
        plot.legend(
            handles=marks, title="bound by", loc="lower left", bbox_to_anchor=(LABELS, 1.0), ncols=3, borderpad=0,
            bbox_transform=_across(plot), handletextpad=0, columnspacing=1, alignment="left", borderaxespad=0.2,
        )  # fmt: skip


def shares(profile: Profile, filter: str = "") -> "Figure":
    """What share of a round each group of layers takes, in the order of their first launches: a bar per group, forward
    and backward beside each other.

    Layers are put together by the beginnings of their paths, as far as there is room. filter: only rows that hold this
    text; if there are none, that is a ValueError.
    """
    require_whole(profile)
    _require_rows("shares", profile, filter)
    rows = [row for row in matching(profile.rows, filter) if not row.beside]
    bars = _bars(rows)
    whole = typical(profile, profile.rounds)
    times = {
        name: {phase: typical(profile, added(own, len(profile.rounds))) / whole for phase, own in parts.items()}
        for name, parts in bars.items()
    }
    figure, ((plot,),) = new_figure(WIDTH, 1.3 + 0.27 * max(len(times), 2))
    left = np.zeros(len(times))
    used = [phase for phase in OF_PHASE if any(phase in parts for parts in times.values())]
    others = dict.fromkeys(phase for parts in times.values() for phase in parts if phase not in OF_PHASE)
    for phase in [*used, *others]:
        widths = np.array([parts.get(phase, 0.0) for parts in times.values()])
        label = {"step": "optimiser and hooks", "": "no phase"}.get(phase, phase)
        colour = OF_PHASE.get(phase, PALE)
        plot.barh(range(len(times)), 100 * widths, 0.74, 100 * left, color=colour, label=escaped(label))
        left += widths
    for i, share in enumerate(left):
        plot.text(100 * share, i, f" {percent(share)}, {milliseconds(share * whole)}", va="center", fontsize=8.5)
    plot.set_yticks(range(len(times)), [escaped(shortened(printable(name), 40)) for name in times])
    plot.set(ylim=(len(times) - 0.4, -0.6), xlim=(0, 118 * max([*left, 1e-9])))
    plot.set_xlabel(f"% of the {round_name(profile)} ({milliseconds(whole)})")
    plot.grid(True, axis="x")
    plot.grid(False, axis="y")
    plot.tick_params(axis="y", length=0)
    plot.set_title(_head(profile), pad=20)
    if times:
        plot.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=6, borderpad=0, columnspacing=1.5, handlelength=1.2)
    return figure


def _bars(rows: Sequence[Row]) -> dict[str, dict[str, list[Row]]]:
    """Name of a group of layers -> phase -> rows."""
    depth = max((row.layer.count(".") + 1 for row in rows), default=1)
    while depth > 1 and len({_beginning(row, depth) for row in rows}) > MOST_BARS:
        depth -= 1
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        phase = row.phase if row.kernel else "outside of kernels"
        found.setdefault(_beginning(row, depth), {}).setdefault(phase, []).append(row)
    if len(found) > MOST_BARS:  # even by the first words of their paths
        rest: dict[str, list[Row]] = {}
        by_size = sorted(found, key=lambda name: -sum(median(r.seconds) for own in found[name].values() for r in own))
        for name in by_size[MOST_BARS - 1 :]:
            for phase, own in found.pop(name).items():
                rest.setdefault(phase, []).extend(own)
        found[f"{len(by_size) - MOST_BARS + 1} others"] = rest
    return found


def _beginning(row, depth):
    if not row.layer:
        return "optimiser and hooks" if row.phase == "step" else "outside of layers"
    return ".".join(row.layer.split(".")[:depth])
