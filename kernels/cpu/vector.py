"""A vector type for kernels: load, store, arithmetic, choice and sum over as many elements as a register holds.

It is for loops that LLVM's auto-vectoriser leaves alone: many shifted views of one array (it gives up on proving that
none overlaps the output) and rows of 28 or 56 pixels (most of which it leaves to a scalar tail). `load` and `store`
take the number of elements that are left and touch no others, so a row needs no tail.
"""

import operator

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic, models, overload, register_model

from .simd import VECTOR_BYTES, Flat, add_lanes, mask, overloaded, splat, zero_of


class Vector(types.Type):
    """Elements of one dtype: as many as fill a register, or `lanes` of them in several."""

    def __init__(self, element, lanes=None):
        self.element = element
        self.lanes = lanes or VECTOR_BYTES // (element.bitwidth // 8)
        super().__init__(name=f"vector({element}, {self.lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        scalar = ir.DoubleType() if kind.element.bitwidth == 64 else ir.FloatType()
        super().__init__(manager, kind, ir.VectorType(scalar, kind.lanes))


@intrinsic
def load(typingctx, array, index, left):
    """`array[index:index + lanes]`; elements from `left` on are zero and not read."""
    kind = Vector(array.dtype)

    def generate(context, builder, signature, arguments):
        vector = context.get_value_type(kind)
        flat = Flat(context, builder, signature.args[0], arguments[0])
        lanes = ir.Constant(arguments[2].type, kind.lanes)
        slot = cgutils.alloca_once(builder, vector)
        with builder.if_else(builder.icmp_signed(">=", arguments[2], lanes), likely=True) as (whole, part):
            with whole:
                builder.store(flat.load(arguments[1], vector), slot)
            with part:
                lanes_left = mask(builder, vector, arguments[2])
                builder.store(flat.load_part(arguments[1], vector, lanes_left), slot)
        return builder.load(slot)

    return kind(array, types.intp, types.intp), generate


@intrinsic
def store(typingctx, array, index, value, left):
    """`array[index:index + lanes] = value`; elements from `left` on are not written."""

    def generate(context, builder, signature, arguments):
        flat = Flat(context, builder, signature.args[0], arguments[0])
        vector = arguments[2].type
        lanes = ir.Constant(arguments[3].type, vector.count)
        with builder.if_else(builder.icmp_signed(">=", arguments[3], lanes), likely=True) as (whole, part):
            with whole:
                flat.store(arguments[1], arguments[2])
            with part:
                flat.store_part(arguments[1], arguments[2], mask(builder, vector, arguments[3]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value, types.intp), generate


@intrinsic
def load_like(typingctx, array, index, like):
    """`array[index:index + lanes]`, as many lanes as the vector `like` has."""
    kind = Vector(array.dtype, like.lanes)

    def generate(context, builder, signature, arguments):
        flat = Flat(context, builder, signature.args[0], arguments[0])
        return flat.load(arguments[1], context.get_value_type(kind))

    return kind(array, types.intp, like), generate


@intrinsic
def stream(typingctx, array, index, value):
    """`array[index:index + lanes] = value` at an address that is `aligned`, past the caches.

    An ordinary store first fetches the line that it is about to overwrite: a third of what crosses the memory bus when
    a map is copied. Call `fence` before another thread reads what was streamed.
    """

    def generate(context, builder, signature, arguments):
        flat = Flat(context, builder, signature.args[0], arguments[0])
        stored = builder.store(arguments[2], flat.at(arguments[1], arguments[2].type))
        stored.align = VECTOR_BYTES
        stored.set_metadata("nontemporal", builder.module.add_metadata([ir.Constant(ir.IntType(32), 1)]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), generate


@intrinsic
def aligned(typingctx, array, index):
    """Whether the address of `array[index]` is a multiple of a vector's size."""

    def generate(context, builder, signature, arguments):
        flat = Flat(context, builder, signature.args[0], arguments[0])
        address = builder.ptrtoint(builder.gep(flat.data, [arguments[1]]), arguments[1].type)
        rest = builder.and_(address, ir.Constant(address.type, VECTOR_BYTES - 1))
        return builder.icmp_signed("==", rest, ir.Constant(address.type, 0))

    return types.boolean(array, types.intp), generate


@intrinsic
def fence(typingctx):
    """Make all earlier stores visible to other threads before anything that comes later."""

    def generate(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.void(), generate


def _prefetch(write):
    @intrinsic
    def prefetch(typingctx, array, index):
        def generate(context, builder, signature, arguments):
            flat = Flat(context, builder, signature.args[0], arguments[0])
            place = builder.gep(flat.data, [arguments[1]])
            number = ir.IntType(32)
            kinds = ir.FunctionType(ir.VoidType(), [place.type, number, number, number])
            function = cgutils.get_or_insert_function(builder.module, kinds, "llvm.prefetch.p0")
            builder.call(function, [place, *(ir.Constant(number, k) for k in (int(write), 3, 1))])  # 3: to level 1
            return context.get_dummy_value()

        return types.void(array, types.intp), generate

    return prefetch


prefetch = _prefetch(write=False)
"""`prefetch(array, index)`: have a line fetched that will soon be read; the index may lie anywhere.

Processors do so by themselves, but no further than to a page's end, 4 KB, and not far enough ahead: kernels that read
several maps at once run a quarter faster for it.
"""

prefetch_to_write = _prefetch(write=True)
"""The same for a line that will soon be written to."""


@intrinsic
def keep(typingctx, value, left):
    """`value` with zeros in the lanes from `left` on."""

    def generate(context, builder, signature, arguments):
        vector = arguments[0].type
        return builder.select(mask(builder, vector, arguments[1]), arguments[0], zero_of(vector))

    return value(value, types.intp), generate


@intrinsic
def spread(typingctx, like, scalar):
    """`scalar` in every lane of a vector of an array's dtype, or of one like a vector."""
    kind = like if isinstance(like, Vector) else Vector(like.dtype)

    def generate(context, builder, signature, arguments):
        value = context.cast(builder, arguments[1], signature.args[1], kind.element)
        return splat(builder, value, context.get_value_type(kind))

    return kind(like, scalar), generate


@intrinsic
def converted(typingctx, value, array):
    """`value` with its lanes converted to the dtype of an array."""
    kind = Vector(array.dtype, value.lanes)

    def generate(context, builder, signature, arguments):
        vector, bits, more = context.get_value_type(kind), value.element.bitwidth, kind.element.bitwidth
        if bits == more:
            return arguments[0]
        return (builder.fpext if bits < more else builder.fptrunc)(arguments[0], vector)

    return kind(value, array), generate


@intrinsic
def fma(typingctx, a, b, c):
    """`a*b + c`."""

    def generate(context, builder, signature, arguments):
        vector = arguments[0].type
        return overloaded(builder, "llvm.fma", vector, vector, *arguments)

    return a(a, b, c), generate


@intrinsic
def where_positive(typingctx, condition, then, otherwise):
    """`then` where `condition > 0`, else `otherwise`, lane by lane."""

    def generate(context, builder, signature, arguments):
        zero = zero_of(arguments[0].type)
        return builder.select(builder.fcmp_ordered(">", arguments[0], zero), arguments[1], arguments[2])

    return then(condition, then, otherwise), generate


@intrinsic
def unless_positive(typingctx, condition, then, otherwise):
    """`then` where `condition <= 0`, else `otherwise`, lane by lane; so a NaN leads to `otherwise`."""

    def generate(context, builder, signature, arguments):
        zero = zero_of(arguments[0].type)
        return builder.select(builder.fcmp_ordered("<=", arguments[0], zero), arguments[1], arguments[2])

    return then(condition, then, otherwise), generate


def _larger(builder, a, b):
    """The lanes where b is larger than a, or not a number."""
    return builder.or_(builder.fcmp_ordered(">", b, a), builder.fcmp_unordered("uno", b, b))


@intrinsic
def larger(typingctx, a, b):
    """The larger one, lane by lane; a NaN wins."""

    def generate(context, builder, signature, arguments):
        return builder.select(_larger(builder, *arguments), *reversed(arguments))

    return a(a, b), generate


@intrinsic
def where_larger(typingctx, a, b, then, otherwise):
    """`then` where `larger(a, b)` is b, else `otherwise`, lane by lane."""

    def generate(context, builder, signature, arguments):
        return builder.select(_larger(builder, *arguments[:2]), *arguments[2:])

    return then(a, b, then, otherwise), generate


def _shuffle(builder, a, b, lanes):
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))


@intrinsic
def deinterleave(typingctx, a, b):
    """The even and the odd elements of two vectors placed end to end."""
    kind = types.UniTuple(a, 2)

    def generate(context, builder, signature, arguments):
        n = arguments[0].type.count
        halves = [_shuffle(builder, *arguments, list(range(k, 2 * n, 2))) for k in (0, 1)]
        return context.make_tuple(builder, kind, halves)

    return kind(a, b), generate


@intrinsic
def interleave(typingctx, even, odd):
    """The two vectors, end to end, that have these even and odd elements."""
    kind = types.UniTuple(even, 2)

    def generate(context, builder, signature, arguments):
        n = arguments[0].type.count
        pairs = [k for i in range(n) for k in (i, n + i)]
        return context.make_tuple(builder, kind, [_shuffle(builder, *arguments, pairs[i : i + n]) for i in (0, n)])

    return kind(even, odd), generate


@intrinsic
def delayed(typingctx, value):
    """The vector one lane later: lane k holds what lane k - 1 held, and lane 0 what it held before."""

    def generate(context, builder, signature, arguments):
        n = arguments[0].type.count
        return _shuffle(builder, arguments[0], arguments[0], [0, *range(n - 1)])

    return value(value), generate


@intrinsic
def advanced(typingctx, value):
    """The vector one lane earlier: lane k holds what lane k + 1 held, and the last lane what it held before."""

    def generate(context, builder, signature, arguments):
        n = arguments[0].type.count
        return _shuffle(builder, arguments[0], arguments[0], [*range(1, n), n - 1])

    return value(value), generate


@intrinsic
def put(typingctx, value, other, lane):
    """`value` with one lane, whose number is given, from `other`."""

    def generate(context, builder, signature, arguments):
        vector = arguments[0].type
        wide = ir.VectorType(ir.IntType(32), vector.count)
        lane = splat(builder, builder.trunc(arguments[2], ir.IntType(32)), wide)
        chosen = builder.icmp_signed("==", ir.Constant(wide, list(range(vector.count))), lane)
        return builder.select(chosen, arguments[1], arguments[0])

    return value(value, value, types.intp), generate


@intrinsic
def element(typingctx, value, lane):
    """The number in one lane."""

    def generate(context, builder, signature, arguments):
        return builder.extract_element(arguments[0], builder.trunc(arguments[1], ir.IntType(32)))

    return value.element(value, types.intp), generate


@intrinsic
def total(typingctx, value):
    """The sum over the lanes."""

    def generate(context, builder, signature, arguments):
        return add_lanes(builder, arguments[0])

    return value.element(value), generate


def _function(name):
    @intrinsic
    def compute(typingctx, value):
        def generate(context, builder, signature, arguments):
            vector = arguments[0].type
            return overloaded(builder, name, vector, vector, *arguments)

        return value(value), generate

    return compute


magnitude, square_root = _function("llvm.fabs"), _function("llvm.sqrt")
"""Lane by lane: the absolute value; the square root, NaN of what is negative."""


def _arithmetic(operation, instruction):
    @intrinsic
    def compute(typingctx, a, b):
        def generate(context, builder, signature, arguments):
            return getattr(builder, instruction)(*arguments)

        return a(a, b), generate

    @overload(operation)
    def _(a, b):
        if isinstance(a, Vector) and isinstance(b, Vector):
            return lambda a, b: compute(a, b)
        return None


_arithmetic(operator.add, "fadd")
_arithmetic(operator.sub, "fsub")
_arithmetic(operator.mul, "fmul")
_arithmetic(operator.truediv, "fdiv")
