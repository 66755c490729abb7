"""The exponential and the logarithm of a vector; of `math.exp` and `math.log`, the compiler makes a call per number.

Results are within a unit in the last place. Subnormal numbers are zero, as everywhere in kernels. Log(2) is the sum of
two numbers (W. J. Cody and W. Waite: Software Manual for the Elementary Functions, 1980), the first of which, times any
exponent, is exact.
"""

import math
import struct
from typing import Any, NamedTuple

from llvmlite import ir
from numba.extending import intrinsic

from .simd import overloaded, splat


class _Format(NamedTuple):
    """A floating-point format: bits, those of the significand that are stored, the exponent's bias, the smallest normal
    number; log(2) in two parts; below `least`, the exponential is zero, above `most`, infinite; how many terms of the
    series leave a rest below half a unit in the last place."""

    bits: int
    stored: int
    bias: int
    tiny: float
    log2: tuple[float, float]
    least: float
    most: float
    terms: int
    log_terms: int


_FORMATS = {
    32: _Format(32, 23, 127, 2.0**-126, (0.693359375, -2.1219444005469057e-4), -104.0, 89.0, 7, 5),
    64: _Format(64, 52, 1023, 2.0**-1022, (0.6931471803691238, 1.9082149292705877e-10), -746.0, 710.0, 13, 10),
}


class _Lanes:
    """Vectors of floating-point numbers of a format, and of integers of their size, as the code generator sees them."""

    def __init__(self, builder: Any, vector: Any, format_: _Format):
        self.builder, self.vector = builder, vector
        self.integers = ir.VectorType(ir.IntType(format_.bits), vector.count)

    def all(self, number: float):
        return splat(self.builder, ir.Constant(self.vector.element, number), self.vector)

    def all_integer(self, number: int):
        return splat(self.builder, ir.Constant(self.integers.element, number), self.integers)

    def fma(self, a, b, c):
        return overloaded(self.builder, "llvm.fma", self.vector, self.vector, a, b, c)

    def where(self, comparison: str, a, b, then, otherwise):
        """An ordered comparison: it does not hold for NaN."""
        return self.builder.select(self.builder.fcmp_ordered(comparison, a, b), then, otherwise)

    def polynomial(self, x, coefficients: list[float]):
        """Of x, the constant coefficient first."""
        total = self.all(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            total = self.fma(total, x, self.all(coefficient))
        return total


@intrinsic
def exponential(typingctx, value):
    """e to the power of each lane: infinity where that overflows, NaN of NaN.

    x = n*log(2) + r with n an integer and |r| at most log(2)/2; e**x is 2**n times e**r, the Taylor series.
    """

    def generate(context, builder, signature, arguments):
        f = _FORMATS[value.element.bitwidth]
        v = _Lanes(builder, arguments[0].type, f)
        x, least, most = arguments[0], v.all(f.least), v.all(f.most)
        x = v.where("<", x, least, least, x)
        x = v.where(">", x, most, most, x)
        number = v.where("ord", x, x, x, v.all(0.0))  # NaN must not be converted to an integer
        nearest = overloaded(builder, "llvm.rint", v.vector, v.vector, builder.fmul(number, v.all(1 / math.log(2))))
        r = v.fma(nearest, v.all(-f.log2[1]), v.fma(nearest, v.all(-f.log2[0]), x))
        result = v.polynomial(r, [1 / math.factorial(k) for k in range(f.terms + 1)])
        # In two steps: 2**n itself may overflow where the result does not.
        n = builder.fptosi(nearest, v.integers)
        half = builder.ashr(n, v.all_integer(1))
        for part in (half, builder.sub(n, half)):
            power = builder.shl(builder.add(part, v.all_integer(f.bias)), v.all_integer(f.stored))
            result = builder.fmul(result, builder.bitcast(power, v.vector))
        return result

    return value(value), generate


@intrinsic
def logarithm(typingctx, value):
    """The natural logarithm of each lane: -infinity of zero, NaN of what is less.

    x = 2**n * (1 + f) with 1 + f between the roots of 1/2 and of 2. With s = f/(2 + f), log(1 + f) is
    2*(s + s**3/3 + s**5/5 + ...), and 2*s = f - s*f, s*f = f*f/2 - s*f*f/2: f is exact and nearly all of it.
    """

    def generate(context, builder, signature, arguments):
        f = _FORMATS[value.element.bitwidth]
        v = _Lanes(builder, arguments[0].type, f)
        x, one = arguments[0], v.all(1.0)
        (root,) = struct.unpack("<i" if f.bits == 32 else "<q", struct.pack("<f" if f.bits == 32 else "<d", 0.5**0.5))
        offset = builder.sub(builder.bitcast(x, v.integers), v.all_integer(root))
        n = builder.ashr(offset, v.all_integer(f.stored))
        within = builder.and_(offset, v.all_integer((1 << f.stored) - 1))
        part = builder.fsub(builder.bitcast(builder.add(within, v.all_integer(root)), v.vector), one)
        n = builder.sitofp(n, v.vector)
        s = builder.fdiv(part, builder.fadd(part, v.all(2.0)))
        square, half = builder.fmul(s, s), builder.fmul(builder.fmul(part, part), v.all(0.5))
        rest = builder.fmul(square, v.polynomial(square, [2 / (2 * k + 1) for k in range(1, f.log_terms + 1)]))
        small = v.fma(n, v.all(f.log2[1]), builder.fmul(s, builder.fadd(half, rest)))
        result = v.fma(n, v.all(f.log2[0]), builder.fsub(part, builder.fsub(half, small)))
        result = v.where("<", x, v.all(math.inf), result, x)  # infinity and NaN
        result = v.where("<", x, v.all(f.tiny), v.all(-math.inf), result)
        return v.where("<=", x, v.all(-f.tiny), v.all(math.nan), result)

    return value(value), generate
