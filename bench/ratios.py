"""Ratios from the rows of a run: ours against each peer, and against the project's targets."""

import numpy as np

from .implementations import OURS
from .rows import table

EAGER = ("torch", "torch-channels-last")  # PyTorch eager's two formats, of which the better one counts
COMPILED = ("torch-compile", "torch-compile-graphs")  # likewise, without and with CUDA graphs

PROFILED = "octsod, profiled"
HEAVY = 0.02  # of the step: kernels that take less have no target

# What must be reached and what we aim for; where the aim is the smaller one, less is better.
TARGETS = {
    "train/x1/b24, 2 threads: time of torch eager / octsod": (7, 12),
    "train/x1/b24, 2 threads: time of torch-compile / octsod": (5, 8),
    "train/x1/b24, 2 threads: memory of octsod / torch eager": (1 / 2, 1 / 3),
    "infer/x1/b1, 1 thread: time of openvino / octsod": (1.8, 3),
    "infer/L-x1/b1, 1 thread: time of openvino / octsod": (2.2, 3.5),
    "infer/L-x2/b1, 1 thread: time of openvino / octsod": (1.5, 2.5),
    "infer, 1 thread: time per MAC of L-x1 / x1": (1.15, 1),
    "kernels, 2 threads: least share of its roof, of those with 2 % of the step or more": (0.6, 0.8),
    "scaling/train/x1/b24: time on 1 thread / 2 threads": (1.7, 1.9),
    "subnormals/forward: time of tiny / ordinary": (1.1, 1),
    "subnormals/forward+backward: time of tiny / ordinary": (1.1, 1),
    "profiler/x1/b24, 2 threads: time of a step that is profiled / that is not": (1.02, 1.01),
    "gpu/train/x1/b24: time of torch eager / octsod": (3, 6),
    "gpu/train/x1/b24: time of torch.compile / octsod": (1.5, 3),
    "gpu/train/x1/b24: share of the rate of copying": (0.5, 0.7),
    "gpu/infer/x1/b1: time of torch eager / octsod": (5, 5),
}


def ratios(rows):
    """what -> ratio, for everything that these rows can tell."""
    found, groups = {}, {}
    for row in rows:
        groups.setdefault((row["case"].partition("/")[0], row["threads"]), {}).setdefault(row["case"], {})[
            row["impl"]
        ] = row
    for (command, threads), cases in groups.items():
        where = count(threads)
        for case, impls in cases.items():
            if command in ("train", "blocks", "infer") and OURS in impls:
                found |= _against_peers(f"{case}, {where}", impls)
            if command == "profiler" and {OURS, PROFILED} <= impls.keys():
                share = impls[PROFILED]["median_ms"] / impls[OURS]["median_ms"]
                found[f"{case}, {where}: time of a step that is profiled / that is not"] = share
        if command == "infer":
            found |= _per_mac(where, cases)
        if command == "kernels":
            found |= _roofs(where, cases)
        if command == "gpu":
            found |= _on_gpu(cases)
    return found | _scaling(rows) | _subnormals(rows)


CONFIDENCE = 95  # per cent
RESAMPLES = 10_000
FEWEST_PAIRS = 6  # with fewer, they all lie on one side of the true median by chance in more than 5 % of all runs


def paired_ratio(old, new):
    """(ratio, low, high): the median of new / old over the pairs, and its CONFIDENCE per cent interval.

    old, new: seconds, one of each pair. The interval lies between percentiles of the medians of RESAMPLES bootstrap
    samples of the pairs, drawn with a fixed seed; None and None for fewer pairs than FEWEST_PAIRS. We take the median,
    since a disturbed machine makes some pairs many times as long.
    """
    pairs = np.asarray(new, np.float64) / np.asarray(old, np.float64)
    if len(pairs) < FEWEST_PAIRS:
        return float(np.median(pairs)), None, None
    medians = np.median(np.random.default_rng(0).choice(pairs, (RESAMPLES, len(pairs))), axis=1)
    low, high = np.percentile(medians, (50 - CONFIDENCE / 2, 50 + CONFIDENCE / 2))
    return float(np.median(pairs)), float(low), float(high)


