"""Charts show what they are given."""

import itertools

import numpy as np
import pytest
from PIL import ImageDraw

from octsod.training.charts import BLUE, HEIGHT, LEFT, RIGHT, SCALE, TOP, WIDTH, Line, chart, ticks, training_curves


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (0, 131_700, [0, 50_000, 100_000, 150_000]),
        (0.13, 0.71, [0, 0.2, 0.4, 0.6, 0.8]),
        (1e-7, 1e-4, [0, 2e-5, 4e-5, 6e-5, 8e-5, 1e-4]),
        (0, 0, [0, 0.2]),
        (5, 5, [5, 6]),
        (1e-3, 1e-3 + 2e-19, [1e-3, 1.2e-3]),  # a mean of equal numbers need not be equal to them
        (1e-3 - 2e-19, 1e-3, [1e-3, 1.2e-3]),
        (-2, -2, [-2, -1.5]),
    ],
)
def test_ticks(low, high, expected):
    assert ticks(low, high, 5) == pytest.approx(expected)


def is_drawn(picture, colour):
    return (np.abs(picture.astype(int) - colour).sum(axis=2) < 60).nonzero()


def test_chart():
    """A line that rises is drawn from the left end of the plot to the right, and from its foot to its head."""
    rows, columns = is_drawn(chart("rise", [Line(np.array([0.0, 100]), np.array([0.0, 1]), BLUE)]), BLUE)
    assert columns.min() <= LEFT + 1 and columns.max() >= WIDTH - RIGHT - 2
    assert rows.min() <= TOP + 1 and rows.max() > HEIGHT - 40
    assert rows[columns == columns.min()].mean() > rows[columns == columns.max()].mean()
    empty = chart("nothing", [Line(np.zeros(0), np.zeros(0), BLUE)])
    assert empty.shape == (HEIGHT, WIDTH, 3) and not is_drawn(empty, BLUE)[0].size


@pytest.mark.parametrize("last", [1, 7, 999, 2500, 9_000, 42_000, 50_000, 131_700, 999_999, 12_345_678, 9.9e9, 2e14])
def test_labels_do_not_touch(last, monkeypatch):
    """Neither each other nor the picture's edge at the right; the first and the last step always have theirs."""
    boxes, write = {}, ImageDraw.ImageDraw.text

    def text(draw, place, words, fill, font, anchor):
        boxes[words, anchor] = np.array(draw.textbbox(place, words, font, anchor)) / SCALE
        write(draw, place, words, fill, font, anchor)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", text)
    chart("Loss", [Line(np.array([0.0, last]), np.array([0.0123, 0.6789]), BLUE)])
    labels = [words for words, _ in boxes]
    (end,) = (words for words in labels if words.endswith(" steps"))
    assert end == f"{ticks(0, last, 5)[-1]:.6g} steps" and "0" in labels and len(labels) >= 5
    for (one, a), (other, b) in itertools.combinations(boxes.items(), 2):
        apart = a[2] + 3 < b[0] or b[2] + 3 < a[0] or a[3] < b[1] or b[3] < a[1]
        assert apart, (one, other)
    assert max(box[2] for box in boxes.values()) <= WIDTH


def test_marks():
    """A thin vertical line, over the whole plot, as far as it goes."""
    rise = [Line(np.array([0.0, 100]), np.array([0.0, 1]), BLUE)]
    plain, marked = chart("", rise), chart("", rise, [(25, "64 px"), (101, "96 px"), (-1, "32 px")])
    changed = (plain != marked).any(axis=2)
    columns = np.flatnonzero(changed.mean(axis=0) > 0.5)
    place = LEFT + (WIDTH - LEFT - RIGHT) // 4
    assert 1 <= len(columns) <= 2 and abs(columns.mean() - place) <= 1
    assert not changed[:, : place - 2].any() and changed[TOP : TOP + 12, place + 3 :].any()


def test_sizes_are_marked_in_curves():
    steps = [{"step": n, "loss": 1 / n, "lr": 1e-3} for n in range(1, 101)]
    scores = [{"step": 100, "mae": 0.5, "best": [""]}]
    plain = training_curves(steps + scores, {"mae": "MAE"})
    steps[49]["resized"] = [32, 64]
    marked = training_curves(steps + scores, {"mae": "MAE"})
    for rows in np.split((plain != marked).any(axis=2), 2):
        assert rows[:, :WIDTH].any()
    assert (plain != marked)[:HEIGHT, WIDTH:].any()


def test_training_curves():
    steps = [{"step": n, "loss": 1 / n, "lr": 1e-3} for n in range(1, 1001)]
    scores = [
        {"step": 500, "max_f": 0.5, "mae": 0.2, "best": [""], "size": 32},
        {"step": 1000, "max_f": 0.7, "mae": 0.1, "best": [""], "size": 32},
    ]
    titles = {"loss": "Loss", "max_f": "max F", "mae": "MAE"}
    full = training_curves(steps + scores, titles)
    assert full.shape == (2 * HEIGHT, 2 * WIDTH, 3) and full.dtype == np.uint8
    for lines in ([], steps[:1], steps[:1] + scores[:1]):
        picture = training_curves(lines, titles)
        assert picture.shape == full.shape and (picture != full).any()
    averaged = [{**line, "average": {"max_f": 0.6, "mae": 0.3}} for line in scores]
    assert (training_curves(steps + averaged, titles) != full).any()
    unnamed = training_curves([*steps, {"step": 9, "top1": 0.5, "best": []}])
    assert unnamed.shape == full.shape and (unnamed[HEIGHT:, WIDTH:] == 255).all(), "one score, and an empty place"


ODD = (None, True, "x", [], {}, -1, 0, 2**64 - 1, 1e308, -1e308, 1e38, 5e-324, 1e-310, float("nan"), float("-inf"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", ["step", "epoch", "loss", "lr", "best", "mae", "average", "size", "resized"])
def test_odd_logs(name):
    """Whatever a damaged log holds, or lacks, curves are drawn."""
    steps = [{"step": n, "epoch": 1, "loss": 0.5, "lr": 1e-3, "size": 32} for n in (1, 2)]
    scores = {"step": 2, "epoch": 1, "mae": 0.5, "best": [""], "average": {"mae": 0.25}}
    for odd in ODD:
        first, pair = {**steps[0], name: odd}, {**steps[0], name: [32, odd]}
        for lines in ([*steps, {**scores, name: odd}], [first, steps[1], scores], [{name: odd}], [pair]):
            assert training_curves(lines, {"mae": "MAE"}).shape[1] == 2 * WIDTH
    assert training_curves([*steps, {**scores, "average": {"mae": []}}]).any()
    lacking = [{key: value for key, value in line.items() if key != name} for line in (*steps, scores)]
    assert training_curves(lacking).any()


@pytest.mark.parametrize(("low", "high"), [(5e-324, 5e-324), (0, 1e-310), (-1e38, 1e38)])
def test_ticks_of_extremes(low, high):
    found = ticks(low, high, 5)
    assert 2 <= len(found) < 20 and found[0] <= low and found[-1] >= high and sorted(set(found)) == found
