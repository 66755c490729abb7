"""Register tiles: products that hold their sums in registers for their whole depth, as intrinsics of Numba.

LLVM's auto-vectoriser is good at element-wise loops, but in a matrix product it reloads and stores its accumulators
every few input channels and reaches only half of the machine's peak. So these tiles are LLVM vector code, written out.
They are generic over float32 and float64.

A tile has a largest number of rows. Each number up to that has code of its own, and a switch inside the tile chooses
it.
"""

from types import SimpleNamespace

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from .simd import ARM, VECTOR_BYTES, Flat, mask, overloaded, splat, totals_of, vector_type, zero_of

# A tile of multiply() keeps ROWS x VECTORS accumulators, VECTORS inputs and one weight in registers (32 of them with
# AVX-512 or NEON, else 16); a tile of correlate() keeps ROWS x COLUMNS accumulators and one column of each side.
WIDE = VECTOR_BYTES == 64 or ARM
MULTIPLY_ROWS, MULTIPLY_VECTORS = (6, 4) if WIDE else (6, 2)
CORRELATE_ROWS, CORRELATE_COLUMNS = (5, 5) if WIDE else (3, 4)


def _group(context, builder, kind, value):
    """A named tuple as the code generator sees it: its arrays as `Flat`, its numbers as they are."""
    members = zip(kind.fields, kind.types, cgutils.unpack_tuple(builder, value, len(kind.types)), strict=True)
    return SimpleNamespace(**{
        name: Flat(context, builder, type_, part) if isinstance(type_, types.Array) else part
        for name, type_, part in members
    })  # fmt: skip


def _by_rows(builder, rows, most, emit):
    """Call `emit(r)` for each number of rows r from 1 to `most`, and emit a switch to the one that fits."""
    blocks = [builder.append_basic_block(f"rows.{r}") for r in range(1, most + 1)]
    end = builder.append_basic_block("rows.end")
    switch = builder.switch(rows, blocks[0])
    for r, block in enumerate(blocks, 1):
        if r > 1:
            switch.add_case(ir.Constant(rows.type, r), block)
        builder.position_at_end(block)
        emit(r)
        builder.branch(end)
    builder.position_at_end(end)


def _accumulators(builder, vector, count):
    """`count` zeroed vectors as stack slots, which LLVM promotes to registers."""
    slots = [cgutils.alloca_once(builder, vector) for _ in range(count)]
    for slot in slots:
        builder.store(zero_of(vector), slot)
    return slots


def _sums(builder, vector, rows, vectors, x, weights, table):
    """The sums of a multiplication, as slots, row by row."""
    slots = _accumulators(builder, vector, rows * vectors)
    index = x.start.type
    with cgutils.for_range(builder, table.depth, intp=index) as loop:
        k = loop.index
        start = builder.add(x.start, table.array.scalar(builder.add(table.start, k)))
        inputs = [
            x.array.load(builder.add(start, ir.Constant(index, v * vector.count)), vector) for v in range(vectors)
        ]
        first = builder.add(weights.start, builder.mul(k, weights.pitch))
        for r in range(rows):
            factor = splat(builder, weights.array.scalar(builder.add(first, ir.Constant(index, r))), vector)
            for v in range(vectors):
                slot = slots[r * vectors + v]
                total = overloaded(builder, "llvm.fma", vector, vector, factor, inputs[v], builder.load(slot))
                builder.store(total, slot)
    return [slots[r * vectors : (r + 1) * vectors] for r in range(rows)]


def _finish(builder, vector, sums, weights):
    """Turn the sums into `prelu(sum*scale + shift, slope)`, unless `weights.ends` is negative."""
    index = weights.ends.type
    with builder.if_then(builder.icmp_signed(">=", weights.ends, ir.Constant(index, 0))):
        for r, slots in enumerate(sums):
            at, ends = builder.add(weights.ends, ir.Constant(index, r)), []
            for _ in range(3):
                ends.append(splat(builder, weights.array.scalar(at), vector))
                at = builder.add(at, weights.pitch)
            for slot in slots:
                value = overloaded(builder, "llvm.fma", vector, vector, builder.load(slot), *ends[:2])
                positive = builder.fcmp_ordered(">", value, zero_of(vector))
                builder.store(builder.select(positive, value, builder.fmul(ends[2], value)), slot)


def _write(builder, sums, out, store):
    """Call `store(where, value, number of the vector in its row)` for each of the sums."""
    index = out.start.type
    for r, slots in enumerate(sums):
        row = builder.add(out.start, builder.mul(out.stride, ir.Constant(index, r)))
        for v, slot in enumerate(slots):
            value = builder.load(slot)
            store(builder.add(row, ir.Constant(index, v * value.type.count)), value, v)


