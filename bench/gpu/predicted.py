"""`python -m bench gpu --predict`: what a step and a prediction of CSNet-x1 ask of a GPU, counted at batch 1.

Each distinct launch is run once by the simulator, which counts; how often it occurs is its weight. Times are a roofline
(octsod.testing.cusim.occupancy): the least that a launch could take, without latencies. At a larger batch, the counts
of batch 1 are scaled by how much more memory a launch has.
"""

import dataclasses

import click

from octsod.testing.cusim.counts import SECTOR, Traffic
from octsod.testing.cusim.occupancy import GPUS, predict

from ..command import say
from ..implementations import OURS
from ..problems import SIZE
from ..rows import rounded, row, table
from .counted import CLASSES, Counter, class_of
from .recorded import prediction, training_step
from .resources import ARCHITECTURES, most_shared, needs_of

CHOSEN = ("A100", "H200")  # the last one's launches are shown
WORKS = {"train": (training_step, 24), "infer": (prediction, 64)}  # how to record it, and the larger batch
NOTE = "Predicted from counts of what kernels ask of memory."

BYTES = "different bytes / the ops' cost, layer by layer"
# What the counts of a step must not exceed.
MOST = {
    BYTES: 1.25,
    "sectors / least for the same accesses": 1.15,
    "32 bytes per sector / different bytes, pointwise": 1.15,
    "32 bytes per sector / different bytes, depthwise": 1.4,
    "32 bytes per sector / different bytes, dense": None,
    "launches": 350,
    "bytes of registers spilled": 0,
}


def counted(network, size=SIZE):
    """The rows of a step and a prediction of a network, given by its `Configuration`."""
    counter, rows = Counter(), []
    for work, (record, batch) in WORKS.items():
        recorded = {}
        for name in CHOSEN:
            say(f"counting {work} for {name}")
            shared = most_shared(GPUS[name])
            one, many = (record(network, images, size, shared) for images in (1, batch))
            counts = (with_counts(one.order, of.order, counter) for of in (one, many))
            recorded[name] = (one, *counts)
        rows += rows_of(f"gpu/predicted/{work}/x1", batch, recorded)
    return rows


def with_counts(ones, launches, counter):
    """[(launch, its `Count`)] for launches in order. ones: the same ones at batch 1, which are counted. Raises
    ClickException if they are not the same."""
    if [launch.kernel for launch in ones] != [launch.kernel for launch in launches]:
        raise click.ClickException("Other kernels are launched at batch 1 than at larger ones; so these are not known.")
    return [
        (launch, scaled(counter.count(one), launch, launch.bytes / max(one.bytes, 1)))
        for one, launch in zip(ones, launches, strict=True)
    ]


def scaled(count, launch, factor):
    """A launch's count, from that of a launch with `factor` times less memory."""
    if factor == 1:
        return count
    return dataclasses.replace(
        count, grid=(*launch.grid, 1, 1)[:3], read=_times(count.read, factor), write=_times(count.write, factor),
        wavefronts=count.wavefronts * factor, flops=count.flops * factor,
    )  # fmt: skip


def _times(traffic, factor):
    return Traffic(*(factor * value for value in dataclasses.astuple(traffic)))


def predicted(gpu, launch, count):
    """The `Prediction` of a launch."""
    return predict(count, gpu, needs_of(launch)["registers"][list(ARCHITECTURES).index(gpu.architecture)])


# Rows ---------------------------------------------------------------------------------------------------------------


