"""Cases to check ops on: shapes, settings and a seed, never arrays.

A case makes its arrays from its seed. So it prints as one short line, which makes the same numbers wherever it is
pasted: `Case((Input((1, 2)),), seed=3)`.

The numbers are such that mistakes show. Uniform arrays hide them: without differences between pixels a depthwise kernel
may read past the border and nobody sees it, and cotangents that are all alike cancel in batch norm. So by default all
magnitudes of an array differ, none is near zero, where many functions have kinks, and signs are mixed.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Callable, Iterator, Mapping
from numbers import Real
from typing import Any

import numpy as np

from ..backend.arrays import NUMBERS
from ..checks import require

SMALLEST, LARGEST = 0.1, 4.0  # magnitudes, unless an input has a range of its own
TIE = 0.25  # steps of numbers of the kind "ties"


def distinct(generator: np.random.Generator, shape: tuple[int, ...], low: float, high: float) -> np.ndarray:
    """Numbers from low to high in random order, which all differ: float64, of this shape."""
    count = int(np.prod(shape, dtype=np.int64))
    steps = generator.permutation(count) + generator.uniform(0.2, 0.8, count)
    return (low + (high - low) * steps / max(count, 1)).reshape(shape)


def signed(
    generator: np.random.Generator, shape: tuple[int, ...], low: float = SMALLEST, high: float = LARGEST
) -> np.ndarray:  # fmt: skip
    """Numbers of either sign whose magnitudes all differ, from low to high."""
    return np.asarray(distinct(generator, shape, low, high) * generator.choice((-1.0, 1.0), shape))


def _ties(generator, shape, low, high):
    return generator.integers(round(low / TIE), round(high / TIE) + 1, shape) * TIE


# Kind -> how its numbers are made, and from which range if a case names none. "signed" has magnitudes in its range.
KINDS: dict[str, tuple[Callable[..., np.ndarray], tuple[float, float]]] = {
    "signed": (signed, (SMALLEST, LARGEST)),
    "positive": (distinct, (SMALLEST, LARGEST)),
    "shares": (distinct, (0.05, 0.95)),
    "ties": (_ties, (-1.0, 1.0)),
    "labels": (lambda generator, shape, low, high: generator.integers(int(low), int(high), shape), (0, 2)),
}
EITHER_SIGN = ("signed", "ties")  # kinds of numbers between which 0 is
LAYOUTS = ("contiguous", "transposed", "strided", "reversed", "offset", "read-only")


def with_zeros(array: np.ndarray, seed: tuple[int, ...]) -> np.ndarray:
    """The array with zeros in some places, the first among them."""
    kept = np.random.default_rng((0x0, *seed)).random(array.shape) < 0.5
    kept.reshape(-1)[:1] = False
    return np.asarray(array * kept).astype(array.dtype)


def laid_out(array: np.ndarray, layout: str) -> np.ndarray:
    """The same numbers in another layout; the result shares no memory with `array`."""
    if layout == "transposed":
        return np.array(array, order="F")
    if layout == "strided":
        wide = np.zeros((*array.shape[:-1], 2 * array.shape[-1]) if array.ndim else (), array.dtype)
        view = wide[..., ::2] if array.ndim else wide
        view[...] = array
        return view
    if layout == "reversed" and array.ndim:
        return array[(slice(None, None, -1),) * array.ndim].copy()[(slice(None, None, -1),) * array.ndim]
    if layout == "offset":  # by one element: aligned as its dtype asks for, but not as a vector would like it
        buffer = np.zeros(array.size + 1, array.dtype)
        view = buffer[1:].reshape(array.shape)
        view[...] = array
        return view
    copy = array.copy()
    copy.flags.writeable = layout != "read-only"
    return copy


@dataclasses.dataclass(frozen=True, repr=False)
class Input:
    """An array that an op is given.

    shape: its shape, such as (2, 3). kind: what its numbers are like:
      "signed": of either sign, magnitudes from 0.1 to 4, all different; "positive": the same without signs, such as
      for a logarithm; "shares": between 0 and 1; "ties": multiples of 0.25 from -1 to 1, many of them alike;
      "labels": integers from 0 to 1.
    range: (low, high) in the place of those numbers; for "labels", high itself is left out.
    dtype: by default, floats in the precision that a check asks for, and int64 for labels. layout: "contiguous",
    "transposed", "strided", "reversed", "offset" in a larger buffer, or "read-only". grad: whether its gradient is
    wanted; that of integers never is. array: whether the op gets a plain array, new in each run, which it may change,
    such as running statistics, and no tensor.

    Raises ValueError or TypeError for anything else.
    """

    shape: tuple[int, ...]
    kind: str = "signed"
    range: tuple[float, float] | None = None
    dtype: str | None = None
    layout: str = "contiguous"
    grad: bool = True
    array: bool = False

    def __post_init__(self):
        shape = (self.shape,) if isinstance(self.shape, int) else self.shape
        fits = isinstance(shape, (tuple, list)) and all(isinstance(n, (int, np.integer)) and n >= 0 for n in shape)
        require(fits, "Input", "shape", f"is {self.shape!r}", "a tuple of lengths, such as (2, 3)")
        object.__setattr__(self, "shape", tuple(int(n) for n in shape))
        for name, value, known in (("kind", self.kind, KINDS), ("layout", self.layout, LAYOUTS)):
            near = difflib.get_close_matches(str(value), known, 1)
            hint = f"did you mean {near[0]!r}" if near else f"one of {', '.join(known)}"
            require(isinstance(value, str) and value in known, "Input", name, f"is {value!r}", hint)
        if self.range is not None:
            fits = isinstance(self.range, (tuple, list)) and len(self.range) == 2
            fits = fits and all(isinstance(n, Real) for n in self.range) and self.range[0] < self.range[1]
            require(fits, "Input", "range", f"is {self.range!r}", "(low, high) with low less than high")
            object.__setattr__(self, "range", tuple(self.range))
        if self.dtype is not None:
            name = np.dtype(self.dtype).name
            require(np.dtype(name) in NUMBERS, "Input", "dtype", f"is {name}", "float32, float64, integers or bool")
            object.__setattr__(self, "dtype", name)

    def __repr__(self):
        fields = dataclasses.fields(self)
        rest = [f"{f.name}={getattr(self, f.name)!r}" for f in fields[1:] if getattr(self, f.name) != f.default]
        return f"Input({', '.join([repr(self.shape), *rest])})"

    def dtype_for(self, dtype: str) -> np.dtype:
        """The dtype of this array in a check whose floats are `dtype`."""
        return np.dtype(self.dtype or ("int64" if self.kind == "labels" else dtype))

    @property
    def differentiable(self) -> bool:
        """Whether a gradient is wanted for it."""
        return self.grad and not self.array and self.dtype_for("float64").kind == "f"

    def make(self, seed: int | tuple[int, ...], dtype: str = "float64") -> np.ndarray:
        """The numbers, as this seed gives them."""
        make, usual = KINDS[self.kind]
        values = make(np.random.default_rng(seed), self.shape, *(self.range or usual))
        return laid_out(np.asarray(values).astype(self.dtype_for(dtype)), self.layout)


@dataclasses.dataclass(frozen=True, repr=False)
class Case:
    """What an op is called with.

    inputs: its arguments in turn: an `Input`, None for an optional one that is not given, a list or tuple of them where
    the op expects a list, or a number or string, which is handed on as it is. settings: its keyword arguments; an
    `Input` among them becomes a plain array, as with `array=True`. seed: what all numbers are made from.

    >>> check_op(octsod.functional.conv2d, Case((Input((1, 2, 5, 4)), Input((3, 2, 3, 3))), {"padding": 1}))
    """

    inputs: tuple[Any, ...] = ()
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    seed: int = 0

    def __post_init__(self):
        inputs = (self.inputs,) if isinstance(self.inputs, Input) else self.inputs
        fits = isinstance(inputs, (tuple, list))
        require(
            fits, "Case", "inputs", f"is a {type(inputs).__name__}", "a tuple of `Input`s, such as (Input((2, 3)),)"
        )
        object.__setattr__(self, "inputs", tuple(inputs))
        object.__setattr__(self, "settings", dict(self.settings))
        require(isinstance(self.seed, (int, np.integer)) and self.seed >= 0, "Case", "seed", f"is {self.seed!r}",
                "an integer of at least 0")  # fmt: skip
        for value in self._all():
            if isinstance(value, np.ndarray) or hasattr(value, "requires_grad"):
                kind = type(value).__name__
                raise TypeError(f"Case: `inputs` has a {kind}; expected `Input`s, whose numbers come from the seed.")

    def __repr__(self):
        settings = [f"{self.settings!r}"] if self.settings else []
        return f"Case({', '.join([repr(self.inputs), *settings, *([f'seed={self.seed}'] if self.seed else [])])})"

    def __hash__(self):
        return hash(repr(self))

    def _all(self) -> Iterator[Any]:
        yield from flat(self.inputs)
        yield from flat(tuple(self.settings.values()))

    def leaves(self) -> list[Input]:
        """Every `Input`, in order: those of `inputs`, then those of `settings`, which are arrays."""
        own = [value for value in flat(self.inputs) if isinstance(value, Input)]
        others = [value for value in flat(tuple(self.settings.values())) if isinstance(value, Input)]
        return own + [dataclasses.replace(value, array=True) for value in others]

    def arrays(self, dtype: str = "float64") -> list[np.ndarray]:
        """The numbers of every `Input`, in the order of `leaves`. Those of one do not depend on the others."""
        return [leaf.make((self.seed, index), dtype) for index, leaf in enumerate(self.leaves())]

    def arguments(self, values: list[Any]) -> tuple[list[Any], dict[str, Any]]:
        """(positional, keyword) arguments, with `values` in the places of the `Input`s, in the order of `leaves`."""
        remaining = iter(values)
        return _filled(list(self.inputs), remaining), _filled(self.settings, remaining)

    @property
    def size(self) -> tuple[int, int, str]:
        """How large the case is: the smallest of several that fail is reported."""
        elements = sum(int(np.prod(leaf.shape, dtype=np.int64)) for leaf in self.leaves())
        return elements, len(repr(self)), repr(self)

    def with_layout(self, layout: str) -> Case:
        """The same case, with all inputs in this layout."""
        return dataclasses.replace(self, inputs=_mapped(self.inputs, lambda i: dataclasses.replace(i, layout=layout)))

    def with_shapes(self, change: Callable[[tuple[int, ...]], tuple[int, ...]]) -> Case:
        """The same case, with `change(shape)` for every shape."""
        return dataclasses.replace(
            self, inputs=_mapped(self.inputs, lambda i: dataclasses.replace(i, shape=change(i.shape)))
        )


def case_of(value: Any) -> Case:
    """A case, also of its inputs alone: an `Input` or several. Raises TypeError for anything else."""
    if isinstance(value, Case):
        return value
    if isinstance(value, Input) or (
        isinstance(value, (tuple, list)) and any(isinstance(v, Input) for v in flat(value))
    ):
        return Case((value,) if isinstance(value, Input) else tuple(value))
    raise TypeError(f"check_op: a case is a {type(value).__name__}; expected a `Case`, or the `Input`s of one.")


def flat(value: Any) -> Iterator[Any]:
    """What is in lists and tuples, however deep, and in dicts, in order."""
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from flat(item)
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from flat(item)
    else:
        yield value


def _filled(value, remaining):
    if isinstance(value, Input):
        return next(remaining)
    if isinstance(value, Mapping):
        return {name: _filled(item, remaining) for name, item in value.items()}
    return type(value)(_filled(item, remaining) for item in value) if isinstance(value, (list, tuple)) else value


def _mapped(value, change):
    if isinstance(value, Input):
        return change(value)
    return type(value)(_mapped(item, change) for item in value) if isinstance(value, (list, tuple)) else value
