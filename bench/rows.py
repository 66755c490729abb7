"""Results: one row per case and implementation, how they are written, read, compared and shown.

A row is a dict of at least `case`, `impl`, `threads`, `median_ms`, `iqr_ms` (the third quartile less the first),
`samples` (how many), and what identifies a measurement later: `date`, `machine` and `versions`.
"""

import datetime
import json
import pathlib
import platform

import click

from octsod.profiling.machine import installed, machine

REQUIRED = {"case": str, "impl": str, "threads": int, "median_ms": (int, float), "iqr_ms": (int, float)}


def quartiles(samples):
    """First quartile, median and third quartile."""
    import numpy as np

    return tuple(float(q) for q in np.percentile(samples, (25, 50, 75)))


def row(case, impl, threads, seconds, packages=("numpy", "numba"), **more):
    """The row of a case. seconds: its samples. packages: what the implementation is made of."""
    import octsod

    low, median, high = quartiles(seconds)
    versions = {"python": platform.python_version()}
    if impl == "octsod":
        versions["octsod"] = octsod.__version__
    versions |= {name: installed(name) for name in packages}
    return {
        "case": case,
        "impl": impl,
        "threads": threads,
        "median_ms": rounded(1e3 * median),
        "iqr_ms": rounded(1e3 * (high - low)),
        "samples": len(seconds),
        **more,
        "date": datetime.date.today().isoformat(),
        "machine": machine(),
        "versions": versions,
    }


def rounded(value):
    """`value` to five digits, more than any of our measurements has."""
    return float(f"{value:.5g}")


def write_rows(path, rows):
    """Write one JSON list, one row per line."""
    path.write_text("[\n" + ",\n".join(json.dumps(r) for r in rows) + "\n]\n")


def read_rows(path):
    """What `write_rows` wrote. Raises ClickException, which names the file, on anything else."""
    try:
        rows = json.loads(pathlib.Path(path).read_text())
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}.") from error
    except ValueError as error:
        raise click.ClickException(f"{path}: not JSON: {error}.") from error
    if not isinstance(rows, list):
        raise click.ClickException(f"{path}: not a list of rows as --json writes it.")
    for number, r in enumerate(rows):
        for key, kind in REQUIRED.items():
            if not isinstance(r, dict) or not isinstance(r.get(key), kind):
                raise click.ClickException(f"{path}: row {number} lacks {key!r}, or it is of another kind.")
    return rows


def by_key(rows):
    """(case, impl, threads) -> row."""
    return {(r["case"], r["impl"], r["threads"]): r for r in rows}


def comparison(rows, base):
    """Lines: a table of the rows that `base` has too, with how many times as fast each is now; then those it lacks."""
    before = by_key(base)
    common = [(key, r) for key, r in by_key(rows).items() if key in before]
    lines = table(
        ("case", "impl", "threads", "before", "now", "speed-up"),
        [
            (*key, milliseconds(before[key]), milliseconds(r), times(before[key]["median_ms"] / r["median_ms"]))
            for key, r in common
        ],
    )
    lines += [f"not in the base: {', '.join(map(str, key))} threads" for key in by_key(rows) if key not in before]
    machines = {r["machine"] for r in (*rows, *base) if "machine" in r}
    if len(machines) > 1:
        lines.append(f"The machines differ: {'; '.join(sorted(machines))}.")
    return lines


def milliseconds(r):
    return f"{r['median_ms']:.4g} ms"


def times(ratio):
    return f"{ratio:.2f}x"


def table(header, rows):
    """Lines of a table that is Markdown but also readable as plain text; columns of numbers are right-aligned."""
    cells = [[("" if cell is None else str(cell)) for cell in r] for r in (header, *rows)]
    right = [all(not c or c[0].isdigit() for c in column) for column in zip(*cells[1:], strict=True)]
    right = right or [False] * len(header)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)) + " |"
        for line in cells
    ]
    rule = "|" + "|".join("-" * (w + 1) + (":" if r else "-") for w, r in zip(widths, right, strict=True)) + "|"
    return [lines[0], rule, *lines[1:]]
