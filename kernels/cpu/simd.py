"""The machine's vectors in LLVM's terms, of which the intrinsics of vector.py and tiles.py are made; flush-to-zero.

Everything is generic over float32 and float64.
"""

import platform

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

X86 = platform.machine().lower() in ("x86_64", "amd64")
ARM = platform.machine().lower() in ("aarch64", "arm64")
# Bits of the control word that flush results (FTZ) and operands (DAZ) to zero; on ARM, one bit (FZ) does both.
FLUSH = 0x8040 if X86 else 1 << 24 if ARM else 0


def _vector_bytes() -> int:
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


VECTOR_BYTES = _vector_bytes()


def vector_type(context, element):
    """LLVM's type of a vector of elements of this Numba type."""
    scalar = context.get_value_type(element)
    return ir.VectorType(scalar, VECTOR_BYTES // (element.bitwidth // 8))


def zero_of(vector):
    """Zero in every lane."""
    return ir.Constant(vector, [ir.Constant(vector.element, 0.0)] * vector.count)


def splat(builder, value, vector):
    """A number in every lane of a vector of this type."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def mask(builder, vector, count):
    """Lanes 0..count-1 of a vector of this type, as a vector of bits."""
    # Compared in 32 bits, one instruction; the count is capped, so that 2**31 or more does not wrap around.
    most = ir.Constant(count.type, 1 << 30)
    count = builder.select(builder.icmp_signed("<", count, most), count, most)
    wide = ir.VectorType(ir.IntType(32), vector.count)
    numbers = ir.Constant(wide, list(range(vector.count)))
    return builder.icmp_signed("<", numbers, splat(builder, builder.trunc(count, ir.IntType(32)), wide))


def overloaded(builder, name, vector, result, *arguments):
    """A call of the LLVM intrinsic `name`, overloaded for a vector type, which returns a `result`."""
    kind = "f64" if isinstance(vector.element, ir.DoubleType) else "f32"
    return _call(builder, f"{name}.v{vector.count}{kind}", result, *arguments)


def _call(builder, name, result, *arguments):
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def add_lanes(builder, value):
    """The sum over a vector's lanes, by halves: we fix the order, so that no optimiser chooses one."""
    while value.type.count > 1:
        half = value.type.count // 2
        parts = [
            builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(ir.IntType(32), half), lanes))
            for lanes in (list(range(half)), list(range(half, 2 * half)))
        ]
        value = builder.fadd(*parts)
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


def totals_of(builder, values):
    """`add_lanes` of each of several vectors, to the digit, but with far fewer instructions: the halves of two vectors
    are added in one instruction, then the quarters of four, and so on."""
    lanes = values[0].type.count
    padded = values + values[:1] * (-len(values) % lanes)
    totals = []
    for start in range(0, len(values), lanes):
        group, width = padded[start : start + lanes], lanes
        while width > 1:
            half = width // 2
            firsts = [k for k in range(2 * lanes) if k % width < half]
            both = [ir.Constant(ir.VectorType(ir.IntType(32), lanes), which)
                    for which in (firsts, [k + half for k in firsts])]
            group = [
                builder.fadd(*(builder.shuffle_vector(a, b, which) for which in both))
                for a, b in zip(group[::2], group[1::2], strict=True)
            ]
            width = half
        totals += [builder.extract_element(group[0], ir.Constant(ir.IntType(32), k)) for k in range(lanes)]
    return totals[: len(values)]


class Flat:
    """A contiguous 1-D array argument as the code generator sees it: vectors and scalars at element offsets."""

    def __init__(self, context, builder, array_type, value):
        self.builder = builder
        self.data = context.make_array(array_type)(context, builder, value).data
        self.bytes = context.get_abi_sizeof(context.get_value_type(array_type.dtype))

    def scalar(self, index):
        return self.builder.load(self.builder.gep(self.data, [index]))

    def at(self, index, vector):
        return self.builder.bitcast(self.builder.gep(self.data, [index]), vector.as_pointer())

    def load(self, index, vector):
        loaded = self.builder.load(self.at(index, vector))
        loaded.align = self.bytes
        return loaded

    def store(self, index, value):
        self.builder.store(value, self.at(index, value.type)).align = self.bytes

    def load_part(self, index, vector, mask):
        """Lanes outside the mask are zero and not read."""
        return self._masked("load", vector, vector, self.at(index, vector), self._alignment, mask, zero_of(vector))

    def store_part(self, index, value, mask):
        """Lanes outside the mask are not written."""
        self._masked("store", value.type, ir.VoidType(), value, self.at(index, value.type), self._alignment, mask)

    @property
    def _alignment(self):
        return ir.Constant(ir.IntType(32), self.bytes)

    def _masked(self, name, vector, result, *arguments):
        kind = f"v{vector.count}f{8 * self.bytes}"
        return _call(self.builder, f"llvm.masked.{name}.{kind}.p0", result, *arguments)


@intrinsic
def lanes(typingctx, array):
    """Elements per vector for this array's dtype, a compile-time constant."""

    def generate(context, builder, signature, arguments):
        return context.get_constant(types.intp, VECTOR_BYTES // (signature.args[0].dtype.bitwidth // 8))

    return types.intp(array), generate


@intrinsic
def array_at(typingctx, like, address):
    """A flat array of `like`'s dtype that begins at `address` (an integer) and has no end: for offsets from there."""
    kind = types.Array(like.dtype, 1, "C")

    def generate(context, builder, signature, arguments):
        itemsize = context.get_abi_sizeof(context.get_value_type(kind.dtype))
        size = context.get_constant(types.intp, 1 << 40)
        array = context.make_array(kind)(context, builder)
        data = builder.inttoptr(arguments[1], array.data.type)
        step = context.get_constant(types.intp, itemsize)
        populate_array(array, data, shape=[size], strides=[step], itemsize=step, meminfo=None)
        return array._getvalue()

    return kind(like, types.intp), generate


@intrinsic
def control_word(typingctx):
    """The calling thread's floating-point control word, for `restore_subnormals`."""

    def generate(context, builder, signature, arguments):
        return read_control_word(builder)

    return types.uint64(), generate


@intrinsic
def flush_subnormals(typingctx):
    """Treat subnormal numbers as zero in the calling thread.

    Dynamic weight decay drives scales to 1e-20 and below on purpose, and some processors take 100 times longer over
    subnormal operands.
    """

    def generate(context, builder, signature, arguments):
        word = read_control_word(builder)
        write_control_word(builder, builder.or_(word, ir.Constant(word.type, FLUSH)))
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def restore_subnormals(typingctx, word):
    """Give the calling thread back the control word that it had: see `control_word`."""

    def generate(context, builder, signature, arguments):
        write_control_word(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


def read_control_word(builder):
    """The floating-point control word of the calling thread, as an i64."""
    word = ir.IntType(64)
    if X86:
        slot = cgutils.alloca_once(builder, ir.IntType(32))
        _call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), slot)
        return builder.zext(builder.load(slot), word)
    if ARM:  # no inline assembly: Numba does not initialise LLVM's parser for it
        return _call(builder, "llvm.aarch64.get.fpcr", word)
    return ir.Constant(word, 0)


def write_control_word(builder, word):
    """Set it to `word`, an i64."""
    if X86:
        slot = cgutils.alloca_once(builder, ir.IntType(32))
        builder.store(builder.trunc(word, ir.IntType(32)), slot)
        _call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), slot)
    elif ARM:
        _call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), word)