def count(threads):
    return f"{threads} thread{'s' * (threads > 1)}"


def _against_peers(where, impls):
    ours = impls[OURS]
    peers = {name: row["median_ms"] for name, row in impls.items() if name != OURS}
    if not peers:
        return {}
    best = min(peers, key=peers.get)
    found = {f"{where}: time of the best peer, {best} / octsod": peers[best] / ours["median_ms"]}
    eager = [impls[name] for name in EAGER if name in impls]
    if not where.startswith("infer") and eager:
        peers["torch eager"] = min(row["median_ms"] for row in eager)
        least = min(row["peak_rss_mb"] for row in eager)
        found[f"{where}: memory of octsod / torch eager"] = ours["peak_rss_mb"] / least
    return found | {f"{where}: time of {name} / octsod": time / ours["median_ms"] for name, time in peers.items()}


def _on_gpu(cases):
    found = {}
    for case, impls in cases.items():
        if not case.startswith(("gpu/train/", "gpu/infer/")) or OURS not in impls:
            continue
        ours = impls[OURS]
        for what, names in (("torch eager", EAGER), ("torch.compile", COMPILED)):
            peers = [impls[name] for name in names if name in impls]
            if peers:
                best = min(peers, key=lambda r: r["median_ms"])
                found[f"{case}: time of {what} / octsod"] = best["median_ms"] / ours["median_ms"]
                if best["memory_mb"] > 0:
                    found[f"{case}: memory of octsod / {what}"] = ours["memory_mb"] / best["memory_mb"]
        if "copy_share" in ours:
            found[f"{case}: share of the rate of copying"] = ours["copy_share"]
    return found


def _per_mac(where, cases):
    rows = {name: cases.get(f"infer/{name}/b1", {}).get(OURS) for name in ("x1", "L-x1", "L-x2")}
    cost = {name: row["median_ms"] / row["macs"] for name, row in rows.items() if row}
    return {
        f"infer, {where}: time per MAC of {name} / x1": cost[name] / cost["x1"]
        for name in ("L-x1", "L-x2")
        if {name, "x1"} <= cost.keys()
    }


def _roofs(where, cases):
    rows = [row for impls in cases.values() for row in impls.values()]
    shares = [row["roof_share"] for row in rows if row.get("roof_share") and row["step_share"] >= HEAVY]
    if not shares:
        return {}
    return {f"kernels, {where}: least share of its roof, of those with 2 % of the step or more": min(shares)}


def _scaling(rows):
    times = {}
    for row in rows:
        command, _, case = row["case"].partition("/")
        if command == "scaling":
            times.setdefault(case.rpartition("/")[0], {})[row["threads"]] = row["median_ms"]
    return {
        f"scaling/{case}: time on 1 thread / {count(threads)}": of[1] / time
        for case, of in times.items()
        for threads, time in of.items()
        if threads > 1 and 1 in of
    }


def _subnormals(rows):
    times = {row["case"]: row["median_ms"] for row in rows if row["case"].startswith("subnormals/")}
    return {
        f"{case.rpartition('/')[0]}: time of tiny / ordinary": time / times[f"{case.rpartition('/')[0]}/ordinary"]
        for case, time in times.items()
        if case.endswith("/tiny") and f"{case.rpartition('/')[0]}/ordinary" in times
    }


def summary(rows):
    """Lines of a table of the ratios, with the targets and whether they are reached."""
    lines = []
    for what, value in ratios(rows).items():
        must, aim = TARGETS.get(what, (None, None))
        reached = None
        if must is not None:
            better = (lambda a, b: a <= b) if aim < must else (lambda a, b: a >= b)
            reached = "aim" if better(value, aim) else "must" if better(value, must) else "missed"
        lines.append((what, f"{value:.2f}", *("" if t is None else f"{t:.3g}" for t in (must, aim)), reached))
    return table(("ratio", "measured", "must", "aim", "reached"), lines) if lines else []
