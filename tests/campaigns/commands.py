"""The command line of the campaigns."""

import contextlib
import json
import pathlib
import sys
import tempfile

import click


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main():
    """Long searches for inputs, moments and durations that the library cannot bear.

    Each campaign prints a table in Markdown and writes it to its output folder. The exit code is 1 if it found a fault.
    """


def _finish(folder, name, text, faults):
    (folder / f"{name}.md").write_text(text)
    click.echo(text)
    sys.exit(1 if faults else 0)


out_option = click.option("--out", type=click.Path(file_okay=False, path_type=pathlib.Path), metavar="DIR")
seed_option = click.option("--seed", default=0, show_default=True)


@main.command()
@click.option("--kind", "kinds", multiple=True, metavar="KIND", help="What to fuzz; may be repeated.  [default: all]")
@click.option("--count", default=100_000, show_default=True, help="Inputs of each kind.")
@click.option("--minutes", type=float, help="Stop then, wherever it is; the same command goes on.")
@click.option("--hang", default=5.0, show_default=True, help="Seconds that one input may compute.")
@click.option("--input", "saved", type=click.Path(exists=True, path_type=pathlib.Path), metavar="DIR",
              help="Hand this saved input to the library once more, and do nothing else.")  # fmt: skip
@seed_option
@out_option
def fuzz(kinds, count, minutes, hang, saved, seed, out):
    """Damaged files of each kind: none may crash, hang, take 1 GB, write elsewhere, run code or end in a traceback."""
    from .fuzz import ALL, Campaign

    out = out or pathlib.Path(tempfile.gettempdir(), "octsod-fuzz")
    if saved:
        from .worker import again

        with tempfile.TemporaryDirectory() as root:
            again(saved.resolve(), out.resolve() / "samples", pathlib.Path(root, "box"), hang)
        return
    campaign = Campaign(out, seed, hang)
    with contextlib.suppress(KeyboardInterrupt):
        campaign.run(list(kinds) or ALL, count, minutes)
    _finish(out, "fuzz", campaign.report(), campaign.faults)


@main.command()
@click.option("--group", "groups", multiple=True, type=click.Choice(["kill", "cold", "full", "pairs", "damage"]),
              help="What to do; may be repeated.  [default: all]")  # fmt: skip
@click.option("--count", type=int, help="Kills in each group.  [default: 300, 100, 50, 20 and 100]")
@click.option("--first", default=0, show_default=True, help="Number of the first trial: to repeat one.")
@click.option("--minutes", type=float, help="Stop then, wherever it is; the same command goes on.")
@click.option("--patience", default=180.0, show_default=True, help="Seconds after which a process counts as hanging.")
@seed_option
@out_option
def kills(groups, count, first, minutes, patience, seed, out):
    """Work that is killed, interrupted or cramped at any moment, and then gone on with: results must be the same."""
    from .kills import COUNTS, Campaign

    out = out or pathlib.Path(tempfile.gettempdir(), "octsod-kills")
    campaign = Campaign(out, seed, patience)
    for group in groups if first else ():
        campaign.state["groups"][group] = {"next": first, "ends": 0, "seconds": 0.0, "faults": []}
    with contextlib.suppress(KeyboardInterrupt):
        campaign.run({group: count or COUNTS[group] for group in groups or COUNTS}, minutes)
    _finish(out, "kills", campaign.report(), campaign.faults)


@main.command()
@click.option("--predictions", default=20_000, show_default=True)
@click.option("--sizes", default=200, show_default=True, help="Sizes of pictures.")
@click.option("--models", default=200, show_default=True, help="Networks, one after the other.")
@click.option("--steps", default=20_000, show_default=True, help="Steps of training.")
@click.option("--validations", default=500, show_default=True)
@click.option("--minutes", type=float, help="Stop then, wherever it is.")
@seed_option
@out_option
def soak(minutes, seed, out, **counts):
    """Many predictions and steps in one process: resident memory must stay flat within 2 %."""
    from .soak import campaign

    out = out or pathlib.Path(tempfile.gettempdir(), "octsod-soak")
    _finish(out, "soak", *campaign(out, counts, seed, minutes))


@main.command()
@click.option("--count", default=400, show_default=True, help="Bugs to seed.")
@click.option("--minutes", type=float, help="Stop then, wherever it is; the same command goes on.")
@click.option("--only", metavar="FILE|ID", help="Only the bugs of one file, or one bug.")
@click.option("--show", metavar="ID", help="Print a bug as a patch, and do nothing else.")
@click.option("--results", type=click.Path(dir_okay=False, path_type=pathlib.Path), metavar="FILE",
              help="Where results are kept.  [default: OUT/results.jsonl]")  # fmt: skip
@click.option("--jobs", default=1, show_default=True, help="Bugs to try at a time.")
@seed_option
@out_option
def mutants(count, minutes, only, show, results, jobs, seed, out):
    """Bugs seeded in every op and kernel: a test must catch each."""
    try:
        import libcst  # noqa: F401
    except ImportError as error:
        raise click.ClickException(f"mutants needs libcst (`pip install libcst`): {error}.") from error
    from . import mutants as campaigns

    if show:
        found = campaigns.find(campaigns.ROOT, show)
        click.echo(found.diff((campaigns.ROOT / found.file).read_text(encoding="utf-8")), nl=False)
        return
    from octsod.testing import cusim

    if reason := cusim.unavailable():
        raise click.ClickException(reason)
    campaign = campaigns.Campaign(
        out or pathlib.Path(tempfile.gettempdir(), "octsod-mutants"), kept=results, jobs=jobs
    )  # fmt: skip
    with contextlib.suppress(KeyboardInterrupt):
        campaign.run(count, seed, minutes, only)
    drawn = campaign.chosen(count, seed, only)
    _finish(campaign.folder, "mutants", campaign.report(drawn), campaign.faults(drawn))


@main.command("soak-part", hidden=True)
@click.argument("arguments", nargs=4)
def soak_part(arguments):
    """A process of `soak`."""
    from .soak import part

    name, counts, seed, minutes = arguments
    part(name, json.loads(counts), int(seed), float(minutes) or None)


@main.command(hidden=True)
@click.argument("arguments", nargs=9)
def worker(arguments):
    """A process of `fuzz`."""
    from .worker import work

    kind, seed, first, last, home, box, mark, hang, until = arguments
    work(kind, int(seed), int(first), int(last), home, box, mark, float(hang), float(until))
