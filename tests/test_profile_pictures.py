"""Pictures of profiles: what is drawn where, and labels that can be read."""

import dataclasses
import itertools
import math
import pathlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from profiles import CPU, profile, row, typical

from octsod.pictures import plots
from octsod.profiling import Cache, Roofs, roofline, shares
from octsod.profiling.pictures import apart

matplotlib = pytest.importorskip("matplotlib", reason="needs the matplotlib package")


@pytest.fixture(autouse=True)
def style():
    """As `plots.write` draws."""
    with plots.require_matplotlib().style.context(["default", plots.STYLE]):
        yield


def many(count=30):
    """Kernels with long names, most of them in about the same place."""
    shapes = "{0}@112+{0}@56 -> {0}@112+{0}@56, 3x3, with sums, stride 2"
    return profile(*(
        row(f"octave_conv2d_backward_{i}", shapes.format(i), (10.0 + i,) * 3, flops=300_000_000 + i, bytes=50_000_000,
            layer=f"net.stages.{i % 4}.{i}", phase=("forward", "backward")[i % 2])
        for i in range(count)
    ))  # fmt: skip


def boxes(figure):
    """(text, its box in pixels) of everything written in a figure."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.text import Text

    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    ticks = [(tick, *sorted(axis.get_view_interval())) for plot in figure.axes for axis in (plot.xaxis, plot.yaxis)
             for tick in axis.get_major_ticks()]  # fmt: skip
    hidden = {label for t, low, high in ticks if not low <= t.get_loc() <= high for label in (t.label1, t.label2)}
    texts = [t for t in figure.findobj(Text) if t.get_text().strip() and t.get_visible() and t not in hidden]
    return [(t.get_text(), t.get_window_extent(renderer)) for t in texts]


def words(figure):
    return "\n".join(text for text, _ in boxes(figure))


def points(figure):
    return [tuple(xy) for plot in figure.axes for drawn in plot.collections for xy in drawn.get_offsets().tolist()]


@pytest.mark.parametrize("draw", [roofline, shares])
@pytest.mark.parametrize("shown", [typical(), many(), many(1), many(90)])
def test_labels_are_apart_and_within(draw, shown):
    figure = draw(shown)
    found = boxes(figure)
    within = figure.bbox
    for text, box in found:
        assert within.x0 - 1 <= box.x0 and box.x1 <= within.x1 + 1, text
        assert within.y0 - 1 <= box.y0 and box.y1 <= within.y1 + 1, text
    for (text, box), (other, second) in itertools.combinations(found, 2):
        across = min(box.x1, second.x1) - max(box.x0, second.x0)
        down = min(box.y1, second.y1) - max(box.y0, second.y0)
        assert min(across, down) < 1.5, (text, other)


def test_letters_are_large_enough():
    """At 900 pixels of width, the smallest is 8 points, 11 pixels."""
    from matplotlib.text import Text

    for figure in (roofline(many()), shares(many())):
        assert figure.get_figwidth() == 9
        assert min(t.get_fontsize() for t in figure.findobj(Text) if t.get_text()) >= 7.5


def test_points_lie_at_intensity_and_rate():
    figure = roofline(typical())
    assert points(figure) == [pytest.approx(point) for point in ((1000, 25), (0.01, 0.05), (1, 0.00025))]
    text = words(figure)
    assert "10 GB/s copied" in text and "100 GFLOP/s in multiply-adds" in text
    assert "add 8@32\n20 ms, 20.0 % of the step; 50.0 % of its roof" in text
    assert "Not shown: 31 ms in Python" in text and "1 kernel with an error of the cost" in text.replace("\n", " ")


@pytest.mark.parametrize("bandwidth", [1e8, 10e9, 1e12])
def test_what_is_copied_stands_along_its_roof(bandwidth):
    found = typical()
    roof = dataclasses.replace(found.roofs[0], bandwidth=bandwidth)
    (plot,) = roofline(dataclasses.replace(found, roofs=(roof,))).axes
    (text,) = [t for t in plot.texts if t.get_text().endswith("GB/s copied")]
    line = next(line for line in plot.lines if len({*line.get_ydata()}) > 1)
    (left, low), (right, high) = plot.transData.transform(np.transpose(line.get_data()))
    assert text.get_rotation() == pytest.approx(math.degrees(math.atan2(high - low, right - left)))


def test_of_many_points_a_dozen_are_labelled():
    figure = roofline(many())
    assert len(points(figure)) == 30 and words(figure).count("of its roof") == 12


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-0.5, 1.5), st.floats(0.01, 0.08)), max_size=12))
def test_labels_are_put_apart(labels):
    labels.sort(reverse=True)
    heights = [height for _, height in labels]
    places = apart([y for y, _ in labels], heights)
    edges = [(y + h / 2, y - h / 2) for y, h in zip(places, heights, strict=True)]
    assert all(-1e-9 <= bottom < top <= 1 + 1e-9 for top, bottom in edges)
    assert all(upper[1] >= lower[0] - 1e-9 for upper, lower in itertools.pairwise(edges))


def test_what_stays_in_caches_has_a_place():
    """At the right edge, beyond a line, since no traffic counts."""
    found = profile(row(flops=10**8, bytes=10**7), row("b", flops=10**8, bytes=0, inside=True))
    (plot,) = roofline(found).axes
    (right, low), (left, same) = sorted(map(tuple, plot.collections[0].get_offsets()), reverse=True)
    assert left == 10 and low == same and right > 20 and "in caches" in words(plot.figure)
    assert any(line.get_linestyle() == ":" and left < line.get_xdata()[0] < right for line in plot.lines)


def test_roofs_of_caches_are_told():
    caches = (Cache(96_000, 1e12), Cache(36_000_000, 2e10))
    figure = roofline(profile(row(flops=10**8, bytes=10**7), roofs=(dataclasses.replace(CPU, caches=caches),)))
    assert "in caches, 1,000 GB/s up to 96 kB, 20 GB/s up to 36 MB" in " ".join(words(figure).split())


def test_a_plot_per_device():
    gpu = Roofs("cuda:0", 1, 1e12, 1e13, 5e-6)
    two = profile(row(flops=10**8, bytes=10**8), row("b", flops=10**8, bytes=10**8, device="cuda:0"), roofs=(CPU, gpu))
    titles = [plot.get_title(loc="left") or plot.get_title() for plot in roofline(two).axes]
    assert [title.split(":")[0] for title in titles] == ["cpu, 2 threads", "cuda"]


def test_without_roofs():
    with pytest.raises(ValueError, match="roofline: `profile` has no roofs; expected those that were measured"):
        roofline(dataclasses.replace(typical(), roofs=()))


def test_shares_by_groups_of_layers():
    figure = shares(many(90))
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == [f"net.stages.{i}" for i in range(4)]  # 90 bars would be too many
    figure = shares(typical())
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["net.join", "net.conv", "net.tiny", "net.act"]
    assert "66.0 %, 66 ms" in words(figure)
    assert [t.get_text() for t in figure.axes[0].get_legend().get_texts()] == [
        "forward", "backward", "outside of kernels"
    ]  # fmt: skip


def test_more_layers_than_bars():
    flat = profile(*(row(layer=f"layer{i}", ms=(1.0 + i,)) for i in range(60)))
    labels = [text.get_text() for text in shares(flat).axes[0].get_yticklabels()]
    assert len(labels) == 24 and labels[-1] == "37 others" and "layer59" in labels


def test_names_are_shown_as_they_are(tmp_path):
    odd = profile(row("a$x_1$", "\x1b\nx", layer="_b$", flops=10**8, bytes=10**8, ms=(20.0,) * 3))
    assert "a\\$x_1\\$ \\x1b\\nx" in words(roofline(odd))
    for draw in (roofline, shares):
        plots.write(tmp_path / "p.png", draw, odd)


@pytest.mark.parametrize("draw", [roofline, shares])
def test_files(draw, tmp_path):
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        plots.write(tmp_path / name, draw, typical())
        data = (tmp_path / name).read_bytes()
        plots.write(tmp_path / name, draw, typical())
        assert data.startswith(start) and (tmp_path / name).read_bytes() == data


def test_nothing_to_draw():
    for draw in (roofline, shares):
        assert draw(profile(rounds=(1.0,)))


@pytest.mark.parametrize("draw", [roofline, shares])
@pytest.mark.parametrize("wanted, words", [
    ("nonsense", r"`filter` is 'nonsense'; expected text that some row holds\."),
    ("r.PNG", r"`filter` is 'r\.PNG', the name of a file; .*: `NAME\(result\)\.savefig\('r\.PNG'\)`\."),
    (pathlib.PurePosixPath("a/b"), r"`filter` is 'a/b', the name of a file; .*: `NAME\(result\)\.savefig\('a/b'\)`\."),
    (3, r"profile: `filter` is a int; expected text\."),
])  # fmt: skip
def test_a_filter_that_no_row_holds(draw, wanted, words):
    with pytest.raises(ValueError, match=words.replace("NAME", draw.__name__)):
        draw(typical(), wanted)