def rows_of(case, batch, recorded):
    """A row for each CUDA kernel, for each kernel of the contract (`op/...`), and for `all`. recorded: by a GPU's name,
    the `Recording` at batch 1, its launches with counts, and those at the larger batch. Counts are those of the last
    GPU."""
    shown, launches, _ = recorded[CHOSEN[-1]]
    rows = []
    for kernel in dict.fromkeys(launch.kernel for launch, _ in launches):
        own = [(launch, count) for launch, count in launches if launch.kernel == kernel]
        facts = {"class": class_of(own[0][0].file), **_facts(own), **_needs(own)}
        rows.append(_row(f"{case}/b1/{kernel}", facts, batch, recorded, lambda of, kernel=kernel: of.kernel == kernel))
    rows.sort(key=lambda r: -r["median_ms"])
    for op, cost in costs(shown).items():
        own = [(launch, count) for launch, count in launches if _op(launch) == op]
        if own:
            facts = {**_facts(own), "cost_mb": rounded(cost / 1e6)}
            rows.append(_row(f"{case}/b1/op/{op}", facts, batch, recorded, lambda of, op=op: _op(of) == op))
    facts = {**_facts(launches), **_needs(launches), "cost_mb": rounded(sum(costs(shown).values()) / 1e6)}
    for name in CLASSES:
        own = [(launch, count) for launch, count in launches if class_of(launch.file) == name]
        if own:
            facts[f"{name}_overhead"] = _facts(own)["sector_mb"] / _facts(own)["unique_mb"]
    return [*rows, _row(f"{case}/b1/all", facts, batch, recorded, lambda of: True)]


def _row(case, facts, batch, recorded, chosen):
    """A row, with what a GPU would make of the launches that are `chosen`."""
    gpus = {}
    for name, (_, *batches) in recorded.items():
        one, many = (
            [predicted(GPUS[name], launch, count) for launch, count in launches if chosen(launch)]
            for launches in batches
        )
        if not one:
            continue
        shares, bounds = [p.occupancy.share for p in one], {}
        for p in one:
            bounds[p.bound] = bounds.get(p.bound, 0) + p.seconds
        gpus[name] = {
            "occupancy": [rounded(min(shares)), rounded(max(shares))],
            "bound": max(bounds, key=bounds.get),
            "ms": rounded(1e3 * sum(p.seconds for p in one)),
            f"ms_b{batch}": rounded(1e3 * sum(p.seconds for p in many)),
        }
    return row(case, OURS, 0, [gpus[CHOSEN[-1]]["ms"] / 1e3], **facts, gpus=gpus, batch=batch)


def _facts(launches):
    counts = [count for _, count in launches]
    accesses = sum(site.warps for count in counts for site in count.sites)
    return {
        "launches": len(launches),
        "read_mb": rounded(sum(c.read.unique for c in counts) / 1e6),
        "written_mb": rounded(sum(c.write.unique for c in counts) / 1e6),
        "unique_mb": rounded(sum(c.unique_bytes for c in counts) / 1e6),
        "sector_mb": rounded(sum(c.sector_bytes for c in counts) / 1e6),
        "least_mb": rounded(SECTOR * sum(c.read.least + c.write.least for c in counts) / 1e6),
        "wavefronts": sum(c.wavefronts for c in counts),
        "conflicts": sum(c.bank_conflicts for c in counts),
        "divergent": rounded(sum(site.partial for count in counts for site in count.sites) / max(accesses, 1)),
    }


def _needs(launches):
    """What the compiler says of kernels on the last GPU, the largest of each."""
    needs = [needs_of(launch) for launch, _ in launches]
    return {
        "registers": max(n["registers"][-1] for n in needs),
        "shared": max(n["shared"][-1] + launch.shared for n, (launch, _) in zip(needs, launches, strict=True)),
        "spills": max(max(n["spills"]) for n in needs),
    }


def _op(launch):
    """The kernel of the contract that a launch belongs to, the first if there are several."""
    return next(iter(launch.parts)).partition(" ")[0]


def costs(recording):
    """Bytes that the calls of the contract's kernels need, layer by layer."""
    costs = {}
    for title, (calls, cost) in recording.costs.items():
        op = title.partition(" ")[0]
        costs[op] = costs.get(op, 0) + (calls * cost.bytes if cost else 0)
    return costs


# Lines --------------------------------------------------------------------------------------------------------------


