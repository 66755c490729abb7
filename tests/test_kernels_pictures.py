"""The kernel that makes batches of pictures from bytes, against the reference; and the reference against the host."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kernel_contract import both_dtypes, devices_only, reference, verify

from octsod.data.augmentation import Choices, Parts, prepare_parts
from octsod.data.images import MEAN, STD
from octsod.testing.strategies import SEEDS, SIDES

pytestmark = pytest.mark.usefixtures("poisoned_scratch")

COLOURS = MEAN.tolist(), STD.tolist()
DUTS = [(300, 400), (400, 267)]  # sizes (H, W) as those of DUTS-TR


@dataclasses.dataclass(frozen=True)
class Case:
    """Pictures of some sizes, the first `kept` of which are in the first array of bytes, and the size they get."""

    sizes: list[tuple[int, int]]
    kept: int
    size: tuple[int, int]
    masks: bool
    recoloured: bool
    seed: int


CASES = st.builds(
    Case, st.lists(st.tuples(SIDES, SIDES), max_size=3), st.integers(0, 3), st.tuples(SIDES, SIDES), st.booleans(),
    st.booleans(), SEEDS,
)  # fmt: skip


def pictures(case, rng):
    """(Parts, Choices) of each of a case's pictures: any part, either way up; some are grey."""
    found = []
    for height, width in case.sizes:
        image = rng.integers(0, 256, (height, width, int(rng.choice([1, 3])))) * np.ones(3, int)
        mask = rng.integers(0, 256, (height, width)).astype(np.uint8) if case.masks else None
        rows, columns = (int(rng.integers(1, n + 1)) for n in (height, width))
        top, left = (int(rng.integers(0, n - m + 1)) for n, m in ((height, rows), (width, columns)))
        factors = rng.uniform(0.5, 1.5, 3).tolist() if case.recoloured else None
        choices = Choices((top, rows), (left, columns), *rng.integers(0, 2, 2).astype(bool).tolist(), factors)
        found.append((Parts(image.astype(np.uint8), mask), choices))
    return found


def packed(found, kept):
    """The two arrays of bytes and the table of (Parts, Choices), with some bytes between them that belong to none."""
    arrays, table = [[np.uint8([1])], [np.uint8([2, 3])]], []
    for number, (parts, choices) in enumerate(found):
        into = arrays[number >= kept]
        into += [part.reshape(-1) for part in (parts.image, parts.mask) if part is not None]
        record = sum(part.size for part in into) - parts.image.size - (0 if parts.mask is None else parts.mask.size)
        (top, rows), (left, columns) = choices.rows, choices.columns
        flips = choices.upside_down, choices.mirrored
        table.append([record, *parts.image.shape[:2], top, left, rows, columns, *flips, *(choices.factors or ())])
        into.append(np.uint8([7]))
    first, second = map(np.concatenate, arrays)
    for row in table[kept:]:
        row[0] += first.size
    return first, second, np.array(table, np.float64).reshape(len(found), 12 if found and choices.factors else 9)


@devices_only
@both_dtypes
@given(case=CASES)
def test_prepare_pictures(dtype, case):
    def launch(kernels, arena):
        kept, fresh, table = packed(pictures(case, arena.rng), case.kept)
        x = arena.output("x", (len(case.sizes), 3, *case.size))
        y = arena.output("y", (len(case.sizes), 1, *case.size)) if case.masks else None
        kernels.prepare_pictures(kept, fresh, arena.array(table, np.float64), *COLOURS, x, y)

    verify(dtype, case.seed, launch, 1e-5 if dtype == "float32" else None)


@devices_only
def test_prepare_pictures_of_usual_sizes():
    """Several blocks to an image; all greys are added up."""
    case = Case(DUTS, 1, (64, 48), True, True, 3)

    def launch(kernels, arena):
        kept, fresh, table = packed(pictures(case, arena.rng), case.kept)
        x, y = (arena.output(name, (len(DUTS), n, *case.size)) for name, n in (("x", 3), ("y", 1)))
        kernels.prepare_pictures(kept, fresh, arena.array(table, np.float64), *COLOURS, x, y)

    verify("float32", case.seed, launch, 1e-5)


@given(case=CASES, side=SIDES)
def test_the_kernel_makes_what_hosts_make(case, side):
    """Up to rounding in float32, of pictures of any size, whichever part is used and however it is flipped."""
    found = pictures(case, np.random.default_rng(case.seed))
    x = np.empty((len(found), 3, side, side))
    y = np.empty((len(found), 1, side, side)) if case.masks else None
    reference.prepare_pictures(*packed(found, case.kept), *COLOURS, x, y)
    for row, (parts, choices) in enumerate(found):
        expected = prepare_parts(parts, side, choices)
        for ours, theirs in zip((x[row], y[row]) if case.masks else (x[row],), expected, strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * max(np.abs(theirs).max(), 1))
