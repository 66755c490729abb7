"""A seeded bug as an edit of one source file."""

import dataclasses
import difflib
import functools
import hashlib
import pathlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

# The kinds of bugs, and what each does to Python and to CUDA.
OPERATORS = {
    "sign": "minus for plus, plus for minus, or a lost minus",
    "factor": "a sum instead of a product",
    "border": "< for <=, > for >=, or the other way round; a padding that is one larger",
    "stride": "a stride, pitch or step that is one larger",
    "dilation": "a dilation that is one larger",
    "bounds": "a loop, range or slice that begins one later or ends one earlier",
    "accumulate lost": "= for +=",
    "accumulate added": "+= for = where an element is written",
    "swap": "two neighbouring arguments, indices or results are swapped",
    "axis": "another axis: of a reduction, a shape, a grid; height for width",
    "stale": "memory that is not cleared",
    "branch": "the special case of nothing (None, no channels, a null pointer) is dropped",
    "dtype": "float32 for float64, or the other way round; double for real",
    "constant": "a number in the code is one larger, or twice as large",
    "tile": "a rounded-up division rounds down, so that the last tile is lost",
    "barrier": "a barrier of a CUDA kernel is dropped",
    "statement": "a statement is dropped",
    "negate": "a condition is negated",
    "min/max": "min for max, or the other way round",
    "saved": "another array is saved for backward",
}


class Edit(NamedTuple):
    """Characters `start` to `end` of a file become `text`. scope: the function or class around it, by its qualified
    name, and where that begins and ends."""

    operator: str
    start: int
    end: int
    text: str
    scope: str
    first: int
    last: int


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One bug. id: `file:line:operator:number`, where `number` counts the bugs of that kind in that line. key: a hash
    of the function around it and of the edit, so that a result holds until one of them changes."""

    id: str
    file: str
    line: int
    operator: str
    scope: str
    key: str
    before: str
    after: str
    edit: Edit = dataclasses.field(repr=False, compare=False)

    def apply(self, source: str) -> str:
        return source[: self.edit.start] + self.edit.text + source[self.edit.end :]

    def diff(self, source: str) -> str:
        lines = (text.splitlines(keepends=True) for text in (source, self.apply(source)))
        return "".join(difflib.unified_diff(*lines, self.file, f"{self.file} ({self.id})", n=3))


@functools.cache
def mutants_of(file: str, source: str) -> tuple[Mutant, ...]:
    """All bugs that can be seeded in a file, in the order of its text. file: its path from the root of the checkout."""
    find = _finder(file)
    found, numbers, seen = [], {}, set()
    for edit in sorted(set(find(source))):
        changed = source[: edit.start] + edit.text + source[edit.end :]
        if changed in seen or changed == source:
            continue
        seen.add(changed)
        line = source.count("\n", 0, edit.start) + 1
        place = f"{file}:{line}:{edit.operator.replace(' ', '-').replace('/', '-')}"
        numbers[place] = number = numbers.get(place, 0) + 1
        around = source[edit.first : edit.last]
        facts = (file, edit.scope, around, edit.start - edit.first, edit.end - edit.first, edit.text)
        key = hashlib.sha256(repr(facts).encode()).hexdigest()[:20]
        lines = _lines(source, edit.start, edit.end)
        before, after = (_stripped(text) for text in (lines[1], lines[0] + edit.text + lines[2]))
        found.append(Mutant(f"{place}:{number}", file, line, edit.operator, edit.scope, key, before, after, edit))
    return tuple(found)


def _finder(file) -> Callable[[str], Iterator[Edit]]:
    if file.endswith(".cu"):
        from .mutants_cuda import edits
    else:
        from .mutants_python import edits
    return edits


def _lines(source, start, end):
    """The lines that hold a span: what is before it, all of it, what is after it."""
    first = source.rfind("\n", 0, start) + 1
    last = source.find("\n", end)
    last = len(source) if last < 0 else last
    return source[first:start], source[first:last], source[end:last]


def _stripped(text):
    return " ".join(line.strip() for line in text.strip().splitlines())


def mutants_in(root: pathlib.Path, file: str) -> tuple[Mutant, ...]:
    """`mutants_of` a file of a tree."""
    return mutants_of(file, (root / file).read_text(encoding="utf-8"))
