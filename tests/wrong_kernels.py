"""An op with kernels for CUDA, cube(x) and the sum of cubes over rows, and faults that are edits of their source."""

import numpy as np

from octsod.autograd import Function
from octsod.backend import cuda_source, empty
from octsod.testing import Case, Input
from octsod.testing import strategies as st

SOURCE = """
__device__ unsigned launches = 0;
extern "C" __global__ void rows(int columns, const real* x, real* out) {
    __shared__ real parts[2];
    real sum = 0;
    for (int c = threadIdx.x; c < columns; c += 64) {
        real v = x[int64(blockIdx.x) * columns + c];
        sum += v * v * v;
    }
    sum = block_sum(sum, parts);
    if (threadIdx.x == 0) out[blockIdx.x] = sum;
}
extern "C" __global__ void rows_backward(int64 count, int columns, const real* grad, const real* x, real* grad_x) {
    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) grad_x[i] = 3 * grad[i / columns] * x[i] * x[i];
}
"""
SHORT, LONG = Case((Input((2, 3)),)), Case((Input((3, 130)),))

# name: (what is replaced, by what, case, words of the message).
WRONG = {
    "sign": ("= 3 * grad", "= -3 * grad", SHORT, "the gradient of input 0 at"),
    "one round of threads": ("c += 64", "c += 1 << 30", LONG, "the output at"),
    "float": ("sum += v * v * v;", "sum += float(v * v * v);", SHORT, "the output at"),
    "unwritten": ("i < count;", "i < count - 1;", SHORT, "simulated nan"),
    "in float32 alone": ("= 3 * grad", "= (SINGLE ? 2 : 3) * grad", SHORT, "the gradient of input 0, in float32 at"),
    "by later launches": (
        "if (threadIdx.x == 0) out[blockIdx.x] = sum;",
        "if (threadIdx.x == 0) out[blockIdx.x] = sum + (launches++ > 0);", Case((Input((1, 3)),)), "in float32",
    ),
    "changes its input": ("sum += v * v * v;", "sum += v * v * v; ((real*)x)[0] = 1;", SHORT, "write to const"),
}  # fmt: skip


def op_of(space, path, source=SOURCE, backward=True):
    """The op, with kernels in a namespace and their source in a file."""
    path.write_text(source)
    code = cuda_source(path)

    @space.kernel("cpu", "rows")
    def rows(x, out):
        out[...] = (x**3).sum(1)

    @space.kernel("cpu", "rows_backward")
    def rows_backward(grad, x, grad_x):
        grad_x[...] = 3 * grad[:, None] * x**2

    @space.kernel("cuda", "rows")
    def rows_on_gpu(x, out):
        code.launch("rows", x.dtype, x.shape[0], 64, x.shape[1], x, out)

    if backward:

        @space.kernel("cuda", "rows_backward")
        def rows_backward_on_gpu(grad, x, grad_x):
            code.each("rows_backward", x.dtype, x.size, x.shape[1], grad, x, grad_x)

    class Rows(Function):
        cases = st.cases([st.tensors(st.shapes(2, 2))])

        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            out = empty(x.shape[:1], x.dtype)
            space.rows(x, out)
            return out

        @staticmethod
        def backward(ctx, grad):
            grad_x = ctx.array(0)
            space.rows_backward(grad, *ctx.saved, grad_x)
            return grad_x

    return Rows


def halves(space, path):
    """sin(x), whose kernels are those of backward alone: that for CUDA, and the reference, are wrong."""
    path.write_text(
        'extern "C" __global__ void halves(int64 count, const real* grad, const real* x, real* grad_x) {\n'
        "    for (int64 i = FIRST_ELEMENT; i < count; i += NEXT_ELEMENT) grad_x[i] = grad[i] * cos(x[i]) / 2;\n}\n"
    )
    code = cuda_source(path)
    space.kernel("cpu", "halves")(lambda grad, x, grad_x: np.multiply(grad, np.cos(x), out=grad_x))
    space.kernel("reference", "halves")(lambda grad, x, grad_x: np.multiply(grad, np.cos(x) / 2, out=grad_x))
    space.kernel("cuda", "halves")(lambda g, x, grad_x: code.each("halves", x.dtype, x.size, g, x, grad_x))

    class Sine(Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return np.sin(x)

        @staticmethod
        def backward(ctx, grad):
            grad_x = ctx.array(0)
            space.halves(grad, *ctx.saved, grad_x)
            return grad_x

    return Sine
