"""Explicit vectors in Numba: register tiles over the whole depth of a product, and flush-to-zero.

LLVM's auto-vectoriser is good at element-wise loops, but in a matrix product it reloads and stores its accumulators
every few input channels and stops at half of the machine's peak. The two intrinsics made here hold a tile of
accumulators in registers for the whole depth. They are generic over float32 and float64.
"""

import platform

import llvmlite.binding as llvm
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

X86 = platform.machine().lower() in ("x86_64", "amd64")
ARM = platform.machine().lower() in ("aarch64", "arm64")
# Bits of the control word that have results (FTZ) and operands (DAZ) flushed to zero; on ARM, one bit (FZ) does both.
FLUSH = 0x8040 if X86 else 1 << 24 if ARM else 0


def _vector_bytes() -> int:
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64
    return 32 if features.get("avx2") else 16


VECTOR_BYTES = _vector_bytes()
# A tile of multiply() keeps ROWS x VECTORS accumulators, VECTORS inputs and one weight in registers (32 of them with
# AVX-512 or NEON, else 16); a tile of correlate() keeps ROWS x COLUMNS accumulators and one column of each side.
WIDE = VECTOR_BYTES == 64 or ARM
MULTIPLY_ROWS, MULTIPLY_VECTORS = (6, 4) if WIDE else (6, 2)
CORRELATE_ROWS, CORRELATE_COLUMNS = (5, 5) if WIDE else (3, 4)


def _vector_type(context, element):
    scalar = context.get_value_type(element)
    return ir.VectorType(scalar, VECTOR_BYTES // (element.bitwidth // 8))


def splat(builder, value, vector):
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(ir.IntType(32), 0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), vector.count), [0] * vector.count)
    return builder.shuffle_vector(first, undefined, zeros)


def mask(builder, vector, count):
    """Lanes 0..count-1 of a vector of this type, as a vector of bits."""
    # Compared in 32 bits, one instruction; a count of 2**31 and more is as good as that.
    most = ir.Constant(count.type, 1 << 30)
    count = builder.select(builder.icmp_signed("<", count, most), count, most)
    wide = ir.VectorType(ir.IntType(32), vector.count)
    numbers = ir.Constant(wide, list(range(vector.count)))
    return builder.icmp_signed("<", numbers, splat(builder, builder.trunc(count, ir.IntType(32)), wide))


def overloaded(builder, name, vector, result, *arguments):
    kind = "f64" if isinstance(vector.element, ir.DoubleType) else "f32"
    return _call(builder, f"{name}.v{vector.count}{kind}", result, *arguments)


def _call(builder, name, result, *arguments):
    signature = ir.FunctionType(result, [argument.type for argument in arguments])
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), arguments)


def add_lanes(builder, value):
    """The sum over a vector's lanes, by halves: an order of our own, so that no optimiser chooses one."""
    while value.type.count > 1:
        half = value.type.count // 2
        parts = [
            builder.shuffle_vector(value, value, ir.Constant(ir.VectorType(ir.IntType(32), half), lanes))
            for lanes in (list(range(half)), list(range(half, 2 * half)))
        ]
        value = builder.fadd(*parts)
    return builder.extract_element(value, ir.Constant(ir.IntType(32), 0))


def totals_of(builder, values):
    """`add_lanes` of each of several vectors, to the digit, with far fewer instructions: the halves of two vectors are
    added in one, then the quarters of four, and so on."""
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
    """A contiguous 1-D array argument seen from the code generator: vectors and scalars at element offsets."""

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
        """Lanes outside of the mask are zero and not read."""
        zero = ir.Constant(vector, [ir.Constant(vector.element, 0.0)] * vector.count)
        return self._masked("load", vector, vector, self.at(index, vector), self._alignment, mask, zero)

    def store_part(self, index, value, mask):
        """Lanes outside of the mask are not written."""
        self._masked("store", value.type, ir.VoidType(), value, self.at(index, value.type), self._alignment, mask)

    @property
    def _alignment(self):
        return ir.Constant(ir.IntType(32), self.bytes)

    def _masked(self, name, vector, result, *arguments):
        kind = f"v{vector.count}f{8 * self.bytes}"
        return _call(self.builder, f"llvm.masked.{name}.{kind}.p0", result, *arguments)


def _accumulators(builder, vector, count):
    """`count` zeroed vectors as stack slots, which LLVM promotes to registers."""
    slots = [cgutils.alloca_once(builder, vector) for _ in range(count)]
    zero = ir.Constant(vector, [ir.Constant(vector.element, 0.0)] * vector.count)
    for slot in slots:
        builder.store(zero, slot)
    return slots