def _multiply(vectors):
    """A tile with `vectors` vectors per row."""

    @intrinsic
    def multiply(typingctx, rows, out, weights, x, table):
        """`out[r, i] = sum_k weight[k, r] * x[table[k] + i]`, for i < vectors * lanes.

        out: a `Region`, whose rows are channels; x: a `Region`, of which only the start counts; `Weights`, `Table`.
        """

        def generate(context, builder, signature, arguments):
            kinds = signature.args
            out_, weights_, x_, table_ = (_group(context, builder, kinds[i], arguments[i]) for i in range(1, 5))
            vector = vector_type(context, kinds[1].types[0].dtype)

            def emit(r):
                sums = _sums(builder, vector, r, vectors, x_, weights_, table_)
                _write(builder, sums, out_, lambda at, value, v: out_.array.store(at, value))

            _by_rows(builder, arguments[0], MULTIPLY_ROWS, emit)
            return context.get_dummy_value()

        return types.void(types.intp, out, weights, x, table), generate

    return multiply


def _multiply_and_finish(vectors):
    """The same, with batch norm and PReLU."""

    @intrinsic
    def multiply_and_finish(typingctx, rows, out, weights, x, table, left):
        """`multiply`, finished as the weights say; at most `left` numbers of each row are written."""

        def generate(context, builder, signature, arguments):
            kinds = signature.args
            out_, weights_, x_, table_ = (_group(context, builder, kinds[i], arguments[i]) for i in range(1, 5))
            vector, left_ = vector_type(context, kinds[1].types[0].dtype), arguments[5]
            index = left_.type

            def emit(r):
                sums = _sums(builder, vector, r, vectors, x_, weights_, table_)
                _finish(builder, vector, sums, weights_)
                whole = builder.icmp_signed(">=", left_, ir.Constant(index, vectors * vector.count))
                with builder.if_else(whole, likely=True) as (all_of_it, part):
                    with all_of_it:
                        _write(builder, sums, out_, lambda at, value, v: out_.array.store(at, value))
                    with part:
                        masks = [
                            mask(builder, vector, builder.sub(left_, ir.Constant(index, v * vector.count)))
                            for v in range(vectors)
                        ]
                        _write(builder, sums, out_, lambda at, value, v: out_.array.store_part(at, value, masks[v]))

            _by_rows(builder, arguments[0], MULTIPLY_ROWS, emit)
            return context.get_dummy_value()

        return types.void(types.intp, out, weights, x, table, types.intp), generate

    return multiply_and_finish


def _correlate(columns):
    """A tile of `columns` columns."""

    @intrinsic
    def correlate(typingctx, rows, out, d, x, table, count, fresh):
        """`out[r, k] += sum_i d[r, i] * x[table[k] + i]` for k < columns and i < count, or `=` if it is `fresh`.

        out, d: `Region`s, whose rows are channels; x: a `Region`, of which only the start counts; a `Table`.
        """

        def generate(context, builder, signature, arguments):
            kinds = signature.args
            groups = tuple(_group(context, builder, kinds[i], arguments[i]) for i in range(1, 5))
            vector = vector_type(context, kinds[1].types[0].dtype)
            _by_rows(
                builder, arguments[0], CORRELATE_ROWS,
                lambda r: _correlate_rows(builder, vector, r, columns, groups, *arguments[5:]),
            )  # fmt: skip
            return context.get_dummy_value()

        return types.void(types.intp, out, d, x, table, types.intp, types.boolean), generate

    return correlate


def _correlate_rows(builder, vector, rows, columns, groups, count, fresh):
    """The code of `correlate` for a number of rows."""
    out, d, x, table = groups
    index = count.type
    slots = _accumulators(builder, vector, rows * columns)
    d_rows = [builder.add(d.start, builder.mul(d.stride, ir.Constant(index, r))) for r in range(rows)]
    x_rows = [
        builder.add(x.start, table.array.scalar(builder.add(table.start, ir.Constant(index, k))))
        for k in range(columns)
    ]
    steps = builder.udiv(count, ir.Constant(index, vector.count))
    with cgutils.for_range(builder, steps, intp=index) as loop:
        i = builder.mul(loop.index, ir.Constant(index, vector.count))
        lefts = [d.array.load(builder.add(start, i), vector) for start in d_rows]
        for k in range(columns):
            right = x.array.load(builder.add(x_rows[k], i), vector)
            for r in range(rows):
                slot = slots[r * columns + k]
                total = overloaded(builder, "llvm.fma", vector, vector, lefts[r], right, builder.load(slot))
                builder.store(total, slot)
    totals = totals_of(builder, [builder.load(slot) for slot in slots])
    for r in range(rows):
        for k in range(columns):
            row = builder.add(out.start, builder.mul(out.stride, ir.Constant(index, r)))
            pointer = builder.gep(out.array.data, [builder.add(row, ir.Constant(index, k))])
            total = totals[r * columns + k]
            more = builder.fadd(builder.load(pointer), total)
            builder.store(builder.select(fresh, total, more), pointer)


multiply_tile, multiply_tile_narrow = _multiply(MULTIPLY_VECTORS), _multiply(1)
finish_tile, finish_tile_half, finish_tile_narrow = (
    _multiply_and_finish(vectors) for vectors in (MULTIPLY_VECTORS, MULTIPLY_VECTORS // 2, 1)
)
correlate_tile = _correlate(CORRELATE_COLUMNS)
