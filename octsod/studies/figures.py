"""The paper's figures of networks in training, and curves of scores, drawn with matplotlib (`pip install matplotlib`).

Each function takes `history.History`s, a sweep's points or `metrics.Scores`, and returns a `matplotlib.figure.Figure`;
`plots.write` applies the common style and writes it.
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..evaluation.metrics import Scores
from ..models.configuration import block_layer
from ..pictures.plots import COLOURS, GREY, PALE, escaped, new_figure
from ..prune.scales import HIGHEST, LOWEST, bin_edges
from .history import POWERS, History, block_channels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MARKERS = "osD^vP"
LAMBDAS = {
    "weight_decay": r"Numbers: $\lambda$ of ordinary weight decay",
    "decay_strength": r"Numbers: $\lambda_d$ of dynamic weight decay",
}
SCALES = ("High resolution", "Low resolution")


def _looks():
    """Colour and marker of each run."""
    return zip(itertools.cycle(COLOURS), itertools.cycle(MARKERS), strict=False)


def gammas(histories: Sequence[History]) -> "Figure":
    """The distribution of |gamma| (paper, figure 5), a row per run: at the last record, and epoch by epoch.

    Each run needs a record of scales: `History.counts`.
    """
    edges = bin_edges()
    figure, plots = new_figure(9, 0.6 + 2.3 * len(histories), len(histories), 2, sharex=True, width_ratios=(1.5, 1))
    everything = np.array([counts for h in histories for counts in h.gammas.values()])
    used, most = np.flatnonzero(everything.any(axis=0)), max(everything.max(), 10)
    low, high = max(min(edges[used[0]] / 10, 1e-4), edges[0]), min(max(edges[used[-1] + 1] * 10, 1e1), edges[-1])
    decades = np.log10(high / low)
    ticks = 10.0 ** np.arange(LOWEST, HIGHEST + 1, 10 if decades > 20 else 5 if decades > 8 else 1)
    for (final, course), history, (colour, _) in zip(plots, histories, _looks(), strict=False):
        final.stairs(history.counts, edges, fill=True, color=colour)
        final.set(xscale="log", xticks=ticks, xlim=(low, high), yscale="log", ylim=(0.7, 2 * most))
        final.set_ylabel("number of scales")
        final.minorticks_off()
        below = history.summary()["below"]
        shares = ",  ".join(f"{100 * below[f'1e{power}']:.1f} % below $10^{{{power}}}$" for power in POWERS)
        _head(final, escaped(history.name), shares)
        for power in POWERS:
            final.axvline(10.0**power, color=PALE, linewidth=0.8, linestyle=(0, (4, 3)))
        epochs, counts = list(history.gammas), np.array(list(history.gammas.values()))
        ends = np.array([epochs[0] - 1, *epochs]) + 0.5
        mesh = course.pcolormesh(edges, ends, np.where(counts, counts, np.nan), norm="log", cmap="viridis_r")
        mesh.set_clim(1, most)
        course.set_ylabel("epoch")
        course.locator_params(axis="y", integer=True, min_n_ticks=1)
        course.minorticks_off()
        course.grid(False)
        _head(course, "", "epoch by epoch")
    figure.colorbar(mesh, ax=plots[:, 1], label="number of scales", aspect=15 * len(histories))
    for plot in plots[-1]:
        plot.set_xlabel(r"$|\gamma|$" + ("  (zeros at the left end)" if used[0] == 0 else ""))
    return figure


def _head(plot, title, words):
    """Add a title, and a line of words between it and the plot."""
    plot.set_title(title, pad=18)
    plot.text(0, 1.03, words, transform=plot.transAxes, va="bottom", fontsize=8.5)


def spreads(histories: Sequence[History]) -> "Figure":
    """The standard deviation of outputs among channels (paper, figure 4), layer by layer, a plot per scale.

    Each run needs a record of spreads.
    """
    layers = list(dict.fromkeys(layer for h in histories for layer, _ in h.spreads))
    layers.sort(key=lambda layer: block_layer(layer) or ())
    branches = sorted({branch for h in histories for _, branch in h.spreads})
    figure, plots = new_figure(9, 0.8 + 2.1 * len(branches), len(branches), 1, sharex=True, sharey=True)
    for plot, branch in zip(plots[:, 0], branches, strict=True):
        for history, (colour, marker) in zip(histories, _looks(), strict=False):
            y = [history.spreads.get((layer, branch), np.nan) for layer in layers]
            label = f"{escaped(history.name)} (mean of all {history.summary()['spread']:.3g})"
            plot.plot(y, color=colour, marker=marker, markersize=3.2, linewidth=1.3, label=label)
        plot.set(title=_scale(branch, branches), ylabel="standard deviation\namong channels")
    plots[0, 0].set_ylim(bottom=0)
    _mark_stages(plots[:, 0], [place and place[0] for place in map(block_layer, layers)])
    plots[-1, 0].set_xlabel("layers in order: the three convolutions of each block")
    _legend(plots[0, 0])
    return figure


def _scale(branch, branches):
    return SCALES[branch] if max(branches) < len(SCALES) else f"Scale 1/{2**branch}"


def _mark_stages(plots, stages):
    """Draw lines between the stages of what stands at 0, 1, 2, ..., and write their names below; None is no stage."""
    starts = [i for i, stage in enumerate(stages) if i == 0 or stage != stages[i - 1]]
    middles = [(start + end - 1) / 2 for start, end in itertools.pairwise([*starts, len(stages)])]
    for plot in plots:
        plot.set(xlim=(-0.7, len(stages) - 0.3), xticks=middles)
        plot.set_xticklabels(["" if stages[start] is None else f"stage {stages[start]}" for start in starts])
        plot.tick_params(axis="x", length=0)
        for start in starts[1:]:
            plot.axvline(start - 0.5, color=GREY, linewidth=1)


def _legend(plot):
    """Add a legend beside the plot's title, where it hides nothing, in as many columns as there is room for."""
    longest = max(map(len, plot.get_legend_handles_labels()[1]))
    columns = max(110 // (longest + 6), 1)  # characters of its size that fit beside a title
    plot.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=columns, borderpad=0, columnspacing=1.5)