def _multiply(rows, vectors, finished=False):
    """`out[o + r*ldo + i] = sum_k weight[w + k*ldw + r] * x[q + table[t + k] + i]`, r < rows, i < vectors * lanes.

    finished: with three more arguments (ends, b, left), only i < left are stored, and unless b is negative, as
    `prelu(sum*scale + shift, slope)` with ends[b + r], ends[b + ldw + r] and ends[b + 2*ldw + r].
    """

    def generate(context, builder, signature, arguments):
        kinds = signature.args
        out_, weight_, x_, table_ = (Flat(context, builder, kinds[i], arguments[i]) for i in (0, 3, 6, 8))
        o_, ldo_, w_, ldw_, q_, t_, depth_ = (arguments[i] for i in (1, 2, 4, 5, 7, 9, 10))
        vector = _vector_type(context, kinds[0].dtype)
        index = o_.type
        slots = _accumulators(builder, vector, rows * vectors)
        with cgutils.for_range(builder, depth_, intp=index) as loop:
            k = loop.index
            start = builder.add(q_, table_.scalar(builder.add(t_, k)))
            inputs = [
                x_.load(builder.add(start, ir.Constant(index, v * vector.count)), vector) for v in range(vectors)
            ]
            first = builder.add(w_, builder.mul(k, ldw_))
            for r in range(rows):
                factor = splat(builder, weight_.scalar(builder.add(first, ir.Constant(index, r))), vector)
                for v in range(vectors):
                    slot = slots[r * vectors + v]
                    total = overloaded(builder, "llvm.fma", vector, vector, factor, inputs[v], builder.load(slot))
                    builder.store(total, slot)
        if finished:
            ends_, b_ = Flat(context, builder, kinds[11], arguments[11]), arguments[12]
            zero = ir.Constant(vector, [ir.Constant(vector.element, 0.0)] * vector.count)
            with builder.if_then(builder.icmp_signed(">=", b_, ir.Constant(index, 0))):
                for r in range(rows):
                    at, ends = builder.add(b_, ir.Constant(index, r)), []
                    for _ in range(3):
                        ends.append(splat(builder, ends_.scalar(at), vector))
                        at = builder.add(at, ldw_)
                    for slot in slots[r * vectors : (r + 1) * vectors]:
                        value = overloaded(builder, "llvm.fma", vector, vector, builder.load(slot), *ends[:2])
                        positive = builder.fcmp_ordered(">", value, zero)
                        builder.store(builder.select(positive, value, builder.fmul(ends[2], value)), slot)

        def write(store):
            for r in range(rows):
                row = builder.add(o_, builder.mul(ldo_, ir.Constant(index, r)))
                for v in range(vectors):
                    at = builder.add(row, ir.Constant(index, v * vector.count))
                    store(at, builder.load(slots[r * vectors + v]), v)

        if finished:
            left = arguments[13]
            whole = builder.icmp_signed(">=", left, ir.Constant(index, vectors * vector.count))
            with builder.if_else(whole, likely=True) as (all_of_it, part):
                with all_of_it:
                    write(lambda at, value, v: out_.store(at, value))
                with part:
                    masks = [
                        mask(builder, vector, builder.sub(left, ir.Constant(index, v * vector.count)))
                        for v in range(vectors)
                    ]
                    write(lambda at, value, v: out_.store_part(at, value, masks[v]))
        else:
            write(lambda at, value, v: out_.store(at, value))
        return context.get_dummy_value()

    n = types.intp
    if finished:

        @intrinsic
        def multiply_finished(typingctx, out, o, ldo, weight, w, ldw, x, q, table, t, depth, ends, b, left):
            return types.void(out, n, n, weight, n, n, x, n, table, n, n, ends, n, n), generate

        return multiply_finished

    @intrinsic
    def multiply(typingctx, out, o, ldo, weight, w, ldw, x, q, table, t, depth):
        return types.void(out, n, n, weight, n, n, x, n, table, n, n), generate

    return multiply


