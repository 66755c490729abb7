"""The part of RESULTS.md that is about GPUs, from the rows of `python -m bench gpu`, with and without --predict."""

from ..implementations import OURS
from ..rows import table
from . import predicted

TITLE = "On a GPU"
NOTHING = "**No GPU time has been measured.** All times below are predictions."
PREDICTED = "gpu/predicted/"


def lines_of(rows):
    """Markdown. Where nothing was measured, the first line says so."""
    guesses = [r for r in rows if r["case"].startswith(PREDICTED)]
    lines = _measured([r for r in rows if not r["case"].startswith(PREDICTED)])
    if guesses:
        lines += [*([""] if lines else [NOTHING, ""]), *predicted.lines_of(guesses)]
    return lines


def _measured(rows):
    if not rows:
        return []
    copied = next((r for r in rows if r["case"] == "gpu/copy"), None)
    facts = [f"On {', '.join(sorted({r['gpu'] for r in rows}))}, {', '.join(sorted({r['date'] for r in rows}))}."]
    if copied:
        facts.append(f"Copying 1 GiB moves {copied['gb_s']:.0f} GB/s, reading and writing together.")
    lines = [" ".join(facts)]
    networks = [r for r in rows if r["case"].startswith(("gpu/train/", "gpu/infer/"))]
    if networks:
        lines += ["", *_networks(networks)]
    kernels = [r for r in rows if r["case"].startswith("gpu/kernel/")]
    if kernels:
        lines += ["", "### CUDA kernels of a training step, each launch with an empty second-level cache", ""]
        lines += _kernels(kernels, copied)
    ops = [r for r in rows if r["case"].startswith("gpu/op/")]
    if ops:
        lines += ["", "### Ops beside PyTorch's, with an empty second-level cache", "", *_ops(ops)]
    return lines


def _networks(rows):
    """What each process held of the GPU's memory includes what CUDA itself takes."""
    ours = {r["case"]: r["median_ms"] for r in rows if r["impl"] == OURS}
    header = ("case", "implementation", "median, ms", "IQR, ms", "of ours", "GPU memory, MB", "of copying")
    return table(header, [
        (
            r["case"].removeprefix("gpu/"), r["impl"], f"{r['median_ms']:.3f}", f"{r['iqr_ms']:.3f}",
            f"{r['median_ms'] / ours[r['case']]:.2f}" if r["case"] in ours else "", f"{r['memory_mb']:.0f}",
            f"{100 * r['copy_share']:.0f} %" if "copy_share" in r else "",
        )
        for r in rows
    ])  # fmt: skip


def _kernels(rows, copied):
    def share(r):
        return f"{100 * r['gb_s'] / copied['gb_s']:.0f} %" if copied and "gb_s" in r else ""

    lines = [
        (
            r["case"].removeprefix("gpu/kernel/"), r["launches"], f"{1e3 * r['median_ms']:.1f}",
            *((f"{1e3 * r['predicted_ms']:.1f}", f"{r['median_ms'] / r['predicted_ms']:.2f}") if "predicted_ms" in r
              else ("", "")), share(r),
        )
        for r in rows
    ]  # fmt: skip
    whole = sum(r["median_ms"] for r in rows)
    lines.append(("all", sum(r["launches"] for r in rows), f"{1e3 * whole:.1f}", "", "", ""))
    return table(("CUDA kernel", "launches", "all, us", "predicted, us", "measured / predicted", "of copying"), lines)


def _ops(rows):
    names = list(dict.fromkeys(r["impl"] for r in rows))
    times = {}
    for r in rows:
        times.setdefault(r["case"].removeprefix("gpu/op/"), {})[r["impl"]] = 1e3 * r["median_ms"]
    lines = []
    for title, of in times.items():
        rivals = [of[name] for name in of if name != OURS]
        ratio = f"{min(rivals) / of[OURS]:.2f}" if rivals and OURS in of else ""
        lines.append((title, *(f"{of[name]:.1f}" if name in of else "" for name in names), ratio))
    return table(("op, at batch 24", *(f"{name}, us" for name in names), "best of PyTorch / ours"), lines)
