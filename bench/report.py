"""`python -m bench report`: the committed results, from the files that the measuring commands wrote."""

import pathlib

import click

from . import kernels, network
from .gpu import section
from .ratios import count, summary
from .rows import by_key, read_rows

SECTIONS = {
    "train": "A training step against PyTorch",
    "blocks": "Blocks of the network against PyTorch, forward and backward",
    "infer": "Inference against other engines",
    "kernels": "The kernels of a training step",
    "scaling": "From one thread to all",
    "subnormals": "Weights full of subnormal numbers",
    "profiler": "What it costs to be profiled",
    "gpu": section.TITLE,
}


def document(rows, notes=""):
    """The Markdown of RESULTS.md. Raises ClickException for a row that comes from no known command."""
    groups = {}
    for r in rows:
        command = r["case"].partition("/")[0]
        if command not in SECTIONS:
            raise click.ClickException(f"the case {r['case']!r} is of no command of bench.")
        # The scaling table covers several numbers of threads, every other table one.
        groups.setdefault((command, 0 if command == "scaling" else r["threads"]), []).append(r)
    lines = [
        "# Results",
        "",
        "Written by `python -m bench report` from rows of the other commands. Medians of rounds in which the "
        "implementations take turns; IQR is the distance of the quartiles. Ratios within one run count, not times.",
        "",
        *_provenance(rows),
        "",
        "## Ratios and targets",
        "",
        *summary(rows),
    ]
    for command, title in SECTIONS.items():
        for (of, threads), group in sorted(groups.items()):
            if of == command:
                lines += ["", f"## {title}{f', {count(threads)}' if threads else ''}", ""]
                lines += {"kernels": kernels, "gpu": section}.get(command, network).lines_of(group)
    return "\n".join([*lines, *(["", notes.strip()] if notes else [])]) + "\n"


def _provenance(rows):
    """Lines that say on what machine, when and with what versions the rows were measured."""
    versions = {}
    for r in rows:
        for name, version in r.get("versions", {}).items():
            versions.setdefault(name, set()).add(version)
    facts = {
        "Machine": {r["machine"] for r in rows if "machine" in r},
        "Date": {r["date"] for r in rows if "date" in r},
        "Versions": {f"{name} {' and '.join(sorted(of))}" for name, of in versions.items()},
    }
    return [f"- {name}: {', '.join(sorted(values))}." for name, values in facts.items() if values]


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False), metavar="FILE.json...")
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=pathlib.Path))
@click.option(
    "--notes", type=click.Path(exists=True, dir_okay=False, path_type=pathlib.Path), metavar="FILE.md",
    help="Markdown for the end, such as why a target is missed.",
)  # fmt: skip
def report(files, output, notes):
    """Write the rows of several runs as one Markdown file, such as bench/RESULTS.md."""
    rows, sources = [], {}
    for file in files:
        for key, r in by_key(read_rows(file)).items():
            if key in sources:
                what = f"{key[0]} of {key[1]} on {count(key[2])}"
                raise click.ClickException(f"{file}: {what} is in {sources[key]}, too.")
            sources[key] = file
            rows.append(r)
    output.write_text(document(rows, "" if notes is None else notes.read_text()))
