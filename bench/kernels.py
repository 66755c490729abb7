"""`python -m bench kernels`: every kernel that a training step launches, at its real shapes, under its roof; or the
kernels of any op, there and back, at given shapes.

A step at batch 2 compares each launch with the reference. Then real steps are profiled (octsod.profiling); launches
that are equal make a row. A kernel's floor is the time that its arithmetic takes at the rate of multiply-adds in
registers, or its compulsory traffic at the rate of copying, or of caches as far as they hold it, whichever is longer;
the rates are measured in this run.
Its share of the roof is the floor over its time. `octsod profile` shows the same steps by op and layer, too, with all
that is not kernels.
"""

import collections
import dataclasses
import inspect

import click
import numpy as np

import octsod
from octsod import Tensor
from octsod.autograd import Function
from octsod.backend import get_device, kernel_on, launch_with
from octsod.cli.check import find
from octsod.ops import Cost
from octsod.profiling.groups import floors_of
from octsod.profiling.launches import arrays_of, described, private, signature, told_apart
from octsod.profiling.roofs import measure, most_of

from .agreement import relative_error
from .children import without_garbage
from .command import Outcome, measurement, rounds_option, say
from .implementations import OURS, octsod_training
from .problems import configuration, problem
from .rows import rounded, row, table

VERIFY_BATCH = 2
FORWARD_TOLERANCE, BACKWARD_TOLERANCE = 1e-4, 1e-2
"""Largest `relative_error` of an array that a kernel leaves behind. In float32 the derivative of a PReLU whose argument
is within rounding of zero is either one of two; forward, nothing jumps."""

SHOWN = 0.002  # of the step: launches below that are added up in one line


@dataclasses.dataclass
class Launch:
    """Equal launches. count: how many a step has."""

    title: str
    cost: Cost | None
    count: int = 0


def recorded(step, visit):
    """Launches of `step()`, in order of first appearance. `visit(launch, name, function, arguments)` is called before
    the first of equal ones."""
    launches, titles = {}, collections.Counter()

    def launcher(name, function, *arguments):
        key = name, signature(arguments)
        if key not in launches:
            title, cost = described(name, arguments)
            title = told_apart(name, title, titles)
            launches[key] = Launch(f"{name} {title}".strip(), cost)
            visit(launches[key], name, function, arguments)
        launches[key].count += 1
        return function(*arguments)

    with launch_with(launcher):
        step()
    return list(launches.values())


def error_of(name, function, arguments):
    """How far a kernel's results are from the reference's: the largest `relative_error`, and its argument."""
    reference = kernel_on(get_device("reference"), name)
    names = inspect.signature(reference)
    ours, expected = _left_behind(function, names, arguments), _left_behind(reference, names, arguments)
    # Sums of an activation that have not been computed yet are written by the kernel, or by its op afterwards.
    errors = {path: relative_error(ours[path], expected[path]) for path in ours.keys() & expected.keys()}
    worst = max(errors, key=errors.get)
    return errors[worst], worst


def _left_behind(kernel, names, arguments):
    """All arrays after a launch, by their paths in the arguments. Moments are sums about a value that the kernel
    chooses, so they are replaced by the mean and variance that they stand for."""
    arguments = private(arguments)
    kernel(*arguments)
    named = names.bind(*arguments).arguments
    arrays = {path: array for name, value in named.items() for path, array in arrays_of(value, name)}
    for path in [path for path in arrays if path.startswith("moments")]:
        out = arrays.get(path.replace("moments", "outputs" if "outputs" in named else "out"))
        if out is not None:
            pixels = out.shape[2] * out.shape[3]
            about, total, squares = arrays.pop(path).transpose(1, 0, 2)
            arrays["mean of " + path] = about + total / pixels
            arrays["variance of " + path] = squares / pixels - (total / pixels) ** 2
    return arrays


def verified(step, select=""):
    """(titles of the launches that agree with the reference, a sentence about each one that does not)."""
    titles, failures = set(), []

    def visit(launch, name, function, arguments):
        if select in launch.title:
            error, where = error_of(name, function, arguments)
            allowed = BACKWARD_TOLERANCE if name.endswith("backward") else FORWARD_TOLERANCE
            if error <= allowed:
                titles.add(launch.title)
            else:
                failures.append(
                    f"{launch.title}: its {where} is off by {error:.1e} (allowed are {allowed:.0e}): not timed."
                )

    recorded(step, visit)
    return titles, failures


def timed(step, rounds):
    """The `Profile` of so many steps, after another one."""
    with without_garbage(), octsod.profile("training step", warm=1, events=0, roofs=False) as found:
        for _ in range(1 + rounds):
            step()
            found.step()
    return found.result


def rows_of(profile, titles, roof, of="kernels"):
    """Rows of the launches in `titles`, those that take most of the step first, and of the step itself."""
    equal = {}
    for row_ in profile.rows:
        title = f"{row_.kernel} {row_.title}".strip()
        if row_.kernel and not row_.beside and title in titles:
            equal.setdefault(title, []).append(row_)
    step = float(np.median(profile.rounds))
    rows = [_row(f"{of}/{title}", own, step, roof) for title, own in equal.items()]
    rows.sort(key=lambda r: -r["step_share"])
    total = sum(r["median_ms"] * r["launches"] for r in rows)
    return [*rows, row(f"{of}/step", OURS, roof.threads, profile.rounds, kernels_ms=rounded(total))]


