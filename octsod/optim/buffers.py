"""Parameters side by side: one flat array of values and one of gradients, of which each parameter has its part."""

import itertools
from collections.abc import Iterable
from typing import Any

from ..autograd import Tensor
from ..backend import Device, now
from ..backend.memory import ALIGNMENT, SMALLEST


class FlatBuffer:
    """Parameters of one dtype and device.

    data, grad: (n,) arrays. Parameter i is elements bounds[i][0] to bounds[i][1], and its `data` and `grad` are views
    of them. Each begins at a multiple of 64 bytes; what lies between is nobody's. A copy of a buffer, a deep one or
    from a pickle, is a buffer of copies of its parameters.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        self.parameters = list(parameters)
        first = self.parameters[0]
        self._device, itemsize = first.device, first.dtype.itemsize
        grain = ALIGNMENT // itemsize
        sizes = [p.size for p in self.parameters]
        ends = list(itertools.accumulate((-(-size // grain) * grain for size in sizes), initial=0))
        self.bounds = [(start, start + size) for start, size in zip(ends, sizes, strict=False)]
        length = max(ends[-1], SMALLEST // itemsize)  # memory is handed out aligned from this size on
        self.data, self.grad = (self.device.zeros((length,), first.dtype) for _ in range(2))
        for p, data, grad in zip(self.parameters, self.views(self.data), self.views(self.grad), strict=True):
            p.place(data, grad)
        self._placed = [p.data for p in self.parameters]

    def __reduce__(self):
        return FlatBuffer, (self.parameters,)

    @property
    def device(self) -> Device:
        """Where the arrays are."""
        return now(self._device)

    def views(self, flat: Any) -> list[Any]:
        """Each parameter's part of an array that is laid out like this buffer, in its shape."""
        return [flat[a:b].reshape(p.shape) for p, (a, b) in zip(self.parameters, self.bounds, strict=True)]

    def like(self) -> Any:
        """An array of zeros that is laid out like this buffer."""
        return self.device.zeros(self.data.shape, self.data.dtype)

    def reclaim(self) -> None:
        """Take back what is elsewhere: parameters that another buffer has taken since, gradients that were written to
        arrays of their own, since the ones before them were still in use.

        Raises RuntimeError if a parameter was moved to another device.
        """
        for number, (p, placed) in enumerate(zip(self.parameters, self._placed, strict=True)):
            if p.data is not placed:
                if not p.device.shares_memory_with(self._device):
                    raise RuntimeError(
                        f"A parameter was moved to {p.device.name} after its optimiser was made on {self.device.name}; "
                        "expected `.to(device)` before."
                    )
                a, b = self.bounds[number]
                p.place(placed, self.grad[a:b].reshape(p.shape))
            elif p.grad is not None and not p.grad_in_place:
                p.grad = p.grad
