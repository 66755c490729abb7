"""A profile as text, for terminals of any kind and for files."""

import functools
import math
import textwrap
from collections.abc import Iterator

from rich.text import Text

from ..checks import printable, require_integer
from .groups import (
    BESIDE,
    PYTHON,
    added,
    group_name,
    group_of,
    grouped,
    iqr,
    matching,
    median,
    require_whole,
    typical,
    use_name,
)
from .results import Profile, Row
from .verdicts import large, milliseconds, number, percent, round_name, verdict

WIDTH, NARROWEST = 100, 40  # columns
LAYERS = 10  # of the list of memory, if not all are asked for

ROOF = "of roof"
COLUMNS = (
    ("ms", 9), ("share", 8), ("calls", 7), ("each, ms", 10), ("IQR, ms", 9), ("FLOP", 8), ("bytes", 8), ("FLOP/B", 8),
    ("GFLOP/s", 9), ("GB/s", 8), (ROOF, 9),
)  # fmt: skip
"""The numbers of a group, and their widths. Of its time per call: median and interquartile range over the rounds."""


def table(
    profile: Profile, by: str = "kernel", sort: str = "time", filter: str = "", top: int | None = None,
    width: int = WIDTH,
) -> str:  # fmt: skip
    """A profile as text: two lines for each kernel, op, layer or row (`by`), its name with a verdict and its numbers;
    then sums, roofs, and memory by layer. `ms` and `share` are those of a typical round, the mean of those in the
    middle, so that they add up; `each` and `IQR` are of a call, over the rounds. If a slow round or a few make the mean
    much longer than the median, the verdict says so.

    sort: one of `groups.SORTS`. filter: only rows that hold this text in a name or in their shapes. top: how many
    groups are shown; the others are added up. width: columns, at least 40; names that are wider are wrapped, and so are
    the numbers. Raises ValueError for unknown words, and for a profile without rounds.
    """
    return "\n".join(line.plain.rstrip() for line in lines(profile, by, sort, filter, top, width))


def lines(
    profile: Profile, by: str = "kernel", sort: str = "time", filter: str = "", top: int | None = None,
    width: int = WIDTH,
) -> Iterator[Text]:  # fmt: skip
    """The lines of `table`, with styles for a terminal."""
    width = require_integer(width, "profile", "width", NARROWEST)
    found, held = grouped(profile, by, sort, filter), matching(profile.rows, filter)
    shown, others = (found, []) if top is None else (found[:top], found[top:])
    whole = round_name(profile)
    yield from paragraph(printable(profile.subject), width, "bold")
    yield Text()
    yield _named(by, "verdict", width, "dim")
    for columns in _columns(width):
        yield Text("".join(f"{name:>{size}}" for name, size in columns), "dim")
    for group in shown:
        yield from _group(group, verdict(group, whole), width)
    names = {group.name for group in others}
    for beside in (False, True):
        rest = [row for row in held if group_name(row, by) in names and row.beside == beside]
        if rest:
            count = len({group_name(row, by) for row in rest})
            group = group_of(profile, f"{count} other{'s' * (count > 1)}" + BESIDE * beside, rest)
            yield from _group(group, verdict(group, whole), width)
    if not found:
        said = f"No row holds {printable(filter)!r}." if profile.rows else "Nothing was launched."
        yield from paragraph(said, width)
    elif filter:
        seconds = typical(profile, added([row for row in held if not row.beside], len(profile.rounds)))
        yield Text()
        said = f"All that hold {printable(filter)!r}: {milliseconds(seconds)}, {_of(seconds, profile)}"
        yield from paragraph(said, width)
    yield Text()
    yield from _sums(profile, width)
    yield from _memory(profile, filter, top, width)


def _group(group, words, width):
    wrong = bool(group.wrong) and group.gain is None
    yield from _wrapped(group.name, words, width, "red" if wrong else "")
    style = "bold red" if wrong else "green" if (group.roof_share or 0) >= 0.7 else "yellow"
    cells = iter(_numbers(group))
    for columns in _columns(width):
        texts = [Text(f" {next(cells):>{size - 1}}", style * (name == ROOF)) for name, size in columns]
        yield Text("").join(texts)


@functools.cache
def _columns(width):
    """The columns of numbers in as few lines as fit, which are as even as can be."""
    fewest = len(_broken(width))
    return next(found for limit in range(1, width + 1) if len(found := _broken(limit)) == fewest)


def _broken(limit):
    found, used = [[]], 0
    for column in COLUMNS:
        if found[-1] and used + column[1] > limit:
            found, used = [*found, []], 0
        found[-1].append(column)
        used += column[1]
    return found


def _wrapped(name, words, width, style):
    """A name on the left and a verdict on the right; if they don't fit on one line, the verdict comes below."""
    name = printable(name)
    if len(name) + len(words) + 2 <= width:
        yield _named(name, words, width, "bold", style)
        return
    yield from paragraph(name, width, "bold")
    for part in textwrap.wrap(words, width - 4):
        yield Text(f"{part:>{width}}", style)


def paragraph(text: str, width: int, style: str = "") -> Iterator[Text]:
    """The lines of a text; none of an empty one."""
    for part in textwrap.wrap(text, width, subsequent_indent="    "):
        yield Text(part, style)


def _named(name, words, width, *styles):
    return Text("").join((Text(name, styles[0]), Text(words.rjust(width - len(name)), styles[-1])))


