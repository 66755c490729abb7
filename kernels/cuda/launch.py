"""CUDA source files, and how their kernels are launched."""

import functools
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from octsod.threads import new_lock

from .driver import driver, when_changed

FOLDER = pathlib.Path(__file__).parent
# As CuPy compiles its own code; and the contract's promise that subnormal results are flushed to zero.
OPTIONS = ("-std=c++17", "-ftz=true", "--device-as-default-execution-space")
THREADS = 256  # per block, of kernels that treat elements one by one
MOST_BLOCKS = 1 << 16  # of them: threads go on with the next element
WARP = 32
MANY = 100  # arrays that a kernel over many arrays takes at once
# The numbers by which kernels know an array's type, where that is not known when they are compiled.
TYPES = {
    np.dtype(name): number
    for number, name in enumerate(
        ("float32", "float64", "int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")
    )
}


SOURCES: list["Source"] = []  # octsod's own


def source(name: str, *before: str) -> "Source":
    """The file `NAME.cu` of this folder, after others of it."""
    SOURCES.append(Source(*(FOLDER / f"{part}.cu" for part in (*before, name))))
    return SOURCES[-1]


class Source:
    """A file of kernels, compiled for float32 and for float64 when it is first needed.

    files: what is compiled: common.cu, and these, of which the last one names the whole. They are not included, since
    caches of compiled code look at the source alone, not at what it includes. `real` stands for the floating-point
    type.
    """

    def __init__(self, *files: pathlib.Path):
        self.name, self.files = files[-1].stem, [FOLDER / "common.cu", *files]
        self._functions: dict[tuple[str, str], Any] = {}
        self._modules: dict[str, Any] = {}
        self._lock = new_lock()
        when_changed(self._forget)

    def _forget(self):
        with self._lock:
            self._functions.clear()
            self._modules.clear()

    @functools.cached_property
    def code(self) -> str:
        """The text that is compiled."""
        return "\n".join(
            f'#line 1 "{file.name}"\n{file.read_text(encoding="utf-8")}'
            for file in self.files
        )

    def options(self, dtype: Any) -> tuple[str, ...]:
        """What it is compiled with for arrays of a floating-point dtype."""
        single = np.dtype(dtype) == np.float32
        return (*OPTIONS, f"-DREAL={'float' if single else 'double'}", f"-DSINGLE={int(single)}")

    def function(self, name: str, dtype: Any) -> Any:
        """The kernel of this name for arrays of a floating-point dtype."""
        key = name, np.dtype(dtype).name
        found = self._functions.get(key)
        if found is None:
            needed = SOURCES if self in SOURCES else [self]
            driver().prepare([(one.name, one.code, one.options(dtype)) for one in needed])
            with self._lock:
                module = self._modules.get(key[1])
                if module is None:
                    module = self._modules[key[1]] = driver().module(self.code, self.options(dtype))
                found = self._functions[key] = module.get_function(name)
        return found

    def launch(
        self, name: str, dtype: Any, grid: int | Sequence[int], block: int | Sequence[int], *arguments: Any,
        shared_mem: int = 0,
    ) -> None:  # fmt: skip
        """Run a kernel. arguments: arrays, None for no array; Python numbers become int, or the floating-point type;
        NumPy's stay as they are. Nothing is launched on an empty grid."""
        grid = (grid,) if isinstance(grid, int) else tuple(grid)
        block = (block,) if isinstance(block, int) else tuple(block)
        if 0 not in grid:
            real = np.dtype(dtype).type
            passed = tuple(_scalar(a, real) if type(a) in (bool, int, float) else a for a in arguments)
            self.function(name, dtype)(grid, block, passed, shared_mem=shared_mem)

    def each(self, name: str, dtype: Any, count: int, *arguments: Any) -> None:
        """Run a kernel with a thread per element of `count`, which is its first argument, a long long; where there are
        more elements than threads, each thread goes on with the element that many threads later."""
        blocks = min(-(-count // THREADS), MOST_BLOCKS)
        self.launch(name, dtype, blocks, THREADS, np.int64(count), *arguments)

    def over_arrays(
        self, name: str, dtype: Any, rows: Sequence[tuple[Any, ...]], sizes: Sequence[int], *arguments: Any
    ) -> None:
        """Run a kernel over arrays, see `by_many`. sizes: how many elements each has; a thread for every four of
        them. arguments: those that follow."""
        for first, count, values in by_many(rows):
            blocks = -(-max(sizes[first : first + count]) // (4 * THREADS))
            self.launch(name, dtype, (min(max(blocks, 1), MOST_BLOCKS), count), THREADS, *values, *arguments)


def by_many(rows: Sequence[tuple[Any, ...]]) -> Iterator[tuple[int, int, list[Any]]]:
    """For launches of a kernel over arrays (see EACH in common.cu): (first, count, arguments) for each MANY of them.
    rows: what the kernel takes of each array. Where fewer are left, the last one is there again: nobody looks at it."""
    for first in range(0, len(rows), MANY):
        some = list(rows[first : first + MANY])
        count = len(some)
        some += some[-1:] * (MANY - count)
        yield first, count, [value for row in some for value in row]


def _scalar(value, real):
    return real(value) if isinstance(value, float) else np.int32(value)