def _row(case, own, step, roof):
    """The row of equal launches, whose samples are of one of them: the mean of a step's."""
    calls = sum(r.calls for r in own)
    samples = [sum(seconds) / calls for seconds in zip(*(r.seconds for r in own), strict=True)]
    seconds = float(np.median(samples))
    more = {"launches": round(calls), "step_share": rounded(calls * seconds / step)}
    if all(r.flops is not None for r in own):
        flops, moved = (sum(values) / calls for values in zip(*((r.flops, r.bytes) for r in own), strict=True))
        floors = floors_of(roof, flops, moved, 1)
        bound = max(floors, key=floors.get)
        more |= {
            "gflop_s": rounded(flops / seconds / 1e9),
            "gb_s": rounded(moved / seconds / 1e9),
            "roof": bound,
            "roof_share": rounded(floors[bound] / seconds),
            "roof_gflop_s": rounded(roof.arithmetic / 1e9),
            "roof_gb_s": rounded(roof.bandwidth / 1e9),
        }
    return row(case, OURS, roof.threads, samples, **more)


def lines_of(rows):
    """The lines of a table of `rows_of`."""
    *kernels, step = rows
    shown = [r for r in kernels if r["step_share"] >= SHOWN]
    small = [r for r in kernels if r["step_share"] < SHOWN]

    def cells(title, kernels, *details):
        milliseconds = sum(r["median_ms"] * r["launches"] for r in kernels)
        share = f"{100 * milliseconds / step['median_ms']:.1f} %"
        return (title, sum(r["launches"] for r in kernels), *details, f"{milliseconds:.2f}", share)

    def rates(r):
        if "roof" not in r:
            return ("",) * 4
        return f"{r['gflop_s']:.1f}", f"{r['gb_s']:.1f}", r["roof"], f"{100 * r['roof_share']:.0f} %"

    lines = [
        cells(r["case"].partition("/")[2], [r], f"{r['median_ms']:.3f}", f"{r['iqr_ms']:.3f}", *rates(r))
        for r in shown
    ]
    if small:
        lines.append(cells(f"{len(small)} kinds of smaller ones", small, *[""] * 6))
    lines.append(cells("all", kernels, *[""] * 6))
    roof = next((r for r in kernels if "roof" in r), None)
    roofs = [] if roof is None else [
        f"Roofs: {roof['roof_gflop_s']:.0f} GFLOP/s in multiply-adds, {roof['roof_gb_s']:.1f} GB/s copied.", "",
    ]  # fmt: skip
    header = ("kernel", "launches", "each, ms", "IQR, ms", "GFLOP/s", "GB/s", "roof", "of roof", "all, ms", "of step")
    last = f"The step itself: {step['median_ms']:.1f} ms, IQR {step['iqr_ms']:.1f} ms."
    return [*roofs, *table(header, lines), "", last]


def training_step(batch):
    """`step()` of CSNet-x1 at 224x224, with everything compiled that it needs."""
    block = octsod_training(problem("kernels", configuration("x1"), batch), octsod.get_num_threads())
    block.step()
    return block.step


class _Shape(click.ParamType):
    name = "shape"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            return tuple(int(part) for part in value.split("x"))
        except ValueError:
            self.fail(f"{value!r} is no shape; expected lengths such as 24x32x56x56.", param, ctx)


def op_step(target, shapes):
    """`step()` of an op, MODULE:OP, there and back, on random float32 arrays of these shapes."""
    op, name = find(target)
    if isinstance(op, type) and issubclass(op, Function):
        op = op.apply
    rng = np.random.default_rng(0)
    inputs = [Tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True) for shape in shapes]
    cotangents = {}

    def step():
        for x in inputs:
            x.zero_grad()
        outputs = op(*inputs)
        for number, y in enumerate([outputs] if isinstance(outputs, Tensor) else outputs):
            if number not in cotangents:
                cotangents[number] = rng.standard_normal(y.shape).astype(y.dtype)
            y.backward(cotangents[number], retain_graph=True)

    try:
        step()
    except (TypeError, ValueError) as error:
        expected = " and ".join("x".join(map(str, shape)) for shape in shapes)
        raise click.ClickException(f"{name} does not take arrays of {expected}: {error}") from error
    return step


@measurement
@click.option("--case", "select", default="", metavar="SUBSTRING", help="Only kernels whose title holds this.")
@click.option("--op", "target", metavar="MODULE:OP", help="Those of this op, such as tests/swish.py:Swish, instead.")
@click.option("--input", "shapes", type=_Shape(), multiple=True, metavar="NxCxHxW",
              help="Shape of an input of --op, for each of them.  [default: one of 24x32x112x112]")  # fmt: skip
@click.option("-b", "--batch-size", type=click.IntRange(min=1), help="While timing.  [default: 24]")
@rounds_option(default=7)
def kernels(threads, select, target, shapes, batch_size, rounds):
    """Each kernel of a training step of CSNet-x1 at 224x224: time, rates, share of its roof and of the step."""
    if target and batch_size:
        raise click.UsageError("--op has its sizes from --input; leave --batch-size out.")
    if shapes and not target:
        raise click.UsageError("--input is for --op.")
    say("comparing with the reference" + ("" if target else f" at batch {VERIFY_BATCH}"))
    step = op_step(target, shapes or [(24, 32, 112, 112)]) if target else training_step(VERIFY_BATCH)
    titles, failures = verified(step, select)
    if not titles and not failures:
        if target and not select:
            raise click.BadParameter(f"{target} launches no kernels.", param_hint="--op")
        raise click.BadParameter(f"no kernel's title holds {select!r}.", param_hint="--case")
    before = measure("cpu", threads)
    say("timing" + ("" if target else f" at batch {batch_size or 24}"))
    found = timed(step if target else training_step(batch_size or 24), rounds)
    of = f"op {target}" if target else "kernels"
    rows = rows_of(found, titles, most_of(before, measure("cpu", threads)), of.replace("/", "."))
    return Outcome(rows, lines_of(rows), failures)
