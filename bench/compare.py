"""`python -m bench compare COMMIT [OTHER]`: is the working tree, or OTHER, slower than COMMIT?

Both are installed in folders of their own, each with its own cache of kernels, and run in processes of their own. They
are timed in pairs, whose order alternates: old new, new old. The one that is not being timed waits at its pipe.
"""

import pathlib
import tempfile

import click
import numpy as np

from octsod.cli.options import threads_option

from .agreement import DisagreementError, agreement
from .children import ChildError, interleaved
from .command import json_option, say, use_threads
from .network import LONG, SHORT, fail, in_turns, siblings
from .problems import LEARNED, SIZE
from .ratios import CONFIDENCE, FEWEST_PAIRS, RESAMPLES, paired_ratio
from .rows import rounded, row, table, write_rows
from .versions import first_step, installed, prediction, training_step, within

TRAINING, PREDICTIONS, FIRST_STEP = CASES = ("training", "predictions", "first-step")

SLOWER = 1.02  # an interval wholly above it says that the new version is slower

BATCH = 24
WARM_STARTS, COLD_STARTS = 10, 2  # pairs at most: a start takes seconds, a cold one compiles for a minute

# (typical, worst) of `agreement`. If sums are added up in another order, a gradient near zero may change its sign, and
# Adam makes a whole step of that. Logits differ only by rounding.
CHANGES, LOGITS = (2e-2, 0.5), (1e-3, 1e-3)


def compared(case, versions, work, threads, pairs, turn, tolerances):
    """The rows of one case. versions: "old" and "new" -> `Version`. work: a function that makes a `Block`, and its
    arguments. Before anything is timed, raises DisagreementError if the two do not compute the same."""
    say(f"{case}: first steps")
    variants = {f"{case}, {name}": (within, version, *work) for name, version in versions.items()}
    with siblings(variants) as (children, results):
        old, new = results.values()
        difference = agreement(new, old, *tolerances)
        say(f"{case}: {pairs} pairs")
        seconds = in_turns(children, pairs, turn, fail)
    medians = [np.median(np.reshape(samples, (pairs, -1)), axis=1) for samples in seconds.values()]
    seconds = dict(zip(versions, medians, strict=True))
    return rows_of(case, versions, threads, seconds, difference=float(f"{difference:.2g}"))


def compared_starts(case, versions, caches, threads, pairs):
    """The rows of `first_step`. caches: name and number of the pair -> the folder for compiled kernels."""
    say(f"{case}: {pairs} pairs")
    seconds, name = {name: [] for name in versions}, ""
    try:
        for name in interleaved(list(versions), pairs):
            seconds[name].append(first_step(versions[name], caches(name, len(seconds[name])), threads))
    except ChildError as error:
        fail(f"{case}, {name}", error)
    return rows_of(case, versions, threads, seconds)


def rows_of(case, versions, threads, seconds, **more):
    """A row for each version; seconds: of each pair, by name. The new version's row has its ratio to the old one."""
    ratio, low, high = paired_ratio(seconds["old"], seconds["new"])
    of_pairs = {"ratio": rounded(ratio), "low": low and rounded(low), "high": high and rounded(high), **more}
    return [
        row(case, name, threads, seconds[name], version=versions[name].title, **(of_pairs if name == "new" else {}))
        for name in ("old", "new")
    ]


def lines_of(rows):
    """The lines of a table of pairs of rows."""
    lines = []
    for old, new in zip(rows[::2], rows[1::2], strict=True):
        interval = "" if new["low"] is None else f"{new['low']:.3f} to {new['high']:.3f}"
        times = (f"{r['median_ms']:.2f}" for r in (old, new))
        case = old["case"].removeprefix("compare/")
        lines.append((case, old["threads"], *times, new["samples"], f"{new['ratio']:.3f}", interval, verdict(new)))
    titles = [f"{name}, ms: {r['version']}" for name, r in zip(("old", "new"), rows[:2], strict=True)]
    header = ("case", "threads", *titles, "pairs", "new / old", f"{CONFIDENCE} % interval", "")
    return [
        *table(header, lines), "",
        f"new / old: median of the pairs' ratios; interval: percentiles of {RESAMPLES} bootstrap samples of the pairs, "
        f"from {FEWEST_PAIRS} pairs on. Slower is what lies wholly above {SLOWER}.",
    ]  # fmt: skip


