"""`python -m bench train | blocks | infer | scaling | subnormals`: the network, whole or by blocks."""

import concurrent.futures
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import click

from octsod.cli.options import existing_file

from .agreement import DisagreementError, agreement
from .children import PAUSE, Child, ChildError, interleaved
from .command import Outcome, measurement, rounds_option, say
from .implementations import (
    BLOCKS,
    INFERENCE,
    OURS,
    TRAINING,
    Implementation,
    octsod_gradients,
    octsod_inference,
    octsod_training,
)
from .problems import LEARNED, PARTS, Problem, block, configuration, macs, problem, released
from .rows import installed, row, table


@dataclass(frozen=True)
class Turn:
    """The steps of a child's turn: `warm` ones that are not timed, then `timed` ones."""

    warm: int
    timed: int


# What ran before a long step does not matter. A picture takes no longer than caches take to fill and threads to wake
# up, so warm steps keep that out of its time.
LONG, SHORT = Turn(0, 1), Turn(2, 5)


@dataclass(frozen=True)
class Work:
    """A case. implementations: ours and all peers, by name. tolerances: how far a peer's results may be from ours,
    (typical, worst) of `agreement`. facts: more entries for the case's rows."""

    problem: Problem
    implementations: Mapping[str, Implementation]
    tolerances: tuple[float, float]
    turn: Turn
    facts: Mapping = field(default_factory=dict)


def training(name="x1", batch=24):
    """A mistake, such as a gradient without its factor, makes an error of about one. PyTorch's channels_last adds up
    batch norm's sums in such a way that the gradients of some scales, which nearly cancel, are off by a fifth."""
    given = problem(f"train/{name}/b{batch}", configuration(name), batch, straight=True)
    return Work(given, TRAINING, (2e-2, 0.5), LONG)


def part(name, batch=24):
    """See `training`."""
    given = block(f"blocks/{name}/b{batch}", configuration("x1"), PARTS[name], batch)
    return Work(given, BLOCKS, (2e-2, 0.5), LONG)


def inference(name, batch=1):
    """With bfloat16, logits are off by a third: random networks amplify errors."""
    given = problem(f"infer/{name}/b{batch}", configuration(name), batch)
    return Work(given, INFERENCE, (1e-3, 1e-3), SHORT if batch == 1 else LONG, {"macs": macs(given)})


def against_peers(work, peers, threads, rounds):
    """(rows, failures) of ours and the peers. Each peer is first compared with ours; then all are timed in turns."""
    case, children, errors, failures = work.problem.case, {}, {}, []
    try:
        # All at once: one of them compiles for a minute.
        say(f"{case}: first steps of {', '.join((OURS, *peers))}")
        with concurrent.futures.ThreadPoolExecutor(1 + len(peers)) as pool:
            begun = {
                name: pool.submit(_begun, children, name, work.implementations[name].build, work.problem, threads)
                for name in (OURS, *peers)
            }
        for name, first in begun.items():
            try:
                results = first.result()
                if name == OURS:
                    expected = results
                else:
                    errors[name] = agreement(results, expected, *work.tolerances)
            except (ChildError, DisagreementError) as error:
                failures.append(_failed(case, name, error))
                if name in children:
                    children.pop(name).close()
        children = {name: children[name] for name in begun if name in children}  # in the order of the table
        say(f"{case}: {rounds} rounds")
        seconds = in_turns(children, rounds, work.turn, lambda name, error: failures.append(_failed(case, name, error)))
        peaks = {name: children[name].peak_rss_mb() for name in seconds}
    finally:
        close(children)
    rows = []
    for name, samples in seconds.items():
        more = {"peak_rss_mb": peaks[name], **work.facts}
        if name in errors:
            more["difference"] = float(f"{errors[name]:.2g}")
        rows.append(row(case, name, threads, samples, work.implementations[name].packages, **more))
    return rows, failures


def _begun(children, name, *arguments):
    """Start a child as `children[name]`; returns the results of its first step."""
    children[name] = Child(*arguments)
    return children[name].first_results()


def _failed(case, name, error):
    """The sentence about a peer that is left out; if ours fails, the command ends."""
    if name == OURS:
        raise click.ClickException(f"{case}: {name}: {error}.") from error
    return f"{case}: {name}: {error}."


def in_turns(children, rounds, turn, on_failure):
    """The seconds of all timed steps of each child, by its key; for one that fails, calls `on_failure(key, error)`."""
    seconds = {key: [] for key in children}
    for key in interleaved(list(children), rounds):
        if key in seconds:
            time.sleep(PAUSE)
            try:
                seconds[key] += children[key].turn(turn.warm, turn.timed)
            except ChildError as error:
                del seconds[key]
                on_failure(key, error)
    return seconds


def close(children):
    for child in children.values():
        child.close()


def chosen(peers, implementations):
    """The installed peers of a list `A,B` (None for all); the others are named on standard error."""
    known = [name for name in implementations if name != OURS]
    names = known if peers is None else [name.strip() for name in peers.split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name!r} is none of {', '.join(known)}.", param_hint="--peers")
    there = []
    for name in dict.fromkeys(names):
        missing = [package for package in implementations[name].packages if installed(package) is None]
        if missing:
            say(f"{name} is left out: {' and '.join(missing)} not installed.")
        else:
            there.append(name)
    return there


