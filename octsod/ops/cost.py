"""What an op costs: arithmetic and memory traffic, counted from shapes alone."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class Cost:
    """flops: floating-point operations, a multiply-add being two. bytes: memory read and written once each.

    Bytes are compulsory traffic: every input, output and saved map once; what stays in a cache does not count.
    """

    flops: int
    bytes: int

    def __add__(self, other):
        return Cost(self.flops + other.flops, self.bytes + other.bytes)


def elements(*shapes):
    """How many elements arrays of these shapes (None for a missing one) have together."""
    return sum(math.prod(shape) for shape in shapes if shape is not None)
