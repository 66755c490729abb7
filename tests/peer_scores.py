"""What pysodmetrics says of maps of salience, and the pictures of tests/data/all_scores.npz.

`python tests/peer_scores.py` draws the pictures anew and has pysodmetrics score them. The file has, for each i, arrays
`prediction/i` and `mask/i`; `names`, those of the scores; `scores`, a row per picture; and `average`, the scores of the
first `ORDINARY` pictures as a data set.
"""

import pathlib
import warnings

import numpy as np

GOLDEN = pathlib.Path(__file__).parent / "data" / "all_scores.npz"
ORDINARY = 5


def peer_scores(pairs):
    """The scores of (prediction, mask) pairs as a data set, by the names of `AllScores.as_dict`."""
    import py_sod_metrics

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it announces other classes, and divides by 0 where it returns NaN
        s, e, weighted, f = parts = (
            py_sod_metrics.Smeasure(), py_sod_metrics.Emeasure(), py_sod_metrics.WeightedFmeasure(),
            py_sod_metrics.Fmeasure(),
        )  # fmt: skip
        for prediction, mask in pairs:
            for part in parts:
                part.step(prediction, mask)
    e, f = e.get_results()["em"], f.get_results()["fm"]
    return {
        "s_measure": s.get_results()["sm"],
        "e_measure_max": e["curve"].max(),
        "e_measure_mean": e["curve"].mean(),
        "e_measure_adaptive": e["adp"],
        "weighted_f": weighted.get_results()["wfm"],
        "mean_f": f["curve"].mean(),
        "adaptive_f": f["adp"],
        "max_f_of_mean_curve": f["curve"].max(),
    }


def drawn():
    """(prediction, mask) pairs: ordinary ones of several sizes, then the cases that each formula treats apart."""
    rng = np.random.default_rng(0)

    def disc(height, width):
        y, x = np.ogrid[:height, :width]
        return (np.hypot(y - 0.45 * height, x - 0.55 * width) < 0.3 * min(height, width)) * np.uint8(255)

    def noisy(mask, gain, offset, deviation):
        values = gain * mask + offset + rng.normal(0, deviation, mask.shape)
        return np.clip(values, 0, 255).astype(np.uint8)

    mask, two = disc(40, 53), np.maximum(disc(37, 64), disc(64, 37).T[:, ::-1])
    soft = mask.copy()
    soft[:20] //= 2  # 127: background
    dot, zeros = np.zeros_like(mask), np.zeros_like(mask)
    dot[7, 30] = 255
    full = np.full_like(mask, 255)
    yield noisy(mask, 0.7, 20, 30), mask
    yield noisy(two, 0.4, 60, 5), two  # neither black nor white
    yield np.roll(mask, (5, -9), (0, 1)), mask  # binary, beside the object
    yield noisy(mask, -0.6, 190, 20), mask  # inverted
    yield noisy(mask, 0.8, 10, 15), soft
    for other in (dot, zeros, full):
        yield noisy(mask, 0.6, 30, 20), other
    for constant in (0, 128, 255):
        yield np.full_like(mask, constant), mask
        yield np.full_like(mask, constant), zeros
    yield np.array([[3, 200, 90, 0, 17, 255]], np.uint8), np.array([[0, 255, 255, 0, 0, 0]], np.uint8)
    yield np.array([[200]], np.uint8), np.array([[255]], np.uint8)
    yield np.array([[200]], np.uint8), np.array([[0]], np.uint8)


def main():
    pairs = list(drawn())
    rows = [peer_scores([pair]) for pair in pairs]
    np.savez_compressed(
        GOLDEN,
        names=list(rows[0]),
        scores=[list(row.values()) for row in rows],
        average=list(peer_scores(pairs[:ORDINARY]).values()),
        **{f"prediction/{i}": prediction for i, (prediction, _) in enumerate(pairs)},
        **{f"mask/{i}": mask for i, (_, mask) in enumerate(pairs)},
    )


if __name__ == "__main__":
    main()
