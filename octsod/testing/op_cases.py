"""The cases of octsod's own ops: of each class in `octsod.ops`, and of each function in `octsod.functional`.

For an op that says nothing of its cases, a guess."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st

from .cases import Case, Input
from .checks_of_memory import watched_run
from .evaluation import Subject, crash
from .reports import Failed
from .strategies import (
    SMALL_MAPS,
    Branches,
    Convolution,
    Windows,
    alike,
    branch_lists,
    broadcast,
    cases,
    convolution_parameters,
    feature_maps,
    shapes,
    tensors,
    windows,
    with_settings,
)
from .watched_memory import JUNK

Drawn: TypeAlias = st.SearchStrategy[Case]
EXPONENTS = st.sampled_from([2.0, 3.0, 0.5, -1.0, 1.0, 0.0])
SIZES = st.tuples(st.integers(1, 6), st.integers(1, 6))
PREDICTED = shapes(1, 3, 1, 4)  # logits of pictures: at least one
LABELS = st.sampled_from([1, 2, 5, 10])


def known(op: Any) -> Drawn | None:
    """The cases of an op of octsod's; None for any other."""
    module, name = getattr(op, "__module__", ""), getattr(op, "__name__", "")
    table = OPS if module.startswith("octsod.ops.") else FUNCTIONS if module == "octsod.functional" else {}
    return table[name]() if name in table else None


# What is tried of an op that says nothing of its cases: shapes that must all go through, and what is drawn then.
GUESSES = (
    (((), (3,), (2, 3), (2, 1, 3, 4)), shapes()),
    (((1, 2, 3, 4), (2, 3, 5, 5)), SMALL_MAPS),
    (((1, 4), (3, 2)), shapes(2, 2, 1)),
)


def guessed(subject: Subject) -> tuple[Drawn | None, str]:
    """(cases, "") of an op whose inputs may all have one shape; (None, why that does not seem to be so)."""
    faults = []
    for count, (tried, drawn) in itertools.product(_inputs(subject), GUESSES):
        for kind in ("signed", "positive"):
            found = [_fault(subject, Case((Input(shape, kind),) * count)) for shape in tried]
            if not any(found):
                return cases(alike(count, drawn, kind=kind)), ""
            given = "with an array" if count == 1 else f"with {count} arrays"
            faults += [f"{given} of shape {s} it {fault}" for s, fault in zip(tried, found, strict=True) if fault]
    return None, faults[-1].rstrip(".") if faults else ""


def _inputs(subject):
    """How many inputs an op may need, by the arguments of its forward; nothing if it needs others besides."""
    function = subject.op.forward if subject.is_function else subject.op
    try:
        parameters = list(inspect.signature(function).parameters.values())[1 if subject.is_function else 0 :]
    except (TypeError, ValueError):  # what is not written in Python may have no signature
        return ()
    needed = [p for p in parameters if p.default is p.empty]
    if any(p.kind is p.KEYWORD_ONLY for p in needed):
        return ()
    several = any(p.kind is p.VAR_POSITIONAL for p in needed)
    count = sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in needed)
    return [count + 2, count + 1] if several else [count] if count else ()


def _fault(subject, case):
    """Why forward does not give finite numbers; "" if it does."""
    try:
        run, _ = watched_run(subject, case, JUNK, JUNK, back=False)  # nothing lives where a kernel may write astray
        finite = all(np.isfinite(y).all() for y in run.outputs if y is not None)
        return "" if finite else "returns a number that is not finite"
    except Exception as error:
        return str(error) if isinstance(error, Failed) else crash(error)


def _parameters(channels: int, *more: str) -> list[Input]:
    """Vectors with an entry per channel, of these kinds."""
    return [Input((channels,), kind) for kind in more]


