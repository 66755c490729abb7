"""Reverse-mode automatic differentiation.

`Function.apply` runs an op's forward and, if a gradient is wanted, records a `Node`. A node holds what its backward
needs and edges to where its inputs came from, never its output: there are no reference cycles, and a buffer is free for
reuse as soon as the last node that needs it is through with its backward.
"""

import heapq
import inspect
import itertools
import sys
from collections.abc import Sequence
from numbers import Number
from typing import Any

from ..backend import Device, common_device, device_of, empty, kernels, on, watching
from ..backend.arrays import overlap
from ..backend.deferred import ActivationGradient, Deferred, DeferredGradient, GradientTarget, require_sound
from ..checks import shortened
from ..threads import new_lock
from .mode import mode
from .tensor import Tensor

_numbers = itertools.count()
_BY_POSITION = inspect.Parameter.POSITIONAL_OR_KEYWORD


class Context:
    """What an op's forward leaves for its backward.

    needs: per input, whether its gradient is wanted. saved: what `save_for_backward` was given. Anything else may be
    set as an attribute.
    """

    def __init__(self, needs: Sequence[bool]):
        self.needs = needs
        self.saved: Any = ()
        self._buffers: Any = None

    def save_for_backward(self, *values: Any) -> None:
        """Keep arrays for `backward`, where `ctx.saved` holds them."""
        self.saved = values

    def array(self, index: int) -> Any:
        """In `backward`: an array to write the gradient of input `index` to and return; None if that is not wanted.

        A parameter's is its place in the flat buffer of gradients, if nobody else holds that: nothing has to be copied
        there then.
        """
        return self._buffers.array(index) if self.needs[index] else None

    def target(self, index: int, over: DeferredGradient | None = None) -> GradientTarget | None:
        """In the backward of a `deferred` function: where to write the gradient of map `index`; return it from
        `backward`. None if that gradient is not wanted.

        over: the `DeferredGradient` of an output. If it is spent and has the input's shape, its g may be the array to
        write: for kernels that have read the pixels of g they need before they write.
        """
        return self._buffers.target(index, over) if self.needs[index] else None