def _correlate(rows, columns):
    """`out[o + r*ldo + k] += sum_i d[p + r*ldd + i] * x[q + table[t + k] + i]`, r < rows, k < columns, i < count,
    and `=` if it is `fresh`."""

    @intrinsic
    def correlate(typingctx, out, o, ldo, d, p, ldd, x, q, table, t, count, fresh):
        def generate(context, builder, signature, arguments):
            kinds = signature.args
            out_, d_, x_, table_ = (Flat(context, builder, kinds[i], arguments[i]) for i in (0, 3, 6, 8))
            o_, ldo_, p_, ldd_, q_, t_, count_ = (arguments[i] for i in (1, 2, 4, 5, 7, 9, 10))
            vector = _vector_type(context, kinds[0].dtype)
            index = o_.type
            slots = _accumulators(builder, vector, rows * columns)
            d_rows = [builder.add(p_, builder.mul(ldd_, ir.Constant(index, r))) for r in range(rows)]
            x_rows = [
                builder.add(q_, table_.scalar(builder.add(t_, ir.Constant(index, k)))) for k in range(columns)
            ]
            steps = builder.udiv(count_, ir.Constant(index, vector.count))
            with cgutils.for_range(builder, steps, intp=index) as loop:
                i = builder.mul(loop.index, ir.Constant(index, vector.count))
                lefts = [d_.load(builder.add(start, i), vector) for start in d_rows]
                for k in range(columns):
                    right = x_.load(builder.add(x_rows[k], i), vector)
                    for r in range(rows):
                        slot = slots[r * columns + k]
                        total = overloaded(builder, "llvm.fma", vector, vector, lefts[r], right, builder.load(slot))
                        builder.store(total, slot)
            totals = totals_of(builder, [builder.load(slot) for slot in slots])
            for r in range(rows):
                for k in range(columns):
                    at = builder.add(builder.add(o_, builder.mul(ldo_, ir.Constant(index, r))), ir.Constant(index, k))
                    total = totals[r * columns + k]
                    pointer = builder.gep(out_.data, [at])
                    more = builder.fadd(builder.load(pointer), total)
                    builder.store(builder.select(arguments[11], total, more), pointer)
            return context.get_dummy_value()

        n = types.intp
        return types.void(out, n, n, d, n, n, x, n, table, n, n, types.boolean), generate

    return correlate


multiply_tile = [None] + [_multiply(r, MULTIPLY_VECTORS) for r in range(1, MULTIPLY_ROWS + 1)]
multiply_tile_narrow = [None] + [_multiply(r, 1) for r in range(1, MULTIPLY_ROWS + 1)]
finish_tiles = [  # by their vectors, then rows
    [None] + [_multiply(r, vectors, True) for r in range(1, MULTIPLY_ROWS + 1)]
    for vectors in (MULTIPLY_VECTORS, MULTIPLY_VECTORS // 2, 1)
]
correlate_tile = [None] + [_correlate(r, CORRELATE_COLUMNS) for r in range(1, CORRELATE_ROWS + 1)]


@intrinsic
def lanes(typingctx, array):
    """Elements per vector for this array's dtype, a compile-time constant."""

    def generate(context, builder, signature, arguments):
        return context.get_constant(types.intp, VECTOR_BYTES // (signature.args[0].dtype.bitwidth // 8))

    return types.intp(array), generate


@intrinsic
def array_at(typingctx, like, address):
    """A flat array of `like`'s dtype that begins at `address` (an integer), without an end: for offsets from there."""
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
def flush_subnormals(typingctx):
    """Treat subnormal numbers as zero in the calling thread; returns the old control word for `restore_subnormals`.

    Dynamic weight decay drives scales to 1e-20 and below on purpose, and some processors take 100 times longer over
    subnormal operands.
    """

    def generate(context, builder, signature, arguments):
        word = read_control_word(builder)
        write_control_word(builder, builder.or_(word, ir.Constant(word.type, FLUSH)))
        return word

    return types.uint64(), generate


@intrinsic
def restore_subnormals(typingctx, word):
    """Give the calling thread back the control word that `flush_subnormals` returned."""

    def generate(context, builder, signature, arguments):
        write_control_word(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.uint64), generate


def read_control_word(builder):
    """The floating-point control word of the calling thread, as an i64."""
    word = ir.IntType(64)
    if X86:
        slot = cgutils.alloca_once(builder, ir.IntType(32))
        _call(builder, "llvm.x86.sse.stmxcsr", ir.VoidType(), builder.bitcast(slot, ir.IntType(8).as_pointer()))
        return builder.zext(builder.load(slot), word)
    if ARM:  # no inline assembly: Numba does not initialise LLVM's parser of it
        return _call(builder, "llvm.aarch64.get.fpcr", word)
    return ir.Constant(word, 0)


def write_control_word(builder, word):
    """Set it to `word`, an i64."""
    if X86:
        slot = cgutils.alloca_once(builder, ir.IntType(32))
        builder.store(builder.trunc(word, ir.IntType(32)), slot)
        _call(builder, "llvm.x86.sse.ldmxcsr", ir.VoidType(), builder.bitcast(slot, ir.IntType(8).as_pointer()))
    elif ARM:
        _call(builder, "llvm.aarch64.set.fpcr", ir.VoidType(), word)