def _norm(shape: tuple[int, ...], training: bool, slope: bool = True) -> list[Any]:
    """Weight, bias and slope of a norm. In training, the map is centred: a bias near zero would put many values near
    the kink of PReLU."""
    return [*_parameters(shape[1], "signed", "signed"), Input((shape[1],)) if slope else None]


def _statistics(channels: int) -> tuple[Input, Input]:
    return Input((channels,), array=True), Input((channels,), "positive", array=True)


def convolution(found: Convolution, bias: Any = st.booleans()) -> tuple[list[Any], dict[str, Any]]:  # noqa: B008
    weight = Input((found.outs, found.shape[1], *found.kernel_size))
    given = st.sampled_from([None, Input((found.outs,))])
    return [tensors(found.shape), weight, given], _convolved(found)


def depthwise(found: Convolution) -> tuple[list[Any], dict[str, Any]]:
    return [tensors(found.shape), Input((found.shape[1], 1, *found.kernel_size))], _convolved(found)


def _convolved(found):
    return {"stride": found.stride, "padding": found.padding, "dilation": found.dilation}


def octave(found: Branches, as_list: bool) -> tuple[list[Any], dict[str, Any]]:
    maps, weight = [s and Input(s) for s in found.in_shapes], Input(found.weight_shape)
    inputs = [maps, weight] if as_list else [weight, *maps]
    return inputs, {"out_channels": found.outs, "stride": found.stride}


@st.composite
def _dilated(draw: Callable[..., Any], as_list: bool) -> Case:
    shape, dilations = draw(SMALL_MAPS), draw(st.sampled_from([(1, 2), (1,), (2, 1, 4), (3, 3)]))
    size = draw(st.sampled_from([3, 1]))
    counts = [draw(st.sampled_from([1, 2, 0])) for _ in dilations]
    counts[0] = max(counts[0], 1)
    weights = [Input((n, shape[1], size, size)) for n in counts]
    inputs = (Input(shape), weights) if as_list else (Input(shape), *weights)
    return Case(inputs, {"dilations": dilations}, draw(st.integers(0, 1000)))


@st.composite
def _batch_norm(draw: Callable[..., Any], op: bool, prelu: bool = True) -> Case:
    """Maps of several values per channel: of a single one, batch norm has no derivative to speak of."""
    shape, training = draw(SMALL_MAPS), draw(st.booleans())
    shape = (max(shape[0], 2), shape[1], max(shape[2], 2), shape[3])
    x, (weight, bias, slope) = draw(tensors(shape)), _norm(shape, training, prelu and draw(st.booleans()))
    seed, statistics = draw(st.integers(0, 1000)), _statistics(shape[1])
    if op:
        settings = {"running": [statistics], "training": [training], "momentum": [0.1], "eps": [1e-5]}
        return Case((x, weight, bias, slope), {**settings, "activation_sums": [None]}, seed)
    inputs = (x, *statistics, weight, bias, *([slope] if prelu else []))
    return Case(inputs, {"training": training}, seed)


@st.composite
def _chain(draw: Callable[..., Any], op: bool) -> Case:
    shape, depth, training = draw(SMALL_MAPS), draw(st.integers(1, 2)), draw(st.booleans())
    shape = (2, shape[1], max(shape[2], 2), max(shape[3], 2))
    size = draw(st.sampled_from([3, 1, 5]))
    layers = [[Input((shape[1], 1, size, size)), *_norm(shape, training)] for _ in range(depth)]
    running, seed = [_statistics(shape[1]) for _ in layers], draw(st.integers(0, 1000))
    if op:
        flat = [parameter for layer in layers for parameter in layer]
        return Case((Input(shape), *flat), {"running": [running], "training": training}, seed)
    return Case((Input(shape), layers, running), {"training": training}, seed)


