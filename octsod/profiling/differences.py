"""Two profiles compared: what has become slower or faster, beyond the noise that their rounds show."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence

import numpy as np
from rich.text import Text

from ..checks import printable, require, require_integer, require_number
from .groups import NAMES, added, group_name, matching, median, require_whole
from .results import Profile, Row
from .tables import NARROWEST, beside, paragraph
from .verdicts import number, round_name

ALARMS = 0.05  # how often the whole is called slower or faster where nothing has changed; likewise any row at all
HEAVY = 0.005  # of the whole: what takes less in both profiles decides nothing
THRESHOLD = 0.03  # two runs of the same code differ by that much, whatever the rounds of each tell
ROOFS_DIFFER = 1.25  # times: roofs that differ by more tell of another machine, or of one that was busy
FREE = ("versions", "date")  # facts of a machine that may differ: to compare versions is what profiles are for

SLOWER, FASTER, SAME, UNSURE = "slower", "faster", "no change beyond noise", "too few rounds to tell"


@dataclasses.dataclass(frozen=True)
class Change:
    """before, after: seconds of a round, medians. ratio: after over before. low, high: bounds of the ratio; (0, inf) if
    there are too few rounds. decisive: whether it takes enough of the whole to decide."""

    name: str
    before: float
    after: float
    ratio: float
    low: float
    high: float
    verdict: str
    decisive: bool = True


@dataclasses.dataclass(frozen=True)
class Difference:
    """What differs between two profiles.

    whole: of the rounds' wall times. rows: what both have. new, vanished: name and seconds of a round of what only the
    second and only the first has. refusals: why they cannot be compared, a sentence each. notes: what else to know.
    """

    whole: Change
    rows: Sequence[Change]
    new: Sequence[tuple[str, float]]
    vanished: Sequence[tuple[str, float]]
    refusals: Sequence[str]
    notes: Sequence[str]

    @property
    def slower(self) -> list[Change]:
        """The whole and its rows, as far as they are decisive and slower beyond noise."""
        return [c for c in (self.whole, *self.rows) if c.decisive and c.verdict == SLOWER]

    @property
    def regressions(self) -> list[Change]:
        """What makes the exit code 1: `slower`, but nothing where the whole is faster beyond noise."""
        return [] if self.whole.verdict == FASTER else self.slower

    @property
    def exit_code(self) -> int:
        """0: no slower beyond noise. 1: slower, see `regressions`. 2: they cannot be compared."""
        if self.refusals:
            return 2
        return 1 if self.regressions else 2 if self.whole.verdict == UNSURE else 0

    @property
    def reason(self) -> str:
        """Why the exit code is what it is, in one sentence; "" where it is 0 and nothing is slower."""
        whole = self.whole.name
        if self.refusals:
            return f"Exit code 2: {self.refusals[0]}"
        if self.regressions:
            first, *rest = self.regressions
            times = f"{1e3 * first.before:.3f} ms became {1e3 * first.after:.3f}"
            others = f", and so {'is 1 other row' if len(rest) == 1 else f'are {len(rest)} other rows'}" if rest else ""
            but = "" if first is self.whole else f"; {whole} is not faster, which would make up for that"
            return f"Exit code 1: {first.name} is slower beyond noise ({times}){others}{but}."
        if self.whole.verdict == UNSURE:
            return f"Exit code 2: there are too few rounds to tell whether {whole} is slower."
        if self.slower:
            count = len(self.slower)
            rows = "the slower row is no regression" if count == 1 else f"the {count} slower rows are no regression"
            return f"Exit code 0: {whole} is faster beyond noise, so {rows}."
        return ""


def compare(
    before: Profile, after: Profile, by: str = "row", filter: str = "", threshold: float = THRESHOLD
) -> Difference:
    """Compare two profiles of the same subject, whole and row by row.

    by: "row" compares rows of the same kernel, shapes, op, layer and phase; see `grouped`. filter: only rows that hold
    this text. threshold: what is called slower or faster has changed by more than this share, and by more than
    noise. Noise is bounded from the rounds alone, without assumptions about how times are distributed (see `bounds`).
    The more rows, the wider are the bounds of each: where nothing has changed, some row is called slower or faster in
    at most 1 of 20 comparisons. Raises ValueError for arguments of another kind.
    """
    require(by in NAMES, "compare", "by", f"is {by!r}", f"one of {', '.join(NAMES)}")
    threshold = require_number(threshold, "compare", "threshold", 0)
    walls = [median(profile.rounds) for profile in (before, after)]
    sides = [_seconds(profile, by, filter) for profile in (before, after)]
    common = [name for name in sides[0] if name in sides[1]]
    heavy = {n for n in common if max(median(s[n]) / wall for s, wall in zip(sides, walls, strict=True)) >= HEAVY}
    alarms = ALARMS / max(len(heavy), 1)
    rows = [_change(name, sides[0][name], sides[1][name], alarms, threshold, name in heavy) for name in common]
    rows.sort(key=lambda change: -abs(change.after - change.before))
    whole = _whole(round_name(before), before.rounds, after.rounds, threshold)
    notes = _notes(before, after, rows, alarms)
    new, vanished = ([(n, median(s[n])) for n in s if n not in t] for s, t in (sides[::-1], sides))
    return Difference(whole, rows, new, vanished, _refusals(before, after), notes)


def _seconds(profile, by, filter):
    """Name -> seconds of each round."""
    require_whole(profile)
    found: dict[str, list[Row]] = {}
    for row in matching(profile.rows, filter):
        found.setdefault(group_name(row, by), []).append(row)
    return {name: added(rows, len(profile.rounds)) for name, rows in found.items()}


def _change(name, before, after, alarms, threshold, decisive=True):
    low, high = bounds(before, after, alarms)
    return _judged(name, before, after, low, high, threshold, decisive)


def _judged(name, before, after, low, high, threshold, decisive=True):
    ratio = _ratio(median(after), median(before))
    low, high = min(low, ratio), max(high, ratio)
    verdict = SLOWER if low > 1 + threshold else FASTER if high < 1 / (1 + threshold) else SAME
    if (low, high) == (0, math.inf) and not 1 / (1 + threshold) <= ratio <= 1 + threshold:
        verdict = UNSURE
    return Change(name, median(before), median(after), ratio, low, high, verdict, decisive)


def _whole(name, before, after, threshold):
    """The whole. With two or three rounds, its bounds are the widest that rounds can tell; with a single one, none."""
    low, high = bounds(before, after, ALARMS)
    if high == math.inf and min(len(before), len(after)) > 1:
        low, high = _ratio(min(after), max(before)), _ratio(max(after), min(before))
    change = _judged(f"the {name}", before, after, low, high, threshold)
    if change.verdict == UNSURE and change.ratio < 1:
        return dataclasses.replace(change, verdict=SAME)
    return change


def _ratio(a, b):
    return a / b if b else math.inf if a else 1.0


def bounds(before: Sequence[float], after: Sequence[float], alarms: float = ALARMS) -> tuple[float, float]:
    """(low, high): bounds between which the ratio of times lies, but for a share `alarms` of all comparisons.

    Of all ratios of a round after to one before, the k-th smallest and the k-th largest, by the exact distribution of
    Mann and Whitney's U. So they hold for times of any distribution, if a change multiplies them all. (0, inf) if there
    are too few rounds for that.
    """
    k = _rank(len(before), len(after), alarms)
    if k < 1:
        return 0.0, math.inf
    ratios = np.sort([_ratio(b, a) for a in before for b in after])
    return float(ratios[k - 1]), float(ratios[-k])


@functools.cache
def _rank(n, m, alarms):
    """How many ranks of the n * m ratios may lie outside on one side, plus one; 0 if not even the extremes suffice."""
    if min(n, m) > 30:  # where the normal distribution is close
        from statistics import NormalDist

        spread = math.sqrt(n * m * (n + m + 1) / 12)
        return max(math.floor(n * m / 2 + NormalDist().inv_cdf(alarms / 2) * spread - 0.5) + 1, 0)
    counts = [1] + [0] * (n * m)  # of arrangements, by U: the coefficients of the Gaussian binomial
    for i in range(1, m + 1):
        for u in range(n * m, n + i - 1, -1):
            counts[u] -= counts[u - n - i]
        for u in range(i, n * m + 1):
            counts[u] += counts[u - i]
    limit, below, k = math.comb(n + m, n) * alarms / 2, 0, 0
    while below + counts[k] <= limit:
        below += counts[k]
        k += 1
    return k


def _refusals(before, after):
    """Why two profiles cannot be compared."""
    found = []
    if before.subject != after.subject:
        found.append(f"The subjects differ: {before.subject!r} and {after.subject!r}.")
    for what, part in (("devices", "device"), ("numbers of threads", "threads")):
        both = [sorted({getattr(roof, part) for roof in profile.roofs}) for profile in (before, after)]
        if both[0] != both[1]:
            found.append(f"The {what} differ: {_listed(both[0])} and {_listed(both[1])}.")
    for fact in dict.fromkeys((*before.machine, *after.machine)):
        both = [profile.machine.get(fact) for profile in (before, after)]
        if fact not in FREE and both[0] != both[1]:
            found.append(f"The machines differ: {fact} {both[0]} and {both[1]}.")
    return found


def _listed(values):
    return ", ".join(map(str, values)) or "none"


def _notes(before, after, rows, alarms):
    notes = []
    counts = len(before.rounds), len(after.rounds)
    if min(counts) == 1:
        notes.append(f"A single round tells nothing of noise: there are {counts[0]} and {counts[1]}.")
    elif _rank(*counts, ALARMS) < 1:
        sure = 1 - 2 / math.comb(sum(counts), counts[0])
        notes.append(f"With {counts[0]} and {counts[1]} rounds, the bounds hold in {sure:.0%} of all comparisons only.")
    unsure = [row for row in rows if row.decisive and row.high == math.inf]
    if unsure and min(counts) > 1:
        needed = next(n for n in itertools.count(max(counts)) if _rank(n, n, alarms) > 0)
        notes.append(
            f"{counts[0]} and {counts[1]} rounds are too few to judge single rows, of which {len(unsure)} take "
            f"{HEAVY:.1%} or more: that takes at least {needed} in each, or a filter that leaves fewer."
        )
    notes += _other_roofs(before, after)
    for fact in FREE:
        both = [profile.machine.get(fact) for profile in (before, after)]
        if both[0] != both[1]:
            notes.append(f"Their {fact} differ: {_shown(both[0])} and {_shown(both[1])}.")
    return notes


def _other_roofs(before, after):
    """Whether the machine could do much more in one of the profiles: then times differ for that reason, too."""
    first, second = ({roof.device: roof for roof in profile.roofs} for profile in (before, after))
    for device in (name for name in first if name in second):
        told = []
        for unit, name in (("GB/s copied", "bandwidth"), ("GFLOP/s in multiply-adds", "arithmetic")):
            a, b = getattr(first[device], name), getattr(second[device], name)
            if max(a, b) > ROOFS_DIFFER * min(a, b):
                told.append(f"{number(a, 1e-9)} and {number(b, 1e-9)} {unit}")
        if told:
            yield (
                f"The roofs of {device} differ much: {'; '.join(told)}. The machine was busy, or is another one, and "
                "times may differ for that alone."
            )


def _shown(value):
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


# --- as text ----------------------------------------------------------------------------------------------------------


def difference_table(difference: Difference, top: int | None = None, width: int = 100) -> str:
    """A difference as text: the whole, then the rows whose times have changed most, then what is new or has vanished,
    then why the exit code is what it is (`Difference.reason`).

    top: how many rows are shown, how many that are new, and how many that have vanished; of others, all that are
    decisive and have become slower. width: columns, at least 40.
    """
    width = require_integer(width, "difference_table", "width", NARROWEST)
    shown = [row for i, row in enumerate(difference.rows) if top is None or i < top or row in difference.slower]
    out = [*beside(f"{'before, ms':>12}{'after, ms':>12}{'ratio':>9}   ", "bounds", width)]
    for change in (difference.whole, *shown):
        out += [*paragraph(printable(change.name), width), *_numbers(change, width)]
    if rest := len(difference.rows) - len(shown):
        out += paragraph(f"{rest} others, none of them slower beyond noise that take {HEAVY:.1%} or more", width)
    for what, rows in (("new", difference.new), ("vanished", difference.vanished)):
        for line in _listing(what, sorted(rows, key=lambda row: -row[1]), top):
            out += paragraph(printable(line), width)
    out += [Text(), *(line for note in difference.notes for line in paragraph(printable(note), width))]
    out += paragraph(printable(difference.reason), width)
    return "\n".join(line.plain.rstrip() for line in out).rstrip()


def _numbers(change, width):
    bound = "none" if change.high == math.inf else f"{change.low:.3f} to {change.high:.3f}"
    words = change.verdict if change.decisive or change.verdict == SAME else f"{change.verdict}, but it takes little"
    numbers = f" {1e3 * change.before:>11.3f} {1e3 * change.after:>11.3f} {change.ratio:>8.3f}   "
    yield from beside(numbers, f"{bound:<16}  {words}", width)


def _listing(what, rows, top):
    """The rows that only one of two profiles has, the first `top` of them one by one."""
    listed = [*rows[:top]]
    if rest := rows[len(listed) :]:
        listed.append((f"{len(rest)} other{'s' * (len(rest) > 1)}", math.fsum(seconds for _, seconds in rest)))
    return [f"{what}, {1e3 * seconds:.3f} ms: {name}" for name, seconds in listed]
