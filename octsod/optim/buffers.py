"""Parameters side by side: one flat array of values and one of gradients, of which each parameter has its part."""

import itertools
from collections.abc import Iterable
from typing import Any

from ..autograd import Tensor
from ..backend.memory import ALIGNMENT, SMALLEST


class FlatBuffer:
    """Parameters of one dtype and device.

    data, grad: (n,) arrays. Parameter i is elements bounds[i][0] to bounds[i][1], and its `data` and `grad` are views
    of them. Each begins at a multiple of 64 bytes; what lies between is zero.
    """

    def __init__(self, parameters: Iterable[Tensor]):
        self.parameters = list(parameters)
        first = self.parameters[0]
        self.device, itemsize = first.device, first.dtype.itemsize
        grain = ALIGNMENT // itemsize
        sizes = [p.size for p in self.parameters]
        ends = list(itertools.accumulate((-(-size // grain) * grain for size in sizes), initial=0))
        self.bounds = [(start, start + size) for start, size in zip(ends, sizes, strict=False)]
        length = max(ends[-1], SMALLEST // itemsize)  # memory is handed out aligned from this size on
        self.data, self.grad = (self.device.zeros((length,), first.dtype) for _ in range(2))
        for p, data, grad in zip(self.parameters, self.views(self.data), self.views(self.grad), strict=True):
            p.place(data, grad)
        self._placed = [p.data for p in self.parameters]

    def views(self, flat: Any) -> list[Any]:
        """Each parameter's part of an array that is laid out like this buffer, in its shape."""
        return [flat[a:b].reshape(p.shape) for p, (a, b) in zip(self.parameters, self.bounds, strict=True)]

    def like(self) -> Any:
        """An array of zeros that is laid out like this buffer."""
        return self.device.zeros(self.data.shape, self.data.dtype)

    def reclaim(self) -> None:
        """Take back, with their values, the parameters that another buffer has taken since.

        Raises RuntimeError if one was moved to another device.
        """
        for p, placed, (a, b) in zip(self.parameters, self._placed, self.bounds, strict=True):
            if p.data is not placed:
                if p.device is not self.device:
                    raise RuntimeError(
                        f"A parameter was moved to {p.device.name} after its optimiser was made on {self.device.name}; "
                        "expected `.to(device)` before."
                    )
                p.place(placed, self.grad[a:b].reshape(p.shape))
