"""The tensor: an array, or a map whose normalisation is deferred, with its place in the graph."""

import numpy as np

from .. import autograd, ops
from ..backend.deferred import Deferred
from ..backend.device import kernels
from ..checks import require


class Tensor:
    """An array of numbers that ops can differentiate through.

    data: a NumPy array (dtype kept; float32 or float64 where gradients are wanted) or a `Deferred` map made by an op.
    grad: the gradient as an array of the same shape and dtype, or None; `backward()` adds to it.
    """

    __slots__ = ("__weakref__", "data", "grad", "index", "node", "requires_grad")
    __array_ufunc__ = None  # `array * tensor` is the tensor's business

    def __init__(self, array, requires_grad=False):
        if isinstance(array, Tensor):
            raise TypeError("Tensor: `array` is a Tensor already; use `.numpy()` to take its values.")
        array = np.asarray(array)
        if array.dtype.kind not in "fiub":
            raise TypeError(f"Tensor: `array` has dtype {array.dtype}; expected numbers.")
        if requires_grad and array.dtype not in (np.float32, np.float64):
            raise TypeError(
                f"Tensor: `requires_grad` needs an array of float32 or float64, not {array.dtype}."
            )
        self._set(np.ascontiguousarray(array) if array.ndim else array, requires_grad)

    def _set(self, data, requires_grad=False):
        self.data, self.requires_grad = data, requires_grad
        self.grad = self.node = None
        self.index = 0

    @classmethod
    def _of(cls, data):
        tensor = cls.__new__(cls)
        tensor._set(data if isinstance(data, Deferred) else np.asarray(data))
        return tensor

    @property
    def shape(self):
        return self.data.shape

    @property
    def dtype(self):
        return self.data.dtype

    @property
    def ndim(self):
        return len(self.data.shape)

    @property
    def size(self):
        count = 1
        for n in self.data.shape:
            count *= n
        return count

    def array(self):
        """The values as an array; a deferred map is computed."""
        return self.data.value(kernels) if isinstance(self.data, Deferred) else self.data

    def numpy(self):
        """The values as a NumPy array (a view where that is possible)."""
        return self.array()

    def __array__(self, dtype=None, copy=None):
        return np.array(self.numpy(), dtype=dtype, copy=copy)

    def item(self):
        """The only element as a Python number."""
        return self.numpy().item()

    def __float__(self):
        return float(self.item())

    def detach(self):
        """The same values, cut off from the graph."""
        return Tensor._of(self.data)

    def backward(self, gradient=None, retain_graph=False):
        """Add the gradient of this tensor with respect to every leaf to that leaf's `.grad`: see autograd.backward."""
        autograd.backward(self, gradient, retain_graph)

    def zero_grad(self):
        """Forget the gradient."""
        self.grad = None

    def __len__(self):
        if not self.ndim:
            raise TypeError("len() of a tensor without dimensions.")
        return self.shape[0]

    def __repr__(self):
        extra = f", op={self.node.name}" if self.node else ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({np.array2string(self.numpy(), threshold=20, precision=4)}, dtype={self.dtype}{extra})"

    def __add__(self, other):
        return ops.Add.apply(*_pair(self, other))

    __radd__ = __add__

    def __sub__(self, other):
        return ops.Subtract.apply(*_pair(self, other))

    def __rsub__(self, other):
        return ops.Subtract.apply(*_pair(other, self))

    def __mul__(self, other):
        return ops.Multiply.apply(*_pair(self, other))

    __rmul__ = __mul__

    def __truediv__(self, other):
        return ops.Divide.apply(*_pair(self, other))

    def __rtruediv__(self, other):
        return ops.Divide.apply(*_pair(other, self))

    def __neg__(self):
        return self * -1

    def __pow__(self, exponent):
        if isinstance(exponent, Tensor) or np.ndim(exponent):
            raise TypeError(f"power: `exponent` is {exponent}; expected a number.")
        return ops.Power.apply(self, exponent=float(exponent))

    def sum(self, axis=None, keepdims=False):
        """Added up over `axis` (all by default)."""
        return ops.Sum.apply(self, axis=axis, keepdims=keepdims)

    def mean(self, axis=None, keepdims=False):
        """The mean over `axis` (all by default)."""
        require(self.size > 0, "mean", "x", f"has shape {tuple(self.shape)}", "at least one element")
        total = self.sum(axis, keepdims)
        return total * (total.size / self.size)

    def reshape(self, *shape):
        """The same elements in another shape; one length may be -1."""
        return ops.Reshape.apply(self, shape=shape[0] if len(shape) == 1 else shape)


def _pair(a, b):
    """Two tensors; an array takes part as a constant, and so does a number, in the other's dtype if it fits that."""
    like = (a if isinstance(a, Tensor) else b).dtype
    return [v if isinstance(v, Tensor) else Tensor(_constant(v, like)) for v in (a, b)]


def _constant(value, dtype):
    number = isinstance(value, (int, float)) or np.ndim(value) == 0
    return np.asarray(value, dtype if number and (dtype.kind == "f" or isinstance(value, int)) else None)