class Function:
    """An op. Subclass with static `forward(ctx, *arrays, **params)` and `backward(ctx, grad)`.

    forward gets arrays by position and settings by name, as `apply` is given them: `Scale.apply(x, weight, eps=1e-5)`
    calls `Scale.forward(ctx, x, weight, eps=1e-5)`. It returns one array or a tuple of them; backward gets the gradient
    of each output (None where an output was not used, if there are several) and returns a gradient per input array, or
    None.

    With `deferred = True` an op takes part in deferred normalisation, as our own do: forward also gets and may return
    `Deferred` maps, backward also gets `DeferredGradient`s for raw outputs, an `ActivationGradient` for an output that
    was a normalised `Deferred`, and may return what `ctx.target(i)` gave it. Any other op has its inputs and gradients
    materialised.

    What an op is given belongs to others, too: the inputs to whoever made them, a gradient to other ops that read the
    same tensor. So neither forward nor backward changes it. Where a device has read-only views, as hosts do, an op gets
    such views, and NumPy raises "destination is read-only". Results are checked like any array that enters: see
    `Tensor` for dtypes and layouts; what forward or backward returns of its arguments is copied.

    Kernels of an op, one per backend, live in a `Namespace` (octsod.backend). With a static method `cost`, profiles
    tell how far the op is from what the machine can do: `cost(*shapes, itemsize=4, backward=False, **params)` returns
    a `Cost` (octsod.ops) from what `apply` was given, with an array's shape in the place of the array, and the size of
    an element in bytes.
    """

    deferred = False
    guarded = True  # whether arrays are given as read-only views, if the op is not `deferred`
    moves = False  # whether outputs are on another device than inputs

    @staticmethod
    def forward(ctx: Any, *arrays: Any, **params: Any) -> Any:
        raise TypeError("A Function needs a static method `forward(ctx, *arrays, **params)`.")

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        raise TypeError("A Function needs a static method `backward(ctx, grad)`.")

    @classmethod
    def apply(cls, *tensors: Any, **params: Any) -> Any:
        """Run the op on tensors (None for an optional input that is not given); returns a tensor or a tuple of them.

        tensors: anything that `Tensor` takes, but numbers: those are settings. params: settings, which forward gets as
        they are. Raises TypeError for a number or a string by position. All inputs must be on one device, which is the
        current one meanwhile (see backend/device.py).
        """
        profiler = watching.profiler
        if profiler is None:
            return cls._applied(tensors, params)
        with profiler.forward(cls, tensors, params):
            return cls._applied(tensors, params)

    @classmethod
    def _applied(cls, tensors, params):
        if cls.guarded:
            _require_no_settings(cls, tensors)
        inputs = [t if t is None or isinstance(t, Tensor) else Tensor(t) for t in tensors]
        recording = mode.enabled and any(t is not None and t.requires_grad for t in inputs)
        ctx = Context(tuple(recording and t is not None and t.requires_grad for t in inputs))
        arrays = [None if t is None else t._data if cls.deferred else t.array() for t in inputs]
        device = common_device(cls.__name__, [a.raw if isinstance(a, Deferred) else a for a in arrays])
        if cls.guarded and not cls.deferred:
            arrays = [_given(a) for a in arrays]
        with on(device):
            results = cls.forward(ctx, *arrays, **params)
        single = not isinstance(results, (tuple, list))
        outputs = [_output(cls, device, r) for r in ((results,) if single else results)]
        if mode.observer is not None:
            mode.observer(cls, outputs)
        if recording:
            node = Node(cls, ctx, device, inputs, outputs)
            for index, output in enumerate(outputs):
                if output is not None and output.dtype.kind == "f":
                    output.requires_grad, output.node, output.index = True, node, index
        return outputs[0] if single else tuple(outputs)


class Op(Function):
    """Base of octsod's own ops, which are known to leave alone what they are given."""

    guarded = False


def _require_no_settings(function, tensors):
    """Refuse a setting among the inputs: as an array of float64, it would make float64 of what is float32."""
    for index, value in enumerate(tensors):
        if isinstance(value, (Number, str)):
            names = [p.name for p in inspect.signature(function.forward).parameters.values() if p.kind is _BY_POSITION]
            named = f", `{names[index + 1]}`," if index + 1 < len(names) else ""
            raise TypeError(
                f"{function.__name__}.apply: argument {index + 1}{named} is {shortened(repr(value))}; expected an "
                "array. Give settings by name."
            )


def _given(array):
    """What a guarded op gets of an array."""
    return device_of(array).read_only(array) if array is not None and mode.guarding else array


def _output(function, device, result):
    if result is None:
        return None
    what = f"What `{function.__name__}.forward` returned"
    if not isinstance(result, Deferred):
        result = (device_of(result) if function.moves else device).adopt(result, what)
    elif function.guarded:
        require_sound(result, device, what)
    return Tensor._of(result)


class Node:
    """One application of a function, in the graph that backward walks."""

    __slots__ = ("activation", "ctx", "device", "edges", "freed", "function", "note", "number", "outputs")

    def __init__(self, function: type[Function], ctx: Any, device: Device, inputs: Any, outputs: Any):
        self.number = next(_numbers)
        self.function, self.ctx, self.device = function, ctx, device
        # An edge is a leaf tensor, whose .grad is to be filled, or (node, output index).
        self.edges: Any = [
            None if not need else (t if t.node is None else (t.node, t.index))
            for t, need in zip(inputs, ctx.needs, strict=True)
        ]
        self.outputs = [None if o is None else (o.shape, o.dtype) for o in outputs]
        self.activation = [o is not None and isinstance(o._data, Deferred) and not o._data.is_raw for o in outputs]
        self.freed = False
        profiler = watching.profiler
        self.note = None if profiler is None else profiler.noted()

    @property
    def name(self) -> str:
        return self.function.__name__

    def free(self) -> None:
        self.ctx, self.edges, self.freed = None, (), True

    def __lt__(self, other):  # for the heap: later nodes first
        return self.number > other.number