def channels(histories: Sequence[History]) -> "Figure":
    """Channels per block and scale (paper, figure 10): the full network in grey, what is left in colour.

    Each run needs both of its configurations.
    """
    before, after = ([block_channels(getattr(h, name)) for h in histories] for name in ("full", "learned"))
    blocks = sorted({place for run in before for place in run})
    branches = range(max(len(counts) for run in before for counts in run.values()))
    figure, plots = new_figure(9, 0.9 + 1.9 * len(branches), len(branches), 1, sharex=True, sharey=True)
    width = 0.8 / len(histories)
    for plot, branch in zip(plots[:, 0], branches, strict=True):
        for i, (history, (colour, _)) in enumerate(zip(histories, _looks(), strict=False)):
            at = np.arange(len(blocks)) - 0.4 + (i + 0.5) * width
            full, left = ([_count(run[i].get(block, ()), branch) for block in blocks] for run in (before, after))
            plot.bar(at, full, width, color=GREY, label=None if i else "full network")
            whole, rest = history.summary()["channels"]
            plot.bar(at, left, 0.86 * width, color=colour, label=f"{escaped(history.name)} ({rest} of {whole})")
        plot.set(title=_scale(branch, branches), ylabel="channels")
    plots[0, 0].locator_params(axis="y", integer=True)
    _mark_stages(plots[:, 0], [stage for stage, _ in blocks])
    plots[-1, 0].set_xlabel("blocks of the feature extractor in order")
    _legend(plots[0, 0])
    return figure


def _count(channels, branch):
    return channels[branch] if branch < len(channels) else 0


