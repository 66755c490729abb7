"""What the pictures that a network scores worst on have in common.

    python docs/worst.py --model NAME|FILE|RUN --data DIR [--size PIXELS] [--count N] [--sheet FILE.png]

Scores the pictures, then compares the worst (by F-measure at the data set's best threshold, as `octsod eval --worst`)
with all, in facts of their masks and colours: a table in Markdown. With --sheet, the worst pictures, their masks and
predictions are drawn, to be looked at. Pictures whose mask is all object or all ground are left out.
"""

import click
import numpy as np

import octsod
from octsod.cli.options import WeightFile
from octsod.data import FolderDataset
from octsod.data.images import write_png
from octsod.evaluation.nearest import nearest_pixels

NEAR_BORDER = 0.03  # of the picture's shorter side
LEAST_PART = 0.01  # of the object's pixels: smaller parts are specks, and not counted
BINS = 8  # of a histogram, per channel

FACTS = {  # key: (what it is, how it is written)
    "recall": ("recall at the data set's threshold", ".2f"),
    "found": ("what is found there, as a share of the object's area", ".1%"),
    "max_f": ("F-measure at the picture's own best threshold", ".3f"),
    "share": ("object's share of the picture", ".1%"),
    "parts": ("connected parts of the object", ".0f"),
    "border": ("share of its outline within 3 % of the border", ".1%"),
    "width": ("width: its largest circle's diameter over the root of its area (disc 1.13)", ".2f"),
    "off_centre": ("centroid off the centre, of half the diagonal", ".1%"),
    "contrast": ("distance of the mean colours of object and ground (CIE Lab)", ".1f"),
    "chi_square": ("distance of their colour histograms (chi-square; same 0, disjoint 1)", ".2f"),
    "detail": ("detail of the ground: mean difference of neighbours in lightness", ".2f"),
}


def facts_of(image, mask):
    """The facts of a picture (H, W, 3) and its mask (H, W) by key; None if that is all object or all ground."""
    inside = mask > octsod.metrics.MASK_THRESHOLD
    if inside.all() or not inside.any():
        return None
    height, width = inside.shape
    area = np.count_nonzero(inside)
    y, x = np.nonzero(inside)
    centroid = np.array([y.mean() + 0.5 - height / 2, x.mean() + 0.5 - width / 2])
    padded = np.pad(inside, 1)
    outline = inside & ~(padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2])
    rows, columns = np.ogrid[:height, :width]
    to_border = np.minimum(np.minimum(rows, height - 1 - rows), np.minimum(columns, width - 1 - columns))
    sizes, lab = part_sizes(inside), to_lab(image)
    return {
        "share": area / inside.size,
        "parts": np.count_nonzero(sizes >= LEAST_PART * area),
        "border": np.mean(to_border[outline] < NEAR_BORDER * min(height, width)),
        "width": 2 * np.sqrt(nearest_pixels(~padded).squares.max() / area),
        "off_centre": np.hypot(*centroid) / (np.hypot(height, width) / 2),
        "contrast": np.linalg.norm(lab[inside].mean(axis=0) - lab[~inside].mean(axis=0)),
        "chi_square": chi_square(image[inside], image[~inside]),
        "detail": detail(lab[..., 0], ~inside),
    }


def part_sizes(inside):
    """How many pixels each connected part (by 4 neighbours) of `inside` (H, W) has: runs of pixels in rows, joined."""
    steps = np.diff(np.pad(inside, ((0, 0), (1, 1))).astype(np.int8))
    (rows, starts), (_, ends) = np.nonzero(steps == 1), np.nonzero(steps == -1)
    first = np.searchsorted(rows, np.arange(-1, len(inside)))  # first[r + 1]: the first run of row r or later
    parent = list(range(len(rows)))

    def root(run):
        while parent[run] != run:
            parent[run] = run = parent[parent[run]]
        return run

    for run, row in enumerate(rows):
        for above in range(first[row], first[row + 1]):
            if starts[above] < ends[run] and starts[run] < ends[above]:
                parent[root(above)] = root(run)
    sizes = np.bincount([root(run) for run in range(len(rows))], weights=ends - starts)
    return sizes[sizes > 0]


