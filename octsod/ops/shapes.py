"""The same elements elsewhere: axes in another order, a part of an array, arrays side by side."""

import math
import operator
from collections.abc import Sequence
from typing import Any

from ..autograd import Op
from ..backend import empty, kernels
from ..checks import require, require_dtype, require_given, require_integer
from .arithmetic import axes_of
from .cost import Cost, Shape, elements


class Transpose(Op):
    """x with its axes in another order: axis i of the result is axis axes[i] of x. All reversed if `axes` is None."""

    @staticmethod
    def forward(ctx, x, axes=None):
        require_given(x, "transpose", "x")
        axes = tuple(reversed(range(x.ndim)) if axes is None else axes)
        order = [require_integer(i, "transpose", "axes", -x.ndim) for i in axes]
        order = [i + x.ndim if i < 0 else i for i in order]
        require(
            sorted(order) == list(range(x.ndim)), "transpose", "axes", f"is {axes}", f"each of {x.ndim} axes once"
        )
        ctx.inverse = tuple(order.index(i) for i in range(x.ndim))
        out = empty(tuple(x.shape[i] for i in order), x.dtype)
        kernels.transpose(x, tuple(order), out)
        return out

    @staticmethod
    def backward(ctx, grad):
        grad_x = ctx.array(0)
        kernels.transpose(grad, ctx.inverse, grad_x)
        return grad_x

    @staticmethod
    def cost(x: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """Read once, written once."""
        return Cost(0, itemsize * elements(x, x))


def _resolved(shape: Shape, index: Any) -> tuple[list[range], list[int]]:
    """Where basic indexing leads: which elements of each axis it takes; and the shape of the result, which has lost the
    axes of integers and won those of None."""
    items = index if isinstance(index, tuple) else (index,)
    items = tuple(i if i is None or i is Ellipsis or isinstance(i, slice) else _integer(i) for i in items)
    wholes = sum(item is Ellipsis for item in items)
    missing = len(shape) - sum(item is not None and item is not Ellipsis for item in items)
    if missing < 0 or wholes > 1:
        raise IndexError(f"getitem: `index` is {index}; expected at most {len(shape)} entries and one Ellipsis.")
    chosen: list[range] = []
    out: list[int] = []
    for item in items if wholes else (*items, Ellipsis):
        if item is None:
            out.append(1)
            continue
        for part in (slice(None),) * missing if item is Ellipsis else (item,):
            axis, length = len(chosen), shape[len(chosen)]
            if isinstance(part, slice):
                chosen.append(range(length)[part])  # Python's own rules for ends and steps
                out.append(len(chosen[axis]))
            elif -length <= part < length:
                chosen.append(range(part % length, part % length + 1))
            else:
                raise IndexError(f"getitem: `index` is {part} on axis {axis}; expected {-length} to {length - 1}.")
    return chosen, out


def _integer(item):
    try:
        if not isinstance(item, bool):
            return operator.index(item)
    except TypeError:
        pass
    raise TypeError(f"getitem: `index` has a {type(item).__name__}; expected integers, slices, Ellipsis and None.")


class Slice(Op):
    """x[index] with NumPy's basic indexing: integers, slices, Ellipsis, None. A copy. The gradient is 0 elsewhere."""

    @staticmethod
    def forward(ctx, x, index):
        require_given(x, "getitem", "x")
        chosen, shape = _resolved(x.shape, index)
        ctx.counts = tuple(len(c) for c in chosen)
        ctx.place = tuple(c.start for c in chosen), tuple(c.step for c in chosen)
        out = empty(ctx.counts, x.dtype)
        kernels.strided_slice(x, *ctx.place, out)
        return out.reshape(tuple(shape))

    @staticmethod
    def backward(ctx, grad):
        grad_x = ctx.array(0)
        kernels.strided_slice_backward(grad.reshape(ctx.counts), *ctx.place, grad_x)
        return grad_x

    @staticmethod
    def cost(x: Shape, out: Shape, itemsize: int = 4, backward: bool = False) -> Cost:
        """From the shapes of x and of the part: read once, written once; backward all of x is written."""
        return Cost(0, itemsize * elements(out, x if backward else out))


class Concatenate(Op):
    """Tensors side by side along `axis`; all other lengths agree."""

    @staticmethod
    def forward(ctx, *arrays, axis=0):
        op = "concatenate"
        require(len(arrays) > 0, op, "tensors", "is empty", "at least one tensor")
        first = arrays[0]
        require_given(first, op, "tensors")
        require(first.ndim > 0, op, "tensors", "has a tensor of shape ()", "at least one dimension")
        (axis,) = axes_of(op, (axis,), first.ndim)
        for array in arrays:
            require_dtype(array, first, op, "tensors", "tensors[0]")
            require(
                array.ndim == first.ndim and _without(array.shape, axis) == _without(first.shape, axis), op, "tensors",
                f"has a tensor of shape {tuple(array.shape)}", f"the shape {tuple(first.shape)} but for axis {axis}",
            )  # fmt: skip
        ctx.counts = [array.shape[axis] for array in arrays]
        ctx.around = math.prod(first.shape[:axis]), math.prod(first.shape[axis + 1 :])
        out = empty((*first.shape[:axis], sum(ctx.counts), *first.shape[axis + 1 :]), first.dtype)
        kernels.concatenate([_middle(ctx, a, n) for a, n in zip(arrays, ctx.counts, strict=True)],
                            _middle(ctx, out, sum(ctx.counts)))  # fmt: skip
        return out

    @staticmethod
    def backward(ctx, grad):
        grad, grads, start = _middle(ctx, grad, sum(ctx.counts)), [], 0
        for index, count in enumerate(ctx.counts):
            part = ctx.array(index)
            if part is not None:
                kernels.strided_slice(grad, (0, start, 0), (1, 1, 1), _middle(ctx, part, count))
            grads.append(part)
            start += count
        return tuple(grads)

    @staticmethod
    def cost(shapes: Sequence[Shape], itemsize: int = 4, backward: bool = False) -> Cost:
        """From the shapes of all tensors: read once, written once."""
        return Cost(0, 2 * itemsize * elements(*shapes))


def _without(shape, axis):
    return (*shape[:axis], *shape[axis + 1 :])


def _middle(ctx, array, count):
    """An array with the axis along which tensors are joined, of length `count`, in the middle of three."""
    outer, inner = ctx.around
    return array.reshape(outer, count, inner)