@st.composite
def _products(draw: Callable[..., Any]) -> Case:
    """Matrices, stacks of them that broadcast, vectors."""
    rows, depth, columns = (draw(st.sampled_from([2, 1, 3, 5])) for _ in range(3))
    a, b = draw(st.sampled_from([((), ()), ((2,), (2,)), ((2,), ()), ((), (3,)), ((2, 1), (3,))]))
    left, right = (*a, rows, depth), (*b, depth, columns)
    vector = draw(st.sampled_from(["", "", "a", "b"]))
    left = (depth,) if vector == "a" else left
    right = (depth,) if vector == "b" else right
    return Case((draw(tensors(left)), draw(tensors(right))), {}, draw(st.integers(0, 1000)))


@st.composite
def _linear(draw: Callable[..., Any]) -> Case:
    images, ins, outs = (draw(st.sampled_from([2, 1, 3, 5])) for _ in range(3))
    bias = draw(st.sampled_from([Input((outs,)), None]))
    return Case((draw(tensors((images, ins))), Input((outs, ins)), bias), {}, draw(st.integers(0, 1000)))


@st.composite
def _along_axis(draw: Callable[..., Any], whole: bool = False, keepdims: bool = True) -> Case:
    """An axis that is there, or also all of them and several."""
    shape = draw(shapes(0 if whole else 1, 3, 1, 5))
    axes: st.SearchStrategy[Any] = st.integers(-len(shape), len(shape) - 1) if shape else st.none()
    if whole:
        axes = st.none() | axes | st.just(tuple(range(0, len(shape), 2)))
    settings: dict[str, Any] = {"axis": draw(axes)}
    if keepdims:
        settings["keepdims"] = draw(st.booleans())
    return Case((draw(tensors(shape)),), settings, draw(st.integers(0, 1000)))


@st.composite
def _concatenated(draw: Callable[..., Any], as_list: bool) -> Case:
    shape = draw(shapes(1, 3, 1, 4))
    axis = draw(st.integers(0, len(shape) - 1))
    counts = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    parts = [draw(tensors((*shape[:axis], n, *shape[axis + 1 :]))) for n in counts]
    return Case((parts,) if as_list else tuple(parts), {"axis": axis}, draw(st.integers(0, 1000)))


@st.composite
def _classified(draw: Callable[..., Any]) -> Case:
    images, classes = draw(st.integers(1, 4)), draw(LABELS)
    labels = Input((images,), "labels", (0, classes))
    smoothing = draw(st.sampled_from([0.0, 0.1, 1.0]))
    return Case((draw(tensors((images, classes))), labels), {"label_smoothing": smoothing}, draw(st.integers(0, 1000)))


def _resized() -> Drawn:
    return cases([feature_maps()], {"size": SIZES})


def _dropped(op: bool) -> Drawn:
    rate = st.sampled_from([0.5, 0.1, 0.9])
    return cases([tensors()], {"p": rate, **({"seed": st.integers(0, 1000)} if op else {})})


def _reshaped() -> Drawn:
    return cases([tensors((2, 3, 4))], {"shape": st.sampled_from([(24,), (4, -1), (2, 12), (1, 6, 2, 2)])})


def _sliced() -> Drawn:
    some = st.sampled_from([slice(None), slice(1, None), slice(None, None, -1), slice(0, 3, 2), 0, -1])
    return cases([tensors((3, 4, 2))], {"index": st.tuples(some, some) | some})


def _transposed() -> Drawn:
    return cases([tensors((2, 3, 4))], {"axes": st.none() | st.permutations([0, 1, 2]).map(tuple)})


def _pooled(found: Windows) -> tuple[list[Any], dict[str, Any]]:
    return [tensors(found.shape)], {
        "kernel_size": found.kernel_size, "stride": found.stride, "padding": found.padding
    }  # fmt: skip


def _pairs(**more: Any) -> Callable[[], Drawn]:
    return lambda: cases(broadcast(2, **more))


def _each(kind: str = "signed", **more: Any) -> Callable[[], Drawn]:
    return lambda: cases([tensors(kind=kind, **more)])


