"""Strategies of `Input`s and `Case`s: what `check_op` is given to check an op on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hypothesis import strategies as st

from ..cases import LAYOUTS, Case, Input
from .geometry import SMALL_MAPS, Drawn, Shape, shapes

CASE_SEEDS = st.integers(0, 1000)
# Besides the usual magnitudes, large and small ones: functions may be made of pieces, such as those of a hard sigmoid.
RANGES = st.sampled_from([None, None, None, (0.5, 8.0), (0.01, 0.5)])


def _strategy(value: Any) -> Drawn:
    return value if isinstance(value, st.SearchStrategy) else st.just(value)


def tensors(
    shape: Any = None, kind: str = "signed", range: tuple[float, float] | None = None, dtype: str | None = None,
    layouts: bool = True, grad: bool = True, array: bool = False,
) -> Drawn:  # fmt: skip
    """`Input`s. shape: a shape or a strategy of shapes; by default, any of up to four axes, some without elements, some
    of thousands.
    range: by default, magnitudes vary, too. layouts: whether they are also strided, transposed, reversed, offset in a
    buffer or read-only. For the rest, see `Input`."""
    layout = st.sampled_from([LAYOUTS[0], *LAYOUTS]) if layouts else st.just(LAYOUTS[0])
    varied = RANGES if range is None and kind in ("signed", "positive") else st.just(range)
    return st.builds(
        Input, _strategy(shapes() if shape is None else shape), kind=st.just(kind), range=varied,
        dtype=st.just(dtype), layout=layout, grad=st.just(grad), array=st.just(array),
    )  # fmt: skip


def feature_maps(kind: str = "signed", **more: Any) -> Drawn:
    """Maps (N, C, H, W), small ones: single pixels, odd sizes, several images. For the rest, see `tensors`."""
    return tensors(SMALL_MAPS, kind, **more)


@st.composite
def alike(draw: Callable[..., Any], count: int, shape: Any = None, **more: Any) -> tuple[Input, ...]:
    """`count` `Input`s of one shape, for ops that take elements in pairs."""
    common = draw(_strategy(shapes() if shape is None else shape))
    return tuple(draw(tensors(common, **more)) for _ in [None] * count)


@st.composite
def broadcast(draw: Callable[..., Any], count: int = 2, shape: Any = None, **more: Any) -> tuple[Input, ...]:
    """`count` `Input`s that broadcast with each other, as in NumPy: some lack leading axes, some have length 1."""
    common = draw(_strategy(shapes(most_axes=3) if shape is None else shape))
    found = []
    for _ in [None] * count:
        own = tuple(draw(st.sampled_from([n, n, 1])) for n in common)
        own = own[draw(st.sampled_from([0, 0, 1])) :] if own else own
        found.append(draw(tensors(own, **more)))
    return tuple(found)


@st.composite
def cases(draw: Callable[..., Any], inputs: Any, settings: Mapping[str, Any] | None = None, seed: Any = None) -> Case:
    """Cases. inputs: a list of strategies, or of what a `Case` takes; or a strategy of such lists, where shapes depend
    on each other. settings: likewise, by name. seed: by default, any up to 1000.

    >>> cases([tensors((2, 3)), tensors((3,), "positive")], {"axis": st.sampled_from([0, 1])})
    """
    given = draw(inputs) if isinstance(inputs, st.SearchStrategy) else inputs
    if isinstance(given, Case):
        return given
    listed = [given] if isinstance(given, Input) else given
    return Case(
        tuple(_drawn(draw, item) for item in listed),
        {name: _drawn(draw, item) for name, item in (settings or {}).items()},
        draw(CASE_SEEDS if seed is None else _strategy(seed)),
    )  # fmt: skip


def _drawn(draw, value):
    if isinstance(value, st.SearchStrategy):
        return draw(value)
    return type(value)(_drawn(draw, item) for item in value) if isinstance(value, (list, tuple)) else value


def with_settings(found: Drawn, make: Callable[[Any], tuple[Sequence[Any], Mapping[str, Any]]]) -> Drawn:
    """Cases made of what `found` draws: `make` returns the inputs and the settings, which may be strategies.

    >>> with_settings(convolution_parameters(), lambda c: ([Input(c.shape)], {"stride": c.stride}))
    """
    return found.flatmap(lambda value: cases(*make(value)))


def lengths(least: int, most: int, shape: Shape = ()) -> Drawn:
    """Shapes of one axis of least to most elements, behind the axes `shape`."""
    return st.integers(least, most).map(lambda n: (*shape, n))