def verdict(new):
    """ "slower", "faster" or "", by the interval in a new version's row."""
    if new["low"] is None:
        return ""
    return "slower" if new["low"] >= SLOWER else "faster" if new["high"] < 1 else ""


class _Cases(click.ParamType):
    name = "A,B"

    def convert(self, value, param, ctx):
        names = [name.strip() for name in value.split(",")] if isinstance(value, str) else value
        for name in names:
            if name not in CASES:
                self.fail(f"{name!r} is none of {', '.join(CASES)}.", param, ctx)
        return names


def measure(versions, cases, threads, pairs, cold, batch=BATCH, size=SIZE):
    """(rows, failures) of `cases`."""
    rows, failures, work = [], [], []
    if TRAINING in cases:
        build = (training_step, batch, size, threads)
        work.append((f"compare/train/x1/b{batch}", build, threads, LONG, CHANGES))
    if PREDICTIONS in cases:
        for name in ("x1", *LEARNED):
            work.append((f"compare/infer/{name}/b1", (prediction, name, 1, size, 1), 1, SHORT, LOGITS))
    for case, build, used, turn, tolerances in work:
        try:
            rows += compared(case, versions, build, used, pairs, turn, tolerances)
        except DisagreementError as error:
            failures.append(f"{case}: the versions do not compute the same, so nothing is timed: {error}.")
    if FIRST_STEP in cases:
        rows += _starts(versions, threads, pairs, cold)
    return rows, failures


def _starts(versions, threads, pairs, cold):
    """The rows of the first steps."""
    rows = []
    if cold:
        with tempfile.TemporaryDirectory() as folder:
            empty = pathlib.Path(folder)
            rows += compared_starts(
                "compare/first-step/cold", versions, lambda name, number: empty / f"{name}-{number}", threads,
                min(pairs, COLD_STARTS),
            )  # fmt: skip
    for name, version in versions.items():
        say(f"compare/first-step/warm: {name} fills its cache")
        try:
            first_step(version, version.cache, threads)
        except ChildError as error:
            fail(f"compare/first-step/warm, {name}", error)
    rows += compared_starts(
        "compare/first-step/warm", versions, lambda name, _: versions[name].cache, threads, min(pairs, WARM_STARTS)
    )
    return rows


@click.command()
@click.argument("commit")
@click.argument("other", required=False)
@threads_option
@json_option
@click.option("--cases", type=_Cases(), default=",".join(CASES), show_default=True, help="Only these.")
@click.option(
    "--pairs", type=click.IntRange(min=1), default=40, show_default=True, metavar="N",
    help=f"Pairs of each case; of first steps at most {WARM_STARTS}, of cold ones {COLD_STARTS}.",
)  # fmt: skip
@click.option("--no-cold", is_flag=True, help="Leave first steps with an empty cache of kernels out.")
def compare(commit, other, threads, json_file, cases, pairs, no_cold):
    """Is the working tree, or the commit OTHER, slower than COMMIT?

    A training step of CSNet-x1 (batch 24, 224x224, the recipe's), predictions of x1, L-x1 and L-x2 (one picture, one
    thread) and the time from the start of `octsod train` to the end of its first step. Results are compared before
    anything is timed. Exit codes: 0 no interval lies wholly above 1.02; 1 one does, results differ or a version fails;
    2 bad input.
    """
    threads = use_threads(threads)
    say("installing both versions")
    with installed(commit, other) as (old, new):
        rows, failures = measure({"old": old, "new": new}, cases, threads, pairs, not no_cold)
    if json_file is not None:
        write_rows(json_file, rows)
    if rows:
        click.echo("\n".join(lines_of(rows)))
    for failure in failures:
        click.echo(f"Error: {failure}", err=True)
    if failures or any(verdict(new) == "slower" for new in rows[1::2]):
        raise SystemExit(1)