def _predicted(**settings: Any) -> Callable[[], Drawn]:
    """Logits and probabilities of one shape."""
    return lambda: cases(
        PREDICTED.map(lambda shape: (Input(shape), Input(shape, "shares", grad=False))), settings
    )  # fmt: skip


def _divided() -> Drawn:
    return cases(broadcast(2))


def _prelu() -> Drawn:
    return cases(SMALL_MAPS.map(lambda shape: (Input(shape), Input((shape[1],)))))


_SHARED: dict[str, Callable[[], Drawn]] = {
    "multiply": _pairs(), "add": _pairs(), "subtract": _pairs(), "divide": _divided, "exp": _each(),
    "log": _each("positive"), "sqrt": _each("positive"), "relu": _each(), "sigmoid": _each(),
    "power": lambda: cases([tensors(kind="positive")], {"exponent": EXPONENTS}),
    "conv2d": lambda: with_settings(convolution_parameters(), convolution),
    "depthwise_conv2d": lambda: with_settings(convolution_parameters(depthwise=True), depthwise),
    "max_pool2d": lambda: with_settings(windows(), _pooled), "avg_pool2d": lambda: with_settings(windows(), _pooled),
    "global_average_pool": lambda: cases([feature_maps()]), "upsample_bilinear": _resized, "linear": _linear,
    "matmul": _products, "sum": lambda: _along_axis(whole=True), "log_softmax": lambda: _along_axis(keepdims=False),
    "cross_entropy": _classified, "binary_cross_entropy_with_logits": _predicted(), "prelu": _prelu,
    "materialize": lambda: cases([feature_maps()]), "reshape": _reshaped, "transpose": _transposed,
}  # fmt: skip
FUNCTIONS: dict[str, Callable[[], Drawn]] = {
    **_SHARED,
    "depthwise_chain": lambda: _chain(op=False), "dilated_conv2d": lambda: _dilated(as_list=True),
    "octave_conv2d": lambda: with_settings(branch_lists(most=3), lambda b: octave(b, as_list=True)),
    "batch_norm": lambda: _batch_norm(op=False, prelu=False), "batch_norm_prelu": lambda: _batch_norm(op=False),
    "iou_loss": _predicted(), "dice_loss": _predicted(), "dropout": lambda: _dropped(op=False),
    "max": lambda: _along_axis(whole=True), "mean": lambda: _along_axis(whole=True),
    "concatenate": lambda: _concatenated(as_list=True),
}  # fmt: skip
_CLASSES = {
    "conv2d": "Conv2d", "depthwise_conv2d": "DepthwiseConv2d", "max_pool2d": "MaxPool2d", "avg_pool2d": "AvgPool2d",
    "global_average_pool": "GlobalAveragePool", "upsample_bilinear": "UpsampleBilinear", "log_softmax": "LogSoftmax",
    "cross_entropy": "CrossEntropy", "binary_cross_entropy_with_logits": "BinaryCrossEntropyWithLogits",
    "prelu": "PReLU", "relu": "ReLU",
}  # fmt: skip
OPS: dict[str, Callable[[], Drawn]] = {
    **{_CLASSES.get(name, name.capitalize()): made for name, made in _SHARED.items()},
    "DepthwiseChain": lambda: _chain(op=True), "DilatedConv2d": lambda: _dilated(as_list=False),
    "OctaveConv2d": lambda: with_settings(branch_lists(most=3), lambda b: octave(b, as_list=False)),
    "BatchNormPReLU": lambda: _batch_norm(op=True), "OverlapLoss": lambda: cases(
        PREDICTED.map(lambda shape: (Input(shape), Input(shape, "shares", grad=False))),
        {"region": st.sampled_from(["iou", "dice"])},
    ),
    "Dropout": lambda: _dropped(op=True), "Max": lambda: _along_axis(), "Slice": _sliced,
    "Concatenate": lambda: _concatenated(as_list=False),
}  # fmt: skip