def lines_of(rows):
    """Markdown: for a step and for a prediction, the totals, a table by CUDA kernel, and one by kernel of the contract.
    """
    lines = [f"{NOTE} The simulator ran each distinct launch once, at batch 1.", ""]
    for case in dict.fromkeys(r["case"].partition("/b1/")[0] for r in rows):
        own = {r["case"].partition("/b1/")[2]: r for r in rows if r["case"].startswith(f"{case}/b1/")}
        whole = own.pop("all")
        ops = {name.partition("/")[2]: r for name, r in own.items() if name.startswith("op/")}
        kernels = {name: r for name, r in own.items() if not name.startswith("op/")}
        work = case.split("/")[2]
        lines += [f"### {_TITLES[work]}, predicted", "", *_totals(whole, work), "", *_by_kernel(kernels), ""]
        if whole["cost_mb"]:
            lines += [*_by_op(ops), ""]
    return lines[:-1]


_TITLES = {"train": "A training step of CSNet-x1 at 224x224", "infer": "A prediction of CSNet-x1 at 224x224"}


def totals(whole):
    """what -> number, of a row `all`."""
    numbers = (
        whole["unique_mb"] / whole["cost_mb"] if whole["cost_mb"] else None, whole["sector_mb"] / whole["least_mb"],
        *(whole.get(f"{name}_overhead") for name in CLASSES), whole["launches"], whole["spills"],
    )  # fmt: skip
    return dict(zip(MOST, numbers, strict=True))


def _totals(whole, work):
    lines = []
    for what, value in totals(whole).items():
        most = MOST[what] if work == "train" else None
        if value is not None:
            reached = "" if most is None else "yes" if value <= most else "no"
            lines.append((what, f"{value:.2f}" if isinstance(value, float) else value, most, reached))
    for name, of in whole["gpus"].items():
        for key, batch in (("ms", 1), (f"ms_b{whole['batch']}", whole["batch"])):
            lines.append((f"time on {name} at batch {batch}, predicted, ms", f"{of[key]:.2f}", None, ""))
    return table(("counted", "value", "at most", "reached"), lines)


def _by_kernel(rows):
    header = (
        "CUDA kernel, predicted", "launches", "MB read", "written", "sectors / least", "/ different", "bank conflicts",
        "divergent", "registers", "shared, KB", *(f"occupancy {name}" for name in CHOSEN),
        *(f"us, {name}" for name in CHOSEN), "bound",
    )  # fmt: skip
    return table(header, [
        (
            name, r["launches"], f"{r['read_mb']:.2f}", f"{r['written_mb']:.2f}", *_ratios(r), _share(r["conflicts"],
            r["wavefronts"]), _share(r["divergent"], 1), r["registers"], f"{r['shared'] / 1024:.1f}",
            *(_range(*r["gpus"][gpu]["occupancy"]) if gpu in r["gpus"] else "" for gpu in CHOSEN),
            *(f"{1e3 * r['gpus'][gpu]['ms']:.1f}" if gpu in r["gpus"] else "" for gpu in CHOSEN),
            r["gpus"][CHOSEN[-1]]["bound"],
        )
        for name, r in rows.items()
    ])  # fmt: skip


def _by_op(rows):
    header = ("kernel of the contract, predicted", "launches", "cost, MB", "MB moved", "/ cost", "us, H200")
    return table(header, [
        (
            name, r["launches"], f"{r['cost_mb']:.2f}" if r["cost_mb"] else "", f"{r['unique_mb']:.2f}",
            f"{r['unique_mb'] / r['cost_mb']:.2f}" if r["cost_mb"] else "", f"{1e3 * r['median_ms']:.1f}",
        )
        for name, r in rows.items()
    ])  # fmt: skip


def _ratios(r):
    """Sectors over the least for the same accesses, and their bytes over the different bytes."""
    return tuple(f"{r['sector_mb'] / r[key]:.2f}" if r[key] else "" for key in ("least_mb", "unique_mb"))


def _share(part, whole):
    return f"{100 * part / whole:.1f} %" if whole else ""


def _range(*shares):
    low, high = (round(100 * share) for share in shares)
    return f"{low} %" if low == high else f"{low} to {high} %"
