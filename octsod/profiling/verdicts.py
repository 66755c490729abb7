"""What a group of rows says in words: what binds it, and how much there is to gain."""

from .groups import ARITHMETIC, BINDS, CACHES, LAUNCHES, MEMORY, OVERHEAD, OWN_CODE, Group, median
from .results import Profile

NEAR = 1.05  # times as fast at its roof: not worth mentioning
KERNELS = MEMORY, CACHES, ARITHMETIC, LAUNCHES, OWN_CODE, OVERHEAD  # what binds kernels
SOME = 0.1  # of a group's time: the least that is told of besides what binds most of it


def round_name(profile: Profile) -> str:
    """What a round is."""
    phases = {row.phase for row in profile.rows}
    return "step" if phases & {"backward", "step"} else "prediction" if "predict" in phases else "round"


def milliseconds(seconds: float) -> str:
    """Seconds as text, such as 12.3 ms."""
    value = 1e3 * seconds
    return f"{value:.3g} ms" if abs(value) < 100 else f"{value:,.0f} ms"


def percent(share: float) -> str:
    """A share as text, such as 12.3 %; what is just above the whole does not look like it."""
    value = round(100 * share, 3) + 0.0  # no -0.0
    if abs(value) >= 1e6:
        return f"{value:.2g} %"
    return f"{value:.1f} %" if abs(value) < 100 or 100 < value < 100.5 else f"{value:,.0f} %"


def number(value: float | None, unit: float = 1.0) -> str:
    """A number as text, in three digits or, from a thousand on, as a whole one."""
    if value is None:
        return "-"
    value *= unit
    return f"{value:,.0f}" if 1000 <= value < 1e6 else f"{value:.3g}"


def large(count: float | None) -> str:
    """A count as text, such as 12.3 G."""
    if count is None:
        return "-"
    for power, unit in ((12, " T"), (9, " G"), (6, " M"), (3, " k")):
        if count >= 0.9995 * 10**power:
            return f"{count / 10**power:.3g}{unit}"
    return f"{count:.0f}"


def verdict(group: Group, whole: str = "round") -> str:
    """What binds a group: memory, caches, arithmetic, launches or Python; how many times as fast it would be at its
    roof, and how much of the whole that would save; and whether a slow round or a few make its time, a mean, much
    longer than the median. What no roof binds is held up by its own code: it is not vectorised, say, or waits for other
    threads; then the roof is the nearest one. Where costs are unknown or wrong, it says so instead.

    whole: what a round is called, such as "step"; see `round_name`.
    """
    said = [*_said(group, whole)]
    if group.slowest is not None:
        slow, usual = milliseconds(group.slowest), milliseconds(median(group.seconds))
        said.append(f"uneven: {slow} in one {whole}, {usual} in a median one")
    return "; ".join(said)


def _said(group, whole):
    if group.outside and group.bound in outside(group):
        yield f"{group.bound}; {milliseconds(group.times[group.bound])} of the {whole} outside of kernels"
        return
    yield _main(group, whole)
    if group.time and group.outside >= SOME * group.time:
        yield f"{percent(group.outside / group.time)} of it outside of kernels"
    if group.gain is not None and group.wrong:
        yield f"error of the cost: {_worst(group)}"
    elif group.gain is not None and group.bound and group.times.get("", 0.0) >= SOME * group.time:
        yield f"the cost of {percent(group.times[''] / group.time)} of it is unknown"


def outside(group: Group) -> list[str]:
    """What a group does outside of kernels: Python, or waiting."""
    return [bound for bound in group.times if bound not in (*KERNELS, "")]


def _main(group, whole):
    if group.bound == OVERHEAD and not group.roof_share:
        return f"{OVERHEAD}: nothing that the op itself needs; {milliseconds(group.gain)} of the {whole}"
    if group.gain is not None and group.bound == OWN_CODE:
        if (group.roof_share or 0.0) < BINDS:
            return f"{OWN_CODE}, far from every roof; {_at_roof(group, whole, f'its nearest, {group.nearest}')}"
        return f"{OWN_CODE}, for the most part far from every roof; {_at_roof(group, whole, 'its roofs')}"
    if group.gain is not None and group.bound:
        return f"{group.bound}; {_at_roof(group, whole)}"
    if group.wrong and group.gain is None:
        return f"error of the cost: {_worst(group)}"
    if group.bound == LAUNCHES:
        return f"{LAUNCHES}; its cost is unknown"
    if group.roofless:
        return f"unknown; the roofs of {', '.join(group.roofless)} were not measured"
    if group.gain is not None:
        return f"unknown for the most part; the rest {_at_roof(group, whole)}"
    return "unknown, as its cost is"


def _worst(group):
    name = max(group.wrong, key=group.wrong.get)
    named = "it" if len(group.wrong) == 1 and group.gain is None else name
    return f"{named} would be at {percent(group.wrong[name])} of its roof"


def _at_roof(group, whole, roof="its roof"):
    times = 1 / group.roof_share if group.roof_share else float("inf")
    if times < NEAR:
        return "at its roof"
    return f"{times:,.{1 if times < 9.95 else 0}f}x faster at {roof}, {milliseconds(group.gain)} of the {whole}"
