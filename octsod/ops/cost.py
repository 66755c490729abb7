"""What an op costs: arithmetic and memory traffic, counted from shapes alone."""

import dataclasses
import math
from collections.abc import Sequence

Shape = Sequence[int]


@dataclasses.dataclass(frozen=True)
class Cost:
    """flops: floating-point operations; a multiply-add is two. bytes: memory traffic that no implementation can avoid.

    Bytes count every input, output and saved map once, and nothing that stays in a cache. What stays there may depend
    on the backend: see backend/contract.py.
    """

    flops: int
    bytes: int

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


def elements(*shapes: Shape | None) -> int:
    """How many elements arrays of these shapes (None for a missing one) have together."""
    return sum(math.prod(shape) for shape in shapes if shape is not None)