class _Pending:
    """The gradient of one output while its readers add their parts."""

    __slots__ = ("expected", "gradient_sums", "owned", "value")

    def __init__(self):
        self.value, self.owned, self.gradient_sums, self.expected = None, False, None, 0

    def add(self, value):
        """Take a further part: an array, a DeferredGradient or a GradientTarget."""
        self.expected -= 1
        if value is None:
            return
        if isinstance(value, GradientTarget):
            if value.accumulate or self.value is None:
                self.value, self.owned, self.gradient_sums = value.array, True, value.gradient_sums
                return
            value = value.array
        self.gradient_sums = None
        if self.value is None:
            self.value = value
            return
        total = self.writable()
        if isinstance(value, DeferredGradient):
            value = value.value()
        with on(device_of(total)):
            kernels.add(total, value, total)

    def array(self):
        """The gradient so far as an array."""
        if isinstance(self.value, DeferredGradient):
            deferred = self.value.coefficients is not None
            self.value, self.owned = self.value.value(), self.owned or deferred
        return self.value

    def writable(self):
        """The gradient so far as an array that nobody else holds."""
        array = self.array()
        if not self.owned:
            self.value, self.owned = _copy(array), True
        return self.value


def _copy(array):
    with on(device_of(array)):
        out = empty(array.shape, array.dtype)
        kernels.copy(array, out)
    return out


def _reachable(roots):
    """Pending gradients by (node, output), with the number of parts that each will get."""
    pending, seen, stack = {}, set(roots), list(roots)
    while stack:
        node = stack.pop()
        if node.freed:
            raise RuntimeError(
                f"backward: the graph of `{node.name}` has been freed by an earlier backward; "
                "call backward(retain_graph=True) there to go through it again."
            )
        for edge in node.edges:
            if isinstance(edge, tuple):
                pending.setdefault(edge, _Pending()).expected += 1
                if edge[0] not in seen:
                    seen.add(edge[0])
                    stack.append(edge[0])
    return pending


def backward(tensor: Tensor, gradient: Any = None, retain_graph: bool = False) -> None:
    """Add the gradient of this tensor with respect to every leaf that requires one to that leaf's `.grad`.

    gradient: array of the tensor's shape; may be left out for a single element. The graph is freed on the way unless
    `retain_graph`.
    """
    backward_all([tensor], [gradient], retain_graph)


def backward_all(tensors: Sequence[Tensor], gradients: Sequence[Any], retain_graph: bool = False) -> None:
    """`backward` from several tensors at once: adds the gradient of `sum_i <tensors[i], gradients[i]>`."""
    given = [(t, _checked_gradient(t, g)) for t, g in zip(tensors, gradients, strict=True)]
    roots = [((t.node, t.index), g) for t, g in given if t.node is not None]
    pending = _reachable({node for (node, _), _ in roots})
    for tensor, gradient in given:
        if tensor.node is None:
            _accumulate_leaf(tensor, gradient)
    for root, _ in roots:
        pending.setdefault(root, _Pending()).expected += 1
    for root, gradient in roots:
        pending[root].add(gradient)
    queued = {node for (node, _), _ in roots}
    heap = list(queued)
    heapq.heapify(heap)
    while heap:
        node = heapq.heappop(heap)
        profiler = watching.profiler
        if profiler is None:
            _go_back(node, pending, queued, heap)
        else:
            with profiler.backward(node):
                _go_back(node, pending, queued, heap)
        if not retain_graph:
            node.free()