def lines_of(rows):
    """The lines of a table of the rows."""
    ours = {r["case"]: r["median_ms"] for r in rows if r["impl"] == OURS}
    return table(
        ("case", "implementation", "threads", "median, ms", "IQR, ms", "of ours", "peak, MB"),
        [
            (
                r["case"], r["impl"], r["threads"], f"{r['median_ms']:.2f}", f"{r['iqr_ms']:.2f}",
                f"{r['median_ms'] / ours[r['case']]:.2f}", f"{r['peak_rss_mb']:.0f}",
            )
            for r in rows
        ],
    )  # fmt: skip


peers_option = click.option("--peers", metavar="A,B", help="Only these, '' for none.  [default: all installed]")


@measurement
@peers_option
@rounds_option(default=5)
def train(threads, peers, rounds):
    """A training step of CSNet-x1 at batch 24 and 224x224, against PyTorch.

    zero_grad, forward, mean binary cross-entropy, backward, Adam; no data loading.
    """
    return all_against_peers([training()], chosen(peers, TRAINING), threads, rounds)


def case_option(names):
    return click.option("--case", "names", multiple=True, type=click.Choice(names), help="Only this (repeatable).")


def all_against_peers(works, peers, threads, rounds):
    """The outcome of `against_peers` of several cases."""
    rows, failures = [], []
    for work in works:
        more_rows, more_failures = against_peers(work, peers, threads, rounds)
        rows += more_rows
        failures += more_failures
    return Outcome(rows, lines_of(rows), failures)


@measurement
@peers_option
@case_option(list(PARTS))
@rounds_option(default=7)
def blocks(threads, peers, names, rounds):
    """Blocks of CSNet-x1, forward and backward at batch 24 and the sizes of 224x224, against PyTorch.

    Together they hold every kind of work of a training step: the large maps of stage 1, the wider ones of stage 2, and
    dilated convolutions with the fusion across scales.
    """
    return all_against_peers((part(name) for name in names or PARTS), chosen(peers, BLOCKS), threads, rounds)


@measurement
@peers_option
@case_option(["x1", *LEARNED])
@rounds_option(default=10)
def infer(threads, peers, names, rounds):
    """One picture of 224x224 through CSNet-x1, L-x1 and L-x2 in eval mode, against other engines."""
    works = (inference(name) for name in names or ("x1", *LEARNED))
    return all_against_peers(works, chosen(peers, INFERENCE), threads, rounds)


def fail(case, error):
    """End the command, because one of ours has failed."""
    raise click.ClickException(f"{case}: {error}.") from error


@contextlib.contextmanager
def siblings(variants):
    """(children, results of their first steps), by the names of `variants`: name -> arguments of `Child`.

    The children end with the context; one that fails ends the command.
    """
    children, results, name = {}, {}, ""
    try:
        for name, arguments in variants.items():
            results[name] = _begun(children, name, *arguments)
        name = " or ".join(variants)
        yield children, results
    except ChildError as error:
        fail(name, error)
    finally:
        close(children)


def among_ourselves(variants, rounds, turn):
    """(rows, first results by case) of `variants` of ours, timed in turns: case -> (build, problem, threads)."""
    say(f"{' and '.join(variants)}: {rounds} rounds")
    with siblings(variants) as (children, results):
        seconds = in_turns(children, rounds, turn, fail)
        rows = [
            row(case, OURS, variants[case][2], samples, peak_rss_mb=children[case].peak_rss_mb())
            for case, samples in seconds.items()
        ]
    return rows, results


@measurement
@rounds_option(default=5)
def scaling(threads, rounds):
    """Our training step and inference on one thread and on all: time, and whether the results are the same bits."""
    if threads < 2:
        raise click.UsageError("There is nothing to compare on one thread.")
    rows, failures = [], []
    for build, work in (
        (octsod_training, training()), (octsod_inference, inference("x1")), (octsod_inference, inference("x1", 24))
    ):  # fmt: skip
        case = f"scaling/{work.problem.case}"
        variants = {f"{case}/{n}": (build, work.problem, n) for n in (1, threads)}
        more, results = among_ourselves(variants, rounds, work.turn)
        rows += more
        try:
            agreement(*results.values(), 0)
        except DisagreementError as error:
            failures.append(f"{case}, {threads} threads against one: {error}.")
    return Outcome(rows, lines_of(rows), failures)


@measurement
@click.option(
    "--weights", type=existing_file(), metavar="FILE",
    help="Measure these instead, such as the released L-x2's, against ordinary ones of the same network.",
)  # fmt: skip
@rounds_option(default=5)
def subnormals(threads, weights, rounds):
    """Weights as dynamic weight decay makes them, full of subnormal numbers, against ordinary ones, in CSNet-L-x2.

    Forward in eval mode with one picture; forward and backward in training mode with 24.
    """
    tiny = problem("tiny", configuration("L-x2"), 1, tiny=True) if weights is None else released("tiny", weights)
    ordinary = problem("ordinary", tiny.network(), 1)
    rows = []
    for name, build, batch, turn in (
        ("forward", octsod_inference, 1, SHORT), ("forward+backward", octsod_gradients, 24, LONG)
    ):  # fmt: skip
        variants = {
            f"subnormals/{name}/{given.case}": (build, replace(given, batch=batch), threads)
            for given in (ordinary, tiny)
        }
        rows += among_ourselves(variants, rounds, turn)[0]
    return Outcome(rows, lines_of(rows))