def _numbers(group):
    return (
        f"{1e3 * group.time:.3f}", percent(group.share), f"{group.calls:.6g}", _milli(group.each),
        _milli(group.each_iqr), large(group.flops), large(group.bytes), number(group.intensity),
        number(group.flop_rate, 1e-9), number(group.byte_rate, 1e-9), _roof(group),
    )  # fmt: skip


def _roof(group):
    if group.roof_share is None:
        return "-"
    return percent(group.roof_share) + ("!" if group.roof_share > 1 else "")


def _milli(seconds):
    return "-" if seconds is None else f"{1e3 * seconds:.3f}"


def _of(seconds, profile):
    return f"{percent(seconds / typical(profile, profile.rounds))} of the {round_name(profile)}"


def _sums(profile, width):
    """The whole, its parts, and what no row accounts for."""
    require_whole(profile)
    rounds = len(profile.rounds)
    parts: dict[str, list[Row]] = {"kernels": [], PYTHON: []}
    for row in profile.rows:
        if not row.beside:
            parts.setdefault("kernels" if row.kernel else use_name(row), []).append(row)
    seconds = {name: added(rows, rounds) for name, rows in parts.items()}
    left = [whole - math.fsum(own) for whole, *own in zip(profile.rounds, *seconds.values(), strict=True)]
    whole = round_name(profile)
    spread = _spread(profile.rounds, f"{whole}s")
    yield from _sum(f"the {whole}", typical(profile, profile.rounds), spread, width)
    for name, own in [*seconds.items(), ("unaccounted for", left)]:
        time = typical(profile, own)
        name = f"{PYTHON} between kernels" if name == PYTHON else printable(name)
        yield from _sum(name, time, _of(time, profile), width)
    if beside := [row for row in profile.rows if row.beside]:
        seconds = typical(profile, added(beside, rounds))
        yield from _sum(f"beside the {whole}", seconds, "in other threads, or while a GPU computes", width)
    if profile.captured:
        note = f"replayed from a captured graph, {_spread(profile.captured, f'{whole}s')}"
        yield from _sum(f"the {whole}, captured", median(profile.captured), note, width)
    yield from _sum("compiling", profile.compiled, f"in no {whole}", width)
    if len(profile.rounds) == 1 and not profile.warm:
        yield from paragraph(
            "This was the first and only round, so it may include loading kernels; `octsod.profile(warm=1)`, with "
            "`p.step()` after each round, counts later ones.", width,
        )  # fmt: skip
    for roof in profile.roofs:
        name = f"roofs of {printable(roof.device)}" + (f", {roof.threads} threads" if roof.threads > 1 else "")
        caches = [f"{number(cache.bandwidth, 1e-9)} GB/s up to {large(cache.bytes)}B" for cache in roof.caches]
        yield from paragraph(
            f"{name}: {number(roof.bandwidth, 1e-9)} GB/s copied, {number(roof.arithmetic, 1e-9)} GFLOP/s in "
            f"multiply-adds, {1e6 * roof.launch:.3g} us for an empty launch"
            + (f"; in caches, {', '.join(caches)}" if caches else ""), width,
        )  # fmt: skip
    if profile.lost:
        yield from paragraph(f"{profile.lost:,} older events are not in traces; the table has them all.", width)


def _sum(name, seconds, note, width):
    size = min(28, width - 16)
    *before, last = textwrap.wrap(name, size) or [""]
    yield from map(Text, before)
    yield from beside(f"{last:<{size}}{f'{round(1e3 * seconds, 4) + 0.0:,.3f} ms':>16}   ", note, width)  # no -0.000


def beside(head: str, text: str, width: int, style: str = "") -> Iterator[Text]:
    """Numbers, and a text on their right; if there is little room, it comes below."""
    room = width - len(head)
    if len(text) > room < 20:
        yield Text(head.rstrip(), style)
        head, room = " " * 4, width - 4
    for part in textwrap.wrap(text, room) or [""]:
        yield Text(head + part, style)
        head = " " * len(head)


def _spread(seconds, rounds):
    return f"IQR {1e3 * iqr(seconds):.3f} ms of {len(seconds)} {rounds[:-1] if len(seconds) == 1 else rounds}"


def _memory(profile, filter, top, width):
    if not profile.memory and not profile.peak_bytes:
        return
    yield Text()
    yield Text(f"memory at its peak: {_bytes(profile.peak_bytes)}", "bold")
    held = [layer for layer in profile.memory if filter.casefold() in layer.layer.casefold()] or profile.memory
    held = sorted(held, key=lambda layer: (-layer.at_peak, -layer.bytes))
    shown = held[: LAYERS if top is None else top]
    if shown:
        yield from beside(f"{'kept at most':>14}{'at the peak':>14}{'share':>9}   ", "layer", width, "dim")
    for layer in shown:
        yield from _memory_line(profile, layer.layer or "(no layer)", layer.bytes, layer.at_peak, width)
    if rest := held[len(shown) :]:
        yield from _memory_line(profile, f"{len(rest)} others", None, sum(layer.at_peak for layer in rest), width)


def _memory_line(profile, name, most, at_peak, width):
    share = percent(at_peak / profile.peak_bytes) if profile.peak_bytes else "-"
    head = f"{_bytes(most):>14}{_bytes(at_peak):>14}{share:>9}   "
    yield from beside(head, printable(name), width)


def _bytes(count):
    return "-" if count is None else f"{count / 1e6:,.2f} MB"