def to_lab(image):
    """(H, W, 3) uint8 in sRGB -> (H, W, 3) in CIE Lab, white D65."""
    value = np.arange(256) / 255
    linear = np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)[image]
    matrix = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    xyz = linear @ (matrix / matrix.sum(axis=1, keepdims=True)).T
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.stack([116 * f[..., 1] - 16, 500 * (f[..., 0] - f[..., 1]), 200 * (f[..., 1] - f[..., 2])], axis=-1)


def chi_square(*parts):
    """The distance of two sets of colours, (N, 3) uint8: of their shares in the BINS**3 cells of a cube."""
    cells = [(part.astype(np.int64) * BINS // 256) @ (BINS * BINS, BINS, 1) for part in parts]
    p, q = (np.bincount(c, minlength=BINS**3) / len(c) for c in cells)
    return 0.5 * (np.square(p - q) / np.maximum(p + q, 1e-12)).sum()


def detail(lightness, where):
    """The mean absolute difference of horizontal and vertical neighbours that both lie in `where`."""
    down = np.abs(np.diff(lightness, axis=0))[where[1:] & where[:-1]]
    right = np.abs(np.diff(lightness, axis=1))[where[:, 1:] & where[:, :-1]]
    return np.concatenate((down, right)).mean()


def table(facts, worst):
    """Lines in Markdown. facts: index of a picture -> its facts; worst: indices of those to be compared with all."""
    yield f"| median | worst {len(worst)} | all {len(facts)} | of the worst, beyond the median of all | of all |"
    yield "|---|---:|---:|---:|---:|"
    for key, (words, spec) in FACTS.items():
        values, chosen = (np.array([facts[index][key] for index in some]) for some in (facts, worst))
        median = np.median(values)
        beyond = [(side, *(np.mean(sign * v > sign * median) for v in (chosen, values)))
                  for side, sign in (("above", 1), ("below", -1))]  # fmt: skip
        side, most, usual = max(beyond, key=lambda row: row[1])
        yield f"| {words} | {np.median(chosen):{spec}} | {median:{spec}} | {most:.0%} {side} | {usual:.0%} |"


@click.command(help=__doc__.split("\n\n", 2)[2])
@click.option("--model", "weights", required=True, type=WeightFile(exists=True), metavar="NAME|FILE|RUN")
@click.option("--data", required=True, type=click.Path(exists=True, file_okay=False))
@click.option("--size", type=int, help="Side of the square that the network sees.  [default: that of its training]")
@click.option("--count", type=click.IntRange(1), default=20, show_default=True, help="How many are the worst.")
@click.option("--sheet", type=click.Path(dir_okay=False), help="Picture to draw the worst in.")
def main(weights, data, size, count, sheet):
    model, dataset = octsod.load(weights), FolderDataset(data)
    result = octsod.evaluate(model, dataset, size)
    threshold, facts = result.scores.threshold, {}
    for index, _, scores, *_ in result.pictures:
        _, image, mask = dataset[index]
        if found := facts_of(image, mask):
            recall, precision = scores.recall[threshold], scores.precision[threshold]
            facts[index] = {"recall": recall, "found": recall / precision, "max_f": scores.max_f, **found}
    worst = [picture for picture in result.worst(len(result.pictures)) if picture.index in facts][:count]
    click.echo(f"max F {result.max_f:.4f} at threshold {threshold}, MAE {result.mae:.4f}\n")
    click.echo("\n".join(table(facts, [picture.index for picture in worst])))
    if sheet:
        rows, captions = [], []
        for index, name, scores, *_ in worst:
            _, image, mask = dataset[index]
            rows.append((image, mask, octsod.predict(image, model, size)))
            captions.append(f"{name}, F {scores.f[threshold]:.3f}, at its own threshold {scores.max_f:.3f}")
        write_png(sheet, octsod.sheets.contact_sheet(rows, captions, ("image", "mask", "prediction")))


if __name__ == "__main__":
    main()