def _go_back(node, pending, queued, heap):
    """Run a node's backward, give its results to where its inputs came from, and queue those nodes."""
    grads = _gradients_of(node, pending)
    buffers = _Buffers(node, pending)
    try:
        if any(g is not None for g in grads):
            with on(node.device):
                results = _run_backward(node, grads, buffers)
        else:
            results = [None] * len(node.edges)
        del grads
        for edge, result in zip(node.edges, results, strict=True):
            if isinstance(edge, tuple):
                pending[edge].add(result)
                if edge[0] not in queued:
                    queued.add(edge[0])
                    heapq.heappush(heap, edge[0])
            elif edge is not None and result is not None:
                _accumulate_leaf(edge, result)
    finally:
        buffers.release()


def _checked_gradient(tensor, gradient):
    """The gradient to start from as an array on the tensor's device."""
    if not tensor.requires_grad:
        raise RuntimeError("backward: this tensor does not require a gradient, nor does anything it was made from.")
    device = tensor.device
    if gradient is None:
        if tensor.size != 1:
            raise ValueError(
                f"backward: `gradient` is needed for a tensor of shape {tensor.shape}; only a single element has one."
            )
        return device.full(tensor.shape, 1, tensor.dtype)
    gradient = gradient if isinstance(gradient, Tensor) else Tensor(gradient)
    if gradient.shape != tensor.shape or gradient.dtype != tensor.dtype:
        raise ValueError(
            f"backward: `gradient` is {gradient.dtype} {gradient.shape}; expected {tensor.dtype} {tensor.shape}, "
            "like the tensor."
        )
    if gradient.device is not device:
        raise ValueError(f"backward: `gradient` is on {gradient.device.name}; expected {device.name}, like the tensor.")
    return gradient.array()


def _gradients_of(node, pending):
    """What `node.function.backward` is given: the complete gradient of each output."""
    grads, function = [], node.function
    for index, activation in enumerate(node.activation):
        part = pending.pop((node, index), None)
        if part is None or part.value is None:
            grads.append(None)
        elif activation:
            array = part.array()
            if function.deferred:
                grads.append(ActivationGradient(array, part.gradient_sums, part.owned))
            else:
                grads.append(_given(array) if function.guarded else array)
        elif function.deferred:
            grads.append(part.value)
        else:
            grads.append(_given(part.array()) if function.guarded else part.array())
    return grads


_leaves = new_lock()  # held while it is settled who writes to a leaf's gradient


def _holders(leaf):
    home = leaf._home
    return sys.getrefcount(home)


class _Probe:
    __slots__ = ("_home",)
    _home: Any


_probe = _Probe()
_probe._home = object()
_NOBODY = _holders(_probe)  # what `_holders` says of a home that only the leaf holds


def _is_free(leaf):
    """Whether the leaf's place in the buffer of gradients may be written: the leaf has one, no other thread writes
    there, and nobody has kept the gradient that was there before."""
    return leaf._home is not None and not leaf._lent and _holders(leaf) == _NOBODY