def mae(histories: Sequence[History]) -> "Figure":
    """Mean absolute error in validation, per epoch (paper, figure 14). Each run needs at least one validated epoch."""
    figure, ((plot,),) = new_figure(6.5, 3.8)
    for history, (colour, marker) in zip(histories, _looks(), strict=False):
        epochs, values = list(history.mae), list(history.mae.values())
        every = max(len(epochs) // 15, 1)
        plot.plot(epochs, values, color=colour, marker=marker, markevery=every, label=escaped(history.name))
        if history.pruned is not None:
            plot.axvline(history.pruned + 0.5, color=colour, linewidth=1, linestyle=":", label="pruned")
    plot.set(xlabel="epoch", ylabel="mean absolute error of validation")
    plot.set_xlim(0, max(max(h.mae) for h in histories) + 1)
    plot.locator_params(axis="x", integer=True)
    plot.legend()
    return figure


def sweep(rows: Sequence[Mapping[str, Any]], varied: str) -> "Figure":
    """Performance against complexity (paper, figure 13): max F-measure over MACs and over parameters, a line per decay.

    rows: points of a sweep, dicts with decay, lambda, macs, parameters and max_f. varied: the setting that lambda is.
    """
    figure, (plots,) = new_figure(9, 3.6, 1, 2, sharey=True)
    kinds = list(dict.fromkeys(row["decay"] for row in rows))
    for kind, (colour, marker) in zip(kinds, _looks(), strict=False):
        points = sorted((row for row in rows if row["decay"] == kind), key=lambda row: row["lambda"])
        for plot, cost, unit in zip(plots, ("macs", "parameters"), (1e6, 1e3), strict=True):
            x, y = [row[cost] / unit for row in points], [row["max_f"] for row in points]
            plot.plot(x, y, color=colour, marker=marker, label=f"{kind} decay")
            for row, *place in zip(points, x, y, strict=True):  # lines tend to rise: there is room below, to the right
                below = {"xytext": (3, -10), "textcoords": "offset points"}
                plot.annotate(f"{row['lambda']:g}", place, **below, fontsize=8, color=colour)
    plots[0].set(xlabel="multiply-accumulates at 224x224 (millions)", ylabel="max F-measure")
    plots[1].set(xlabel="parameters (thousands)")
    for plot in plots:
        plot.margins(0.15)
    plots[0].set_title(LAMBDAS[varied])
    _legend(plots[1])
    return figure


def curves(scores: Scores) -> "Figure":
    """Precision over recall, and the F-measure over the threshold; the point of max F is marked in both.

    scores: a data set's, such as `Evaluation.scores`, or a picture's.
    """
    figure, ((plane, course),) = new_figure(9, 4.2, 1, 2)
    best = scores.threshold
    precision, recall, f = (float(curve[best]) for curve in (scores.precision, scores.recall, scores.f))
    # Where no map has anything above the threshold, as at 255, precision is 1: a line to that point would promise more
    # than any threshold achieves.
    some = scores.recall > scores.recall[-1]
    plane.plot(scores.recall[some], scores.precision[some], color=COLOURS[0])
    plane.set(xlabel="recall", ylabel="precision", xlim=(0, 1.01))
    _mark(plane, recall, precision)
    _head(plane, "Precision over recall", f"at max F: precision {precision:.3f}, recall {recall:.3f}")
    course.plot(scores.f, color=COLOURS[0])
    course.set(xlabel="threshold", ylabel="F-measure", xlim=(0, 258), xticks=[0, 50, 100, 150, 200, 255])
    _mark(course, best, f)
    _head(course, "F-measure over threshold", f"max F {f:.4f} at threshold {best}")
    for plot in (plane, course):
        plot.set(ylim=(0, 1.01), yticks=np.linspace(0, 1, 6))
    return figure


def _mark(plot, x, y):
    """Put a dot on a point, and thin lines from there to both axes."""
    plot.plot([0, x, x], [y, y, 0], color=PALE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    plot.plot(x, y, "o", color=COLOURS[1], markersize=7, clip_on=False, zorder=3)
