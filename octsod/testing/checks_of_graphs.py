"""Checks of how an op lives with others: gradients that are there already, tensors used twice, graphs used again."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ..autograd import Tensor, backward_all
from ..functional import multiply
from .cases import signed
from .evaluation import backward, cotangents, evaluate, forward, gradients_of, leaves_of, numpy_of
from .example import Example
from .reports import Failed, Skipped, require_close, require_same

MOST_PARTS = 4  # outputs, or inputs, that are taken one by one


def _fresh(example):
    """Leaves of the case, and those numbers of theirs that have gradients. Raises Skipped if none has."""
    indices = [i for i in example.differentiable() if example.run.gradients[i] is not None]
    if not indices:
        raise Skipped("no input has a gradient")
    return leaves_of(example.case, example.arrays), indices


def _limits(example, factor=1.0):
    """The bounds of gradients, by input."""
    found = dict(zip((name for name, _ in example.run.results), example.bounds(), strict=True))
    return {i: factor * found[f"the gradient of input {i}"] for i in example.differentiable()
            if example.run.gradients[i] is not None}  # fmt: skip


def accumulation(example: Example) -> str:
    """A gradient is added to what is there: in a leaf, in a flat buffer, and where other ops read the same tensor."""
    leaves, indices = _fresh(example)
    _onto_gradients(example, leaves, indices)
    _among_readers(example, indices)
    _into_places(example, indices)
    return ""


def _others(example, index, number):
    x = example.arrays[index]
    return signed(np.random.default_rng((example.case.seed, 0xACC, index, number)), x.shape).astype(x.dtype)


def _added(limit, *terms):
    """The sum of terms, and its bound, if one of them has this bound."""
    size = sum(np.abs(term) for term in terms)
    return sum(terms), limit + len(terms) * np.finfo(size.dtype).eps * size


def _onto_gradients(example, leaves, indices):
    for i in indices:
        leaves[i].grad = _others(example, i, 0)
    outputs = forward(example.subject, example.case, leaves)
    backward(outputs, example.given)
    for i, limit in _limits(example).items():
        expected, limit = _added(limit, example.run.gradients[i], _others(example, i, 0))
        require_close(
            f"the gradient of input {i}, added to one that was there", gradients_of(leaves)[i], expected, limit
        )  # fmt: skip


def _among_readers(example, indices):
    """Other ops read the inputs before and after this one does, so its backward is the second of three to add."""
    leaves = leaves_of(example.case, example.arrays)
    between = list(leaves)
    for i in indices:
        between[i] = multiply(leaves[i], 1.0)
    before = [multiply(between[i], 1.0) for i in indices]
    outputs = forward(example.subject, example.case, between)
    after = [multiply(between[i], 1.0) for i in indices]
    roots = [(y, v) for y, v in zip(outputs, example.given, strict=True) if y is not None and v is not None]
    roots = [(y, Tensor.on(y.device, v)) for y, v in roots if y.requires_grad]
    for number, readers in ((1, before), (2, after)):
        roots += [(y, Tensor.on(y.device, _others(example, i, number))) for i, y in zip(indices, readers, strict=True)]
    backward_all([y for y, _ in roots], [v for _, v in roots])
    for i, limit in _limits(example, 4).items():
        others = _others(example, i, 1), _others(example, i, 2)
        expected, limit = _added(limit, example.run.gradients[i], *others)
        require_close(
            f"the gradient of input {i}, which other ops read, too", gradients_of(leaves)[i], expected, limit
        )  # fmt: skip


def _into_places(example, indices):
    """Gradients lie side by side in one buffer, as an optimiser has them."""
    leaves = leaves_of(example.case, example.arrays)
    flat = {}
    for i in indices:
        x = leaves[i]
        buffer = np.full((2, x.size + 16), np.nan, x.dtype)
        data, grad = buffer[0, 8 : 8 + x.size].reshape(x.shape), buffer[1, 8 : 8 + x.size].reshape(x.shape)
        x.place(x.device.put(data), x.device.put(grad))
        flat[i] = buffer
    outputs = forward(example.subject, example.case, leaves)
    backward(outputs, example.given)
    for i, limit in _limits(example).items():
        got = gradients_of(leaves)[i]
        require_close(f"the gradient of input {i}, in a buffer", got, example.run.gradients[i], limit)
        outside = np.concatenate([flat[i][:, :8], flat[i][:, 8 + got.size :]], axis=1)
        if not np.isnan(outside).all():
            raise Failed(f"backward writes outside of the place of the gradient of input {i}.")


def aliasing(example: Example) -> str:
    """The same tensor as two inputs gets the sum of both gradients."""
    case, pairs = example.case, []
    leaves = case.leaves()
    for i, j in itertools.combinations(example.differentiable(), 2):
        a, b = leaves[i], leaves[j]
        if (a.shape, a.kind, a.range, a.dtype) == (b.shape, b.kind, b.range, b.dtype):
            pairs.append((i, j))
    if not pairs:
        raise Skipped("no two inputs have one shape")
    for i, j in pairs[:MOST_PARTS]:
        arrays = case.arrays()
        arrays[j] = arrays[i].copy()
        alike = Example(example.subject, case, arrays)
        apart, limits = alike.run, alike.bounds()
        shared = leaves_of(case, arrays)
        shared[j] = shared[i]
        outputs = forward(example.subject, case, shared)
        got = numpy_of(outputs)
        backward(outputs, cotangents(case, got))
        for y, wanted, limit in zip((y for y in got if y is not None), apart.results, limits, strict=False):
            require_close(f"an output, with one tensor as inputs {i} and {j}", y, wanted[1], limit)
        parts = [g for g in (apart.gradients[i], apart.gradients[j]) if g is not None]
        if parts:
            both = _limits(alike)
            expected, limit = _added(sum(both[k] for k in (i, j) if k in both), *parts)
            require_close(
                f"the gradient of one tensor as inputs {i} and {j}", gradients_of(shared)[i], expected, limit
            )  # fmt: skip
    return f"{len(pairs[:MOST_PARTS])} pairs" if len(pairs) > 1 else ""


def graphs(example: Example) -> str:
    """A graph that is retained gives the same gradients once more; one that was freed raises an error."""
    leaves, indices = _fresh(example)
    outputs = forward(example.subject, example.case, leaves)
    values = numpy_of(outputs)
    for how in ("first", "second"):
        backward(outputs, example.given, retain_graph=True)
        for i in indices:
            if leaves[i].grad is None:
                raise Failed(f"the {how} backward through a retained graph gives input {i} no gradient.")
            require_same(
                f"the gradient of input {i}", gradients_of(leaves)[i], example.run.gradients[i],
                (f"{how} backward through a retained graph", "at first"),
            )  # fmt: skip
            leaves[i].grad = None
    for before, y in zip(values, numpy_of(outputs), strict=True):
        if y is not None:
            require_same("an output, after backward", y, before, ("after", "before"))
    backward(outputs, example.given)
    if not any(y is not None and y.node is not None for y in outputs):
        return ""
    try:
        backward(outputs, example.given)
    except RuntimeError as error:
        if "freed" in str(error):
            return ""
        raise
    raise Failed("a second backward through a graph that was freed raises no error.")


def parts(example: Example) -> str:
    """Gradients of some inputs alone, and from some outputs alone, are those of all together."""
    case = example.case
    _, indices = _fresh(example)
    limits = _limits(example, 2)
    for i in indices[:MOST_PARTS] if len(example.differentiable()) > 1 else ():
        run = evaluate(example.subject, case, wanted=[k == i for k in range(len(example.arrays))])
        for k, gradient in enumerate(run.gradients):
            if gradient is not None and k != i:
                raise Failed(f"input {k} gets a gradient, though it requires none.")
        if run.gradients[i] is None:
            raise Failed(f"input {i} gets no gradient where the other inputs require none.")
        require_close(
            f"the gradient of input {i}, where no other is wanted", run.gradients[i], example.run.gradients[i],
            limits[i],
        )  # fmt: skip
    with_gradient = [k for k, v in enumerate(example.given) if v is not None]
    for k in with_gradient[:MOST_PARTS] if len(with_gradient) > 1 else ():
        zeros: list[Any] = [v if v is None or n == k else np.zeros_like(v) for n, v in enumerate(example.given)]
        alone: list[Any] = [v if n == k else None for n, v in enumerate(example.given)]
        full, run = (evaluate(example.subject, case, given=v) for v in (zeros, alone))
        for i in indices:
            expected = full.gradients[i] if full.gradients[i] is not None else np.zeros_like(example.arrays[i])
            got = run.gradients[i] if run.gradients[i] is not None else np.zeros_like(example.arrays[i])
            require_close(f"the gradient of input {i} from output {k} alone", got, expected, limits[i])
    return ""