class _Buffers:
    """Where a node's backward writes its results: see `Context.array` and `Context.target`."""

    def __init__(self, node, pending):
        self._node, self._pending = node, pending
        self._made = []  # arrays that only the node's backward holds
        self._lent = []  # leaves whose place in the buffer of gradients it has

    def array(self, index):
        edge = self._node.edges[index]
        if isinstance(edge, tuple):
            shape, dtype = edge[0].outputs[edge[1]]
        else:
            shape, dtype = edge.shape, edge.dtype
            with _leaves:
                if edge._grad is None and _is_free(edge):
                    edge._lent = True
                    self._lent.append(edge)
                    return edge._home
        array = empty(shape, dtype)
        self._made.append(array)
        return array

    def release(self):
        """The backward is over, and its results are where they belong."""
        for leaf in self._lent:
            leaf._lent = False

    def claim(self, array):
        """Whether `array` is one of those made here, which nobody has claimed."""
        for k, made in enumerate(self._made):
            if made is array:
                del self._made[k]
                return True
        return False

    def apart(self, result, edge, earlier):
        """A result of a user's op, or a copy if its memory is also that of an earlier result, or of a place that was
        lent for another: gradients are added to in place."""
        others = [e.array if isinstance(e, GradientTarget) else e for e in earlier]
        others += [leaf._home for leaf in self._lent if leaf is not edge]
        return _copy(result) if any(o is not None and overlap(result, o) for o in others) else result

    def target(self, index, over):
        edge, node = self._node.edges[index], self._node
        if not isinstance(edge, tuple):
            return GradientTarget(self._fresh(edge.shape, edge.dtype, over))
        part = self._pending[edge]
        shape, dtype = edge[0].outputs[edge[1]]
        twice = node.edges.count(edge) > 1  # an op that reads a tensor twice writes two buffers
        last = part.expected == 1 and edge[0].activation[edge[1]]
        sums = empty((shape[0], 3, shape[1]), "float64") if last and not twice else None
        if part.value is None or twice:
            return GradientTarget(self._fresh(shape, dtype, over), gradient_sums=sums)
        return GradientTarget(part.writable(), accumulate=True, gradient_sums=sums)

    @staticmethod
    def _fresh(shape, dtype, over):
        spent = over is not None and over.spent and kernels.IN_PLACE
        if spent and over.g.shape == shape and over.g.dtype == dtype:
            over.spent = False
            return over.g
        return empty(shape, dtype)


def _run_backward(node, grads, buffers):
    """The gradient of each input, checked: an array, a DeferredGradient, a GradientTarget, or None."""
    node.ctx._buffers = buffers
    try:
        results = node.function.backward(node.ctx, *grads)
    finally:
        node.ctx._buffers = None
    results = list(results) if isinstance(results, (tuple, list)) else [results]
    if len(results) != len(node.edges):
        raise ValueError(
            f"{node.name}.backward returned {len(results)} gradients; expected {len(node.edges)}, one per input "
            "(None where there is none)."
        )
    for i, (result, edge) in enumerate(zip(results, node.edges, strict=True)):
        if edge is None:
            results[i] = None
        elif result is not None:
            shape, dtype = edge[0].outputs[edge[1]] if isinstance(edge, tuple) else (edge.shape, edge.dtype)
            if isinstance(result, Tensor):
                result = result.array()
            if isinstance(result, DeferredGradient) and node.function.guarded:
                require_sound(result, node.device, f"What `{node.name}.backward` returned")
            if not isinstance(result, (GradientTarget, DeferredGradient)):
                device = device_of(result) if node.function.moves else node.device
                result = device.adopt(result, f"What `{node.name}.backward` returned")
                if node.function.guarded:
                    result = buffers.apart(result, edge, results[:i])
                if buffers.claim(result):
                    result = GradientTarget(result)
            results[i] = result
            got = result.array if isinstance(result, GradientTarget) else result
            if got.shape != shape or got.dtype != dtype:
                raise ValueError(
                    f"{node.name}.backward returned a gradient of {got.dtype} {got.shape} for input {i}; "
                    f"expected {dtype} {shape}, like the input."
                )
    return results


def _accumulate_leaf(leaf, value):
    owned = isinstance(value, GradientTarget)
    value = value.array if owned else value
    if isinstance(value, DeferredGradient):
        owned = value.coefficients is not None
        value = value.value()
    with _leaves:
        if leaf._grad is not None:
            with on(device_of(value)):
                kernels.add(leaf._grad, value, leaf._grad)
        elif value is leaf._home:
            leaf._grad = value
        elif _is_free(leaf):
            with on(device_of(value)):
                kernels.copy(value, leaf._home)
            leaf._grad = leaf._home
        else:
            leaf._grad = value if owned else _copy(value)


Tensor.backward = backward  # type: ignore[method-assign, assignment]
